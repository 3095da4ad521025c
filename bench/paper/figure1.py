"""Figure 1: how large the weight updates are, for orthonormal weights times a gain, and for LSUV.

The paper finds that updates of 0.1 % to 1 % of the weights lead to convergence, larger ones to
divergence, smaller ones nowhere, and that the best gain for ReLU is about 1.4. Here each gain takes
the first STEPS steps of the paper's recipe. A cell is the median ratio of the first FIRST updates:
what the initialisation itself decides, before the weights have moved. The gain nearest to the
middle of the band is judged for ReLU.

Read next: bench/paper/figure2_3.py.
"""

import math
import statistics
from functools import partial

import numpy as np

from bench.paper.page.figure import Figure, Series
from bench.paper.printed import ACTS, NC
from bench.paper.rows import NO_VALUE, Row, within
from bench.paper.study import Cell, Progress, Study
from bench.paper.table8_to_10 import fitnet4
from bench.paper.training import multiply_adds
from engine.data.feed import read_clock
from engine.optimizers import optimizer_of
from engine.schedules import rates
from engine.train import one_step
from kernels.clock import FINITE, LOSS
from lsuv import fill, initialise
from models.recipes import recipe

STEPS, FIRST = 100, 10
GAINS = (0.5, 0.7, 1.0, 1.2, 1.4, 1.7, 2.0)
BAND = (1e-3, 1e-2, "0.1 % to 1 %")
OPTIMUM, NEAR = 1.4, 1.25  # the paper's for ReLU, and the factor that ours may be off by
COLUMNS = ("ReLU", "VLReLU", "tanh", "maxout")
UNIT = "|dW|/|W|"


def key_of(column: str, gain: float | None) -> str:
    return f"figure1-{column}-{name_of(gain)}-{STEPS}steps".replace(" ", "-")


def name_of(gain: float | None) -> str:
    return "LSUV" if gain is None else f"gain {gain:g}"


def figure1(study: Study) -> list[Cell]:
    """Relative size of the updates for orthonormal weights times a gain, and for LSUV."""
    return [
        *(scaled(study, column, gain) for column in COLUMNS for gain in (*GAINS, None)),
        *(nearest(study, column) for column in COLUMNS),
    ]


def scaled(study: Study, column: str, gain: float | None) -> Cell:
    act, key = ACTS[column], key_of(column, gain)
    row = partial(
        study.row,
        "figure1",
        name_of(gain),
        column,
        None,
        UNIT,
        settings=f"FitNet-4, {act}, orthonormal weights, CIFAR-10, paper recipe, fp32, "
        f"seed 0: median of the first {FIRST} updates",
    )

    def measure(progress: Progress) -> list[Row]:
        found = study.series(key)
        if found is None and study.left <= 0:
            return [row()]
        if found is None:
            found = walked(study, act, gain)
            if found is None:
                return [row()]
            study.keep_series(key, found)
        losses, ratio = found["loss"], first(found)
        if len(losses) < STEPS:
            end = f"the loss is not finite after {len(losses)} steps"
        else:
            last = statistics.fmean(losses[-10:])
            end = f"loss {losses[0]:.2f}, after {STEPS} steps {last:.2f}"
        return [
            row(
                ours=ratio if math.isfinite(ratio) else NC,
                verdict=NO_VALUE,
                note=end,
                date=found["date"],
                machine=found["machine"],
            )
        ]

    return Cell(
        None, f"figure1 {name_of(gain)}, {column}", multiply_adds("fitnet4", act), measure, [row()]
    )


def walked(study: Study, act: str, gain: float | None) -> dict | None:
    """Losses and ratios of every step of a run; None where the budget ended it."""
    net, feed = fitnet4(study, act, 0)
    if gain is None:
        initialise(net, "lsuv", feed.first_batches(), 0, act)
    else:
        fill(net, "ortho", 0, act, gain=gain)
    settings = recipe("fitnet4", act, "ortho")
    losses, ratios = walk(
        net,
        feed,
        optimizer_of(net, settings),
        settings.policy,
        STEPS,
        until=lambda done: study.left > 0,
    )
    if study.left <= 0:
        return None
    return {"loss": losses, "ratio": ratios, "date": study.today, "machine": study.machine}


def walk(
    net, feed, optimizer, policy: dict, steps: int, look: bool = True, until=lambda done: True
) -> tuple[list[float], list[float]]:
    """Train `steps` steps -> (losses, ratios), a number a step; fewer where the loss stops being
    finite.

    A ratio is mean |dW| / mean |W| of the step's update over all weights, biases left out: the
    quantity of the paper's Figure 1. Without `look` there are none. until(steps done) is asked
    before every step; False ends the walk."""
    table = rates(policy, 0, steps + 1)
    device_table = feed.start(read_clock(net), 0, steps, table)
    losses, ratios = [], []
    before = weights_of(net) if look else None
    for step in range(steps):
        if not until(step):
            break
        one_step(net, feed, optimizer, device_table)
        clock = read_clock(net)
        if not clock[FINITE]:
            break
        losses.append(float(clock[LOSS]))
        if not look:
            continue
        after = weights_of(net)
        ratios.append(
            float(
                np.abs(after - before).mean(dtype=np.float64)
                / np.abs(before).mean(dtype=np.float64)
            )
        )
        before = after
    return losses, ratios


def weights_of(net) -> np.ndarray:
    """A copy of all weights, without biases."""
    arena = net.ops.tohost(net.weights)
    return np.concatenate(
        [
            net.arenas.view(arena, name).reshape(-1)
            for name in net.named_params()
            if name.endswith(".W")
        ]
    )


def first(found: dict) -> float:
    """The median ratio of the first updates; infinite where there was none."""
    return statistics.median(found["ratio"][:FIRST]) if found["ratio"] else math.inf


def nearest(study: Study, column: str) -> Cell:
    """The gain whose first updates are nearest to the middle of the band, on a log scale."""
    judged = column == "ReLU"
    row = partial(
        study.row,
        "figure1",
        "gain nearest the band",
        column,
        OPTIMUM if judged else None,
        "gain",
        settings=f"the gain whose median ratio of the first {FIRST} updates is nearest "
        "to the middle of the band, on a log scale",
    )

    def measure(progress: Progress) -> list[Row]:
        found = {gain: study.series(key_of(column, gain)) for gain in GAINS}
        if not all(found.values()):
            return [row()]
        middle = math.sqrt(BAND[0] * BAND[1])
        gain = min(GAINS, key=lambda g: abs(math.log(first(found[g]) / middle)))
        return [
            row(
                ours=gain,
                verdict=within(gain, OPTIMUM, NEAR) if judged else NO_VALUE,
                note=f"ratio {first(found[gain]):.2g}",
                date=found[gain]["date"],
                machine=found[gain]["machine"],
            )
        ]

    return Cell(None, f"figure1 gain nearest the band, {column}", 0, measure, [row()])


def draw(study: Study) -> Figure | None:
    """The ratios of every step, a panel an activation."""
    series = []
    for column in COLUMNS:
        for gain in (*GAINS, None):
            found = study.series(key_of(column, gain))
            if found is not None:
                series.append(
                    Series(
                        name_of(gain),
                        list(range(1, len(found["ratio"]) + 1)),
                        found["ratio"],
                        column,
                    )
                )
    if not series:
        return None
    return Figure(
        "figure1",
        "Relative size of the weight updates",
        "iteration",
        "mean |dW| / mean |W|",
        series,
        log_y=True,
        band=BAND,
        y_top=1.0,
        caption="FitNet-4 on CIFAR-10, SGD as in the paper's recipe; orthonormal weights "
        "times a gain, and LSUV. The band is where the paper finds convergence. Lines "
        "that leave at the top are runs that diverge.",
    )
