"""What every data set becomes: uint8 images as they were, and what the gather needs to know.

Normalising is left to the gather: (u - shift) * scale inside the image, 0 in the padding, minus the
mean image, times the input scale. A data set is thus a quarter of the size of its float32 form and
can stay on the device whole.

Read next: engine/data/preprocessing.py, where shift, scale and the mean image come from.
"""

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from engine.data import preprocessing as preprocess
from engine.errors import InputError


class Raw(NamedTuple):
    """What a reader returns: images (M, H, W, C) uint8, labels (M,) int32, the classes' names."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: list[str]


@dataclass(eq=False)
class Split:
    """Images (M, H, W, C) uint8, labels (M,) int32; shift and scale (M,) float32, one per image."""

    images: np.ndarray
    labels: np.ndarray
    shift: np.ndarray
    scale: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(eq=False)
class Dataset:
    """Two splits and what they share.

    mean_image is (H + 2 pad, W + 2 pad, C) float32 in normalised units; mirror says whether a
    mirrored image still belongs to its class; notes are lines that a run prints before it starts.
    """

    name: str
    train: Split
    test: Split
    mean_image: np.ndarray
    pad: int
    mirror: bool
    classes: list[str]
    fingerprint: str
    in_shape: tuple[int, int, int]
    notes: list[str] = field(default_factory=list)


def keep(labels: np.ndarray, limit: int | None) -> np.ndarray:
    """Indices, ascending, of the images that `limit` keeps: (min(M, limit),) int64.

    The first image of every class, then the second of every class, and so on: the choice stays
    mixed whatever order the files have, and a smaller limit keeps a subset of a larger one's.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    by_class = np.argsort(labels, kind="stable")
    ordered = labels[by_class]
    turn = np.arange(len(labels)) - np.searchsorted(ordered, ordered)  # place within its class
    return np.sort(by_class[np.lexsort((ordered, turn))[:limit]])


def check_labels(where: str, labels: np.ndarray, classes: int) -> None:
    """InputError unless every label is below `classes` and every class occurs."""
    if len(labels) and int(labels.max()) >= classes:
        row = int(np.argmax(labels >= classes))
        raise InputError(f"{where}: label {int(labels[row])} of image {row}, expected 0 to "
                         f"{classes - 1}; the file is damaged, fetch it again")
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise InputError(f"{where}: no image of class {int(np.argmin(counts))}, expected all of "
                         f"0 to {classes - 1}; the file is damaged, fetch it again")


def build(name: str, raw: Raw, pad: int, mirror: bool, limit: int | None, notes: list[str],
          scale: float | None = None) -> Dataset:
    """A Dataset of what a reader returned.

    With `scale` every pixel is u * scale and the mean image is zero (MNIST); without, images are
    contrast-normalised and the mean image is the training images'.
    """
    (train_images, train_labels), (test_images, test_labels) = (
        _limited(images, labels, limit) for images, labels in (raw[0:2], raw[2:4]))
    if len(train_labels) < len(raw.train_labels) or len(test_labels) < len(raw.test_labels):
        notes = notes + [f"data {name}: limit {limit:,} keeps {len(train_labels):,} of "
                         f"{len(raw.train_labels):,} training and {len(test_labels):,} of "
                         f"{len(raw.test_labels):,} test images, classes taken in turn"]
    if scale is None:
        train = Split(train_images, train_labels, *preprocess.contrast(train_images))
        test = Split(test_images, test_labels, *preprocess.contrast(test_images))
        mean = preprocess.mean_image(train.images, train.shift, train.scale, pad)
    else:
        train, test = (Split(images, labels, np.zeros(len(labels), np.float32),
                             np.full(len(labels), scale, np.float32))
                       for images, labels in ((train_images, train_labels),
                                              (test_images, test_labels)))
        height, width, channels = train_images.shape[1:]
        mean = np.zeros((height + 2 * pad, width + 2 * pad, channels), np.float32)
    return Dataset(name, train, test, mean, pad, mirror, list(raw.classes),
                   fingerprint(name, train, test, mean), train_images.shape[1:], notes)


def _limited(images: np.ndarray, labels: np.ndarray, limit: int | None):
    chosen = keep(labels, limit)
    if len(chosen) == len(labels):
        return images, labels
    return images[chosen], labels[chosen]


def fingerprint(name: str, train: Split, test: Split, mean: np.ndarray) -> str:
    """16 hex digits of the SHA-256 over the name and every array that a result depends on.

    The arrays are the same bits on every machine (see preprocess), so two runs with one fingerprint
    have seen the same data.
    """
    digest = hashlib.sha256(name.encode(errors="surrogatepass"))  # a folder's may be no text
    for split in (train, test):
        digest.update(repr(split.images.shape).encode())
        digest.update(split.images)
        for array, form in ((split.labels, "<i4"), (split.shift, "<f4"), (split.scale, "<f4")):
            digest.update(array.astype(form, copy=False))
    digest.update(mean.astype("<f4", copy=False))
    return digest.hexdigest()[:16]
