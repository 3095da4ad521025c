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
  and reads its `dy` in the other. A container that needs `dy` more than once (Branches, Sum,
  AuxiliaryClassifier) gives what it contains a lane of its own, so `dy` stays; with branches it is
  two, so that one's `dx` stays while the next runs. It follows that a layer always writes its own
  `dx`, in the lane that it stands in, and never returns `dy` itself (a view of it, as Flatten does,
  takes no slot: `takes_slot` is false).
* Up to the first layer that has a parameter or a state and is not frozen nobody wants an input
  gradient, and from it on everything is run backward.

Read next: engine/containers.py, where a list of layers becomes a layer.
"""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.layers import Array, Layer, Place

ALIGN = 64  # elements: 256 bytes of float32


@dataclass
class Param:
    """One trained tensor: its multipliers on rate and weight decay, the value that it starts at,
    and, once it has its place, the views into the arenas."""

    name: str
    shape: tuple[int, ...]
    rate: float
    decay: float
    start: float
    layer: Layer
    value: Array = field(init=False)
    gradient: Array = field(init=False)

    @property
    def room(self) -> int:
        """Elements that it takes in an arena."""
        return -(-prod(self.shape) // ALIGN) * ALIGN


@dataclass(frozen=True)
class Target:
    """What a loss wants to know of every image. classes: it is a class's number, below this.
    limits: the least and the greatest that it may be."""

    name: str
    shape: tuple[int, ...]  # of one image's; () is a number
    dtype: Any
    classes: int | None = None
    limits: tuple[float, float] | None = None

    @property
    def padding(self) -> float:
        """What a row that counts for nothing holds."""
        return np.nan if np.dtype(self.dtype).kind == "f" else -1

    def of(self, values, count: int) -> np.ndarray:
        """`values`, one for each of `count` images, as an array of this dtype. InputError, with a
        remedy, for what can't be meant."""
        try:
            array = np.asarray(values)
        except ValueError:
            raise InputError(f"{self.name}: rows of unequal lengths; give an array") from None
        what = f"{self.name} {array.dtype} {array.shape}"
        if array.dtype.kind not in "iufb":
            raise InputError(
                f"{what}: give numbers, which np.unique({self.name}, "
                "return_inverse=True)[1] makes of names"
            )
        if array.shape == (count, 1) and not self.shape:
            array = array[:, 0]
        if array.shape != (count, *self.shape):
            onehot = self.classes and array.ndim == 2 and len(array) == count
            advice = f"; of one-hot rows give {self.name}.argmax(1)" if onehot else ""
            raise InputError(f"{what}: {count} images want {(count, *self.shape)}{advice}")
        if np.dtype(self.dtype).kind in "iu" and array.dtype.kind == "f":
            raise InputError(
                f"{self.name} are {array.dtype}: give whole numbers, {self.name}.astype(int)"
            )
        if self.classes and array.size and not (array.min() >= 0 and array.max() < self.classes):
            raise InputError(
                f"{self.name} from {array.min()} to {array.max()}: this net has "
                f"{self.classes} classes, 0 to {self.classes - 1}"
            )
        if not np.isfinite(array).all():
            raise InputError(f"{what}: not all are finite; leave those images out")
        least, most = self.limits or (-np.inf, np.inf)
        if array.size and not (array.min() >= least and array.max() <= most):
            raise InputError(
                f"{self.name} from {array.min():g} to {array.max():g}: this loss wants them in "
                f"[{least:g}, {most:g}]"
            )
        return np.ascontiguousarray(array, self.dtype)


class Arenas:
    """Parameters and their gradients in two flat arrays, states (running statistics) beside."""

    weights: Array
    gradients: Array
    segments: Array

    def __init__(self, ops: Any, dtype: Any, gradient_dtype: Any):
        self.ops, self.dtype, self.gradient_dtype = ops, dtype, gradient_dtype
        self.params: dict[str, Param] = {}
        self.state_shapes: dict[str, tuple[int, ...]] = {}
        self.states: dict[str, Array] = {}
        self.taken: dict[str, np.ndarray] = {}  # tensors of layers that another net gave up
        self.places: dict[str, int] = {}

    def lay_out(self) -> None:
        """Give every declared tensor its place and first value; once, after the first setup."""
        kinds = sorted({(p.rate, p.decay) for p in self.params.values()}, reverse=True)
        end = 0
        for kind in kinds:
            for p in self.params.values():
                if (p.rate, p.decay) == kind:
                    self.places[p.name] = end
                    end += p.room
        self.tabulate()
        self.weights = self.ops.zeros((end,), self.dtype)
        self.gradients = self.ops.zeros((end,), self.gradient_dtype)
        for p in self.params.values():
            p.value, p.gradient = self.view(self.weights, p.name), self.view(self.gradients, p.name)
            if p.start:
                p.value[...] = p.start
        self.states = {n: self.ops.zeros(s, self.dtype) for n, s in self.state_shapes.items()}
        for name, value in self.taken.items():
            tensor = self.params[name].value if name in self.params else self.states[name]
            tensor[...] = self.ops.asarray(value.astype(self.dtype))

    def tabulate(self, factors: Mapping[Layer, float] | None = None) -> None:
        """Write the multipliers down for the optimizers: of each segment its start, stop, rate and
        decay. The rate of what is frozen is 0. factors: on the rates of some layers."""
        factors = factors or {}
        segments: list[list[float]] = []
        for name, start in self.places.items():
            p = self.params[name]
            kind = [0.0 if p.layer.frozen else p.rate * factors.get(p.layer, 1.0), p.decay]
            if segments and segments[-1][2:] == kind:
                segments[-1][1] += p.room
            else:
                segments.append([start, start + p.room, *kind])
        self.segments = self.ops.constant(np.array(segments, np.float64).reshape(-1, 4))

    def view(self, flat, name: str) -> Array:
        """`name`'s tensor in a flat array laid out alike: weights, or an optimizer's state."""
        start, shape = self.places[name], self.params[name].shape
        return flat[start : start + prod(shape)].reshape(shape)


@dataclass
class Lane:
    """Two gradient slots used in turn, and how many layers use them so far."""

    level: int
    layers: int = 0


@dataclass
class SetupContext:
    """What all the plans of one setup have in common."""

    net: Any  # whose setup it is
    batch: int
    arenas: Arenas
    binding: bool = False  # False: the first run, which only declares
    input_gradient: bool = False
    random: int = 0  # layers that draw, so far
    bytes: int = 0  # of the buffers so far; slots aside
    slots: dict[tuple[int, int], int] = field(default_factory=dict)  # (level, 0 | 1): elements
    memory: dict[tuple[int, int], Array] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)  # that a layer has, or is going to
    placed: list[Layer] = field(default_factory=list)  # every layer set up so far
    wanted: dict[str, Target] = field(default_factory=dict)
    targets: dict[str, Array] = field(default_factory=dict)  # (N, *shape), of the batch


class Plan:
    """One layer's view of the setup: its name, and what it may declare. Shapes are without N.

    following: the layer behind it in its list. input_gradient: whether anybody wants this layer's
    `dx`: false up to the first layer that has parameters or states."""

    def __init__(
        self,
        context: SetupContext,
        layer: Layer,
        name: str,
        lane: Lane,
        following: Layer | None = None,
    ):
        self.context, self.layer, self.name, self.lane = context, layer, name, lane
        self.following, self.slot = following, (lane.level, lane.layers % 2)
        net = context.net
        self.ops, self.clock, self.seed, self.batch = net.ops, net.clock, net.seed, context.batch
        self.input_gradient = context.input_gradient
        self.precise = context.arenas.dtype  # of parameters, statistics and probabilities

    def need(self, fits: bool, text: str) -> None:
        """InputError with the layer's name before `text`, unless it fits."""
        if not fits:
            raise InputError(f"{self.name}: {text}")

    def whole(self, least: int = 1, **options: int) -> None:
        """InputError unless each of these options is a whole number from `least` on."""
        for name, value in options.items():
            self.need(
                is_whole(value, least),
                f"{name} {value!r} must be a whole number of {least} or more",
            )

    def image(self, in_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """in_shape as (H, W, C). InputError where it is another kind."""
        remedy = (
            "grey images want a last axis of 1, images[..., None]"
            if len(in_shape) == 2
            else "it can't stand behind a Linear or Flatten"
        )
        self.need(
            len(in_shape) == 3,
            f"its input is {in_shape}, and it wants an image, (H, W, C); {remedy}",
        )
        H, W, C = in_shape
        return H, W, C

    def param(
        self,
        name: str,
        shape: tuple[int, ...],
        rate: float = 1.0,
        decay: float = 1.0,
        start: float = 0.0,
    ) -> tuple[Array, Array]:
        """A trained tensor -> (value, gradient), with its multipliers on rate and weight decay."""
        full, params = self._declared(name, shape), self.context.arenas.params
        if not self.context.binding:
            for kind, factor in (("rate", rate), ("decay", decay)):
                self.need(
                    0 <= factor < float("inf"),
                    f"{kind} {factor} of {name}: a multiplier is a number of 0 or more",
                )
            params[full] = Param(full, shape, rate, decay, start, self.layer)
            return None, None
        gradient = params[full].gradient
        if self.layer.frozen:  # not the arena's, which holds those of what is trained, and is zero
            gradient = self.ops.empty(shape, gradient.dtype)
        return self._kept(name, params[full].value), gradient

    def state(self, name: str, shape: tuple[int, ...]) -> Array:
        """A tensor that is saved but not trained; zero at first."""
        full, arenas = self._declared(name, shape), self.context.arenas
        if not self.context.binding:
            arenas.state_shapes[full] = shape
            return None
        return self._kept(name, arenas.states[full])

    def _declared(self, name: str, shape: tuple[int, ...]) -> str:
        """The tensor's full name. What stands behind this layer hands its gradient on to it from
        now on. InputError for a name that is taken, or a tensor of another net that is no such."""
        full, arenas = f"{self.name}.{name}", self.context.arenas
        self.context.input_gradient |= not self.layer.frozen
        if not self.context.binding:
            self.need(
                full not in arenas.params and full not in arenas.state_shapes,
                f"it declares {name} twice",
            )
            place = self.layer.place
            if place is not None and place.net() is not self.context.net and name in place.tensors:
                old = place.ops.tohost(place.tensors[name])
                self.need(
                    old.shape == shape,
                    f"{name} is {old.shape} from the net that the layer "
                    f"was in, and must be {shape} here; put a new layer in its place",
                )
                arenas.taken[full] = old
        return full

    def _kept(self, name: str, tensor: Array) -> Array:
        """The tensor, which the layer takes along should its net give it up."""
        if self.layer.place is not None:
            self.layer.place.tensors[name] = tensor
        return tensor

    def target(
        self,
        name: str,
        shape: tuple[int, ...] = (),
        dtype=np.int32,
        classes: int | None = None,
        limits: tuple[float, float] | None = None,
    ) -> Array:
        """(N, *shape): what the loss wants to know of the batch's images; all losses that ask for
        one name share it. fit and the data set fill it."""
        targets, first = self.context.targets, self.context.wanted.get(name)
        if first is not None:  # with several losses of classes, a label must fit the fewest
            self.need(
                (tuple(shape), dtype, classes is None)
                == (first.shape, first.dtype, first.classes is None),
                f"another loss has {name} "
                f"too, {first.dtype} {first.shape} an image; give them another name",
            )
            classes = min(filter(None, (classes, first.classes)), default=None)
            limits = limits or first.limits
        self.context.wanted[name] = Target(name, tuple(shape), dtype, classes, limits)
        if self.context.binding and name not in targets:
            targets[name] = self.ops.zeros((self.batch, *shape), dtype)
        return targets.get(name)

    def buffer(self, shape: tuple[int, ...], dtype=None) -> Array:
        """(N, *shape), the layer's own from forward to backward."""
        dtype = dtype or self.context.net.activation_dtype
        self.context.bytes += self.batch * prod(shape) * np.dtype(dtype).itemsize
        return self.ops.empty((self.batch, *shape), dtype) if self.context.binding else None

    def output(self, shape: tuple[int, ...]) -> Array:
        """(N, *shape) for the layer's y or z: valid until the next layer has used it where that
        keeps no input (`Layer.keeps_input`), else a buffer."""
        if self.following is None or self.following.keeps_input:
            return self.buffer(shape)
        return self.slot_of((self.lane.level, 0), shape)

    def fixed(self, shape: tuple[int, ...]) -> Array:
        """Like `buffer`, for statistics, which do not grow with the batch and are never rounded."""
        return self.ops.empty(shape, self.precise) if self.context.binding else None

    def gradient(self, shape: tuple[int, ...]) -> Array:
        """(N, *shape) for the layer's `dx`, valid until the layer before has used it; None where
        no input gradient is wanted."""
        return self.slot_of(self.slot, shape) if self.input_gradient else None

    def slot_of(self, slot: tuple[int, int], shape: tuple[int, ...]) -> Array:
        """(N, *shape) at the start of a slot, which grows to hold the largest."""
        size, slots = self.batch * prod(shape), self.context.slots
        if not self.context.binding:
            slots[slot] = max(size, slots.get(slot, 0))
            return None
        return self.context.memory[slot][:size].reshape(self.batch, *shape)

    def random_number(self) -> int:
        """This layer's place among those of the net that draw: a part of its random counter."""
        self.context.random += 1
        return self.context.random - 1

    def inside(self, layer: Layer, lane: Lane, following: Layer | None = None) -> "Plan":
        """The plan for a layer of this container's list, which takes the lane's next slot.

        InputError for what is no layer, stands in the net already, or is another net's."""
        context = self.context
        self.need(isinstance(layer, Layer), f"{layer!r:.80} is no layer; make one, such as Conv(8)")
        if not layer.name:
            kind, number = type(layer).__name__.lower(), 1
            while f"{kind}{number}" in context.names:
                number += 1
            layer.name = f"{kind}{number}"
            context.names.add(layer.name)
        for other in context.placed:
            if layer is other:
                raise InputError(
                    f"{layer.name} stands twice in the net; make a new layer for each place"
                )
            if layer.name == other.name:
                raise InputError(f"two layers are named {layer.name!r}; give one another name")
        owner = layer.place.net() if layer.place is not None else None
        if owner is not None and owner is not context.net:
            raise InputError(
                f"{layer.name} belongs to another net; make a new one, or call that "
                "net's release(), and it brings its weights along"
            )
        if context.binding:
            layer.place = Place(weakref.ref(context.net), self.ops)
        context.placed.append(layer)
        plan = Plan(context, layer, layer.name, lane, following)
        lane.layers += layer.takes_slot
        return plan


def check_seed(seed: int) -> int:
    """A seed as it is. InputError if it is none."""
    if not (is_whole(seed, 0) and seed < 1 << 64):
        raise InputError(f"seed {seed!r} must be a whole number in [0, 2^64)")
    return seed


def is_whole(value, least: int = 1) -> bool:
    """Whether `value` is a whole number from `least` on; True and False are none."""
    return (
        isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= least
    )
