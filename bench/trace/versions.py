"""What a page shows: a case as it is, and with a barrier left out, each in two orders of threads.

Read next: page/__init__.py.
"""

from collections.abc import Callable

import numpy as np

from bench.common.cases import Case
from bench.trace.code import DIRECTIVE
from bench.trace.document import document
from bench.trace.recorder import Launch, Recorder

ORDERS = 2


def versions(case: Case, precision: str) -> list[dict]:
    """bench.trace.page's. DeviceError where the device is missing."""
    runs = [run(case, precision) for _ in range(ORDERS)]
    right = runs[0][1]
    made = [{"title": "as it is", "runs": [_shown(case, precision, *each) for each in runs]}]
    barrier = first_barrier(made[0]["runs"][0]["trace"])
    if barrier:
        edit, (file, line) = without(*barrier), barrier
        broken = [run(case, precision, edit) for _ in range(ORDERS)]
        made.append(
            {
                "title": f"no barrier in {file.split('/')[-1]}:{line}",
                "runs": [_shown(case, precision, *each, right) for each in broken],
            }
        )
    return made


def run(case: Case, precision: str, edit=None) -> tuple[list[Launch], dict[str, np.ndarray]]:
    """The launches of an operation, whose threads are in another order than in the run before, and
    {name: host array} of what it returns and of its arguments, which it may have changed."""
    with Recorder(precision, edit) as recorder:
        ops = recorder.ops
        handed = {
            name: ops.asarray(value) if isinstance(value, np.ndarray) else value
            for name, value in case.arguments(precision).items()
        }
        given = getattr(ops, case.op)(*handed.values())
        ops.synchronize()
        given = given if isinstance(given, tuple) else (given,)
        results = {f"result {number}": value for number, value in enumerate(given, 1)} | handed
        return recorder.launches, {
            name: _host(ops, value) for name, value in results.items() if hasattr(value, "shape")
        }


def _host(ops, value) -> np.ndarray:
    host = value if isinstance(value, (np.ndarray, np.generic)) else ops.tohost(value)
    return np.asarray(host, np.float64).reshape(-1)


def first_barrier(trace: dict) -> tuple[str, int] | None:
    """(file, line) of the first barrier of all, or None."""
    for launch in trace["launches"]:
        for warp in launch["warps"]:
            for step in warp["steps"]:
                place = launch["places"][step[0]]
                if place["kind"] == "barrier":
                    return tuple(place["frames"][0][:2])
    return None


def without(file: str, line: int) -> Callable[[str], str]:
    """A function that makes a kernel file's text without the barrier of this line."""

    def edit(text: str) -> str:
        lines, at = text.splitlines(), ("", 0)
        for i, each in enumerate(lines):
            if match := DIRECTIVE.match(each):
                at = match[2], int(match[1])
                continue
            if at == (file, line):
                lines[i] = each.replace("__syncthreads();", ";  // no barrier")
            at = at[0], at[1] + 1
        return "\n".join(lines) + "\n"

    return edit


def _shown(case: Case, precision: str, launches, results: dict, right: dict | None = None) -> dict:
    """right: results that these are compared with; only those that differ are shown."""
    compared = []
    for name, good in (right or {}).items():
        got = results[name]
        wrong = np.flatnonzero(~np.isclose(good, got, rtol=1e-3, equal_nan=True))
        if len(wrong):
            shown = [[int(i), f"{good[i]:.5g}", f"{got[i]:.5g}"] for i in wrong[:4]]
            compared.append(
                {"name": name, "elements": len(good), "wrong": len(wrong), "shown": shown}
            )
    return {"trace": document(case.op, case.text, precision, launches), "results": compared}
