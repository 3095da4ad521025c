"""The report: what an initialiser did to each layer, as a table, as JSON and as a picture.

One row a layer and maxout piece, since each piece is a matrix of its own; the table shows a layer's
mean over its pieces. "Variance" is that of the quantity that the algorithm brings to one: the
layer's own output z, or, with normalise="input", the input of the next layer.

Read next: lsuv/__main__.py, which prints it, and picture.py, which draws it.
"""

import math
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from engine.run.files import plain


@dataclass
class Row:
    """One maxout piece of one layer (piece 0 where there are no others)."""

    layer: str
    piece: int
    pieces: int
    fan_in: int  # inputs of one output: height * width * channels of the kernel
    outputs: int  # of this piece
    weight_std_before: float
    weight_std_after: float
    mean: float  # of the output at the last measurement
    variance_before: float  # at the first measurement
    variance_after: float  # at the last
    scale: float  # what the weights were multiplied by, in all
    iterations: int  # how often they were
    orthogonality_error: float  # see `orthogonality_error`
    chosen: bool  # whether it was to be scaled; False: only measured
    kind: str = ""  # the layer's class, in a model of another framework; so are the next two
    calls: int = 1  # in one pass
    why: str = ""  # what became of it: scaled, or why not


@dataclass
class Report:
    """Rows in forward order. settings: what was asked for, with images = those in a measurement.

    forwards: passes through the net, whole or up to a layer. notes: lines for the user. covered:
    the share of a foreign model's parameters that is in scaled layers.
    """

    settings: dict
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    forwards: int = 0
    seconds: float = 0.0
    covered: float | None = None

    def layers(self) -> dict[str, list[Row]]:
        """{layer name: the rows of its pieces}, in forward order."""
        layers: dict[str, list[Row]] = {}
        for row in self.rows:
            layers.setdefault(row.layer, []).append(row)
        return layers

    def weight_std(self) -> dict[str, float]:
        """{layer name: deviation of its final weights, mean over pieces}, as in Table 9."""
        return {name: _mean(rows, "weight_std_after") for name, rows in self.layers().items()}

    @property
    def largest_deviation(self) -> float | None:
        """The largest |variance - 1| that is left in what was to be scaled; None if nothing was.
        Where another variance than 1 was asked for, in units of it."""
        target = self.settings.get("target", 1.0)
        rows = [row.variance_after for row in self.rows if row.chosen]
        return max((abs(variance / target - 1) for variance in rows), default=None)

    @property
    def skipped(self) -> dict[str, str]:
        """{layer: why} of a foreign model's layers with weights that were not scaled."""
        return {row.layer: row.why for row in self.rows if row.why and not row.chosen}

    def table(self) -> str:
        """Aligned text, a line a layer; at most 100 columns where names of layers are short."""
        lines = self.lines()
        last, text_last = len(lines[0]) - 1, self.covered is not None
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = [
            "  ".join(
                f"{cell:<{w}}" if i < 2 or text_last and i == last else f"{cell:>{w}}"
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        what = "next input" if self.settings.get("normalise") == "input" else "output z"
        passes = f"{self.forwards} forward pass{'' if self.forwards == 1 else 'es'}"
        text.append(
            f"mean and variance of the {what}, {self.settings.get('images')} images a "
            f"measurement, {passes}, {self.seconds:.2f} s"
            + " (emulated: no speed of a GPU)"
            * (self.settings.get("device") == "emulated")
        )
        if self.largest_deviation is not None:
            text.append(f"largest |variance - 1| of what was scaled {self.largest_deviation:.1e}")
        if self.covered is not None:
            text.append(f"{self.covered:.1%} of the parameters are in scaled layers")
        return "\n".join(text + [f"note: {note}" for note in self.notes])

    def lines(self) -> list[tuple[str, ...]]:
        """The table's cells, two lines of them for the head."""
        foreign = self.covered is not None
        head = [
            (
                "layer",
                "inputs -> outputs",
                "weight std",
                "",
                "mean",
                "variance",
                "",
                "scale",
                *(("calls", "what became of it") if foreign else ("times", "ortho")),
            ),
            ("", "", "before", "after", "", "before", "after", "", "", "" if foreign else "error"),
        ]
        return head + [self._line(name, rows) for name, rows in self.layers().items()]

    def _line(self, name, rows):
        first = rows[0]
        pieces = f"{first.pieces} x " if first.pieces > 1 else ""
        numbers = [
            f"{_mean(rows, key):.4g}" if first.calls else ""
            for key in (
                "weight_std_before",
                "weight_std_after",
                "mean",
                "variance_before",
                "variance_after",
                "scale",
            )
        ]
        return (
            name,
            f"{first.fan_in} -> {pieces}{first.outputs}" if first.outputs else "",
            *numbers,
            *(
                (str(max(row.iterations for row in rows)),)
                if self.covered is None
                else (str(first.calls),)
            ),
            f"{max(row.orthogonality_error for row in rows):.1e}"
            if self.covered is None
            else "; ".join(dict.fromkeys(row.why for row in rows)),
        )

    def as_dict(self) -> dict:
        """Plain numbers, text, lists; None where a number is not finite, which JSON can't hold."""
        derived = {"largest_deviation": self.largest_deviation, "skipped": self.skipped}
        return plain({**asdict(self), **derived})

    def plot(self, path: str | Path | None = None):
        """A bar a layer, variance before and after -> matplotlib's Figure, written to `path` too.

        InputError where matplotlib is not installed."""
        from lsuv.picture import figure

        return figure(self, path)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        head, units, *lines = self.lines()
        names = [f"{a} {b}".strip() for a, b in zip(head, units, strict=True)]
        rows = [("th", names), *(("td", line) for line in lines)]
        cells = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in line) for tag, line in rows]
        below = self.table().splitlines()[len(lines) + 2 :]
        return (
            "<table>"
            + "".join(f"<tr>{row}</tr>" for row in cells)
            + "</table>"
            + "".join(f"<p>{escape(line)}</p>" for line in below)
        )


def orthogonality_error(W: np.ndarray, most: int = 512) -> float:
    """max |Q'Q - I| for Q = W / g: how far W (rows, cols) is from g times an orthonormal matrix.

    g^2 is the mean square length of the shorter side's vectors (rows where rows <= cols, else
    columns). Of more than `most` vectors as many, evenly spread, are set against all: of CaffeNet's
    4096 the rest would cost more than all of LSUV. In float64, to 11 decimals, since those behind
    them depend on how the BLAS shares out its sums; infinite where W is zero, nan where it is not
    finite.
    """
    W = np.asarray(W, np.float64)
    vectors = W if W.shape[0] <= W.shape[1] else W.T
    scale = np.mean(np.einsum("ij,ij->i", vectors, vectors))
    if scale == 0:
        return math.inf
    chosen = np.unique(np.linspace(0, len(vectors) - 1, min(most, len(vectors))).astype(int))
    gram = vectors[chosen] @ vectors.T / scale
    gram[np.arange(len(chosen)), chosen] -= 1
    return round(float(np.abs(gram).max()), 11)


def _mean(rows, key):
    return float(np.mean([getattr(row, key) for row in rows]))
