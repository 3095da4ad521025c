"""The devices that the tests run on, and the environment of programs that they start.

`DEVICES` are those of this machine, numpy always among them. The double of a GPU stands in
tests/cuda/double; a program finds it first on its path in `double_environment()`.

Read next: tests/helpers/tolerances.py.
"""

import functools
import os
import tempfile
from pathlib import Path

from kernels import DeviceError, ops_for

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"


def environment(*first: Path | str) -> dict[str, str]:
    """The environment of a program that imports the project, these helpers, and before both what
    stands in the folders `first`."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*first, ROOT, TESTS)))}


def _devices():
    """The operations of each device that works here, and the reason for each that doesn't."""
    found, missing = [], []
    for name in ("numpy", "cpu"):
        try:
            found.append(ops_for(name))
        except DeviceError as error:
            missing.append(str(error))
    return found, missing


DEVICES, MISSING = _devices()
DOUBLE = TESTS / "cuda" / "double"


@functools.cache
def _site():
    """A folder that makes a Python which finds it on its path take the double's word for a driver.
    """
    folder = tempfile.TemporaryDirectory()
    Path(folder.name, "sitecustomize.py").write_text(
        "import kernels.cuda\nkernels.cuda.has_driver = lambda: True\n")
    return folder


def double_environment() -> dict[str, str]:
    """The environment of a program of its own in which the doubles stand for cupy and cudnn."""
    return environment(_site().name, DOUBLE)
