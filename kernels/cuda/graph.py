"""A training step as one CUDA graph: captured once, then replayed by a single launch.

The step must do the same with the same arrays every time; what changes from step to step is in the
clock. Its first call runs as it is, so that kernels are compiled, convolution plans chosen and
workspaces allocated; the second is captured. Nothing in it may wait for the device or allocate.

A launch does not wait either, but for the step AHEAD before it: else the host would queue hundreds
of steps, and whoever then asks for a stop or a checkpoint would wait for them all.

Read next: ranks.py, and ../clock.py.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Any

import cupy

AHEAD = 8  # steps that may be queued


class Captured:
    """Call it for one step. `holds`: what the graph points into, kept as long as it is."""

    def __init__(self, stream, step, holds) -> None:
        self.stream, self.step, self.holds = stream, step, holds
        self.calls = 0
        self.graph: Any = None
        self.ends: deque = deque()  # events behind the last launches

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == 1:
            self.step()
            return
        if self.graph is None:
            self.stream.begin_capture()
            try:
                self.step()
            except BaseException:
                with suppress(Exception):  # of a capture that the first error has spoilt
                    self.stream.end_capture()
                raise
            self.graph, self.kept = self.stream.end_capture(), self.holds()
        if len(self.ends) == AHEAD:
            end = self.ends.popleft()
            end.synchronize()
        else:
            end = cupy.cuda.Event(block=True, disable_timing=True)
        self.graph.launch(self.stream)
        end.record(self.stream)
        self.ends.append(end)
