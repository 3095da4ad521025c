"""What every data set becomes: uint8 images as they were, and what makes a net's input of them.

Normalising is left to the gather on the device, so a data set is a quarter of the size of its
float32 form and can stay on the device whole.

Read next: engine/data/__init__.py, which loads one by its name.
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.data.preprocessing import PIXEL_SCALE, WHITENING, Preprocessing
from engine.errors import InputError
from kernels.philox import permutation

# Global contrast normalisation, that and ZCA whitening, or one factor on every pixel.
CONTRASTS = ("gcn", "zca", "none")
NEVER = (1 << 31) - 1  # an epoch that no run comes to: its order is free for the split


class Raw(NamedTuple):
    """What a reader returns: images (M, H, W, C) uint8, labels (M,) int32, the classes' names."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: list[str]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """An official set: what its files are called, where they come from, how they are preprocessed.

    folder: where its files lie in a data folder; others: where other programs put them. addresses:
    an archive, or folders with the packed files to try in turn. pad, mirror, pixel_scale: as
    `build` takes them."""

    name: str
    folder: str
    addresses: tuple[str, ...]
    megabytes: int
    classes: tuple[str, ...]
    in_shape: tuple[int, int, int]
    pad: int
    mirror: bool
    pixel_scale: float | None
    others: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """File name to unpacked size in bytes."""
        raise NotImplementedError

    def names(self, name: str) -> tuple[str, ...]:
        """What a file may be called, the most welcome first."""
        return (name,)

    def path(self, folder: Path, name: str) -> Path | None:
        """A file under the first of its names that is there, or None."""
        return next(
            (
                path
                for path in map(folder.joinpath, self.names(name))
                if path.exists() and not path.is_dir()
            ),
            None,
        )

    def read(self, folder: Path) -> Raw:
        """The set that lies in `folder`; InputError names the file that is missing or damaged."""
        raise NotImplementedError


@dataclass(eq=False)
class Split:
    """Images (M, H, W, C) uint8, labels (M,) int32; shift and scale (M,) float32, one per image."""

    images: np.ndarray
    labels: np.ndarray
    shift: np.ndarray
    scale: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: np.ndarray) -> "Split":
        return Split(self.images[rows], self.labels[rows], self.shift[rows], self.scale[rows])


@dataclass(eq=False)
class Dataset:
    """Two splits and what they share.

    mirror says whether a mirrored image still belongs to its class; identity is what the
    fingerprint names the set by; notes are lines that a run prints before it starts; validation is
    a part of `train` that is held out (`validating`).
    """

    name: str
    train: Split
    test: Split
    preprocessing: Preprocessing
    mirror: bool
    classes: list[str]
    fingerprint: str
    in_shape: tuple[int, int, int]
    identity: str
    notes: list[str] = field(default_factory=list)
    validation: Split | None = None

    @property
    def contrast(self) -> str:
        """Of CONTRASTS."""
        if self.preprocessing.whitening is not None:
            return "zca"
        return "none" if self.preprocessing.pixel_scale is not None else "gcn"

    @property
    def mean_image(self) -> bool:
        """Whether a mean image is subtracted."""
        return bool(self.preprocessing.mean_image.any())

    def prepared(self, contrast: str | None, subtract_mean: bool | None) -> "Dataset":
        """These images with another preprocessing, fitted anew; None: as it is."""
        contrast = contrast or self.contrast
        if contrast == "zca":
            if subtract_mean is False:
                raise InputError("contrast zca subtracts the mean image; leave --no-mean-image out")
            subtract_mean = True
        elif subtract_mean is None:
            subtract_mean = self.mean_image
        if (contrast, subtract_mean) == (self.contrast, self.mean_image):
            return self
        own = self.preprocessing.pixel_scale
        scale = None if contrast != "none" else PIXEL_SCALE if own is None else own
        preprocessing, (shift, scales) = Preprocessing.fit(
            self.train.images, self.preprocessing.pad, scale, subtract_mean, contrast == "zca"
        )
        train = replace(self.train, shift=shift, scale=scales)
        shift, scales = preprocessing.normalise(self.test.images)
        test = replace(self.test, shift=shift, scale=scales)
        identity = self.identity + "/zca" * (contrast == "zca")  # its matrix may differ in a bit
        mark = fingerprint(identity, train, test, preprocessing.mean_image)
        return replace(self, train=train, test=test, preprocessing=preprocessing, fingerprint=mark)

    def whitened_by(self, tensors: dict[str, np.ndarray]) -> "Dataset":
        """With the whitening that a run has kept: fitted anew, its last bits may be others."""
        if self.preprocessing.whitening is None or WHITENING not in tensors:
            return self
        kept = replace(self.preprocessing, whitening=tensors[WHITENING])
        return replace(self, preprocessing=kept)

    def validating(self, wanted: float, seed: int) -> "Dataset":
        """With a part of the training images held out by the seed, as `held_out` takes `wanted`; 0:
        as it is. Preprocessing, and so the fingerprint, stay those of all."""
        if not wanted:
            return self
        kept, held = held_out(len(self.train), wanted, seed)
        return replace(self, train=self.train.part(kept), validation=self.train.part(held))


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


def held(count: int, wanted: float) -> int:
    """How many of `count` images are held out: a share of them below 1, or their number. InputError
    if none would be, or none left."""
    number = round(wanted * count) if 0 < wanted < 1 else int(wanted)
    if not (0 < number < count and (wanted < 1 or wanted == number)):
        raise InputError(
            f"validation {wanted:g} of {count} images: give a share such as 0.1, or a number of "
            "images that leaves some to train on"
        )
    return number


def held_out(count: int, wanted: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to validate on, each ascending: the same for the same seed."""
    number = held(count, wanted)
    shuffled = permutation(seed, NEVER, count)
    return np.sort(shuffled[number:]), np.sort(shuffled[:number])


def check_labels(where: str, labels: np.ndarray, classes: int) -> None:
    """InputError unless every label is below `classes` and every class occurs."""
    if len(labels) and int(labels.max()) >= classes:
        row = int(np.argmax(labels >= classes))
        raise InputError(
            f"{where}: label {int(labels[row])} of image {row}, expected 0 to "
            f"{classes - 1}; the file is damaged, fetch it again"
        )
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise InputError(
            f"{where}: no image of class {int(np.argmin(counts))}, expected all of "
            f"0 to {classes - 1}; the file is damaged, fetch it again"
        )


def build(
    name: str,
    raw: Raw,
    pad: int,
    mirror: bool,
    limit: int | None,
    notes: list[str],
    pixel_scale: float | None = None,
    identity: str | None = None,
) -> Dataset:
    """A Dataset of what a reader returned, its preprocessing fitted on the training images.

    pad and pixel_scale: see Preprocessing. identity: what the fingerprint names the set by, which
    is `name` unless given."""
    (train_images, train_labels), (test_images, test_labels) = (
        _limited(images, labels, limit) for images, labels in (raw[0:2], raw[2:4])
    )
    if len(train_labels) < len(raw.train_labels) or len(test_labels) < len(raw.test_labels):
        notes = notes + [
            f"data {name}: limit {limit:,} keeps {len(train_labels):,} of "
            f"{len(raw.train_labels):,} training and {len(test_labels):,} of "
            f"{len(raw.test_labels):,} test images, classes taken in turn"
        ]
    preprocessing, (shift, scale) = Preprocessing.fit(train_images, pad, pixel_scale)
    train = Split(train_images, train_labels, shift, scale)
    test = Split(test_images, test_labels, *preprocessing.normalise(test_images))
    return Dataset(
        name,
        train,
        test,
        preprocessing,
        mirror,
        list(raw.classes),
        fingerprint(name if identity is None else identity, train, test, preprocessing.mean_image),
        train_images.shape[1:],
        name if identity is None else identity,
        notes,
    )


def _limited(images: np.ndarray, labels: np.ndarray, limit: int | None):
    if limit is None or limit >= len(labels):
        return images, labels
    chosen = keep(labels, limit)
    return images[chosen], labels[chosen]


def fingerprint(identity: str, train: Split, test: Split, mean_image: np.ndarray) -> str:
    """16 hex digits of the SHA-256 over a set's identity and every array that a result depends on.

    The identity is the name of a set of ours, and of a folder the names of its classes: where the
    folder lies, and what it is called, is not its content. The arrays are the same bits on every
    machine (see Preprocessing), so two runs with one fingerprint have seen the same data.
    """
    digest = hashlib.sha256(identity.encode(errors="surrogatepass"))  # a name may be no text
    for split in (train, test):
        digest.update(repr(split.images.shape).encode())
        digest.update(split.images.data)
        for array, form in ((split.labels, "<i4"), (split.shift, "<f4"), (split.scale, "<f4")):
            digest.update(array.astype(form, copy=False).data)
    digest.update(mean_image.astype("<f4", copy=False).data)
    return digest.hexdigest()[:16]
