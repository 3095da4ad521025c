"""The data set on the device, and the batches that a net is given from it.

Images stay uint8 and are uploaded once; a batch is one `gather`, which crops, mirrors and
normalises straight into `net.x`. Which images a step sees is a pure function of seed and step:
image n of the run is place n mod N of permutation n div N, so batches run on across epochs and a
resumed run needs nothing but its step number.

Read next: kernels/philox.py for the permutation, engine/data/preprocessing.py and
engine/data/distortion.py for what else a batch is made of.
"""

from dataclasses import replace

import numpy as np

from engine.data.dataset import Dataset, Split
from engine.data.distortion import rows
from engine.data.preprocessing import Preprocessing
from engine.errors import InputError
from engine.layers import Distort
from kernels.checks import MIRRORED
from kernels.clock import CORRECT_SUM, FINITE, FIRST, LOSS_SUM, RATE, SEEN, STEP
from kernels.philox import AUGMENT, permutation, words

BY_TURNS = 2


def read_clock(net) -> np.ndarray:
    """The net's clock as a host array of its own."""
    return np.array(net.ops.tohost(net.clock), np.float64)


def write_clock(net, clock: np.ndarray) -> None:
    """Put a host array in the place of the net's clock."""
    net.clock[...] = net.ops.asarray(np.asarray(clock, np.float64))


def zero_sums(clock: np.ndarray) -> None:
    """Start a new epoch's sums, and clear the latch."""
    clock[[LOSS_SUM, CORRECT_SUM, SEEN]] = 0
    clock[FINITE] = 1


class Order:
    """Which image is number n of a run over `size` images: place n mod size of permutation
    n div size."""

    def __init__(self, seed: int, size: int):
        self.seed, self.size = seed, size
        self.shuffled: dict[int, np.ndarray] = {}  # epoch -> permutation, those in use

    def images(self, first: int, count: int) -> np.ndarray:
        """(count,) int32: the images that are number first .. first + count - 1."""
        n, out = np.arange(first, first + count), np.empty(count, np.int32)
        epochs = range(first // self.size, (first + count - 1) // self.size + 1)
        self.shuffled = {e: p for e, p in self.shuffled.items() if e in epochs}
        for epoch in epochs:
            if epoch not in self.shuffled:
                self.shuffled[epoch] = permutation(self.seed, epoch, self.size)
            here = n // self.size == epoch
            out[here] = self.shuffled[epoch][n[here] % self.size]
        return out


class Resident:
    """A split's images on the device, with what turns them into a net's input."""

    def __init__(self, net, split: Split, preprocessing: Preprocessing, teacher=None):
        if set(net.wanted) - ({"labels", "values"} if teacher else {"labels"}):
            raise InputError(
                f"the net's loss wants {', '.join(net.wanted)}, and a data set has "
                "labels alone; train it with engine.fit"
            )
        self.net, self.preprocessing, self.count = net, preprocessing, len(split)
        self.teacher = teacher
        self.truth = split.labels
        self.labels = net.ops.constant(np.ascontiguousarray(split.labels, np.int32))
        self.images, *self.arrays = preprocessing.on_device(
            net.ops, split.images, split.shift, split.scale
        )

    def gather(self, order, move: int = 0, mirror: int = 0, augment: bool = False) -> None:
        """Fill net.x and net.labels with the images that the clock's row of `order` names."""
        self.preprocessing.gather(
            self.net, self.images, self.labels, self.arrays, order, move, mirror, augment
        )

    def batch(self, rows: np.ndarray, number: int | None = None) -> None:
        """Images `rows`, at most net.batch, as they are; the rest of the batch is padding with
        label -1. Sets the clock's FIRST and, with the number of a forward pass, STEP, which what
        draws outside training draws by. A teacher is asked where no image can be counted right:
        else images are scored by their labels."""
        padded = np.full((1, self.net.batch), -1, np.int32)
        padded[0, : len(rows)] = rows
        clock = read_clock(self.net)
        clock[STEP] = clock[STEP] if number is None else number
        clock[FIRST] = clock[STEP]
        write_clock(self.net, clock)
        self.gather(self.net.ops.asarray(padded))
        if self.teacher and not self.net.loss.counts:
            self.teacher.tell(self.net)
            self.net.targets["values"][len(rows) :] = np.nan


class Feed:
    """A data set's training batches, augmented, and its test images, as they are.

    move: random crops move by up to this many pixels, of which the data set's border has as many.
    mirror: 0 no training image is mirrored, 1 half of them at random, 2 each in every second epoch;
    None: as the data set says. teacher: of engine/run/teacher.py; it tells the net what it makes of
    every training batch. distort: so many epochs, from the first on, the net's layer Distort shows
    the images distorted."""

    def __init__(
        self,
        net,
        data: Dataset,
        move: int,
        input_scale: float,
        mirror: int | None = None,
        teacher=None,
        distort: float = 0,
    ):
        self.teacher = teacher
        self.net, self.data, self.move = net, data, move
        self.mirror = int(data.mirror if mirror is None else mirror)
        preprocessing = replace(data.preprocessing, input_scale=input_scale)
        self.train, self.test = (
            Resident(net, split, preprocessing, teacher) for split in (data.train, data.test)
        )
        held = data.validation
        self.validation = None if held is None else Resident(net, held, preprocessing, teacher)
        self.order_of = Order(net.seed, self.train.count)
        fields = [layer for layer in net.chain.leaves() if isinstance(layer, Distort)]
        self.fields = fields if distort else []
        self.distorted = round(distort * self.train.count)  # images of the run
        if distort and not fields:
            raise InputError(f"distort {distort:g}: the net has no Distort layer; leave it at 0")
        if self.mirror == BY_TURNS:  # whether an image is mirrored in even epochs
            self.turns = words(net.seed, AUGMENT, 1, 0, 0, self.train.count)[:, 0] >> 31

    def start(self, clock: np.ndarray, first: int, stop: int, rates: np.ndarray):
        """Upload the order and the rates of steps first .. stop - 1, and the clock that starts them
        -> the rates on the device, for `advance`. rates is (stop - first + 1,)."""
        batch = self.net.batch
        images = self.order_of.images(first * batch, (stop - first) * batch)
        if self.mirror == BY_TURNS:
            odd = np.arange(first * batch, stop * batch) // self.train.count % 2
            images += (self.turns[images] ^ odd).astype(np.int32) * MIRRORED
        self.order = self.net.ops.asarray(np.ascontiguousarray(images.reshape(-1, batch)))
        for field in self.fields:
            which = first * batch, (stop - first) * batch, self.distorted
            table = rows(self.net.seed, *which, field.in_shape, field.size)
            field.table = self.net.ops.asarray(table)
        clock[STEP], clock[FIRST], clock[RATE] = first, first, rates[0]
        write_clock(self.net, clock)
        return self.net.ops.asarray(np.ascontiguousarray(rates, np.float64))

    def train_batch(self) -> None:
        """The training batch of the clock's step, augmented, into net.x and net.targets."""
        self.train.gather(self.order, self.move, self.mirror, augment=True)
        if self.teacher:
            self.teacher.tell(self.net)

    def first_batches(self):
        """A function that gathers the run's first batch, then its second, ... for an initialiser.

        Each is a training batch of the net's present size, with its own augmentation and dropout
        masks. The clock is left at the batch's step; `start` sets it before training."""
        step = -1

        def next_batch() -> None:
            nonlocal step
            step += 1
            self.start(read_clock(self.net), step, step + 1, np.zeros(2))
            self.train_batch()

        return next_batch
