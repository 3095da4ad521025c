"""A list of layers is a layer, and so is what is made of such lists: branches side by side or
summed, x + chain(x), a highway unit, an auxiliary classifier.

The two visitors are the engine's only hooks: `before(layer, x)` is called just before a layer with
weights sees `x`; it may end the pass by returning `STOP`, or return the layer's output where it has
run the layer on `x` itself. `after(layer)` is called just after such a layer's backward, while its
`dz` is still valid. LSUV, the tables' statistics and the search for a NaN are visitors.

Read next: engine/net.py, which puts a chain, a loss and the memory together.
"""

from collections.abc import Iterator
from math import isfinite

from engine.errors import InputError
from engine.layers import Array, Layer, Weighted
from engine.losses import Loss
from engine.plan import Lane
from kernels.clock import new_clock

STOP = object()


class Container(Layer):
    """A layer of layers: its passes hand the visitors on, and `chains` are the lists inside."""

    chains: list["Chain"]

    @property
    def frozen(self) -> bool:
        return all(layer.frozen for layer in self.leaves())

    @frozen.setter
    def frozen(self, frozen: bool) -> None:
        net = self.place.net() if self.place else None
        if net is not None:
            net.rest(self.leaves(), frozen)
        for layer in self.leaves():
            layer.resting = bool(frozen)

    def forward(self, x, train, before=None):
        raise NotImplementedError

    def backward(self, dy, after=None):
        raise NotImplementedError

    def every(self) -> Iterator[Layer]:
        """Every layer inside, containers before what they contain, in forward order."""
        for chain in self.chains:
            for layer in chain.layers:
                yield layer
                if isinstance(layer, Container):
                    yield from layer.every()

    def leaves(self) -> Iterator[Layer]:
        """Every layer inside that is not a container, in forward order."""
        return (layer for layer in self.every() if not isinstance(layer, Container))


class Chain(Container):
    """Layers one after another. Its gradients pass through the lane that it stands in."""

    takes_slot = False

    def __init__(self, layers: list[Layer], name: str | None = None):
        super().__init__(name)
        self.layers = list(layers)

    @property
    def chains(self):
        return [self]

    def setup(self, plan, in_shape):
        return self.setup_in(plan.lane, plan, in_shape)

    def setup_in(self, lane, plan, in_shape):
        for layer, following in zip(self.layers, [*self.layers, None][1:], strict=True):
            inside = plan.inside(layer, lane, following)
            layer.in_shape, in_shape = in_shape, layer.setup(inside, in_shape)
            layer.out_shape = in_shape
        return in_shape

    def forward(self, x, train, before=None):
        for layer in self.layers:
            if isinstance(layer, Container):
                x = layer.forward(x, train, before)
            else:
                visits = before is not None and isinstance(layer, Weighted)
                result = before(layer, x) if visits else None
                x = layer.forward(x, train) if result is None else result
            if x is STOP:
                return STOP
        return x

    def backward(self, dy, after=None):
        for layer in reversed(self.layers):
            if isinstance(layer, Container):
                dy = layer.backward(dy, after)
            else:
                dy = layer.backward(dy)
                if after is not None and isinstance(layer, Weighted):
                    after(layer)
            if dy is None:
                return None
        return dy


class Parallel(Container):
    """Chains of one input, whose outputs become one. An empty chain hands its input on.

    Backward runs the last chain first. Its dx is the first term of a sum, and must stay while the
    other chains run: it has a lane to itself, where the sums then go from one slot to the other.
    """

    def __init__(self, chains: list[list[Layer]], name: str | None = None):
        super().__init__(name)
        if len(chains) < 2:
            raise InputError(
                f"{type(self).__name__} of {len(chains)} chain{'s' * (not chains)}: "
                "give two or more, or the layers themselves"
            )
        self.chains = [Chain(layers) for layers in chains]

    def setup(self, plan, in_shape):
        context, wanted, level = plan.context, plan.input_gradient, plan.lane.level
        self.ops, self.dx = plan.ops, plan.gradient(in_shape)
        self.dys = []  # where each chain finds its dy, but for one that is handed the container's
        passed_on = wanted
        for chain in self.chains:
            lane = Lane(level + 1 if chain is self.chains[-1] else level + 2)
            context.input_gradient = wanted  # not that of another chain's layers
            chain.out_shape = chain.setup_in(lane, plan, in_shape)
            passed_on |= context.input_gradient
            self.dys.append(self.dy_of(plan, (lane.level, lane.layers % 2), chain.out_shape))
        context.input_gradient = passed_on
        # The kept dx lies in slot 0: a lane's first layer writes there.
        sums = (1, 0) if wanted and len(self.chains) > 2 else ()
        self.sums = [plan.slot_of((level + 1, i), in_shape) for i in sums]
        out_shape = self.joined(plan, [chain.out_shape for chain in self.chains])
        self.y = plan.buffer(out_shape)
        return out_shape

    def dy_of(self, plan, slot, shape) -> Array:
        """Memory for the part of dy that a chain is handed."""
        return None

    def joined(self, plan, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
        """The shape of the chains' outputs together."""
        raise NotImplementedError

    def join(self, number: int, part) -> None:
        """Put chain `number`'s output into y; they come in their order."""
        raise NotImplementedError

    def part(self, number: int, dy):
        """The dy of chain `number`."""
        raise NotImplementedError

    def forward(self, x, train, before=None):
        for number, chain in enumerate(self.chains):
            part = chain.forward(x, train, before)
            if part is STOP:
                return STOP
            self.join(number, part)
        return self.y

    def backward(self, dy, after=None):
        total = None
        for number in reversed(range(len(self.chains))):
            dx = self.chains[number].backward(self.part(number, dy), after)
            if self.dx is None:
                continue
            if total is None:
                total = dx
            else:
                target = self.sums[(len(self.chains) - number) % 2] if number else self.dx
                self.ops.add(total, dx, target)
                total = target
        return total


class Branches(Parallel):
    """Parallel chains, whose outputs lie side by side on the channels:
    `Branches([[Conv(8)], [MaxPool(3, 1, 1), Conv(4)]])` has 12. Szegedy et al. 2015."""

    def dy_of(self, plan, slot, shape):
        return plan.slot_of(slot, shape)

    def joined(self, plan, shapes):
        plan.need(
            len({shape[:-1] for shape in shapes}) == 1,
            f"the chains give "
            f"{', '.join(map(str, shapes))}; they may differ in their channels only",
        )
        channels = [shape[-1] for shape in shapes]
        self.firsts = [sum(channels[:i]) for i in range(len(channels))]
        return (*shapes[0][:-1], sum(channels))

    def join(self, number, part):
        self.ops.concat_forward(part, self.y, self.firsts[number])

    def part(self, number, dy):
        self.ops.concat_backward(dy, self.dys[number], self.firsts[number])
        return self.dys[number]


class Sum(Parallel):
    """Parallel chains, whose outputs are added: a residual block whose shortcut is a projection is
    `Sum([[Conv(64, 1, 2)], [Conv(64, 3, 2), ReLU(), Conv(64)]])`. He et al. 2016."""

    def joined(self, plan, shapes):
        plan.need(
            len(set(shapes)) == 1,
            f"the chains give {', '.join(map(str, shapes))}; a sum needs equal shapes",
        )
        return shapes[0]

    def join(self, number, part):
        if number:
            self.ops.add(self.first if number == 1 else self.y, part, self.y)
        else:
            self.first = part

    def part(self, number, dy):
        return dy


class Residual(Sum):
    """x + chain(x). He et al. 2016; in FitResNet-4 the chain is one convolution."""

    def __init__(self, layers: list[Layer], name: str | None = None):
        super().__init__([[], layers], name)


class Highway(Chain):
    """t h + (1 - t) x, of a layer with weights of two pieces: h = max(first, 0) is what it makes of
    x, t = 1 / (1 + exp(-second)) how much of that is let through. `Highway(Conv(32, pieces=2))` on
    32 channels. Srivastava, Greff and Schmidhuber 2015.

    gate: what the second piece's bias starts at, by any filler: below 0, x is carried at first.
    """

    takes_slot = True

    def __init__(self, layer: Weighted, gate: float = -1.0, name: str | None = None):
        super().__init__([layer], name)
        self.gate = gate

    def setup(self, plan, in_shape):
        layer = self.layers[0]
        plan.need(
            isinstance(layer, Weighted) and layer.pieces == 2,
            "it wants one layer with weights of two pieces, such as Conv(32, pieces=2)",
        )
        plan.need(isfinite(self.gate), f"its gate starts at {self.gate}; give a number")
        layer.gate = self.gate
        self.ops, self.dx = plan.ops, plan.gradient(in_shape)
        lane = Lane(plan.lane.level + 1)
        twice = self.setup_in(lane, plan, in_shape)
        plan.need(
            twice == (*in_shape[:-1], 2 * in_shape[-1]),
            f"its two pieces are {twice}; each must have the shape of its input, {in_shape}",
        )
        self.dz = plan.slot_of((lane.level, lane.layers % 2), twice)
        self.h, self.t, self.y = (plan.buffer(in_shape) for _ in range(3))
        return in_shape

    def forward(self, x, train, before=None):
        z = super().forward(x, train, before)
        if z is STOP:
            return STOP
        self.x = x
        self.ops.highway_forward(x, z, self.h, self.t, self.y)
        return self.y

    def backward(self, dy, after=None):
        self.ops.highway_backward(dy, self.x, self.h, self.t, self.dz, self.dx)
        inner = super().backward(self.dz, after)
        if self.dx is None:
            return None
        self.ops.add(inner, self.dx, self.dx)
        return self.dx


class AuxiliaryClassifier(Chain):
    """Layers and a loss beside the net's: x goes on unchanged. In training they run on x too, and
    in backward `weight` times the loss's gradient joins what comes back; else it does nothing.

    Szegedy et al. 2015. The loss keeps a clock of its own, so that loss and accuracy are those of
    the net's end; but where it is not finite, the net's clock is latched.
    """

    takes_slot = True

    def __init__(self, layers: list[Layer], loss: Loss, weight: float, name: str | None = None):
        super().__init__(layers, name)
        self.loss, self.weight = loss, weight

    def setup(self, plan, in_shape):
        plan.need(isfinite(self.weight), f"its loss has weight {self.weight}; give a number")
        plan.need(
            isinstance(self.loss, Loss),
            f"its loss is {self.loss!r:.80}; give one, such as SoftmaxLoss()",
        )
        self.ops, self.clock = plan.ops, plan.clock
        self.dx = plan.gradient(in_shape)
        lane = Lane(plan.lane.level + 1)
        scores = self.setup_in(lane, plan, in_shape)
        self.loss.name = self.loss.name or f"{plan.name}/loss"
        inside = plan.inside(self.loss, lane)
        self.own_clock = inside.clock = plan.ops.asarray(new_clock())
        self.loss.setup(inside, scores)
        return in_shape

    def forward(self, x, train, before=None):
        if train:
            self.scores = super().forward(x, train, before)
            if self.scores is STOP:
                return STOP
        return x

    def backward(self, dy, after=None):
        self.loss.forward(self.scores)
        self.ops.latch(self.own_clock, self.clock)
        inner = super().backward(self.loss.backward(self.weight), after)
        if self.dx is None:
            return None
        self.ops.add(dy, inner, self.dx)
        return self.dx
