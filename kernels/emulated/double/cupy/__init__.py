"""A test double of CuPy: the few names that kernels/cuda/ uses, on the CPU, and nothing else.

Put before the real one on Python's path, it lets device cuda run on a machine without a GPU: its
launch sizes, the order of its arguments, its buffers and its capture are the real ones, and so are
the kernels, compiled by g++ behind emulator.h. An array refuses what would make a GPU wait without
saying so (a comparison, a float of an element, NumPy's functions), and what CuPy can't do.

Read next: _double.py and _memory.py.
"""

from __future__ import annotations

import math

import numpy as np
from cupy import _double
from cupy._kernels import RawModule
from cupy._memory import MemoryPool

__version__ = "14.2.0 (double)"
__all__ = ["RawModule", "cuda", "empty", "get_default_memory_pool", "ndarray", "zeros"]


class Pointer:
    def __init__(self, address: int):
        self.ptr = address


class Flags:
    def __init__(self, array: np.ndarray):
        self.c_contiguous = array.flags.c_contiguous


class ndarray:
    """An array of the device: what it can do without the host is all that it can do."""

    __array_priority__ = 100  # a NumPy scalar asks us first
    __array_ufunc__ = None

    def __init__(self, host: np.ndarray, base: ndarray | None = None):
        self._host, self.base = host, base

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    ndim = property(lambda self: self._host.ndim)
    flags = property(lambda self: Flags(self._host))
    data = property(lambda self: Pointer(self._host.ctypes.data))

    def __len__(self) -> int:
        return len(self._host)

    def __getitem__(self, key) -> ndarray:
        parts = key if isinstance(key, tuple) else (key,)
        if not all(
            part is Ellipsis or isinstance(part, (int, slice, np.integer)) for part in parts
        ):
            raise TypeError(f"an index of {key!r}")
        view = self._host[key]
        # NumPy gives a scalar where CuPy gives an array of no dimensions.
        view = view if isinstance(view, np.ndarray) else self._host[(*parts, Ellipsis)]
        return self._view(view)

    def _view(self, host: np.ndarray) -> ndarray:
        return ndarray(host, self if self.base is None else self.base)

    def __setitem__(self, key, value) -> None:
        target = self[key]._host
        if isinstance(value, ndarray):
            source = value._host
            _double.submit(lambda: target.__setitem__(..., source))
        elif isinstance(value, (int, float, np.number)):
            _double.submit(lambda: target.__setitem__(..., value))
        else:
            raise TypeError(f"a value of {type(value)}; hand it over by asarray")

    def __imul__(self, factor) -> ndarray:
        if not isinstance(factor, (int, float)):
            raise TypeError(f"a factor of {type(factor)}")
        _double.submit(lambda: np.multiply(self._host, factor, out=self._host, casting="same_kind"))
        return self

    def reshape(self, *shape) -> ndarray:
        view = self._host.reshape(*shape)
        if view.size and not np.shares_memory(view, self._host):
            raise _double.DoubleError("reshape: it would copy")
        return self._view(view)

    def view(self, dtype) -> ndarray:
        return self._view(self._host.view(dtype))

    def fill(self, value) -> None:
        _double.submit(lambda: self._host.fill(value))

    def copy(self) -> ndarray:
        new = empty(self.shape, self.dtype)
        new[...] = self
        return new

    def get(self, stream=None) -> np.ndarray:
        _double.wait("a copy to the host")
        return self._host.copy()

    def set(self, host: np.ndarray, stream=None) -> None:
        _double.wait("a copy from the host")
        if host.shape != self.shape or host.dtype != self.dtype or not host.flags.c_contiguous:
            raise ValueError(f"set: {host.dtype} {host.shape} into {self.dtype} {self.shape}")
        self._host[...] = host

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __bool__(self):
        raise TypeError("the truth of an array of the device")

    __eq__ = __hash__ = None
    __float__ = __int__ = __iter__ = __bool__


def empty(shape, dtype) -> ndarray:
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    return ndarray(_double.allocate(nbytes).view(dtype).reshape(shape))


def zeros(shape, dtype) -> ndarray:
    array = empty(shape, dtype)
    array._host.view(np.uint8 if array._host.size else array.dtype)[...] = 0
    return array


def get_default_memory_pool() -> MemoryPool:
    return MemoryPool()


from cupy import cuda  # noqa: E402  (it needs the names above)
