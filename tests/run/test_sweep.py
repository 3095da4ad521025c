"""A sweep of engine.train: its cells, what is skipped, continued and kept apart, its table.

Read next: tests/run/test_session.py.
"""

import shutil

import pytest

from engine import train
from engine.errors import InputError
from engine.run import folder as runs
from engine.run.sweep import line
from helpers.runs import FITNET1

BASE = [*FITNET1, "--limit", "32", "--epochs", "1"]


def main(folder, *arguments) -> int:
    return train.main([*BASE, "--out", str(folder), *arguments])


@pytest.mark.slow
def test_a_sweep_skips_goes_on_and_keeps_failures_apart(tmp_path, capfd):
    out = tmp_path / "sweep"
    sweep = ["--sweep", "lr=0.01,1e30", "clip=0", "--runs", "2"]
    assert main(out, *sweep) == 1
    text = capfd.readouterr().out
    names = [f"lr={lr},clip=0,seed={seed}" for lr in ("0.01", "1e30") for seed in (0, 1)]
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted(names)
    table = {row.split(": ")[0]: row for row in text.splitlines() if row.startswith("lr ")}
    assert "±" in table["lr 0.01, clip 0"] and "2 of 2 seeds" in table["lr 0.01, clip 0"]
    assert "0 of 2 seeds; failed: " in table["lr 1e30, clip 0"]
    assert "not finite" in table["lr 1e30, clip 0"]
    assert runs.read_run(out / names[1])["settings"]["seed"] == 1
    before = (out / names[0] / "run.json").read_bytes()
    shutil.rmtree(out / names[1])  # the one that is missing is run, and nothing else
    assert main(out, *sweep) == 1
    assert "4 cells, 3 of them over" in capfd.readouterr().out
    assert (out / names[0] / "run.json").read_bytes() == before
    assert runs.read_run(out / names[1])["result"] is not None
    with pytest.raises(InputError, match="other options"):
        main(out, *sweep, "--act", "relu")


def test_a_row_of_the_table():
    assert line([0.5]) == "test accuracy 0.5000"
    assert line([0.5, 0.7]) == "test accuracy 0.6000 ± 0.1414; 2 of 2 seeds"
    assert line([0.5, "missing"]) == "test accuracy 0.5000; 1 of 2 seeds; failed: missing"
    assert line(["missing"]) == "failed: missing"


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--sweep", "rate=1,2"], "'rate' is no setting"),
        (["--sweep", "out=a,b"], "'out' is no setting"),
        (["--sweep", "lr=1,"], "is empty"),
        (["--sweep", "lr=1,1"], "stands twice"),
        (["--sweep", "init=lsuv,xaver"], "xaver"),
        (["--sweep", "lr=1,high"], "high"),
        (["--lr", "1", "--sweep", "lr=1,2"], "leave one of them out"),
        (["--runs", "2", "--sweep", "seed=1,2"], "leave one of them out"),
        (["--sweep", "lr=1,2", "--parallel", "2"], "want --executor"),
        (["--parallel", "2"], "for --sweep"),
    ],
)
def test_a_sweep_that_can_not_be_is_refused_before_anything_runs(tmp_path, arguments, text):
    with pytest.raises(InputError, match=text):
        main(tmp_path / "sweep", *arguments)
    assert not list(tmp_path.rglob("run.json"))
