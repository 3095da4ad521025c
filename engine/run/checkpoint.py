"""Checkpoints: tensors by name in a safetensors file that other programs read as it is.

    conv11.W                       (outputs, inputs/groups, height, width), maxout's pieces stacked
    ip1.W                          (outputs, inputs), inputs in channel, height, width order
    conv11.b                       (outputs,)
    optimizer.momentum.conv11.W    the optimizer's memory of that tensor, in the same layout
    bn_conv11.mean                 running statistics
    data.mean_image                (H + 2 pad, W + 2 pad, C): `predict` needs no data set

The header's metadata holds step, seed, settings, data set, progress, versions, how the
device computes each convolution (`plans`), and a SHA-256 of every tensor and of the metadata
itself. A file is written beside the old one, flushed, renamed; the old one stays as
checkpoint.previous.safetensors. Reading verifies all of it and falls back to the predecessor, and
says so. A state with a NaN in it is never saved.

Read next: engine/run/weights.py, the same for a net without a run.
"""

import errno
import hashlib
import json
import math
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save as to_bytes

from engine.cli.settings import LENGTH, MAY_CHANGE
from engine.errors import InputError, NotFinite, RunError
from engine.run.files import need, open_regular, parse, plain, write_atomic
from engine.run.folder import BEST, CHECKPOINT, DATA, PREVIOUS, renamed, versions
from engine.run.tensorfile import header, tensor

FORMAT, VERSION = "lsuv-engine checkpoint", 1  # and a later one hashes its metadata the same way
AVERAGE = "optimizer.average."  # before the names of averaged weights, which `ema` makes
DAMAGED = "checkpoint.damaged.safetensors"
LONGEST = 16 << 20  # bytes of a header: it grows by 300 an epoch, so 50,000 epochs


@dataclass
class Saved:
    """A verified checkpoint. `progress` is what `save` was given; `epoch` counts passes over the
    training images."""

    path: Path
    tensors: dict[str, np.ndarray]
    step: int
    epoch: float
    seed: int
    settings: dict
    data: dict
    progress: dict
    plans: dict[str, str]


class Damaged(Exception):
    """A file that is not the checkpoint it was when it was written."""


def outward(param, value: np.ndarray) -> np.ndarray:
    """From the arena's layout to the file's: KRSC -> OIHW, and H,W,C -> C,H,W inputs."""
    if value.ndim == 4:
        value = value.transpose(0, 3, 1, 2)
    elif value.ndim == 2 and len(param.layer.in_shape) == 3:
        value = value.reshape(len(value), *param.layer.in_shape).transpose(0, 3, 1, 2)
        value = value.reshape(len(value), -1)
    return np.array(value, order="C")


def inward(param, value: np.ndarray) -> np.ndarray:
    """From the file's layout back to the arena's."""
    if value.ndim == 4:
        value = value.transpose(0, 2, 3, 1)
    elif value.ndim == 2 and len(param.layer.in_shape) == 3:
        H, W, C = param.layer.in_shape
        value = value.reshape(len(value), C, H, W).transpose(0, 2, 3, 1).reshape(len(value), -1)
    return np.ascontiguousarray(value)


def collect(net, optimizer=None) -> dict[str, np.ndarray]:
    """Every tensor of the net, and of its optimizer, by name, in the file's layout."""
    host, tensors = net.ops.tohost, {}
    for name, param in net.named_params().items():
        tensors[name] = outward(param, host(param.value))
    for name, state in net.named_state().items():
        tensors[name] = np.array(host(state))
    for kind, flat in optimizer.state.items() if optimizer else ():
        for name, param in net.named_params().items():
            tensors[f"optimizer.{kind}.{name}"] = outward(param, host(net.arenas.view(flat, name)))
    return tensors


def restore(saved: Saved, net, optimizer=None, new: Collection[str] = ()) -> None:
    """Write a checkpoint's tensors into a net, and into its optimizer if one is given; without, the
    averaged weights where there are some. The layers named in `new` keep what they have.

    InputError names a tensor that is missing or has another shape, so another net's; nothing has
    been written then."""
    params, pairs = net.named_params(), []
    averaged = optimizer is None and any(
        value.any() for name, value in saved.tensors.items() if name.startswith(AVERAGE)
    )

    def pair(target, name: str, param=None) -> None:
        value = saved.tensors.get(name)
        if value is not None and param is not None and value.ndim == target.ndim:
            value = inward(param, value)
        if value is None or value.shape != tuple(target.shape):
            actual = "nothing" if value is None else f"shape {value.shape}"
            raise InputError(
                f"{saved.path}: {name} should have shape {tuple(target.shape)} and has "
                f"{actual}; it is the checkpoint of another net or optimizer"
            )
        pairs.append((target, net.ops.asarray(value.astype(net.dtype))))

    for name, param in params.items():
        if param.layer.name not in new:
            pair(param.value, AVERAGE * averaged + name, param)
    for name, state in net.named_state().items():
        pair(state, name)
    for kind, flat in optimizer.state.items() if optimizer else ():
        for name, param in params.items():
            pair(net.arenas.view(flat, name), f"optimizer.{kind}.{name}", param)
    for target, value in pairs:
        target[...] = value


def save(
    folder: Path,
    net,
    optimizer,
    *,
    step: int,
    epoch: float,
    settings: dict,
    data: dict,
    data_tensors: dict[str, np.ndarray],
    progress: dict,
) -> Path:
    """Write RUN/checkpoint.safetensors; the one that stood there becomes its predecessor.

    data, data_tensors: the data set's description, and the tensors of its preprocessing.
    RunError if a tensor is not finite or the disk is full; the old files are then untouched."""
    tensors = collect(net, optimizer)
    if name := not_finite(tensors):
        raise NotFinite(
            f"{name} is not finite at step {step}; nothing is saved over the last "
            f"good checkpoint, {folder / CHECKPOINT}; lower --lr, or set --clip"
        )
    if taken := tensors.keys() & data_tensors.keys():
        raise RunError(f"{', '.join(taken)}: a layer has the name of the data's; rename it")
    tensors |= data_tensors
    metadata = {
        "format": f"{FORMAT} {VERSION}",
        "step": str(step),
        "epoch": repr(float(epoch)),
        "seed": str(settings["seed"]),
    }
    metadata |= {
        key: json.dumps(plain(value))
        for key, value in {
            "settings": settings,
            "data": data,
            "progress": progress,
            "versions": versions(),
            "plans": net.ops.plans(),
        }.items()
    }
    path = Path(folder) / CHECKPOINT
    write_file(path, tensors, metadata, previous=path.with_name(PREVIOUS))
    return path


def write_file(
    path: Path,
    tensors: dict[str, np.ndarray],
    metadata: dict[str, str],
    previous: Path | None = None,
) -> None:
    """Write tensors and metadata, with the hashes of both."""
    metadata["hashes"] = json.dumps({name: digest(value) for name, value in tensors.items()})
    metadata["metadata_hash"] = metadata_digest(metadata)
    write_atomic(path, to_bytes(tensors, metadata), previous=previous)


def not_finite(tensors: dict[str, np.ndarray]) -> str | None:
    """The first of them that is not finite."""
    return next((name for name, value in tensors.items() if not np.isfinite(value).all()), None)


def digest(value: np.ndarray) -> str:
    """SHA-256 over type, shape and bytes."""
    kind = f"{value.dtype.str} {value.shape} "
    return hashlib.sha256(kind.encode() + value.tobytes()).hexdigest()


def metadata_digest(metadata: dict[str, str]) -> str:
    rest = {key: value for key, value in metadata.items() if key != "metadata_hash"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read(folder: str | Path, report=print, best: bool = False) -> Saved:
    """The newest checkpoint of a run folder that is whole, or that of its best epoch if it has one.
    `report` is told of a fall-back.

    InputError if neither the checkpoint nor its predecessor can be used, or if it was written by a
    newer version of this program."""
    problems = []
    best = best and (Path(folder) / BEST).exists()
    for name in (*[BEST] * best, CHECKPOINT, PREVIOUS):
        try:
            saved = read_file(Path(folder) / name)
        except Damaged as damage:
            problems.append(f"{name} {damage}")
        else:
            if problems:
                report(f"note: {problems[0]}; using its predecessor {name}, step {saved.step}")
            return saved
    raise InputError(
        f"{folder}: no checkpoint to load ({'; '.join(problems)}); train anew with another --out"
    )


def read_file(path: Path, form: str = FORMAT, about_of: Callable[..., dict] | None = None) -> Saved:
    """One file, every hash verified. Raises Damaged; InputError if a newer version wrote it.

    about_of(metadata, path): what the metadata say, as Saved has it, and `hashes`."""
    if not path.is_file():
        raise Damaged("is missing")
    tensors = {}
    try:
        with open_regular(path) as file:
            metadata, entries = header(file, LONGEST)
            about = (about_of or described)(verified(metadata, path, form), path)
            hashes = about.pop("hashes")
            if set(hashes) != set(entries):
                raise Damaged("is damaged (tensors are missing)")
            for name, entry in entries.items():
                tensors[name] = tensor(file, entry)
                if digest(tensors[name]) != hashes[name]:
                    raise Damaged(f"is damaged ({name} does not match its hash)")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EIO, errno.EINVAL):
            raise  # too many open files, no permission: that is not the file's fault
        raise Damaged(f"is damaged ({error!s:.200})") from None
    return Saved(path, tensors, **about)


def verified(metadata: dict[str, str], path: Path, form: str) -> dict[str, str]:
    """The metadata, if it is this version's and whole."""
    program, _, number = metadata.get("format", "").rpartition(" ")
    if program != form or not (number.isascii() and number.isdigit()):
        raise Damaged(
            f"is not a checkpoint of this program (format {metadata.get('format')!r:.80})"
        )
    if metadata.get("metadata_hash") != metadata_digest(metadata):
        raise Damaged("is damaged (the header does not match its hash)")
    if number != str(VERSION):
        raise InputError(
            f"{path}: a checkpoint of format {number:.80}, and this version of the "
            f"program knows {VERSION}; use the one that wrote it"
        )
    return metadata


def described(metadata: dict[str, str], path: Path) -> dict:
    """What the metadata say of a run, and the hashes. Damaged where `save` would not say so: their
    own hash is no secret."""
    try:
        about = {
            key: parse(metadata[key].encode()) for key in ("settings", "data", "progress", "hashes")
        }
        about["plans"] = parse(metadata.get("plans", "{}").encode())
        need(about, dict.fromkeys(about, dict), path)
        need(about["plans"], dict.fromkeys(about["plans"], str), path)
        need(about["data"], DATA, path)
        step, epoch, seed = (
            kind(metadata[key]) for key, kind in (("step", int), ("epoch", float), ("seed", int))
        )
        if not (step >= 0 and 0 <= epoch < math.inf and seed >= 0):
            raise ValueError(f"step {step}, epoch {epoch}, seed {seed}")
    except (LookupError, TypeError, ValueError) as error:
        raise Damaged(f"is not as this program writes it ({error!s:.200})") from None
    about["settings"] = renamed(about["settings"])
    return {**about, "step": step, "epoch": epoch, "seed": seed}


def set_aside(folder: Path, saved: Saved) -> None:
    """Where the predecessor had to be used, give the damaged file another name: else the next save
    would make it the predecessor, in the place of the only good one."""
    if saved.path.name == PREVIOUS:
        with suppress(FileNotFoundError):
            (folder / CHECKPOINT).replace(folder / DAMAGED)


def refuse_others(saved: Saved, settings: dict, data: dict | None = None) -> None:
    """InputError if the checkpoint is of other settings or of another data set, each by name."""
    for key, value in saved.settings.items():  # one that is no setting any more decides nothing
        if key in settings and key not in (*MAY_CHANGE, *LENGTH) and settings[key] != value:
            raise InputError(
                f"{saved.path}: this checkpoint is of {key} {value}, not "
                f"{settings[key]}; put the run's own files back"
            )
    if data is not None and saved.data["fingerprint"] != data["fingerprint"]:
        raise InputError(
            f"{saved.path}: this checkpoint was trained on data {saved.data['name']} "
            f"(fingerprint {saved.data['fingerprint'][:12]}), not on {data['name']} "
            f"({data['fingerprint'][:12]}); give the same data with --data or --data-dir"
        )
