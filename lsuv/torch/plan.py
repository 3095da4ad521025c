"""Which weights a model has, and which of them are to be scaled.

Read next: passes.py, which does it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import UninitializedParameter

from engine.errors import InputError, nearest
from lsuv.torch.adapters import places
from lsuv.torch.weights import Weight, is_sharded


@dataclass
class Options:
    """Of `init`, which explains them; `measure` has scaling=False."""

    scaling: bool
    fill: str | Callable | None = None
    target: float = 1.0
    tolerance: float = 0.05
    seed: int = 0
    include: list[str] = field(default_factory=lambda: ["*"])
    exclude: list[str] = field(default_factory=list)
    pieces: Mapping[str, int] = field(default_factory=dict)
    mode: str = "train"
    bias: str = "keep"
    shared: str = "first"
    on_zero: str = "skip"
    strict: bool = False

    def as_settings(self) -> dict:
        settings: dict = {"algorithm": "lsuv" if self.scaling else "none", "mode": self.mode}
        if self.scaling:
            settings["fill"] = getattr(self.fill, "__name__", self.fill)
            for name in ("target", "tolerance", "seed", "bias", "shared", "include", "exclude"):
                settings[name] = getattr(self, name)
        return settings | {"pieces": dict(self.pieces)}


def find(
    model: nn.Module, options: Options, adapters: Mapping[type, Callable]
) -> dict[nn.Module, list[Weight]]:
    """The weights by the module whose hooks serve them, in the order of the model's definition.
    Each knows whether it is to be scaled, or why not."""
    weights: dict[nn.Module, list[Weight]] = {}
    claimed = set()
    for full, module in model.named_modules():
        for place in places(module, adapters):
            name = f"{full.replace('._orig_mod', '')}.{place.name}".strip(".")
            name = name or type(module).__name__
            fits = (n for p, n in options.pieces.items() if fnmatchcase(name, p))
            weight = Weight(name, module, place, next(fits, place.pieces))
            at = (weight.owner, weight.attribute)
            absent = weight.owner._parameters.get(weight.attribute, weight) is None
            if at not in claimed and not absent:  # attention's out_proj is a module too
                claimed.add(at)
                weights.setdefault(module, []).append(weight)
    every = [w for own in weights.values() for w in own]
    _check(options, [w.name for w in every])
    embedded = {
        p.data_ptr(): name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        for p in module._parameters.values()
        if p is not None
    }
    for w in every:
        w.why = [_why(w, options, embedded)] * w.pieces
        w.scaling = not w.why[0]
    return weights


def _check(options: Options, names: list[str]) -> None:
    """InputError for a pattern that names no layer."""
    for pattern in [*options.include, *options.exclude, *options.pieces]:
        if pattern != "*" and not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"no layer with weights is called {pattern!r}; {nearest(pattern, names)}"
            )


def _why(w: Weight, options: Options, embedded: dict[int, str]) -> str:
    """Why a weight is not to be scaled; "" where it is."""
    if not w.tensors():
        return "unsupported: its weight is no parameter of floats"
    w.memory, w.sharded = w.key(), is_sharded(w.leaf())
    if not options.scaling:
        return "measured"
    if any(fnmatchcase(w.name, p) for p in options.exclude) or not any(
        fnmatchcase(w.name, p) for p in options.include
    ):
        return "excluded"
    if not w.leaf().requires_grad:
        return "frozen"
    if w.memory in embedded and w.name not in options.include:
        return f"tied to {embedded[w.memory]}"
    return ""


def unsupported(
    model: nn.Module, weights: dict[nn.Module, list[Weight]]
) -> Iterator[tuple[str, str, int]]:
    """(name, class, parameters) of the modules with matrices that no place is known for."""
    known = {id(t) for own in weights.values() for w in own for t in w.tensors().values()}
    for name, module in model.named_modules():
        own = [p for p in module._parameters.values() if p is not None and id(p) not in known]
        own = [p for p in own if not isinstance(p, UninitializedParameter)]
        count = sum(p.numel() for p in own if sum(n > 1 for n in p.shape) > 1)
        if count:
            yield name or type(module).__name__, type(module).__name__, count
