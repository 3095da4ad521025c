"""A folder of images: train/CLASS/*.png and test/CLASS/*.png, in the formats of FORMATS.

Classes and files are taken in natural order (img2 before img10), so a label means the same on every
machine. Pictures become what a viewer shows: turned as their EXIF orientation says, transparent
ones over white. Names that start with a dot, and what operating systems and storage boxes leave
behind, are passed over; anything else that is no image is an error, since a skipped image would be
a silent change of the data. Links that lead out of the folder are refused, and so is a file that
claims to be a picture of more pixels than its bytes can hold.

Read next: engine/data/synthetic.py, the set that needs no files.
"""

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from engine.data.dataset import Raw, keep
from engine.errors import InputError, some
from engine.run.files import open_regular

# Pillow reads more, but hands EPS to another program, and decodes some formats in Python.
FORMATS = ("PNG", "JPEG", "JPEG2000", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO")
LARGE = 1 << 21  # pixels that any file may claim to have: up to 40 MB of memory
DENSEST = 1_032  # pixels of a larger image to a byte of its file: PNG packs 1,032 bytes into one
BILEVEL = ("1", "P")  # a byte may have eight pixels
DEEP = ("I", "F")  # more than eight bits a value: Pillow would clip them without a word
# What makes a picture upright, by its EXIF orientation; 1 is upright.
Turn = Image.Transpose
TURNS = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
# Of Windows, macOS, Synology, QNAP and Linux; what else they leave starts with a dot.
LITTER = {
    "thumbs.db",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "picasa.ini",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "icon\r",
    "__macosx",
    "network trash folder",
    "temporary items",
    "@eadir",
    "#recycle",
    "#snapshot",
    "@recycle",
    "@recently-snapshot",
    "synoindex_media_info",
    "lost+found",
}
LITTER_ENDINGS = (":zone.identifier", ":encryptable", "@synoeastream", "@synoresource")
Result = TypeVar("Result")


class Unusable(InputError):
    """An entry of the folder that can't be used: its path, why, and the remedy."""

    def __init__(self, path: Path, reason: str, remedy: str):
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path, self.reason = path, reason


def natural(name: str):
    """Sort key: runs of digits count as numbers, then the name itself."""
    parts = re.split(r"([0-9]+)", name)
    return [
        (int(part), "") if i % 2 else (0, part.casefold()) for i, part in enumerate(parts)
    ], name


def litter(name: str) -> bool:
    """Whether no person put a file or folder of that name here."""
    name = name.casefold()
    return name.startswith(".") or name in LITTER or name.endswith(LITTER_ENDINGS)


def read(root: Path, size: tuple[int, ...] | None, limit: int | None) -> tuple[Raw, list[str]]:
    """The set and notes on it. `size` is (H, W) or (H, W, C) with C 1 or 3; by default the most
    common size of the images that `limit` keeps, in colour.

    Grey, palette and CMYK images become RGB (grey if C is 1). Only the kept images are read; images
    of another size are resized (Lanczos).
    """
    listing = Listing(root)
    splits = {split: listing.classes(split) for split in ("train", "test")}
    refuse(root, listing.problems)
    classes, others = (list(by_class) for by_class in splits.values())
    if others != classes:
        alone = [
            f"{name!r} only in {split}"
            for split, by_class in splits.items()
            for name in by_class
            if (name in classes) != (name in others)
        ]
        raise InputError(
            f"{root}: train and test have different classes ({some(alone)}); give "
            f"both the same class folders"
        )
    if len(classes) < 2:
        raise InputError(
            f"{root}: one class ({classes[0]!r}), expected two or more class folders "
            f"in train and in test"
        )
    notes = []
    if listing.litter:
        notes.append(
            f"{sum(listing.litter.values()):,} entries that are no pictures of yours "
            f"passed over ({some(sorted(listing.litter))})"
        )
    paths: list[Path] = []  # of both splits
    labels: list[np.ndarray] = []
    for split, by_class in splits.items():
        files = [path for files in by_class.values() for path in files]
        every = np.repeat(
            np.arange(len(classes), dtype=np.int32), [len(files) for files in by_class.values()]
        )
        chosen = keep(every, limit)
        paths += [files[i] for i in chosen]
        labels.append(every[chosen])
        if len(chosen) < len(files):
            notes.append(
                f"limit {limit:,} keeps {len(chosen):,} of {len(files):,} {split} images, "
                f"classes taken in turn"
            )
    channels = size[2] if size is not None and len(size) == 3 else 3
    height, width = common_size(root, paths) if size is None else size[:2]
    try:
        images = np.empty((len(paths), height, width, channels), np.uint8)
    except MemoryError as error:
        raise InputError(f"{root}: {error}; give smaller images, or a limit") from None
    done = Counter[str]()
    for place, (pixels, changes) in enumerate(
        usable(root, paths, lambda path: read_picture(path, height, width, channels))
    ):
        images[place] = pixels
        done.update(changes)
    notes += [f"{done[change]:,} of {len(paths):,} images {change}" for change in sorted(done)]
    count = len(labels[0])
    return Raw(images[:count], labels[0], images[count:], labels[1], classes), notes


class Listing:
    """What lies in a folder of images. problems: the entries that can't be used. litter: names that
    were passed over, and how often."""

    def __init__(self, root: Path):
        self.root = root
        self.problems: list[Unusable] = []
        self.litter = Counter[str]()

    def classes(self, split: str) -> dict[str, list[Path]]:
        """Class name to files, both in natural order."""
        top = self.root / split
        if not os.path.isdir(top):
            raise InputError(
                f"{self.root}: no folder {split!r}; expected train/CLASS/*.png and test/CLASS/*.png"
            )
        by_class: dict[str, list[Path]] = {}
        for folder in self.entries(top) if self.inside(top) else ():
            if not os.path.isdir(folder):
                self.problems.append(
                    Unusable(folder, "a file beside the class folders", "move it into one or away")
                )
                continue
            paths = self.entries(folder)
            self.problems += [
                Unusable(path, "not a file", "images lie directly in their class folder")
                for path in paths
                if not os.path.isfile(path)
            ]
            if not paths:
                self.problems.append(
                    Unusable(folder, "no images of this class", "add some or remove the folder")
                )
            by_class[folder.name] = paths
        if not by_class and not self.problems:
            raise InputError(f"{top}: no class folders; expected {split}/CLASS/*.png")
        return by_class

    def entries(self, folder: Path) -> list[Path]:
        """What lies in a folder, without litter and links that lead out, in natural order."""
        try:
            names = os.listdir(folder)
        except OSError as error:
            raise InputError(f"{folder}: can't be listed ({error.strerror})") from None
        self.litter.update(filter(litter, names))
        paths = [folder / name for name in sorted(names, key=natural) if not litter(name)]
        return [path for path in paths if self.inside(path)]

    def inside(self, path: Path) -> bool:
        """Whether it is no link that leads out, which is a problem."""
        inside = not path.is_symlink() or Path(os.path.realpath(path)).is_relative_to(
            os.path.realpath(self.root)
        )
        if not inside:
            self.problems.append(
                Unusable(path, f"a link that leads out of {self.root}", "copy the file instead")
            )
        return inside


def refuse(root: Path, problems: list[Unusable]) -> None:
    """One InputError for all of them, if there are any."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        each = (f"{problem.path.relative_to(root)} ({problem.reason})" for problem in problems)
        raise InputError(
            f"{root}: {len(problems):,} entries can't be used: {some(each)}; repair, "
            f"move or remove them"
        )


def usable(root: Path, paths: list[Path], read: Callable[[Path], Result]) -> Iterator[Result]:
    """What `read` gives for each picture; at the end one error for all that can't be read."""
    problems = []
    for path in paths:
        try:
            yield read(path)
        except Unusable as error:
            problems.append(error)
    refuse(root, problems)


def open_picture(path: Path, use: Callable[[Image.Image], Result]) -> Result:
    """use(image) of an opened file. Whatever a damaged file makes Pillow raise names the file: its
    format readers raise many kinds of exception, SyntaxError and struct.error among them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that does not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_regular(path) as file, Image.open(file, formats=formats()) as image:
                pixels, size = image.width * image.height, os.fstat(file.fileno()).st_size
                if pixels > max(LARGE, DENSEST * size * (8 if image.mode in BILEVEL else 1)):
                    raise Unusable(
                        path,
                        f"{image.height:,}x{image.width:,} pixels in a file of {size:,} bytes",
                        "save a smaller image",
                    )
                if image.mode.split(";")[0] in DEEP:
                    raise Unusable(
                        path, f"more than 8 bits a value (mode {image.mode})", "save it with 8"
                    )
                return use(image)
    except InputError:
        raise
    except UnidentifiedImageError:
        reason = f"none of {', '.join(formats())}"
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise Unusable(path, f"not a readable image ({reason})", "repair or remove it")


def formats() -> list[str]:
    """Those of FORMATS that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture as a viewer shows it, and whether that is not as it is stored."""
    if image.format == "PNG":
        image.load()  # its EXIF may lie behind the pixels
    turn = None
    with suppress(Exception):  # damaged EXIF says nothing, and its readers raise many kinds
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    image.load()
    if turn is not None and image.format != "TIFF":  # which Pillow turns as it loads it
        image = image.transpose(turn)
    return image, turn is not None


def common_size(root: Path, paths: list[Path]) -> tuple[int, int]:
    """The height and width that most pictures have; of several the smallest."""
    sizes = Counter(
        usable(root, paths, lambda path: open_picture(path, lambda image: upright(image)[0].size))
    )
    return max(
        ((height, width) for width, height in sizes),
        key=lambda shape: (sizes[shape[::-1]], -shape[0] * shape[1], shape),
    )


def read_picture(
    path: Path, height: int, width: int, channels: int
) -> tuple[np.ndarray, list[str]]:
    """(height, width, channels) uint8, and what was done to the picture besides decoding it."""

    def pixels(image: Image.Image) -> tuple[np.ndarray, list[str]]:
        image, turned = upright(image)
        changes = ["turned upright, as their EXIF orientation says"] if turned else []
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if image.getchannel("A").getextrema()[0] != 255:
                changes.append("laid over white where they are transparent")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            changes.append(f"resized to {height}x{width}")
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        return np.asarray(image, np.uint8).reshape(height, width, channels), changes

    return open_picture(path, pixels)
