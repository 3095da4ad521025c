"""Device cuda is right before it is timed: every operation, and the losses of some steps.

Read next: bench/gpu/timer.py.
"""

from collections.abc import Callable
from dataclasses import replace

from bench import kernels as bench_kernels
from bench.common.cases import cases, odd_cases
from bench.common.contest import Entry
from bench.common.ours import TOLERANCE, compare
from engine.errors import RunError
from kernels import DeviceError, ops_for


def operations(devices: dict, report: Callable[[str], None]) -> list[dict]:
    """A row an operation and precision: its largest error of all small cases and odd ones. devices:
    {precision: operations}. RunError names every operation that is wrong."""
    worst: dict[tuple[str, str], float] = {}
    wrong: dict[str, str] = {}
    for precision, ops in devices.items():
        for case in (*cases(small=True), *odd_cases()):
            if not case.has(precision):
                continue
            try:
                largest, _ = bench_kernels.check(ops, case, precision)
            except (RunError, ValueError) as refused:
                wrong.setdefault(case.op, str(refused))
                report(f"{precision}: {refused}")
                continue
            key = case.op, precision
            worst[key] = max(worst.get(key, 0.0), largest["ours"])
    if wrong:
        first, *others = wrong.values()
        rest = f"; wrong too: {', '.join(list(wrong)[1:])}" if others else ""
        raise RunError(f"{first}{rest}")
    return [
        {"op": op, "precision": precision, "error": error}
        for (op, precision), error in worst.items()
    ]


def losses(devices: dict, entry: Entry, steps: int) -> list[dict]:
    """A row a precision: the losses of some steps by the GPU and by the CPU; `why` says where they
    differ. devices: {precision: operations of the GPU}."""
    try:
        other = ops_for("cpu")
    except DeviceError:
        other = ops_for("numpy")
    rows = []
    for precision, ops in devices.items():
        against = other if precision in (*other.precisions, "tf32") else ops_for("numpy")
        tolerance = TOLERANCE[precision]
        row = {
            "net": entry.net,
            "batch": entry.batch,
            "precision": precision,
            "against": against.name,
            "tolerance": tolerance,
            "why": "",
        }
        try:
            pairs = compare(ops, against, replace(entry, precision=precision), steps, tolerance)
            row |= {
                "losses": [ours for ours, _ in pairs],
                "difference": max(abs(ours - theirs) for ours, theirs in pairs),
            }
        except RunError as error:
            row["why"] = str(error)
        rows.append(row)
    return rows
