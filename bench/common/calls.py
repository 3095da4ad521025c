"""One operation called with the arguments of a case: its error, and how long it takes.

Read next: bench/peers/torch_ops.py, the peer.
"""

import ctypes
import sys
import time
from functools import partial

import numpy as np
from ml_dtypes import bfloat16

from bench.common.cases import REFERENCE, Case, cases
from bench.common.contest import Setting
from bench.common.ours import ops_of
from engine.errors import RunError

# Of the largest value of an array: float32 sums over a thousand terms and Winograd's transforms
# stay well below; one rounding to bfloat16 changes a value by up to 2^-8. Integers must be equal.
LIMIT = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 2e-5, np.dtype(bfloat16): 2.0**-7}
TF32_LIMIT = 2.0**-9  # of a product whose factors were rounded to 11 bits


def called(ops, op: str, arguments: dict) -> dict[str, np.ndarray]:
    """{name: host array} of everything that the operation was handed or returned, afterwards."""
    handed = {
        name: ops.asarray(value) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    returned = getattr(ops, op)(*handed.values())
    ops.synchronize()
    after = {
        name: ops.tohost(value)
        for name, value in handed.items()
        if isinstance(arguments[name], np.ndarray)
    }
    if returned is not None:
        returned = returned if isinstance(returned, tuple) else (returned,)
        after |= {
            f"result {i}": value if isinstance(value, np.ndarray) else ops.tohost(value)
            for i, value in enumerate(returned)
        }
    return after


def widened(arguments: dict) -> dict:
    """The same values in float64."""
    return {
        name: value.astype(np.float64)
        if isinstance(value, np.ndarray) and value.dtype in LIMIT
        else value
        for name, value in arguments.items()
    }


def errors(case: Case, arguments: dict, devices: dict, coarsest: float = 0.0) -> dict[str, float]:
    """{name of a device: the largest difference of any result from the reference in float64, as a
    part of the array's largest value, or, of the clock, whose values have nothing in common, of
    each}. devices: {name: its operations}. coarsest: what a float may differ by in any case.

    RunError where a difference is beyond LIMIT, and NaN is."""
    expected = called(REFERENCE, case.op, widened(arguments))
    largest = {}
    for device, ops in devices.items():
        each = []
        for name, got in called(ops, case.op, arguments).items():
            error = difference(got, expected[name], name == "clock")
            limit = max(LIMIT[got.dtype], coarsest) if got.dtype in LIMIT else 0
            if not error <= limit:
                raise RunError(
                    f"{case.op} ({case.text}) on device {ops.name}: {name} differs from "
                    f"the reference by {error:.2g} of its largest value, more than "
                    f"{limit:.2g}; a wrong kernel is not timed, run "
                    "tests/kernels/test_ops.py"
                )
            each.append(error)
        largest[device] = max(each)
    return largest


def difference(got: np.ndarray, want: np.ndarray, each: bool = False) -> float:
    got, want = got.astype(np.float64), want.astype(np.float64)
    size = np.maximum(abs(want), 1) if each else abs(want).max(initial=0) or 1
    return float((abs(got - want) / size).max(initial=0))


class Calls:
    """The contestant that calls a device's operations: ours, the reference, or oneDNN's
    convolutions alone (direct). On device cuda they are timed as bench/gpu/timer.py says."""

    def __init__(self, setting: Setting, small: bool, direct: bool = False):
        self.cases, self.small, self.ops = cases(small), small, ops_of(setting, direct)
        keep_memory()

    def prepare(self, number: int, precision: str) -> bool:
        """Make the arguments of a case; whether there is something to time."""
        case = self.cases[number]
        arguments = case.arguments(precision)
        if self.ops.name == "cuda":
            from bench.gpu.timer import operation

            self.run = operation(
                self.ops, case.op, list(arguments.values()), case.bytes(arguments), self.small
            ).seconds
        else:
            handed = [
                self.ops.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments.values()
            ]
            self.run = partial(seconds_of, self.ops, getattr(self.ops, case.op), handed)
        return True

    def copy_gbs(self, nbytes: int) -> float:
        """Of device cuda: GB/s of a copy that moves so many bytes, timed the same way."""
        from bench.gpu.timer import copy_gbs

        return copy_gbs(self.ops, nbytes, self.small)


def seconds_of(ops, call, arguments: list, count: int) -> float:
    """Seconds of a call, the mean over `count`."""
    start = time.perf_counter()
    for _ in range(count):
        call(*arguments)
    ops.synchronize()
    return (time.perf_counter() - start) / count


def keep_memory() -> None:
    """What this process frees it keeps for its next array, so that a peer that allocates its
    results in every call is timed at its work and not at the system's clearing of pages."""
    if sys.platform == "linux":
        libc, trim_threshold, mmap_max = ctypes.CDLL(None), -1, -4
        if hasattr(libc, "mallopt"):
            libc.mallopt(trim_threshold, 2**31 - 1)
            libc.mallopt(mmap_max, 0)
