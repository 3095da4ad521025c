"""Nets initialised by LSUV with several numbers of threads.

Read next: tests/run/test_repeatable.py.
"""

import functools
from types import SimpleNamespace

from engine.data import load
from engine.data.feed import Feed
from engine.layers import LRN, Conv, Dropout, Linear, MaxPool, ReLU
from engine.losses import SoftmaxLoss
from engine.net import Net
from helpers.length import often
from kernels import ops_for
from lsuv import initialise
from models import NETS

THREADS = (1, 2, 3, 8)[: often(3, 4)]


@functools.cache
def synthetic(size, limit):
    return load("synthetic", size=size, limit=limit, report=lambda line: None)


def grouped(act, classes, dropout):
    """CaffeNet's kinds of layers, small: wide filters with a stride, groups, LRN, long sums."""
    return [
        Conv(32, 11, 4, 0, name="conv1"),
        ReLU(),
        MaxPool(3, 2),
        LRN(),
        Conv(48, 5, 1, 2, groups=2, name="conv2"),
        ReLU(),
        MaxPool(3, 2),
        LRN(),
        Conv(64, groups=2, name="conv3"),
        ReLU(),
        Linear(500, name="fc6"),
        ReLU(),
        Dropout(0.5),
        Linear(500, name="fc7"),
        ReLU(),
        Linear(classes, name="fc8"),
    ]


GROUPED = SimpleNamespace(build=grouped, in_shape=(67, 67, 3))


def initialised(name, act, precision, threads, batch, **options):
    """The bits of all weights, and the report but for its seconds."""
    model = GROUPED if name == "grouped" else NETS[name]
    data = synthetic(model.in_shape, 2 * batch)
    net = Net(
        model.build(act, 10, True),
        SoftmaxLoss(),
        ops_for("cpu", threads),
        data.in_shape,
        batch,
        seed=3,
        precision=precision,
    )
    report = initialise(net, "lsuv", Feed(net, data, 4, 0.53).first_batches(), 3, act, **options)
    report.seconds = 0.0
    return net.weights.tobytes(), report.as_dict()


def same_for_all_threads(*arguments, **options):
    name, act, precision, batch = arguments
    first, *others = (
        initialised(name, act, precision, threads, batch, **options) for threads in THREADS
    )
    return all(other == first for other in others)
