"""A net: a list of layers, a loss, and the memory they work in.

    net = Net(layers, SoftmaxLoss(), ops, in_shape=(32, 32, 3), batch=128, seed=0)
    net.forward(train=True); net.evaluate_loss(); net.backward(); optimizer.step()

The batch is read from `net.x` and from `net.targets`, what the loss wants to know of each image, by
name ({"labels": ...}), which the data's gather or engine.fit fills in place.

A layer, and a loss, belongs to one net. To train layers on under a new end, let the old net give
them up, and hand them to the new one, which they bring their weights and statistics along to:

    old.release()
    new = Net([*layers[:-1], Linear(3)], SoftmaxLoss(), ops, in_shape, batch)
    lsuv.fill(new, "lsuv", seed=0, include=["linear3"])     # the new layer alone

The old net keeps its copy of the numbers, and runs no more. Of a net that is gone (`del old`) the
layers are free as well.

Read next: engine/losses.py, where the gradients begin.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from math import inf

import numpy as np

from engine.containers import AuxiliaryClassifier, Chain
from engine.errors import InputError, RunError, choose
from engine.layers import Array, Layer, Weighted, is_real
from engine.losses import Loss
from engine.plan import Arenas, Lane, Param, Plan, SetupContext, Target, check_seed, is_whole
from kernels.clock import new_clock
from kernels.errors import MemoryFull


class Net:
    """Layers, loss, arenas. Shapes: in_shape (H, W, C) or (F,); scores (N, classes).

    `seed` keys the dropout masks. `dtype`, of the parameters, is float32, or float64 on the `numpy`
    device for gradient checks. `precision` "bf16" makes activations and gradients bfloat16; with
    "fp32" they have the parameters' dtype. Raises InputError where shapes do not fit, for options
    that can't work, and for a layer of another net.
    """

    batch: int
    x: Array  # (N, *in_shape)
    targets: dict[str, Array]  # (N, *shape), by name
    wanted: dict[str, Target]  # what they are
    scores: Array

    def __init__(
        self,
        layers: list[Layer],
        loss: Loss,
        ops,
        in_shape: tuple[int, ...],
        batch: int,
        seed: int = 0,
        dtype=np.float32,
        precision: str = "fp32",
    ):
        self.in_shape = tuple(in_shape) if isinstance(in_shape, (tuple, list)) else (in_shape,)
        if not (self.in_shape and all(map(is_whole, self.in_shape))):
            raise InputError(
                f"in_shape {in_shape!r}: give the shape of one image, such as "
                "(32, 32, 3), or (8,) for 8 numbers"
            )
        check_seed(seed)
        if not isinstance(layers, (list, tuple)):
            raise InputError(f"layers {layers!r:.80}: give a list of layers")
        if not isinstance(loss, Loss):
            raise InputError(f"loss {loss!r:.80} is none; make one, such as SoftmaxLoss()")
        self.chain, self.loss, self.ops = Chain(layers, name="net"), loss, ops
        self.seed, self.dtype, self.epochs, self.released = seed, dtype, 0.0, False
        narrow = ops.precisions[choose("precision", precision, ops.precisions)]
        self.precision, self.activation_dtype = precision, narrow or dtype
        self.clock = ops.asarray(new_clock())
        self.arenas = self._arenas()
        declared = self._declare(batch, self.arenas)
        self.arenas.lay_out()
        try:
            self._bind(declared)
        except BaseException:
            self.release()  # another net, of a smaller batch, may have them
            raise

    def _arenas(self) -> Arenas:
        return Arenas(self.ops, self.dtype, self.activation_dtype)

    def _declare(self, batch: int, arenas: Arenas) -> SetupContext:
        """The setup's first run, for a batch of this size."""
        if not is_whole(batch):
            raise InputError(f"batch {batch!r} must be a whole number of 1 or more")
        return self._setup(SetupContext(self, batch, arenas))

    def _bind(self, declared: SetupContext) -> None:
        """The second, with memory for what the first has declared."""
        context = SetupContext(self, declared.batch, self.arenas, binding=True)
        self.placed = declared.placed
        try:
            for slot, size in declared.slots.items():
                context.memory[slot] = self.ops.empty((size,), self.activation_dtype)
            self.batch = context.batch
            self.x = self.ops.zeros((self.batch, *self.in_shape), self.activation_dtype)
            self._setup(context)
            self.targets, self.wanted = context.targets, context.wanted
        except MemoryFull as full:
            raise RunError(_too_large(declared, context, full)) from None

    def _setup(self, context: SetupContext) -> SetupContext:
        context.names |= {getattr(layer, "name", "") for layer in self.chain.every()}
        lane = Lane(0)
        plan = Plan(context, self.chain, "net", lane)
        self.out_shape = self.chain.setup(plan, self.in_shape)
        self.loss.setup(plan.inside(self.loss, lane), self.out_shape)
        return context

    def resize(self, batch: int) -> None:
        """New buffers for another batch size; weights, states and clock stay. Contents of the old
        buffers are gone."""
        self._need_layers()
        if batch != self.batch:
            self._bind(self._declare(batch, self._arenas()))

    def freeze(self, pattern: str, frozen: bool = True) -> list[str]:
        """Freeze the layers whose name fits a pattern such as "conv*", or let them learn again ->
        their names. InputError if there are none."""
        names = [layer.name for layer in self.chain.leaves()]
        chosen = [layer for layer in self.chain.leaves() if fnmatchcase(layer.name, pattern)]
        if not chosen:
            raise InputError(f"{pattern!r} is the name of no layer; there are {', '.join(names)}")
        self.rest(chosen, frozen)
        return [layer.name for layer in chosen]

    def rest(self, layers: Iterable[Layer], frozen: bool) -> None:
        """Set these layers' `frozen`, and set the net up anew; weights, states and clock stay."""
        before = {layer: layer.resting for layer in layers}
        for layer in before:
            layer.resting = bool(frozen)
        try:
            self._plan_anew()
        except InputError:
            for layer, resting in before.items():
                layer.resting = resting
            self._plan_anew()
            raise

    def _plan_anew(self) -> None:
        self._bind(self._declare(self.batch, self._arenas()))
        self.gradients[...] = 0
        self.arenas.tabulate()

    def multiply(self, pattern: str, rate: float = 1.0, decay: float = 1.0) -> list[str]:
        """Multiply the learning rate and the weight decay of the tensors whose layer, or whose own
        name, fits a pattern such as "conv*" or "*.b" -> their names. InputError if there are none.
        """
        for kind, factor in (("rate", rate), ("decay", decay)):
            if not (is_real(factor) and 0 <= factor < inf):
                raise InputError(f"{kind} {factor!r}: a multiplier is a number of 0 or more")
        params = self.named_params()
        names = [
            name
            for name, p in params.items()
            if fnmatchcase(p.layer.name, pattern) or fnmatchcase(name, pattern)
        ]
        if not names:
            raise InputError(
                f"{pattern!r} is the name of no layer with weights; there are "
                f"{', '.join(dict.fromkeys(p.layer.name for p in params.values()))}"
            )
        for name in names:
            params[name].rate *= rate
            params[name].decay *= decay
        self.arenas.tabulate()
        return names

    def pace_heads(self, factor: float) -> None:
        """Multiply the rates of the auxiliary classifiers by this factor, and no longer by that of
        the last call."""
        heads = [c for c in self.chain.every() if isinstance(c, AuxiliaryClassifier)]
        self.arenas.tabulate({layer: factor for head in heads for layer in head.leaves()})

    def release(self) -> None:
        """Give up layers and loss: another net may have them. This one runs no more."""
        self.released = True
        for layer in self.placed:
            if layer.place is not None and layer.place.net() is self:
                layer.place.net = lambda: None

    def _need_layers(self) -> None:
        if self.released:
            raise InputError("this net has given up its layers; use the net that has them now")

    def forward(self, train: bool, before=None):
        """Scores of the images in `self.x`, (N, classes); STOP if the visitor `before` said so."""
        self._need_layers()
        self.scores = self.chain.forward(self.x, train, before)
        return self.scores

    def evaluate_loss(self, train: bool = True) -> None:
        """Loss of the last forward pass against `self.targets`, into the clock."""
        self.loss.forward(self.scores, train)

    def backward(self, after=None) -> None:
        """Gradients of the loss for every parameter, into the gradient arena."""
        self.chain.backward(self.loss.backward(), after)

    def weighted(self) -> list[Weighted]:
        """The layers with weights, in forward order."""
        return [layer for layer in self.chain.leaves() if isinstance(layer, Weighted)]

    def named_params(self) -> dict[str, Param]:
        """{"conv11.W": Param(value, gradient, rate, decay, layer), ...} in forward order."""
        return self.arenas.params

    def named_state(self) -> dict[str, Array]:
        """What is saved but not trained: {"bn1.mean": array, ...}."""
        return self.arenas.states

    @property
    def labels(self) -> Array:
        """(N,) int32: the target of a loss of classes."""
        return self.targets["labels"]

    @property
    def weights(self):
        return self.arenas.weights

    @property
    def gradients(self):
        return self.arenas.gradients

    @property
    def segments(self):
        return self.arenas.segments

    @property
    def classes(self) -> int:
        return self.out_shape[0]

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.value.size for p in self.named_params().values())

    def summary(self) -> str:
        """A table: layer, kind, output shape, parameters, multiply-adds of one image; totals
        last."""
        rows = [("layer", "kind", "output", "parameters", "multiply-adds")]
        adds = 0
        for layer in self.chain.leaves():
            count = sum(p.value.size for p in self.named_params().values() if p.layer is layer)
            shape = " x ".join(str(n) for n in layer.out_shape)
            rows.append(
                (
                    layer.name,
                    type(layer).__name__,
                    shape,
                    f"{count:,}" if count else "",
                    f"{layer.multiply_adds:,}" if layer.multiply_adds else "",
                )
            )
            adds += layer.multiply_adds
        rows.append(("total", "", "", f"{self.parameters:,}", f"{adds:,}"))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        return "\n".join(
            "  ".join(
                f"{text:<{w}}" if i < 3 else f"{text:>{w}}"
                for i, (text, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )


def _too_large(declared: SetupContext, made: SetupContext, full: MemoryFull) -> str:
    """What a batch needs, what there was for it, and the batch that would fit into nine tenths of
    that: convolutions have workspaces besides."""
    batch, size = declared.batch, np.dtype(declared.net.activation_dtype).itemsize
    needed = declared.bytes + size * sum(declared.slots.values())
    free = full.free + made.bytes + size * sum(slot.size for slot in made.memory.values())
    fits = int(0.9 * free / needed * batch)
    remedy = f"--batch {fits} would fit" if fits else "not even one image fits"
    return (
        f"batch {batch}: device {full.name} needs {needed / 1e6:,.0f} MB for activations, and "
        f"{free / 1e6:,.0f} MB were free; {remedy}"
    )
