"""A trained cell: engine.train in a process of its own, with a run folder a seed.

The folder's name is the run's settings, so the same run serves every table and figure that wants
it, is continued where it was stopped, and is not trained twice. When the budget is over the run is
asked to stop; it saves, and its cell is marked with the epochs that it has.

A run has failed to converge, n/c, if its loss stopped being finite, or if at its end the test
accuracy is at most twice that of guessing (20 % of ten classes, 2 % of a hundred), or, of two
classes, halfway from guessing to perfect.

Read next: bench/paper/claims.py.
"""

import hashlib
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import models
from bench.paper.printed import NC
from bench.paper.rows import AGREES, CUT, DIFFERS, NO_VALUE, OFF, OK, OTHER, Row, mean_and_spread
from bench.paper.study import Cell, Progress, Study
from engine.cli.options import HINT_EPOCHS
from engine.data import NAMES
from engine.errors import InputError, NotFinite, RunError
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.run import checkpoint
from engine.run import folder as runs
from kernels import ops_for
from models.recipes import recipe

GUESSING = 2  # times the accuracy of guessing is still n/c
# How far our mean may be from the paper's single run: in points, or two standard errors of ours.
POINTS = {"cifar10": 0.5, "cifar100": 1.0, "mnist": 0.1}
NARROW = ("fitnet4", "fitresnet4")  # trained in bf16 unless told otherwise: faster there


@dataclass(frozen=True)
class Run:
    """What engine.train is told beside the recipe. more: further options, ("lsuv_batch", 16).
    teacher: a run that it learns from; hints: from which of its layers first, as --hints has it."""

    net: str
    act: str
    init: str
    data: str = "cifar10"
    loss: str = "softmax"
    optimizer: str | None = None
    more: tuple[tuple[str, object], ...] = ()
    share: float = 1.0  # of the recipe's epochs
    teacher: "Run | None" = None
    hints: str | None = None
    averaged: bool = False  # its accuracy is that of all passes at the end

    @property
    def hint_epochs(self) -> float:
        """Those of the stage before the recipe's."""
        return HINT_EPOCHS if self.hints else 0.0

    @property
    def taught(self) -> str:
        """The teacher in a name, or in a line."""
        if self.teacher is None:
            return ""
        layers = f" hints {self.hints.replace(':', ' ')}" if self.hints else ""
        return f"teacher {self.teacher.net}{layers}"


def epochs_of(run: Run, kind: str) -> float:
    """Those of the whole recipe, with the hints'."""
    whole = recipe(run.net, run.act, run.init, kind, run.optimizer).all_epochs
    return whole + run.hint_epochs


@dataclass(frozen=True)
class Planned:
    """A Run under a study's recipe, epochs and precision."""

    run: Run
    kind: str
    epochs: float
    precision: str

    @property
    def full(self) -> float:
        """The epochs of the whole recipe."""
        return epochs_of(self.run, self.kind) * self.run.share

    @property
    def whole(self) -> bool:
        return abs(self.epochs - self.full) < 1e-9 * self.full

    @property
    def name(self) -> str:
        """The run folder's name: the settings, each in its place."""
        r = self.run
        more = [f"{key.replace('_', '-')}-{value}" for key, value in r.more]
        parts = [
            r.net,
            r.act,
            r.init,
            *([] if r.loss == "softmax" else [r.loss]),
            *([r.optimizer] if r.optimizer else []),
            *more,
            *([r.taught.replace(" ", "-")] if r.teacher else []),
            slug(r.data),
            self.kind,
            *([] if self.whole and r.share == 1 else [f"{self.epochs:g}ep"]),
            *([] if self.precision == "fp32" else [self.precision]),
        ]
        return "-".join(parts)

    @property
    def arguments(self) -> list[str]:
        """engine.train's, without seed, folder, device."""
        r = self.run
        found = [
            "--net",
            r.net,
            "--act",
            r.act,
            "--init",
            r.init,
            "--data",
            r.data,
            "--loss",
            r.loss,
            "--recipe",
            self.kind,
            "--precision",
            self.precision,
        ]
        if r.optimizer:
            found += ["--optimizer", r.optimizer]
        hinted = r.hint_epochs * self.epochs / self.full
        if r.hints:
            found += ["--hints", r.hints, "--hint-epochs", repr(hinted)]
        if not (self.whole and r.share == 1):
            found += ["--epochs", repr(self.epochs - hinted)]
        for key, value in r.more:
            found += [f"--{key.replace('_', '-')}", str(value)]
        return found

    @property
    def words(self) -> str:
        """The settings in a line."""
        r = self.run
        more = [f"{key.replace('_', '-')} {value}" for key, value in r.more]
        return ", ".join(
            [
                r.net,
                r.act,
                r.init,
                r.loss,
                *([r.optimizer] if r.optimizer else []),
                *more,
                *([r.taught] if r.teacher else []),
                Path(r.data).name,
                f"{self.kind} recipe",
                self.precision,
            ]
        )


def slug(data: str) -> str:
    """A data set in a folder's name: a folder of images by its last part and a mark of where it
    lies."""
    if data in NAMES:
        return data
    place = hashlib.sha256(str(Path(data).resolve()).encode()).hexdigest()[:8]
    return f"{Path(data).resolve().name}-{place}"


def plan(study: Study, run: Run) -> Planned:
    kind, epochs = study.recipe, study.epochs
    full = epochs_of(run, kind)
    precision = study.precision
    if precision is None:
        narrow = run.net.startswith(NARROW) and "bf16" in study.ops.precisions
        precision = "bf16" if narrow else "fp32"
    epochs = full if epochs is None else min(epochs, full)
    return Planned(run, kind, epochs * run.share, precision)


@dataclass
class Outcome:
    """What a run folder holds; of several stages, the last one that is trained. rows: of
    metrics.csv. failed: of a run that can't go on because its loss is not finite, the line that
    says so, else empty. before, later: epochs of the stages before it and behind it."""

    folder: Path
    record: dict
    rows: list[dict]
    failed: str
    before: float = 0.0
    later: float = 0.0

    @property
    def finished(self) -> bool:
        return self.record["result"] is not None and not self.later

    averaged: bool = False

    @property
    def accuracy(self) -> float | None:
        if self.averaged and self.finished:
            return self.record["result"]["test_accuracy"]
        return self.rows[-1]["test_accuracy"] if self.rows else None

    @cached_property
    def epochs(self) -> float:
        """Those that were trained; of a run cut within its first, by its checkpoint's step."""
        if self.record["result"] is not None:
            return self.before + self.record["settings"]["epochs"]
        if self.rows or runs.untrained(self.folder):
            return self.before + (float(self.rows[-1]["epoch"]) if self.rows else 0.0)
        done = checkpoint.read(self.folder).step * self.record["settings"]["batch"]
        return self.before + done / self.record["data"]["train_images"]

    @property
    def converged(self) -> bool:
        """False for a run that is over and is n/c; of one that goes on nothing is said yet."""
        guess = 1 / len(self.record["data"]["classes"])
        least = min(GUESSING * guess, (1 + guess) / 2)
        return not self.failed and (not self.finished or self.accuracy > least)


def outcome(folder: Path) -> Outcome | None:
    """None where no run has begun."""
    run, before, later = runs.run_in(folder), 0.0, 0.0
    if not (run / runs.RUN).exists():
        return None
    record = runs.read_run(run)
    failure = record.get("failure") or {}
    failed = failure["text"] if failure.get("kind") == NotFinite.kind else ""
    if run != folder:
        series, k = runs.read_series(folder), record["settings"]["stage"]
        epochs = [stage["settings"]["epochs"] for stage in (series, *series["later"])]
        before, later = sum(epochs[: k - 1]), sum(epochs[k:])
    return Outcome(run, record, runs.read_metrics(run), failed, before, later)


def folder_of(study: Study, planned: Planned, seed: int) -> Path:
    return study.folder / planned.name / f"seed{seed}"


def folders_of(study: Study, planned: Planned, seeds: int) -> tuple[Path, ...]:
    """The folders of its runs, and of their teachers'."""
    own = tuple(folder_of(study, planned, seed) for seed in range(seeds))
    if planned.run.teacher is None:
        return own
    return folders_of(study, plan(study, planned.run.teacher), seeds) + own


def train(study: Study, planned: Planned, seed: int, report) -> Outcome | None:
    """Train, or go on training, while there is time -> what the folder holds then.

    report(line, epochs done) hears of every epoch. RunError where engine.train fails for another
    reason than a loss that is not finite."""
    folder = folder_of(study, planned, seed)
    there = outcome(folder)
    if there is not None:
        check(there, planned, seed)
        if there.finished or there.failed:
            return there
    if study.left <= 0:
        return there
    options = (
        ["--resume", str(folder)]
        if there is not None or (folder / runs.SERIES).exists()
        else [*planned.arguments, "--seed", str(seed), "--out", str(folder)]
    )
    if planned.run.teacher and options[0] != "--resume":
        known = train(study, plan(study, planned.run.teacher), seed, report)
        if known is None or not known.finished:
            return None
        options += ["--teacher", str(known.folder)]
    options += ["--device", study.device] if there is None or study.device != "auto" else []
    for name in ("threads", "data_dir"):
        if getattr(study, name) is not None:
            options += [f"--{name.replace('_', '-')}", str(getattr(study, name))]
    # Apart from this terminal's signals: Ctrl-C comes to us alone, and we ask the run once.
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.train", *options],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    over: list[bool] = []
    timer = threading.Timer(max(study.left, 0.01), lambda: (over.append(True), process.terminate()))
    if study.left < float("inf"):
        timer.daemon = True
        timer.start()
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True)
    reader.start()
    try:
        past = before = 0  # epochs of the stages that end here, and the last line's
        for line in process.stdout:
            if line.startswith("epoch "):
                number = int(line.split()[1].split("/")[0])
                past, before = past + before * (number < before), number
                report(line.strip(), past + number)
        code = process.wait()
    except BaseException:
        process.terminate()  # it finishes its step and saves
        process.wait()
        raise
    finally:
        timer.cancel()
        process.stdout.close()
        reader.join()
        process.stderr.close()
    message = errors[-1].strip().removesuffix(", or take --data synthetic") if errors else ""
    there = outcome(folder)
    if code == 0 or (over and code in (143, -signal.SIGTERM)) or (there and there.failed):
        return there
    raise (InputError if code == 2 else RunError)(
        f"{planned.name} seed {seed}: {message or f'ended with exit code {code}'}"
    )


def check(there: Outcome, planned: Planned, seed: int) -> None:
    """InputError where the folder holds another run than its name says."""
    r, settings = planned.run, there.record["settings"]
    wanted = {
        "net": r.net,
        "act": r.act,
        "init": r.init,
        "loss": r.loss,
        "recipe": planned.kind,
        "precision": planned.precision,
        "seed": seed,
        "limit": None,
    }
    for key, value in {**wanted, **dict(r.more)}.items():
        if settings.get(key, value) != value:
            raise InputError(
                f"{there.folder}: its {key} is {settings[key]}, not {value}; move it "
                "away, or give another --folder"
            )
    epochs = there.before + settings["epochs"] + there.later
    if abs(epochs - planned.epochs) > 1e-9 * planned.epochs:
        raise InputError(
            f"{there.folder}: a run of {epochs:g} epochs, not "
            f"{planned.epochs:g}; move it away, or give another --folder"
        )


@cache
def multiply_adds(net: str, act: str) -> int:
    """Of one image's forward pass: what a cell costs."""
    layers, shape = models.build(net, act, 10), models.NETS[net].in_shape
    chain = Net(layers, SoftmaxLoss(), ops_for("numpy"), shape, 1).chain
    return sum(layer.multiply_adds for layer in chain.leaves())


def cell(
    study: Study,
    table: str,
    row: str,
    column: str,
    paper,
    run: Run,
    seeds: int = 1,
    error: bool = False,
    note: str = "",
    options: Sequence[str] = (),
) -> Cell:
    """A cell of a table: `seeds` runs, and their mean accuracy in %, or error in %.

    options: what else `bench.paper TABLE` is given to measure it again."""
    planned, seeds = plan(study, run), study.seeds or seeds
    unit = "% error" if error else "% accuracy"
    rerun = study.command(table, *options, *settings_options(study, seeds))
    more = {
        "of_epochs": planned.full,
        "settings": f"{planned.words}, {seeds} seed{'s' if seeds > 1 else ''}",
        "rerun": rerun,
    }

    def measure(progress: Progress) -> list[Row]:
        outcomes = []
        for seed in range(seeds):

            def report(line, epoch, seed=seed):
                progress.say(
                    f"seed {seed}, {line}", (seed + min(epoch / planned.epochs, 1)) / seeds
                )

            outcomes.append(train(study, planned, seed, report))
        return [summary(study, table, row, column, paper, unit, planned, outcomes, more, note)]

    return Cell(
        None,
        f"{table} {row}, {column}",
        seeds * planned.epochs * multiply_adds(run.net, run.act),
        measure,
        [study.row(table, row, column, paper, unit, **more)],
        folders_of(study, planned, seeds),
    )


def settings_options(study: Study, seeds: int) -> list[str]:
    """The options of this invocation that decide a trained cell's value."""
    found = [f"--seeds {seeds}", f"--recipe {study.recipe}"]
    if study.epochs is not None:
        found.append(f"--epochs {study.epochs!r}")
    if study.precision is not None:
        found.append(f"--precision {study.precision}")
    return found


def summary(
    study: Study,
    table: str,
    row: str,
    column: str,
    paper,
    unit: str,
    planned: Planned,
    outcomes: list[Outcome | None],
    more: dict,
    note: str = "",
) -> Row:
    """The row of a cell's runs, one a seed; None or no epoch where a run has nothing yet."""
    outcomes = [o and replace(o, averaged=planned.run.averaged) for o in outcomes]
    begun = [o for o in outcomes if o is not None and (o.epochs or o.failed)]
    if not begun:
        return study.row(table, row, column, paper, unit, **more)
    scored = [o for o in begun if o.rows or o.failed]
    good = [o for o in scored if o.converged]
    values = [100 * (1 - o.accuracy if unit == "% error" else o.accuracy) for o in good]
    ours, spread = mean_and_spread(values) if values else (NC if scored else None, None)
    notes = [note] if note else []
    if len(begun) < len(outcomes):
        notes.append(f"{len(begun)} of {len(outcomes)} seeds")
    if good and len(good) < len(scored):
        notes.append(f"{len(scored) - len(good)} of {len(scored)} seeds n/c")
    notes += sorted({o.failed.split(";")[0] for o in begun if o.failed})
    done = len(begun) == len(outcomes) and all(o.finished or o.failed for o in begun)
    return study.row(
        table,
        row,
        column,
        paper,
        unit,
        **{
            **more,
            "ours": ours,
            "spread": spread,
            "seeds": values,
            "epochs": min(o.epochs for o in begun),
            "verdict": judge(planned, paper, ours, values, done, len(good) < len(scored)),
            "note": "; ".join(notes),
            "date": begun[-1].record["started"][:10],
            "machine": ran_on(begun[-1].record),
        },
    )


def judge(
    planned: Planned, paper, ours, values: list[float], done: bool, failures: bool = False
) -> str:
    """The verdict on a cell: of numbers only where the whole paper recipe was run.

    ours: the mean of the seeds that trained, or n/c. failures: whether a seed is n/c."""
    if not done or not planned.whole:
        return CUT
    if planned.kind != "paper":
        return OTHER
    if paper is None or planned.run.data not in POINTS:  # other images than the paper's
        return NO_VALUE
    if NC in (paper, ours):
        return AGREES if paper == ours else DIFFERS
    if isinstance(paper, str):  # that it trains
        return DIFFERS if failures else AGREES
    if failures:
        return OFF
    spread = mean_and_spread(values)[1] or 0.0
    bound = max(POINTS[planned.run.data], 2 * spread / len(values) ** 0.5)
    return OK if abs(ours - paper) <= bound else OFF


def ran_on(record: dict) -> str:
    """The machine of a run, from its own record."""
    versions = record["versions"]
    return (
        f"device {record['device']} ({record['device_description']}), Python "
        f"{versions['python']}, numpy {versions['numpy']}"
    )
