"""Sums, moments and variances of device cuda where they are hard: far from zero, tiny, huge, not
finite, many tiles; and twice in different orders of blocks and threads, with the same bits.

Read next: test_cuda_ops.py.
"""

import numpy as np
import pytest
from ml_dtypes import bfloat16

from helpers.tolerances import assert_close
from kernels.reference import NumpyOps

REFERENCE = NumpyOps()


def normal(*shape, mean=0.0, scale=1.0, dtype=np.float32):
    values = np.random.default_rng(shape).standard_normal(shape) * scale + mean
    return values.astype(dtype)


def variances(ops, host, groups):
    """Of the device and of the reference in float64."""
    got = ops.variance(ops.asarray(host), groups)
    again = ops.variance(ops.asarray(host), groups)
    for first, second in zip(got, again, strict=True):
        assert first.dtype == np.float64 and first.tobytes() == second.tobytes()
    return got, REFERENCE.variance(host.astype(np.float64), groups)


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
@pytest.mark.parametrize(
    "mean, scale",
    [
        (0, 1),
        (1e3, 1),
        (-1e3, 1),
        (0, 1e19),
        (0, 1e-19),
        (3e32, 1e32),
        (1e-27, 1e-30),
        (1e-36, 1e-35),
        (-1e3, 1e-25),
    ],
)
@pytest.mark.parametrize(
    "shape, groups",
    [
        ((2000, 64), 2),
        ((600, 96), 2),
        ((700, 48), 3),
        ((999, 7), 1),
        ((3, 60000), 2),
        ((2, 4), 1),
        ((9, 16), 16),
    ],
)
def test_variance_far_from_one(cuda_ops, shape, groups, mean, scale, dtype):
    host = normal(*shape, mean=mean, scale=scale, dtype=dtype)
    (mean, variance), (true_mean, true_variance) = variances(cuda_ops, host, groups)
    np.testing.assert_allclose(variance, true_variance, rtol=1e-6)
    np.testing.assert_allclose(mean, true_mean, rtol=1e-6, atol=1e-6 * true_variance.max() ** 0.5)


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_variance_of_many_tiles(cuda_ops, dtype):
    """More tiles than the merge has threads; every tile has a mean of its own."""
    host = normal(90, 25, 9, 120, mean=1e3)
    host += 3 * normal(90, 25, 1, 1)
    got, want = variances(cuda_ops, host.astype(dtype), 1)
    for values, truth in zip(got, want, strict=True):
        np.testing.assert_allclose(values, truth, rtol=1e-6)


def test_variance_of_two_values(cuda_ops):
    """All squares are equal, so that roundings of their sums don't cancel."""
    host = np.where(np.random.default_rng(1).random((2000, 32)) < 0.3, 1.1, -0.7)
    (mean, variance), (true_mean, true_variance) = variances(cuda_ops, host.astype(np.float32), 2)
    np.testing.assert_allclose(variance, true_variance, rtol=1e-6)


def test_variance_of_equal_numbers_is_zero(cuda_ops):
    mean, variance = cuda_ops.variance(cuda_ops.asarray(np.full((777, 24), 0.1, np.float32)), 3)
    assert (variance == 0).all() and (mean == np.float32(0.1)).all()


def test_variance_of_one_outlier(cuda_ops):
    host = normal(3000, 32)
    host[0, 0] = 1e15
    (mean, variance), (true_mean, true_variance) = variances(cuda_ops, host, 2)
    np.testing.assert_allclose(variance, true_variance, rtol=1e-6)
    np.testing.assert_allclose(mean, true_mean, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 16), (1234, 20), (1999, 31)])
@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_variance_of_what_is_not_finite(cuda_ops, bad, place, dtype):
    """One such value spoils its group and no other."""
    host = normal(2000, 48, dtype=dtype)
    clean = cuda_ops.variance(cuda_ops.asarray(host), 3)
    host[place] = bad
    for spoilt, whole in zip(cuda_ops.variance(cuda_ops.asarray(host), 3), clean, strict=True):
        assert not np.isfinite(spoilt[1])
        assert (spoilt[[0, 2]] == whole[[0, 2]]).all()


# -- batch normalisation --------------------------------------------------------------------------


def normalised(ops, host, eps=1e-5):
    """y, mean, rstd on the host."""
    x, C = ops.asarray(host), host.shape[-1]
    y, mean, rstd = ops.empty(x.shape, x.dtype), ops.empty((C,)), ops.empty((C,))
    ops.batchnorm_forward(x, y, mean, rstd, eps)
    return [ops.tohost(array) for array in (y, mean, rstd)]


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
@pytest.mark.parametrize("shape", [(5000, 24), (777, 5), (40, 1100), (1, 8)])
def test_batchnorm_far_from_zero(cuda_ops, shape, dtype):
    """Every channel has its own mean, up to 10^3 standard deviations, and drifts."""
    host = normal(*shape) + np.linspace(-1e3, 1e3, shape[1]) + np.linspace(-1, 1, shape[0])[:, None]
    host = host.astype(dtype)
    y, mean, rstd = normalised(cuda_ops, host)
    exact = host.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(rstd, 1 / np.sqrt(exact.var(axis=0) + 1e-5), rtol=1e-5)
    want = ((host.astype(np.float32) - mean) * rstd).astype(dtype)
    assert_close("batchnorm_forward", y, want)


@pytest.mark.parametrize("row", [0, 511, 1023, 1024, 1500, 2047])
@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_batchnorm_of_one_outlier(cuda_ops, row, dtype):
    """Wherever it stands, also where a part takes its pivot from."""
    host = normal(2048, 4)
    host[row] += 1000
    host = host.astype(dtype)
    y, mean, rstd = normalised(cuda_ops, host)
    exact = host.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(rstd, 1 / np.sqrt(exact.var(axis=0) + 1e-5), rtol=1e-6)


def test_batchnorm_has_the_same_bits_in_any_order(cuda_ops):
    """Also where its arrays don't allow 128-bit accesses."""
    host, dy = normal(3000, 24, mean=3), normal(24, 3000).T.copy()
    room = cuda_ops.empty((2 * host.size + 1,), np.float32)
    results = []
    for first in (0, 0, 1):
        x, y = (
            room[first + i * host.size : first + (i + 1) * host.size].reshape(host.shape)
            for i in (0, 1)
        )
        x.set(host)
        mean, rstd, dx = cuda_ops.empty((24,)), cuda_ops.empty((24,)), cuda_ops.empty(x.shape)
        cuda_ops.batchnorm_forward(x, y, mean, rstd, 1e-5)
        cuda_ops.batchnorm_backward(cuda_ops.asarray(dy), y, rstd, dx)
        results.append([cuda_ops.tohost(array).tobytes() for array in (y, mean, rstd, dx)])
    assert results[0] == results[1] == results[2]


def test_batchnorm_of_nothing_has_no_statistics(cuda_ops):
    with pytest.raises(ValueError, match=r"batchnorm_forward: \(0, 3\) has no elements"):
        normalised(cuda_ops, np.zeros((0, 3), np.float32))


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan])
@pytest.mark.parametrize("shape", [(70, 8), (0, 8)])
def test_inference_without_statistics_is_an_error(cuda_ops, shape, weight):
    x, y = cuda_ops.asarray(normal(*shape)), cuda_ops.zeros(shape)
    running, weight = cuda_ops.zeros((8,)), cuda_ops.asarray(np.float32([weight]))
    cuda_ops.batchnorm_inference(x, y, running, running, weight, 1e-5)
    with pytest.raises(ValueError, match="batchnorm: no running statistics yet"):
        cuda_ops.synchronize()
    assert np.isnan(cuda_ops.tohost(y)).all()
