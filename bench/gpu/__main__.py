"""Device cuda on a GPU: right, and how fast, in one command of less than ten minutes.

    python -m bench.gpu
    python -m bench.gpu --only steps,kernels
    python -m bench.gpu --quick --json gpu.json   # small sizes: to try the bench, not to measure

What the GPU is, and how fast it copies, comes first. Then every operation is compared with the
reference: a wrong one ends the bench before anything is timed. Then the sections, which are
bench.kernels, bench.init and bench.step on the GPU, and what only a GPU has:

    losses     ten steps of FitNet-4 have the losses that device cpu has
    kernels    GB/s of each of our kernels, as a share of the largest copy, and of a copy that moves
               as many bytes: what a kernel of a few microseconds can reach, in which starting and
               running empty are a part
    init       orthonormal matrices, and LSUV whole
    steps      images/s of FitNet-4 in tf32, bf16 and fp32, with and without the CUDA graph, beside
               PyTorch eager and torch.compile where it is installed
    sanitizer  compute-sanitizer's four tools, each with a planted bug     (bench/gpu/sanitizer.py)

What is counted in operations (convolutions, fully connected layers, orthonormal matrices) is
cuDNN's and cuSOLVER's, and is checked, not timed, among the kernels. In the steps, PyTorch computes
in channels_last and the same precision: in fp32 nothing is rounded to TF32, in tf32 products are,
bf16 is its autocast, whose weights stay float32 as ours do. It has its fused SGD and cuDNN's
benchmark mode; its one batch lies on the GPU as floats. Ours gathers and augments a new batch
within every step, and its convolutions give the same bits in every run.

A section that fails is named in the end, and the others go on; but no step is timed in a precision
whose losses are wrong, and none at all after a kernel was wrong at its full size. What --budget
leaves no time for is left out, and said. A step is the training command's own, by its `paper`
recipe; losses are by the `fast` one, without whose clipping rounding alone grows to percents in ten
steps. Last comes a table with the goals of bench/gpu/goals.py; everything is in the JSON.

Read next: bench/gpu/checks.py.
"""

import statistics
import sys
import traceback
from dataclasses import dataclass, replace

import models
from bench import init as bench_init
from bench import kernels as bench_kernels
from bench import step as bench_step
from bench.common.cases import cases
from bench.common.contest import Contestant, Deadline, Entry, Place, Setting, close, compete
from bench.common.machine import RESULTS, write
from bench.gpu import checks
from bench.gpu import sanitizer as gpu_sanitizer
from bench.gpu.facts import facts, lines, slug
from bench.gpu.goals import EPOCHS, PRECISIONS, estimate, goals, table
from bench.gpu.timer import copy_gbs
from bench.peers import torch_missing
from engine.cli.command import Parser, run_command
from engine.data import load
from engine.errors import InputError, RunError, choose
from kernels import ops_for

# Seconds that a section is left, whatever those before it take.
SECTIONS = {"losses": 60, "kernels": 100, "init": 40, "steps": 250, "sanitizer": 90}
BUDGET = 570.0
LARGEST = 1 << 30  # bytes that the copy moves, which is the ceiling
LEAST = 45.0  # seconds of a precision's steps without the compiler
SYNTHETIC = "synthetic"  # no file is needed, and a step takes as long as on any set


@dataclass(frozen=True)
class Sizes:
    """What is measured: the step and LSUV of a net, the losses of one, matrices; how often."""

    net: str = "fitnet4"
    batch: int = 128
    losses_net: str = "fitnet4"
    losses_batch: int = 32
    losses_steps: int = 10
    shapes: tuple = tuple(bench_init.shapes_of(bench_init.SHAPES))
    repeats: int = 5
    rounds: int = 7
    turn_seconds: float = 0.5
    case_seconds: float = 0.02
    copied: int = LARGEST
    small: bool = False


# In RMSProp's first steps, which are FitNet-MNIST's, rounding alone decides: so losses of another.
QUICK = Sizes(
    "fitnet_mnist", 2, "fitnet1", 4, 2, ((96, 64), (67, 97)), 1, 1, 0.0, 0.0, 1 << 16, True
)


class Bench:
    """The GPU, the operations of each precision, and the rows so far."""

    def __init__(self, sizes: Sizes):
        first = ops_for("cuda")
        self.sizes, self.first = sizes, first
        precisions = [p for p in PRECISIONS if p == "fp32" or "bf16" in first.precisions]
        self.devices = {
            p: first if p != "tf32" else ops_for("cuda", precision=p) for p in precisions
        }
        self.facts = facts(first)
        self.rows: list[dict] = []
        self.left_out: list[str] = []
        self.failed: dict[str, str] = {}
        self.refused: set[str] = set()  # precisions whose steps are not timed
        self.peers: dict[str, str] = {}

    def prepare(self) -> None:
        """The ceiling, and whether every operation is right."""
        sizes = self.sizes
        self.copy_gbs = copy_gbs(self.first, sizes.copied, sizes.small)
        self.facts |= facts(self.first)  # with the clocks of a GPU at work
        for line in lines(self.facts):
            print(line)
        print(
            f"a copy that moves {sizes.copied >> 20} MiB: {self.copy_gbs:.0f} GB/s, of "
            f"{self.facts['pins_gbs']:.0f} that the memory's pins can do"
        )
        self.add("check", checks.operations(self.devices, report))
        worst = max(row["error"] for row in self.rows)
        print(
            f"{len({row['op'] for row in self.rows})} operations agree with the reference in "
            f"{', '.join(self.devices)}: at most {worst:.1e} of the largest value",
            flush=True,
        )

    def add(self, section: str, rows: list[dict]) -> None:
        self.rows += [{"section": section, **row} for row in rows]

    def of(self, section: str) -> list[dict]:
        return [row for row in self.rows if row["section"] == section]

    def run(self, name: str, deadline: Deadline) -> None:
        """A section; what goes wrong in it is kept, and the next one begins."""
        from cupy import get_default_memory_pool

        report(f"-- {name}")
        get_default_memory_pool().free_all_blocks()  # of the section before
        try:
            getattr(self, name)(deadline)
        except Exception as error:
            traceback.print_exc()
            self.failed[name] = " ".join(str(error).split()) or type(error).__name__
        if deadline.over():
            report(f"{name}: its time was up")

    def entry(self, precision: str = "fp32", recipe: str = "paper") -> Entry:
        sizes = self.sizes
        return Entry(
            sizes.net,
            models.NETS[sizes.net].act,
            sizes.batch,
            precision,
            1,
            "cuda",
            SYNTHETIC,
            recipe,
        )

    def losses(self, deadline: Deadline) -> None:
        entry = replace(
            self.entry(recipe="fast"), net=self.sizes.losses_net, batch=self.sizes.losses_batch
        )
        rows = checks.losses(self.devices, entry, self.sizes.losses_steps)
        self.add("losses", rows)
        for row in rows:
            report(
                f"{row['net']} {row['precision']}: "
                + (
                    row["why"]
                    or (
                        f"{len(row['losses'])} losses within {row['difference']:.1e} of device "
                        f"{row['against']}'s"
                    )
                )
            )
        if wrong := [row for row in rows if row["why"]]:
            self.failed["losses"] = "; ".join(f"{row['precision']}: {row['why']}" for row in wrong)
            self.refused |= {row["precision"] for row in wrong}

    def kernels(self, deadline: Deadline) -> None:
        sizes, wrong = self.sizes, []
        equal: dict[int, float] = {}  # bytes -> GB/s of a copy
        contestants = bench_kernels.start(Setting(1, "cuda"), sizes.small)
        try:
            for number, case in enumerate(cases(sizes.small)):
                for precision in [p for p in self.devices if p != "tf32" and case.has(p)]:
                    if case.flops is not None:
                        continue
                    if deadline.over():
                        self.left_out.append(f"{case.op} ({case.text}) {precision}")
                        continue
                    try:
                        (row,) = bench_kernels.measured(
                            self.first,
                            contestants,
                            number,
                            case,
                            precision,
                            sizes.case_seconds,
                            {"copy_gbs": self.copy_gbs},
                        )
                    except RunError as refused:
                        wrong.append(f"{precision}: {refused}")
                        continue
                    if row["bytes"] not in equal:
                        equal[row["bytes"]] = contestants[0].ask("copy_gbs", row["bytes"])
                    row["share_of_equal"] = row["gbytes_per_second"] / equal[row["bytes"]]
                    self.add("kernels", [row])
                    report(bench_kernels.line([row]) + f"{row['share_of_equal']:>8.2f}")
        finally:
            close(contestants)
        if wrong:
            self.failed["kernels"] = "; ".join(wrong)
            self.refused |= set(self.devices)

    def init(self, deadline: Deadline) -> None:
        sizes, first = self.sizes, len(self.rows)
        bench_init.check(self.first)
        maker = Contestant("ours", bench_init.MAKER, Setting(1, "cuda"), by="ours")
        try:
            for m, n in sizes.shapes:
                if deadline.over():
                    self.left_out.append(f"orthonormal {m}x{n}")
                else:
                    self.add(
                        "init",
                        bench_init.compare(f"{m}x{n}", [(m, n)], [maker], sizes.repeats, True),
                    )
        finally:
            maker.close()
        if deadline.over():
            self.left_out.append(f"LSUV of {sizes.net}")
        else:
            data = load(
                SYNTHETIC, size=models.NETS[sizes.net].in_shape, limit=max(2 * sizes.batch, 40)
            )
            row = bench_init.lsuv_row(self.first, sizes.net, data, sizes.repeats, sizes.batch)
            self.add("init", [row | {"batch": sizes.batch}])
        for row in self.rows[first:]:
            report(init_line(row))

    def steps(self, deadline: Deadline) -> None:
        peers = bench_step.GPU_MODES
        if why := torch_missing("cuda"):
            peers = {}
            self.left_out.append(f"PyTorch ({why})")
        sound = [precision for precision in self.devices if precision not in self.refused]
        for number, precision in enumerate(sound):
            if deadline.over():
                self.left_out.append(f"steps in {precision}")
                continue
            # A compiler may take what the precisions after this one do not need; what it has made
            # it keeps, so that another run of the bench goes on from there.
            own = Deadline(deadline.left() - LEAST * (len(sound) - number - 1))
            self.step(self.entry(precision), peers, own)
        self.left_out += [
            f"steps in {precision} (a result was wrong)"
            for precision in self.devices
            if precision in self.refused
        ]

    def step(self, entry: Entry, peers: dict[str, dict], deadline: Deadline) -> None:
        """Ours as a CUDA graph, ours launched kernel by kernel, and the peers, in turn."""
        contestants, left = bench_step.start(entry, peers, bounds=())
        ours, *others = contestants
        places = [
            Place("ours", ours, "train"),
            Place("ours without the graph", ours, "launched"),
            *(Place(peer.name, peer, "train", peer=True) for peer in others),
        ]
        try:
            self.peers |= bench_step.same_net(ours, others)[1]
            left |= compete(
                places,
                self.sizes.rounds,
                1,
                self.sizes.turn_seconds,
                deadline,
                lambda line: report(f"{entry.precision}: {line}"),
            )
        finally:
            close(contestants)
        shared = {
            "net": entry.net,
            "batch": entry.batch,
            "precision": entry.precision,
            "recipe": entry.recipe,
        }
        self.add(
            "steps",
            [
                bench_step.row(place, places[0], shared)
                for place in places
                if place.name not in left
            ],
        )
        self.left_out += [f"{name} in {entry.precision} ({why})" for name, why in left.items()]

    def sanitizer(self, deadline: Deadline) -> None:
        rows, left = gpu_sanitizer.measure(deadline, report)
        self.add("sanitizer", rows)
        self.left_out += left
        if wrong := [row for row in rows if not gpu_sanitizer.good(row)]:
            self.failed["sanitizer"] = "; ".join(map(gpu_sanitizer.line, wrong))

    def summary(self) -> list[str]:
        """The short table."""
        steps, kernels = self.of("steps"), self.of("kernels")
        text = [f"{'step':<26}{'':<6}{'ms':>8}{'images/s':>10}{'ours/this':>11}"] * bool(steps)
        for row in steps:
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            text.append(
                f"{row['name']:<26}{row['precision']:<6}{1e3 * row['seconds']:>8.3f}"
                f"{row['images_per_second']:>10.0f}{ratio:>11}"
            )
        if kernels:
            shares = [row["share"] for row in kernels]
            text.append(
                f"{len(kernels)} kernels and cases: {min(shares):.0%} to {max(shares):.0%} "
                f"of the copy, median {statistics.median(shares):.0%}"
            )
        text += map(init_line, self.of("init"))
        text += map(gpu_sanitizer.line, self.of("sanitizer"))
        text += table(goals(self.rows))
        if seconds := estimate(self.rows):
            text.append(
                f"estimate: FitNet-4's {EPOCHS} epochs in tf32 are {seconds:.0f} s of "
                "training steps at that rate; such a run was not made"
            )
        text += [f"left out: {what}" for what in shortened(self.left_out)]
        text += [f"FAILED {name}: {why}" for name, why in self.failed.items()]
        return text


def init_line(row: dict) -> str:
    return f"{row['what']:<28}{1e3 * row['seconds']:>9.2f} ms  error {row['error']:.1e}"


def shortened(left_out: list[str], most: int = 6) -> list[str]:
    rest = len(left_out) - most
    return left_out[:most] + [f"{rest} more, which the JSON names"] * (rest > 0)


def report(line: str) -> None:
    """Progress, which is no part of the result."""
    print(line, file=sys.stderr, flush=True)


def options_of(arguments: list[str] | None):
    parser = Parser(prog="bench.gpu", description=__doc__.split("\n\nRead next")[0])
    parser.add_argument(
        "--only", default="", metavar="NAME", help=f"sections, with commas ({','.join(SECTIONS)})"
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=BUDGET,
        metavar="SECONDS",
        help=f"of everything, about ({BUDGET:.0f})",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: to try the bench, not to measure"
    )
    parser.add_argument(
        "--json",
        default=None,
        metavar="FILE",
        help="write everything to this file (bench/results/gpu-<the GPU>.json)",
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.budget < 86_400:
        raise InputError(f"--budget {options.budget:g}: give seconds from 1 to a day")
    options.only = [
        choose("section", name, SECTIONS) for name in options.only.split(",") if name
    ] or list(SECTIONS)
    return options


def main(arguments: list[str] | None = None) -> int:
    options = options_of(arguments)
    whole = Deadline(options.budget)
    bench = Bench(QUICK if options.quick else Sizes())
    bench.prepare()
    chosen = [name for name in SECTIONS if name in options.only]
    for number, name in enumerate(chosen):
        later = sum(SECTIONS[other] for other in chosen[number + 1 :])
        bench.run(name, Deadline(max(whole.left() - later, 1.0)))
    print("\n".join(bench.summary()))
    path = options.json or RESULTS / f"gpu-{slug(bench.facts['name'])}.json"
    write(
        path,
        bench.first,
        bench.rows,
        peers=bench.peers,
        gpu=bench.facts,
        copy={"gbytes_per_second": bench.copy_gbs, "bytes": bench.sizes.copied},
        sizes=vars(bench.sizes),
        sections=chosen,
        left_out=bench.left_out,
        failed=bench.failed,
        goals=[goal.as_dict() for goal in goals(bench.rows)],
        estimate_seconds=estimate(bench.rows),
    )
    print(f"written: {path}")
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(run_command("bench.gpu", main))
