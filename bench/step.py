"""How long a training step takes, where its time goes, and what PyTorch takes for the same.

    python -m bench.step --net fitnet4 --against torch
    python -m bench.step --net fitnet_mnist --precision bf16 --against torch --json step.json
    python -m bench.step --device cuda --precision tf32 --against torch

Our step is checked first: three steps on a few images give the reference's losses. Then the
contestants take turns, each in a process of its own (bench/common/contest.py): ours, our
convolutions alone (the bound: a step can't be faster), on a CPU the same convolutions all by oneDNN
(what a step of any engine on that library can't beat), and PyTorch's modes. A turn is --steps
training steps, or as many as fill --seconds, and the figures are medians over --rounds rounds; a
ratio is ours over the peer's in images/s, round by round. Then the same for evaluation.

On a GPU our step is replayed as a CUDA graph, and PyTorch runs eager, in channels_last, and by
torch.compile(mode="max-autotune"), which uses CUDA graphs too, with its batch on the GPU.

Both train the same net by the `fast` recipe at equal precision with softmax cross entropy. Ours
gathers and augments its batch from the uint8 data set within the step; PyTorch's batch lies in
memory as floats, always the same. Peak memory is a process's own, from its start to the end of the
training turns: Python, libraries, weights, buffers; of ours also the data set, of torch.compile the
compiler.

By op: GFLOP/s of the convolutions, counted as the direct form does them, against the faster of a
large matrix product and a large direct convolution in that precision (Winograd's algorithm makes
fewer of them, and goes beyond that ceiling); GB/s of the rest, against a copy of 256 MiB by NumPy
with as many threads (bytes of the arrays that an op is handed; what lies in the cache can be faster
than memory). Both ceilings are measured in the same run.
On a GPU the copy is one from device to device, and an op's time has its launch and the wait for its
end in it: what a kernel takes by itself, bench.kernels says.

The guard is what a step does lest a NaN or an infinity go on unseen: the loss op looks at every
score, and `clip` takes the norm of the whole gradient, also where the recipe clips nothing. Its
figure is the time of these two ops, all that they do, over our median step: so it is at most that.
(Once a second the host reads the clock, 16 numbers.)

Read next: bench/shards.py, bench/common/__init__.py.
"""

import os
import statistics
import sys

import models
from bench.common.contest import Contestant, Entry, Place, Refused, close, compete
from bench.common.machine import refuse_emulated, write
from bench.common.ours import CONVOLUTIONS, check
from bench.peers import torch_missing
from engine.cli.command import Parser, run_command
from engine.data import FOLDER
from engine.errors import InputError, RunError
from kernels import ops_for
from models.recipes import recipe

OURS = ("ours", "bench.common.ours:Ours", {})
BOUNDS = (
    ("convolutions alone", "bench.common.ours:Convolutions", {}),
    ("convolutions by oneDNN", "bench.common.ours:Convolutions", {"direct": True}),
)
TORCH = "bench.peers.torch_nets:Torch"
CPU_MODES = {
    "torch eager": {},
    "torch eager amax": {"way": "amax"},
    "torch eager max": {"way": "max"},
    "torch eager channels_last": {"channels_last": True},
    "torch compile": {"compiled": True},
    "torch compile channels_last": {"channels_last": True, "compiled": True},
}
GPU_MODES = {
    "torch eager": {"channels_last": True, "device": "cuda"},
    "torch compile": {
        "channels_last": True,
        "device": "cuda",
        "compiled": True,
        "mode": "max-autotune",
    },
}
GUARD = ("softmax_loss_forward", "clip")  # the ops that look for what is not finite
REMEDY = "pip install torch==2.13.0 (a CPU needs no more than its build), or leave --against out"


def options_of(arguments: list[str] | None):
    parser = Parser(prog="bench.step", description=__doc__.split("\n")[0])
    timed = [name for name, model in models.NETS.items() if model.data != FOLDER]
    parser.add_argument("--net", default="fitnet4", choices=timed)
    parser.add_argument("--act", default="maxout", choices=models.ACTS)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "tf32", "bf16"))
    parser.add_argument("--batch", type=int, default=None, help="images; default the recipe's")
    parser.add_argument("--against", default=None, choices=["torch"], help="a peer; default none")
    parser.add_argument("--data", default="auto", help="data set of our step (auto)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--steps", type=int, default=5, help="steps of a turn, at least (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn, at least (1)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant (7)")
    parser.add_argument("--json", default=None, help="write the rows to this file")
    options = parser.parse_args(arguments)
    for name in ("steps", "rounds"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: give at least 1")
    return options


def peers_of(device: str, act: str) -> dict[str, dict]:
    """{name: options} of PyTorch's modes; the ways to write a maxout only where there is one."""
    modes = GPU_MODES if device == "cuda" else CPU_MODES
    return {name: mode for name, mode in modes.items() if act == "maxout" or "way" not in mode}


def start(
    entry: Entry, peers: dict[str, dict], bounds=BOUNDS
) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants, ours and the bounds first, and {peer that could not start: why}."""
    contestants: list[Contestant] = []
    left: dict[str, str] = {}
    try:
        for name, kind, options in (OURS, *bounds):
            contestants.append(Contestant(name, kind, entry, **options))
        for name, mode in peers.items():
            try:
                contestants.append(Contestant(name, TORCH, entry, **mode))
            except Refused as error:
                left[name] = str(error)
    except BaseException:
        close(contestants)
        raise
    return contestants, left


def same_net(ours: Contestant, peers: list[Contestant]) -> tuple[dict, dict[str, str]]:
    """(our facts, the peers' versions); RunError for a peer with another net than ours."""
    facts, versions = ours.ask("facts"), {}
    for peer in peers:
        its = peer.ask("facts")
        versions |= its["versions"]
        if its["parameters"] != facts["parameters"]:
            raise RunError(
                f"{peer.name} has {its['parameters']} parameters, ours "
                f"{facts['parameters']}: not the same net, so nothing to compare"
            )
    return facts, versions


def report(line: str) -> None:
    """Progress, which is no part of the result: compiling and the rounds take minutes."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    options = options_of(arguments)
    refuse_emulated(options.device)
    ops = ops_for(options.device, options.threads, options.precision)
    why = torch_missing(ops.name) if options.against else None
    if why:
        raise InputError(f"--against {options.against}: {why}; {REMEDY}")
    entry = Entry(
        options.net,
        options.act,
        options.batch or recipe(options.net, options.act, "lsuv").batch,
        options.precision,
        ops.threads or os.cpu_count() or 1,
        ops.name,
        options.data,
    )
    check(ops, entry)
    print(f"{entry.net} {entry.act}, batch {entry.batch}, {entry.precision}, {ops.description}")
    bounds = BOUNDS[:1] if ops.name == "cuda" else BOUNDS
    contestants, left = start(
        entry, peers_of(ops.name, entry.act) if options.against else {}, bounds
    )
    try:
        ours, *others = contestants
        return measure(
            ours, others[: len(bounds)], others[len(bounds) :], left, ops, entry, options
        )
    except Refused as error:
        raise RunError(str(error)) from error
    finally:
        close(contestants)


def measure(
    ours: Contestant,
    bounds: list[Contestant],
    peers: list[Contestant],
    left: dict[str, str],
    ops,
    entry: Entry,
    options,
) -> int:
    facts, versions = same_net(ours, peers)
    shared = {
        "net": entry.net,
        "act": entry.act,
        "batch": entry.batch,
        "precision": entry.precision,
    }
    rows = []
    for phase in ("train", "test"):
        places = [
            Place(ours.name, ours, phase),
            *(Place(bound.name, bound, phase) for bound in bounds if phase == "train"),
            *(Place(peer.name, peer, phase, peer=True) for peer in peers if peer.name not in left),
        ]
        left |= compete(places, options.rounds, options.steps, options.seconds, report=report)
        raced = [p for p in places if p.contestant not in bounds and p.name not in left]
        if phase == "train":
            peaks = {place.name: place.contestant.ask("peak_mb") for place in raced}
        rows += [
            row(place, places[0], shared) | {"phase": phase, "peak_mb": peaks[place.name]}
            for place in raced
        ]
    rows += [{"name": name, **shared, "phase": "train", "error": why} for name, why in left.items()]
    rows += [bound_row(c, ours, shared) for c in bounds]

    ceilings = bounds[-1].ask("ceilings")
    profile = ours.ask("profile", ours.steps["train"])
    median = statistics.median(ours.turns["train"])
    rows += op_rows(profile, median, ceilings)
    guard = guard_of(profile, median)
    print_ops(rows)
    print(
        f"\nguard against NaN and infinity: {1e3 * guard['seconds']:.3f} ms, at most "
        f"{guard['share']:.3%} of our step ({', '.join(GUARD)})"
    )
    print_contest(rows, facts)
    write(
        options.json,
        ops,
        rows,
        peers=versions,
        rounds=options.rounds,
        ceilings=ceilings,
        data=facts["data"],
        data_mb=facts["data_mb"],
        guard=guard,
    )
    return 0


def row(place: Place, ours: Place, shared: dict) -> dict:
    """A place's figures: medians over the rounds; ratio: ours over theirs, in images/s."""
    ratios = [theirs / mine for theirs, mine in zip(place.turns, ours.turns, strict=True)]
    seconds = statistics.median(place.turns)
    return {
        "name": place.name,
        **shared,
        "seconds": seconds,
        "images_per_second": shared["batch"] / seconds,
        "ratio": None if place is ours else statistics.median(ratios),
        "ratios": None if place is ours else [min(ratios), max(ratios)],
    }


def bound_row(bound: Contestant, ours: Contestant, shared: dict) -> dict:
    """A bound's figures; `share`: its seconds in those of our step."""
    turns = bound.turns["train"]
    seconds = statistics.median(turns)
    return {
        "name": bound.name,
        **shared,
        "phase": "train",
        "seconds": seconds,
        "images_per_second": shared["batch"] / seconds,
        "share": statistics.median(a / b for a, b in zip(turns, ours.turns["train"], strict=True)),
    }


def op_rows(profile: dict, step: float, ceilings: dict[str, float]) -> list[dict]:
    """Where the step's time goes, the longest first."""
    rows = []
    fastest = max(ceilings["product_gflops"], ceilings["convolution_gflops"])
    for name, (seconds, operations, size) in sorted(profile.items(), key=lambda p: -p[1][0]):
        if name in CONVOLUTIONS:
            rate, unit, ceiling = operations / seconds / 1e9, "GFLOP/s", fastest
        else:
            rate, unit, ceiling = size / seconds / 1e9, "GB/s", ceilings["copy_gbs"]
        text = f"{rate:.0f} {unit}" if unit == "GFLOP/s" else f"{rate:.1f} {unit}"
        rows.append(
            {
                "name": name,
                "seconds": seconds,
                "share": seconds / step,
                "rate": text,
                "of_ceiling": rate / ceiling,
            }
        )
    return rows


def guard_of(profile: dict, step: float) -> dict[str, float]:
    """Seconds of the ops that look for what is not finite, and their share of a step of `step`
    seconds."""
    seconds = sum(profile[name][0] for name in GUARD)
    return {"seconds": seconds, "share": seconds / step}


def print_ops(rows: list[dict]) -> None:
    print(f"{'op':<28}{'ms':>9}{'share':>8}{'rate':>14}{'of ceiling':>12}")
    for r in (r for r in rows if "rate" in r):
        print(
            f"{r['name']:<28}{1e3 * r['seconds']:>9.2f}{r['share']:>8.1%}{r['rate']:>14}"
            f"{r['of_ceiling']:>12.0%}"
        )


def print_contest(rows: list[dict], facts: dict) -> None:
    print(
        f"\n{'phase':<7}{'contestant':<28}{'ms':>9}{'images/s':>10}{'ratio':>7}"
        f"{'  of the rounds':<17}{'peak MB':>8}"
    )
    for r in (r for r in rows if "phase" in r):
        line = f"{r['phase']:<7}{r['name']:<28}"
        if "error" in r:
            print(f"{line}  {r['error']}")
            continue
        line += f"{1e3 * r['seconds']:>9.1f}{r['images_per_second']:>10.0f}"
        if "share" in r:
            line += f"  {r['share']:.1%} of our step"
        else:
            span = "  {:.2f} .. {:.2f}".format(*r["ratios"]) if r["ratios"] else ""
            ratio = f"{r['ratio']:.2f}" if r["ratios"] else ""
            line += f"{ratio:>7}{span:<17}{r['peak_mb']:>8.0f}"
        print(line)
    print(
        f"ratio: ours over the peer's, in images/s. Ours held {facts['data']} "
        f"({facts['data_mb']:.0f} MB of images)."
    )


if __name__ == "__main__":
    sys.exit(run_command("bench.step", main))
