"""A recipe of several stages: a run each, of a net of its own, from the weights of the one before.

Read next: tests/run/test_teacher.py.
"""

import json
import os
import shutil
import signal

import numpy as np
import pytest

import engine
import engine.evaluate
from bench.paper.training import outcome
from engine.cli.command import run_command
from engine.data.feed import Feed, read_clock
from engine.run import checkpoint
from engine.run import folder as runs
from engine.run.weights import read
from helpers.nets import STAGED, staged
from helpers.runs import SMALL, command, whole
from kernels.clock import RATE
from models import NETS, Model, recipes

THREE = [*SMALL, "--net", "staged"]  # of 4, 2 and 2 epochs


def known(patch) -> None:
    patch.setitem(NETS, "staged", Model(staged, (8, 8, 3), staged=True))
    patch.setitem(recipes.RECIPES, ("paper", "staged"), (STAGED,))


@pytest.fixture(autouse=True)
def small_nets(monkeypatch):
    known(monkeypatch)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Three stages that nothing interrupted: 22, 11 and 11 steps."""
    out = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        known(patch)
        assert command(*THREE, "--out", out) == 0
    return out


@pytest.fixture
def copy(straight, tmp_path):
    return shutil.copytree(straight, tmp_path / "copy")


def stages(folder) -> list[dict]:
    return [whole(folder / f"stage{k}") for k in (1, 2, 3)]


def unfinished(folder) -> None:
    """As before the end of the last of several runs."""
    series = json.loads((folder / runs.SERIES).read_text())
    (folder / runs.SERIES).write_text(json.dumps(series | {"result": None}))


def evaluate(*arguments) -> int:
    return run_command("engine.evaluate", lambda: engine.evaluate.main([str(a) for a in arguments]))


def test_each_stage_is_a_run_of_its_own(tmp_path, capsys):
    straight = tmp_path / "run"
    assert command(*THREE, "--out", straight) == 0
    text = capsys.readouterr().out
    records = [runs.read_run(straight / f"stage{k}") for k in (1, 2, 3)]
    told = [r["settings"] for r in records]
    assert [s["stage"] for s in told] == [1, 2, 3]
    assert [s["loss"] for s in told] == ["svm", "softmax", "softmax"]
    assert [s["epochs"] for s in told] == [4, 2, 2]
    assert [s["lr"] for s in told] == pytest.approx([0.05, 0.05, 0.005])  # --lr is the first one's
    assert [s["dropout"] for s in told] == [True, True, False]
    assert [s["weights"] for s in told] == [None, "stage1", "stage2"]
    assert [s["head_policy"] for s in told] == [STAGED.head_policy, None, None]
    assert checkpoint.read(straight / "stage2").settings["stage"] == 2
    series = runs.read_series(straight)
    assert series["result"] == records[2]["result"] | {"epochs": 8}
    assert [s["settings"] for s in series["later"]] == told[1:]
    assert "run 3 of 3, stage3" in text and "dropout        no" in text
    assert "weights of stage1: all but clf, which is new" in text
    assert text.splitlines()[-1].startswith(
        f"test accuracy {series['result']['test_accuracy']:.4f}"
    )


def test_weights_pass_by_name_and_the_memory_is_new(tmp_path):
    """Without training the layers that both nets have stay to the bit; a hint's layer goes, and
    the classifier is filled."""
    assert command(*THREE, "--epochs", 0, "--init", "ortho", "--out", tmp_path / "run") == 0
    one, two, three = (checkpoint.read(tmp_path / "run" / f"stage{k}").tensors for k in (1, 2, 3))
    assert "hint.W" in one and "hint.W" not in two and "clf.W" not in one
    for name in ("conv1.W", "conv2.W"):
        assert one[name].any() and np.array_equal(one[name], two[name])
    assert two["clf.W"].any()
    assert all(np.array_equal(two[name], three[name]) for name in two)
    assert not any(value.any() for name, value in two.items() if name.startswith("optimizer."))


def test_a_stage_begins_where_the_one_before_ended(straight, copy, monkeypatch):
    """By its own policy from step 0; a stage that is complete stays as it is."""
    seen = []
    train_batch = Feed.train_batch

    def watched(self):
        if read_clock(self.net)[RATE] > 0 and not seen:
            seen.append({n: np.array(p.value) for n, p in self.net.named_params().items()})
        train_batch(self)

    shutil.rmtree(copy / "stage3"), shutil.rmtree(copy / "stage2")
    unfinished(copy)
    before = (copy / "stage1" / runs.RUN).read_bytes()
    monkeypatch.setattr(Feed, "train_batch", watched)
    assert command("--resume", copy) == 0
    ended = checkpoint.read(copy / "stage1").tensors
    assert ended["conv1.b"].any() and np.array_equal(seen[0]["conv1.b"], ended["conv1.b"])
    assert (copy / "stage1" / runs.RUN).read_bytes() == before
    assert stages(copy) == stages(straight)


@pytest.mark.parametrize("batches", [3, 23, 24, 30, 35])  # stages end behind 23 (22), 34 and 45
def test_a_stopped_stage_goes_on_bit_for_bit(straight, tmp_path, monkeypatch, capsys, batches):
    stopped, calls = tmp_path / "stopped", []
    with monkeypatch.context() as patch:
        train_batch = Feed.train_batch

        def interrupted(self):
            if read_clock(self.net)[RATE] > 0:
                calls.append(self)
                if len(calls) == batches:
                    os.kill(os.getpid(), signal.SIGTERM)
            train_batch(self)

        patch.setattr(Feed, "train_batch", interrupted)
        capsys.readouterr()
        assert command(*THREE, "--out", stopped) == 143
    assert f"--resume {stopped}" in capsys.readouterr().out.splitlines()[-1]
    assert runs.read_series(stopped)["result"] is None
    assert command(*THREE, "--out", stopped) == 2
    moved = stopped.rename(tmp_path / "moved")
    assert command("--resume", moved) == 0
    assert stages(moved) == stages(straight)
    assert runs.read_series(moved)["result"]["epochs"] == 8


def test_epochs_are_shared_out(tmp_path, capsys):
    assert command(*THREE, "--epochs", 2, "--out", tmp_path / "run") == 0
    found = [runs.read_run(tmp_path / "run" / f"stage{k}")["settings"] for k in (1, 2, 3)]
    assert [s["epochs"] for s in found] == [1, 0.5, 0.5]
    assert found[0]["policy"]["steps"] == [3]  # 11 of 22
    assert command(*THREE, "--epochs", 0.3, "--out", tmp_path / "short") == 2
    assert "--epochs 0.3 of 90 images is no step of 16; give --epochs 0.7111" in (
        capsys.readouterr().err
    )


def test_seeds_of_several_stages(tmp_path, capsys):
    out = tmp_path / "all"
    assert command(*THREE, "--epochs", 2, "--runs", 2, "--out", out) == 0
    ends = [runs.read_series(out / f"seed{k}")["result"]["test_accuracy"] for k in (3, 4)]
    assert runs.read_series(out)["result"]["test_accuracy"] == np.mean(ends)
    assert runs.runs_in(out) == [out / "seed3" / "stage3", out / "seed4" / "stage3"]
    want = [stages(out / f"seed{k}") for k in (3, 4)]
    shutil.rmtree(out / "seed4" / "stage2"), shutil.rmtree(out / "seed4" / "stage3")
    unfinished(out), unfinished(out / "seed4")
    assert command("--resume", out) == 0
    assert [stages(out / f"seed{k}") for k in (3, 4)] == want
    assert evaluate(out) == 2 and "it holds 2 runs (stage3, stage3)" in capsys.readouterr().err


def test_the_folder_stands_for_its_last_stage(copy, capsys):
    capsys.readouterr()
    assert evaluate(copy, "--device", "numpy") == 0
    text = capsys.readouterr().out
    accuracy = runs.read_series(copy)["result"]["test_accuracy"]
    assert f"test accuracy {accuracy:.4f}" in text and "stage3" in text
    images = np.zeros((2, 8, 8, 3), np.uint8)
    last = engine.load(copy / "stage3", "numpy").predict(images)
    assert np.array_equal(engine.load(copy, "numpy").predict(images), last)
    assert read(copy).path.parent.name == "stage3"
    assert runs.runs_in(copy) == [copy / "stage3"]
    there = outcome(copy)
    assert there.finished and there.epochs == 8
    assert there.accuracy == pytest.approx(accuracy, rel=1e-9)  # metrics.csv has ten digits
    shutil.rmtree(copy / "stage3")
    there = outcome(copy)
    assert not there.finished and there.epochs == 6 and there.later == 2
    assert runs.run_in(copy).name == "stage2"
    shutil.copytree(copy / "stage2", copy / "stage3")
    (copy / "stage3" / runs.CHECKPOINT).unlink(), (copy / "stage3" / runs.METRICS).unlink()
    (copy / "stage3" / runs.PREVIOUS).unlink()
    assert runs.run_in(copy).name == "stage2"  # of one that has just begun there is nothing


def test_what_a_stage_refuses(copy, tmp_path, capsys):
    assert command(*THREE, "--smoothing", 0.1, "--out", tmp_path / "smooth") == 2
    assert "--smoothing 0.1 is for --loss softmax, not svm" in capsys.readouterr().err
    for folder in (copy, copy / "stage1"):
        assert command("--resume", folder, "--epochs", 9) == 2
        assert "is of several stages; give them to a new run" in capsys.readouterr().err
    series = json.loads((copy / runs.SERIES).read_text())
    for edit in ({"later": [], "result": None}, {"later": [{}], "result": None}, {"later": 3}):
        (copy / runs.SERIES).write_text(json.dumps(series | edit))
        assert command("--resume", copy) == 2
        assert "put the run's own file back" in capsys.readouterr().err
