"""The variances of a report as bars, by matplotlib.

Read next: engine/plot/figures.py, which has them among the pictures of a run.
"""

from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError


def bars(axes, variances: dict[str, tuple[float, float]], target: float = 1.0) -> None:
    """{layer: variance before and after} on a logarithmic axis."""
    names = [literal(name[:40]) for name in variances]
    places, both = np.arange(len(names)), np.array(list(variances.values()))
    both[~(both > 0)] = np.nan
    for k, (label, shade) in enumerate((("before", "#b8b8b8"), ("after", "#1f77b4"))):
        axes.barh(places + 0.4 * k - 0.2, both[:, k], 0.4, color=shade, label=label)
    axes.set_xscale("log")
    known = both[np.isfinite(both)]
    if len(known):
        # Two decades at least: of fewer matplotlib names so many ticks that their names overlap.
        axes.set_xlim(min(known.min() / 2, 0.1), max(known.max() * 2, 10))
    axes.axvline(target, color="black", linewidth=0.8)
    axes.set_yticks(places, names, fontsize=8 if len(names) <= 25 else 6.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, fontsize=8)
    axes.set_xlabel("variance of the output")


def height(layers: int) -> float:
    """In inches, of the bars of so many."""
    return min(max(1.2 + (0.22 if layers <= 25 else 0.15) * layers, 2.5), 40)


def figure(report, path: str | Path | None = None) -> Any:
    """Of a Report's measured layers, each piece by itself -> matplotlib's Figure."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            f"a plot needs matplotlib, which can't be imported ({error}); "
            "pip install 'lsuv-engine[plot]'"
        ) from None
    variances = {
        f"{row.layer}[{row.piece}]" if row.pieces > 1 else row.layer: (
            row.variance_before,
            row.variance_after,
        )
        for row in report.rows
        if np.isfinite(row.variance_before)
    }
    if not variances:
        raise InputError("a report without a measured layer has nothing to draw")
    drawn = Figure(figsize=(6, height(len(variances))), layout="constrained")
    bars(drawn.subplots(), variances, report.settings.get("target", 1.0))
    if path is not None:
        drawn.savefig(path, dpi=100)
    return drawn


def literal(text: str) -> str:
    """`text` without matplotlib's own signs."""
    return text.replace("$", r"\$")
