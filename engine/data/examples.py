"""What `engine.fit` learns from: images, and what a loss wants to know of each, checked and handed
to the device batch by batch.

Images are an array, or any sequence whose `images[rows]` is one for an array of row numbers: of a
file that is larger than the memory no more is read than the steps at hand want.

Read next: engine/README.md.
"""

from collections.abc import Mapping
from copy import copy

import numpy as np

from engine.errors import InputError


class Rows:
    """Some rows of a sequence, by number."""

    def __init__(self, values, rows: np.ndarray):
        self.values, self.rows = values, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows):
        return self.values[self.rows[rows]]


class Examples:
    """Images, and their targets unless none are given, in the net's dtypes. InputError for what a
    net can't be given: of an array at once, of any other sequence when it is read.

    augment, seed: as `engine.fit` takes them."""

    def __init__(self, net, images, targets=..., augment=None, seed: int = 0):
        self.net, self.augment, self.seed = net, augment, seed
        self.images = checked_images(net, images)
        self.checked = isinstance(self.images, np.ndarray)
        self.targets = {} if targets is ... else self.of_net(targets)

    def of_net(self, targets) -> dict[str, np.ndarray]:
        net = self.net
        if not isinstance(targets, Mapping) and len(net.wanted) == 1:
            targets = dict.fromkeys(net.wanted, targets)
        if not isinstance(targets, Mapping) or set(targets) != set(net.wanted):
            names = f"targets {', '.join(map(str, targets))}: " * isinstance(targets, Mapping)
            raise InputError(
                f"{names}this net wants {', '.join(net.wanted)}; give a dict with an array for each"
            )
        return {name: target.of(targets[name], len(self)) for name, target in net.wanted.items()}

    def part(self, rows: np.ndarray) -> "Examples":
        """Those of some rows."""
        part = copy(self)
        part.images = Rows(self.images, rows)
        part.targets = {name: values[rows] for name, values in self.targets.items()}
        return part

    def need_batch(self) -> "Examples":
        """These, if they are a batch or more. InputError."""
        if len(self) < self.net.batch:
            raise InputError(
                f"{len(self)} images, and a batch of this net has {self.net.batch}; give more, or "
                "the net a smaller batch"
            )
        return self

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: np.ndarray, step: int | None = None):
        """Images `rows` and their targets on the device, padded to whole batches; with a `step`,
        that of the first of them, they are augmented."""
        net, missing = self.net, -len(rows) % self.net.batch
        x = self.images[rows]
        if not self.checked:
            x = need_numbers(net, np.asarray(x), "images", len(rows), rows)
        x = np.ascontiguousarray(x, net.dtype)
        if self.augment is not None and step is not None:
            x = np.concatenate(
                [
                    self.augmented(x[first : first + net.batch], step + first // net.batch)
                    for first in range(0, len(x), net.batch)
                ]
            )
        if missing:
            x = np.concatenate([x, np.zeros((missing, *net.in_shape), net.dtype)])
        targets = {name: values[rows] for name, values in self.targets.items()}
        for name, values in targets.items() if missing else ():
            padding = np.full((missing, *values.shape[1:]), net.wanted[name].padding, values.dtype)
            targets[name] = np.concatenate([values, padding])
        return net.ops.constant(x.astype(net.activation_dtype, copy=False)), {
            name: net.ops.constant(values) for name, values in targets.items()
        }

    def augmented(self, x: np.ndarray, step: int) -> np.ndarray:
        assert self.augment is not None
        changed = np.asarray(self.augment(x, np.random.default_rng((self.seed, step))))
        return need_numbers(self.net, changed, f"augment at step {step}", len(x))


def checked_images(net, images):
    """Images as an array, or the sequence that they are read from. InputError for another shape, or
    a value that is no number or is not finite in the net's precision."""
    # A file that NumPy has mapped, which has its name, is not read whole to look at it.
    if hasattr(images, "filename") or not (
        hasattr(images, "__array__") or isinstance(images, (list, tuple))
    ):
        try:
            if len(images):
                need_numbers(net, np.asarray(images[np.arange(1)]), "images", 1)
        except (TypeError, LookupError, ValueError) as error:
            raise InputError(
                f"images {type(images).__name__}: give an array, or a sequence whose images[rows] "
                f"is one for an array of row numbers ({error})"
            ) from None
        return images
    try:
        images = np.asarray(images)
    except ValueError:
        raise InputError("images: of unequal shapes; give an array") from None
    return need_numbers(net, images, "images", len(images))


def need_numbers(
    net, images: np.ndarray, what: str, count: int, numbers: np.ndarray | None = None
) -> np.ndarray:
    """`images`, called `what`, if they are `count` images of the net's, of finite numbers.
    InputError. numbers: those that they have in a larger set."""
    if images.dtype.kind not in "iufb" and images.dtype != net.activation_dtype:
        raise InputError(f"{what} are {images.dtype}: give numbers")
    if images.shape != (count, *net.in_shape):
        raise InputError(
            f"{what} {images.shape}: this net wants (N, {', '.join(map(str, net.in_shape))})"
        )
    if not len(images):
        return images
    with np.errstate(over="ignore"):
        ends = np.array([images.min(), images.max()]).astype(net.dtype)  # of a NaN both are NaN
        if not np.isfinite(ends.astype(net.activation_dtype)).all():
            worst = next(
                n
                for n, image in enumerate(images)
                if not np.isfinite(image.astype(net.dtype).astype(net.activation_dtype)).all()
            )
            raise InputError(
                f"{what}: number {worst if numbers is None else numbers[worst]} has a value that "
                f"is not finite in {np.dtype(net.activation_dtype)}; replace it, or leave that "
                "image out"
            )
    return images
