"""Writes README's tables and pictures from the JSON in bench/results/.

    python -m bench.report            rewrites what stands between the markers, and the pictures
    python -m bench.report --check    exit code 1 if README.md is not what the JSON says

Nothing between the markers is typed by hand. Each table names the machine, the versions and the
date of its own measurement.

Read next: bench/runs.py, which makes training.json out of run folders.
"""

import argparse
import json
import pathlib
import statistics
import sys

from bench.gpu.goals import goals
from bench.common.machine import RESULTS
from bench.paper.rows import OFF, VERDICTS, number, ours_of

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- report:begin -->", "<!-- report:end -->"
STYLES = {"lsuv": "-", "xavier": "--", "msra": ":", "ortho": "-."}


def read(name: str) -> dict | list | None:
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else None


def measured_on(found: dict) -> str:
    m = found["machine"]
    return (f"*{m['processor']}, {m['cores']} cores, device {m['device']} ({m['description']}), "
            f"Python {m['python']}, {m['versions']}, {m['date']}.*")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def fast_cifar(r: dict) -> bool:
    """A run of the `fast` recipe on all of CIFAR-10, finished or not."""
    return (r["data"], r["recipe"], r["limit"]) == ("cifar10", "fast", None)


def trained_on(training: dict, chosen) -> str:
    """The devices, versions and dates of the chosen runs, from the runs' own records."""
    rows = [r for r in training["rows"] if chosen(r)]
    devices = sorted({r["device"] for r in rows})
    dates = sorted({r["started"][:10] for r in rows})
    versions = rows[0]["versions"]
    return (f"*{training['machine']['processor']}, device {' and '.join(devices)}, Python "
            f"{versions['python']}, NumPy {versions['numpy']}, {' to '.join(dates)}; the machine "
            "was shared with other work, so for speed see the training step below.*")


def cifar(training: dict) -> str:
    rows = []
    for r in training["rows"]:
        if not fast_cifar(r):
            continue
        last, best = r["metrics"][-1], max(m["test_accuracy"] for m in r["metrics"])
        cut = "" if r["finished"] else f" of {r['epochs']:g}, cut short"
        rows.append([r["net"], r["act"], r["init"], f"{last['epoch']:g}{cut}",
                     f"{last['train_loss']:.3f}", f"{100 * last['test_accuracy']:.2f}",
                     f"{100 * best:.2f}"])
    if not rows:
        return ""
    return "\n".join([
        "### CIFAR-10, `fast` recipe", "",
        "One seed a row. The recipe's cosine spans the epochs given; the recipe has 20, and rows "
        "with fewer are runs of that length, not the full result. A row marked as cut short stands "
        "in the middle of its cosine. FitNet-1's rate was chosen among six three-epoch trials on "
        "15,000 images, all with LSUV and judged by test accuracy, so its rows are not tuned alike "
        "and the test set is not untouched; with one seed, differences of a percent say nothing. "
        "FitNet-4's rate was not searched.", "",
        table(["net", "act", "init", "epochs", "train loss", "test accuracy %", "best %"], rows),
        "",
        "![learning curves](bench/results/curves.png)", "", trained_on(training, fast_cifar)])


def precisions(found: dict) -> str:
    """A net's test errors in each precision, seed by seed."""
    rows = []
    nets = sorted({(r["net"], r["recipe"], f"{r['epochs']:g}") for r in found["rows"]})
    for net, kind, epochs in nets:
        for precision in ("fp32", "bf16"):
            runs = sorted((r for r in found["rows"] if r["finished"] and r["recipe"] == kind
                           and (r["net"], r["precision"]) == (net, precision)),
                          key=lambda r: r["seed"])
            errors = [100 * (1 - r["metrics"][-1]["test_accuracy"]) for r in runs]
            if errors:
                spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
                rows.append([f"{net}, {kind}, {epochs} epochs", precision,
                             f"{statistics.mean(errors):.2f}{spread}",
                             ", ".join(f"{error:.2f}" for error in errors)])
    return "\n".join([
        "### bf16 beside fp32", "",
        "Test error after training with the same seeds and settings, LSUV, maxout. Of the fp32 "
        "runs those of FitNet-MNIST and FitNet-1's first seed were made with oneDNN's direct "
        "convolutions, before there were our own. FitNet-1's fourth seed was added because bf16 "
        "was 0.4 points behind after three; a loss of a few tenths is not excluded.", "",
        table(["net", "precision", "error, %", "each seed"], rows), "",
        trained_on(found, lambda r: True)])


def curves(training: dict) -> None:
    """Test accuracy and training loss by epoch, one line a run, told apart without colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    runs = [r for r in training["rows"] if fast_cifar(r)]
    if not runs:
        return
    nets = sorted({r["net"] for r in runs})
    figure, axes = pyplot.subplots(2, len(nets), figsize=(4.6 * len(nets), 6), squeeze=False)
    for column, net in enumerate(nets):
        for run in (r for r in runs if r["net"] == net):
            epochs = [m["epoch"] for m in run["metrics"]]
            label = run["init"] + ("" if run["finished"] else " (cut short)")
            style = {"linestyle": STYLES.get(run["init"], "-"), "marker": ".", "label": label}
            accuracy = [100 * m["test_accuracy"] for m in run["metrics"]]
            axes[0, column].plot(epochs, accuracy, **style)
            axes[1, column].plot(epochs, [m["train_loss"] for m in run["metrics"]], **style)
        axes[0, column].set_title(f"{net}, CIFAR-10, fast recipe")
        axes[0, column].set_ylabel("test accuracy, %")
        axes[1, column].set_ylabel("training loss (log)")
        axes[1, column].set_yscale("log")
        for axis in axes[:, column]:
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
            axis.grid(alpha=0.3)
            axis.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "curves.png", dpi=110)


def speed() -> str:
    """The training step, from every step_*.json."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("step_*.json"))]
    if not found:
        return ""
    guards = [100 * f["guard"]["share"] for f in found if "guard" in f]
    guard = [f"Of our step {min(guards):.2f} to {max(guards):.2f} % at most go into finding a NaN "
             "or an infinity in loss and gradient: all that these two operations do, where it was "
             "measured (fp32)."] if guards else []
    return "\n\n".join(["### A training step", contest_text([contest(f) for f in found]), *guard,
                        *dict.fromkeys(measured_on(f) for f in found)])


def contest(found: dict) -> list[str]:
    """A net and precision: ours, the bound, the peer's fastest mode of each phase."""
    rows = found["rows"]

    def phase(name: str) -> tuple[dict, dict | None]:
        mine, *peers = [r for r in rows if r.get("phase") == name and "ratio" in r]
        return mine, min(peers, key=lambda r: r["ratio"], default=None)

    (ours, peer), (tested, test_peer) = phase("train"), phase("test")
    alone, direct = (f"{100 * r['share']:.0f}" for r in rows if "share" in r and "phase" in r)
    peaks = [r["peak_mb"] for r in rows if r.get("phase") == "train" and r.get("ratio")]
    best = (f"{peer['images_per_second']:,.0f} ({peer['name'].removeprefix('torch ')})"
            if peer else "")
    ratio = "{:.2f} ({:.2f} to {:.2f})".format(peer["ratio"], *peer["ratios"]) if peer else ""
    test_ratio = (f"{test_peer['ratio']:.2f} ({test_peer['name'].removeprefix('torch ')})"
                  if test_peer else "")
    return [f"{ours['net']}, {ours['act']}, {ours['precision']}", str(ours["batch"]),
            f"{ours['images_per_second']:,.0f}", best, ratio, alone, direct,
            f"{tested['images_per_second']:,.0f}", test_ratio, f"{ours['peak_mb']:,.0f}",
            f"{min(peaks):,.0f}" if peaks else ""]


def contest_text(rows: list[list[str]]) -> str:
    return "\n".join([
        "Gather, forward, loss, backward, clip and update, in images/s; PyTorch's column is the "
        "fastest of its modes (eager, channels_last, compile, both; and three ways to write a "
        "maxout) on the same net, at equal precision and threads, in turn with ours. A ratio is "
        "ours over PyTorch's, median and span of the rounds. The bounds are the step's "
        "convolutions done alone, in % of our step: by our own kernels, and all by oneDNN's direct "
        "ones, which no engine on that library can beat; above 100 our whole step takes less. Peak "
        "memory is a whole process's in training: ours holds the data set, PyTorch's, in the "
        "leanest of its modes, one batch.", "",
        table(["net", "batch", "ours", "PyTorch", "ratio", "convolutions alone, %",
               "by oneDNN, %", "evaluation", "ratio", "peak MB", "PyTorch's"], rows)])


def kernels(found: dict) -> str:
    """A row an operation: the first of its cases, as bench/kernels.py orders them."""
    cases: dict[str, dict[tuple[str, str], dict]] = {}
    for row in found["rows"]:
        of = cases.setdefault(row["op"], {})
        if row["case"] == next(iter(of.values()), row)["case"]:
            of[row["name"], row["precision"]] = row

    def both(by, name: str, text) -> str:
        """A figure in fp32 / bf16; one of them where there is only one."""
        found = [text(by[name, p]) for p in ("fp32", "bf16") if (name, p) in by]
        return " / ".join(found)

    def rate(row) -> str:
        return (f"{row['gflops']:,.0f} GFLOP/s" if "gflops" in row
                else f"{row['gbytes_per_second']:.0f} GB/s")

    def ratio(row) -> str:
        return f"{row['ratio']:.{1 if row['ratio'] >= 10 else 2}f}"

    rows = [[f"`{op}`", next(iter(by.values()))["case"], both(by, "ours", rate),
             both(by, "ours", lambda row: f"{row['share']:.2f}"),
             *(both(by, peer, ratio) for peer in ("numpy", "torch", "onednn direct"))]
            for op, by in cases.items()]
    limits = "; ".join(f"{precision} {c['copy_gbs']:.0f} GB/s and {c['product_gflops']:.0f} "
                       "GFLOP/s" for precision, c in found["ceilings"].items())
    return "\n".join([
        "### Every operation alone", "",
        "In fp32 / bf16. Each was compared with the reference in float64 before it was timed. "
        "Bytes are those that must move at least, and the share is of a copy of 256 MiB, or, of "
        f"what is counted in operations, of a large matrix product ({limits}). Arrays that fit the "
        "cache, and Winograd's convolutions, whose operations are counted as the plain ones', can "
        "exceed 1. × is the peer's time over ours, at equal precision and threads: NumPy's is the "
        "reference's (fp32), PyTorch's its own operation for the same, oneDNN's its convolution "
        "where ours is Winograd's. Every case is in `bench/results/kernels.json`.", "",
        table(["operation", "case", "rate", "share", "× NumPy", "× PyTorch", "× oneDNN"], rows),
        "", measured_on(found)])


def matrices(found: dict) -> str:
    """A row a matrix, a net, or LSUV whole: our seconds, the others' over ours, the paper's."""
    cases: dict[str, dict[str, dict]] = {}
    for row in found["rows"]:
        cases.setdefault(row["what"], {})[row["name"]] = row
    rows = [[what, f"{by['ours']['seconds']:.3g}",
             *(f"{by[peer]['ratio']:.1f}" if peer in by else ""
               for peer in ("torch orthogonal_", "numpy qr", "numpy svd")),
             f"{by['paper']['seconds']:g}" if "paper" in by else ""]
            for what, by in cases.items()]
    worst = max(row["error"] for row in found["rows"] if row["name"] == "ours")
    return "\n".join([
        "### Orthonormal initialisation", "",
        "A single matrix, all the matrices of a net of the paper's Table 6, and LSUV whole "
        "(matrices, and a pass over a batch: 128 images of FitNet-4, 32 of noise of the other "
        "two). × is the other's time over ours with as many threads; the SVD is what the authors "
        "use. The paper's seconds are another machine's. Of our matrices max |Q'Q - I| was at most "
        f"{worst:.1e}.", "",
        table(["matrix or net", "ours, s", "× PyTorch's `orthogonal_`", "× NumPy's QR",
               "× NumPy's SVD", "the paper, s"], rows), "", measured_on(found)])


def paper(rows: list[dict]) -> str:
    """How the paper's tables and figures came out, and its MNIST table, the one run in full."""
    verdicts = [v for v in VERDICTS if any(r["verdict"] == v for r in rows)]
    summary = []
    for name in dict.fromkeys(r["table"] for r in rows):
        cells = [r for r in rows if r["table"] == name]
        counts = (sum(r["verdict"] == v for r in cells) for v in verdicts)
        summary.append([name, str(len(cells)), *(str(n) if n else "" for n in counts)])
    mnist = [[r["row"], number(r["paper"], r["unit"], printed=True), ours_of(r),
              ", ".join(f"{value:.2f}" for value in r["seeds"]), r["verdict"]]
             for r in rows if r["column"] == "MNIST error"]
    off = "; ".join(f"{r['table']} {r['row']} {r['column']}: {ours_of(r)}, the paper "
                    f"{number(r['paper'], r['unit'], printed=True)}"
                    for r in rows if r["verdict"] == OFF)
    legend = "; ".join(f"*{v}*: {VERDICTS[v]}" for v in verdicts)
    parts = [
        "### The paper, table by table", "",
        "Every cell with the paper's number beside it, what it was judged by, how long it was "
        "trained and how to run it again is in [bench/results/paper/report.md]"
        "(bench/results/paper/report.md), and as one page in `bench/results/paper/report.html`. "
        f"Cells by verdict ({legend}):", "",
        table(["", "cells", *verdicts], summary), "",
        f"Outside their bounds: {off or 'none'}."]
    if mnist:
        parts += ["", "MNIST in full: FitNet-MNIST, maxout, RMSProp, 50,000 updates of 64 images; "
                  "error in % at the last one.", "",
                  table(["net", "paper", "ours", "each seed", "verdict"], mnist)]
    machines = sorted({r["machine"] for r in rows if r["machine"]})
    dates = sorted({r["date"] for r in rows if r["date"]})
    return "\n".join([*parts, "", f"*{dates[0]} to {dates[-1]}; {'; '.join(machines)}.*"])


def gpus() -> str:
    """Device cuda: a part for each GPU that was measured, or the goals where none was."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("gpu-*.json"))]
    if not found:
        rows = [[goal.what, goal.wanted] for goal in goals([])]
        return "\n".join([
            "### On a GPU", "",
            "Nothing has been measured on a GPU yet. These are goals, not results: what "
            "`python -m bench.gpu` will judge on an H100, against a device-to-device copy and "
            "PyTorch on the same card.", "", table(["goal", "wanted"], rows)])
    return "\n\n".join(map(gpu, found))


def gpu(found: dict) -> str:
    """What was measured on one GPU: the goals, the step, our kernels."""
    card, rows = found["gpu"], found["rows"]
    steps: dict[str, dict[str, dict]] = {}
    for row in rows:
        if row["section"] == "steps":
            steps.setdefault(row["name"], {})[row["precision"]] = row
    precisions = list(dict.fromkeys(p for by in steps.values() for p in by))
    step_rows = [[name, *(step_cell(by[p]) if p in by else "" for p in precisions)]
                 for name, by in steps.items()]
    kernel_rows = [[f"`{row['op']}`", row["case"], row["precision"],
                    f"{1e6 * row['seconds']:.1f}", f"{row['gbytes_per_second']:,.0f}",
                    f"{row['share']:.2f}", f"{row['share_of_equal']:.2f}"]
                   for row in rows if row["section"] == "kernels"]
    parts = [f"### On a GPU: {card['name']}",
             table(["goal", "wanted", "measured", ""],
                   [[g["what"], g["wanted"], g["found"], g["verdict"]] for g in found["goals"]])]
    if steps:
        first = next(row for row in rows if row["section"] == "steps")
        parts += [f"Images/s of a step of {first['net']}, batch {first['batch']}, `"
                  f"{first['recipe']}` recipe, everything in it from gather to update; in brackets "
                  "ours over the other's, median of the rounds. PyTorch's batch lies on the GPU "
                  "already.", table(["", *precisions], step_rows)]
    if kernel_rows:
        parts += ["Our kernels, each compared with the reference before it was timed, with a cold "
                  "cache. The share is of a large copy's "
                  f"{found['copy']['gbytes_per_second']:,.0f} GB/s, and of a copy that moves as "
                  "many bytes.",
                  table(["kernel", "case", "", "µs", "GB/s", "share", "of as many bytes"],
                        kernel_rows)]
    if found["failed"]:
        parts.append("Failed: " + "; ".join(f"{name}: {why}"
                                            for name, why in found["failed"].items()) + ".")
    m = found["machine"]
    return "\n\n".join([*parts, f"*{m['description']}, driver {card['driver'] or 'unknown'}, "
                                 f"{m['processor']}, Python {m['python']}, {m['versions']}, "
                                 f"{m['date']}.*"])


def step_cell(row: dict) -> str:
    ratio = "" if row["ratio"] is None else f" ({row['ratio']:.2f})"
    return f"{row['images_per_second']:,.0f}{ratio}"


def sections() -> str:
    parts = []
    if rows := read("paper/rows.json"):
        parts.append(paper(rows))
    if training := read("training.json"):
        parts.append(cifar(training))
    if found := read("precision.json"):
        parts.append(precisions(found))
    if found := read("init.json"):
        parts.append(matrices(found))
    parts.append(gpus())
    parts.append(speed())
    if found := read("kernels.json"):
        parts.append(kernels(found))
    return "\n\n".join(part for part in parts if part)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.report", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if they differ")
    options = parser.parse_args()
    text = README.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    new = f"{before}{BEGIN}\n{sections()}\n{END}{after}"
    if options.check:
        sys.exit("README.md differs from bench/results; run python -m bench.report"
                 if new != text else 0)
    README.write_text(new)
    if training := read("training.json"):
        curves(training)


if __name__ == "__main__":
    main()
