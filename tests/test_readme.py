"""The commands and the Python of README.md and the rooms' pages run as they stand there, on a small
synthetic set.

Read next: README.md.
"""

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import engine
import engine.evaluate
import engine.export
import engine.plot.__main__
import engine.predict
import engine.train
import kernels.cuda
import lsuv.__main__
from helpers.programs import ROOT, TESTS

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
PAGES = README + "".join((ROOT / room / "README.md").read_text() for room in ("engine", "lsuv"))
COMMANDS = [
    line.split("#")[0].strip()
    for text in re.findall(r"```sh\n(.*?)```", PAGES, re.S)
    for line in text.splitlines()
]
COMMANDS = [
    re.search(r"-m ((engine|lsuv)\S*.*)", c).group(1)
    for c in COMMANDS
    if re.search(r"-m (engine|lsuv)", c) and "--torch" not in c  # tests/lsuv/test_torch.py
]
SMALL = ["--data", "synthetic", "--limit", "130"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("readme") / "run"
    engine.train.main(
        [
            "--net",
            "fitnet1",
            "--init",
            "lsuv",
            "--recipe",
            "fast",
            *SMALL,
            "--epochs",
            "1",
            "--out",
            str(out),
        ]
    )
    return out


def test_there_are_commands_to_run():
    assert len(COMMANDS) >= 7
    assert COMMANDS[0].startswith("engine.train --net fitnet4 --init lsuv")


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_readme(command, finished, tmp_path, capsys, request, monkeypatch):
    module, *arguments = shlex.split(command)
    monkeypatch.chdir(tmp_path)  # for what a command writes beside
    if "cuda" in arguments:
        request.getfixturevalue("double")  # of a GPU
        monkeypatch.setattr(kernels.cuda, "missing", lambda: None)
    arguments = [str(finished) if "…" in a else a for a in arguments]
    if module == "engine.export":
        pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[test]'")
        assert engine.export.main(arguments) == 0
        assert (finished / "model.onnx").stat().st_size > 348_694 * 4  # FitNet-1's parameters
    elif module == "engine.plot":
        assert engine.plot.__main__.main(arguments) == 0
        assert (finished / "plot.png").stat().st_size > 10_000
    elif module == "engine.predict":
        for name in arguments[1:]:
            Image.new("RGB", (40, 30), "red").save(name)
        assert engine.predict.main(arguments) == 0
    elif module == "engine.evaluate":
        assert engine.evaluate.main(arguments) == 0
    elif module == "lsuv":
        assert lsuv.__main__.main([*arguments, *SMALL, "--lsuv-batch", "64"]) == 0
    elif "--resume" in arguments:
        assert engine.train.main(arguments) == 0
    else:
        batch = "--lsuv-batch" if "lsuv" in arguments else "--batch"
        small = [*SMALL, "--epochs", "0", batch, "16"]
        if "--summary" in arguments:
            small = SMALL
        if "cuda" in arguments:
            small = [*small, "--limit", "16"]
        if "bf16" in arguments and "bf16" not in kernels.ops_for("auto").precisions:
            small = [*small, "--device", "numpy", "--limit", "16"]
        assert engine.train.main([*arguments, *small, "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.strip()


def test_python_of_the_readme(finished):
    predict, own = [text for kind, text in BLOCKS if kind == "python"]
    rng = np.random.default_rng(0)
    names = {"images": rng.integers(0, 256, (7, 32, 32, 3), np.uint8)}
    exec(re.sub(r'"runs/[^"]*"', repr(str(finished)), predict), names)
    assert names["probabilities"].shape == (7, 10)
    assert np.allclose(names["probabilities"].sum(1), 1, atol=1e-5)
    images, labels = rng.normal(0, 1, (100, 32, 32, 3)).astype(np.float32), np.arange(100) % 10
    images += rng.normal(0, 1, (10, 32, 32, 3)).astype(np.float32)[labels]  # a class, a pattern
    names = {"images": images, "labels": labels}
    exec(own, names)
    assert names["scores"].shape == (100, 10)
    assert (names["scores"].argmax(1) == labels).mean() > 0.3


def test_python_of_the_engines_page(tmp_path, monkeypatch, capsys):
    """Each of its nets learns what it is given."""
    (text,) = re.findall(r"```python\n(.*?)```", (ROOT / "engine" / "README.md").read_text(), re.S)
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 10
    pictures = rng.normal(0, 0.5, (200, 28, 28, 1)).astype(np.float32)
    pictures += rng.normal(0, 1, (10, 28, 28, 1)).astype(np.float32)[labels]
    monkeypatch.chdir(tmp_path)
    np.save("pictures.npy", pictures)
    pairs = np.stack([labels % 2, labels > 4], axis=1)
    mapped = np.load("pictures.npy", mmap_mode="r")
    names = {"pictures": pictures, "labels": labels, "pairs": pairs, "mapped": mapped}
    pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[test]'")
    exec(text, names)
    rows = capsys.readouterr().out.splitlines()
    losses = [float(re.search(r"  loss (\S+)", row).group(1)) for row in rows]
    assert losses[3] < losses[0] and losses[7] < losses[4] and losses[-2] < losses[8]
    answers = engine.scores(names["both"], pictures) > 0
    assert (answers == pairs).mean() > 0.7
    assert (tmp_path / "resnet.onnx").stat().st_size > 10_000


def test_module_runs_as_a_command_with_exit_code_2_on_a_wrong_name():
    done = subprocess.run(
        [sys.executable, "-m", "engine.train", "--net", "fitnet44"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2 and "did you mean 'fitnet4'" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_every_test_that_the_table_of_faults_names_is_there():
    table = (TESTS / "FAULTS.md").read_text()
    sources = {path.name: path.read_text() for path in TESTS.rglob("test_*.py")}
    names = set(re.findall(r"\b(test_\w+)(?!\w*\.py)", table))
    names -= {name.removesuffix(".py") for name in sources}
    assert len(names) > 60
    assert not [name for name in names if not any(f"def {name}(" in s for s in sources.values())]
    assert set(re.findall(r"\b(test_\w+\.py)", table)) <= set(sources)
