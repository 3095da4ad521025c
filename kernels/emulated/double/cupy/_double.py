"""The memory and the queue of the pretended GPU, behind every name of this package.

* Device memory is host memory, each array an allocation of its own at a multiple of 256 bytes, with
  ZONE bytes before and behind it that nobody may write. New memory holds 0xFF bytes: NaN.
* Work runs when it is submitted; while a stream captures, it is recorded instead, and whatever a
  capture forbids (allocating, waiting, copying to and from the host) is an error.

Read next: _kernels.py.
"""

from __future__ import annotations

import bisect
import ctypes
import os
import threading
import weakref
from collections.abc import Callable

import numpy as np

ALIGNMENT, ZONE, MARK = 256, 256, 0xA5
# With a sanitizer, which has red zones of its own, an allocation is as long as its array.
EXACT = bool(os.environ.get("LSUV_DOUBLE_SANITIZE"))
CAPACITY = 24 << 30

_libc = ctypes.CDLL(None)
_libc.free.argtypes = [ctypes.c_void_p]
_starts: list[int] = []  # of the live allocations, sorted
_sizes: dict[int, int] = {}
capacity, used, launches = CAPACITY, 0, 0
# bench.trace's, called in place of Function.run; the kernels compiled while it is set are traced.
tracer: Callable | None = None
now = 0.0  # seconds of the pretended GPU, which events read
recording: list | None = None  # the work of the capture that is going on
recorded = 0  # the stream that captures
current: dict[int, int] = {}  # by thread: the stream that it uses


class DoubleError(Exception):
    """What a GPU would answer with undefined behaviour."""


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


def allocate(nbytes: int) -> np.ndarray:
    """(nbytes,) uint8, alive as long as it or a view of it is."""
    global used
    if recording is not None:
        raise DoubleError("memory is allocated during stream capture")
    if used + nbytes > capacity:
        raise OutOfMemoryError(f"{nbytes} bytes, and {capacity - used} are free")
    zone = 0 if EXACT else ZONE
    base = ctypes.c_void_p()
    if _libc.posix_memalign(ctypes.byref(base), ALIGNMENT, max(nbytes, 1) + 2 * zone):
        raise MemoryError(f"{nbytes} bytes")
    room = (ctypes.c_uint8 * (nbytes + 2 * zone)).from_address(base.value)
    whole = np.frombuffer(room, np.uint8)
    whole[:] = MARK
    whole[zone : zone + nbytes] = 0xFF
    start = base.value + zone
    bisect.insort(_starts, start)
    _sizes[start] = nbytes
    used += nbytes
    weakref.finalize(room, _release, base.value, start)
    return whole[zone : zone + nbytes]


def _release(base: int, start: int) -> None:
    global used
    _starts.remove(start)
    used -= _sizes.pop(start)
    _libc.free(base)


def memory(pointer: int, nbytes: int) -> np.ndarray:
    """The bytes at an address of the device. DoubleError unless they lie in one live allocation."""
    start = owner(pointer)
    if nbytes < 0 or pointer + nbytes > start + _sizes[start]:
        raise DoubleError(
            f"{nbytes} bytes at {pointer - start} of an allocation of {_sizes[start]}"
        )
    return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(pointer), np.uint8)


def owner(pointer: int) -> int:
    """The start of the allocation that an address lies in."""
    place = bisect.bisect_right(_starts, pointer) - 1
    if place < 0 or pointer > _starts[place] + _sizes[_starts[place]]:
        raise DoubleError(f"address {pointer:#x} lies in no live allocation")
    return _starts[place]


def check_zones(pointer: int, what: str) -> None:
    """DoubleError if the red zones around the array at this address have been written to."""
    if EXACT:
        return
    start = owner(pointer)
    for at in (start - ZONE, start + _sizes[start]):
        zone = np.frombuffer((ctypes.c_uint8 * ZONE).from_address(at), np.uint8)
        if (zone != MARK).any():
            side = "before" if at < start else "behind"
            raise DoubleError(f"{what} wrote {side} an array of {_sizes[start]} bytes")


def capturing() -> bool:
    return recording is not None


def submit(work, stream: int | None = None) -> None:
    """Run `work()` now, or when the graph that is being captured is launched. It is on the stream
    that the thread uses, unless another is given."""
    if recording is None:
        work()
    elif (stream or current.get(threading.get_ident())) != recorded:
        raise DoubleError("work on another stream than that which captures: it would run at once")
    else:
        recording.append(work)


def wait(what: str) -> None:
    if recording is not None:
        raise DoubleError(f"{what} during stream capture")
