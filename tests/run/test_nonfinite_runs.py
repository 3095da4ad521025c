"""A value that is not finite ends a run: step, layer and the last good checkpoint are named, and no
weight has been updated with it. On every device, in both precisions.

The faults are planted in one step of a small net with every kind of state (maxout, batch norm,
dropout, a side exit), by the real command in this process; then in the Python interface's loop, and
in LSUV.

Read next: tests/engine/test_train.py.
"""

import re

import numpy as np
import pytest

import engine
import engine.fitting
import engine.train
from engine.cli.command import run_command
from engine.containers import AuxiliaryClassifier
from engine.data.feed import Order
from engine.errors import InputError, RunError
from engine.layers import AvgPool, BatchNorm, Conv, Dropout, Linear, Maxout, MaxPool, ReLU
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.optimizers import SGD, RMSProp
from engine.run import checkpoint, session
from engine.run import folder as runs
from helpers.devices import DEVICES
from kernels.clock import FINITE, LOSS, RATE, STEP
from kernels.reference import NumpyOps
from lsuv import LsuvError, fill, lsuv
from models import NETS, Model

WAYS = [
    (ops, precision)
    for ops in DEVICES
    for precision in ("fp32", "bf16")
    if precision in ops.precisions
]
every = pytest.mark.parametrize(
    "ops, precision", WAYS, ids=[f"{ops.name}-{precision}" for ops, precision in WAYS]
)


def layers(act="maxout", classes=10, dropout=True):
    side = AuxiliaryClassifier(
        [AvgPool(4, 4), Linear(classes, name="aux")], SoftmaxLoss(), 0.3, name="side"
    )
    return [
        Dropout(0.2, name="drop1"),
        Conv(4, pieces=2, name="conv1"),
        Maxout(2, name="maxout1"),
        MaxPool(2, name="pool1"),
        side,
        Conv(6, name="conv2"),
        BatchNorm(name="bn_conv2"),
        ReLU(name="relu2"),
        Linear(classes, name="clf"),
    ]


# -- the command ----------------------------------------------------------------------------------

BAD_STEP = 4  # of 6: 48 images in batches of 16 are 3 steps an epoch, so it is in the second
ARGUMENTS = [
    "--net",
    "small",
    "--data",
    "synthetic",
    "--limit",
    "48",
    "--batch",
    "16",
    "--epochs",
    "2",
    "--lr",
    "0.05",
    "--seed",
    "3",
]


def spoilt(place, value):
    """Plants `value` in the middle of the array that `place(layer)` is, after a call."""

    def spoil(layer):
        array = place(layer)
        array.reshape(-1)[array.size // 2] = value

    return spoil


def parts(net):
    """{name: layer}, with the two losses, which have none."""
    found = {layer.name: layer for layer in net.chain.every()}
    return found | {"loss": net.loss, "side's loss": found["side"].loss}


def at(name, method, spoil):
    """A fault: in BAD_STEP, `spoil(layer)` after a method of the layer called `name` has run."""

    def plant(net, feed, optimizer):
        layer = parts(net)[name]
        call = getattr(layer, method)

        def spoiling(*arguments):
            result = call(*arguments)
            if net.clock[STEP] == BAD_STEP and net.clock[RATE] > 0:
                spoil(layer)
            return result

        setattr(layer, method, spoiling)

    return plant


def before_step(spoil):
    """A fault: `spoil(net, optimizer)` as BAD_STEP begins."""

    def plant(net, feed, optimizer):
        batch = feed.train_batch

        def spoiling():
            batch()
            if net.clock[STEP] == BAD_STEP:
                spoil(net, optimizer)

        feed.train_batch = spoiling

    return plant


def into_images(net, optimizer):
    net.x.reshape(-1)[7] = np.nan


def into_weights(net, optimizer):
    net.named_params()["conv2.W"].value[3, 1, 1, 2] = np.inf


def into_weights_too_large(net, optimizer):
    net.named_params()["conv2.W"].value[...] = 3.3e38


def into_loss(layer):
    layer.clock[[LOSS, FINITE]] = np.nan, 0


FAULTS = {  # what is planted: (how, where it is first seen)
    "an image": (before_step(into_images), "the images"),
    "a weight": (before_step(into_weights), "the weights of conv2"),
    "weights whose sums overflow": (before_step(into_weights_too_large), "the output of conv2"),
    "a convolution's output": (
        at("conv1", "forward", spoilt(lambda layer: layer.z, np.nan)),
        "the output of conv1",
    ),
    "the input layer's output": (
        at("drop1", "forward", spoilt(lambda layer: layer.y, np.inf)),
        "the output of drop1",
    ),
    "a maxout's output": (
        at("maxout1", "forward", spoilt(lambda layer: layer.y, np.nan)),
        "the output of maxout1",
    ),
    "batch norm's output": (
        at("bn_conv2", "forward", spoilt(lambda layer: layer.y, np.nan)),
        "the output of bn_conv2",
    ),
    "a score": (at("clf", "forward", spoilt(lambda layer: layer.z, -np.inf)), "the output of clf"),
    "the loss": (at("loss", "forward", into_loss), "the loss"),
    "a side exit's loss": (at("side's loss", "forward", into_loss), "the loss of side"),
    "a filter gradient": (
        at("conv2", "backward", spoilt(lambda layer: layer.dW, np.inf)),
        "the gradient of conv2",
    ),
    "an element of a bias gradient": (
        at("conv1", "backward", spoilt(lambda layer: layer.db, np.nan)),
        "the gradient of conv1",
    ),
    "the gradient on its way": (
        at("relu2", "backward", spoilt(lambda layer: layer.dx, np.nan)),
        "the gradient of conv2",
    ),
}


@pytest.fixture
def planting(monkeypatch):
    """A function that makes the command's net suffer a fault -> the dictionary in which its net
    and optimizer then are, and `first`: copies of its arrays as BAD_STEP began."""
    monkeypatch.setitem(NETS, "small", Model(layers, (8, 8, 3)))
    assemble = engine.train.assemble

    def start(plant):
        seen = {}

        def assembled(*arguments):
            net, feed, optimizer = assemble(*arguments)
            plant(net, feed, optimizer)
            batch = feed.train_batch

            def keeping():
                if net.clock[STEP] == BAD_STEP and net.clock[RATE] > 0:
                    seen.setdefault("first", (net.weights.copy(), optimizer.memory.copy()))
                batch()

            feed.train_batch = keeping
            seen.update(net=net, optimizer=optimizer)
            return net, feed, optimizer

        monkeypatch.setattr(engine.train, "assemble", assembled)
        return seen

    return start


def command(*arguments) -> int:
    return run_command("engine.train", lambda: engine.train.main([str(a) for a in arguments]))


@every
@pytest.mark.parametrize("optimizer, clip", [("sgd", 0), ("rmsprop", 1)])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_ends_at_the_step_and_names_the_layer(
    tmp_path, capsys, planting, ops, precision, fault, optimizer, clip
):
    plant, where = FAULTS[fault]
    seen = planting(plant)
    assert (
        command(
            *ARGUMENTS,
            "--device",
            ops.name,
            "--precision",
            precision,
            "--optimizer",
            optimizer,
            "--clip",
            clip,
            "--out",
            tmp_path,
        )
        == 1
    )
    error = capsys.readouterr().err
    assert f"not finite at step {BAD_STEP} (epoch 2): first seen in {where}; " in error, error
    assert error.count("\n") == 1 and error.rstrip().endswith("step 3")
    assert checkpoint.read(tmp_path).step == 3 and runs.read_run(tmp_path)["result"] is None
    for now, first in zip(
        (seen["net"].weights, seen["optimizer"].memory), seen["first"], strict=True
    ):
        planted = ~np.isfinite(now) | (now > 1e38)  # the weights that are the fault
        np.testing.assert_array_equal(now[~planted], first[~planted])


def into_memory(net, optimizer):
    net.arenas.view(optimizer.memory, "conv2.W")[3, 1, 1, 2] = np.nan


def into_statistics(net, optimizer):
    net.named_state()["bn_conv2.mean"][4] = np.inf


def large_gradient(layer):
    layer.dW[3, 1, 1, 2] = 1e25  # of which RMSProp's memory takes the square


STATES = {  # what is planted: (how, the optimizer, what the error says)
    "the optimizer's memory": (
        before_step(into_memory),
        "sgd",
        r"at step 5 \(epoch 2\): first seen in the weights of conv2; ",
    ),
    "running statistics": (
        before_step(into_statistics),
        "sgd",
        r"test loss is not finite after step 6 \(epoch 2\): first seen in the "
        r"(input|output) of ",
    ),
    "a gradient whose square overflows": (
        at("conv2", "backward", large_gradient),
        "rmsprop",
        "error: optimizer.square.conv2.W is not finite at step 6; nothing is saved",
    ),
}


@every
@pytest.mark.parametrize("fault", STATES)
def test_what_an_update_made_so_is_found_at_the_next_look(
    tmp_path, capsys, planting, ops, precision, fault
):
    plant, optimizer, message = STATES[fault]
    planting(plant)
    assert (
        command(
            *ARGUMENTS,
            "--device",
            ops.name,
            "--precision",
            precision,
            "--optimizer",
            optimizer,
            "--out",
            tmp_path,
        )
        == 1
    )
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert checkpoint.read(tmp_path).step == 3 and runs.read_run(tmp_path)["result"] is None


@every
@pytest.mark.parametrize("optimizer, clip", [("sgd", 0), ("sgd", 1), ("rmsprop", 0)])
@pytest.mark.parametrize(
    "epochs, message",
    [
        (1, r"not finite at step 1 \(epoch 1\): first seen in the weights of conv1"),
        (
            1 / 3,
            r"test loss is not finite after step 1 \(epoch 1\): first seen in the weights of "
            "conv1",
        ),
    ],
)
def test_an_update_that_overflows(
    tmp_path, capsys, planting, ops, precision, optimizer, clip, epochs, message
):
    """Of finite gradients, at a rate that float32 does not hold; in the run's last step too."""
    planting(lambda *parts: None)
    assert (
        command(
            *ARGUMENTS,
            "--device",
            ops.name,
            "--precision",
            precision,
            "--optimizer",
            optimizer,
            "--clip",
            clip,
            "--lr",
            "1e41",
            "--epochs",
            epochs,
            "--out",
            tmp_path,
        )
        == 1
    )
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    saved = checkpoint.read(tmp_path)
    assert saved.step == 0 and all(np.isfinite(t).all() for t in saved.tensors.values())


def test_a_long_epoch_is_looked_into(tmp_path, monkeypatch, planting):
    """Once a second, so that not all of it runs on latched; here a step takes 0.2 s."""
    steps, now = [], [0.0]

    def plant(net, feed, optimizer):
        before_step(into_weights)(net, feed, optimizer)
        batch = feed.train_batch
        feed.train_batch = lambda: (batch(), steps.append(int(net.clock[STEP])))

    def later():
        now[0] += 0.2
        return now[0]

    planting(plant)
    monkeypatch.setattr(session.time, "perf_counter", later)
    assert command(*ARGUMENTS, "--device", "numpy", "--limit", "1600", "--out", tmp_path) == 1
    assert steps[-1] == BAD_STEP and 1 < steps.count(BAD_STEP) < 10 and len(steps) < 20


# -- the Python interface -------------------------------------------------------------------------


def own(ops, precision="fp32", optimizer=SGD):
    """A small net, its optimizer, and images and labels for two batches and a half."""
    net = Net(layers(classes=4), SoftmaxLoss(), ops, (8, 8, 3), 8, precision=precision)
    fill(net, "ortho", 0)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((20, 8, 8, 3)).astype(np.float32)
    return net, optimizer(net), images, rng.integers(0, 4, 20)


def fit(net, optimizer, images, labels, **options):
    return engine.fit(
        net, images, labels, optimizer, **{"epochs": 2, "rate": 0.01, "report": str, **options}
    )


@every
@pytest.mark.parametrize(
    "fault",
    [
        "a convolution's output",
        "batch norm's output",
        "the loss",
        "a side exit's loss",
        "an element of a bias gradient",
    ],
)
def test_fit_names_step_and_layer_and_keeps_the_weights(ops, precision, fault):
    plant, where = FAULTS[fault]
    net, optimizer, images, labels = own(ops, precision)
    kept = []
    at("drop1", "forward", lambda layer: kept.append(net.weights.copy()))(net, None, optimizer)
    plant(net, None, optimizer)
    with pytest.raises(RunError, match=f"not finite at step {BAD_STEP}: first seen in {where}; "):
        fit(net, optimizer, images, labels)
    assert np.array_equal(net.weights, kept[0]) and net.clock[STEP] == BAD_STEP


@pytest.mark.filterwarnings("error")
def test_fit_names_what_its_last_update_made_infinite():
    net, optimizer, images, labels = own(NumpyOps())
    with pytest.raises(RunError, match="^conv1.W is not finite after step 1; lower the rate"):
        fit(net, optimizer, images, labels, epochs=0.4, rate=1e41)
    net, optimizer, images, labels = own(NumpyOps(), optimizer=RMSProp)
    at("conv2", "backward", large_gradient)(net, None, optimizer)
    with pytest.raises(RunError, match="^optimizer.square.conv2.W is not finite after step 5"):
        fit(net, optimizer, images, labels)


def test_fit_looks_into_a_long_epoch(monkeypatch):
    net, optimizer, images, labels = own(NumpyOps())
    at("conv1", "forward", spoilt(lambda layer: layer.z, np.nan))(net, None, optimizer)
    steps, now = [], iter(np.arange(0, 1000, 0.2))
    at("drop1", "forward", lambda layer: steps.append(1))(net, None, optimizer)
    monkeypatch.setattr(engine.fitting.time, "perf_counter", lambda: next(now))
    with pytest.raises(RunError, match="the output of conv1"):
        fit(net, optimizer, np.tile(images, (100, 1, 1, 1)), np.tile(labels, 100), epochs=1)
    assert 1 < len(steps) < 10


@pytest.mark.parametrize(
    "value, precision", [(np.nan, "fp32"), (-np.inf, "fp32"), (1e39, "fp32"), (3.4e38, "bf16")]
)
def test_images_that_are_not_finite_are_refused_by_number(ops, value, precision):
    if precision not in ops.precisions:
        pytest.skip("this device has no bfloat16")
    net, optimizer, images, labels = own(ops, precision)
    images = images.astype(np.float64)
    images[13, 4, 4, 1] = value
    kept = net.weights.copy()
    for call in (
        lambda: fit(net, optimizer, images, labels),
        lambda: engine.batches(net, images, labels),
        lambda: engine.scores(net, images),
    ):
        with pytest.raises(InputError, match="^images: number 13 has a value that is not finite"):
            call()
    assert np.array_equal(net.weights, kept)


def test_labels_are_whole_numbers():
    net, optimizer, images, labels = own(NumpyOps())
    with pytest.raises(InputError, match="^labels are float64: give whole numbers"):
        fit(net, optimizer, images, np.where(labels == 1, np.nan, labels))


@every
def test_scores_that_are_not_finite_are_no_scores(ops, precision):
    net, optimizer, images, labels = own(ops, precision)
    fit(net, optimizer, images, labels)
    for name, where in (("conv2.b", "the weights of conv2"), ("conv1.W", "the weights of conv1")):
        net.named_params()[name].value.reshape(-1)[2] = np.nan
        with pytest.raises(RunError, match=f"^the scores of images 0 to 7 .* seen in {where}; "):
            engine.scores(net, images)
    net.named_params()["conv2.b"].value[...] = net.named_params()["conv1.W"].value[...] = 0
    net.named_state()["bn_conv2.mean"][3] = np.inf
    with pytest.raises(RunError, match="seen in the input of clf; "):
        engine.scores(net, images)
    with pytest.raises(InputError, match="^images .*: this net wants .N, 8, 8, 3."):
        engine.scores(net, images[:, :7])


# -- LSUV -----------------------------------------------------------------------------------------


def into_a_weight(net, name, value):
    net.named_params()[f"{name}.W"].value.reshape(-1)[5] = value


@every
@pytest.mark.parametrize("options", [{}, {"mode": "fresh"}, {"batches": 2}, {"exclude": "*2"}])
@pytest.mark.parametrize(
    "plant, layer",
    [
        (lambda net: net.x.__setitem__((2, 4, 4, 1), np.nan), "conv1"),
        (lambda net: net.x.__setitem__((2, 4, 4, 1), -np.inf), "conv1"),
        (lambda net: into_a_weight(net, "conv1", np.inf), "conv1"),
        (lambda net: into_a_weight(net, "conv2", np.nan), "conv2"),
        (lambda net: net.named_params()["conv2.b"].value.fill(-np.inf), "conv2"),
        (lambda net: net.named_params()["conv2.W"].value.fill(3e38), "conv2"),
    ],
)
def test_lsuv_names_the_layer(ops, precision, options, plant, layer):
    """The layer at fault also where it is not itself to be scaled."""
    net, optimizer, images, labels = own(ops, precision)

    def next_batch():
        net.x[...] = images[:8]
        net.clock[STEP] = 0  # of which dropout keeps the place that is spoilt
        plant(net)

    with (
        np.errstate(all="ignore"),
        pytest.raises(
            LsuvError, match="variance (nan|inf); look for values that are not finite"
        ) as error,
    ):
        lsuv(net, next_batch, **options)
    assert error.value.layer == layer


def test_a_mean_image_that_is_not_finite_ends_a_run_before_it_begins(
    tmp_path, capsys, monkeypatch, planting
):
    load = engine.train.load_data

    def spoilt_data(*arguments, **named):
        data = load(*arguments, **named)
        data.preprocessing.mean_image[20, 20] = np.nan
        return data

    planting(lambda *parts: None)
    monkeypatch.setattr(engine.train, "load_data", spoilt_data)
    assert command(*ARGUMENTS, "--device", "numpy", "--out", tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "conv1 piece 0: output variance nan" in error and error.count("\n") == 1
    failure = runs.read_run(tmp_path / "run")["failure"]
    assert failure == {"kind": "lsuv", "step": 0, "text": failure["text"]}
    assert "conv1 piece 0: output variance nan" in failure["text"]


def test_images_whose_scale_is_not_finite_end_a_run(tmp_path, capsys, monkeypatch, planting):
    """Those that the first batch, and so LSUV, has not seen."""
    load = engine.train.load_data

    def spoilt_data(*arguments, **named):
        data = load(*arguments, **named)
        data.train.scale[Order(3, 48).images(16, 32)] = np.inf
        return data

    planting(lambda *parts: None)
    monkeypatch.setattr(engine.train, "load_data", spoilt_data)
    assert command(*ARGUMENTS, "--device", "numpy", "--out", tmp_path) == 1
    assert "at step 1 (epoch 1): first seen in the images; " in capsys.readouterr().err
