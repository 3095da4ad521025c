"""How long orthonormal initialisation takes, beside NumPy's QR and SVD and PyTorch's orthogonal_.

    python -m bench.init
    python -m bench.init --shapes 9216x4096,500x128 --nets fitnet4 --repeats 5
    python -m bench.init --full --json bench/results/init.json
    python -m bench.init --device cuda

Single matrices, then all the matrices of the paper's Table 6: FitNet-4 (maxout, a matrix a piece),
CaffeNet, GoogLeNet with its auxiliary classifiers; and LSUV whole (fill and pass), for FitNet-4 at
batch 128, for the other two at batch 32 on images of noise, since ImageNet is not there. The
paper's seconds are another machine's. The result is checked first: it must be the reference's
matrix, and orthonormal at every size, or nothing is timed. The makers take turns; seconds are
medians, ratio is theirs / ours, error is max |Q'Q - I| in float64. An SVD of the largest matrices
takes minutes, and only --full waits for it.

A matrix is timed from the call to its end, which the host waits for: cuSOLVER's verdict on a GPU is
read by the host, so that is how a user meets it. Beside a GPU only PyTorch takes part, on it.

Read next: bench/peers/orthonormal.py, the makers.
"""

import argparse
import os
import statistics
import sys
import time
from importlib import metadata

import numpy as np

import models
from bench.common.contest import Contestant, Refused, Setting, close
from bench.common.machine import refuse_emulated, write
from bench.paper.printed import TABLE_6
from bench.peers import torch_missing
from bench.peers.orthonormal import QUICK_SVD, available
from engine.cli.command import run_command
from engine.data import FOLDER, Dataset, Raw, build, load
from engine.data.feed import Feed
from engine.errors import InputError, RunError, choose
from engine.losses import SoftmaxLoss
from engine.net import Net
from kernels import ops_for
from kernels.orthonormal import orthonormal
from kernels.philox import WEIGHTS
from lsuv import initialise
from lsuv.fillers import piece_rows
from models.recipes import recipe

SHAPES = "9216x4096,4096x4096,128x1152,500x128"
CHECKED = [(1, 1), (500, 128), (128, 1152), (700, 601)]  # against the reference
LIMIT = 1e-6
MAKER = "bench.peers.orthonormal:Maker"
BATCH = {"fitnet4": 128, "caffenet": 32, "googlenet": 32}  # images of LSUV
NETS = tuple(TABLE_6)


def made(name: str, ops, batch: int) -> Net:
    """A net of the paper's Table 6, with its own activation and number of classes."""
    model = models.NETS[name]
    return Net(
        models.build(name, model.act, model.classes), SoftmaxLoss(), ops, model.in_shape, batch
    )


def shapes_of_net(name: str) -> list[tuple[int, int]]:
    """(outputs, inputs * height * width) of every matrix, of each maxout piece one, in order; of a
    convolution of g groups a row has the inputs of one."""
    net = made(name, ops_for("numpy"), 1)
    return [
        (len(layer.W[rows]), layer.W[0].size)
        for layer in net.weighted()
        for rows in piece_rows(layer)
    ]


def noise(name: str) -> Dataset:
    """Images of random bytes of the net's size, one LSUV batch of them and one to test."""
    shape, count, rng = models.NETS[name].in_shape, BATCH[name], np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count + 1, *shape), np.uint8), np.arange(count + 1) % 2
    labels = labels.astype(np.int32)
    raw = Raw(images[:count], labels[:count], images[count:], labels[count:], ["even", "odd"])
    return build("noise", raw, min(shape[:2]) // 4, True, None, [])


def check(ops) -> None:
    """RunError unless `ops` makes the reference's matrices."""
    for rows, cols in CHECKED:
        key = 0, WEIGHTS, 1
        difference = abs(
            ops.tohost(ops.orthonormal(rows, cols, key)) - orthonormal(rows, cols, key)
        ).max()
        if not difference <= LIMIT:
            raise RunError(
                f"device {ops.name}: {rows} x {cols} differs from the reference by "
                f"{difference:.2g}, more than {LIMIT:g}; nothing was timed"
            )


def judged(name: str, what: str, error: float) -> float:
    """The error; RunError where ours is not orthonormal."""
    if name == "ours" and not error <= LIMIT:
        raise RunError(
            f"{what}: max |Q'Q - I| is {error:.2g}, more than {LIMIT:g}; nothing more was timed"
        )
    return error


def compare(what: str, shapes, makers, repeats: int, full: bool) -> list[dict]:
    """A row a maker: median seconds of all the matrices `shapes`, the makers in turn."""
    chosen = list(makers)
    if not full and max(rows * cols * min(rows, cols) for rows, cols in shapes) > QUICK_SVD:
        chosen = [maker for maker in makers if maker.name != "numpy svd"]
        print(f"{what:<24}{'numpy svd':<20}left out, it takes minutes; --full waits for it")
    errors = {m.name: judged(m.name, what, m.ask("matrices", shapes, True)[1]) for m in chosen}
    times = {maker.name: [] for maker in chosen}
    for _ in range(repeats):
        for maker in chosen:
            times[maker.name].append(maker.ask("matrices", shapes)[0])
    seconds = {name: statistics.median(turns) for name, turns in times.items()}
    return [
        {
            "name": name,
            "what": what,
            "seconds": seconds[name],
            "ratio": seconds[name] / seconds["ours"],
            "error": errors[name],
        }
        for name in seconds
    ]


def lsuv_row(ops, name: str, data, repeats: int, batch: int | None = None) -> dict:
    """LSUV whole: orthonormal fill, then the pass over one batch, of BATCH images unless told."""
    act = models.NETS[name].act
    settings, net = recipe(name, act, "lsuv"), made(name, ops, batch or BATCH[name])
    feed = Feed(net, data, settings.move, settings.input_scale)
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        report = initialise(net, "lsuv", feed.first_batches(), 0, act)
        ops.synchronize()
        times.append(time.perf_counter() - start)
    return {
        "name": "ours",
        "what": f"{name} LSUV, {data.name}",
        "seconds": statistics.median(times[1:]),
        "ratio": 1.0,
        "error": max(row.orthogonality_error for row in report.rows),
    }


def paper_row(what: str, seconds: float, ours: float) -> dict:
    return {
        "name": "paper",
        "what": what,
        "seconds": seconds,
        "ratio": seconds / ours,
        "error": None,
    }


def show(rows: list[dict]) -> None:
    for row in rows:
        error = "" if row["error"] is None else f"{row['error']:.1e}"
        print(
            f"{row['what']:<24}{row['name']:<20}{row['seconds']:>11.4f}{row['ratio']:>9.1f}"
            f"{error:>10}",
            flush=True,
        )


def measure(
    ops, shapes, nets, threads: int, repeats: int = 3, full: bool = False, data=None
) -> list[dict]:
    """Every row, printed as it is found. shapes: [(rows, cols)]; nets: names of NETS; data: the
    images of FitNet-4's LSUV."""
    check(ops)
    print(f"{'matrix or net':<24}{'by':<20}{'seconds':>11}{'ratio':>9}{'error':>10}")
    rows: list[dict] = []

    def add(*new):
        rows.extend(new)
        show(new)

    makers: list[Contestant] = []
    try:
        for name in ("ours", *available(ops.name)):
            makers.append(Contestant(name, MAKER, Setting(threads, ops.name), by=name))
        for m, n in shapes:
            add(*compare(f"{m}x{n}", [(m, n)], makers, repeats, full))
        for net in nets:
            each = compare(net, shapes_of_net(net), makers, repeats, full)
            add(*each, paper_row(net, TABLE_6[net][0], each[0]["seconds"]))
    except Refused as error:
        raise RunError(f"a maker of matrices failed: {error}") from error
    finally:
        close(makers)
    for net in nets:
        images = noise(net) if models.NETS[net].data == FOLDER else data
        lsuv = lsuv_row(ops, net, images, repeats)
        add(lsuv, paper_row(lsuv["what"], TABLE_6[net][1], lsuv["seconds"]))
    return rows


def shapes_of(text: str) -> list[tuple[int, int]]:
    """ "9216x4096,500x128" -> [(9216, 4096), (500, 128)]."""
    shapes = []
    for part in filter(None, text.split(",")):
        sizes = part.split("x")
        if len(sizes) != 2 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
            raise InputError(f"--shapes {part!r} is not ROWSxCOLS, such as 500x128")
        shapes.append((int(sizes[0]), int(sizes[1])))
    return shapes


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.init", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="of every maker; default all")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each (3)")
    parser.add_argument("--shapes", default=SHAPES, help=f"single matrices ({SHAPES})")
    parser.add_argument("--nets", default=",".join(NETS), help="nets (fitnet4,caffenet,googlenet)")
    parser.add_argument("--data", default="auto", help="images of FitNet-4's LSUV (auto)")
    parser.add_argument("--data-dir", help="where its files are")
    parser.add_argument("--full", action="store_true", help="wait for the largest SVDs, minutes")
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file")
    options = parser.parse_args(argv)
    if options.repeats < 1:
        raise InputError(f"--repeats {options.repeats} must be at least 1")
    shapes, nets = shapes_of(options.shapes), list(filter(None, options.nets.split(",")))
    for net in nets:
        choose("net", net, NETS)
    threads = options.threads or len(os.sched_getaffinity(0))
    refuse_emulated(options.device)
    ops = ops_for(options.device, options.threads)
    data = load(options.data, options.data_dir) if "fitnet4" in nets else None
    print(
        f"device {ops.name}: {ops.description}; every maker in a process of its own, "
        f"threads {threads}"
    )
    peers = {}
    if why := torch_missing(ops.name):
        print(f"{why}: orthogonal_ is left out")
    else:
        peers["torch"] = metadata.version("torch")
    rows = measure(ops, shapes, nets, threads, options.repeats, options.full, data)
    write(options.json, ops, rows, threads=threads, peers=peers)
    return 0


if __name__ == "__main__":
    sys.exit(run_command("bench.init", main))
