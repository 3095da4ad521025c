"""Does LSUV help? Four nets without batch normalisation on CIFAR-10, trained in PyTorch on a CPU.

    python -m bench.torch_lsuv study --data-dir FOLDER --package FOLDER --json FILE --plot FILE

Each net begins with PyTorch's own weights, with those of the package lsuv, and with ours, from
three seeds; all else is the same: images, their order, optimizer and rate. The rates of the four
were set down before the first run and not tuned; the 30 layers at a tenth of theirs were added
after the first two cells, PyTorch's and the package's, had learnt nothing at 0.01.

A cell is a net, an initialiser and a seed. It is written as soon as it is done and not run again;
all cells of seed 0 come first, and a cell that is stopped leaves nothing. 2,500 images and five
epochs show how training begins, not how it ends.

Read next: bench/torch_lsuv/cell.py.
"""

import json
import os
import statistics
from importlib import metadata
from pathlib import Path

from bench.common.contest import Contestant, Refused, Setting, close
from bench.common.machine import write
from bench.paper.page.plots import save
from bench.peers import torch_missing
from bench.torch_lsuv.package import INSTALL, version_in
from engine.cli.command import Parser
from engine.errors import InputError, choose
from kernels import ops_for

SETTINGS = {
    "images": 2500,  # of CIFAR-10's training set, classes in turn
    "judged": 1000,  # of them, that the loss is of
    "init_images": 250,
    "epochs": 5,
    "batch": 25,
    "momentum": 0.9,
    "adamw": ["small ViT"],  # the others SGD
    "rates": {  # falling linearly to 0
        "VGG-like": 0.01,
        "plain, 30 layers": 0.01,
        "ResNet-20, no norm": 0.01,
        "small ViT": 0.001,
        "plain, 30 layers, slow": 0.001,
    },
}
NETS = tuple(SETTINGS["rates"])
INITS = {"default": "PyTorch's default", "package": "package lsuv", "ours": "lsuv.torch"}
SEEDS = (0, 1, 2)
STYLES = {"default": ("#767676", ":"), "package": ("#d55e00", "--"), "ours": ("#0072b2", "-")}
KEY = ("net", "init", "seed")


def cells(inits) -> list[tuple[str, str, int]]:
    return [(net, init, seed) for seed in SEEDS for net in NETS for init in INITS if init in inits]


def done(path: Path, settings: dict) -> list[dict]:
    """The rows of the file that have losses; InputError where they are of other settings."""
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    if found["settings"] != settings:
        raise InputError(
            f"{path}: holds cells of other settings; give another --json, or remove it"
        )
    return [row for row in found["rows"] if "losses" in row]


class Places:
    """The processes that train: the package has one of its own, the other inits share one."""

    def __init__(self, entry: Setting, **options):
        self.entry, self.options, self.open = entry, options, {}

    def trained(self, cell: tuple[str, str, int]) -> dict:
        """A cell's row: `losses`, before the first epoch and after each (none after one that is
        not finite), or `error`, why there are none."""
        row, package = dict(zip(KEY, cell, strict=True)), cell[1] == "package"
        try:
            if package not in self.open:
                self.open[package] = Contestant(
                    cell[1], "bench.torch_lsuv.cell:Cell", self.entry, **self.options
                )
            return row | {"losses": self.open[package].ask("train", *cell)}
        except Refused as error:
            if package in self.open:
                self.open.pop(package).close()
            return row | {"error": str(error)}

    def close(self) -> None:
        close(self.open.values())


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="bench.torch_lsuv study", description=__doc__.split("\n\nRead next")[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="the cells; gone on with")
    parser.add_argument("--plot", metavar="FILE", help="draw them, as PNG")
    parser.add_argument("--data-dir", help="where CIFAR-10 lies")
    parser.add_argument("--package", metavar="FOLDER", help=f"the package lsuv: {INSTALL}")
    parser.add_argument("--inits", default=",".join(INITS), help=f"which ({','.join(INITS)})")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (1)")
    options = parser.parse_args(arguments)
    inits = [choose("init", name, INITS) for name in options.inits.split(",")]
    if why := torch_missing("cpu"):
        raise InputError(f"{why}; pip install torch")
    peers = {"torch": metadata.version("torch")}
    if options.package:
        peers["lsuv (PyPI)"] = version_in(options.package)
    elif "package" in inits:
        raise InputError(f"--package FOLDER is missing; {INSTALL}, or --inits default,ours")
    path, ops = Path(options.json), ops_for("auto", options.threads)
    rows = done(path, SETTINGS)
    places = Places(
        Setting(options.threads, ops.name),
        settings=SETTINGS,
        data_dir=options.data_dir,
        package=options.package,
    )
    try:
        for cell in cells(inits):
            if not any(tuple(row[key] for key in KEY) == cell for row in rows):
                rows.append(places.trained(cell))
                part = path.with_name(path.name + ".part")
                write(part, ops, rows, peers=peers, settings=SETTINGS)
                os.replace(part, path)
                show(rows[-1])
    finally:
        places.close()
        if options.plot and rows:
            draw(rows, SETTINGS, Path(options.plot))
    print(f"{len(rows)} of {len(cells(INITS))} cells are done")
    return 0


def show(row: dict) -> None:
    text = row.get("error") or "  ".join(
        "not finite" if loss is None else f"{loss:.3f}" for loss in row["losses"]
    )
    print(f"{row['net']:<24}{INITS[row['init']]:<20}seed {row['seed']}  {text}", flush=True)


def draw(rows: list[dict], settings: dict, path: Path) -> None:
    save(drawn(rows, settings), path, dpi=160)


def drawn(rows: list[dict], settings: dict):
    """A panel a net, one below the other: each seed thin, by epoch; their mean thick, of those
    whose losses are all finite, and in the title how many there are where some are missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot needs matplotlib; pip install -e '.[bench]'") from None
    figure = Figure(figsize=(4.5, 2.3 * len(NETS) + 0.9), layout="constrained")
    grid = figure.subplots(len(NETS), sharex=True)
    for axes, net in zip(grid, NETS, strict=True):
        missing = []
        for init, label in INITS.items():
            own = [r for r in rows if (r["net"], r["init"]) == (net, init)]
            curves = [r["losses"] for r in own if "losses" in r]
            colour, dash = STYLES[init]
            for curve in curves:
                axes.plot(
                    [loss or float("nan") for loss in curve],
                    dash,
                    color=colour,
                    alpha=0.4,
                    linewidth=0.9,
                )
            whole = [c for c in curves if None not in c]
            if whole:
                mean = [statistics.mean(at) for at in zip(*whole, strict=True)]
                axes.plot(
                    mean, dash, color=colour, linewidth=2.2, label=label, marker="o", markersize=3.5
                )
            if len(whole) < len(SEEDS):
                missing.append(f"{label}: {len(whole)} of {len(SEEDS)} seeds")
        axes.set_title("\n".join([net, *missing]), fontsize=11)
        axes.set_ylabel("training loss", fontsize=10)
        axes.grid(color="0.85", linewidth=0.6)
        axes.set_xticks(range(settings["epochs"] + 1))
    grid[-1].set_xlabel("epoch", fontsize=10)
    handles = {
        label: line
        for axes in grid
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles,
        loc="outside upper center",
        ncols=3,
        fontsize=9,
        frameon=False,
        handlelength=2.4,
        columnspacing=1.2,
    )
    return figure
