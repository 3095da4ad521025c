"""The layers: each says what it needs in `setup`, and calls one op forward and one backward.

    y = layer.forward(x, train)        dx = layer.backward(dy)

Shapes in `setup` are without the batch: (H, W, C) or (F,). A layer writes only its own buffers and
keeps what its backward needs. `backward` returns None where nobody wants an input gradient. What
can't work is refused in `setup`, where the layer has its name and knows its input.

Read next: engine/plan.py, which every `setup` talks to.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, prod
from numbers import Real
from typing import Any

import numpy as np

from engine.errors import InputError, choose
from kernels import checks

Array = Any  # of the net's device, whichever that is


@dataclass
class Place:
    """Where a layer stands: its net (None once that gave it up or is gone), and the tensors that it
    has there, which it takes along into its next net."""

    net: Callable[[], Any]
    ops: Any
    tensors: dict[str, Array] = field(default_factory=dict)


class Layer:
    """What every layer is. A leaf's author writes `setup`, `forward` and `backward`, nothing
    else."""

    name: str = ""  # unless one is given, setup finds one: "conv3"
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    place: Place | None = None
    resting = False
    takes_slot = True  # whether its dx takes one of the lane's two slots
    keeps_input = True  # whether it wants x after its forward pass, or hands it on
    draws = False  # whether it draws random numbers outside training too
    multiply_adds = 0  # of one image's forward pass

    def __init__(self, name: str | None = None):
        self.name = name or ""

    @property
    def frozen(self) -> bool:
        """Whether training leaves its weights as they are. It may be set at any time; what lies
        below all that is trained has no backward pass then."""
        return self.resting

    @frozen.setter
    def frozen(self, frozen: bool) -> None:
        net = self.place.net() if self.place else None
        if net is None:
            self.resting = bool(frozen)
        else:
            net.rest([self], frozen)

    def setup(self, plan, in_shape: tuple[int, ...]) -> tuple[int, ...]:
        raise NotImplementedError

    def forward(self, x, train: bool):
        raise NotImplementedError

    def backward(self, dy):
        raise NotImplementedError


@dataclass(frozen=True)
class Original:
    """How the public file of a net fills a layer, for `--init original`: a filler of
    lsuv/fillers.py (with its deviation if it is gaussian, its bound if it is uniform), and the
    value of every bias."""

    filler: str
    std: float | None = None
    bias: float = 0.0


class Weighted(Layer):
    """A layer with weights: what initialisers, LSUV, diagnosis and the visitors expect of one.

    W is (pieces * outputs, ...) and b (pieces * outputs,), or None without bias; dW and db are
    their gradients. `forward` leaves z, the linear output with bias (a maxout's pieces side by side
    on the channels), which lasts until the next layer with weights runs, and `backward`, as long,
    its gradient dz. `weights` declares them. Weight decay is off for the bias unless `bias_decay`
    says otherwise (the authors' CIFAR nets: 0, their MNIST net: 1), and its rate is `bias_rate`
    times the net's (Caffe's ImageNet nets: 2); `rate` and `decay` multiply those of the weights.
    After an update the weights of one output have a 2-norm of at most `max_norm`, if it is given.
    """

    W: Array
    dW: Array
    b: Array = None
    db: Array = None
    z: Array
    dz: Array
    pieces = 1  # of a maxout behind it: each is filled and scaled alone
    gate: float | None = None  # of a highway unit: its last piece's bias, which LSUV does not scale
    original: Original | None = None

    def __init__(
        self,
        outputs: int,
        pieces: int = 1,
        bias: bool = True,
        bias_decay: float = 0.0,
        bias_rate: float = 1.0,
        original: Original | None = None,
        name: str | None = None,
        rate: float = 1.0,
        decay: float = 1.0,
        max_norm: float | None = None,
    ):
        super().__init__(name)
        self.max_norm = max_norm
        self.outputs, self.pieces = pieces * outputs, pieces
        self.bias, self.original = bias, original
        self.bias_decay, self.bias_rate = bias_decay, bias_rate
        self.rate, self.decay = rate, decay

    @property
    def fan_in(self) -> int:
        """Inputs of one output."""
        return prod(self.W.shape[1:])

    def weights(self, plan, shape: tuple[int, ...]) -> None:
        """Declare W of this shape, and b unless it has none."""
        plan.need(
            self.max_norm is None or (is_real(self.max_norm) and 0 < self.max_norm < inf),
            f"max_norm {self.max_norm!r} must be above 0",
        )
        self.W, self.dW = plan.param("W", shape, self.rate, self.decay)
        if self.bias:
            self.b, self.db = plan.param("b", shape[:1], self.bias_rate, self.bias_decay)


class Conv(Weighted):
    """Convolution. W is (P*C, R, S, inputs/groups), z is (N, Ho, Wo, P*C).

    `outputs` counts the channels of one maxout piece, `pieces` the pieces. Without `pad`, an odd
    `size` keeps the image's."""

    def __init__(
        self,
        outputs: int,
        size: int = 3,
        stride: int = 1,
        pad: int | None = None,
        groups: int = 1,
        pieces: int = 1,
        bias: bool = True,
        bias_decay: float = 0.0,
        bias_rate: float = 1.0,
        original: Original | None = None,
        name: str | None = None,
        rate: float = 1.0,
        decay: float = 1.0,
        max_norm: float | None = None,
    ):
        super().__init__(
            outputs, pieces, bias, bias_decay, bias_rate, original, name, rate, decay, max_norm
        )
        self.size, self.stride, self.groups = size, stride, groups
        self.pad = pad

    def setup(self, plan, in_shape):
        H, W, C = plan.image(in_shape)
        plan.whole(
            pieces=self.pieces,
            outputs=self.outputs,
            size=self.size,
            stride=self.stride,
            groups=self.groups,
        )
        self.pad = self.size // 2 if self.pad is None else self.pad
        plan.whole(0, pad=self.pad)
        K, R = self.outputs, self.size
        plan.need(
            C % self.groups == 0 and K % self.groups == 0,
            f"{C} inputs and {K} outputs do not split into {self.groups} groups",
        )
        Ho, Wo = ((n + 2 * self.pad - R) // self.stride + 1 for n in (H, W))
        plan.need(min(Ho, Wo) >= 1, f"a {H}x{W} input is smaller than the {R}x{R} kernel")
        self.ops = plan.ops
        self.weights(plan, (K, R, R, C // self.groups))
        self.multiply_adds = Ho * Wo * K * R * R * C // self.groups
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
        if not self.frozen:
            self.ops.conv_backward_filter(self.x, dz, self.dW, self.db, *shape)
        if self.dx is not None:
            self.ops.conv_backward_data(dz, self.W, self.dx, *shape)
        return self.dx


class Linear(Weighted):
    """Fully connected. W is (P*C, F); an (H, W, C) input is read as F = H*W*C in that order."""

    def setup(self, plan, in_shape):
        plan.whole(pieces=self.pieces, outputs=self.outputs)
        self.ops, K, F = plan.ops, self.outputs, prod(in_shape)
        self.weights(plan, (K, F))
        self.multiply_adds = K * F
        self.z = plan.output((K,))
        self.dx = plan.gradient(in_shape)
        return (K,)

    def forward(self, x, train):
        self.x = x.reshape(len(x), self.fan_in)  # (N, F), a view
        self.ops.linear_forward(self.x, self.W, self.b, self.z)
        return self.z

    def backward(self, dz):
        self.dz = dz
        if not self.frozen:
            self.ops.linear_backward_filter(self.x, dz, self.dW, self.db)
        if self.dx is not None:
            self.ops.linear_backward_data(dz, self.W, self.dx.reshape(self.x.shape))
        return self.dx


class Flatten(Layer):
    """(H, W, C) -> (H*W*C,), in that order: a view. Linear does it by itself; and only a Linear
    that reads the image has its inputs in a checkpoint in PyTorch's order, C, H, W."""

    takes_slot = False

    def setup(self, plan, in_shape):
        self.wanted = plan.input_gradient
        return (prod(in_shape),)

    def forward(self, x, train):
        return x.reshape(len(x), *self.out_shape)

    def backward(self, dy):
        return dy.reshape(len(dy), *self.in_shape) if self.wanted else None


class Maxout(Layer):
    """The largest of P pieces: (..., P*C) -> (..., C). Goodfellow et al. 2013.

    Keeps which piece won (a byte), not its input. The bias gradient stays with the convolution's
    filter pass, which has the data in cache. With `pool`, the max pooling of MaxPool(pool, stride)
    that follows is done in the same pass, and with `drop` the Dropout(drop) behind that, by the
    mask that it would have.
    """

    keeps_input = False

    def __init__(
        self,
        pieces: int = 2,
        pool: int | None = None,
        stride: int | None = None,
        drop: float = 0.0,
        name: str | None = None,
    ):
        super().__init__(name)
        if check_drop(drop) and pool is None:
            raise InputError(
                f"maxout with dropout {drop} and no pooling: put a Dropout({drop}) behind it"
            )
        self.pieces, self.pool, self.drop = pieces, pool, drop
        self.stride = (pool or 0) if stride is None else stride

    def setup(self, plan, in_shape):
        *space, channels = in_shape
        plan.whole(pieces=self.pieces)
        plan.need(
            channels % self.pieces == 0,
            f"{channels} channels do not split into {self.pieces} pieces",
        )
        if self.pool is not None:
            space = pooled(plan, in_shape, self.pool, self.stride)
        winners, most = self.pieces * (self.pool or 1) ** 2, 255 if self.drop else 256
        plan.need(
            winners <= most,
            f"{self.pieces} pieces and a window of {self.pool or 1} are "
            f"{winners} candidates, and it can tell {most} apart; use fewer, or a MaxPool",
        )
        self.ops, out_shape = plan.ops, (*space, channels // self.pieces)
        if self.drop:
            self.clock, self.seed, self.number = plan.clock, plan.seed, plan.random_number()
        self.y = plan.buffer(out_shape)
        self.which = plan.buffer(out_shape, np.uint8)
        self.dx = plan.gradient(in_shape)
        return out_shape

    def forward(self, x, train):
        shape = self.pieces, self.pool, self.stride
        if self.drop and train:
            self.ops.maxout_pool_dropout_forward(
                x, self.y, self.which, *shape, self.drop, self.seed, self.number, self.clock
            )
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


def is_real(value) -> bool:
    """Whether it is a number that can be compared; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_drop(drop: float) -> float:
    """A probability to drop as it is. InputError if it is none."""
    if not (is_real(drop) and 0 <= drop < 1):
        raise InputError(f"dropout {drop!r}: the probability to drop must lie in [0, 1)")
    return drop


def pooled(plan, in_shape, size: int, stride: int, pad: int = 0, most: int = 16) -> list[int]:
    """Caffe's output size of a pooling of (H, W, C): the ceiling, less a last window that would
    start beyond the image. InputError if no window fits, or for one of more than `most`."""
    H, W, _ = plan.image(in_shape)
    plan.whole(size=size, stride=stride)
    plan.whole(0, pad=pad)
    plan.need(
        size <= most,
        f"a window of {size}, and the widest is {most}; use GlobalMaxPool or several poolings",
    )
    plan.need(stride <= size, f"stride {stride} skips places between windows of {size}")
    plan.need(pad < size, f"with pad {pad} a window of {size} could lie in the padding alone")
    plan.need(
        min(H, W) + 2 * pad >= size, f"a {H}x{W} input is smaller than the {size}x{size} window"
    )
    return [checks.pooled(n, size, stride, pad) for n in (H, W)]


class Elementwise(Layer):
    """A function of each element, whose backward needs only its result."""

    keeps_input = False

    def setup(self, plan, in_shape):
        self.ops, self.y, self.dx = plan.ops, plan.buffer(in_shape), plan.gradient(in_shape)
        return in_shape


class LeakyReLU(Elementwise):
    """x where positive, else slope * x. Slope 0 is ReLU, 0.333 the paper's VLReLU."""

    def __init__(self, slope: float, name: str | None = None):
        super().__init__(name)
        self.slope = slope

    def setup(self, plan, in_shape):
        plan.need(
            is_real(self.slope) and 0 <= self.slope < inf, f"slope {self.slope!r} must be 0 or more"
        )
        return super().setup(plan, in_shape)

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


class PReLU(Layer):
    """x where positive, else slope * x, with a slope of each channel that is trained from 0.25 on,
    without weight decay. He et al. 2015."""

    def setup(self, plan, in_shape):
        self.slope, self.dslope = plan.param("slope", in_shape[-1:], decay=0.0, start=0.25)
        self.ops, self.y, self.dx = plan.ops, plan.buffer(in_shape), plan.gradient(in_shape)
        return in_shape

    def forward(self, x, train):
        self.x = x
        self.ops.prelu_forward(x, self.slope, self.y)
        return self.y

    def backward(self, dy):
        self.ops.prelu_backward(dy, self.x, self.slope, self.dx, self.dslope)
        return self.dx


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

    def __init__(self, size: int, stride: int | None = None, pad: int = 0, name: str | None = None):
        super().__init__(name)
        self.size, self.stride, self.pad = size, size if stride is None else stride, pad

    def setup(self, plan, in_shape):
        Ho, Wo = pooled(plan, in_shape, self.size, self.stride, self.pad)
        self.ops, C = plan.ops, in_shape[-1]
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


class FractionalMaxPool(Layer):
    """Max over windows of 2 x 2 that begin 1 or 2 places apart, so that a side shrinks to `height`
    (and `width`), by a factor below 2. Which are apart by 1 and which by 2 is random: drawn for
    each image, and in every step and every pass of a test anew. Graham 2014.

    Windows overlap unless `overlapping` is false; `random` draws their steps in any order, without
    it they are spread as evenly as one random shift allows. kernels/regions.py has the formulas."""

    keeps_input = False
    draws = True

    def __init__(
        self,
        height: int,
        width: int | None = None,
        overlapping: bool = True,
        random: bool = False,
        name: str | None = None,
    ):
        super().__init__(name)
        self.size = height, height if width is None else width
        self.overlapping, self.random = overlapping, random

    def setup(self, plan, in_shape):
        *lengths, C = plan.image(in_shape)
        plan.whole(height=self.size[0], width=self.size[1])
        for length, count in zip(lengths, self.size, strict=True):
            least, most = -(-length // 2), length - bool(self.overlapping)
            plan.need(
                least <= count <= most <= checks.LONGEST,
                f"a side of {length} shrinks to {least} to {most}, not to {count}",
            )
        out_shape = (*self.size, C)
        self.ops, number = plan.ops, plan.random_number()
        self.drawn = self.overlapping, self.random, plan.seed, number, plan.clock
        self.y, self.which = plan.buffer(out_shape), plan.buffer(out_shape, np.uint8)
        self.dx = plan.gradient(in_shape)
        return out_shape

    def forward(self, x, train):
        self.ops.fractional_maxpool_forward(x, self.y, self.which, *self.drawn)
        return self.y

    def backward(self, dy):
        if self.dx is not None:
            self.ops.fractional_maxpool_backward(dy, self.which, self.dx, *self.drawn)
        return self.dx


class AvgPool(Layer):
    """Mean over size x size windows, of Caffe's output size; of a window that is clipped, the mean
    of what is inside the image."""

    keeps_input = False

    def __init__(self, size: int, stride: int | None = None, name: str | None = None):
        super().__init__(name)
        self.size, self.stride = size, size if stride is None else stride

    def setup(self, plan, in_shape):
        out_shape = (*pooled(plan, in_shape, self.size, self.stride, most=1 << 20), in_shape[-1])
        self.ops, self.y, self.dx = plan.ops, plan.buffer(out_shape), plan.gradient(in_shape)
        return out_shape

    def forward(self, x, train):
        self.ops.avgpool_forward(x, self.y, self.size, self.stride)
        return self.y

    def backward(self, dy):
        if self.dx is not None:
            self.ops.avgpool_backward(dy, self.dx, self.size, self.stride)
        return self.dx


class GlobalMaxPool(Layer):
    """The largest of each channel: (H, W, C) -> (C,)."""

    keeps_input = False

    def setup(self, plan, in_shape):
        _, _, C = plan.image(in_shape)
        self.ops, self.y, self.dx = plan.ops, plan.buffer((C,)), plan.gradient(in_shape)
        self.which = plan.buffer((C,), np.int32)
        return (C,)

    def forward(self, x, train):
        self.ops.global_maxpool_forward(x, self.y, self.which)
        return self.y

    def backward(self, dy):
        if self.dx is not None:
            self.ops.global_maxpool_backward(dy, self.which, self.dx)
        return self.dx


class GlobalAvgPool(Layer):
    """The mean of each channel: (H, W, C) -> (C,). Lin et al. 2014."""

    keeps_input = False

    def setup(self, plan, in_shape):
        _, _, C = plan.image(in_shape)
        self.ops, self.y, self.dx = plan.ops, plan.buffer((C,)), plan.gradient(in_shape)
        return (C,)

    def forward(self, x, train):
        self.ops.global_avgpool_forward(x, self.y)
        return self.y

    def backward(self, dy):
        if self.dx is not None:
            self.ops.global_avgpool_backward(dy, self.dx)
        return self.dx


class LRN(Layer):
    """Local response normalisation across `size` channels: x / (1 + alpha / size * sum x^2)^beta.

    Krizhevsky et al. 2012, with Caffe's constants. Backward reads x again."""

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, name: str | None = None
    ):
        super().__init__(name)
        self.constants = size, alpha, beta, 1.0

    def setup(self, plan, in_shape):
        size, alpha, beta, _ = self.constants
        plan.whole(size=size)
        plan.need(size % 2 == 1, f"size {size}: the channels around one are an odd number")
        plan.need(
            is_real(alpha) and is_real(beta) and 0 <= alpha < inf and abs(beta) < inf,
            f"alpha {alpha}, beta {beta}: alpha must be 0 or more, and both finite",
        )
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


class Distort(Layer):
    """An image in the middle of a field of zeros, `size` pixels wide and high; in training as the
    rows of `table` say, which a feed puts there (engine/data/distortion.py).

    background: of the images, what lies around them; where all channels are within `least` of it,
    the field is zero. It hands no gradient on."""

    def __init__(
        self, size: int, background: float = 0.0, least: float = 0.0, name: str | None = None
    ):
        super().__init__(name)
        self.size, self.background, self.least = size, background, least

    def setup(self, plan, in_shape):
        H, W, C = plan.image(in_shape)
        plan.whole(max(H, W), size=self.size)
        plan.need(not plan.input_gradient, "it has no gradient; let nothing before it learn")
        self.ops, self.clock = plan.ops, plan.clock
        self.y = plan.buffer((self.size, self.size, C))
        self.table = self.still = plan.ops.constant(middle_of(in_shape, self.size))
        return self.size, self.size, C

    def forward(self, x, train):
        table = self.table if train else self.still
        self.ops.distort(x, table, self.y, self.clock, self.background, self.least)
        return self.y

    def backward(self, dy):
        return None


def middle_of(in_shape: tuple[int, ...], field: int) -> np.ndarray:
    """(1, 10 + 3 C) float32: the row of `ops.distort` for an image in the middle of its field."""
    height, width, channels = in_shape
    top, left = field // 2 - height // 2, field // 2 - width // 2
    row = [1, 0, -left, 0, 1, -top, left, top, left + width, top + height, *[0] * 3 * channels]
    return np.array([row], np.float32)


class Dropout(Layer):
    """Zero with probability `drop`. What is kept is, by `kind`, "inverted": times 1 / (1 - drop),
    and the layer the identity outside training, as in Caffe; "plain": as it is, and everything
    times 1 - drop outside training (Srivastava et al. 2014); "mask": as it is, nothing outside;
    "channel": like inverted, but whole channels, the same for all images of a step and a fixed
    number of them, from 64 channels on a multiple of 32 (Graham 2014); what is kept is multiplied
    by channels / kept.

    The mask is a pure function of seed, step, layer and place, so backward draws it again and
    nothing is stored."""

    def __init__(self, drop: float, kind: str = "inverted", name: str | None = None):
        super().__init__(name)
        self.drop = check_drop(drop)
        self.kind = choose("dropout", kind, ("inverted", "plain", "mask", "channel"))
        self.factor = 1 / (1 - self.drop) if kind == "inverted" else 1.0

    def setup(self, plan, in_shape):
        self.ops, self.clock, self.seed = plan.ops, plan.clock, plan.seed
        self.number = plan.random_number()
        self.y, self.dx = plan.buffer(in_shape), plan.gradient(in_shape)
        if self.kind == "channel":
            C = in_shape[-1]
            unit = 32 if C >= 64 else 1
            self.keep = unit * max(1, round(C * (1 - self.drop) / unit))
            self.factor = C / self.keep
            self.mask, self.none = plan.fixed((C,)), plan.fixed((C,))
            if self.none is not None:
                self.none[...] = 0
        return in_shape

    def forward(self, x, train):
        place = self.seed, self.number, self.clock
        if train and self.kind == "channel":
            self.ops.channel_mask(self.mask, self.keep, self.factor, *place)
            self.ops.scale_forward(x, self.mask, self.none, self.y)
        elif train:
            self.ops.dropout_forward(x, self.y, self.drop, *place, self.factor)
        elif self.kind == "plain":
            self.ops.dropout_forward(x, self.y, 0.0, *place, 1 - self.drop)
        else:
            return x
        return self.y

    def backward(self, dy):
        if self.kind == "channel" and self.dx is not None:
            self.ops.scale_forward(dy, self.mask, self.none, self.dx)
        elif self.dx is not None:
            place = self.seed, self.number, self.clock
            self.ops.dropout_backward(dy, self.dx, self.drop, *place, self.factor)
        return self.dx


class BatchNorm(Layer):
    """Batch normalisation per channel (Ioffe & Szegedy 2015): without scale and shift, as in the
    authors' Caffe, or `affine`, with both, which start at 1 and 0 and have no weight decay.

    Running sums are decayed by `fraction` and divided by their accumulated weight when used. They
    are updated in backward, so a forward pass that only looks (LSUV) leaves them as they were, and
    a clock that the loss latched keeps a bad batch out of them. (A batch whose gradient alone is
    not finite is in them, whose own numbers are finite; the run ends there, and saves nothing.)
    Frozen, it normalises by its running statistics, as outside training, and they stay.
    """

    keeps_input = False

    def __init__(
        self,
        fraction: float = 0.999,
        eps: float = 1e-5,
        affine: bool = False,
        name: str | None = None,
    ):
        super().__init__(name)
        self.fraction, self.eps, self.affine = fraction, eps, affine
        self.deferred = False  # whether another calls `track`, which sees more of the batch

    def setup(self, plan, in_shape):
        plan.need(
            is_real(self.fraction) and 0 <= self.fraction <= 1,
            f"fraction {self.fraction!r} must be in [0, 1]",
        )
        plan.need(is_real(self.eps) and 0 < self.eps < inf, f"eps {self.eps!r} must be above 0")
        self.ops, self.clock = plan.ops, plan.clock
        channels = in_shape[-1:]
        self.count = plan.batch * prod(in_shape[:-1])
        self.mean, self.rstd = plan.fixed(channels), plan.fixed(channels)
        self.running_mean = plan.state("mean", channels)
        self.running_var = plan.state("variance", channels)
        self.weight = plan.state("weight", (1,))
        if self.affine:
            self.scale, self.dscale = plan.param("scale", channels, decay=0.0, start=1.0)
            self.shift, self.dshift = plan.param("shift", channels, decay=0.0)
        self.y, self.dx = plan.buffer(in_shape), plan.gradient(in_shape)
        plan.need(
            not (self.frozen and plan.input_gradient),
            "batch normalisation that is frozen hands no gradient on; freeze what lies before it "
            "too, or let it learn",
        )
        self.normal = plan.buffer(in_shape) if self.affine else self.y
        return in_shape

    def forward(self, x, train):
        if train and not self.frozen:
            self.ops.batchnorm_forward(x, self.normal, self.mean, self.rstd, self.eps)
        else:
            self.ops.batchnorm_inference(
                x, self.normal, self.running_mean, self.running_var, self.weight, self.eps
            )
        if self.affine:
            self.ops.scale_forward(self.normal, self.scale, self.shift, self.y)
        return self.y

    def backward(self, dy):
        if self.frozen:
            return None
        if not self.deferred:
            self.track(self.mean, self.rstd)
        if self.affine:  # dy of what was normalised takes the place of y, which nobody reads now
            dnormal = None if self.dx is None else self.y
            self.ops.scale_backward(dy, self.normal, self.scale, dnormal, self.dscale, self.dshift)
            dy = dnormal
        if self.dx is not None:
            self.ops.batchnorm_backward(dy, self.normal, self.rstd, self.dx)
        return self.dx

    def track(self, mean, rstd) -> None:
        """Take up the statistics of a batch of this size in the running ones."""
        self.ops.batchnorm_running(
            mean,
            rstd,
            self.running_mean,
            self.running_var,
            self.weight,
            self.count,
            self.fraction,
            self.eps,
            self.clock,
        )
