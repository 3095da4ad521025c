"""Every layer, and whole small nets, against float64 directional derivatives; and what the plan
promises: declared shapes are actual shapes, slots do not collide, a resize keeps the weights.

Read next: tests/test_models.py.
"""

import numpy as np
import pytest

from engine.containers import STOP, Chain, Residual
from engine.errors import InputError
from engine.layers import (BatchNorm, Conv, Dropout, LeakyReLU, Linear, Maxout, MaxPool, ReLU,
                           Sigmoid, Tanh, VLReLU)
from engine.losses import HingeLoss, SoftmaxLoss
from engine.net import Net
from kernels.reference import NumpyOps

BODIES = {
    "conv": lambda: [Conv(5, name="a"), Conv(3, size=2, stride=2, pad=0, name="b")],
    "conv groups": lambda: [Conv(4, name="a"), Conv(6, groups=2, name="b")],
    "linear": lambda: [Linear(7, name="a"), Linear(5, name="b")],
    "maxout": lambda: [Conv(5, pieces=3, name="a"), Maxout(3)],
    "relu": lambda: [Conv(5, name="a"), ReLU()],
    "vlrelu": lambda: [Conv(5, name="a"), VLReLU()],
    "leaky": lambda: [Conv(5, name="a"), LeakyReLU(0.1)],
    "tanh": lambda: [Conv(5, name="a"), Tanh()],
    "sigmoid": lambda: [Conv(5, name="a"), Sigmoid()],
    "pool": lambda: [Conv(5, name="a"), MaxPool(3, 2)],
    "conv dropout conv": lambda: [Conv(5, name="a"), Dropout(0.3), Conv(4, name="b"), Tanh()],
    "maxout pool": lambda: [Conv(4, pieces=2, name="a"), Maxout(2, pool=4, stride=2),
                            Conv(3, pieces=3, name="b"), Maxout(3, pool=3)],
    "dropout": lambda: [Dropout(0.3), Conv(5, name="a"), Dropout(0.5)],
    "batchnorm": lambda: [Conv(5, name="a"), BatchNorm(), Tanh()],
    "residual": lambda: [Conv(5, name="a"), Tanh(),
                         Residual([Conv(5, name="b"), Tanh(), Conv(5, name="c")]), Tanh()],
    "residuals": lambda: [Conv(4, name="a"), Residual([Conv(4, name="b"), Tanh()]),
                          Residual([Tanh(), Residual([Conv(4, name="c"), Sigmoid()])])],
    "chains": lambda: [Conv(4, name="a"), Chain([Tanh(), Conv(4, name="b"), Tanh()]),
                       Chain([Conv(3, name="c")]), Chain([Sigmoid()])],
    "fitnet": lambda: [Dropout(0.2), Conv(4, pieces=2, name="a"), Maxout(2), Conv(4, name="b"),
                       ReLU(), MaxPool(2), Dropout(0.2), Residual([Conv(4, pieces=2, name="c"),
                       Maxout(2)]), MaxPool(5), Linear(6, pieces=5, name="d"), Maxout(5)],
}


def small_net(body: str, loss=None) -> Net:
    batch = 7
    net = Net([*BODIES[body](), Linear(4, name="clf")], loss or SoftmaxLoss(), NumpyOps(),
              in_shape=(9, 11, 3), batch=batch, seed=3, dtype=np.float64)
    rng = np.random.default_rng(1)
    for p in net.named_params().values():
        p.value[...] = rng.normal(0, 0.3, p.shape)
    net.x[...] = rng.normal(0, 1, net.x.shape)
    net.labels[...] = rng.integers(0, 4, batch)
    net.clock[0] = 5  # a step other than 0, for dropout
    return net


def loss_of(net: Net) -> float:
    net.forward(train=True)
    net.evaluate_loss()
    return float(net.clock[5])


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("loss", [SoftmaxLoss, HingeLoss])
def test_gradient_of_a_net_is_its_directional_derivative(body, loss):
    net = small_net(body, loss())
    loss_of(net)
    net.backward()
    rng = np.random.default_rng(2)
    start = net.weights.copy()
    for p in net.named_params().values():
        direction = rng.normal(0, 1, p.shape)
        expected = float(np.sum(direction * p.gradient))
        values = []
        for eps in (1e-6, -1e-6):
            p.value += eps * direction
            values.append(loss_of(net))
            net.weights[...] = start
        measured = (values[0] - values[1]) / 2e-6
        assert measured == pytest.approx(expected, rel=1e-5, abs=1e-8), p.name


@pytest.mark.parametrize("body", BODIES)
def test_declared_shapes_are_actual_shapes(body):
    net = small_net(body)
    seen = []

    def walk(layers, x):
        for layer in layers:
            before = x.copy()
            y = layer.forward(x, True)
            assert np.array_equal(x, before), f"{layer.name} changed its input"
            assert y.shape == (net.batch, *layer.out_shape), layer.name
            seen.append(layer.name)
            x = y
        return x

    walk(net.chain.layers, net.x)
    assert len(set(seen)) == len(seen)


def test_an_output_shares_memory_where_only_an_activation_reads_it():
    """Behind a maxout, a convolution's z is a gradient's slot; before a layer that keeps its input,
    or hands it on as a dropout does outside training, it is a buffer of its own."""
    a, b, c, d = (Conv(4, pieces=2, name=name) for name in "abcd")
    net = Net([a, Maxout(2), b, Maxout(2), c, Dropout(0.5), d, ReLU(), Linear(3, name="clf")],
              SoftmaxLoss(), NumpyOps(), in_shape=(6, 6, 2), batch=2)
    assert np.shares_memory(a.z, b.z) and np.shares_memory(a.z, d.z)
    assert not np.shares_memory(c.z, d.z)
    assert not np.shares_memory(net.weighted()[-1].z, a.z)
    net.x[...] = np.random.default_rng(0).standard_normal(net.x.shape)
    for p in net.named_params().values():
        p.value[...] = np.random.default_rng(1).standard_normal(p.shape)
    d_input = []
    net.forward(False, before=lambda layer, x: d_input.append(x.copy()) if layer is d else None)
    np.testing.assert_array_equal(c.z, d_input[0])


def test_input_gradient_is_asked_for_only_where_somebody_wants_it():
    net = small_net("fitnet")
    dropout, first, *rest = net.chain.leaves()
    assert dropout.dx is None and first.dx is None
    assert all(layer.dx is not None for layer in rest)


def test_visitors_see_every_weighted_layer_once_in_order():
    net, seen, back = small_net("residual"), [], []
    net.forward(True, before=lambda layer, x: seen.append((layer.name, x.shape)))
    assert [name for name, _ in seen] == ["a", "b", "c", "clf"]
    net.evaluate_loss()

    def after(layer):
        assert layer.dz.shape == layer.z.shape
        assert np.allclose(layer.dz.reshape(-1, layer.outputs).sum(0), layer.db)
        back.append(layer.name)

    net.backward(after)
    assert back == ["clf", "c", "b", "a"]


def test_stop_ends_the_pass_inside_containers_too():
    net, seen = small_net("residual"), []

    def before(layer, x):
        seen.append(layer.name)
        return STOP if layer.name == "c" else None

    assert net.forward(True, before) is STOP
    assert seen == ["a", "b", "c"]


def test_a_visitor_may_run_the_layer_itself():
    net, runs = small_net("residual"), []
    scores = net.forward(True).copy()
    for layer in net.weighted():
        layer.forward = lambda x, train, layer=layer: (runs.append(layer.name),
                                                       type(layer).forward(layer, x, train))[1]
    assert np.array_equal(net.forward(True, lambda layer, x: layer.forward(x, True)), scores)
    assert runs == ["a", "b", "c", "clf"]
    net.forward(True, lambda layer, x: 2 * layer.forward(x, True) if layer.name == "clf" else None)
    assert np.array_equal(net.scores, 2 * scores)


def test_resize_keeps_weights_and_scores():
    net = small_net("fitnet")
    x, scores = net.x.copy(), net.forward(train=False).copy()
    weights = net.weights.copy()
    net.resize(3)
    net.x[...] = x[:3]
    assert np.allclose(net.forward(train=False), scores[:3])
    net.evaluate_loss()
    net.backward()
    assert np.array_equal(net.weights, weights)
    net.resize(7)
    net.x[...] = x
    assert np.allclose(net.forward(train=False), scores)


def test_arena_segments_cover_every_tensor_and_padding_stays_zero():
    net = small_net("fitnet")
    loss_of(net)
    net.backward()
    covered = np.zeros(net.weights.size, int)
    for p in net.named_params().values():
        p.value[...], p.gradient[...] = 1, 1
        start = (p.value.ctypes.data - net.weights.ctypes.data) // net.weights.itemsize
        inside = [s for s in net.segments if s[0] <= start and start + p.value.size <= s[1]]
        assert len(inside) == 1 and tuple(inside[0][2:]) == (p.rate, p.decay)
        assert start % 64 == 0
        covered[start : start + p.value.size] += 1
    assert covered.max() == 1
    assert np.array_equal(net.weights != 0, covered == 1)
    assert np.array_equal(net.gradients != 0, covered == 1)


def test_batchnorm_statistics_move_in_backward_only_and_only_while_finite():
    net = small_net("batchnorm")
    states = net.named_state()
    loss_of(net)
    assert all((s == 0).all() for s in states.values())
    net.backward()
    kept = {name: s.copy() for name, s in states.items()}
    assert all((s != 0).all() for s in kept.values())
    net.clock[4] = 0.0
    net.backward()
    assert all(np.array_equal(s, kept[name]) for name, s in states.items())


def test_batchnorm_inference_equals_training_on_the_batch_that_made_the_statistics():
    net = small_net("batchnorm")
    norm = [layer for layer in net.chain.leaves() if isinstance(layer, BatchNorm)][0]
    loss_of(net)
    net.backward()
    trained = norm.y.copy()
    net.forward(train=False)
    n = norm.count
    assert np.allclose(norm.y, trained * np.sqrt((n - 1) / n), atol=1e-4)


def test_a_layer_can_stand_in_one_place_only():
    relu = ReLU()
    with pytest.raises(ValueError, match="relu1 stands twice in the net"):
        Net([Conv(4), relu, Conv(4), relu, Linear(4)], SoftmaxLoss(), NumpyOps(), (9, 11, 3), 2)


def test_misfits_are_one_line_that_names_the_layer():
    ops = NumpyOps()
    cases = [
        ([Conv(9, name="odd"), Maxout(2), Linear(4)], "9 channels do not split into 2 pieces"),
        ([Conv(4, size=13, pad=0, name="big"), Linear(4)], "big: a 9x11 input is smaller"),
        ([MaxPool(10), Linear(4)], "smaller than the 10x10 window"),
        ([Conv(4, groups=2, name="g"), Linear(4)], "g: 3 inputs and 4 outputs do not split"),
        ([Conv(4, name="last")], "a loss wants"),
        ([Conv(4, name="a"), Conv(4, name="a"), Linear(4)], "two layers are named 'a'"),
        ([Residual([Conv(4, name="r")]), Linear(4)], "a residual sum needs equal shapes"),
    ]
    for layers, text in cases:
        with pytest.raises(ValueError, match=text):
            Net(layers, SoftmaxLoss(), ops, (9, 11, 3), 2)
    with pytest.raises(InputError, match=r"dropout 1\.5"):
        Dropout(1.5)
