"""Orthonormal matrices: orthonormal to float32's last bit, a function of their key, and Haar.

Read next: tests/test_reference.py.
"""

import numpy as np
import pytest

from conftest import assert_close
from kernels import philox
from kernels.orthonormal import BLOCK, orthonormal

SHAPES = [(1, 1), (1, 7), (7, 1), (5, 5), (32, 27), (27, 32), (BLOCK, BLOCK), (BLOCK + 1, BLOCK),
          (3 * BLOCK + 5, 2 * BLOCK + 3), (128, 1152), (500, 128), (2, 4001)]


@pytest.mark.parametrize("rows, cols", SHAPES)
def test_orthonormal(ops, rows, cols):
    key = 12, philox.WEIGHTS, 3
    Q = ops.tohost(ops.orthonormal(rows, cols, key))
    assert Q.shape == (rows, cols) and Q.dtype == np.float32
    wide = Q.astype(np.float64)
    gram = wide.T @ wide if rows >= cols else wide @ wide.T
    assert abs(gram - np.eye(len(gram))).max() <= 1e-6
    assert_close("orthonormal", Q, orthonormal(rows, cols, key))
    np.testing.assert_array_equal(Q, ops.tohost(ops.orthonormal(rows, cols, key)))
    if rows != cols:
        np.testing.assert_array_equal(Q, ops.tohost(ops.orthonormal(cols, rows, key)).T)


def test_is_the_q_of_a_qr_decomposition():
    """Reflector by reflector, without blocks: H0 H1 ... of the same Gaussian vectors."""
    rows, cols, key = 9, 4, (5, philox.WEIGHTS, 2)
    x = philox.normal(*key, rows * cols).reshape(cols, rows)
    Q = np.eye(rows)
    signs = np.empty(cols)
    for k in range(cols):
        v = np.where(np.arange(rows) < k, 0, x[k])
        signs[k] = -np.sign(v[k])
        v[k] -= signs[k] * np.linalg.norm(v)
        Q = Q @ (np.eye(rows) - 2 * np.outer(v, v) / (v @ v))
    np.testing.assert_allclose(orthonormal(rows, cols, key), Q[:, :cols] * signs, atol=1e-12)


def test_differs_by_every_part_of_the_key():
    keys = [(0, 4, 0), (1, 4, 0), (0, 5, 0), (0, 4, 1)]
    assert len({orthonormal(6, 4, key).tobytes() for key in keys}) == 4


def test_is_haar():
    """On O(3) every entry is uniform on (-1, 1), and E tr Q = 0, E (tr Q)^2 = E tr Q^2 = 1.

    The same must hold after multiplication by any fixed orthogonal matrix.
    """
    count = 1500
    fixed = orthonormal(3, 3, (99, philox.WEIGHTS, 0))
    for seed, left in ((1, np.eye(3)), (2, fixed)):
        Q = np.stack([left @ orthonormal(3, 3, (seed, philox.WEIGHTS, i)) for i in range(count)])
        steps = np.arange(count + 1) / count
        for entry in Q.reshape(count, 9).T:
            uniform = (np.sort(entry) + 1) / 2
            distance = max((uniform - steps[:-1]).max(), (steps[1:] - uniform).max())
            assert distance * np.sqrt(count) < 1.95
        trace = np.trace(Q, axis1=1, axis2=2)
        square = np.trace(Q @ Q, axis1=1, axis2=2)
        assert abs(trace.mean()) < 4 / np.sqrt(count)
        assert np.mean(trace ** 2) == pytest.approx(1, abs=0.2)
        assert square.mean() == pytest.approx(1, abs=0.2)
        negative = (np.linalg.det(Q) < 0).mean()
        assert abs(negative - 0.5) < 4 * 0.5 / np.sqrt(count)


PINNED = [[0.21435575167571863, -0.9392570330661116],
          [0.012092795661578996, -0.2718502621355334],
          [-0.9766807953556905, -0.2095081402062625]]


def test_pinned():
    np.testing.assert_allclose(orthonormal(3, 2, (1, philox.WEIGHTS, 0)), PINNED, atol=1e-12)
