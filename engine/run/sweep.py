"""A run for every combination of settings: `--sweep "lr=0.01,0.03" "init=lsuv,xavier"`.

A cell is a run folder with its settings in its name. What is finished is skipped, what was cut goes
on, and a cell that fails ends no other. Seeds are an axis: the table has their mean and spread.

Read next: tests/run/test_sweep.py.
"""

import argparse
import signal
import statistics
import sys
from itertools import product
from pathlib import Path

from engine.cli.command import Parser, handled
from engine.cli.messages import print_line
from engine.cli.options import check, options_of
from engine.cli.settings import DEFAULTS, Known, option
from engine.errors import InputError, NotFinite
from engine.run import folder as run_folder
from engine.run.files import write_json
from engine.run.queue import Job, pool_of, run_jobs

OWN = ("sweep", "executor", "parallel", "set", "runs", "out")
SWEEP = "sweep.json"


def axes_of(args: argparse.Namespace, parser: Parser) -> dict[str, list[str]]:
    """{setting: its values}; --runs N is an axis of N seeds. InputError."""
    swept = {a.dest for a in parser._actions if a.nargs is None and a.dest not in (*OWN, "resume")}
    axes: dict[str, list[str]] = {}
    for text in args.sweep:
        name, _, values = text.partition("=")
        name = name.replace("-", "_")
        axes.setdefault(name, [])
        axes[name] += values.split(",")
        if name not in swept:
            raise InputError(f"--sweep {text}: {name!r} is no setting with a value; see --help")
        if not all(axes[name]) or len(set(axes[name])) < len(axes[name]):
            raise InputError(f"--sweep {text}: a value is empty or stands twice")
        if getattr(args, name) is not None:
            raise InputError(f"{option(name)} and --sweep {text}: leave one of them out")
    if args.runs is not None:
        if "seed" in axes:
            raise InputError("--runs and --sweep seed=…: leave one of them out")
        first = DEFAULTS["seed"] if args.seed is None else args.seed
        axes["seed"] = [str(first + k) for k in range(args.runs)]
    return axes


def argv_of(settings: dict) -> list[str]:
    """Settings by name as the command line has them."""
    argv = []
    for name, value in settings.items():
        if isinstance(value, bool):
            argv.append(option(name if value else f"no_{name}"))
        else:
            argv.append(f"{option(name)}={value}")
    return argv


def sweep(args: argparse.Namespace, parser: Parser, known: Known) -> int:
    """Run every cell that is not over, print the table -> 1 if a cell failed, else 0."""
    axes, parallel, slurm = axes_of(args, parser), args.parallel or 1, args.set or ()
    base = {name: value for name, value in options_of(args).items() if name not in OWN}
    if "seed" in axes:
        base.pop("seed", None)
    out = Path(args.out or Path("runs") / f"sweep-{'-'.join(axes)}")
    cells = {}
    for values in product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        name = ",".join(f"{key}={value}" for key, value in cell.items()).replace("/", "_")
        begin = argv_of(base | cell)
        check(parser.parse_args(begin), known)
        train = [sys.executable, "-m", "engine.train"]
        again = [*train, "--resume", str(out / name)]
        cells[name] = cell, Job(name, out / name, [*train, *begin, f"--out={out / name}"], again)
    if (out / SWEEP).exists() and run_folder.read_json(out / SWEEP) != base:
        raise InputError(f"{out}: holds a sweep with other options; give another --out")
    pool_of(args.executor, parallel, out / "queue", slurm)  # refuses what it can't do
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / SWEEP, base)
    left = [job for _, job in cells.values() if state(job.folder) is None]
    print_line(f"{out}: {len(cells)} cells, {len(cells) - len(left)} of them over")
    with handled({signal.SIGTERM: signal.default_int_handler}):  # ends as Ctrl-C does
        failed = run_jobs(left, args.executor, parallel, out / "queue", slurm)
    rows: dict[tuple, list] = {}
    for name, (cell, job) in cells.items():
        key = tuple(f"{k} {v}" for k, v in cell.items() if k != "seed")
        found = state(job.folder)
        rows.setdefault(key, []).append(failed.get(name, "missing") if found is None else found)
    for key, results in rows.items():
        print_line(f"{', '.join(key) or 'all'}: {line(results)}")
    return int(any(isinstance(found, str) for results in rows.values() for found in results))


def state(folder: Path) -> float | str | None:
    """A run's test accuracy; why it can't go on; None of one that is not over."""
    if (folder / run_folder.SERIES).exists():
        record = run_folder.read_series(folder)
    elif (folder / run_folder.RUN).exists():
        record = run_folder.read_run(folder)
    else:
        return None
    if record["result"] is not None:
        return record["result"]["test_accuracy"]
    failure = record.get("failure") or {}
    return failure["text"] if failure.get("kind") == NotFinite.kind else None


def line(results: list[float | str]) -> str:
    """A row of the table: mean and spread of the seeds that ended, and what of the others."""
    good = [found for found in results if not isinstance(found, str)]
    parts = []
    if good:
        spread = f" ± {statistics.stdev(good):.4f}" if len(good) > 1 else ""
        parts.append(f"test accuracy {statistics.fmean(good):.4f}{spread}")
    if len(results) > 1:
        parts.append(f"{len(good)} of {len(results)} seeds")
    return "; ".join(parts + [f"failed: {found}" for found in results if isinstance(found, str)])
