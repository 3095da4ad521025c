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

import numpy as np
import pytest

from engine.run import checkpoint
from engine.run import folder as runs
from helpers.devices import DEVICES
from helpers.length import often
from helpers.lives import STAGES
from helpers.runs import TINY, again, clean, whole


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
    arguments = [
        "--net",
        "fitnet_mnist",
        "--data",
        "synthetic",
        "--limit",
        "256",
        "--batch",
        "16",
        "--epochs",
        "6",
        "--recipe",
        "fast",
        "--out",
    ]
    straight, start = tmp_path / "straight", time.perf_counter()
    subprocess.run([*command, *arguments, straight], check=True, stdout=subprocess.DEVNULL)
    length, want, rng, kills = time.perf_counter() - start, whole(straight), random.Random(0), 0
    for number in itertools.count():
        if kills >= often(3, 40):
            break
        folder = tmp_path / f"run{number}"
        while not (folder / runs.RUN).exists() or runs.read_run(folder)["result"] is None:
            life = subprocess.Popen(
                [*command, *map(str, again(folder, [*arguments, folder]))],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
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
