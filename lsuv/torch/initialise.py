"""`init` and `measure`: LSUV on a PyTorch model, in one forward pass.

Every layer with a weight gets two hooks. Just before it runs for the first time its weight is
filled; just after, the variance of its output is measured, its weight multiplied in place by the
factor that makes it one, and the layer run again, so that all that follows sees the final weights.
No order of layers has to be known, and a layer is run twice, seldom three times.

What a layer does with its weight is not believed but seen: the output of the second run must have
the variance that the factor promises. Where it has not (a weight that is normalised on its way, as
in spectral_norm or NFNet's convolutions), the weight is put back to the bit and the report says
"no effect".

Read next: plan.py.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from engine.errors import InputError, choose
from engine.plan import check_seed
from lsuv.report import Report
from lsuv.torch.batches import call, gather, moved, samples
from lsuv.torch.passes import Run
from lsuv.torch.plan import Options
from lsuv.torch.state import reseed, unchanged

CHOICES = {
    "mode": ("train", "eval", "keep"),
    "bias": ("zero", "keep"),
    "shared": ("first", "pooled"),
    "on_zero": ("skip", "raise"),
}


def init(
    model: nn.Module,
    batch: Any,
    *,
    fill: str | Callable | None = "orthonormal",
    target: float = 1.0,
    tolerance: float = 0.05,
    seed: int = 0,
    include: Iterable[str] = ("*",),
    exclude: Iterable[str] = (),
    pieces: Mapping[str, int] | None = None,
    batches: int = 1,
    mode: str = "train",
    bias: str = "zero",
    shared: str = "first",
    on_zero: str = "skip",
    forward: Callable[[nn.Module, Any], Any] | None = None,
    input_of: Callable[[Any], Any] | None = None,
    strict: bool = False,
    autocast: torch.dtype | None = None,
    adapters: Mapping[type, Callable] | None = None,
) -> Report:
    """Give every layer of `model` with a weight outputs of variance `target`, in place.

    batch: a batch, or a loader of them, which is not advanced (batches.py has the forms). batches:
    so many of a loader's, joined to one. fill: what stands in the weights first: "orthonormal" (the
    engine's own, the same bits for any order of layers), None for what is there, or a function of
    torch.nn.init's kind. tolerance: on |variance / target - 1|, beyond which a note says so, or,
    with shared="pooled", another pass is made. include, exclude: names of layers, with * and ?.
    pieces: {pattern: how many} equal shares of a layer's outputs, each scaled alone, such as
    {"*.qkv": 3}. mode: "train", "eval", or "keep" what each module is in. bias: "zero" them, or
    "keep" them, and solve for the factor. shared: a layer that is called several times is scaled at
    the "first" call, or for all of them "pooled", in several passes. on_zero: "skip" or "raise"
    where an output is constant or not finite. forward: (model, batch) -> anything, how to run the
    model. input_of: batch -> what the model is given. strict: raise for a layer that can't be
    scaled or was not run. autocast: the type to run in. adapters: {class: layer -> Place}, besides
    those of `lsuv.torch.adapter`.

    In a process group every process must call it, with its own share of the batch. Whatever is
    raised, the model is as before: InputError for what the caller can correct, TorchLsuvError for
    a layer (on_zero, strict), and what the model itself raises.
    """
    given = {"mode": mode, "bias": bias, "shared": shared, "on_zero": on_zero}
    for name, value in given.items():
        choose(name, value, CHOICES[name])
    if fill is not None and not callable(fill):
        choose("fill", fill, ["orthonormal"])
    check_seed(seed)
    if not 0 < target < float("inf"):
        raise InputError(f"target {target}: give a number above 0")
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance {tolerance} must be between 0 and 1")
    include, exclude = ([p] if isinstance(p, str) else list(p) for p in (include, exclude))
    options = Options(
        True, fill, target, tolerance, seed, include, exclude, pieces or {}, strict=strict, **given
    )
    return _run(model, batch, options, batches, forward, input_of, autocast, adapters)


def measure(
    model: nn.Module,
    batch: Any,
    *,
    pieces: Mapping[str, int] | None = None,
    batches: int = 1,
    mode: str = "train",
    forward: Callable[[nn.Module, Any], Any] | None = None,
    input_of: Callable[[Any], Any] | None = None,
    autocast: torch.dtype | None = None,
    adapters: Mapping[type, Callable] | None = None,
) -> Report:
    """The same report of a model whose weights stay as they are."""
    options = Options(False, pieces=pieces or {}, mode=choose("mode", mode, CHOICES["mode"]))
    return _run(model, batch, options, batches, forward, input_of, autocast, adapters)


def _run(model, batch, options, batches, forward, input_of, autocast, adapters) -> Report:
    start = time.perf_counter()
    model = unwrapped(model)
    refuse(model)
    if batches < 1:
        raise InputError(f"batches {batches}: must be at least 1")
    run = Run(model, options, adapters or {})
    with unchanged(model, run.devices, options.mode, run.report.notes):
        batch = gather(batch, batches, run.report.notes)
        batch = batch if input_of is None else input_of(batch)
        if len(run.devices) == 1:
            batch = moved(batch, run.devices[0])
        reseed(options.seed)
        run.report.settings |= {"images": samples(batch), "batches": batches}
        device = run.devices[0].type
        with nullcontext() if autocast is None else torch.autocast(device, autocast):
            run.whole(lambda: (forward or call)(model, batch))
    run.report.seconds = time.perf_counter() - start
    return run.report


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own model, without what torch.compile and data parallelism put around it."""
    if not isinstance(model, nn.Module):
        raise InputError(f"a model of type {type(model).__name__}: give a torch.nn.Module")
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        else:
            return model


def refuse(model: nn.Module) -> None:
    """InputError for what can't be initialised as it stands."""
    for name, tensor in model.named_parameters():
        if tensor.is_meta:
            raise InputError(
                f"{name} is on the meta device: model.to_empty(device=...) first, then init"
            )
    if any(type(m).__name__ == "FullyShardedDataParallel" for m in model.modules()):
        raise InputError(
            "FullyShardedDataParallel hides the layers' weights: init before it, or use "
            "torch.distributed.fsdp.fully_shard"
        )
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise InputError("a CUDA graph is being captured: init before the capture")
