"""What every kernel moves, and what its file says of that.

    python -m bench.trace.claims --json bench/results/traffic.json

Each operation is traced on a small shape of FitNet's kind, whose rows are runs of 128 bits, and on
an awkward one, in fp32 and bf16. Where a kernel moves more sectors of an array than hold its bytes,
its file says how often it does, for the aligned shape:

    // Moved: softmax: scores 5.6 (bfloat16 8.8), prob 1.6

All else is moved once. Arrays of less than SMALL bytes, or of less than an eighth of the launch's
largest, are not spoken of: statistics of channels, sums of parts, the clock, which a cache holds.

Read next: exercise.py.
"""

import json
import re
import sys
from pathlib import Path

from bench.trace.__main__ import trace
from bench.trace.cases import case_of, operations
from bench.trace.figures import traffic
from bench.trace.warps import warps_of
from engine.cli.command import Parser, run_command
from engine.run.files import write_atomic

SMALL = 1024
SHAPES = ("aligned", "awkward")
MOVED = re.compile(r"^// Moved: (\w+): (.*)$", re.M)
ITEM = re.compile(r"(\w+) ([\d.]+)(?: \(bfloat16 ([\d.]+)\))?")


def rows_of(operation: str, precision: str) -> list[dict]:
    """Of each launch on both shapes, each array that it loads or stores; nothing where the
    operation has no such precision."""
    rows = []
    for shape in SHAPES:
        case = case_of(operation, odd=shape == "awkward")
        if not case.has(precision):
            return []
        for launch in trace(case, precision):
            held = {array.name: array.nbytes for array in launch.arrays}
            for row in traffic(warps_of(launch)):
                rows.append(
                    {
                        "operation": operation,
                        "kernel": launch.kernel,
                        "file": launch.code.file,
                        "shape": shape,
                        "precision": precision,
                        "array": row.array,
                        "kind": row.kind,
                        "held": held[row.array],
                        "lanes": round(row.lanes, 2),
                        **{
                            name: getattr(row, name)
                            for name in ("requests", "asked", "needed", "sectors", "ideal")
                            + ("moved", "wavefronts", "conflicts")
                        },
                    }
                )
    return rows


def read(text: str) -> list[dict]:
    """The rows of a file that `main` wrote."""
    table = json.loads(text)
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def large(row: dict, rows: list[dict]) -> bool:
    """Whether an array is one that a file speaks of, among those of its launch on this shape."""
    same = [
        other["needed"]
        for other in rows
        if all(other[key] == row[key] for key in ("operation", "kernel", "shape", "precision"))
        and not other["wavefronts"]
    ]
    enough = row["needed"] >= SMALL and 8 * row["needed"] > max(same, default=0)
    return enough and not row["wavefronts"]


def claims(text: str) -> dict[tuple[str, str, str], float]:
    """{(kernel, array, precision): how many times as much as its bytes is moved}, of a file."""
    found = {}
    for kernel, items in MOVED.findall(text):
        for array, times, narrow in ITEM.findall(items):
            found[kernel, array, "fp32"] = float(times)
            found[kernel, array, "bf16"] = float(narrow or times)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="bench.trace.claims", description=__doc__)
    parser.add_argument("--json", required=True, metavar="FILE", help="write the rows to this file")
    options = parser.parse_args(arguments)
    rows = []
    for operation in operations():
        print(operation, file=sys.stderr)
        rows += rows_of(operation, "fp32") + rows_of(operation, "bf16")
    lines = ",\n".join(json.dumps(list(row.values())) for row in rows)
    text = f'{{"columns": {json.dumps(list(rows[0]))},\n"rows": [\n{lines}\n]}}\n'
    write_atomic(Path(options.json), text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(run_command("bench.trace.claims", main))
