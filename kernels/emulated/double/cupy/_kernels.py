"""Kernels of the pretended GPU: the .cu text compiled behind emulator.h, and called.

Read next: tests/cuda/README.md.
"""

from __future__ import annotations

import ctypes
import re

import numpy as np
from cupy import _double

from kernels.emulated.compiler import build


class Dim3(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint) for name in "xyz"]


class Launch(ctypes.Structure):
    _fields_ = [
        ("grid", Dim3),
        ("block", Dim3),
        ("order", ctypes.c_uint64),
        ("types", ctypes.c_char_p),
        ("arguments", ctypes.POINTER(ctypes.c_uint64)),
        ("shared", ctypes.c_void_p),
        ("shared_end", ctypes.c_void_p),
    ]


class RawModule:
    def __init__(self, *, code, options, backend):
        if backend != "nvrtc":
            raise TypeError(f"backend {backend}")
        self.code, self.options = code, options
        self.library = ctypes.CDLL(str(build(code, options, traced=_double.tracer is not None)))

    def get_function(self, name: str) -> Function:
        return Function(self, name)


class Function:
    def __init__(self, module: RawModule, name: str):
        self.module, self.name = module, name
        self.entry = getattr(module.library, f"launch_{name}")
        self.entry.restype = ctypes.c_char_p

    def __call__(self, grid, block, arguments) -> None:
        from cupy import ndarray

        sizes = [(*size, 1, 1)[:3] for size in (grid, block)]
        for size, most in zip(sizes, ((2**31 - 1, 65535, 65535), (1024, 1024, 64)), strict=True):
            if not all(1 <= n <= limit for n, limit in zip(size, most, strict=True)):
                raise _double.DoubleError(f"{self.name}: a grid or block of {size}")
        types, values, pointers = "", [], []
        for value in arguments:
            if isinstance(value, ndarray):
                types, bits = types + "p", value.data.ptr
                if value.size:
                    pointers.append(bits)
            elif type(value) is np.int64:
                types, bits = types + "i", int(value.view(np.uint64))
            elif type(value) is np.float64:
                types, bits = types + "d", int(value.view(np.uint64))
            else:
                raise TypeError(f"{self.name}: an argument of {type(value)}")
            values.append(bits)

        # Of an array its facts: a capture keeps no array alive.
        facts = [
            (v.data.ptr, v.nbytes, v.shape) if isinstance(v, ndarray) else v for v in arguments
        ]

        def work() -> None:
            _double.launches += 1
            for pointer in pointers:
                _double.owner(pointer)
            launch = Launch(
                Dim3(*sizes[0]),
                Dim3(*sizes[1]),
                _double.launches,
                types.encode(),
                (ctypes.c_uint64 * len(values))(*values),
            )
            problem = (_double.tracer or Function.run)(self, launch, facts)
            if problem:
                words = problem.decode()
                if re.fullmatch("[pid?]*", words):
                    words = f"wants arguments {words}, and was given {types}"
                raise _double.DoubleError(f"{self.name}: {words}")
            for pointer in pointers:
                _double.check_zones(pointer, self.name)

        _double.submit(work)

    def run(self, launch: Launch, facts: list) -> bytes | None:
        """What went wrong, if anything. facts: a number, or an array's address, bytes, shape."""
        return self.entry(ctypes.byref(launch))
