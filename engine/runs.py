"""A run's folder: run.json, init.json, metrics.csv, and the checkpoints beside them.

Every file is written whole into a temporary neighbour, flushed to the disk and renamed, so a
reader, or a machine that loses power, sees the old file or the new one and never half of either.

Read next: engine/checkpoint.py.
"""

import json
import math
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from engine.errors import InputError, RunError

COLUMNS = ("epoch", "step", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
           "images_per_second", "seconds")
RUN, INIT, METRICS = "run.json", "init.json", "metrics.csv"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"


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
            os.replace(path, previous)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise RunError(f"cannot write {path}: {error.strerror or error}; what was saved before is "
                       f"kept; make room, then go on with --resume {path.parent}") from error


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: dict) -> None:
    """`value` as readable JSON. A number that is not finite becomes null, as JSON has none."""
    write_atomic(path, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


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
    """run.json of a run folder. InputError if there is none or it can't be read."""
    path = Path(folder) / RUN
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: not a run folder (it holds no {RUN}); give one that "
                         "engine.train wrote") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
        raise InputError(f"{path}: not the {RUN} of a run")
    return found


def new_folder(out: str | Path) -> Path:
    """Make the folder of a new run. InputError if a run lives there already."""
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: a file of that name exists; give another --out")
    if any((folder / name).exists() for name in (RUN, CHECKPOINT, PREVIOUS, METRICS)):
        raise InputError(f"--out {folder}: a run lives there already; continue it with --resume "
                         f"{folder}, or give another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be made: {error.strerror}") from None
    return folder


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
    """A number with the digits that tell two runs apart."""
    return str(value) if isinstance(value, int) else f"{value:.10g}"


def read_metrics(folder: Path) -> list[dict]:
    """The rows of metrics.csv; none if the file is not there yet."""
    path = folder / METRICS
    if not path.exists():
        return []
    header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if header != ",".join(COLUMNS):
        raise InputError(f"{path}: its columns are not {','.join(COLUMNS)}")
    try:
        return [{c: int(v) if c in ("epoch", "step") else float(v)
                 for c, v in zip(COLUMNS, line.split(","), strict=True)} for line in lines]
    except ValueError as error:
        raise InputError(f"{path}: a damaged row ({error})") from None


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
    for package in ("lsuv-engine", "safetensors", "ml_dtypes", "onednn-cpu-gomp"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
