"""A trained net as an ONNX file, which other programs run without this one. Commands to paste:

    python -m engine.export runs/fitnet4-lsuv-20250101-120000       # writes model.onnx into the run
    python -m engine.export RUN --out net.onnx --batch 1
    python -m engine.export RUN --bare

    images         uint8 (N, H, W, C)      what `engine.load(run).predict` takes
    scores         float32 (N, classes)    what the last layer gives
    probabilities  float32 (N, classes)    their softmax, whatever loss the net was trained with

The run's preprocessing of its test images is a part of the graph. --bare leaves it out: the input
is then `x`, float32 (N, C, H, W). The net is the one that evaluation sees, without dropout and
auxiliary classifiers, and computes in float32, also where it was trained in bfloat16. Tensors are
named and laid out as in the checkpoint. The file is checked before it is written, and where
onnxruntime is installed its scores are compared with our own.

ONNX's operators, of set 17 here: https://onnx.ai/onnx/operators/. What a layer becomes stands in
`FORMS`, one function a type; a layer's author who wants the layer exported adds a line there.

Read next: tests/engine/test_export.py, which runs what is written.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import engine
from engine.cli import options
from engine.cli.command import Parser, run_command
from engine.cli.messages import data_line, print_line
from engine.containers import AuxiliaryClassifier, Branches, Chain, Highway, Residual, Sum
from engine.data.preprocessing import SCALE, Preprocessing
from engine.errors import InputError, RunError
from engine.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Distort,
    Dropout,
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
)
from engine.losses import ClassLoss
from engine.predict import Predictor
from engine.run import checkpoint
from engine.run.files import write_atomic
from engine.run.folder import BEST, versions
from engine.scoring import need_statistics
from engine.train import KNOWN

MODEL = "model.onnx"  # in the run folder, unless --out
# Operator set 17 with file format 8 is ONNX 1.12, of 2022: runtimes since then read it.
OPSET, FORMAT = 17, 8
COMPARED = 4  # images whose scores are compared: random ones, a nearly flat one, a flat one
APART = 1e-3  # of the largest score: more than this is no rounding
ROUNDED = 0.1  # and this of a net that computes in bf16 or tf32


class Graph:
    """An ONNX graph as it grows. Every value has a name: a layer's result is called as the layer
    is, what lies before it `layer.something`."""

    def __init__(self, onnx, tensors: dict[str, np.ndarray]):
        self.onnx, self.tensors = onnx, tensors
        self.nodes: list = []
        self.constants: dict[str, np.ndarray] = {}

    def node(self, kind: str, inputs: list[str], *outputs: str, **attributes) -> str:
        """Add a node -> the name of its first output."""
        self.nodes.append(
            self.onnx.helper.make_node(kind, inputs, list(outputs), outputs[0], **attributes)
        )
        return outputs[0]

    def constant(self, name: str, value, dtype=np.float32) -> str:
        """Add a tensor of fixed values -> its name."""
        self.constants[name] = np.asarray(value, dtype)
        return name

    def weights(self, layer: Layer) -> list[str]:
        """Add W, and b if it has one, of a layer with weights -> their names."""
        return [
            self.constant(name, self.tensors[name])
            for name in (f"{layer.name}.W", f"{layer.name}.b")
            if name in self.tensors
        ]

    def layer(self, layer: Layer, x: str, shape: tuple[int, ...]) -> str:
        """Add a layer whose input x has `shape`, ours (without N; H, W, C) -> its result's name.

        Images are (N, C, H, W) here. InputError for a layer that has no form."""
        if type(layer) not in FORMS:
            raise InputError(
                f"{layer.name}: a {type(layer).__name__} has no ONNX form; write one "
                "and add it to engine.export.FORMS"
            )
        return FORMS[type(layer)](self, layer, x, shape)


def conv(graph: Graph, layer: Conv, x: str, shape) -> str:
    return graph.node(
        "Conv",
        [x, *graph.weights(layer)],
        layer.name,
        group=layer.groups,
        strides=[layer.stride] * 2,
        pads=[layer.pad] * 4,
    )


def linear(graph: Graph, layer: Linear, x: str, shape) -> str:
    if len(shape) == 3:  # the checkpoint's inputs are in C, H, W order, as the image here is
        x = graph.node("Flatten", [x], f"{layer.name}.flat")
    return graph.node("Gemm", [x, *graph.weights(layer)], layer.name, transB=1)


def maxout(graph: Graph, layer: Maxout, x: str, shape) -> str:
    """Pieces lie one behind the other on the channels, so they are equal parts of them. What the
    layer drops, it drops in training alone."""
    pieces = [f"{layer.name}.piece{p}" for p in range(layer.pieces)]
    graph.node("Split", [x], *pieces, axis=1)
    if not layer.pool:
        return graph.node("Max", pieces, layer.name)
    largest = graph.node("Max", pieces, f"{layer.name}.max")
    return graph.node(
        "MaxPool", [largest], layer.name, **windows(layer, shape, layer.pool, layer.stride)
    )


def flatten(graph: Graph, layer: Flatten, x: str, shape) -> str:
    """In the order H, W, C, which the weights behind it are in."""
    if len(shape) == 3:
        x = graph.node("Transpose", [x], f"{layer.name}.rows", perm=[0, 2, 3, 1])
    return graph.node("Flatten", [x], layer.name)


def global_maxpool(graph: Graph, layer: GlobalMaxPool, x: str, shape) -> str:
    largest = graph.node("GlobalMaxPool", [x], f"{layer.name}.max")
    return graph.node("Flatten", [largest], layer.name)


def global_avgpool(graph: Graph, layer: GlobalAvgPool, x: str, shape) -> str:
    mean = graph.node("GlobalAveragePool", [x], f"{layer.name}.mean")
    return graph.node("Flatten", [mean], layer.name)


def maxpool(graph: Graph, layer: MaxPool, x: str, shape) -> str:
    return graph.node(
        "MaxPool", [x], layer.name, **windows(layer, shape, layer.size, layer.stride, layer.pad)
    )


def avgpool(graph: Graph, layer: AvgPool, x: str, shape) -> str:
    return graph.node(
        "AveragePool",
        [x],
        layer.name,
        count_include_pad=0,
        **windows(layer, shape, layer.size, layer.stride),
    )


def windows(layer: Layer, shape, size: int, stride: int, pad: int = 0) -> dict:
    """A pooling's attributes. Caffe's output size is had by padding the ends up to the last window,
    which never wins a maximum and is left out of a mean; what `ceil_mode` does with a window that
    starts in the padding has changed from one operator set and runtime to the next."""
    ends = [
        (count - 1) * stride + size - n - pad
        for n, count in zip(shape[:2], layer.out_shape[:2], strict=True)
    ]
    return {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [pad, pad, *ends]}


def leaky(graph: Graph, layer: LeakyReLU, x: str, shape) -> str:
    if layer.slope == 0:
        return graph.node("Relu", [x], layer.name)
    return graph.node("LeakyRelu", [x], layer.name, alpha=layer.slope)


def prelu(graph: Graph, layer: PReLU, x: str, shape) -> str:
    slope = graph.tensors[f"{layer.name}.slope"].reshape(-1, *[1] * (len(shape) - 1))
    return graph.node("PRelu", [x, graph.constant(f"{layer.name}.slope", slope)], layer.name)


def namesake(graph: Graph, layer: Layer, x: str, shape) -> str:
    """A function of each element that ONNX calls as we do."""
    return graph.node(type(layer).__name__, [x], layer.name)


def lrn(graph: Graph, layer: LRN, x: str, shape) -> str:
    size, alpha, beta, bias = layer.constants
    return graph.node("LRN", [x], layer.name, size=size, alpha=alpha, beta=beta, bias=bias)


def batchnorm(graph: Graph, layer: BatchNorm, x: str, shape) -> str:
    """The running sums are divided by their weight; without scale and shift they are 1 and 0."""
    mean, variance, weight = (
        graph.tensors[f"{layer.name}.{kind}"] for kind in ("mean", "variance", "weight")
    )
    scale = graph.tensors.get(f"{layer.name}.scale", np.ones_like(mean))
    shift = graph.tensors.get(f"{layer.name}.shift", np.zeros_like(mean))
    values = {"scale": scale, "shift": shift, "mean": mean / weight, "variance": variance / weight}
    names = [graph.constant(f"{layer.name}.{kind}", value) for kind, value in values.items()]
    return graph.node("BatchNormalization", [x, *names], layer.name, epsilon=layer.eps)


def nothing(graph: Graph, layer: Layer, x: str, shape) -> str:
    """What only training has."""
    return x


def dropout(graph: Graph, layer: Dropout, x: str, shape) -> str:
    """Plain dropout multiplies by what it keeps."""
    if layer.kind != "plain":
        return x
    kept = graph.constant(f"{layer.name}.kept", 1 - layer.drop)
    return graph.node("Mul", [x, kept], layer.name)


def refused(graph: Graph, layer: Layer, x: str, shape) -> str:
    """What draws outside training too."""
    raise InputError(
        f"{layer.name}: a {type(layer).__name__} draws anew in every pass, and a file has no "
        "random numbers; export a net without one"
    )


def distort(graph: Graph, layer: Distort, x: str, shape) -> str:
    """The image in the middle, zero where all channels are near the background."""
    name, (height, width, _) = layer.name, shape
    values = {"background": layer.background, "least": layer.least, "zero": 0.0}
    fixed = {key: graph.constant(f"{name}.{key}", value) for key, value in values.items()}
    less = graph.node("Sub", [x, fixed["background"]], f"{name}.less")
    size = graph.node("Abs", [less], f"{name}.size")
    most = graph.node("ReduceMax", [size], f"{name}.most", axes=[1])
    seen = graph.node("Greater", [most, fixed["least"]], f"{name}.seen")
    kept = graph.node("Where", [seen, less, fixed["zero"]], f"{name}.kept")
    top, left = (layer.size // 2 - n // 2 for n in (height, width))
    rest = layer.size - height - top, layer.size - width - left
    pads = graph.constant(f"{name}.pads", [0, 0, top, left, 0, 0, *rest], np.int64)
    return graph.node("Pad", [kept, pads], name)


def chain(graph: Graph, layer: Chain, x: str, shape) -> str:
    for inner in layer.layers:
        x = graph.layer(inner, x, shape)
        shape = inner.out_shape
    return x


def branches(graph: Graph, layer: Branches, x: str, shape) -> str:
    parts = [chain(graph, inner, x, shape) for inner in layer.chains]
    return graph.node("Concat", parts, layer.name, axis=1)


def total(graph: Graph, layer: Sum, x: str, shape) -> str:
    return graph.node("Sum", [chain(graph, inner, x, shape) for inner in layer.chains], layer.name)


def highway(graph: Graph, layer: Highway, x: str, shape) -> str:
    """x + t (h - x)."""
    parts = [f"{layer.name}.{kind}" for kind in ("linear", "gate")]
    graph.node("Split", [chain(graph, layer, x, shape)], *parts, axis=1)
    h = graph.node("Relu", parts[:1], f"{layer.name}.h")
    t = graph.node("Sigmoid", parts[1:], f"{layer.name}.t")
    change = graph.node(
        "Mul", [t, graph.node("Sub", [h, x], f"{layer.name}.new")], f"{layer.name}.change"
    )
    return graph.node("Add", [x, change], layer.name)


# By exact type: a subclass computes something else than the class it is made from.
FORMS: dict[type, Callable[..., str]] = {
    Conv: conv,
    Linear: linear,
    Maxout: maxout,
    MaxPool: maxpool,
    FractionalMaxPool: refused,
    AvgPool: avgpool,
    Flatten: flatten,
    GlobalMaxPool: global_maxpool,
    GlobalAvgPool: global_avgpool,
    PReLU: prelu,
    LeakyReLU: leaky,
    ReLU: leaky,
    VLReLU: leaky,
    Tanh: namesake,
    Sigmoid: namesake,
    LRN: lrn,
    BatchNorm: batchnorm,
    Dropout: dropout,
    Distort: distort,
    Chain: chain,
    Residual: total,
    Sum: total,
    Branches: branches,
    Highway: highway,
    AuxiliaryClassifier: nothing,
}


def planes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Our shape of an image, as ONNX has it: (H, W, C) is (C, H, W)."""
    return (*shape[-1:], *shape[:-1])


def preprocessed(graph: Graph, how: Preprocessing, shape: tuple[int, ...]) -> str:
    """Nodes from `images` to the net's input, in the order in which evaluation computes it: times
    the set's factor, or contrast-normalised; less the mean image's middle; whitened; times the
    input scale."""
    x = graph.node("Cast", ["images"], "input.pixels", to=graph.onnx.TensorProto.FLOAT)
    if how.pixel_scale is None:
        x = contrast(graph, x, int(np.prod(shape)))
    else:
        factor = graph.constant("input.pixel_scale", how.pixel_scale)
        x = graph.node("Mul", [x, factor], "input.scaled")
    middle = graph.constant("input.mean_image", how.middle)
    x = graph.node("Sub", [x, middle], "input.centred")
    if how.whitening is not None:
        flat = graph.node("Flatten", [x], "input.flattened")
        matrix = graph.constant("input.whitening", how.whitening)
        x = graph.node("MatMul", [flat, matrix], "input.white")
        sizes = graph.constant("input.sizes", [-1, *shape], np.int64)
        x = graph.node("Reshape", [x, sizes], "input.whitened")
    x = graph.node("Mul", [x, graph.constant("input.scale", how.input_scale)], "input.x")
    return graph.node("Transpose", [x], "input.planes", perm=[0, 3, 1, 2])


def contrast(graph: Graph, x: str, values: int) -> str:
    """Each image less its mean, and scaled to the norm of engine/data/preprocessing.py.

    Sums of pixels, and their differences from the mean times `values`, are whole numbers, which
    int32 holds exactly up to 8,421,504 values an image; float32 alone up to 65,793. So the norm is
    as exact as its terms, however flat the image: divided by `values` it is 0 or above 0.7, and
    below a half the image is of one colour. The mean is rounded as evaluation rounds it: its whole
    part and its fraction, which float32 holds, are added last."""
    kinds = graph.onnx.TensorProto
    axes = graph.constant("input.axes", [1, 2, 3], np.int64)
    whole = graph.constant("input.whole", values, np.int32)
    pixels = graph.node("Cast", ["images"], "input.integers", to=kinds.INT32)
    total = graph.node("ReduceSum", [pixels, axes], "input.sum")
    wide = graph.node("Mul", [pixels, whole], "input.wide")
    norm = graph.node(
        "Cast",
        [graph.node("Sub", [wide, total], "input.difference")],
        "input.spread",
        to=kinds.FLOAT,
    )
    for axis in (3, 2, 1):  # short sums, which round less than one of all values
        norm = graph.node("ReduceL2", [norm], f"input.norm{axis}", axes=[axis])
    flat = graph.node("Less", [norm, graph.constant("input.least", values / 2)], "input.rows")
    unit = graph.constant("input.unit", values * SCALE)
    ratio = graph.node("Div", [norm, unit], "input.ratio")
    divisor = graph.node("Where", [flat, graph.constant("input.one", 1), ratio], "input.divisor")
    quotient = graph.node("Div", [total, whole], "input.quotient")
    product = graph.node("Mul", [quotient, whole], "input.product")
    rest = graph.node(
        "Cast",
        [graph.node("Sub", [total, product], "input.remainder")],
        "input.rest",
        to=kinds.FLOAT,
    )
    fraction = graph.node("Div", [rest, graph.constant("input.values", values)], "input.fraction")
    floor = graph.node("Cast", [quotient], "input.floor", to=kinds.FLOAT)
    mean = graph.node("Add", [floor, fraction], "input.mean")
    shifted = graph.node("Sub", [x, mean], "input.shifted")
    return graph.node("Div", [shifted, divisor], "input.normalised")


def model_of(
    onnx, net, preprocessing: Preprocessing | None = None, about: dict[str, str] | None = None
):
    """The net as an onnx.ModelProto with a free batch axis, of `images` that are preprocessed in
    it, or of `x` where there is no preprocessing. about: what its metadata says."""
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = Graph(onnx, checkpoint.collect(net))
    if preprocessing is None:
        x, shape = "x", planes(net.in_shape)
        given = helper.make_tensor_value_info(x, kinds.FLOAT, ["N", *shape])
    else:
        x = preprocessed(graph, preprocessing, net.in_shape)
        given = helper.make_tensor_value_info("images", kinds.UINT8, ["N", *net.in_shape])
    graph.node("Identity", [graph.layer(net.chain, x, net.in_shape)], "scores")
    results = ["scores"]
    if isinstance(net.loss, ClassLoss):
        results.append(graph.node("Softmax", ["scores"], "probabilities", axis=1))
    results = [
        helper.make_tensor_value_info(name, kinds.FLOAT, ["N", *planes(net.out_shape)])
        for name in results
    ]
    constants = [
        onnx.numpy_helper.from_array(value, name) for name, value in graph.constants.items()
    ]
    found = helper.make_model(
        helper.make_graph(graph.nodes, "net", [given], results, constants),
        ir_version=FORMAT,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="lsuv-engine",
        producer_version=versions()["lsuv-engine"],
    )
    helper.set_model_props(found, about or {})
    return found


def fix_batch(proto, batch: int) -> None:
    """Give the batch axis of inputs and outputs a length."""
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch


def trial_images(model: Predictor) -> np.ndarray:
    """Images for `difference`, which the net has just seen: two random ones, one of one colour but
    for a single value, one of one colour."""
    images = np.random.default_rng(0).integers(0, 256, (COMPARED, *model.in_shape), np.uint8)
    images[-2:] = 201
    images[-2].flat[0] += 1
    model.predict(images)  # all in one batch, so the net still has their input and scores
    return images


def difference(proto, net, images: np.ndarray | None = None) -> float | None:
    """How far onnxruntime's scores are from the net's of its last batch at most, in shares of the
    largest of these; None where onnxruntime is not installed. The batch axis must be free.

    images: what the batch was made of, for a graph that preprocesses them."""
    try:
        import onnxruntime
    except ImportError:
        return None
    name = proto.graph.input[0].name
    given = images if name == "images" else outward(net.ops.tohost(net.x).astype(np.float32))
    how = onnxruntime.SessionOptions()
    how.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), how, providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(["scores"], {name: given})
    want = outward(net.ops.tohost(net.scores).astype(np.float32))
    return float(np.abs(got - want).max() / max(np.abs(want).max(), np.finfo(np.float32).tiny))


def outward(batch: np.ndarray) -> np.ndarray:
    """A batch of ours in ONNX's layout."""
    return np.moveaxis(batch, -1, 1)


def to_onnx(net, path: str | Path) -> None:
    """Write a net of one's own as an ONNX file (pip install 'onnx>=1.16').

    In goes x, float32 (N, C, H, W), or (N, F) for a net of numbers; out come `scores` and, where
    the net's loss is one of classes, `probabilities`. It is the net that evaluation sees, in
    float32, checked, and compared with the net where onnxruntime is installed. InputError for a
    layer without a form in FORMS, or a file that can't be; RunError where the two differ."""
    out, onnx = target(str(path), "path"), package()
    need_statistics(net)
    proto = model_of(onnx, net)
    x = np.random.default_rng(0).standard_normal((net.batch, *net.in_shape))
    net.x[...] = net.ops.asarray(x.astype(net.activation_dtype))
    net.forward(train=False)
    write(onnx, proto, out, difference(proto, net), APART if net.precision == "fp32" else ROUNDED)


def write(onnx, proto, out: Path, apart: float | None, bound: float = APART) -> int:
    """Check and write the file -> its bytes. RunError where the scores are not the net's."""
    if apart is not None and not apart <= bound:
        raise RunError(
            f"onnxruntime's scores are not those of the net: they differ by {apart:.2g} "
            f"of the largest; {out} is not written; please report this net"
        )
    onnx.checker.check_model(proto, full_check=True)
    content = proto.SerializeToString()
    write_atomic(out, content)
    return len(content)


def trained(folder: str) -> tuple[Predictor, dict[str, str], str]:
    """The net of a run folder, in float32 on device numpy; what the file's metadata says of it; and
    a line for the user. InputError as of `engine.load`."""
    model, record, saved, s = engine.restored(
        folder, "numpy", None, print_line, precision="fp32", batch=COMPARED
    )
    need_statistics(model.net)
    data = model.data
    about = {
        "net": s.net,
        "act": s.act,
        "init": s.init,
        "loss": s.loss,
        "step": str(saved.step),
        "data": data["name"],
        "data_fingerprint": data["fingerprint"],
        "classes": json.dumps(data["classes"]),
    }
    if record["result"] is not None and (saved.step == s.steps or saved.path.name == BEST):
        about["test_accuracy"] = repr(record["result"]["test_accuracy"])
    line = (
        f"net {s.net}  act {s.act}  init {s.init}  {data_line(data['name'])}\n"
        f"checkpoint {saved.path}, step {saved.step} of {s.steps}"
    )
    return model, about, line


def target(out: str, option: str = "--out") -> Path:
    """The file that --out names. InputError if it can't be written, or is of another kind: then it
    is a slip of the pen, and would replace something."""
    path = Path(out)
    if path.suffix != ".onnx" or path.is_dir():
        raise InputError(f"{option} {path}: give the name of a file that ends in .onnx")
    if not path.parent.is_dir():
        raise InputError(
            f"{option} {path}: there is no folder {path.parent}; make it, or give another {option}"
        )
    return path


def package():
    """The onnx package, which is needed here alone. InputError if it can't be imported."""
    try:
        import onnx
    except ImportError as error:
        raise InputError(
            f"the package onnx can't be imported ({error}); pip install 'onnx>=1.16'"
        ) from None
    return onnx


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="engine.export", description=__doc__.split("\n\nONNX's")[0])
    parser.add_argument("run", metavar="RUN", help="a run folder; the run may still be going on")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help=f"default: {MODEL} in the run folder; an older file of that name is replaced",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="fix the batch axis (default: any)")
    parser.add_argument("--bare", action="store_true", help="without preprocessing: x for images")
    args = parser.parse_args(argv)
    options.check(args, KNOWN)
    if args.batch is not None and args.batch >= 1 << 31:
        raise InputError(f"--batch {args.batch}: more than a file can hold; leave it out")
    out = Path(args.run) / MODEL if args.out is None else target(args.out)
    onnx = package()
    model, about, line = trained(args.run)
    print_line(line)
    proto = model_of(onnx, model.net, None if args.bare else model.preprocessing, about)
    apart = difference(proto, model.net, trial_images(model))
    if args.batch is not None:
        fix_batch(proto, args.batch)
    size = write(onnx, proto, out, apart)
    print_line(f"wrote {out}, {size:,} bytes, ONNX operator set {OPSET}")
    for kind, values in (("input", proto.graph.input), ("output", proto.graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            shape = ", ".join(str(d.dim_param or d.dim_value) for d in tensor.shape.dim)
            print_line(f"{kind} {value.name}  {dtype} ({shape})")
    print_line(
        "onnxruntime is not installed, so no scores were compared"
        if apart is None
        else f"onnxruntime's scores differ from ours by at most {apart:.1e} of the largest, on "
        f"{COMPARED} images, one of them of one colour"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command("engine.export", main))
