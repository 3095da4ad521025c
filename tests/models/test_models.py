"""The nets: exact parameter counts, and the same ten losses on every device.

Read next: tests/engine/test_train.py.
"""

import math
import os
import re
import tracemalloc

import numpy as np
import pytest

import engine
import models
from engine.containers import AuxiliaryClassifier
from engine.data import load
from engine.data.feed import Feed
from engine.errors import InputError
from engine.layers import AvgPool, Conv, Dropout, FractionalMaxPool, Maxout, MaxPool
from engine.losses import LOSSES, SoftmaxLoss
from engine.net import Net
from engine.optimizers import SGD, RMSProp
from engine.run.folder import read_run
from engine.run.weights import transfer
from engine.schedules import rates
from kernels import ops_for
from kernels.clock import LOSS
from kernels.reference import NumpyOps
from lsuv import fill, initialise
from models import WEIGHTS, allcnn, dsn
from models.recipes import recipe

COUNTS = {  # (net, classes): (maxout, any other activation)
    ("fitnet1", 10): (348_694, 128_102),
    ("fitnet1", 100): (393_784, 173_192),
    ("fitnet4", 10): (2_742_102, 1_276_806),
    ("fitnet4", 100): (2_787_192, 1_321_896),
    ("fitresnet4", 10): (2_765_174, 1_288_342),
    ("fitnet4-bn-before", 10): (2_742_102, 1_276_806),
    ("fitnet4-bn-after", 10): (2_742_102, 1_276_806),
    ("fitnet_mnist", 10): (21_426, 11_258),
}
OTHERS = {  # (net, classes): parameters, multiply-adds of an image in millions
    ("highway-16", 10): (38_986, 8.03),
    ("highway-32", 10): (151_690, 31.65),
    ("highway-19", 10): (2_256_838, 330.83),
    ("highway-19", 100): (2_265_928, 330.84),
    ("nin", 10): (966_986, 222.49),
    ("nin", 100): (984_356, 223.59),
    ("nin-mnist", 10): (349_674, 50.70),
    ("dsn", 10): (3_547_496, 225.07),
    ("dsn-mnist", 10): (1_415_944, 51.77),
    ("all-cnn-c", 10): (1_369_738, 270.80),
    ("all-cnn-c", 100): (1_387_108, 271.42),
    ("min", 10): (1_614_294, 496.66),
    ("min", 100): (1_702_044, 502.19),
    ("min-mnist", 10): (454_358, 121.36),
    ("fmp-mnist", 10): (519_946, 20.37),
    ("fmp-32", 10): (3_176_490, 596.41),
    ("maxout-cifar", 10): (16_247_830, 732.29),
    ("maxout-cifar", 100): (16_292_920, 732.34),
    ("maxout-mnist", 10): (418_714, 30.75),
    ("fitnet4-romero", 10): (2_742_102, 381.94),
    ("fitnet4-romero", 100): (2_787_192, 381.99),
    ("fitnet-mnist-romero", 10): (36_226, 5.63),
}


def make(name, act, classes=10, batch=2, ops=None, dropout=True, loss=None):
    return Net(
        models.build(name, act, classes, dropout),
        loss or SoftmaxLoss(),
        ops or NumpyOps(),
        models.NETS[name].in_shape,
        batch,
        seed=1,
    )


@pytest.mark.parametrize("name, classes", COUNTS)
@pytest.mark.parametrize("act", models.ACTS)
def test_parameter_counts(name, classes, act):
    net = make(name, act, classes)
    assert net.parameters == COUNTS[name, classes][act != "maxout"]
    assert f"{net.parameters:,}" in net.summary()


@pytest.mark.parametrize("name, classes", OTHERS)
def test_parameters_and_multiply_adds(name, classes):
    net = make(name, models.NETS[name].act, classes)
    adds = sum(layer.multiply_adds for layer in net.weighted())
    assert (net.parameters, round(adds / 1e6, 2)) == OTHERS[name, classes]


def test_the_large_net_ends_at_one_place():
    """77,455,690 parameters in the paper's widths; a narrow copy has the same sizes."""
    full, inputs = 0, 3
    sizes = []
    net = Net(
        allcnn.all_cnn_large("vlrelu", 10, widths=(10, 20, 30, 40, 50)),
        SoftmaxLoss(),
        NumpyOps(),
        (126, 126, 3),
        1,
    )
    for layer in net.weighted():
        outputs = 10 if layer.name == "clf" else layer.outputs * 32
        full += (layer.size**2 * inputs + 1) * outputs
        inputs = outputs
        sizes.append(layer.out_shape[0])
    assert full == 77_455_690
    assert sizes == [125, 124, 62, 61, 60, 30, 29, 28, 14, 13, 12, 6, 5, 4, 2, 1, 1, 1]
    drops = [layer.drop for layer in net.chain.leaves() if isinstance(layer, Dropout)]
    assert drops == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5]


@pytest.mark.parametrize(
    "name, wide, pooled",
    [
        ("fmp-mnist", [35, 24, 16, 10, 6, 3, 1], [25, 17, 11, 7, 4, 2]),
        (
            "fmp-32",
            [93, 73, 57, 44, 34, 26, 20, 15, 11, 8, 5, 3, 1],
            [74, 58, 45, 35, 27, 21, 16, 12, 9, 6, 4, 2],
        ),
    ],
)
def test_a_fractional_net_shrinks_by_its_factor(name, wide, pooled):
    net = make(name, "vlrelu", batch=1)
    sizes = [layer.out_shape[0] for layer in net.weighted()[:-2]]
    pools = [layer for layer in net.chain.leaves() if isinstance(layer, FractionalMaxPool)]
    assert sizes == wide and [layer.out_shape[0] for layer in pools] == pooled
    assert {(layer.overlapping, layer.random) for layer in pools} == {(True, name == "fmp-32")}


def test_the_wide_fractional_net_counts_and_drops_as_the_papers():
    """79,247,530 parameters, from the list of its layers: they would fill 320 MB."""
    count, inputs = 0, 3
    layers = models.build("fmp-160", "vlrelu", 10)
    for layer in layers:
        if isinstance(layer, Conv):
            count += (layer.size**2 * inputs + 1) * layer.outputs
            bound = (6 / (layer.size**2 * inputs + layer.outputs * SHRUNK[layer.name])) ** 0.5
            assert layer.original.std == pytest.approx(bound, rel=1e-3)
            inputs = layer.outputs
    assert count + (inputs + 1) * 10 == 79_247_530
    drops = [layer.drop for layer in layers if isinstance(layer, Dropout)]
    assert drops == [*(pytest.approx(0.5 * i / 13) for i in range(1, 13)), 0.5]


SHRUNK = {f"conv{i}": 2 ** (4 / 3) for i in range(1, 13)} | {"conv13": 4, "conv14": 1}


def sizes_of(name):
    return [
        layer.out_shape[0]
        for layer in make(name, models.NETS[name].act).chain.every()
        if isinstance(layer, (Conv, MaxPool, AvgPool)) and len(layer.out_shape) == 3
    ]


def test_sizes_of_the_other_nets():
    assert sizes_of("highway-32") == [24, 24, 24, 12, 12, 12, 12, 6, 6, 6, 6, 3]
    assert sizes_of("all-cnn-c") == [32, 32, 16, 16, 16, 8, 6, 6, 6]
    for name in ("nin", "min"):
        assert sizes_of(name) == [32] * 3 + [16] * 4 + [8] * 4
    for name, sizes in (
        ("maxout-cifar", [33, 15, 9]),
        ("maxout-mnist", [21, 9, 6]),
        ("fitnet-mnist-romero", [24, 22, 12, 10, 8, 6]),
    ):
        assert sizes_of(name) == sizes
    assert sizes_of("nin-mnist") == [28] * 3 + [14] * 4 + [7] * 4
    assert sizes_of("highway-19") == [32] * 5 + [16] * 7 + [8] * 8


def test_a_gate_starts_closed_by_any_filler_and_is_not_scaled(ops):
    """Its bias; LSUV scales what the units make of their input, and measures the gates."""
    net = make("highway-16", "relu", batch=8, ops=ops)
    net.x[...] = ops.asarray(np.random.default_rng(0).normal(0, 1, net.x.shape).astype(np.float32))
    for init in ("ortho", "original"):
        fill(net, init, seed=0)
        b = ops.tohost(net.named_params()["conv11.b"].value)
        assert np.array_equal(b, np.repeat(np.float32([0, -1]), 16))
    report = initialise(net, "lsuv", lambda: None, seed=0)
    units = [row for row in report.rows if row.pieces == 2]
    assert [row.chosen for row in units] == [True, False] * 8
    assert all(abs(row.variance_after - 1) < 0.05 for row in units if row.chosen)
    assert all(row.scale == 1 and row.iterations == 0 for row in units if not row.chosen)
    assert any("gate" in note for note in report.notes)
    with pytest.raises(InputError, match="has no next layer"):
        initialise(net, "lsuv", lambda: None, seed=0, normalise="input")


@pytest.mark.parametrize(
    "name, low, high", [("highway-16", 2.23, 2.52), ("highway-32", 2.19, 2.73)]
)
def test_first_loss_of_a_highway_net(name, low, high):
    """With the file's fillers, three deviations around 2.37 and 2.46; the file's log has 2.516."""
    if "LSUV_DATA_DIR" not in os.environ:
        pytest.skip("the real data sets are looked for in $LSUV_DATA_DIR")
    data = load("mnist", limit=64)
    net = make(name, "relu", batch=64, ops=ops_for("auto"))
    Feed(net, data, 0, 1.0).train.batch(np.arange(64))
    fill(net, "original", seed=1)
    net.forward(train=False)
    net.evaluate_loss(train=False)
    assert low < net.ops.tohost(net.clock)[LOSS] < high


def test_fitnet4_has_17_convolutions_and_five_dropouts():
    net = make("fitnet4", "relu")
    assert [layer.name for layer in net.weighted()] == [
        *(f"conv1{i}" for i in range(1, 6)),
        *(f"conv2{i}" for i in range(1, 7)),
        *(f"conv3{i}" for i in range(1, 7)),
        "ip1",
        "clf",
    ]
    drops = [layer for layer in net.chain.leaves() if isinstance(layer, Dropout)]
    assert [d.number for d in drops] == [0, 1, 2, 3, 4]
    assert not any(
        isinstance(layer, Dropout)
        for layer in make("fitnet4", "relu", dropout=False).chain.leaves()
    )


@pytest.mark.parametrize(
    "name, drops",
    [
        ("fitnet1", [0.2] * 5),
        ("fitnet4", [0.2] * 5),
        ("fitresnet4", [0.2] * 5),
        ("fitnet4-bn-before", [0.2] * 5),
        ("fitnet4-bn-after", [0.2] * 5),
        ("fitnet_mnist", [0.3]),
    ],
)
@pytest.mark.parametrize("act", models.ACTS)
def test_dropouts_are_numbered_alike_in_a_layer_of_their_own_and_in_a_maxout(name, drops, act):
    def found(dropout):
        leaves = make(name, act, dropout=dropout).chain.leaves()
        return [layer for layer in leaves if getattr(layer, "drop", 0)]

    assert [layer.drop for layer in found(True)] == drops and not found(False)
    assert [layer.number for layer in found(True)] == list(range(len(drops)))
    fused = [layer for layer in found(True) if isinstance(layer, Maxout)]
    behind_norm_or_sum = {"fitnet4-bn-after": 0, "fitresnet4": 1, "fitnet_mnist": 1}
    assert len(fused) == (behind_norm_or_sum.get(name, 3) if act == "maxout" else 0)


def test_multiply_adds_of_fitnet4():
    layers = {layer.name: layer for layer in make("fitnet4", "relu").weighted()}
    assert layers["conv12"].multiply_adds == 32 * 32 * 32 * 9 * 32
    assert layers["clf"].multiply_adds == 5_000


def test_mnist_pools_as_caffe_does_and_decays_biases():
    net = make("fitnet_mnist", "maxout")
    pools = [layer.out_shape for layer in net.chain.leaves() if getattr(layer, "pool", None)]
    assert pools == [(13, 13, 16), (6, 6, 16), (3, 3, 12)]
    assert all(p.decay == 1 for p in net.named_params().values())
    fitnet = make("fitnet1", "relu").named_params()
    assert all(p.decay == (0 if name.endswith(".b") else 1) for name, p in fitnet.items())


@pytest.mark.parametrize(
    "name, act", [("fitnet1", "maxout"), ("fitresnet4", "relu"), ("fitnet_mnist", "tanh")]
)
def test_ten_steps_give_the_same_losses_on_every_device(name, act, ops):
    if ops.name == "numpy":
        pytest.skip("the reference is what the others are compared with")
    losses = []
    for device in (NumpyOps(), ops):
        net = make(name, act, batch=2, ops=device)
        rng, rates = np.random.default_rng(0), device.asarray(np.full(11, 2e-4))

        def next_batch(net=net, rng=rng):
            net.x[...] = rng.normal(0, 1, net.x.shape)
            net.labels[...] = rng.integers(0, 10, 2)

        initialise(net, "lsuv", next_batch, seed=1, act=act)
        # RMSProp's usual delta would turn the rounding of a gradient near zero into a whole step.
        optimizer = (
            RMSProp(net, delta=1e-2) if name == "fitnet_mnist" else SGD(net, 0.9, 5e-4, clip=1.0)
        )
        net.clock[2] = 2e-4
        ten = []
        for _ in range(10):
            next_batch()
            net.forward(train=True)
            net.evaluate_loss()
            net.backward()
            optimizer.step()
            device.advance(net.clock, rates)
            ten.append(float(net.clock[5]))
        losses.append(ten)
        assert net.clock[0] == 10
    assert np.allclose(losses[0], losses[1], rtol=0, atol=1e-4), np.subtract(*losses)
    assert len(set(losses[0])) == 10


def test_a_step_allocates_nothing_that_grows_with_the_batch(ops):
    """The second step and later ones: buffers, plans and tables are there by then."""
    if ops.name == "numpy":
        pytest.skip("plain NumPy makes temporaries; cpu and cuda are the devices that must not")
    net = make("fitnet_mnist", "maxout", batch=16, ops=ops)
    fill(net, "ortho", seed=1)
    optimizer, rates = SGD(net, 0.9, 5e-4, clip=1.0), ops.asarray(np.full(9, 1e-3))
    smallest_activation = net.x.nbytes
    for step in range(4):
        if step == 2:
            tracemalloc.start()
        net.forward(train=True)
        net.evaluate_loss()
        net.backward()
        optimizer.step()
        ops.advance(net.clock, rates)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < smallest_activation / 3


def test_unknown_names_say_the_nearest():
    with pytest.raises(InputError, match="did you mean 'fitnet4'"):
        models.build("fitnet44", "relu", 10)
    with pytest.raises(InputError, match="unknown activation 'rellu'; did you mean"):
        models.build("fitnet4", "rellu", 10)


def test_recipes_are_the_authors():
    paper = recipe("fitnet4", "maxout", "lsuv")
    assert (paper.steps, paper.batch, paper.momentum, paper.decay) == (90_000, 128, 0.9, 5e-4)
    assert round(paper.epochs * 50_000 / paper.batch) == paper.steps
    assert paper.policy_over(90_000) is paper.policy
    assert paper.policy_over(900)["steps"] == [400, 600, 800]
    assert recipe("fitnet4", "maxout", "xavier").momentum == 0.5
    msra = recipe("fitnet4", "maxout", "msra")
    assert (msra.policy["rate"], msra.policy["steps"], msra.clip) == (1e-3, [80_000], 50.0)
    assert recipe("fitnet4", "relu", "msra") == recipe("fitnet4", "relu", "lsuv")
    caffenet, googlenet = (recipe(net, "relu", "original") for net in ("caffenet", "googlenet"))
    assert (caffenet.decay, caffenet.batch, caffenet.momentum) == (5e-4, 256, 0.9)
    lowered = rates(caffenet.policy, 0, caffenet.steps)[[0, 99_999, 100_000, 449_999]]
    assert np.allclose(lowered, [0.01, 0.01, 0.001, 1e-6])
    assert (googlenet.decay, googlenet.batch, round(googlenet.epochs)) == (2e-4, 32, 60)
    assert rates(googlenet.policy, 1_800_000, 1)[0] == pytest.approx(0.01 * 0.5)
    assert {
        recipe(net, "relu", "lsuv", kind, optimizer).optimizer
        for net in ("caffenet", "googlenet")
        for kind in ("paper", "fast")
        for optimizer in ("rmsprop",)
    } == {"rmsprop"}
    for net in ("fitnet1", "fitnet_mnist", "googlenet"):  # Adam's steps are RMSProp's
        for kind in ("paper", "fast"):
            like = recipe(net, "relu", "lsuv", kind, "rmsprop")
            adam, adamw = (recipe(net, "relu", "lsuv", kind, o) for o in ("adam", "adamw"))
            assert adam.policy == adamw.policy == like.policy and adam.policy["rate"] <= 2e-3
            assert (adam.optimizer, adam.decay, adamw.decay) == ("adam", like.decay, 0.05)
    rms = recipe("fitnet4", "maxout", "lsuv", optimizer="rmsprop")
    assert round(rms.epochs * 50_000 / 128) == rms.steps == 190_000
    mnist = recipe("fitnet_mnist", "maxout", "lsuv")
    assert (mnist.optimizer, mnist.rho, mnist.batch) == ("rmsprop", 0.99, 64)
    assert round(mnist.epochs * 60_000 / mnist.batch) == mnist.steps == 50_000


def test_devices_are_chosen_by_name():
    assert ops_for("numpy").name == "numpy"
    with pytest.raises(ValueError, match="numpy"):
        ops_for("nunpy")


# -- trained weights that come with the program ---------------------------------------------------


@pytest.mark.parametrize("name", [path.name for path in WEIGHTS.iterdir() if path.is_dir()])
def test_packaged_weights_reproduce_the_accuracy_of_their_record(name, request):
    """Which the card states; and no path of a machine is in them."""
    record = read_run(WEIGHTS / name)
    stated = record["result"]["test_accuracy"]
    card = (WEIGHTS / "README.md").read_text()
    assert f"| `{name}` |" in card and f"{100 * stated:.2f} %" in card
    for path in (WEIGHTS / name).iterdir():
        assert path.stat().st_size < 6_000_000
        assert not re.search(rb"/(root|home|Users|tmp)/", path.read_bytes())
    model = engine.load(name)
    if "LSUV_DATA_DIR" not in os.environ:
        pytest.skip("the real data sets are looked for in $LSUV_DATA_DIR")
    data = load(record["settings"]["data"], report=lambda line: None)
    answers = model.predict(data.test.images).argmax(axis=1)
    assert abs(np.mean(answers == data.test.labels) - stated) <= 1e-4


def test_packaged_weights_answer_without_their_data():
    model = engine.load("fitnet_mnist-svm", device="numpy")
    assert model.predict(np.zeros((2, 28, 28, 1), np.uint8)).shape == (2, 10)
    with pytest.raises(InputError, match="^fitnet_mnist-svn: not a run folder"):
        engine.load("fitnet_mnist-svn")


def test_policies_of_the_other_nets_at_named_epochs():
    """The rates of the public files: epochs from 0, and each net's steps an epoch."""

    def at(name, steps, *epochs):
        policy = recipe(name, "relu", "original").policy
        return [float(rates(policy, math.ceil(epoch * steps), 1)[0]) for epoch in epochs]

    assert at("min", 500, 0, 79, 80, 81, 179, 180, 221) == pytest.approx(
        [0.5, 0.5, 0.5, 0.495, 0.005, 0.005, 0.0009]
    )
    assert at("min-mnist", 600, 80, 221) == pytest.approx([0.5, 0.0009])
    assert at("maxout-cifar", 390.625, 0, 100, 473) == pytest.approx(
        [0.16966, 0.136, 0.010452], rel=1e-3
    )
    momentum = recipe("maxout-cifar", "maxout", "original").momentum_policy
    assert rates(momentum, 0, 251)[[0, 249, 250]] == pytest.approx([0.5, 0.65, 0.65])
    assert at("highway-32", 600, 99, 100, 200) == pytest.approx([1e-2, 1e-3, 1e-4])
    assert at("highway-19", 500, 199, 200, 300, 350) == pytest.approx(
        [2.5e-2, 2.5e-3, 2.5e-4, 2.5e-5]
    )
    assert at("nin", 1, 99_999, 100_000, 110_000) == pytest.approx([0.1, 0.01, 0.001])
    assert at("all-cnn-c", 1, 39_999, 40_000, 50_000, 60_000) == pytest.approx(
        [0.05, 5e-3, 5e-4, 5e-5]
    )
    assert at("fmp-mnist", 600, 0, 1, 409) == pytest.approx(
        [3e-3 * math.exp(-0.01 * epoch) for epoch in (1, 2, 410)]
    )
    assert at("fmp-160", 1000, 0, 809) == pytest.approx(
        [1.5e-3 * math.exp(-0.005 * epoch) for epoch in (1, 810)]
    )
    heads = recipe("dsn", "relu", "original").head_policy
    assert rates(heads, 0, 100)[[0, 1, 99]] == pytest.approx(
        [(1 + 1e-4 * 500 * epoch) ** -0.75 for epoch in (0, 1, 99)]
    )
    for name in ("nin", "nin-mnist", "all-cnn-c", "min", "min-mnist", "highway-19", "highway-16"):
        r, images = (
            recipe(name, "relu", "original"),
            60_000 if "mnist" in name or "16" in name else 50_000,
        )
        assert round(r.epochs * images / r.batch) == r.steps, name
        assert r.contrast == (None if images == 60_000 or name == "highway-19" else "zca")


@pytest.mark.parametrize(
    "name, loss",
    [
        *(("nin", 2.3026), ("all-cnn-c", 2.303)),
        *((name, 2.3026) for name in ("maxout-mnist", "fitnet4-romero", "fitnet-mnist-romero")),
    ],
)
def test_first_loss_of_nets_whose_scores_start_near_zero(name, loss):
    net = make(name, models.NETS[name].act, batch=16, ops=ops_for("auto"))
    net.x[...] = np.random.default_rng(0).normal(0, 0.52, net.x.shape)
    net.labels[...] = np.arange(16) % 10
    fill(net, "original", seed=1)
    net.forward(train=False)
    net.evaluate_loss(train=False)
    assert net.ops.tohost(net.clock)[LOSS] == pytest.approx(loss, abs=2e-3)


# -- deeply supervised nets, and recipes of several stages ----------------------------------------


def supervised(loss="squared-hinge", stage=1, batch=50, seed=1, ops=None):
    layers = models.build("dsn", "relu", 10, True, loss, stage)
    net = Net(layers, LOSSES[loss](), ops or ops_for("auto"), (32, 32, 3), batch, seed)
    fill(net, "original", seed)
    return net


def heads_of(net):
    return [part for part in net.chain.every() if isinstance(part, AuxiliaryClassifier)]


@pytest.mark.parametrize(
    "loss, least, most", [("squared-hinge", 40.2, 41.7), ("softmax", 9.2, 9.3)]
)
def test_first_loss_of_a_supervised_net_is_that_of_four(loss, least, most):
    """On whitened images 40.4 to 40.7; here on noise of their deviation."""
    net = supervised(loss)
    net.x[...] = np.random.default_rng(0).normal(0, 0.52, net.x.shape)
    net.labels[...] = np.arange(50) % 10
    net.forward(train=True)
    net.evaluate_loss()
    net.backward()
    clocks = [net.clock, *(head.own_clock for head in heads_of(net))]
    assert len(clocks) == 4
    assert least < sum(net.ops.tohost(clock)[LOSS] for clock in clocks) < most


def test_without_its_classifiers_a_supervised_net_is_the_same_to_the_bit(tmp_path):
    first, second = supervised(batch=2), supervised(stage=2, batch=2, seed=7)
    assert second.parameters == 966_986 and not heads_of(second)
    engine.save(first, tmp_path / "first.safetensors")
    assert transfer(second, tmp_path / "first.safetensors", more=True) == []
    for net in (first, second):
        net.x[...] = np.random.default_rng(0).normal(0, 0.5, net.x.shape)
    scores = [net.ops.tohost(net.forward(train=False)) for net in (first, second)]
    assert np.array_equal(*scores) and scores[0].any() and (scores[0] < 0).any()  # no ReLU there


@pytest.mark.parametrize("loss", ["squared-hinge", "softmax"])
def test_gradients_of_a_supervised_net_are_those_of_the_four_losses(loss):
    layers = dsn.supervised(((3, 4, 3, 3), (3, 5, 4, 3), (3, 4, 3)), "tanh", 3, False, loss, 1)
    net = Net(layers, LOSSES[loss](), NumpyOps(), (9, 9, 2), 4, dtype=np.float64)
    fill(net, "msra", seed=1)
    rng = np.random.default_rng(1)
    net.x[...], net.labels[...] = rng.normal(size=net.x.shape), [0, 1, 2, 0]

    def total() -> float:
        net.forward(train=True)
        net.evaluate_loss()
        net.backward()
        clocks = [net.clock, *(head.own_clock for head in heads_of(net))]
        return sum(float(clock[LOSS]) for clock in clocks)

    total()
    gradient, weights = net.gradients.copy(), net.weights.copy()
    for name, param in net.named_params().items():
        way = np.zeros_like(weights)
        net.arenas.view(way, name)[...] = rng.normal(size=param.shape)
        ends = []
        for sign in (1, -1):
            net.weights[...] = weights + sign * 1e-6 * way
            ends.append(total())
        net.weights[...] = weights
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(gradient @ way, rel=1e-5, abs=1e-7), name


def test_the_classifiers_rates_are_paced():
    net = supervised(batch=1, ops=NumpyOps())
    before = net.segments.copy()
    assert {row[2] for row in before} == {0.1, 0.2, 1, 2, 0.001, 0.002}
    net.pace_heads(0.5)
    net.pace_heads(0.25)
    assert [row[2] for row in net.segments] == [
        rate * (0.25 if rate < 0.01 else 1) for rate in before[:, 2]
    ]


@pytest.mark.parametrize("name, images", [("dsn", 50_000), ("dsn-mnist", 60_000)])
def test_the_stages_of_a_supervised_net(name, images):
    whole = recipe(name, "relu", "original")
    first, second, third = whole.stages
    share = 0.6 if name == "dsn-mnist" else 1
    for stage, updates in ((first, 50_000), (second, 120_000), (third, 30_000)):
        assert round(stage.epochs * images / stage.batch) == stage.steps == share * updates
        assert (stage.loss, stage.decay, stage.momentum) == ("squared-hinge", 5e-4, 0.9)
    assert rates(first.policy, first.steps - 1, 1)[0] == 0.025
    fall = round(share * 100_001)
    assert rates(second.policy, fall - 1, 2) == pytest.approx([0.025, 0.00125])
    assert rates(third.policy, 0, 1)[0] == 1e-4
    assert [bool(stage.head_policy) for stage in whole.stages] == [True, False, False]


def test_stages_under_another_optimizer_and_more_classes():
    rms = recipe("dsn", "relu", "original", optimizer="rmsprop")
    assert [stage.optimizer for stage in rms.stages] == ["rmsprop"] * 3
    assert [stage.policy["rate"] for stage in rms.stages] == pytest.approx([1e-4, 1e-4, 4e-7])
    assert {
        stage.optimizer for stage in recipe("dsn", "relu", "lsuv", optimizer="adam").stages
    } == {"adam"}
    hundred = recipe("dsn", "relu", "original", classes=100)
    assert [stage.loss for stage in hundred.stages] == ["softmax"] * 3
    nin = recipe("nin", "relu", "original", classes=100)
    assert (nin.policy["rate"], nin.decay, nin.steps) == (0.02, 5e-4, 120_000)
    assert recipe("nin", "relu", "original").policy["rate"] == 0.1
    assert recipe("nin", "relu", "original", "fast", classes=100).name == "fast"


def test_the_maxout_net_for_mnist_ends_without_dropout():
    first, last = recipe("maxout-mnist", "maxout", "original").stages
    assert (first.dropout, last.dropout, last.contrast) == (True, False, None)
    assert last.policy["rate"] == pytest.approx(rates(first.policy, first.steps - 1, 1)[0])
    assert last.momentum == pytest.approx(rates(first.momentum_policy, 249, 1)[0])
    assert last.momentum_policy is None and last.steps == last.epochs * 60_000 / last.batch
