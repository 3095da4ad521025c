"""What it costs to cut a step's batch into shards, and what several processes make of them.

    python -m bench.shards --net fitnet4 --shards 4 --threads 1          # one process
    mpiexec -n 2 python -m bench.shards --net fitnet4 --shards 4 --threads 2

Contestants take turns of --steps training steps each, over --rounds rounds: the step as it is, in
the first process with all the threads; its batch in shards, likewise; and, where there are several
processes, the same shards dealt out, each process with its part of the threads. While the first is
alone at it the others sleep. Figures are medians over the rounds; a ratio is the whole batch's time
over a contestant's, round by round.

Read next: bench/scale.py, engine/run/shards.py.
"""

import statistics
import sys
import time
from dataclasses import replace

import numpy as np

import models
from bench.common.contest import RATE, Entry
from bench.common.ours import Step, data_of
from engine.cli.command import Parser, run_command
from engine.cli.messages import print_line
from engine.cli.settings import RANGES
from engine.data.feed import read_clock
from engine.errors import InputError
from engine.run.ranks import Alone, joined
from engine.run.session import Progress
from engine.run.shards import Shards
from engine.train import one_step
from kernels import ops_for
from models.recipes import recipe


class Sharded(Step):
    """A training step whose batch is in shards, among these ranks."""

    def __init__(self, ops, entry: Entry, data, count: int, ranks: Alone):
        super().__init__(ops, replace(entry, batch=entry.batch // count), data)
        self.shards, self.sums = Shards(self.net, count, ranks), np.zeros((count, 3))

    def start(self, steps: int, rate: float = RATE) -> None:
        past = Progress(read_clock(self.net), sums=self.sums)
        table = np.full(steps + 1, rate)
        self.rates = self.shards.start(self.feed, past, self.done, self.done + steps, table)
        self.done += steps

    def __call__(self) -> None:
        one_step(self.net, self.feed, self.optimizer, self.rates, parts=self.shards.parts)


def turn(step: Step, steps: int) -> float:
    """Seconds a step."""
    step.start(steps)
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    step.net.ops.synchronize()
    return (time.perf_counter() - begin) / steps


def measure(options, ranks: Alone) -> None:
    batch = recipe(options.net, "maxout", "lsuv", "fast").batch
    wanted, fits = RANGES["shards"]
    if not fits(options.shards) or batch % options.shards:
        raise InputError(
            f"--shards {options.shards} must be {wanted} that divides {batch}, the batch"
        )
    ranks.need_divisor(options.shards)
    ops = ops_for("cpu", options.threads)
    threads = ops.threads
    entry = Entry(options.net, "maxout", batch, options.precision, threads, "cpu", options.data)
    data = data_of(entry)
    contestants: dict[str, Step] = {}
    if ranks.rank == 0:
        contestants["the whole batch"] = Step(ops, entry, data)
        contestants[f"{options.shards} shards"] = Sharded(ops, entry, data, options.shards, Alone())
    dealt = f"{options.shards} shards, {ranks.size} processes"
    if ranks.size > 1:
        contestants[dealt] = Sharded(ops, entry, data, options.shards, ranks)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for name in [*contestants] * (options.rounds + 1):  # the first round is to warm up
        if name == dealt:
            ranks.wait()
            ops_for("cpu", max(1, threads // ranks.size))
        times[name].append(turn(contestants[name], options.steps))
        ops_for("cpu", threads)
    ranks.wait()
    if ranks.rank:
        return
    whole = times["the whole batch"]
    print_line(f"{entry.net}, batch {batch}, {entry.precision}, {ops.description}")
    for name, turns in times.items():
        ratios = [one / other for one, other in zip(whole[1:], turns[1:], strict=True)]
        print_line(
            f"{name:<24} {statistics.median(turns[1:]) * 1e3:8.1f} ms a step  ratio "
            f"{statistics.median(ratios):.3f}  ({min(ratios):.3f} to {max(ratios):.3f})"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="bench.shards", description=__doc__.split("\n")[0])
    parser.add_argument("--net", default="fitnet4", choices=models.NETS)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--data", default="synthetic", help="data set (synthetic)")
    parser.add_argument("--threads", type=int, default=None, help="of all processes (all)")
    parser.add_argument("--steps", type=int, default=5, help="of a turn (5)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant (7)")
    with joined() as ranks:
        measure(parser.parse_args(arguments), ranks)
    return 0


if __name__ == "__main__":
    sys.exit(run_command("bench.shards", main))
