"""Files that are whole or not there: written at once, and read as if another hand had made them.

Written: into a temporary neighbour, flushed to the disk, renamed; a reader, or a machine that loses
power, sees the old file or the new one and never half of either. Read: a pipe or a device is not
waited for, a file larger than any of ours is not loaded, and JSON in which a name stands twice, or
a number is none, is refused, since two readers could read it differently.

Read next: engine/run/tensorfile.py, a format read this way.
"""

import errno
import json
import math
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError, RunError

FULL = (errno.ENOSPC, errno.EDQUOT)  # what a disk without room answers
NUMBER = (int, float)


class NoRoom(RunError):
    """The disk is full; what was saved before is untouched."""

    kind = "no room"


def write_atomic(path: Path, data: bytes, previous: Path | None = None) -> None:
    """Replace `path` by `data`, at once or not at all; what stood there moves to `previous`.

    RunError, with what is on the disk untouched, where the folder is gone; NoRoom where the disk is
    full."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with suppress(OSError):
        temporary.unlink()  # what a dead process of this number has left
    try:
        with open(temporary, "xb") as file:  # a new file: never through a link that lies there
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            keep(path, previous)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        kind, remedy = (NoRoom, "; make room") if error.errno in FULL else (RunError, "")
        raise kind(
            f"cannot write {path}: {error.strerror or error}; what was saved before is kept{remedy}"
        ) from error


def keep(path: Path, previous: Path) -> None:
    """Give what stands at `path` the name `previous` too, so that there is no moment without it.
    Where a file system has no second names it is moved."""
    if previous.exists() and path.samefile(previous):  # as a process left them that died here
        return
    second = previous.with_name(f".{previous.name}.{os.getpid()}.part")
    try:
        os.link(path, second)
    except OSError:
        second = path
    os.replace(second, previous)


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed process has left in a folder."""
    for path in folder.glob(".*.part") if os.name == "posix" else ():
        try:
            os.kill(int(path.name.split(".")[-2]), 0)  # signal 0 only asks whether it lives
        except ProcessLookupError:
            with suppress(OSError):
                path.unlink()
        except (PermissionError, ValueError, OverflowError):
            pass


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can: some file systems flush
    no folder, and one that may not be read can't be opened for it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def open_regular(path: str | Path) -> BufferedReader:
    """The file, open for reading. OSError also for what is no regular file: opening a pipe would
    wait for somebody to write into it, and a device may never end."""
    file = open(path, "rb", opener=at_once)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def at_once(path, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def contents(path: str | Path, longest: int) -> bytes:
    """All of a file. ValueError if it has more than `longest` bytes, before they are read."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size <= longest:
            data = file.read(longest + 1)
            if len(data) <= longest:
                return data
    raise ValueError(f"more than {longest:,} bytes")


def parse(text: bytes) -> Any:
    """The value that a JSON text in UTF-8 holds. ValueError if it is none, in one line."""
    try:
        return json.loads(text.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def unique(pairs: list[tuple]) -> dict:
    values: dict = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{name!r:.80} stands there twice")
        values[name] = value
    return values


def refuse(constant: str):
    raise ValueError(f"{constant} is no number of JSON")


def need(values: Any, wanted: Mapping[str, Any], path: Path) -> dict:
    """`values` if it is a dictionary with these keys, its values of these types, numbers finite and
    true and false no numbers. InputError."""
    for key, kind in wanted.items():
        value = values.get(key, ...) if isinstance(values, dict) else ...
        if not isinstance(value, kind) or isinstance(value, bool) or not finite(value):
            raise InputError(
                f"{path}: not the {path.name} of a run ({key!r} is missing or of "
                "another type); put the run's own file back"
            )
    return values


def finite(value) -> bool:
    """Whether a value that is a number is one that a float can be."""
    try:
        return not isinstance(value, NUMBER) or math.isfinite(value)
    except OverflowError:
        return False


def write_json(path: Path, value: dict, longest: int = 4 << 20) -> None:
    """`value` as readable JSON. A number that is not finite becomes null, as JSON has none.

    RunError where it has more than `longest` bytes, the most that are read again: names of a
    hundred thousand classes."""
    text = (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode()
    if len(text) > longest:
        raise RunError(
            f"{path}: would have {len(text):,} bytes, and at most {longest:,} are "
            "read again; give fewer classes, or shorter names"
        )
    write_atomic(path, text)


def plain(value):
    """`value` in JSON's own types."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
