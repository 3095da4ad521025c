"""How long every operation takes, beside NumPy, PyTorch and what this machine can do.

    python -m bench.kernels
    python -m bench.kernels --only conv_forward,maxout_forward --precision fp32
    python -m bench.kernels --device cuda
    python -m bench.kernels --json bench/results/kernels.json

On the shapes of FitNet-4 at its batch of 128 and FitNet-MNIST at 64. Each operation is checked
first, against the reference in float64 on the same arguments: a wrong one ends the bench, and
nothing after it is timed. Then the contestants take turns (bench/common/contest.py), each in a
process of its own: ours; oneDNN's convolutions alone, where ours are Winograd's; the reference
itself in float32, where a call takes less than two seconds; and PyTorch's own operation for the
same (bench/peers/torch_ops.py), where it has one. A figure is the median of the rounds, a round the
mean of as many calls as fill its share of --seconds.

GB/s: what must be moved at least, every array read or written once, over the time; its share is of
copying 256 MiB by NumPy with as many threads. The same arguments are used again and again, so
arrays that fit the last-level cache come from there, and a share can exceed 1; with a few KB what
is timed is the call. GFLOP/s: of convolutions, fully connected layers and orthonormal matrices; the
share is of a matrix product of 2048 by 2048 by 2048 of our own in that precision, which Winograd
can exceed too, since operations are counted as the plain convolution's. Both ceilings are measured
in the same run. The error of ours and of oneDNN's is the largest difference from float64, as a part
of the largest value.

On a GPU ours alone are timed, by the device's own events, between their neighbours in a CUDA graph
and with a cold cache; the copy is one from device to device (bench/gpu/timer.py).

Read next: bench/common/cases.py.
"""

import os
import statistics
import sys
from importlib import metadata

from bench.common.calls import TF32_LIMIT, errors
from bench.common.cases import Case, cases
from bench.common.contest import Contestant, Place, Refused, Setting, close, compete
from bench.common.machine import refuse_emulated, write
from bench.common.ours import CONVOLUTIONS, ceilings
from bench.peers import torch_missing
from engine.cli.command import Parser, run_command
from engine.errors import InputError, RunError, choose
from kernels import ops_for

CALLS, TORCH = "bench.common.calls:Calls", "bench.peers.torch_ops:TorchCalls"
ROUNDS = 5
SLOWEST = 2.0  # seconds of a call of NumPy's that is still waited for
DIRECT = "onednn direct"


def options_of(arguments: list[str] | None):
    parser = Parser(prog="bench.kernels", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None, help="of every contestant; all")
    parser.add_argument(
        "--precision",
        default="both",
        choices=("fp32", "bf16", "both"),
        help="both: those that the device computes in",
    )
    parser.add_argument("--only", default=None, metavar="NAME", help="operations, with commas")
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.5,
        help="of each contestant's calls of a case, about (0.5)",
    )
    parser.add_argument(
        "--small", action="store_true", help="two images: to try the bench, not to measure"
    )
    parser.add_argument("--json", default=None, metavar="FILE", help="write the rows to this file")
    options = parser.parse_args(arguments)
    if not 0 <= options.seconds < 3600:
        raise InputError(f"--seconds {options.seconds}: give a number from 0 to an hour")
    return options


def chosen(only: str | None, small: bool) -> list[tuple[int, Case]]:
    """The cases of the operations that were asked for, with their numbers."""
    every = list(enumerate(cases(small)))
    known = list(dict.fromkeys(case.op for _, case in every))
    names = [choose("operation", name, known) for name in (only or "").split(",") if name]
    return [(number, case) for number, case in every if not names or case.op in names]


def start(setting: Setting, small: bool) -> list[Contestant]:
    """Ours first, then those that there are; beside a GPU none, since these are a CPU's."""
    kinds = [("ours", CALLS, setting, {})]
    if setting.device == "cpu":
        kinds.append((DIRECT, CALLS, setting, {"direct": True}))
        kinds.append(("numpy", CALLS, Setting(setting.threads, "numpy"), {}))
    if setting.device != "cuda" and not torch_missing(setting.device):
        kinds.append(("torch", TORCH, setting, {}))
    contestants: list[Contestant] = []
    try:
        for name, kind, own, options in kinds:
            contestants.append(Contestant(name, kind, own, small=small, **options))
    except BaseException:
        close(contestants)
        raise
    return contestants


def check(ops, case: Case, precision: str) -> tuple[dict[str, float], int]:
    """({ours, and of a convolution oneDNN's: largest error}, bytes of the case); RunError where
    one of them is wrong."""
    arguments, devices = case.arguments(precision), {"ours": ops}
    if ops.name == "cpu" and case.op in CONVOLUTIONS:
        from kernels.cpu.ops import CpuOps

        devices[DIRECT] = CpuOps(direct=True)
    coarsest = TF32_LIMIT if precision == "tf32" else 0.0
    return errors(case, arguments, devices, coarsest), case.bytes(arguments)


def takes_part(contestant: Contestant, number: int, case: Case, precision: str) -> bool:
    """Prepare a contestant for a case; whether it has something that is worth its time."""
    if contestant.name == DIRECT and case.op not in CONVOLUTIONS:
        return False
    if contestant.name == "numpy" and precision != "fp32":
        return False
    return contestant.ask("prepare", number, precision) and (
        contestant.name != "numpy" or contestant.ask("run", 1) < SLOWEST
    )


def timed(
    contestants: list[Contestant], number: int, case: Case, precision: str, seconds: float
) -> dict[str, float]:
    """{contestant: median seconds of a call}, ours first."""
    try:
        places = [
            Place(c.name, c, "run") for c in contestants if takes_part(c, number, case, precision)
        ]
        compete(places, ROUNDS, 1, seconds / ROUNDS)
    except (Refused, RunError) as error:
        raise RunError(f"{case.op} ({case.text}): {error}") from error
    return {place.name: statistics.median(place.turns) for place in places}


def measured(
    ops,
    contestants: list[Contestant],
    number: int,
    case: Case,
    precision: str,
    seconds: float,
    limits: dict[str, float],
) -> list[dict]:
    """A row a contestant: the case is checked, then timed."""
    largest, size = check(ops, case, precision)
    return rows_of(
        case, precision, timed(contestants, number, case, precision, seconds), size, largest, limits
    )


def rows_of(
    case: Case,
    precision: str,
    seconds: dict[str, float],
    size: int,
    largest: dict[str, float],
    limits: dict[str, float],
) -> list[dict]:
    """A row a contestant: ratio is its seconds over ours."""
    rows = []
    for name, took in seconds.items():
        if case.flops is None:
            rate = {"gbytes_per_second": size / took / 1e9}
            share = rate["gbytes_per_second"] / limits["copy_gbs"]
        else:
            rate = {"gflops": case.flops / took / 1e9}
            share = rate["gflops"] / limits["product_gflops"]
        rows.append(
            {
                "name": name,
                "op": case.op,
                "case": case.text,
                "precision": precision,
                "seconds": took,
                "bytes": size,
                **rate,
                "share": share,
                "ratio": took / seconds["ours"],
                "error": largest.get(name),
            }
        )
    return rows


def head() -> str:
    return (
        f"{'op':<24}{'case':<40}{'':<5}{'ms':>10}{'rate':>16}{'share':>7}{'x NumPy':>9}"
        f"{'x torch':>9}{'x oneDNN':>9}{'error':>9}"
    )


def line(rows: list[dict]) -> str:
    """The rows of a case: ours with the peers' ratios, and oneDNN's below."""
    ratio = {row["name"]: f"{row['ratio']:.2f}" for row in rows}
    lines = []
    for row in (row for row in rows if row["name"] in ("ours", DIRECT)):
        own = row["name"] == "ours"
        rate = (
            f"{row['gflops']:.1f} GFLOP/s"
            if "gflops" in row
            else f"{row['gbytes_per_second']:.2f} GB/s"
        )
        peers = "".join(
            f"{ratio.get(peer, '') if own else '':>9}" for peer in ("numpy", "torch", DIRECT)
        )
        lines.append(
            f"{row['op'] if own else '  ' + DIRECT:<24}{row['case']:<40}"
            f"{row['precision']:<5}{1e3 * row['seconds']:>10.4f}{rate:>16}"
            f"{row['share']:>7.2f}{peers}{row['error']:>9.1e}"
        )
    return "\n".join(lines)


def measure(
    ops,
    chosen_cases: list[tuple[int, Case]],
    precisions: list[str],
    threads: int,
    seconds: float,
    small: bool,
) -> tuple[list[dict], dict[str, dict[str, float]]]:
    """(every row, {precision: ceilings}); a case's line is printed as it is there."""
    limits = {precision: ceilings(ops, precision, threads) for precision in precisions}
    rows: list[dict] = []
    contestants = start(Setting(threads, ops.name), small)
    try:
        print(head())
        for number, case in chosen_cases:
            for precision in filter(case.has, precisions):
                of_case = measured(
                    ops, contestants, number, case, precision, seconds, limits[precision]
                )
                print(line(of_case), flush=True)
                rows += of_case
    finally:
        close(contestants)
    return rows, limits


def main(arguments: list[str] | None = None) -> int:
    options = options_of(arguments)
    asked = chosen(options.only, options.small)
    known = "fp32" if options.precision == "both" else options.precision
    refuse_emulated(options.device)
    ops = ops_for(options.device, options.threads, known)
    precisions = list(ops.precisions) if options.precision == "both" else [known]
    threads = ops.threads or os.cpu_count() or 1
    print(
        f"device {ops.name}: {ops.description}; every contestant in a process of its own, "
        f"threads {threads}, {' and '.join(precisions)}"
    )
    peers = {}
    if ops.name == "cuda":
        print(
            "beside a GPU nobody else is timed; an orthonormal matrix, whose end the host waits "
            "for, is bench.init's"
        )
        asked = [(number, case) for number, case in asked if case.op != "orthonormal"]
    elif torch_missing(ops.name):
        print("torch is not installed: its column is left out")
    else:
        peers = {"torch": metadata.version("torch")}
    rows, limits = measure(ops, asked, precisions, threads, options.seconds, options.small)
    for precision, ceiling in limits.items():
        print(
            f"{precision}: copy {ceiling['copy_gbs']:.1f} GB/s, matrix product "
            f"{ceiling['product_gflops']:.0f} GFLOP/s, convolution "
            f"{ceiling['convolution_gflops']:.0f} GFLOP/s"
        )
    print("x: the peer's seconds over ours, at equal precision; NumPy's is the reference's.")
    write(
        options.json, ops, rows, peers=peers, threads=threads, ceilings=limits, small=options.small
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command("bench.kernels", main))
