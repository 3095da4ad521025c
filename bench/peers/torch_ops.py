"""The peer: the operation of PyTorch's that does what an operation of ours does. Imports torch.

`call_of(case, precision)` gives a call and what its results are called by us; a test holds that
they are the same values. Images are channels_last, which is our memory as it is. A backward is the
call that autograd makes, where PyTorch lets one make it, and otherwise autograd's gradient of a
graph that was made before. What it draws, a dropout's mask or a matrix, has PyTorch's own random
numbers; its maxima keep no winner, which its maxout's backward finds again.

Operations without a counterpart are left out: the running sums of batch normalisation (part of
PyTorch's forward), the one-against-all hinges, gather, advance, latch, and in bf16 optimizers of
float32 weights with bfloat16 gradients and local response normalisation.

Read next: bench/init.py, which times initialisation.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from ml_dtypes import bfloat16
from torch.nn import functional

from bench.common.calls import keep_memory
from bench.common.cases import Case, cases
from bench.common.contest import Setting
from kernels import philox
from kernels.clock import RATE, STEP

aten = torch.ops.aten
IMAGES = {*"xyzhtabW", "dx", "dy", "dz", "dW", "which"}  # with 4 axes: NHWC or KRSC


def tensor(array: np.ndarray) -> torch.Tensor:
    if array.dtype == bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def tensors_of(case: Case, precision: str) -> dict:
    """The case's arguments as tensors; images and filters as channels_last views."""
    tensors = {}
    for name, value in case.arguments(precision, peers=True).items():
        if isinstance(value, np.ndarray):
            value = tensor(value)
            if value.ndim == 4 and name in IMAGES:
                value = value.permute(0, 3, 1, 2)
            if precision == "bf16" and name in ("W", "b") and value.dtype == torch.float32:
                value = value.bfloat16()
        tensors[name] = value
    return tensors


class Made:
    """The call, and the names of its results in order; after: results that it leaves elsewhere."""

    def __init__(self, call: Callable, *names: str, after: dict[str, Callable] | None = None):
        self.call, self.names, self.after = call, names, after or {}

    def results(self) -> dict[str, np.ndarray]:
        """{our name: array in our layout, float32} of one call."""
        returned = self.call()
        returned = returned if isinstance(returned, tuple) else (returned,)
        values = dict(zip(self.names, returned, strict=False))
        values |= {name: get() for name, get in self.after.items()}
        return {
            name: (value.permute(0, 2, 3, 1) if value.ndim == 4 else value)
            .detach()
            .float()
            .contiguous()
            .numpy()
            for name, value in values.items()
        }


def call_of(case: Case, precision: str) -> Made | None:
    """None where PyTorch has no counterpart."""
    make = COUNTERPARTS.get(case.op)
    if make is None or (precision == "bf16" and (case.op.endswith("_step") or "lrn" in case.op)):
        return None
    return make(tensors_of(case, precision))


# -- convolution and fully connected --------------------------------------------------------------


def conv_forward(g):
    x, W, b, stride, pad, groups = (g[n] for n in ("x", "W", "b", "stride", "pad", "groups"))
    return Made(lambda: functional.conv2d(x, W, b, stride, pad, groups=groups), "y")


def conv_backward(g, x, W, mask):
    stride, pad = [g["stride"]] * 2, [g["pad"]] * 2
    return lambda: aten.convolution_backward(
        g["dy"], x, W, [W.shape[0]], stride, pad, [1, 1], False, [0, 0], g["groups"], mask
    )


def conv_backward_data(g):
    call = conv_backward(g, g["dx"], g["W"], [True, False, False])
    return Made(lambda: call()[0], "dx")


def conv_backward_filter(g):
    bias = g["db"] is not None
    call = conv_backward(g, g["x"], g["dW"], [False, True, bias])
    return Made(lambda: call()[1 : 2 + bias], *["dW", "db"][: 1 + bias])


def linear_forward(g):
    return Made(lambda: functional.linear(g["x"], g["W"], g["b"]), "y")


def linear_backward_data(g):
    return Made(lambda: torch.mm(g["dy"], g["W"]), "dx")


def linear_backward_filter(g):
    if g["db"] is None:
        return Made(lambda: torch.mm(g["dy"].t(), g["x"]), "dW")
    return Made(lambda: (torch.mm(g["dy"].t(), g["x"]), g["dy"].sum(0)), "dW", "db")


# -- maxout and pooling ---------------------------------------------------------------------------


def largest(x, pieces):
    """bench/peers/torch_nets.py's fastest for two pieces."""
    return torch.maximum(*x.chunk(2, 1)) if pieces == 2 else x.unflatten(1, (pieces, -1)).amax(1)


def windows(g):
    return [g["size"]] * 2, [g["stride"]] * 2, [g.get("pad", 0)] * 2, [1, 1], True


def maxout_forward(g):
    return Made(lambda: largest(g["x"], g["pieces"]), "y")


def gradients(of, inputs, dy):
    """Autograd's gradients of a graph that stands."""
    inputs = [value.detach().requires_grad_() for value in inputs]
    y = of(*inputs)
    return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)


def gradient(of, x, dy):
    call = gradients(of, [x], dy)
    return lambda: call()[0]


def maxout_backward(g):
    return Made(gradient(lambda x: largest(x, g["pieces"]), g["x"], g["dy"]), "dx")


def maxpool_forward(g):
    call = aten.max_pool2d_with_indices
    return Made(lambda: call(g["x"], *windows(g))[0], "y")


def maxpool_backward(g):
    _, indices = aten.max_pool2d_with_indices(g["x"], *windows(g))
    call = aten.max_pool2d_with_indices_backward
    return Made(lambda: call(g["dy"], g["x"], *windows(g), indices), "dx")


def fractional(g):
    """PyTorch's, with our windows: of a pair of its random numbers the first is the columns'."""
    H, W = (g["which"].shape[axis] for axis in (2, 3))
    N, C = g["x"].shape[:2]
    drawn = philox.words(g["seed"], philox.FRACTIONAL, g["layer"], int(g["clock"][STEP]), 0, N)
    pairs = torch.from_numpy(drawn[:, None, 1::-1] * 2.0**-32).to(g["x"].dtype).expand(N, C, 2)
    return lambda x: functional.fractional_max_pool2d(x, 2, (H, W), _random_samples=pairs)


def fractional_maxpool_forward(g):
    pooled = fractional(g)
    return Made(lambda: pooled(g["x"]), "y")


def fractional_maxpool_backward(g):
    return Made(gradient(fractional(g), g["x"], g["dy"]), "dx")


def maxout_pool_forward(g):
    call = aten.max_pool2d_with_indices
    return Made(lambda: call(largest(g["x"], g["pieces"]), *windows(g))[0], "y")


def maxout_pool_backward(g):
    def pooled(x):
        return functional.max_pool2d(
            largest(x, g["pieces"]), g["size"], g["stride"], ceil_mode=True
        )

    return Made(gradient(pooled, g["x"], g["dy"]), "dx")


def maxout_pool_dropout_forward(g):
    call = maxout_pool_forward(g).call
    return Made(lambda: functional.dropout(call(), g["drop"], training=True), "y")


def maxout_pool_dropout_backward(g):
    """Through a mask of PyTorch's own, which its graph keeps."""

    def dropped(x):
        y = functional.max_pool2d(largest(x, g["pieces"]), g["size"], g["stride"], ceil_mode=True)
        return functional.dropout(y, g["drop"], training=True)

    return Made(gradient(dropped, g["x"], g["dy"]), "dx")


def averages(g):
    return [g["size"]] * 2, [g["stride"]] * 2, [0, 0], True, False, None


def avgpool_forward(g):
    return Made(lambda: aten.avg_pool2d(g["x"], *averages(g)), "y")


def avgpool_backward(g):
    call = aten.avg_pool2d_backward
    return Made(lambda: call(g["dy"], g["dx"], *averages(g)), "dx")


def global_max(x):
    return functional.adaptive_max_pool2d(x, 1).flatten(1)


def global_maxpool_forward(g):
    return Made(lambda: global_max(g["x"]), "y")


def global_maxpool_backward(g):
    return Made(gradient(global_max, g["x"], g["dy"]), "dx")


def global_avgpool_forward(g):
    return Made(lambda: g["x"].mean((2, 3)), "y")


def global_avgpool_backward(g):
    return Made(gradient(lambda x: x.mean((2, 3)), g["x"], g["dy"]), "dx")


# -- normalisation across channels, and concatenation ---------------------------------------------


def normalised(g):
    return lambda x: functional.local_response_norm(x, g["size"], g["alpha"], g["beta"], g["k"])


def lrn_forward(g):
    call = normalised(g)
    return Made(lambda: call(g["x"]), "y")


def lrn_backward(g):
    return Made(gradient(normalised(g), g["x"], g["dy"]), "dx")


def concat_forward(g):
    """Into the place that it has: what torch.cat does with each of its inputs."""
    x, y, first = g["x"], g["y"], g["first"]
    place = y[:, first : first + x.shape[1]]
    return Made(lambda: place.copy_(x), after={"y": lambda: y})


def concat_backward(g):
    place = g["dy"][:, g["first"] : g["first"] + g["dx"].shape[1]]
    return Made(lambda: g["dx"].copy_(place), "dx")


# -- activations, dropout, sum --------------------------------------------------------------------


def leaky_forward(g):
    return Made(lambda: functional.leaky_relu(g["x"], g["slope"]), "y")


def leaky_backward(g):
    call = aten.leaky_relu_backward
    return Made(lambda: call(g["dy"], g["y"], g["slope"], True), "dx")


def tanh_forward(g):
    return Made(lambda: torch.tanh(g["x"]), "y")


def tanh_backward(g):
    return Made(lambda: aten.tanh_backward(g["dy"], g["y"]), "dx")


def sigmoid_forward(g):
    return Made(lambda: torch.sigmoid(g["x"]), "y")


def sigmoid_backward(g):
    return Made(lambda: aten.sigmoid_backward(g["dy"], g["y"]), "dx")


def highway_forward(g):
    def call():
        hidden, gate = g["z"].chunk(2, 1)
        h, t = torch.relu(hidden), torch.sigmoid(gate)
        return h, t, t * h + (1 - t) * g["x"]

    return Made(call, "h", "t", "y")


def highway_backward(g):
    dy, x, h, t = (g[name] for name in ("dy", "x", "h", "t"))

    def call():
        through = dy * t
        dz = torch.cat([through * (h > 0), through * (h - x) * (1 - t)], 1)
        return dz, dy * (1 - t)

    return Made(call, "dz", "dx")


def dropout_forward(g):
    return Made(lambda: functional.dropout(g["x"], g["drop"], training=True), "y")


def dropout_backward(g):
    """PyTorch keeps the mask, as factors in the dtype of x, and multiplies."""
    factors = functional.dropout(torch.ones_like(g["dy"]), g["drop"], training=True)
    return Made(lambda: torch.mul(g["dy"], factors), "dx")


def channel_mask(g):
    """With a permutation of PyTorch's own."""
    C = len(g["mask"])

    def call():
        return torch.zeros(C).index_fill_(0, torch.randperm(C)[: g["keep"]], g["factor"])

    return Made(call, "mask")


def distort(g):
    """By grid_sample, whose coordinates run from -1 to 1; a box, colours and what is near the
    background as masks and sums."""
    x, table, least = g["x"], g["table"], g["least"]
    (N, C, H, W), (Fh, Fw) = x.shape, g["y"].shape[2:]
    v, u = torch.meshgrid(torch.arange(Fh), torch.arange(Fw), indexing="ij")
    at = torch.stack([u, v, torch.ones_like(u)]).to(table.dtype)  # (3, Fh, Fw)
    ends = torch.tensor([W - 1, H - 1], dtype=table.dtype)

    def call():
        place = torch.einsum("npk,kvu->nvup", table[:, :6].reshape(N, 2, 3), at)
        level = x.float() - g["background"]  # bfloat16 has no places between pixels
        value = functional.grid_sample(level, 2 * place / ends - 1, align_corners=True)
        left, top, right, bottom = table[:, 6:10, None, None].unbind(1)
        inside = (left <= u) & (u < right) & (top <= v) & (v < bottom)
        seen = (inside & (value.abs() > least).any(1))[:, None]
        colours = table[:, 10:].reshape(N, C, 3)[..., [1, 2, 0]]
        brighter = torch.einsum("nck,kvu->ncvu", colours, at)
        return torch.where(seen, value + brighter, 0).to(x.dtype)

    return Made(call, "y")


def add(g):
    return Made(lambda: torch.add(g["a"], g["b"]), "y")


# -- batch normalisation --------------------------------------------------------------------------


def batchnorm_forward(g):
    call = torch.native_batch_norm
    return Made(
        lambda: call(g["x"], None, None, None, None, True, 0.1, g["eps"]), "y", "mean", "rstd"
    )


def batchnorm_backward(g):
    """PyTorch's reads x: here one whose mean is 0 and that, normalised, is y."""
    rstd, mean = g["rstd"], torch.zeros_like(g["rstd"])
    x = (g["y"] / rstd[:, None, None]).to(g["y"].dtype)
    call = aten.native_batch_norm_backward
    return Made(
        lambda: call(g["dy"], x, None, None, None, mean, rstd, True, 0.0, [True, False, False])[0],
        "dx",
    )


def batchnorm_inference(g):
    mean, variance = g["running_mean"] / g["weight"], g["running_var"] / g["weight"]
    return Made(lambda: functional.batch_norm(g["x"], mean, variance, eps=g["eps"]), "y")


# -- what is learned for each channel -------------------------------------------------------------


def scaled(x, scale, shift):
    return torch.addcmul(shift[:, None, None], x, scale[:, None, None])


def scale_forward(g):
    scale, shift = (g[name].to(g["x"].dtype) for name in ("scale", "shift"))
    return Made(lambda: scaled(g["x"], scale, shift), "y")


def scale_backward(g):
    scale = g["scale"].to(g["x"].dtype)
    call = gradients(scaled, [g["x"], scale, torch.zeros_like(scale)], g["dy"])
    return Made(call, "dx", "dscale", "dshift")


def prelu_forward(g):
    slope = g["slope"].to(g["x"].dtype)
    return Made(lambda: functional.prelu(g["x"], slope), "y")


def prelu_backward(g):
    call = gradients(functional.prelu, [g["x"], g["slope"].to(g["x"].dtype)], g["dy"])
    return Made(call, "dx", "dslope")


# -- losses and statistics ------------------------------------------------------------------------


def softmax(g):
    return Made(lambda: torch.softmax(g["scores"], 1, torch.float32), "prob")


def cross_entropy(g):
    truth = g["labels"].long()
    return lambda x: functional.cross_entropy(
        x,
        truth,
        None if g["weights"] is None else g["weights"].to(x.dtype),
        label_smoothing=g["smoothing"],
    )


def softmax_loss_forward(g):
    call = cross_entropy(g)
    return Made(lambda: call(g["scores"]), "loss")


def softmax_loss_backward(g):
    scores = g["prob"].log().to(g["dscores"].dtype)
    one = torch.ones((), dtype=scores.dtype)
    return Made(gradient(cross_entropy(g), scores, one), "dscores")


def distillation_loss_forward(g):
    truth, cold = g["labels"].long(), 1 / g["student_temperature"]
    soft = torch.softmax(g["values"] / g["temperature"], 1).to(g["scores"].dtype)

    def call():
        hard = functional.cross_entropy(g["scores"], truth)
        return hard + g["share"] * functional.cross_entropy(cold * g["scores"], soft)

    return Made(call, "loss")


def value_losses():
    """Forward and backward of each loss of values."""
    for name, loss in (
        ("squared_error", functional.mse_loss),
        ("absolute_error", functional.l1_loss),
        ("binary_cross_entropy", functional.binary_cross_entropy_with_logits),
    ):

        def forward(g, loss=loss):
            values = g["values"].to(g["scores"].dtype)
            return Made(lambda: loss(g["scores"], values), "loss")

        def backward(g, loss=loss):
            values, one = g["values"].to(g["scores"].dtype), torch.ones((), dtype=g["scores"].dtype)
            return Made(gradient(lambda x: loss(x, values), g["scores"], one), "dscores")

        yield f"{name}_forward", forward
        yield f"{name}_backward", backward


def variance(g):
    x = g["x"].permute(0, 2, 3, 1)
    x = x.view(-1, g["groups"], x.shape[-1] // g["groups"])

    def call():
        variance, mean = torch.var_mean(x, (0, 2), correction=0)
        return mean, variance

    return Made(call, "result 0", "result 1")


def orthonormal(g):
    return Made(lambda: torch.nn.init.orthogonal_(torch.empty(g["rows"], g["cols"])), "result 0")


# -- optimisation ---------------------------------------------------------------------------------


def clip(g):
    return Made(lambda: torch.linalg.vector_norm(g["g"]), "norm")


def segments(g):
    """A parameter and its group for each segment of the arena."""
    rate = float(g["clock"][RATE])
    for start, stop, factor, decay in g["segments"].tolist():
        part = slice(int(start), int(stop))
        parameter = torch.nn.Parameter(g["w"][part])
        parameter.grad = g["g"][part]
        yield (
            part,
            parameter,
            {"params": [parameter], "lr": factor * rate, "weight_decay": decay * g["decay"]},
        )


def sgd_step(g, nesterov=False):
    """Its velocity does not hold the rate: ours over the rate."""
    parts = list(segments(g))
    optimizer = torch.optim.SGD(
        [group for _, _, group in parts], momentum=g["momentum"], nesterov=nesterov, fused=True
    )
    for part, parameter, group in parts:
        optimizer.state[parameter]["momentum_buffer"] = g["v"][part] / group["lr"]
    return Made(optimizer.step, after={"w": lambda: g["w"]})


def nesterov_step(g):
    return sgd_step(g, nesterov=True)


def rmsprop_step(g):
    parts = list(segments(g))
    optimizer = torch.optim.RMSprop(
        [group for _, _, group in parts], alpha=g["rho"], eps=g["delta"], foreach=True
    )
    for part, parameter, _ in parts:
        optimizer.state[parameter] = {"step": torch.zeros(()), "square_avg": g["s"][part]}
    return Made(optimizer.step, after={"w": lambda: g["w"], "s": lambda: g["s"]})


def adam_step(g):
    """As its step 4, where the clock's step is 3."""
    parts, kind = list(segments(g)), torch.optim.AdamW if g["decoupled"] else torch.optim.Adam
    optimizer = kind(
        [group for _, _, group in parts], betas=(g["beta1"], g["beta2"]), eps=g["delta"], fused=True
    )
    for part, parameter, _ in parts:
        optimizer.state[parameter] = {
            "step": g["clock"][STEP].float(),
            "exp_avg": g["mean"][part],
            "exp_avg_sq": g["s"][part],
        }
    return Made(
        optimizer.step, after={name: lambda name=name: g[name] for name in ("w", "mean", "s")}
    )


def average(g):
    share = max(1 - g["decay"], 9 / (11 + float(g["clock"][STEP])))
    return Made(lambda: g["mean"].lerp_(g["w"], share), "mean")


def max_norm(g):
    return Made(lambda: g["W"].copy_(torch.renorm(g["W"], 2, 0, g["limit"])), "W")


def accumulate(g):
    return Made(lambda: g["total"].add_(g["g"], alpha=g["share"]), "total")


COUNTERPARTS = {
    make.__name__: make
    for make in (
        conv_forward,
        conv_backward_data,
        conv_backward_filter,
        linear_forward,
        linear_backward_data,
        linear_backward_filter,
        maxout_forward,
        maxout_backward,
        maxpool_forward,
        maxpool_backward,
        fractional_maxpool_forward,
        fractional_maxpool_backward,
        maxout_pool_forward,
        maxout_pool_backward,
        maxout_pool_dropout_forward,
        maxout_pool_dropout_backward,
        avgpool_forward,
        avgpool_backward,
        global_maxpool_forward,
        global_maxpool_backward,
        global_avgpool_forward,
        global_avgpool_backward,
        lrn_forward,
        lrn_backward,
        concat_forward,
        concat_backward,
        leaky_forward,
        leaky_backward,
        tanh_forward,
        tanh_backward,
        sigmoid_forward,
        sigmoid_backward,
        highway_forward,
        highway_backward,
        dropout_forward,
        dropout_backward,
        channel_mask,
        distort,
        add,
        batchnorm_forward,
        batchnorm_backward,
        batchnorm_inference,
        scale_forward,
        scale_backward,
        prelu_forward,
        prelu_backward,
        softmax,
        softmax_loss_forward,
        distillation_loss_forward,
        softmax_loss_backward,
        variance,
        orthonormal,
        clip,
        sgd_step,
        nesterov_step,
        rmsprop_step,
        adam_step,
        average,
        max_norm,
        accumulate,
    )
} | dict(value_losses())


class TorchCalls:
    """The contestant that calls PyTorch's counterparts."""

    def __init__(self, setting: Setting, small: bool):
        torch.set_num_threads(setting.threads)
        torch.manual_seed(0)
        self.cases = cases(small)
        keep_memory()

    def prepare(self, number: int, precision: str) -> bool:
        """Make the call of a case; whether there is one."""
        self.made = call_of(self.cases[number], precision)
        return self.made is not None

    def run(self, count: int) -> float:
        """Seconds of a call, the mean over `count`."""
        call = self.made.call
        with torch.no_grad():
            start = time.perf_counter()
            for _ in range(count):
                call()
            return (time.perf_counter() - start) / count
