"""Kernels of the .cu files as functions: compiled when they are first wanted, kept for good.

CuPy compiles by NVRTC and keeps the binaries in ~/.cupy/kernel_cache.

Read next: source.py.
"""

from __future__ import annotations

from collections.abc import Callable

import cupy
import numpy as np

from kernels.cuda.source import options, source

THREADS = 256  # of a block, as in common.cuh
MOST_BLOCKS = (1 << 31) - 1  # of a grid; loops with a grid's stride do the rest


def blocks_for(threads: int) -> int:
    """How many blocks have so many threads, at least one."""
    return min(max(-(-threads // THREADS), 1), MOST_BLOCKS)


class Launcher:
    """launch(file, kernel, dtype of activations, blocks, arguments...)

    blocks: a number, or up to three of them. An argument is an array, an int (int64 in the kernel)
    or a float (double). source: what gives the text of a file; bench.trace puts another there."""

    def __init__(self) -> None:
        self.source = source
        self.modules: dict[tuple, cupy.RawModule] = {}
        self.functions: dict[tuple, Callable] = {}

    def __call__(self, file: str, kernel: str, dtype, blocks, *arguments) -> None:
        key = file, kernel, np.dtype(dtype).name
        if key not in self.functions:
            self.functions[key] = self.module(file, key[2]).get_function(kernel)
        grid = blocks if isinstance(blocks, tuple) else (blocks,)
        self.functions[key](grid, (THREADS,), tuple(map(_argument, arguments)))

    def module(self, file: str, real: str) -> cupy.RawModule:
        """The module of a file for activations of dtype `real`."""
        if (file, real) not in self.modules:
            self.modules[file, real] = cupy.RawModule(
                code=self.source(file), options=options(real), backend="nvrtc"
            )
        return self.modules[file, real]


def _argument(value):
    if isinstance(value, cupy.ndarray):
        return value
    if isinstance(value, (int, np.integer)):
        return np.int64(value)
    return np.float64(value)
