"""Every layer, and whole small nets, against float64 directional derivatives; and what the plan
promises: declared shapes are actual shapes, slots do not collide, a resize keeps the weights.

Read next: tests/models/test_models.py.
"""

from functools import partial

import numpy as np
import pytest

from engine.containers import STOP, AuxiliaryClassifier, Branches, Chain, Highway, Residual, Sum
from engine.diagnosis import first_not_finite
from engine.errors import InputError
from engine.layers import (
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    FractionalMaxPool,
    GlobalAvgPool,
    GlobalMaxPool,
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
from engine.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    DistillationLoss,
    HingeLoss,
    HintLoss,
    SoftmaxLoss,
    SquaredError,
    SquaredHingeLoss,
)
from engine.net import Net
from engine.optimizers import SGD
from kernels.clock import FINITE, LOSS, RATE, SEEN, STEP, new_clock
from kernels.reference import NumpyOps

BODIES = {
    "conv": lambda: [Conv(5, name="a"), Conv(3, size=2, stride=2, pad=0, name="b")],
    "conv groups": lambda: [Conv(4, name="a"), Conv(6, groups=2, name="b")],
    "linear": lambda: [Linear(7, name="a"), Linear(5, name="b")],
    "maxout": lambda: [Conv(5, pieces=3, name="a"), Maxout(3)],
    "relu": lambda: [Conv(5, name="a"), ReLU()],
    "vlrelu": lambda: [Conv(5, name="a"), VLReLU()],
    "leaky": lambda: [Conv(5, name="a"), LeakyReLU(0.1)],
    "tanh": lambda: [Conv(5, name="a"), Tanh()],
    "sigmoid": lambda: [Conv(5, name="a"), Sigmoid()],
    "pool": lambda: [Conv(5, name="a"), MaxPool(3, 2)],
    "pool pad": lambda: [
        Conv(5, name="a"),
        MaxPool(3, 1, pad=1),
        Conv(4, name="b"),
        MaxPool(3, 2, pad=2),
    ],
    "fractional": lambda: [
        Conv(5, name="a"),
        FractionalMaxPool(6, 8),
        Tanh(),
        Conv(4, name="b"),
        FractionalMaxPool(4, 5, overlapping=False, random=True),
    ],
    "average": lambda: [Conv(5, name="a"), AvgPool(4, 3), Tanh(), Conv(4, name="b"), AvgPool(3)],
    "lrn": lambda: [Conv(5, name="a"), LRN(3, 0.7), Conv(7, name="b"), ReLU(), LRN(5, 2.0, 0.5)],
    "branches": lambda: [
        Conv(5, name="a"),
        Tanh(),
        Branches(
            [
                [Conv(3, size=1, pad=0, name="b")],
                [Conv(2, name="c"), Tanh(), Conv(4, name="d"), Tanh()],
                [MaxPool(3, 1, 1), Conv(2, name="e"), Sigmoid()],
                [Tanh(), Conv(3, name="f"), Tanh()],
            ]
        ),
        Conv(3, name="g"),
    ],
    "two branches": lambda: [Conv(5, name="a"), Branches([[Conv(3, name="b")], [Tanh()]]), Tanh()],
    "branches of nothing": lambda: [
        Conv(3, name="a"),
        Branches([[], [], [Conv(2, name="b")], []]),
        Branches([[Tanh(), Conv(2, name="c")], [], []]),
    ],
    "branches first": lambda: [
        Branches([[Conv(3, name="a")], [MaxPool(3, 1, 1)], [Tanh(), Conv(2, name="b"), Tanh()]]),
        Tanh(),
    ],
    "branches in branches": lambda: [
        Conv(4, name="a"),
        Branches(
            [
                [
                    Branches([[Conv(2, name="b"), Tanh()], [], [Tanh(), Conv(3, name="c")]]),
                    Residual(
                        [
                            Conv(9, name="d"),
                            Tanh(),
                            Branches([[Conv(4, name="e")], [Conv(5, name="f")]]),
                        ]
                    ),
                ],
                [
                    Residual([Branches([[Tanh()], [], [Conv(3, name="g")]]), Conv(4, name="h")]),
                    Sigmoid(),
                ],
                [
                    Branches([[Residual([Conv(4, name="i")])], [Conv(2, name="j"), Tanh()]]),
                    Chain([Tanh(), Conv(3, name="k")]),
                ],
            ]
        ),
        Tanh(),
    ],
    "conv dropout conv": lambda: [Conv(5, name="a"), Dropout(0.3), Conv(4, name="b"), Tanh()],
    "maxout pool": lambda: [
        Conv(4, pieces=2, name="a"),
        Maxout(2, pool=4, stride=2),
        Conv(3, pieces=3, name="b"),
        Maxout(3, pool=3),
    ],
    "maxout pool dropout": lambda: [
        Conv(4, pieces=2, name="a"),
        Maxout(2, 4, 2, drop=0.3),
        Conv(3, pieces=3, name="b"),
        Maxout(3, pool=3, drop=0.5),
    ],
    "dropout": lambda: [Dropout(0.3), Conv(5, name="a"), Dropout(0.5)],
    "plain dropout": lambda: [Conv(5, name="a"), Dropout(0.5, "plain"), Dropout(0.2, "mask")],
    "channel dropout": lambda: [
        Conv(5, name="a"),
        Dropout(0.4, "channel"),
        Tanh(),
        Linear(6, name="b"),
        Dropout(0.5, "channel"),
    ],
    "batchnorm": lambda: [Conv(5, name="a"), BatchNorm(), Tanh()],
    "highway": lambda: [
        Conv(4, name="a"),
        Tanh(),
        Highway(Conv(4, pieces=2, name="b"), -0.5),
        Highway(Conv(4, 1, pieces=2, name="c"), 0.5),
        Tanh(),
    ],
    "highway first": lambda: [Highway(Conv(3, pieces=2, name="a")), Tanh(), Conv(3, name="b")],
    "highway of numbers": lambda: [Linear(5, name="a"), Highway(Linear(5, pieces=2, name="b"))],
    "residual": lambda: [
        Conv(5, name="a"),
        Tanh(),
        Residual([Conv(5, name="b"), Tanh(), Conv(5, name="c")]),
        Tanh(),
    ],
    "residuals": lambda: [
        Conv(4, name="a"),
        Residual([Conv(4, name="b"), Tanh()]),
        Residual([Tanh(), Residual([Conv(4, name="c"), Sigmoid()])]),
    ],
    "chains": lambda: [
        Conv(4, name="a"),
        Chain([Tanh(), Conv(4, name="b"), Tanh()]),
        Chain([Conv(3, name="c")]),
        Chain([Sigmoid()]),
    ],
    "flatten": lambda: [
        Conv(5, name="a"),
        Tanh(),
        Flatten(),
        Linear(6, name="b"),
        Flatten(),
        Tanh(),
    ],
    "flatten behind weights": lambda: [Conv(5, name="a"), Flatten(), Linear(6, name="b")],
    "global max": lambda: [Conv(5, name="a"), GlobalMaxPool(), Tanh(), Linear(6, name="b")],
    "global average": lambda: [Conv(5, name="a"), Tanh(), GlobalAvgPool(), Linear(6, name="b")],
    "prelu": lambda: [
        Conv(5, name="a"),
        PReLU(name="p"),
        Conv(4, name="b"),
        PReLU(name="q"),
        Linear(5, name="c"),
        PReLU(name="r"),
    ],
    "prelu first": lambda: [PReLU(name="p"), Conv(5, name="a"), Tanh()],
    "affine": lambda: [
        Conv(5, name="a"),
        BatchNorm(affine=True, name="n"),
        Tanh(),
        Linear(6, name="b"),
        BatchNorm(affine=True, name="m"),
        Tanh(),
    ],
    "affine first": lambda: [
        Dropout(0.3),
        BatchNorm(affine=True, name="n"),
        PReLU(name="p"),
        Conv(5, name="a"),
        Tanh(),
    ],
    "no bias": lambda: [
        Conv(5, bias=False, name="a"),
        Tanh(),
        Conv(4, 1, bias=False, name="b"),
        Tanh(),
        Linear(6, bias=False, name="c"),
    ],
    "sum": lambda: [
        Conv(5, name="a"),
        Tanh(),
        Sum([[Conv(4, 1, 2, name="b")], [Conv(6, 3, 2, name="c"), Tanh(), Conv(4, name="d")]]),
        Tanh(),
    ],
    "sum of many": lambda: [
        Conv(4, name="a"),
        Sum([[], [Tanh(), Conv(4, name="b")], [MaxPool(3, 1, 1)], [], [Conv(4, name="c"), Tanh()]]),
        Sum(
            [
                [Conv(3, name="d")],
                [
                    Sigmoid(),
                    Sum([[Conv(3, name="e")], [Tanh(), Conv(3, name="f")], [Conv(3, name="g")]]),
                ],
                [Conv(3, 1, name="h")],
            ]
        ),
        Tanh(),
    ],
    "sum first": lambda: [
        Sum([[], [BatchNorm(affine=True, name="n")], [Tanh(), Conv(3, name="a")]]),
        Tanh(),
    ],
    "sum of nothing": lambda: [Conv(3, name="a"), Sum([[], [], []]), Tanh(), Sum([[], []])],
    "sums and branches": lambda: [
        Conv(4, name="a"),
        Branches(
            [
                [Sum([[Conv(2, name="b")], [Tanh(), Conv(2, name="c")], [Conv(2, name="d")]])],
                [Sum([[Branches([[], [Conv(1, name="e")]]), Tanh()], [Conv(5, name="f")]])],
                [],
            ]
        ),
        Tanh(),
    ],
    "fitnet": lambda: [
        Dropout(0.2),
        Conv(4, pieces=2, name="a"),
        Maxout(2),
        Conv(4, name="b"),
        ReLU(),
        MaxPool(2),
        Dropout(0.2),
        Residual([Conv(4, pieces=2, name="c"), Maxout(2)]),
        MaxPool(5),
        Linear(6, pieces=5, name="d"),
        Maxout(5),
    ],
}


def exit_of(name: str, weight: float = 0.3, loss=SoftmaxLoss) -> AuxiliaryClassifier:
    """A side exit of two layers with weights."""
    return AuxiliaryClassifier(
        [
            AvgPool(5, 3),
            Conv(2, size=1, pad=0, name=f"{name}/conv"),
            Tanh(),
            Linear(4, name=f"{name}/clf"),
        ],
        loss(),
        weight,
        name,
    )


# Nets with side exits, whose loss is a sum: the names are of the heads, in forward order.
EXITS = {
    "exit": lambda: [Conv(5, name="a"), Tanh(), exit_of("one"), Conv(3, name="b"), Tanh()],
    "exit first": lambda: [exit_of("one", 0.7), Conv(3, name="b"), Tanh(), exit_of("two")],
    "exits everywhere": lambda: [
        Conv(5, name="a"),
        exit_of("one", 0.5, HingeLoss),
        ReLU(),
        Branches(
            [
                [Conv(3, name="b"), exit_of("two", 1.5), Tanh()],
                [exit_of("three"), Residual([Tanh(), exit_of("four"), Conv(5, name="c"), Tanh()])],
                [Branches([[], [Conv(2, name="d"), exit_of("five")]]), Tanh(), Conv(3, name="e")],
            ]
        ),
        exit_of("six", 0.1),
        exit_of("seven"),
        Tanh(),
    ],
    "exit in an exit": lambda: [
        Conv(5, name="a"),
        Tanh(),
        AuxiliaryClassifier(
            [
                Conv(4, name="b"),
                Tanh(),
                exit_of("inner", 0.5),
                Residual([Conv(4, name="c")]),
                Branches([[Tanh(), Conv(2, name="d")], [Conv(1, name="e"), Tanh()]]),
                Linear(4, name="f"),
            ],
            SoftmaxLoss(),
            0.4,
            "outer",
        ),
        Tanh(),
    ],
}


def small_net(body: str, loss=None) -> Net:
    batch = 7
    net = Net(
        [*(BODIES | EXITS)[body](), Linear(4, name="clf")],
        loss or SoftmaxLoss(),
        NumpyOps(),
        in_shape=(9, 11, 3),
        batch=batch,
        seed=3,
        dtype=np.float64,
    )
    rng = np.random.default_rng(1)
    for p in net.named_params().values():
        p.value[...] = rng.normal(0, 0.3, p.shape)
    net.x[...] = rng.normal(0, 1, net.x.shape)
    for target in net.targets.values():
        target[...] = rng.integers(0, 4, batch) if target.ndim == 1 else rng.random(target.shape)
    net.clock[0] = 5  # a step other than 0, for dropout
    return net


def loss_of(net: Net) -> float:
    """The net's loss, and its heads' by their weights."""
    net.forward(train=True)
    net.evaluate_loss()
    total = float(net.clock[LOSS])
    for head in heads_of(net):
        clock = new_clock()
        head.loss.clock = clock
        head.loss.forward(head.scores)
        head.loss.clock = head.own_clock
        total += head.weight * clock[LOSS]
    return total


def heads_of(net: Net) -> list[AuxiliaryClassifier]:
    return [layer for layer in net.chain.every() if isinstance(layer, AuxiliaryClassifier)]


SMOOTHED = partial(SoftmaxLoss, 0.2)
DISTILLED = [partial(DistillationLoss, 4.0, 0.3, student) for student in (None, 1.0)]
WEIGHTED = partial(SoftmaxLoss, 0.2, [0.5, 2.0, 0.0, 1.0])
VALUES = SquaredError, AbsoluteError, BinaryCrossEntropy
EVERY = [*BODIES, *EXITS]


@pytest.mark.parametrize(
    "loss, body",
    [
        *((loss, body) for loss in (SoftmaxLoss, HingeLoss) for body in EVERY),
        *((loss, body) for loss in (SMOOTHED, SquaredHingeLoss) for body in ("conv", "fitnet")),
        *((loss, "conv") for loss in (WEIGHTED, *DISTILLED, *VALUES)),
    ],
)
def test_gradient_of_a_net_is_its_directional_derivative(loss, body):
    net = small_net(body, loss())
    loss_of(net)
    net.backward()
    rng = np.random.default_rng(2)
    start = net.weights.copy()
    for p in net.named_params().values():
        direction = rng.normal(0, 1, p.shape)
        expected = float(np.sum(direction * p.gradient))
        values = []
        for eps in (1e-6, -1e-6):
            p.value += eps * direction
            values.append(loss_of(net))
            net.weights[...] = start
        measured = (values[0] - values[1]) / 2e-6
        assert measured == pytest.approx(expected, rel=1e-5, abs=1e-8), p.name


def test_distillation_begins_at_ln_10_and_share_times_that():
    """Where all scores are 0; outside training it is the softmax loss."""
    net = Net([Linear(10)], DistillationLoss(4.0), NumpyOps(), (3,), 5, dtype=np.float64)
    for train, times in ((True, 5), (False, 1)):
        net.forward(train)
        net.evaluate_loss(train)
        assert net.clock[LOSS] == pytest.approx(times * np.log(10), rel=1e-6)


def test_a_hint_is_half_the_squared_error_of_an_images_rows():
    """Romero et al.'s program: averaged over images, columns and channels."""
    net = Net([Conv(3)], HintLoss(), NumpyOps(), (4, 5, 2), 7, dtype=np.float64)
    rng = np.random.default_rng(0)
    for array in (net.weights, net.x, net.targets["values"]):
        array[...] = rng.normal(0, 1, array.shape)
    r, hint = net.forward(train=True), net.targets["values"]
    net.evaluate_loss()
    N, H, W, C = r.shape
    assert net.clock[LOSS] * H / 2 == pytest.approx(((hint - r) ** 2).sum() / (2 * N * W * C))
    np.testing.assert_allclose(net.loss.backward(), (r - hint) / (N * W * C), rtol=1e-12)


@pytest.mark.parametrize("body", [*BODIES, *EXITS])
def test_declared_shapes_are_actual_shapes(body):
    net = small_net(body)
    seen = []

    def walk(layers, x):
        for layer in layers:
            before = x.copy()
            y = layer.forward(x, True)
            assert np.array_equal(x, before), f"{layer.name} changed its input"
            assert y.shape == (net.batch, *layer.out_shape), layer.name
            seen.append(layer.name)
            x = y
        return x

    walk(net.chain.layers, net.x)
    assert len(set(seen)) == len(seen)


def test_kinds_of_dropout(ops):
    """One mask; what is kept, and what happens outside training, is the kind's."""
    x, outside = np.ones((8, 400), np.float32), {"inverted": 1, "plain": 0.75, "mask": 1}
    found = {}
    for kind, factor in outside.items():
        net = Net([Dropout(0.25, kind), Linear(2)], SoftmaxLoss(), ops, (400,), 8, seed=1)
        net.x[...] = ops.asarray(x)
        drop = net.chain.layers[0]
        found[kind] = ops.tohost(drop.forward(net.x, True)).copy()
        assert (ops.tohost(drop.forward(net.x, False)) == np.float32(factor)).all()
    assert 0.7 < (found["plain"] > 0).mean() < 0.8
    assert np.array_equal(found["plain"], found["mask"])
    assert np.array_equal(found["inverted"], found["plain"] * np.float32(1 / 0.75))
    with pytest.raises(InputError, match="unknown dropout 'plane'"):
        Dropout(0.5, "plane")


def test_dropout_of_channels(ops):
    """The same for all images and places, an exact number, another mask in the next step, and on
    the way back the same."""
    drop = Dropout(0.4, "channel")
    layers = [Conv(224, 1), drop, Linear(2)]
    net = Net(layers, SoftmaxLoss(), ops, (3, 5, 3), 4, seed=1)
    x = ops.asarray(np.ones((4, 3, 5, 224), np.float32))
    assert drop.keep == 128
    masks = []
    for step in (0, 1, 0):
        net.clock[STEP] = step
        y = ops.tohost(drop.forward(x, True))
        assert (y == y[0, 0, 0]).all() and np.array_equal(np.unique(y), [0, 1.75])
        assert np.array_equal(ops.tohost(drop.backward(x)), y)
        masks.append(y[0, 0, 0])
    assert [(mask > 0).sum() for mask in masks] == [128] * 3
    assert np.array_equal(masks[0], masks[2]) and not np.array_equal(masks[0], masks[1])
    assert drop.forward(x, False) is x
    for channels, share, kept in ((63, 0.5, 32), (1, 0.9, 1), (128, 0.1, 128), (2240, 0.5, 1120)):
        one = Dropout(share, "channel")
        Net([one, Linear(2)], SoftmaxLoss(), ops, (channels,), 2)
        assert one.keep == kept


def test_windows_are_drawn_anew_in_every_step_and_the_same_for_all_channels(ops):
    pool = FractionalMaxPool(17, name="pool")
    net = Net([Conv(6, 1), pool, Linear(2)], SoftmaxLoss(), ops, (24, 24, 3), 5, seed=1)
    place = np.arange(24 * 24, dtype=np.float32).reshape(1, 24, 24, 1)
    x = ops.asarray(np.ascontiguousarray(np.broadcast_to(place, (5, 24, 24, 6))))
    found = []
    for step, train in ((0, True), (1, True), (0, True), (1, False)):
        net.clock[STEP] = step
        found.append(ops.tohost(pool.forward(x, train)))
        assert (found[-1] == found[-1][..., :1]).all() and (found[-1] != found[-1][:1]).any()
    assert np.array_equal(found[0], found[2]) and not np.array_equal(found[0], found[1])
    assert np.array_equal(found[1], found[3])
    for size in (11, 24):
        with pytest.raises(
            InputError, match=f"^small: a side of 24 shrinks to 12 to 23, not to {size}"
        ):
            Net([FractionalMaxPool(size, name="small")], SoftmaxLoss(), ops, (24, 24, 3), 5)


def test_a_maxout_that_drops_out_is_the_two_layers(ops):
    """The same masks, and so the same bits after some steps and outside training; a layer less."""
    found = []
    for fused in (True, False):

        def pooled(*options, drop, fused=fused):
            return [Maxout(*options, drop=drop)] if fused else [Maxout(*options), Dropout(drop)]

        net = Net(
            [
                Dropout(0.1),
                Conv(6, pieces=2, name="a"),
                *pooled(2, 3, 2, drop=0.3),
                Conv(5, pieces=3, name="b"),
                *pooled(3, 4, drop=0.5),
                Dropout(0.2),
                Linear(4, name="clf"),
            ],
            SoftmaxLoss(),
            ops,
            (9, 11, 3),
            7,
            seed=3,
        )
        rng, optimizer = np.random.default_rng(1), SGD(net, 0.9)
        for p in net.named_params().values():
            p.value[...] = rng.normal(0, 0.3, p.shape)
        rates = ops.asarray(np.full(4, 0.1))
        net.clock[RATE] = 0.1
        for _ in range(3):
            net.x[...] = rng.normal(0, 1, net.x.shape)
            net.labels[...] = rng.integers(0, 4, 7)
            net.forward(train=True)
            net.evaluate_loss()
            net.backward()
            optimizer.step()
            ops.advance(net.clock, rates)
        assert net.clock[STEP] == 3 and net.clock[FINITE]
        numbers = [layer.number for layer in net.chain.leaves() if hasattr(layer, "number")]
        scores = net.forward(train=False).copy()
        found.append(
            (
                numbers,
                len(list(net.chain.leaves())),
                [a.tobytes() for a in (net.weights, optimizer.memory, net.clock, scores)],
            )
        )
    (numbers, count, bits), (want, more, same) = found
    assert numbers == want == [0, 1, 2, 3] and count == more - 2
    assert bits == same


def test_an_output_shares_memory_where_only_an_activation_reads_it():
    """Behind a maxout, a convolution's z is a gradient's slot; before a layer that keeps its input,
    or hands it on as a dropout does outside training, it is a buffer of its own."""
    a, b, c, d = (Conv(4, pieces=2, name=name) for name in "abcd")
    net = Net(
        [a, Maxout(2), b, Maxout(2), c, Dropout(0.5), d, ReLU(), Linear(3, name="clf")],
        SoftmaxLoss(),
        NumpyOps(),
        in_shape=(6, 6, 2),
        batch=2,
    )
    assert np.shares_memory(a.z, b.z) and np.shares_memory(a.z, d.z)
    assert not np.shares_memory(c.z, d.z)
    assert not np.shares_memory(net.weighted()[-1].z, a.z)
    net.x[...] = np.random.default_rng(0).standard_normal(net.x.shape)
    for p in net.named_params().values():
        p.value[...] = np.random.default_rng(1).standard_normal(p.shape)
    d_input = []
    net.forward(False, before=lambda layer, x: d_input.append(x.copy()) if layer is d else None)
    np.testing.assert_array_equal(c.z, d_input[0])


def test_input_gradient_is_asked_for_only_where_somebody_wants_it():
    net = small_net("fitnet")
    dropout, first, *rest = net.chain.leaves()
    assert dropout.dx is None and first.dx is None
    assert all(layer.dx is not None for layer in rest)


def test_visitors_see_every_weighted_layer_once_in_order():
    net, seen, back = small_net("residual"), [], []
    net.forward(True, before=lambda layer, x: seen.append((layer.name, x.shape)))
    assert [name for name, _ in seen] == ["a", "b", "c", "clf"]
    net.evaluate_loss()

    def after(layer):
        assert layer.dz.shape == layer.z.shape
        assert np.allclose(layer.dz.reshape(-1, layer.outputs).sum(0), layer.db)
        back.append(layer.name)

    net.backward(after)
    assert back == ["clf", "c", "b", "a"]


def test_stop_ends_the_pass_inside_containers_too():
    net, seen = small_net("residual"), []

    def before(layer, x):
        seen.append(layer.name)
        return STOP if layer.name == "c" else None

    assert net.forward(True, before) is STOP
    assert seen == ["a", "b", "c"]


def test_a_visitor_may_run_the_layer_itself():
    net, runs = small_net("residual"), []
    scores = net.forward(True).copy()
    for layer in net.weighted():
        layer.forward = lambda x, train, layer=layer: (
            runs.append(layer.name),
            type(layer).forward(layer, x, train),
        )[1]
    assert np.array_equal(net.forward(True, lambda layer, x: layer.forward(x, True)), scores)
    assert runs == ["a", "b", "c", "clf"]
    net.forward(True, lambda layer, x: 2 * layer.forward(x, True) if layer.name == "clf" else None)
    assert np.array_equal(net.scores, 2 * scores)


@pytest.mark.parametrize("body", EXITS)
def test_a_head_counts_in_the_gradient_alone(body):
    """Not in loss, accuracy and images seen; and outside training it does nothing."""
    net = small_net(body)
    net.forward(train=True)
    net.evaluate_loss()
    clock = net.clock.copy()
    net.backward()
    np.testing.assert_array_equal(net.clock, clock)
    assert clock[SEEN] == net.batch
    names = [layer.name for layer in net.chain.leaves()]
    for head in heads_of(net):
        assert set(layer.name for layer in head.leaves()) < set(names)
        for layer in head.leaves():
            layer.forward = None  # not callable
    scores = net.forward(train=False)
    assert np.array_equal(scores, net.scores)


def test_every_layer_with_weights_has_a_gradient_and_a_visit_behind_exits_and_branches():
    net, seen, back = small_net("exits everywhere"), [], []
    names = [layer.name for layer in net.weighted()]
    assert len(set(names)) == len(names) == 6 + 2 * 7
    net.forward(True, lambda layer, x: seen.append((layer.name, x.copy())))
    assert [name for name, _ in seen] == names
    net.evaluate_loss()
    net.backward(lambda layer: back.append(layer.name))
    assert sorted(back) == sorted(names) and back[0] == "clf" and back[-1] == "a"
    assert all(p.gradient.any() for p in net.named_params().values())
    for stop in names:
        visited = []

        def until(layer, x, stop=stop, visited=visited):
            visited.append(layer.name)
            return STOP if layer.name == stop else None

        assert net.forward(True, until) is STOP
        assert visited == names[: names.index(stop) + 1]


def test_branches_are_the_chains_side_by_side():
    net = small_net("branches")
    net.forward(train=True)
    branches = net.chain.layers[2]
    outputs = [
        chain.layers[-1].z if isinstance(chain.layers[-1], Conv) else chain.layers[-1].y
        for chain in branches.chains
    ]
    assert branches.out_shape == (9, 11, 12)
    np.testing.assert_array_equal(branches.y, np.concatenate(outputs, -1))


def test_where_nobody_wants_the_images_gradient_no_branch_computes_it():
    net = small_net("branches first")
    a, pool, tanh, b, *rest = net.chain.leaves()
    assert a.dx is pool.dx is tanh.dx is None and b.dx is None
    assert net.chain.layers[0].dx is None and rest[0].dx is not None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_heads_loss_that_is_not_finite_latches_the_step(ops, bad):
    """Minus infinity as the score of the label is an infinite loss with a finite gradient."""
    net = Net(
        [
            Conv(4, name="a"),
            Tanh(),
            AuxiliaryClassifier([Linear(3, name="aux")], SoftmaxLoss(), 0.3),
            Linear(3, name="clf"),
        ],
        SoftmaxLoss(),
        ops,
        (5, 4, 3),
        2,
    )
    rng = np.random.default_rng(0)
    for p in net.named_params().values():
        p.value[...] = rng.normal(0, 0.1, p.shape)
    net.x[...] = rng.normal(0, 1, net.x.shape)
    net.labels[...] = 1
    bias, optimizer = net.named_params()["aux.b"].value, SGD(net, 0.9)
    net.clock[RATE] = 0.1

    def step():
        """One step from a clear latch -> how many weights moved."""
        before = net.weights.copy()
        net.clock[FINITE] = 1
        net.forward(train=True)
        net.evaluate_loss()
        assert net.clock[FINITE] == 1
        net.backward()
        latched = net.clock[FINITE] == 0
        optimizer.step()
        return latched, (net.weights != before)[np.isfinite(before)].sum()

    kept = bias.copy()
    bias[1] = bad
    with np.errstate(invalid="ignore"):
        assert step() == (True, 0)
    bias[...] = kept
    latched, moved = step()
    assert not latched and moved > 100


def test_a_heads_loss_that_is_not_finite_is_named():
    """Of finite scores and gradients: the sum of a hinge overflows."""
    net = Net(
        [
            Conv(4, name="a"),
            AuxiliaryClassifier([Linear(3, name="aux")], HingeLoss(), 1.0, "side"),
            Linear(3, name="clf"),
        ],
        SoftmaxLoss(),
        NumpyOps(),
        (5, 4, 3),
        2,
    )
    net.named_params()["aux.b"].value[...] = 3e38

    class Ready:
        def train_batch(self):
            pass

    with np.errstate(over="ignore"):
        assert first_not_finite(net, Ready()) == "the loss of side"
    net.named_params()["aux.b"].value[1] = np.nan
    assert first_not_finite(net, Ready()) == "the weights of aux"


def test_resize_keeps_weights_and_scores():
    net = small_net("fitnet")
    x, scores = net.x.copy(), net.forward(train=False).copy()
    weights = net.weights.copy()
    net.resize(3)
    net.x[...] = x[:3]
    assert np.allclose(net.forward(train=False), scores[:3])
    net.evaluate_loss()
    net.backward()
    assert np.array_equal(net.weights, weights)
    net.resize(7)
    net.x[...] = x
    assert np.allclose(net.forward(train=False), scores)


def test_arena_segments_cover_every_tensor_and_padding_stays_zero():
    net = small_net("fitnet")
    loss_of(net)
    net.backward()
    covered = np.zeros(net.weights.size, int)
    for p in net.named_params().values():
        p.value[...], p.gradient[...] = 1, 1
        start = (p.value.ctypes.data - net.weights.ctypes.data) // net.weights.itemsize
        inside = [
            s
            for s in net.ops.tohost(net.segments)
            if s[0] <= start and start + p.value.size <= s[1]
        ]
        assert len(inside) == 1 and tuple(inside[0][2:]) == (p.rate, p.decay)
        assert start % 64 == 0
        covered[start : start + p.value.size] += 1
    assert covered.max() == 1
    assert np.array_equal(net.weights != 0, covered == 1)
    assert np.array_equal(net.gradients != 0, covered == 1)


def test_batchnorm_statistics_move_in_backward_only_and_only_while_finite():
    net = small_net("batchnorm")
    states = net.named_state()
    loss_of(net)
    assert all((s == 0).all() for s in states.values())
    net.backward()
    kept = {name: s.copy() for name, s in states.items()}
    assert all((s != 0).all() for s in kept.values())
    net.clock[4] = 0.0
    net.backward()
    assert all(np.array_equal(s, kept[name]) for name, s in states.items())


def test_batchnorm_inference_equals_training_on_the_batch_that_made_the_statistics():
    net = small_net("batchnorm")
    norm = [layer for layer in net.chain.leaves() if isinstance(layer, BatchNorm)][0]
    loss_of(net)
    net.backward()
    trained = norm.y.copy()
    net.forward(train=False)
    n = norm.count
    assert np.allclose(norm.y, trained * np.sqrt((n - 1) / n), atol=1e-4)


def test_a_layer_can_stand_in_one_place_only():
    relu = ReLU()
    with pytest.raises(ValueError, match="relu1 stands twice in the net"):
        Net([Conv(4), relu, Conv(4), relu, Linear(4)], SoftmaxLoss(), NumpyOps(), (9, 11, 3), 2)


def test_misfits_are_one_line_that_names_the_layer():
    ops = NumpyOps()
    cases = [
        ([Conv(9, name="odd"), Maxout(2), Linear(4)], "9 channels do not split into 2 pieces"),
        ([Conv(4, size=13, pad=0, name="big"), Linear(4)], "big: a 9x11 input is smaller"),
        ([MaxPool(10), Linear(4)], "smaller than the 10x10 window"),
        ([Conv(4, groups=2, name="g"), Linear(4)], "g: 3 inputs and 4 outputs do not split"),
        ([Conv(4, name="last")], "a loss wants"),
        ([Conv(4, name="a"), Conv(4, name="a"), Linear(4)], "two layers are named 'a'"),
        ([Residual([Conv(4, name="r")]), Linear(4)], "a sum needs equal shapes"),
        ([Branches([[Conv(4)], [MaxPool(2)]]), Linear(4)], "may differ in their channels only"),
        (
            [AuxiliaryClassifier([Conv(4)], SoftmaxLoss(), 0.3, "aux"), Linear(4)],
            "aux/loss: the last layer gives",
        ),
        ([AvgPool(10), Linear(4)], "smaller than the 10x10 window"),
    ]
    for layers, text in cases:
        with pytest.raises(ValueError, match=text):
            Net(layers, SoftmaxLoss(), ops, (9, 11, 3), 2)
    with pytest.raises(InputError, match="Branches of 1 chain: give two or more"):
        Branches([[Conv(4)]])
    for layer in (Dropout, lambda drop: Maxout(2, 2, drop=drop)):
        with pytest.raises(InputError, match=r"dropout 1\.5"):
            layer(1.5)
    with pytest.raises(InputError, match=r"no pooling: put a Dropout\(0\.2\) behind it"):
        Maxout(2, drop=0.2)
