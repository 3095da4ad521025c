"""A training run under the magnifying glass: the loss and the size of every single update.

Read next: bench/paper/updates.py, which draws it.
"""

import numpy as np

from engine.data.feed import read_clock
from engine.schedules import rates
from engine.train import one_step
from kernels.clock import FINITE, LOSS


def walk(net, feed, optimizer, policy: dict, steps: int,
         look: bool = True, until=lambda done: True) -> tuple[list[float], list[float]]:
    """Train `steps` steps -> (losses, ratios), a number a step; fewer where the loss stops being
    finite.

    A ratio is mean |dW| / mean |W| of the step's update over all weights, biases left out: the
    quantity of the paper's Figure 1. Without `look` there are none. until(steps done) is asked
    before every step; False ends the walk."""
    table = rates(policy, 0, steps + 1)
    device_table = feed.start(read_clock(net), 0, steps, table)
    losses, ratios = [], []
    before = weights_of(net) if look else None
    for step in range(steps):
        if not until(step):
            break
        one_step(net, feed, optimizer, device_table)
        clock = read_clock(net)
        if not clock[FINITE]:
            break
        losses.append(float(clock[LOSS]))
        if not look:
            continue
        after = weights_of(net)
        ratios.append(float(np.abs(after - before).mean(dtype=np.float64)
                            / np.abs(before).mean(dtype=np.float64)))
        before = after
    return losses, ratios


def weights_of(net) -> np.ndarray:
    """A copy of all weights, without biases."""
    arena = net.ops.tohost(net.weights)
    return np.concatenate([net.arenas.view(arena, name).reshape(-1)
                           for name in net.named_params() if name.endswith(".W")])
