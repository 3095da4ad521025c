"""One operation called with the arguments of a case: its error, and how long it takes.

Read next: bench/peers/torch_ops.py, the peer.
"""

import ctypes
import sys
import time

import numpy as np
from ml_dtypes import bfloat16

from bench.common.contest import Setting
from bench.common.cases import Case, cases
from bench.common.ours import ops_of
from engine.errors import RunError

# Of the largest value of an array: float32 sums over a thousand terms and Winograd's transforms
# stay well below; one rounding to bfloat16 changes a value by up to 2^-8. Integers must be equal.
LIMIT = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 2e-5, np.dtype(bfloat16): 2.0**-7}
TF32_LIMIT = 2.0**-9                # of a product whose factors were rounded to 11 bits


def called(ops, op: str, arguments: dict) -> dict[str, np.ndarray]:
    """{name: host array} of everything that the operation was given or returned, afterwards."""
    given = {name: ops.asarray(value) if isinstance(value, np.ndarray) else value
             for name, value in arguments.items()}
    returned = getattr(ops, op)(*given.values())
    ops.synchronize()
    found = {name: ops.tohost(value) for name, value in given.items()
             if isinstance(arguments[name], np.ndarray)}
    if returned is not None:
        returned = returned if isinstance(returned, tuple) else (returned,)
        found |= {f"result {i}": value if isinstance(value, np.ndarray) else ops.tohost(value)
                  for i, value in enumerate(returned)}
    return found


def widened(arguments: dict) -> dict:
    """The same values in float64."""
    return {name: value.astype(np.float64)
            if isinstance(value, np.ndarray) and value.dtype in LIMIT else value
            for name, value in arguments.items()}


def errors(ops, case: Case, arguments: dict, wanted: dict,
           coarsest: float = 0.0) -> dict[str, float]:
    """{array: its largest difference from `wanted`, as a part of its largest value; of the clock,
    whose values have nothing in common, a part of each}.

    RunError where one is beyond LIMIT, and NaN is. coarsest: what a float may differ by in any
    case."""
    found = {}
    for name, got in called(ops, case.op, arguments).items():
        found[name] = difference(got, wanted[name], name == "clock")
        limit = max(LIMIT[got.dtype], coarsest) if got.dtype in LIMIT else 0
        if not found[name] <= limit:
            raise RunError(f"{case.op} ({case.text}) on device {ops.name}: {name} differs from the "
                           f"reference by {found[name]:.2g} of its largest value, more than "
                           f"{limit:.2g}; a wrong kernel is not timed, run tests/kernels/test_ops.py")
    return found


def difference(got: np.ndarray, want: np.ndarray, each: bool = False) -> float:
    got, want = got.astype(np.float64), want.astype(np.float64)
    size = np.maximum(abs(want), 1) if each else abs(want).max(initial=0) or 1
    return float((abs(got - want) / size).max(initial=0))


class Calls:
    """The contestant that calls a device's operations: ours, the reference, or oneDNN's
    convolutions alone (direct)."""

    def __init__(self, setting: Setting, small: bool, direct: bool = False):
        self.cases, self.ops = cases(small), ops_of(setting)
        if direct:
            from kernels.cpu.ops import CpuOps

            self.ops = CpuOps(setting.threads, direct=True)
        keep_memory()

    def prepare(self, number: int, precision: str) -> bool:
        """Make the arguments of a case; whether there is something to time."""
        case = self.cases[number]
        arguments = case.arguments(precision).values()
        self.given = [self.ops.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments]
        self.call = getattr(self.ops, case.op)
        return True

    def run(self, count: int) -> float:
        """Seconds of a call, the mean over `count`."""
        call, given = self.call, self.given
        start = time.perf_counter()
        for _ in range(count):
            call(*given)
        self.ops.synchronize()
        return (time.perf_counter() - start) / count


def keep_memory() -> None:
    """What this process frees it keeps for its next array, so that a peer that allocates its
    results in every call is timed at its work and not at the system's clearing of pages."""
    if sys.platform == "linux":
        libc, trim_threshold, mmap_max = ctypes.CDLL(None), -1, -4
        if hasattr(libc, "mallopt"):
            libc.mallopt(trim_threshold, 2**31 - 1)
            libc.mallopt(mmap_max, 0)
