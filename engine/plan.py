"""What a layer may ask for when it is set up, and where the memory comes from.

A net's `setup` runs twice. The first time every layer *declares*: parameters, states, buffers are
only counted, and the plan hands out None. Then memory is laid out, and the same code runs again and
is handed the arrays. So shape inference, parameter creation and allocation are one act, a layer's
author writes it once, and a new batch size is the second run with other buffers.

* Parameters live in one arena, their gradients in another of the same layout, so that an update is
  one launch. Tensors with equal multipliers stand together (a segment); each begins on a multiple
  of 256 bytes and the padding is zero, in weights and gradients alike, so norms may run across it.
* Activations have a buffer each: backward wants them. But a convolution's output, the largest of
  all, is wanted only by the activation behind it, which keeps its own result. It lies in a slot
  that gradients use in backward: in memory that the caches still hold. With precision bf16
  activations, their gradients and the gradient arena are bfloat16; parameters, optimizer state and
  statistics stay float32.
* Gradients of activations reuse two slots a lane: every second layer writes its `dx` into the one
  and reads its `dy` in the other. A container that needs `dy` more than once (Residual, Branches,
  AuxiliaryClassifier) gives what it contains a lane of its own, so `dy` stays; Branches gives two,
  so that one branch's `dx` stays while the next runs. It follows that a layer always writes its own `dx`, in
  the lane that it stands in, and never returns `dy` itself.

Read next: engine/layers.py, whose every `setup` talks to this.
"""

from dataclasses import dataclass, field
from math import prod

import numpy as np

ALIGN = 64  # elements: 256 bytes of float32


@dataclass
class Param:
    """One trained tensor: views into the arenas, and its multipliers on rate and weight decay."""

    name: str
    shape: tuple[int, ...]
    rate: float
    decay: float
    layer: object
    value: np.ndarray | None = None
    gradient: np.ndarray | None = None


class Arenas:
    """Parameters and their gradients in two flat arrays, states (running statistics) beside."""

    def __init__(self, ops, dtype, gradient_dtype):
        self.ops, self.dtype, self.gradient_dtype = ops, dtype, gradient_dtype
        self.params: dict[str, Param] = {}
        self.state_shapes: dict[str, tuple[int, ...]] = {}
        self.states: dict[str, np.ndarray] = {}
        self.weights = self.gradients = self.segments = None

    def lay_out(self) -> None:
        """Give every declared tensor its place. Called once, after the first setup."""
        kinds = sorted({(p.rate, p.decay) for p in self.params.values()}, reverse=True)
        places, segments, end = {}, [], 0
        for kind in kinds:
            start = end
            for p in self.params.values():
                if (p.rate, p.decay) == kind:
                    places[p.name] = end
                    end += -(-prod(p.shape) // ALIGN) * ALIGN
            segments.append((start, end, *kind))
        table = np.array(segments, np.float64).reshape(-1, 4)  # start, stop, rate, decay
        self.segments = self.ops.constant(table)
        self.weights = self.ops.zeros((end,), self.dtype)
        self.gradients = self.ops.zeros((end,), self.gradient_dtype)
        for p in self.params.values():
            p.value = self.view(self.weights, p.name, places)
            p.gradient = self.view(self.gradients, p.name, places)
        self.places = places
        self.states = {n: self.ops.zeros(s, self.dtype) for n, s in self.state_shapes.items()}

    def view(self, flat, name: str, places: dict[str, int] | None = None):
        """`name`'s tensor in a flat array laid out alike: weights, or an optimizer's state."""
        start = (places or self.places)[name]
        shape = self.params[name].shape
        return flat[start : start + prod(shape)].reshape(shape)


@dataclass
class Lane:
    """Two gradient slots used in turn, and how many layers use them so far."""

    level: int
    layers: int = 0


@dataclass
class Shared:
    """What all the plans of one setup have in common."""

    ops: object
    batch: int
    dtype: type  # of activations and their gradients; parameters and statistics have the arenas'
    seed: int
    clock: object
    labels: object  # (N,) int32, of the batch; None while shapes are only declared
    arenas: Arenas
    binding: bool = False  # False: the first run, which only declares
    input_gradient: bool = False
    dropouts: int = 0
    bytes: int = 0  # of the buffers so far; slots aside
    slots: dict[tuple[int, int], int] = field(default_factory=dict)  # (level, 0 | 1): elements
    memory: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    placed: list[object] = field(default_factory=list)  # every layer set up so far


class Plan:
    """One layer's view of the setup: its name, and what it may declare. Shapes are without N.

    passing: whether the layer behind this one keeps no input."""

    def __init__(self, shared: Shared, layer, name: str, lane: Lane, passing: bool = False):
        self.shared, self.layer, self.name, self.lane = shared, layer, name, lane
        self.passing = passing
        self.slot = lane.level, lane.layers % 2
        self.ops, self.batch, self.clock = shared.ops, shared.batch, shared.clock
        self.seed, self.labels = shared.seed, shared.labels
        self.precise = shared.arenas.dtype  # of parameters, statistics and probabilities

    @property
    def input_gradient(self) -> bool:
        """Whether anybody wants this layer's `dx`: false up to the first layer with weights."""
        return self.shared.input_gradient

    def param(self, name: str, shape: tuple[int, ...], rate: float = 1.0, decay: float = 1.0):
        """A trained tensor -> (value, gradient), with its multipliers on rate and weight decay."""
        full = f"{self.name}.{name}"
        if not self.shared.binding:
            if full in self.shared.arenas.params:
                raise ValueError(f"two layers are named {self.name!r}; give one another name")
            self.shared.arenas.params[full] = Param(full, shape, rate, decay, self.layer)
            return None, None
        param = self.shared.arenas.params[full]
        param.layer = self.layer
        return param.value, param.gradient

    def state(self, name: str, shape: tuple[int, ...]):
        """A tensor that is saved but not trained; zero at first."""
        full = f"{self.name}.{name}"
        if not self.shared.binding:
            self.shared.arenas.state_shapes[full] = shape
            return None
        return self.shared.arenas.states[full]

    def buffer(self, shape: tuple[int, ...], dtype=None):
        """(N, *shape), the layer's own from forward to backward."""
        shape, dtype, array = (self.batch, *shape), dtype or self.shared.dtype, None
        if self.shared.binding:
            array = self.ops.empty(shape, dtype)
        self.shared.bytes += prod(shape) * np.dtype(dtype).itemsize
        return array

    def output(self, shape: tuple[int, ...]):
        """(N, *shape) for the layer's y or z: valid until the next layer has used it where that
        keeps no input (`Layer.keeps_input`), else a buffer."""
        return self.slot_of((self.lane.level, 0), shape) if self.passing else self.buffer(shape)

    def fixed(self, shape: tuple[int, ...]):
        """Like `buffer`, for statistics, which do not grow with the batch and are never rounded."""
        return self.ops.empty(shape, self.precise) if self.shared.binding else None

    def gradient(self, shape: tuple[int, ...]):
        """(N, *shape) for the layer's `dx`, valid until the layer before has used it; None where
        no input gradient is wanted."""
        return self.slot_of(self.slot, shape) if self.input_gradient else None

    def slot_of(self, slot: tuple[int, int], shape: tuple[int, ...]):
        """(N, *shape) at the start of a slot, which grows to hold the largest."""
        size = self.batch * prod(shape)
        if not self.shared.binding:
            self.shared.slots[slot] = max(size, self.shared.slots.get(slot, 0))
            return None
        return self.shared.memory[slot][:size].reshape(self.batch, *shape)

    def dropout_number(self) -> int:
        """This dropout's place among the net's dropouts: a part of its random counter."""
        self.shared.dropouts += 1
        return self.shared.dropouts - 1

    def inside(self, layer, lane: Lane, following=None) -> "Plan":
        """The plan for a layer of this container's list, which takes the lane's next slot.
        following: the layer behind it in the list."""
        if layer.name is None:
            kind, number = type(layer).__name__.lower(), 1
            while f"{kind}{number}" in self.shared.names:
                number += 1
            layer.name = f"{kind}{number}"
        if any(layer is other for other in self.shared.placed):
            raise ValueError(f"{layer.name} stands twice in the net; make a new layer for each "
                             "place")
        self.shared.placed.append(layer)
        self.shared.names.add(layer.name)
        passing = following is not None and not following.keeps_input
        plan = Plan(self.shared, layer, layer.name, lane, passing)
        lane.layers += layer.takes_slot
        return plan
