"""What all the tables share: the device, the data, the time that is left, and the folder of cells.

A table is a list of cells. A measured cell (a column of deviations, a timing) is kept in
FOLDER/cells/DEVICE, a trained one in a run folder of its own, so whatever is finished is not done
again; FOLDER/rows has the rows of each table for the report. A cell whose settings differ has
another name, so nothing is mixed up.

Read next: bench/paper/rows.py.
"""

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from filelock import FileLock

from bench.common.machine import machine
from bench.paper.rows import CUT, FAILED, NOT_RUN, OTHER, Row, line
from engine.cli.messages import log_line, print_line
from engine.data import load
from engine.data.download import MissingData
from engine.errors import InputError, RunError
from engine.run import folder as runs
from engine.run.files import write_json
from kernels import ops_for

FOLDER = Path("runs") / "paper"
CELLS, ROWS = "cells", "rows"
AT_ONCE = 0.2  # seconds


@dataclass(frozen=True)
class Cell:
    """Some rows of a table that are measured together.

    key: their name in the folder; None where `measure` keeps what it finds, and to the budget, by
    itself. cost: in units of the table's own. blank: the rows where there is no time to measure.
    runs: the folders of what it trains.
    """

    key: str | None
    title: str
    cost: float
    measure: Callable[["Progress"], list[Row]]
    blank: list[Row]
    runs: tuple[Path, ...] = ()


@dataclass
class Study:
    """What the command line asked for. epochs: in place of the recipe's. precision: None leaves it
    to the table. only: patterns of rows and columns, "LSUV" or "LSUV:tanh"."""

    folder: Path = FOLDER
    device: str = "auto"
    threads: int | None = None
    data_dir: str | None = None
    data: str | None = None
    seeds: int | None = None
    batch: int | None = None
    recipe: str = "paper"
    epochs: float | None = None
    precision: str | None = None
    budget: float = float("inf")
    only: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @cached_property
    def ops(self):
        return ops_for(self.device, self.threads)

    def dataset(self, name: str):
        """A data set by name, read once."""
        found = self.__dict__.setdefault("_data", {})
        if name not in found:
            try:
                found[name] = load(name, self.data_dir, report=log_line)
            except MissingData as missing:  # no table is of the synthetic set
                raise InputError(f"data {name}: {missing.why}; {missing.remedy}") from None
        return found[name]

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget - (time.monotonic() - self.began)

    @property
    def today(self) -> str:
        return datetime.date.today().isoformat()

    @cached_property
    def machine(self) -> str:
        m = machine(self.ops, {})
        return (
            f"{m['processor']}, {m['cores']} cores, device {m['device']} ({m['description']}), "
            f"Python {m['python']}, {m['versions']}"
        )

    def command(self, table: str, *options: str) -> str:
        """What measures a cell of `table` again, with the options that decide its value."""
        given = ["python -m bench.paper", table, *options]
        return " ".join(given)

    def row(self, table: str, row: str, column: str, paper, unit: str, **more) -> Row:
        """A row of today on this machine; nothing measured unless `more` says so."""
        blank = {"ours": None, "spread": None, "epochs": None, "verdict": NOT_RUN}
        return Row(
            table,
            row,
            column,
            paper,
            unit=unit,
            **{
                **blank,
                "rerun": self.command(table),
                "date": self.today,
                "machine": self.machine,
                **more,
            },
        )

    def wanted(self, row: Row) -> bool:
        """Whether the patterns of --only, if any, name this row."""
        return not self.only or any(
            fnmatchcase(row.row, pattern.partition(":")[0])
            and fnmatchcase(row.column, pattern.partition(":")[2] or "*")
            for pattern in self.only
        )

    @property
    def cells(self) -> str:
        """The folder's room for what this device measured."""
        return f"{CELLS}/{self.ops.name}"

    def kept(self, key: str | None) -> list[Row] | None:
        """The rows of a cell that is there already."""
        path = self.folder / self.cells / f"{key}.json"
        if key is None or not path.exists():
            return None
        return rows_in(path)

    def keep(self, key: str, rows: list[Row]) -> None:
        self.write(self.cells, key, [row.as_dict() for row in rows])

    def series(self, key: str) -> dict | None:
        """The numbers behind a curve, as `keep_series` was given them: names to lists or values."""
        path = self.folder / self.cells / f"{key}-series.json"
        if not path.exists():
            return None
        found = kept_json(path)
        if not isinstance(found, dict) or not found:
            raise damaged(path)
        return found

    def keep_series(self, key: str, values: dict) -> None:
        self.write(self.cells, f"{key}-series", values)

    def write(self, room: str, name: str, value) -> None:
        path = self.folder / room / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)


class Progress:
    """Which cell of how many, and how long the rest will take at the pace so far."""

    def __init__(self, cells: list[Cell], left: Callable[[], float]):
        self.count, self.total = len(cells), sum(cell.cost for cell in cells)
        self.number, self.done, self.left = 0, 0.0, left
        self.worked = self.seconds = 0.0  # of the cells that tell the pace

    def begin(self, cell: Cell) -> None:
        self.number, self.cell, self.began = self.number + 1, cell, time.monotonic()
        self.say("")

    def end(self) -> None:
        """The cell is over; one that took no time was there before and says nothing of the pace."""
        spent = time.monotonic() - self.began
        self.done += self.cell.cost
        if spent > AT_ONCE:
            self.worked, self.seconds = self.worked + self.cell.cost, self.seconds + spent

    def say(self, text: str, share: float = 0.0) -> None:
        """A line; share: how much of the present cell is done."""
        worked, spent = self.worked + share * self.cell.cost, self.seconds
        spent += time.monotonic() - self.began if share else 0
        remaining = self.total - self.done - share * self.cell.cost
        rest = ""
        if worked:
            seconds = spent / worked * remaining
            beyond = ", more than the budget" if seconds > self.left() else ""
            rest = f"  [{minutes(seconds)} left{beyond}]"
        colon = ": " if text else ""
        print_line(f"{self.number}/{self.count} {self.cell.title}{colon}{text}{rest}")


def minutes(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def run(
    study: Study, cells: list[Cell], keep: Callable[[list[Row]], None] = lambda rows: None
) -> list[Row]:
    """Measure what is not there yet, in order, while there is time -> every row.

    A cell that ends in a RunError has it as its note and is no result; the next one is measured.
    keep(rows) is given each cell's as soon as they are there."""
    cells = [cell for cell in cells if any(map(study.wanted, cell.blank))]
    progress, found = Progress(cells, lambda: study.left), []
    for cell in cells:
        progress.begin(cell)
        rows = study.kept(cell.key)
        if rows is None and cell.key is not None and study.left <= 0:
            rows = cell.blank
        elif rows is None:
            try:
                rows = cell.measure(progress)
                if cell.key is not None:
                    study.keep(cell.key, rows)
            except RunError as error:
                rows = [replace(row, verdict=FAILED, note=str(error)) for row in cell.blank]
        progress.end()
        rows = [row for row in rows if study.wanted(row)]
        for row in rows:
            print_line(line(row.as_dict()))
        keep(rows)
        found += rows
    return found


def worth(verdict: str) -> int:
    return {NOT_RUN: 0, FAILED: 0, CUT: 1, OTHER: 2}.get(verdict, 3)


def on_record(folder: Path, table: str) -> list[dict]:
    """The rows of a table that are kept for the report; none where it was never asked for."""
    path = folder / ROWS / f"{table}.json"
    return [row.as_dict() for row in rows_in(path)] if path.exists() else []


def rows_in(path: Path) -> list[Row]:
    """A file of rows. InputError, with the remedy, where it is not as it was written."""
    found = kept_json(path)
    try:
        rows = [Row(**row) for row in found]
        for row in rows:
            line(row.as_dict())
            worth(row.verdict)
        if not rows:
            raise TypeError
    except (TypeError, ValueError, AttributeError, KeyError):
        raise damaged(path) from None
    return rows


def kept_json(path: Path):
    try:
        return runs.read_json(path)
    except InputError:
        raise damaged(path) from None


def damaged(path: Path) -> InputError:
    return InputError(f"{path}: not as it was written; remove it, and it is measured again")


def record(study: Study, table: str, rows: list[Row]) -> None:
    """Put the rows into the table's file for the report, in the place of those of the same cell. A
    row leaves one that is worth more: judged, a whole run, one cut short, none, in that order.
    Other processes may do so too."""
    path = study.folder / ROWS / f"{table}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        put_on_record(study, table, rows)


def put_on_record(study: Study, table: str, rows: list[Row]) -> None:
    there = {(r["row"], r["column"]): r for r in on_record(study.folder, table)}
    for row in rows:
        cell = row.row, row.column
        if cell not in there or worth(row.verdict) >= worth(there[cell]["verdict"]):
            there[cell] = row.as_dict()
    study.write(ROWS, table, list(there.values()))
