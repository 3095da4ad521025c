"""What device cuda asks of the arrays of an operation, before a kernel may touch their memory.

A kernel is handed addresses. So every array must be one of the device, contiguous, of the dtype
that the contract names, and a result must share no memory with another argument; where each
element of it depends on the same element of the operands (ELEMENTWISE), it may be an operand's
whole array.

Read next: ops.py.
"""

from __future__ import annotations

import functools
import inspect

import cupy
import numpy as np
from ml_dtypes import bfloat16

from kernels.contract import ELEMENTWISE, changed

REAL = "real"                       # float32 or bfloat16: all of a call alike
KINDS = dict.fromkeys(("x", "y", "dx", "dy", "dW", "db", "g", "a", "scores", "dscores"), REAL)
KINDS |= dict.fromkeys(("which", "images"), np.uint8)
KINDS |= dict.fromkeys(("labels", "order"), np.int32)
KINDS |= dict.fromkeys(("clock", "own", "rates", "segments"), np.float64)  # all others: float32


def checked(**kinds):
    """Check the arrays of an operation by their names. kinds: what differs from KINDS."""
    def wrap(operation):
        name, signature = operation.__name__, inspect.signature(operation)
        wanted = {key: (KINDS | kinds).get(key, np.float32) for key in signature.parameters}
        written = changed(name)

        @functools.wraps(operation)
        def check(self, *values, **named):
            given = signature.bind(self, *values, **named).arguments
            arrays = {key: value for key, value in given.items()
                      if isinstance(value, (cupy.ndarray, np.ndarray))}
            real = None
            for key, array in arrays.items():
                real = _check(name, key, array, wanted[key], real)
            for key in written & arrays.keys():
                for other, array in arrays.items():
                    if other != key:
                        _apart(name, key, arrays[key], other, array)
            self.stream.use()
            return operation(self, *values, **named)

        return check
    return wrap


def _check(name, key, array, wanted, real):
    """-> the dtype of the call's activations, where it is known by now."""
    if not isinstance(array, cupy.ndarray):
        raise ValueError(f"{name}: {key} is an array of the host; hand it over by ops.asarray")
    if wanted is REAL:
        fits = array.dtype in ((np.float32, bfloat16) if real is None else (real,))
        words, real = real or "float32 or bfloat16", real or array.dtype
    else:
        fits, words = array.dtype == wanted, np.dtype(wanted)
    if not fits:
        raise ValueError(f"{name}: {key} is {array.dtype}, but it must be {words}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name}: {key} {array.shape} is not contiguous; copy it first")
    if array.data.ptr % array.itemsize:
        raise ValueError(f"{name}: {key} is not aligned to its elements of {array.itemsize} bytes")
    return real


def _apart(name, key, result, other, array) -> None:
    start, begin = result.data.ptr, array.data.ptr
    if start + result.nbytes <= begin or begin + array.nbytes <= start:
        return
    whole = start == begin and result.nbytes == array.nbytes
    if result.nbytes and array.nbytes and not (whole and name in ELEMENTWISE):
        raise ValueError(f"{name}: {key} and {other} share memory; give {key} a buffer of its own")
