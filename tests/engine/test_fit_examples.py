"""What `fit` is given beside arrays: sequences that are read by rows, a validation set, a function
that augments, one that is told of every epoch.

Read next: tests/engine/test_fit.py.
"""

import subprocess
import sys

import numpy as np
import pytest

import engine
import lsuv
from engine.data.dataset import held_out
from engine.errors import InputError, RunError
from engine.layers import BatchNorm, Conv, Dropout, Linear, Maxout, MaxPool
from engine.losses import AbsoluteError, BinaryCrossEntropy, SoftmaxLoss, SquaredError
from engine.net import Net
from engine.optimizers import SGD
from helpers.programs import environment
from kernels.reference import NumpyOps

N, SHAPE, CLASSES = 50, (6, 6, 2), 3
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((N, *SHAPE)).astype(np.float32)
LABELS = np.abs(IMAGES.mean(axis=(1, 2)) @ [9, -5]).astype(int) % CLASSES


def made(ops=None, batch=16):
    layers = [Conv(4, pieces=2), Maxout(2), BatchNorm(), MaxPool(2), Dropout(0.3), Linear(CLASSES)]
    net = Net(layers, SoftmaxLoss(), ops or NumpyOps(), SHAPE, batch, seed=5)
    lsuv.fill(net, "lsuv", 0)
    return net


def fit(net, images=IMAGES, labels=LABELS, epochs=2.0, optimizer=None, **options):
    optimizer = optimizer or SGD(net, momentum=0.9)
    return engine.fit(
        net, images, labels, optimizer, epochs, 0.05, report=lambda line: None, **options
    )


class Read:
    """A sequence that is no array, and remembers what was asked of it."""

    def __init__(self, images):
        self.images, self.most = images, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        self.most = max(self.most, len(rows))
        return self.images[rows]


def test_a_sequence_is_read_as_an_array_is(ops, tmp_path, monkeypatch):
    """And no more of it at a time than the steps at hand want."""
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    monkeypatch.setattr("engine.fitting.UPLOAD", 1)
    sequence, weights = Read(IMAGES), []
    for images in (IMAGES, list(IMAGES), mapped, sequence):
        net = made(ops)
        rows = fit(net, images)
        weights.append(np.array(ops.tohost(net.weights)))
        assert np.array_equal(engine.scores(net, images), engine.scores(net, IMAGES))
        assert [row["epoch"] for row in rows] == [1, 2]
    assert all(np.array_equal(weights[0], other) for other in weights[1:])
    assert sequence.most == 16


def test_a_mapped_file_may_be_larger_than_the_memory(tmp_path):
    """Here a quarter of a gigabyte more than the process may have."""
    pytest.importorskip("resource")
    program = """
import resource, numpy as np, engine, lsuv
from engine.layers import Conv, GlobalMaxPool, Linear
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.optimizers import SGD
from kernels.reference import NumpyOps
import engine.fitting
engine.fitting.UPLOAD = 1 << 22
shape = (64, 64, 3)
net = Net([Conv(4, stride=4), GlobalMaxPool(), Linear(2)], SoftmaxLoss(), NumpyOps(), shape, 50)
lsuv.fill(net, "lsuv", 0)
images = np.lib.format.open_memmap("big.npy", "w+", np.float32, (10_000, *shape))
used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used + (256 << 20),) * 2)
rows = engine.fit(net, images, np.arange(len(images)) % 2, SGD(net), 0.1, 0.01, validation=50)
print(images.nbytes, rows[-1]["validation_accuracy"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    size, accuracy = done.stdout.split()[-2:]
    assert int(size) > 450 << 20 and 0 <= float(accuracy) <= 1


@pytest.mark.parametrize("wanted, number", [(0.1, 5), (0.5, 25), (7, 7), (49, 49)])
def test_a_part_is_held_out_by_the_seed(wanted, number):
    train, test = held_out(N, wanted, 3)
    assert len(test) == number and sorted([*train, *test]) == list(range(N))
    assert np.array_equal(test, held_out(N, wanted, 3)[1])
    assert not np.array_equal(test, held_out(N, wanted, 4)[1])


def test_validation_is_the_loss_and_accuracy_of_images_never_trained_on(ops):
    train, test = held_out(N, 0.4, 7)
    parts = IMAGES[train], LABELS[train], (IMAGES[test], LABELS[test])
    first, second = made(ops, 10), made(ops, 10)
    rows = fit(first, validation=0.4, seed=7)
    assert rows == fit(second, *parts[:2], validation=parts[2], seed=7)
    assert np.array_equal(ops.tohost(first.weights), ops.tohost(second.weights))
    scores = engine.scores(first, IMAGES[test]).astype(np.float64)
    assert rows[-1]["validation_accuracy"] == np.mean(scores.argmax(1) == LABELS[test])
    losses = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(test)), LABELS[test]]
    assert rows[-1]["validation_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    without = made(ops, 10)  # it has no part in the training
    fit(without, *parts[:2], seed=7)
    assert np.array_equal(ops.tohost(without.weights), ops.tohost(first.weights))


@pytest.mark.parametrize("loss", [SquaredError, AbsoluteError, BinaryCrossEntropy])
def test_validation_of_values_counts_each_image_once(ops, loss):
    """13 images in batches of 10: the seven rows of padding count for nothing."""
    values = RNG.uniform(size=(N, 3)).astype(np.float32)
    net = Net([Linear(3)], loss(), ops, SHAPE, 10)
    lsuv.fill(net, "lsuv", 0)
    row = fit(net, labels=values, validation=(IMAGES[:13], values[:13]))[-1]
    scores, wanted = engine.scores(net, IMAGES[:13]).astype(np.float64), values[:13]
    each = {
        SquaredError: (scores - wanted) ** 2,
        AbsoluteError: abs(scores - wanted),
        BinaryCrossEntropy: np.log1p(np.exp(scores)) - wanted * scores,
    }[loss]
    assert row["validation_loss"] == pytest.approx(each.mean(), rel=1e-5)
    right = ((scores > 0) == (wanted > 0.5)).all(axis=1).mean()
    assert row.get("validation_accuracy") == (right if loss is BinaryCrossEntropy else None)


def test_training_ends_where_an_epoch_says_so_and_goes_on_from_there():
    seen, stopped, straight = [], made(), made()
    optimizers = SGD(stopped, momentum=0.9), SGD(straight, momentum=0.9)

    def two(row):
        seen.append(row)
        return len(seen) < 2

    assert fit(stopped, epochs=9, optimizer=optimizers[0], each_epoch=two) == seen
    assert [row["epoch"] for row in seen] == [1, 2]
    rows = fit(stopped, epochs=1, optimizer=optimizers[0], each_epoch=lambda row: None)
    assert [row["epoch"] for row in rows] == [3]
    fit(straight, epochs=3, optimizer=optimizers[1])
    assert np.array_equal(stopped.weights, straight.weights)


def test_augmented_batches_depend_on_seed_and_step_alone(monkeypatch):
    """Also where a call of fit ends within an epoch, or blocks are of other lengths."""

    def augment(images, random):
        assert images.shape == (16, *SHAPE)
        calls.append(random.integers(1 << 30))
        return images[:, :, ::-1] * random.uniform(0.5, 2, (16, 1, 1, 1))

    kept = IMAGES.copy()
    calls: list[int] = []
    whole, parts, other = made(), made(), made()
    fit(whole, augment=augment)
    drawn, calls = calls, []
    monkeypatch.setattr("engine.fitting.UPLOAD", 1)
    optimizer = SGD(parts, momentum=0.9)
    for epochs in (0.4, 0.9, 0.7):
        fit(parts, epochs=epochs, optimizer=optimizer, augment=augment)
    assert calls == drawn and len(set(drawn)) == len(drawn)
    assert np.array_equal(whole.weights, parts.weights)
    fit(other, augment=lambda images, random: images)
    plain = made()
    fit(plain)
    assert np.array_equal(other.weights, plain.weights)
    assert not np.array_equal(whole.weights, plain.weights) and np.array_equal(IMAGES, kept)


class Torn(Read):
    def __getitem__(self, rows):
        return self.images[rows] if len(rows) == 1 else self.images[rows][:, :5]


BAD = IMAGES.copy()
BAD[17, 2, 3, 1] = np.nan


@pytest.mark.parametrize(
    "options, said",
    [
        ({"validation": 0.999}, "validation 0.999 of 50 images: give a share such as 0.1"),
        ({"validation": 50}, "validation 50 of 50 images"),
        ({"validation": 2.5}, "validation 2.5 of 50 images"),
        ({"validation": -0.1}, "validation -0.1 of 50"),
        ({"validation": "a tenth"}, "validation 'a tenth': give (images, labels), or a share"),
        ({"validation": (IMAGES, LABELS[:3])}, "labels int64 (3,): 50 images want (50,)"),
        ({"validation": 40}, "10 images, and a batch of this net has 16"),
        ({"augment": lambda x, random: x[:, 1:]}, "augment at step 0 (16, 5, 6, 2): this net"),
        ({"augment": lambda x, random: x / 0 * 0}, "augment at step 0: number 0 has a value"),
        ({"images": Read(IMAGES[:, :4])}, "images (1, 4, 6, 2): this net wants (N, 6, 6, 2)"),
        ({"images": Torn(IMAGES)}, "images (48, 5, 6, 2): this net wants"),
        ({"images": Read(BAD)}, "images: number 17 has a value that is not finite in float32"),
        ({"images": dict.fromkeys(range(N))}, "images dict: give an array, or a sequence"),
        ({"images": 7}, "images int: give an array, or a sequence"),
    ],
)
def test_what_can_not_be_meant_is_one_line(options, said):
    with pytest.raises(InputError) as error, np.errstate(all="ignore"):
        fit(made(), **options)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_validation_loss_that_is_not_finite_names_the_layer():
    huge = np.where(np.arange(N)[:, None, None, None] == 20, np.float32(3e38), IMAGES)
    with pytest.raises(RunError, match="validation images 16 to 31 .* the output of conv1"):
        fit(made(), validation=(huge, LABELS))
