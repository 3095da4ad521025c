"""A run's folder: run.json, init.json, metrics.csv, and the checkpoints beside them.

run.json is there before the first checkpoint is. `--runs` makes a folder of such folders, seed0,
seed1, ..., and runs.json in it says which they are.

Every file is written whole into a temporary neighbour, flushed to the disk and renamed, so a
reader, or a machine that loses power, sees the old file or the new one and never half of either.

Read next: engine/run/checkpoint.py.
"""

import errno
import json
import math
import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np

from engine.errors import InputError, RunError
from engine.run.files import contents, parse
from kernels.clock import SIZE, STEP

COLUMNS = ("epoch", "step", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
           "images_per_second", "seconds")
RUN, INIT, METRICS, SEEDS = "run.json", "init.json", "metrics.csv", "runs.json"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"

LONGEST_JSON = 4 << 20  # bytes of run.json (a few thousand) and runs.json (600 a run)
LONGEST_METRICS = 8 << 20  # bytes of metrics.csv: 80,000 epochs
FULL = (errno.ENOSPC, errno.EDQUOT)  # what a disk without room answers
NUMBER = (int, float)
# What is needed of run.json, of its data, and of its result once there is one; of runs.json.
RECORD = {"settings": dict, "origins": dict, "data": dict, "device": str,
          "result": (dict, type(None))}
DATA = {"name": str, "fingerprint": str}
SERIES = {"settings": dict, "origins": dict, "runs": int, "result": (dict, type(None))}
# Of a checkpoint's data, where images are to be preprocessed as that was.
DESCRIPTION = {**DATA, "classes": list, "in_shape": list, "pad": int,
               "pixel_scale": (*NUMBER, type(None))}
# Of a checkpoint's progress, and of a row of metrics in it.
PROGRESS = {"clock": list, "rows": list, "images": int, "training": NUMBER,
            "epoch_training": NUMBER, "epoch_images": int, "seconds": NUMBER}
ROW = {**dict.fromkeys(COLUMNS, NUMBER), "epoch": int, "step": int,
       "train_loss": (*NUMBER, type(None)), "test_loss": (*NUMBER, type(None))}
RESULT = {"test_accuracy": NUMBER, "test_error": NUMBER, "test_loss": (*NUMBER, type(None)),
          "epochs": NUMBER, "images_per_second": NUMBER, "device": str, "data": str}


def write_atomic(path: Path, data: bytes, previous: Path | None = None) -> None:
    """Replace `path` by `data`, at once or not at all; what stood there moves to `previous`.

    RunError, with what is on the disk untouched, where the disk is full or the folder is gone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            keep(path, previous)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise RunError(f"cannot write {path}: {error.strerror or error}; what was saved before is "
                       f"kept{remedy(error, path)}") from error


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


def remedy(error: OSError, path: Path) -> str:
    """What helps where the disk is full; of other failures the reason says it."""
    folder = path.parent
    if error.errno not in FULL:
        return ""
    if path.name not in (RUN, INIT, METRICS, SEEDS, CHECKPOINT):
        return "; make room"
    started = (folder / RUN).exists() or (folder / SEEDS).exists()
    return "; make room" + (f", then go on with --resume {to_resume(folder)}" if started else "")


def to_resume(folder: Path) -> Path:
    """What --resume is to be given: this run's folder, or that of all the seeds it is one of."""
    seed = folder.name.startswith("seed") and (folder.parent / SEEDS).exists()
    return folder.parent if seed else folder


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


def write_json(path: Path, value: dict) -> None:
    """`value` as readable JSON. A number that is not finite becomes null, as JSON has none.

    RunError where it is longer than any that is read: names of a hundred thousand classes."""
    text = (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode()
    if len(text) > LONGEST_JSON:
        raise RunError(f"{path}: would have {len(text):,} bytes, and at most {LONGEST_JSON:,} are "
                       "read again; give fewer classes, or shorter names")
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


def read_run(folder: str | Path) -> dict:
    """run.json of a run folder. InputError if there is none, or it is not as it was written."""
    path = Path(folder) / RUN
    found = need(read_json(path), RECORD, path)
    need(found["data"], DATA, path)
    if found["result"] is not None:
        need(found["result"], RESULT, path)
    return found


def read_seeds(folder: Path) -> dict:
    """runs.json of a folder of seeds: the first one's settings, origins, how many runs, and the
    result of their mean, None before the end. InputError as of `read_run`."""
    path = folder / SEEDS
    found = need(read_json(path), SERIES, path)
    if not 2 <= found["runs"] < 1 << 31:
        raise InputError(f"{path}: {found['runs']} runs, and it is for 2 or more, below 2^31; put "
                         "the run's own file back")
    if found["result"] is not None:
        need(found["result"], RESULT, path)
    return found


def read_json(path: Path):
    try:
        return parse(contents(path, LONGEST_JSON))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path.parent}: not a run folder (it holds no {path.name}); give one "
                         "that engine.train wrote") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); put the run's own file back") from None


def need(found, wanted: dict, path: Path) -> dict:
    """`found` if it is a dictionary with these keys, its values of these types, numbers finite and
    true and false no numbers. InputError."""
    for key, kind in wanted.items():
        value = found.get(key, ...) if isinstance(found, dict) else ...
        if not isinstance(value, kind) or isinstance(value, bool) or not finite(value):
            raise InputError(f"{path}: not the {path.name} of a run ({key!r} is missing or of "
                             "another type); put the run's own file back")
    return found


def need_progress(found: dict, step: int, ends: Iterable[int], path: Path) -> dict:
    """What a checkpoint says of the run up to its step, if it can be so. InputError.

    ends: the steps at which the run's epochs end."""
    if missing := sorted(set(PROGRESS) - set(found)):
        raise InputError(f"{path}: its progress lacks {', '.join(missing)}; it was written by "
                         "another version of this program, resume with that one")
    need(found, PROGRESS, path)
    rows = [need(row, ROW, path) for row in found["rows"]]
    ends = [0, *islice(ends, len(rows) + 1)]
    try:
        clock = [float.fromhex(value) for value in found["clock"]]
    except (TypeError, ValueError, OverflowError):
        clock = []
    if len(clock) != SIZE or not all(map(math.isfinite, clock)) or clock[STEP] != step \
            or [row["step"] for row in rows] != ends[1:len(rows) + 1] \
            or not ends[len(rows)] <= step <= ends[-1] \
            or not all(row["epoch"] == number and 0 <= row["train_accuracy"] <= 1
                       and 0 <= row["test_accuracy"] <= 1 for number, row in enumerate(rows, 1)) \
            or not all(0 <= found[key] < 1 << 62 for key in ("images", "epoch_images", "seconds")) \
            or not all(found[key] == 0 or 1e-9 < found[key] < 1 << 62
                       for key in ("training", "epoch_training")):
        raise InputError(f"{path}: its progress is not that of this run at step {step}; put the "
                         "run's own file back")
    return {key: found[key] for key in PROGRESS}


def refuse_other_data(record: dict, data, folder: Path) -> None:
    """InputError unless a run's record is of this data set."""
    before = record["data"]
    if before["fingerprint"] != data.fingerprint:
        raise InputError(f"{folder}: this run began on data {before['name']} (fingerprint "
                         f"{before['fingerprint']}), not on {data.name} ({data.fingerprint}); give "
                         "the same data with --data-dir")


def finite(value) -> bool:
    """Whether a value that is a number is one that a float can be."""
    try:
        return not isinstance(value, NUMBER) or math.isfinite(value)
    except OverflowError:
        return False


def untrained(folder: Path) -> bool:
    """Whether a run was killed before its first checkpoint was there."""
    return not any((folder / name).exists() for name in (CHECKPOINT, PREVIOUS, METRICS))


def new_folder(out: str | Path) -> Path:
    """The folder of a new run, to be `made` when there is something to put into it. InputError if
    a run lives there already."""
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: a file of that name exists; give another --out")
    if (folder / RUN).exists() or (folder / SEEDS).exists():
        raise InputError(f"--out {folder}: a run lives there already; continue it with --resume "
                         f"{folder}, or give another --out")
    if not untrained(folder) or any(folder.glob(f"seed*/{RUN}")):
        raise InputError(f"--out {folder}: parts of a run are there; give another --out")
    return folder


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make `folder`. Where an error ends the context, what was made and is empty is removed.

    InputError if it can't be made, RunError if that is the disk's fault."""
    new = [path for path in (folder, *folder.absolute().parents) if not os.path.lexists(path)]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in new:
                sync_folder(path.absolute().parent)
        except OSError as error:
            kind = RunError if error.errno in (*FULL, errno.EIO) else InputError
            raise kind(f"--out {folder}: cannot be made: {error.filename or folder}: "
                       f"{error.strerror}; give another --out") from None
        yield
    except Exception:
        for path in new:
            with suppress(OSError):
                path.rmdir()
        raise


@contextmanager
def begun(files: dict[Path, dict]) -> Iterator[None]:
    """Write JSON files that tell of a run. Where an error ends the context, those that are new are
    removed: bad input leaves nothing behind, and a process that is killed a run to begin again."""
    new = [path for path in files if not path.exists()]
    try:
        for path, value in files.items():
            write_json(path, value)
        yield
    except Exception:
        for path in new:
            path.unlink(missing_ok=True)
        raise


def default_name(net: str, init: str) -> Path:
    """runs/<net>-<init>-<date>, with a number behind it if that exists."""
    base = f"{net}-{init}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = Path("runs") / base, 2
    while folder.exists():
        folder, number = Path("runs") / f"{base}-{number}", number + 1
    return folder


def write_metrics(folder: Path, rows: list[dict]) -> None:
    """metrics.csv: a header, and a row an epoch."""
    lines = [",".join(COLUMNS)]
    lines += [",".join(cell(row[column]) for column in COLUMNS) for row in rows]
    write_atomic(folder / METRICS, ("\n".join(lines) + "\n").encode())


def cell(value) -> str:
    """A number with the digits that tell two runs apart; JSON's None is nan."""
    return str(value) if isinstance(value, int) else f"{math.nan if value is None else value:.10g}"


def read_metrics(folder: Path) -> list[dict]:
    """The rows of metrics.csv; none if the file is not there yet."""
    path = folder / METRICS
    if not path.exists():
        return []
    try:
        lines = BytesIO(contents(path, LONGEST_METRICS))
        header = lines.readline().decode().rstrip()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); put the run's own file back") from None
    if header != ",".join(COLUMNS):
        raise InputError(f"{path}: its columns are not {','.join(COLUMNS)}")
    try:
        return [{c: int(v) if c in ("epoch", "step") else float(v)
                 for c, v in zip(COLUMNS, line.decode().split(","), strict=True)}
                for line in lines]
    except ValueError as error:
        raise InputError(f"{path}: a damaged row ({error}); put the run's own file back") from None


def describe(data) -> dict:
    """What a checkpoint and run.json say of a data set: enough to preprocess new images as it did.

    pixel_scale: the factor on every pixel where a set is not contrast-normalised per image."""
    fixed = not data.train.shift.any() and np.ptp(data.train.scale) == 0
    return {"name": data.name, "fingerprint": data.fingerprint, "classes": data.classes,
            "in_shape": list(data.in_shape), "pad": data.pad, "mirror": data.mirror,
            "train_images": len(data.train.images), "test_images": len(data.test.images),
            "pixel_scale": float(data.train.scale[0]) if fixed else None, "notes": data.notes}


def versions() -> dict[str, str]:
    """What the numbers may depend on."""
    found = {"python": platform.python_version(), "numpy": np.__version__,
             "system": platform.platform()}
    for package in ("lsuv-engine", "safetensors", "onednn-cpu-gomp"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
