"""CIFAR-10 and CIFAR-100 from the official *binary* archives (never the pickles, which run code).

A file is rows of label bytes and 3,072 pixels: CIFAR-10 one label, CIFAR-100 a coarse one, then the
fine one, which is used. Pixels come channel by channel, row by row; the engine wants NHWC.

Read next: engine/data/mnist.py.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.data.dataset import Raw, check_labels
from engine.errors import InputError
from engine.run.files import open_regular

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """The official names and sizes of one set; train and test are (file, rows) pairs.

    `labels`: how many classes each label byte of a row ranges over; the last byte counts.
    """

    name: str
    folder: str
    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    address: str
    sha256: str
    megabytes: int
    endings = ("",)  # of a file's name on disk
    in_shape, pad, mirror, scale = (32, 32, 3), 8, True, None  # as `dataset.build` takes them

    @property
    def counts(self) -> tuple[int, int]:
        """Training and test images."""
        return sum(rows for _, rows in self.train), sum(rows for _, rows in self.test)

    @property
    def sizes(self) -> dict[str, int]:
        """File name to size in bytes."""
        return {name: rows * (len(self.labels) + PIXELS) for name, rows in self.train + self.test}


CIFAR10 = Layout(
    name="cifar10", folder="cifar-10-batches-bin",
    train=tuple((f"data_batch_{i}.bin", 10_000) for i in range(1, 6)),
    test=(("test_batch.bin", 10_000),),
    labels=(10,),
    classes=tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
    address="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd", megabytes=170)

CIFAR100 = Layout(
    name="cifar100", folder="cifar-100-binary",
    train=(("train.bin", 50_000),), test=(("test.bin", 10_000),),
    labels=(20, 100),
    classes=tuple("""
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy
        bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock
        cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
        forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
        lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange
        orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
        possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
        snail snake spider squirrel streetcar sunflower sweet_pepper table tank
        telephone television tiger tractor train trout tulip turtle wardrobe whale
        willow_tree wolf woman worm
    """.split()),
    address="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec", megabytes=169)


def read(folder: Path, layout: Layout) -> Raw:
    """The set that lies in `folder`; InputError names the file that is missing or damaged."""
    train = _split(folder, layout, layout.train, "training")
    test = _split(folder, layout, layout.test, "test")
    return Raw(*train, *test, list(layout.classes))


def _split(folder: Path, layout: Layout, files, which: str) -> tuple[np.ndarray, np.ndarray]:
    count = sum(rows for _, rows in files)
    images = np.empty((count, 32, 32, 3), np.uint8)
    labels = np.empty(count, np.int32)
    first = 0
    for name, rows in files:
        read_file(folder / name, layout, images[first:first + rows], labels[first:first + rows])
        first += rows
    check_labels(f"{folder} ({which} files)", labels, len(layout.classes))
    return images, labels


def read_file(path: Path, layout: Layout, images: np.ndarray, labels: np.ndarray) -> None:
    """Fills images (rows, 32, 32, 3) and labels (rows,) from one file of exactly that many rows."""
    width = len(layout.labels) + PIXELS
    expected = len(labels) * width
    try:
        with open_regular(path) as file:
            data = np.fromfile(file, np.uint8, expected + 1)  # one byte more would show
            found = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; {layout.name} needs this file, fetch "
                         f"it again from {layout.address}") from None
    if found != expected or len(data) != expected:
        raise InputError(f"{path}: {found:,} bytes, expected {expected:,}; fetch it again from "
                         f"{layout.address}")
    data = data.reshape(-1, width)
    for column, classes in enumerate(layout.labels):
        if int(data[:, column].max()) >= classes:
            row = int(np.argmax(data[:, column] >= classes))
            raise InputError(f"{path}: label {data[row, column]} of image {row}, expected 0 to "
                             f"{classes - 1}; fetch it again from {layout.address}")
    labels[...] = fine = data[:, len(layout.labels) - 1]
    coarse = np.zeros(256, np.uint8)
    coarse[fine] = data[:, 0]  # of each class; CIFAR-10's only label is its own
    other = np.flatnonzero(data[:, 0] != coarse[fine])
    if len(other):
        row = other[0]
        raise InputError(f"{path}: image {row} of class {fine[row]} has coarse label "
                         f"{data[row, 0]}, and another one {coarse[fine[row]]}; fetch it again "
                         f"from {layout.address}")
    pixels = data[:, len(layout.labels):].reshape(-1, 3, 32 * 32)
    flat = images.reshape(-1, 32 * 32, 3)
    for channel in range(3):  # three strided copies are faster than one transposed one
        flat[:, :, channel] = pixels[:, channel]
