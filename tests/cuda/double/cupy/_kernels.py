"""Kernels of the pretended GPU: the .cu text compiled by g++ behind emulator.h, and called.

Libraries are kept in build/emulator/ under a hash of everything that goes into them.

Read next: ../../emulator/emulator.h.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
from pathlib import Path

import numpy as np

from cupy import _double

EMULATOR = Path(__file__).resolve().parents[2] / "emulator"
ROOT = EMULATOR.parents[2]
COMPILE = [
    "-std=c++17",
    "-O2",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-function",
    "-Wno-unknown-pragmas",
    "-fno-strict-aliasing",
]  # as nvcc compiles; the kernels read 128 bits of floats
# What the kernels are checked with: LSUV_DOUBLE_SANITIZE=address,undefined.
SANITIZE = os.environ.get("LSUV_DOUBLE_SANITIZE", "")
CHECKED = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
TAIL = """
#line 1 "launch functions"
extern char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));
"""
# CuPy's -ftz=true, on x86-64: a processor flushes float32 and float64 alike.
ENTRY = """
extern "C" __attribute__((visibility("default")))
const char* launch_{0}(emulator::Launch* given) {{
    given->shared = reinterpret_cast<unsigned char*>(__start_shared_memory);
    given->shared_end = reinterpret_cast<unsigned char*>(__stop_shared_memory);
#ifdef __x86_64__
    const unsigned before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before | 0x8040);  // subnormal numbers are 0, as results and as operands
#endif
    const char* problem = emulator::launch(*given, {0});
#ifdef __x86_64__
    __builtin_ia32_ldmxcsr(before);
#endif
    return problem;
}}
"""


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


class CompileException(Exception):
    """cupy.cuda.compiler.CompileException."""


def build(code: str, options: tuple[str, ...]) -> Path:
    """The library of this text; compiled unless it is there already."""
    names = re.findall(r"^KERNEL (\w+)\(", code, re.MULTILINE)
    text = code + TAIL + "".join(ENTRY.format(name) for name in names)
    flags = [*COMPILE, *(CHECKED if SANITIZE else [])]
    flags += [option for option in options if not option.startswith("--std")]
    emulator = [(EMULATOR / name).read_text() for name in ("emulator.h", "emulator.cpp")]
    key = hashlib.sha256("\0".join([text, *flags, *emulator]).encode()).hexdigest()[:24]
    folder = ROOT / "build" / "emulator"
    library = folder / f"{key}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / f"{key}-{os.getpid()}"
        own.with_suffix(".cpp").write_text(text)
        command = [
            os.environ.get("CXX", "g++"),
            *flags,
            "-shared",
            "-include",
            str(EMULATOR / "emulator.h"),
            "-o",
            str(own.with_suffix(".so")),
            str(own.with_suffix(".cpp")),
            str(EMULATOR / "emulator.cpp"),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise CompileException(done.stderr[-4000:])
        own.with_suffix(".so").rename(library)
        own.with_suffix(".cpp").unlink()
    return library


class RawModule:
    def __init__(self, *, code, options, backend):
        if backend != "nvrtc":
            raise TypeError(f"backend {backend}")
        self.library = ctypes.CDLL(str(build(code, options)))

    def get_function(self, name: str) -> Function:
        return Function(self.library, name)


class Function:
    def __init__(self, library, name: str):
        self.name, self.entry = name, getattr(library, f"launch_{name}")
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
            problem = self.entry(ctypes.byref(launch))
            if problem:
                words = problem.decode()
                if re.fullmatch("[pid?]*", words):
                    words = f"wants arguments {words}, and was given {types}"
                raise _double.DoubleError(f"{self.name}: {words}")
            for pointer in pointers:
                _double.check_zones(pointer, self.name)

        _double.submit(work)
