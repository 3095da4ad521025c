"""Reading files that another hand may have changed, or made up.

A pipe or a device is not waited for; a file larger than any of ours is not loaded; JSON in which a
name stands twice, or a number is none, is refused, since two readers could read it differently.

Read next: engine/run/tensorfile.py, a format read this way.
"""

import errno
import json
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path) -> BinaryIO:
    """The file, open for reading. OSError also for what is no regular file: opening a pipe would
    wait for somebody to write into it, and a device may never end."""
    file = open(path, "rb", opener=at_once)
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
            found = file.read(longest + 1)
            if len(found) <= longest:
                return found
    raise ValueError(f"more than {longest:,} bytes")


def parse(text: bytes):
    """The value that a JSON text in UTF-8 holds. ValueError if it is none, in one line."""
    try:
        return json.loads(text.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def unique(pairs: list[tuple]) -> dict:
    found = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r:.80} stands there twice")
        found[name] = value
    return found


def refuse(constant: str):
    raise ValueError(f"{constant} is no number of JSON")
