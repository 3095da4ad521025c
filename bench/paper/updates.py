"""Figure 1: how large the weight updates are, for orthonormal weights times a gain, and for LSUV.

The paper finds that updates of 0.1 % to 1 % of the weights lead to convergence, larger ones to
divergence, and that the best gain for ReLU is about 1.4. Here each gain takes the first STEPS steps
of the paper's recipe; the best is the one whose loss is then the lowest.

Read next: bench/paper/steps.py, which takes the steps.
"""

import math
import statistics

from bench.paper.figure import Figure, Series
from bench.paper.rows import NO_VALUE, OFF, OK, Row
from bench.paper.statistics import fitnet4
from bench.paper.steps import walk
from bench.paper.study import Cell, Progress, Study
from bench.paper.training import multiply_adds
from bench.paper_tables import ACTS, NC
from engine.optimizers import optimizer_of
from lsuv import fill, initialise
from models.recipes import recipe

STEPS = 100
GAINS = (0.5, 0.7, 1.0, 1.2, 1.4, 1.7, 2.0)
BAND = (1e-3, 1e-2, "0.1 % to 1 %")
OPTIMUM, NEAR = 1.4, 1.25           # the paper's for ReLU, and the factor that ours may be off by
COLUMNS = ("ReLU", "VLReLU", "tanh", "maxout")


def key_of(column: str, gain: float | None) -> str:
    return f"figure1-{column}-{'LSUV' if gain is None else f'{gain:g}'}-{STEPS}steps"


def figure1(study: Study) -> list[Cell]:
    """Relative size of the updates for orthonormal weights times a gain, and for LSUV."""
    return [scaled(study, column, gain) for column in COLUMNS for gain in (*GAINS, None)]


def scaled(study: Study, column: str, gain: float | None) -> Cell:
    act, row = ACTS[column], "LSUV" if gain is None else f"gain {gain:g}"
    settings = recipe("fitnet4", act, "ortho")
    more = {"settings": f"FitNet-4, {act}, orthonormal weights, CIFAR-10, paper recipe, the first "
            f"{STEPS} steps of seed 0, fp32; median ratio"}

    def measure(progress: Progress) -> list[Row]:
        net, feed = fitnet4(study, act, 0)
        if gain is None:
            initialise(net, "lsuv", feed.first_batches(), 0, act)
        else:
            fill(net, "ortho", 0, act, gain=gain)
        losses, ratios = walk(net, feed, optimizer_of(net, settings), settings.policy, STEPS)
        study.keep_series(key_of(column, gain), {"loss": losses, "ratio": ratios})
        if len(losses) < STEPS:
            note, ours = f"the loss is not finite after {len(losses)} steps", NC
        else:
            end = statistics.fmean(losses[-10:])
            note, ours = f"loss {losses[0]:.2f}, at the end {end:.2f}", statistics.median(ratios)
        return [study.row("figure1", row, column, None, "|dW|/|W|", ours=ours, verdict=NO_VALUE,
                          note=note, **more)]

    return Cell(key_of(column, gain), f"figure1 {row}, {column}", multiply_adds("fitnet4", act),
                measure, [study.row("figure1", row, column, None, "|dW|/|W|", **more)])


def loss_reached(found: dict) -> float:
    """Mean loss of the last ten steps; infinite where the run broke off."""
    return statistics.fmean(found["loss"][-10:]) if len(found["loss"]) == STEPS else math.inf


def draw(study: Study, rows: list[Row]) -> Figure | None:
    """The curves; and a row an activation, the gain whose loss is the lowest at the end."""
    series, best = [], {}
    for column in COLUMNS:
        for gain in (*GAINS, None):
            found = study.series(key_of(column, gain))
            if found is None:
                continue
            name = "LSUV" if gain is None else f"gain {gain:g}"
            series.append(Series(name, list(range(1, len(found["ratio"]) + 1)), found["ratio"],
                                 column))
            if gain is not None:
                best.setdefault(column, {})[gain] = loss_reached(found)
    for column, losses in best.items():
        if len(losses) == len(GAINS):
            gain = min(losses, key=losses.get)
            judged = column == "ReLU"
            near = 1 / NEAR <= gain / OPTIMUM <= NEAR
            rows.append(study.row(
                "figure1", "best gain", column, OPTIMUM if judged else None, "gain", ours=gain,
                verdict=NO_VALUE if not judged else OK if near else OFF,
                settings=f"the gain with the lowest mean loss in steps {STEPS - 9} to {STEPS}",
                note=f"loss {losses[gain]:.2f}"))
    if not series:
        return None
    return Figure("figure1", "Relative size of the weight updates", "iteration",
                  "mean |dW| / mean |W|", series, log_y=True, band=BAND,
                  caption="FitNet-4 on CIFAR-10, SGD as in the paper's recipe; orthonormal weights "
                  "times a gain, and LSUV. The band is where the paper finds convergence.")
