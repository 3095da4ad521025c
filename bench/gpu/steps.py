"""Images/s of a training step on the GPU, beside PyTorch's, and the same losses as the CPU's.

The contestants are processes that take turns (bench/common/contest.py), a precision at a time: ours, of
which the step is replayed as a CUDA graph in one kind of turn and launched kernel by kernel in
another; PyTorch eager; and torch.compile(mode="max-autotune"), which uses CUDA graphs too. All by
the same recipe, in channels_last and the same precision: in fp32 nothing is rounded to TF32, in
tf32 products are, bf16 is PyTorch's autocast, whose weights stay float32 as ours do. PyTorch has
its fused SGD and cuDNN's benchmark mode; its one batch lies on the GPU as floats. Ours gathers and
augments a new batch within every step, and its convolutions give the same bits in every run.

Read next: bench/common/contest.py.
"""

import importlib.util
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

from bench.common.contest import Contestant, Entry, Refused, close
from bench.gpu.timer import Deadline
from bench.common.ours import TOLERANCE, compare
from engine.errors import RunError
from kernels import DeviceError, ops_for

TORCH = "bench.peers.torch_nets:Torch"
PEER = {"channels_last": True, "device": "cuda"}
PEERS = {"torch eager": PEER,
         "torch compile": {**PEER, "compiled": True, "mode": "max-autotune"}}
GRAPH, LAUNCHED = "ours", "ours without the graph"
LEAST = 45.0                        # seconds of a precision without the compiler


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
        row = {"section": "losses", "net": entry.net, "batch": entry.batch, "precision": precision,
               "against": against.name, "tolerance": tolerance, "why": ""}
        try:
            found = compare(ops, against, replace(entry, precision=precision), steps, tolerance)
            row |= {"losses": [ours for ours, _ in found],
                    "difference": max(abs(ours - theirs) for ours, theirs in found)}
        except RunError as error:
            row["why"] = str(error)
        rows.append(row)
    return rows


def no_peer() -> str | None:
    """Why PyTorch does not take part; None where it does. Asked in a process of its own: it may
    bring another cuDNN than ours."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    done = subprocess.run([sys.executable, "-c", "import torch; print(torch.cuda.is_available())"],
                          capture_output=True, text=True)
    if done.returncode:
        return f"torch does not load: {(done.stderr.splitlines() or ['no word'])[-1]}"
    return None if "True" in done.stdout else "torch sees no GPU; its build for the CPU?"


def measure(entry: Entry, precisions: list[str], peers: dict[str, dict], rounds: int,
            seconds: float, deadline: Deadline,
            report: Callable[[str], None]) -> tuple[list[dict], list[str], dict[str, str]]:
    """(rows, what was left out, versions). seconds: of a turn, at least."""
    rows: list[dict] = []
    left_out: list[str] = []
    versions: dict[str, str] = {}
    for number, precision in enumerate(precisions):
        if deadline.over():
            left_out.append(f"steps in {precision}")
            continue
        # A compiler may take what the precisions after this one do not need; what it has made it
        # keeps, so that another run of the bench goes on from there.
        own = Deadline(deadline.left() - LEAST * (len(precisions) - number - 1))
        found, left, more = one(replace(entry, precision=precision), peers, rounds, seconds, own,
                                report)
        rows += found
        left_out += [f"{name} in {precision} ({why})" for name, why in left.items()]
        versions |= more
    return rows, left_out, versions


def one(entry: Entry, peers: dict[str, dict], rounds: int, seconds: float, deadline: Deadline,
        report: Callable[[str], None]) -> tuple[list[dict], dict[str, str], dict[str, str]]:
    """One precision's (rows, {peer that left: why}, versions)."""
    running: list[tuple[Contestant, str, str]] = []  # contestant, phase, row's name
    left: dict[str, str] = {}
    versions: dict[str, str] = {}
    everyone: list[Contestant] = []
    try:
        ours = Contestant("ours", "bench.common.ours:Ours", entry)
        everyone.append(ours)
        facts = ours.ask("facts")
        for phase, name in (("train", GRAPH), ("launched", LAUNCHED)):
            ours.warm(phase, 1, seconds)
            running.append((ours, phase, name))
            report(f"{entry.precision}: {name} is warm")
        for name, options in peers.items():
            try:
                peer = Contestant(name, TORCH, entry, **options)
            except Refused as error:
                left[name] = str(error)
                report(f"{entry.precision}: {name} is left out: {error}")
                continue
            everyone.append(peer)
            try:
                known = peer.ask("facts")
                if known["parameters"] != facts["parameters"]:
                    raise RunError(f"{name} has {known['parameters']} parameters, ours "
                                   f"{facts['parameters']}: not the same net")
                versions |= known["versions"]
                peer.warm("train", 1, seconds, within=max(deadline.left(), 1.0))
                running.append((peer, "train", name))
                report(f"{entry.precision}: {name} is warm")
            except Refused as error:
                left[name] = str(error)
                report(f"{entry.precision}: {name} is left out: {error}")
                everyone[-1].close()  # so that it does nothing while the others are timed
        for number in range(rounds):
            for contestant, phase, name in running:
                turn(contestant, phase, name, left)
            running = [place for place in running if place[2] not in left]
            report(f"{entry.precision}: round {number + 1} of {rounds}")
    except Refused as error:
        raise RunError(f"our step in {entry.precision}: {error}") from error
    finally:
        close(everyone)
    return [row(entry, ours, contestant, phase, name) for contestant, phase, name in running], \
        left, versions


def turn(contestant: Contestant, phase: str, name: str, left: dict[str, str]) -> None:
    """A turn of one; a peer that fails is put into `left`."""
    try:
        contestant.turn(phase)
    except Refused as error:
        if contestant.name == "ours":
            raise
        left[name] = str(error)


def row(entry: Entry, ours: Contestant, contestant: Contestant, phase: str, name: str) -> dict:
    """A contestant's figures: medians over the rounds; ratio: ours over theirs, in images/s."""
    turns, own = contestant.turns[phase], ours.turns["train"]
    ratios = [theirs / mine for theirs, mine in zip(turns, own)]
    seconds = statistics.median(turns)
    return {"section": "steps", "name": name, "net": entry.net, "batch": entry.batch,
            "precision": entry.precision, "recipe": entry.recipe, "seconds": seconds,
            "images_per_second": entry.batch / seconds,
            "ratio": None if name == GRAPH else statistics.median(ratios),
            "ratios": None if name == GRAPH else [min(ratios), max(ratios)]}
