"""What is no file, and names that are no words: no reader waits, no line is broken, no run dies.

Read next: tests/hostile/test_hostile_readers.py.
"""

import contextlib
import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import engine.data
import engine.evaluate
import engine.train
from engine.cli import messages
from engine.cli.command import run_command
from engine.cli.settings import Settings
from engine.data import load
from engine.errors import LONGEST, InputError, RunError, printable
from engine.run import checkpoint
from engine.run import folder as runs
from engine.run.files import write_json
from helpers.data_sets import (
    IMAGES,
    RANDOM,
    SMALL10,
    SMALL_MNIST,
    forge_cifar,
    forge_folder,
    forge_mnist,
)
from helpers.hostile import assert_one_line, in_time
from kernels import DeviceError

ROOT = Path(__file__).resolve().parents[2]
BROKEN = os.fsdecode(b"\xffa\nb\x1b[31m")  # no text, a line's end, and a terminal's command


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.delenv("LSUV_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, layout in (("cifar10", SMALL10), ("mnist", SMALL_MNIST)):
        monkeypatch.setitem(engine.data.OFFICIAL, name, layout)


# --- pipes, sockets, devices ---------------------------------------------------------------------


def pipe(path):
    os.mkfifo(path)


def closed_socket(path):
    """Its name stays; sockets allow short names only."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def endless(path):
    path.symlink_to("/dev/zero")


def terminal(path):
    path.symlink_to("/dev/tty")


def folder_of_that_name(path):
    path.mkdir()


def loop(path):
    path.symlink_to(path.name)


def dangling(path):
    path.symlink_to("nowhere")


ODD = [pipe, closed_socket, endless, terminal, folder_of_that_name, loop, dangling]


@pytest.mark.parametrize("odd", ODD)
def test_no_reader_of_data_waits_for_what_is_no_file(tmp_path, odd):
    home = forge_cifar(tmp_path, SMALL10)
    (home / "test_batch.bin").unlink()
    odd(home / "test_batch.bin")
    with in_time(), pytest.raises(InputError, match="test_batch.bin") as error:
        load("cifar10", tmp_path)
    assert_one_line(error.value)
    for name in (IMAGES, f"{IMAGES}.gz"):
        home, _ = forge_mnist(tmp_path / name)
        (home / IMAGES).unlink()
        odd(home / name)
        with in_time(), pytest.raises(InputError, match=IMAGES) as error:
            load("mnist", tmp_path / name)
        assert_one_line(error.value)


@pytest.mark.parametrize("odd", ODD)
def test_no_reader_of_a_run_waits_for_what_is_no_file(tmp_path, odd):
    (tmp_path / "run").mkdir()
    for name, read in (
        (runs.RUN, runs.read_run),
        (runs.SERIES, runs.read_series),
        (runs.METRICS, runs.read_metrics),
    ):
        odd(tmp_path / "run" / name)
        with (
            in_time(),
            contextlib.nullcontext()
            if name == runs.METRICS and odd in (loop, dangling)
            else pytest.raises(InputError, match=str(tmp_path)) as error,
        ):
            assert read(tmp_path / "run") == []
        if error is not None:
            assert_one_line(error.value)
    for name in (runs.CHECKPOINT, runs.PREVIOUS):
        odd(tmp_path / "run" / name)
    with in_time(), pytest.raises(InputError, match="no checkpoint to load"):
        checkpoint.read(tmp_path / "run")


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", ["train/cat/img1.png", "train/cat", "train"])
def test_the_image_folder_names_what_is_no_file(tmp_path, odd, place):
    root = forge_folder(tmp_path / "pets")
    (root / place).rename(tmp_path / "before")
    odd(root / place)
    with in_time(), pytest.raises(InputError, match=place.rpartition("/")[2]) as error:
        load(str(root))
    assert_one_line(error.value, root)


def test_links_that_lead_out_by_any_way(tmp_path):
    root = forge_folder(tmp_path / "pets")
    other = forge_folder(tmp_path / "others")
    mine = root / "train" / "cat"
    (root / "out").symlink_to(other)  # not looked into by itself
    assert len(load(str(root)).train) == 6
    for target in (
        other / "train" / "cat" / "img0.png",
        root / "out" / "train/cat/img0.png",
        Path("../../../others/train/cat/img0.png"),
        Path("/proc/self/exe"),
    ):
        (mine / "img9.png").symlink_to(target)
        with pytest.raises(InputError, match="img9.png: a link that leads out of"):
            load(str(root))
        (mine / "img9.png").unlink()
    mine.rename(tmp_path / "cat")
    for target in (other / "train" / "cat", "../../others/train/cat"):
        mine.symlink_to(target)
        with pytest.raises(InputError, match="cat: a link that leads out of"):
            load(str(root))
        mine.unlink()
    mine.symlink_to("../train")  # stays inside, and holds no images
    with pytest.raises(InputError, match="not a file"):
        load(str(root))


# --- images of every kind ------------------------------------------------------------------------

KINDS = {
    "1x1": ("RGB", (1, 1)),
    "one row": ("RGB", (77, 1)),
    "one column": ("L", (1, 300)),
    "9x11": ("RGB", (9, 11)),
    "grey": ("L", (32, 32)),
    "alpha": ("RGBA", (32, 32)),
    "grey and alpha": ("LA", (32, 32)),
    "palette": ("P", (32, 32)),
    "bits": ("1", (31, 33)),
    "CMYK": ("CMYK", (32, 32)),
    "YCbCr": ("YCbCr", (32, 32)),
    "Lab": ("LAB", (8, 8)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_become_bytes(tmp_path, kind):
    root = forge_folder(tmp_path / "pets")
    mode, size = KINDS[kind]
    path = root / "train" / "cat" / "img9.tiff"
    Image.effect_noise(size, 60).convert("RGB" if mode == "LAB" else mode).save(path)
    data = load(str(root))
    assert data.train.images.shape == (7, 32, 32, 3) and data.train.images.dtype == np.uint8
    assert load(str(root), size=(8, 7, 1)).train.images.shape == (7, 8, 7, 1)


def test_deep_images_are_refused_and_animations_show_their_first(tmp_path):
    root = forge_folder(tmp_path / "pets")
    path = root / "train" / "cat" / "img9.tiff"
    for mode in ("I", "F"):
        Image.new(mode, (32, 32)).save(path)
        with pytest.raises(InputError, match="img9.tiff: more than 8 bits a value"):
            load(str(root))
    path.unlink()
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(root / "train" / "cat" / "img9.png", save_all=True, append_images=frames[1:])
    image = load(str(root)).train.images[3]
    assert (image == [255, 0, 0]).all()


# --- names ---------------------------------------------------------------------------------------


def test_an_error_is_one_line_whatever_it_names():
    for kind in (InputError, RunError):
        text = str(kind(f"{BROKEN}: no such file; \u2028 \x85 \u202e 猫"))
        assert text == r"\udcffa\nb\x1b[31m: no such file; \u2028 \x85 \u202e 猫"
        assert str(kind("plain; text's \\ words")) == "plain; text's \\ words"
    long = str(InputError("start " + "x" * 10**6 + " remedy"))
    assert len(long) == LONGEST + 5 and long.startswith("start x") and long.endswith("x remedy")


@pytest.mark.parametrize(
    "error, code",
    [
        (InputError(BROKEN), 2),
        (DeviceError(BROKEN), 2),
        (RunError(BROKEN), 1),
        (OSError(36, "File name too long", BROKEN), 1),
        (MemoryError(BROKEN), 1),
    ],
)
def test_a_command_ends_in_one_line(error, code, capsys):
    def main():
        raise error

    assert run_command("x", main) == code
    line = capsys.readouterr().err
    assert line[:-1].isprintable() and line.endswith("\n") and r"\udcffa\nb\x1b[31m" in line


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_words_reach_a_stream_of_any_encoding(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    messages.write(f"note: {BROKEN} 猫 é", stream)
    said = stream.buffer.getvalue().decode(encoding)
    assert said.startswith(r"note: \udcffa") and r"b\x1b[31m" in said
    assert ("猫" if encoding == "utf-8" else r"\u732b") in said
    assert ("é" if encoding != "ascii" else r"\xe9") in said


def test_names_of_a_data_set_break_no_line(capsys):
    data = SimpleNamespace(
        name=BROKEN,
        notes=[f"read from {BROKEN}"],
        classes=[BROKEN],
        fingerprint="ab",
        in_shape=(1, 1, 3),
        train=SimpleNamespace(images=[0]),
        test=SimpleNamespace(images=[0]),
    )
    args = SimpleNamespace(net="fitnet1", data=BROKEN, data_dir=None)
    made = {name: getattr(args, name, 1) for name in Settings.__dataclass_fields__}
    s = Settings(**made | {"optimizer": "sgd", "init": "lsuv", "hyper": {"momentum": 0.9}})
    messages.print_settings(
        s, {"data": f"from {BROKEN}"}, data, SimpleNamespace(why="", description="")
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 + len(made) and "ab" in lines[2]
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("command", ["engine.train", "lsuv"])
def test_a_run_on_a_folder_whose_names_are_no_words(tmp_path, command):
    """On a terminal of the smallest encoding, from a shell that quotes what it is given."""
    try:
        root = forge_folder(tmp_path / BROKEN, classes=(BROKEN, "猫", " "), size=(9, 11))
    except OSError as error:
        pytest.skip(f"the file system refuses such names: {error}")
    more = ["--epochs", "0.5", "--out", str(tmp_path / "run")] if command == "engine.train" else []
    done = run_module(command, "--net", "fitnet1", "--data", str(root), "--batch", "4", *more)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"data \udcffa\nb\x1b[31m/" in done.stdout.splitlines()[-1]
    if command == "engine.train":
        done = run_module("engine.evaluate", str(tmp_path / "run"))
        assert (done.returncode, done.stderr) == (0, "") and r"\udcffa\nb" in done.stdout
        Image.fromarray(RANDOM.integers(0, 256, (9, 11, 3)).astype(np.uint8)).save(
            root / "train" / "猫" / "img0.png"
        )
        done = run_module("engine.evaluate", str(tmp_path / "run"))
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "fingerprint" in done.stderr and done.stdout == ""


def run_module(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments, "--device", "numpy"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
    )


def test_a_fingerprint_is_of_the_contents(tmp_path):
    """Of pixels, labels and the classes' names; not of the folder's name and place."""
    root = forge_folder(tmp_path / "pets")
    fingerprint = load(str(root)).fingerprint
    for name in ("pet", os.fsdecode(b"\xff"), "\udcfe", "猫", "deep/er"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        root = root.rename(tmp_path / name)
        assert load(str(root)).fingerprint == fingerprint
    for split in ("train", "test"):
        (root / split / "dog").rename(root / split / "dug")
    assert load(str(root)).fingerprint != fingerprint


# --- a run and its data --------------------------------------------------------------------------


def train(*arguments) -> int:
    return run_command("engine.train", lambda: engine.train.main(list(arguments)))


@pytest.fixture
def begun(tmp_path, capsys):
    """(run folder, image folder, said): an untrained run's, which said its fingerprint."""
    root = forge_folder(tmp_path / "pets", count=4)
    assert (
        train(
            "--net",
            "fitnet1",
            "--data",
            str(root),
            "--device",
            "numpy",
            "--batch",
            "4",
            "--epochs",
            "0",
            "--out",
            str(tmp_path / "run"),
        )
        == 0
    )
    return tmp_path / "run", root, capsys.readouterr().out


def other_image(root):
    Image.new("RGB", (32, 32)).save(root / "train" / "cat" / "img0.png")


def unfinished(folder, **settings):
    """The run as if it had been killed before its first checkpoint, with other settings."""
    record = runs.read_run(folder)
    record["settings"] |= settings
    write_json(folder / runs.RUN, record | {"result": None})
    for path in folder.glob("checkpoint*"):
        path.unlink()


def test_the_fingerprint_is_printed_and_compared_by_a_resume(begun, capsys):
    folder, root, said = begun
    assert f"fingerprint {load(str(root)).fingerprint}\n" in said
    unfinished(folder)
    other_image(root)
    assert train("--resume", str(folder)) == 2
    error = capsys.readouterr().err
    assert "this run began on data pets/ (fingerprint" in error and error.count("\n") == 1


def test_a_series_is_of_one_data_set(tmp_path, capsys):
    root = forge_folder(tmp_path / "pets", count=4)
    options = [
        "--net",
        "fitnet1",
        "--data",
        str(root),
        "--device",
        "numpy",
        "--batch",
        "4",
        "--epochs",
        "0",
        "--runs",
        "2",
        "--out",
        str(tmp_path / "all"),
    ]
    assert train(*options) == 0
    series = runs.read_series(tmp_path / "all")
    write_json(tmp_path / "all" / runs.SERIES, series | {"result": None})
    other_image(root)
    assert train("--resume", str(tmp_path / "all")) == 2
    assert "seed0: this run began on data pets/" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings, said",
    [
        (
            {"batch": 10**15},
            "batch is 1000000000000000, and on data pets/ it must be at most the 8",
        ),
        ({"lsuv_batch": 9}, "lsuv_batch is 9"),
        ({"move": 1000}, "from 0 to the border, 8"),
        ({"move": -1}, "--move -1 must be 0 or more"),
        ({"steps": 10**9}, "must be epochs x images / batch"),
        ({"steps": -1}, "--steps -1"),
        ({"steps": 10**30}, "steps is 1000"),
        ({"momentum": -1}, "--momentum -1"),
        ({"lr": 10**400}, "lr is 1000"),
        ({"batch": 2**64}, "batch is"),
        ({"policy": {"policy": "fixed", "rate": [0.1]}}, "rate [0.1] is no number"),
        (
            {"policy": {"policy": "step", "rate": 0.1, "gamma": 0.1, "size": 0}},
            "gives nan at step 0",
        ),
        ({"policy": {"policy": "fixed", "rate": -0.1}}, "rate -0.1 must"),
        ({"policy": {"policy": "exp", "rate": 0.1, "gamma": 10**400}}, "gamma 1000"),
        ({"policy": {"policy": "multistep", "rate": 0.1, "gamma": 0.1, "steps": 7}}, "is no list"),
        ({"policy": {"policy": ["fixed"], "rate": 0.1}}, "unknown rate policy ['fixed']"),
    ],
)
def test_settings_out_of_a_file_that_fit_no_run(begun, settings, said, capsys):
    folder = begun[0]
    unfinished(folder, **settings)
    with in_time():
        assert train("--resume", str(folder)) == 2
    error = capsys.readouterr().err
    assert said in error and "run.json" in error and error.count("\n") == 1


def test_a_checkpoint_whose_progress_is_no_runs(begun, capsys):
    folder = begun[0]
    unfinished(folder)
    s = runs.read_run(folder)
    known = Settings.from_dict(s["settings"], folder, engine.train.KNOWN)
    data = load(s["settings"]["data"], size=(32, 32, 3))
    net, _, optimizer = engine.train.assemble(known, data, engine.train.ops_for("numpy"))
    checkpoint.save(
        folder,
        net,
        optimizer,
        step=0,
        epoch=0.0,
        settings=s["settings"],
        data=s["data"],
        data_tensors=data.preprocessing.tensors(),
        progress={"clock": ["x"]},
    )
    assert train("--resume", str(folder)) == 2
    error = capsys.readouterr().err
    assert "rows, seconds, training; it was written by another version" in error
    assert error.count("\n") == 1


def test_printable_changes_nothing_else():
    text = "".join(map(chr, range(0x20, 0x7F))) + "é猫😺"
    assert printable(text) is text and printable("a\u00a0b") == r"a\xa0b"
