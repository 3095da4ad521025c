"""The peer: PyTorch's own net and training step for a list of our layers. Imports torch.

`module(layers, in_shape)` walks the list that `models.build` gives and makes the same net of
PyTorch's modules; a test holds that with equal weights it has equal scores. `Torch` is a contestant
of bench/step.py. What PyTorch is given that can make it fast here: as many threads as we have,
channels_last or not, torch.compile's default mode or not, oneDNN's bfloat16 by autocast, the fused
SGD, gradients set to None, activations in place, three ways of writing a maxout, and a batch that
lies in memory as floats. It has glibc's allocator, as `pip install torch` leaves it. On a GPU: that
batch on it, cuDNN's benchmark mode, and torch.compile in the mode that is asked for.

Read next: bench/kernels.py, which times single operations.
"""

import warnings
from math import prod

import torch
from torch import nn

import models
from bench.common.contest import RATE, Entry, mean_seconds
from engine.containers import AuxiliaryClassifier, Branches, Highway, Residual
from engine.errors import RunError
from engine.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Distort,
    Dropout,
    FractionalMaxPool,
    GlobalAvgPool,
    Layer,
    LeakyReLU,
    Linear,
    Maxout,
    MaxPool,
    Sigmoid,
    Tanh,
)
from kernels.checks import pooled
from models.recipes import recipe

CLASSES = 10


class TorchMaxout(nn.Module):
    """(N, P*C, ...) -> (N, C, ...): the largest of P pieces.

    way: maximum (of the two halves; amax where there are more pieces), amax or max (over a view of
    the pieces). Which is fastest depends on layout and shape, by a tenth of a step."""

    def __init__(self, pieces: int, way: str):
        super().__init__()
        self.pieces, self.way = pieces, way

    def forward(self, x):
        if self.way == "maximum" and self.pieces == 2:
            return torch.maximum(*x.chunk(2, 1))
        x = x.unflatten(1, (self.pieces, -1))
        return x.max(1).values if self.way == "max" else x.amax(1)


class TorchResidual(nn.Module):
    """x + inner(x)."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class TorchHighway(nn.Module):
    """t h + (1 - t) x, as PyTorch users write it: both pieces of one convolution."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        hidden, gate = self.inner(x).chunk(2, 1)
        t = torch.sigmoid(gate)
        return t * torch.relu(hidden) + (1 - t) * x


class TorchBranches(nn.Module):
    """What each inner net makes of x, side by side on the channels."""

    def __init__(self, inner: list[nn.Module]):
        super().__init__()
        self.inner = nn.ModuleList(inner)

    def forward(self, x):
        return torch.cat([net(x) for net in self.inner], 1)


class TorchHead(nn.Module):
    """x; in training `scores` is what the inner net makes of it, for a loss of that weight."""

    def __init__(self, inner: nn.Module, weight: float):
        super().__init__()
        self.inner, self.weight = inner, weight

    def forward(self, x):
        if self.training:
            self.scores = self.inner(x)
        return x


def module(layers: list[Layer], in_shape: tuple[int, ...], way: str = "maximum") -> nn.Sequential:
    """The net of PyTorch's modules for `layers` on an input (H, W, C); its own input is NCHW, and
    a Linear over an image reads it in C, H, W order. ValueError for a layer without a peer."""
    modules, _ = walk(layers, tuple(in_shape), way)
    return nn.Sequential(*modules)


def walk(
    layers: list[Layer], shape: tuple[int, ...], way: str
) -> tuple[list[nn.Module], tuple[int, ...]]:
    """The modules, and the shape after them, (H, W, C) or (F,)."""
    modules: list[nn.Module] = []
    for layer in layers:
        its, shape = peer(layer, shape, way)
        if modules and isinstance(modules[-1], TorchHead):  # whose backward wants x as it is
            its[0].inplace = False
        modules += its
    return modules, shape


def peer(layer: Layer, shape: tuple[int, ...], way: str) -> tuple[list[nn.Module], tuple[int, ...]]:
    """One layer's modules, and the shape after it."""
    if isinstance(layer, Residual):
        inner, after = walk(layer.chains[1].layers, shape, way)
        return [TorchResidual(nn.Sequential(*inner))], after
    if isinstance(layer, Branches):
        chains = [walk(chain.layers, shape, way) for chain in layer.chains]
        after = (*chains[0][1][:-1], sum(out[-1] for _, out in chains))
        return [TorchBranches([nn.Sequential(*inner) for inner, _ in chains])], after
    if isinstance(layer, Highway):
        inner, _ = walk(layer.layers, shape, way)
        return [TorchHighway(nn.Sequential(*inner))], shape
    if isinstance(layer, AuxiliaryClassifier):
        inner, _ = walk(layer.layers, shape, way)
        return [TorchHead(nn.Sequential(*inner), layer.weight)], shape
    if isinstance(layer, Conv):
        H, W, C = shape
        pad = layer.size // 2 if layer.pad is None else layer.pad
        conv = nn.Conv2d(C, layer.outputs, layer.size, layer.stride, pad, groups=layer.groups)
        H, W = ((n + 2 * pad - layer.size) // layer.stride + 1 for n in (H, W))
        return [decayed(conv, layer)], (H, W, layer.outputs)
    if isinstance(layer, Linear):
        flat = [nn.Flatten()] if len(shape) == 3 else []
        return [*flat, decayed(nn.Linear(prod(shape), layer.outputs), layer)], (layer.outputs,)
    if isinstance(layer, Maxout):
        modules, shape = [TorchMaxout(layer.pieces, way)], (*shape[:-1], shape[-1] // layer.pieces)
        if layer.pool:
            pools, shape = pooling(layer.pool, layer.stride, shape)
            modules += pools
        return [*modules, *([nn.Dropout(layer.drop)] if layer.drop else [])], shape
    if isinstance(layer, MaxPool):
        return pooling(layer.size, layer.stride, shape, layer.pad)
    if isinstance(layer, FractionalMaxPool) and layer.overlapping:  # pseudo-random is all it has
        return [nn.FractionalMaxPool2d(2, layer.size)], (*layer.size, shape[-1])
    if isinstance(layer, AvgPool):
        pool = nn.AvgPool2d(layer.size, layer.stride, ceil_mode=True, count_include_pad=False)
        return [pool], (*(pooled(n, layer.size, layer.stride) for n in shape[:2]), shape[-1])
    if isinstance(layer, GlobalAvgPool):
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten()], shape[-1:]
    if isinstance(layer, LRN):
        return [nn.LocalResponseNorm(*layer.constants)], shape
    if isinstance(layer, Distort):  # as in a test: PyTorch's users distort beforehand
        top, left = (layer.size // 2 - n // 2 for n in shape[:2])
        rest = layer.size - shape[0] - top, layer.size - shape[1] - left
        return [nn.ZeroPad2d((left, rest[1], top, rest[0]))], (layer.size, layer.size, shape[-1])
    if isinstance(layer, Dropout):
        kind = nn.Dropout2d if layer.kind == "channel" else nn.Dropout
        return [kind(layer.drop)], shape
    if isinstance(layer, LeakyReLU):
        slope = layer.slope
        return [nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)], shape
    if isinstance(layer, Tanh):
        return [nn.Tanh()], shape
    if isinstance(layer, Sigmoid):
        return [nn.Sigmoid()], shape
    if isinstance(layer, BatchNorm):
        kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
        return [kind(shape[-1], layer.eps, 1 - layer.fraction, affine=layer.affine)], shape
    raise ValueError(
        f"{type(layer).__name__}: no peer in PyTorch; add one to bench/peers/torch_nets.py"
    )


def pooling(size: int, stride: int, shape: tuple[int, ...], pad: int = 0):
    return (
        [nn.MaxPool2d(size, stride, pad, ceil_mode=True)],
        (*(pooled(n, size, stride, pad) for n in shape[:2]), shape[-1]),
    )


def decayed(made: nn.Module, layer: Layer) -> nn.Module:
    """Orthogonal weights and no bias, as ours starts; remembers the bias's share of the decay."""
    nn.init.orthogonal_(made.weight)
    nn.init.zeros_(made.bias)
    made.bias_decay = layer.bias_decay
    return made


def optimizer_of(net: nn.Module, r) -> torch.optim.Optimizer:
    """The recipe's optimizer, with the fastest implementation that PyTorch has for it here."""
    weighted = [m for m in net.modules() if hasattr(m, "bias_decay")]
    groups = [{"params": [m.weight for m in weighted], "weight_decay": r.decay}]
    for share in sorted({m.bias_decay for m in weighted}):
        groups.append(
            {
                "params": [m.bias for m in weighted if m.bias_decay == share],
                "weight_decay": share * r.decay,
            }
        )
    if r.optimizer in ("sgd", "nesterov"):
        nesterov = r.optimizer == "nesterov"
        return torch.optim.SGD(groups, RATE, momentum=r.momentum, nesterov=nesterov, fused=True)
    return torch.optim.RMSprop(groups, RATE, alpha=r.rho, eps=r.delta, foreach=True)


def convolve_in(precision: str) -> None:
    """Let products of float32 be rounded to TF32 on a GPU, or not. (PyTorch has several names for
    it, and not every part of it reads the same one.)"""
    rounded = precision == "tf32"
    torch.set_float32_matmul_precision("high" if rounded else "highest")
    torch.backends.cudnn.allow_tf32 = rounded
    if hasattr(torch.backends.cudnn, "fp32_precision"):  # from 2.9 on
        torch.backends.cudnn.fp32_precision = "tf32" if rounded else "ieee"


class Torch:
    """A net in one of PyTorch's modes, its optimizer and one batch; the contestant's calls.

    compiled: by torch.compile, in this mode of it. device: of PyTorch's own."""

    def __init__(
        self,
        entry: Entry,
        channels_last: bool = False,
        compiled: bool = False,
        way: str = "maximum",
        mode: str | None = None,
        device: str = "cpu",
    ):
        torch.set_num_threads(entry.threads)
        torch.manual_seed(0)
        warnings.filterwarnings("ignore", module=r"torch\.")  # of the compiler, about itself
        torch.backends.cudnn.benchmark = True
        convolve_in(entry.precision)
        in_shape = models.NETS[entry.net].in_shape
        r = recipe(entry.net, entry.act, "lsuv", entry.recipe)
        H, W, C = in_shape
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.device, self.compiled = device, compiled
        self.batch, self.clip, self.bf16 = entry.batch, r.clip, entry.precision == "bf16"
        self.net = module(models.build(entry.net, entry.act, CLASSES, r.dropout), in_shape, way)
        self.net.to(device, memory_format=layout)
        self.heads = [part for part in self.net.modules() if isinstance(part, TorchHead)]
        self.parameters = list(self.net.parameters())
        self.optimizer = optimizer_of(self.net, r)
        self.x = torch.randn(entry.batch, C, H, W).to(device).contiguous(memory_format=layout)
        self.labels = (torch.arange(entry.batch) % CLASSES).to(device)
        self.loss_of, self.scores_of = self._loss, self._scores
        if compiled:
            self.loss_of, self.scores_of = (
                torch.compile(call, mode=mode) for call in (self._loss, self._scores)
            )

    def _scores(self, x):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            return self.net(x)

    def _loss(self, x, labels):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            loss = nn.functional.cross_entropy(self.net(x), labels)
            for head in self.heads:
                loss = loss + head.weight * nn.functional.cross_entropy(head.scores, labels)
            return loss

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def step(self):
        if self.compiled:
            torch.compiler.cudagraph_mark_step_begin()  # last step's results may be overwritten
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = self.loss_of(self.x, self.labels)
        self.loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()

    def facts(self) -> dict:
        versions = {"torch": torch.__version__}
        if self.device == "cuda":
            versions["torch's cuDNN"] = str(torch.backends.cudnn.version())
        return {"parameters": sum(p.numel() for p in self.parameters), "versions": versions}

    def train(self, steps: int) -> float:
        """Seconds of a training step, the mean over `steps`, after one that is not timed."""
        self.net.train()
        seconds = mean_seconds(self.step, steps, self.wait)
        if not torch.isfinite(self.loss):
            raise RunError(f"loss {self.loss.item()}")
        return seconds

    def test(self, steps: int) -> float:
        """Seconds of a batch's scores, likewise."""
        self.net.eval()
        with torch.inference_mode():
            return mean_seconds(lambda: self.scores_of(self.x), steps, self.wait)
