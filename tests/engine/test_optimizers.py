"""What all optimizers share: batches in parts, averaged weights, and where they begin to count.
What an update computes: tests/kernels/test_reference.py.

Read next: tests/engine/test_layers.py.
"""

import numpy as np
import pytest

from engine.errors import InputError
from engine.layers import Linear, ReLU
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.optimizers import OPTIMIZERS, SGD, Adam
from kernels.clock import FINITE, RATE, STEP, TRIAL
from kernels.reference import NumpyOps

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((96, 12)).astype(np.float32)
LABELS = (IMAGES @ RNG.standard_normal((12, 3))).argmax(1)


def made(ops, batch, rate=0.05):
    net = Net([Linear(9), ReLU(), Linear(3)], SoftmaxLoss(), ops, (12,), batch)
    rng = np.random.default_rng(1)
    for p in net.named_params().values():
        p.value[...] = ops.asarray(rng.normal(0, 0.3, p.shape).astype(np.float32))
    net.clock[RATE : RATE + 1] = rate
    return net


def step(net, optimizer, first, last=True):
    rows = slice(first * net.batch % 96, first * net.batch % 96 + net.batch)
    net.x[...] = net.ops.asarray(IMAGES[rows])
    net.labels[...] = net.ops.asarray(LABELS[rows].astype(np.int32))
    net.forward(train=True)
    net.evaluate_loss()
    net.backward()
    optimizer.step(last)
    net.ops.advance(net.clock, net.ops.asarray(net.ops.tohost(net.clock)[RATE : RATE + 1]))


def host(net):
    return net.ops.tohost(net.weights).copy()


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_parts_of_a_batch_are_the_batch_up_to_rounding(ops, kind):
    """With decay, clipping and an average, for each optimizer: Adam and the average count updates,
    not parts."""
    options = {"decay": 0.01, "clip": 0.5, "ema": 0.9}
    whole, parts = made(ops, 32), made(ops, 8)
    one, other = kind(whole, **options), kind(parts, **options, accumulate=4)
    for update in range(6):
        step(whole, one, update)
        for part in range(4 * update, 4 * update + 4):
            step(parts, other, part, last=part % 4 == 3)
    assert ops.tohost(parts.clock)[STEP] == 24
    np.testing.assert_allclose(host(parts), host(whole), rtol=2e-4, atol=2e-5)
    averages = (ops.tohost(o.state["average"]) for o in (other, one))
    np.testing.assert_allclose(*averages, rtol=2e-4, atol=2e-5)
    assert not ops.tohost(other.state["total"]).any()


def test_parts_before_the_last_move_nothing_but_their_sum(ops):
    net = made(ops, 8)
    optimizer, before = SGD(net, accumulate=3), host(net)
    step(net, optimizer, 0, last=False)
    assert np.array_equal(host(net), before) and not ops.tohost(optimizer.memory).any()
    gradient = ops.tohost(net.gradients).astype(np.float64)
    np.testing.assert_allclose(ops.tohost(optimizer.state["total"]), gradient / 3, rtol=1e-6)
    with pytest.raises(InputError, match="SGD: accumulate 1 has no parts; give it 2 or more"):
        SGD(net).step(last=False)


def test_a_part_that_is_not_finite_is_not_added(ops):
    net = made(ops, 8)
    optimizer = SGD(net, accumulate=2)
    step(net, optimizer, 0, last=False)
    kept, before = ops.tohost(optimizer.state["total"]).copy(), host(net)
    net.gradients[...] = float("nan")
    for last in (False, True):
        optimizer.step(last)
        assert ops.tohost(net.clock)[FINITE] == 0
        assert np.array_equal(ops.tohost(optimizer.state["total"]), kept)
    assert np.array_equal(host(net), before)


def test_averaged_weights_stand_in_the_net_inside_alone(ops):
    net = made(ops, 8)
    optimizer = Adam(net, ema=0.8)
    want = 0.0
    with optimizer.averaged():  # there is none yet
        assert host(net).any()
    for number in range(12):
        step(net, optimizer, number)
        keep = 0 if number == 0 else min(0.8, (2 + number) / (11 + number))
        want = keep * want + (1 - keep) * host(net).astype(float)
    last, average = host(net), ops.tohost(optimizer.state["average"])
    np.testing.assert_allclose(average, want, rtol=1e-4, atol=1e-6)
    with pytest.raises(KeyError), optimizer.averaged():
        assert np.array_equal(host(net), average) and not np.array_equal(average, last)
        raise KeyError
    assert np.array_equal(host(net), last)
    plain = SGD(net)
    with plain.averaged():
        assert np.array_equal(host(net), last)
    assert list(plain.state) == ["momentum"]  # and no memory without ema and accumulate


@pytest.mark.parametrize("trial", [False, True])
def test_an_optimizer_counts_from_where_it_was_made(ops, trial):
    """A first step of Adam's is as long as the rate, also of a net that was trained before; what
    batches only try is no training."""
    net = made(ops, 8, rate=1e-3)
    net.clock[STEP : STEP + 1] = 50.0
    if trial:
        net.clock[STEP : STEP + 1] = 7.0
        net.clock[TRIAL : TRIAL + 1] = 51.0
    optimizer = Adam(net)
    assert optimizer.begun == 50
    net.clock[STEP : STEP + 1] = 50.0
    before = host(net)
    step(net, optimizer, 0)
    moved, gradient = abs(host(net) - before), ops.tohost(net.gradients)
    np.testing.assert_allclose(moved[abs(gradient) > 1e-4], 1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"ema": 1.0}, "Adam: ema 1.0 must be in"),
        ({"accumulate": 0}, "Adam: accumulate 0 must be a whole number in"),
        ({"accumulate": 2.5}, "Adam: accumulate 2.5 must be a whole number in"),
        ({"beta2": 1.0}, "Adam: beta2 1.0 must be in"),
    ],
)
def test_options_out_of_range_are_one_line(options, said):
    with pytest.raises(InputError, match=said):
        Adam(made(NumpyOps(), 8), **options)


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_weights_stay_within_their_norm(ops, kind):
    """Those of the layer that has one, after every update; biases are left alone."""
    layers = [Linear(9, max_norm=0.5), ReLU(), Linear(3)]
    net = Net(layers, SoftmaxLoss(), ops, (12,), 8)
    rng = np.random.default_rng(1)
    for p in net.named_params().values():
        p.value[...] = ops.asarray(rng.normal(0, 0.3, p.shape).astype(np.float32))
    net.clock[RATE : RATE + 1] = 0.05
    optimizer = kind(net)
    before = ops.tohost(layers[2].W).copy()
    for update in range(3):
        step(net, optimizer, update)
        assert np.linalg.norm(ops.tohost(layers[0].W), axis=1).max() < 0.5 + 1e-6
    assert np.linalg.norm(ops.tohost(layers[2].W), axis=1).min() > 0.5
    assert not np.array_equal(ops.tohost(layers[2].W), before)
    with pytest.raises(InputError, match="max_norm 0 must be above 0"):
        Net([Linear(2, max_norm=0)], SoftmaxLoss(), ops, (12,), 8)
