"""Where the official sets lie, and how they are fetched when they lie nowhere.

Looked for in the folder that is given, and there alone; else in $LSUV_DATA_DIR and the user's cache
folder, and what is in neither is fetched into the latter. What is fetched is checked against pinned
hashes and appears there only when it is whole.

Read next: engine/data/cifar.py, the first reader.
"""

import gzip
import hashlib
import logging
import os
import tarfile
import tempfile
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import pooch

from engine.data.cifar import Cifar
from engine.data.dataset import Layout
from engine.data.mnist import Mnist
from engine.errors import InputError, some

TIMEOUT = 10  # seconds without an answer, or without a byte, after which fetching is given up


class MissingData(InputError):
    """An official set neither on disk nor to be had from the network: why, and the remedy."""

    def __init__(self, name: str, why: str, remedy: str):
        super().__init__(f"data {name}: {why}; {remedy}, or take --data synthetic")
        self.why, self.remedy = why, remedy


def cache_folder() -> Path:
    """Of fetched sets: ~/.cache/lsuv-engine on Linux, or under $XDG_CACHE_HOME."""
    return Path(pooch.os_cache("lsuv-engine"))


def places(data_dir: str | os.PathLike | None) -> list[Path]:
    """The folders that are searched, in order, each once."""
    candidates = [data_dir] if data_dir else [os.environ.get("LSUV_DATA_DIR"), cache_folder()]
    return list(dict.fromkeys(Path(os.path.expanduser(place)) for place in candidates if place))


def find(layout: Layout, data_dir: str | os.PathLike | None) -> Path | None:
    """The first folder that holds a file of the set, or None. One that holds some of the files only
    will do, so that reading it can name the missing one."""
    for place in places(data_dir):
        for folder in (*(place / name for name in (layout.folder, *layout.others)), place):
            if any(layout.path(folder, name) for name in layout.sizes):
                return folder
    return None


def obtain(layout: Layout, data_dir: str | os.PathLike | None, report) -> Path:
    """The set's folder, where it lies or is fetched into the cache folder. Raises MissingData."""
    folder = find(layout, data_dir)
    if folder is not None:
        return folder
    if data_dir is not None:
        raise absent(layout, places(data_dir)[0])
    cache = cache_folder()
    reasons = []
    for address in layout.addresses:
        report(
            f"data {layout.name}: not on this machine, fetching {address} "
            f"({layout.megabytes} MB) into {cache}"
        )
        try:
            return _fetch(layout, address, cache)
        except (OSError, EOFError, LookupError, ValueError, zlib.error, tarfile.TarError) as error:
            reasons.append(_reason(address, error))
    searched = places(data_dir)
    raise MissingData(
        layout.name,
        f"not found in {', '.join(map(str, searched))}"
        f"{pickles(layout, searched)} and could not be fetched "
        f"({', '.join(reasons)})",
        by_hand(layout, "one of these folders"),
    )


def by_hand(layout: Layout, where: str) -> str:
    """The remedy of last resort."""
    address = layout.addresses[0]
    files = [f"{address}{name}.gz" for name in layout.sizes] if address[-1] == "/" else [address]
    return (
        f"fetch {' '.join(files)} by hand and unpack it so that {layout.folder}/"
        f"{next(iter(layout.sizes))} lies in {where}"
    )


def absent(layout: Layout, place: Path) -> MissingData:
    """The error for a folder that was given and lacks the set: what lies there instead."""
    try:
        names = sorted(os.listdir(place))
    except OSError as error:
        raise InputError(f"data-dir {place}: can't be listed ({error.strerror})") from None
    why = f"not in data-dir {place}, which " + (f"holds {some(names)}" if names else "is empty")
    return MissingData(
        layout.name,
        why + pickles(layout, [place]),
        by_hand(layout, "it") + ", or leave --data-dir out",
    )


def pickles(layout: Layout, searched: list[Path]) -> str:
    """Words on torchvision's version of a set, where it lies in one of these folders."""
    if not isinstance(layout, Cifar) or not any(
        place.name == layout.pickles or (place / layout.pickles).exists() for place in searched
    ):
        return ""
    return (
        f" ({layout.pickles} holds pickles, which can run any code and are never read; the "
        "binary version has the same images)"
    )


def _fetch(layout: Layout, address: str, cache: Path) -> Path:
    """Everything happens in a temporary folder of the cache, which is renamed when it is whole."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as work:
        whole = Path(work) / layout.folder
        if isinstance(layout, Cifar):
            members = [f"{layout.folder}/{name}" for name in layout.sizes]
            _retrieve(
                address,
                Path(work),
                f"sha256:{layout.sha256}",
                pooch.Untar(members, extract_dir="."),
            )
            check_members(layout, whole)
        elif isinstance(layout, Mnist):
            whole.mkdir()
            for name in layout.md5:
                packed = _retrieve(f"{address}{name}.gz", Path(work))
                (whole / name).write_bytes(unpacked(packed, layout, name))
        final = cache / layout.folder
        try:
            whole.rename(final)
        except OSError:
            if find(layout, cache) != final:  # unless another run was faster
                raise
    return final


def _retrieve(address: str, folder: Path, known_hash: str | None = None, processor=None) -> Path:
    name, logger = address.rpartition("/")[2], pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it names each file on standard error; a run speaks for itself
    try:
        pooch.retrieve(
            address,
            known_hash,
            fname=name,
            path=folder,
            processor=processor,
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT),
        )
    finally:
        logger.setLevel(level)
    return folder / name


def check_members(layout: Layout, folder: Path) -> None:
    """ValueError unless the files of the set, each of its size, are all that was unpacked."""
    for name, size in layout.sizes.items():
        file = folder / name
        if not file.is_file() or file.is_symlink() or file.stat().st_size != size:
            raise ValueError(f"no {name} of {size:,} bytes in the archive")
    if others := set(os.listdir(folder)) - set(layout.sizes):
        raise ValueError(f"{some(others)} in the archive")


def unpacked(packed: Path, layout: Mnist, name: str) -> bytes:
    """A packed file's content, of known size and MD5; ValueError if it is another.

    The packed files have no known hash, so no more is unpacked than the file may hold."""
    with gzip.open(packed) as file:
        data = file.read(layout.sizes[name] + 1)
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if md5 != layout.md5[name]:
        raise ValueError(f"{name} unpacked has MD5 {md5}, expected {layout.md5[name]}")
    return data


def _reason(address: str, error: Exception) -> str:
    """A few words for one line: network libraries' own messages are paragraphs."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"{urlsplit(address).hostname} answers {status}"
    if isinstance(error, OSError):
        return (
            f"{error.filename}: {error.strerror}"
            if error.strerror and error.filename
            else f"{urlsplit(address).hostname}: {type(error).__name__}"
        )
    return str(error).splitlines()[0] if str(error) else type(error).__name__
