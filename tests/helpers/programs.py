"""Where the project stands, and the environment of programs that tests start.

Read next: tests/helpers/lives.py.
"""

import functools
import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
DOUBLE = ROOT / "kernels" / "emulated" / "double"  # packages cupy and cudnn for those of a GPU


def environment(*first: Path | str) -> dict[str, str]:
    """The environment of a program that imports the project, these helpers, and before both what
    stands in the folders `first`."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*first, ROOT, TESTS)))}


@functools.cache
def _site():
    """A folder that makes a Python that has it on its path take the double for a driver."""
    folder = tempfile.TemporaryDirectory()
    Path(folder.name, "sitecustomize.py").write_text(
        "import kernels.cuda\nkernels.cuda.has_driver = lambda: True\n"
    )
    return folder


def double_environment() -> dict[str, str]:
    """The environment of a program of its own in which the doubles stand for cupy and cudnn."""
    return environment(_site().name, DOUBLE)
