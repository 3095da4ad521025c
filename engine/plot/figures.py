"""What runs look like, by matplotlib: each picture by itself as SVG, and all of them in one PNG.

Read next: tests/engine/test_plot.py.
"""

import math
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

from engine.errors import InputError
from lsuv import picture

LONGEST = 14  # letters of a class's name in a picture
CELLS = 12  # classes up to which a confusion table has its numbers in it
NAMED = 40  # and up to which its classes have names
WIDE = 20  # a largest value over the smallest, from which on an axis is logarithmic


class Worst(NamedTuple):
    """A test image (H, W, C) uint8, its class, the net's answer and the probability of that."""

    image: np.ndarray
    label: str
    answer: str
    chance: float


@dataclass
class Shown:
    """A run as it is shown. rows: of metrics.csv. variances: layer to before and after. confusion:
    (classes, classes) counts, row = true class, or None. notes: what is missing, and why."""

    name: str
    title: str
    rows: list[dict]
    state: str = ""
    variances: dict[str, tuple[float, float]] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    confusion: np.ndarray | None = None
    worst: list[Worst] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def need_matplotlib() -> None:
    """InputError with the remedy where it can't be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"engine.plot needs matplotlib, which can't be imported ({error}); "
            "pip install 'matplotlib>=3.8'"
        ) from None


def colour(number: int) -> str:
    """Of the run with that number, as CSS and matplotlib write it."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["tab10"](number))


def short(name: str) -> str:
    """A class's name that fits."""
    return picture.literal(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…")


def curves(axes, runs: list[Shown], what: str) -> None:
    """A column of metrics.csv, or loss and accuracy of training, dashed, and of the test or
    validation images."""
    values = []
    for number, run in enumerate(runs):
        for kind, dashes in (("", "-"), ("train_", "--"), ("test_", "-"), ("validation_", "-")):
            column = kind + what
            if not run.rows or column not in run.rows[0]:
                continue
            y = [row[column] for row in run.rows]
            axes.plot(
                [row["epoch"] for row in run.rows],
                y,
                dashes,
                color=colour(number),
                linewidth=1.4,
                marker="o" if len(y) < 20 else "",
                markersize=3.5,
                markerfacecolor="white" if dashes == "--" else None,
            )
            values += [value for value in y if math.isfinite(value) and value > 0]
    if what != "accuracy" and values and max(values) > WIDE * min(values):
        axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_xlim(left=0)  # or one epoch alone would have fractions of it beside it
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    if not any(run.rows for run in runs):
        axes.text(0.5, 0.5, "no epoch is over", ha="center", transform=axes.transAxes)


CURVES: dict[str, Callable] = {
    "loss (dashed: training)": lambda axes, runs: curves(axes, runs, "loss"),
    "accuracy (dashed: training)": lambda axes, runs: curves(axes, runs, "accuracy"),
    "learning rate": lambda axes, runs: curves(axes, runs, "lr"),
    "images/s in training": lambda axes, runs: curves(axes, runs, "images_per_second"),
}


def bars(axes, run: Shown) -> None:
    """The variance of every layer's output, before and after, on a logarithmic axis."""
    picture.bars(axes, run.variances)


def table(axes, run: Shown) -> None:
    """The confusion table: each row's shares as a shade, its counts in the cells of a small one."""
    assert run.confusion is not None
    totals, names = run.confusion.sum(axis=1, keepdims=True), list(map(short, run.classes))
    shares = run.confusion / np.maximum(totals, 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(names)) if len(names) <= NAMED else []
    size = 8 if len(names) <= 20 else 5
    axes.set_xticks(places, names if places else [], rotation=90, fontsize=size)
    axes.set_yticks(places, names if places else [], fontsize=size)
    axes.set_xlabel("the net's answer")
    axes.set_ylabel("class")
    for (i, j), count in np.ndenumerate(run.confusion if len(names) <= CELLS else np.empty((0, 0))):
        shade = "white" if shares[i, j] > 0.5 else "black"
        axes.text(j, i, f"{count}", ha="center", va="center", fontsize=6.5, color=shade)


def of_run(run: Shown) -> dict[str, tuple[Callable, float]]:
    """Title to drawing(axes, run) and height in inches, of what there is of one run."""
    found: dict[str, tuple[Callable, float]] = {}
    if run.variances:
        found["the initialiser, layer by layer"] = (bars, picture.height(len(run.variances)))
    if run.confusion is not None:
        found["confusion of the test images"] = (table, 4.0)
    return found


def canvas(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def saved(figure, form: str) -> bytes:
    """The figure's file. A name in letters that matplotlib's font lacks is no reason to warn."""
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.savefig(file, format=form, dpi=100)
    return file.getvalue()


def svg(draw: Callable, what, height: float = 2.8) -> bytes:
    """draw(axes, what) by itself, 3.8 inches wide: readable on a telephone."""
    figure = canvas(3.8, height)
    draw(figure.subplots(), what)
    return saved(figure, "svg")


def png(runs: list[Shown]) -> bytes:
    """All in one: the curves in a line, and a line for every run."""
    from matplotlib.lines import Line2D

    heights = [4.0] + [max([4.8, *(h for _, h in of_run(run).values())]) for run in runs]
    whole = canvas(16, sum(heights))
    top, *others = np.atleast_1d(whole.subfigures(len(heights), 1, height_ratios=heights))
    for axes, (title, draw) in zip(top.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        draw(axes, runs)
        axes.set_title(title, fontsize=10)
    names = [short_run(run) for run in runs]
    handles = [Line2D([], [], color=colour(k), label=name) for k, name in enumerate(names)]
    longest = max(map(len, names))
    top.legend(
        handles=handles,
        loc="outside upper center",
        ncols=max(1, 170 // (longest + 8)),
        frameon=False,
    )
    for number, (run, part) in enumerate(zip(runs, others, strict=True)):
        line = f"{names[number]}: {picture.literal(run.title)}; {run.state}"
        part.suptitle(line[:180], fontsize=11, color=colour(number))
        left, right = part.subfigures(1, 2, width_ratios=(10, 6))
        for axes in (places := left.subplots(1, 2)):
            axes.set_axis_off()
        for axes, (title, (draw, _)) in zip(places, of_run(run).items(), strict=False):
            axes.set_axis_on()
            draw(axes, run)
            axes.set_title(title, fontsize=10, pad=22 if draw is bars else None)
        gallery(right, run)
    return saved(whole, "png")


def short_run(run: Shown) -> str:
    """Its name, or the end of it."""
    return picture.literal(run.name if len(run.name) <= 60 else f"…{run.name[-59:]}")


def gallery(figure, run: Shown) -> None:
    """The worst test images, five in a row; or what is missing."""
    if not run.worst:
        text = "\n".join(run.notes) or "no test image is answered wrongly"
        notes = map(picture.literal, text.split("\n"))
        lines = [line for note in notes for line in textwrap.wrap(note, 80)]
        figure.text(0.02, 0.5, "\n".join(lines), va="center", fontsize=9)
        return
    figure.suptitle("the worst: class, answer and its probability", fontsize=10)
    for axes in (grid := figure.subplots(5, 5).flatten()):
        axes.set_axis_off()
    for axes, one in zip(grid, run.worst, strict=False):
        axes.imshow(one.image.squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{short(one.label)}\n{short(one.answer)} {one.chance:.2f}", fontsize=7)
