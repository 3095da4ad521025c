"""SGD, Nesterov and RMSProp, with the update semantics of Caffe's solvers; Adam and AdamW.

Order in a step: clip the gradient to a global 2-norm, add the weight decay, update, average. In SGD
the rate is inside the momentum (V = mu V + rate g, w -= V), so a rate that falls does not rescale
what the momentum holds; PyTorch differs there. The rate is read from the clock.

An optimizer says in `options` what numbers it takes, and in `update` what it does with them;
settings, command line and recipes read them there. A new one joins OPTIMIZERS.

Read next: engine/schedules.py, where the rates come from.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real

from engine.errors import InputError, choose
from engine.layers import Array
from engine.net import Net
from kernels.clock import STEP, TRIAL


@dataclass(frozen=True)
class Option:
    """A hyper-parameter: its default, its range in words and as a test, a line of help."""

    default: float
    wanted: str
    fits: Callable[[float], bool]
    help: str


class Optimizer:
    """A class(net, its options in their order or by name). InputError for a number out of range.

    `state`: {name: flat array of the arena's layout}, saved in checkpoints by tensor. `begun`: the
    step at which it was made, from which it counts its updates."""

    state_names: tuple[str, ...] = ()
    options: dict[str, Option] = {
        "decay": Option(0.0, "0 or more", lambda v: v >= 0, "L2 weight decay"),
        "clip": Option(
            0.0, "0 or more", lambda v: v >= 0, "limit on the gradient's 2-norm; 0 is off"
        ),
        "ema": Option(
            0.0, "in [0, 1)", lambda v: 0 <= v < 1, "share of the old averaged weights; 0 is off"
        ),
        "accumulate": Option(
            1,
            "a whole number in [1, 2^31)",
            lambda v: 1 <= v < 1 << 31 and v == int(v),
            "steps whose mean gradient makes an update",
        ),
    }
    decay: float
    momentum: float  # of those that have one
    clip: float
    ema: float
    accumulate: int

    def __init__(self, net: Net, *values: float, **named: float):
        kind = type(self).__name__
        if len(values) > len(self.options):
            raise InputError(
                f"{kind}: {len(values)} numbers, and its options are {', '.join(self.options)}"
            )
        if twice := [name for name in list(self.options)[: len(values)] if name in named]:
            raise InputError(f"{kind}: {twice[0]} is given twice; leave one out")
        defaults = {name: option.default for name, option in self.options.items()}
        numbers = defaults | dict(zip(self.options, values, strict=False)) | named
        for name, value in numbers.items():
            option = self.options[choose(f"option of {kind}", name, self.options)]
            if not (isinstance(value, Real) and math.isfinite(value) and option.fits(value)):
                raise InputError(f"{kind}: {name} {value!r} must be {option.wanted}")
            setattr(self, name, value)
        self.net, self.accumulate = net, int(self.accumulate)
        clock = net.ops.tohost(net.clock)
        self.begun = int(clock[TRIAL] - 1 if clock[TRIAL] else clock[STEP])
        names = (
            *self.state_names,
            *["average"] * (self.ema > 0),
            *["total"] * (self.accumulate > 1),
        )
        self.state = {name: net.ops.zeros(net.weights.shape, net.dtype) for name in names}

    @property
    def memory(self) -> Array:
        """The first of its states."""
        return self.state[self.state_names[0]]

    def updates_at(self, step: int) -> bool:
        """Whether the step of this number is the last one before an update."""
        return (step + 1 - self.begun) % self.accumulate == 0

    def step(self, last: bool = True) -> None:
        """Clip, update and limit norms, unless the clock is latched. last: with `accumulate`,
        whether this was the last part of a batch; what the others do is add their gradient."""
        net, ops = self.net, self.net.ops
        if self.accumulate > 1:
            ops.clip(net.gradients, 0.0, net.clock)  # latched, it adds nothing
            share = 1 / self.accumulate
            ops.accumulate(net.gradients, self.state["total"], share, last, net.clock)
        elif not last:
            raise InputError(f"{type(self).__name__}: accumulate 1 has no parts; give it 2 or more")
        if last:
            ops.clip(net.gradients, self.clip, net.clock)
            self.update()
            for layer in net.weighted():
                if layer.max_norm and not layer.frozen:
                    ops.max_norm(layer.W.reshape(len(layer.W), -1), layer.max_norm, net.clock)
            if self.ema:
                average, since = self.state["average"], (self.begun, self.accumulate)
                ops.average(net.weights, average, net.clock, self.ema, *since)

    def update(self) -> None:
        raise NotImplementedError

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the net's weights are the averaged ones of `ema`, to evaluate or to export; the
        running statistics stay. Without `ema`, or before an update, it does nothing."""
        average, weights = self.state.get("average"), self.net.weights
        if average is None or not self.net.ops.tohost(average).any():
            yield
            return
        kept = weights.copy()
        weights[...] = average
        try:
            yield
        finally:
            weights[...] = kept


MOMENTUM = Option(0.9, "in [0, 1)", lambda v: 0 <= v < 1, "share of the last step in this one")


class SGD(Optimizer):
    """g = clip * g + decay * w;  V = momentum * V + rate * g;  w -= V."""

    state_names = ("momentum",)
    options = {"momentum": MOMENTUM} | Optimizer.options
    momentum: float

    def update(self) -> None:
        net = self.net
        net.ops.sgd_step(
            net.weights,
            net.gradients,
            self.memory,
            net.segments,
            net.clock,
            self.momentum,
            self.decay,
        )


class Nesterov(Optimizer):
    """g = clip * g + decay * w;  V' = momentum * V + rate * g;
    w -= (1 + momentum) * V' - momentum * V.  Nesterov 1983, as in Caffe."""

    state_names = ("momentum",)
    options = {"momentum": MOMENTUM} | Optimizer.options
    momentum: float

    def update(self) -> None:
        net = self.net
        net.ops.nesterov_step(
            net.weights,
            net.gradients,
            self.memory,
            net.segments,
            net.clock,
            self.momentum,
            self.decay,
        )


class RMSProp(Optimizer):
    """g = clip * g + decay * w;  s = rho * s + (1 - rho) g^2;
    w -= rate * g / (max(sqrt(s), floor) + delta).

    No momentum and no bias correction, s starts at 0 (Tieleman & Hinton 2012). Caffe's has no
    floor, pylearn2's a floor and no delta."""

    state_names = ("square",)
    options = {
        "rho": Option(0.99, "in [0, 1)", lambda v: 0 <= v < 1, "share of the old mean square"),
        "delta": Option(1e-8, "0 or more", lambda v: v >= 0, "added to the root of the square"),
        "floor": Option(0.0, "0 or more", lambda v: v >= 0, "the least root of the square"),
    } | Optimizer.options
    rho: float
    delta: float
    floor: float

    def update(self) -> None:
        net = self.net
        net.ops.rmsprop_step(
            net.weights,
            net.gradients,
            self.memory,
            net.segments,
            net.clock,
            self.rho,
            self.delta,
            self.decay,
            self.floor,
        )


class Adam(Optimizer):
    """g = clip * g + decay * w;  m = beta1 * m + (1 - beta1) g;  s = beta2 * s + (1 - beta2) g^2;
    w -= rate * m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + delta), in update t from 1 on.

    Kingma & Ba 2015, as in PyTorch."""

    state_names = ("mean", "square")
    decoupled = False
    options = {
        "beta1": Option(0.9, "in [0, 1)", lambda v: 0 <= v < 1, "share of the old mean gradient"),
        "beta2": Option(0.999, "in [0, 1)", lambda v: 0 <= v < 1, "share of the old mean square"),
        "delta": RMSProp.options["delta"],
    } | Optimizer.options
    beta1: float
    beta2: float
    delta: float

    def update(self) -> None:
        net = self.net
        net.ops.adam_step(
            net.weights,
            net.gradients,
            *(self.state[name] for name in self.state_names),
            net.segments,
            net.clock,
            self.beta1,
            self.beta2,
            self.delta,
            self.decay,
            self.decoupled,
            self.begun,
            self.accumulate,
        )


class AdamW(Adam):
    """Adam, whose decay is no part of g: w shrinks by rate * decay of itself (Loshchilov & Hutter
    2019, as in PyTorch)."""

    decoupled = True


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "nesterov": Nesterov,
    "rmsprop": RMSProp,
    "adam": Adam,
    "adamw": AdamW,
}


def optimizer_of(net: Net, s) -> Optimizer:
    """The optimizer that a run's settings or a recipe name, with their numbers."""
    kind = OPTIMIZERS[choose("optimizer", s.optimizer, OPTIMIZERS)]
    values = {name: getattr(s, name, option.default) for name, option in kind.options.items()}
    return kind(net, **values)
