"""Pictures of runs, finished or not, as a PNG and as a page that needs no network:

    python -m engine.plot runs/fitnet4-lsuv-20250101-120000    # plot.png and plot.html in the run
    python -m engine.plot runs/first runs/second --out both.html

Learning curves, rate and images/s of all runs; and of each what its initialiser did to every layer,
the confusion table of its test images, and those 25 that it gets most wrong.

Read next: engine/plot/figures.py, then engine/plot/page.py.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import engine
from engine.cli import options
from engine.cli.command import Parser, run_command
from engine.cli.messages import log_line, print_line
from engine.cli.settings import Settings
from engine.data.dataset import Split
from engine.errors import InputError, printable
from engine.plot import figures, page
from engine.plot.figures import Shown, Worst
from engine.run import folder as run_folder
from engine.run.files import NUMBER, need, write_atomic
from engine.run.session import data_of
from engine.train import KNOWN

MOST = 10  # runs in a picture: as many colours are told apart
SHOWN = 25  # of the worst test images
ROW = {"layer": str, **dict.fromkeys(("variance_before", "variance_after"), (*NUMBER, type(None)))}


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="engine.plot", description=__doc__.split("\n\nRead next")[0])
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", help="run folders, of several seeds or stages, too")
    add(
        "--out",
        metavar="FILE",
        help="the page, which ends in .html; the PNG lies beside it (default: plot.html, in the "
        "run's folder if it is one run)",
    )
    add("--data", metavar="DATA", help="where the runs' data are now (default: as each was given)")
    add("--data-dir", metavar="DIR", help="likewise")
    add("--device", default="auto", help="auto | cuda | cpu | numpy (default: auto)")
    add("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    args = parser.parse_args(argv)
    given = args.runs
    del args.runs
    options.check(args, KNOWN)
    options.refuse_auto(args)
    folders = [folder for run in given for folder in run_folder.runs_in(run)]
    if len(folders) > MOST:
        raise InputError(f"{len(folders)} runs, and a picture has colours for {MOST}; give fewer")
    out = Path(args.out or (folders[0] / "plot.html" if len(folders) == 1 else "plot.html"))
    if args.out and (out.suffix != ".html" or out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--out {out}: give the name of a file that ends in .html, in a folder")
    figures.need_matplotlib()
    shown = [look_at(folder, args) for folder in folders]
    if len({one.name for one in shown}) < len(shown):  # seed0 of two series
        for one, folder in zip(shown, folders, strict=True):
            one.name = printable(str(folder))
    for path, content in (
        (out.with_suffix(".png"), figures.png(shown)),
        (out, page.html(shown).encode()),
    ):
        write_atomic(path, content)
        print_line(f"wrote {path}, {len(content):,} bytes")
    return 0


def look_at(folder: Path, args) -> Shown:
    """What there is to see of a run; notes say of what is missing why. InputError if it is none."""
    record = run_folder.read_run(folder)
    s = Settings.from_dict(record["settings"], folder / run_folder.RUN, KNOWN)
    shown = Shown(
        name=printable(folder.resolve().name),
        title=printable(f"{s.net} {s.act} {s.init}, data {record['data']['name']}, seed {s.seed}"),
        rows=run_folder.read_metrics(folder),
    )
    result = record["result"]
    if result is not None:
        shown.state = f"test accuracy {result['test_accuracy']:.4f} after {s.epochs:g} epochs"
    else:
        ended = ", and failed" if record.get("failure") else ""
        shown.state = f"not finished: {len(shown.rows)} of {s.epochs:g} epochs are over{ended}"
    try:
        shown.variances = variances(folder)
        if not shown.variances:
            shown.notes.append(f"init {s.init} measured no variances")
    except InputError as error:
        shown.notes.append(f"no variances: {printable(str(error))}")
    try:
        model = engine.restored(folder, args.device, args.threads, log_line)[0]
        place: dict[str, Any] = {
            "data": args.data or s.data,
            "data_dir": args.data_dir or s.data_dir,
        }
        data = data_of(replace(s, **place), model.in_shape, args.data is not None)
        run_folder.refuse_other_data(record, data, folder)
        mark(shown, model, data.test)
    except InputError as error:
        shown.notes.append(f"no test images: {printable(str(error))}")
    return shown


def variances(folder: Path) -> dict[str, tuple[float, float]]:
    """Layer to the variance of its output before and after, mean over its pieces; layers without a
    measurement are left out."""
    path = folder / run_folder.INIT
    report = need(run_folder.read_json(path), {"rows": list}, path)
    pieces: dict[str, list] = {}
    for row in report["rows"]:
        need(row, ROW, path)
        if row["variance_before"] is not None and row["variance_after"] is not None:
            values = (float(row["variance_before"]), float(row["variance_after"]))
            pieces.setdefault(printable(row["layer"]), []).append(values)
    return {name: tuple(np.mean(values, axis=0).tolist()) for name, values in pieces.items()}


def mark(shown: Shown, model, test: Split) -> None:
    """The confusion table, and the images whose own class has the least probability."""
    chances = model.predict(test.images)
    if not np.isfinite(chances).all():
        raise InputError("the net's scores are not finite")
    answers, rows = chances.argmax(axis=1), np.arange(len(chances))
    shown.classes = list(map(printable, model.classes))
    shown.confusion = np.zeros((len(model.classes),) * 2, np.int64)
    np.add.at(shown.confusion, (test.labels, answers), 1)
    wrong = rows[answers != test.labels]
    for k in wrong[np.argsort(chances[wrong, test.labels[wrong]], kind="stable")][:SHOWN]:
        label, answer = (shown.classes[int(c)] for c in (test.labels[k], answers[k]))
        shown.worst.append(Worst(test.images[k], label, answer, float(chances[k, answers[k]])))


if __name__ == "__main__":
    sys.exit(run_command("engine.plot", main))
