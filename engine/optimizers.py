"""SGD with momentum and RMSProp, with the update semantics of Caffe's solvers.

Order in a step: clip the gradient to a global 2-norm, add the weight decay, update. In SGD the rate
is inside the momentum (V = mu V + rate g, w -= V), so a rate that falls does not rescale what the
momentum holds; PyTorch differs there. The rate is read from the clock.

Read next: engine/schedules.py, where the rates come from.
"""

from engine.net import Net


class Optimizer:
    """`state`: {name: flat array of the arena's layout}, saved in checkpoints by tensor."""

    state_name = ""

    def __init__(self, net: Net, decay: float = 0.0, clip: float = 0.0):
        self.net, self.decay, self.limit = net, decay, clip
        self.memory = net.ops.zeros(net.weights.shape, net.dtype)
        self.state = {self.state_name: self.memory}

    def step(self) -> None:
        """Clip and update, unless the clock is latched."""
        self.net.ops.clip(self.net.gradients, self.limit, self.net.clock)
        self.update()

    def update(self) -> None:
        raise NotImplementedError


class SGD(Optimizer):
    """g = clip * g + decay * w;  V = momentum * V + rate * g;  w -= V."""

    state_name = "momentum"

    def __init__(self, net: Net, momentum: float = 0.9, decay: float = 0.0, clip: float = 0.0):
        super().__init__(net, decay, clip)
        self.momentum = momentum

    def update(self) -> None:
        net = self.net
        net.ops.sgd_step(net.weights, net.gradients, self.memory, net.segments, net.clock,
                         self.momentum, self.decay)


class RMSProp(Optimizer):
    """g = clip * g + decay * w;  s = rho * s + (1 - rho) g^2;  w -= rate * g / (sqrt(s) + delta).

    No momentum and no bias correction, s starts at 0 (Tieleman & Hinton 2012, as in Caffe)."""

    state_name = "square"

    def __init__(self, net: Net, rho: float = 0.99, delta: float = 1e-8, decay: float = 0.0,
                 clip: float = 0.0):
        super().__init__(net, decay, clip)
        self.rho, self.delta = rho, delta

    def update(self) -> None:
        net = self.net
        net.ops.rmsprop_step(net.weights, net.gradients, self.memory, net.segments, net.clock,
                             self.rho, self.delta, self.decay)


OPTIMIZERS = {"sgd": SGD, "rmsprop": RMSProp}


def optimizer_of(net: Net, s) -> Optimizer:
    """The optimizer that a run's settings or a recipe name, with their numbers."""
    if s.optimizer == "sgd":
        return SGD(net, s.momentum, s.decay, s.clip)
    return RMSProp(net, s.rho, s.delta, s.decay, s.clip)
