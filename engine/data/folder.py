"""A folder of images: train/CLASS/*.png and test/CLASS/*.png, or CLASS/*.png alone. `test` may be
called val, valid or validation; case does not matter.

Classes and files are taken in natural order (img2 before img10), so a label means the same on every
machine. Names that start with a dot, and what operating systems and storage boxes leave behind, are
passed over; anything else that is no image is an error, since a skipped image would be a silent
change of the data. Links that lead out of the folder are refused unless they are asked for.

Read next: engine/data/pictures.py, one of them.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from engine.data.dataset import Raw, keep
from engine.data.pictures import Unusable, open_picture, read_picture, upright
from engine.errors import InputError, some

LAYOUT = "train/CLASS/*.png and test/CLASS/*.png, or CLASS/*.png"
TEST = ("test", "val", "valid", "validation")  # the first of them that holds class folders
SHARE = 10  # of so many images of a class one is a test image, where no folder is for those
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


class Found(NamedTuple):
    """What a folder holds: its classes, and of training and of testing the files, class by class,
    and their labels (M,) int32. notes: what was passed over or left out."""

    classes: list[str]
    paths: tuple[list[Path], list[Path]]
    labels: tuple[np.ndarray, np.ndarray]
    notes: list[str]


def read(
    root: Path, size: tuple[int, ...] | None, limit: int | None, follow_links: bool = False
) -> tuple[Raw, list[str]]:
    """The set and notes on it. `size` is (H, W) or (H, W, C) with C 1 or 3; by default the most
    common size of the images that `limit` keeps, in colour.

    Grey, palette and CMYK images become RGB (grey if C is 1). Only the kept images are read; images
    of another size are resized (Lanczos).
    """
    classes, (train, test), labels, notes = find(root, limit, follow_links)
    channels = size[2] if size is not None and len(size) == 3 else 3
    height, width = common_size(root, train + test) if size is None else size[:2]
    images, done = read_all(root, train + test, (height, width, channels))
    count = len(train)
    raw = Raw(images[:count], labels[0], images[count:], labels[1], classes)
    return raw, notes + done + [class_sizes(labels, len(classes))]


def find(root: Path, limit: int | None, follow_links: bool) -> Found:
    """The pictures of a folder that `limit` keeps, none of them opened."""
    listing = Listing(root, follow_links)
    splits = listing.splits()
    refuse(root, listing.problems)
    classes, tested = (list(by_class) for by_class in splits.values())
    if unknown := [repr(name) for name in tested if name not in classes]:
        raise InputError(
            f"{root}: class folders for testing alone ({some(unknown)}); give each images to "
            "train on too, or move it away"
        )
    if len(classes) < 2:
        raise InputError(
            f"{root}: one class ({classes[0]!r}), expected two or more class folders; {LAYOUT}"
        )
    if not any(splits["test"].values()):
        raise InputError(f"{root}: no test images; add some, or give CLASS/*.png alone")
    notes = listing.notes()
    if without := [repr(name) for name in classes if not splits["test"].get(name)]:
        notes.append(f"no test images of {len(without):,} classes ({some(without)})")
    splits["test"] = {name: splits["test"].get(name, []) for name in classes}
    paths: list[list[Path]] = []
    labels: list[np.ndarray] = []
    for split, by_class in splits.items():
        files = [path for files in by_class.values() for path in files]
        every = np.repeat(
            np.arange(len(classes), dtype=np.int32), [len(files) for files in by_class.values()]
        )
        chosen = keep(every, limit)
        paths.append([files[i] for i in chosen])
        labels.append(every[chosen])
        if len(chosen) < len(files):
            notes.append(
                f"limit {limit:,} keeps {len(chosen):,} of {len(files):,} {split} images, "
                f"classes taken in turn"
            )
    return Found(classes, (paths[0], paths[1]), (labels[0], labels[1]), notes)


def class_sizes(labels: Iterable[np.ndarray], classes: int) -> str:
    counts = (spread(np.bincount(every, minlength=classes)) for every in labels)
    return f"a class has {next(counts)} training and {next(counts)} test images"


def labelled(
    root: Path, shape: tuple[int, ...], follow_links: bool = False
) -> tuple[Raw, list[str]]:
    """Images of `shape` for testing alone, and notes: those of a folder for testing, or all that
    class folders alone hold. A class may have none."""
    listing = Listing(root, follow_links)
    train, test = listing.tops()
    by_class = listing.classes(test or train or root, may_lack=True)
    refuse(root, listing.problems)
    paths = [path for files in by_class.values() for path in files]
    if not paths:
        raise InputError(f"{root}: no images; expected {LAYOUT}")
    counts = [len(files) for files in by_class.values()]
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    images, notes = read_all(root, paths, shape)
    which = f"those of {(test or train or root).name}/"
    notes = [*listing.notes(), f"{len(paths):,} images, {which}", *notes]
    return Raw(images[:0], labels[:0], images, labels, list(by_class)), notes


def read_all(root: Path, paths: list[Path], shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """These pictures, (M, *shape) uint8, and notes on what was done to them."""
    try:
        images = np.empty((len(paths), *shape), np.uint8)
    except MemoryError as error:
        raise InputError(f"{root}: {error}; give smaller images, or a limit") from None
    changes, sizes = Counter[str](), set()
    for place, picture in enumerate(usable(root, paths, lambda path: read_picture(path, *shape))):
        images[place] = picture.pixels
        changes.update(picture.changes)
        sizes.add(picture.size)
    ends = [f"{h}x{w}" for h, w in sorted(sizes, key=lambda size: (size[0] * size[1], size))]
    notes = [f"pictures of {ends[0]} to {ends[-1]} pixels"] if len(ends) > 1 else []
    return images, notes + change_notes(changes, len(paths))


def change_notes(changes: Counter[str], count: int) -> list[str]:
    return [f"{changes[name]:,} of {count:,} images {name}" for name in sorted(changes)]


def spread(counts: np.ndarray) -> str:
    least, most = int(counts.min()), int(counts.max())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def for_testing(files: list[Path]) -> set[Path]:
    """One in SHARE images of a class, but at least one of several: those whose names have the first
    hashes. No seed decides it: runs of several seeds are scored on one test set, a run folder needs
    nothing to find it again, and a file more or less moves at most one other."""
    count = max(len(files) // SHARE, min(len(files) - 1, 1))
    by_hash = sorted(files, key=lambda path: hashlib.sha256(os.fsencode(path.name)).digest())
    return set(by_hash[:count])


class Listing:
    """What lies in a folder of images. problems: the entries that can't be used. litter: names that
    were passed over, and how often. said: notes on which folder is what.

    Nothing below a class folder is looked into, so that links that go round come to an end."""

    def __init__(self, root: Path, follow_links: bool = False):
        self.root, self.follow = root, follow_links
        self.problems: list[Unusable] = []
        self.litter = Counter[str]()
        self.said: list[str] = []

    def notes(self) -> list[str]:
        """Besides what was said, that something was passed over."""
        if not self.litter:
            return self.said
        return self.said + [
            f"{sum(self.litter.values()):,} entries that are no pictures of yours "
            f"passed over ({some(sorted(self.litter))})"
        ]

    def tops(self) -> tuple[Path | None, Path | None]:
        """The folders of class folders for training and for testing, None where there is none."""
        folders = folders_in(self.root)

        def called(name: str) -> list[Path]:
            found = [folder for folder in folders if folder.name.casefold() == name]
            if len(found) > 1:
                raise InputError(
                    f"{self.root}: {' and '.join(folder.name for folder in found)} differ only in "
                    "case; leave one"
                )
            return found

        train, tests = called("train"), [folder for name in TEST for folder in called(name)]
        if train and not tests:
            if not folders_in(train[0]):
                return None, None  # a class of that name
            if others := [repr(folder.name) for folder in folders if folder != train[0]]:
                raise InputError(
                    f"{self.root}: no folder 'test' beside {train[0].name!r}, but {some(others)}; "
                    f"expected {LAYOUT}, or give {train[0]} alone"
                )
        test = next(filter(folders_in, tests), tests[0] if tests else None)
        aside = [f"{folder.name}/" for folder in tests if folder != test]
        if aside and test is not None:
            self.said.append(f"{test.name}/ is for testing; {some(aside)} not read")
        return train[0] if train else None, test

    def splits(self) -> dict[str, dict[str, list[Path]]]:
        """train and test -> class name to files, all in natural order."""
        train, test = self.tops()
        if test is not None:
            if train is None:
                raise InputError(
                    f"{self.root}: no folder 'train' beside {test.name!r}; expected {LAYOUT}"
                )
            return {"train": self.classes(train), "test": self.classes(test, may_lack=True)}
        whole = self.classes(train or self.root)
        chosen = {name: for_testing(files) for name, files in whole.items()}
        self.said.append(
            f"no folder for testing, so one in {SHARE} images of a class is, by the hash of its "
            f"name: {sum(map(len, chosen.values())):,} of {sum(map(len, whole.values())):,}"
        )
        return {
            split: {
                name: [path for path in files if (path in chosen[name]) == (split == "test")]
                for name, files in whole.items()
            }
            for split in ("train", "test")
        }

    def classes(self, top: Path, may_lack: bool = False) -> dict[str, list[Path]]:
        """Class name to files, both in natural order; may_lack: a class may have none."""
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
            if not paths and not may_lack:
                self.problems.append(
                    Unusable(folder, "no images of this class", "add some or remove the folder")
                )
            by_class[folder.name] = paths
        if not by_class and not self.problems:
            raise InputError(f"{top}: no class folders; expected {LAYOUT}")
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
        inside = (
            self.follow
            or not path.is_symlink()
            or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root))
        )
        if not inside:
            self.problems.append(
                Unusable(
                    path,
                    f"a link that leads out of {self.root}",
                    "copy the file instead, or give --follow-links",
                )
            )
        return inside


def folders_in(folder: Path) -> list[Path]:
    """That are no litter; none where the folder can't be listed, as its own reader will say."""
    with suppress(OSError):
        names = sorted(os.listdir(folder), key=natural)
        return [folder / name for name in names if not litter(name) and (folder / name).is_dir()]
    return []


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


def common_size(root: Path, paths: list[Path]) -> tuple[int, int]:
    """The height and width that most pictures have; of several the smallest."""
    sizes = Counter(
        usable(root, paths, lambda path: open_picture(path, lambda image: upright(image)[0].size))
    )
    return max(
        ((height, width) for width, height in sizes),
        key=lambda shape: (sizes[shape[::-1]], -shape[0] * shape[1], shape),
    )
