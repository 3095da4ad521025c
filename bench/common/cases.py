"""Every operation on the shapes of the paper's nets: what bench/kernels.py times.

`cases()` are FitNet-4's at its batch of 128, FitNet-MNIST's at 64, CaffeNet's and GoogLeNet's at
32; `cases(small=True)` the same on two images; `odd_cases()` are of no net. A case makes its
arguments when it is asked for them, always the same; `Out` is a buffer that the operation fills.
Arguments that no operation has ("x" of a backward) are what its forward had read: a peer's backward
reads it again.

Read next: bench/common/calls.py, which calls an operation with them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from ml_dtypes import bfloat16

from bench.common.ours import moved
from kernels.checks import pooled
from kernels.clock import FIRST, RATE, STEP, new_clock
from kernels.contract import ACTIVATION, DTYPES, OPERATIONS, Operation
from kernels.philox import WEIGHTS
from kernels.reference import NumpyOps

SEED = 1
ARENA = (2_739_960, 2_742_102)  # of FitNet-4: where the biases begin, and its end
VALUE_LOSSES = "squared_error", "absolute_error", "binary_cross_entropy"
REFERENCE = NumpyOps()


@dataclass(frozen=True)
class Out:
    """A buffer of this shape and dtype, full of what no operation writes."""

    shape: tuple[int, ...]
    dtype: type = np.float32

    def array(self) -> np.ndarray:
        return np.full(self.shape, np.nan if self.dtype == np.float32 else 251, self.dtype)


@dataclass(frozen=True)
class Case:
    """An operation, its sizes in words, its arguments, and its floating-point operations where
    those bound it (None: the bytes do)."""

    op: str
    text: str
    make: Callable[[], dict]
    flops: float | None = None

    @property
    def contract(self) -> Operation:
        return OPERATIONS[self.op]

    def arguments(self, precision: str, peers: bool = False) -> dict:
        """{name: host array or number} in the order of the signature, float32 and, where the
        contract has it, bfloat16; the weights of a product in bf16 hold what bfloat16 can, so that
        their rounding is no difference. peers: also the arguments that only a peer needs."""
        values = {
            name: value
            for name, value in self.make().items()
            if peers or name in self.contract.arguments
        }
        arguments = built(self.op, values, bfloat16 if precision == "bf16" else np.float32)
        if precision == "bf16" and "W" in arguments:
            arguments["W"] = arguments["W"].astype(bfloat16).astype(np.float32)
        return arguments

    def has(self, precision: str) -> bool:
        """Whether the operation is another one in this precision; TF32 is of products alone."""
        if precision == "tf32":
            return self.op.startswith(("conv", "linear"))
        return precision == "fp32" or any(map(self.contract.activation, self.contract.arguments))

    def bytes(self, arguments: dict) -> int:
        """What must move at least: every array read once or written once, or both."""
        if self.op == "orthonormal":
            return 4 * arguments["rows"] * arguments["cols"]
        again = sum(arguments[name].nbytes for name in self.contract.updated)
        return moved(self.op, list(arguments.values())) + again


def built(op: str, values: dict, dtype) -> dict:
    """{name: array or number} of an operation: for every array and `Out` a new array, floats in
    `dtype`, or where that is bfloat16 and the contract has float32, in float32."""
    arguments = {}
    for name, value in values.items():
        kind = OPERATIONS[op].dtypes.get(name, DTYPES.get(name))  # a peer's argument is of no table
        if isinstance(value, Out):
            value = value.array()
        if isinstance(value, np.ndarray) and kind in (np.float32, ACTIVATION):
            narrow = dtype != bfloat16 or kind is ACTIVATION
            value = value.astype(dtype if narrow else np.float32)
        arguments[name] = value
    return arguments


def randn(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def times(*sizes: int) -> str:
    return "x".join(map(str, sizes))


def clock() -> np.ndarray:
    values = new_clock()
    values[[STEP, FIRST, RATE]] = 3, 3, 0.01
    return values


def labels(N: int, K: int) -> np.ndarray:
    return np.random.default_rng((N, K)).integers(0, K, N).astype(np.int32)


def cases(small: bool = False) -> list[Case]:
    """small: two images and a short arena, to try what is timed elsewhere."""
    N, mnist, imagenet = (2, 2, 2) if small else (128, 64, 32)
    return [
        *conv(N, 32, 32, 64),
        *conv(N, 16, 80, 160),
        *conv(N, 8, 128, 256),
        *conv(mnist, 28, 16, 32),
        *conv(N, 8, 128, 256, bias=False),
        *linear(N, 128, 2500),
        *linear(N, 500, 10),
        *linear(N, 500, 10, bias=False),
        *maxout((N, 32, 32), 32, 2),
        *maxout((N,), 500, 5),
        *pool(N, 32, 48, 2, 2),
        *pool(mnist, 28, 16, 4, 2),
        *pool(imagenet, 55, 96, 3, 2),
        *pool(imagenet, 28, 192, 3, 1, 1),
        *fractional(mnist, 35, 32, 25),
        *average(imagenet, 14, 512, 5, 3),
        *average(imagenet, 7, 1024, 7, 7),
        *global_pool(imagenet, 7, 1024),
        *lrn((imagenet, 27, 27, 96)),
        *concat((imagenet, 28, 28, 256), 64, 128),
        *maxout_pool(N, 32, 48, 2, 2, 2),
        *maxout_pool(mnist, 28, 16, 2, 4, 2),
        *maxout_pool(N, 32, 48, 2, 2, 2, drop=True),
        *elementwise((N, 32, 32, 32)),
        *highway((N, 16, 16, 80)),
        *dropout((N, 16, 16, 48)),
        mask(2080, 1120),
        *batchnorm((N, 32, 32, 32)),
        *channelwise((N, 32, 32, 32)),
        *loss(N, 10),
        variance((N, 32, 32, 64), 2),
        variance((N, 8, 8, 256), 2),
        *(
            (orthonormal(8, 20), orthonormal(20, 8))
            if small
            else (orthonormal(500, 128), orthonormal(128, 1152))
        ),
        gather(40 if small else 10_000, N, 32, 3, pad=8, move=8),
        distort(N, 32, 3, 94),
        *optimisation(*((60, 70) if small else ARENA)),
    ]


def odd_cases() -> list[Case]:
    """Every operation on sizes that leave a remainder wherever something is divided."""
    return [
        *conv(3, 9, 5, 7),
        *linear(7, 45, 3),
        *maxout((7, 9, 11), 5, 3),
        *global_pool(7, 9, 5),
        *pool(7, 11, 5, 3, 2),
        *pool(3, 14, 37, 3, 1, 1),
        *fractional(3, 11, 7, 8),
        *average(3, 14, 33, 5, 3),
        *lrn((3, 9, 67)),
        *concat((7, 9, 11), 2, 5),
        *maxout_pool(3, 13, 5, 3, 3, 2),
        *maxout_pool(3, 13, 5, 2, 3, 2, drop=True),
        *elementwise((7, 9, 11, 5)),
        *highway((7, 9, 11, 5)),
        *dropout((7, 9, 11, 5)),
        mask(67, 43),
        *batchnorm((7, 9, 11, 5)),
        *channelwise((7, 9, 11, 5)),
        *loss(131, 11),
        variance((7, 9, 11, 10), 5),
        orthonormal(67, 43),
        orthonormal(43, 97),
        gather(11, 7, 9, 5, pad=3, move=2),
        distort(3, 9, 5, 17),
        *optimisation(22, 67),
    ]


def conv(N: int, size: int, C: int, K: int, bias: bool = True) -> list[Case]:
    """3x3 with a border of 1. He's scale: results of order one, as in a net. Without a bias the two
    passes that have one otherwise."""
    shape, filters, out = (N, size, size, C), (K, 3, 3, C), (N, size, size, K)
    text, flops = f"{times(*shape)} to {K}, 3x3", 2.0 * math.prod(out) * 9 * C
    text += "" if bias else ", no bias"
    options = {"stride": 1, "pad": 1, "groups": 1}

    def weights():
        return randn(*filters) * np.float32(math.sqrt(2 / (9 * C)))

    made = [
        Case(
            "conv_forward",
            text,
            lambda: {
                "x": randn(*shape),
                "W": weights(),
                "b": randn(K) if bias else None,
                "y": Out(out),
                **options,
            },
            flops,
        ),
        Case(
            "conv_backward_data",
            text,
            lambda: {"dy": randn(*out), "W": weights(), "dx": Out(shape), **options},
            flops,
        ),
        Case(
            "conv_backward_filter",
            text,
            lambda: {
                "x": randn(*shape),
                "dy": randn(*out),
                "dW": Out(filters),
                "db": Out((K,)) if bias else None,
                **options,
            },
            flops,
        ),
    ]
    return made if bias else made[::2]


def linear(N: int, F: int, K: int, bias: bool = True) -> list[Case]:
    text, flops = f"{times(N, F)} to {K}", 2.0 * N * F * K
    text += "" if bias else ", no bias"

    def weights():
        return randn(K, F) * np.float32(math.sqrt(1 / F))

    made = [
        Case(
            "linear_forward",
            text,
            lambda: {
                "x": randn(N, F),
                "W": weights(),
                "b": randn(K) if bias else None,
                "y": Out((N, K)),
            },
            flops,
        ),
        Case(
            "linear_backward_data",
            text,
            lambda: {"dy": randn(N, K), "W": weights(), "dx": Out((N, F))},
            flops,
        ),
        Case(
            "linear_backward_filter",
            text,
            lambda: {
                "x": randn(N, F),
                "dy": randn(N, K),
                "dW": Out((K, F)),
                "db": Out((K,)) if bias else None,
            },
            flops,
        ),
    ]
    return made if bias else made[::2]


def maxout(places: tuple[int, ...], C: int, P: int) -> list[Case]:
    wide, thin = (*places, P * C), (*places, C)
    text = f"{times(*wide)}, {P} pieces"

    def forward():
        return {"x": randn(*wide), "y": Out(thin), "which": Out(thin, np.uint8), "pieces": P}

    return [
        Case("maxout_forward", text, forward),
        Case("maxout_backward", text, lambda: backward("maxout", forward(), thin, wide)),
    ]


def pool(N: int, size: int, C: int, window: int, stride: int, pad: int = 0) -> list[Case]:
    wide, out = (N, size, size, C), pooled(size, window, stride, pad)
    thin = (N, out, out, C)
    text = f"{times(*wide)}, {window}x{window} by {stride}" + (f", pad {pad}" if pad else "")

    def forward():
        return {
            "x": randn(*wide),
            "y": Out(thin),
            "which": Out(thin, np.uint8),
            "size": window,
            "stride": stride,
            "pad": pad,
        }

    return [
        Case("maxpool_forward", text, forward),
        Case("maxpool_backward", text, lambda: backward("maxpool", forward(), thin, wide)),
    ]


def fractional(N: int, size: int, C: int, count: int) -> list[Case]:
    """Overlapping windows, pseudo-random."""
    wide, thin = (N, size, size, C), (N, count, count, C)
    text = f"{times(*wide)} to {count}x{count}"
    drawn = {"overlapping": True, "random": False, "seed": SEED, "layer": 2}

    def forward():
        own = {"x": randn(*wide), "y": Out(thin), "which": Out(thin, np.uint8)}
        return {**own, **drawn, "clock": clock()}

    return [
        Case("fractional_maxpool_forward", text, forward),
        Case(
            "fractional_maxpool_backward",
            text,
            lambda: backward("fractional_maxpool", forward(), thin, wide),
        ),
    ]


def average(N: int, size: int, C: int, window: int, stride: int) -> list[Case]:
    wide, out = (N, size, size, C), pooled(size, window, stride)
    thin, options = (N, out, out, C), {"size": window, "stride": stride}
    text = f"{times(*wide)}, {window}x{window} by {stride}"
    return [
        Case("avgpool_forward", text, lambda: {"x": randn(*wide), "y": Out(thin), **options}),
        Case("avgpool_backward", text, lambda: {"dy": randn(*thin), "dx": Out(wide), **options}),
    ]


def global_pool(N: int, size: int, C: int) -> list[Case]:
    wide, text = (N, size, size, C), times(N, size, size, C)

    def forward():
        return {"x": randn(*wide), "y": Out((N, C)), "which": Out((N, C), np.int32)}

    return [
        Case("global_maxpool_forward", text, forward),
        Case(
            "global_maxpool_backward",
            text,
            lambda: backward("global_maxpool", forward(), (N, C), wide),
        ),
        Case("global_avgpool_forward", text, lambda: {"x": randn(*wide), "y": Out((N, C))}),
        Case(
            "global_avgpool_backward",
            text,
            lambda: {"dy": randn(N, C), "dx": Out(wide), "x": randn(*wide)},
        ),
    ]


def lrn(shape: tuple[int, ...]) -> list[Case]:
    text = f"{times(*shape)}, 5 channels"
    options = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0}
    return [
        Case("lrn_forward", text, lambda: {"x": randn(*shape), "y": Out(shape), **options}),
        Case(
            "lrn_backward",
            text,
            lambda: {
                "dy": randn(*shape)[::-1].copy(),
                "x": randn(*shape),
                "dx": Out(shape),
                **options,
            },
        ),
    ]


def concat(shape: tuple[int, ...], first: int, C: int) -> list[Case]:
    """C channels of `shape`, from the one that is number `first` on."""
    part = (*shape[:-1], C)
    text = f"{times(*part)} of {shape[-1]}"
    return [
        Case(
            "concat_forward", text, lambda: {"x": randn(*part), "y": randn(*shape), "first": first}
        ),
        Case(
            "concat_backward", text, lambda: {"dy": randn(*shape), "dx": Out(part), "first": first}
        ),
    ]


def maxout_pool(
    N: int, size: int, C: int, P: int, window: int, stride: int, drop: bool = False
) -> list[Case]:
    """drop: with the dropout behind it."""
    wide, out = (N, size, size, P * C), pooled(size, window, stride)
    thin, name = (N, out, out, C), "maxout_pool_dropout" if drop else "maxout_pool"
    text = f"{times(*wide)}, {P} pieces, {window}x{window} by {stride}"

    def forward():
        more = {"drop": 0.2, "seed": SEED, "layer": 2, "clock": clock()} if drop else {}
        return {
            "x": randn(*wide),
            "y": Out(thin),
            "which": Out(thin, np.uint8),
            "pieces": P,
            "size": window,
            "stride": stride,
            **more,
        }

    return [
        Case(f"{name}_forward", text, forward),
        Case(f"{name}_backward", text, lambda: backward(name, forward(), thin, wide)),
    ]


def backward(name: str, forward: dict, thin, wide) -> dict:
    """The backward's arguments, with the winners that the forward has on its x."""
    x, y, which, *options = (v.array() if isinstance(v, Out) else v for v in forward.values())
    getattr(REFERENCE, f"{name}_forward")(x, y, which, *options)
    ours = OPERATIONS[f"{name}_backward"].arguments
    named = {key: forward[key] for key in forward if key in ours and key != "which"}
    return {"dy": randn(*thin), "which": which, "dx": Out(wide), **named, "x": x}


def elementwise(shape: tuple[int, ...]) -> list[Case]:
    text, slope = times(*shape), 0.333

    def forward(**more):
        return lambda: {"x": randn(*shape), "y": Out(shape), **more}

    def backward(act, **more):
        return lambda: {
            "dy": randn(*shape)[::-1].copy(),
            "y": act(randn(*shape)),
            "dx": Out(shape),
            **more,
        }

    return [
        Case("leaky_forward", text, forward(slope=slope)),
        Case(
            "leaky_backward",
            text,
            backward(lambda x: np.where(x > 0, x, np.float32(slope) * x), slope=slope),
        ),
        Case("tanh_forward", text, forward()),
        Case("tanh_backward", text, backward(np.tanh)),
        Case("sigmoid_forward", text, forward()),
        Case("sigmoid_backward", text, backward(lambda x: 1 / (1 + np.exp(-x)))),
        Case(
            "add",
            text,
            lambda: {"a": randn(*shape), "b": randn(*shape)[::-1].copy(), "y": Out(shape)},
        ),
    ]


def dropout(shape: tuple[int, ...]) -> list[Case]:
    options, factor = {"drop": 0.2, "seed": SEED, "layer": 2}, 1.25
    return [
        Case(
            "dropout_forward",
            times(*shape),
            lambda: {
                "x": randn(*shape),
                "y": Out(shape),
                **options,
                "clock": clock(),
                "factor": factor,
            },
        ),
        Case(
            "dropout_backward",
            times(*shape),
            lambda: {
                "dy": randn(*shape),
                "dx": Out(shape),
                **options,
                "clock": clock(),
                "factor": factor,
            },
        ),
    ]


def mask(C: int, keep: int) -> Case:
    options = {"keep": keep, "factor": C / keep, "seed": SEED, "layer": 2}
    return Case(
        "channel_mask", f"{keep} of {C}", lambda: {"mask": Out((C,)), **options, "clock": clock()}
    )


def batchnorm(shape: tuple[int, ...]) -> list[Case]:
    text, C = times(*shape), shape[-1]
    count, eps = math.prod(shape[:-1]), 1e-5

    def statistics():
        return {
            "running_mean": randn(C),
            "running_var": 1 + np.abs(randn(C)),
            "weight": np.float32([2.5]),
        }

    def normalised():
        x = randn(*shape)
        return (x - x.mean((0, 1, 2))) / x.std((0, 1, 2))

    def rstd():
        return 1 / (1 + np.abs(randn(C)))

    return [
        Case(
            "batchnorm_forward",
            text,
            lambda: {
                "x": 2 * randn(*shape) + 1,
                "y": Out(shape),
                "mean": Out((C,)),
                "rstd": Out((C,)),
                "eps": eps,
            },
        ),
        Case(
            "batchnorm_backward",
            text,
            lambda: {
                "dy": randn(*shape)[::-1].copy(),
                "y": normalised(),
                "rstd": rstd(),
                "dx": Out(shape),
            },
        ),
        Case(
            "batchnorm_running",
            str(C),
            lambda: {
                "mean": randn(C),
                "rstd": rstd(),
                **statistics(),
                "count": count,
                "fraction": 0.95,
                "eps": eps,
                "clock": clock(),
            },
        ),
        Case(
            "batchnorm_inference",
            text,
            lambda: {"x": randn(*shape), "y": Out(shape), **statistics(), "eps": eps},
        ),
    ]


def highway(shape: tuple[int, ...]) -> list[Case]:
    text, twice = times(*shape), (*shape[:-1], 2 * shape[-1])

    def forward():
        return {"x": randn(*shape), "z": randn(*twice), **{name: Out(shape) for name in "hty"}}

    def backward():
        h, t = np.maximum(randn(*shape), 0), 1 / (1 + np.exp(randn(*shape)))
        own = {"dy": randn(*shape)[::-1].copy(), "x": randn(*shape), "h": h, "t": t}
        return {**own, "dz": Out(twice), "dx": Out(shape)}

    return [Case("highway_forward", text, forward), Case("highway_backward", text, backward)]


def channelwise(shape: tuple[int, ...]) -> list[Case]:
    text, C = times(*shape), shape[-1]

    def gradient():
        return {"dy": randn(*shape)[::-1].copy(), "x": randn(*shape)}

    return [
        Case(
            "scale_forward",
            text,
            lambda: {
                "x": randn(*shape),
                "scale": 1 + randn(C),
                "shift": randn(C)[::-1].copy(),
                "y": Out(shape),
            },
        ),
        Case(
            "scale_backward",
            text,
            lambda: {
                **gradient(),
                "scale": 1 + randn(C),
                "dx": Out(shape),
                "dscale": Out((C,)),
                "dshift": Out((C,)),
            },
        ),
        Case(
            "prelu_forward", text, lambda: {"x": randn(*shape), "slope": randn(C), "y": Out(shape)}
        ),
        Case(
            "prelu_backward",
            text,
            lambda: {**gradient(), "slope": randn(C), "dx": Out(shape), "dslope": Out((C,))},
        ),
    ]


def loss(N: int, K: int) -> list[Case]:
    text = times(N, K)

    def prob():
        odds = np.exp(randn(N, K))
        return odds / odds.sum(axis=1, keepdims=True)

    def forward(**options):
        return lambda: {
            "scores": randn(N, K),
            "labels": labels(N, K),
            "prob": Out((N, K)),
            "clock": clock(),
            **options,
        }

    def backward(name, values, **options):
        return lambda: {
            name: values(),
            "labels": labels(N, K),
            "dscores": Out((N, K)),
            "weight": 1.0,
            **options,
        }

    def scores():
        return randn(N, K)

    return [
        Case("softmax", text, lambda: {"scores": randn(N, K), "prob": Out((N, K))}),
        *(
            Case(f"softmax_loss_{way}", text + words, make(smoothing=smoothing, weights=weights))
            for words, smoothing, weights in (
                ("", 0.0, None),
                (", smoothing 0.1", 0.1, None),
                (", smoothing 0.1, weights", 0.1, 0.5 + np.arange(K, dtype=np.float32)),
            )
            for way, make in (("forward", forward), ("backward", partial(backward, "prob", prob)))
        ),
        *(
            Case(f"{name}_loss_{way}", text, make)
            for name in ("hinge", "squared_hinge")
            for way, make in (("forward", forward()), ("backward", backward("scores", scores)))
        ),
        Case(
            "distillation_loss_forward",
            text,
            forward(
                values=randn(N, K)[::-1].copy(), share=4.0, temperature=3.0, student_temperature=3.0
            ),
        ),
        *(case for name in VALUE_LOSSES for case in value_loss(name, (N, 32, 3 if N > 2 else 2))),
    ]


def value_loss(name: str, shape: tuple[int, ...]) -> list[Case]:
    def given():
        shares = np.abs(randn(*shape)[::-1]) % 1
        return {"scores": randn(*shape), "values": shares}

    return [
        Case(f"{name}_forward", times(*shape), lambda: {**given(), "clock": clock()}),
        Case(
            f"{name}_backward",
            times(*shape),
            lambda: {**given(), "dscores": Out(shape), "weight": 1.0},
        ),
    ]


def variance(shape: tuple[int, ...], groups: int) -> Case:
    return Case(
        "variance",
        f"{times(*shape)}, {groups} groups",
        lambda: {"x": randn(*shape) + 1, "groups": groups},
    )


def orthonormal(rows: int, cols: int) -> Case:
    """The reflectors' application alone, LAPACK's count; drawing them is extra."""
    m, n = max(rows, cols), min(rows, cols)
    return Case(
        "orthonormal",
        times(rows, cols),
        lambda: {"rows": rows, "cols": cols, "key": (SEED, WEIGHTS, 0)},
        2.0 * m * n * n - 2.0 * n**3 / 3,
    )


def distort(N: int, size: int, C: int, field: int) -> Case:
    """Turned by 0.2, in the middle of the field."""
    sin, cos, edge = math.sin(0.2), math.cos(0.2), (field - size) // 2
    middle = (field - 1) / 2
    row = [cos, sin, -(cos + sin) * middle + (size - 1) / 2]
    row += [-sin, cos, (sin - cos) * middle + (size - 1) / 2]
    row += [edge, edge, edge + size, edge + size, *[0.1, 0.001, 0.002] * C]

    def make():
        table = np.tile(np.float32(row), (N, 1))
        own = {"x": randn(N, size, size, C), "table": table, "y": Out((N, field, field, C))}
        return {**own, "clock": clock(), "background": 0.5, "least": 0.01}

    return Case("distort", f"{times(N, size, size, C)} in {field}x{field}", make)


def gather(M: int, N: int, size: int, C: int, pad: int, move: int) -> Case:
    def make():
        rng = np.random.default_rng(M)
        padded = size + 2 * pad
        return {
            "images": rng.integers(0, 256, (M, size, size, C), np.uint8),
            "labels": labels(M, 10),
            "shift": 100 + randn(M),
            "scale": 0.02 + 0.001 * randn(M),
            "mean_image": randn(padded, padded, C),
            "order": rng.integers(0, M, (3, N)).astype(np.int32),
            "x": Out((N, size, size, C)),
            "y": Out((N,), np.int32),
            "clock": clock(),
            "seed": SEED,
            "pad": pad,
            "move": move,
            "mirror": 1,
            "input_scale": 0.53,
            "augment": True,
        }

    return Case("gather", f"{N} of {times(M, size, size, C)}", make)


def optimisation(biases: int, size: int) -> list[Case]:
    """Weights, which decay, then biases with twice the rate, which do not."""
    segments = np.array([[0, biases, 1, 1], [biases, size, 2, 0]], np.float64)

    def step(*states, **options):
        return lambda: {
            "w": randn(size),
            "g": 0.1 * randn(size)[::-1].copy(),
            **{state: np.abs(randn(size)) for state in states},
            "segments": segments.copy(),
            "clock": clock(),
            **options,
        }

    return [
        Case("clip", str(size), lambda: {"g": randn(size), "limit": 1.0, "clock": clock()}),
        Case("sgd_step", str(size), step("v", momentum=0.9, decay=5e-4)),
        Case("nesterov_step", str(size), step("v", momentum=0.9, decay=5e-4)),
        Case("rmsprop_step", str(size), step("s", rho=0.9, delta=1e-8, decay=5e-4, floor=0.0)),
        Case(
            "adam_step",
            str(size),
            step(
                "mean",
                "s",
                beta1=0.9,
                beta2=0.999,
                delta=1e-8,
                decay=5e-4,
                decoupled=True,
                begun=0,
                every=1,
            ),
        ),
        Case(
            "average",
            str(size),
            lambda: {
                "w": randn(size),
                "mean": randn(size)[::-1].copy(),
                "clock": clock(),
                "decay": 0.999,
                "begun": 0,
                "every": 1,
            },
        ),
        Case(
            "max_norm",
            str(size),
            lambda: {"W": randn(size)[None].copy(), "limit": 0.9, "clock": clock()},
        ),
        Case(
            "accumulate",
            f"{size}, not the last part",
            lambda: {
                "g": randn(size),
                "total": randn(size)[::-1].copy(),
                "share": 0.25,
                "last": False,
                "clock": clock(),
            },
        ),
        Case(
            "advance", "391 rates", lambda: {"clock": clock(), "rates": np.linspace(0.01, 0, 391)}
        ),
        Case("latch", "2 clocks", lambda: {"own": clock(), "clock": clock()}),
    ]
