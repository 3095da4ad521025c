"""MNIST from its four IDX files, packed (.gz) or unpacked, under any of their usual names.

IDX: two zero bytes, 8 for unsigned bytes, the number of dimensions; each dimension as a big-endian
32-bit word; then the values.

Read next: engine/data/folder.py, images of one's own.
"""

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.data.dataset import Layout, Raw, check_labels
from engine.errors import InputError
from engine.run.files import open_regular

IMAGES = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
LABELS = ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte")
SIDE = 28
SCALE = 0.004  # the authors' factor on raw pixels: neither 1/256 nor 1/255


@dataclass(frozen=True, kw_only=True)
class Mnist(Layout):
    """Official names; `md5` is of the unpacked files (the packed ones differ from host to host)."""

    counts: tuple[int, int]  # training and test images
    md5: dict[str, str]
    classes: tuple[str, ...] = tuple("0123456789")
    in_shape: tuple[int, int, int] = (SIDE, SIDE, 1)
    pad: int = 0
    mirror: bool = False
    pixel_scale: float | None = SCALE

    def shape(self, name: str) -> tuple[int, ...]:
        """Dimensions that the file must declare."""
        count = self.counts[0] if name.startswith("train") else self.counts[1]
        return (count, SIDE, SIDE) if "images" in name else (count,)

    @property
    def sizes(self) -> dict[str, int]:
        return {
            name: 4 + 4 * len(self.shape(name)) + int(np.prod(self.shape(name)))
            for name in self.md5
        }

    def names(self, name: str) -> tuple[str, ...]:
        """Unpacked before packed, the official name before that which 7-Zip and Kaggle give."""
        dotted = name.replace("-idx", ".idx")
        return name, f"{name}.gz", dotted, f"{dotted}.gz"

    def read(self, folder: Path) -> Raw:
        images = [read_file(folder, name, self)[..., None] for name in IMAGES]
        labels = [read_file(folder, name, self).astype(np.int32) for name in LABELS]
        for name, values in zip(LABELS, labels, strict=True):
            check_labels(str(folder / name), values, len(self.classes))
        return Raw(images[0], labels[0], images[1], labels[1], list(self.classes))


MNIST = Mnist(
    name="mnist",
    folder="mnist",
    others=("MNIST/raw", "raw"),  # torchvision's
    counts=(60_000, 10_000),
    addresses=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    megabytes=12,
    md5={
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
)


def read_file(folder: Path, name: str, layout: Mnist = MNIST) -> np.ndarray:
    """The array of one file, uint8, of exactly the official dimensions."""
    expected = layout.sizes[name]
    again = f"fetch it again from {layout.addresses[0]}{name}.gz"
    path = layout.path(folder, name)
    if path is None:
        raise InputError(
            f"{folder / name}: not there, packed (.gz) or unpacked, and mnist needs it; {again}"
        )
    try:
        with open_regular(path) as raw, gzip.open(raw) if path.suffix == ".gz" else raw as file:
            data = file.read(expected + 1)
            if len(data) > expected:
                raise InputError(
                    f"{path}: more than {expected:,} bytes, expected {expected:,}; {again}"
                )
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: can't be read ({error}); {again}") from None
    shape = layout.shape(name)
    head = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    if data[:4] != head[:4]:
        raise InputError(
            f"{path}: starts with {data[:4].hex() or 'nothing'}, expected "
            f"{head[:4].hex()} (IDX, {len(shape)} dimensions of bytes); {again}"
        )
    if data[4 : len(head)] != head[4:]:
        declared = [int.from_bytes(data[i : i + 4], "big") for i in range(4, len(head), 4)]
        raise InputError(f"{path}: dimensions {declared}, expected {list(shape)}; {again}")
    if len(data) != expected:
        raise InputError(f"{path}: {len(data):,} bytes, expected {expected:,}; {again}")
    return np.frombuffer(data, np.uint8, offset=len(head)).reshape(shape).copy()
