"""CaffeNet and GoogLeNet: their published sizes and fillers, the same gradients on every device,
and whole runs on a folder of images.

The nets are built for smaller images than their own, with every layer in them.

Read next: tests/engine/test_train.py.
"""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

import engine
import engine.evaluate
import engine.train
import lsuv.__main__
import models
from engine.containers import AuxiliaryClassifier, Branches
from engine.errors import InputError
from engine.layers import AvgPool, Conv, Dropout, Linear, MaxPool
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.run import checkpoint
from kernels import ops_for
from kernels.reference import NumpyOps
from lsuv import fill, initialise
from lsuv import lsuv as run_lsuv
from models import NETS
from models.googlenet import INCEPTION, googlenet

SMALL = {
    "caffenet": replace(NETS["caffenet"], in_shape=(67, 67, 3)),
    "googlenet": replace(NETS["googlenet"], in_shape=(80, 80, 3), build=partial(googlenet, last=2)),
}


@pytest.fixture(autouse=True)
def small_nets(monkeypatch):
    for name, model in SMALL.items():
        monkeypatch.setitem(NETS, name, model)


def whole(layers, shape) -> Net:
    return Net(layers, SoftmaxLoss(), NumpyOps(), shape, batch=1)


def small(name, ops, batch=2, classes=10) -> Net:
    """A net with random images and labels in place."""
    layers = models.build(name, "relu", classes)
    net = Net(layers, SoftmaxLoss(), ops, SMALL[name].in_shape, batch, seed=1)
    rng = np.random.default_rng(0)
    net.x[...] = rng.standard_normal(net.x.shape).astype(np.float32)
    net.labels[...] = rng.integers(0, classes, batch)
    return net


# -- sizes ----------------------------------------------------------------------------------------


def test_caffenet_has_its_published_layers():
    net = whole(NETS["caffenet"].build("relu", 1000), (227, 227, 3))
    assert net.parameters == 60_965_224
    assert [(layer.name, layer.W.size + layer.b.size) for layer in net.weighted()] == [
        ("conv1", 34_944),
        ("conv2", 307_456),
        ("conv3", 885_120),
        ("conv4", 663_936),
        ("conv5", 442_624),
        ("fc6", 37_752_832),
        ("fc7", 16_781_312),
        ("fc8", 4_097_000),
    ]
    sizes = [
        layer.out_shape[0] for layer in net.chain.leaves() if isinstance(layer, (Conv, MaxPool))
    ]
    assert sizes == [55, 27, 27, 13, 13, 13, 13, 6]


def test_googlenet_has_its_published_layers():
    assert whole(googlenet("relu", 1000, auxiliary=False), (224, 224, 3)).parameters == 6_998_552
    net = whole(googlenet("relu", 1000), (224, 224, 3))
    assert net.parameters == 13_378_280
    widths = {name: sum(w[i] for i in (0, 2, 4, 5)) for name, w in INCEPTION.items()}
    modules = [layer for layer in net.chain.layers if isinstance(layer, Branches)]
    assert {m.name.removeprefix("inception_"): m.out_shape[-1] for m in modules} == widths
    assert [m.out_shape[0] for m in modules] == [28] * 2 + [14] * 5 + [7] * 2
    heads = [layer for layer in net.chain.every() if isinstance(layer, AuxiliaryClassifier)]
    assert [(head.name, head.weight) for head in heads] == [("loss1", 0.3), ("loss2", 0.3)]
    averages = [layer.out_shape for layer in net.chain.leaves() if isinstance(layer, AvgPool)]
    assert averages == [(4, 4, 512), (4, 4, 528), (1, 1, 1024)]
    drops = [layer.drop for layer in net.chain.leaves() if isinstance(layer, Dropout)]
    assert drops == [0.7, 0.7, 0.4]
    assert not any(
        isinstance(layer, Dropout)
        for layer in whole(googlenet("relu", 9, dropout=False), (224, 224, 3)).chain.leaves()
    )


@pytest.mark.parametrize("name", SMALL)
def test_biases_have_twice_the_rate_and_no_decay(name):
    for key, p in small(name, NumpyOps()).named_params().items():
        assert (p.rate, p.decay) == ((2, 0) if key.endswith(".b") else (1, 1))


@pytest.mark.parametrize("name", SMALL)
def test_any_elementwise_activation_fits_and_maxout_does_not(name):
    for act in models.ELEMENTWISE:
        whole(models.build(name, act, 5), SMALL[name].in_shape)
    with pytest.raises(InputError, match=f"activation of {name} 'maxout'; known: relu"):
        models.build(name, "maxout", 5)


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_scores_and_gradients_are_the_references(name, ops):
    """In training, with dropout, side exits and all. Where rounding moves a value across zero, or
    makes another one the largest, a gradient goes another way, which some tensors' norms show."""
    if ops.name == "numpy":
        pytest.skip("the reference is what the others are compared with")
    net, reference = small(name, ops), small(name, NumpyOps())
    fill(net, "ortho", 0)
    run_lsuv(net, lambda: None)
    reference.weights[...] = net.weights
    for one in (net, reference):
        one.forward(train=True)
        one.evaluate_loss()
        one.backward()
    np.testing.assert_allclose(net.scores, reference.scores, rtol=1e-3, atol=1e-3)
    errors = []
    for key, p in net.named_params().items():
        want = reference.named_params()[key].gradient
        assert np.linalg.norm(want) > 0, key
        errors.append(np.linalg.norm(p.gradient - want) / np.linalg.norm(want))
    assert np.median(errors) < 1e-5 and max(errors) < 0.02, max(errors)


@pytest.mark.parametrize("mode", ["same", "fresh"])
def test_lsuv_reaches_every_matrix_of_googlenet_side_exits_too(mode):
    net = small("googlenet", ops_for("auto"), batch=4)
    if mode == "fresh":  # every measurement is a pass up to its layer: a part of the net will do
        net = Net(
            [*models.build("googlenet", "relu", 10)[:11], AvgPool(5), Linear(10, name="end")],
            SoftmaxLoss(),
            ops_for("auto"),
            (80, 80, 3),
            4,
        )
        net.x[...] = np.random.default_rng(0).standard_normal(net.x.shape).astype(np.float32)
    report = initialise(net, "lsuv", lambda: None, mode=mode)
    assert [row.layer for row in report.rows] == [layer.name for layer in net.weighted()]
    assert report.largest_deviation <= 0.05
    clock = net.clock.copy()
    net.forward(train=True)
    np.testing.assert_array_equal(net.clock, clock)
    for layer in net.weighted():
        if layer.name.endswith(("1x1", "classifier", "end")):
            assert net.ops.variance(layer.z, 1)[1][0] == pytest.approx(1, abs=0.06), layer.name


# -- the public files' fillers --------------------------------------------------------------------


def test_caffenets_original_weights():
    net = small("caffenet", NumpyOps())
    fill(net, "original", seed=3)
    for layer, bias in zip(net.weighted(), (0, 1, 0, 1, 1, 1, 1, 0), strict=True):
        std = 0.005 if layer.name in ("fc6", "fc7") else 0.01
        assert layer.W.std() == pytest.approx(std, rel=0.02)
        assert abs(layer.W.mean()) < 4 * std / layer.W.size**0.5 and (layer.b == bias).all()


def test_googlenets_original_weights():
    net = small("googlenet", NumpyOps())
    fill(net, "original", seed=3)
    for layer in net.weighted():
        bound = (3 / layer.W[0].size) ** 0.5
        assert 0.95 * bound < np.abs(layer.W).max() <= bound * (1 + 1e-6)
        assert layer.W.std() == pytest.approx(bound / 3**0.5, rel=0.05)
        bias = 0.0 if layer.name.endswith("classifier") else 0.2
        assert (layer.b == np.float32(bias)).all(), layer.name


def test_a_net_without_a_public_file_has_no_original_weights():
    net = Net([Conv(4, name="one"), Linear(3, name="two")], SoftmaxLoss(), NumpyOps(), (5, 5, 3), 1)
    fill(net, "ortho", 0)
    before = net.weights.copy()
    with pytest.raises(InputError, match="'original': one declares .* use another init"):
        fill(net, "original", 0)
    np.testing.assert_array_equal(net.weights, before)


# -- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of four images to train on and two to test, of odd sizes."""
    root, rng = tmp_path_factory.mktemp("images") / "pets", np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            home = root / split / name
            home.mkdir(parents=True)
            for i in range(count):
                size = (31 + 7 * i, 45 + 11 * i, 3)
                Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(home / f"{i}.png")
    return root


@pytest.mark.parametrize("name, init", [("caffenet", "original"), ("googlenet", "lsuv")])
def test_a_run_on_a_folder_is_evaluated_and_loaded(name, init, folder, tmp_path, capsys):
    run = tmp_path / "run"
    assert (
        engine.train.main(
            [
                "--net",
                name,
                "--data",
                str(folder),
                "--recipe",
                "fast",
                "--epochs",
                "1",
                "--batch",
                "4",
                "--init",
                init,
                "--out",
                str(run),
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    height = SMALL[name].in_shape[0]
    assert f"12 of 12 images resized to {height}x{height}" in said
    record = json.loads((run / "run.json").read_text())
    assert record["settings"]["act"] == "relu" and record["origins"]["act"] == "default"
    assert record["settings"]["steps"] == 2 and record["settings"]["input_scale"] == 1
    last = f"test accuracy {record['result']['test_accuracy']:.4f}"
    assert last in said
    assert engine.evaluate.main([str(run)]) == 0
    assert last in capsys.readouterr().out
    images = np.random.default_rng(1).integers(0, 256, (3, *SMALL[name].in_shape), np.uint8)
    net = engine.load(run)
    probabilities = net.predict(images)
    assert net.classes == ["cat", "dog"] and probabilities.shape == (3, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    tensors = checkpoint.read(run).tensors
    first = "conv1.W" if name == "caffenet" else "inception_3a/3x3.W"
    assert tensors[first].shape == ((96, 3, 11, 11) if name == "caffenet" else (128, 96, 3, 3))
    assert {f"optimizer.momentum.{key}" for key in net.net.named_params()} < set(tensors)


def test_the_initialisers_command_shows_every_layer(folder, capsys):
    assert (
        lsuv.__main__.main(
            [
                "--net",
                "googlenet",
                "--data",
                str(folder),
                "--lsuv-batch",
                "4",
                "--lsuv-exclude",
                "loss1/*",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "act relu" in said and "layers 64" in said
    assert "inception_5b/pool_proj" in said and "loss2/classifier" in said
