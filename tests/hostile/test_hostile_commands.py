"""The command lines under fire: any words in any order, and run folders that somebody has edited.

A command ends with 0, or with 1 or 2 and one last line on standard error that says why; --help is
the one way to leave it by SystemExit. Nets are tiny here, and training itself is not begun.

Read next: engine/cli/command.py.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pooch
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

import engine.evaluate
import engine.export
import engine.plot.__main__
import engine.predict
import engine.train
import lsuv.__main__
from engine.cli import options
from engine.cli.command import run_command
from engine.data import synthetic
from engine.errors import InputError
from engine.run import checkpoint, session
from engine.run import folder as runs
from helpers.data_sets import forge_folder
from helpers.hostile import assert_one_line, damaged, file_names, forged, fuzz, in_time
from helpers.nets import tiny
from models import NETS

MAIN = {
    "engine.train": engine.train.main,
    "engine.evaluate": engine.evaluate.main,
    "engine.export": engine.export.main,
    "engine.plot": engine.plot.__main__.main,
    "engine.predict": engine.predict.main,
    "lsuv": lsuv.__main__.main,
}
# The options of these commands.
OF_A_RUN = {
    "engine.evaluate": ["device", "threads", "data", "data_dir"],
    "engine.export": ["out", "batch"],
    "engine.plot": ["out", "device", "threads", "data", "data_dir"],
    "engine.predict": ["device", "threads"],
}
TINY = ["--net", "fitnet1", "--data", "synthetic", "--device", "numpy", "--batch", "8"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The current folder: with a run, a series, images, and files that are neither."""
    home = tmp_path_factory.mktemp("commands")
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*arguments, **options):
            raise ConnectionError("no network")

        patch.chdir(home)
        patch.delenv("LSUV_DATA_DIR", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setattr(pooch, "retrieve", refuse)
        patch.setattr(synthetic, "TRAIN", 60)
        patch.setattr(synthetic, "TEST", 30)
        for name, model in list(NETS.items()):
            patch.setitem(NETS, name, replace(model, build=tiny, in_shape=(8, 8, 3)))
        forge_folder(home / "images", size=(8, 8))
        (home / "file").write_text("no run")
        (home / "empty").mkdir()
        assert end("engine.train", [*TINY, "--epochs", "0.3", "--out", "run"]) == 0
        assert end("engine.train", [*TINY, "--epochs", "0.3", "--runs", "2", "--out", "all"]) == 0
        yield home


def end(command: str, arguments: list[str]) -> int:
    """The exit code. Whatever else than --help leaves a command by an exception is a defect."""
    try:
        with in_time():
            return run_command(command, lambda: MAIN[command](arguments))
    except SystemExit as stopped:
        assert stopped.code == 0 and {"-h", "--help"} & set(arguments)
        return 0


def ends_well(command: str, arguments: list[str], capsys) -> int:
    capsys.readouterr()
    code = end(command, arguments)
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert code in (0, 1, 2), arguments
    assert all(line.isprintable() for line in lines), said.err
    errors = [line for line in lines if line.startswith(f"{command}: error: ")]
    assert len(errors) == (code != 0) and lines[-1:] == errors or not code, said.err
    assert "Traceback" not in said.err
    event(f"{command} ends with {code}")  # pytest --hypothesis-show-statistics counts them
    return code


# --- any words -----------------------------------------------------------------------------------

WORDS = [
    "",
    " ",
    "-",
    "--",
    "-1",
    "0",
    "1",
    "1.0",
    "1e3",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "0x10",
    "1_0",
    "１２",
    "٣",
    "9" * 30,
    "9" * 5000,
    str(2**64),
    "none",
    "auto",
    "x",
    "X" * 5000,
    "a\nb",
    "\0",
    "a\0b",
    "\ud800",
    "\udcff",
    "\x1b[2J",
    "\u2028",
    "猫",
    "%s",
    "%(default)s",
    "{}",
    "--net",
    "--help=1",
    "-hx",
    "--=",
    "~",
    "~nobody",
    ".",
    "..",
    "/",
    "/dev/null",
    "/proc/self/mem",
    "file",
    "empty",
    "images",
    "run",
    "all",
    "run/run.json",
    "a/" * 2000,
]
VALUES = {  # what may work, by option; every option is given WORDS too
    "net": [*NETS],
    "act": ["maxout", "relu", "vlrelu", "tanh"],
    "loss": ["softmax", "svm"],
    "init": ["lsuv", "ortho", "xavier", "msra", "original"],
    "lsuv_mode": ["same", "fresh"],
    "lsuv_batch": ["8", "60", "61"],
    "lsuv_tol": ["0.05", "1"],
    "lsuv_max_iter": ["1", "0"],
    "lsuv_pre": ["ortho", "gaussian", "lsuv"],
    "lsuv_normalise": ["output", "input"],
    "data": ["auto", "synthetic", "cifar10", "cifar100", "mnist", "images", "cifra10"],
    "data_dir": ["empty", "images"],
    "limit": ["1", "30", "0"],
    "input_scale": ["0.5", "0"],
    "smoothing": ["0.1", "1"],
    "contrast": ["gcn", "none"],
    "move": ["0", "2", "99"],
    "passes": ["1", "2", "0"],
    "distort": ["0", "1", "-1"],
    "validation": ["0.2", "10", "59", "60", "1.5"],
    "weights": ["run", "run/checkpoint.safetensors", "all", "run/run.json"],
    "teacher": ["run", "run/checkpoint.safetensors", "all", "run/run.json"],
    "hints": ["conv2:conv1", "conv1", "clf:conv1", ":"],
    "hint_epochs": ["1", "0.1", "1e9", "-1"],
    "temperature": ["3", "0"],
    "student_temperature": ["1", "1e300"],
    "freeze": ["conv1", "conv1*,clf", "*", "[", ","],
    "log": ["caffe", "tensorboard,caffe", "caffe,"],
    "batch": ["8", "1", "60", "61"],
    "recipe": ["paper", "fast"],
    "device": ["auto", "cpu", "numpy", "cuda"],
    "threads": ["1", "0"],
    "precision": ["fp32", "bf16", "tf32"],
    "seed": ["1", str(2**64 - 1)],
    "optimizer": ["sgd", "nesterov", "rmsprop", "adam", "adamw"],
    "epochs": ["0", "0.5", "1e9", "1e300"],
    "lr": ["0.1", "1e300"],
    "momentum": ["0.9", "1"],
    "rho": ["0.9", "1"],
    "delta": ["0.1", "-1"],
    "floor": ["0.1", "-1"],
    "decay": ["0.1", "-1"],
    "beta1": ["0.9", "1"],
    "beta2": ["0.999", "-1"],
    "clip": ["1", "0"],
    "ema": ["0.999", "1"],
    "accumulate": ["2", "1.5", "1e300"],
    "shards": ["2", "3", "-4", "1180591620717411303424"],
    "runs": ["1", "2"],
    "executor": ["local", "nowhere"],  # without --sweep
    "parallel": ["2", "0", "1.5"],
    "set": ["partition=gpu", "partition", "=", "a=b=c"],
    "out": [
        "new",
        "run",
        "file/new",
        "x" * 300,
        "new.onnx",
        "file/new.onnx",
        "new.html",
        "no/new.html",
    ],
    "resume": ["run", "all", "empty"],
    "lsuv_batches": ["1", "0"],
    "lsuv_include": ["conv*", "[", "clf,conv1"],
    "lsuv_exclude": ["*", "conv1"],
    "json": ["report.json", "empty", "no/file"],
}
# Seconds are spent on what these ask for, and threads of OpenMP made.
BOUNDED = {
    "lsuv_batches": {"1", "0", "x", "-1"},
    "lsuv_max_iter": {"1", "0", "x", "-1"},
    "threads": {"1", "0", "x", "-1", "9" * 30},
    "runs": {"1", "2", "0", "x", str(2**64)},
}


def options_of(command: str) -> list[str]:
    if command in OF_A_RUN:
        return OF_A_RUN[command]
    parser = (
        lsuv.__main__.make_parser()
        if command == "lsuv"
        else options.train_parser(engine.train.KNOWN, "")
    )
    return [
        action.dest for action in parser._actions if action.nargs is None and action.option_strings
    ]


@st.composite
def arguments(draw, command: str):
    """Options of the command, most with a value that may work, and words in between."""
    found = (
        [draw(st.sampled_from(["run", "all", "empty", *WORDS]))] * (command in OF_A_RUN)
        if draw(st.integers(0, 9))
        else []
    )
    if command == "engine.predict":
        pictures = ["images/test/cat/img0.png", "images/train/dog/img2.png", "images", *WORDS]
        found += draw(st.lists(st.sampled_from(pictures), max_size=3))
    if command not in OF_A_RUN and draw(st.booleans()):
        found += TINY
    for name in draw(st.lists(st.sampled_from(options_of(command)), max_size=6)):
        option = "--" + name.replace("_", "-")
        usual = draw(st.integers(0, 3))
        value = draw(
            st.sampled_from(VALUES[name])
            if usual
            else st.sampled_from(WORDS) | st.text(max_size=6) | file_names()
        )
        if name in BOUNDED and value not in BOUNDED[name]:
            value = "1"
        found += [f"{option}={value}"] if draw(st.integers(0, 3)) == 0 else [option, value]
    rare = draw(st.integers(0, 11))
    if rare == 0:
        found.insert(draw(st.integers(0, len(found))), draw(st.sampled_from(WORDS)))
    elif rare == 1:
        found.append("--summary")
    elif rare == 2 and found:
        found.pop()
    elif rare == 3:
        found.append(
            draw(
                st.sampled_from(
                    ["--help", "-h", "--nett", "--summary=1", "--no-such", "--follow-links"]
                )
            )
        )
    return found


@pytest.fixture
def no_training(monkeypatch):
    """Runs begin, and are over."""
    for module, name in ((engine.train, "new_run"), (session, "resumed_run")):
        monkeypatch.setattr(module, name, lambda *arguments: {"result": None})
    for module in (engine.train, session):
        monkeypatch.setattr(module, "several_runs", lambda *arguments: None)


@fuzz(250, 6_000)
@given(arguments("engine.train"))
def test_any_words_for_engine_train(here, no_training, capsys, words):
    ends_well("engine.train", words, capsys)
    assert sorted(path.name for path in here.iterdir()) == [
        "all",
        "empty",
        "file",
        "images",
        "run",
    ]  # an error leaves nothing behind


@fuzz(100, 3_000)
@given(arguments("lsuv"))
def test_any_words_for_lsuv(here, capsys, words):
    ends_well("lsuv", words, capsys)
    (here / "report.json").unlink(missing_ok=True)


@fuzz(60, 1_500)
@given(arguments("engine.evaluate"))
def test_any_words_for_engine_evaluate(here, capsys, words):
    ends_well("engine.evaluate", words, capsys)


@fuzz(40, 1_500)
@given(arguments("engine.export"))
def test_any_words_for_engine_export(here, capsys, words):
    ends_well("engine.export", words, capsys)
    (here / "new.onnx").unlink(missing_ok=True)


@fuzz(60, 1_500)
@given(arguments("engine.plot"))
def test_any_words_for_engine_plot(here, capsys, words):
    with pytest.MonkeyPatch.context() as patch:  # what takes its time is drawn below
        patch.setattr(engine.plot.__main__.figures, "png", lambda runs: b"")
        patch.setattr(engine.plot.__main__.page, "html", lambda runs: "")
        ends_well("engine.plot", words, capsys)
    for name in ("new", "plot", "run/plot"):
        for ending in (".png", ".html"):
            (here / f"{name}{ending}").unlink(missing_ok=True)


@fuzz(60, 1_500)
@given(arguments("engine.predict"))
def test_any_words_for_engine_predict(here, capsys, words):
    ends_well("engine.predict", words, capsys)


def test_the_words_reach_every_option():
    """None is left out, so a new option has to say which values it may have."""
    for command in ("engine.train", "lsuv"):
        assert set(options_of(command)) <= set(VALUES)


# --- edited run folders --------------------------------------------------------------------------


@fuzz(150, 4_000)
@given(
    st.data(), st.sampled_from([("run", runs.RUN), ("all", runs.SERIES), ("all/seed0", runs.RUN)])
)
def test_an_edited_run_folder(here, no_training, capsys, data, which):
    folder, name = which
    record = json.loads((here / folder / name).read_text())
    if data.draw(st.booleans()):
        record["result"] = None
    text = data.draw(forged(record))
    shutil.rmtree(here / "edited", ignore_errors=True)
    shutil.copytree(here / folder, here / "edited")
    (here / "edited" / name).write_text(text, errors="replace")
    try:
        ends_well("engine.train", ["--resume", "edited"], capsys)
        ends_well("engine.evaluate", ["edited"], capsys)
    finally:
        shutil.rmtree(here / "edited")


@fuzz(6, 300)
@given(st.data(), st.sampled_from([runs.RUN, runs.INIT, runs.METRICS]))
def test_an_edited_run_folder_is_drawn(here, capsys, data, name):
    path = here / "drawn" / name
    shutil.rmtree(path.parent, ignore_errors=True)
    shutil.copytree(here / "run", path.parent)
    text = data.draw(
        damaged(path.read_bytes()).map(lambda content: content.decode(errors="replace"))
        if name == runs.METRICS
        else forged(json.loads(path.read_text()))
    )
    path.write_text(text, errors="replace")
    try:
        ends_well("engine.plot", ["drawn", "--device", "numpy"], capsys)
    finally:
        shutil.rmtree(path.parent)


@fuzz(40, 1_500)
@given(st.data())
def test_an_edited_checkpoint_in_a_run_folder(here, capsys, data):
    """Its settings, data or progress are edited, and its hashes made anew."""
    whole = checkpoint.read_file(here / "run" / runs.CHECKPOINT)
    shutil.rmtree(here / "edited", ignore_errors=True)
    shutil.copytree(here / "run", here / "edited")
    record = json.loads((here / "edited" / runs.RUN).read_text())
    (here / "edited" / runs.RUN).write_text(json.dumps(record | {"result": None}))
    path = here / "edited" / runs.CHECKPOINT
    (here / "edited" / runs.PREVIOUS).unlink(missing_ok=True)
    try:
        key = data.draw(st.sampled_from(["settings", "data", "progress", "step", "epoch", "seed"]))
        text = data.draw(
            forged(getattr(whole, key))
            if key in ("settings", "data", "progress")
            else st.sampled_from(["0", "1", "-1", "2", "99999999999", "x", "1e3"])
        )
        reseal(path, key, text.encode(errors="replace").decode())
        try:
            model = engine.load("edited", device="numpy")
            assert len(model.predict(np.zeros((2, 8, 8, 3), np.uint8))) == 2
        except InputError as error:
            assert_one_line(error)
        ends_well("engine.evaluate", ["edited", "--device", "numpy"], capsys)
        ends_well("engine.export", ["edited"], capsys)
        ends_well("engine.train", ["--resume", "edited"], capsys)
    finally:
        shutil.rmtree(here / "edited")


def reseal(path, key: str, text: str) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"][key] = text
    header["__metadata__"]["metadata_hash"] = checkpoint.metadata_digest(header["__metadata__"])
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + content[8 + length :])
