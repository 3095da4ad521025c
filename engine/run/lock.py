"""One run folder, one writer: a lock that dies with its process.

The lock is the system's own, on the file run.lock (filelock: `flock`, and its like on Windows), so
a process that is killed can't leave one behind. run.writer says who holds it, host, process and
when that began: for the message to the second writer, and for the note when the file outlived its
process. Reading a run needs no lock.

Read next: tests/run/test_lock.py, engine/run/queue.py.
"""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from engine.errors import InputError, RunError
from engine.run.files import FULL, contents, parse, write_json

LOCK, WRITER = "run.lock", "run.writer"
LONGEST = 4096  # bytes of run.writer


@contextmanager
def hold(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Be the one writer of `folder` while the context is open.

    InputError names the process that is it already; RunError where the disk is full. report: hears
    of a lock that was left over."""
    path = folder / LOCK
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: not a file, and no run's lock; remove it")
    lock = FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{folder}: {writer(folder) or 'another process'} is writing this run; "
            "wait for it or stop it, or give another --out"
        ) from None
    except (OSError, NotImplementedError) as error:
        number, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or error
        kind = RunError if number in (*FULL, errno.EIO) else InputError  # the disk's fault, or not
        raise kind(
            f"{path}: can't be locked ({reason}); give an --out on another file system"
        ) from None
    try:
        if gone := writer(folder):
            report(f"note: {folder / WRITER} was left by {gone}, which is gone; taken over")
        write_json(folder / WRITER, this_process())
        yield
    finally:
        for left in (folder / WRITER, path):  # a waiter that has it open sees that it is gone
            with suppress(OSError):  # some systems remove no file in use
                left.unlink()
        lock.release()


def this_process() -> dict:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid())}


def started(pid: int) -> str:
    """When a process of this machine began, as text; "" where the system does not say."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return ""
    began = time.time() - up + ticks / os.sysconf("SC_CLK_TCK")
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began))


def writer(folder: Path) -> str:
    """The process that run.writer names; "" where it names none."""
    try:
        values = parse(contents(folder / WRITER, LONGEST))
        since = f" since {values['started']}" if values["started"] else ""
        return f"process {int(values['pid'])} on {values['host']}{since}"
    except (OSError, ValueError, TypeError, KeyError):
        return ""
