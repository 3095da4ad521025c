"""What each thread of an operation's kernels reads and writes, seen without a GPU.

    python -m bench.trace maxout_forward
    python -m bench.trace variance --shape 2,8,64 --precision bf16
    python -m bench.trace linear_backward_filter --json trace.json
    python -m bench.trace softmax_loss_forward --html trace.html    # to look at in a browser
    python -m bench.trace exercise 1    # of kernels/cuda/README.md, whose `pictures` it draws, too

The kernels are those of device emulated, which runs them on a CPU; a compiler's instrumentation
tells of every access. The figures are what NVIDIA's profiler calls them, and are facts of the code
and the shape: sectors and requests, bytes, active threads, bank conflicts, barriers. How long a
kernel takes, how many blocks a GPU holds and what its caches keep is not known here.

Read next: recorder.py.
"""

import importlib
import json
import sys
from pathlib import Path

from bench.trace.cases import case_of, operations
from bench.trace.document import document
from bench.trace.page import page
from bench.trace.recorder import Launch
from bench.trace.versions import run, versions
from engine.cli.command import Parser, run_command
from engine.run.files import write_atomic


def options_of(arguments: list[str] | None):
    parser = Parser(prog="bench.trace", description=__doc__)
    parser.add_argument("kernel", metavar="OPERATION", help="one of " + ", ".join(operations()))
    parser.add_argument("--shape", default=None, metavar="N,N,...", help="of the case; a small one")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--json", default=None, metavar="FILE", help="write all of it to this file")
    parser.add_argument("--html", default=None, metavar="FILE", help="and a page that shows it")
    return parser.parse_args(arguments)


def trace(case, precision: str = "fp32") -> list[Launch]:
    """The launches of an operation. DeviceError where the device is missing."""
    return run(case, precision)[0]


def show(traced: dict) -> None:
    print(f"{traced['operation']}  {traced['case']}  {traced['precision']}: {traced['note']}")
    for launch in traced["launches"]:
        figures, columns = launch["figures"], "{:<12}{:<7}{:>9}{:>11}{:>9}{:>11}{:>11}{:>11}"
        print(
            f"\n{launch['kernel']}  grid {launch['grid']}, block {launch['block']}: "
            f"{figures['barriers']:g} barriers, {figures['shuffles']:g} shuffles and "
            f"{figures['votes']:g} votes a warp; {100 * (figures['lanes'] or 0):.0f}% of a warp's "
            "threads active in accesses"
        )
        print(
            columns.format(
                "array", "", "requests", "sectors/", "ideal", *["needed", "moved"], "again"
            )
            + "  bytes"
        )
        for row in figures["traffic"]:
            if row["shared"]:
                print(
                    f"{row['array']:<12}{row['kind']:<7}{row['requests']:>9}  "
                    f"{row['wavefronts']} wavefronts, {row['conflicts']} of them bank conflicts"
                )
            else:
                print(
                    columns.format(
                        row["array"],
                        row["kind"],
                        row["requests"],
                        f"{row['sectors_per_request']:.2f}",
                        f"{row['ideal_per_request']:.2f}",
                        row["needed"],
                        row["moved"],
                        row["again"],
                    )
                )


def main(arguments: list[str] | None = None) -> int:
    first, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if first in ("exercise", "pictures"):  # commands of their own, which no operation is called
        return importlib.import_module(f"bench.trace.{first}").main(rest)
    options = options_of(arguments)
    case = case_of(options.kernel, options.shape)
    if options.html:
        made = versions(case, options.precision)
        traced = made[0]["runs"][0]["trace"]
        write_atomic(Path(options.html), page(made).encode())
    else:
        traced = document(case.op, case.text, options.precision, trace(case, options.precision))
    show(traced)
    if options.json:
        text = json.dumps(traced, separators=(",", ":"))
        write_atomic(Path(options.json), text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(run_command("bench.trace", main))
