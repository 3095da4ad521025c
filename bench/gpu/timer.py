"""Time on a GPU: by its own events, with a cold cache, nothing waiting in between.

A call is queued, not done, when it returns, and queueing takes longer than most kernels do. So the
calls are recorded once as a CUDA graph, one launch replays them all, and two events on the device's
own stream say how long that took. What a kernel read last time may still be in the L2 cache; so
there are as many sets of arguments as make the calls of a graph move several times what L2 holds.

Read next: bench/gpu/facts.py.
"""

import copy
import statistics
from collections.abc import Callable, Sequence

import numpy as np

COLD = 2.5  # times L2 that the calls of a graph move together
MOST_SETS = 64
CALLS = 48  # recorded together, at least: the launch does not count then
COPIES, COPY_SECONDS = 9, 2e-3  # replays whose median counts, and about how long each takes


def l2_bytes() -> int:
    from cupy.cuda import runtime

    return runtime.deviceGetAttribute(runtime.cudaDevAttrL2CacheSize, 0)


def sets(nbytes: int, l2: int) -> int:
    """How many sets of arguments, of so many bytes each, leave none of them in a cache of l2."""
    return min(max(2, -(-int(COLD * l2) // max(nbytes, 1))), MOST_SETS)


class Recorded:
    """Calls alike, recorded together. seconds(count): of one, the mean over at least `count`."""

    def __init__(self, ops, calls: Sequence[Callable[[], None]], least: int = CALLS):
        from cupy.cuda import Event, get_elapsed_time

        calls = list(calls) * -(-least // len(calls))
        self.ops, self.count = ops, len(calls)
        self.begin, self.end, self.elapsed = Event(), Event(), get_elapsed_time
        self.replay = ops.captured(lambda: [call() for call in calls])
        self.replay()  # as it is: kernels are compiled, workspaces allocated
        self.replay()  # recorded, and launched

    def seconds(self, count: int = 1) -> float:
        replays = -(-count // self.count)
        self.begin.record(self.ops.stream)
        for _ in range(replays):
            self.replay()
        self.end.record(self.ops.stream)
        self.end.synchronize()
        return max(self.elapsed(self.begin, self.end) / 1e3 / replays / self.count, 1e-9)


def operation(ops, name: str, arguments: Sequence, nbytes: int, small: bool = False) -> Recorded:
    """The operation on sets of these host arguments, each in memory of its own.

    Its results are not waited for: the host reads zeros, so that an operation that reads its
    result back, as `variance` does, is recorded too. small: one set and one call, to try it."""
    unread = copy.copy(ops)
    unread.tohost = lambda array: np.zeros(array.shape, array.dtype)
    call = getattr(unread, name)

    def one() -> Callable[[], None]:
        given = [ops.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments]
        return lambda: call(*given)

    count = 1 if small else sets(nbytes, l2_bytes())
    return Recorded(ops, [one() for _ in range(count)], 1 if small else CALLS)


def copy_gbs(ops, nbytes: int, small: bool = False) -> float:
    """GB/s of a copy from device to device that reads half of `nbytes` and writes half, cold."""
    from cupy.cuda import runtime

    half, stream = max(nbytes // 2, 1), ops.stream.ptr

    def one() -> Callable[[], None]:
        source, target = ops.zeros((half,), np.uint8), ops.zeros((half,), np.uint8)
        return lambda: runtime.memcpyAsync(
            target.data.ptr, source.data.ptr, half, runtime.memcpyDeviceToDevice, stream
        )

    count = 1 if small else sets(nbytes, l2_bytes())
    copies = Recorded(ops, [one() for _ in range(count)], 1 if small else CALLS)
    enough = 1 if small else max(1, round(COPY_SECONDS / copies.seconds()))
    return nbytes / statistics.median(copies.seconds(enough) for _ in range(COPIES)) / 1e9
