"""Bad input: one line that names the value and the remedy, exit code 2, nothing left behind.

Read next: engine/cli/command.py.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

import engine.evaluate
import engine.export
import engine.train
from engine.cli.command import run_command
from engine.errors import InputError, RunError
from engine.run import folder as runs
from engine.run.files import write_json


def train(*arguments):
    return run_command("engine.train", lambda: engine.train.main(list(arguments)))


SYNTHETIC = ("--net", "fitnet1", "--data", "synthetic", "--device", "numpy", "--limit", "64")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--net", "fitnet5"], "'fitnet5'"),
        (["--net", "fitnet5"], "fitnet4"),
        (["--net", "caffenet"], "give --data FOLDER"),
        (["--net", "googlenet"], "test/CLASS/*.png"),
        (
            ["--net", "caffenet", "--act", "maxout"],
            "--act for --net caffenet 'maxout'; known: relu",
        ),
        ([*SYNTHETIC, "--batch", "32", "--init", "original"], "use another init"),
        (["--act", "rellu"], "'relu'"),
        (["--loss", "hinge"], "svm"),
        (["--init", "lsvu"], "'lsuv'"),
        (["--data", "cifar12"], "cifar10"),
        (["--recipe", "quick"], "fast"),
        (["--optimizer", "adagrad"], "sgd"),
        (["--lsuv-mode", "old"], "fresh"),
        (["--device", "gpu"], "cpu"),
        (["--device", "cuda"], "device cuda: "),
        (["--precision", "tf32"], "fp32"),
        (["--precision", "fp16"], "'fp16'"),
        (["--epochs", "-1"], "--epochs -1 must be 0 or more"),
        (["--epochs", "nan"], "--epochs nan"),
        ([*SYNTHETIC, "--batch", "64", "--epochs", "40001"], "--epochs 40001 is more than 40,000"),
        (["--runs", "1001"], "--runs 1001 must be in [1, 1000]"),
        (["--epochs", "ten"], "'ten'"),
        (["--batch", "0"], "--batch 0"),
        (["--batch", "1.5"], "'1.5'"),
        (["--lr", "0"], "--lr 0 must be above 0"),
        (["--lr", "nan"], "--lr nan"),
        (["--lr", "inf"], "--lr inf"),
        (["--lr", "-0.1"], "--lr -0.1"),
        (["--lr"], "--lr"),
        (["--momentum", "1"], "--momentum 1 "),
        (["--decay", "-1"], "--decay -1"),
        (["--clip", "-1"], "--clip -1"),
        (["--ema", "1"], "--ema 1 must be in [0, 1)"),
        (["--accumulate", "1.5"], "--accumulate 1.5 must be a whole number in [1, 2^31)"),
        (["--accumulate", "inf"], "--accumulate inf must be a whole number"),
        (["--input-scale", "0"], "--input-scale 0"),
        (["--limit", "0"], "--limit 0"),
        (["--runs", "0"], "--runs 0"),
        (["--threads", "0"], "--threads 0"),
        (["--threads", "100000"], "must be in [1, 1024]"),
        (["--seed", str(2**64 - 1), "--runs", "2"], "beyond 2^64"),
        (
            ["--net", "fitnet_mnist", "--momentum", "0.5", "--summary"],
            "optimizer rmsprop has none, but rho, delta, floor, decay, clip",
        ),
        ([*SYNTHETIC, "--batch", "32", "--epochs", "1e10"], "--epochs 1e+10 is 2e+10 steps"),
        ([*SYNTHETIC, "--batch", "32", "--epochs", "1e300"], "fewer than 2^31"),
        ([*SYNTHETIC, "--batch", "1" + "0" * 400], "more than the 64 training images"),
        ([*SYNTHETIC, "--batch", "32", "--out", "/proc/nobody/may"], "cannot be made: /proc"),
        (["--net", "fitnet_mnist", *SYNTHETIC[2:], "--init", "delta-orthogonal"], "use ortho"),
        (
            ["--net", "fitnet4-bn-after", *SYNTHETIC[2:], "--batch", "32", "--epochs", "0"],
            "--epochs above 0",
        ),
        (["--seed", "-1"], "--seed -1"),
        (["--lsuv-tol", "0"], "--lsuv-tol 0"),
        (["--lsuv-batch", "0"], "--lsuv-batch 0"),
        (["--lsuv-max-iter", "0"], "--lsuv-max-iter 0"),
        (["--nett", "fitnet1"], "did you mean --net?"),
        (["--epoch", "3"], "did you mean --epochs?"),
        (["fitnet1"], "'fitnet1'"),
        (["--init", "msra", "--lsuv-mode", "same"], "--lsuv-mode"),
        (["--data-dir", "/no/such/folder"], "/no/such/folder"),
        (["--resume", "/no/such/run"], "not a run folder"),
        (["--resume", "run", "--lr", "0.1"], "--lr can't be given with --resume"),
        (["--resume", "run", "--seed", "0"], "--seed can't be given with --resume"),
        ([*SYNTHETIC, "--batch", "65"], "--batch 65 is more than the 64 training images"),
        ([*SYNTHETIC, "--batch", "32", "--lsuv-batch", "65"], "--lsuv-batch 65"),
        (
            [*SYNTHETIC, "--batch", "32", "--optimizer", "rmsprop", "--momentum", "0.5"],
            "optimizer rmsprop has none",
        ),
        ([*SYNTHETIC[2:], "--net", "fitnet_mnist", "--data", "cifar10"], "28x28x1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("engine.train: error: ") and error.count("\n") == 1
    assert said in error
    assert not list(tmp_path.iterdir())


def test_a_folder_with_a_run_is_refused_with_both_remedies(tmp_path, capsys):
    (tmp_path / "run.json").write_text("{}")
    assert train(*SYNTHETIC, "--batch", "32", "--out", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert "--resume" in error and "another --out" in error


def test_parts_of_a_run_are_not_written_over(tmp_path, capsys):
    (tmp_path / "checkpoint.safetensors").write_text("")
    assert train(*SYNTHETIC, "--batch", "32", "--out", str(tmp_path)) == 2
    assert "parts of a run are there; give another --out" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An untrained run of a small net."""
    out = tmp_path_factory.mktemp("errors") / "run"
    assert (
        train(
            *SYNTHETIC[2:],
            "--net",
            "fitnet_mnist",
            "--batch",
            "32",
            "--epochs",
            "0",
            "--out",
            str(out),
        )
        == 0
    )
    return out


@pytest.fixture
def edited(run):
    """The run's record, to be edited and written back; restored afterwards."""
    file = run / "run.json"
    before = file.read_text()
    yield json.loads(before), file
    file.write_text(before)


def one_line(capsys) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    return error


@pytest.mark.parametrize("text", ["{", "[]", '{"settings": {"net": "fitnet1"}}', "[" * 100_000])
@pytest.mark.parametrize("name", ["run.json", "runs.json"])
def test_a_damaged_run_json_is_named(text, name, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    assert train("--resume", str(tmp_path)) == 2
    assert name in one_line(capsys)


@pytest.mark.parametrize(
    "place, value, said",
    [
        (["result"], ..., "'result'"),
        (["device"], ..., "'device'"),
        (["data"], 3, "'data'"),
        (["data", "fingerprint"], None, "'fingerprint'"),
        (["origins"], "x", "'origins'"),
        (["result", "test_accuracy"], "high", "'test_accuracy'"),
        (["settings", "net"], "fitnet9", "'fitnet9'"),
        (["settings", "seed"], "one", "seed is 'one'"),
        (["settings", "epochs"], True, "epochs is True"),
        (["settings", "lr"], float("nan"), "NaN is no number"),
        (["settings", "threads"], 5000, "--threads 5000"),
        (["settings", "policy"], {}, "needs rate"),
        (
            ["settings", "policy"],
            {"policy": "step", "rate": "x", "gamma": 1, "size": 1},
            "run.json",
        ),
        (["settings", "batch"], ..., "lack batch"),
    ],
)
def test_an_edited_run_json_is_one_line(place, value, said, edited, capsys):
    record, file = edited
    inner = record
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    file.write_text(json.dumps(record))
    assert train("--resume", str(file.parent)) == 2
    assert said in one_line(capsys)


def test_settings_that_are_not_the_checkpoints_are_refused(edited, capsys):
    record, file = edited
    record["settings"]["lr"], record["result"] = 0.5, None
    file.write_text(json.dumps(record))
    assert train("--resume", str(file.parent)) == 2
    assert "this checkpoint is of lr 0.002, not 0.5" in one_line(capsys)


def test_metrics_that_are_not_text_are_named(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="metrics.csv: cannot be read"):
        runs.read_metrics(tmp_path)


def test_load_says_first_that_it_is_no_run_folder(run):
    for folder in ("/nope", run / "run.json"):
        with pytest.raises(InputError, match="not a run folder"):
            engine.load(folder)


@pytest.mark.parametrize("number, remedy", [(28, "make room"), (13, None)])
def test_only_a_full_disk_wants_room(number, remedy, tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=os.strerror(number)) as error:
        write_json(tmp_path / "init.json", {})
    assert ("make room" in str(error.value)) == (remedy is not None)
    assert "--resume" not in str(error.value)  # no run is there yet


def test_a_file_in_the_place_of_the_folder(tmp_path, capsys):
    (tmp_path / "run").write_text("")
    assert train(*SYNTHETIC, "--batch", "32", "--out", str(tmp_path / "run")) == 2
    assert "a file of that name exists" in capsys.readouterr().err
    assert train(*SYNTHETIC, "--batch", "32", "--out", str(tmp_path / "run" / "below")) == 2
    assert "cannot be made" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, code, text",
    [
        (RunError("the disk is full"), 1, "x: error: the disk is full\n"),
        (OSError(28, "No space left", "a.csv"), 1, "x: error: a.csv: No space left\n"),
        (KeyboardInterrupt(), 130, "x: stopped\n"),
        (MemoryError("9 TiB"), 1, "x: error: not enough memory (9 TiB); give a smaller --batch\n"),
    ],
)
def test_exit_codes(error, code, text, capsys):
    def main():
        raise error

    assert run_command("x", main) == code
    assert capsys.readouterr().err == text


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command("x", lambda: 1 / 0)


def test_the_commands_run_as_programs(tmp_path):
    """The exit code and the one line, through `python -m`."""
    for module, arguments in (
        ("engine.train", ["--net", "fitnet5"]),
        ("engine.evaluate", [str(tmp_path)]),
        ("engine.export", [str(tmp_path)]),
        ("engine.predict", [str(tmp_path), "cat.png"]),
        ("engine.plot", [str(tmp_path)]),
        ("engine.data.prepare", [str(tmp_path / "none"), str(tmp_path / "dest")]),
    ):
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], capture_output=True, text=True
        )
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith(f"{module}: error: ") and done.stderr.count("\n") == 1


def test_the_package_lists_the_commands():
    done = subprocess.run([sys.executable, "-m", "engine"], capture_output=True, text=True)
    commands = re.findall(r"python -m (\S+)", done.stdout)
    assert done.returncode == 0 and len(commands) == len(set(commands)) > 10
    for name in commands:
        assert importlib.util.find_spec(name) is not None, name


def test_help_and_summary(capsys):
    for main in (engine.train.main, engine.evaluate.main, engine.export.main):
        with pytest.raises(SystemExit) as stopped:
            main(["--help"])
        assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "fitnet4-bn-before" in out
    groups = re.findall(r"^(\w+):$", out.split("usage: engine.evaluate")[0], re.M)
    assert groups == ["options", "net", "initialisation", "data", "training", "device", "run"]
    assert train(*SYNTHETIC, "--batch", "32", "--act", "relu", "--summary") == 0
    out = capsys.readouterr().out
    assert "128,102" in out and "conv11" in out
    for net, count in (("caffenet", "60,965,224"), ("googlenet", "13,378,280")):
        assert train("--net", net, "--summary") == 0
        out = capsys.readouterr().out
        assert "ReLU" in out and count in out
