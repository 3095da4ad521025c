"""Layers that training leaves as they are, and multipliers of rate and decay by name.

Read next: tests/engine/test_fit.py.
"""

import numpy as np
import pytest

import engine
import lsuv
from engine.containers import Residual
from engine.errors import InputError
from engine.layers import BatchNorm, Conv, Linear, PReLU, ReLU
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.optimizers import SGD
from kernels.reference import NumpyOps

IMAGES = np.random.default_rng(5).normal(size=(48, 6, 6, 3)).astype(np.float32)
LABELS = np.arange(48) % 4


def made(ops=None, **chosen):
    layers = [
        Conv(6, name="conv1"),
        BatchNorm(affine=True, name="bn1"),
        PReLU(name="act1"),
        Residual([Conv(6, name="conv2"), ReLU()]),
        Linear(4, name="clf"),
    ]
    net = Net(layers, SoftmaxLoss(), ops or NumpyOps(), (6, 6, 3), 16, seed=5, **chosen)
    lsuv.fill(net, "lsuv", 0)
    return net


def train(net, epochs=2.0, clip=0.0):
    optimizer = SGD(net, momentum=0.9, decay=1e-2, clip=clip)
    engine.fit(net, IMAGES, LABELS, optimizer, epochs, 0.05, report=lambda line: None)
    return net


def tensors(net):
    return {
        name: np.array(net.ops.tohost(value))
        for name, value in (
            *((name, p.value) for name, p in net.named_params().items()),
            *net.named_state().items(),
        )
    }


def changed(before, net):
    return {name for name, value in tensors(net).items() if not np.array_equal(before[name], value)}


def test_frozen_layers_stay_and_the_others_learn(ops):
    net = train(made(ops))
    before = tensors(net)
    assert net.freeze("conv1") == ["conv1"] and net.freeze("*1")[1:] == ["bn1", "act1", "relu1"]
    train(net)
    assert changed(before, net) == {"conv2.W", "conv2.b", "clf.W", "clf.b"}
    before = tensors(net)
    net.freeze("*", False)
    train(net)
    assert changed(before, net) == set(before)


def test_a_layer_frozen_in_its_list_is_frozen_in_its_net(ops):
    first, second = made(ops), made(ops)
    first.freeze("conv2")
    second.chain.layers[3].frozen = True  # the residual, and all in it
    assert second.chain.layers[3].frozen and not second.chain.frozen
    layers = [Conv(6, name="conv1"), ReLU(), Linear(4, name="clf")]
    layers[0].frozen = True
    third = Net(layers, SoftmaxLoss(), ops, (6, 6, 3), 16)
    lsuv.fill(third, "lsuv", 0)
    before = tensors(third)
    assert changed(before, train(third)) == {"clf.W", "clf.b"}
    for name, value in tensors(train(first)).items():
        assert np.array_equal(value, tensors(second)[name]) == (name.startswith("conv2")), name
    train(second)
    for name, value in tensors(first).items():
        assert np.array_equal(value, tensors(second)[name]), name


def test_a_frozen_layer_is_one_whose_rate_is_0(ops):
    """But that its gradient has no part in the norm that is clipped, and is not computed."""
    frozen, slow = made(ops), made(ops)
    frozen.freeze("conv2")
    slow.multiply("conv2", rate=0)
    train(frozen), train(slow)
    assert not changed(tensors(frozen), slow)
    host = frozen.ops.tohost
    assert not host(frozen.named_params()["conv2.W"].gradient).any()
    assert host(slow.named_params()["conv2.W"].gradient).any()
    before = tensors(frozen)
    train(frozen, clip=1e-3), train(slow, clip=1e-3)
    assert changed(before, frozen) >= {"clf.W", "conv1.W"}
    assert changed(tensors(frozen), slow) >= {"clf.W", "conv1.W"}


def test_below_what_is_trained_nothing_runs_backward(monkeypatch):
    net = train(made())
    net.freeze("conv*"), net.freeze("*1")
    asked = []
    for name in ("conv_backward_data", "conv_backward_filter", "batchnorm_backward"):
        monkeypatch.setattr(net.ops, name, lambda *arguments, name=name: asked.append(name))
    train(net)
    assert asked == []


def test_frozen_batch_norm_is_that_of_evaluation(ops):
    net = train(made(ops))
    net.freeze("conv1"), net.freeze("bn1")
    net.x[...] = ops.asarray(IMAGES[:16].astype(net.activation_dtype))
    trained = np.array(ops.tohost(net.forward(train=True)))
    assert np.array_equal(trained, ops.tohost(net.forward(train=False)))


def test_batch_norm_alone_can_not_be_frozen_and_nothing_is_changed():
    net, twin = made(), made()
    with pytest.raises(InputError, match="^bn1: .*freeze what lies before it too"):
        net.freeze("bn1")
    assert not net.chain.layers[1].frozen
    train(net), train(twin)
    assert not changed(tensors(net), twin)


def test_multipliers_scale_a_step_as_caffes_do(ops):
    """One step of plain SGD: w - rate * r * (g + decay * d * w), here with r 3 and d 0.5."""
    plain, scaled = made(ops), made(ops)
    assert scaled.multiply("conv*", rate=3, decay=0.5) == [
        "conv1.W", "conv1.b", "conv2.W", "conv2.b",
    ]  # fmt: skip
    assert scaled.multiply("*.b", decay=0) == ["conv1.b", "conv2.b", "clf.b"]
    start, results = tensors(plain), []
    for net in (plain, scaled):
        optimizer = SGD(net, momentum=0.0, decay=0.2)
        engine.fit(net, IMAGES, LABELS, optimizer, 1 / 3, 0.01, report=lambda line: None)
        results.append(tensors(net))
    w, one, other = (each["conv2.W"].astype(float) for each in (start, *results))
    g = (w - one) / 0.01 - 0.2 * w
    assert np.allclose(other, w - 0.03 * (g + 0.1 * w), atol=1e-6)
    for name in ("bn1.scale", "act1.slope", "clf.W", "clf.b"):
        assert np.array_equal(results[0][name], results[1][name])


def test_frozen_batch_norm_wants_statistics():
    net = made()
    net.freeze("conv1"), net.freeze("bn1")
    with pytest.raises(InputError, match="^bn1: batch normalisation has no running statistics"):
        train(net)


@pytest.mark.parametrize(
    "refused, said",
    [
        (lambda net: net.freeze("cnv*"), "'cnv*' is the name of no layer; there are conv1, bn1, "),
        (lambda net: net.multiply("bn7"), "'bn7' is the name of no layer with weights; there are"),
        (lambda net: net.multiply("*", rate=-1), "rate -1: a multiplier is a number of 0 or more"),
        (lambda net: net.multiply("*", decay=float("nan")), "decay nan: a multiplier is a number"),
    ],
)
def test_what_can_not_be_meant_is_one_line(refused, said):
    with pytest.raises(InputError) as error:
        refused(made())
    assert said in str(error.value) and "\n" not in str(error.value)
