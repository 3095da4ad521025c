"""A double of cuSOLVER: dorgqr, on the memory of the pretended GPU.

As LAPACK's: the matrix lies column by column, `lda` numbers apart; of reflector j only what stands
below its element j is read. Whatever it is handed is checked, and the workspace is garbage after.

Read next: tests/cuda/README.md.
"""

from __future__ import annotations

import numpy as np
from cupy import _double

HANDLE = 0x501  # what cupy.cuda.device.get_cusolver_handle() returns
WORK = 32  # numbers of workspace a column


def dorgqr_bufferSize(handle, m, n, k, A, lda, tau) -> int:
    _arguments(handle, m, n, k, A, lda, tau)
    return WORK * n


def dorgqr(handle, m, n, k, A, lda, tau, work, lwork, devInfo) -> None:
    """A = the first n columns of the product of the k reflectors that A and tau hold."""
    _double.wait("cuSOLVER's dorgqr")
    matrix, factors = _arguments(handle, m, n, k, A, lda, tau)
    if lwork < WORK * n:
        raise _double.DoubleError(f"dorgqr: {lwork} numbers of workspace, but {WORK * n} are asked")
    Q = np.eye(m, n)
    for j in reversed(range(k)):
        v = np.concatenate([[1.0], matrix[j, j + 1 :]])
        Q[j:, j:] -= factors[j] * np.outer(v, v @ Q[j:, j:])
    matrix[...] = Q.T
    _numbers(work, lwork)[...] = np.nan
    _double.memory(devInfo, 4).view(np.int32)[...] = 0


def _arguments(handle, m, n, k, A, lda, tau):
    """The matrix as (n, m) with the columns in rows, and tau (k,)."""
    if handle != HANDLE:
        raise _double.DoubleError(f"dorgqr: {handle} is no handle of cuSOLVER's")
    if any(type(number) is not int for number in (m, n, k, A, lda, tau)):
        raise TypeError(f"dorgqr: m, n, k, A, lda, tau = {(m, n, k, A, lda, tau)}")
    if not (0 <= k <= n <= m < 1 << 31 and max(1, m) <= lda < 1 << 31):
        raise _double.DoubleError(f"dorgqr: m {m}, n {n}, k {k}, lda {lda}")
    columns = _numbers(A, lda * n).reshape(n, lda)
    return columns[:, :m], _numbers(tau, k)


def _numbers(pointer: int, count: int) -> np.ndarray:
    if pointer % 8:
        raise _double.DoubleError(f"dorgqr: address {pointer:#x} is not that of a float64")
    return _double.memory(pointer, 8 * count).view(np.float64)
