"""A run's folder: run.json, init.json, metrics.csv, and the checkpoints beside them.

run.json is there before the first checkpoint is. `--runs` makes a folder of such folders, seed0,
seed1, ..., and a recipe of several stages one of stage1, stage2, ...; runs.json in it says which
they are. Seeds of several stages are folders of such a kind.

Read next: engine/run/files.py, how files are read and written here.
"""

import errno
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

from engine.errors import InputError, RunError, some
from engine.run.files import (
    FULL,
    NUMBER,
    contents,
    need,
    parse,
    sync_folder,
    write_atomic,
    write_json,
)
from kernels.clock import SIZE, STEP

RENAMED = {"head": "loss"}  # a setting's name in older run folders: its present one
# Those whose versions a result may depend on, where they are installed.
PACKAGES = (
    "lsuv-engine",
    "numpy",
    "ml_dtypes",
    "safetensors",
    "Pillow",
    "onednn-cpu-gomp",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "nvidia-cudnn-cu13",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-frontend",
)
COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "images_per_second",
    "seconds",
)
VALIDATED = tuple(column.replace("test", "validation") for column in COLUMNS)  # with --validation
RUN, INIT, METRICS, SERIES = "run.json", "init.json", "metrics.csv", "runs.json"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
BEST = "best.safetensors"  # the checkpoint of the best epoch, with --validation

LONGEST_JSON = 4 << 20  # bytes of run.json (a few thousand) and runs.json (600 a run)
LONGEST_METRICS = 8 << 20  # bytes of metrics.csv: 80,000 epochs
# What is needed of run.json, of its data, and of its result once there is one; of runs.json, and of
# each later stage in it.
RECORD = {
    "settings": dict,
    "origins": dict,
    "data": dict,
    "device": str,
    "result": (dict, type(None)),
}
DATA = {"name": str, "fingerprint": str}
STAGE = {"settings": dict, "origins": dict}
SEVERAL = {**STAGE, "runs": int, "result": (dict, type(None)), "later": list}
# Of a checkpoint's data, where images are to be preprocessed as that was.
DESCRIPTION = {**DATA, "classes": list, "in_shape": list}
# Of a checkpoint's progress, and of a row of metrics in it.
PROGRESS = {
    "clock": list,
    "rows": list,
    "images": int,
    "training": NUMBER,
    "epoch_training": NUMBER,
    "epoch_images": int,
    "seconds": NUMBER,
}
ROW = {
    **dict.fromkeys(COLUMNS, NUMBER),
    "epoch": int,
    "step": int,
    "train_loss": (*NUMBER, type(None)),
    "test_loss": (*NUMBER, type(None)),
}
VALIDATED_ROW = {column: ROW[name] for column, name in zip(VALIDATED, COLUMNS, strict=True)}
RESULT = {
    "test_accuracy": NUMBER,
    "test_error": NUMBER,
    "test_loss": (*NUMBER, type(None)),
    "epochs": NUMBER,
    "images_per_second": NUMBER,
    "device": str,
    "data": str,
}


def to_resume(folder: Path) -> Path:
    """What --resume is to be given: this run's folder, or that of all the seeds or stages that it
    is one of."""
    while folder.name.startswith(("seed", "stage")) and (folder.parent / SERIES).exists():
        folder = folder.parent
    return folder


def runs_in(folder: str | Path) -> list[Path]:
    """The run folders that a folder stands for: itself; of several seeds those that have begun; of
    several stages the last one that is trained."""
    folder = Path(folder)
    if not (folder / SERIES).exists():
        return [folder]
    stages = [path.parent for path in folder.glob(f"stage*/{RUN}")]
    if stages:
        trained = [path for path in stages if not untrained(path)]
        return [max(trained or stages, key=lambda path: (len(path.name), path.name))]
    seeds = {path.parent for name in (RUN, SERIES) for path in folder.glob(f"seed*/{name}")}
    return [run for seed in sorted(seeds) for run in runs_in(seed)] or [folder]


def run_in(folder: str | Path) -> Path:
    """The run folder that a folder stands for. InputError where that are several."""
    found = runs_in(folder)
    if len(found) > 1:
        raise InputError(
            f"{folder}: it holds {len(found)} runs ({some(path.name for path in found)}); give one"
        )
    return found[0]


def read_run(folder: str | Path) -> dict:
    """run.json of a run folder. InputError if there is none, or it is not as it was written."""
    path = Path(folder) / RUN
    record = need(read_json(path), RECORD, path)
    need(record["data"], DATA, path)
    if record["result"] is not None:
        need(record["result"], RESULT, path)
    return record | {"settings": renamed(record["settings"])}


def renamed(settings: dict) -> dict:
    """Settings out of a file, under the names that they have today."""
    return {RENAMED.get(name, name): value for name, value in settings.items()}


def read_series(folder: Path) -> dict:
    """runs.json of a folder of seeds or stages: how many seeds, the first one's settings and
    origins, those of the `later` stages, and the result, None before the end: of stages the last
    one's, of seeds the mean. InputError as of `read_run`."""
    path = folder / SERIES
    series = read_json(path)
    if isinstance(series, dict):
        series = {"later": [], **series}  # it is younger than the file
    need(series, SEVERAL, path)
    later = [need(stage, STAGE, path) for stage in series["later"]]
    if not 1 <= series["runs"] < 1 << 31 or series["runs"] + len(later) < 2:
        raise InputError(
            f"{path}: {series['runs']} runs, and it is for 2 or more, below 2^31, or for several "
            "stages; put the run's own file back"
        )
    if series["result"] is not None:
        need(series["result"], RESULT, path)
    return series | {
        "settings": renamed(series["settings"]),
        "later": [stage | {"settings": renamed(stage["settings"])} for stage in later],
    }


def read_json(path: Path):
    try:
        return parse(contents(path, LONGEST_JSON))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path.parent}: not a run folder (it holds no {path.name}); give one "
            "that engine.train wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); put the run's own file back") from None


def need_progress(
    progress: dict, step: int, ends: Iterable[int], path: Path, shards: int = 1
) -> dict:
    """What a checkpoint says of the run up to its step, if it can be so. InputError.

    ends: the steps at which the run's epochs end. shards: of a step."""
    kinds = PROGRESS | ({"sums": list} if shards > 1 else {})
    if missing := sorted(set(kinds) - set(progress)):
        raise InputError(
            f"{path}: its progress lacks {', '.join(missing)}; it was written by "
            "another version of this program, resume with that one"
        )
    need(progress, kinds, path)
    rows, kind = progress["rows"], ROW
    if rows and isinstance(rows[0], dict) and "validation_loss" in rows[0]:
        kind = VALIDATED_ROW
    rows = [need(row, kind, path) for row in rows]
    ends = [0, *islice(ends, len(rows) + 1)]
    try:
        clock = [float.fromhex(value) for value in progress["clock"]]
        sums = [[float.fromhex(value) for value in row] for row in progress.get("sums", [])]
    except (TypeError, ValueError, OverflowError):
        clock, sums = [], []
    if (
        len(clock) != SIZE
        or (shards > 1 and [len(row) for row in sums] != [3] * shards)
        or not all(math.isfinite(value) for row in sums for value in row)
        or not all(map(math.isfinite, clock))
        or clock[STEP] != step
        or [row["step"] for row in rows] != ends[1 : len(rows) + 1]
        or not ends[len(rows)] <= step <= ends[-1]
        or not all(
            row["epoch"] == number
            and all(0 <= row[column] <= 1 for column in kind if column.endswith("accuracy"))
            for number, row in enumerate(rows, 1)
        )
        or not all(0 <= progress[key] < 1 << 62 for key in ("images", "epoch_images", "seconds"))
        or not all(
            progress[key] == 0 or 1e-9 < progress[key] < 1 << 62
            for key in ("training", "epoch_training")
        )
    ):
        raise InputError(
            f"{path}: its progress is not that of this run at step {step}; put the "
            "run's own file back"
        )
    return {key: progress[key] for key in kinds}


def refuse_other_data(record: dict, data, folder: Path) -> None:
    """InputError unless a run's record is of this data set."""
    before = record["data"]
    if before["fingerprint"] != data.fingerprint:
        raise InputError(
            f"{folder}: this run began on data {before['name']} (fingerprint "
            f"{before['fingerprint']}), not on {data.name} ({data.fingerprint}); give "
            "the same data with --data or --data-dir"
        )


def untrained(folder: Path) -> bool:
    """Whether a run was killed before its first checkpoint was there."""
    return not any((folder / name).exists() for name in (CHECKPOINT, PREVIOUS, METRICS))


def new_folder(out: str | Path) -> Path:
    """The folder of a new run, to be `made` when there is something to put into it. InputError if
    a run lives there already."""
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: a file of that name exists; give another --out")
    if (folder / RUN).exists() or (folder / SERIES).exists():
        raise InputError(
            f"--out {folder}: a run lives there already; continue it with --resume "
            f"{folder}, or give another --out"
        )
    parts = (f"seed*/{RUN}", f"stage*/{RUN}", f"seed*/{SERIES}")
    if not untrained(folder) or any(any(folder.glob(part)) for part in parts):
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
            raise kind(
                f"--out {folder}: cannot be made: {error.filename or folder}: "
                f"{error.strerror}; give another --out"
            ) from None
        yield
    except Exception:
        for path in new:
            with suppress(OSError):
                path.rmdir()
        raise


@contextmanager
def begun(files: dict[Path, dict]) -> Iterator[None]:
    """Write JSON files that tell of a run. Where an error ends the context, those that are new are
    removed: bad input leaves nothing behind, and a process that is killed a run to begin again. A
    run that fails (RunError) keeps them, for they say why."""
    new, written = [path for path in files if not path.exists()], False
    try:
        for path, value in files.items():
            write_json(path, value)
        written = True
        yield
    except Exception as error:
        if not (written and isinstance(error, RunError)):
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
    columns = VALIDATED if rows and VALIDATED[5] in rows[0] else COLUMNS
    lines = [",".join(columns)]
    lines += [",".join(cell(row[column]) for column in columns) for row in rows]
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
    columns = VALIDATED if header == ",".join(VALIDATED) else COLUMNS
    if header != ",".join(columns):
        raise InputError(f"{path}: its columns are not {','.join(COLUMNS)}")
    try:
        return [
            {
                c: int(v) if c in ("epoch", "step") else float(v)
                for c, v in zip(columns, line.decode().split(","), strict=True)
            }
            for line in lines
        ]
    except ValueError as error:
        raise InputError(f"{path}: a damaged row ({error}); put the run's own file back") from None


def describe(data) -> dict:
    """What a checkpoint and run.json say of a data set: with the tensors of its preprocessing it is
    enough to preprocess new images alike."""
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "classes": data.classes,
        "in_shape": list(data.in_shape),
        **data.preprocessing.description(),
        "mirror": data.mirror,
        "train_images": len(data.train.images),
        "test_images": len(data.test.images),
        "notes": data.notes,
    }


def versions() -> dict[str, str]:
    """What the numbers may depend on."""
    numbers = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            numbers[package] = version(package)
    return numbers
