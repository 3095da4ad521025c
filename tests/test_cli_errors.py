"""Bad input: one line that names the value and the remedy, exit code 2, nothing left behind.

Read next: engine/command.py.
"""

import subprocess
import sys

import pytest

import engine.evaluate
import engine.train
from engine.command import run_command
from engine.errors import RunError
from kernels import DeviceError


def train(*arguments):
    return run_command("engine.train", lambda: engine.train.main(list(arguments)), (DeviceError,))


SYNTHETIC = ("--net", "fitnet1", "--data", "synthetic", "--device", "numpy", "--limit", "64")


@pytest.mark.parametrize("arguments, said", [
    (["--net", "fitnet5"], "'fitnet5'"), (["--net", "fitnet5"], "fitnet4"),
    (["--act", "rellu"], "'relu'"), (["--head", "hinge"], "svm"), (["--init", "lsvu"], "'lsuv'"),
    (["--data", "cifar12"], "cifar10"), (["--recipe", "quick"], "fast"),
    (["--optimizer", "adam"], "sgd"), (["--lsuv-mode", "old"], "fresh"),
    (["--device", "gpu"], "cpu"), (["--device", "cuda"], "no CUDA device"),
    (["--precision", "bf16"], "fp32"), (["--precision", "fp16"], "'fp16'"),
    (["--epochs", "-1"], "--epochs -1 must be 0 or more"), (["--epochs", "nan"], "--epochs nan"),
    (["--epochs", "ten"], "'ten'"), (["--batch", "0"], "--batch 0"), (["--batch", "1.5"], "'1.5'"),
    (["--lr", "0"], "--lr 0 must be above 0"), (["--lr", "nan"], "--lr nan"),
    (["--lr", "inf"], "--lr inf"), (["--lr", "-0.1"], "--lr -0.1"), (["--lr"], "--lr"),
    (["--momentum", "1"], "--momentum 1 "), (["--decay", "-1"], "--decay -1"),
    (["--clip", "-1"], "--clip -1"), (["--input-scale", "0"], "--input-scale 0"),
    (["--limit", "0"], "--limit 0"), (["--runs", "0"], "--runs 0"),
    (["--threads", "0"], "--threads 0"),
    (["--seed", "-1"], "--seed -1"), (["--lsuv-tol", "0"], "--lsuv-tol 0"),
    (["--lsuv-batch", "0"], "--lsuv-batch 0"), (["--lsuv-max-iter", "0"], "--lsuv-max-iter 0"),
    (["--nett", "fitnet1"], "did you mean --net?"), (["--epoch", "3"], "did you mean --epochs?"),
    (["fitnet1"], "'fitnet1'"), (["--init", "msra", "--lsuv-mode", "same"], "--lsuv-mode"),
    (["--data-dir", "/no/such/folder"], "/no/such/folder"),
    (["--resume", "/no/such/run"], "not a run folder"),
    (["--resume", "run", "--lr", "0.1"], "--lr can't be given with --resume"),
    (["--resume", "run", "--seed", "0"], "--seed can't be given with --resume"),
    ([*SYNTHETIC, "--batch", "65"], "--batch 65 is more than the 64 training images"),
    ([*SYNTHETIC, "--batch", "32", "--lsuv-batch", "65"], "--lsuv-batch 65"),
    ([*SYNTHETIC, "--batch", "32", "--optimizer", "rmsprop", "--momentum", "0.5"], "no momentum"),
    ([*SYNTHETIC[2:], "--net", "fitnet_mnist", "--data", "cifar10"], "28x28x1"),
])
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


def test_a_damaged_run_json_is_named(tmp_path, capsys):
    for text in ("{", "[]", '{"settings": {"net": "fitnet1"}}'):
        (tmp_path / "run.json").write_text(text)
        assert train("--resume", str(tmp_path)) == 2
        error = capsys.readouterr().err
        assert "run.json" in error and error.count("\n") == 1


def test_a_file_in_the_place_of_the_folder(tmp_path, capsys):
    (tmp_path / "run").write_text("")
    assert train(*SYNTHETIC, "--batch", "32", "--out", str(tmp_path / "run")) == 2
    assert "a file of that name exists" in capsys.readouterr().err
    assert train(*SYNTHETIC, "--batch", "32", "--out", str(tmp_path / "run" / "below")) == 2
    assert "cannot be made" in capsys.readouterr().err


@pytest.mark.parametrize("error, code, text", [
    (RunError("the disk is full"), 1, "x: error: the disk is full\n"),
    (OSError(28, "No space left", "a.csv"), 1, "x: error: a.csv: No space left\n"),
    (KeyboardInterrupt(), 130, "x: stopped\n"),
])
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
    for module, arguments in (("engine.train", ["--net", "fitnet5"]),
                              ("engine.evaluate", [str(tmp_path)])):
        done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True,
                              text=True)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith(f"{module}: error: ") and done.stderr.count("\n") == 1


def test_help_and_summary(capsys):
    for main in (engine.train.main, engine.evaluate.main):
        with pytest.raises(SystemExit) as stopped:
            main(["--help"])
        assert stopped.value.code == 0
    assert "fitnet4-bn-before" in capsys.readouterr().out
    assert train(*SYNTHETIC, "--batch", "32", "--act", "relu", "--summary") == 0
    out = capsys.readouterr().out
    assert "128,102" in out and "conv11" in out
