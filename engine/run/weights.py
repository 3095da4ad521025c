"""A net of one's own in a file: `engine.save` and `engine.restore`.

A safetensors file like a run's checkpoint, tensors by name in PyTorch's layout and every one
hashed, but of a net without a run: its metadata hold the net's clock and, where an optimizer is
saved too, whose memory it is, so that `engine.fit` goes on as if nothing had been.

Read next: engine/evaluate.py, which looks at what a run has left.
"""

import json
import math
from pathlib import Path

import numpy as np

from engine.data.feed import read_clock, write_clock
from engine.errors import InputError, NotFinite
from engine.run import checkpoint
from engine.run.checkpoint import Damaged, Saved
from engine.run.files import NUMBER, need, parse
from engine.run.folder import BEST, CHECKPOINT, PREVIOUS, run_in, versions
from kernels.clock import SIZE, STEP

FORM, VERSION = "lsuv-engine net", 1
TRAINED = {"clock": list, "epochs": NUMBER, "optimizer": (str, type(None)), "begun": int}


def save(net, path: str | Path, optimizer=None) -> None:
    """Write the net's weights and statistics to a file, and the optimizer's memory if it is given.

    The file is written at once or not at all. RunError names a tensor that is not finite."""
    tensors, path = checkpoint.collect(net, optimizer), Path(path)
    if name := checkpoint.not_finite(tensors):
        raise NotFinite(f"{name} is not finite; nothing is written to {path}")
    trained = {
        "clock": [float(value).hex() for value in read_clock(net)],
        "epochs": float(net.epochs),
        "optimizer": type(optimizer).__name__ if optimizer else None,
        "begun": optimizer.begun if optimizer else 0,
    }
    metadata = {"format": f"{FORM} {VERSION}"}
    metadata |= {"trained": json.dumps(trained), "versions": json.dumps(versions())}
    checkpoint.write_file(path, tensors, metadata)


def restore(net, path: str | Path, optimizer=None) -> None:
    """Read what `save` wrote, or a run's newest checkpoint (the folder, or the file), into a net of
    the same layers; with an optimizer its memory and the net's clock too, and training goes on
    where it stood. Without, a run's averaged weights are taken where it has them.

    InputError for a damaged file, or one of another net or optimizer, with nothing changed."""
    saved, name = read(path), type(optimizer).__name__
    if optimizer is not None:
        if saved.progress.get("optimizer", name) != name:
            raise InputError(
                f"{path}: it holds the memory of {saved.progress['optimizer'] or 'no optimizer'}, "
                f"not of {name}; leave the optimizer out, or make that one"
            )
        clock = np.array([float.fromhex(value) for value in saved.progress["clock"]])
    checkpoint.restore(saved, net, optimizer)
    if optimizer is not None:
        write_clock(net, clock)
        net.epochs, optimizer.begun = saved.epoch, saved.progress.get("begun", 0)


def transfer(net, path: str | Path, more: bool = False) -> list[str]:
    """Read trained weights into a net of other classes too -> the names of the layers that they do
    not fit, so the last one, or none; more: or, that they do not have. InputError for weights of
    another net."""
    saved, last = read(path), net.weighted()[-1]
    W = saved.tensors.get(f"{last.name}.W", last.W)
    new = [last.name] if len(W) != len(last.W) else []
    if more:
        params = net.named_params().items()
        new += [p.layer.name for name, p in params if name not in saved.tensors]
    new = list(dict.fromkeys(new))
    checkpoint.restore(saved, net, new=new)
    return new


def read(path: str | Path) -> Saved:
    """A file of `save`, or a run's newest checkpoint: its folder, or its file. InputError."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such run or file of weights; look at the name")
    if not path.is_file():
        return checkpoint.read(run_in(path), best=True)
    try:
        if path.name in (CHECKPOINT, PREVIOUS, BEST):
            return checkpoint.read_file(path)
        return checkpoint.read_file(path, FORM, about)
    except Damaged as damage:
        raise InputError(
            f"{path}: {damage}; give a file that engine.save wrote, or a run's folder"
        ) from None


def about(metadata: dict[str, str], path: Path) -> dict:
    """What the metadata of such a file say. Damaged where `save` would not say so."""
    try:
        trained, hashes = (parse(metadata[key].encode()) for key in ("trained", "hashes"))
        need(trained, TRAINED, path)
        need(hashes, dict.fromkeys(hashes, str), path)
        clock = [float.fromhex(value) for value in trained["clock"]]
        if len(clock) != SIZE or not all(map(math.isfinite, clock)) or min(clock) < 0:
            raise ValueError(f"a clock of {clock!s:.80}")
        if not 0 <= trained["begun"] <= clock[STEP]:
            raise ValueError(f"an optimizer that began at step {trained['begun']}")
    except (LookupError, TypeError, ValueError, OverflowError, InputError) as error:
        raise Damaged(f"is not as this program writes it ({error!s:.200})") from None
    return {
        "step": int(clock[STEP]),
        "epoch": trained["epochs"],
        "seed": 0,
        "settings": {},
        "data": {},
        "progress": trained,
        "plans": {},
        "hashes": hashes,
    }
