"""A cell of a table as data: the paper's value, ours, and what the difference is worth.

Read next: bench/paper/printed.py, the paper's own numbers.
"""

import math
import statistics
from dataclasses import asdict, dataclass, field

OK, OFF, TYPO = "ok", "off", "typo"
CUT, OTHER, NOT_RUN, NO_VALUE = "cut short", "other recipe", "not run", "no value"
FAILED = "failed"
AGREES, DIFFERS = "convergence agrees", "convergence differs"
MISSING = "–"
TIMES = ("s", "ms", "min", "h", "seconds", "minutes", "hours")
VERDICTS = {
    OK: "within the bound",
    OFF: "outside the bound",
    TYPO: "the printed number contradicts the paper's own arithmetic",
    CUT: "trained for fewer epochs than the recipe has: not the full result, and not judged",
    OTHER: "a whole run, of another recipe than the paper's: not judged",
    NOT_RUN: "there is nothing yet; its command measures it",
    FAILED: "the program ended with an error, which a note names: no result",
    NO_VALUE: "the paper prints no value to judge by",
    AGREES: "trains where the paper's trains, or fails to converge where it fails",
    DIFFERS: "trains where the paper's fails to converge, or fails where it trains",
}


@dataclass
class Row:
    """paper, ours: a number, text such as "n/c", or None. spread: sample standard deviation of
    `seeds`, the values of each seed. epochs: those that were trained, of of_epochs in the recipe.
    rerun: the command that measures the cell again; note: a line for the reader, or empty."""

    table: str
    row: str
    column: str
    paper: float | str | None
    ours: float | str | None
    spread: float | None
    unit: str
    epochs: float | None
    verdict: str
    seeds: list[float] = field(default_factory=list)
    of_epochs: float | None = None
    settings: str = ""
    rerun: str = ""
    date: str = ""
    machine: str = ""
    note: str = ""

    def as_dict(self) -> dict:
        return asdict(self)


def mean_and_spread(values: list[float]) -> tuple[float, float | None]:
    """The mean, and the sample standard deviation where there are two values or more."""
    return (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def within(ours: float, paper: float, factor: float) -> str:
    """OK where ours / paper lies in 1 / factor .. factor."""
    return OK if 1 / factor <= ours / paper <= factor else OFF


def number(value: float | str | None, unit: str, printed: bool = False) -> str:
    """A value with the digits that its unit deserves; printed: as the paper prints it."""
    if value is None or isinstance(value, str):
        return MISSING if value is None else value
    size = abs(value)
    if not math.isfinite(value):
        return "not finite"
    if "%" in unit:
        return f"{value:.2f}"
    if unit == "std" and size >= 0.01:
        return f"{value:.3f}" if printed else f"{value:.4f}"
    if unit == "variance":
        return f"{value:.2e}"
    digits = 3 if unit in TIMES or unit == "std" else 4
    if 10**digits <= size < 1e9:
        return f"{value:,.0f}"
    if 0 < size < 1e-4 or size >= 1e9:
        return f"{value:.2e}"
    # A measured second keeps its zeros; what the paper or a count gives as 4 stays 4.
    return (
        f"{value:#.{digits}g}".rstrip(".")
        if unit in TIMES and not printed
        else f"{value:.{digits}g}"
    )


def spread(value: float, unit: str, ours: str) -> str:
    """A standard deviation beside `ours`: its decimals, or one digit where they would all be 0."""
    if unit == "variance" or "e" in ours:
        return f"{value:.1e}"
    decimals = len(ours.partition(".")[2])
    text = f"{value:,.{decimals}f}"
    return f"{value:.0e}" if value and not float(text.replace(",", "")) else text


def ours_of(row: dict) -> str:
    """Our value and its spread as text."""
    ours = number(row["ours"], row["unit"])
    if row["spread"] is None:
        return ours
    return f"{ours} ± {spread(row['spread'], row['unit'], ours)}"


def line(row: dict) -> str:
    """A row for the terminal."""
    ours, paper = ours_of(row), number(row["paper"], row["unit"], printed=True)
    epochs = "" if row["epochs"] is None else f"  {row['epochs']:.4g}"
    if row["epochs"] is not None and row["of_epochs"] is not None:
        epochs += f" of {row['of_epochs']:.4g} epochs"
    return (
        f"  {row['row']:<28} {row['column']:<18}{paper:>10}"
        f"{ours:>22}  {row['verdict']}{epochs}{'  ' + row['note'] if row['note'] else ''}"
    )
