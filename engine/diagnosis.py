"""Where a NaN comes from: a latched step once more, with visitors that look.

Read next: engine/containers.py for the visitors.
"""

import numpy as np

from engine.containers import STOP, Head
from engine.feed import Feed
from kernels.clock import LOSS


def first_not_finite(net, feed: Feed) -> str:
    """Text such as "the output of conv22" for the step that the net's clock is latched at.

    The step is a pure function of seed and clock, so running it again sees what it saw; the latch
    keeps weights and running statistics as they are."""
    found: list[str] = []

    def finite(array) -> bool:
        return bool(np.isfinite(net.ops.tohost(array)).all())

    def before(layer, x):
        if not finite(layer.W) or not finite(layer.b):
            found.append(f"the weights of {layer.name}")
        elif not finite(x):
            found.append(f"the input of {layer.name}")
        elif not finite(layer.forward(x, True)):
            found.append(f"the output of {layer.name}")
        return STOP if found else None

    def after(layer):
        if not found and not (finite(layer.dz) and finite(layer.dW) and finite(layer.db)):
            found.append(f"the gradient of {layer.name}")

    feed.train_batch()
    if net.forward(train=True, before=before) is STOP:
        return found[0]
    net.evaluate_loss()
    if not np.isfinite(net.ops.tohost(net.clock)[LOSS]):
        return "the loss"
    net.backward(after)
    heads = [layer for layer in net.chain.every() if isinstance(layer, Head)]
    found += [f"the loss of {head.name}" for head in heads
              if not np.isfinite(net.ops.tohost(head.own_clock)[LOSS])]
    return found[0] if found else "the gradient's norm"
