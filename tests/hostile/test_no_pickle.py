"""No file can make the program run code: no pickle, no eval, no object arrays.

Read next: tests/FAULTS.md.
"""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for room in ("engine", "kernels", "lsuv", "models", "bench")
    for path in sorted((ROOT / room).rglob("*.py"))
]
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "code",
    "codeop",
    "runpy",
}
CALLS = {"eval", "exec", "compile", "__import__"}
NUMPY = {"load", "save", "savez", "memmap", "genfromtxt", "loadtxt"}  # of which the first unpickles


def findings(tree: ast.AST):
    """What is forbidden in a module, in words with the line."""
    for node in ast.walk(tree):
        where = f"line {getattr(node, 'lineno', 0)}: "
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").split(".")[0]}
        else:
            names = set()
        yield from (where + name for name in names & MODULES)
        if isinstance(node, ast.Name) and node.id in CALLS:
            yield where + node.id
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("np", "numpy")
            and node.attr in (*NUMPY, "object_")
        ):
            yield where + f"numpy.{node.attr}"
        if isinstance(node, ast.keyword) and (
            node.arg == "allow_pickle"
            or node.arg == "dtype"
            and isinstance(node.value, ast.Name)
            and node.value.id == "object"
        ):
            yield where + node.arg


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_asks_for_it(path):
    assert not list(findings(ast.parse(path.read_text())))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import os, marshal.x",
        "eval('1')",
        "exec(x)",
        "f = compile",
        "np.load(p)",
        "numpy.load(p)",
        "np.array(x, dtype=object)",
        "np.object_",
        "load(p, allow_pickle=True)",
    ],
)
def test_the_search_finds_it(source):
    assert list(findings(ast.parse(source)))


# Python's audit hook sees what libraries do as well: "pickle.find_class" comes before a pickle can
# reach any code. An eval of theirs it can't tell from Python's own, in namedtuple.
GUARDED = """
import importlib.util, pickle, sys
import numpy as np
import engine.evaluate
from engine import train

def refuse(*arguments, **named):
    raise SystemExit("a pickle is read")

def guard(event, arguments):
    if event == "pickle.find_class":
        refuse()

out, planted = sys.argv[1:]
find_class = pickle.loads
sys.addaudithook(guard)
pickle.load = pickle.loads = np.load = refuse
if planted == "loads":
    pickle.loads(b"")
if planted == "global":
    find_class(b"cos\\nsystem\\n.")
assert train.main(["--net", "fitnet_mnist", "--data", "synthetic", "--limit", "32", "--batch", "16",
                   "--recipe", "fast", "--out", out, "--epochs", "1"]) == 0
assert train.main(["--resume", out]) == 0
assert engine.evaluate.main([out]) == 0
engine.load(out).predict(np.zeros((3, 28, 28, 1), np.uint8))
if importlib.util.find_spec("onnx"):
    import engine.export
    assert engine.export.main([out]) == 0
print("nothing was reached")
"""


def guarded(out, planted: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", GUARDED, str(out), planted], capture_output=True, text=True, cwd=ROOT
    )


def test_nothing_reaches_it(tmp_path):
    done = guarded(tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("nothing was reached\n")


@pytest.mark.parametrize("planted", ["loads", "global"])
def test_the_guard_notices(tmp_path, planted):
    done = guarded(tmp_path / "run", planted)
    assert done.returncode == 1 and "pickle" in done.stderr
