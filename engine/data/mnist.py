"""MNIST from its four IDX files, packed (.gz) or unpacked.

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

from engine.data.dataset import Raw, check_labels
from engine.errors import InputError
from engine.run.files import open_regular

SIDE = 28
SCALE = 0.004  # the authors' factor on raw pixels: neither 1/256 nor 1/255


@dataclass(frozen=True)
class Layout:
    """Official names; `md5` is of the unpacked files (the packed ones differ from host to host)."""

    name: str
    folder: str
    counts: tuple[int, int]
    mirrors: tuple[str, ...]
    megabytes: int
    md5: dict[str, str]
    endings = ("", ".gz")  # of a file's name on disk
    in_shape, pad, mirror, scale = (SIDE, SIDE, 1), 0, False, SCALE  # as `dataset.build` takes them
    classes = tuple("0123456789")

    def shape(self, name: str) -> tuple[int, ...]:
        """Dimensions that the file must declare."""
        count = self.counts[0] if name.startswith("train") else self.counts[1]
        return (count, SIDE, SIDE) if "images" in name else (count,)

    @property
    def sizes(self) -> dict[str, int]:
        """File name to unpacked size in bytes."""
        return {name: 4 + 4 * len(self.shape(name)) + int(np.prod(self.shape(name)))
                for name in self.md5}


MNIST = Layout(
    name="mnist", folder="mnist", counts=(60_000, 10_000),
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/",
             "https://storage.googleapis.com/cvdf-datasets/mnist/"), megabytes=12,
    md5={"train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
         "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
         "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
         "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637"})


def read(folder: Path, layout: Layout = MNIST) -> Raw:
    """The set that lies in `folder`; InputError names the file that is missing or damaged."""
    splits = []
    for prefix in ("train", "t10k"):
        images = read_file(folder, f"{prefix}-images-idx3-ubyte", layout)[..., None]
        labels = read_file(folder, f"{prefix}-labels-idx1-ubyte", layout).astype(np.int32)
        check_labels(str(folder / f"{prefix}-labels-idx1-ubyte"), labels, len(layout.classes))
        splits += [images, labels]
    return Raw(*splits, list(layout.classes))


def read_file(folder: Path, name: str, layout: Layout = MNIST) -> np.ndarray:
    """The array of one file, uint8, of exactly the official dimensions."""
    path = folder / name
    expected = layout.sizes[name]
    again = f"fetch it again from {layout.mirrors[0]}{name}.gz"
    try:
        if not path.exists():
            path = folder / f"{name}.gz"
        with open_regular(path) as raw:
            file = gzip.open(raw) if path.suffix == ".gz" else raw
            data = file.read(expected + 1)
            if len(data) > expected:
                raise InputError(f"{path}: more than {expected:,} bytes, expected {expected:,}; "
                                 f"{again}")
    except FileNotFoundError:
        raise InputError(f"{folder / name}: not there, packed (.gz) or unpacked, and mnist needs "
                         f"it; {again}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: can't be read ({error}); {again}") from None
    shape = layout.shape(name)
    head = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    if data[:4] != head[:4]:
        raise InputError(f"{path}: starts with {data[:4].hex() or 'nothing'}, expected "
                         f"{head[:4].hex()} (IDX, {len(shape)} dimensions of bytes); {again}")
    if data[4:len(head)] != head[4:]:
        found = [int.from_bytes(data[i:i + 4], "big") for i in range(4, len(head), 4)]
        raise InputError(f"{path}: dimensions {found}, expected {list(shape)}; {again}")
    if len(data) != expected:
        raise InputError(f"{path}: {len(data):,} bytes, expected {expected:,}; {again}")
    return np.frombuffer(data, np.uint8, offset=len(head)).reshape(shape).copy()
