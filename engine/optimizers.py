"""SGD, Nesterov and RMSProp, with the update semantics of Caffe's solvers.

Order in a step: clip the gradient to a global 2-norm, add the weight decay, update. In SGD the rate
is inside the momentum (V = mu V + rate g, w -= V), so a rate that falls does not rescale what the
momentum holds; PyTorch differs there. The rate is read from the clock.

An optimizer says in `options` what numbers it takes, and in `update` what it does with them;
settings, command line and recipes read them there. A new one joins OPTIMIZERS.

Read next: engine/schedules.py, where the rates come from.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

from engine.errors import InputError, choose
from engine.net import Net


@dataclass(frozen=True)
class Option:
    """A hyper-parameter: its default, its range in words and as a test, a line of help."""

    default: float
    wanted: str
    fits: Callable[[float], bool]
    help: str


class Optimizer:
    """A class(net, its options in their order or by name). InputError for a number out of range.

    `state`: {name: flat array of the arena's layout}, saved in checkpoints by tensor."""

    state_name = ""
    options: dict[str, Option] = {
        "decay": Option(0.0, "0 or more", lambda v: v >= 0, "L2 weight decay"),
        "clip": Option(
            0.0, "0 or more", lambda v: v >= 0, "limit on the gradient's 2-norm; 0 is off"
        ),
    }
    decay: float
    clip: float

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
        self.net = net
        self.memory = net.ops.zeros(net.weights.shape, net.dtype)
        self.state = {self.state_name: self.memory}

    def step(self) -> None:
        """Clip and update, unless the clock is latched."""
        self.net.ops.clip(self.net.gradients, self.clip, self.net.clock)
        self.update()

    def update(self) -> None:
        raise NotImplementedError


MOMENTUM = Option(0.9, "in [0, 1)", lambda v: 0 <= v < 1, "share of the last step in this one")


class SGD(Optimizer):
    """g = clip * g + decay * w;  V = momentum * V + rate * g;  w -= V."""

    state_name = "momentum"
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

    state_name = "momentum"
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
    """g = clip * g + decay * w;  s = rho * s + (1 - rho) g^2;  w -= rate * g / (sqrt(s) + delta).

    No momentum and no bias correction, s starts at 0 (Tieleman & Hinton 2012, as in Caffe)."""

    state_name = "square"
    options = {
        "rho": Option(0.99, "in [0, 1)", lambda v: 0 <= v < 1, "share of the old mean square"),
        "delta": Option(1e-8, "0 or more", lambda v: v >= 0, "added to the root of the square"),
    } | Optimizer.options
    rho: float
    delta: float

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
        )


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "nesterov": Nesterov, "rmsprop": RMSProp}


def optimizer_of(net: Net, s) -> Optimizer:
    """The optimizer that a run's settings or a recipe name, with their numbers."""
    kind = OPTIMIZERS[choose("optimizer", s.optimizer, OPTIMIZERS)]
    return kind(net, **{name: getattr(s, name) for name in kind.options})
