"""Orthonormal matrices: orthonormal to float32's last bit, a function of their key, and Haar.

Read next: tests/kernels/test_reference.py.
"""

import numpy as np
import pytest

from helpers.devices import DEVICES
from helpers.tolerances import assert_close, gram_error
from kernels import ops_for, philox
from kernels.orthonormal import BLOCK, orthonormal

CPU = next((ops for ops in DEVICES if ops.name == "cpu"), None)
needs_cpu = pytest.mark.skipif(CPU is None, reason="device cpu does not work on this machine")
KEY = (12, philox.WEIGHTS, 3)
# Square, thin, wide, a row, a column; around the reference's block and the cpu device's strip of 96
# columns and block of 192, whose last tile is then full, one over or one short.
SHAPES = [
    (1, 1),
    (1, 7),
    (7, 1),
    (2, 2),
    (5, 5),
    (32, 27),
    (27, 32),
    (500, 1),
    (1, 500),
    (2, 4001),
    (BLOCK, BLOCK),
    (BLOCK + 1, BLOCK),
    (3 * BLOCK + 5, 2 * BLOCK + 3),
    (128, 1152),
    (500, 128),
    (95, 95),
    (96, 96),
    (97, 97),
    (96, 300),
    (191, 191),
    (192, 192),
    (193, 193),
    (195, 193),
    (384, 384),
    (388, 385),
    (577, 481),
]


@pytest.mark.parametrize("rows, cols", SHAPES)
def test_orthonormal(ops, rows, cols):
    Q = ops.tohost(ops.orthonormal(rows, cols, KEY))
    assert Q.shape == (rows, cols) and Q.dtype == np.float32
    assert gram_error(Q) <= 1e-6
    assert_close("orthonormal", Q, orthonormal(rows, cols, KEY))
    np.testing.assert_array_equal(Q, ops.tohost(ops.orthonormal(rows, cols, KEY)))
    if rows != cols:
        np.testing.assert_array_equal(Q, ops.tohost(ops.orthonormal(cols, rows, KEY)).T)


@needs_cpu
@pytest.mark.parametrize("rows, cols", [(5, 5), (500, 128), (128, 1152), (700, 601)])
def test_the_bits_do_not_depend_on_the_number_of_threads(rows, cols):
    before = CPU.threads
    try:
        found = {
            ops_for("cpu", threads=n).orthonormal(rows, cols, KEY).tobytes() for n in (1, 2, 3, 8)
        }
    finally:
        ops_for("cpu", threads=before)
    assert len(found) == 1


@needs_cpu
def test_the_result_is_aligned_and_outlives_the_call():
    kept = [CPU.orthonormal(3, 5, (seed, philox.WEIGHTS, 0)) for seed in range(20)]
    for seed, Q in enumerate(kept):
        assert Q.ctypes.data % 64 == 0 and Q.flags.c_contiguous and Q.flags.writeable
        assert_close("orthonormal", Q, orthonormal(3, 5, (seed, philox.WEIGHTS, 0)))


@pytest.mark.parametrize("seed, index", [(0, 0), (2**64 - 1, 65535), (1 << 32, 1)])
def test_every_part_of_the_key_reaches_the_device(ops, seed, index):
    key = seed, philox.SYNTHETIC, index
    assert_close("orthonormal", ops.tohost(ops.orthonormal(9, 4, key)), orthonormal(9, 4, key))


@pytest.mark.parametrize(
    "rows, cols, key, words",
    [
        (0, 3, KEY, "0 x 3 has no elements"),
        (3, 0, KEY, "3 x 0 has no elements"),
        (-1, 3, KEY, "-1 x 3 has no elements"),
        (3, 3, (-1, 4, 0), "seed -1 is not a 64-bit number"),
        (3, 3, (1 << 64, 4, 0), "seed 18446744073709551616 is not"),
        (3, 3, (0, 1 << 16, 0), "purpose 65536"),
        (3, 3, (0, -1, 0), "purpose -1"),
        (3, 3, (0, 4, -1), "-1"),
        (3, 3, (0, 4, 1 << 16), "65536"),
    ],
)
def test_errors_name_the_value(ops, rows, cols, key, words):
    with pytest.raises(ValueError) as caught:
        ops.orthonormal(rows, cols, key)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@needs_cpu
def test_a_size_beyond_any_memory_is_refused():
    with pytest.raises(ValueError, match="1099511627776 x 4194304 has more than 2..40 elements"):
        CPU.orthonormal(1 << 40, 1 << 22, KEY)


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


def kolmogorov(values, distribution) -> float:
    """sqrt(n) times the largest distance of the values' distribution from the one given; above 1.95
    with probability 0.001 if that is the true one."""
    steps = np.arange(len(values) + 1) / len(values)
    found = distribution(np.sort(values))
    distance = max((found - steps[:-1]).max(), (steps[1:] - found).max())
    return distance * np.sqrt(len(values))


def haar_failures(Q) -> list[str]:
    """Which properties of Haar's measure on O(3) the matrices Q (count, 3, 3) do not have.

    Every entry is uniform on (-1, 1) (the sphere's, Archimedes), in the first column jointly: the
    angle around the axis is uniform too. E tr Q = 0, E (tr Q)^2 = E tr Q^2 = 1, and the
    determinant is -1 in half of them.
    """
    count, failures = len(Q), []
    for i, entry in enumerate(Q.reshape(count, 9).T):
        if kolmogorov(entry, lambda x: (x + 1) / 2) >= 1.95:
            failures.append(f"entry {divmod(i, 3)}")
    angle = np.arctan2(Q[:, 1, 0], Q[:, 2, 0])
    if kolmogorov(angle, lambda a: a / (2 * np.pi) + 0.5) >= 1.95:
        failures.append("angle of the first column")
    trace = np.trace(Q, axis1=1, axis2=2)
    square = np.trace(Q @ Q, axis1=1, axis2=2)
    if abs(trace.mean()) >= 4 / np.sqrt(count):
        failures.append("trace")
    if abs(np.mean(trace**2) - 1) >= 0.2 or abs(square.mean() - 1) >= 0.2:
        failures.append("second moment of the trace")
    if abs((np.linalg.det(Q) < 0).mean() - 0.5) >= 4 * 0.5 / np.sqrt(count):
        failures.append("determinant")
    return failures


def test_is_haar(ops):
    """And so after multiplication by any fixed orthogonal matrix."""
    fixed = orthonormal(3, 3, (99, philox.WEIGHTS, 0))
    for seed, left in ((1, np.eye(3)), (2, fixed)):
        Q = np.stack(
            [
                left @ ops.tohost(ops.orthonormal(3, 3, (seed, philox.WEIGHTS, i)))
                for i in range(1500)
            ]
        )
        assert haar_failures(Q) == []


def test_the_haar_test_sees_a_missing_sign():
    """Without the signs Q is what LAPACK's QR gives: H0 H1 H2, whose first entry is never above 0
    and whose determinant is always -1."""
    x = philox.normal(1, philox.WEIGHTS, 0, 1500 * 9).reshape(-1, 3, 3)
    failures = haar_failures(np.stack([np.linalg.qr(each)[0] for each in x]))
    assert "entry (0, 0)" in failures
    fixed = np.stack([Q * np.sign(np.diag(R)) for Q, R in map(np.linalg.qr, x)])
    assert haar_failures(fixed) == []


PINNED = [
    [0.21435575167571863, -0.9392570330661116],
    [0.012092795661578996, -0.2718502621355334],
    [-0.9766807953556905, -0.2095081402062625],
]


def test_pinned():
    np.testing.assert_allclose(orthonormal(3, 2, (1, philox.WEIGHTS, 0)), PINNED, atol=1e-12)
