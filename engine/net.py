"""A net: a list of layers, a loss, and the memory they work in.

    net = Net(layers, SoftmaxLoss(), ops, in_shape=(32, 32, 3), batch=128, seed=0)
    net.forward(train=True); net.evaluate_loss(); net.backward(); optimizer.step()

The batch is read from `net.x` and `net.labels`, which the data's gather fills in place.

Read next: engine/losses.py, then engine/train.py.
"""

import numpy as np

from engine.containers import Chain
from engine.errors import InputError, RunError, choose
from engine.layers import Layer
from engine.plan import Arenas, Lane, Param, Plan, Shared
from kernels.clock import new_clock
from kernels.errors import MemoryFull


class Net:
    """Layers, loss, arenas. Shapes: in_shape (H, W, C); scores (N, classes).

    `seed` keys the dropout masks. `dtype`, of the parameters, is float32, or float64 on the `numpy`
    device for gradient checks. `precision` "bf16" makes activations and gradients bfloat16; with
    "fp32" they have the parameters' dtype. Raises InputError where shapes do not fit.
    """

    def __init__(self, layers: list[Layer], loss, ops, in_shape: tuple[int, ...], batch: int,
                 seed: int = 0, dtype=np.float32, precision: str = "fp32"):
        self.chain, self.loss, self.ops = Chain(layers, name="net"), loss, ops
        self.in_shape, self.seed, self.dtype = tuple(in_shape), seed, dtype
        narrow = ops.precisions[choose("precision", precision, ops.precisions)]
        self.precision, self.activation_dtype = precision, narrow or dtype
        self.clock = ops.asarray(new_clock())
        self.arenas = self._arenas()
        shared = self._setup(batch, self._shared(batch, self.arenas))
        self.arenas.lay_out()
        self._bind(batch, shared)

    def _arenas(self) -> Arenas:
        return Arenas(self.ops, self.dtype, self.activation_dtype)

    def _shared(self, batch: int, arenas: Arenas, labels=None, **more) -> Shared:
        return Shared(self.ops, batch, self.activation_dtype, self.seed, self.clock, labels, arenas,
                      **more)

    def _setup(self, batch: int, shared: Shared) -> Shared:
        plan = Plan(shared, self.chain, "net", Lane(0))
        self.out_shape = self.chain.setup(plan, self.in_shape)
        if len(self.out_shape) != 1:
            raise InputError(f"the last layer gives {self.out_shape}; a loss wants (classes,)")
        self.loss.setup(plan, self.out_shape)
        return shared

    def _bind(self, batch: int, declared: Shared) -> None:
        shared = self._shared(batch, self.arenas, binding=True)
        try:
            for slot, size in declared.slots.items():
                shared.memory[slot] = self.ops.empty((size,), self.activation_dtype)
            self.batch = batch
            self.x = self.ops.zeros((batch, *self.in_shape), self.activation_dtype)
            self.labels = shared.labels = self.ops.zeros((batch,), np.int32)
            self._setup(batch, shared)
        except MemoryFull as full:
            raise RunError(_too_large(batch, declared, shared, full)) from None

    def resize(self, batch: int) -> None:
        """New buffers for another batch size; weights, states and clock stay. Contents of the old
        buffers are gone."""
        if batch != self.batch:
            self._bind(batch, self._setup(batch, self._shared(batch, self._arenas())))

    def forward(self, train: bool, before=None):
        """Scores of the images in `self.x`, (N, classes); STOP if the visitor `before` said so."""
        self.scores = self.chain.forward(self.x, train, before)
        return self.scores

    def evaluate_loss(self) -> None:
        """Loss of the last forward pass against `self.labels`, into the clock."""
        self.loss.forward(self.scores, self.labels)

    def backward(self, after=None) -> None:
        """Gradients of the loss for every parameter, into the gradient arena."""
        self.chain.backward(self.loss.backward(), after)

    def weighted(self) -> list[Layer]:
        """The layers with weights, in forward order."""
        return [layer for layer in self.chain.leaves() if layer.weighted]

    def named_params(self) -> dict[str, Param]:
        """{"conv11.W": Param(value, gradient, rate, decay, layer), ...} in forward order."""
        return self.arenas.params

    def named_state(self) -> dict[str, np.ndarray]:
        """What is saved but not trained: {"bn1.mean": array, ...}."""
        return self.arenas.states

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
            rows.append((layer.name, type(layer).__name__, shape, f"{count:,}" if count else "",
                         f"{layer.multiply_adds:,}" if layer.multiply_adds else ""))
            adds += layer.multiply_adds
        rows.append(("total", "", "", f"{self.parameters:,}", f"{adds:,}"))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        return "\n".join(
            "  ".join(f"{text:<{w}}" if i < 3 else f"{text:>{w}}"
                      for i, (text, w) in enumerate(zip(row, widths))).rstrip()
            for row in rows)


def _too_large(batch: int, declared: Shared, made: Shared, full: MemoryFull) -> str:
    """What a batch needs, what there was for it, and the batch that would fit into nine tenths of
    that: convolutions have workspaces besides."""
    size = np.dtype(declared.dtype).itemsize
    needed = declared.bytes + size * sum(declared.slots.values())
    room = full.free + made.bytes + size * sum(slot.size for slot in made.memory.values())
    fits = int(0.9 * room / needed * batch)
    remedy = f"--batch {fits} would fit" if fits else "not even one image fits"
    return (f"batch {batch}: device {full.name} needs {needed / 1e6:,.0f} MB for activations, and "
            f"{room / 1e6:,.0f} MB were free; {remedy}")
