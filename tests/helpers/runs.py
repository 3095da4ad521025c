"""Runs for the tests: the command called in this process, stopped, read again and compared.

Read next: tests/engine/test_train.py.
"""

import csv
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import engine.train
from engine.cli.command import run_command
from engine.data.feed import Feed, read_clock
from engine.run import checkpoint
from engine.run import folder as runs
from engine.run.lock import LOCK, WRITER
from kernels.clock import FIRST, RATE, STEP

SMALL = [
    "--net",
    "tiny",
    "--data",
    "synthetic",
    "--limit",
    "90",
    "--batch",
    "16",
    "--device",
    "numpy",
    "--lr",
    "0.05",
    "--seed",
    "3",
]
# On any device, for tests that start processes of their own.
FITNET1 = ["--net", "fitnet1", "--data", "synthetic", "--batch", "16", "--recipe", "fast"]
FITNET1 += ["--threads", "1"]


def command(*arguments) -> int:
    """engine.train with these arguments -> its exit code."""
    try:
        return run_command("engine.train", lambda: engine.train.main([str(a) for a in arguments]))
    except SystemExit as stopped:
        return stopped.code


def stop_at(monkeypatch, step: int, number=signal.SIGTERM, batch: int = 16):
    """Send this process a signal in the middle of `step`, once."""
    train_batch, calls = Feed.train_batch, []

    def interrupted(self):
        clock = read_clock(self.net)
        if self.net.batch == batch and clock[STEP] == step and clock[RATE] > 0 and not calls:
            calls.append(step)
            os.kill(os.getpid(), number)
        train_batch(self)

    monkeypatch.setattr(Feed, "train_batch", interrupted)


def metrics(folder):
    """metrics.csv without its timing columns."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["images_per_second"], row["seconds"]
    return rows


def assert_same_run(first, second):
    assert metrics(first) == metrics(second)
    a, b = checkpoint.read(first), checkpoint.read(second)
    assert a.step == b.step
    clocks = ([c for i, c in enumerate(run.progress["clock"]) if i != FIRST] for run in (a, b))
    assert next(clocks) == next(clocks)  # FIRST only says where the last upload began
    assert a.tensors.keys() == b.tensors.keys()
    for name in a.tensors:
        assert np.array_equal(a.tensors[name], b.tensors[name]), name


TINY = [
    "--net",
    "tiny",
    "--data",
    "synthetic",
    "--limit",
    "90",
    "--batch",
    "16",
    "--lr",
    "0.05",
    "--seed",
    "3",
    "--epochs",
    "2",
]


def whole(folder: Path) -> dict:
    """Everything of a finished run that may not depend on what it went through."""
    saved = checkpoint.read(folder, pytest.fail)  # no fall-back is needed
    clock = [c for i, c in enumerate(saved.progress["clock"]) if i != FIRST]
    result = runs.read_run(folder)["result"]
    return {
        "metrics": metrics(folder),
        "step": saved.step,
        "clock": clock,
        "init": init(folder),
        "result": [result[key] for key in ("test_accuracy", "test_loss", "steps")],
        "tensors": {name: value.tobytes() for name, value in saved.tensors.items()},
    }


def init(folder: Path) -> list:
    """init.json without its time."""
    return [value for key, value in runs.read_json(folder / runs.INIT).items() if key != "seconds"]


def clean(folder: Path, *more: str) -> None:
    """Only what a run leaves, and `more`, no temporary file of a dead process. Its lock may lie
    there where it was killed behind its last write, and binds nobody."""
    left = {path.name for path in folder.iterdir()}
    assert left - {LOCK, WRITER} == {
        runs.CHECKPOINT,
        runs.PREVIOUS,
        runs.INIT,
        runs.METRICS,
        runs.RUN,
        *more,
    }


def again(folder: Path, arguments: list) -> list:
    """The arguments that go on with a run: those that began it where nothing of it is there."""
    return ["--resume", folder] if (folder / runs.RUN).exists() else arguments
