"""What n ranks would take for a step, computed from a measured one: nothing here is timed.

    python -m bench.scale fitnet4=SECONDS caffenet=SECONDS     # of a step on one rank

A batch in n shards (engine/run/shards.py) takes t/n, exchanges 2 (n-1)/n G bytes a rank, half as
all-to-all and half as all-gather, and waits for n-1 messages in the first and log2 n in the second:
T(n) = t/n + 2 (n-1)/n G/b + (n - 1 + log2 n) l. These are the costs of Thakur, Rabenseifner and
Gropp, "Optimization of Collective Communication Operations in MPICH", 2005. More ranks stop paying
where they save less than their messages cost: dT/dn = 0, about n = sqrt(t/l), or where there are no
more images. Nothing overlaps.

Read next: bench/README.md.
"""

import math
import sys

import models
from engine.cli.command import Parser, run_command
from engine.cli.messages import print_line
from engine.errors import InputError, choose
from engine.losses import SoftmaxLoss
from engine.net import Net
from kernels import ops_for
from models.recipes import recipe

# Bytes/s a rank and direction, seconds a message: stated, as their makers and users have them.
LINKS = {"10 GbE": (1.25e9, 30e-6), "100 GbE": (12.5e9, 5e-6), "NVLink": (450e9, 5e-6)}
RANKS = (1, 8, 64, 1000)


def seconds(step: float, gradient: float, ranks: int, bandwidth: float, latency: float) -> float:
    """T(n) of the docstring; gradient in bytes."""
    volume = 2 * (ranks - 1) / ranks * gradient
    return step / ranks + volume / bandwidth + (ranks - 1 + math.log2(ranks)) * latency


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="bench.scale", description=__doc__.split("\n\nRead")[0])
    parser.add_argument("steps", nargs="+", metavar="NET=SECONDS", help="measured by bench.step")
    steps: dict[str, float] = {}
    for text in parser.parse_args(argv).steps:
        name, _, number = text.partition("=")
        choose("net", name, models.NETS)
        try:
            step = steps[name] = float(number)
        except ValueError:
            step = math.nan
        if not 0 < step < math.inf:
            raise InputError(f"{text}: seconds of a step above 0, such as {name}=0.5")
    print_line("| net | link | " + " | ".join(f"{n}" for n in RANKS) + " | best n |")
    print_line("|---|---|" + "---:|" * (len(RANKS) + 1))
    for name, step in steps.items():
        model = models.NETS[name]
        layers = models.build(name, model.act, model.classes or 1000)
        net = Net(layers, SoftmaxLoss(), ops_for("numpy"), model.in_shape, batch=1)
        batch = recipe(name, model.act, "lsuv").batch
        for link, (bandwidth, latency) in LINKS.items():
            row = []
            for n in RANKS:
                ms = 1000 * seconds(step, 4 * net.parameters, n, bandwidth, latency)
                row.append(f"{ms:.3g} ms" + (" \\*" if n > batch else ""))
            row.append(f"{min(math.sqrt(step / latency), batch):.0f}")
            print_line(f"| {name}, batch {batch} | {link} | {' | '.join(row)} |")
    print_line("\\* more ranks than the batch has images: only of a larger batch")
    return 0


if __name__ == "__main__":
    sys.exit(run_command("bench.scale", main))
