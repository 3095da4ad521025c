"""One run folder, one writer: a lock that dies with its process.

The lock is the system's own (`flock` on the file run.lock), so a process that is killed can't leave
one behind. What stands in the file, host, process and when that began, is for the message to the
second writer, and for the note when the file outlived its process. Reading a run needs no lock.
Where the system has no `flock` (Windows) a run is not locked.

Read next: engine/train.py, which holds it.
"""

import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import InputError

try:
    import fcntl
except ImportError:
    fcntl = None

LOCK = "run.lock"


@contextmanager
def hold(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Be the one writer of `folder` while the context is open.

    InputError names the process that is it already. report: hears of a lock that was left over."""
    if fcntl is None:
        yield
        return
    path = folder / LOCK
    descriptor = taken(path)
    try:
        left = described(descriptor)
        if left:
            report(f"note: {path} was left by {left}, which is gone; taken over")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(this_process()).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def taken(path: Path) -> int:
    """The locked file's descriptor."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o644)
        except IsADirectoryError:
            raise InputError(f"{path}: a folder, and no run's lock; remove it") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InputError(f"{path}: not a file, and no run's lock; remove it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = described(descriptor) or "another process"
            os.close(descriptor)
            raise InputError(f"{path.parent}: {owner} is writing this run; wait for it or stop it, "
                             "or give another --out") from None
        except OSError as error:
            os.close(descriptor)
            raise InputError(f"{path}: this file system has no locks ({error.strerror}); give an "
                             "--out on another one") from None
        # A writer that ends removes the file: the one that we have may no longer be the one there.
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


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


def described(descriptor: int) -> str:
    """The process that a lock file names; "" where it names none."""
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        since = f" since {found['started']}" if found["started"] else ""
        return f"process {int(found['pid'])} on {found['host']}{since}"
    except (ValueError, TypeError, KeyError):
        return ""
