"""Where a NaN comes from: a latched step once more, with visitors that look.

Read next: kernels/clock.py, whose flag is the first to know.
"""

from collections.abc import Iterator

import numpy as np

from engine.containers import STOP, AuxiliaryClassifier, Container
from engine.data.feed import Feed
from engine.layers import Layer
from kernels.clock import LOSS

NOWHERE = "the gradient's norm"  # where every part of it is finite, and their squares' sum is not


def first_not_finite(net, feed: Feed) -> str:
    """Text such as "the output of conv22" for the step that the net's clock is latched at.

    The step is a pure function of seed and clock, so running it again sees what it saw; the latch
    keeps weights and running statistics as they are."""
    feed.train_batch()
    return first_in_step(net)


def first_in_step(net) -> str:
    """The same for the batch that net.x and net.targets hold."""
    if where := first_in_forward(net, train=True):
        return where
    net.evaluate_loss()
    if not np.isfinite(net.ops.tohost(net.clock)[LOSS]):
        return "the loss"
    behind: list[str] = []

    def after(layer):
        gradients = (layer.dz,) if layer.frozen else (layer.dz, layer.dW, layer.db)
        if not behind and not all(_finite(net, a) for a in gradients):
            behind.append(f"the gradient of {layer.name}")

    net.backward(after)
    # An auxiliary loss comes before every gradient, though only backward computes it.
    sides = [
        f"the loss of {layer.name}"
        for layer in net.chain.every()
        if isinstance(layer, AuxiliaryClassifier)
        and not np.isfinite(net.ops.tohost(layer.own_clock)[LOSS])
    ]
    others = [
        f"the gradient of {p.layer.name}"
        for p in net.named_params().values()
        if not _finite(net, p.gradient)
    ]
    return [*sides, *behind, *others, NOWHERE][0]


def first_in_forward(net, train: bool) -> str | None:
    """What is not finite first on the way from net.x to the scores; None if all of it is finite.

    A layer without weights is named in training alone: else its buffer may be of another pass."""
    first: list[str] = []

    def between(layer: Layer | None) -> str | None:
        """The output of a layer without weights before `layer`, or before the end, or that
        layer's own parameters."""
        for done in _completed(net.chain) if train else ():
            if done is layer:
                break
            for p in net.named_params().values():
                if p.layer is done and not _finite(net, p.value):
                    return f"the weights of {done.name}"
            if hasattr(done, "y") and not _finite(net, done.y):
                return f"the output of {done.name}"
        return None

    def before(layer, x):
        if not _finite(net, layer.W) or not _finite(net, layer.b):
            first.append(f"the weights of {layer.name}")
        elif not _finite(net, x):
            first.append(between(layer) or f"the input of {layer.name}")
        elif not _finite(net, layer.forward(x, train)):
            first.append(f"the output of {layer.name}")
        return STOP if first else layer.z

    if not _finite(net, net.x):
        return "the images"
    scores = net.forward(train, before)
    if scores is STOP:
        return first[0]
    return None if _finite(net, scores) else between(None) or "the scores"


def tensor_not_finite(net, optimizer) -> str | None:
    """The name of a parameter, running statistic or piece of the optimizer's memory that is not
    finite, as a checkpoint names it; None if all are finite."""
    tensors = net.named_state()
    if all(_finite(net, a) for a in (net.weights, *optimizer.state.values(), *tensors.values())):
        return None
    tensors = {name: param.value for name, param in net.named_params().items()} | tensors
    for kind, flat in optimizer.state.items():
        tensors |= {
            f"optimizer.{kind}.{name}": net.arenas.view(flat, name) for name in net.named_params()
        }
    return next((name for name, value in tensors.items() if not _finite(net, value)), None)


def _completed(container: Container) -> Iterator[Layer]:
    """Every layer inside in the order in which they finish: a container after what it contains."""
    for chain in container.chains:
        for layer in chain.layers:
            if isinstance(layer, Container):
                yield from _completed(layer)
            yield layer


def _finite(net, array) -> bool:
    return array is None or bool(np.isfinite(net.ops.tohost(array)).all())
