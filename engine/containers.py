"""A list of layers is a layer, and x + chain(x) is a layer.

The two visitors are the engine's only hooks: `before(layer, x)` is called just before a layer with
weights sees `x`; it may end the pass by returning `STOP`, or return the layer's output where it has
run the layer on `x` itself. `after(layer)` is called just after such a layer's backward, while its
`dz` is still valid. LSUV, the tables' statistics and the search for a NaN are visitors.

Read next: engine/net.py, which puts a chain, a loss and the memory together.
"""

from engine.layers import Layer
from engine.plan import Lane

STOP = object()


class Chain(Layer):
    """Layers one after another. Its gradients pass through the lane that it stands in."""

    takes_slot = False

    def __init__(self, layers: list[Layer], name: str | None = None):
        self.layers, self.name = list(layers), name

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
            if isinstance(layer, Chain):
                x = layer.forward(x, train, before)
            else:
                found = before(layer, x) if layer.weighted and before is not None else None
                x = layer.forward(x, train) if found is None else found
            if x is STOP:
                return STOP
        return x

    def backward(self, dy, after=None):
        for layer in reversed(self.layers):
            if isinstance(layer, Chain):
                dy = layer.backward(dy, after)
            else:
                dy = layer.backward(dy)
                if layer.weighted and after is not None:
                    after(layer)
            if dy is None:
                return None
        return dy

    def leaves(self):
        """Every layer that is not a container, in forward order."""
        for layer in self.layers:
            yield from layer.leaves() if isinstance(layer, Chain) else [layer]


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
