"""Device cpu: loads the extension that setup.py built, and before it oneDNN, if that is there.

Importing this package either succeeds completely or raises NativeError with the reason in one line.
Read next: kernels/cpu/ops.py.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.machinery
import importlib.metadata
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path

WHEEL = "onednn-cpu-gomp"
LIBRARY = "libdnnl.so.3"
REMEDY = f"pip install {WHEEL}==2023.2.0"
# What Linux calls the instructions that these processors have beside SSE, best first.
PROCESSORS = {
    "x86_64_v4": {
        "avx2",
        "fma",
        "bmi2",
        *(f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl")),
    },
    "x86_64_v3": {"avx2", "fma", "bmi2"},
    "x86_64_v2": {"sse4_2", "popcnt"},
}
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


def _name(folders: list[str], cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The extension's module; of a wheel for several processors (setup.py) the best that runs."""
    find = importlib.machinery.PathFinder.find_spec
    if find("kernels.cpu._native", folders):
        return "kernels.cpu._native"
    built = [name for name in PROCESSORS if any((Path(f) / name).is_dir() for f in folders)]
    if not built:
        raise NativeError(
            "the native extension is not built for this Python (no C++ compiler when it was "
            "installed)",
            "install g++, then lsuv-engine again; pip -v says why",
        )
    flags = re.search(r"^flags\s*:(.*)", cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
    has = set(flags[1].split()) if flags else set()
    for name in built:
        if has >= PROCESSORS[name]:
            return f"kernels.cpu.{name}._native"
    lacks = " and no ".join(sorted(PROCESSORS[built[-1]] - has))
    raise NativeError(
        f"this processor has no {lacks}, which the installed wheel was built for",
        "install lsuv-engine from its source, with g++",
    )


def _load():
    """The extension module, or NativeError."""
    name = _name(list(__path__))
    with _short_spins():
        _preload()
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            remedy = REMEDY if LIBRARY in str(error) else "install lsuv-engine again"
            raise NativeError(f"the native extension does not load ({error})", remedy) from error
    sys.modules[f"{__name__}._native"] = module
    return module


_native = _load()
# OpenMP's threads do not live on in a forked process, and a kernel there would wait for them for
# ever. One thread needs no others.
os.register_at_fork(after_in_child=lambda: _native.set_threads(1))
