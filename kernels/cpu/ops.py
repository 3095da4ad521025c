"""Device cpu: the operations of kernels/reference.py, each a call into the native extension.

What an operation means stands in the reference. Different here: arrays are float32, or bfloat16
where the contract has activations and gradients (uint8 and int32 where it says so), contiguous,
aligned, and have exactly the shapes that the contract names; an array or a number out of that
contract is a ValueError that names the value, before memory is touched, and a value of another
Python type is pybind11's TypeError. A result shares no memory with another argument; only that of
an activation, a dropout, a sum or their gradients may be an operand's very array. The fully
connected layer and the convolutions that winograd.cpp does not take are oneDNN's, everything else
is our own, in native/.

Read next: native/module.cpp.
"""

from __future__ import annotations

import functools
import inspect

from kernels.contract import OPERATIONS
from kernels.cpu import _native
from kernels.reference import NumpyOps


class CpuOps(NumpyOps):
    """Every operation, on NumPy arrays, by native code. Those that do not stand
    here are added below: the extension has a function of each one's name and arguments."""

    name = "cpu"
    precisions = NumpyOps.precisions if _native.HAS_BF16 else {"fp32": None}

    def __init__(self, threads: int | None = None, direct: bool = False):
        """threads: OpenMP threads of every kernel that the calling Python thread starts, in this
        and any other CpuOps; None leaves its count as it is. Other Python threads keep OpenMP's.
        direct: no convolution by Winograd's algorithm, to compare with.
        """
        if threads is not None:
            _native.set_threads(threads)
        self._convolutions = _native.Convolutions(direct)

    @property
    def threads(self) -> int:
        """OpenMP threads of the kernels that the calling thread starts."""
        return _native.threads()

    @property
    def description(self) -> str:
        """One line for the user."""
        count = self.threads
        threads = f"{count} thread" + ("s" if count != 1 else "")
        library = f"oneDNN {_native.ONEDNN}" if _native.ONEDNN else "products of our own"
        return f"{library}, {threads}, {_native.INSTRUCTIONS}"

    def plans(self) -> dict[str, str]:
        return self._convolutions.plans()

    def conv_forward(self, x, W, b, y, stride, pad, groups):
        self._convolutions.conv_forward(x, W, b, y, stride, pad, groups)

    def conv_backward_data(self, dy, W, dx, stride, pad, groups):
        self._convolutions.conv_backward_data(dy, W, dx, stride, pad, groups)

    def conv_backward_filter(self, x, dy, dW, db, stride, pad, groups):
        self._convolutions.conv_backward_filter(x, dy, dW, db, stride, pad, groups)

    def orthonormal(self, rows, cols, key):
        return _native.orthonormal(rows, cols, *key)


def _native_operation(name: str):
    """A method that calls the extension's function of this name."""
    signature, count = inspect.signature(getattr(NumpyOps, name)), len(OPERATIONS[name].arguments)

    @functools.wraps(getattr(NumpyOps, name))
    def operation(self, *values, **named):
        if named or len(values) < count:  # some by their names, or by their defaults
            bound = signature.bind(self, *values, **named)
            bound.apply_defaults()
            values = bound.args[1:]
        return getattr(_native, name)(*values)

    return operation


for _name in OPERATIONS:
    if _name not in vars(CpuOps):
        setattr(CpuOps, _name, _native_operation(_name))
