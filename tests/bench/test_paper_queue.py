"""bench.paper's cells as commands: what is left, run beside each other, watched.

Read next: tests/bench/test_paper_page.py.
"""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from bench.paper import __main__ as command
from bench.paper import queue, training
from bench.paper.study import Cell, Study
from bench.paper.training import Run
from engine.errors import InputError
from engine.run import folder as runs

SMALL = Run("fitnet1", "relu", "lsuv", "synthetic", more=(("limit", 64), ("batch", 16)))


def study(folder) -> Study:
    return Study(folder=folder, threads=1, recipe="fast", epochs=1.0, seeds=1)


def cell(s: Study, row: str, run: Run = SMALL) -> Cell:
    return training.cell(s, "table3", row, "a:b", 92.11, run)


def test_the_plan_has_what_is_not_finished_and_no_two_cells_of_one_run(tmp_path):
    s = study(tmp_path)
    other = replace(SMALL, init="xavier")
    taught = replace(SMALL, teacher=other)
    cells = [cell(s, "one"), cell(s, "the same"), cell(s, "its*"), cell(s, "taught", taught)]
    cells[2] = cell(s, "its*", other)

    def names() -> list[str]:
        return [entry["name"] for entry in queue.plan(s, {"table3": cells})]

    first, second = queue.plan(s, {"table3": cells})
    assert [first["name"], second["name"]] == ["table3 one, a:b", "table3 its*, a:b"]
    assert second["command"][3:8] == ["table3", "--folder", str(tmp_path), "--only", "its[*]:a?b"]
    assert "--epochs" in first["command"] and s.budget == float("inf")
    assert first["seconds"] == pytest.approx(cells[0].cost / queue.STATED * queue.IMAGES)
    assert "stated" in first["estimate"]
    training.train(s, training.plan(s, SMALL), 0, lambda *a: None)
    assert names() == ["table3 its*, a:b"]  # both cells of the run that is over are finished
    (entry,) = queue.plan(s, {"table3": cells})
    (row,) = runs.read_metrics(cells[0].runs[0])
    assert "1 runs on this device" in entry["estimate"]
    assert entry["seconds"] == pytest.approx(row["seconds"], rel=1e-6)  # the same net and length
    training.train(s, training.plan(s, other), 0, lambda *a: None)
    assert names() == ["table3 taught, a:b"]


def paper(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "bench.paper", *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.slow
def test_cells_run_beside_each_other_as_they_do_alone(tmp_path):
    pytest.importorskip("submitit")
    which = ["--only", "*:Xavier", "--only", "*:MSRA", "--seeds", 1]

    def left(folder) -> list[str]:
        plan = json.loads(paper("plan", *which, "--folder", folder, "--json").stdout)
        return [entry["name"] for entry in plan if entry["command"][3] == "table8"]

    a, b = tmp_path / "a", tmp_path / "b"
    assert len(left(a)) == 2
    done = paper("table8", *which, "--folder", a, "--executor", "local", "--parallel", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": done, ") == 2 and not left(a)
    assert paper("table8", *which, "--folder", b).returncode == 0
    ours = [json.loads((folder / "rows" / "table8.json").read_text()) for folder in (a, b)]
    assert ours[0] == ours[1] and ours[0][0]["ours"] is not None


@pytest.mark.slow
def test_watch_writes_the_page_until_nothing_is_left(tmp_path, monkeypatch, capsys):
    s, rounds = study(tmp_path), []
    monkeypatch.setattr(
        command,
        "EXPERIMENTS",
        command.EXPERIMENTS | {"table3": command.Experiment(lambda s: [cell(s, "one")])},
    )
    monkeypatch.setattr(command, "study_of", lambda args: study(tmp_path))

    def sleep(seconds: float) -> None:
        rounds.append(seconds)
        assert (tmp_path / "report.html").exists()
        training.train(s, training.plan(s, SMALL), 0, lambda *a: None)

    monkeypatch.setattr(queue.time, "sleep", sleep)
    monkeypatch.setattr(command, "chosen", lambda args: ["table3"])
    command.record(s, "table3", cell(s, "one").blank)
    assert command.main(["watch", "--every", "5"]) == 0
    assert rounds == [5.0] and "nothing is left" in capsys.readouterr().out
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["epochs"] for row in rows if row["row"] == "one"] == [1.0]


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["plan", "table3"], "stand alone"),
        (["table3", "--json"], "without a file"),
        (["table3", "--parallel", "2"], "want --executor"),
        (["table3", "--executor", "ray"], "ray"),
        (["watch", "--every", "0"], "--every 0"),
    ],
)
def test_what_can_not_be_is_refused(tmp_path, arguments, text):
    with pytest.raises(InputError, match=text):
        command.main([*arguments, "--folder", str(tmp_path)])
