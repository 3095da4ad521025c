"""A weight of the model: read, filled, multiplied, and put back to the bit.

It may be a plain parameter, or computed from others: by torch.nn.utils.parametrize (weight_norm has
original0, the lengths, and original1, the directions), or by the hooks of the older
torch.nn.utils.weight_norm, spectral_norm and prune. Then the first of those others is multiplied,
and whether it had the effect is seen by running the layer. Tensors are looked up anew at every use,
since lazy layers make them and FSDP2 exchanges them while the model runs.

Read next: state.py.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from engine.errors import InputError
from kernels import ops_for
from kernels.errors import DeviceError
from kernels.philox import WEIGHTS
from lsuv.solve import Moments, Spread
from lsuv.torch.adapters import Place


class Weight:
    """One place of one layer, and what happens to it during a run."""

    def __init__(self, name: str, module: nn.Module, place: Place, pieces: int):
        self.name, self.module, self.place, self.pieces = name, module, place, pieces
        self.owner, self.attribute = _resolve(module, place.weight)
        self.why = [""] * pieces  # what became of each piece; "" before it is known
        self.scaling = False  # whether it is to be filled and scaled
        self.memory: Any = None  # `key`, taken before the first pass
        self.sharded = False  # by FSDP2: whole only while the layer runs
        self.calls = 0  # in this pass
        self.seen: list[Moments] = []  # in this pass, of each call
        self.spreads: list[list[Spread]] = []  # likewise, of each piece
        self.first = np.full(pieces, np.nan)  # variance at the first measurement
        self.std = np.full(pieces, np.nan)  # of the weights, once they are filled
        self.scale = np.ones(pieces)
        self.iterations = np.zeros(pieces, int)
        self.pending = np.ones(pieces)  # what the shards of FSDP2 have still to be multiplied by
        self.b = np.zeros(0)  # the bias that was last measured with
        self.kept: dict[str, torch.Tensor] = {}  # as the tensors were, on the host

    # -- the tensors ------------------------------------------------------------------------------

    def tensors(self) -> dict[str, torch.Tensor]:
        """What may be changed: first the tensor to multiply, last the bias. Empty where the weight
        is none that floats, or computed in a way not known here."""
        owner, name = self.owner, self.attribute
        own = owner._parameters
        if own.get(name) is not None:
            found = {name: own[name]}
        elif parametrize.is_parametrized(owner, name):
            chain = owner.parametrizations[name]
            found = {k: p for k, p in chain._parameters.items() if k.startswith("original")}
        else:
            ends = [name + end for end in ("_g", "_v", "_orig")]
            found = {end: own[end] for end in ends if end in own}
        if any(not p.is_floating_point() for p in found.values()):
            return {}
        if found and (bias := self.bias()) is not None:
            found["bias"] = bias
        return found

    def bias(self) -> torch.Tensor | None:
        bias = self._whole_bias()
        if bias is None or self.place.bias_rows is None:
            return bias
        return bias[slice(*self.place.bias_rows)]

    def _whole_bias(self) -> Any:
        if self.place.bias is None:
            return None
        owner, name = _resolve(self.module, self.place.bias)
        return owner._parameters.get(name)

    def leaf(self) -> torch.Tensor:
        return next(iter(self.tensors().values()))

    def value(self) -> torch.Tensor:
        """The weight itself, computed where it is."""
        return getattr(self.owner, self.attribute)

    def key(self):
        """The same for weights that are one and the same memory."""
        leaf = self.leaf()
        if is_sharded(leaf) or isinstance(leaf, nn.parameter.UninitializedParameter):
            return id(leaf)
        return leaf.data_ptr() or id(leaf)

    def refresh(self) -> None:
        """Let the older hooks compute the weight anew; the layer's forward alone would not."""
        for hook in self.owner._forward_pre_hooks.values():
            if type(hook).__module__.startswith("torch.nn.utils."):
                hook(self.owner, None)

    # -- what is done to them ---------------------------------------------------------------------

    def keep(self) -> None:
        self.kept = {name: t.detach().to("cpu", copy=True) for name, t in self.tensors().items()}

    def restore(self, piece: int | None = None) -> bool:
        """Put back what `keep` has seen -> whether anything was different."""
        changed = False
        for name, tensor in self.tensors().items():
            if name not in self.kept or is_sharded(tensor):
                continue
            new, old = tensor.detach(), self.kept[name].to(tensor.device)
            if piece is not None:
                new, old = (self._rows(t, piece, name == "bias") for t in (new, old))
            if not torch.equal(new, old):
                new.copy_(old)
                changed = True
        if changed:
            self.refresh()
        return changed

    def multiply(self, piece: int, factor: float) -> None:
        self._rows(self.leaf().detach(), piece).mul_(factor)
        self.scale[piece] *= factor
        self.pending[piece] *= factor
        self.iterations[piece] += 1
        self.refresh()

    def multiply_shards(self) -> None:
        """The factors of a pass, on the shards that the pass was gathered from."""
        if self.sharded and (self.pending != 1).any():
            from torch.distributed.tensor import distribute_tensor

            leaf = self.leaf().detach()
            axis, repeats = self.place.outputs, leaf.shape[self.place.outputs] // self.pieces
            shape = [-1 if i == axis else 1 for i in range(leaf.ndim)]
            factors = torch.as_tensor(self.pending.repeat(repeats), dtype=leaf.dtype)
            factors = factors.reshape(shape).to(leaf.device_mesh.device_type)
            leaf.mul_(distribute_tensor(factors, leaf.device_mesh, leaf.placements))
        self.pending[:] = 1

    def zero_bias(self) -> None:
        bias = self.bias()
        if bias is not None and self._whole_bias().requires_grad:
            bias.detach().zero_()

    def fill(self, how: str | Callable, seed: int) -> str:
        """Write new weights -> "", or why they can't be written."""
        W = self.value().detach().clone()
        for piece in range(self.pieces):
            rows = self._rows(W, piece)
            if not callable(how):
                self._orthonormal(rows, piece, seed)
            else:
                torch.manual_seed(stream(f"{self.name}/{piece}", seed))
                how(rows)
        tensors = self.tensors()
        if self.attribute in tensors:
            tensors[self.attribute].detach().copy_(W)
        elif parametrize.is_parametrized(self.owner, self.attribute):
            try:
                setattr(self.owner, self.attribute, W)
            except (RuntimeError, NotImplementedError, ValueError) as error:
                self.restore()
                return f"{self.name}: not filled, {error}"
        elif f"{self.attribute}_v" in tensors:
            v, g = (tensors[f"{self.attribute}_{end}"].detach() for end in "vg")
            hooks = self.owner._forward_pre_hooks.values()
            dim = next(h.dim for h in hooks if getattr(h, "name", None) == self.attribute)
            v.copy_(W)
            g.copy_(torch.norm_except_dim(W, 2, dim))
        else:
            tensors[f"{self.attribute}_orig"].detach().copy_(W)
        self.refresh()
        return ""

    def _orthonormal(self, rows: torch.Tensor, piece: int, seed: int) -> None:
        """A matrix of its own for each group of a piece."""
        blocks = self._blocks(rows)  # (groups, outputs, ...)
        ops, key, outputs = matrices(), stream(self.name, seed), blocks.shape[1]
        indices = [(piece * self.place.groups + group) % 65536 for group in range(len(blocks))]
        cols = blocks[0, 0].numel()
        Q = np.stack([ops.orthonormal(outputs, cols, (key, WEIGHTS, i)) for i in indices])
        blocks.copy_(torch.from_numpy(Q).reshape(blocks.shape))

    def is_zero(self) -> bool:
        """Whether all of it is; a glance at its beginning mostly tells."""
        W = self.value().detach()
        return not W[0].any() and not norm(W)

    def deviations(self) -> list[float]:
        """Of each piece's weights. (PyTorch's own std takes ten times as long.)"""
        pieces = [self._rows(self.value().detach().float(), p) for p in range(self.pieces)]
        return [max(0.0, float(norm(W) ** 2 / W.numel() - W.mean() ** 2)) ** 0.5 for W in pieces]

    # -- their parts ------------------------------------------------------------------------------

    def _blocks(self, W: torch.Tensor) -> torch.Tensor:
        """(groups, outputs of a group, ...) of a weight, or of a piece of it: the same memory."""
        groups = self.place.groups
        if self.pieces > 1 and groups > 1:
            groups = groups * W.shape[0] // self.value().shape[0]
        return W.unflatten(0, (groups, -1)).movedim(1 + self.place.outputs, 1)

    def _rows(self, tensor: torch.Tensor, piece: int, bias: bool = False) -> torch.Tensor:
        """The share of one piece: of its outputs, or of the groups that have them."""
        axis = 0 if bias or self.place.groups > 1 else self.place.outputs
        length = tensor.shape[axis] // self.pieces
        return tensor.narrow(axis, piece * length, length)

    def shape(self) -> tuple[int, int]:
        """(inputs of an output, outputs of all pieces)."""
        W = self.value()
        outputs = W.shape[self.place.outputs] * (self.place.groups if self.place.outputs else 1)
        return W.numel() // outputs, outputs

    def check_pieces(self) -> None:
        (_, outputs), groups = self.shape(), self.place.groups
        if outputs % self.pieces or (groups > 1 and groups % self.pieces):
            raise InputError(
                f"pieces {self.pieces} of {self.name}: its {outputs} outputs"
                + (f" in {groups} groups" if groups > 1 else "")
                + " do not split so; leave it out of pieces"
            )


def norm(W: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(W.float())


def _resolve(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    *parents, name = path.split(".")
    for parent in parents:
        module = getattr(module, parent)
    return module, name


def is_sharded(tensor: torch.Tensor) -> bool:
    """A DTensor, of FSDP2 outside a pass, or of tensor parallelism."""
    return hasattr(tensor, "placements")


def stream(name: str, seed: int) -> int:
    """The seed of a layer's own random numbers: by its name, so that no order matters."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # PyTorch's seeds have a sign


@functools.cache
def matrices():
    """The engine's operations on the host: its own kernels where they are built."""
    try:
        return ops_for("cpu")
    except DeviceError:
        return ops_for("numpy")
