"""Device cpu: loads the extension that setup.py built, and before it oneDNN, if that is there.

Importing this package either succeeds completely or raises NativeError with the reason in one line.
Read next: kernels/cpu/ops.py.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.metadata
import os
from contextlib import contextmanager

WHEEL = "onednn-cpu-gomp"
LIBRARY = "libdnnl.so.3"
REMEDY = f"pip install {WHEEL}==2023.2.0"
SPINS = "10000"  # about 0.1 ms: longer than Python's pause between two kernels


class NativeError(ImportError):
    """Device cpu can't be used here: the message is the reason, `remedy` what helps."""

    def __init__(self, reason: str, remedy: str):
        super().__init__(reason)
        self.remedy = remedy


def _preload() -> None:
    """Loads oneDNN where its wheel is installed, so that an extension built with it finds it by its
    soname.

    The wheel puts it where the loader doesn't look, and an rpath would point into pip's build
    folder, which is gone by now.
    """
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return
    path = next((file.locate() for file in files if file.name == LIBRARY), None)
    if path is None:
        raise NativeError(f"the installed {WHEEL} has no {LIBRARY}", REMEDY)
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeError(f"oneDNN does not load ({error})", REMEDY) from error


@contextmanager
def _short_spins():
    """Inside, OpenMP's library is loaded with waits of our own length.

    A thread that waits for its team spins 300,000 times before it sleeps; on a busy machine it so
    keeps the very thread that it waits for from the core. FitNet-1's convolutions of one batch took
    757 ms there with that default and 70 with this one. libgomp reads the variable when it is
    loaded: it has no effect where another package loaded libgomp before, and is taken back so that
    no other program inherits it.
    """
    ours = not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    if ours:
        os.environ["GOMP_SPINCOUNT"] = SPINS
    try:
        yield
    finally:
        if ours:
            del os.environ["GOMP_SPINCOUNT"]


def _load():
    """The extension module, or NativeError."""
    if importlib.machinery.PathFinder.find_spec("kernels.cpu._native", __path__) is None:
        raise NativeError(
            "the native extension is not built for this Python (no C++ compiler when it was "
            "installed)",
            "install g++, then lsuv-engine again; pip -v says why",
        )
    with _short_spins():
        _preload()
        try:
            from kernels.cpu import _native
        except ImportError as error:
            remedy = REMEDY if LIBRARY in str(error) else "install lsuv-engine again"
            raise NativeError(f"the native extension does not load ({error})", remedy) from error
    return _native


_native = _load()
# OpenMP's threads do not live on in a forked process, and a kernel there would wait for them for
# ever. One thread needs no others.
os.register_at_fork(after_in_child=lambda: _native.set_threads(1))
