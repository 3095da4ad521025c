"""Orthonormal matrices of device cuda on the double, whose cuSOLVER multiplies reflectors in NumPy:
those of the reference, rounded once, on both of its paths; and what happens when cuSOLVER fails.

Read next: tests/kernels/test_orthonormal.py.
"""

import numpy as np
import pytest

from helpers.tolerances import gram_error
from kernels import philox
from kernels.orthonormal import orthonormal

KEY = (2**63 + 5, philox.WEIGHTS, 3)
SHAPES = [(300, 64), (64, 300), (130, 130), (1, 1), (97, 1), (1, 97), (33, 32), (2, 2)]


@pytest.fixture
def module(cuda_ops):
    """kernels.cuda.orthonormal, which finds the double of CuPy only after `cuda_ops`."""
    from kernels.cuda import orthonormal as found

    return found


def made(ops, module, monkeypatch, host, rows, cols, key=KEY):
    """The matrix on the host, made there if it has no more than `host` elements, and how many
    kernels were launched for it."""
    import cupy

    monkeypatch.setattr(module, "HOST", host)
    before = cupy._double.launches
    Q = ops.tohost(ops.orthonormal(rows, cols, key))
    return Q, cupy._double.launches - before


@pytest.mark.parametrize("rows, cols", SHAPES)
def test_it_is_the_references_matrix(cuda_ops, module, monkeypatch, rows, cols):
    Q, launches = made(cuda_ops, module, monkeypatch, 0, rows, cols)
    assert Q.shape == (rows, cols) and Q.dtype == np.float32 and launches == 2
    np.testing.assert_allclose(Q, orthonormal(rows, cols, KEY), rtol=1e-6, atol=1e-7)
    assert gram_error(Q) <= 1e-6
    again, _ = made(cuda_ops, module, monkeypatch, 0, rows, cols)
    np.testing.assert_array_equal(Q, again)
    if rows != cols:
        turned, _ = made(cuda_ops, module, monkeypatch, 0, cols, rows)
        np.testing.assert_array_equal(Q, turned.T)


@pytest.mark.parametrize("rows, cols", SHAPES)
def test_small_matrices_of_the_host_are_the_same(cuda_ops, module, monkeypatch, rows, cols):
    here, launches = made(cuda_ops, module, monkeypatch, rows * cols, rows, cols)
    there, _ = made(cuda_ops, module, monkeypatch, rows * cols - 1, rows, cols)
    assert launches == 0
    np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-7)


def test_more_reflectors_than_blocks_and_tiles_than_blocks(cuda_ops, module, monkeypatch):
    """Every kernel of the file gives the same matrix from a grid of one block."""
    launch = cuda_ops.launch
    monkeypatch.setattr(
        cuda_ops,
        "launch",
        lambda file, kernel, dtype, blocks, *rest: launch(file, kernel, dtype, 1, *rest),
    )
    for rows, cols in ((70, 45), (45, 70)):
        Q, _ = made(cuda_ops, module, monkeypatch, 0, rows, cols)
        np.testing.assert_allclose(Q, orthonormal(rows, cols, KEY), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "seed, purpose, index", [(0, 0, 0), (2**64 - 1, 65535, 65535), (1 << 32, philox.SYNTHETIC, 1)]
)
def test_every_part_of_the_key_reaches_the_kernel(
    cuda_ops, module, monkeypatch, seed, purpose, index
):
    key = seed, purpose, index
    Q, _ = made(cuda_ops, module, monkeypatch, 0, 9, 4, key)
    np.testing.assert_allclose(Q, orthonormal(9, 4, key), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "rows, cols, key, words",
    [
        (0, 300, KEY, "0 x 300 has no elements"),
        (300, -1, KEY, "300 x -1 has no elements"),
        (300, 64, (-1, 4, 0), "seed -1 is not a 64-bit number"),
        (300, 64, (1 << 64, 4, 0), "seed 18446744073709551616 is not"),
        (300, 64, (0, 1 << 16, 0), "purpose 65536"),
        (300, 64, (0, 4, -1), "-1"),
        (300, 64, (0, 4, 1 << 16), "65536"),
    ],
)
def test_errors_name_the_value(cuda_ops, rows, cols, key, words):
    with pytest.raises(ValueError) as caught:
        cuda_ops.orthonormal(rows, cols, key)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_failure_of_cusolver_is_an_error(cuda_ops, module, monkeypatch):
    import cupy

    def failing(*arguments):
        cupy._double.memory(arguments[-1], 4).view(np.int32)[...] = -5

    monkeypatch.setattr(module.cusolver, "dorgqr", failing)
    words = r"^orthonormal: cuSOLVER's dorgqr of 300 x 64 ended with devInfo -5; .*--device cpu$"
    with pytest.raises(RuntimeError, match=words):
        cuda_ops.orthonormal(64, 300, KEY)


def test_the_double_refuses_what_cusolver_would(cuda_ops, module):
    """m 3, n 2: a leading dimension too small, too little workspace, more columns than rows, memory
    that is too short, another handle."""
    from cupy._double import DoubleError

    handle, solver = module.device.get_cusolver_handle(), module.cusolver
    A, tau, info = (
        cuda_ops.zeros((count,), dtype)
        for count, dtype in ((6, np.float64), (2, np.float64), (1, np.int32))
    )
    size = solver.dorgqr_bufferSize(handle, 3, 2, 2, A.data.ptr, 3, tau.data.ptr)
    work = cuda_ops.empty((size,), np.float64)
    rest = tau.data.ptr, work.data.ptr, size, info.data.ptr
    solver.dorgqr(handle, 3, 2, 2, A.data.ptr, 3, *rest)
    np.testing.assert_array_equal(cuda_ops.tohost(A), [1, 0, 0, 0, 1, 0])
    for arguments in (
        (handle, 3, 2, 2, A.data.ptr, 2, *rest),
        (handle, 3, 2, 2, A.data.ptr, 3, *rest[:2], size - 1, rest[3]),
        (handle, 2, 3, 2, A.data.ptr, 3, *rest),
        (handle, 3, 2, 2, A.data.ptr + 8, 3, *rest),
        (handle, 3, 2, 2, A.data.ptr, 3, rest[0], work.data.ptr + 8, *rest[2:]),
        (handle + 1, 3, 2, 2, A.data.ptr, 3, *rest),
    ):
        with pytest.raises(DoubleError):
            solver.dorgqr(*arguments)
