"""Orthonormal matrices and LSUV on the GPU: right, and how long they take.

cuSOLVER's verdict is read by the host, so a matrix is timed from the call to its end, as a user
meets it. Every matrix is judged: max |Q'Q - I| in float64 on the host.

Read next: bench/init.py, the same on a CPU beside other makers.
"""

import statistics
import time
from collections.abc import Callable

import models
from bench.gpu.timer import Deadline
from bench.init import check, judged, lsuv_row
from bench.peers.orthonormal import orthonormality_error
from engine.data import load
from kernels.philox import WEIGHTS

SHAPES = [(9216, 4096), (4096, 4096), (128, 1152), (500, 128)]
SMALL = [(96, 64), (67, 97)]
REPEATS = 5


def measure(ops, shapes: list[tuple[int, int]], net: str, batch: int, deadline: Deadline,
            report: Callable[[str], None]) -> tuple[list[dict], list[str]]:
    """(a row a matrix, and one for LSUV whole; what was left out)"""
    check(ops)
    rows: list[dict] = []
    left_out: list[str] = []
    for m, n in shapes:
        if deadline.over():
            left_out.append(f"orthonormal {m}x{n}")
            continue
        rows.append({"section": "init", **matrix(ops, m, n)})
        report(line(rows[-1]))
    if deadline.over():
        return rows, [*left_out, f"LSUV of {net}"]
    data = load("synthetic", size=models.NETS[net].in_shape, limit=max(2 * batch, 40))
    rows.append({"section": "init", **lsuv_row(ops, net, data, REPEATS, batch), "batch": batch})
    report(line(rows[-1]))
    return rows, left_out


def matrix(ops, rows: int, cols: int) -> dict:
    """Median seconds of a matrix, and its error; RunError where it is not orthonormal."""
    what = f"{rows}x{cols}"
    error = judged("ours", what, orthonormality_error(ops.tohost(ops.orthonormal(
        rows, cols, (0, WEIGHTS, 0)))))
    times = []
    for seed in range(REPEATS):
        ops.synchronize()
        start = time.perf_counter()
        ops.orthonormal(rows, cols, (seed, WEIGHTS, 0))
        ops.synchronize()
        times.append(time.perf_counter() - start)
    return {"name": "ours", "what": what, "seconds": statistics.median(times), "error": error}


def line(row: dict) -> str:
    return f"{row['what']:<28}{1e3 * row['seconds']:>9.2f} ms  error {row['error']:.1e}"
