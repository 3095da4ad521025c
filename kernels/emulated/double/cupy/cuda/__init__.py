"""Streams, events, graphs and facts of the pretended GPU.

Read next: ../_memory.py.
"""

from __future__ import annotations

import itertools
import threading
from types import SimpleNamespace

from cupy import _double
from cupy_backends.cuda.libs import cusolver

_numbers = itertools.count(1)


class CUDARuntimeError(RuntimeError):
    pass


class Graph:
    def __init__(self, work: list):
        self.work = work

    def launch(self, stream=None) -> None:
        _double.wait("launching a graph")
        for work in self.work:
            work()


class Stream:
    def __init__(self, *, non_blocking: bool):
        if not non_blocking:
            raise TypeError("the default stream's order with other streams can't be captured")
        self.ptr = next(_numbers)

    def use(self) -> Stream:
        _double.current[threading.get_ident()] = self.ptr
        return self

    def synchronize(self) -> None:
        _double.wait("waiting for the stream")

    def begin_capture(self) -> None:
        _double.wait("a second capture")
        _double.recording, _double.recorded = [], self.ptr

    def end_capture(self) -> Graph:
        work, _double.recording = _double.recording, None
        return Graph(work)

    def is_capturing(self) -> bool:
        return _double.capturing()


class Event:
    def __init__(self, *, block=False, disable_timing=False):
        self.time, self.timing = None, not disable_timing

    def record(self, stream=None) -> None:
        _double.wait("an event of this kind")
        self.time = _double.now

    def synchronize(self) -> None:
        _double.wait("waiting for an event")


def set_allocator(allocator: None) -> None:
    """None: every array an allocation of its own, as it is here in any case."""
    if allocator is not None:
        raise TypeError(f"an allocator {allocator}")


def get_elapsed_time(begin: Event, end: Event) -> float:
    """Milliseconds."""
    if not (begin.timing and end.timing):
        raise CUDARuntimeError("cudaErrorInvalidResourceHandle")
    return (end.time - begin.time) * 1e3


def _properties(device: int) -> dict:
    return {
        "name": b"Double of a GPU",
        "major": 9,
        "minor": 0,
        "multiProcessorCount": 132,
        "totalGlobalMem": _double.capacity,
    }


def _memcpy(target: int, source: int, nbytes: int, kind: int, stream: int) -> None:
    """Between two places of the device, in the stream's order."""
    if kind != 3:
        raise ValueError(f"a copy of kind {kind}")
    into, values = _double.memory(target, nbytes), _double.memory(source, nbytes)
    _double.submit(lambda: into.__setitem__(..., values), stream)


# Of the attributes that bench.gpu asks for: {number: value}; kHz, bits, bytes.
ATTRIBUTES = {16: 132, 36: 2_619_000, 37: 5120, 38: 1 << 16}
runtime = SimpleNamespace(
    memcpyDeviceToDevice=3,
    cudaDevAttrMultiProcessorCount=16,
    cudaDevAttrMemoryClockRate=36,
    cudaDevAttrGlobalMemoryBusWidth=37,
    cudaDevAttrL2CacheSize=38,
    deviceGetAttribute=lambda number, device: ATTRIBUTES[number],
    deviceGetPCIBusId=lambda device: "0000:00:00.0",
    memcpyAsync=_memcpy,
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=lambda: 1,
    getDeviceProperties=_properties,
    memGetInfo=lambda: (_double.capacity - _double.used, _double.capacity),
    driverGetVersion=lambda: 13000,
    runtimeGetVersion=lambda: 13000,
)
device = SimpleNamespace(get_cusolver_handle=lambda: cusolver.HANDLE)
memory = SimpleNamespace(OutOfMemoryError=_double.OutOfMemoryError)
