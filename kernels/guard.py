"""Guard mode: every array of a net between red zones, and every operation watched. `--guard`.

    ops = kernels.ops_for("cpu", guard=True)

Allocators hide a write beyond an array's end: it lands in a neighbour. Here every array lies alone
between two zones of known bytes. Before an operation its results are filled with a NaN that no
arithmetic makes; after it the device is waited for, the zones must be whole and every result
written. The first operation at fault is named. It works on every device; a step takes many times
as long, and no CUDA graph is captured. A device's own workspaces have no zones.

Read next: contract.py.
"""

from __future__ import annotations

import functools
import inspect
import math
import weakref

import numpy as np

from kernels.contract import written
from kernels.reference import NumpyOps

ZONE = 256                          # bytes before and behind an array
MARK = 0xA5                         # what they hold
POISON = 0xFF                       # bytes of an unwritten result: a NaN with every bit set


class GuardError(RuntimeError):
    """An operation wrote where it must not, or left a result unwritten: a defect of the device."""


class Guarded:
    """Stands between a net and the operations of its device."""

    def __init__(self, ops):
        self.ops = ops
        self.why = f"{ops.why}; guarded"
        self._rooms: list[tuple] = []  # memory, where in it an array's first zone is, its bytes

    def __getattr__(self, name):
        found = getattr(self.ops, name)
        if not callable(found) or name in ("tohost", "plans", "prefer"):
            return found
        return functools.partial(self._watched, name, found)

    def empty(self, shape, dtype=np.float32):
        """An array of poison between two zones."""
        shape = (shape,) if np.ndim(shape) == 0 else tuple(shape)
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        room = self.ops.empty((ZONE + nbytes + ZONE,), np.uint8)
        room[...] = MARK
        room[ZONE:ZONE + nbytes] = POISON
        # Views keep the flat array that owns the memory, which may begin before `room`.
        owner = room if room.base is None else room.base
        self._rooms.append((weakref.ref(owner), _address(room) - _address(owner), nbytes))
        return room[ZONE:ZONE + nbytes].view(dtype).reshape(shape)

    def zeros(self, shape, dtype=np.float32):
        array = self.empty(shape, dtype)
        array[...] = 0
        return array

    def asarray(self, host):
        host = np.asarray(host)
        array = self.empty(host.shape, host.dtype)
        array[...] = self.ops.asarray(host)
        return array

    constant = asarray

    def synchronize(self) -> None:
        self.ops.synchronize()
        self._check("work that was waited for")

    def captured(self, step):
        return step

    def _watched(self, name: str, operation, *values, **named):
        given = inspect.signature(getattr(NumpyOps, name)).bind(None, *values, **named).arguments
        arrays = {key: value for key, value in given.items() if hasattr(value, "nbytes")}
        results = {key: arrays[key] for key in written(name)
                   if not any(_address(arrays[key]) == _address(other)
                              for other_key, other in arrays.items() if other_key != key)}
        for array in results.values():
            if array.size:
                array.reshape(-1).view(np.uint8)[...] = POISON
        returned = operation(*values, **named)
        self.ops.synchronize()
        self._check(name)
        for key, array in results.items():
            self._written(name, key, array)
        return returned

    def _check(self, name: str) -> None:
        """GuardError if a zone has been written to."""
        self._rooms = [room for room in self._rooms if room[0]() is not None]
        for reference, start, nbytes in self._rooms:
            owner = reference()
            for at, side in ((start, "before"), (start + ZONE + nbytes, "behind")):
                if (self.ops.tohost(owner[at:at + ZONE]) != MARK).any():
                    raise GuardError(f"{name} wrote {side} an array of {nbytes} bytes on device "
                                     f"{self.ops.name}; its kernel is at fault")

    def _written(self, name: str, key: str, array) -> None:
        """GuardError if an element still is poison."""
        host = self.ops.tohost(array)
        if host.dtype.kind not in "fV" or not host.size:  # V: bfloat16. Integers may be all ones.
            return
        bits = host.reshape(-1).view(f"u{host.itemsize}")
        unwritten = np.flatnonzero(bits == np.iinfo(bits.dtype).max)
        if len(unwritten):
            place = tuple(map(int, np.unravel_index(unwritten[0], host.shape)))
            raise GuardError(f"{name} left {key}{list(place)} and {len(unwritten) - 1} other "
                             f"elements unwritten on device {self.ops.name}; its kernel is at "
                             "fault")


def _address(array) -> int:
    data = getattr(array.data, "ptr", None)
    return array.ctypes.data if data is None else data
