"""Time on a GPU: by its own events, with a cold cache, nothing waiting in between.

A call is queued, not done, when it returns, and queueing takes longer than most kernels do. So the
calls are recorded once as a CUDA graph, one launch replays them all, and two events on the device's
own stream say how long that took. What a kernel read last time may still be in the L2 cache; so
there are as many sets of arguments as make the calls of a graph move several times what L2 holds.

Read next: bench/gpu/steps.py.
"""

import copy
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

COLD = 2.5                          # times L2 that the calls of a graph move together
MOST_SETS = 64


class Deadline:
    """Seconds that a section may take."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return max(0.0, self.end - time.monotonic())

    def over(self) -> bool:
        return self.left() == 0


class Timer:
    """seconds(calls): of one of several calls alike. rounds: of which the median counts, and each
    takes about so many seconds. graph: how many calls are recorded together, at least, so that the
    launch of a graph and the pause before it do not count."""

    def __init__(self, ops, l2_bytes: int, rounds: int = 9, seconds: float = 2e-3, graph: int = 48):
        from cupy.cuda import Event, get_elapsed_time

        self.ops, self.l2_bytes, self.rounds = ops, l2_bytes, rounds
        self.least, self.graph = seconds, graph
        self.begin, self.end, self.elapsed = Event(), Event(), get_elapsed_time

    def sets(self, nbytes: int) -> int:
        """How many sets of arguments, of so many bytes each, leave none of them in the cache."""
        return min(max(2, -(-int(COLD * self.l2_bytes) // max(nbytes, 1))), MOST_SETS)

    def seconds(self, calls: Sequence[Callable[[], None]]) -> float:
        calls = list(calls) * -(-self.graph // len(calls))
        replay = self.ops.captured(lambda: [call() for call in calls])
        replay()                    # as it is: kernels are compiled, workspaces allocated
        replay()                    # recorded, and launched
        repeats = max(1, round(self.least / self._once(replay, 1)))
        return statistics.median(self._once(replay, repeats) for _ in range(self.rounds)) / len(
            calls)

    def _once(self, replay, repeats: int) -> float:
        """Seconds of a replay, of which so many are queued."""
        self.begin.record(self.ops.stream)
        for _ in range(repeats):
            replay()
        self.end.record(self.ops.stream)
        self.end.synchronize()
        return max(self.elapsed(self.begin, self.end) / 1e3 / repeats, 1e-9)


def without_reading(ops):
    """The same operations on the same memory, whose results no host waits for: they read zeros. So
    one that reads its result back, as `variance` does, can be recorded too."""
    unread = copy.copy(ops)
    unread.tohost = lambda array: np.zeros(array.shape, array.dtype)
    return unread


def copy_seconds(timer: Timer, nbytes: int) -> float:
    """Of a copy from device to device that reads half of `nbytes` and writes half, cold."""
    from cupy.cuda import runtime

    half, stream = max(nbytes // 2, 1), timer.ops.stream.ptr
    pairs = [[timer.ops.zeros((half,), np.uint8) for _ in range(2)]
             for _ in range(timer.sets(nbytes))]

    def copied(source, target):
        return lambda: runtime.memcpyAsync(target.data.ptr, source.data.ptr, half,
                                           runtime.memcpyDeviceToDevice, stream)

    return timer.seconds([copied(*pair) for pair in pairs])
