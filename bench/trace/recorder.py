"""What the threads of a launch did, as kernels/emulated/trace.cpp wrote it down, in order.

    with Recorder() as recorder:
        recorder.ops.maxout_forward(...)    # device emulated, whose kernels are recorded
    recorder.launches                       # one for each kernel that ran

Read next: code.py.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.trace.code import Code
from engine.errors import InputError
from kernels import emulated

LOAD, STORE, BARRIER, EXCHANGE, PATH = range(5)  # the kinds of trace.cpp, whose BLOCK is a path's
EVENT = np.dtype([("address", "u8"), ("place", "u4"), ("thread", "u4")])
PLACE = np.dtype([("code", "u8"), ("caller", "u4"), ("kind", "u2"), ("bytes", "u2")])
WARP = 32  # threads
NOBODY = 0xFFFFFFFF  # called a place's function
STRAY = b"outside of every array"
SIZES = {"uint8": 1, "bfloat16": 2, "int": 4, "float": 4, "double": 8, "int64": 8, "Fault": 8}


@dataclass(frozen=True)
class Array:
    """A kernel's argument, or a variable in shared memory: where it lies and what it holds."""

    name: str
    type: str
    start: int
    nbytes: int
    shared: bool = False

    @property
    def itemsize(self) -> int:
        """Bytes of an element; of a struct's array, one."""
        return SIZES.get(self.type, 1)


@dataclass(frozen=True)
class Launch:
    """events: (n,) EVENT in the order in which they were done. places: (m,) PLACE."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    numbers: dict[str, float]
    arrays: list[Array]
    events: np.ndarray
    places: np.ndarray
    code: Code


class Recorder:
    """precision: fp32 | bf16. edit: makes another text of a kernel file's, to run in its place."""

    def __init__(self, precision: str = "fp32", edit: Callable[[str], str] | None = None):
        self.launches: list[Launch] = []
        self.precision, self.edit, self.codes = precision, edit, {}

    def __enter__(self) -> "Recorder":
        self.double: Any = emulated.double()
        from kernels.cuda import orthonormal
        from kernels.emulated.ops import EmulatedOps

        self.host, orthonormal.HOST = orthonormal.HOST, 0  # small matrices by the kernels too

        self.double.tracer = self
        self.ops = EmulatedOps(self.precision)  # its launcher holds no kernel yet
        if self.edit:
            edit, source = self.edit, self.ops.launch.source
            self.ops.launch.source = lambda file: edit(source(file))
        return self

    def __exit__(self, *_) -> None:
        from kernels.cuda import orthonormal

        self.double.tracer, orthonormal.HOST = None, self.host

    def __call__(self, function, launch, facts: list) -> bytes | None:
        """In place of Function.run of the double."""
        library, code = function.module.library, function.module.code
        spans = [(fact[0], fact[0] + fact[1]) for fact in facts if isinstance(fact, tuple)]
        library.trace_begin((ctypes.c_uint64 * (2 * len(spans)))(*sum(spans, ())), len(spans))
        problem = function.run(launch, facts)
        events, places = ctypes.c_void_p(), ctypes.c_void_p()
        many, several = ctypes.c_size_t(), ctypes.c_size_t()
        library.trace_end.restype = ctypes.c_bool
        if not library.trace_end(*map(ctypes.byref, (events, many, places, several))):
            raise InputError(
                f"{function.name}: more than {many.value} events; give a smaller --shape"
            )
        if problem and not problem.endswith(STRAY):
            return problem
        code = self.codes.setdefault(library._name, Code(library._name, code))
        done, at = _in_order_of_code(_table(events, many, EVENT), _table(places, several, PLACE))
        named = code.parameters(function.name)
        pairs = list(zip(named, facts, strict=True))
        real = "bfloat16" if "-DREAL=bfloat16" in function.module.options else "float"
        arrays = [
            Array(name, real if kind == "real" else kind, fact[0], fact[1])
            for (kind, name), fact in pairs
            if isinstance(fact, tuple)
        ]
        for name, kind, offset, nbytes in code.shared(function.name):
            kind = real if kind == "real" else kind
            arrays.append(Array(name, kind, launch.shared + offset, nbytes, True))
        if problem:
            return problem + _last_access(done, at, code, arrays).encode()
        self.launches.append(
            Launch(
                function.name,
                *((d.x, d.y, d.z) for d in (launch.grid, launch.block)),
                {name: float(fact) for (_, name), fact in pairs if not isinstance(fact, tuple)},
                arrays,
                done,
                at,
                code,
            )
        )
        return None


def _table(at: ctypes.c_void_p, count: ctypes.c_size_t, dtype: np.dtype) -> np.ndarray:
    held = ctypes.string_at(at, count.value * dtype.itemsize) if count.value else b""
    return np.frombuffer(held, dtype)


def _in_order_of_code(events: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same with the places numbered by where they stand in the code, those that called them
    first: not by which thread came there first, which is another in every run."""
    ways: list[tuple[int, ...]] = []
    for row in places:  # a caller came before
        before = () if row["caller"] == NOBODY else ways[row["caller"]]
        ways.append((*before, int(row["code"])))
    order = sorted(range(len(ways)), key=ways.__getitem__)
    number = np.full(len(ways) + 1, NOBODY, np.uint32)
    number[order] = np.arange(len(ways))
    places, events = places[order], events.copy()
    events["place"] = number[events["place"]]
    places["caller"] = number[np.minimum(places["caller"], len(ways))]
    return events, places


def _last_access(events: np.ndarray, places: np.ndarray, code: Code, arrays: list[Array]) -> str:
    """Of a thread that went no further: which array it lies near, and where it stands."""
    address, place, _ = events[places["kind"][events["place"]] <= STORE][-1].item()
    gaps = [(max(a.start - address, address - a.start - a.nbytes + 1), a) for a in arrays]
    array = min(gaps, key=lambda pair: pair[0])[1]
    element = (address - array.start) // array.itemsize
    frames = code.frames([int(places[place]["code"])])[0]
    file, line, _ = next((frame for frame in frames if frame[0] == code.file), frames[-1])
    held = array.nbytes // array.itemsize
    return f", as {array.name}[{element}] of {held} elements, at {file}:{line}"
