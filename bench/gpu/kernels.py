"""Our CUDA kernels: right, and then how much of a copy's bandwidth each of them reaches.

`check` compares every operation with the reference, on small arguments and on odd ones; `measure`
compares again on the arguments that are timed, which are those of bench/common/cases.py. A wrong
operation ends the bench. What is counted in operations (convolutions, fully connected layers,
orthonormal matrices) is cuDNN's and cuSOLVER's, and is checked, not timed, here.

GB/s are bytes that must move at least over the time of a call between its neighbours in a graph.
`share` is of the largest copy; `share_of_equal` of a copy that moves as many bytes, timed the same
way: what a kernel of a few microseconds can reach, in which starting and running empty are a part.

Read next: bench/gpu/timer.py.
"""

from collections.abc import Callable

import numpy as np

from bench.gpu.timer import Deadline, Timer, copy_seconds, without_reading
from bench.common.calls import TF32_LIMIT, called, errors, widened
from bench.common.cases import REFERENCE, Case, cases, odd_cases
from engine.errors import RunError

PRODUCTS = ("conv", "linear")       # operations that another precision than fp32 changes in tf32


def check(devices: dict, report: Callable[[str], None]) -> list[dict]:
    """A row an operation and precision: its largest error of all small cases. devices: {precision:
    operations}. RunError names every operation that is wrong."""
    worst: dict[tuple[str, str], float] = {}
    wrong: dict[str, str] = {}
    for precision, ops in devices.items():
        for case in (*cases(small=True), *odd_cases()):
            if not differs(case, precision):
                continue
            arguments = case.arguments(precision)
            wanted = called(REFERENCE, case.op, widened(arguments))
            try:
                found = error(ops, case, arguments, wanted, precision)
            except (RunError, ValueError) as refused:
                wrong.setdefault(case.op, str(refused))
                report(f"{precision}: {refused}")
                continue
            key = case.op, precision
            worst[key] = max(worst.get(key, 0.0), found)
    if wrong:
        first, *others = wrong.values()
        more = f"; wrong too: {', '.join(list(wrong)[1:])}" if others else ""
        raise RunError(f"{first}{more}")
    return [{"section": "check", "op": op, "precision": precision, "error": found}
            for (op, precision), found in worst.items()]


def differs(case: Case, precision: str) -> bool:
    """Whether the operation is another one in this precision than in fp32."""
    return case.op.startswith(PRODUCTS) if precision == "tf32" else case.has(precision)


def error(ops, case: Case, arguments: dict, wanted: dict, precision: str) -> float:
    """The largest error of the results; RunError where it is too large."""
    coarsest = TF32_LIMIT if precision == "tf32" else 0.0
    return max(errors(ops, case, arguments, wanted, coarsest).values())


def measure(ops, precisions: list[str], timer: Timer, copy_gbs: float, small: bool,
            deadline: Deadline,
            report: Callable[[str], None]) -> tuple[list[dict], list[str], list[str]]:
    """(a row a kernel and case, what was left out for want of time, what was wrong at this size and
    so not timed)"""
    rows: list[dict] = []
    left_out: list[str] = []
    wrong: list[str] = []
    equal: dict[int, float] = {}    # bytes -> GB/s of a copy
    for case in (case for case in cases(small) if case.flops is None):
        for precision in filter(case.has, precisions):
            what = f"{case.op} ({case.text}) {precision}"
            if deadline.over():
                left_out.append(what)
                continue
            arguments = case.arguments(precision)
            wanted = called(REFERENCE, case.op, widened(arguments))
            try:
                found = error(ops, case, arguments, wanted, precision)
            except RunError as refused:
                wrong.append(f"{precision}: {refused}")
                continue
            size = case.bytes(arguments)
            seconds = timer.seconds(calls(ops, case, arguments, timer.sets(size)))
            if size not in equal:
                equal[size] = size / copy_seconds(timer, size) / 1e9
            rate = size / seconds / 1e9
            rows.append({"section": "kernels", "op": case.op, "case": case.text,
                         "precision": precision, "seconds": seconds, "bytes": size,
                         "gbytes_per_second": rate, "share": rate / copy_gbs,
                         "share_of_equal": rate / equal[size], "error": found})
            report(line(rows[-1]))
    return rows, left_out, wrong


def calls(ops, case: Case, arguments: dict, sets: int) -> list[Callable[[], None]]:
    """The operation on so many sets of the same arguments, each in memory of its own."""
    unread = without_reading(ops)

    def one() -> Callable[[], None]:
        given = [ops.asarray(value) if isinstance(value, np.ndarray) else value
                 for value in arguments.values()]
        return lambda: getattr(unread, case.op)(*given)

    return [one() for _ in range(sets)]


def line(row: dict) -> str:
    return (f"{row['op']:<30}{row['case']:<40}{row['precision']:<5}"
            f"{1e6 * row['seconds']:>9.1f} us{row['gbytes_per_second']:>8.0f} GB/s"
            f"{row['share']:>6.2f}{row['share_of_equal']:>6.2f}")
