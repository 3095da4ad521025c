"""Table 6: seconds of initialisation.

FitNet-4 is initialised on CIFAR-10; CaffeNet and GoogLeNet on made-up images, since how long it
takes does not depend on what they show. The paper's seconds are another machine's, so a cell is ok
where ours are not more.

Read next: bench/paper/table2_to_7.py, the tables that train.
"""

import statistics
import time

import numpy as np

import models
from bench.init import made
from bench.paper.printed import TABLE_6, TABLE_6_NAMES
from bench.paper.rows import OFF, OK, Row
from bench.paper.study import Cell, Progress, Study
from bench.paper.table8_to_10 import BATCH, fitnet4
from lsuv import fill, initialise

REPEATS = 3


def table6(study: Study) -> list[Cell]:
    """Orthonormal weights, and the whole of LSUV."""

    def cell(net: str, paper: tuple[float, float], cost: float) -> Cell:
        def rows(ortho=(), lsuv=(), words="") -> list[Row]:
            out = []
            for column, printed, seconds in (
                ("OrthoNorm", paper[0], ortho),
                ("LSUV", paper[1], lsuv),
            ):
                found = (
                    {}
                    if not seconds
                    else {
                        "ours": statistics.median(seconds),
                        "seeds": list(seconds),
                        "verdict": OK if statistics.median(seconds) <= printed else OFF,
                    }
                )
                out.append(
                    study.row(
                        "table6",
                        TABLE_6_NAMES[net],
                        column,
                        float(printed),
                        "s",
                        settings=words,
                        **found,
                    )
                )
            return out

        def measure(progress: Progress) -> list[Row]:
            built, next_batch, words = prepared(study, net)
            ortho = timed(built.ops, lambda seed: fill(built, "ortho", seed, words[0]))
            progress.say("orthonormal weights timed", 0.3)
            lsuv = timed(
                built.ops, lambda seed: initialise(built, "lsuv", next_batch, seed, words[0])
            )
            return rows(ortho, lsuv, f"{', '.join(words)}; median of {REPEATS}")

        return Cell(
            f"table6-{net}-{threads_of(study)}",
            f"table6 {TABLE_6_NAMES[net]}",
            cost,
            measure,
            rows(),
        )

    costs = {"fitnet4": 1, "googlenet": 10, "caffenet": 15}
    return [cell(net, paper, costs[net]) for net, paper in TABLE_6.items()]


def threads_of(study: Study) -> str:
    """The count of threads in a timed cell's name: another one takes another time."""
    return "threads" if study.ops.threads is None else f"{study.ops.threads}threads"


def prepared(study: Study, name: str):
    """A net, what gives it a batch, and its activation and images in words."""
    act = models.NETS[name].act
    if name == "fitnet4":
        net, feed = fitnet4(study, act, 0)
        return net, feed.first_batches(), (act, f"{BATCH} images of CIFAR-10")
    net = made(name, study.ops, BATCH)
    noise = np.random.default_rng(0).standard_normal(net.x.shape, np.float32)
    net.x[...] = study.ops.asarray(noise)
    return net, lambda: None, (act, f"{BATCH} made-up images")


def timed(ops, work) -> list[float]:
    """Seconds of REPEATS calls of work(seed), after one that is not counted."""
    seconds = []
    for seed in range(1 + REPEATS):
        start = time.perf_counter()
        work(seed)
        ops.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]
