"""Data sets: `load("cifar10")` returns a Dataset, or raises an InputError of one line.

    from engine.data import load
    data = load("auto", wanted="mnist")
    data.train.images.shape, data.notes

Read next: engine/data/download.py, where the official sets come from.
"""

import os
from pathlib import Path

from engine.data import cifar, download, mnist, synthetic
from engine.data.dataset import Dataset, Layout, Raw, Split, build
from engine.errors import InputError, nearest

__all__ = ["FOLDER", "NAMES", "Dataset", "Raw", "Split", "build", "labelled", "load"]

OFFICIAL: dict[str, Layout] = {
    layout.name: layout for layout in (cifar.CIFAR10, cifar.CIFAR100, mnist.MNIST)
}
NAMES = ("auto", *OFFICIAL, "synthetic")
FOLDER = "folder"  # what `auto` has for a net whose data no program may fetch


def load(
    name: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    limit: int | None = None,
    wanted: str | None = None,
    size: tuple[int, ...] | None = None,
    report=print,
    follow_links: bool = False,
) -> Dataset:
    """The data set `name`: auto, cifar10, cifar100, mnist, synthetic, or the path of a folder.

    data_dir: where an official set lies, instead of $LSUV_DATA_DIR and the cache folder.
    limit: keep this many training and this many test images, classes taken in turn.
    wanted: the official set that `auto` tries (cifar10 by default) before it takes synthetic,
    unless a data_dir is given, or FOLDER, which `auto` can't find.
    size: (H, W) or (H, W, C) of a folder's or synthetic images; an official set has its own.
    report: called with a line before something is fetched.
    follow_links: read what links lead to, out of a folder of images too.
    """
    name = os.fspath(name)
    _check(limit, size)
    if data_dir is not None and not os.path.isdir(os.path.expanduser(data_dir)):
        raise InputError(f"data-dir {os.fspath(data_dir)}: no such folder")
    if name == "auto":
        return _auto(wanted or "cifar10", data_dir, limit, size, report)
    if name == "synthetic":
        return _synthetic(limit, size, [])
    if name in OFFICIAL:
        return _official(name, data_dir, limit, size, report)
    root = Path(os.path.expanduser(name))
    if not name or not os.path.isdir(root):
        raise InputError(
            f"unknown data {name!r}, and no folder of that name; "
            f"{nearest(name, NAMES)}, or the path of a folder of images"
        )
    from engine.data import folder  # Pillow is loaded for this alone

    root = root.resolve()
    name = f"{root.name}/"  # the slash tells it from a set of ours
    raw, notes = folder.read(root, size, limit, follow_links)
    height, width = raw.train_images.shape[1:3]
    return build(
        name,
        raw,
        min(height, width) // 4,
        True,
        None,
        [f"data {name}: {note}" for note in notes],
        identity="/".join(raw.classes),
    )


def labelled(
    name: str, data_dir, size: tuple[int, ...], report=print, follow_links: bool = False
) -> tuple[Raw, str, list[str]]:
    """Images to score a trained net on, as the test images of a Raw that has no others, the name of
    the set, and notes: the test images of a set of ours or of a folder, or all the images of a
    folder that holds class folders alone. InputError as of `load`."""
    if name in NAMES:
        data = load(name, data_dir, size=size, report=report)
        none = data.test.images[:0], data.test.labels[:0]
        return Raw(*none, data.test.images, data.test.labels, data.classes), name, []
    from engine.data import folder

    root = Path(os.path.expanduser(name)).resolve()
    raw, notes = folder.labelled(root, size, follow_links)
    name = f"{root.name}/"
    return raw, name, [f"data {name}: {note}" for note in notes]


def _auto(wanted: str, data_dir, limit, size, report) -> Dataset:
    if wanted == FOLDER:
        raise InputError(
            "data auto: this net's data are images of your own; give --data FOLDER, "
            "with train/CLASS/*.png and test/CLASS/*.png in it, or CLASS/*.png"
        )
    if wanted == "synthetic":
        return _synthetic(limit, size, [])
    if wanted not in OFFICIAL:
        raise InputError(f"unknown data {wanted!r}; {nearest(wanted, OFFICIAL)}")
    try:
        return _official(wanted, data_dir, limit, size, report)
    except download.MissingData as missing:
        if data_dir is not None:
            raise
        note = f"data synthetic: {wanted} {missing.why}; to train on {wanted}, {missing.remedy}"
        return _synthetic(limit, size or OFFICIAL[wanted].in_shape, [note])


def _synthetic(limit, size, notes: list[str]) -> Dataset:
    return build("synthetic", synthetic.make(size), synthetic.PAD, True, limit, notes)


def _official(name: str, data_dir, limit, size, report) -> Dataset:
    layout = OFFICIAL[name]
    shape = layout.in_shape
    if size is not None and tuple(size) != shape[: len(size)]:
        raise InputError(
            f"data {name}: images are {'x'.join(map(str, shape))}, not "
            f"{'x'.join(map(str, size))}; choose another net or another data set"
        )
    where = download.obtain(layout, data_dir, report)
    return build(
        name,
        layout.read(where),
        layout.pad,
        layout.mirror,
        limit,
        [f"data {name}: read from {where}"],
        layout.pixel_scale,
    )


def _check(limit, size) -> None:
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}: expected 1 or more images")
    if size is not None and (
        len(size) not in (2, 3) or min(size) < 1 or (len(size) == 3 and size[2] not in (1, 3))
    ):
        raise InputError(
            f"size {tuple(size)}: expected (height, width) or (height, width, "
            f"channels) with 1 or 3 channels"
        )
