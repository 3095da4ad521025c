"""Tables 8 and 9 of the paper: the standard deviations of FitNet-4's weights after initialisation.

    python -m bench.lsuv --data cifar10 --seeds 5 --json bench/results/lsuv.json

Table 9 runs LSUV on CIFAR-10 as the authors did: training phase, dropout and augmentation on, the
input scale of the `paper` recipe. A cell is the mean over the seeds, and ok within a factor of 1.25
(tanh 1.10, conv11 1.03): the authors' own two runs of one column, in Table 8 and in Table 9, differ
by up to 23 % in a cell. Table 8's columns that need no data are ok within 5 %, but for three cells
that no such filler can give. Bounds are on the ratio ours / paper, whichever is larger.

Read next: lsuv/algorithm.py.
"""

import argparse
import sys
import time

import numpy as np

from bench.machine import write
from bench.paper_tables import TABLE_8, TABLE_8_SLIPS, TABLE_9
from engine.command import run_command
from engine.data import load
from engine.feed import Feed
from engine.losses import SoftmaxLoss
from engine.net import Net
from kernels import DeviceError, ops_for
from lsuv import fill, initialise
from models import build
from models.recipes import recipe

FACTOR, FACTOR_TANH, FACTOR_CONV11, FACTOR_8 = 1.25, 1.10, 1.03, 1.05


def within(act: str, layer: str, ratio: float) -> bool:
    """Whether a cell of Table 9 is reproduced; ratio = ours / paper."""
    bound = FACTOR_CONV11 if layer == "conv11" else FACTOR_TANH if act == "tanh" else FACTOR
    return 1 / bound <= ratio <= bound


def table_9_column(act: str, seeds: int = 5, batch: int = 128, mode: str = "same", ops=None,
                   data=None) -> tuple[dict[str, list[float]], float]:
    """{layer: weight deviation of each seed}, mean over a maxout layer's pieces; and the largest
    |variance - 1| of any layer's output, on the batch that it was brought to one on."""
    ops, data = ops or ops_for("auto"), data or load("cifar10")
    settings = recipe("fitnet4", act, "lsuv")
    found: dict[str, list[float]] = {}
    deviation = 0.0
    for seed in range(seeds):
        net = Net(build("fitnet4", act, 10), SoftmaxLoss(), ops, data.in_shape, batch, seed)
        feed = Feed(net, data, settings.move, settings.input_scale)
        report = initialise(net, "lsuv", feed.first_batches(), seed, act, mode=mode)
        for name, std in report.weight_std().items():
            found.setdefault(name, []).append(std)
        deviation = max(deviation, report.largest_deviation)
    return found, deviation


def table_8_column(init: str, seeds: int = 5, ops=None) -> dict[str, list[float]]:
    """{layer: weight deviation of each seed} with ReLU; the column is the filler of that name."""
    found: dict[str, list[float]] = {}
    net = Net(build("fitnet4", "relu", 10), SoftmaxLoss(), ops or ops_for("auto"), (32, 32, 3), 1)
    for seed in range(seeds):
        fill(net, init.lower(), seed, "relu")
        for layer in net.weighted():
            std = np.asarray(net.ops.tohost(layer.W), np.float64).std()
            found.setdefault(layer.name, []).append(float(std))
    return found


def cells(table: str, column: str, paper: dict[str, float], ours: dict[str, list[float]],
          good) -> list[dict]:
    """A JSON row for each cell. good(layer, ratio) -> bool; spread: deviation between seeds."""
    rows = []
    for layer, printed in paper.items():
        values = np.array(ours[layer])
        verdict = "ok" if good(layer, values.mean() / printed) else "off"
        if (column, layer) in TABLE_8_SLIPS:
            verdict = "typo"
        rows.append({"table": table, "row": layer, "column": column, "paper": printed,
                     "ours": float(values.mean()),
                     "spread": float(values.std(ddof=1)) if len(values) > 1 else None,
                     "verdict": verdict})
    return rows


def show(rows: list[dict]) -> None:
    first = rows[0]
    print(f"\n{first['table']}, {first['column']}")
    print(f"{'layer':<8}{'paper':>8}{'ours':>9}{'spread':>9}{'ratio':>8}  verdict")
    for row in rows:
        spread = "-" if row["spread"] is None else f"{row['spread']:.4f}"
        print(f"{row['row']:<8}{row['paper']:>8.3f}{row['ours']:>9.4f}{spread:>9}"
              f"{row['ours'] / row['paper']:>8.3f}  {row['verdict']}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.lsuv", description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="cifar10", help="data set of Table 9 (default: cifar10)")
    parser.add_argument("--data-dir", help="where its files are")
    parser.add_argument("--device", default="auto", help="auto | cpu | numpy")
    parser.add_argument("--threads", type=int, help="default: all")
    parser.add_argument("--seeds", type=int, default=5, help="runs a cell (default: 5)")
    parser.add_argument("--batch", type=int, default=128, help="images of LSUV (default: 128)")
    parser.add_argument("--lsuv-mode", default="same", help="same | fresh (default: same)")
    parser.add_argument("--json", metavar="FILE", help="write every cell there")
    options = parser.parse_args()
    if options.seeds < 1 or options.batch < 2:
        parser.error("--seeds must be at least 1 and --batch at least 2")
    ops = ops_for(options.device, options.threads)
    print(f"device {ops.name}: {ops.description}; {options.seeds} seeds, batch {options.batch}")
    data, rows, deviations = load(options.data, options.data_dir), [], {}
    for column, paper in TABLE_8.items():
        if column != "LSUV":  # a second run of Table 9's ReLU column, judged there
            ours = table_8_column(column, options.seeds, ops)
            rows += cells("Table 8", column, paper, ours,
                          lambda layer, ratio: 1 / FACTOR_8 <= ratio <= FACTOR_8)
            show(rows[-len(paper):])
    for act, paper in TABLE_9.items():
        start = time.perf_counter()
        ours, deviations[act] = table_9_column(act, options.seeds, options.batch,
                                               options.lsuv_mode, ops, data)
        rows += cells("Table 9", act, paper, ours,
                      lambda layer, ratio, act=act: within(act, layer, ratio))
        show(rows[-len(paper):])
        print(f"{(time.perf_counter() - start) / options.seeds:.1f} s a seed; every layer's output "
              f"variance within {deviations[act]:.3g} of 1")
    counts = {v: sum(row["verdict"] == v for row in rows) for v in ("ok", "off", "typo")}
    print(f"\n{len(rows)} cells: {counts['ok']} ok, {counts['off']} off, {counts['typo']} typos of "
          "the paper")
    write(options.json, ops, rows, seeds=options.seeds, batch=options.batch, data=data.name,
          mode=options.lsuv_mode, largest_variance_error=deviations)
    return 0


if __name__ == "__main__":
    sys.exit(run_command("bench.lsuv", main, (DeviceError,)))
