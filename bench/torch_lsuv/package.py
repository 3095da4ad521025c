"""The package lsuv of PyPI, by the paper's author. It has our import name: it is read from a folder
of its own, in a process that has not imported ours.

Read next: bench/torch_lsuv/study.py, whether it helps.
"""

import sys
from importlib import import_module, metadata
from pathlib import Path

from engine.errors import InputError, RunError

VERSION = "0.3.0"
INSTALL = f"pip install --target FOLDER --no-deps lsuv=={VERSION}"


def version_in(folder: str) -> str:
    """The version that lies in the folder; InputError where there is none."""
    found = [d.version for d in metadata.distributions(name="lsuv", path=[folder])]
    if not found or not (Path(folder) / "lsuv" / "lsuvinit.py").is_file():
        raise InputError(f"--package {folder}: no package lsuv in it; {INSTALL}")
    return found[0]


def imported(folder: str):
    """The package, as a module."""
    if "lsuv" not in sys.modules:
        sys.path.insert(0, folder)
    module = import_module("lsuv")
    if not Path(module.__file__).resolve().is_relative_to(Path(folder).resolve()):
        raise RunError(f"{module.__file__} is imported instead of {folder}; use another process")
    return module


def outcome(package: dict) -> str:
    """What the package did, in a few words."""
    if "layers" not in package:
        return package["raised"][0].partition(":")[0]
    nan = f", {package['not_finite']} NaN" if package["not_finite"] else ""
    rest = f", {package['untouched']} untouched" if package["untouched"] else ""
    again = " (2nd try)" if package["raised"] else ""
    return f"{package['outside']} of {package['layers']}{nan}{rest}{again}"
