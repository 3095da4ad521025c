"""A whole official set as it was computed once, in the user's cache folder, for the next run.

`load` gives what `make` would, to the bit: the file CACHE/NAME.safetensors holds both splits, the
mean image and the fingerprint, and is used only if

* it was made of these very source files: folder, size, inode, modification and change time of each
  are compared (the change time can't be set back). Files that changed within the last two seconds
  are not trusted to show the next change in their times, and are not cached yet;
* it was made by this very code: the sources of the readers and of preprocessing are hashed;
* its fingerprint, a SHA-256, is that of the arrays just read. So the fingerprint that a run prints
  is always that of the bytes it sees.

Anything else is a note, and the file is made anew. Deleting it is always safe; where the folder
can't be written (XDG_CACHE_HOME=/dev/null turns the cache off) a set is computed every time. A set
under a limit is another set, and quick to make: it is never cached.

Read next: tests/data/test_cache.py.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import save_file

from engine.run import tensorfile
from engine.data import cifar, dataset, mnist
from engine.data import preprocessing as preprocess
from engine.data.dataset import Dataset, Split, fingerprint
from engine.data.download import Layout, cache_folder
from engine.run.files import open_regular
from engine.run.files import sweep, sync_folder

SETTLED = 2.0  # seconds: the coarsest tick of a file system's clock, FAT's
LONGEST = 1 << 20  # bytes of a header; ours has about 2,000
MAKERS = (cifar, mnist, dataset, preprocess)  # a set's bits depend on the code in these


class Unusable(Exception):
    """A cache file of something else, or damaged; says which."""


def load(layout: Layout, where: Path, make: Callable[[], Dataset]) -> Dataset:
    """The set of the files in `where`, from the cache or else from `make`, which is then cached.

    Its notes get one line on where it came from."""
    path = cache_folder() / f"{layout.name}.safetensors"
    files, settled = identity(where, layout)
    origin = {"files": files, "code": code()}
    said = f"data {layout.name}: read from {where}"
    try:
        data = read(path, layout, origin)
    except (FileNotFoundError, NotADirectoryError):
        problem = ""
    except Unusable as error:
        problem = f", which {error}"
    else:
        data.notes.append(f"{said} (cached in {path})")
        return data
    data = make()
    if settled:
        said += f", {write(path, data, origin)} {path}{problem}"
    elif problem:
        said += f", not from {path}{problem}"
    data.notes.append(said)
    return data


def identity(where: Path, layout: Layout) -> tuple[str, bool]:
    """What changes with every change of the source files, and whether it will with the next one.

    A file that may be there under several names counts under each: another one may be read next."""
    found, newest, now = {}, 0, time.time()  # the time before anything is read
    for name in layout.sizes:
        for end in layout.endings:
            try:
                s = os.stat(where / f"{name}{end}")
            except OSError:
                continue
            found[f"{name}{end}"] = (s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns)
            newest = max(newest, s.st_mtime_ns, s.st_ctime_ns)
    return json.dumps([str(where.resolve()), found]), newest / 1e9 < now - SETTLED


def code() -> str:
    """SHA-256 of the code that a cached set's bits depend on."""
    digest = hashlib.sha256()
    for module in MAKERS:
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def tensors(layout: Layout) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name to type and shape of every tensor in the file."""
    height, width, channels = layout.in_shape
    found = {"mean_image": ("F32", (height + 2 * layout.pad, width + 2 * layout.pad, channels))}
    for split, count in zip(("train", "test"), layout.counts, strict=True):
        found[f"{split}.images"] = ("U8", (count, height, width, channels))
        found[f"{split}.labels"] = ("I32", (count,))
        found[f"{split}.shift"] = found[f"{split}.scale"] = ("F32", (count,))
    return found


def read(path: Path, layout: Layout, origin: dict[str, str]) -> Dataset:
    """The set in the file, verified. Unusable if it isn't one of this origin; OSError if there is
    no file.

    The file is safetensors, read straight into the arrays: the library would hold it twice."""
    values = {}
    try:
        with open_regular(path) as file:
            metadata, entries = tensorfile.header(file, LONGEST)
            for key, value in origin.items():
                if metadata[key] != value:
                    raise Unusable(f"was made from other {key}")
            found = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
            if found != tensors(layout):
                raise ValueError("its tensors are not this set's")
            for name, entry in entries.items():
                values[name] = tensorfile.tensor(file, entry)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise Unusable(f"could not be read ({error.strerror or error})") from None
    except (ValueError, LookupError) as error:
        raise Unusable(f"was damaged ({error})") from None
    train, test = (Split(*(values[f"{split}.{field}"]
                           for field in ("images", "labels", "shift", "scale")))
                   for split in ("train", "test"))
    mean = values["mean_image"]
    found = fingerprint(layout.name, train, test, mean)
    if found != metadata.get("fingerprint"):
        raise Unusable(f"was damaged (its fingerprint is {found})")
    return Dataset(layout.name, train, test, mean, layout.pad, layout.mirror, list(layout.classes),
                   found, layout.in_shape)


def write(path: Path, data: Dataset, origin: dict[str, str]) -> str:
    """Replace the file by one that holds `data`, at once or not at all -> what became of it.

    Several processes may do so at once: each writes a file of its own and renames it."""
    values = {f"{split}.{field}": value for split in ("train", "test")
              for field, value in vars(getattr(data, split)).items()}
    values["mean_image"] = data.mean_image
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)  # a killed process may have left as much as is about to be written
        descriptor, name = tempfile.mkstemp(f".{os.getpid()}.part", f".{path.name}.", path.parent)
        os.close(descriptor)
        try:
            save_file(values, name, origin | {"fingerprint": data.fingerprint})
            with open(name, "r+b") as file:
                os.fsync(file.fileno())
            os.replace(name, path)
            sync_folder(path.parent)
        finally:
            Path(name).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        return f"not cached ({reason}) in"
    return "now cached in"
