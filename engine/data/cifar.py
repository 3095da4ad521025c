"""CIFAR-10 and CIFAR-100 from the official *binary* archives (never the pickles, which run code).

A file is rows of label bytes and 3,072 pixels: CIFAR-10 one label, CIFAR-100 a coarse one, then the
fine one, which is used. Pixels come channel by channel, row by row; the engine wants NHWC.

Read next: engine/data/mnist.py, the other.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.data.dataset import Layout, Raw, check_labels
from engine.errors import InputError
from engine.run.files import open_regular

PIXELS = 3 * 32 * 32
NAMES_10 = "airplane automobile bird cat deer dog frog horse ship truck"
NAMES_100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
    cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
    lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True, kw_only=True)
class Cifar(Layout):
    """The names and sizes of one set; train and test are (file, rows) pairs.

    labels: how many classes each label byte of a row ranges over; the last byte counts. pickles:
    what torchvision and the official Python archive call the same set. sha256: of the archive."""

    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]
    labels: tuple[int, ...]
    pickles: str
    sha256: str
    in_shape: tuple[int, int, int] = (32, 32, 3)
    pad: int = 8
    mirror: bool = True
    pixel_scale: float | None = None

    @property
    def sizes(self) -> dict[str, int]:
        return {name: rows * (len(self.labels) + PIXELS) for name, rows in self.train + self.test}

    def read(self, folder: Path) -> Raw:
        train = _split(folder, self, self.train, "training")
        test = _split(folder, self, self.test, "test")
        return Raw(*train, *test, list(self.classes))


CIFAR10 = Cifar(
    name="cifar10",
    folder="cifar-10-batches-bin",
    pickles="cifar-10-batches-py",
    train=tuple((f"data_batch_{i}.bin", 10_000) for i in range(1, 6)),
    test=(("test_batch.bin", 10_000),),
    labels=(10,),
    classes=tuple(NAMES_10.split()),
    addresses=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    megabytes=170,
)

CIFAR100 = Cifar(
    name="cifar100",
    folder="cifar-100-binary",
    pickles="cifar-100-python",
    train=(("train.bin", 50_000),),
    test=(("test.bin", 10_000),),
    labels=(20, 100),
    classes=tuple(NAMES_100.split()),
    addresses=("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    megabytes=169,
)


def _split(folder: Path, layout: Cifar, files, which: str) -> tuple[np.ndarray, np.ndarray]:
    count = sum(rows for _, rows in files)
    images = np.empty((count, 32, 32, 3), np.uint8)
    labels = np.empty(count, np.int32)
    first = 0
    for name, rows in files:
        read_file(folder / name, layout, images[first : first + rows], labels[first : first + rows])
        first += rows
    check_labels(f"{folder} ({which} files)", labels, len(layout.classes))
    return images, labels


def read_file(path: Path, layout: Cifar, images: np.ndarray, labels: np.ndarray) -> None:
    """Fills images (rows, 32, 32, 3) and labels (rows,) from one file of exactly that many rows."""
    width, again = len(layout.labels) + PIXELS, f"fetch it again from {layout.addresses[0]}"
    expected = len(labels) * width
    try:
        with open_regular(path) as file:
            data = np.fromfile(file, np.uint8, expected + 1)  # one byte more would show
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; {layout.name} needs this file, {again}"
        ) from None
    if size != expected or len(data) != expected:
        raise InputError(f"{path}: {size:,} bytes, expected {expected:,}; {again}")
    data = data.reshape(-1, width)
    for column, classes in enumerate(layout.labels):
        if int(data[:, column].max()) >= classes:
            row = int(np.argmax(data[:, column] >= classes))
            raise InputError(
                f"{path}: label {data[row, column]} of image {row}, expected 0 to "
                f"{classes - 1}; {again}"
            )
    labels[...] = fine = data[:, len(layout.labels) - 1]
    coarse = np.zeros(256, np.uint8)
    coarse[fine] = data[:, 0]  # of each class; CIFAR-10's only label is its own
    other = np.flatnonzero(data[:, 0] != coarse[fine])
    if len(other):
        row = other[0]
        raise InputError(
            f"{path}: image {row} of class {fine[row]} has coarse label "
            f"{data[row, 0]}, and another one {coarse[fine[row]]}; {again}"
        )
    pixels = data[:, len(layout.labels) :].reshape(-1, 3, 32 * 32)
    flat = images.reshape(-1, 32 * 32, 3)
    for channel in range(3):  # three strided copies are faster than one transposed one
        flat[:, :, channel] = pixels[:, channel]
