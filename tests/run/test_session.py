"""What a run remembers beside its weights: why it failed, where its images lie, what it was told.

Read next: tests/run/test_checkpoint.py.
"""

import json

import numpy as np
import pytest
from PIL import Image

import engine.evaluate
import engine.train
from engine.cli.command import run_command
from engine.optimizers import OPTIMIZERS
from engine.run.folder import read_run
from helpers.nets import tiny
from helpers.runs import SMALL, assert_same_run, command, stop_at
from kernels.clock import RATE, STEP
from models import NETS, Model

FOLDER = ["--net", "tiny", "--batch", "4", "--device", "numpy", "--lr", "0.05", "--epochs", "3"]


@pytest.fixture(autouse=True)
def small_nets(monkeypatch):
    monkeypatch.setitem(NETS, "tiny", Model(tiny, (8, 8, 3)))


@pytest.fixture
def pets(tmp_path):
    """A folder of images: two classes, eight training images of each."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(8):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "pets"


def evaluate(*arguments) -> int:
    return run_command("engine.evaluate", lambda: engine.evaluate.main([str(a) for a in arguments]))


def test_a_run_survives_the_moving_of_its_images(tmp_path, pets, capsys):
    straight, moved = tmp_path / "straight", tmp_path / "moved"
    assert command(*FOLDER, "--data", pets, "--out", straight) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 5, batch=4)
        assert command(*FOLDER, "--data", pets, "--out", moved) == 143
    (tmp_path / "disk2").mkdir()
    animals = pets.rename(tmp_path / "disk2" / "animals")
    capsys.readouterr()
    for fails in (lambda: command("--resume", moved), lambda: evaluate(moved)):
        assert fails() == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"were in {pets}" in error and "--data FOLDER" in error
    assert evaluate(moved, "--data", animals) == 0
    assert evaluate(moved, "--data", "nowhere") == 2
    assert "unknown data 'nowhere'" in capsys.readouterr().err
    assert command("--resume", moved, "--data", "auto") == 2
    assert "the run has its data" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:  # stopped once more, it knows the new place
        stop_at(patch, 8, batch=4)
        assert command("--resume", moved, "--data", animals) == 143
    assert evaluate(moved) == 0
    assert command("--resume", moved) == 0
    assert_same_run(straight, moved)
    assert read_run(moved)["settings"]["data"] == str(animals)
    assert evaluate(moved) == 0


def test_other_images_are_refused_with_the_fingerprints(tmp_path, pets, capsys):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 5, batch=4)
        assert command(*FOLDER, "--data", pets, "--out", tmp_path / "run") == 143
    image = next((pets / "train" / "cat").iterdir())
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    for fails in (
        lambda: command("--resume", tmp_path / "run"),
        lambda: evaluate(tmp_path / "run"),
        lambda: command("--resume", tmp_path / "run", "--data", "synthetic"),
    ):
        assert fails() == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "fingerprint" in error and "--data" in error


def test_a_failed_run_says_why_in_its_record(tmp_path, monkeypatch, capsys):
    assemble = engine.train.assemble

    def spoilt(*arguments):
        net, feed, optimizer = assemble(*arguments)
        batch = feed.train_batch

        def train_batch():
            batch()
            if net.clock[STEP] == 8 and net.clock[RATE] > 0:
                net.x[0, 0, 0, 0] = np.inf

        feed.train_batch = train_batch
        return net, feed, optimizer

    monkeypatch.setattr(engine.train, "assemble", spoilt)
    assert command(*SMALL, "--epochs", 3, "--out", tmp_path / "run") == 1
    error = capsys.readouterr().err
    failure = read_run(tmp_path / "run")["failure"]
    assert failure == {"kind": "not finite", "step": 8, "text": failure["text"]}
    assert error == f"engine.train: error: {failure['text']}\n"
    monkeypatch.setattr(engine.train, "assemble", assemble)
    assert command("--resume", tmp_path / "run") == 0  # and one that went on has not failed
    assert read_run(tmp_path / "run")["failure"] is None


def test_mirroring_can_be_switched_off_and_is_printed_and_kept(tmp_path, capsys):
    weights = {}
    for name, more in (("as it is", []), ("on", ["--mirror"]), ("off", ["--no-mirror"])):
        out = tmp_path / name
        assert command(*SMALL, "--epochs", 1, *more, "--out", out) == 0
        line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("  mirror"))
        assert (
            line.split()[1:]
            == {
                "as it is": ["yes", "data", "synthetic"],
                "on": ["yes", "command", "line"],
                "off": ["no", "command", "line"],
            }[name]
        )
        weights[name] = (out / "metrics.csv").read_text().split(",")[11:15]
    assert weights["as it is"] == weights["on"] != weights["off"]
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        assert command(*SMALL, "--epochs", 1, "--no-mirror", "--out", tmp_path / "stopped") == 143
    assert command("--resume", tmp_path / "stopped") == 0
    assert_same_run(tmp_path / "off", tmp_path / "stopped")


def test_nondeterministic_can_be_taken_back(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        assert (
            command(*SMALL, "--epochs", 1, "--nondeterministic", "--out", tmp_path / "run") == 143
        )
    assert read_run(tmp_path / "run")["settings"]["nondeterministic"] is True
    assert command("--resume", tmp_path / "run", "--no-nondeterministic") == 0
    assert read_run(tmp_path / "run")["settings"]["nondeterministic"] is False


def test_epochs_that_are_no_step_are_refused_with_the_least_that_are(tmp_path, capsys):
    assert command(*SMALL, "--epochs", 0.05, "--out", tmp_path / "none") == 2
    error = capsys.readouterr().err
    assert "--epochs 0.05 of 90 images is no step of 16; give --epochs 0.1778" in error
    assert not (tmp_path / "none").exists()
    assert command(*SMALL, "--epochs", 0.1778, "--out", tmp_path / "one") == 0
    assert json.loads((tmp_path / "one" / "run.json").read_text())["result"]["steps"] == 1


@pytest.mark.parametrize("optimizer, rest", [("nesterov", ["0.8"]), ("sgd", ["0.8"])])
def test_every_optimizer_resumes_bit_for_bit_with_its_own_numbers(tmp_path, optimizer, rest):
    options = [*SMALL, "--optimizer", optimizer, "--momentum", *rest, "--epochs", 2]
    assert command(*options, "--out", tmp_path / "straight") == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 4)
        assert command(*options, "--out", tmp_path / "stopped") == 143
    assert command("--resume", tmp_path / "stopped") == 0
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    settings = read_run(tmp_path / "stopped")["settings"]
    assert settings["momentum"] == 0.8 and "rho" not in settings


def test_options_of_one_name_mean_the_same_in_every_optimizer():
    """Their range and help are printed once."""
    options: dict = {}
    for kind in OPTIMIZERS.values():
        for name, option in kind.options.items():
            assert options.setdefault(name, option) is option or (
                options[name].wanted == option.wanted and options[name].help == option.help
            )
