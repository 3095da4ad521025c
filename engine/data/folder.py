"""A folder of images: train/CLASS/*.png and test/CLASS/*.png, in the formats of FORMATS.

Classes and files are taken in natural order (img2 before img10), so a label means the same on every
machine. Names that start with a dot are skipped; anything else that is no image is an error, since
a skipped image would be a silent change of the data. Links that lead out of the folder are refused,
and so is a file that claims to be a picture of more pixels than its bytes can hold.

Read next: engine/data/synthetic.py, the set that needs no files.
"""

import os
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from engine.data.dataset import Raw, keep
from engine.errors import InputError
from engine.run.files import open_regular

MODES = {1: "L", 3: "RGB"}
# Pillow reads more, but hands EPS to another program, and decodes some formats in Python.
FORMATS = ("PNG", "JPEG", "JPEG2000", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO")
LARGE = 1 << 21  # pixels that any file may claim to have: up to 40 MB of memory
DENSEST = 1_032  # pixels of a larger image to a byte of its file: PNG packs 1,032 bytes into one
BILEVEL = ("1", "P")  # a byte may have eight pixels
DEEP = ("I", "F")  # more than eight bits a value: Pillow would clip them without a word


def natural(name: str):
    """Sort key: runs of digits count as numbers, then the name itself."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if i % 2 else (0, part.casefold()) for i, part in enumerate(parts)], \
        name


def read(root: Path, size: tuple[int, ...] | None, limit: int | None) -> tuple[Raw, list[str]]:
    """The set and notes on it. `size` is (H, W) or (H, W, C) with C 1 or 3; by default the most
    common size of the images that `limit` keeps, in colour.

    Grey, palette, CMYK and transparent images become RGB (grey if C is 1; transparency is dropped).
    Only the kept images are read; images of another size are resized (Lanczos).
    """
    splits = {split: _list(root, split) for split in ("train", "test")}
    classes = list(splits["train"])
    if list(splits["test"]) != classes:
        missing = sorted(set(classes) ^ set(splits["test"]))
        raise InputError(f"{root}: train and test have different classes ({missing[0]!r} is in one "
                         f"of them only); give both the same class folders")
    if len(classes) < 2:
        raise InputError(f"{root}: one class ({classes[0]!r}), expected two or more class folders "
                         f"in train and in test")
    files, labels, notes = {}, {}, []
    for split, by_class in splits.items():
        names = [path for paths in by_class.values() for path in paths]
        every = np.repeat(np.arange(len(classes), dtype=np.int32),
                          [len(paths) for paths in by_class.values()])
        chosen = keep(every, limit)
        files[split], labels[split] = [names[i] for i in chosen], every[chosen]
        if len(chosen) < len(names):
            notes.append(f"limit {limit:,} keeps {len(chosen):,} of "
                         f"{len(names):,} {split} images, classes taken in turn")
    channels = size[2] if size is not None and len(size) == 3 else 3
    sizes = Counter(_size(path) for paths in files.values() for path in paths)
    if size is None:
        height, width = max(sizes, key=lambda shape: (sizes[shape], -shape[0] * shape[1], shape))
    else:
        height, width = size[:2]
    resized = sum(sizes.values()) - sizes[height, width]
    if resized:
        notes.append(f"{resized:,} of {sum(sizes.values()):,} images resized to "
                     f"{height}x{width}")
    images = {}
    for split, paths in files.items():
        try:
            images[split] = np.empty((len(paths), height, width, channels), np.uint8)
        except MemoryError as error:
            raise InputError(f"{root}: {error}; give smaller images, or a limit") from None
        for place, path in zip(images[split], paths):
            place[...] = _pixels(path, height, width, channels)
    return Raw(images["train"], labels["train"], images["test"], labels["test"], classes), notes


def _list(root: Path, split: str) -> dict[str, list[Path]]:
    """Class name to files, both in natural order."""
    top = root / split
    if not os.path.isdir(top):
        raise InputError(f"{root}: no folder {split!r}; expected train/CLASS/*.png and "
                         f"test/CLASS/*.png")
    _inside(root, top)
    found = {}
    for folder in _visible(root, top):
        if not os.path.isdir(folder):
            raise InputError(f"{folder}: a file beside the class folders; move it into one or "
                             f"away")
        found[folder.name] = _visible(root, folder)
        if not found[folder.name]:
            raise InputError(f"{folder}: no images of this class; add some or remove the folder")
        for path in found[folder.name]:
            if not os.path.isfile(path):
                raise InputError(f"{path}: not a file; images lie directly in their class folder")
    if not found:
        raise InputError(f"{top}: no class folders; expected {split}/CLASS/*.png")
    return found


def _visible(root: Path, folder: Path) -> list[Path]:
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: can't be listed ({error.strerror})") from None
    paths = [folder / name for name in sorted(names, key=natural)]
    for path in paths:
        _inside(root, path)
    return paths


def _inside(root: Path, path: Path) -> None:
    if not path.is_symlink():
        return
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a loop of links
        inside = False
    if not inside:
        raise InputError(f"{path}: a link that leads out of {root}; copy the file instead")


def _open(path: Path, use):
    """use(image) of an opened file. Whatever a damaged file makes Pillow raise names the file: its
    format readers raise many kinds of exception, SyntaxError and struct.error among them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that does not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_regular(path) as file, Image.open(file, formats=formats()) as image:
                pixels, size = image.width * image.height, os.fstat(file.fileno()).st_size
                if pixels > max(LARGE, DENSEST * size * (8 if image.mode in BILEVEL else 1)):
                    raise InputError(f"{path}: {image.height:,}x{image.width:,} pixels in a file "
                                     f"of {size:,} bytes; save a smaller image")
                if image.mode.split(";")[0] in DEEP:
                    raise InputError(f"{path}: more than 8 bits a value (mode {image.mode}); save "
                                     f"it with 8")
                return use(image)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a readable image (none of {', '.join(formats())}); repair "
                         f"or remove it") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable image ({reason}); repair or remove it") from None


def formats() -> list[str]:
    """Those of FORMATS that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _size(path: Path) -> tuple[int, int]:
    return _open(path, lambda image: (image.height, image.width))


def _pixels(path: Path, height: int, width: int, channels: int) -> np.ndarray:
    """(height, width, channels) uint8."""
    def pixels(image):
        image = image.convert(MODES[channels])
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        return np.asarray(image, np.uint8).reshape(height, width, channels)
    return _open(path, pixels)
