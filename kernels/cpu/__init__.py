"""Device cpu: loads oneDNN from its wheel, then the extension that setup.py built against it.

Importing this package either succeeds completely or raises NativeError with the reason in one line.
Read next: kernels/cpu/ops.py.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.metadata
import platform
import sys

WHEEL = "onednn-cpu-gomp"
LIBRARY = "libdnnl.so.3"


class NativeError(ImportError):
    """Device cpu can't be used here; the message is the reason, without a full stop."""


def _preload() -> None:
    """Loads oneDNN, so that the extension finds it by its soname.

    The wheel puts it where the loader doesn't look, and an rpath would point into pip's build
    folder, which is gone by now.
    """
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        raise NativeError(
            f"oneDNN is not installed (pip install {WHEEL}==2023.2.0)"
        ) from None
    path = next((file.locate() for file in files if file.name == LIBRARY), None)
    if path is None:
        raise NativeError(f"the installed {WHEEL} has no {LIBRARY}; version 2023.2.0 has")
    try:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise NativeError(f"oneDNN does not load ({error})") from error


def _load():
    """The extension module, or NativeError."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise NativeError(
            "the native extension is for Linux x86-64, "
            f"and this is {sys.platform} {platform.machine()}"
        )
    if importlib.machinery.PathFinder.find_spec("kernels.cpu._native", __path__) is None:
        raise NativeError(
            "the native extension is not built (no C++ compiler when it was installed)"
        )
    _preload()
    try:
        from kernels.cpu import _native
    except ImportError as error:
        raise NativeError(f"the native extension does not load ({error})") from error
    return _native


_native = _load()
