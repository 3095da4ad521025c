"""A random orthonormal matrix, uniform over all of them (Haar), as a function of its key.

Stewart, "The efficient generation of random orthogonal matrices with an application to condition
estimators" (SIAM J. Numer. Anal. 17, 1980). Take the QR decomposition of a Gaussian matrix by
Householder reflections: what is left of the matrix after k reflections is again Gaussian and
independent of them. So the k-th reflector can be drawn directly, from a Gaussian vector of length
rows - k, and no matrix has to be factored: reflectors are only multiplied together.

The product of a block of reflectors is I - V T V' (compact WY, Schreiber and Van Loan 1989) with
unit vectors in V's columns, and inv(T) = I/2 + the strict upper triangle of V'V, so that almost
all of the work is matrix multiplication.

Read next: lsuv/fillers.py, where these matrices become weights.
"""

from __future__ import annotations

import numpy as np

from kernels.philox import normal

BLOCK = 128  # reflectors multiplied together
PANEL = 256  # rows of Q updated at a time: their change stays in the cache


def orthonormal(rows: int, cols: int, key: tuple[int, int, int]) -> np.ndarray:
    """A Haar orthonormal matrix (rows, cols) in float64; key = (seed, purpose, index).

    Orthonormal columns where rows >= cols, else orthonormal rows: the transpose of
    orthonormal(cols, rows, key). Number k * rows + i of the key's normal stream is element i of
    the Gaussian vector of reflector k; its first k elements are passed over.
    """
    if rows < 1 or cols < 1:
        raise ValueError(f"orthonormal: {rows} x {cols} has no elements; both must be at least 1")
    if rows < cols:
        return np.ascontiguousarray(orthonormal(cols, rows, key).T)
    Q = np.zeros((rows, cols))
    np.fill_diagonal(Q, 1.0)
    signs = np.empty(cols)
    # From the last block to the first, so that each product touches only the corner it can change.
    for start in reversed(range(0, cols, BLOCK)):
        stop = min(start + BLOCK, cols)
        V, signs[start:stop] = _reflectors(start, stop, rows, key)  # (rows-start, block)
        inverse_T = np.triu(V.T @ V, 1) + 0.5 * np.eye(stop - start)
        corner = Q[start:, start:]
        change = np.linalg.solve(inverse_T, V.T @ corner)  # (block, cols-start)
        for row in range(0, len(V), PANEL):
            corner[row : row + PANEL] -= V[row : row + PANEL] @ change
    Q *= signs
    return Q


def _reflectors(start: int, stop: int, rows: int, key: tuple[int, int, int]):
    """Unit Householder vectors start .. stop-1 as columns, and the signs that make Q Haar.

    x is reflected onto -sign(x[0]) |x| e, the far side, where nothing cancels. The signs are those
    of R's diagonal: with them R's diagonal is positive, and only then is Q uniform.
    """
    seed, purpose, index = key
    count = stop - start
    x = normal(seed, purpose, index, count * rows, first=start * rows).reshape(count, rows)
    V = np.triu(x[:, start:])  # row k begins at element k
    diagonal = np.arange(count)
    sign = np.where(V[diagonal, diagonal] < 0.0, -1.0, 1.0)
    V[diagonal, diagonal] += sign * np.sqrt(np.einsum("ki,ki->k", V, V))
    V /= np.sqrt(np.einsum("ki,ki->k", V, V))[:, None]
    return V.T, -sign
