"""A random orthonormal matrix on the device: the one of kernels/orthonormal.py, rounded once.

The same Gaussian reflectors, drawn by a kernel from the same words and brought into LAPACK's form,
are multiplied together by cuSOLVER's `dorgqr`, all in float64. It works column by column: a matrix
with more columns than rows, which is the transpose of a tall one, comes out as it must lie.

Read next: orthonormal.cu.
"""

from __future__ import annotations

import numpy as np
from cupy.cuda import device
from cupy_backends.cuda.libs import cusolver

from kernels import orthonormal as reference
from kernels import philox
from kernels.cuda.launch import blocks_for

# Matrices of no more elements are made by NumPy and uploaded: in the time of the launches, of
# cuSOLVER's many small ones and of waiting for its verdict, the host is done.
HOST = 4096
TILE = 32  # of orthonormal.cu


def orthonormal(ops, rows: int, cols: int, key: tuple[int, int, int]):
    """A Haar orthonormal (rows, cols), float32 on the device; key = (seed, purpose, index)."""
    if rows < 1 or cols < 1 or rows * cols <= HOST:
        return ops.asarray(reference.orthonormal(rows, cols, key).astype(np.float32))
    seed, purpose, index = key
    philox.words(seed, purpose, index, 0, 0, 0)  # no words, but the key's checks
    m, n = max(rows, cols), min(rows, cols)
    A, tau, signs = (ops.empty(shape, np.float64) for shape in ((n, m), (n,), (n,)))
    ops.launch(
        "orthonormal",
        "orthonormal_reflectors",
        np.float32,
        n,
        A,
        tau,
        signs,
        m,
        n,
        int(np.uint64(seed).view(np.int64)),
        purpose,
        index,
    )
    _multiply(ops, A, tau)
    result = ops.empty((rows, cols), np.float32)
    if rows < cols:
        name, blocks = "orthonormal_rows", blocks_for(A.size)
    else:
        name, blocks = "orthonormal_columns", -(-m // TILE) * -(-n // TILE)
    ops.launch("orthonormal", name, np.float32, blocks, A, signs, result, m, n)
    return result


def _multiply(ops, A, tau) -> None:
    """A (n, m) = the first n columns of the product of the n reflectors in A."""
    n, m = A.shape
    handle = device.get_cusolver_handle()
    size = cusolver.dorgqr_bufferSize(handle, m, n, n, A.data.ptr, m, tau.data.ptr)
    work, info = ops.empty((size,), np.float64), ops.empty((1,), np.int32)
    cusolver.dorgqr(
        handle, m, n, n, A.data.ptr, m, tau.data.ptr, work.data.ptr, size, info.data.ptr
    )
    code = int(ops.tohost(info)[0])
    if code:
        raise RuntimeError(
            f"orthonormal: cuSOLVER's dorgqr of {m} x {n} ended with devInfo {code};"
            " update cuSOLVER, or use --device cpu"
        )
