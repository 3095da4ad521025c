"""Contestants of benches that the tests make up; each lives in a process of its own.

Read next: tests/bench/test_bench_kernels.py.
"""

import os
import time

from bench.common.contest import THREADS


class Told:
    """Says which numbers of threads its process was started with."""

    def __init__(self, setting):
        pass

    def threads(self) -> list[str | None]:
        return [os.environ.get(name) for name in THREADS]


class Late:
    """Takes `seconds` a step, but `first` for its first one; fails after `good` steps."""

    def __init__(self, setting, seconds: float = 1e-4, first: float = 0.0, good: int = 1 << 30):
        self.seconds, self.first, self.good = seconds, first, good

    def train(self, steps: int) -> float:
        self.good -= 1
        if self.good < 0:
            raise RuntimeError("planted")
        time.sleep(self.first)
        self.first = 0.0
        return self.seconds
