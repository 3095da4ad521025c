"""What is left of the tables, as commands that may run beside each other; and the page meanwhile.

A cell is finished when its rows are kept, or every run that it wants is over. Of cells that want
the same run one is planned now, and the others when that run is over.

Read next: engine/run/queue.py.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from glob import escape
from pathlib import Path

from bench.paper.rows import Row
from bench.paper.study import Cell, Study
from bench.paper.training import multiply_adds, outcome
from engine.errors import InputError
from engine.run.queue import Job, pool_of, run_jobs

__all__ = ["plan", "pool_of", "run_planned", "watch"]
OPTIONS = ("device", "threads", "data_dir", "data", "seeds", "recipe", "epochs", "precision")
# Multiply-adds of forward passes that a core trains a second, in 10^9, where no run tells.
STATED = 20e9
IMAGES = 50_000  # of an epoch, where no run tells


class Silent:
    """A Progress that says nothing."""

    def say(self, text: str, share: float = 0.0) -> None:
        pass


def over(folder: Path) -> bool:
    there = outcome(folder)
    return there is not None and bool(there.finished or there.failed)


def looked_at(study: Study, cell: Cell) -> tuple[list[Row], bool]:
    """A cell's rows as they are kept, nothing measured, and whether it is finished. The study's
    budget is 0."""
    rows = study.kept(cell.key)
    if cell.key is None:
        rows = cell.measure(Silent())  # type: ignore[arg-type]
    if cell.runs:
        return rows or cell.blank, all(map(over, cell.runs))
    done = rows is not None and all(row.ours is not None for row in rows)
    return rows or cell.blank, done or cell.cost == 0


def pace(study: Study) -> tuple[float, str]:
    """Epochs x multiply-adds a second, the unit of a trained cell's cost, and their source."""
    paces = []
    for path in sorted(study.folder.glob("*/seed*")):
        there = outcome(path)
        if there is None or not there.rows or there.record["device"] != study.ops.name:
            continue
        s, row = there.record["settings"], there.rows[-1]
        paces.append(row["epoch"] * multiply_adds(s["net"], s["act"]) / row["seconds"])
    if paces:
        return statistics.median(paces), f"metrics.csv of {len(paces)} runs on this device"
    return STATED / IMAGES, f"stated: {STATED:g} multiply-adds/s, {IMAGES:,} images an epoch"


def argv_of(study: Study, table: str, cell: Cell) -> list[str]:
    """The command that measures this cell alone, or goes on with it."""
    argv = [sys.executable, "-m", "bench.paper", table, "--folder", str(study.folder)]
    for row in filter(study.wanted, cell.blank):
        # A colon divides row and column in a pattern.
        argv += [
            "--only",
            ":".join(escape(name).replace(":", "?") for name in (row.row, row.column)),
        ]
    for name in (*OPTIONS, "batch"):
        value = getattr(study, name)
        if value is not None:
            argv += [f"--{name.replace('_', '-')}", str(value)]
    return argv


def plan(study: Study, tables: dict[str, list[Cell]]) -> Iterator[dict]:
    """Each cell that is not finished and may run now: name, command, folder, seconds."""
    taken: set[Path] = set()
    (speed, source), budget, study.budget = pace(study), study.budget, 0.0
    try:
        for table, cells in tables.items():
            for cell in cells:
                if not any(map(study.wanted, cell.blank)) or taken & set(cell.runs):
                    continue
                if looked_at(study, cell)[1]:
                    continue
                left = cell.cost
                if cell.runs:
                    taken |= set(cell.runs)
                    left *= 1 - statistics.fmean(map(share, cell.runs))
                yield {
                    "name": cell.title,
                    "command": argv_of(study, table, cell),
                    "folder": str(
                        cell.runs[-1].parent if cell.runs else study.folder / study.cells
                    ),
                    "seconds": left / speed if cell.runs else None,
                    "estimate": source if cell.runs else "none: nothing is trained",
                }
    finally:
        study.budget = budget


def share(folder: Path) -> float:
    """How much of a run's epochs is done, in [0, 1]."""
    there = outcome(folder)
    if there is None:
        return 0.0
    whole = there.before + there.record["settings"]["epochs"] + there.later
    return 1.0 if there.failed or not whole else min(there.epochs / whole, 1.0)


def run_planned(
    plan: Callable[[], list[dict]], folder: Path, executor: str, parallel: int, options: list[str]
) -> dict[str, str]:
    """Run plan after plan until nothing is left but what failed -> why it failed, by name."""
    failed: dict[str, str] = {}
    tried: set[str] = set()
    while jobs := [cell for cell in plan() if cell["name"] not in tried]:
        tried |= {cell["name"] for cell in jobs}
        failed |= run_jobs(
            [
                Job(cell["name"], Path(cell["folder"]), cell["command"], cell["command"])
                for cell in jobs
            ],
            executor,
            parallel,
            folder / "queue",
            options,
        )
    return failed


def watch(once: Callable[[], bool], every: float) -> None:
    """once() every so many seconds, until it says that nothing is left."""
    if not every > 0:
        raise InputError(f"--every {every:g} must be above 0")
    while once():
        time.sleep(every)
