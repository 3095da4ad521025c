"""Device cuda: whether it can be used on this machine, and if not, what is missing.

Nothing of CuPy is imported before `missing` is asked, and `kernels.cuda.ops` only after it said
None.

Read next: ops.py.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from importlib.util import find_spec

INSTALL = "pip install -e '.[cuda13]' (or '.[cuda12]' for a driver before version 580)"


@functools.cache
def missing() -> str | None:
    """What device cuda lacks on this machine, in one line with the remedy; None if nothing."""
    absent = [name for name, module in (("CuPy", "cupy"), ("the cuDNN frontend", "cudnn"))
              if find_spec(module) is None]
    driver = _driver(has_cupy="CuPy" not in absent)
    if driver:
        absent.insert(0, driver)
    if not absent and (fault := _libraries()):
        return f"{fault}; {INSTALL} installs what fits together"
    if not absent:
        return None
    remedies = [INSTALL] * any(name != driver for name in absent)
    remedies += ["a driver comes with the GPU's system"] * bool(driver)
    return f"missing: {', '.join(absent)}; {', and '.join(remedies)}"


def has_driver() -> bool:
    """Whether a driver of an NVIDIA GPU is installed, whatever else is not."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _driver(has_cupy: bool) -> str | None:
    if not has_cupy:
        return None if has_driver() else "the NVIDIA driver (libcuda.so.1)"
    try:
        runtime = importlib.import_module("cupy").cuda.runtime
    except ImportError as error:
        return f"a CuPy that can be imported ({_line(error)})"
    try:
        return None if runtime.getDeviceCount() else "a GPU (the driver sees none)"
    except runtime.CUDARuntimeError as error:
        return f"an NVIDIA driver and GPU ({_line(error)})"


def _libraries() -> str | None:
    """Load what the frontend needs and does not find by itself, then the frontend and cuDNN."""
    try:
        load = importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib
        for library in ("cudart", "cublasLt", "nvrtc"):
            load(library)
        importlib.import_module("cudnn").backend_version()
    except Exception as error:  # of any library: each has errors of its own
        return f"cuDNN or its frontend does not load ({_line(error)})"
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
