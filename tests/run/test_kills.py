"""Runs that are killed with SIGKILL and resumed equal the run that nobody disturbed, bit for bit.

Killed in the initialiser, in a training step, in evaluation and in the writing of a checkpoint, at
random moments of each, and again while they are resumed. `--full` kills 440 times instead of 43.

Read next: tests/run/test_faults.py, which fails every call that changes a file.
"""

import itertools
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import DEVICES, often
from engine.run import checkpoint
from engine.run import folder as runs
from engine.run.lock import LOCK
from helpers.lives import STAGES, Lives
from kernels.clock import FIRST
from test_train import metrics

TINY = ["--net", "tiny", "--data", "synthetic", "--limit", "90", "--batch", "16", "--lr", "0.05",
        "--seed", "3", "--epochs", "2"]


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    try:
        found = Lives(tmp_path_factory.mktemp("lives"))
    except RuntimeError as error:
        pytest.skip(f"kills: {error}")
    with found:
        yield found


def whole(folder: Path) -> dict:
    """Everything of a finished run that may not depend on what it went through."""
    saved = checkpoint.read(folder, pytest.fail)  # no fall-back is needed
    clock = [c for i, c in enumerate(saved.progress["clock"]) if i != FIRST]
    result = runs.read_run(folder)["result"]
    return {"metrics": metrics(folder), "step": saved.step, "clock": clock, "init": init(folder),
            "result": [result[key] for key in ("test_accuracy", "test_loss", "steps")],
            "tensors": {name: value.tobytes() for name, value in saved.tensors.items()}}


def init(folder: Path) -> list:
    """init.json without its time."""
    return [value for key, value in runs.read_json(folder / runs.INIT).items() if key != "seconds"]


def clean(folder: Path) -> None:
    """Only what a run leaves, no temporary file of a dead process. Its lock may lie there where it
    was killed behind its last write, and binds nobody."""
    left = {path.name for path in folder.iterdir()}
    assert left - {LOCK} == {runs.CHECKPOINT, runs.PREVIOUS, runs.INIT, runs.METRICS, runs.RUN}


def again(folder: Path, arguments: list) -> list:
    """The arguments that go on with a run: those that began it where nothing of it is there."""
    return ["--resume", folder] if (folder / runs.RUN).exists() else arguments


@pytest.mark.parametrize("device", [ops.name for ops in DEVICES])
def test_killed_at_random_moments(lives, device, tmp_path):
    arguments = [*TINY, "--device", device, "--out"]
    straight = tmp_path / "straight"
    undisturbed = lives.lead([*arguments, straight], straight)
    assert undisturbed.code == 0, undisturbed.err
    want, rng = whole(straight), random.Random(device)
    kills = dict.fromkeys(STAGES, 0)
    for number in itertools.count():
        if sum(kills.values()) >= often(40, 400) / len(DEVICES):
            break
        folder = tmp_path / f"run{number}"
        order = [*arguments, folder]
        for _ in range(rng.choice((1, 1, 2, 3))):
            stage = min(kills, key=kills.get)
            entry = rng.randrange(len(undisturbed.stages[stage]))
            moment = rng.uniform(0, 1.2) * undisturbed.stages[stage][entry]
            end = lives.lead(again(folder, order), folder, kill=(stage, entry, moment))
            if end.code == 0:  # resumed behind that moment, or faster than it
                break
            assert end.code == -signal.SIGKILL, end.err
            kills[stage] += 1
        end = lives.lead(again(folder, order), folder)
        assert end.code == 0, end.err
        assert whole(folder) == want
        clean(folder)
    assert min(kills.values()) >= often(4, 40)


def test_killed_programs(tmp_path):
    """The same with a program of its own each time, and one of the paper's nets."""
    command = [sys.executable, "-m", "engine.train"]
    arguments = ["--net", "fitnet_mnist", "--data", "synthetic", "--limit", "256", "--batch", "16",
                 "--epochs", "12", "--recipe", "fast", "--out"]
    straight, start = tmp_path / "straight", time.perf_counter()
    subprocess.run([*command, *arguments, straight], check=True, stdout=subprocess.DEVNULL)
    length, want, rng, kills = time.perf_counter() - start, whole(straight), random.Random(0), 0
    for number in itertools.count():
        if kills >= often(3, 40):
            break
        folder = tmp_path / f"run{number}"
        while not (folder / runs.RUN).exists() or runs.read_run(folder)["result"] is None:
            life = subprocess.Popen([*command, *map(str, again(folder, [*arguments, folder]))],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            try:
                assert life.wait(rng.uniform(0.1, 1.3) * length) == 0, life.stderr.read()
            except subprocess.TimeoutExpired:
                life.kill()
                kills += life.wait() == -signal.SIGKILL
            life.stderr.close()
        assert whole(folder) == want
        clean(folder)


def test_the_comparison_sees_a_single_bit(lives, tmp_path):
    """A control: another seed's last digit of one weight is another run."""
    folder = tmp_path / "run"
    assert lives.lead([*TINY, "--device", "numpy", "--out", folder], folder).code == 0
    before, read = whole(folder), checkpoint.read

    def flipped(*arguments):
        saved = read(*arguments)
        bits = saved.tensors["conv2.W"].reshape(-1).view(np.uint32)
        bits[7] ^= 1
        return saved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "read", flipped)
        assert whole(folder) != before
    assert whole(folder) == before
