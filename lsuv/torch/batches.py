"""What to run the model on: a batch in any usual form, or a loader of them.

A tensor is the model's one argument, a tuple or list its arguments, a mapping its keywords. Of a
pair, such as images and labels, the first is taken where the model has one argument; where it could
take two, it has to be said which is meant. Anything else is iterated, and its first batches are
joined into one: without gradients a pass needs far less memory than a step of training.

Read next: command.py.
"""

import inspect
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import nn

from engine.errors import InputError


def gather(source: Any, batches: int, notes: list[str]) -> Any:
    """The batch to run on: `source` itself, or the first `batches` of a loader, joined."""
    if isinstance(source, (torch.Tensor, Mapping, tuple, list)):
        if batches != 1:
            raise InputError(f"batches {batches}: of a single batch; give a loader, or batches=1")
        return source
    generators = [
        part.generator
        for part in (source, *(getattr(source, n, None) for n in ("sampler", "batch_sampler")))
        if isinstance(getattr(part, "generator", None), torch.Generator)
    ]
    states = [g.get_state() for g in generators]
    started = getattr(source, "_iterator", None)  # where workers persist, the next epoch's too
    try:
        iterator = iter(source)
    except TypeError:
        raise InputError(
            f"a batch of type {type(source).__name__}: give a tensor, tuple, mapping or loader"
        ) from None
    parts = list(islice(iterator, batches))
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    if started is None and isinstance(source, torch.utils.data.DataLoader):
        source._iterator = None
    if len(parts) < batches:
        raise InputError(f"batches {batches}: the loader has only {len(parts)}")
    if iterator is source:
        notes.append(f"{batches} taken from the iterator, which does not give them again")
    return parts[0] if batches == 1 else joined(parts)


def joined(parts: list) -> Any:
    """Batches of one form as one, along axis 0."""
    head = parts[0]
    if isinstance(head, torch.Tensor):
        if head.ndim == 0:
            return head
        if any(part.shape[1:] != head.shape[1:] for part in parts):
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise InputError(f"batches of shapes {shapes} can't be joined; use batches=1")
        return torch.cat(parts)
    if isinstance(head, Mapping):
        return {key: joined([part[key] for part in parts]) for key in head}
    if isinstance(head, (tuple, list)):
        return [joined(list(column)) for column in zip(*parts, strict=True)]
    return head


def moved(batch: Any, device) -> Any:
    """On the device of the model."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    if type(batch) in (tuple, list):
        return type(batch)(moved(value, device) for value in batch)
    return batch


def samples(batch: Any) -> int | None:
    """The length of axis 0 of the first tensor."""
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.ndim else None
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if not isinstance(parts, (tuple, list)) and not isinstance(batch, Mapping):
        return None
    return next((n for n in map(samples, parts) if n is not None), None)


def call(model: nn.Module, batch: Any) -> Any:
    """Run the model on a batch."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if not isinstance(batch, (tuple, list)):
        return model(batch)
    kinds = inspect.Parameter
    names = [
        p
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD, kinds.VAR_POSITIONAL)
    ]
    needed = [p for p in names if p.default is p.empty and p.kind is not kinds.VAR_POSITIONAL]
    many = any(p.kind is kinds.VAR_POSITIONAL for p in names)
    if len(batch) == 2 and len(names) == 1 and not many:
        return model(batch[0])
    if len(batch) == 2 and len(needed) < 2 and not many:
        raise InputError(
            f"a batch of 2 for forward({', '.join(p.name for p in names)}): say what is what by "
            "input_of=lambda batch: batch[0], or forward=lambda model, batch: model(*batch)"
        )
    return model(*batch)
