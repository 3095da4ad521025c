"""Figures 2 and 3: test accuracy by epoch, and by training time with batch normalisation.

The curves are those of the runs that the tables train, an epoch a point. Time is the epochs times
the seconds that an epoch of that net takes on the machine alone: what the runs themselves took says
nothing where they shared the machine.

Read next: bench/paper/figure4_5.py.
"""

import statistics
import time

from bench.common.contest import Entry
from bench.common.ours import Step
from bench.paper.page.figure import Figure, Series
from bench.paper.printed import ACTS, INITS, TABLE_3
from bench.paper.rows import Row, within
from bench.paper.study import Cell, Progress, Study
from bench.paper.table6 import threads_of
from bench.paper.training import Run, cell, folder_of, multiply_adds, outcome, plan
from models.recipes import recipe

ACT_3 = "relu"  # the cheapest of the paper's
RUNS_3 = {
    "LSUV": Run("fitnet4", ACT_3, "lsuv"),
    "BN before": Run("fitnet4-bn-before", ACT_3, "xavier"),
    "BN after": Run("fitnet4-bn-after", ACT_3, "xavier"),
    "BN-half before": Run("fitnet4-bn-before", ACT_3, "xavier", share=0.5),
    "BN-half after": Run("fitnet4-bn-after", ACT_3, "xavier", share=0.5),
}
OVERHEAD, AROUND = 30.0, 1.5  # % of an iteration, as the paper says; factor
ROUNDS, STEPS = 5, 3  # of a timed step: rounds over the nets, steps in a turn


HIGHWAY, HIGHWAY_PANEL = Run("highway-19", "relu", "original"), "ReLU"


def figure2(study: Study) -> list[Cell]:
    """The runs of Table 3, whose curves are drawn, and the Highway network's."""
    return [
        cell(study, "figure2", init, act, None, Run("fitnet4", ACTS[act], INITS[init]))
        for act in ACTS
        for init in TABLE_3
        if act in TABLE_3[init]
    ] + [cell(study, "figure2", "Highway-19", HIGHWAY_PANEL, None, HIGHWAY)]


def curve(study: Study, run: Run, label: str, panel: str, seconds: float | None = None):
    """Test accuracy of a run's first seed by epoch, or by minutes at `seconds` an epoch."""
    there = outcome(folder_of(study, plan(study, run), 0))
    if there is None or not there.rows:
        return None
    x = [float(row["epoch"]) for row in there.rows]
    x[-1] = min(x[-1], float(there.epochs))
    if seconds is not None:
        x = [epoch * seconds / 60 for epoch in x]
    return Series(label, x, [100 * row["test_accuracy"] for row in there.rows], panel)


def draw2(study: Study) -> Figure | None:
    series = [
        curve(study, Run("fitnet4", ACTS[act], INITS[init]), init, act)
        for act in ACTS
        for init in TABLE_3
        if act in TABLE_3[init]
    ] + [curve(study, HIGHWAY, "Highway-19", HIGHWAY_PANEL)]
    return accuracy_figure(
        "figure2",
        "FitNet-4: accuracy by activation and initialiser",
        "epoch",
        series,
        f"CIFAR-10, {study.recipe} recipe; a point is the test accuracy after an epoch, of seed 0.",
    )


def figure3(study: Study) -> list[Cell]:
    """LSUV and batch normalisation, whole and with half the iterations in each step of the rate;
    and what the normalisation adds to an iteration."""
    return [
        overhead(study),
        *(cell(study, "figure3", row, "accuracy", None, run) for row, run in RUNS_3.items()),
    ]


def overhead_key(study: Study) -> str:
    return f"figure3-overhead-{plan(study, RUNS_3['LSUV']).precision}-{threads_of(study)}"


def overhead(study: Study) -> Cell:
    """The seconds that batch normalisation adds to a training step, in % of one without."""
    columns = {"BN before": "fitnet4-bn-before", "BN after": "fitnet4-bn-after"}
    precision, key = plan(study, RUNS_3["LSUV"]).precision, overhead_key(study)
    more = {"settings": f"FitNet-4, {ACT_3}, batch 128, {precision}: median step, the nets in turn"}

    def measure(progress: Progress) -> list[Row]:
        seconds = seconds_per_epoch(study, ("fitnet4", *columns.values()), ACT_3, precision)
        study.keep_series(f"{key}-seconds", seconds)
        rows = []
        for column, net in columns.items():
            ours = 100 * (seconds[net] / seconds["fitnet4"] - 1)
            rows.append(
                study.row(
                    "figure3",
                    "overhead",
                    column,
                    OVERHEAD,
                    "% of a step",
                    ours=ours,
                    verdict=within(ours, OVERHEAD, AROUND),
                    note=f"{seconds[net]:.1f} s an epoch, {seconds['fitnet4']:.1f} without",
                    **more,
                )
            )
        return rows

    return Cell(
        key,
        "figure3 overhead of batch normalisation",
        0.02 * multiply_adds("fitnet4", ACT_3),
        measure,
        [
            study.row("figure3", "overhead", column, OVERHEAD, "% of a step", **more)
            for column in columns
        ],
    )


def seconds_per_epoch(
    study: Study, nets: tuple[str, ...], act: str, precision: str
) -> dict[str, float]:
    """{net: seconds of an epoch of CIFAR-10 at the median training step}, the nets in turn."""
    data, batch = study.dataset("cifar10"), recipe(nets[0], act, "lsuv").batch
    steps = {
        name: Step(
            study.ops,
            Entry(name, act, batch, precision, 1, study.ops.name, "cifar10", "paper"),
            data,
        )
        for name in nets
    }
    times: dict[str, list[float]] = {name: [] for name in nets}
    for step in steps.values():
        step.start((ROUNDS + 1) * STEPS)
    for number in range(ROUNDS + 1):
        for name, step in steps.items():
            for _ in range(STEPS):
                start = time.perf_counter()
                step()
                study.ops.synchronize()
                if number:  # the first round warms up
                    times[name].append(time.perf_counter() - start)
    return {
        name: len(data.train) / batch * statistics.median(seconds)
        for name, seconds in times.items()
    }


def draw3(study: Study) -> Figure | None:
    seconds = study.series(f"{overhead_key(study)}-seconds")
    if seconds is None:
        return None
    series = [curve(study, run, row, "", seconds[run.net]) for row, run in RUNS_3.items()]
    return accuracy_figure(
        "figure3",
        "FitNet-4: accuracy by training time",
        "minutes of training",
        series,
        f"CIFAR-10, {ACT_3}, {study.recipe} recipe. Minutes are epochs "
        "times the seconds an epoch of that net takes on the machine alone, "
        "evaluation left out.",
    )


def accuracy_figure(name: str, title: str, x_label: str, series, caption: str) -> Figure | None:
    found = [s for s in series if s is not None]
    if not found:
        return None
    return Figure(name, title, x_label, "test accuracy, %", found, caption=caption)
