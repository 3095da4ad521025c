"""A safetensors file, read strictly: how a checkpoint is read.

    8 bytes      length of the header, little-endian
    header       JSON: {"__metadata__": {name: text}, tensor: {"dtype", "shape", "data_offsets"}}
    the rest     the tensors' bytes, C order, one after another, from offset 0 on

The format is Hugging Face's (https://github.com/huggingface/safetensors, "Format"), whose library
writes these files. Read here, a forged header is refused before anything is made of its sizes: a
tensor is as large as its bytes in the file, every byte of the file belongs to one, and no array is
larger than the file. Nothing of a file is executed.

Read next: engine/run/checkpoint.py, which keeps tensors so.
"""

import math
import os
from io import BufferedReader
from typing import NamedTuple

import numpy as np

from engine.run.files import parse

TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}  # those that we write, for NumPy
KEYS = {"dtype", "shape", "data_offsets"}
MOST_AXES = 8


class Entry(NamedTuple):
    """Where a tensor lies: `start` bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int


def header(file: BufferedReader, longest: int) -> tuple[dict[str, str], dict[str, Entry]]:
    """The metadata and the tensors' places of an open file. ValueError says what is wrong.

    longest: of a header, in bytes."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(longest, size - 8):
        raise ValueError(f"a header of {length:,} bytes, in a file of {size:,}")
    names = parse(file.read(length))
    if not isinstance(names, dict):
        raise ValueError("a header that names nothing")
    metadata = names.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("metadata that is not text")
    spans = sorted((*span(name, entry), name) for name, entry in names.items())
    end = 0
    for first, after, name in spans:
        if first != end:
            raise ValueError(f"{name:.80} does not begin where the tensor before it ends")
        end = after
    if 8 + length + end != size:
        raise ValueError(f"{size:,} bytes, and its tensors need {8 + length + end:,}")
    return metadata, {
        name: Entry(names[name]["dtype"], tuple(names[name]["shape"]), 8 + length + first)
        for first, _, name in spans
    }


def span(name: str, entry) -> tuple[int, int]:
    """The offsets of a tensor's first byte and behind its last one. ValueError."""
    if not isinstance(entry, dict) or set(entry) != KEYS:
        raise ValueError(f"{name:.80} is no tensor")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in TYPES:
        raise ValueError(f"{name:.80} is of type {entry['dtype']!r:.80}")
    if not whole(shape) or len(shape) > MOST_AXES or not whole(offsets) or len(offsets) != 2:
        raise ValueError(f"{name:.80} has shape {shape!r:.80} at {offsets!r:.80}")
    if math.prod(shape) * np.dtype(TYPES[entry["dtype"]]).itemsize != offsets[1] - offsets[0]:
        raise ValueError(f"{name:.80} has shape {shape} and {offsets[1] - offsets[0]:,} bytes")
    return offsets[0], offsets[1]


def whole(values) -> bool:
    """Whether it is a list of whole numbers that can be sizes."""
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 62 for v in values)


def tensor(file: BufferedReader, entry: Entry) -> np.ndarray:
    """One array of the open file, in the machine's byte order. ValueError if it is cut short."""
    array = np.empty(entry.shape, TYPES[entry.dtype])
    file.seek(entry.start)
    if file.readinto(array.data) != array.nbytes:
        raise ValueError("a tensor is cut short")
    return array.astype(array.dtype.newbyteorder("="), copy=False)
