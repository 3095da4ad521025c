"""The arguments with which tests/kernels/test_ops.py calls every operation: CASES[operation] is a
list of argument tuples, in the order of the operation's signature, on shapes that leave remainders
everywhere and with more elements than a tile or a thread takes. bench/common/cases.py builds them.

Read next: tests/kernels/test_ops.py.
"""

import inspect

import numpy as np

from bench.common.cases import Out, built, randn
from kernels.checks import MIRRORED, pooled
from kernels.clock import CLIP, FINITE, FIRST, RATE, SIZE, STEP, new_clock
from kernels.contract import OPERATIONS
from kernels.reference import NumpyOps

REFERENCE = NumpyOps()
METHODS = [
    name for name, _ in inspect.getmembers(NumpyOps, inspect.isfunction) if not name.startswith("_")
]
SEED = 2**63 + 5


def out(*shape, dtype=np.float32):
    """A result's buffer."""
    return Out(shape, dtype)


def which(*shape):
    return out(*shape, dtype=np.uint8)


def shuffled(*shape):
    """A permutation, so that no two values tie; some are negative, none is 0."""
    values = np.random.default_rng(shape).permutation(int(np.prod(shape))) - np.prod(shape) / 2
    return ((values + 0.25) / 8).reshape(shape).astype(np.float32)


def ties(*shape):
    return np.random.default_rng(shape).integers(-1, 2, shape).astype(np.float32)


def clock(step=3, first=1, rate=0.05, factor=0.5):
    values = new_clock()
    values[[STEP, FIRST, RATE, CLIP]] = step, first, rate, factor
    return values


def labels(N, K):
    values = np.random.default_rng((N, K)).integers(0, K, N).astype(np.int32)
    values[3::4] = -1
    return values


# -- the cases ------------------------------------------------------------------------------------

CASES = {name: [] for name in OPERATIONS}

for N, H, W, C, K, R, S, stride, pad, groups in [
    (7, 9, 11, 5, 3, 3, 3, 1, 1, 1),
    (7, 9, 11, 5, 7, 3, 2, 2, 1, 1),
    (3, 8, 7, 6, 9, 3, 3, 1, 1, 3),
    (2, 9, 11, 5, 13, 1, 1, 1, 0, 1),
    (1, 1, 1, 1, 1, 1, 1, 1, 0, 1),
    (4, 16, 16, 32, 48, 3, 3, 1, 1, 1),
    (0, 4, 4, 2, 3, 3, 3, 1, 1, 1),
    (2, 5, 4, 2, 3, 1, 1, 7, 3, 1),
]:
    x, w, b = randn(N, H, W, C), randn(K, R, S, C // groups), randn(K)
    Ho, Wo = (H + 2 * pad - R) // stride + 1, (W + 2 * pad - S) // stride + 1
    dy, options = randn(N, Ho, Wo, K), (stride, pad, groups)
    CASES["conv_forward"].append((x, w, b, out(N, Ho, Wo, K), *options))
    CASES["conv_backward_data"].append((dy, w, out(*x.shape), *options))
    CASES["conv_backward_filter"].append((x, dy, out(*w.shape), out(K), *options))
# x and dy of more than 13 MiB, which device cpu takes in three chunks
CASES["conv_backward_filter"].append(
    (randn(9, 64, 64, 64), randn(9, 64, 64, 96), out(96, 1, 1, 64), out(96), 1, 0, 1)
)

for N, F, K in [(7, 45, 3), (1, 1, 1), (130, 257, 10), (0, 5, 3)]:
    x, w, dy = randn(N, F), randn(K, F), randn(N, K)
    CASES["linear_forward"].append((x, w, randn(K), out(N, K)))
    CASES["linear_backward_data"].append((dy, w, out(N, F)))
    CASES["linear_backward_filter"].append((x, dy, out(K, F), out(K)))

# Without a bias: b is None, and db.
for name, place, first in [
    ("conv_forward", 2, 2),
    ("conv_backward_filter", 3, 2),
    ("linear_forward", 2, 0),
    ("linear_backward_filter", 3, 0),
]:
    CASES[name] += [
        (*case[:place], None, *case[place + 1 :]) for case in CASES[name][first : first + 6]
    ]

for shape, P in [
    ((7, 9, 11, 5), 2),
    ((7, 9, 11, 5), 3),
    ((7, 33), 1),
    ((1, 1), 2),
    ((0, 5), 2),
    ((9, 16, 16, 48), 2),
    ((9, 16, 16, 21), 5),
]:
    wide = (*shape[:-1], shape[-1] * P)
    won = np.random.default_rng(P).integers(0, P, shape, np.uint8)
    CASES["maxout_forward"] += [
        (fill(*wide), out(*shape), which(*shape), P) for fill in (shuffled, ties)
    ]
    CASES["maxout_backward"].append((randn(*shape), won, out(*wide), P))

for N, H, W, C, size, stride, pad in [
    (7, 9, 11, 5, 2, 2, 0),
    (7, 9, 11, 5, 3, 2, 0),
    (7, 9, 11, 5, 4, 2, 0),
    (3, 8, 8, 35, 8, 8, 0),
    (1, 1, 1, 1, 1, 1, 0),
    (2, 16, 17, 3, 16, 5, 0),
    (0, 4, 4, 2, 2, 2, 0),
    (5, 32, 32, 33, 2, 2, 0),
    (5, 32, 30, 17, 4, 2, 0),
    (3, 14, 15, 37, 3, 2, 0),
    (7, 9, 11, 5, 3, 1, 1),
    (3, 14, 15, 37, 3, 1, 1),
    (1, 1, 1, 1, 3, 1, 1),
    (2, 8, 9, 5, 3, 3, 1),
    (5, 32, 30, 17, 4, 2, 3),
    (2, 6, 7, 3, 16, 5, 15),
    (2, 5, 7, 18, 3, 2, 1),
    (2, 7, 5, 3, 2, 2, 1),
    (3, 9, 11, 8, 2, 2, 0),
    (2, 9, 10, 16, 3, 2, 0),
    (2, 7, 9, 8, 3, 3, 1),
    (2, 11, 13, 8, 6, 4, 3),
]:
    thin = (N, pooled(H, size, stride, pad), pooled(W, size, stride, pad), C)
    options = (size, stride, pad)
    for fill in (shuffled, ties):
        x, y, won = fill(N, H, W, C), np.zeros(thin, np.float32), np.zeros(thin, np.uint8)
        REFERENCE.maxpool_forward(x, y, won, *options)
        CASES["maxpool_forward"].append((x, out(*thin), which(*thin), *options))
        CASES["maxpool_backward"].append((randn(*thin), won, out(N, H, W, C), *options))

for N, H, W, C, Ho, Wo, overlapping in [
    (7, 9, 11, 5, 6, 8, True),
    (7, 9, 11, 5, 6, 11, False),
    (3, 3, 2, 35, 2, 1, True),
    (1, 1, 1, 1, 1, 1, False),
    (0, 4, 4, 2, 3, 2, True),
    (3, 16, 17, 32, 11, 9, True),
    (2, 9, 10, 16, 5, 7, False),
]:
    for random, layer, step in ((False, 3, 7), (True, 65535, 2**32 - 1)):
        drawn = (overlapping, random, SEED, layer, clock(step))
        for fill in (shuffled, ties):
            x, thin = fill(N, H, W, C), (N, Ho, Wo, C)
            y, won = np.zeros(thin, np.float32), np.zeros(thin, np.uint8)
            REFERENCE.fractional_maxpool_forward(x, y, won, *drawn)
            CASES["fractional_maxpool_forward"].append((x, out(*thin), which(*thin), *drawn))
            CASES["fractional_maxpool_backward"].append((randn(*thin), won, out(*x.shape), *drawn))

for C, keep in [(5, 3), (1, 0), (1, 1), (0, 0), (160, 128), (2083, 1024)]:
    for layer, step in ((3, 7), (65535, 2**32 - 1)):
        CASES["channel_mask"].append((out(C), keep, 1.5, SEED, layer, clock(step)))

for N, H, W, C, size, stride in [
    (7, 9, 11, 5, 2, 2),
    (7, 9, 11, 5, 3, 2),
    (3, 14, 14, 33, 5, 3),
    (3, 7, 7, 35, 7, 7),
    (1, 1, 1, 1, 1, 1),
    (2, 20, 21, 3, 20, 7),
    (0, 4, 4, 2, 2, 2),
    (5, 32, 30, 17, 4, 1),
    (3, 9, 11, 8, 3, 2),
    (2, 7, 9, 8, 7, 7),
]:
    thin = (N, pooled(H, size, stride), pooled(W, size, stride), C)
    CASES["avgpool_forward"].append((randn(N, H, W, C), out(*thin), size, stride))
    CASES["avgpool_backward"].append((randn(*thin), out(N, H, W, C), size, stride))

for N, H, W, C in [
    (7, 9, 11, 5),
    (3, 8, 8, 35),
    (1, 1, 1, 1),
    (2, 20, 21, 3),
    (0, 4, 4, 2),
    (3, 7, 7, 40),
    (2, 1, 300, 17),
]:
    CASES["global_avgpool_forward"].append((randn(N, H, W, C), out(N, C)))
    CASES["global_avgpool_backward"].append((randn(N, C), out(N, H, W, C)))
    for fill in (shuffled, ties):
        x, y, won = fill(N, H, W, C), np.zeros((N, C), np.float32), np.zeros((N, C), np.int32)
        REFERENCE.global_maxpool_forward(x, y, won)
        CASES["global_maxpool_forward"].append((x, out(N, C), out(N, C, dtype=np.int32)))
        CASES["global_maxpool_backward"].append((randn(N, C), won, out(N, H, W, C)))

for shape, size, alpha, beta, k in [
    ((7, 9, 11, 5), 5, 1e-4, 0.75, 1.0),
    ((7, 9, 11, 5), 3, 0.7, 0.75, 2.0),
    ((3, 67), 5, 2.0, 0.5, 1.0),
    ((1, 1), 5, 1.0, 0.75, 1.0),
    ((2, 3), 9, 0.9, 1.3, 0.5),
    ((0, 5), 5, 1e-4, 0.75, 1.0),
    ((5,), 1, 1.0, 0.75, 1.0),
    ((3, 9, 9, 96), 5, 1.5, 0.75, 1.0),
    ((2, 4), 5, 0.0, 0.75, 2.0),
    ((5, 8), 5, 0.7, 0.75, 1.0),
    ((3, 2500), 7, 0.7, 0.75, 1.0),
]:
    options = (size, alpha, beta, k)
    x, dy = 2 * randn(*shape), randn(*shape)[::-1].copy()
    CASES["lrn_forward"].append((x, out(*shape), *options))
    CASES["lrn_backward"].append((dy, x, out(*shape), *options))

for shape, C, first in [
    ((7, 9, 11, 5), 2, 1),
    ((7, 9, 11, 5), 5, 0),
    ((3, 67), 33, 34),
    ((1, 1), 1, 0),
    ((0, 5), 2, 3),
    ((9, 16, 16, 48), 17, 31),
    ((5, 7, 32), 16, 8),
    ((3, 4, 32), 8, 5),
]:
    x, whole = randn(*shape[:-1], C), randn(*shape)
    CASES["concat_forward"].append((x, whole, first))
    CASES["concat_backward"].append((whole, out(*x.shape), first))

for N, H, W, C, P, size, stride in [
    (7, 9, 11, 5, 2, 2, 2),
    (7, 9, 11, 5, 3, 3, 2),
    (3, 13, 13, 16, 2, 4, 2),
    (3, 8, 8, 35, 2, 8, 8),
    (1, 1, 1, 1, 1, 1, 1),
    (2, 7, 9, 3, 5, 7, 3),
    (0, 4, 4, 2, 2, 2, 2),
    (5, 32, 32, 33, 2, 2, 2),
    (3, 9, 11, 16, 2, 2, 2),
    (2, 9, 10, 8, 3, 3, 2),
    (2, 9, 8, 8, 2, 8, 8),
]:
    thin = (N, pooled(H, size, stride), pooled(W, size, stride), C)
    for fill in (shuffled, ties):
        x, y, won = fill(N, H, W, P * C), np.zeros(thin, np.float32), np.zeros(thin, np.uint8)
        REFERENCE.maxout_pool_forward(x, y, won, P, size, stride)
        options = (P, size, stride)
        CASES["maxout_pool_forward"].append((x, out(*thin), which(*thin), *options))
        CASES["maxout_pool_backward"].append((randn(*thin), won, out(*x.shape), *options))

for N, H, W, C, P, size, stride in [
    (7, 9, 11, 5, 2, 2, 2),
    (7, 9, 11, 5, 3, 3, 2),
    (3, 13, 13, 16, 2, 4, 2),
    (3, 8, 8, 35, 2, 8, 8),
    (1, 1, 1, 1, 1, 1, 1),
    (2, 7, 9, 3, 5, 7, 3),
    (0, 4, 4, 2, 2, 2, 2),
    (5, 32, 32, 33, 2, 2, 2),
    (2, 16, 15, 37, 1, 15, 5),
    (3, 12, 13, 37, 6, 6, 1),
    (3, 9, 11, 16, 2, 2, 2),
    (2, 9, 8, 8, 2, 8, 8),
    (2, 9, 10, 8, 3, 3, 2),
]:
    thin = (N, pooled(H, size, stride), pooled(W, size, stride), C)
    for drop, layer, step in ((0.2, 3, 7), (0.0, 0, 0), (0.999, 65535, 2**32 - 1)):
        for fill in (shuffled, ties):
            x, y = fill(N, H, W, P * C), np.zeros(thin, np.float32)
            options, won = (P, size, stride, drop), np.zeros(thin, np.uint8)
            more = (SEED, layer, clock(step))
            REFERENCE.maxout_pool_dropout_forward(x, y, won, *options, *more)
            CASES["maxout_pool_dropout_forward"].append(
                (x, out(*thin), which(*thin), *options, *more)
            )
            CASES["maxout_pool_dropout_backward"].append(
                (randn(*thin), won, out(*x.shape), *options)
            )

for shape in [(7, 9, 11, 5), (1, 1), (0, 3), (67,), (5, 64, 211)]:
    x, dy, y = 3 * randn(*shape), randn(*shape)[::-1].copy(), randn(*shape)
    for slope in (0.0, 0.333):
        CASES["leaky_forward"].append((x, out(*shape), slope))
        CASES["leaky_backward"].append((dy, y, out(*shape), slope))
    for name, result in (("tanh", np.tanh(x)), ("sigmoid", 1 / (1 + np.exp(-x)))):
        CASES[f"{name}_forward"].append((x, out(*shape)))
        CASES[f"{name}_backward"].append((dy, result, out(*shape)))
    for drop, layer, step in ((0.2, 3, 7), (0.0, 0, 0), (0.999, 65535, 2**32 - 1)):
        for factor in (1 / (1 - drop), 0.5):
            options = (drop, SEED, layer, clock(step), factor)
            CASES["dropout_forward"].append((x, out(*shape), *options))
            CASES["dropout_backward"].append((dy, out(*shape), *options))
    CASES["add"].append((x, dy, out(*shape)))

for shape in [(7, 9, 11, 5), (1, 1), (0, 3), (5, 64, 24)]:
    x, h, t = randn(*shape), np.maximum(randn(*shape), 0), 1 / (1 + np.exp(randn(*shape)))
    z, dy = 3 * randn(*shape[:-1], 2 * shape[-1]), randn(*shape)[::-1].copy()
    CASES["highway_forward"].append((x, z, *(out(*shape) for _ in range(3))))
    for dx in (out(*shape), None):
        CASES["highway_backward"].append((dy, x, h, t, out(*z.shape), dx))

for shape in [(7, 9, 11, 5), (2, 1), (300, 257), (9, 16, 16, 48)]:
    C, x = shape[-1], 2 * randn(*shape) + 1
    mean, rstd, weight = randn(C), 1 / (1 + abs(randn(C))), np.float32([2.5])
    CASES["batchnorm_forward"].append((x, out(*shape), out(C), out(C), 1e-5))
    CASES["batchnorm_backward"].append((randn(*shape), x, rstd, out(*shape)))
    for now in (clock(), np.where(np.arange(SIZE) == FINITE, 0, clock())):
        CASES["batchnorm_running"].append(
            (mean, rstd, mean[::-1].copy(), 2 * rstd, weight, x.size // C, 0.95, 1e-5, now)
        )
    CASES["batchnorm_inference"].append((x, out(*shape), mean, 2 * rstd, weight, 1e-5))

for shape in [(7, 9, 11, 5), (2, 1), (300, 257), (9, 16, 16, 48), (0, 3)]:
    C, x, dy = shape[-1], 2 * randn(*shape) + 1, randn(*shape)[::-1].copy()
    scale, shift = 1 + randn(C), randn(C)[::-1].copy()
    CASES["scale_forward"].append((x, scale, shift, out(*shape)))
    CASES["prelu_forward"].append((x, shift, out(*shape)))
    for dx in (out(*shape), None):
        CASES["scale_backward"].append((dy, x, scale, dx, out(C), out(C)))
        CASES["prelu_backward"].append((dy, x, shift, dx, out(C)))

for N, K in [(7, 5), (1, 1), (0, 3), (130, 10), (257, 101)]:
    scores, truth = 3 * randn(N, K), labels(N, K)
    prob = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    CASES["softmax"].append((scores, out(N, K)))
    per_class = np.float32(np.arange(K) % 3 + 0.5 * (K == 1))  # of some classes 0
    for name, argument, *options in [
        ("softmax_loss", prob, 0.1, per_class),
        ("softmax_loss", prob, 0.0, per_class),
        ("softmax_loss", prob, 0.0, None),
        ("softmax_loss", prob, 0.1, None),
        ("hinge_loss", scores),
        ("squared_hinge_loss", scores),
    ]:
        CASES[f"{name}_forward"].append((scores, truth, out(N, K), clock(), *options))
        CASES[f"{name}_backward"] += [
            (argument, truth, out(N, K), weight, *options) for weight in (1.0, 0.3)
        ]

    for numbers in ((4.0, 3.0, 3.0), (0.7, 2.0, 1.0), (0.0, 5.0, 2.0)):
        CASES["distillation_loss_forward"].append(
            (scores, truth, out(N, K), clock(), 5 * scores[::-1].copy(), *numbers)
        )

for shape in [(7, 5), (1, 1), (0, 3), (130, 10), (9, 16, 15, 3), (3, 1031)]:
    scores, wanted = 3 * randn(*shape), randn(*shape)[::-1] + 0.1
    wanted[1::4] = np.nan
    shares = np.where(abs(wanted) > 1, wanted > 0, abs(wanted)).astype(np.float32)
    shares[np.isnan(wanted)] = np.nan
    for name, given in [
        ("squared_error", wanted),
        ("absolute_error", wanted),
        ("binary_cross_entropy", shares),
        ("binary_cross_entropy", np.float32(scores > 0)),  # all are right
    ]:
        CASES[f"{name}_forward"].append((scores, given, clock()))
        CASES[f"{name}_backward"] += [(scores, given, out(*shape), w) for w in (1.0, 0.3)]

CASES["variance"] = [
    (x, groups)
    for groups in (1, 2, 5)
    for x in (
        randn(7, 9, 11, 10),
        randn(1, 10),
        1e3 + randn(3001, 10),
        1e3 + randn(40, 9, 11, 30),
        randn(2, 40000),
    )
]
CASES["orthonormal"] = [(9, 5, (SEED, 4, 2)), (5, 9, (1, 4, 0)), (1, 1, (1, 4, 0))]

for M, N, H, W, C, pad, move in [
    (11, 7, 9, 11, 5, 3, 2),
    (3, 1, 1, 1, 1, 0, 0),
    (20, 13, 32, 32, 3, 8, 8),
]:
    rng = np.random.default_rng(M)
    order = rng.integers(0, M, (3, N)).astype(np.int32)
    order[2, 1::3] = -1
    for augment, mirror, input_scale in (
        (True, 1, 0.53),
        (True, 2, 0.53),
        (True, 0, 1.0),
        (False, 1, 0.53),
        (True, 2, 0.25),
    ):
        CASES["gather"].append(
            (
                100 + 50 * randn(M, H, W, C)
                if input_scale == 0.25
                else rng.integers(0, 256, (M, H, W, C), np.uint8),
                rng.integers(0, 10, M).astype(np.int32),
                100 + randn(M),
                0.02 + 0.001 * randn(M),
                randn(H + 2 * pad, W + 2 * pad, C),
                order + (mirror == 2) * (order >= 0) * (order % 2) * MIRRORED,
                out(N, H, W, C),
                out(N, dtype=np.int32),
                clock(),
                SEED,
                pad,
                move,
                mirror,
                input_scale,
                augment,
            )
        )

for N, H, W, C, F in [(7, 9, 11, 5, 17), (1, 1, 1, 1, 1), (0, 2, 3, 1, 4), (3, 32, 32, 3, 94)]:
    rows = 2 * N + 1
    turned = np.tile(np.float32([0.9, 0.2, -4.5, -0.3, 1.1, 0.7]), (rows, 1))
    turned += 0.01 * randn(rows, 6)
    box = np.tile(np.float32([1, 2, F - 1, F]), (rows, 1))
    table = np.concatenate([turned, box, 0.1 * randn(rows, 3 * C)], axis=1)
    if F == 1:
        table[:] = np.float32([1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0.5, 0, 0])
    for least, now in ((0.1, clock()), (0.0, clock(step=1))):
        CASES["distort"].append((randn(N, H, W, C), table, out(N, F, F, C), now, 0.5, least))

for size in (1, 67, 50001):
    w, g, state = randn(size), 3 * randn(size), abs(randn(size))
    cut = size // 3
    parts = np.array([[0, cut, 1, 1], [cut, size, 2, 0]], np.float64)
    for now in (clock(), np.where(np.arange(SIZE) == FINITE, 0, clock())):
        for name in ("sgd_step", "nesterov_step"):
            CASES[name].append((w, g, state, parts, now, 0.9, 0.01))
        CASES["rmsprop_step"].append((w, g, state, parts, now, 0.9, 1e-4, 0.01, 0.0))
        CASES["rmsprop_step"].append((w, g, 0 * state, parts, now, 0.9999, 1e-4, 0.01, 0.0))
        CASES["rmsprop_step"].append((w, g, state, parts, now, 0.9, 0.0, 0.01, 0.9))
        for decay, decoupled, begun, every in ((0.01, False, 0, 1), (2.0, True, 1, 2)):
            tail = (0.9, 0.999, 1e-4, decay, decoupled, begun, every)
            CASES["adam_step"].append((w, g, 0.1 * w, state, parts, now, *tail))
        for begun, every in ((0, 1), (3, 1), (0, 4), (5, 1)):
            CASES["average"].append((w, w[::-1] + 1, now, 0.999, begun, every))
        CASES["average"].append((w, w[::-1] + 1, clock(5000), 0.9, 0, 2))
        for last in (True, False):
            CASES["accumulate"].append((g, w, 0.3, last, now))
    CASES["clip"] += [(g, limit, clock()) for limit in (0.0, 0.1, 1e9)]
CASES["clip"].append((np.zeros(0, np.float32), 1.0, clock()))
CASES["clip"].append((np.float32(1e25) * randn(1030), 1.0, clock()))  # squares beyond float32
for shape in [(1, 1), (7, 45), (0, 3), (3, 0), (33, 1000)]:
    for limit, now in (
        (0.9, clock()),
        (1e9, clock()),
        (0.9, latched := np.where(np.arange(SIZE) == FINITE, 0, clock())),
    ):
        CASES["max_norm"].append(
            (randn(*shape) * np.float32(1.5 / max(shape[1], 1) ** 0.5), limit, now)
        )
CASES["advance"] = [(clock(), np.arange(count, dtype=np.float64)) for count in (1, 3, 9)]
latched = np.where(np.arange(SIZE) == FINITE, 0, clock(5))
CASES["latch"] = [(latched, clock()), (clock(5), latched), (clock(5), clock()), (latched, latched)]


# -- running a case -------------------------------------------------------------------------------


def off_alignment(values):
    """A contiguous copy that starts one element after a 64-byte boundary."""
    room = REFERENCE.empty((values.size + 1,), values.dtype)
    room[1:] = values.reshape(-1)
    return room[1:].reshape(values.shape)


def arguments(name, number, dtype):
    """{argument: value} of a case, new arrays, float arrays in `dtype`; with dtype bfloat16 those
    that may be it, the others float32."""
    values = dict(zip(OPERATIONS[name].arguments, CASES[name][number], strict=True))
    return {
        key: off_alignment(value) if isinstance(value, np.ndarray) else value
        for key, value in built(name, values, dtype).items()
    }


def run(ops, name, number, dtype=np.float32):
    """{argument: array after the call}, and what was returned, if anything."""
    values = arguments(name, number, dtype)
    returned = getattr(ops, name)(**values)
    arrays = {key: value for key, value in values.items() if isinstance(value, np.ndarray)}
    if returned is not None:
        returned = returned if isinstance(returned, tuple) else (returned,)
        arrays |= {f"returned {i}": array for i, array in enumerate(returned)}
    return arrays
