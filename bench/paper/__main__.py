"""The paper's tables and figures, measured and judged. Commands to paste:

    python -m bench.paper table8                     weight deviations by initialiser, seconds
    python -m bench.paper table9 table10             the same by activation; the first gradients
    python -m bench.paper table2 --only 'FitNet-*'   MNIST, the whole of the paper's recipe
    python -m bench.paper table3 --recipe fast --epochs 2 --budget 1h
    python -m bench.paper figure1                    the size of the updates
    python -m bench.paper figure5 --data FOLDER      GoogLeNet on a folder of images
    python -m bench.paper all --budget 20m           everything, as far as 20 minutes go
    python -m bench.paper report                     one page of all that is there: report.html
    python -m bench.paper plan --json                what is left, as commands
    python -m bench.paper all --executor slurm --parallel 32 --set partition=gpu
    python -m bench.paper watch                      the page anew every minute, until all is there

Whatever is finished is kept in --folder and not run again; a training that --budget or Ctrl-C cuts
short is continued by the next call, and its cell is marked with its epochs.

Read next: bench/paper/study.py, bench/paper/queue.py.
"""

import json
import math
import re
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.common.machine import refuse_emulated
from bench.paper import (
    claims,
    figure1,
    figure2_3,
    figure4_5,
    page,
    queue,
    table2_to_7,
    table6,
    table8_to_10,
)
from bench.paper.page import plots
from bench.paper.page.figure import Figure
from bench.paper.rows import FAILED, NOT_RUN, VERDICTS, Row
from bench.paper.study import (
    FOLDER,
    ROWS,
    Cell,
    Study,
    damaged,
    kept_json,
    minutes,
    on_record,
    record,
    run,
)
from engine.cli.command import Parser, run_command
from engine.cli.messages import print_line
from engine.errors import InputError, RunError, choose
from engine.run.files import write_json
from kernels import DEVICES
from models.recipes import KINDS


@dataclass(frozen=True)
class Experiment:
    """cells(study); draw(study) -> a Figure, or None where there is nothing to draw yet."""

    cells: Callable[[Study], list[Cell]]
    draw: Callable[[Study], Figure | None] | None = None
    folder: bool = False  # wants --data FOLDER


EXPERIMENTS = {  # the cheapest first: the order of `all`
    "table8": Experiment(table8_to_10.table8),
    "table9": Experiment(table8_to_10.table9),
    "table10": Experiment(table8_to_10.table10),
    "table6": Experiment(table6.table6),
    "figure1": Experiment(figure1.figure1, figure1.draw),
    "claims": Experiment(claims.claims),
    "section51": Experiment(table2_to_7.section51),
    "table2": Experiment(table2_to_7.table2),
    "table3": Experiment(table2_to_7.table3),
    "figure2": Experiment(figure2_3.figure2, figure2_3.draw2),
    "table5": Experiment(table2_to_7.table5),
    "figure3": Experiment(figure2_3.figure3, figure2_3.draw3),
    "table7": Experiment(table2_to_7.table7),
    "table4": Experiment(table2_to_7.table4),
    **{
        name: Experiment(
            partial(figure4_5.cells_of, figure=name),
            partial(figure4_5.draw, figure=name),
            folder=True,
        )
        for name in figure4_5.NETS
    },
}
COMMANDS = ("report", "plan", "watch")  # besides the experiments
UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds_of(text: str) -> float:
    """ "20m" -> 1200.0; a number alone is minutes. InputError."""
    parts = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([smh]?)", text)
    value = float(parts[1]) * UNITS[parts[2] or "m"] if parts else math.nan
    if not 0 < value < math.inf:
        raise InputError(f"--budget {text!r}: a time such as 90s, 20m or 2h")
    return value


def parser() -> Parser:
    parser = Parser(prog="bench.paper", description=__doc__.split("\n\nWhatever")[0])
    add = parser.add_argument
    add("what", nargs="+", metavar="TABLE", help=", ".join((*EXPERIMENTS, "all", *COMMANDS)))
    add("--data-dir", metavar="DIR", help="where the data sets' files are")
    add("--data", metavar="FOLDER", help="the images of figure4 and figure5")
    add("--device", metavar="NAME", help=f"{' | '.join(DEVICES)} (default: auto)")
    add("--threads", metavar="N", type=int, help="CPU threads (default: all)")
    add(
        "--seeds",
        metavar="N",
        type=int,
        help="runs a cell (default: 5 where nothing is trained, 3 on MNIST and for claims, else 1)",
    )
    add(
        "--recipe", metavar="NAME", help=f"{' | '.join(KINDS)}, of what is trained (default: paper)"
    )
    add("--epochs", metavar="N", type=float, help="at most N epochs: a cell so cut says so")
    add(
        "--precision",
        metavar="P",
        help="fp32 | bf16 (default: bf16 for the FitNet-4 family where "
        "the device has it, else fp32)",
    )
    add("--batch", metavar="N", type=int, help="images in a step of figure4 and figure5")
    add("--budget", metavar="TIME", help="90s, 20m, 2h: what is not finished then says so")
    add(
        "--only",
        metavar="ROW[:COLUMN]",
        action="append",
        help="these cells alone, for example 'LSUV:tanh' or 'FitNet-*'; may be given again",
    )
    add(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="write the rows there, a list; of "
        "plan the cells that are left, without FILE on standard output",
    )
    add("--executor", metavar="NAME", help="local | slurm: a process a cell, by submitit")
    add("--parallel", metavar="N", type=int, default=1, help="cells at once (default: 1)")
    add(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an option of Slurm's; may be given again",
    )
    add("--every", metavar="SECONDS", type=float, default=60.0, help="of watch (default: 60)")
    add("--folder", metavar="DIR", help=f"where cells, runs and rows are kept (default: {FOLDER})")
    add("--out", metavar="DIR", help="of report: where the page goes (default: --folder)")
    return parser


def check(args) -> None:
    """Refuse what can't work before anything is measured. InputError."""
    for name in args.what:
        choose("table or figure", name, (*EXPERIMENTS, "all", *COMMANDS))
    if args.recipe is not None:
        choose("recipe", args.recipe, KINDS)
    if args.precision is not None:
        choose("precision", args.precision, ("fp32", "bf16"))
    for name in ("seeds", "batch"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value} must be at least 1")
    if args.epochs is not None and not 0 < args.epochs < math.inf:
        raise InputError(f"--epochs {args.epochs:g} must be above 0")
    if {"plan", "watch"} & set(args.what) and len(args.what) > 1:
        raise InputError(f"{' '.join(args.what)}: plan and watch stand alone; --only chooses cells")
    if args.executor is not None or args.parallel != 1 or args.set:
        queue.pool_of(args.executor, args.parallel, study_of(args).folder / "queue", args.set)
    if args.json == "-":
        if args.what != ["plan"]:
            raise InputError("--json without a file is for plan; give --json FILE")
        return
    if args.json is not None and args.what == ["report"]:
        raise InputError(
            f"--json {args.json}: report writes rows.json by itself, into --out; leave --json out"
        )
    if args.json is not None and Path(args.json).is_dir():
        raise InputError(f"--json {args.json}: a folder; give the name of a file in it")
    if args.json is not None and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"--json {args.json}: no folder {Path(args.json).parent}; make it first")
    if args.out is not None and not {"report", "watch"} & set(args.what):
        raise InputError(f"--out {args.out} is for report; cells are kept in --folder")


def study_of(args) -> Study:
    options = {
        name: getattr(args, name)
        for name in (
            "device",
            "threads",
            "data_dir",
            "data",
            "seeds",
            "recipe",
            "epochs",
            "precision",
            "batch",
            "only",
        )
        if getattr(args, name) is not None
    }
    if args.folder is not None:
        options["folder"] = Path(args.folder)
    if args.budget is not None:
        options["budget"] = seconds_of(args.budget)
    return Study(**options)


def chosen(args) -> list[str]:
    """The experiments asked for, in order; `all` leaves out those that want a folder of images
    that was not given."""
    names = []
    for name in args.what:
        each = (
            [name]
            if name not in ("all", "plan", "watch")
            else [key for key, e in EXPERIMENTS.items() if args.data is not None or not e.folder]
        )
        names += [key for key in each if key not in names and key not in COMMANDS]
    return names


def measure(study: Study, name: str) -> list[Row]:
    """Run one table or figure, draw it, and put its rows on record."""
    experiment = EXPERIMENTS[name]
    cells = experiment.cells(study)
    if not any(study.wanted(row) for cell in cells for row in cell.blank):
        return []
    about = getattr(experiment.cells, "func", experiment.cells).__doc__
    print_line(f"{name}: {about.splitlines()[0]}")
    rows = run(study, cells, partial(record, study, name))
    if draw(study, name):
        print_line(f"{study.folder / name}.png and .csv")
    return rows


def draw(study: Study, name: str) -> bool:
    """Draw a figure, where there is something to draw -> whether there is."""
    how = EXPERIMENTS[name].draw
    figure = how(study) if how is not None else None
    if figure is not None:
        study.write(ROWS, f"{name}.figure", figure.as_dict())
        plots.draw(figure, study.folder)
    return figure is not None


def planned(study: Study, names: list[str]) -> list[dict]:
    return list(queue.plan(study, {name: EXPERIMENTS[name].cells(study) for name in names}))


def print_plan(study: Study, names: list[str], file: str | None) -> None:
    """The cells that are left, as a table, or as JSON."""
    cells = planned(study, names)
    if file == "-":
        print(json.dumps(cells, indent=1))
    elif file is not None:
        write_json(Path(file), cells)
    else:
        for cell in cells:
            seconds = "" if cell["seconds"] is None else f"  about {minutes(cell['seconds'])}"
            print_line(f"{cell['name']}{seconds}\n  {shlex.join(cell['command'])}")
        print_line(f"{len(cells)} cells may run now, beside each other")


def watched(study: Study, names: list[str], out: Path) -> bool:
    """Rewrite the page from what is kept by now -> whether something is left."""
    try:
        left, study.budget = len(planned(study, names)), 0.0
        for name in names:
            for cell in EXPERIMENTS[name].cells(study):
                record(study, name, queue.looked_at(study, cell)[0])
            draw(study, name)
        report(study, out)
    except (InputError, RunError) as error:  # a file that is being written, or none yet
        print_line(f"not yet: {error}")
        return True
    print_line(f"{left} cells may run now or are running" if left else "nothing is left")
    return left > 0


def none_such(study: Study, names: list[str]) -> InputError:
    """What --only could have named."""
    blank = [row for name in names for cell in EXPERIMENTS[name].cells(study) for row in cell.blank]
    rows, columns = (
        ", ".join(dict.fromkeys(map(repr, names)))
        for names in ((row.row for row in blank), (row.column for row in blank))
    )
    return InputError(
        f"--only {' '.join(study.only)} names no cell of {', '.join(names)}; rows "
        f"{rows}; columns {columns}"
    )


def counts(rows: list[Row]) -> str:
    words = [
        f"{sum(row.verdict == verdict for row in rows)} {verdict}"
        for verdict in VERDICTS
        if any(row.verdict == verdict for row in rows)
    ]
    return f"{len(rows)} cells: {', '.join(words)}" if rows else "no cells"


def report(study: Study, out: Path) -> None:
    """The page, its Markdown twin and the figures, of all rows that are on record."""
    rows, figures = [], []
    for name in page.TABLES:
        rows += on_record(study.folder, name)
        path = study.folder / ROWS / f"{name}.figure.json"
        if path.exists():
            try:
                figures.append(Figure.from_dict(kept_json(path)))
            except (TypeError, KeyError, AttributeError, InputError):
                raise damaged(path) from None
    if not rows:
        raise InputError(
            f"{study.folder}: nothing is measured there yet; run a table first, for "
            "example python -m bench.paper table8"
        )
    rows = with_blanks(study, rows)
    out.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        plots.draw(figure, out)
    write_json(out / "rows.json", rows)
    page.write(
        rows,
        figures,
        out,
        {"machine": study.machine, "date": study.today, "again": "python -m bench.paper all"},
    )
    print_line(
        f"{out / 'report.html'}, report.md, rows.json: {len(rows)} cells, {len(figures)} figures"
    )


def with_blanks(study: Study, rows: list[dict]) -> list[dict]:
    """The rows, and those of every table and figure that were never run, in the page's order."""
    every = []
    for name in page.TABLES:
        e = EXPERIMENTS[name]
        blank = (
            figure4_5.unmeasured(study, name)
            if e.folder and study.data is None
            else [row for cell in e.cells(study) for row in cell.blank]
        )
        there = {(row["row"], row["column"]): row for row in rows if row["table"] == name}
        for row in blank:
            every.append(there.pop((row.row, row.column), row.as_dict()))
        every += there.values()
    return every


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    check(args)
    refuse_emulated(args.device)
    study, rows = study_of(args), []
    names = chosen(args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    if args.what == ["plan"]:
        print_plan(study, names, args.json)
        return 0
    if args.what == ["watch"]:
        out = Path(args.out) if args.out is not None else study.folder
        queue.watch(lambda: watched(study, names, out), args.every)
        return 0
    failed = {}
    if args.executor is not None:
        failed = queue.run_planned(
            lambda: planned(study, names), study.folder, args.executor, args.parallel, args.set
        )
        study.budget = 0.0  # all that can be done is done, and is put together now
    try:
        for name in names:
            rows += measure(study, name)
    except KeyboardInterrupt:
        print_line("stopped; the same command goes on where it was")
        raise
    finally:  # whatever ends it, what is there is written
        if args.json is not None and names:
            write_json(Path(args.json), [row.as_dict() for row in rows])
    if names and not rows:
        raise none_such(study, names)
    if names:
        print_line(counts(rows))
    for name, why in failed.items():
        print_line(f"failed: {name}: {why}")
    if args.budget and any(row.verdict == NOT_RUN for row in rows) and study.left <= 0:
        print_line("the budget is over; the same command goes on where it stopped")
    if "report" in args.what:
        report(study, Path(args.out) if args.out is not None else study.folder)
    return 1 if failed or any(row.verdict == FAILED for row in rows) else 0


if __name__ == "__main__":
    sys.exit(run_command("bench.paper", main))
