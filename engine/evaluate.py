"""Accuracy of a finished or running run, its confusion table and its classes one by one.

    python -m engine.evaluate runs/fitnet4-lsuv-20250101-120000
    python -m engine.evaluate RUN --device numpy --data-dir /data
    python -m engine.evaluate RUN --data FOLDER    # its folder of images, where that lies now
    python -m engine.evaluate RUN --data OTHER     # other images of its classes, by their names

Of other data those for testing are scored, or all where a folder holds nothing but class folders;
they are preprocessed as the run's own were.

Read next: engine/scoring.py, then engine/predict.py, the same from Python on images of one's own.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import engine
from engine.cli import options
from engine.cli.command import Parser, run_command
from engine.cli.messages import data_line, log_line, passes_line, print_line
from engine.cli.settings import Settings
from engine.data import labelled
from engine.data.dataset import Split
from engine.data.feed import Resident
from engine.errors import InputError, printable, some
from engine.run import checkpoint
from engine.run import folder as run_folder
from engine.run.session import data_of
from engine.scoring import score, table
from engine.train import KNOWN
from models import weights


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="engine.evaluate", description=__doc__.split("\n\nRead next")[0])
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder; the run may still be going on")
    add("--device", default="auto", help="auto | cuda | cpu | numpy (default: auto)")
    add("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    add("--data", metavar="DATA", help="default: the one the run was given")
    add("--data-dir", metavar="DIR", help="likewise")
    add("--passes", type=int, metavar="N", help=options.PASSES)
    add("--follow-links", action="store_const", const=True, help="out of a folder of images")
    args = parser.parse_args(argv)
    options.check(args, KNOWN)
    options.refuse_auto(args)
    args.run = run_folder.run_in(weights(args.run))
    record, where = run_folder.read_run(args.run), Path(args.run) / run_folder.RUN
    s = Settings.from_dict(record["settings"], where, KNOWN)
    model, _, saved, _ = engine.restored(args.run, args.device, args.threads, print_line)
    typed = ("data", "data_dir", "follow_links")
    given = {name: getattr(args, name) for name in typed if getattr(args, name) is not None}
    images, name, other = to_score(replace(s, **given), "data" in given, model, saved, where)
    ops = model.net.ops
    print_line(f"net {s.net}  act {s.act}  init {s.init}  {data_line(name)}")
    print_line(f"{ops.why}; {ops.description}")
    print_line(f"checkpoint {saved.path}, step {saved.step} of {s.steps}")
    passes = s.passes if args.passes is None else args.passes
    scores = score(model.net, Resident(model.net, images, model.preprocessing), passes=passes)
    assert scores is not None  # nothing asks it to stop
    print_line(table(scores.confusion, list(map(printable, model.classes))))
    if scores.unscored:
        print_line(
            f"{scores.unscored} images had scores that are not finite, first in "
            f"{scores.where}, and count as wrong"
        )
    if passes > 1:
        print_line(passes_line(scores, passes))
    print_line(
        f"test accuracy {scores.accuracy:.4f}  error {1 - scores.accuracy:.4f}  "
        f"loss {scores.loss:.4f}  epochs {saved.epoch:g}  device {ops.name}  "
        f"{data_line(name)}{other}"
    )
    return 0


def to_score(s: Settings, told: bool, model, saved, where: Path) -> tuple[Split, str, str]:
    """The test images of the run's own data, or of other data where the command line says so (told)
    -> (images, the data's name, what there is to say of other data)."""
    try:
        data = data_of(s, model.in_shape, told)
    except InputError:  # a folder of test images alone, say
        if not (told and os.path.isdir(os.path.expanduser(s.data))):
            raise
    else:
        own = data.fingerprint == saved.data["fingerprint"]
        if own or not told:
            checkpoint.refuse_others(saved, s.as_dict(), run_folder.describe(data))
            s.must_fit(data, where)
            return data.test, data.name, ""
    raw, name, notes = labelled(s.data, s.data_dir, model.in_shape, log_line, s.follow_links)
    held = np.bincount(raw.test_labels, minlength=len(raw.classes))
    if unknown := [
        repr(name)
        for name, count in zip(raw.classes, held, strict=True)
        if count and name not in model.classes
    ]:
        raise InputError(
            f"data {name}: classes that the run does not know ({some(unknown)}); it knows "
            f"{some(map(repr, model.classes))}"
        )
    known = {name: label for label, name in enumerate(model.classes)}
    labels = np.array([known.get(name, -1) for name in raw.classes], np.int32)[raw.test_labels]
    for note in notes:
        print_line(f"note: {note}")
    if missing := sorted(set(range(len(model.classes))) - set(labels.tolist())):
        print_line(
            f"note: no images of {len(missing)} class{'es' * (len(missing) > 1)} "
            f"({some(repr(model.classes[label]) for label in missing)})"
        )
    shift, scale = model.preprocessing.normalise(raw.test_images)
    other = f", which is other data than the run's own, {saved.data['name']}"
    return Split(raw.test_images, labels, shift, scale), name, other


if __name__ == "__main__":
    sys.exit(run_command("engine.evaluate", main))
