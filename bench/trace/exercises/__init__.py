"""Five kernels that are right and move too much, and the figure that a better one reaches.

An exercise is a .cu file of this folder, which the reader edits a copy of, and here what that is
given, what must come of it, and its goals.

Read next: maxout.cu.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from bench.common.cases import Out, labels, randn
from bench.trace.figures import array_of, traffic
from bench.trace.recorder import WARP
from bench.trace.warps import Warps
from kernels.reference import NumpyOps

REFERENCE, THREADS = NumpyOps(), 256
SCRATCH = ("middle", "partial")  # arrays that a kernel needs for itself alone


@dataclass(frozen=True)
class Case:
    """text: its sizes in words. arguments: {parameter: array, Out or number}, of all kernels.
    launches: [(kernel, blocks, its parameters)]. right: {array: what must be in it}."""

    text: str
    arguments: dict
    launches: list[tuple[str, int, str]]
    right: dict[str, np.ndarray]

    @property
    def floor(self) -> int:
        """Bytes that must move at least: every array once."""
        return sum(
            value.nbytes if isinstance(value, np.ndarray) else value.array().nbytes
            for name, value in self.arguments.items()
            if name not in SCRATCH and not isinstance(value, int)
        )


@dataclass(frozen=True)
class Goal:
    """figure(launches, case): at most `bound`, or, where `least`, at least."""

    text: str
    figure: Callable[[list[Warps], Case], float]
    bound: float
    least: bool = False

    def reached(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound


@dataclass(frozen=True)
class Exercise:
    """shapes: of cases, the first of which is traced; the others have a remainder wherever
    something is divided. tolerance: of a result, beside its largest value."""

    name: str
    case: Callable[..., Case]
    shapes: list[tuple[int, ...]]
    goals: list[Goal]
    tolerance: float = 1e-5


# -- figures --------------------------------------------------------------------------------------


def moved(launches: list[Warps], case: Case) -> float:
    return sum(row.moved for warps in launches for row in traffic(warps)) / case.floor


def requests(array: str, launches: list[Warps], case: Case) -> float:
    rows = [row for warps in launches for row in traffic(warps)]
    return sum(row.requests for row in rows if (row.array, row.kind) == (array, "load"))


def conflicts(launches: list[Warps], case: Case) -> float:
    return sum(row.conflicts for warps in launches for row in traffic(warps))


def readers(array: str, launches: list[Warps], case: Case) -> float:
    """Warps that access an array."""
    found: set[int] = set()
    for warps in launches:
        names = [each.name for each in warps.launch.arrays] + [""]  # "": of an event without one
        mine = np.array(names)[array_of(warps)] == array
        found |= set(warps.warp[warps.request[mine]].tolist())
    return len(found)


def least_moved(bound: float) -> Goal:
    return Goal("bytes moved, as a multiple of those that must", moved, bound)


# -- cases ----------------------------------------------------------------------------------------


def maxout(rows: int, C: int) -> Case:
    x = randn(rows, 2 * C)
    y, which = np.empty((rows, C)), np.empty((rows, C), np.uint8)
    REFERENCE.maxout_forward(x.astype(np.float64), y, which, 2)
    arguments = {"x": x, "y": Out(y.shape), "which": Out(y.shape, np.uint8), "rows": rows, "C": C}
    launches = [("maxout", blocks(rows * C / 4), "x y which rows C")]
    return Case(f"rows {rows}, C {C}", arguments, launches, {"y": y, "which": which})


def maxout_pool(N: int, H: int, W: int, C: int) -> Case:
    x, y = randn(N, H, W, 2 * C), np.empty((N, H // 2, W // 2, C))
    REFERENCE.maxout_pool_forward(x.astype(np.float64), y, np.empty(y.shape, np.uint8), 2, 2, 2)
    arguments = {"x": x, "middle": Out((N, H, W, C)), "y": Out(y.shape)}
    arguments |= {"N": N, "H": H, "W": W, "C": C}
    launches = [
        (kernel, blocks(y.size), " ".join(arguments)) for kernel in ("maxout", "maxout_pool")
    ]
    return Case(f"N {N}, H {H}, W {W}, C {C}", arguments, launches, {"y": y})


PARTS = 4  # blocks, and warps in all of them
WARPS = PARTS * THREADS // WARP


def column_sums(rows: int, C: int) -> Case:
    x = randn(rows, C)
    arguments = {"x": x, "partial": Out((PARTS, C)), "sums": Out((C,))}
    arguments |= {"rows": rows, "C": C, "parts": PARTS}
    launches = [
        ("column_sums", PARTS, "x partial sums rows C"),
        ("column_sums_merge", 1, "partial sums parts C"),
    ]
    right = {"sums": x.sum(axis=0, dtype=np.float64)}
    return Case(f"rows {rows}, C {C}", arguments, launches, right)


def moments(rows: int, C: int) -> Case:
    """Of columns that lie 1000 from zero and vary by 1."""
    x = randn(rows, C) + np.float32(1000)
    arguments = {"x": x, "mean": Out((C,)), "variance": Out((C,)), "rows": rows, "C": C}
    launches = [("moments", -(-C // 32), "x mean variance rows C")]
    exact = x.astype(np.float64)
    right = {"mean": exact.mean(axis=0), "variance": exact.var(axis=0)}
    return Case(f"rows {rows}, C {C}", arguments, launches, right)


def softmax_loss(N: int, K: int) -> Case:
    """Of scores whose exponentials are beyond float32."""
    scores, of_images = 100 * randn(N, K), labels(N, K)
    prob = np.empty((N, K))
    REFERENCE.softmax(scores.astype(np.float64), prob)
    shifted = scores - scores.max(axis=1, keepdims=True).astype(np.float64)
    logs = np.log(np.exp(shifted).sum(axis=1, keepdims=True)) - shifted
    arguments = {"scores": scores, "labels": of_images, "prob": Out((N, K)), "loss": Out((N,))}
    launches = [("softmax_loss", blocks(32 * N), "scores labels prob loss N K")]
    right = {"prob": prob, "loss": logs[np.arange(N), of_images]}
    return Case(f"N {N}, K {K}", arguments | {"N": N, "K": K}, launches, right)


def blocks(threads: float) -> int:
    return -int(-threads // THREADS)


EXERCISES = [
    Exercise(
        "maxout",
        maxout,
        [(256, 16), (37, 7), (3, 5)],
        [least_moved(1.05), Goal("requests that load x", partial(requests, "x"), 64)],
    ),
    Exercise("maxout_pool", maxout_pool, [(2, 8, 8, 16), (3, 6, 10, 7)], [least_moved(1.05)]),
    Exercise(
        "column_sums",
        column_sums,
        [(1024, 32), (37, 21), (3, 75)],
        [least_moved(1.1), Goal("warps that read x", partial(readers, "x"), WARPS, least=True)],
    ),
    Exercise(
        "moments",
        moments,
        [(256, 64), (37, 45), (3, 5)],
        [least_moved(1.1), Goal("bank conflicts", conflicts, 0)],
        tolerance=1e-4,
    ),
    Exercise("softmax_loss", softmax_loss, [(64, 10), (37, 7), (5, 32)], [least_moved(2.3)]),
]
