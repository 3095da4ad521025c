"""What device cuda asks of the arrays of an operation, before a kernel may touch their memory.

A kernel is handed addresses. So every array must be one of the device, contiguous, of the dtype
that the contract names, and a result must share no memory with another argument; where each
element of it depends on the same element of the operands (elementwise), it may be an operand's
whole array.

Read next: launch.py.
"""

from __future__ import annotations

import functools
import inspect

import cupy
import numpy as np
from ml_dtypes import bfloat16

from kernels.contract import ACTIVATION, OPERATIONS


def checked(operation):
    """Check the arrays of an operation as the table of operations has them."""
    name, signature = operation.__name__, inspect.signature(operation)
    contract = OPERATIONS[name]

    @functools.wraps(operation)
    def check(self, *values, **named):
        arguments = signature.bind(self, *values, **named).arguments
        arrays = {
            key: value
            for key, value in arguments.items()
            if isinstance(value, (cupy.ndarray, np.ndarray))
        }
        missing = {key for key, value in arguments.items() if value is None}
        for key in missing.difference(contract.optional):
            raise ValueError(f"{name}: {key} is None; it may not be left out")
        real = None
        for key, array in arrays.items():
            real = _check(name, key, array, contract.dtypes.get(key), real)
        for key in contract.changed & arrays.keys():
            for other, array in arrays.items():
                if other != key:
                    _apart(name, key, arrays[key], other, array, contract.elementwise)
        self.stream.use()
        return operation(self, *values, **named)

    return check


def _check(name, key, array, wanted, real):
    """-> the dtype of the call's activations, where it is known by now."""
    if wanted is None:
        raise ValueError(f"{name}: {key} is an array, but it must be a number")
    if not isinstance(array, cupy.ndarray):
        raise ValueError(f"{name}: {key} is an array of the host; hand it over by ops.asarray")
    if wanted is ACTIVATION:
        fits = array.dtype in ((np.float32, bfloat16) if real is None else (real,))
        words, real = real or "float32 or bfloat16", real or array.dtype
    else:
        several = wanted if isinstance(wanted, tuple) else (wanted,)
        fits, words = array.dtype in several, " or ".join(str(np.dtype(one)) for one in several)
    if not fits:
        raise ValueError(f"{name}: {key} is {array.dtype}, but it must be {words}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name}: {key} {array.shape} is not contiguous; copy it first")
    if array.data.ptr % array.itemsize:
        raise ValueError(f"{name}: {key} is not aligned to its elements of {array.itemsize} bytes")
    return real


def _apart(name, key, result, other, array, elementwise: bool) -> None:
    start, begin = result.data.ptr, array.data.ptr
    if start + result.nbytes <= begin or begin + array.nbytes <= start:
        return
    whole = start == begin and result.nbytes == array.nbytes
    if result.nbytes and array.nbytes and not (whole and elementwise):
        raise ValueError(f"{name}: {key} and {other} share memory; give {key} a buffer of its own")
