"""The same bits again: a run with the same number of threads, in this process and in others; the
data's order and LSUV's weights and report with any number of them.

Sums in backward may be cut where the threads' shares end, so training depends on their number (and
a resumed run says so). What LSUV does is forward passes and variances, whose sums device cpu takes
in one order for any number of threads; on device numpy threads are its BLAS's own. More threads
than cores are slow, and nothing else.

Read next: tests/lsuv/test_lsuv.py.
"""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from engine.containers import Branches, Residual
from engine.data.feed import Feed, Order
from engine.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    Maxout,
    MaxPool,
    Original,
    ReLU,
)
from engine.losses import HingeLoss, SoftmaxLoss
from engine.net import Net
from engine.optimizers import SGD, RMSProp
from engine.run import checkpoint
from engine.train import one_step
from helpers.devices import DEVICES
from helpers.length import often
from helpers.programs import environment
from helpers.threads import THREADS, same_for_all_threads, synthetic
from kernels import ops_for
from kernels.clock import FINITE, STEP
from lsuv import INITS, fill, initialise

CPU = next((ops for ops in DEVICES if ops.name == "cpu"), None)
needs_cpu = pytest.mark.skipif(CPU is None, reason="device cpu has the threads")
PRECISIONS = [p for p in ("fp32", "bf16") if CPU is not None and p in CPU.precisions]


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    before = CPU and CPU.threads
    yield
    if CPU is not None:
        ops_for("cpu", threads=before)


# -- a run with the same number of threads --------------------------------------------------------


def winograd():
    """Convolutions that device cpu takes by Winograd's algorithm, where it has AVX-512."""
    return [
        Dropout(0.2),
        Conv(16, pieces=2),
        Maxout(2),
        Conv(32, pieces=2),
        Maxout(2, 2, drop=0.1),
        Residual([Conv(32)]),
        BatchNorm(),
        ReLU(),
        Dropout(0.2),
        MaxPool(2),
        Conv(40),
        ReLU(),
        MaxPool(8),
        Linear(50, pieces=5),
        Maxout(5),
        Linear(10),
    ]


def direct():
    """Others: few channels, wide and narrow filters, strides, groups; and fully connected layers
    whose sums are long."""
    return [
        Conv(12, 5, 2, 2),
        ReLU(),
        LRN(),
        Branches([[Conv(10, 1, 1, 0)], [Conv(8, groups=4)]]),
        BatchNorm(),
        MaxPool(3, 2),
        Conv(16, groups=2),
        ReLU(),
        AvgPool(3, 2),
        Linear(600),
        ReLU(),
        Dropout(0.5),
        Linear(10),
    ]


def trained(layers, precision, optimizer, loss, threads, steps=3):
    """A net's weights, gradients, states, optimizer's memory and clock after some steps."""
    net = Net(
        layers(), loss(), ops_for("cpu", threads), (32, 32, 3), 16, seed=5, precision=precision
    )
    feed = Feed(net, synthetic((32, 32, 3), 60), 4, 0.53)
    initialise(net, "lsuv", feed.first_batches(), 5)
    update = optimizer(net, decay=5e-4, clip=1.0)
    table = feed.start(np.array(net.clock), 0, steps, np.full(steps + 1, 0.01))
    for _ in range(steps):
        one_step(net, feed, update, table)
    assert net.clock[STEP] == steps and net.clock[FINITE]
    arrays = {
        "weights": net.weights,
        "gradients": net.gradients,
        "memory": update.memory,
        "clock": net.clock,
        **net.named_state(),
    }
    return {name: array.tobytes() for name, array in arrays.items()}


@needs_cpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "layers, optimizer, loss",
    [
        (winograd, SGD, SoftmaxLoss),
        (direct, RMSProp, HingeLoss),
        (winograd, RMSProp, HingeLoss),
        (direct, SGD, SoftmaxLoss),
    ][: often(2, 4)],
)
def test_training_twice_gives_the_same_bits(layers, precision, optimizer, loss):
    """With a run of another number of threads in between; 3 may be more than there are cores."""
    first, again = (
        [trained(layers, precision, optimizer, loss, threads) for threads in THREADS]
        for _ in range(2)
    )
    for one, two in zip(first, again, strict=True):
        assert one.keys() == two.keys() and not [name for name in one if one[name] != two[name]]


@pytest.mark.parametrize("device, threads", [("numpy", None), ("cpu", 1), ("cpu", 2)])
def test_the_command_twice_leaves_the_same_numbers(tmp_path, device, threads):
    """In processes of their own, whose memory lies elsewhere: metrics and checkpoint are equal."""
    if device not in [ops.name for ops in DEVICES]:
        pytest.skip("this device is not here")
    found = []
    for name in "ab":
        count = [] if threads is None else ["--threads", str(threads)]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "engine.train",
                "--net",
                "fitnet_mnist",
                "--data",
                "synthetic",
                "--limit",
                "70",
                "--batch",
                "32",
                "--epochs",
                "2",
                "--device",
                device,
                *count,
                "--out",
                tmp_path / name,
            ],
            check=True,
            capture_output=True,
        )
        with open(tmp_path / name / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            del row["seconds"], row["images_per_second"]
        saved = checkpoint.read(tmp_path / name)
        report = json.loads((tmp_path / name / "init.json").read_text())
        del report["seconds"]
        found.append((rows, {n: t.tobytes() for n, t in saved.tensors.items()}, report))
    assert len(found[0][0]) == 2 and found[0] == found[1]


# -- the data, whatever the threads ---------------------------------------------------------------


@needs_cpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_batches_do_not_depend_on_threads(precision):
    """Order, crops, mirror images and dropout's masks; and order and labels on no device."""
    data, found = synthetic((32, 32, 3), 90), []
    for threads in (*THREADS, 8):
        net = Net(
            [Dropout(0.3), Linear(10)],
            SoftmaxLoss(),
            ops_for("cpu", threads),
            (32, 32, 3),
            40,
            seed=7,
            precision=precision,
        )
        feed = Feed(net, data, 6, 0.53)
        next_batch, seen = feed.first_batches(), []
        for step in range(5):
            next_batch()
            net.forward(train=True)
            seen += [net.x.tobytes(), net.labels.tobytes(), net.chain.layers[0].y.tobytes()]
            images = Order(7, 90).images(step * 40, 40)
            assert np.array_equal(net.labels, data.train.labels[images])
        found.append(seen)
    assert all(seen == found[0] for seen in found)


# -- LSUV, whatever the threads -------------------------------------------------------------------


CASES = [
    ("fitnet4", "maxout", 32, {}),
    ("fitnet1", "tanh", 33, {"batches": 2}),
    ("fitnet_mnist", "maxout", 64, {"mode": "fresh", "tolerance": 0.01}),
    ("fitresnet4", "relu", 8, {}),
    ("fitnet4-bn-before", "relu", 8, {}),
    ("grouped", "relu", 40, {}),  # the others take minutes
    ("fitnet1", "relu", 128, {"mode": "fresh"}),
    ("fitnet4", "maxout", 128, {}),
    ("fitnet4", "vlrelu", 128, {"mode": "fresh"}),
    ("fitnet4", "relu", 2, {}),
    ("fitresnet4", "maxout", 128, {}),
    ("fitnet4-bn-before", "maxout", 128, {}),
    ("fitnet4-bn-after", "relu", 128, {}),
    ("fitnet_mnist", "relu", 64, {}),
    ("fitnet1", "relu", 64, {"normalise": "input", "tolerance": 0.2}),
    ("caffenet", "relu", 32, {}),
    ("googlenet", "relu", 32, {}),
]


@needs_cpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name, act, batch, options", CASES[: often(6, len(CASES))])
def test_lsuv_does_not_depend_on_threads(name, act, batch, options, precision):
    assert same_for_all_threads(name, act, precision, batch, **options)


@needs_cpu
@pytest.mark.parametrize("init", INITS)
def test_no_filler_depends_on_threads(init):
    """Delta-orthogonal weights want a layer with no more inputs than outputs; original ones are
    declared by CaffeNet and GoogLeNet alone."""
    found = []
    for threads in (*THREADS, 8):
        net = Net(
            [
                Conv(33, pieces=2, original=Original("xavier", bias=0.2)),
                Maxout(2),
                Linear(700, original=Original("gaussian", 0.01)),
            ],
            SoftmaxLoss(),
            ops_for("cpu", threads),
            (4, 4, 3),
            2,
        )
        fill(net, init, 3, "maxout")
        found.append(net.weights.tobytes())
    assert len(set(found)) == 1


@needs_cpu
def test_lsuv_does_not_depend_on_threads_without_avx512():
    """oneDNN's part of it, which then cuts sums in other places; Winograd's is as it was built."""
    program = (
        "from helpers.threads import same_for_all_threads\n"
        "for name, batch in (('fitnet_mnist', 64), ('fitnet1', 64), ('grouped', 40)):\n"
        "    assert same_for_all_threads(name, 'relu', 'fp32', batch), name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment() | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    )
    assert done.returncode == 0, done.stderr


@needs_cpu
@pytest.mark.parametrize(
    "N, F, K",
    [(1, 1, 1), (33, 1000, 500), (128, 500, 10), (129, 700, 257), (32, 4096, 1000), (1, 4096, 300)],
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_linear_layers_outputs_do_not_depend_on_threads(N, F, K, precision):
    """Sums so long that a library would share one out among threads."""
    rng, found = np.random.default_rng(F), set()
    x, W, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((N, F), (K, F), K))
    x = x.astype(CPU.precisions[precision] or np.float32)
    for threads in (1, 2, 3, 8, 17):
        y = np.empty((N, K), x.dtype)
        ops_for("cpu", threads).linear_forward(x, W, b, y)
        found.add(y.tobytes())
    assert len(found) == 1
