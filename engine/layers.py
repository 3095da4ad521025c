"""The layers: each says what it needs in `setup`, and calls one op forward and one backward.

    y = layer.forward(x, train)        dx = layer.backward(dy)

Shapes in `setup` are without the batch: (H, W, C) or (F,). A layer writes only its own buffers and
keeps what its backward needs. `backward` returns None where nobody wants an input gradient. The two
layers with weights, `Conv` and `Linear`, expose `z`, their linear output with bias (a maxout's
pieces side by side on the channels), which lasts until the next layer with weights runs, and after
backward, as long, `dz`.

Read next: engine/containers.py, where a list of layers becomes a layer.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from engine.errors import InputError
from kernels import checks


class Layer:
    """What every layer is. A leaf's author writes `setup`, `forward` and `backward`, nothing
    else."""

    name: str | None = None
    weighted = False
    takes_slot = True  # whether its dx takes one of the lane's two slots
    keeps_input = True  # whether it wants x after its forward pass, or hands it on
    multiply_adds = 0  # of one image's forward pass

    def setup(self, plan, in_shape: tuple[int, ...]) -> tuple[int, ...]:
        raise NotImplementedError

    def forward(self, x, train: bool):
        raise NotImplementedError

    def backward(self, dy):
        raise NotImplementedError


@dataclass(frozen=True)
class Original:
    """How the public file of a net fills a layer, for `--init original`: a filler of
    lsuv/fillers.py (with its deviation if it is gaussian), and the value of every bias."""

    filler: str
    std: float | None = None
    bias: float = 0.0


class Conv(Layer):
    """Convolution with bias. W is (P*C, R, S, inputs/groups), z is (N, Ho, Wo, P*C).

    `outputs` counts the channels of one maxout piece, `pieces` the pieces. Weight decay is off for
    the bias unless `bias_decay` says otherwise (the authors' CIFAR nets: 0, their MNIST net: 1),
    and its rate is `bias_rate` times that of the weights (Caffe's ImageNet nets: 2).
    """

    weighted = True

    def __init__(self, outputs: int, size: int = 3, stride: int = 1, pad: int = 1, groups: int = 1,
                 pieces: int = 1, bias_decay: float = 0.0, bias_rate: float = 1.0,
                 original: Original | None = None, name: str | None = None):
        self.outputs, self.size, self.stride, self.pad = pieces * outputs, size, stride, pad
        self.groups, self.pieces, self.name = groups, pieces, name
        self.bias_decay, self.bias_rate, self.original = bias_decay, bias_rate, original

    def setup(self, plan, in_shape):
        H, W, C = in_shape
        K, R = self.outputs, self.size
        if C % self.groups or K % self.groups:
            raise InputError(f"{plan.name}: {C} inputs and {K} outputs do not split into "
                             f"{self.groups} groups")
        Ho, Wo = ((n + 2 * self.pad - R) // self.stride + 1 for n in (H, W))
        if Ho < 1 or Wo < 1:
            raise InputError(f"{plan.name}: a {H}x{W} input is smaller than the {R}x{R} kernel")
        self.ops, self.in_shape, self.fan_in = plan.ops, in_shape, R * R * C // self.groups
        self.multiply_adds = Ho * Wo * K * self.fan_in
        self.W, self.dW = plan.param("W", (K, R, R, C // self.groups))
        self.b, self.db = plan.param("b", (K,), self.bias_rate, self.bias_decay)
        self.z = plan.output((Ho, Wo, K))
        self.dx = plan.gradient(in_shape)
        return Ho, Wo, K

    def forward(self, x, train):
        self.x = x
        self.ops.conv_forward(x, self.W, self.b, self.z, self.stride, self.pad, self.groups)
        return self.z

    def backward(self, dz):
        self.dz = dz
        shape = self.stride, self.pad, self.groups
        self.ops.conv_backward_filter(self.x, dz, self.dW, self.db, *shape)
        if self.dx is not None:
            self.ops.conv_backward_data(dz, self.W, self.dx, *shape)
        return self.dx


class Linear(Layer):
    """Fully connected. W is (P*C, F); an (H, W, C) input is read as F = H*W*C in that order."""

    weighted = True

    def __init__(self, outputs: int, pieces: int = 1, bias_decay: float = 0.0,
                 bias_rate: float = 1.0, original: Original | None = None,
                 name: str | None = None):
        self.outputs, self.pieces, self.name = pieces * outputs, pieces, name
        self.bias_decay, self.bias_rate, self.original = bias_decay, bias_rate, original

    def setup(self, plan, in_shape):
        self.ops, self.in_shape, self.fan_in = plan.ops, in_shape, prod(in_shape)
        self.multiply_adds = self.outputs * self.fan_in
        self.W, self.dW = plan.param("W", (self.outputs, self.fan_in))
        self.b, self.db = plan.param("b", (self.outputs,), self.bias_rate, self.bias_decay)
        self.z = plan.output((self.outputs,))
        self.dx = plan.gradient(in_shape)
        return (self.outputs,)

    def forward(self, x, train):
        self.x = x.reshape(len(x), self.fan_in)  # (N, F), a view
        self.ops.linear_forward(self.x, self.W, self.b, self.z)
        return self.z

    def backward(self, dz):
        self.dz = dz
        self.ops.linear_backward_filter(self.x, dz, self.dW, self.db)
        if self.dx is not None:
            self.ops.linear_backward_data(dz, self.W, self.dx.reshape(self.x.shape))
        return self.dx


class Maxout(Layer):
    """The largest of P pieces: (..., P*C) -> (..., C). Goodfellow et al. 2013.

    Keeps which piece won (a byte), not its input. The bias gradient stays with the convolution's
    filter pass, which has the data in cache. With `pool`, the max pooling of MaxPool(pool, stride)
    that follows is done in the same pass, and with `drop` the Dropout(drop) behind that, by the
    mask that it would have.
    """

    keeps_input = False

    def __init__(self, pieces: int = 2, pool: int | None = None, stride: int | None = None,
                 drop: float = 0.0, name: str | None = None):
        if check_drop(drop) and not pool:
            raise InputError(f"maxout with dropout {drop} and no pooling: put a Dropout({drop}) "
                             "behind it")
        self.pieces, self.pool, self.stride, self.name = pieces, pool, stride or pool, name
        self.drop = drop

    def setup(self, plan, in_shape):
        *space, channels = in_shape
        if channels % self.pieces:
            raise InputError(f"{plan.name}: {channels} channels do not split into "
                             f"{self.pieces} pieces")
        if self.pool:
            space = pooled(plan.name, space, self.pool, self.stride)
        self.ops, out_shape = plan.ops, (*space, channels // self.pieces)
        if self.drop:
            self.clock, self.seed, self.number = plan.clock, plan.seed, plan.dropout_number()
        self.y = plan.buffer(out_shape)
        self.which = plan.buffer(out_shape, np.uint8)
        self.dx = plan.gradient(in_shape)
        return out_shape

    def forward(self, x, train):
        shape = self.pieces, self.pool, self.stride
        if self.drop and train:
            self.ops.maxout_pool_dropout_forward(x, self.y, self.which, *shape, self.drop,
                                                 self.seed, self.number, self.clock)
        elif self.pool:
            self.ops.maxout_pool_forward(x, self.y, self.which, *shape)
        else:
            self.ops.maxout_forward(x, self.y, self.which, self.pieces)
        return self.y

    def backward(self, dy):
        if self.dx is None:
            return None
        shape = self.pieces, self.pool, self.stride
        if self.drop:
            self.ops.maxout_pool_dropout_backward(dy, self.which, self.dx, *shape, self.drop)
        elif self.pool:
            self.ops.maxout_pool_backward(dy, self.which, self.dx, *shape)
        else:
            self.ops.maxout_backward(dy, self.which, self.dx, self.pieces)
        return self.dx


def check_drop(drop: float) -> float:
    """A probability to drop as it is. InputError if it is none."""
    if not 0 <= drop < 1:
        raise InputError(f"dropout {drop}: the probability to drop must lie in [0, 1)")
    return drop


def pooled(name: str, space, size: int, stride: int, pad: int = 0) -> tuple[int, int]:
    """Caffe's output size of a pooling of (H, W): the ceiling, less a last window that would start
    beyond the image. InputError if no window fits."""
    H, W = space
    if min(H, W) + 2 * pad < size:
        raise InputError(f"{name}: a {H}x{W} input is smaller than the {size}x{size} window")
    return checks.pooled(H, size, stride, pad), checks.pooled(W, size, stride, pad)


class Elementwise(Layer):
    """A function of each element, whose backward needs only its result."""

    keeps_input = False

    def __init__(self, name: str | None = None):
        self.name = name

    def setup(self, plan, in_shape):
        self.ops, self.y, self.dx = plan.ops, plan.buffer(in_shape), plan.gradient(in_shape)
        return in_shape


class LeakyReLU(Elementwise):
    """x where positive, else slope * x. Slope 0 is ReLU, 0.333 the paper's VLReLU."""

    def __init__(self, slope: float, name: str | None = None):
        super().__init__(name)
        self.slope = slope

    def forward(self, x, train):
        self.ops.leaky_forward(x, self.y, self.slope)
        return self.y

    def backward(self, dy):
        if self.dx is not None:
            self.ops.leaky_backward(dy, self.y, self.dx, self.slope)
        return self.dx


class ReLU(LeakyReLU):
    """max(x, 0)."""

    def __init__(self, name: str | None = None):
        super().__init__(0.0, name)


class VLReLU(LeakyReLU):
    """Very leaky ReLU: x where positive, else 0.333 x (the paper's section 4; slope as in Graham
    2014)."""

    def __init__(self, name: str | None = None):
        super().__init__(0.333, name)


class Tanh(Elementwise):
    """Hyperbolic tangent."""

    def forward(self, x, train):
        self.ops.tanh_forward(x, self.y)
        return self.y

    def backward(self, dy):
        if self.dx is not None:
            self.ops.tanh_backward(dy, self.y, self.dx)
        return self.dx


class Sigmoid(Elementwise):
    """1 / (1 + exp(-x))."""

    def forward(self, x, train):
        self.ops.sigmoid_forward(x, self.y)
        return self.y

    def backward(self, dy):
        if self.dx is not None:
            self.ops.sigmoid_backward(dy, self.y, self.dx)
        return self.dx


class MaxPool(Layer):
    """Max over size x size windows. Caffe's output size: the ceiling, and windows are clipped to
    the image, so 13x13 with size 4, stride 2 gives 6x6. Padding moves windows and never wins."""

    keeps_input = False

    def __init__(self, size: int, stride: int | None = None, pad: int = 0,
                 name: str | None = None):
        self.size, self.stride, self.pad, self.name = size, stride or size, pad, name

    def setup(self, plan, in_shape):
        H, W, C = in_shape
        Ho, Wo = pooled(plan.name, (H, W), self.size, self.stride, self.pad)
        self.ops = plan.ops
        self.y = plan.buffer((Ho, Wo, C))
        self.which = plan.buffer((Ho, Wo, C), np.uint8)
        self.dx = plan.gradient(in_shape)
        return Ho, Wo, C

    def forward(self, x, train):
        self.ops.maxpool_forward(x, self.y, self.which, self.size, self.stride, self.pad)
        return self.y

    def backward(self, dy):
        if self.dx is not None:
            self.ops.maxpool_backward(dy, self.which, self.dx, self.size, self.stride, self.pad)
        return self.dx


class AvgPool(Layer):
    """Mean over size x size windows, of Caffe's output size; of a window that is clipped, the mean
    of what is inside the image."""

    keeps_input = False

    def __init__(self, size: int, stride: int | None = None, name: str | None = None):
        self.size, self.stride, self.name = size, stride or size, name

    def setup(self, plan, in_shape):
        H, W, C = in_shape
        Ho, Wo = pooled(plan.name, (H, W), self.size, self.stride)
        self.ops, self.y, self.dx = plan.ops, plan.buffer((Ho, Wo, C)), plan.gradient(in_shape)
        return Ho, Wo, C

    def forward(self, x, train):
        self.ops.avgpool_forward(x, self.y, self.size, self.stride)
        return self.y

    def backward(self, dy):
        if self.dx is not None:
            self.ops.avgpool_backward(dy, self.dx, self.size, self.stride)
        return self.dx


class LRN(Layer):
    """Local response normalisation across `size` channels: x / (1 + alpha / size * sum x^2)^beta.

    Krizhevsky et al. 2012, with Caffe's constants. Backward reads x again."""

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75,
                 name: str | None = None):
        self.constants, self.name = (size, alpha, beta, 1.0), name

    def setup(self, plan, in_shape):
        self.ops, self.y, self.dx = plan.ops, plan.buffer(in_shape), plan.gradient(in_shape)
        return in_shape

    def forward(self, x, train):
        self.x = x
        self.ops.lrn_forward(x, self.y, *self.constants)
        return self.y

    def backward(self, dy):
        if self.dx is not None:
            self.ops.lrn_backward(dy, self.x, self.dx, *self.constants)
        return self.dx


class Dropout(Layer):
    """Zero with probability `drop`, else times 1 / (1 - drop); the identity outside training.

    The mask is a pure function of seed, step, layer and place, so backward draws it again and
    nothing is stored (Srivastava et al. 2014, inverted as in Caffe)."""

    def __init__(self, drop: float, name: str | None = None):
        self.drop, self.name = check_drop(drop), name

    def setup(self, plan, in_shape):
        self.ops, self.clock, self.seed = plan.ops, plan.clock, plan.seed
        self.number = plan.dropout_number()
        self.y, self.dx = plan.buffer(in_shape), plan.gradient(in_shape)
        return in_shape

    def forward(self, x, train):
        if not train:
            return x
        self.ops.dropout_forward(x, self.y, self.drop, self.seed, self.number, self.clock)
        return self.y

    def backward(self, dy):
        if self.dx is not None:
            self.ops.dropout_backward(dy, self.dx, self.drop, self.seed, self.number, self.clock)
        return self.dx


class BatchNorm(Layer):
    """Batch normalisation without scale and shift, as in the authors' Caffe (Ioffe & Szegedy 2015).

    Running sums are decayed by `fraction` and divided by their accumulated weight when used. They
    are updated in backward, so a forward pass that only looks (LSUV) leaves them as they were, and
    a clock that the loss latched keeps a bad batch out of them. (A batch whose gradient alone is
    not finite is in them, whose own numbers are finite; the run ends there, and saves nothing.)
    """

    keeps_input = False

    def __init__(self, fraction: float = 0.999, eps: float = 1e-5, name: str | None = None):
        self.fraction, self.eps, self.name = fraction, eps, name

    def setup(self, plan, in_shape):
        self.ops, self.clock = plan.ops, plan.clock
        channels = (in_shape[-1],)
        self.count = plan.batch * prod(in_shape[:-1])
        self.mean, self.rstd = plan.fixed(channels), plan.fixed(channels)
        self.running_mean = plan.state("mean", channels)
        self.running_var = plan.state("variance", channels)
        self.weight = plan.state("weight", (1,))
        self.y, self.dx = plan.buffer(in_shape), plan.gradient(in_shape)
        return in_shape

    def forward(self, x, train):
        if train:
            self.ops.batchnorm_forward(x, self.y, self.mean, self.rstd, self.eps)
        else:
            self.ops.batchnorm_inference(x, self.y, self.running_mean, self.running_var,
                                         self.weight, self.eps)
        return self.y

    def backward(self, dy):
        self.ops.batchnorm_running(self.mean, self.rstd, self.running_mean, self.running_var,
                                   self.weight, self.count, self.fraction, self.eps, self.clock)
        if self.dx is not None:
            self.ops.batchnorm_backward(dy, self.y, self.rstd, self.dx)
        return self.dx
