"""Device emulated: the CUDA kernels, thread by thread, on a machine without a GPU.

`kernels.cuda.ops.CudaOps` runs on a double of CuPy and cuDNN (double/), whose kernels a compiler of
C++ makes of the same .cu files behind emulator.h. It is there to see kernels run and to check them:
a convolution is the reference's, and how long anything takes says nothing about a GPU.

Read next: ops.py and compiler.py.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from kernels.emulated import compiler

DOUBLE = Path(__file__).resolve().parent / "double"


def missing() -> str | None:
    """What device emulated lacks here, in one line with the remedy; None if nothing."""
    if "cupy" in sys.modules and not _is_double():
        return "CuPy itself has been imported here; use the device in a process of its own"
    if compiler.command() is None:
        return (
            "no C++ compiler ($CXX, g++ or clang++) is found; install one (Debian: apt install "
            "g++, macOS: xcode-select --install), or use device numpy"
        )
    return None


def double() -> Any:
    """The memory and the queue of the pretended GPU; `import cupy` and `cudnn` give the doubles
    from now on, in this process."""
    if "cupy" not in sys.modules:
        sys.path.insert(0, str(DOUBLE))
    importlib.import_module("cudnn")
    assert _is_double()
    return importlib.import_module("cupy._double")


def _is_double() -> bool:
    return Path(sys.modules["cupy"].__file__ or "").is_relative_to(DOUBLE)
