"""The kernels of tests/cuda/planted.cu, a defect each, run by the emulator.

Read next: tests/cuda/test_emulator.py.
"""

import numpy as np

from helpers.programs import TESTS
from kernels.cuda.source import options, pasted

SIZE = 300


def planted(real="float32"):
    """The module of planted.cu."""
    import cupy

    code = pasted(TESTS / "cuda" / "planted.cu")
    return cupy.RawModule(code=code, options=options(real), backend="nvrtc")


def run(name, size=SIZE, blocks=2, arguments=()):
    """y after kernel `name` on x = 0, 1, 2, ..."""
    import cupy

    x, y = cupy.empty((size,), np.float32), cupy.empty((size,), np.float32)
    x.set(np.arange(size, dtype=np.float32))
    planted().get_function(name)((blocks,), (256,), (x, y, np.int64(size), *arguments))
    return y.get()
