"""What pooling, LRN and concatenation promise on device cuda beyond the cases of op_cases.py.

Read next: test_cuda_ops.py.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from ml_dtypes import bfloat16

from helpers.cuda_cases import aligned, device_run
from helpers.op_cases import CASES, REFERENCE, SEED, clock
from kernels.checks import pooled

OPERATIONS = [
    f"{name}_{way}"
    for way in ("forward", "backward")
    for name in ("maxpool", "maxout_pool", "maxout_pool_dropout", "avgpool", "lrn", "concat")
]


@pytest.mark.parametrize("name", OPERATIONS)
def test_any_grid_gives_the_same_bits(cuda_ops, monkeypatch, name):
    small = [number for number, case in enumerate(CASES[name]) if case[0].size < 10000]

    def every():
        return [device_run(cuda_ops, name, number, place=aligned) for number in small]

    want = every()
    for grid in (lambda threads: 1, lambda threads: 3, lambda threads: threads // 64 + 5):
        monkeypatch.setattr("kernels.cuda.ops.blocks_for", grid)
        for number, once, again in zip(small, want, every(), strict=True):
            for key in once:
                assert once[key].tobytes() == again[key].tobytes(), (number, key)


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
@pytest.mark.parametrize("C", [5, 8])
@pytest.mark.parametrize(
    "P, size, stride, pad",
    [
        (1, 2, 2, 0),
        (2, 2, 2, 0),
        (1, 3, 2, 1),
        (3, 3, 1, 0),
        (2, 8, 8, 0),
        (1, 16, 16, 0),
        (1, 7, 3, 2),
        (2, 5, 5, 0),
    ],
)
def test_nan_infinities_and_ties_win_as_in_the_reference(cuda_ops, P, size, stride, pad, C, dtype):
    """Some windows hold nothing but minus infinity, some NaN only, in most several values tie."""
    rng = np.random.default_rng(size)
    rare = np.float32([np.nan, np.inf, 0.0, -0.0, 1, -1, -np.inf])
    x = rng.choice(rare, (4, 17, 18, P * C), p=[0.01, 0.02, 0.1, 0.1, 0.13, 0.14, 0.5]).astype(
        dtype
    )
    x[0], x[1, :9] = -np.inf, np.nan
    shape = (4, pooled(17, size, stride, pad), pooled(18, size, stride, pad), C)
    name = "maxpool_forward" if P == 1 else "maxout_pool_forward"
    options = (size, stride, pad) if P == 1 else (P, size, stride)
    y, which = np.zeros(shape, dtype), np.zeros(shape, np.uint8)
    getattr(REFERENCE, name)(x, y, which, *options)
    got, won = cuda_ops.empty(shape, dtype), cuda_ops.empty(shape, np.uint8)
    getattr(cuda_ops, name)(cuda_ops.asarray(x), got, won, *options)
    np.testing.assert_array_equal(cuda_ops.tohost(won), which)
    np.testing.assert_array_equal(cuda_ops.tohost(got).astype(np.float32), y.astype(np.float32))


@pytest.mark.parametrize("C", [5, 16])
@pytest.mark.parametrize("P, size, stride", [(2, 2, 2), (3, 3, 2), (2, 8, 8), (2, 4, 2)])
def test_pooling_with_dropout_is_the_references_to_the_bit(cuda_ops, P, size, stride, C):
    rng = np.random.default_rng(size)
    x = rng.standard_normal((3, 9, 11, P * C)).astype(np.float32)
    shape = (3, pooled(9, size, stride), pooled(11, size, stride), C)
    dy, now = rng.standard_normal(shape).astype(np.float32), clock(5)
    y, which, dx = (
        np.zeros(like, dtype)
        for like, dtype in ((shape, np.float32), (shape, np.uint8), (x.shape, np.float32))
    )
    REFERENCE.maxout_pool_dropout_forward(x, y, which, P, size, stride, 0.3, SEED, 9, now)
    REFERENCE.maxout_pool_dropout_backward(dy, which, dx, P, size, stride, 0.3)
    got = [cuda_ops.empty(array.shape, array.dtype) for array in (y, which, dx)]
    cuda_ops.maxout_pool_dropout_forward(
        cuda_ops.asarray(x), *got[:2], P, size, stride, 0.3, SEED, 9, cuda_ops.asarray(now)
    )
    cuda_ops.maxout_pool_dropout_backward(cuda_ops.asarray(dy), *got[1:], P, size, stride, 0.3)
    for array, want in zip(got, (y, which, dx), strict=True):
        np.testing.assert_array_equal(cuda_ops.tohost(array), want)
    assert 0 < (which == 255).mean() < 1


@pytest.mark.parametrize("C", [5, 8])
def test_lrn_of_values_beyond_measure(cuda_ops, C):
    """A sum of squares that overflows makes its neighbours 0, as in float32; NaN stays NaN."""
    x = np.ones((2, C), np.float32)
    x[0, 0], x[1, 0] = 1e30, np.nan
    y, dx = cuda_ops.empty(x.shape), cuda_ops.empty(x.shape)
    cuda_ops.lrn_forward(cuda_ops.asarray(x), y, 5, 1.0, 0.75, 1.0)
    cuda_ops.lrn_backward(cuda_ops.asarray(x), cuda_ops.asarray(x), dx, 5, 1.0, 0.75, 1.0)
    y, dx = cuda_ops.tohost(y), cuda_ops.tohost(dx)
    assert (y[0, :3] == 0).all() and (y[0, 3:] > 0.5).all() and np.isfinite(dx[0, 3:]).all()
    assert np.isnan(y[1, :3]).all() and (y[1, 3:] > 0.5).all() and np.isnan(dx[1, :5]).all()


def test_lrn_backward_takes_no_more_memory_than_its_blocks_use(cuda_ops, monkeypatch):
    asked, workspace = [], cuda_ops._workspace
    monkeypatch.setattr(
        cuda_ops, "_workspace", lambda nbytes: asked.append(nbytes) or workspace(nbytes)
    )
    for shape, size in (((2, 5000), 3), ((2, 40), 3), ((6, 47), 5), ((6, 48), 5)):
        x = cuda_ops.asarray(np.ones(shape, np.float32))
        cuda_ops.lrn_backward(x, x, cuda_ops.empty(shape), size, 1.0, 0.75, 1.0)
    cuda_ops.synchronize()
    assert asked == [8 * 2 * 5000, 8 * 2048, 8 * 2048, 0]


def test_a_pooling_too_far_across_is_refused(cuda_ops):
    from kernels.cuda.ops import _windows

    far = SimpleNamespace(shape=(1, 1 << 30, 1, 1))
    with pytest.raises(ValueError, match="has 1073741824 or more along an axis; pool a part"):
        _windows(far, far)
