"""ONNX files give the scores of the net that they were written from, in another program's runtime.

Read next: engine/export.py.
"""

import inspect
import json
import os
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
import engine.containers
import engine.export
import engine.layers
import engine.train
from engine import export
from engine.cli.command import run_command
from engine.containers import (
    AuxiliaryClassifier,
    Branches,
    Chain,
    Container,
    Highway,
    Parallel,
    Residual,
    Sum,
)
from engine.data.preprocessing import Preprocessing
from engine.errors import InputError, RunError
from engine.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Distort,
    Dropout,
    Elementwise,
    Flatten,
    FractionalMaxPool,
    GlobalAvgPool,
    GlobalMaxPool,
    Layer,
    LeakyReLU,
    Linear,
    Maxout,
    MaxPool,
    PReLU,
    ReLU,
    Sigmoid,
    Tanh,
    VLReLU,
    Weighted,
)
from engine.losses import SoftmaxLoss, SquaredError
from engine.net import Net
from engine.optimizers import SGD
from engine.predict import Predictor
from engine.run import checkpoint
from engine.run import folder as runs
from engine.run.files import write_json
from helpers.length import often
from kernels import ops_for
from kernels.reference import NumpyOps
from lsuv import fill
from models import NETS, build

try:
    import onnx
    import onnxruntime
except ImportError as error:
    onnx, MISSING = None, f"{error}: pip install -e '.[test]'"
else:
    MISSING = ""
needs_onnx = pytest.mark.skipif(onnx is None, reason=MISSING)


def command(*arguments) -> int:
    return run_command("engine.export", lambda: export.main(list(map(str, arguments))))


def session(model):
    """A runtime's session of a file's path or bytes, on one thread."""
    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads, how.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), how, providers=["CPUExecutionProvider"]
    )


def near(got, want, share: float) -> None:
    """Within `share` of the largest value that is wanted."""
    np.testing.assert_allclose(got, want, rtol=0, atol=share * np.abs(want).max())


# -- layer by layer, against the reference in float64 ---------------------------------------------


def layers_of(module) -> list[type]:
    return [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Layer) and kind.__module__ == module.__name__
    ]


def test_every_layer_has_a_form():
    kinds = {*layers_of(engine.layers), *layers_of(engine.containers)}
    assert kinds - {Layer, Weighted, Elementwise, Container, Parallel} == set(export.FORMS)


@pytest.mark.parametrize("name", NETS)
def test_every_layer_of_every_net_has_a_form(name):
    for act in NETS[name].acts:
        inside = {type(layer) for layer in Chain(build(name, act, 10)).every()}
        assert Conv in inside and inside <= set(export.FORMS), act


def scrambled(net, seed: int = 0) -> None:
    """Random weights of unit gain, biases and running statistics."""
    rng = np.random.default_rng(seed)
    for name, param in net.named_params().items():
        spread = param.layer.fan_in**-0.5 if name.endswith(".W") else 0.2
        param.value[...] = rng.normal(0, spread, param.value.shape)
    for name, state in net.named_state().items():
        low = -1 if name.endswith(".mean") else 0.5
        state[...] = rng.uniform(low, 2, state.shape)


def shown(layers, shape, batch: int = 7):
    """A float64 net of layers and a last one that hands on what it is given, its input, and the
    file's scores for it: the layers' own result, in H, W, C order."""
    probe = Net([Chain(layers), Linear(1)], SoftmaxLoss(), NumpyOps(), shape, 1)
    size = probe.weighted()[-1].fan_in
    probe.release()
    net = Net(
        [Chain(layers), Linear(size)],
        SoftmaxLoss(),
        NumpyOps(),
        shape,
        batch,
        seed=3,
        dtype=np.float64,
    )
    scrambled(net)
    last = net.weighted()[-1]
    last.W[...], last.b[...] = np.eye(size), 0
    net.x[...] = np.random.default_rng(1).normal(0, 2, net.x.shape)
    proto = export.model_of(onnx, net)
    assert all(t.data_type != onnx.TensorProto.DOUBLE for t in proto.graph.initializer)
    onnx.checker.check_model(proto, full_check=True)
    x = np.ascontiguousarray(net.x.transpose(0, 3, 1, 2), np.float32)
    (got,) = session(proto.SerializeToString()).run(["scores"], {"x": x})
    return net, got


IMAGE = (9, 11, 6)
CASES = {
    "conv": lambda: [Conv(5)],
    "conv, stride and pad": lambda: [Conv(5, 4, 3, 2)],
    "conv, no pad": lambda: [Conv(4, 2, 1, 0)],
    "conv, groups of pieces": lambda: [Conv(4, 3, 2, 1, groups=2, pieces=3), Maxout(3)],
    "conv, 1x1": lambda: [Conv(1, 1, 1, 0)],
    "conv, no bias": lambda: [Conv(5, 3, 2, bias=False)],
    "linear, no bias": lambda: [Linear(5, bias=False), Linear(4, bias=False)],
    "flatten": lambda: [Conv(5), Flatten(), Linear(7), Flatten()],
    "global max": lambda: [GlobalMaxPool()],
    "global average": lambda: [GlobalAvgPool(), Linear(5)],
    "prelu": lambda: [PReLU()],
    "prelu of numbers": lambda: [Linear(5), PReLU()],
    "batch norm with scale and shift": lambda: [BatchNorm(eps=0.01, affine=True)],
    "batch norm of numbers with scale and shift": lambda: [Linear(5), BatchNorm(affine=True)],
    "sum": lambda: [
        Sum(
            [
                [Conv(4, 1, 2)],
                [Conv(5, 3, 2), ReLU(), Conv(4)],
                [Conv(4, 3, 2, bias=False), BatchNorm(affine=True)],
            ]
        )
    ],
    "sum with the input": lambda: [Sum([[Tanh()], []])],
    "linear of an image": lambda: [Linear(5)],
    "linear of numbers": lambda: [Linear(4, pieces=5), Maxout(5), Linear(3)],
    "maxout": lambda: [Maxout(3)],
    "maxout of one piece": lambda: [Maxout(1)],
    "maxout and pool": lambda: [Maxout(2, 3, 2)],
    "maxout and pool, overlapping to the edge": lambda: [Maxout(3, 4, 2)],
    "maxout and pool of everything": lambda: [Maxout(2, 9)],
    "maxout, pool and dropout": lambda: [Maxout(2, 3, 2, drop=0.5)],
    "maxpool": lambda: [MaxPool(2)],
    "maxpool of negative values, padded": lambda: [Sigmoid(), Conv(3), MaxPool(3, 2, 1)],
    "maxpool, a window in the padding": lambda: [MaxPool(2, 2, 1)],
    "maxpool, stride one": lambda: [MaxPool(3, 1, 1)],
    "avgpool": lambda: [AvgPool(4, 3)],
    "avgpool, clipped to one": lambda: [AvgPool(5, 4)],
    "lrn": lambda: [LRN(3, 0.7, 0.6)],
    "lrn, wider than the channels": lambda: [LRN(13, 2.0, 0.75)],
    "relu": lambda: [ReLU()],
    "vlrelu": lambda: [VLReLU()],
    "leaky relu": lambda: [LeakyReLU(0.05)],
    "tanh": lambda: [Tanh()],
    "sigmoid": lambda: [Sigmoid()],
    "dropout": lambda: [Dropout(0.5), Dropout(0.3, "plain"), Dropout(0.2, "mask")],
    "distort": lambda: [Distort(17, 0.3, 0.2), Tanh()],
    "batch norm": lambda: [BatchNorm(eps=0.01)],
    "batch norm of numbers": lambda: [Linear(5), BatchNorm()],
    "residual": lambda: [Residual([Conv(6), ReLU(), Residual([Tanh()])])],
    "branches": lambda: [Branches([[Conv(2)], [], [MaxPool(3, 1, 1), Conv(3, 1, pad=0)]])],
    "branches of numbers": lambda: [Linear(4), Branches([[Linear(3), Tanh()], [Linear(2)]])],
    "highway": lambda: [Conv(4), Highway(Conv(4, pieces=2), 0.5), ReLU()],
    "highway of numbers": lambda: [Linear(4), Highway(Linear(4, pieces=2))],
    "head": lambda: [AuxiliaryClassifier([Conv(2), Linear(3)], SoftmaxLoss(), 0.3), Tanh()],
    "chain in a chain": lambda: [Chain([Chain([]), Chain([Conv(2), Tanh()])])],
}


@needs_onnx
@pytest.mark.parametrize("case", CASES)
def test_layer(case):
    net, got = shown(CASES[case](), IMAGE)
    near(got, net.forward(train=False), 2e-6)


def test_every_form_is_among_the_cases():
    found = set()
    for case in CASES.values():
        found |= {type(layer) for layer in Chain(case()).every()}
    assert found == {kind for kind, form in export.FORMS.items() if form is not export.refused}


@needs_onnx
@settings(max_examples=often(40, 2000), deadline=None, derandomize=True)
@given(st.data())
def test_pooling_of_any_size(data):
    """Places, strides, padding, clipped windows: the same output size and values."""

    def whole(low, high):
        return data.draw(st.integers(low, high))

    size = whole(1, 6)
    stride, pad = whole(1, size), whole(0, size - 1)
    H, W = (whole(max(1, size - 2 * pad), 13) for _ in "HW")
    average = pad == 0 and data.draw(st.booleans())
    layer = AvgPool(size, stride) if average else MaxPool(size, stride, pad)
    net, got = shown([layer], (H, W, 2), batch=2)
    want = net.forward(train=False)
    assert got.shape == want.shape
    near(got, want, 1e-6)


@needs_onnx
def test_a_layer_that_draws_in_every_pass_is_refused():
    with pytest.raises(InputError, match="^pool: a FractionalMaxPool draws anew in every pass"):
        shown([FractionalMaxPool(4, name="pool")], (6, 6, 2))


@needs_onnx
def test_a_layer_without_a_form_is_named():
    class Square(Elementwise):
        """Nothing that the export has heard of."""

    class Cube(Tanh):
        """Its base has a form, which is not its own."""

    for kind in (Square, Cube):
        with pytest.raises(InputError, match=f"odd: a {kind.__name__} has no ONNX form"):
            shown([kind(name="odd")], (2, 3, 1))


# -- whole nets -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An untrained run of a small net, made by the command: what other runs here are made from."""
    out = tmp_path_factory.mktemp("export") / "run"
    engine.train.main(
        [
            "--net",
            "fitnet_mnist",
            "--data",
            "synthetic",
            "--limit",
            "32",
            "--batch",
            "16",
            "--epochs",
            "0",
            "--device",
            "numpy",
            "--out",
            str(out),
        ]
    )
    return out


def run_of(
    folder,
    base,
    name: str,
    act: str,
    contrast: bool,
    classes: int = 10,
    seed: int = 0,
    states: bool = True,
    whiten: bool = False,
    **settings,
):
    """A run folder of any net with scrambled weights, as if it had trained."""
    record, shape = runs.read_run(base), NETS[name].in_shape
    rng, pad = np.random.default_rng(seed), 4
    record["settings"] |= {"net": name, "act": act, "batch": 7, "input_scale": 0.53, **settings}
    record["data"] |= {
        "in_shape": list(shape),
        "pad": pad,
        "pixel_scale": None if contrast else 1 / 256,
        "classes": [f"class {k}" for k in range(classes)],
    }
    preprocessing = Preprocessing(
        pad,
        record["data"]["pixel_scale"],
        rng.uniform(-0.5, 0.5, (shape[0] + 2 * pad, shape[1] + 2 * pad, shape[2])),
        0.53,
    )
    if whiten:
        noise = rng.normal(0, 0.002, [np.prod(shape)] * 2) + np.eye(np.prod(shape))
        preprocessing.whitening = (noise + noise.T).astype(np.float32) / 2
    net = Net(build(name, act, classes), SoftmaxLoss(), ops_for("auto"), shape, 7)
    fill(net, "lsuv", seed=seed)
    if states:
        for key, state in net.named_state().items():
            state[...] = rng.uniform(-0.2 if key.endswith(".mean") else 0.5, 1.5, state.shape)
        Predictor(net, record["data"], preprocessing).predict(images_for(shape))
        net.forward(train=False, before=told_apart)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / runs.RUN, record)
    checkpoint.save(
        folder,
        net,
        SGD(net),
        step=0,
        epoch=0,
        settings=record["settings"],
        data=record["data"],
        data_tensors=preprocessing.tensors(),
        progress={},
    )
    return folder


def images_for(shape, count: int = 7) -> np.ndarray:
    """Noise of falling contrast, an image in which one value differs, and one of one colour."""
    rng = np.random.default_rng(5)
    spans = np.linspace(255, 3, count)
    images = np.stack(
        [rng.uniform(0, span, shape) + rng.uniform(0, 255 - span) for span in spans]
    ).astype(np.uint8)
    images[-2:] = 201
    images[-2].flat[5] += 1
    return images


def told_apart(layer, x):
    """A visitor: a layer's channels get mean 0 over the batch, and together deviation 1, so that no
    activation is saturated and images still differ behind 18 layers. -> the layer's output."""
    z = layer.forward(x, False)
    mean = z.mean(tuple(range(z.ndim - 1)), dtype=np.float64)
    deviation = (z - mean).std()
    layer.W /= deviation
    layer.b[...] = (layer.b - mean) / deviation
    return layer.forward(x, False)


def check_run(folder) -> None:
    """The file of a run gives what the engine gives, for seven images and for one."""
    assert command(folder) == 0
    model = engine.load(folder)
    images = images_for(model.in_shape)
    probabilities = model.predict(images)  # a batch has room for seven, so the net has all scores
    scores = model.net.ops.tohost(model.net.scores)
    file = session(folder / "model.onnx")
    got_scores, got = file.run(["scores", "probabilities"], {"images": images})
    near(got_scores, scores, 1e-4)
    near(got, probabilities, 1e-4)
    assert np.array_equal(got.argmax(1), probabilities.argmax(1))
    assert np.ptp(scores, axis=0).max() > 0.1 * np.abs(scores).max()  # images are told apart
    alone = [file.run(["scores"], {"images": images[i : i + 1]})[0] for i in (0, 6)]
    near(np.concatenate(alone), scores[[0, 6]], 1e-4)


SMALL = [(name, act) for name in NETS if name.startswith("fit") for act in NETS[name].acts]
SMALL += [("highway-16", "relu"), ("nin-mnist", "relu"), ("min-mnist", "maxout")]


@needs_onnx
@pytest.mark.parametrize("name, act", SMALL)
def test_net(name, act, trained, tmp_path):
    check_run(run_of(tmp_path, trained, name, act, contrast=NETS[name].data != "mnist"))


@needs_onnx
@pytest.mark.parametrize("name, act", [("googlenet", "relu"), ("caffenet", "relu")])
def test_imagenet_net(name, act, trained, tmp_path):
    if not often(name == "googlenet", True):
        pytest.skip("large: --full exports it")
    check_run(run_of(tmp_path, trained, name, act, contrast=True, classes=13))


@needs_onnx
def test_whitening(trained, tmp_path):
    check_run(run_of(tmp_path, trained, "fitnet_mnist", "relu", contrast=True, whiten=True))


@needs_onnx
@pytest.mark.parametrize("head", ["softmax", "svm"])
@pytest.mark.parametrize("contrast", [False, True])
@pytest.mark.parametrize("seed", range(often(1, 100)))
def test_heads_and_preprocessing(head, contrast, seed, trained, tmp_path):
    check_run(
        run_of(
            tmp_path,
            trained,
            "fitnet_mnist",
            "maxout",
            contrast,
            5,
            seed,
            head=head,
            input_scale=0.25,
        )
    )


@needs_onnx
@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (28, 28, 1), (32, 32, 3), (224, 224, 3), (227, 227, 3)]
)
def test_contrast_is_exact_however_large_and_flat(shape):
    """A picture of one colour becomes zero, one with a single other value what evaluation makes of
    it; 154,587 values of a pixel have a sum that float32 does not hold."""
    preprocessing = Preprocessing(0, None, np.zeros(shape, np.float32))
    graph = export.Graph(onnx, {})
    last = export.preprocessed(graph, preprocessing, shape)
    tensor, kinds = onnx.helper.make_tensor_value_info, onnx.TensorProto
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "input",
            [tensor("images", kinds.UINT8, ["N", *shape])],
            [tensor(last, kinds.FLOAT, ["N", shape[2], *shape[:2]])],
            [onnx.numpy_helper.from_array(v, name) for name, v in graph.constants.items()],
        ),
        ir_version=export.FORMAT,
        opset_imports=[onnx.helper.make_opsetid("", export.OPSET)],
    )
    run = session(proto.SerializeToString()).run
    rng = np.random.default_rng(0)
    for colour in (0, 1, 77, 201, 254, 255):
        images = np.full((4, *shape), colour, np.uint8)
        images[1].flat[shape[1] // 2] = colour - 1 if colour == 255 else colour + 1
        images[2:] = rng.integers(0, 256, (2, *shape))
        got = run([last], {"images": images})[0].transpose(0, 2, 3, 1)
        shift, scale = preprocessing.normalise(images)
        assert not got[0].any()
        np.testing.assert_allclose(
            got,
            (images - shift[:, None, None, None]) * scale[:, None, None, None],
            rtol=5e-6,
            atol=1e-6,
        )


@needs_onnx
def test_a_picture_of_one_colour_is_among_those_compared(trained, tmp_path, capsys, monkeypatch):
    constant = export.Graph.constant
    monkeypatch.setattr(
        export.Graph,
        "constant",
        lambda graph, name, value, *kind: constant(
            graph, name, 0 if name == "input.least" else value, *kind
        ),
    )  # so that it is no longer seen
    folder = run_of(tmp_path / "run", trained, "fitnet_mnist", "relu", True)
    assert command(folder) == 1
    assert "differ by nan of the largest" in one_line(capsys)


@needs_onnx
def test_a_net_trained_in_bfloat16_is_exported_in_float32(trained, tmp_path):
    narrow = run_of(tmp_path / "bf16", trained, "fitnet_mnist", "relu", False, precision="bf16")
    wide = run_of(tmp_path / "fp32", trained, "fitnet_mnist", "relu", False)
    for folder in (narrow, wide):
        assert command(folder) == 0
    images = images_for((28, 28, 1))
    ours = engine.load(narrow, device="numpy").predict(images)
    theirs, same = (
        session(folder / "model.onnx").run(["probabilities"], {"images": images})[0]
        for folder in (narrow, wide)
    )
    assert np.array_equal(theirs, same)
    assert 1e-4 < np.abs(ours - theirs).max() < 0.03  # bfloat16's rounding, and no more


# -- the command ----------------------------------------------------------------------------------


@needs_onnx
def test_the_file_says_what_it_is(trained, capsys):
    (trained / "model.onnx").write_bytes(b"an older one")
    assert command(trained) == 0
    out = capsys.readouterr().out
    first = (trained / "model.onnx").read_bytes()
    assert f"wrote {trained / 'model.onnx'}, {len(first):,} bytes" in out
    assert "input images  uint8 (N, 28, 28, 1)" in out
    assert "output probabilities  float32 (N, 10)" in out
    assert "of the largest, on 4 images, one of them of one colour" in out
    proto = onnx.load_model_from_string(first)
    assert (proto.ir_version, proto.opset_import[0].version) == (8, 17)
    about, record = {p.key: p.value for p in proto.metadata_props}, runs.read_run(trained)
    assert json.loads(about["classes"]) == record["data"]["classes"]
    assert (about["net"], about["step"], about["data"]) == ("fitnet_mnist", "0", "synthetic")
    assert about["data_fingerprint"] == record["data"]["fingerprint"]
    assert float(about["test_accuracy"]) == record["result"]["test_accuracy"]
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    for name, value in checkpoint.read(trained).tensors.items():
        if name.endswith((".W", ".b")) and not name.startswith("optimizer."):
            assert np.array_equal(tensors[name], value), name
    assert command(trained) == 0
    assert (trained / "model.onnx").read_bytes() == first


@needs_onnx
def test_the_accuracy_is_that_of_these_weights_or_left_out(trained, tmp_path):
    """An earlier checkpoint's weights are not those that the result is about."""
    record = runs.read_run(trained)
    run_of(tmp_path, trained, "fitnet_mnist", "relu", False, steps=10)
    assert runs.read_run(tmp_path)["result"] == record["result"]
    assert command(tmp_path) == 0
    proto = onnx.load(str(tmp_path / "model.onnx"))
    assert "test_accuracy" not in {p.key for p in proto.metadata_props}


@needs_onnx
def test_a_fixed_batch_and_another_name(trained, tmp_path, capsys):
    out = tmp_path / "three.onnx"
    assert command(trained, "--out", out, "--batch", 3) == 0
    assert "input images  uint8 (3, 28, 28, 1)" in capsys.readouterr().out
    file, images = session(out), images_for((28, 28, 1))
    (got,) = file.run(["probabilities"], {"images": images[:3]})
    near(got, engine.load(trained).predict(images[:3]), 1e-4)
    with pytest.raises(Exception, match="(?i)invalid.?argument"):
        file.run(["probabilities"], {"images": images})
    assert list(tmp_path.iterdir()) == [out]


@needs_onnx
def test_bare_takes_what_the_first_layer_takes(trained, tmp_path, capsys):
    out = tmp_path / "bare.onnx"
    assert command(trained, "--out", out, "--bare") == 0
    assert "input x  float32 (N, 1, 28, 28)" in capsys.readouterr().out
    model = engine.load(trained)
    want = model.predict(images_for(model.in_shape))
    x = model.net.ops.tohost(model.net.x)[:7].transpose(0, 3, 1, 2)
    (got,) = session(out).run(["probabilities"], {"x": x})
    near(got, want, 1e-4)


@needs_onnx
def test_without_onnxruntime_the_file_is_written_and_the_line_says_so(
    trained, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert command(trained, "--out", tmp_path / "net.onnx") == 0
    assert "no scores were compared" in capsys.readouterr().out
    onnx.checker.check_model(str(tmp_path / "net.onnx"))


# -- what can go wrong ----------------------------------------------------------------------------


def one_line(capsys) -> str:
    error = capsys.readouterr().err
    assert error.startswith("engine.export: error: ") and error.count("\n") == 1
    return error


def test_without_onnx_the_remedy_is_named(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert command(trained, "--out", tmp_path / "net.onnx") == 2
    assert "pip install 'onnx" in one_line(capsys)
    assert not list(tmp_path.iterdir())


@needs_onnx
@pytest.mark.parametrize(
    "arguments, said",
    [
        (["/no/such/run"], "not a run folder"),
        ([], "RUN"),
        (["RUN", "--batch", "0"], "--batch 0"),
        (["RUN", "--batch", "x"], "'x'"),
        (["RUN", "--batch", "9" * 30], "leave it out"),
        (["RUN", "--out", "net.onx"], "ends in .onnx"),
        (["RUN", "--out", ""], "ends in .onnx"),
        (["RUN", "--out", "checkpoint.safetensors"], "ends in .onnx"),
        (["RUN", "--out", "/no/such/net.onnx"], "there is no folder /no/such"),
        (["RUN", "--out", "/dev/null/net.onnx"], "there is no folder"),
        (["RUN", "--bach", "3"], "did you mean --batch?"),
        (["RUN", "more"], "'more'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments, said, trained, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert command(*(str(trained) if a == "RUN" else a for a in arguments)) == 2
    assert said in one_line(capsys)
    assert not list(tmp_path.iterdir())


@needs_onnx
def test_a_run_without_a_whole_checkpoint(trained, tmp_path, capsys):
    (tmp_path / "run.json").write_bytes((trained / "run.json").read_bytes())
    assert command(tmp_path) == 2
    assert "no checkpoint to load" in one_line(capsys)
    content = bytearray((trained / "checkpoint.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "checkpoint.safetensors").write_bytes(content)
    assert command(tmp_path) == 2
    assert "does not match its hash" in one_line(capsys)
    assert not (tmp_path / "model.onnx").exists()


@needs_onnx
def test_batch_norm_before_its_first_step(trained, tmp_path, capsys):
    run_of(tmp_path, trained, "fitnet4-bn-before", "relu", True, states=False)
    assert command(tmp_path) == 2
    assert "no running statistics" in one_line(capsys)


@needs_onnx
def test_a_full_disk_leaves_the_older_file(trained, capsys, tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(28, os.strerror(28))

    (tmp_path / "run.json").write_bytes((trained / "run.json").read_bytes())
    (tmp_path / "net.onnx").write_bytes(b"older")
    monkeypatch.setattr(runs.os, "fsync", fail)
    assert command(trained, "--out", tmp_path / "net.onnx") == 1
    error = one_line(capsys)
    assert "No space left" in error and "--resume" not in error
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "run.json"}
    assert (tmp_path / "net.onnx").read_bytes() == b"older"


@needs_onnx
def test_a_file_that_is_not_the_net_is_not_written(trained, capsys, tmp_path, monkeypatch):
    """A maxout that takes the smallest piece is a valid graph of another net."""

    def smallest(graph, layer, x, shape):
        found = export.maxout(graph, layer, x, shape)
        for node in graph.nodes:
            node.op_type = "Min" if node.op_type == "Max" else node.op_type
        return found

    monkeypatch.setitem(export.FORMS, Maxout, smallest)
    assert command(trained, "--out", tmp_path / "net.onnx") == 1
    assert "not those of the net" in one_line(capsys)
    assert not list(tmp_path.iterdir())


# -- the weights alone ----------------------------------------------------------------------------


def test_pytorch_reads_the_checkpoint_as_it_is(trained, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import load_file

    functional = torch.nn.functional
    model = engine.load(run_of(tmp_path, trained, "fitnet_mnist", "maxout", False), "numpy")
    found = load_file(tmp_path / "checkpoint.safetensors")
    model.predict(images_for(model.in_shape))
    rng = np.random.default_rng(2)
    for layer in model.net.weighted():
        W, b = found[f"{layer.name}.W"], found[f"{layer.name}.b"]
        x = rng.normal(0, 1, (7, *layer.in_shape)).astype(np.float32)
        planes = torch.from_numpy(x).permute(0, 3, 1, 2)
        if isinstance(layer, Conv):
            z = functional.conv2d(planes, W, b, layer.stride, layer.pad).permute(0, 2, 3, 1)
        else:
            z = functional.linear(planes.flatten(1), W, b)
        np.testing.assert_allclose(z.numpy(), layer.forward(x, False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layers, shape, scores",
    [
        ([Conv(4, pieces=2), Maxout(2), BatchNorm(), MaxPool(2), Linear(3)], (6, 8, 2), (7, 3)),
        ([Linear(5), Tanh(), Linear(3)], (9,), (7, 3)),
        ([Conv(4), ReLU(), Conv(2)], (6, 8, 2), (7, 2, 6, 8)),
    ],
)
def test_a_net_of_ones_own_becomes_a_file(ops, layers, shape, scores, tmp_path):
    net = Net(layers, SoftmaxLoss() if len(scores) == 2 else SquaredError(), ops, shape, 5)
    fill(net, "ortho", 0)
    x = np.random.default_rng(0).normal(size=(7, *shape)).astype(np.float32)
    if net.named_state():
        targets = np.arange(7) % 3
        engine.fit(net, x, targets, SGD(net), 1, 0.01, report=lambda line: None)
    engine.to_onnx(net, tmp_path / "net.onnx")
    run = session((tmp_path / "net.onnx").read_bytes())
    (got,) = run.run(["scores"], {"x": np.moveaxis(x, -1, 1)})
    want = np.moveaxis(engine.scores(net, x).astype(np.float32), -1, 1)
    assert got.shape == want.shape == scores
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    outputs = [value.name for value in run.get_outputs()]
    assert outputs == (["scores", "probabilities"] if len(scores) == 2 else ["scores"])


@pytest.mark.parametrize("name", ["net.safetensors", "nowhere/net.onnx"])
def test_a_file_that_can_not_be_is_named(name, tmp_path):
    net = Net([Linear(3)], SoftmaxLoss(), NumpyOps(), (4,), 2)
    with pytest.raises(InputError, match="^path .*"):
        engine.to_onnx(net, tmp_path / name)


def test_a_file_that_scores_otherwise_is_not_written(tmp_path, monkeypatch):
    net = Net([Linear(3), Tanh()], SoftmaxLoss(), NumpyOps(), (4,), 2)
    fill(net, "ortho", 0)
    monkeypatch.setitem(export.FORMS, Tanh, export.nothing)
    with pytest.raises(RunError, match="onnxruntime's scores are not those of the net"):
        engine.to_onnx(net, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
