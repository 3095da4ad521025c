"""Where a layer keeps its weight, and which numbers of its output that weight makes.

A `Place` is all that lsuv.torch knows of a layer. A layer of one's own gets one by

    @lsuv.torch.adapter(MyLayer)
    def places(layer):
        return lsuv.torch.Place(weight="kernel", bias=None, outputs=1)

Its output must be linear in the weight; where it is not, the check of initialise.py finds that
scaling has no effect and puts the weight back.

Read next: weights.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def first(result: Any) -> torch.Tensor:
    """The result of a layer, or the first of several."""
    return result if isinstance(result, torch.Tensor) else result[0]


@dataclass(frozen=True)
class Place:
    """One weight of a layer. Shapes: (O, ...) for outputs=0; (I, O, ...) for outputs=1; with groups
    axis 0 is as many times as long."""

    weight: str = "weight"  # the attribute; "out_proj.weight" for a child's
    bias: str | None = "bias"  # a number a channel, or none
    bias_rows: tuple[int, int] | None = None  # (first, last + 1), where several weights share one
    outputs: int = 0  # the weight's axis that counts outputs
    groups: int = 1  # along the weight's axis 0
    channels: int = -1  # the output's axis that counts them
    pieces: int = 1  # equal shares of the outputs, each scaled alone
    name: str = ""  # behind the layer's own, where it has several
    output: Callable[[Any], torch.Tensor] = first  # from the layer's result
    # (layer, args, kwargs) -> the output of each piece, for what only the layer's inside sees.
    before: Callable[[nn.Module, tuple, dict], list[torch.Tensor]] | None = None


def adapter(*classes: type):
    """A decorator for a function that is given a layer of these classes -> Place, or several."""

    def register(function: Callable):
        for cls in classes:
            cls.lsuv_places = function  # type: ignore[attr-defined]
        return function

    return register


def places(module: nn.Module, adapters: Mapping[type, Callable]) -> list[Place]:
    """Those of a layer; none where its class is unknown."""
    for cls in type(module).__mro__:
        if function := adapters.get(cls, vars(cls).get("lsuv_places")):
            found = function(module)
            return [found] if isinstance(found, Place) else list(found)
        if function := BUILT_IN.get(cls):
            return function(module)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # GPT-2's, in transformers
        return [Place(outputs=1)]
    return []


def _linear(layer) -> list[Place]:
    return [Place()]


def _conv(layer) -> list[Place]:
    return [Place(groups=layer.groups, channels=-1 - len(layer.kernel_size))]


def _transposed(layer) -> list[Place]:
    return [Place(outputs=1, groups=layer.groups, channels=-1 - len(layer.kernel_size))]


def _attention(layer) -> list[Place]:
    """q, k and v are measured from what goes in: the layer computes them by no call of a module."""
    if type(layer).forward is not nn.MultiheadAttention.forward:  # what goes in may be all else
        return []
    out = Place("out_proj.weight", "out_proj.bias", name="out_proj")
    if layer.in_proj_weight is not None:
        return [Place("in_proj_weight", "in_proj_bias", pieces=3, name="in_proj", before=_qkv), out]
    return [
        Place(
            f"{which}_proj_weight",
            "in_proj_bias",
            (i * layer.embed_dim, (i + 1) * layer.embed_dim),
            name=f"{which}_proj",
            before=partial(_one_of_qkv, i),
        )
        for i, which in enumerate("qkv")
    ] + [out]


def _one_of_qkv(i, layer, args, kwargs) -> list[torch.Tensor]:
    return [_qkv(layer, args, kwargs)[i]]


def _qkv(layer, args, kwargs) -> list[torch.Tensor]:
    names = ("query", "key", "value")
    inputs = {**dict(zip(names, args, strict=False)), **kwargs}
    if layer.in_proj_weight is not None:
        weights = layer.in_proj_weight.chunk(3)
    else:
        weights = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    biases = [None] * 3 if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
    return [
        nn.functional.linear(inputs[name], W, b)
        for name, W, b in zip(names, weights, biases, strict=True)
    ]


BUILT_IN: dict[type, Callable[[Any], list[Place]]] = {
    nn.Linear: _linear,
    nn.Bilinear: _linear,
    _ConvTransposeNd: _transposed,
    _ConvNd: _conv,
    nn.MultiheadAttention: _attention,
}
