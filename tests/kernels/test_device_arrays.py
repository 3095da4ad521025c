"""Whoever holds an array of a device asks it for no more than every device's arrays have.

A device whose arrays are not NumPy's, and can only do what kernels/reference.py promises of them:
no comparison, truth, number, iteration or fancy index, nothing that NumPy could read, and no
assignment that converts. Everything else is an error here. On it run the training command, the
initialisers, evaluation, checkpoints, the Python interface, the search for a NaN and the bench's
step, and give what they give on the device below.

Read next: tests/engine/test_layers.py.
"""

import json
from functools import partial

import numpy as np
import pytest

import bench.common.ours
import bench.init
import engine
import engine.evaluate
import engine.predict
import engine.train
import kernels
from bench.common.contest import Entry, mean_seconds
from engine.containers import AuxiliaryClassifier, Branches, Residual
from engine.diagnosis import first_in_step, tensor_not_finite
from engine.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    Maxout,
    MaxPool,
    ReLU,
    Tanh,
)
from engine.losses import HingeLoss, SoftmaxLoss
from engine.net import Net
from engine.optimizers import SGD, Adam, RMSProp
from kernels.clock import SIZE, new_clock
from lsuv import fill, initialise
from lsuv import lsuv as scale


class Array:
    """An array on the device. What it does not define it can't do."""

    __slots__ = ("host",)
    __iter__ = __eq__ = __hash__ = None  # else Python makes them of what is here

    def __init__(self, host: np.ndarray):
        self.host = host

    def __array__(self, *_, **__):
        raise TypeError("NumPy can't read an array of this device; use ops.tohost")

    def __bool__(self):
        raise TypeError("an array of this device has no truth")

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    itemsize = property(lambda self: self.host.itemsize)
    nbytes = property(lambda self: self.host.nbytes)

    def __len__(self):
        return len(self.host)

    def reshape(self, *shape):
        found = self.host.reshape(*shape)
        assert np.shares_memory(found, self.host) or not found.size
        return Array(found)

    def copy(self):
        return Array(self.host.copy())

    def __getitem__(self, key):
        found = self.host[basic(key)]
        return Array(found if isinstance(found, np.ndarray) else self.host[key, ...])

    def __setitem__(self, key, value):
        key = basic(key)
        if isinstance(value, Array):
            assert value.dtype == self.dtype, f"{value.dtype} into {self.dtype}"
            self.host[key] = value.host
        else:
            assert type(value) in (int, float), type(value)
            self.host[key] = value

    def __imul__(self, factor):
        assert type(factor) is float, type(factor)
        self.host *= factor
        return self


def basic(key):
    """The index as it is, if it is made of whole numbers and slices."""
    for part in key if isinstance(key, tuple) else (key,):
        assert part is ... or type(part) in (int, slice), f"index {part!r}"
    return key


class Device:
    """The operations of another device, on such arrays; results on the host stay there."""

    def __init__(self, ops):
        self.ops = ops

    def __getattr__(self, name):
        found = getattr(self.ops, name)
        return partial(self.called, name, found) if callable(found) else found

    def called(self, name, call, *given):
        host = name in ("asarray", "constant")
        for value in given:
            assert not isinstance(value, Array if host else np.ndarray), f"{name}: {type(value)}"
        result = call(*(value.host if isinstance(value, Array) else value for value in given))
        kept = name == "tohost" or not isinstance(result, np.ndarray)
        return result if kept else Array(result)


@pytest.fixture
def device(ops, monkeypatch):
    """One over each device, which is also what every name of a device stands for."""
    found = Device(ops)
    for module in (kernels, engine.train, engine.predict, bench.common.ours):
        monkeypatch.setattr(module, "ops_for", lambda *_, **__: found)
    return found


@pytest.mark.parametrize(
    "use",
    [
        float,
        bool,
        list,
        iter,
        np.asarray,
        np.isfinite,
        lambda a: a + 1.0,
        lambda a: a == a,
        lambda a: a < 1,
        lambda a: a[[0, 1]],
        lambda a: a[a.host > 0],
        lambda a: a.any(),
        lambda a: a.__setitem__(0, np.float32(1)),
        lambda a: a.__setitem__(..., np.zeros(SIZE)),
        lambda a: a.__setitem__(..., Array(np.zeros(SIZE, np.float32))),
        lambda a: a.__imul__(2),
    ],
)
def test_what_such_an_array_can_not_do_is_an_error(use):
    with pytest.raises((TypeError, AttributeError, AssertionError)):
        use(Array(new_clock()))


def of_everything():
    return [
        Dropout(0.2),
        Conv(6, pieces=2, name="a"),
        Maxout(2, 2, drop=0.3),
        LRN(),
        Branches([[Conv(3, name="b"), Tanh()], [MaxPool(3, 1, 1), Conv(5, name="c")]]),
        ReLU(),
        AuxiliaryClassifier([AvgPool(2), Linear(4, name="side")], HingeLoss(), 0.3),
        BatchNorm(),
        Residual([Conv(8, groups=2, name="d"), ReLU()]),
        MaxPool(2),
        Linear(5, pieces=3, name="e"),
        Maxout(3),
        Linear(4, name="clf"),
    ]


def plain(value):
    return value.host if isinstance(value, Array) else value


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_net_trains_alike(ops, precision):
    """Initialised and trained on arrays of one's own; then its scores."""
    if precision not in ops.precisions:
        pytest.skip(f"device {ops.name} does not compute in {precision}")
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((20, 9, 8, 2)), rng.integers(0, 4, 20)
    found = []
    for one in (ops, Device(ops)):
        loss = SoftmaxLoss(weights=[1, 2, 0, 0.5])
        net = Net(of_everything(), loss, one, (9, 8, 2), 6, precision=precision)
        fill(net, "ortho-msra", 1, "relu", gain=2)
        rows = [
            *initialise(net, "lsuv", engine.batches(net, images, labels), 1).rows,
            *scale(net, engine.batches(net, images, labels), mode="fresh").rows,
            *scale(net, engine.batches(net, images, labels), batches=2).rows,
        ]
        said = []
        for kind, options in (
            (SGD, {"decay": 5e-4, "clip": 1.0, "accumulate": 2}),
            (RMSProp, {}),
            (Adam, {"ema": 0.9}),
        ):
            optimizer = kind(net, **options)
            engine.fit(net, images, labels, optimizer, 2, 1e-3, report=said.append)
        with optimizer.averaged():
            scores = engine.scores(net, images)
        assert tensor_not_finite(net, optimizer) is None
        net.resize(3)
        net.labels[...] = 1
        net.x[...] = 0.5
        net.named_params()["d.b"].value[...] = float("nan")
        assert first_in_step(net) == "the weights of d"
        found.append(
            (
                said,
                [vars(row) for row in rows],
                scores.tobytes(),
                [plain(a).tobytes() for a in (net.weights, optimizer.memory, net.clock)],
                [plain(a).tobytes() for a in net.named_state().values()],
            )
        )
    assert found[0] == found[1]


@pytest.mark.parametrize("init", ["lsuv", "delta-orthogonal", "xavier"])
def test_normalisation_of_inputs_and_every_kind_of_filler(ops, init):
    found = []
    for one in (ops, Device(ops)):
        net = Net(
            [Conv(8, name="a"), ReLU(), Conv(8, name="b"), ReLU(), Linear(3, name="clf")],
            SoftmaxLoss(),
            one,
            (5, 6, 4),
            30,
        )
        fill(net, init, 3, gain=None if init == "xavier" else 1.5)
        images = np.random.default_rng(0).standard_normal((30, 5, 6, 4))
        batches = engine.batches(net, images, np.arange(30) % 3)
        report = scale(net, batches, normalise="input")
        found.append(([vars(row) for row in report.rows], plain(net.weights).tobytes()))
    assert found[0] == found[1]


def test_the_commands(device, tmp_path, monkeypatch):
    """Training, resuming, evaluation and `predict` on it; the same metrics as without."""

    def metrics(out):
        rows = (out / "metrics.csv").read_text().splitlines()
        return [row.split(",")[:-2] for row in rows]  # without the speed and the seconds

    given = [
        "--net",
        "fitnet_mnist",
        "--data",
        "synthetic",
        "--limit",
        "40",
        "--batch",
        "10",
        "--epochs",
        "2",
        "--recipe",
        "paper",
        "--lr",
        "1e-5",
    ]
    out = tmp_path / "strict"
    assert engine.train.main([*given, "--out", str(out)]) == 0
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"result": None}))
    assert engine.train.main(["--resume", str(out)]) == 0
    assert engine.evaluate.main([str(out)]) == 0
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    probabilities = engine.load(out).predict(images)
    for module in (kernels, engine.train):
        monkeypatch.setattr(module, "ops_for", lambda *_, **__: device.ops)
    assert engine.train.main([*given, "--out", str(tmp_path / "plain")]) == 0
    assert metrics(out) == metrics(tmp_path / "plain")
    again = engine.load(tmp_path / "plain").predict(images)
    np.testing.assert_array_equal(probabilities, again)


def test_the_benches(device, monkeypatch):
    """The step is checked, timed and taken apart; convolutions alone; an initialiser."""
    entry = Entry("fitnet_mnist", "maxout", 4, "fp32", 1, "strict", "synthetic")
    bench.common.ours.check(device, entry)
    ours = bench.common.ours.Ours(entry)
    assert ours.train(1) > 0 and ours.test(1) > 0
    seconds, _, size = ours.profile(1)["maxout_pool_dropout_forward"]
    x, y = 4 * 6 * 6 * 2 * 12, 4 * 3 * 3 * 12
    assert seconds > 0 and size == 4 * x + 5 * y + new_clock().nbytes
    convolutions = bench.common.ours.Convolutions(entry)
    assert convolutions.train(1) > 0
    bench.init.check(device)
    monkeypatch.setitem(bench.init.BATCH, "fitnet4", 4)
    row = bench.init.lsuv_row(device, "fitnet4", bench.common.ours.load("synthetic", limit=20), 1)
    assert row["seconds"] > 0


def test_a_clock_stops_when_the_device_has_finished(monkeypatch):
    """A device that starts its work when it is called and does it when it is waited for."""

    class Late:
        def __init__(self):
            self.waiting, self.done = 0, 0

        def work(self):
            self.waiting += 1

        def synchronize(self):
            self.done, self.waiting = self.done + self.waiting, 0

    late, read = Late(), []

    def clock():
        read.append((late.waiting, late.done))
        return 0.0

    with monkeypatch.context() as patch:
        patch.setattr("time.perf_counter", clock)
        mean_seconds(late.work, 3, late.synchronize)
        bench.common.ours.Stopwatch(late).work()
        bench.common.ours.fastest(late.work, late.synchronize)
    assert not any(waiting for waiting, _ in read)
    done = [done for _, done in read]
    assert done[:4] == [1, 4, 4, 5]
    assert done[4:] == [count for start in range(6, 16) for count in (start, start + 1)]
