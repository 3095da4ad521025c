"""Device cuda: whether it can be used on this machine, and if not, what is missing.

Nothing of CuPy is imported before `missing` is asked, and `kernels.cuda.ops` only after it said
None.

Read next: tests/cuda/README.md, how it is tested without a GPU.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from importlib.util import find_spec

OLDEST = 7, 5  # compute capability: what CUDA 13 compiles for
INSTALL = "pip install -e '.[cuda13]' (or '.[cuda12]' for a driver before version 580)"


@functools.cache
def missing() -> str | None:
    """What device cuda lacks on this machine, in one line with the remedy; None if nothing."""
    absent = [
        name
        for name, module in (("CuPy", "cupy"), ("the cuDNN frontend", "cudnn"))
        if find_spec(module) is None
    ]
    driver = has_driver()
    if not driver:
        absent.insert(0, "the NVIDIA driver (libcuda.so.1)")
    if absent:
        remedies = [INSTALL] * (len(absent) > (not driver))
        remedies += ["a driver comes with the GPU's system"] * (not driver)
        return f"missing: {', '.join(absent)}; {', and '.join(remedies)}"
    return _gpu() or _libraries()


def has_driver() -> bool:
    """Whether a driver of an NVIDIA GPU is installed, whatever else is not."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _gpu() -> str | None:
    """What is wrong with the GPU or its driver, asked through CuPy."""
    try:
        runtime = importlib.import_module("cupy").cuda.runtime
    except Exception as error:  # it makes a folder, besides loading libraries
        return (
            f"CuPy does not load ({_line(error)}); {INSTALL}, and CUPY_CACHE_DIR names a "
            "folder that it may write to"
        )
    try:
        runtime.getDeviceCount()  # raises where there is none
        facts = runtime.getDeviceProperties(0)
    except runtime.CUDARuntimeError as error:
        if "InsufficientDriver" in str(error):
            return (
                f"the driver is too old for this CuPy ({_line(error)}); update it, or "
                "pip install -e '.[cuda12]'"
            )
        return f"the driver gives no GPU ({_line(error)}); look at nvidia-smi, CUDA_VISIBLE_DEVICES"
    capability = facts["major"], facts["minor"]
    if capability < OLDEST:
        return (
            f"the GPU, {facts['name'].decode()}, is of compute capability {capability[0]}."
            f"{capability[1]}, and {OLDEST[0]}.{OLDEST[1]} is the oldest; use device cpu"
        )
    return None


def _libraries() -> str | None:
    """Load what the frontend needs and does not find by itself, then the frontend and cuDNN."""
    try:
        load = importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib
        for library in ("cudart", "cublasLt", "nvrtc"):
            load(library)
        importlib.import_module("cudnn").backend_version()
    except Exception as error:  # of any library: each has errors of its own
        return (
            f"cuDNN or its frontend does not load ({_line(error)}); {INSTALL} installs what "
            "fits together"
        )
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
