"""Training on arrays of one's own: calls of `fit` that go on, nets that share nothing, labels and
rates that are refused, a loss of one's own, and a small residual net that learns.

Read next: tests/engine/test_layers.py.
"""

import gc

import numpy as np
import pytest

import engine
import engine.fitting
import lsuv
from engine.containers import AuxiliaryClassifier, Branches, Residual, Sum
from engine.errors import InputError, RunError
from engine.layers import (
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    Layer,
    LeakyReLU,
    Linear,
    Maxout,
    MaxPool,
    PReLU,
    ReLU,
)
from engine.losses import (
    LOSSES,
    AbsoluteError,
    BinaryCrossEntropy,
    DistillationLoss,
    SoftmaxLoss,
    SquaredError,
    SquaredHingeLoss,
)
from engine.net import Net
from engine.optimizers import OPTIMIZERS, SGD, Adam, Nesterov, RMSProp
from engine.run import checkpoint
from kernels.clock import FINITE, RATE, STEP
from kernels.reference import NumpyOps

N, SHAPE, CLASSES = 50, (6, 6, 2), 3
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((N, *SHAPE)).astype(np.float32)
LABELS = np.abs(IMAGES.mean(axis=(1, 2)) @ [9, -5]).astype(int) % CLASSES
MULTISTEP = {"policy": "multistep", "rate": 0.05, "gamma": 0.5, "steps": [3, 8, 13], "warmup": 4}


def layers():
    return [
        BatchNorm(name="bn"),
        Conv(4, pieces=2, name="conv"),
        Maxout(2, 2),
        Dropout(0.3),
        Conv(4, name="conv2"),
        BatchNorm(affine=True, name="bn2"),
        PReLU(name="act"),
        Linear(CLASSES, name="clf"),
    ]


def made(ops=None, body=None, batch=16, loss=None):
    net = Net(body or layers(), loss or SoftmaxLoss(), ops or NumpyOps(), SHAPE, batch, seed=5)
    lsuv.fill(net, "lsuv", 0)
    return net


def fit(net, optimizer, epochs=1.0, rate=MULTISTEP, labels=LABELS, images=IMAGES):
    return engine.fit(net, images, labels, optimizer, epochs, rate, report=lambda line: None)


# -- a second call goes on ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
@pytest.mark.parametrize("parts", [(1, 1, 1, 1), (0.5, 1.25, 2.25), (0.4, 0.3, 0.4, 0.4, 2.5)])
def test_calls_of_fit_are_one_call_bit_for_bit(ops, kind, parts):
    """50 images in batches of 16: an epoch ends within a batch. So it is with order, masks, rates,
    running statistics and the sums of an epoch that two calls share."""
    one, other = made(ops), made(ops)
    rows = fit(one, kind(one), sum(parts))
    optimizer, others = kind(other), []
    for part in parts:
        others += fit(other, optimizer, part)
        lsuv.lsuv(other, engine.batches(other, IMAGES, LABELS), exclude=["*"], max_iter=1)
        engine.scores(other, IMAGES)
    assert one.clock[STEP] == other.clock[STEP] == round(sum(parts) * N / 16)
    for a, b in (
        (one.weights, other.weights),
        *zip(one.named_state().values(), other.named_state().values(), strict=True),
    ):
        assert np.array_equal(a, b)
    assert {row["epoch"]: row for row in rows} == {row["epoch"]: row for row in others}


def test_every_epoch_has_an_order_and_masks_of_its_own():
    orders, masks = [], []
    net = made()
    drop = next(layer for layer in net.chain.leaves() if isinstance(layer, Dropout))
    forward = drop.forward

    def watched(x, train):
        y = forward(x, train)
        orders.append(net.x.tobytes())
        masks.append((np.asarray(y) == 0).tobytes())
        return y

    drop.forward = watched
    optimizer = SGD(net)
    for _ in range(5):
        fit(net, optimizer, rate=1e-4)
    assert len(set(orders)) == len(set(masks)) == len(orders) == round(5 * N / 16)


def test_trial_batches_do_not_move_where_training_begins():
    """Neither before it nor between two calls, and LSUV's are like them."""
    plain, tried = made(), made()
    optimizers = SGD(plain), SGD(tried)
    for _ in range(2):
        next_batch = engine.batches(tried, IMAGES, LABELS)
        for _ in range(7):
            next_batch()
            tried.forward(train=True)
        for net, optimizer in zip((plain, tried), optimizers, strict=True):
            fit(net, optimizer, 1.5)
        assert np.array_equal(plain.weights, tried.weights)


def test_after_a_failure_fit_goes_on_from_the_step_that_failed():
    net = made()
    optimizer = SGD(net)
    with pytest.raises(RunError, match="not finite at step"):
        fit(net, optimizer, 20, rate=1e6)
    failed, kept = int(net.clock[STEP]), net.weights.copy()
    assert failed > 0 and net.clock[FINITE] == 0 and np.isfinite(kept).all()
    lsuv.fill(net, "lsuv", 0)
    optimizer.memory[...] = 0
    rows = fit(net, optimizer, 2, rate=0.01)
    assert net.clock[STEP] == failed + round(2 * N / 16) and np.isfinite(rows[-1]["loss"])


def test_fit_waits_for_the_device_by_the_epoch_not_by_the_step(cuda_ops, double, monkeypatch):
    """And its step is captured: it launches nothing but the graph once that is there."""
    waits = []
    monkeypatch.setattr(double, "wait", lambda what: waits.append(what))
    monkeypatch.setattr(engine.fitting.time, "perf_counter", lambda: 0.0)
    counts = []
    for batch in (10, 2):
        net = Net(
            [Linear(4), ReLU(), Dropout(0.2), Linear(CLASSES)],
            SoftmaxLoss(),
            cuda_ops,
            SHAPE,
            batch,
        )
        lsuv.fill(net, "xavier", 0)
        optimizer = SGD(net)
        fit(net, optimizer, 1)  # which chooses plans
        waits.clear()
        fit(net, optimizer, 2)
        counts.append(
            sum(
                what in ("a copy to the host", "a copy from the host", "waiting for the stream")
                for what in waits
            )
        )
        assert waits.count("launching a graph") == 2 * N // batch - 1  # the first step runs alone
    assert counts[0] == counts[1]  # of 10 steps and of 50
    alike = Net(
        [Linear(4), ReLU(), Dropout(0.2), Linear(CLASSES)], SoftmaxLoss(), NumpyOps(), SHAPE, 2
    )
    lsuv.fill(alike, "xavier", 0)
    fit(alike, SGD(alike), 3)
    np.testing.assert_allclose(cuda_ops.tohost(net.weights), alike.weights, rtol=1e-4, atol=1e-5)


# -- what is whose --------------------------------------------------------------------------------


def test_what_belongs_to_another_net_is_refused_by_name():
    shared, loss = Conv(4, name="shared"), SoftmaxLoss()
    kept = made(
        body=[shared, Residual([Conv(4, name="inner")], "block"), Linear(CLASSES)], loss=loss
    )
    weights = kept.weights.copy()
    block, side = kept.chain.layers[1], SoftmaxLoss()
    for body, name in (
        ([shared, Linear(2)], "shared"),
        ([Conv(4), block, Linear(2)], "block"),
        ([Branches([[Conv(2)], [shared]]), Linear(2)], "shared"),
    ):
        with pytest.raises(InputError, match=f"^{name} belongs to another net"):
            Net(body, SoftmaxLoss(), NumpyOps(), SHAPE, 4)
    with pytest.raises(InputError, match="^softmaxloss1 belongs to another net"):
        Net([Linear(2)], loss, NumpyOps(), SHAPE, 4)
    with_side = made(body=[AuxiliaryClassifier([Linear(3)], side, 0.3), Linear(3)])
    with pytest.raises(InputError, match="belongs to another net"):
        Net([Linear(3)], side, NumpyOps(), SHAPE, 4)
    with pytest.raises(InputError, match="^the SGD is another net's"):
        fit(kept, SGD(with_side))
    assert np.array_equal(kept.weights, weights)
    fit(kept, SGD(kept))
    assert not np.array_equal(kept.weights, weights)


@pytest.mark.parametrize("how", ["released", "gone"])
def test_trained_layers_under_a_new_head_keep_weights_and_statistics(ops, how):
    old = made(ops)
    fit(old, SGD(old), 2)
    body = old.chain.layers[:-1]
    tensors = {
        **{n: np.array(ops.tohost(p.value)) for n, p in old.named_params().items()},
        **{n: np.array(ops.tohost(s)) for n, s in old.named_state().items()},
    }
    if how == "released":
        old.release()
    else:
        old = None
        gc.collect()
    new = Net([*body, Linear(5, name="head")], SoftmaxLoss(), ops, SHAPE, 8, seed=6)
    lsuv.fill(new, "lsuv", 1, include=["head"])
    for name, value in {n: p.value for n, p in new.named_params().items()}.items():
        if not name.startswith("head"):
            assert np.array_equal(ops.tohost(value), tensors[name]) and value.any(), name
    for name, value in new.named_state().items():
        assert np.array_equal(ops.tohost(value), tensors[name]) and value.any(), name
    fit(new, RMSProp(new), 1, rate=0.001, labels=LABELS + 2)
    assert not np.array_equal(ops.tohost(new.named_params()["conv.W"].value), tensors["conv.W"])
    if old is not None:
        assert np.array_equal(old.named_params()["conv.W"].value, tensors["conv.W"])
        for use in (
            lambda: engine.scores(old, IMAGES),
            lambda: old.resize(3),
            lambda: fit(old, SGD(old)),
        ):
            with pytest.raises(InputError, match="^this net has given up its layers"):
                use()


def test_taken_layers_of_another_shape_are_refused_and_keep_theirs():
    old = made(body=[Linear(4, name="a"), Linear(3, name="b")])
    a, b = old.chain.layers
    value = a.W.copy()
    old.release()
    with pytest.raises(InputError, match=r"^b: W is \(3, 4\) from the net .* must be \(3, 7\)"):
        Net([a, Linear(7), b], SoftmaxLoss(), NumpyOps(), SHAPE, 4)
    new = Net([a, b], SoftmaxLoss(), NumpyOps(), SHAPE, 4)
    assert np.array_equal(a.W, value) and np.shares_memory(a.W, new.weights)


def test_layers_of_a_net_that_could_not_be_made_are_free():
    body = [Conv(4, name="a"), Conv(0, name="b"), Linear(3)]
    for _ in range(2):
        with pytest.raises(InputError, match="^b: outputs 0"):
            Net(body, SoftmaxLoss(), NumpyOps(), SHAPE, 4)
    body[1] = Conv(2, name="b")
    Net(body, SoftmaxLoss(), NumpyOps(), SHAPE, 4)


@pytest.mark.parametrize(
    "body, said",
    [
        (
            [Conv(4), BatchNorm(name="bn"), Conv(4), BatchNorm(name="bn"), Linear(2)],
            "two layers are named 'bn'",
        ),
        ([Conv(4, name="x"), ReLU(name="x"), Linear(2)], "two layers are named 'x'"),
        ([Residual([BatchNorm(name="bn")]), BatchNorm(name="bn"), Linear(2)], "named 'bn'"),
        ([Linear(2, name="bn"), PReLU(name="bn")], "named 'bn'"),
    ],
)
def test_two_layers_of_one_name_are_refused(body, said):
    with pytest.raises(InputError, match=said):
        Net(body, SoftmaxLoss(), NumpyOps(), SHAPE, 4)


class Twice(Layer):
    """Declares a state by the name of its parameter."""

    def setup(self, plan, in_shape):
        plan.param("a", (1,))
        plan.state("a", (1,))
        return in_shape


def test_a_tensor_declared_twice_is_refused():
    with pytest.raises(InputError, match="^twice1: it declares a twice"):
        Net([Twice(), Linear(2)], SoftmaxLoss(), NumpyOps(), SHAPE, 4)


def test_a_name_that_setup_finds_is_not_one_that_is_given_later():
    net = made(body=[ReLU(), Conv(2), ReLU(name="relu1"), Conv(3, name="conv1"), Linear(CLASSES)])
    assert [layer.name for layer in net.chain.layers] == [
        "relu2",
        "conv2",
        "relu1",
        "conv1",
        "linear1",
    ]


# -- what stands before the first weights ---------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        lambda: [BatchNorm(name="n")],
        lambda: [Dropout(0.1), BatchNorm(affine=True, name="n")],
        lambda: [PReLU(name="n"), BatchNorm(name="m")],
        lambda: [Residual([ReLU(), BatchNorm(affine=True, name="n")])],
        lambda: [Branches([[], [BatchNorm(name="n"), PReLU(name="p")]])],
        lambda: [Sum([[MaxPool(3, 1, 1), PReLU(name="n")], [BatchNorm(name="m")]])],
    ],
)
def test_parameters_and_statistics_before_the_first_weights_are_trained(ops, first):
    net = made(ops, [*first(), Conv(3), ReLU(), Linear(CLASSES)])
    start = {name: np.array(ops.tohost(p.value)) for name, p in net.named_params().items()}
    fit(net, SGD(net), 3)
    for name, state in net.named_state().items():
        assert np.all(ops.tohost(state) != 0), name
    for name, p in net.named_params().items():
        assert np.any(ops.tohost(p.value) != start[name]), name
    assert np.isfinite(engine.scores(net, IMAGES)).all()


def test_scores_of_an_untrained_batch_norm_name_it():
    with pytest.raises(InputError, match="^bn: batch normalisation has no running statistics"):
        engine.scores(made(), IMAGES)


# -- labels, rates, epochs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        LABELS[:, None],
        LABELS[:, None].astype(np.uint8),
        LABELS.tolist(),
        LABELS.astype(np.int8),
        {"labels": LABELS},
    ],
)
def test_labels_as_others_write_them(labels):
    net, same = made(), made()
    fit(net, SGD(net), labels=labels)
    fit(same, SGD(same))
    assert np.array_equal(net.weights, same.weights)


@pytest.mark.parametrize(
    "labels, said",
    [
        (np.eye(CLASSES)[LABELS], r"labels\.argmax\(1\)"),
        (np.eye(CLASSES, dtype=int)[LABELS], r"labels\.argmax\(1\)"),
        (LABELS.astype(float), r"labels\.astype\(int\)"),
        (LABELS - 1, "labels from -1 to 1: .* 0 to 2"),
        (LABELS + 1, "labels from 1 to 3"),
        (LABELS[:-1], r"labels int64 \(49,\): 50 images want"),
        (LABELS.astype(str), "give numbers"),
        (np.array([None] * N), "give numbers"),
        ([], r"\(0,\): 50 images"),
        ([[1], [1, 2]], "rows of unequal lengths"),
        ({"label": LABELS}, "targets label: this net wants labels"),
        (None, "give numbers"),
        (3, "want"),
    ],
)
def test_labels_that_can_not_be_meant_are_refused(labels, said):
    net = made()
    before = net.weights.copy()
    for call in (
        lambda: fit(net, SGD(net), labels=labels),
        lambda: engine.batches(net, IMAGES, labels),
    ):
        with pytest.raises(InputError, match=said):
            call()
    assert np.array_equal(net.weights, before)


@pytest.mark.parametrize(
    "images, said",
    [
        (IMAGES[..., 0], "this net wants"),
        (IMAGES[:0], "0 images, and a batch"),
        (IMAGES[:15], "15 images, and a batch of this net has 16"),
        (IMAGES.astype(str), "give numbers"),
        (IMAGES.astype(complex), "give numbers"),
        ([IMAGES[0], IMAGES[0, 0]], "unequal shapes"),
    ],
)
def test_images_that_can_not_be_meant_are_refused(images, said):
    net = made()
    with pytest.raises(InputError, match=said):
        fit(net, SGD(net), images=images, labels=LABELS[: len(images)])


STEPS = {"policy": "step", "rate": 0.1, "gamma": 0.1, "size": 5}


@pytest.mark.parametrize(
    "rate, said",
    [
        (np.nan, "rate nan is no number"),
        (-0.1, "rate -0.1 must be above 0"),
        (0, "must be above 0"),
        (np.inf, "rate inf is no number"),
        ("fast", "rate 'fast' is no number"),
        (None, "is no number"),
        ({"policy": "exp", "rate": 0.1, "gamma": -0.5}, "gives -0.05 at step 1"),
        ({"policy": "exp", "rate": 0.1, "gamma": 1e200}, "gives inf at step 2"),
        ({"policy": "inv", "rate": 0.1, "gamma": -0.5, "power": 1}, "gives inf at step 2"),
        (STEPS | {"size": 0}, "gives nan at step 0"),
        (STEPS | {"size": "5"}, "size '5' is no number"),
        (STEPS | {"power": 2}, "unknown part of rate policy 'step' 'power'"),
        (STEPS | {"warmpu": 2}, "did you mean 'warmup'"),
        (STEPS | {"warmup": -1}, "warmup -1 must"),
        ({"policy": "multistep", "rate": 0.1, "gamma": 0.1, "steps": 5}, "steps 5 is no list"),
        ({"policy": "steps", "rate": 0.1}, "did you mean 'step'"),
        ({"rate": True}, "is no number"),
    ],
)
def test_rates_that_can_not_work_are_refused_before_the_first_step(rate, said):
    net = made()
    before = net.weights.copy()
    with pytest.raises(InputError, match=said):
        fit(net, SGD(net), 2, rate=rate)
    assert np.array_equal(net.weights, before) and net.clock[STEP] == 0


@pytest.mark.parametrize(
    "epochs, said",
    [
        (0, "0 is no step of batch 16 from step 0 on; 0.32 epochs are a step"),
        (0.1, "0.1 is no step"),
        (-1, "-1 is no step"),
        (np.nan, "epochs nan: give a number above 0"),
        (np.inf, "epochs inf"),
        ("2", "epochs '2'"),
        (True, "epochs True"),
        (1e10, "a run has fewer than 2.31"),
    ],
)
def test_epochs_that_are_no_step_are_refused(epochs, said):
    net = made()
    with pytest.raises(InputError, match=said):
        fit(net, SGD(net), epochs)
    assert net.clock[STEP] == 0 and net.epochs == 0


@pytest.mark.parametrize(
    "kind, options, said",
    [
        (SGD, {"momentum": 1.0}, r"SGD: momentum 1.0 must be in \[0, 1\)"),
        (SGD, {"decay": -1}, "decay -1 must be 0 or more"),
        (SGD, {"clip": np.nan}, "clip nan"),
        (Nesterov, {"momentum": "0.9"}, "Nesterov: momentum '0.9'"),
        (RMSProp, {"rho": 1}, "rho 1"),
        (RMSProp, {"delta": -1e-8}, "delta"),
        (RMSProp, {"momentum": 0.9}, "unknown option of RMSProp"),
        (SGD, {"decya": 1}, "did you mean 'decay'"),
    ],
)
def test_options_of_an_optimizer_are_in_their_range(kind, options, said):
    with pytest.raises(InputError, match=said):
        kind(made(), **options)


# -- shapes and options of layers -----------------------------------------------------------------


@pytest.mark.parametrize(
    "body, shape, said",
    [
        ([Conv(4), Linear(2)], (8, 8), r"conv1: its input is \(8, 8\), .* images\[\.\.\., None\]"),
        ([Linear(9), Conv(4), Linear(2)], SHAPE, r"conv1: its input is \(9,\)"),
        ([Flatten(), MaxPool(2), Linear(2)], SHAPE, r"maxpool1: its input is \(72,\)"),
        ([Linear(9), GlobalAvgPool()], SHAPE, "globalavgpool1: its input"),
        ([Linear(9), GlobalMaxPool()], SHAPE, "globalmaxpool1: its input"),
        ([Linear(8), Maxout(2, 2)], SHAPE, "maxout1: its input"),
        ([Conv(4, stride=0), Linear(2)], SHAPE, "stride 0 must be a whole number of 1"),
        ([Conv(4, stride=1.0), Linear(2)], SHAPE, "stride 1.0 must be"),
        ([Conv(4, pad=-1), Linear(2)], SHAPE, "pad -1 must be a whole number of 0"),
        ([Conv(4, size=0), Linear(2)], SHAPE, "size 0"),
        ([Conv(4, groups=0), Linear(2)], SHAPE, "groups"),
        ([Conv(4, pieces=0), Linear(2)], SHAPE, "conv1: pieces 0"),
        ([Conv(-4), Linear(2)], SHAPE, "-4"),
        ([Linear(0)], SHAPE, "linear1: outputs 0"),
        ([Linear(2, pieces=0)], SHAPE, "pieces 0"),
        ([Linear(2.5)], SHAPE, "outputs 2.5"),
        ([Linear(2, bias_rate=-1)], SHAPE, "rate -1 of b"),
        ([Linear(2, bias_decay=np.nan)], SHAPE, "decay nan of b"),
        ([MaxPool(2, 0), Linear(2)], SHAPE, "stride 0"),
        ([MaxPool(0), Linear(2)], SHAPE, "size 0"),
        ([MaxPool(2, 3), Linear(2)], SHAPE, "stride 3 skips"),
        ([MaxPool(2, 1, 2)], SHAPE, "pad 2"),
        ([MaxPool(7), Linear(2)], SHAPE, "a 6x6 input is smaller"),
        ([None], SHAPE, "None is no"),
        ([Maxout(0), Linear(2)], SHAPE, "pieces 0"),
        ([Maxout(2, 0), Linear(2)], SHAPE, "size 0"),
        ([MaxPool(17), Linear(2)], (40, 40, 2), "the widest is 16; use GlobalMaxPool"),
        ([Maxout(2, 16), Linear(2)], (16, 16, 2), "512 candidates"),
        ([BatchNorm(eps=0.0), Linear(2)], SHAPE, "eps 0.0"),
        ([BatchNorm(-0.1), Linear(2)], SHAPE, "fra"),
        ([BatchNorm(np.nan), Linear(2)], SHAPE, "fraction nan"),
        ([ReLU, Linear(2)], SHAPE, "is no layer"),
        ([AuxiliaryClassifier([Linear(2)], SoftmaxLoss(), np.nan), Linear(2)], SHAPE, "weight nan"),
        (
            [AuxiliaryClassifier([Linear(2)], SoftmaxLoss, 1.0), Linear(2)],
            SHAPE,
            "its loss is <class",
        ),
        ([Sum([[Conv(2)], [Conv(3)]]), Linear(2)], SHAPE, "a sum needs equal shapes"),
        ([Linear(2)], (), "give the shape of one image"),
        ([Linear(2)], (0, 4, 1), "give the shape"),
        ([Linear(2)], "8", "give the shape"),
        ([Conv(2)], SHAPE, "a loss wants"),
    ],
)
def test_shapes_and_options_that_can_not_work_name_the_layer(body, shape, said):
    with pytest.raises(InputError, match=said):
        Net(body, SoftmaxLoss(), NumpyOps(), shape, 4)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"batch": 0}, "batch 0"),
        ({"batch": 2.0}, "batch 2.0"),
        ({"precision": "fp16"}, "'fp16'"),
        ({"precision": None}, "unknown precision None"),
        ({"seed": -1}, "seed -1"),
        ({"loss": SoftmaxLoss}, "loss <class .* is none"),
        ({"layers": Linear(2)}, "give a list"),
    ],
)
def test_options_of_a_net_that_can_not_work(options, said):
    options = {
        "layers": [Linear(2)],
        "loss": SoftmaxLoss(),
        "ops": NumpyOps(),
        "in_shape": SHAPE,
        "batch": 4,
    } | options
    with pytest.raises(InputError, match=said):
        Net(**options)


def test_a_convolution_of_an_odd_size_keeps_the_image():
    for size in (1, 3, 5):
        net = made(body=[Conv(4, size=size, name="a"), Linear(CLASSES)])
        assert net.chain.layers[0].out_shape == (6, 6, 4)


# -- losses of values, weights of classes ----------------------------------------------------------


@pytest.mark.parametrize("loss", [SquaredError, AbsoluteError, BinaryCrossEntropy])
@pytest.mark.parametrize(
    "body, values",
    [
        (lambda: [Conv(4, name="a"), ReLU(), Linear(2)], IMAGES.mean(axis=(1, 2))),
        (lambda: [Conv(4, name="a"), PReLU(), Conv(2, name="b")], IMAGES),
    ],
)
def test_losses_of_values_learn_vectors_and_images(ops, loss, body, values):
    """Nothing but the loss knows what its targets are; and all of fit's refusals hold for them."""
    values = np.float32(values > 0) if loss is BinaryCrossEntropy else values
    net = made(ops, body(), loss=loss())
    rows = engine.fit(net, IMAGES, values, Adam(net), 30, 0.01, report=str)
    assert rows[-1]["loss"] < 0.75 * rows[0]["loss"]
    found = engine.scores(net, IMAGES)
    assert found.shape == values.shape and "labels" not in net.targets
    assert net.targets["values"].shape == (16, *net.out_shape)
    if loss is BinaryCrossEntropy:
        right = ((found > 0) == (values > 0.5)).reshape(N, -1).all(axis=1).mean()
        assert rows[-1]["accuracy"] == pytest.approx(right, abs=0.3)
    for wrong, said in (
        (values[:-1], "50 images want"),
        (LABELS, "values int64"),
        (np.where(values == values.flat[0], np.nan, values), "not all are finite"),
    ):
        with pytest.raises(InputError, match=said):
            engine.fit(net, IMAGES, wrong, SGD(net), 1, 0.02, report=str)


def test_several_labels_lie_between_0_and_1():
    net = made(body=[Linear(2)], loss=BinaryCrossEntropy())
    for wrong, said in (
        (2, r"values from 0 to 2: this loss wants them in \[0, 1\]"),
        (-1, "-1 to"),
    ):
        values = np.zeros((N, 2))
        values[7, 1] = wrong
        with pytest.raises(InputError, match=said):
            fit(net, SGD(net), labels=values)


def test_weights_of_classes_shift_what_is_answered():
    """Of images that tell nothing, the odds are the classes' numbers times their weights; and they
    must fit the classes."""
    weights = np.array([1.0, 0.5, 4.0])
    net = made(body=[Linear(CLASSES)], loss=SoftmaxLoss(weights=weights), batch=N)
    fit(net, SGD(net), 200, rate=0.5, images=0 * IMAGES)
    odds = np.exp(engine.scores(net, 0 * IMAGES[:1])[0])
    want = weights * np.bincount(LABELS)
    np.testing.assert_allclose(odds / odds.sum(), want / want.sum(), rtol=1e-3)
    with pytest.raises(InputError, match="softmaxloss1: 2 weights, and the scores are of 3"):
        made(body=[Linear(CLASSES)], loss=SoftmaxLoss(weights=[1, 2]))
    for wrong in ([1, -1, 1], [0, 0, 0], [1, np.nan, 1], [[1, 1, 1]], "abc", [], 1.0, np.inf):
        with pytest.raises(InputError, match="give each class a number of 0 or more"):
            SoftmaxLoss(weights=wrong)


def test_two_losses_of_two_kinds_want_a_dict():
    net = made(
        body=[
            Conv(4),
            ReLU(),
            AuxiliaryClassifier([Linear(2)], SquaredError(), 0.3),
            Linear(CLASSES),
        ]
    )
    values = IMAGES.mean(axis=(1, 2))
    with pytest.raises(InputError, match="this net wants values, labels; give a dict"):
        fit(net, SGD(net))
    fit(net, SGD(net), labels={"labels": LABELS, "values": values})
    assert set(net.targets) == {"values", "labels"}


# -- all of it together ---------------------------------------------------------------------------


def block(inputs: int, outputs: int, stride: int) -> Sum:
    """A residual block with batch norm; its shortcut is a projection where the shape changes."""
    inner = [
        Conv(outputs, 3, stride, bias=False),
        BatchNorm(affine=True),
        PReLU(),
        Conv(outputs, bias=False),
        BatchNorm(affine=True),
    ]
    shortcut = (
        []
        if (inputs, stride) == (outputs, 1)
        else [Conv(outputs, 1, stride, 0, bias=False), BatchNorm(affine=True)]
    )
    return Sum([shortcut, inner])


def resnet(end=GlobalAvgPool):
    return [
        Conv(6, bias=False),
        BatchNorm(affine=True),
        ReLU(),
        block(6, 6, 1),
        ReLU(),
        block(6, 8, 2),
        ReLU(),
        Conv(CLASSES, 1, pieces=2),
        Maxout(2),
        end(),
    ]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("end", [GlobalAvgPool, GlobalMaxPool])
def test_a_residual_net_with_projections_and_no_linear_end_learns(loss, end):
    kind = {"softmax": lambda: SoftmaxLoss(0.1)}.get(loss, LOSSES[loss])
    net = made(None, resnet(end), loss=kind())
    report = lsuv.lsuv(net, engine.batches(net, IMAGES, LABELS))
    assert report.largest_deviation <= 0.05 and len(report.layers()) == 7
    rows = fit(net, Nesterov(net, decay=1e-4, clip=5.0), 25, rate=0.02)
    assert rows[-1]["accuracy"] > 0.8 and rows[-1]["loss"] < rows[0]["loss"]
    assert np.isfinite(engine.scores(net, IMAGES)).all()


def test_checkpoints_hold_all_of_it_in_the_plain_layout():
    one, other = made(body=resnet()), made(body=resnet(), batch=8)
    optimizer = Nesterov(one)
    fit(one, optimizer, 3)
    tensors = checkpoint.collect(one, optimizer)
    assert tensors["conv1.W"].shape == (6, 2, 3, 3) and "conv1.b" not in tensors
    assert tensors["batchnorm1.scale"].shape == tensors["prelu1.slope"].shape == (6,)
    assert "optimizer.momentum.batchnorm2.shift" in tensors
    again = Nesterov(other)
    saved = checkpoint.Saved(None, tensors, 0, 0.0, 0, {}, {}, {}, {})
    checkpoint.restore(saved, other, again)
    assert np.array_equal(one.weights, other.weights)
    assert np.array_equal(optimizer.memory, again.memory)
    np.testing.assert_allclose(engine.scores(one, IMAGES), engine.scores(other, IMAGES), rtol=1e-5)


def test_scales_and_slopes_start_at_their_values_and_have_no_decay():
    net = made(body=resnet())
    starts = {"scale": 1.0, "shift": 0.0, "slope": 0.25}
    for name, p in net.named_params().items():
        if (kind := name.split(".")[1]) in starts:
            assert np.all(p.value == starts[kind]) and (p.rate, p.decay) == (1, 0), name
            p.value[...] = 7
    lsuv.fill(net, "msra", 0)
    assert all(
        np.all(p.value == starts[name.split(".")[1]])
        for name, p in net.named_params().items()
        if name.split(".")[1] in starts
    )


def test_bf16_gradients_are_float32s_but_for_rounding(ops):
    if "bf16" not in ops.precisions:
        pytest.skip("this device has no bfloat16")
    gradients = []
    for precision in ("fp32", "bf16"):
        net = Net(resnet(), SquaredHingeLoss(), ops, SHAPE, 16, precision=precision)
        lsuv.fill(net, "ortho", 0)
        engine.batches(net, IMAGES, LABELS)()
        net.forward(train=True)
        net.evaluate_loss()
        net.backward()
        gradients.append(net.gradients.astype(np.float64))
    exact, rounded = gradients
    apart = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-4 < apart < 0.2
    assert net.clock[RATE] == 0


def test_a_net_learns_what_another_says_of_images_with_wrong_labels(ops):
    """With a large share the teacher's classes come out, not the labels."""
    said = 4 * IMAGES.mean(axis=(1, 2)) @ np.float32([[1, -1, 0], [0, 1, -1]])
    net = made(ops, [Linear(CLASSES)], loss=DistillationLoss(20.0, 1.0))
    rows = fit(net, SGD(net), 60, 0.003, {"labels": LABELS, "values": said})
    found = engine.scores(net, IMAGES).argmax(axis=1)
    assert (found == said.argmax(axis=1)).mean() > 0.9 > (said.argmax(axis=1) == LABELS).mean()
    assert rows[-1]["loss"] < rows[0]["loss"] - 1


def test_a_net_gives_up_its_own_layers_only():
    body = layers()
    old = made(body=body)
    old.release()
    new = made(body=body)
    old.release()  # once more: the layers are another's now
    with pytest.raises(InputError, match="belongs to another net"):
        made(body=body)
    new.forward(train=True)


@pytest.mark.parametrize(
    "refused, said",
    [
        (lambda net: SGD(net, 0.5, momentum=0.1), "momentum is given twice"),
        (lambda net: lsuv.fill(net, "gaussian", 0, std=float("nan")), "std nan: give a number"),
        (lambda net: lsuv.fill(net, "ortho", 0, gain=-1.0), "gain -1.0: give a number above 0"),
        (lambda net: lsuv.fill(net, "ortho", -1), "seed -1 must be a whole number"),
        (lambda net: engine.fit(net, IMAGES, LABELS, SGD(net), 1, 0.1, seed=-1), "seed -1 must"),
        (lambda net: engine.batches(net, IMAGES, LABELS, seed=0.5), "seed 0.5 must"),
        (lambda net: made(body=[Dropout("0.5"), Linear(4)]), "dropout '0.5': the probability"),
        (lambda net: made(body=[LeakyReLU("a"), Linear(4)]), "slope 'a' must be 0 or more"),
        (lambda net: made(body=[Conv(2, size="3"), Linear(4)]), "size '3' must be a whole number"),
        (lambda net: made(body=[BatchNorm(eps="x"), Linear(4)]), "eps 'x' must be above 0"),
        (lambda net: SoftmaxLoss("a little"), "label smoothing 'a little' must lie in"),
        (lambda net: DistillationLoss(-1), "share -1 of a teacher must be 0 or more"),
        (lambda net: DistillationLoss(1, 3, 0), "temperature 0 must be above 0"),
    ],
)
def test_what_is_of_another_type_or_said_twice_is_one_line(refused, said):
    with pytest.raises(InputError, match=said) as error:
        refused(made())
    assert "\n" not in str(error.value)
