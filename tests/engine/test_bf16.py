"""Precision bf16 from end to end: nets, initialiser, command line, arrays of one's own.

Activations and gradients are bfloat16, rounded once by each operation; weights, optimizer state and
statistics stay float32. What an operation does in bf16 is in tests/kernels/test_ops.py.

Read next: tests/engine/test_nonfinite.py.
"""

import json

import numpy as np
import pytest
from ml_dtypes import bfloat16

import engine
from engine.containers import AuxiliaryClassifier, Branches, Residual
from engine.data.examples import Examples
from engine.diagnosis import first_not_finite
from engine.evaluate import main as evaluate
from engine.fitting import put
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
    Sigmoid,
    Tanh,
)
from engine.losses import HingeLoss, SoftmaxLoss
from engine.net import Net
from engine.optimizers import SGD, RMSProp
from engine.run import checkpoint
from helpers.devices import DEVICES
from helpers.nets import tiny
from helpers.runs import SMALL, assert_same_run, command, stop_at
from kernels import ops_for
from kernels.clock import LOSS, RATE
from lsuv import LsuvError, fill, lsuv
from models import NETS, Model, build

NAMES = [ops.name for ops in DEVICES if "bf16" in ops.precisions]
devices = pytest.mark.parametrize("device", NAMES)
BATCH = 6


@pytest.fixture(autouse=True)
def small_nets(monkeypatch):
    monkeypatch.setitem(NETS, "tiny", Model(tiny, (8, 8, 3)))


def model(name, act, device, precision):
    """One of the paper's nets after LSUV, with a batch of random images in place."""
    shape, rng = NETS[name].in_shape, np.random.default_rng(1)
    images = rng.standard_normal((BATCH, *shape)).astype(np.float32)
    net = Net(
        build(name, act, 10, dropout=False),
        SoftmaxLoss(),
        ops_for(device, precision=precision),
        shape,
        BATCH,
        precision=precision,
    )
    fill(net, "ortho", 0, act)
    put(net, *Examples(net, images, np.arange(BATCH, dtype=np.int32)).batch(np.arange(BATCH)))
    report = lsuv(net, lambda: None)
    return net, report


def losses(net, steps, optimizer, rate=0.01):
    """The loss of each of so many steps on the one batch."""
    net.clock[RATE], found = rate, []
    for _ in range(steps):
        net.forward(train=True)
        net.evaluate_loss()
        net.backward()
        optimizer.step()
        found.append(float(net.clock[LOSS]))
    return found


# -- nets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, act, steps",
    [
        ("fitnet1", "maxout", 10),
        ("fitresnet4", "relu", 4),
        ("fitnet4-bn-before", "maxout", 3),
        ("fitnet_mnist", "tanh", 10),
    ],
)
def test_the_papers_nets_start_alike_on_every_device_and_learn(name, act, steps):
    """Rounding differs and is amplified, most by batch normalisation of six images; so losses
    agree at the first step, and from there need only fall."""
    every = []
    for device in NAMES:
        net, report = model(name, act, device, "bf16")
        assert all(abs(row.variance_after - 1) <= 0.05 for row in report.rows)
        every.append(losses(net, 10 if device == "cpu" else steps, SGD(net, 0.9, clip=35.0)))
        assert np.isfinite(every[-1]).all() and min(every[-1][-3:]) < every[-1][0]
    np.testing.assert_allclose([found[0] for found in every], every[0][0], rtol=3e-2)


def smooth():
    return [
        Dropout(0.2),
        Conv(32, name="a"),
        Tanh(),
        Residual([Conv(32, name="b"), Tanh()]),
        BatchNorm(),
        Conv(34, name="c"),
        Sigmoid(),
        Dropout(0.3),
        Linear(10),
    ]


def choosing():
    return [
        Conv(16, pieces=2, name="a"),
        Maxout(2),
        Conv(32, name="b"),
        ReLU(),
        Conv(16, pieces=2, name="c"),
        Maxout(2, pool=2),
        Linear(10),
    ]


def branching():
    side = AuxiliaryClassifier(
        [AvgPool(4, 4), Conv(8, name="s"), Tanh(), Linear(10, name="t")], SoftmaxLoss(), 0.3
    )
    return [
        Conv(24, name="a"),
        Tanh(),
        LRN(5, 0.5),
        side,
        Branches(
            [
                [Conv(16, size=1, pad=0, name="b"), Sigmoid()],
                [MaxPool(3, 1, 1), Conv(9, name="c"), Tanh()],
                [],
                [Conv(8, name="d"), Tanh(), Residual([Conv(8, name="e")])],
            ]
        ),
        AvgPool(3, 2),
        Dropout(0.2),
        Linear(10),
    ]


def own_net(layers, device, precision, loss=SoftmaxLoss, batch=16):
    """A net of these layers after LSUV, with random images and labels in place."""
    net = Net(
        layers(),
        loss(),
        ops_for(device, precision=precision),
        (12, 13, 3),
        batch,
        precision=precision,
    )
    fill(net, "ortho", 0, "tanh")
    images = np.random.default_rng(1).standard_normal((batch, 12, 13, 3)).astype(np.float32)
    put(net, *Examples(net, images, np.arange(batch, dtype=np.int32) % 10).batch(np.arange(batch)))
    lsuv(net, lambda: None)
    return net


@pytest.mark.parametrize("layers, bound", [(smooth, 0.01), (choosing, 0.1), (branching, 0.1)])
@pytest.mark.parametrize("loss", [SoftmaxLoss, HingeLoss])
def test_the_gradient_is_float32s_but_for_rounding(layers, bound, loss):
    """Of the whole gradient's norm. Where a rounding makes another value the largest, or moves it
    across zero, a gradient goes another way; the devices, rounding alike, choose alike."""
    found = {}
    for device, precision in [("numpy", "fp32"), *((name, "bf16") for name in NAMES)]:
        net = own_net(layers, device, precision, loss)
        net.forward(train=True)
        net.evaluate_loss()
        net.backward()
        found[device, precision] = net.gradients.astype(np.float64)
    exact = found.pop(("numpy", "fp32"))
    size = np.linalg.norm(exact)
    for rounded in found.values():
        assert 1e-4 * size < np.linalg.norm(rounded - exact) < bound * size
        assert np.linalg.norm(rounded - found["numpy", "bf16"]) < 0.01 * size


@devices
@pytest.mark.parametrize("optimizer, rate", [(SGD, 1e-6), (RMSProp, 1e-8)])
def test_what_is_kept_from_step_to_step_is_float32(device, optimizer, rate):
    net = own_net(smooth, device, "bf16")
    updater, before = optimizer(net), net.weights.copy()
    losses(net, 1, updater, rate)
    assert net.weights.dtype == updater.memory.dtype == np.float32
    assert {state.dtype for state in net.named_state().values()} == {np.dtype(np.float32)}
    assert net.gradients.dtype == net.x.dtype == net.scores.dtype == bfloat16
    assert net.loss.prob.dtype == np.float32 and net.loss.dscores.dtype == bfloat16
    # Steps far below bfloat16's resolution of a weight are not lost.
    moved = net.weights != before
    assert moved.mean() > 0.5
    same = net.weights.astype(bfloat16) == before.astype(bfloat16)
    assert same[moved].mean() > 0.9


@devices
def test_a_value_that_is_not_finite_is_found(device):
    net = own_net(choosing, device, "bf16")

    class Ready:
        def train_batch(self):
            pass

    net.weighted()[1].W[3, 1, 1, 2] = np.inf
    assert first_not_finite(net, Ready()) == "the weights of b"
    net.weighted()[1].W[3, 1, 1, 2] = 0
    net.x[0, 4, 5, 1] = np.nan
    assert first_not_finite(net, Ready()) == "the images"
    net.x[0, 4, 5, 1] = 3e38
    net.weighted()[0].W[...] = 100
    with np.errstate(over="ignore", invalid="ignore"):
        assert first_not_finite(net, Ready()) == "the output of a"


# -- LSUV -----------------------------------------------------------------------------------------


@devices
@pytest.mark.parametrize("mode", ["same", "fresh"])
def test_lsuv_reaches_unit_variance_in_bf16(device, mode):
    net = own_net(choosing, device, "bf16")
    fill(net, "ortho", 7, "relu")
    report = lsuv(net, lambda: None, mode=mode)
    assert all(abs(row.variance_after - 1) <= 0.05 for row in report.rows)
    net.forward(train=True)
    for layer in net.weighted():
        _, variance = net.ops.variance(layer.z, layer.pieces)
        assert np.all(abs(variance - 1) <= 0.05), layer.name


@devices
def test_lsuv_does_not_scale_the_rounding_of_a_constant(device):
    """Deviations of a thousandth are a signal in float32; in bfloat16 only rounding is left."""
    for precision in ("fp32", "bf16"):
        net = Net(
            [Conv(1, size=1, pad=0, name="a"), Linear(4, name="clf")],
            SoftmaxLoss(),
            ops_for(device, precision=precision),
            (8, 8, 1),
            16,
            precision=precision,
        )
        fill(net, "ortho", 0, "tanh")
        near = 1 + 1e-3 * np.random.default_rng(0).standard_normal(net.x.shape)
        put(
            net,
            *Examples(net, near.astype(np.float32), np.zeros(16, np.int32)).batch(np.arange(16)),
        )
        if precision == "fp32":
            assert abs(lsuv(net, lambda: None).rows[0].variance_after - 1) <= 0.05
        else:
            with pytest.raises(LsuvError, match="^a: output variance .* nothing to scale"):
                lsuv(net, lambda: None)


# -- command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", NAMES)
def test_a_run_in_bf16_resumes_bit_for_bit_and_is_loaded_as_one(
    tmp_path, device, monkeypatch, capsys
):
    arguments = [*SMALL, "--device", device, "--precision", "bf16", "--epochs", 3]
    straight, folder = tmp_path / "straight", tmp_path / "stopped"
    assert command(*arguments, "--out", straight) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 8)
        assert command(*arguments, "--out", folder) == 143
    assert command("--resume", folder) == 0
    assert_same_run(straight, folder)
    record = json.loads((straight / "run.json").read_text())
    assert record["settings"]["precision"] == "bf16"
    plain = tmp_path / "plain"
    assert command(*arguments, "--precision", "fp32", "--out", plain) == 0
    one, other = (checkpoint.read(run).tensors["conv2.W"] for run in (straight, plain))
    assert one.dtype == np.float32 and not np.array_equal(one, other)
    np.testing.assert_allclose(one, other, atol=0.1)

    net = engine.load(straight, device).net
    assert net.precision == "bf16" and net.x.dtype == bfloat16
    capsys.readouterr()
    assert evaluate([str(straight), "--device", device]) == 0
    said = capsys.readouterr().out
    assert f"test accuracy {record['result']['test_accuracy']:.4f}" in said
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    probabilities = engine.load(straight, device).predict(images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("device", ["auto", *(ops.name for ops in DEVICES)])
def test_tf32_is_refused_in_a_line(tmp_path, capsys, device):
    assert command(*SMALL, "--device", device, "--precision", "tf32", "--out", tmp_path / "x") == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0 and "precision tf32" in said and "use fp32" in said
    assert not (tmp_path / "x").exists()


# -- arrays of one's own --------------------------------------------------------------------------


@devices
def test_fit_and_scores_work_in_bf16(device):
    rng, count = np.random.default_rng(0), 64
    labels = rng.integers(0, 4, count)
    images = rng.normal(0, 0.3, (count, 12, 13, 3)).astype(np.float32)
    for n, label in enumerate(labels):
        images[n, :, 3 * label : 3 * label + 3] += 1  # a bright stripe
    net = own_net(choosing, device, "bf16")
    lsuv(net, engine.batches(net, images, labels))
    rows = engine.fit(net, images, labels, SGD(net, 0.9), epochs=4, rate=0.01, report=str)
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["accuracy"] > 0.9
    scores = engine.scores(net, images)
    assert scores.dtype == np.float32 and (scores.argmax(1) == labels).mean() > 0.9
