"""Where the official sets lie, and how they are fetched when they lie nowhere.

Looked for in: the given folder, $LSUV_DATA_DIR, the user's cache folder; in each, in the set's
official subfolder, then directly. What is fetched is checked against pinned hashes and appears in
the cache folder only when it is whole.

Read next: engine/data/cache.py, which keeps what was read.
"""

import gzip
import hashlib
import logging
import os
import shutil
import tarfile
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pooch

from engine.data import cifar, mnist
from engine.errors import InputError

TIMEOUT = 10  # seconds without an answer, or without a byte, after which fetching is given up
Layout = cifar.Layout | mnist.Layout


class MissingData(InputError):
    """An official set neither on disk nor to be had from the network: why, and the remedy."""

    def __init__(self, name: str, why: str, remedy: str):
        super().__init__(f"data {name}: {why}; {remedy}, or take --data synthetic")
        self.why, self.remedy = why, remedy


def cache_folder() -> Path:
    """Of fetched and of cached sets: ~/.cache/lsuv-engine on Linux, or under $XDG_CACHE_HOME."""
    return Path(pooch.os_cache("lsuv-engine"))


def places(data_dir: str | os.PathLike | None) -> list[Path]:
    """The folders that are searched, in order, each once."""
    candidates = [data_dir, os.environ.get("LSUV_DATA_DIR"), cache_folder()]
    return list(dict.fromkeys(Path(os.path.expanduser(place)) for place in candidates if place))


def find(layout: Layout, data_dir: str | os.PathLike | None) -> Path | None:
    """The first folder that holds a file of the set, or None. One that holds some of the files only
    is found too, so that reading it can name the missing one."""
    for place in places(data_dir):
        for folder in (place / layout.folder, place):
            if any(os.path.isfile(folder / f"{name}{end}")
                   for name in layout.sizes for end in layout.endings):
                return folder
    return None


def obtain(layout: Layout, data_dir: str | os.PathLike | None, report) -> Path:
    """The folder of the set: found, or fetched into the cache folder. Raises MissingData."""
    folder = find(layout, data_dir)
    if folder is not None:
        return folder
    cache = cache_folder()
    reasons = []
    for address in addresses(layout):
        report(f"data {layout.name}: not on this machine, fetching {address} "
               f"({layout.megabytes} MB) into {cache}")
        try:
            return _fetch(layout, address, cache)
        except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
            reasons.append(_reason(address, error))
    searched = ", ".join(str(place) for place in places(data_dir))
    raise MissingData(layout.name,
                      f"not found in {searched} and could not be fetched ({', '.join(reasons)})",
                      f"fetch {' '.join(by_hand(layout))} by hand and unpack it so that "
                      f"{layout.folder}/{next(iter(layout.sizes))} lies in one of these folders")


def addresses(layout: Layout) -> tuple[str, ...]:
    """Where to fetch it: the archive, or the mirrors' folders."""
    return (layout.address,) if isinstance(layout, cifar.Layout) else layout.mirrors


def by_hand(layout: Layout) -> tuple[str, ...]:
    """The same as files that a browser can fetch."""
    if isinstance(layout, cifar.Layout):
        return (layout.address,)
    return tuple(f"{layout.mirrors[0]}{name}.gz" for name in layout.md5)


def _fetch(layout: Layout, address: str, cache: Path) -> Path:
    """Everything happens in a temporary folder of the cache, which is renamed when it is whole."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as work:
        whole = Path(work) / layout.folder
        whole.mkdir()
        if isinstance(layout, cifar.Layout):
            archive = _retrieve(address, f"sha256:{layout.sha256}", Path(work))
            unpack_tar(archive, layout, whole)
        else:
            for name in layout.md5:
                unpack_gzip(_retrieve(f"{address}{name}.gz", None, Path(work)), layout, name, whole)
        final = cache / layout.folder
        try:
            whole.rename(final)
        except OSError:
            if find(layout, cache) != final:  # unless another run was faster
                raise
    return final


def _retrieve(address: str, known_hash: str | None, folder: Path) -> Path:
    with _quiet():
        return Path(pooch.retrieve(address, known_hash, fname=address.rpartition("/")[2],
                                   path=folder,
                                   downloader=pooch.HTTPDownloader(timeout=TIMEOUT)))


@contextmanager
def _quiet():
    """pooch logs each file to standard error; a run speaks for itself."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def unpack_tar(archive: Path, layout: cifar.Layout, into: Path) -> None:
    """Copies the known members, and no other, into `into`. ValueError if one is of another size.

    Names in the archive are compared, never used as paths.
    """
    wanted = {f"{layout.folder}/{name}": (name, size) for name, size in layout.sizes.items()}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.name not in wanted:
                continue
            name, size = wanted.pop(member.name)
            if not member.isreg() or member.size != size:
                raise ValueError(f"{member.name} in the archive has {member.size:,} bytes, "
                                 f"expected {size:,}")
            with tar.extractfile(member) as source, open(into / name, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    if wanted:
        raise ValueError(f"no {next(iter(wanted))} in the archive")


def unpack_gzip(packed: Path, layout: mnist.Layout, name: str, into: Path) -> None:
    """Unpacks one file of known size and MD5 into `into`; ValueError if it is another."""
    with gzip.open(packed) as file:
        data = file.read(layout.sizes[name] + 1)
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != layout.md5[name]:
        raise ValueError(f"{name} unpacked has MD5 {found}, expected {layout.md5[name]}")
    (into / name).write_bytes(data)


def _reason(address: str, error: Exception) -> str:
    """A few words for one line: network libraries' own messages are paragraphs."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"{urlsplit(address).hostname} answers {status}"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError):
        return f"{urlsplit(address).hostname}: {type(error).__name__}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
