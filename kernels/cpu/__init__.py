"""Device cpu: loads oneDNN from its wheel, then the extension that setup.py built against it.

Importing this package either succeeds completely or raises NativeError with the reason in one line.
Read next: kernels/cpu/ops.py.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.metadata
import os
import platform
import sys

WHEEL = "onednn-cpu-gomp"
LIBRARY = "libdnnl.so.3"
SPINS = "10000"  # about 0.1 ms: longer than Python's pause between two kernels


class NativeError(ImportError):
    """Device cpu can't be used here: the message is the reason, `remedy` what helps."""

    def __init__(self, reason: str, remedy: str):
        super().__init__(reason)
        self.remedy = remedy


def _preload() -> None:
    """Loads oneDNN, so that the extension finds it by its soname.

    The wheel puts it where the loader doesn't look, and an rpath would point into pip's build
    folder, which is gone by now.
    """
    remedy = f"pip install {WHEEL}==2023.2.0"
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        raise NativeError(f"oneDNN's wheel {WHEEL} is not installed", remedy) from None
    path = next((file.locate() for file in files if file.name == LIBRARY), None)
    if path is None:
        raise NativeError(f"the installed {WHEEL} has no {LIBRARY}", remedy)
    # A thread that waits for its team spins 300,000 times before it sleeps; on a busy machine it so
    # keeps the very thread that it waits for from the core. FitNet-1's convolutions of one batch
    # took 757 ms there with that default and 70 with this one. libgomp reads the variable when it
    # is loaded: it has no effect where another package loaded libgomp before, and is taken back so
    # that no other program inherits it.
    ours = not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    if ours:
        os.environ["GOMP_SPINCOUNT"] = SPINS
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeError(f"oneDNN does not load ({error})", remedy) from error
    finally:
        if ours:
            del os.environ["GOMP_SPINCOUNT"]


def _load():
    """The extension module, or NativeError."""
    here = (sys.platform, platform.machine())
    if here != ("linux", "x86_64"):
        reason = f"the native extension is for Linux x86-64, and this is {' '.join(here)}"
        raise NativeError(reason, "use numpy")
    remedy = "install g++, then lsuv-engine again; pip -v says why"
    if importlib.machinery.PathFinder.find_spec("kernels.cpu._native", __path__) is None:
        reason = (
            "the native extension is not built for this Python (no C++ compiler, or no "
            "oneDNN wheel, when it was installed)"
        )
        raise NativeError(reason, remedy)
    _preload()
    try:
        from kernels.cpu import _native
    except ImportError as error:
        raise NativeError(f"the native extension does not load ({error})", remedy) from error
    return _native


_native = _load()
# OpenMP's threads do not live on in a forked process, and a kernel there would wait for them for
# ever. One thread needs no others.
os.register_at_fork(after_in_child=lambda: _native.set_threads(1))
