"""Figures 4 and 5: CaffeNet and GoogLeNet on a folder of images, LSUV beside the original weights.

The loss of every step of the first epoch, and the test accuracy of each epoch. The paper has
ImageNet; any folder of images with train/CLASS and test/CLASS does.

Read next: bench/paper/page/__init__.py, which shows it all.
"""

import math
import shlex
import statistics
import time
from pathlib import Path

from bench.paper.figure1 import walk
from bench.paper.figure2_3 import curve
from bench.paper.page.figure import Figure, Series
from bench.paper.printed import NC
from bench.paper.rows import CUT, NO_VALUE, OFF, OTHER, Row, within
from bench.paper.study import Cell, Progress, Study
from bench.paper.training import Run, cell, multiply_adds, plan, settings_options
from engine.cli.messages import log_line
from engine.cli.options import resolve, train_parser
from engine.data import load
from engine.errors import InputError
from engine.train import KNOWN, assemble, first_weights

FLAT = 0.98  # of the loss of guessing: until there the loss is flat
IMAGENET = 1000  # classes: elsewhere the plateau is another one, not judged
FACTOR = 2.0
SILENCE = 30  # seconds between two lines on an epoch's progress
NETS = {"figure4": ("caffenet", "CaffeNet"), "figure5": ("googlenet", "GoogLeNet")}
INITS = {"LSUV": "lsuv", "original": "original"}
# Final accuracy in %, and epochs until the loss leaves its plateau, where the text gives them.
PAPER = {
    ("figure4", "flat loss"): {"LSUV": 0.05, "original": 0.5},
    ("figure5", "accuracy"): {"LSUV": 68.0, "original": 67.2},
}


def folder_run(study: Study, figure: str, init: str) -> Run:
    """InputError without a folder of images."""
    if study.data is None:
        raise InputError(
            f"{figure} wants --data FOLDER, a folder of images with train/CLASS/*.jpg "
            "and test/CLASS/*.jpg, such as ImageNet's"
        )
    more = () if study.batch is None else (("batch", study.batch),)
    return Run(NETS[figure][0], "relu", init, study.data, more=more)


def cells_of(study: Study, figure: str) -> list[Cell]:
    """Training with LSUV and with the net's original initialisation."""
    cells = []
    for column, init in INITS.items():
        run = folder_run(study, figure, init)
        cells += [
            first_epoch(study, figure, column, run),
            cell(
                study,
                figure,
                "accuracy",
                column,
                PAPER.get((figure, "accuracy"), {}).get(column),
                run,
                options=options_of(study),
            ),
        ]
    return cells


def options_of(study: Study) -> list[str]:
    """What else decides these cells."""
    batch = [] if study.batch is None else [f"--batch {study.batch}"]
    return [f"--data {shlex.quote(study.data)}", *batch]


def unmeasured(study: Study, figure: str) -> list[Row]:
    """The rows of a figure that was given no folder of images."""
    return [
        study.row(
            figure,
            row,
            column,
            PAPER.get((figure, row), {}).get(column),
            unit,
            rerun=study.command(figure, "--data FOLDER"),
            note="wants a folder of images",
        )
        for row, unit in (("flat loss", "epochs"), ("accuracy", "% accuracy"))
        for column in INITS
    ]


def first_epoch(study: Study, figure: str, column: str, run: Run) -> Cell:
    """The loss of every step of the first epoch, and when it leaves its plateau."""
    paper = PAPER.get((figure, "flat loss"), {}).get(column)
    planned = plan(study, run)
    key = f"{figure}-first-epoch-{planned.name}"
    more = {
        "of_epochs": 1.0,
        "rerun": study.command(figure, *options_of(study), *settings_options(study, 1)),
        "settings": f"{planned.words}; epochs until a mean of ten losses is below {FLAT:g} of ln "
        "classes",
    }

    def walked(progress: Progress) -> dict | None:
        """The losses; None where the budget ended the walk."""
        data = load(run.data, study.data_dir, size=KNOWN.nets[run.net].in_shape, report=log_line)
        args = train_parser(KNOWN, "").parse_args(planned.arguments)
        s, _ = resolve(args, KNOWN, data)[0]
        net, feed, optimizer = assemble(s, data, study.ops)
        first_weights(s, net, feed)
        steps = min(s.steps, len(data.train) // s.batch)
        spoke = [time.monotonic()]

        def goes_on(done: int) -> bool:
            if time.monotonic() - spoke[0] > SILENCE:
                spoke[0] = time.monotonic()
                progress.say(f"step {done} of {steps}", done / steps)
            return study.left > 0

        losses, _ = walk(net, feed, optimizer, s.policy, steps, look=False, until=goes_on)
        if study.left <= 0:
            return None
        return {
            "loss": losses,
            "steps": len(data.train) / s.batch,
            "walked": steps,
            "classes": len(data.classes),
            "date": study.today,
            "machine": study.machine,
        }

    def measure(progress: Progress) -> list[Row]:
        found = study.series(key)
        if found is None and study.left > 0:
            found = walked(progress)
            if found is not None:
                study.keep_series(key, found)
        if found is None:
            return blank
        flat = left_plateau(found["loss"], math.log(found["classes"]))
        epochs = found["walked"] / found["steps"]
        ours = NC if flat is None else flat / found["steps"]
        if found["walked"] + 1 <= found["steps"]:
            verdict = CUT
        elif planned.kind != "paper":
            verdict = OTHER
        elif found["classes"] != IMAGENET or paper is None:
            verdict = NO_VALUE
        else:
            verdict = OFF if ours == NC else within(ours, paper, FACTOR)
        return [
            study.row(
                figure,
                "flat loss",
                column,
                paper,
                "epochs",
                ours=ours,
                epochs=epochs,
                verdict=verdict,
                date=found["date"],
                machine=found["machine"],
                **more,
            )
        ]

    blank = [study.row(figure, "flat loss", column, paper, "epochs", **more)]
    return Cell(
        None, f"{figure} first epoch, {column}", 2 * multiply_adds(run.net, run.act), measure, blank
    )


def left_plateau(losses: list[float], guessing: float) -> int | None:
    """The first step after which ten losses on average are below FLAT of guessing's."""
    for step in range(10, len(losses) + 1):
        if statistics.fmean(losses[step - 10 : step]) < FLAT * guessing:
            return step
    return None


def draw(study: Study, figure: str) -> Figure | None:
    series = []
    for column, init in INITS.items():
        run = folder_run(study, figure, init)
        found = study.series(f"{figure}-first-epoch-{plan(study, run).name}")
        if found is not None:
            x = [(step + 1) / found["steps"] for step in range(len(found["loss"]))]
            series.append(Series(column, x, found["loss"], "loss in the first epoch"))
        series.append(curve(study, run, column, "test accuracy, %"))
    found = [s for s in series if s is not None]
    if not found:
        return None
    name = NETS[figure][1]
    return Figure(
        figure,
        f"{name}: LSUV and its original initialisation",
        "epoch",
        "loss, or test accuracy in %",
        found,
        caption=f"{name} on the images of {Path(study.data).resolve().name}.",
    )
