"""Draws a figure as PNG, and writes its points as CSV.

The lines are told apart without colour: each label has a dash, a marker and a grey of its own, the
same in every panel. The legend stands below the panels, so that it covers no point.

Read next: bench/paper/page/grid.py, where rows become tables.
"""

import csv
import io
from pathlib import Path

from bench.paper.page.figure import Figure
from engine.errors import InputError

DPI = 110
COLOURS_KEPT = 96
WIDTHS = {1: 7.6, 2: 10.6, 3: 12.4}  # inches by columns of panels: at most 1364 pixels
PANEL_HEIGHT, LEGEND_LINE = 3.5, 0.24  # inches
DASHES = ("-", "--", "-.", ":", (0, (7, 2, 1, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*")
# Okabe and Ito's colours for all kinds of sight (2008), ordered so that neighbours differ in grey.
COLOURS = ("#000000", "#d55e00", "#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#b07a00", "#767676")
MARKS = 9  # on a line, however many points it has


def draw(figure: Figure, folder: str | Path) -> tuple[Path, Path]:
    """Write NAME.csv and NAME.png into `folder` -> their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table, picture = (folder / f"{figure.name}.{kind}" for kind in ("csv", "png"))
    write_points(figure, table)
    save(paint(figure), picture)
    return table, picture


def save(canvas, path: Path, dpi: int = DPI) -> None:
    """With a palette instead of true colours: a quarter of the bytes, and lines need few."""
    from PIL import Image

    memory = io.BytesIO()
    canvas.savefig(memory, dpi=dpi)
    whole = Image.open(memory).convert("RGB")
    whole.quantize(COLOURS_KEPT, dither=Image.Dither.NONE).save(path, optimize=True)


def write_points(figure: Figure, path: Path) -> None:
    """A line a point: panel, series, x, y; the axes' labels head their columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["panel", "series", figure.x_label, figure.y_label])
        lines.writerows(
            [series.panel, series.label, x, y]
            for series in figure.series
            for x, y in zip(series.x, series.y, strict=True)
        )


def columns(panels: int) -> int:
    """Panels side by side: four stand two by two."""
    return panels if panels < 4 else 2 if panels == 4 else 3


def style(number: int, points: int) -> dict:
    """How the line with that number looks, of which 40 differ; a lone point is drawn larger."""
    return {
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
        "color": COLOURS[number % len(COLOURS)],
        "linewidth": 1.6,
        "markersize": 5 if points > 1 else 8,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }


def paint(figure: Figure):
    """The picture, as matplotlib's figure; no window, no global state."""
    try:
        from matplotlib.figure import Figure as Canvas
        from matplotlib.patches import Patch
    except ImportError:
        raise InputError(
            f"{figure.name}: a picture needs matplotlib, which is not installed; "
            "pip install -e '.[bench]'"
        ) from None

    across = columns(len(figure.panels))
    down = -(-len(figure.panels) // across)
    labels = list(dict.fromkeys(series.label for series in figure.series))
    entries = labels + ([figure.band[2]] if figure.band else [])
    lines = legend_lines(entries, WIDTHS[across])
    canvas = Canvas(
        figsize=(WIDTHS[across], PANEL_HEIGHT * down + 0.6 + LEGEND_LINE * lines),
        layout="constrained",
    )
    grid = canvas.subplots(down, across, squeeze=False).flatten()
    for axes in grid[len(figure.panels) :]:
        axes.set_axis_off()
    handles: dict[str, object] = {}
    for axes, panel in zip(grid, figure.panels, strict=False):
        frame(axes, figure, panel)
        for series in (s for s in figure.series if s.panel == panel and s.x):
            number = labels.index(series.label)
            (handles[series.label],) = axes.plot(
                series.x,
                series.y,
                label=plain(series.label),
                markevery=marked(len(series.x), number),
                **style(number, len(series.x)),
            )
        if figure.y_top is not None:
            axes.set_ylim(top=figure.y_top)
    if figure.band:
        handles[figure.band[2]] = Patch(
            facecolor="0.88", edgecolor="0.55", label=plain(figure.band[2])
        )
    canvas.suptitle(plain(figure.title), fontsize=13)
    canvas.legend(
        handles=list(handles.values()),
        loc="outside lower center",
        frameon=False,
        ncols=-(-len(entries) // lines),
        handlelength=4,
    )
    return canvas


def plain(text: str) -> str:
    """Text that matplotlib shall not read as a formula."""
    return text.replace("$", r"\$")


def legend_lines(entries: list[str], width: float) -> int:
    """Lines of a legend that fits `width` inches: a letter takes about 0.085."""
    longest = max(len(entry) for entry in entries) * 0.085 + 0.9
    return -(-len(entries) // max(1, int(width / longest)))


def marked(points: int, number: int) -> tuple[int, int] | None:
    """Which points bear a marker: all of a few, else every so many, each line beginning elsewhere
    so that lines that coincide are still told apart."""
    every = points // MARKS
    return None if every < 2 else (number * every // len(MARKERS) % every, every)


def frame(axes, figure: Figure, panel: str) -> None:
    """Scales, labels, grid and band of a panel."""
    from matplotlib.ticker import MaxNLocator

    if figure.log_x:
        axes.set_xscale("log")
    elif all(float(x).is_integer() for series in figure.series for x in series.x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len({x for series in figure.series for x in series.x}) == 1:  # points over one place
            x = figure.series[0].x[0]
            axes.set_xlim(x - 1, x + 1)
    if figure.log_y:
        axes.set_yscale("log")
    if figure.band:
        low, high, _ = figure.band
        axes.axhspan(low, high, facecolor="0.88", edgecolor="0.55", linewidth=0.8, zorder=0)
    axes.set(title=plain(panel), xlabel=plain(figure.x_label), ylabel=plain(figure.y_label))
    axes.grid(color="0.8", linewidth=0.6)
    axes.set_axisbelow(True)
