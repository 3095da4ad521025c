"""Algorithm 1 of the paper as two hooks on every layer with a weight.

Before a layer's first run: keep its weight, fill it. After: measure, scale, run it again by its
`forward` (so that nobody else's hooks run twice), see whether the scale had its effect, and hand
the new output on. The paper's loop is gone, since the factor is exact (lsuv/solve.py).

Read next: moments.py and rows.py.
"""

import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from engine.errors import InputError, RunError
from lsuv.report import Report
from lsuv.solve import Moments, Spread, as_predicted, pool, solve, spread
from lsuv.torch.moments import measured, over_ranks
from lsuv.torch.plan import Options, find
from lsuv.torch.rows import finish
from lsuv.torch.state import put_back, rng_states
from lsuv.torch.weights import Weight, is_sharded

MOST_PASSES = 20  # of shared="pooled"
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class TorchLsuvError(RunError):
    """A layer that can't be brought to the target, where that was to be an error."""

    kind = "lsuv"


class Run:
    """The passes through one model: its weights, the hooks, and the report."""

    def __init__(self, model: nn.Module, options: Options, adapters: Mapping[type, Callable]):
        self.model, self.options = model, options
        tensors = [*model.parameters(), *model.buffers()]
        self.devices = sorted({t.device for t in tensors}, key=str) or [torch.device("cpu")]
        self.weights = find(model, options, adapters)
        self.report = Report(options.as_settings(), covered=0.0)
        self.report.settings["device"] = ", ".join(map(str, self.devices))
        self.order: list[Weight] = []  # as they first ran
        self.users: dict = {}  # the first user of a weight's memory
        self.held: list[Weight] = []  # called several times, and scaled between the passes
        self.states: list = []  # of generators and inputs, before each layer that is running
        self.again = False  # a layer is run a second time
        self.at = ""  # the layer that ran last, for an error
        self.last: tuple[Weight, weakref.ref] | None = None  # it and its output
        self.normed: dict[str, None] = {}  # names of the layers with a norm right behind them

    def whole(self, forward: Callable[[], Any]) -> None:
        """All passes, and the report. The weights are put back where anything is raised."""
        try:
            self.one_pass(forward)
            if self.options.shared == "pooled":
                self.held = [w for w in self.order if w.calls > 1 and w.scaling]
                self.until_pooled(forward)
            finish(self)
            bad = [row for row in self.report.rows if _failed(row.why)]
            if self.options.strict and bad:
                raise TorchLsuvError(
                    f"{bad[0].layer}: {bad[0].why}, as {len(bad)} of {len(self.report.rows)} rows; "
                    "leave strict=True out, or name such layers in exclude"
                )
        except BaseException as error:
            for w in self.order:
                w.restore()
            if self.at and not isinstance(error, (InputError, RunError)):
                error.add_note(f"lsuv.torch: layer {self.at} ran last; the model is as before")
            raise

    def one_pass(self, forward: Callable[[], Any]) -> None:
        handles = []
        for w in self.order:
            w.calls, w.seen, w.spreads = 0, [], []
        try:
            for module in self.weights:
                handles += [
                    module.register_forward_pre_hook(self.before, with_kwargs=True),
                    module.register_forward_hook(self.after, prepend=True, with_kwargs=True),
                ]
            for module in self.model.modules():
                if isinstance(module, NORMS) or type(module).__name__.endswith("RMSNorm"):
                    handles.append(module.register_forward_pre_hook(self.before_norm))
            self.report.forwards += 1
            forward()
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                raise InputError(
                    f"batch normalisation after {self.at} has one value a channel: give a larger "
                    'batch, or mode="eval"'
                ) from error
            raise
        finally:
            for handle in handles:
                handle.remove()
            self.last, self.again = None, False
            self.states.clear()
        self.scale_shards()

    def scale_shards(self) -> None:
        """FSDP2 gathers a layer's weight for its run: what was scaled was a copy."""
        for module in self.model.modules():
            if hasattr(module, "reshard") and hasattr(module, "unshard"):
                module.reshard()
        for w in self.order:
            w.multiply_shards()

    def until_pooled(self, forward: Callable[[], Any]) -> None:
        """Further passes until the layers that are called several times are within tolerance."""
        target, tolerance = self.options.target, self.options.tolerance
        done = not self.held
        while not done and self.report.forwards < MOST_PASSES:
            self.one_pass(forward)
            done = True
            for w in self.held:
                w.spreads = [self.spreads(w, pool(w.seen))]
                for piece, z in enumerate(w.spreads[0]):
                    factor, why = solve(z, target, self.unit(w, []))
                    if why:
                        w.why[piece] = why
                    elif abs(z.variance() / target - 1) > tolerance:
                        if self.report.forwards < MOST_PASSES:
                            w.multiply(piece, factor)
                        done = False
            self.scale_shards()

    # -- the hooks --------------------------------------------------------------------------------

    def before(self, module, args, kwargs) -> None:
        if self.again:
            return
        self.states.append((rng_states(self.devices), versions(args, kwargs)))
        for w in self.weights[module]:
            self.at = w.name
            w.calls += 1
            if w not in self.order:
                self.start(w)
            if w.place.before is not None:
                probe = partial(w.place.before, module, args, kwargs)
                self.adjust(w, probe(), probe)

    def after(self, module, args, kwargs, result):
        if self.again:
            return None
        state, before = self.states.pop()
        if versions(args, kwargs) != before and any(w.scaling for w in self.weights[module]):
            raise TorchLsuvError(
                f"{self.weights[module][0].name} changes its input in place, so that it can't run "
                "twice; name it in exclude"
            )
        for w in self.weights[module]:
            if w.place.before is None:
                self.at = w.name

                def again(output=w.place.output):
                    nonlocal result
                    result = self.once_more(module, args, kwargs, state)
                    return [output(result)]

                self.adjust(w, [w.place.output(result)], again)
        if isinstance(result, torch.Tensor):
            self.last = (self.weights[module][-1], weakref.ref(result))
        return result

    def once_more(self, module, args, kwargs, state):
        """Run the layer with the random numbers that it had before, and no hooks inside it."""
        now = rng_states(self.devices)
        put_back(state)
        self.again = True
        try:
            return module.forward(*args, **kwargs)
        finally:
            self.again = False
            put_back(now)

    def before_norm(self, module, args) -> None:
        weight, output = self.last or (None, lambda: None)
        if weight is not None and weight.scaling and args and args[0] is output():
            self.normed[weight.name] = None
        self.last = None

    # -- one weight -------------------------------------------------------------------------------

    def start(self, w: Weight) -> None:
        """Just before it runs for the first time."""
        self.order.append(w)
        if w.why[0].startswith("unsupported"):
            return
        w.check_pieces()
        if w.scaling:
            why = ""
            other = self.users.setdefault(w.memory, w)
            if is_sharded(w.leaf()):
                why = "unsupported: tensor parallel"
            elif other is not w:
                why = f"tied to {other.name}"
            elif w.name not in self.options.include and w.is_zero():
                why = "no variance: its weights are all zero"
            w.why, w.scaling = [why or "scaled"] * w.pieces, not why
        if w.scaling:
            w.keep()
            if not w.sharded:  # a shard can only be multiplied
                if self.options.bias == "zero":
                    w.zero_bias()
                if self.options.fill is not None:
                    state = rng_states(self.devices)
                    note = w.fill(self.options.fill, self.options.seed)
                    put_back(state)
                    self.report.notes += [note] if note else []
        w.std = np.array(w.deviations())

    def adjust(self, w: Weight, z: list[torch.Tensor], again: Callable) -> None:
        """Measure a call, and scale at the first. again() -> z anew."""
        with np.errstate(all="ignore"):  # what is not finite is reported
            self._adjust(w, z, again)

    def _adjust(self, w, z, again) -> None:
        moments = self.moments(w, z)
        w.seen.append(moments)
        spreads = self.spreads(w, moments)
        w.spreads.append(spreads)
        if np.isnan(w.first).all():
            w.first = np.array([s.variance() for s in spreads])
        if not w.scaling or w.calls > 1 or w in self.held:
            return
        unit, promised, changed = self.unit(w, z), {}, False
        for piece, s in enumerate(spreads):
            factor, why = solve(s, self.options.target, unit)
            if not why:
                w.multiply(piece, factor)
                promised[piece] = s.variance(factor)
            else:
                self.hopeless(w, piece, why, s)
                changed |= w.restore(piece)
        torch.clear_autocast_cache()  # of weights as they were
        if promised or changed:
            moments = self.moments(w, again())
        spreads = self.spreads(w, moments)
        missed = [p for p, v in promised.items() if not as_predicted(spreads[p], v, unit)]
        for piece in missed:
            w.restore(piece)
            w.scale[piece], w.pending[piece], w.iterations[piece] = 1.0, 1.0, 0
            w.why[piece] = f"no effect: {type(w.module).__name__}"
        if missed:
            torch.clear_autocast_cache()
            moments = self.moments(w, again())
            spreads = self.spreads(w, moments)
        w.seen[-1], w.spreads[-1] = moments, spreads

    def hopeless(self, w: Weight, piece: int, why: str, s: Spread) -> None:
        w.why[piece] = why
        if self.options.on_zero == "raise":
            raise TorchLsuvError(
                f"{w.name}: {why}, output variance {s.variance():.3g} around a mean of "
                f"{s.mean:.3g}; look at the batch and the layers before it, or use on_zero='skip'"
            )

    def moments(self, w: Weight, z: list[torch.Tensor]) -> Moments:
        parts = [measured(part, w.place.channels) for part in z]
        return over_ranks(Moments(*map(np.concatenate, zip(*parts, strict=True))), self.devices[0])

    def spreads(self, w: Weight, moments: Moments) -> list[Spread]:
        """Of each piece."""
        bias, C = w.bias(), len(moments.mean)
        if bias is None:
            w.b = np.zeros(C)
        elif not is_sharded(bias):
            w.b = bias.detach().cpu().double().numpy()
        shares = [slice(p * C // w.pieces, (p + 1) * C // w.pieces) for p in range(w.pieces)]
        return [spread(moments.rows(share), w.b[share]) for share in shares]

    def unit(self, w: Weight, z: list[torch.Tensor]) -> float:
        """The distance of neighbouring numbers, relative, in what the layer computes with."""
        unit = max(torch.finfo(t.dtype).eps for t in (w.leaf(), *z))
        tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        return max(unit, 2.0**-10) if tf32 and self.devices[0].type == "cuda" else unit


def versions(args: tuple, kwargs: dict) -> list[int]:
    """PyTorch's counts of the changes that were made to each tensor."""
    tensors = (t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor))
    return [t._version for t in tensors if not t.is_inference()]


def _failed(why: str) -> bool:
    return not why.startswith(("scaled", "excluded", "frozen", "tied"))
