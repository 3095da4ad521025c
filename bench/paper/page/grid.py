"""The report's tables without any markup: rows of data -> sections of cells, each a few texts.

A run that ended before its recipe is never judged here, whatever its row says, and always says how
far it came.

Read next: bench/paper/page/markdown.py, which writes them down.
"""

from collections import Counter
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields

from bench.paper.page.figure import Figure
from bench.paper.rows import (
    AGREES,
    CUT,
    DIFFERS,
    FAILED,
    NO_VALUE,
    NOT_RUN,
    OFF,
    OK,
    OTHER,
    TYPO,
    VERDICTS,
    Row,
    number,
    ours_of,
)
from engine.errors import InputError, choose

# The sign of each verdict beside its word.
SIGNS = {
    OK: "✓",
    OFF: "✗",
    TYPO: "≠",
    CUT: "◔",
    OTHER: "△",
    NOT_RUN: "○",
    FAILED: "!",
    NO_VALUE: "–",
    AGREES: "≈",
    DIFFERS: "≉",
}
ALWAYS = (OK, OFF, TYPO, CUT, NOT_RUN)  # in the summary even where there is none
LABELS = {
    "rerun": "Measure again",
    "settings": "What was run",
    "machine": "Machine",
    "date": "Date",
}


@dataclass
class Cell:
    """A row of data as texts. trained: "3 of 230 epochs" where that belongs beside the number;
    early: that was before the recipe's end. note: its number among the section's notes, or 0."""

    row: str
    column: str
    ours: str
    paper: str
    trained: str
    early: bool
    verdict: str
    unit: str
    note: int
    data: dict

    @property
    def name(self) -> str:
        return f"{self.row}, {self.column}"


@dataclass
class Block:
    """A table as it stands on the page: rows, columns, the cells (several of a place stand below
    each other), and the unit that most of a column's cells have, "" if the head needs none."""

    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], list[Cell]]
    units: dict[str, str]

    def unit(self, cell: Cell) -> str:
        """The unit that a cell says itself, since the head of its column says none or another."""
        told = cell.unit == self.units.get(cell.column) or named(cell.unit, cell.column)
        return "" if told or not isinstance(cell.data["ours"], (int, float)) else cell.unit


@dataclass
class Section:
    """A table or figure of the paper. shared: what all its cells have in common, label -> texts;
    particulars: what else each cell has to say, (its name, label -> text)."""

    key: str
    title: str
    what: str
    bound: str
    cells: list[Cell]
    figures: list[Figure]
    blocks: list[Block] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shared: dict[str, list[str]] = field(default_factory=dict)
    particulars: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def counts(self) -> Counter:
        return Counter(cell.verdict for cell in self.cells)

    @property
    def tally(self) -> str:
        """ "18 cells: 15 ok, 2 typo, 1 not run"."""
        counts = self.counts
        parts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
        return f"{len(self.cells)} cell{'s' * (len(self.cells) != 1)}: {parts}."

    @property
    def cut(self) -> list[str]:
        """How far which runs came: "3 of 230 epochs: LSUV, maxout; Xavier, relu"."""
        found: dict[str, list[str]] = {}
        for cell in self.cells:
            if cell.early or cell.verdict == CUT:
                found.setdefault(cell.trained or "a part of it", []).append(cell.name)
        return [
            f"{trained}: " + ("every cell" if len(names) == len(self.cells) else "; ".join(names))
            for trained, names in found.items()
        ]


def counted(sections: list[Section]) -> list[str]:
    """The verdicts that the summary has a column for."""
    return [v for v in VERDICTS if v in ALWAYS or any(s.counts[v] for s in sections)]


def section(
    key: str, title: str, what: str, bound: str, rows: list[dict], figures: list[Figure]
) -> Section:
    """Everything that the page says of a table."""
    rows = [complete(row) for row in rows]
    notes = list(dict.fromkeys(row["note"] for row in rows if row["note"]))
    cells = [cell(row, notes) for row in rows]
    shared, varying = common(rows)
    return Section(
        key,
        title,
        what,
        bound,
        cells,
        figures,
        blocks(cells),
        notes,
        shared,
        [(c.name, own) for c in cells if (own := particular(c, varying))],
    )


def complete(row: dict) -> dict:
    """A row with every key, after a look at those that it can't do without."""
    for key in fields(Row):
        needed = key.default is NO_DEFAULT and key.default_factory is NO_DEFAULT
        if needed and key.name not in row:
            raise InputError(
                f"a row of the report has no {key.name!r}: {row}; measure its table again"
            )
    choose("verdict", row["verdict"], VERDICTS)
    return Row(**row).as_dict()


def cell(row: dict, notes: list[str]) -> Cell:
    unit, epochs, whole = row["unit"], row["epochs"], row["of_epochs"]
    early = epochs is not None and whole is not None and epochs < whole - 0.01
    verdict = CUT if early and row["verdict"] in (OK, OFF) else row["verdict"]
    trained = ""
    if epochs is not None and (early or verdict in (CUT, OTHER)):
        trained = f"{epochs:.4g}{f' of {whole:.4g}' if early else ''} epochs"
    paper = number(row["paper"], unit, printed=True)
    return Cell(
        str(row["row"]),
        str(row["column"]),
        ours_of(row),
        paper,
        trained,
        early,
        verdict,
        unit,
        notes.index(row["note"]) + 1 if row["note"] else 0,
        row,
    )


def blocks(cells: list[Cell]) -> list[Block]:
    """Rows and columns in first-seen order. Columns stand in one table if at least half the rows of
    the shorter are rows of the other, so Table 2's CIFAR and MNIST halves stand apart; what would
    be a table for nearly every row is a list instead."""
    rows: dict[str, set[str]] = {}
    for c in cells:
        rows.setdefault(c.column, set()).add(c.row)
    groups: list[list[str]] = []
    for name in rows:
        near = [
            group
            for group in groups
            if any(
                2 * len(rows[name] & rows[other]) >= min(len(rows[name]), len(rows[other]))
                for other in group
            )
        ]
        groups = [group for group in groups if group not in near]
        groups.append([other for group in near for other in group] + [name])
    order = {name: place for place, name in enumerate(rows)}
    groups.sort(key=lambda group: min(order[name] for name in group))
    if len(groups) > max(1, len({c.row for c in cells}) / 2):
        return [listing(cells)]
    return [block([c for c in cells if c.column in group]) for group in groups]


def listing(cells: list[Cell]) -> Block:
    """A line a cell, for a table whose rows ask each for another thing."""
    places: dict[tuple[str, str], list[Cell]] = {}
    for c in cells:
        places.setdefault((c.name, "found"), []).append(c)
    return Block([name for name, _ in places], ["found"], places, {"found": ""})


def block(cells: list[Cell]) -> Block:
    places: dict[tuple[str, str], list[Cell]] = {}
    for c in cells:
        places.setdefault((c.row, c.column), []).append(c)
    names = list(dict.fromkeys(c.column for c in cells))
    units = {
        name: Counter(c.unit for c in cells if c.column == name).most_common(1)[0][0]
        for name in names
    }
    units = {name: "" if named(unit, name) else unit for name, unit in units.items()}
    return Block(list(dict.fromkeys(c.row for c in cells)), names, places, units)


def named(unit: str, column: str) -> bool:
    """Whether a column's name has its unit in it already, as "CIFAR-10, %" has."""
    return unit in column.replace(",", " ").split()


def common(rows: list[dict]) -> tuple[dict[str, list[str]], list[str]]:
    """What the cells of a table share -> ({label: texts}, the keys that each must say itself).

    Machines are all named; dates become a span; commands and settings are shared or nobody's."""
    shared, varying = {}, []
    for key in ("rerun", "settings", "machine", "date"):
        # What was not run was run on no machine; the command that would run it still counts.
        found = list(
            dict.fromkeys(
                row[key]
                for row in rows
                if row[key] and (key == "rerun" or row["verdict"] != NOT_RUN)
            )
        )
        if len(found) > 1:
            varying.append(key)
        if key == "date" and len(found) > 1:
            found = [f"{min(found)} to {max(found)}"]
        if len(found) == 1 or found and key == "machine":
            shared[key] = found
    return shared, varying


def particular(c: Cell, varying: list[str]) -> dict[str, str]:
    """What a cell has to say beyond its number, label -> text."""
    seeds, epochs, whole = c.data["seeds"], c.data["epochs"], c.data["of_epochs"]
    found = {}
    if len(seeds) > 1:
        found["each seed"] = "; ".join(number(value, c.unit) for value in seeds)
    if epochs is not None:
        found["epochs"] = f"{epochs:.4g}" + ("" if whole is None else f" of {whole:.4g}")
    found |= {key: c.data[key] for key in varying if c.data[key]}
    return found
