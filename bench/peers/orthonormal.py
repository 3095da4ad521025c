"""Orthonormal matrices by us and by others: the contestants of bench/init.py.

The others start from a Gaussian matrix of their own random numbers; drawing it is part of the time,
as it is of ours. Every maker ends with float32.

    numpy qr             numpy.linalg.qr in float64, signs as R's diagonal says
    numpy svd            numpy.linalg.svd in float64, U or V': what the authors of LSUV do
    torch orthogonal_    torch.nn.init.orthogonal_ in float32, where torch is installed

Beside a GPU PyTorch alone takes part, with its matrix on the GPU.

Read next: bench/common/machine.py.
"""

import time

import numpy as np

from bench.common.contest import Setting
from bench.peers import torch_missing
from kernels import ops_for
from kernels.philox import WEIGHTS

PEERS = ("numpy qr", "numpy svd", "torch orthogonal_")

# Up to this many rows * cols * min(rows, cols) an SVD takes seconds; beyond, up to minutes.
QUICK_SVD = 1.5e10


def available(device: str) -> list[str]:
    """The peers that this machine has beside this device of ours."""
    names = PEERS[:-1] if device != "cuda" else ()
    return [*names, *([] if torch_missing(device) else PEERS[-1:])]


def orthonormality_error(Q: np.ndarray) -> float:
    """max |Q'Q - I| in float64, of Q's columns, or of its rows where they are fewer."""
    wide = Q.astype(np.float64)
    gram = wide.T @ wide if Q.shape[0] >= Q.shape[1] else wide @ wide.T
    gram[np.diag_indices_from(gram)] -= 1
    return float(max(gram.max(), -gram.min()))


def numpy_qr(rows: int, cols: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((max(rows, cols), min(rows, cols)))
    Q, R = np.linalg.qr(x)
    Q *= np.where(np.diag(R) < 0, -1.0, 1.0)
    return np.ascontiguousarray(Q if rows >= cols else Q.T, np.float32)


def numpy_svd(rows: int, cols: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((rows, cols))
    U, _, V = np.linalg.svd(x, full_matrices=False)
    return (U if rows >= cols else V).astype(np.float32)


def torch_orthogonal(threads: int, device: str):
    import torch

    torch.set_num_threads(threads)

    def make(rows, cols, seed):
        torch.manual_seed(seed)
        Q = torch.nn.init.orthogonal_(torch.empty(rows, cols, device=device))
        if device == "cuda":
            torch.cuda.synchronize()
        return Q

    return make


def maker(name: str, device: str, threads: int):
    """(make(rows, cols, seed) -> matrix, tohost(matrix) -> float32 array). device: ours; PyTorch's
    is a GPU where ours is."""
    if name == "ours":
        ops = ops_for(device, threads if device == "cpu" else None)

        def make(rows, cols, seed):
            Q = ops.orthonormal(rows, cols, (seed, WEIGHTS, 0))
            ops.synchronize()
            return Q

        return make, ops.tohost
    if name == "torch orthogonal_":
        own = "cuda" if device == "cuda" else "cpu"
        return torch_orthogonal(threads, own), lambda Q: Q.cpu().numpy()
    return {"numpy qr": numpy_qr, "numpy svd": numpy_svd}[name], np.asarray


class Maker:
    """The contestant that makes matrices by the maker `by`."""

    def __init__(self, setting: Setting, by: str):
        self.make, self.tohost = maker(by, setting.device, setting.threads)
        self.make(8, 8, 0)  # what a library prepares on its first call

    def matrices(self, shapes, judge: bool = False) -> tuple[float, float | None]:
        """(seconds of all the matrices together, largest error of any if judge)."""
        seconds, error = 0.0, 0.0
        for seed, (rows, cols) in enumerate(shapes):
            start = time.perf_counter()
            Q = self.make(rows, cols, seed)
            seconds += time.perf_counter() - start
            if judge:
                error = max(error, orthonormality_error(self.tohost(Q)))
        return seconds, error if judge else None
