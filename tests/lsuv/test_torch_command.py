"""python -m lsuv --torch: a model of PyTorch's from the shell, and errors in one line.

Read next: lsuv/README.md.
"""

import json
import sys

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[torch]'")
from engine.cli.command import run_command  # noqa: E402
from lsuv.__main__ import main  # noqa: E402

MODELS = """
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5))

def tokens():
    return nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 5))

def number():
    return 7

def broken():
    raise OSError("no such weights")
"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    (tmp_path / "models_of_a_test.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.delitem(sys.modules, "models_of_a_test", raising=False)

    def called(*arguments):
        code = run_command("lsuv", lambda: main(list(arguments)))
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return called


SMALL = ("--torch", "models_of_a_test:small", "--batch", "8x3x9x9")


def test_a_model_is_scaled_and_reported(call, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    code, out, err = call(*SMALL, "--json", "a.json", "--plot", "a.png")
    assert code == 0 and err == "" and "scaled" in out and "report in a.json" in out
    assert "normalisation right after 0 divides the scale out again" in out
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["settings"]["model"] == "models_of_a_test:small" and report["forwards"] == 1
    assert report["largest_deviation"] < 1e-5 and len(report["rows"]) == 2
    assert (tmp_path / "a.png").stat().st_size > 3_000
    again = json.loads((tmp_path / "a.json").read_text())
    call(*SMALL, "--json", "a.json")
    assert again["rows"] == json.loads((tmp_path / "a.json").read_text())["rows"]


def test_a_model_is_only_measured_and_in_another_precision(call):
    code, out, _ = call(*SMALL, "--init", "measure", "--mode", "eval", "--dtype", "bfloat16")
    assert code == 0 and "measured" in out and "0.0% of the parameters" in out
    name = "models_of_a_test:tokens"
    code, out, _ = call("--torch", name, "--batch", "4x6", "--dtype", "int64", "--tokens", "50")
    assert code == 0 and "unsupported: 400 parameters" in out


@pytest.mark.parametrize(
    "arguments, text",
    [
        (SMALL[:2], "the following arguments are required: --batch"),
        (("--torch", "torch.nn", "--batch", "3"), "--torch torch.nn: give MODULE:FUNCTION"),
        (("--torch", "nowhere:f", "--batch", "3"), "--torch nowhere:f: ModuleNotFoundError"),
        ((*SMALL[:3], "8x3xx"), "--batch 8x3xx: give sizes above 0"),
        ((*SMALL[:3], "8x4x9x9"), "on --batch 8x4x9x9: RuntimeError: Given groups=1"),
        ((*SMALL[:3], "1x3x3x3"), "batch normalisation after 0 has one value a channel"),
        (("--torch", "models_of_a_test:number", *SMALL[2:]), "gives a int, not a torch.nn.Module"),
        (("--torch", "models_of_a_test:broken", *SMALL[2:]), "OSError: no such weights"),
        ((*SMALL, "--json", "none/a.json"), "--json none/a.json: no folder none"),
        ((*SMALL, "--plot", "a.none"), "--plot a.none: Format 'none' is not supported"),
        ((*SMALL, "--mod", "eval"), "unknown argument '--mod'; did you mean --mode?"),
        ((*SMALL, "--tokens", "0"), "--tokens 0: must be 1 or more"),
    ],
)
def test_errors_are_one_line(call, arguments, text):
    code, _, err = call(*arguments)
    assert code == 2 and len(err.splitlines()) == 1 and text in err, err
