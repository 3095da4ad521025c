"""A list of layers is a layer, and so is what is made of such lists: x + chain(x), parallel chains
side by side, a side exit.

The two visitors are the engine's only hooks: `before(layer, x)` is called just before a layer with
weights sees `x`; it may end the pass by returning `STOP`, or return the layer's output where it has
run the layer on `x` itself. `after(layer)` is called just after such a layer's backward, while its
`dz` is still valid. LSUV, the tables' statistics and the search for a NaN are visitors.

Read next: engine/net.py, which puts a chain, a loss and the memory together.
"""

from collections.abc import Iterator

from engine.errors import InputError
from engine.layers import Layer
from engine.plan import Lane
from kernels.clock import new_clock

STOP = object()


class Container(Layer):
    """A layer of layers: its passes hand the visitors on, and `chains` are the lists inside."""

    chains: list["Chain"]

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
        self.layers, self.name = list(layers), name

    @property
    def chains(self):
        return [self]

    def setup(self, plan, in_shape):
        return self.setup_in(plan.lane, plan, in_shape)

    def setup_in(self, lane, plan, in_shape):
        for layer, following in zip(self.layers, [*self.layers[1:], None]):
            inside = plan.inside(layer, lane, following)
            in_shape = layer.out_shape = layer.setup(inside, in_shape)
            if layer.weighted:
                plan.shared.input_gradient = True
        return in_shape

    def forward(self, x, train, before=None):
        for layer in self.layers:
            if isinstance(layer, Container):
                x = layer.forward(x, train, before)
            else:
                found = before(layer, x) if layer.weighted and before is not None else None
                x = layer.forward(x, train) if found is None else found
            if x is STOP:
                return STOP
        return x

    def backward(self, dy, after=None):
        for layer in reversed(self.layers):
            if isinstance(layer, Container):
                dy = layer.backward(dy, after)
            else:
                dy = layer.backward(dy)
                if layer.weighted and after is not None:
                    after(layer)
            if dy is None:
                return None
        return dy


class Residual(Chain):
    """x + chain(x). He et al. 2016; in FitResNet-4 the chain is one convolution."""

    takes_slot = True

    def setup(self, plan, in_shape):
        self.ops = plan.ops
        self.dx = plan.gradient(in_shape)
        out_shape = self.setup_in(Lane(plan.lane.level + 1), plan, in_shape)
        if out_shape != in_shape:
            raise ValueError(f"{plan.name}: x is {in_shape}, chain(x) is {out_shape}; "
                             "a residual sum needs equal shapes")
        self.y = plan.buffer(in_shape)
        return in_shape

    def forward(self, x, train, before=None):
        inner = super().forward(x, train, before)
        if inner is STOP:
            return STOP
        self.ops.add(x, inner, self.y)
        return self.y

    def backward(self, dy, after=None):
        inner = super().backward(dy, after)
        if self.dx is None:
            return None
        self.ops.add(dy, inner, self.dx)
        return self.dx


class Branches(Container):
    """Parallel chains of one input, whose outputs lie side by side on the channels:
    `Branches([[Conv(8)], [MaxPool(3, 1, 1), Conv(4)]])` has 12. An empty chain hands its input on.

    Backward runs the last chain first. Its dx is the first term of a sum, and must stay while the
    other chains run: it has a lane to itself, where the sums then go from one slot to the other.
    """

    def __init__(self, chains: list[list[Layer]], name: str | None = None):
        if len(chains) < 2:
            raise InputError(f"Branches of {len(chains)} chain{'s' * (not chains)}: give two or "
                             "more, or the layers themselves")
        self.chains, self.name = [Chain(layers) for layers in chains], name

    def setup(self, plan, in_shape):
        self.ops, wanted = plan.ops, plan.input_gradient
        self.dx = plan.gradient(in_shape)
        kept, level, shapes, weighted = self.chains[-1], plan.lane.level, [], wanted
        self.parts = []  # where each chain finds its channels of dy
        for chain in self.chains:
            lane = Lane(level + 1 if chain is kept else level + 2)
            plan.shared.input_gradient = wanted  # not that of another chain's layers
            chain.out_shape = chain.setup_in(lane, plan, in_shape)
            weighted |= plan.shared.input_gradient
            shapes.append(chain.out_shape)
            self.parts.append(plan.slot_of((lane.level, lane.layers % 2), chain.out_shape))
        plan.shared.input_gradient = weighted
        if len({shape[:-1] for shape in shapes}) > 1:
            raise ValueError(f"{plan.name}: the chains give {', '.join(map(str, shapes))}; they "
                             "may differ in their channels only")
        # The kept dx lies in slot 0: a lane's first layer writes there.
        self.sums = [plan.slot_of((level + 1, i), in_shape) for i in (1, 0)] if wanted else []
        channels = [shape[-1] for shape in shapes]
        self.firsts = [sum(channels[:i]) for i in range(len(channels))]
        out_shape = (*shapes[0][:-1], sum(channels))
        self.y = plan.buffer(out_shape)
        return out_shape

    def forward(self, x, train, before=None):
        for chain, first in zip(self.chains, self.firsts):
            part = chain.forward(x, train, before)
            if part is STOP:
                return STOP
            self.ops.concat_forward(part, self.y, first)
        return self.y

    def backward(self, dy, after=None):
        total = None
        for number in reversed(range(len(self.chains))):
            part = self.parts[number]
            self.ops.concat_backward(dy, part, self.firsts[number])
            dx = self.chains[number].backward(part, after)
            if self.dx is None:
                continue
            if total is None:
                total = dx
            else:
                target = self.sums[(len(self.chains) - number) % 2] if number else self.dx
                self.ops.add(total, dx, target)
                total = target
        return total


class AuxiliaryClassifier(Chain):
    """A side exit: x goes on unchanged. In training its own layers and loss run on x too, and in
    backward `weight` times the loss's gradient joins what comes back; else it does nothing.

    Szegedy et al. 2015. The loss keeps a clock of its own, so that loss and accuracy are those of
    the net's end; but where it is not finite, the net's clock is latched.
    """

    takes_slot = True

    def __init__(self, layers: list[Layer], loss: Layer, weight: float, name: str | None = None):
        super().__init__(layers, name)
        self.loss, self.weight = loss, weight

    def setup(self, plan, in_shape):
        self.ops, self.clock, self.labels = plan.ops, plan.clock, plan.labels
        self.dx = plan.gradient(in_shape)
        lane = Lane(plan.lane.level + 1)
        scores = self.setup_in(lane, plan, in_shape)
        if len(scores) != 1:
            raise InputError(f"{plan.name}: its last layer gives {scores}; a loss wants (classes,)")
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
        self.loss.forward(self.scores, self.labels)
        self.ops.latch(self.own_clock, self.clock)
        inner = super().backward(self.loss.backward(self.weight), after)
        if self.dx is None:
            return None
        self.ops.add(dy, inner, self.dx)
        return self.dx
