"""The reference against mathematics: every forward against a direct formula or a naive loop, every
backward against directional derivatives in float64, and the properties that all devices promise.

Inputs of max operations are permutations, so that no two values tie; ties have a test of their own.

Read next: tests/engine/test_layers.py, where these operations become layers.
"""

import math

import numpy as np
import pytest
from ml_dtypes import bfloat16

from helpers.tolerances import assert_close
from kernels import philox
from kernels.checks import MIRRORED, pooled
from kernels.clock import (
    CLIP,
    CORRECT_SUM,
    FINITE,
    FIRST,
    LOSS,
    LOSS_SUM,
    NORM,
    RATE,
    SEEN,
    STEP,
    new_clock,
)
from kernels.reference import NumpyOps
from kernels.regions import edges

REFERENCE = NumpyOps()


def randn(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def shuffled(*shape, seed=0):
    """A permutation of evenly spaced values around 0, none of them 0: no ties, no kink nearby."""
    count = math.prod(shape)
    order = np.random.default_rng((seed, *shape)).permutation(count)
    return ((order - count / 2 + 0.25) / max(count, 8) * 4).reshape(shape)


def check_derivative(forward, x, dx, dy, step=1e-5, tolerance=1e-7):
    """<dy, forward along a random direction> by central differences equals <dx, direction>."""
    direction = randn(*x.shape, seed=99)
    before = x.copy()
    difference = forward(x + step * direction) - forward(x - step * direction)
    np.testing.assert_array_equal(x, before)
    numeric, analytic = np.sum(difference * dy) / (2 * step), np.sum(dx * direction)
    scale = np.linalg.norm(dx) + np.linalg.norm(dy) + 1e-3
    assert abs(numeric - analytic) < tolerance * scale, (numeric, analytic)


def output(forward, shape):
    """`forward(y)` writes y; the result as a value."""
    y = np.full(shape, np.nan)
    forward(y)
    return y


# -- convolution and fully connected --------------------------------------------------------------

CONVS = [  # N, H, W, C, K, R, S, stride, pad, groups
    (2, 9, 11, 5, 7, 3, 3, 1, 1, 1),
    (3, 8, 7, 6, 4, 3, 2, 2, 1, 2),
    (1, 5, 5, 3, 3, 5, 5, 1, 0, 3),
    (2, 7, 9, 4, 8, 1, 1, 3, 0, 4),
    (1, 1, 1, 1, 1, 1, 1, 1, 0, 1),
    (2, 4, 4, 2, 3, 3, 3, 2, 2, 1),
]


@pytest.mark.parametrize("case", CONVS)
def test_conv(case):
    N, H, width, C, K, R, S, stride, pad, groups = case
    x, W, b = randn(N, H, width, C), randn(K, R, S, C // groups), randn(K)
    Ho, Wo = (H + 2 * pad - R) // stride + 1, (width + 2 * pad - S) // stride + 1

    def forward(x, W, b):
        return output(
            lambda y: REFERENCE.conv_forward(x, W, b, y, stride, pad, groups), (N, Ho, Wo, K)
        )

    y = forward(x, W, b)
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    for n, i, j, k in np.ndindex(y.shape):
        first = k // (K // groups) * (C // groups)
        window = padded[
            n, i * stride : i * stride + R, j * stride : j * stride + S, first : first + C // groups
        ]
        assert y[n, i, j, k] == pytest.approx(b[k] + np.sum(window * W[k]), abs=1e-12)

    dy = randn(*y.shape, seed=1)
    dx, dW, db = np.full_like(x, np.nan), np.full_like(W, np.nan), np.full_like(b, np.nan)
    REFERENCE.conv_backward_data(dy, W, dx, stride, pad, groups)
    REFERENCE.conv_backward_filter(x, dy, dW, db, stride, pad, groups)
    check_derivative(lambda v: forward(v, W, b), x, dx, dy)
    check_derivative(lambda v: forward(x, v, b), W, dW, dy)
    check_derivative(lambda v: forward(x, W, v), b, db, dy)

    np.testing.assert_array_equal(forward(x, W, None), forward(x, W, np.zeros(K)))
    alone = np.full_like(W, np.nan)
    REFERENCE.conv_backward_filter(x, dy, alone, None, stride, pad, groups)
    np.testing.assert_array_equal(alone, dW)


def test_conv_in_parts_of_the_batch(monkeypatch):
    x, W, b, dy = randn(5, 6, 6, 3), randn(4, 3, 3, 3), randn(4), randn(5, 6, 6, 4, seed=2)

    def everything():
        y, dx, dW, db = np.empty(dy.shape), np.empty(x.shape), np.empty(W.shape), np.empty(4)
        REFERENCE.conv_forward(x, W, b, y, 1, 1, 1)
        REFERENCE.conv_backward_data(dy, W, dx, 1, 1, 1)
        REFERENCE.conv_backward_filter(x, dy, dW, db, 1, 1, 1)
        return y, dx, dW, db

    whole = everything()
    monkeypatch.setattr("kernels.reference.COLUMN_BYTES", 2 * 36 * 27 * 8)  # two images
    for one, other in zip(whole, everything(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("N, F, K", [(7, 5, 3), (1, 1, 1), (2, 13, 11)])
def test_linear(N, F, K):
    x, W, b, dy = randn(N, F), randn(K, F), randn(K), randn(N, K, seed=1)

    def forward(x, W, b):
        return output(lambda y: REFERENCE.linear_forward(x, W, b, y), (N, K))

    np.testing.assert_allclose(forward(x, W, b), np.einsum("nf,kf->nk", x, W) + b, rtol=1e-12)
    dx, dW, db = np.full_like(x, np.nan), np.full_like(W, np.nan), np.full_like(b, np.nan)
    REFERENCE.linear_backward_data(dy, W, dx)
    REFERENCE.linear_backward_filter(x, dy, dW, db)
    check_derivative(lambda v: forward(v, W, b), x, dx, dy)
    check_derivative(lambda v: forward(x, v, b), W, dW, dy)
    check_derivative(lambda v: forward(x, W, v), b, db, dy)
    np.testing.assert_array_equal(forward(x, W, None), forward(x, W, np.zeros(K)))
    alone = np.full_like(W, np.nan)
    REFERENCE.linear_backward_filter(x, dy, alone, None)
    np.testing.assert_array_equal(alone, dW)


# -- maxout, pooling, activations -----------------------------------------------------------------


@pytest.mark.parametrize("shape, pieces", [((7, 9, 11, 5), 2), ((3, 5), 5), ((1, 1), 1)])
def test_maxout(shape, pieces):
    *rest, C = shape
    x = shuffled(*rest, pieces * C)
    which = np.full(shape, 255, np.uint8)

    def forward(x):
        return output(lambda y: REFERENCE.maxout_forward(x, y, which, pieces), shape)

    stacked = x.reshape(*rest, pieces, C)
    np.testing.assert_array_equal(forward(x), stacked.max(axis=-2))
    np.testing.assert_array_equal(which, stacked.argmax(axis=-2))
    dy, dx = randn(*shape, seed=1), np.full_like(x, np.nan)
    REFERENCE.maxout_backward(dy, which, dx, pieces)
    check_derivative(forward, x, dx, dy, step=1e-6 / math.sqrt(x.size))


POOLS = [  # H, W, size, stride, pad
    (28, 28, 4, 2, 0),
    (13, 13, 4, 2, 0),
    (6, 6, 2, 2, 0),
    (9, 11, 3, 2, 0),
    (5, 7, 5, 5, 0),
    (1, 1, 1, 1, 0),
    (5, 4, 3, 1, 0),
    (7, 8, 3, 3, 0),
    (9, 11, 3, 1, 1),
    (1, 1, 3, 1, 1),
    (8, 7, 3, 2, 1),
    (6, 7, 3, 3, 1),
    (2, 3, 5, 4, 3),
    (7, 5, 2, 2, 1),
]


def windows_of(length, size, stride, pad):
    """Caffe's windows along an axis, by counting: from -pad on by stride until one reaches the end
    of image and padding, but none that starts beyond the image -> [(start, first place inside,
    end)]."""
    starts = [-pad]
    while starts[-1] + size < length + pad and starts[-1] + stride < length:
        starts.append(starts[-1] + stride)
    return [(start, max(start, 0), min(start + size, length)) for start in starts]


@pytest.mark.parametrize("H, width, size, stride, pad", POOLS)
def test_maxpool(H, width, size, stride, pad):
    N, C = 2, 3
    x = shuffled(N, H, width, C) - 10  # padding of zeros would win
    rows, cols = windows_of(H, size, stride, pad), windows_of(width, size, stride, pad)
    Ho, Wo = len(rows), len(cols)
    which = np.full((N, Ho, Wo, C), 255, np.uint8)

    def forward(x):
        return output(
            lambda y: REFERENCE.maxpool_forward(x, y, which, size, stride, pad), which.shape
        )

    y = forward(x)
    for n, i, j, c in np.ndindex(y.shape):
        (top, h, bottom), (left, w, right) = rows[i], cols[j]
        window = x[n, h:bottom, w:right, c]
        assert y[n, i, j, c] == window.max()
        r, s = divmod(int(window.argmax()), window.shape[1])
        assert which[n, i, j, c] == (h - top + r) * size + w - left + s
    dy, dx = randn(*y.shape, seed=1), np.full_like(x, np.nan)
    REFERENCE.maxpool_backward(dy, which, dx, size, stride, pad)
    check_derivative(forward, x, dx, dy, step=1e-6 / math.sqrt(x.size))


@pytest.mark.parametrize(
    "H, width, size, stride",
    [(9, 11, 3, 2), (14, 14, 5, 3), (7, 7, 7, 7), (1, 1, 1, 1), (5, 4, 3, 1), (8, 10, 4, 3)],
)
def test_avgpool(H, width, size, stride):
    x = randn(2, H, width, 3)
    rows, cols = windows_of(H, size, stride, 0), windows_of(width, size, stride, 0)

    def forward(x):
        return output(
            lambda y: REFERENCE.avgpool_forward(x, y, size, stride), (2, len(rows), len(cols), 3)
        )

    y = forward(x)
    for i, j in np.ndindex(y.shape[1:3]):
        (_, h, bottom), (_, w, right) = rows[i], cols[j]
        np.testing.assert_allclose(y[:, i, j], x[:, h:bottom, w:right].mean((1, 2)), rtol=1e-12)
    dy, dx = randn(*y.shape, seed=1), np.full_like(x, np.nan)
    REFERENCE.avgpool_backward(dy, dx, size, stride)
    check_derivative(forward, x, dx, dy)


@pytest.mark.parametrize("H, width", [(9, 11), (1, 1), (1, 300), (5, 4)])
def test_global_pooling(H, width):
    x, which = shuffled(2, H, width, 3), np.full((2, 3), -1, np.int32)
    dy, dx = randn(2, 3, seed=1), np.full_like(x, np.nan)

    def largest(x):
        return output(lambda y: REFERENCE.global_maxpool_forward(x, y, which), (2, 3))

    def mean(x):
        return output(lambda y: REFERENCE.global_avgpool_forward(x, y), (2, 3))

    np.testing.assert_array_equal(largest(x), x.max((1, 2)))
    for n, c in np.ndindex(2, 3):
        assert x[n, :, :, c].flat[which[n, c]] == x[n, :, :, c].max()
    REFERENCE.global_maxpool_backward(dy, which, dx)
    check_derivative(largest, x, dx, dy, step=1e-6 / math.sqrt(x.size))
    np.testing.assert_allclose(mean(x), x.mean((1, 2)), rtol=1e-12, atol=1e-15)
    REFERENCE.global_avgpool_backward(dy, dx)
    check_derivative(mean, x, dx, dy)


def test_a_global_maximum_goes_to_the_first_place_and_to_the_first_nan(ops):
    """Place h * W + w; more places than a byte counts, more channels than a vector has lanes."""
    x = np.zeros((3, 2, 200, 37), np.float32)
    x[0, 1, 150], x[0, 1, 199] = 5, 5
    x[1, 0, 7], x[1, 1, 3], x[1, 1, 4] = np.inf, np.nan, np.nan
    x[2] = -np.inf
    y, which = ops.empty((3, 37)), ops.empty((3, 37), np.int32)
    ops.global_maxpool_forward(ops.asarray(x), y, which)
    for n, (value, place) in enumerate([(5, 350), (np.nan, 203), (-np.inf, 0)]):
        np.testing.assert_array_equal(ops.tohost(y)[n], np.full(37, value, np.float32))
        assert (ops.tohost(which)[n] == place).all()


@pytest.mark.parametrize(
    "shape, size", [((7, 9, 11, 5), 5), ((2, 3, 4, 12), 3), ((3, 1), 5), ((2, 3), 9), ((13,), 1)]
)
@pytest.mark.parametrize("alpha, beta, k", [(1e-4, 0.75, 1.0), (1.5, 0.75, 2.0), (0.8, 1.3, 0.5)])
def test_lrn(shape, size, alpha, beta, k):
    x = randn(*shape)

    def forward(x):
        return output(lambda y: REFERENCE.lrn_forward(x, y, size, alpha, beta, k), shape)

    y, C = forward(x), shape[-1]
    for c in range(C):
        around = x[..., max(c - size // 2, 0) : c + size // 2 + 1]
        want = x[..., c] / (k + alpha / size * (around**2).sum(-1)) ** beta
        np.testing.assert_allclose(y[..., c], want, rtol=1e-12)
    dy, dx = randn(*shape, seed=1), np.full_like(x, np.nan)
    REFERENCE.lrn_backward(dy, x, dx, size, alpha, beta, k)
    check_derivative(forward, x, dx, dy)


def test_concat(ops):
    parts = [randn(7, 3, 2, C, seed=C).astype(np.float32) for C in (5, 1, 17)]
    y, first = ops.empty((7, 3, 2, 23)), 0
    for part in parts:
        ops.concat_forward(ops.asarray(part), y, first)
        first += part.shape[-1]
    np.testing.assert_array_equal(ops.tohost(y), np.concatenate(parts, -1))
    for first, part in ((0, parts[0]), (5, parts[1]), (6, parts[2])):
        dx = ops.empty(part.shape)
        ops.concat_backward(y, dx, first)
        np.testing.assert_array_equal(ops.tohost(dx), part)


def test_padding_never_wins(ops):
    """Not over a window of minus infinity, whose first place inside is then the winner."""
    x = ops.asarray(np.full((1, 3, 4, 18), -np.inf, np.float32))
    y, which = ops.empty((1, 3, 4, 18)), ops.empty((1, 3, 4, 18), np.uint8)
    ops.maxpool_forward(x, y, which, 3, 1, 1)
    assert (ops.tohost(y) == -np.inf).all()
    want = [[4, 3, 3, 3], [1, 0, 0, 0], [1, 0, 0, 0]]
    np.testing.assert_array_equal(ops.tohost(which)[0], np.repeat(want, 18).reshape(3, 4, 18))


def test_what_is_not_finite_shows_behind_pooling_and_lrn(ops):
    x = randn(1, 5, 5, 20).astype(np.float32)
    x[0, 2, 3, 7] = np.nan
    y, which = ops.empty(x.shape), ops.empty(x.shape, np.uint8)
    ops.maxpool_forward(ops.asarray(x), y, which, 3, 1, 1)
    assert np.isnan(ops.tohost(y)[0, 1:4, 2:, 7]).all() and np.isnan(ops.tohost(y)).sum() == 9
    mean = ops.empty((1, 2, 2, 20))
    ops.avgpool_forward(ops.asarray(x), mean, 3, 2)
    assert np.isnan(ops.tohost(mean)[0, :, 1, 7]).all() and np.isnan(ops.tohost(mean)).sum() == 2
    ops.lrn_forward(ops.asarray(x), y, 5, 1e-4, 0.75, 1.0)
    assert np.isnan(ops.tohost(y)[0, 2, 3, 5:10]).all() and np.isnan(ops.tohost(y)).sum() == 5
    x[0, 2, 3, 7] = np.inf
    with np.errstate(invalid="ignore"):
        ops.lrn_forward(ops.asarray(x), y, 5, 1e-4, 0.75, 1.0)
    assert not np.isfinite(ops.tohost(y)[0, 2, 3, 7])


def test_caffe_pooling_sizes_of_the_mnist_net(ops):
    x = ops.asarray(shuffled(2, 28, 28, 16).astype(np.float32))
    for size, stride, length in ((4, 2, 13), (4, 2, 6), (2, 2, 3)):
        y = ops.empty((2, length, length, 16))
        ops.maxpool_forward(x, y, ops.empty(y.shape, np.uint8), size, stride, 0)
        assert ops.tohost(y).max() == ops.tohost(x).max()
        x = y


def holes(count):
    """Every set of NaNs among `count` values, a set a column: (count, 2**count), rising values."""
    sets = np.arange(1 << count) >> np.arange(count)[:, None] & 1
    return np.where(sets, np.nan, np.arange(count, dtype=np.float32)[:, None]).astype(np.float32)


@pytest.mark.parametrize(
    "H, width, P, size, stride",
    [(7, 9, 2, 2, 2), (13, 13, 2, 4, 2), (8, 8, 5, 7, 7), (5, 4, 1, 3, 1)],
)
def test_maxout_pool_is_maxout_then_maxpool(H, width, P, size, stride):
    rng, C = np.random.default_rng(P), 3
    x = rng.integers(-4, 5, (2, H, width, P * C)).astype(np.float64)  # many ties
    x[0, 1, 1, 0] = np.nan
    between, piece = np.empty((2, H, width, C)), np.empty((2, H, width, C), np.uint8)
    REFERENCE.maxout_forward(x, between, piece, P)
    shape = (2, pooled(H, size, stride), pooled(width, size, stride), C)
    y, which, place = np.empty(shape), np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    REFERENCE.maxpool_forward(between, y, place, size, stride, 0)
    fused = np.empty(shape)
    REFERENCE.maxout_pool_forward(x, fused, which, P, size, stride)
    np.testing.assert_array_equal(fused, y)
    np.testing.assert_array_equal(which // P, place)

    dy, dbetween, dx, dfused = rng.standard_normal(shape), between, np.empty(x.shape), x
    REFERENCE.maxpool_backward(dy, place, dbetween, size, stride, 0)
    REFERENCE.maxout_backward(dbetween, piece, dx, P)
    REFERENCE.maxout_pool_backward(dy, which, dfused, P, size, stride)
    np.testing.assert_array_equal(dfused, dx)


@pytest.mark.parametrize("drop", [0.0, 0.2, 0.999])
@pytest.mark.parametrize(
    "H, width, C, P, size, stride",
    [
        (8, 10, 5, 2, 2, 2),
        (13, 13, 16, 2, 4, 2),
        (8, 8, 35, 2, 8, 8),
        (9, 8, 37, 6, 6, 1),
        (15, 15, 3, 1, 15, 2),
        (32, 32, 48, 2, 2, 2),
    ],
)
def test_maxout_pool_dropout_is_the_two_in_turn(ops, H, width, C, P, size, stride, drop):
    """Bit for bit; in bfloat16 backward only where windows do not overlap: else the sum of the two
    has roundings on the way."""
    rng = np.random.default_rng(P)
    shape = (3, *(len(windows_of(n, size, stride, 0)) for n in (H, width)), C)
    clock = new_clock()
    clock[STEP] = 4
    random = (drop, 2**63 + 5, 3, ops.asarray(clock))
    for dtype in (np.float32, *filter(None, [ops.precisions.get("bf16")])):
        x = rng.standard_normal((3, H, width, P * C)).astype(dtype)
        x[0, 0, 0, 0], x[1, 1, 1, 1] = -np.inf, np.nan
        x, dy = ops.asarray(x), ops.asarray(rng.standard_normal(shape).astype(dtype))
        between, y, fused = (ops.empty(shape, dtype) for _ in range(3))
        which, fused_which = (ops.empty(shape, np.uint8) for _ in range(2))
        ops.maxout_pool_forward(x, between, which, P, size, stride)
        ops.dropout_forward(between, y, *random, 1 / (1 - drop))
        ops.maxout_pool_dropout_forward(x, fused, fused_which, P, size, stride, *random)
        assert ops.tohost(fused).tobytes() == ops.tohost(y).tobytes()
        won, kept = ops.tohost(which), ops.tohost(fused_which) != 255
        np.testing.assert_array_equal(ops.tohost(fused_which), np.where(kept, won, 255))
        assert kept.mean() == pytest.approx(1 - drop, abs=0.05 if kept.size > 2000 else 0.2)

        dx, fused_dx = ops.empty(x.shape, dtype), ops.empty(x.shape, dtype)
        ops.dropout_backward(dy, between, *random, 1 / (1 - drop))
        ops.maxout_pool_backward(between, which, dx, P, size, stride)
        ops.maxout_pool_dropout_backward(dy, fused_which, fused_dx, P, size, stride, drop)
        if dtype == np.float32 or stride == size:
            assert ops.tohost(fused_dx).tobytes() == ops.tohost(dx).tobytes()


@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_the_first_nan_of_the_pieces_wins(ops, pieces):
    for values in (holes(pieces), -holes(pieces)):
        C = values.shape[1]
        y, which = ops.empty((1, C)), ops.empty((1, C), np.uint8)
        ops.maxout_forward(ops.asarray(values.reshape(1, -1)), y, which, pieces)
        np.testing.assert_array_equal(ops.tohost(y)[0], values.max(axis=0))
        np.testing.assert_array_equal(ops.tohost(which)[0], values.argmax(axis=0))


@pytest.mark.parametrize("size, H, width", [(2, 2, 2), (3, 3, 3), (3, 3, 4), (3, 4, 3)])
def test_the_first_nan_of_a_window_wins(ops, size, H, width):
    """The last two have a second window, clipped at an edge, that starts at place 2."""
    for values in (holes(size * size), -holes(size * size)):
        C = values.shape[1]
        x = np.tile(values.reshape(size, size, C), (2, 2, 1))[:H, :width]
        Ho, Wo = 1 + (size < H), 1 + (width > size)
        y, which = ops.empty((1, Ho, Wo, C)), ops.empty((1, Ho, Wo, C), np.uint8)
        ops.maxpool_forward(ops.asarray(x[None].copy()), y, which, size, 2, 0)
        for i, j in np.ndindex(Ho, Wo):
            window = x[2 * i : 2 * i + size, 2 * j : 2 * j + size]
            places = window.reshape(-1, C)
            r, s = np.divmod(places.argmax(axis=0), window.shape[1])
            np.testing.assert_array_equal(ops.tohost(y)[0, i, j], places.max(axis=0))
            np.testing.assert_array_equal(ops.tohost(which)[0, i, j], r * size + s)


def test_ties_go_to_the_first(ops):
    x = ops.asarray(np.ones((1, 4, 4, 6), np.float32))
    y, which = ops.empty((1, 4, 4, 2)), ops.empty((1, 4, 4, 2), np.uint8)
    ops.maxout_forward(x, y, which, 3)
    assert not ops.tohost(which).any()
    row = np.float32([0, 2, 1, 2, 2, 0])  # pieces 0 2 | 1 2 | 2 0
    ops.maxout_forward(ops.asarray(np.tile(row, (1, 4, 4, 1))), y, which, 3)
    assert (ops.tohost(which) == [2, 0]).all()
    y, which = ops.empty((1, 2, 2, 6)), ops.empty((1, 2, 2, 6), np.uint8)
    ops.maxpool_forward(x, y, which, 3, 2, 0)
    assert not ops.tohost(which).any()
    x = np.zeros((1, 3, 3, 6), np.float32)
    x[:, 1, 2] = x[:, 2, 0] = 5
    y, which = ops.empty((1, 1, 1, 6)), ops.empty((1, 1, 1, 6), np.uint8)
    ops.maxpool_forward(ops.asarray(x), y, which, 3, 3, 0)
    assert (ops.tohost(which) == 5).all()


@pytest.mark.parametrize("shape", [(7, 9, 11, 5), (1, 1), (3, 1, 1, 2)])
@pytest.mark.parametrize(
    "name, options, formula",
    [
        ("leaky", (0.333,), lambda x: np.maximum(x, 0) + 0.333 * np.minimum(x, 0)),
        ("leaky", (0.0,), lambda x: np.maximum(x, 0)),
        ("tanh", (), np.tanh),
        ("sigmoid", (), lambda x: 1 / (1 + np.exp(-x))),
    ],
)
def test_activations(name, options, formula, shape):
    x, dy = shuffled(*shape), randn(*shape, seed=1)
    activate, back = getattr(REFERENCE, f"{name}_forward"), getattr(REFERENCE, f"{name}_backward")

    def forward(x):
        return output(lambda y: activate(x, y, *options), shape)

    np.testing.assert_allclose(forward(x), formula(x), rtol=1e-14, atol=1e-15)
    dx = np.full_like(x, np.nan)
    back(dy, forward(x), dx, *options)
    check_derivative(forward, x, dx, dy, step=1e-6)


@pytest.mark.parametrize("shape", [(7, 9, 11, 5), (1, 1), (13, 3)])
def test_what_a_channel_learns(shape):
    """PReLU's slope, and the scale and shift behind batch normalisation."""
    x, dy, C = shuffled(*shape), randn(*shape, seed=1), shape[-1]
    a, b = randn(C, seed=2), randn(C, seed=3)

    def scaled(x, scale, shift):
        return output(lambda y: REFERENCE.scale_forward(x, scale, shift, y), shape)

    def bent(x, slope):
        return output(lambda y: REFERENCE.prelu_forward(x, slope, y), shape)

    np.testing.assert_array_equal(scaled(x, a, b), x * a + b)
    np.testing.assert_array_equal(bent(x, a), np.maximum(x, 0) + a * np.minimum(x, 0))
    dx, da, db = np.full_like(x, np.nan), np.full_like(a, np.nan), np.full_like(b, np.nan)
    REFERENCE.scale_backward(dy, x, a, dx, da, db)
    check_derivative(lambda v: scaled(v, a, b), x, dx, dy)
    check_derivative(lambda v: scaled(x, v, b), a, da, dy)
    check_derivative(lambda v: scaled(x, a, v), b, db, dy)
    REFERENCE.prelu_backward(dy, x, a, dx, da)
    check_derivative(lambda v: bent(v, a), x, dx, dy, step=1e-6)
    check_derivative(lambda v: bent(x, v), a, da, dy)


def test_a_prelu_of_one_slope_is_the_leaky_one(ops):
    x, dy = (ops.asarray(randn(7, 9, 35, seed=seed).astype(np.float32)) for seed in (0, 1))
    slope = ops.asarray(np.full(35, 0.333, np.float32))
    y, dx, want, dwant = (ops.empty((7, 9, 35)) for _ in range(4))
    ops.prelu_forward(x, slope, y)
    ops.prelu_backward(dy, x, slope, dx, ops.empty(35))
    ops.leaky_forward(x, want, 0.333)
    ops.leaky_backward(dy, want, dwant, 0.333)
    np.testing.assert_array_equal(ops.tohost(y), ops.tohost(want))
    np.testing.assert_array_equal(ops.tohost(dx), ops.tohost(dwant))


def test_sigmoid_far_out():
    x = np.array([-1e4, -50.0, 0.0, 50.0, 1e4])
    y = output(lambda y: REFERENCE.sigmoid_forward(x, y), x.shape)
    np.testing.assert_allclose(y, [0, math.exp(-50), 0.5, 1, 1], rtol=1e-12)


def test_add(ops):
    a, b = randn(3, 5).astype(np.float32), randn(3, 5, seed=1).astype(np.float32)
    y = ops.empty((3, 5))
    ops.add(ops.asarray(a), ops.asarray(b), y)
    np.testing.assert_array_equal(ops.tohost(y), a + b)


# -- dropout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop", [0.0, 0.2, 0.5, 0.9])
def test_dropout_follows_the_documented_words(ops, drop):
    seed, layer, shape = 2**40 + 5, 3, (7, 9, 11, 5)  # 3465 is not 4 n
    clock = new_clock()
    clock[STEP] = 6
    x = randn(*shape).astype(np.float32)
    y = ops.empty(shape)
    place, factor = (seed, layer, ops.asarray(clock)), 1 / (1 - drop)
    ops.dropout_forward(ops.asarray(x), y, drop, *place, factor)
    words = philox.words(seed, philox.DROPOUT, layer, 6, 0, x.size // 4 + 1).reshape(-1)
    kept = (words[: x.size] >= math.floor(drop * 2**32)).reshape(shape)
    assert_close("dropout_forward", ops.tohost(y), np.where(kept, x / (1 - drop), 0))
    dx = ops.empty(shape)
    ops.dropout_backward(ops.asarray(x), dx, drop, *place, factor)
    np.testing.assert_array_equal(ops.tohost(dx), ops.tohost(y))


def test_dropout_keeps_the_mean_and_changes_with_layer_and_step(ops):
    clock = new_clock()
    x, masks = ops.asarray(np.ones(100_000, np.float32)), []
    for layer, step in ((0, 0), (1, 0), (0, 1)):
        clock[STEP] = step
        y = ops.empty(x.shape)
        ops.dropout_forward(x, y, 0.2, 7, layer, ops.asarray(clock), 1.25)
        masks.append(ops.tohost(y))
        assert masks[-1].mean() == pytest.approx(1, abs=4 * 0.5 / math.sqrt(100_000))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(masks[a], masks[b])[0, 1]) < 0.015


def test_dropout_refuses_a_probability_of_one():
    with pytest.raises(ValueError, match="1.0"):
        REFERENCE.dropout_forward(np.ones(3), np.ones(3), 1.0, 0, 0, new_clock(), 1.0)


# -- batch normalisation --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 9, 11, 5), (13, 3), (2, 1, 1, 1)])
def test_batchnorm(shape):
    x, C, eps = 3 * randn(*shape) + 5, shape[-1], 1e-2
    mean, rstd = np.empty(C), np.empty(C)

    def forward(x):
        return output(lambda y: REFERENCE.batchnorm_forward(x, y, mean, rstd, eps), shape)

    y, flat = forward(x), x.reshape(-1, C)
    np.testing.assert_allclose(
        y.reshape(-1, C), (flat - flat.mean(0)) / np.sqrt(flat.var(0) + eps), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(mean, flat.mean(0))
    np.testing.assert_allclose(rstd, 1 / np.sqrt(flat.var(0) + eps))
    rstd_here, dy, dx = rstd.copy(), randn(*shape, seed=1), np.full_like(x, np.nan)
    REFERENCE.batchnorm_backward(dy, y, rstd_here, dx)
    check_derivative(forward, x, dx, dy)


def test_batchnorm_running_statistics_are_caffes():
    eps, fraction, clock = 1e-5, 0.95, new_clock()
    running_mean, running_var, weight = np.zeros(3), np.zeros(3), np.zeros(1)
    x = randn(4, 2, 2, 3)
    with pytest.raises(ValueError, match="no running statistics"):
        REFERENCE.batchnorm_inference(x, x.copy(), running_mean, running_var, weight, eps)
    means, variances, mean, rstd = [], [], np.empty(3), np.empty(3)
    for step in range(3):
        batch = 2 * randn(4, 2, 2, 3, seed=step) + step
        REFERENCE.batchnorm_forward(batch, np.empty_like(batch), mean, rstd, eps)
        REFERENCE.batchnorm_running(
            mean, rstd, running_mean, running_var, weight, 16, fraction, eps, clock
        )
        means.append(batch.mean((0, 1, 2)))
        variances.append(batch.var((0, 1, 2), ddof=1))
    shares = np.array([fraction**2, fraction, 1])
    want_mean, want_var = shares @ means / shares.sum(), shares @ variances / shares.sum()
    np.testing.assert_allclose(weight, shares.sum())
    y = output(
        lambda y: REFERENCE.batchnorm_inference(x, y, running_mean, running_var, weight, eps),
        x.shape,
    )
    np.testing.assert_allclose(y, (x - want_mean) / np.sqrt(want_var + eps), rtol=1e-9)
    clock[FINITE] = 0
    held = weight.copy()
    REFERENCE.batchnorm_running(
        mean, rstd, running_mean, running_var, weight, 16, fraction, eps, clock
    )
    np.testing.assert_array_equal(weight, held)


# -- losses ---------------------------------------------------------------------------------------

LOSSES = ["softmax", "hinge", "squared_hinge"]


def loss(name, scores, labels, options=(), clock=None):
    clock = new_clock() if clock is None else clock
    prob = np.empty_like(scores)
    getattr(REFERENCE, f"{name}_loss_forward")(scores, labels, prob, clock, *options)
    return prob, clock


def softmax_formula(scores, labels, smoothing=0.0, weights=None):
    """With weights as the documentation of PyTorch's CrossEntropyLoss has it."""
    weights = np.ones(scores.shape[1]) if weights is None else weights
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    own = (weights * logs)[np.arange(len(labels)), labels]
    losses = -(1 - smoothing) * own - smoothing * (weights * logs).mean(axis=1)
    return losses.sum() / weights[labels].sum()


def taught(scores):
    """A teacher's scores, the same for each image."""
    return np.broadcast_to(3 * np.cos(np.arange(scores.shape[1])), scores.shape)


def distillation_formula(scores, labels, share, temperature, student_temperature):
    """Romero et al. 2015, equation 2."""
    q = np.exp(taught(scores) / temperature)
    q /= q.sum(axis=1, keepdims=True)
    soft = scores / student_temperature
    logs = soft - np.log(np.exp(soft).sum(axis=1, keepdims=True))
    return softmax_formula(scores, labels) - share * (q * logs).sum() / len(scores)


RISING = "weights that rise"
TAUGHT = "a teacher's scores"


def rising(scores):
    return 0.3 + np.arange(scores.shape[1])


def hinge_formula(scores, labels, norm=1):
    targets = np.where(np.arange(scores.shape[1]) == labels[:, None], 1, -1)
    return (np.maximum(0, 1 - targets * scores) ** norm).sum() / len(scores)


@pytest.mark.parametrize(
    "name, options, formula",
    [
        ("softmax", (0.0,), softmax_formula),
        ("softmax", (0.2,), lambda scores, labels: softmax_formula(scores, labels, 0.2)),
        ("softmax", (0.0, RISING), lambda *args: softmax_formula(*args, 0.0, rising(args[0]))),
        ("softmax", (0.2, RISING), lambda *args: softmax_formula(*args, 0.2, rising(args[0]))),
        *(
            (
                "distillation",
                (TAUGHT, *numbers),
                lambda *of, numbers=numbers: distillation_formula(*of, *numbers),
            )
            for numbers in ((4.0, 3.0, 3.0), (0.7, 3.0, 1.0), (0.0, 2.0, 5.0))
        ),
        ("hinge", (), hinge_formula),
        ("squared_hinge", (), lambda scores, labels: hinge_formula(scores, labels, 2)),
    ],
)
@pytest.mark.parametrize("N, K", [(7, 5), (1, 1), (3, 10)])
def test_losses(name, options, formula, N, K):
    scores = 2 * randn(N, K)
    made = {RISING: rising, TAUGHT: taught}
    options = [made[o](scores) if o in made else o for o in options]
    labels = np.random.default_rng(N).integers(0, K, N).astype(np.int32)
    prob, clock = loss(name, scores, labels, options)
    correct = int((scores.argmax(1) == labels).sum())
    assert clock[LOSS] == pytest.approx(formula(scores, labels), abs=1e-12)
    assert clock[LOSS_SUM] == pytest.approx(N * clock[LOSS])
    assert (clock[CORRECT_SUM], clock[SEEN], clock[FINITE]) == (correct, N, 1)
    dscores = np.full_like(scores, np.nan)
    from_prob = name in ("softmax", "distillation")
    back = getattr(REFERENCE, f"{'softmax' if from_prob else name}_loss_backward")
    further = () if name == "distillation" else options
    back(prob if from_prob else scores, labels, dscores, 1.0, *further)
    check_derivative(
        lambda s: np.array(loss(name, s, labels, options)[1][LOSS]),
        scores,
        dscores,
        np.array(1.0),
        step=1e-6,
    )
    share = np.full_like(scores, np.nan)
    back(prob if from_prob else scores, labels, share, 0.3, *further)
    np.testing.assert_allclose(share, 0.3 * dscores, rtol=1e-12)

    padded = np.where(np.arange(N) % 2 == 1, -1, labels).astype(np.int32)
    _, clock = loss(name, scores, padded, options, clock)  # sums go on
    assert clock[SEEN] == N + (padded >= 0).sum()
    assert clock[LOSS] == pytest.approx(formula(scores[padded >= 0], padded[padded >= 0]))
    masked = np.full_like(scores, np.nan)
    back(prob if from_prob else scores, padded, masked, 1.0, *further)
    assert not masked[padded < 0].any()
    check_derivative(
        lambda s: np.array(loss(name, s, padded, options)[1][LOSS]),
        scores,
        masked,
        np.array(1.0),
        step=1e-6,
    )


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_smoothing_is_a_share(ops, smoothing):
    scores, labels = ops.zeros((2, 3)), ops.zeros(2, np.int32)
    for call in (
        lambda: ops.softmax_loss_forward(
            scores, labels, ops.empty((2, 3)), ops.asarray(new_clock()), smoothing
        ),
        lambda: ops.softmax_loss_backward(scores, labels, ops.empty((2, 3)), 1.0, smoothing),
    ):
        with pytest.raises(ValueError, match=f"smoothing {smoothing} is not a share in"):
            call()


@pytest.mark.parametrize("name", LOSSES)
def test_a_gradient_is_that_of_the_mean_over_the_labelled_rows(ops, name):
    """So a batch filled up with padding rows gives what the batch without them gives."""
    given, labels = randn(5, 4).astype(np.float32), np.array([1, -1, 0, -1, 3], np.int32)
    back, kept, found = getattr(ops, f"{name}_loss_backward"), labels >= 0, []
    for part in (slice(None), kept):
        dscores = ops.empty(given[part].shape)
        back(ops.asarray(given[part]), ops.asarray(labels[part]), dscores, 1.0)
        found.append(ops.tohost(dscores))
    np.testing.assert_array_equal(found[0][kept], found[1])
    dscores = ops.empty(given.shape)
    back(ops.asarray(given), ops.asarray(np.full(5, -1, np.int32)), dscores, 1.0)
    assert not ops.tohost(dscores).any()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", LOSSES)
def test_a_score_that_is_not_finite_latches(ops, name, bad):
    """In every column of a row with a label, the label's own too; in a padding row ignored."""
    labels = ops.asarray(np.array([0, 1, -1], np.int32))
    for row, column in np.ndindex(3, 4):
        scores = randn(3, 4).astype(np.float32)
        scores[row, column] = bad
        clock = ops.asarray(new_clock())
        getattr(ops, f"{name}_loss_forward")(ops.asarray(scores), labels, ops.empty((3, 4)), clock)
        clock = ops.tohost(clock)
        if row < 2:
            assert clock[FINITE] == clock[SEEN] == clock[CORRECT_SUM] == clock[LOSS_SUM] == 0
        else:
            assert (clock[FINITE], clock[SEEN]) == (1, 2) and math.isfinite(clock[LOSS_SUM])


def test_weights_of_one_are_no_weights_and_zeros_teach_nothing(ops):
    scores, labels = randn(9, 4).astype(np.float32), np.arange(9, dtype=np.int32) % 5 - 1
    found = []
    for weights in (None, np.ones(4), np.float32([0, 1, 1, 1]), np.zeros(4)):
        weights = None if weights is None else ops.asarray(weights.astype(np.float32))
        prob, dscores, clock = ops.empty((9, 4)), ops.empty((9, 4)), ops.asarray(new_clock())
        arrays = ops.asarray(scores), ops.asarray(labels)
        ops.softmax_loss_forward(*arrays, prob, clock, 0.0, weights)
        ops.softmax_loss_backward(prob, arrays[1], dscores, 1.0, 0.0, weights)
        found.append((ops.tohost(clock).copy(), ops.tohost(dscores)))
    (none, slopes), (ones, same), (some, masked), (nothing, zeros) = found
    np.testing.assert_allclose(ones, none, rtol=1e-6)
    np.testing.assert_allclose(same, slopes, rtol=1e-6, atol=1e-8)
    assert some[SEEN] == none[SEEN] == 7 and some[CORRECT_SUM] == none[CORRECT_SUM]
    assert not masked[labels == 0].any() and masked[labels > 0].all()
    assert some[LOSS_SUM] == pytest.approx(7 * some[LOSS])
    assert nothing[LOSS] == 0 and nothing[FINITE] == 1 and not zeros.any()


# -- losses of values


def entropy(scores, values):
    p = 1 / (1 + np.exp(-scores))
    return -values * np.log(p) - (1 - values) * np.log(1 - p)


VALUE_LOSSES = {
    "squared_error": lambda scores, values: (scores - values) ** 2,
    "absolute_error": lambda scores, values: abs(scores - values),
    "binary_cross_entropy": entropy,
}


@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (5, 3, 2, 4)])
@pytest.mark.parametrize("name", VALUE_LOSSES)
def test_losses_of_values(name, shape):
    """Their means, their gradients, and rows of padding."""
    scores, values, clock = 2 * randn(*shape), shuffled(*shape, seed=3), new_clock()
    if name == "binary_cross_entropy":
        values = abs(values) / 2.5
    values[1::3] = np.nan
    kept = np.arange(shape[0]) % 3 != 1
    forward, back = (getattr(REFERENCE, f"{name}_{way}") for way in ("forward", "backward"))

    def value(scores):
        clock = new_clock()
        forward(scores, values, clock)
        return np.array(clock[LOSS])

    forward(scores, values, clock)
    want = VALUE_LOSSES[name](scores[kept], values[kept]).mean()
    assert clock[LOSS] == pytest.approx(want, rel=1e-12)
    assert clock[LOSS_SUM] == pytest.approx(kept.sum() * want)
    assert (clock[SEEN], clock[FINITE]) == (kept.sum(), 1)
    dscores = np.full_like(scores, np.nan)
    back(scores, values, dscores, 0.3)
    assert not dscores[~kept].any() and dscores[kept].all()
    check_derivative(value, scores, dscores / 0.3, np.array(1.0), step=1e-7)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", VALUE_LOSSES)
def test_a_loss_of_values_latches_and_counts(ops, name):
    """A score that is not finite latches, in padding it does not; an image is right where all its
    labels are."""
    forward = getattr(ops, f"{name}_forward")
    scores = np.float32([[3, -1, 0], [2, 2, 2], [-1, -9, 1], [5, -5, 5]])
    values = np.float32([[1, 0, 0], [1, 0.4, 1], [0, 0, 1], [np.nan] * 3])
    clock = ops.asarray(new_clock())
    forward(ops.asarray(scores), ops.asarray(values), clock)
    right = 2 if name == "binary_cross_entropy" else 0
    assert list(ops.tohost(clock)[[CORRECT_SUM, SEEN, FINITE]]) == [right, 3, 1]
    for bad, row in ((np.nan, 1), (np.inf, 1), (-np.inf, 2), (np.nan, 3)):
        spoilt, clock = scores.copy(), ops.asarray(new_clock())
        spoilt[row, 1] = bad
        forward(ops.asarray(spoilt), ops.asarray(values), clock)
        assert ops.tohost(clock)[FINITE] == (row == 3) == (ops.tohost(clock)[SEEN] == 3)
    padding, dscores = ops.asarray(np.full((4, 3), np.nan, np.float32)), ops.empty((4, 3))
    clock = ops.asarray(new_clock())
    forward(ops.asarray(scores), padding, clock)
    getattr(ops, f"{name}_backward")(ops.asarray(scores), padding, dscores, 1.0)
    assert list(ops.tohost(clock)[[LOSS, SEEN, FINITE]]) == [0, 0, 1]
    assert not ops.tohost(dscores).any()


def test_binary_cross_entropy_of_large_scores_is_finite_and_keeps_its_digits(ops):
    """Far on the right side loss and gradient are exp(-|score|), far on the wrong one |score| and
    1: not 0 and infinity, as the formula has them in float32."""
    scores = np.float32([[30, -30, 80, -80], [-30, 30, -1e4, 1e4]])
    values = np.float32([[1, 0, 1, 0], [1, 0, 1, 0]])
    clock, dscores = ops.asarray(new_clock()), ops.empty((2, 4))
    given = ops.asarray(scores), ops.asarray(values)
    ops.binary_cross_entropy_forward(*given, clock)
    ops.binary_cross_entropy_backward(*given, dscores, 8.0)
    assert ops.tohost(clock)[LOSS] == pytest.approx((60 + 2e4) / 8, rel=1e-6)
    small = np.exp(-np.float64([30, 30, 80, 80]))
    want = np.array([[-1, 1, -1, 1] * small, [-1, 1, -1, 1]])
    np.testing.assert_allclose(ops.tohost(dscores), want, rtol=1e-5)


def test_softmax_of_large_scores():
    scores = np.array([[1e4, 1e4 - 1, -1e4], [0.0, 0.0, 0.0]])
    prob = output(lambda p: REFERENCE.softmax(scores, p), scores.shape)
    e = math.exp(-1)
    np.testing.assert_allclose(prob, [[1 / (1 + e), e / (1 + e), 0], [1 / 3] * 3], atol=1e-15)


# -- variance -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1e3, 30.0, 1.0, 1e-6])
@pytest.mark.parametrize(
    "shape, groups", [((32, 9, 11, 10), 2), ((300, 5), 1), ((1, 1, 1, 3), 3), ((128, 32, 32, 8), 4)]
)
def test_variance_is_robust(ops, ratio, shape, groups):
    x = (0.01 * (randn(*shape) + ratio)).astype(np.float32)
    blocks = x.astype(np.float64).reshape(-1, groups, shape[-1] // groups)
    mean, variance = ops.variance(ops.asarray(x), groups)
    assert mean.dtype == variance.dtype == np.float64 and mean.shape == (groups,)
    assert_close("variance", variance, blocks.var(axis=(0, 2)))
    np.testing.assert_allclose(mean, blocks.mean(axis=(0, 2)), rtol=1e-6, atol=1e-9)
    again = ops.variance(ops.asarray(x), groups)
    assert (mean.tobytes(), variance.tobytes()) == (again[0].tobytes(), again[1].tobytes())


# -- gather ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize(
    "H, width, C, pad, move, mirror",
    [
        *[(5, 7, 3, 3, 2, True), (5, 7, 3, 2, 2, False), (5, 7, 3, 3, 2, 2)],
        *[(4, 4, 1, 0, 0, False), (1, 1, 1, 1, 1, True)],
    ],
)
def test_gather(ops, augment, H, width, C, pad, move, mirror):
    M, N, S, seed, step, first = 11, 6, 3, 2**35 + 1, 5, 3
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (M, H, width, C), dtype=np.uint8)
    labels = rng.integers(0, 10, M).astype(np.int32)
    shift, scale = rng.uniform(90, 140, M).astype(np.float32), rng.random(M).astype(np.float32)
    mean_image = rng.standard_normal((H + 2 * pad, width + 2 * pad, C)).astype(np.float32)
    order = rng.integers(0, M, (S, N)).astype(np.int32)
    if mirror == 2:
        order[:, ::2] += MIRRORED
    order[2, 1] = -1
    clock = new_clock()
    clock[STEP], clock[FIRST] = step, first
    x, y = ops.empty((N, H, width, C)), ops.empty(N, np.int32)
    ops.gather(
        *map(ops.asarray, (images, labels, shift, scale, mean_image, order)),
        x,
        y,
        ops.asarray(clock),
        seed,
        pad,
        move,
        mirror,
        0.53,
        augment,
    )
    want, want_y = np.zeros((N, H, width, C)), np.full(N, -1)
    for i in range(N):
        index = order[step - first, i]
        if index < 0:
            continue
        w = [int(v) for v in philox.words(seed, philox.AUGMENT, 0, 0, step * N + i, 1)[0]]
        top = pad - move + (w[0] * (2 * move + 1) >> 32) if augment else pad
        left = pad - move + (w[1] * (2 * move + 1) >> 32) if augment else pad
        flip = augment and mirror and w[2] >> 31
        if mirror == 2:
            flip, index = augment and index >= MIRRORED, index % MIRRORED
        want_y[i] = labels[index]
        for r, c in np.ndindex(H, width):
            row, col = top + r, left + (width - 1 - c if flip else c)
            inside = pad <= row < pad + H and pad <= col < pad + width
            pixel = (
                (images[index, row - pad, col - pad] - float(shift[index])) * scale[index]
                if inside
                else 0
            )
            want[i, r, c] = (pixel - mean_image[row, col].astype(np.float64)) * 0.53
    assert_close("gather", ops.tohost(x), want)
    np.testing.assert_array_equal(ops.tohost(y), want_y)


def test_gather_refuses_a_step_without_a_row():
    clock, image = new_clock(), np.zeros((1, 2, 2, 1), np.uint8)
    clock[STEP] = 2
    with pytest.raises(ValueError, match="step 2"):
        REFERENCE.gather(
            image,
            np.zeros(1, np.int32),
            np.zeros(1, np.float32),
            np.ones(1, np.float32),
            np.zeros((2, 2, 1), np.float32),
            np.zeros((2, 1), np.int32),
            np.empty((1, 2, 2, 1)),
            np.empty(1, np.int32),
            clock,
            0,
            0,
            0,
            False,
            1.0,
            False,
        )


# -- optimisation ---------------------------------------------------------------------------------

SEGMENTS = np.array([[0, 4, 1, 1], [6, 7, 2, 0], [8, 13, 0.5, 3]], np.float64)


def test_clip_and_latch(ops):
    g = 3 * randn(1001).astype(np.float32)
    norm = np.linalg.norm(g.astype(np.float64))
    for limit, want in ((0, 1), (norm * 2, 1), (norm / 4, 0.25)):
        clock = ops.asarray(new_clock())
        ops.clip(ops.asarray(g), float(limit), clock)
        assert_close("clip", ops.tohost(clock)[[NORM, CLIP, FINITE]], [norm, want, 1])
    for bad in (np.nan, np.inf):
        g[500] = bad
        clock = ops.asarray(new_clock())
        ops.clip(ops.asarray(g), 1.0, clock)
        assert ops.tohost(clock)[FINITE] == 0


def test_sgd_is_caffes():
    w, v, clock = randn(13), np.zeros(13), new_clock()
    want_w, want_v = w.copy(), v.copy()
    for step, (rate, factor) in enumerate([(0.1, 1.0), (0.1, 0.5), (0.01, 1.0)]):
        g = randn(13, seed=step + 1)
        held = g.copy()
        clock[RATE], clock[CLIP] = rate, factor
        REFERENCE.sgd_step(w, g, v, SEGMENTS, clock, 0.9, 5e-4)
        np.testing.assert_array_equal(g, held)
        for start, stop, rate_multiplier, decay_multiplier in SEGMENTS:
            for i in range(int(start), int(stop)):
                gradient = factor * g[i] + 5e-4 * decay_multiplier * want_w[i]
                want_v[i] = 0.9 * want_v[i] + rate * rate_multiplier * gradient
                want_w[i] -= want_v[i]
    np.testing.assert_allclose(w, want_w, rtol=1e-12)
    np.testing.assert_allclose(v, want_v, rtol=1e-12, atol=1e-15)


def test_nesterov_is_caffes_and_nesterovs():
    """Caffe keeps the point that the classical form looks ahead to, theta + momentum * velocity,
    and a velocity of the other sign."""
    A, momentum, rate = np.diag([1.0, 10.0, 0.1]), 0.9, 0.05
    w, v, clock = np.ones(3), np.zeros(3), new_clock()
    theta, velocity = np.ones(3), np.zeros(3)
    clock[RATE] = rate
    for _ in range(20):
        REFERENCE.nesterov_step(w, A @ w, v, np.array([[0, 3, 1, 1.0]]), clock, momentum, 0)
        velocity = momentum * velocity - rate * A @ (theta + momentum * velocity)
        theta = theta + velocity
        np.testing.assert_allclose(w, theta + momentum * velocity, rtol=1e-12)
        np.testing.assert_allclose(v, -velocity, rtol=1e-12)
    held, g = w.copy(), randn(3)
    clock[CLIP] = 0.5
    REFERENCE.nesterov_step(w, g, v, np.array([[1, 2, 2, 3.0]]), clock, momentum, 0.1)
    new = momentum * -velocity[1] + 2 * rate * (0.5 * g[1] + 0.3 * held[1])
    want = held[1] - ((1 + momentum) * new - momentum * -velocity[1])
    np.testing.assert_allclose(w, [held[0], want, held[2]], rtol=1e-12)
    np.testing.assert_allclose(v, [-velocity[0], new, -velocity[2]], rtol=1e-12)


@pytest.mark.parametrize("delta, floor", [(1e-8, 0.0), (0.0, 0.05)])
def test_rmsprop_is_caffes_or_pylearn2s(delta, floor):
    w, s, clock = randn(13), np.zeros(13), new_clock()
    want_w, want_s = w.copy(), s.copy()
    for step, (rate, factor) in enumerate([(2e-3, 1.0), (2e-3, 0.5), (2e-4, 1.0)]):
        g = randn(13, seed=step + 1)
        clock[RATE], clock[CLIP] = rate, factor
        REFERENCE.rmsprop_step(w, g, s, SEGMENTS, clock, 0.99, delta, 5e-4, floor)
        for start, stop, rate_multiplier, decay_multiplier in SEGMENTS:
            for i in range(int(start), int(stop)):
                gradient = factor * g[i] + 5e-4 * decay_multiplier * want_w[i]
                want_s[i] = 0.99 * want_s[i] + (1 - 0.99) * gradient**2
                root = max(math.sqrt(want_s[i]), floor) + delta
                want_w[i] -= rate * rate_multiplier * gradient / root
    np.testing.assert_allclose(w, want_w, rtol=1e-12)
    np.testing.assert_allclose(s, want_s, rtol=1e-12, atol=1e-18)


def adam_formula(w, gradients, rates, decay, decoupled, beta1=0.9, beta2=0.999, delta=1e-8):
    """PyTorch's Adam and AdamW as their documentation has them, in float64."""
    m, v, w = 0 * w, 0 * w, w.copy()
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        if decoupled:
            w -= rate * decay * w
        else:
            g = g + decay * w
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        w -= rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + delta)
    return w


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("begun, every", [(0, 1), (7, 3)])
def test_adam_is_pytorchs_over_100_steps(ops, decoupled, begun, every):
    """To 1e-6 in float32: of two segments, whose multipliers are a weight's and a bias's."""
    w, clock = randn(40), new_clock()
    gradients, rates = randn(100, 40) * np.logspace(-4, 1, 40), np.linspace(1e-2, 1e-4, 100)
    want = np.concatenate(
        [
            adam_formula(w[part], gradients[:, part], rates * rate, 0.1 * decay, decoupled)
            for part, rate, decay in ((slice(0, 25), 1, 1), (slice(25, 40), 2, 0))
        ]
    )
    held = [ops.asarray(a.astype(np.float32)) for a in (w, 0 * w, 0 * w)]
    segments = ops.asarray(np.array([[0, 25, 1, 1], [25, 40, 2, 0]], np.float64))
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        clock[STEP], clock[RATE] = begun + t * every - 1, rate
        ops.adam_step(
            held[0],
            ops.asarray(g.astype(np.float32)),
            *held[1:],
            segments,
            ops.asarray(clock),
            *(0.9, 0.999, 1e-8, 0.1, decoupled, begun, every),
        )
    np.testing.assert_allclose(ops.tohost(held[0]), want, rtol=1e-6, atol=1e-6)


def test_an_average_begins_at_the_weights_and_then_lags(ops):
    clock, mean = new_clock(), ops.zeros((5,))
    weights, want = randn(30, 5).astype(np.float32), np.zeros(5)
    for t, w in enumerate(weights, 1):
        clock[STEP] = 4 + 2 * t - 1
        ops.average(ops.asarray(w), mean, ops.asarray(clock), 0.7, 4, 2)
        keep = 0 if t == 1 else min(0.7, (1 + t) / (10 + t))
        want = keep * want + (1 - keep) * w
        np.testing.assert_allclose(ops.tohost(mean), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_parts_add_up_to_their_mean_rounded_once(ops, dtype):
    parts = [ops.asarray(randn(1001, seed=n).astype(dtype)) for n in range(4)]
    exact = sum(ops.tohost(g).astype(np.float64) for g in parts) / 4
    total, clock = ops.zeros((1001,)), ops.asarray(new_clock())
    for n, g in enumerate(parts):
        before = ops.tohost(g).copy()
        ops.accumulate(g, total, 0.25, n == 3, clock)
        assert n == 3 or ops.tohost(g).tobytes() == before.tobytes()
    assert not ops.tohost(total).any()
    rounding = 2.0**-8 if dtype is bfloat16 else 1e-6
    np.testing.assert_allclose(ops.tohost(g).astype(np.float64), exact, rounding, 1e-6)


def test_a_latched_clock_updates_nothing_and_stays(ops):
    clock = new_clock()
    clock[FINITE], clock[RATE] = 0, 0.1
    clock = ops.asarray(clock)
    w, g, v, other = (ops.asarray(randn(13, seed=i).astype(np.float32)) for i in range(4))
    before = ops.tohost(w).copy(), ops.tohost(v).copy(), ops.tohost(other).copy()
    segments = ops.asarray(SEGMENTS)
    ops.sgd_step(w, g, v, segments, clock, 0.9, 5e-4)
    ops.nesterov_step(w, g, v, segments, clock, 0.9, 5e-4)
    ops.rmsprop_step(w, g, v, segments, clock, 0.9, 1e-8, 5e-4)
    ops.adam_step(w, g, v, other, segments, clock, 0.9, 0.999, 1e-8, 5e-4, True, 0, 1)
    ops.average(w, v, clock, 0.9, 0, 1)
    ops.accumulate(other, v, 0.5, True, clock)
    ops.advance(clock, ops.asarray(np.array([0.1, 0.2])))
    np.testing.assert_array_equal(ops.tohost(w), before[0])
    np.testing.assert_array_equal(ops.tohost(v), before[1])
    np.testing.assert_array_equal(ops.tohost(other), before[2])
    assert ops.tohost(clock)[STEP] == 0 and ops.tohost(clock)[RATE] == 0.1


def test_advance_reads_the_table_from_first_and_stays_at_its_end(ops):
    clock = new_clock()
    clock[STEP] = clock[FIRST] = 40
    clock, rates, seen = ops.asarray(clock), ops.asarray(np.array([0.1, 0.05, 0.02])), []
    for _ in range(4):
        ops.advance(clock, rates)
        seen.append(float(ops.tohost(clock)[RATE]))
    assert seen == [0.05, 0.02, 0.02, 0.02] and ops.tohost(clock)[STEP] == 44


def test_a_latch_is_handed_on_once(ops):
    own, clock = ops.asarray(new_clock()), ops.asarray(new_clock())
    for finite, latched in ((1, 1), (0, 0), (1, 0)):
        host = new_clock() + 3
        host[FINITE] = finite
        own[...] = ops.asarray(host)
        before = ops.tohost(clock)
        ops.latch(own, clock)
        before[FINITE], host[FINITE] = latched, 1
        np.testing.assert_array_equal(ops.tohost(clock), before)
        np.testing.assert_array_equal(ops.tohost(own), host)


def test_advance_refuses_a_step_before_the_table_and_changes_nothing(ops):
    before = new_clock()
    before[STEP], before[FIRST] = 3, 6
    clock = ops.asarray(before)
    with pytest.raises(ValueError, match="step 4 lies before the table's first, 6"):
        ops.advance(clock, ops.asarray(np.array([0.1, 0.2])))
    np.testing.assert_array_equal(ops.tohost(clock), before)


# -- memory and errors ----------------------------------------------------------------------------


def test_a_constant_is_shared_where_it_can_be_and_never_written(ops):
    host = np.arange(24, dtype=np.float32).reshape(4, 6)
    unaligned = np.frombuffer(b"-" + host.tobytes(), np.float32, offset=1).reshape(4, 6)
    for given, shared in ((host, True), (host[:, ::2], False), (host.T, False), (unaligned, False)):
        found = ops.constant(given)
        assert np.array_equal(ops.tohost(found), given) and found.dtype == given.dtype
        assert found.flags.c_contiguous and found.flags.aligned
        assert np.shares_memory(found, given) is shared
        with pytest.raises(ValueError):
            found[0, 0] = 1
    host[0, 0] = 5  # it stays the host's


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_an_argument_too_many_is_refused(ops, dtype):
    a = np.ones(3, dtype)
    with pytest.raises(TypeError):
        ops.add(a, a, a.copy(), a)
    with pytest.raises(TypeError):
        ops.add(a, a, a.copy(), b=a)


def test_arrays_are_aligned_and_copied(ops):
    for dtype in (np.float32, np.float64, np.uint8, np.int32):
        for shape in ((3, 5), (1,), 7, (0, 4)):
            zeros = ops.tohost(ops.zeros(shape, dtype))
            assert not zeros.any() and zeros.dtype == dtype
            array = ops.empty(shape, dtype)
            assert array.shape == zeros.shape
            assert array.size == 0 or array.ctypes.data % 64 == 0
    host = np.arange(6.0)
    device = ops.asarray(host)
    back = ops.tohost(device)
    host[0] = back[1] = -1
    np.testing.assert_array_equal(ops.tohost(device), np.arange(6.0))


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda o: o.maxout_forward(
                np.ones((2, 63)), np.ones((2, 31)), np.ones((2, 31), np.uint8), 2
            ),
            "63 channels do not split into 2 pieces",
        ),
        (lambda o: o.variance(np.ones((2, 7)), 2), "7 channels do not split into 2 groups"),
        (
            lambda o: o.maxpool_forward(
                np.ones((1, 5, 5, 1)), np.ones((1, 2, 2, 1)), None, 17, 2, 0
            ),
            "window 17",
        ),
        (
            lambda o: o.conv_forward(
                np.ones((1, 5, 5, 3)),
                np.ones((4, 3, 3, 3)),
                np.ones(4),
                np.ones((1, 5, 5, 4)),
                1,
                0,
                1,
            ),
            "(1, 3, 3, 4)",
        ),
        (
            lambda o: o.hinge_loss_forward(
                np.ones((2, 3)), np.array([0, 3], np.int32), np.ones((2, 3)), new_clock()
            ),
            "label 3, but there are 3 classes",
        ),
        (lambda o: o.orthonormal(0, 3, (0, 4, 0)), "0 x 3"),
    ],
)
def test_errors_name_the_value(call, words):
    with pytest.raises(ValueError) as caught:
        call(REFERENCE)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_float32_stays_float32():
    x, W = randn(2, 5, 5, 3).astype(np.float32), randn(4, 3, 3, 3).astype(np.float32)
    y = np.empty((2, 5, 5, 4), np.float32)
    REFERENCE.conv_forward(x, W, np.ones(4, np.float32), y, 1, 1, 1)
    wide = output(
        lambda z: REFERENCE.conv_forward(
            x.astype(np.float64), W.astype(np.float64), np.ones(4), z, 1, 1, 1
        ),
        y.shape,
    )
    assert_close("conv_forward", y, wide)


def test_max_norm_limits_rows_and_leaves_the_others(ops):
    """Each row above the limit is scaled to it; done twice, nothing more happens."""
    W = randn(9, 500).astype(np.float32) * np.linspace(0.01, 0.2, 9, dtype=np.float32)[:, None]
    got, clock = ops.asarray(W), ops.asarray(new_clock())
    ops.max_norm(got, 1.5, clock)
    once = ops.tohost(got).copy()
    norms, before = (np.linalg.norm(a.astype(np.float64), axis=1) for a in (once, W))
    np.testing.assert_allclose(norms, np.minimum(before, 1.5), rtol=1e-6)
    assert np.array_equal(once[before < 1.5], W[before < 1.5]) and (before > 1.5).any()
    ops.max_norm(got, 1.5, clock)
    np.testing.assert_allclose(ops.tohost(got), once, rtol=1e-6)
    for limit in (0.0, np.inf):
        with pytest.raises(ValueError, match="is no norm above 0"):
            ops.max_norm(got, limit, clock)


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("length, count", [(93, 74), (35, 25), (3, 2), (5, 4), (2, 1), (16, 11)])
def test_steps_of_fractional_windows(length, count, random):
    """From 0 to the end, by ones and twos whose numbers are known; how many sequences there are."""
    found = edges(2000, 1, length, count, True, random, 5, 1, 3)
    begin, step = found[:, :, 0], np.diff(found[:, :, 0], axis=1)
    assert (begin[:, 0] == 0).all() and (found[:, -1, 1] == length).all()
    assert (found[:, :, 1] - begin == 2).all()
    assert ((step == 1).sum(1) == 2 * count - length).all()
    assert ((step == 2).sum(1) == length - count - 1).all()
    different = {(93, 74): 73, (3, 2): 1, (5, 4): 1, (2, 1): 1}.get((length, count))
    if different and (not random or different == 1):
        assert len(np.unique(begin, axis=0)) == different
    apart = edges(2000, 1, length, count, False, random, 5, 1, 3)
    width = apart[:, :, 1] - apart[:, :, 0]
    assert (apart[:, 1:, 0] == apart[:, :-1, 1]).all() and (apart[:, -1, 1] == length).all()
    assert ((width == 2).sum(1) == length - count).all() and (width >= 1).all()


def test_a_random_step_is_two_wherever_it_stands():
    """Each of 7 steps alike: 3 of them are 2. Rows and columns, and layers, draw for themselves."""
    step = np.diff(edges(20_000, 0, 12, 8, True, True, 5, 1, 3)[:, :, 0], axis=1)
    np.testing.assert_allclose((step == 2).mean(axis=0), 3 / 7, atol=0.012)
    for axis, layer in ((1, 1), (0, 2)):
        other = np.diff(edges(20_000, axis, 12, 8, True, True, 5, layer, 3)[:, :, 0], axis=1)
        assert abs((step == other).mean() - (9 + 16) / 49) < 0.01


@pytest.mark.parametrize(
    "overlapping, random", [(o, r) for o in (True, False) for r in (True, False)]
)
def test_fractional_pooling_is_the_largest_of_each_window(overlapping, random):
    N, H, W, C, Ho, Wo = 3, 11, 9, 4, 7, 8
    x, y, which = randn(N, H, W, C), np.zeros((N, Ho, Wo, C)), np.zeros((N, Ho, Wo, C), np.uint8)
    clock = new_clock()
    REFERENCE.fractional_maxpool_forward(x, y, which, overlapping, random, 5, 2, clock)
    rows, cols = (
        edges(N, axis, *sizes, overlapping, random, 5, 2, 0)
        for axis, sizes in enumerate(((H, Ho), (W, Wo)))
    )
    dy, dx, want = randn(N, Ho, Wo, C), np.full_like(x, np.nan), np.zeros_like(x)
    REFERENCE.fractional_maxpool_backward(dy, which, dx, overlapping, random, 5, 2, clock)
    for n, i, j, c in np.ndindex(y.shape):
        (top, bottom), (left, right) = rows[n, i], cols[n, j]
        window = x[n, top:bottom, left:right, c]
        r, s = np.unravel_index(window.argmax(), window.shape)
        assert y[n, i, j, c] == window.max() and which[n, i, j, c] == 2 * r + s
        want[n, top + r, left + s, c] += dy[n, i, j, c]
    np.testing.assert_allclose(dx, want, atol=1e-12)


def test_fractional_pooling_is_pytorchs():
    """With its random numbers ours; of a pair the first is the columns'."""
    torch = pytest.importorskip("torch")
    x = randn(5, 93, 35, 3)
    y, which = np.zeros((5, 74, 25, 3)), np.zeros((5, 74, 25, 3), np.uint8)
    REFERENCE.fractional_maxpool_forward(x, y, which, True, False, 5, 2, new_clock())
    u = torch.tensor(philox.words(5, philox.FRACTIONAL, 2, 0, 0, 5)[:, None, 1::-1] * 2.0**-32)
    theirs = torch.nn.functional.fractional_max_pool2d(
        torch.tensor(x.transpose(0, 3, 1, 2)), 2, (74, 25), _random_samples=u.expand(5, 3, 2)
    )
    np.testing.assert_array_equal(y, theirs.numpy().transpose(0, 2, 3, 1))


def test_a_mask_of_channels_keeps_each_alike(ops):
    """Exactly so many; over many steps each channel as often; layers draw for themselves."""
    mask, clock = ops.zeros((21,)), ops.asarray(new_clock())
    kept = np.zeros((2, 2000, 21), bool)
    for layer, step in np.ndindex(2, 2000):
        clock[STEP] = step
        ops.channel_mask(mask, 8, 2.5, 7, layer, clock)
        values = ops.tohost(mask)
        assert set(values.tolist()) <= {0, 2.5}
        kept[layer, step] = values > 0
    assert (kept.sum(axis=2) == 8).all() and abs((kept[0] == kept[1]).mean() - 0.528) < 0.01
    np.testing.assert_allclose(kept[0].mean(axis=0), 8 / 21, atol=0.04)
    with pytest.raises(ValueError, match="22 of a mask"):
        ops.channel_mask(mask, 22, 1.0, 7, 0, clock)


def test_a_field_shows_its_image_where_the_table_says(ops):
    """Unmoved it is the image's own pixels; half a pixel aside, means of neighbours; rows of the
    table in turn; what is near the background, and what lies outside, is zero and has no colour."""
    x = ops.asarray(randn(3, 4, 5, 2).astype(np.float32) + 0.5)
    image = ops.tohost(x) - np.float32(0.5)
    near = (abs(image) <= 0.3).all(axis=3, keepdims=True)
    assert near.any() and not near.all()
    whole = [1, 0, -2, 0, 1, -3, 2, 3, 7, 7]
    half = [1, 0, -1.5, 0, 1, -3, 2, 3, 7, 7]
    colours = [1, 0, 0, 2, 0.5, 0.25]
    rows = np.float32([[*half, *[0] * 6], [*whole, *colours], [*whole, *[0] * 6]])
    y, clock = ops.empty((3, 9, 8, 2)), ops.asarray(new_clock())
    clock[STEP], clock[FIRST] = 7, 5  # 2 steps of 3 images on: rows 0, 1, 2
    ops.distort(x, ops.asarray(rows), y, clock, 0.5, 0.3)
    got, inside = ops.tohost(y), (slice(3, 7), slice(2, 7))
    for field in got:
        assert not np.delete(field, range(3, 7), 0).any()
        assert not np.delete(field, range(2, 7), 1).any()
    u, v = np.arange(2, 7)[None, :], np.arange(3, 7)[:, None]
    brighter = np.stack([np.ones((4, 5)), 2 + 0.5 * u + 0.25 * v], axis=2)
    np.testing.assert_array_equal(got[2][inside], np.where(near[2], 0, image[2]))
    want = np.where(near[1], 0, image[1] + brighter)
    np.testing.assert_allclose(got[1][inside], want, atol=1e-6)
    means = (image[0] + np.pad(image[0], ((0, 0), (0, 1), (0, 0)))[:, 1:]) / 2
    seen = (abs(means) > 0.3).any(axis=2, keepdims=True)
    np.testing.assert_allclose(got[0][inside], np.where(seen, means, 0), atol=1e-6)
    with pytest.raises(ValueError, match="16"):
        ops.distort(x, ops.asarray(rows[:, :15].copy()), y, clock, 0.5, 0.3)
