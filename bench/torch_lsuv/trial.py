"""A model initialised, looked at and timed: the two contestants, each in a process of its own.

Read next: bench/torch_lsuv/package.py, the peer.
"""

import copy
import math
import re
import statistics
import time
import warnings
from functools import partial

import torch
from torch import nn

from bench.common.contest import Setting
from bench.torch_lsuv.nets import NETS, called, tensors
from bench.torch_lsuv.package import imported
from bench.torch_lsuv.probe import LAYERS, State, bits, draw_again, drawn, is_layer, variances

SEED = 0


def name_of(row) -> str:
    """The probe's name of a row's layer and piece."""
    return row.layer if row.pieces == 1 else f"{row.layer}[{row.piece}]"


class Trial:
    """A model in training mode, its batch, and the weights that it begins with."""

    def __init__(self, entry: Setting, net: str):
        torch.set_num_threads(entry.threads)
        warnings.simplefilter("ignore")
        torch.manual_seed(SEED)
        self.model, self.batch = NETS[net].build().train(), NETS[net].batch()
        self.plain()  # what a library prepares on its first call
        self.weights = copy.deepcopy(self.model.state_dict())

    def begin(self) -> None:
        """The first weights again, and no gradients."""
        self.model.load_state_dict(self.weights)
        self.model.zero_grad()

    def plain(self) -> float:
        """Seconds of a forward pass."""
        start = time.perf_counter()
        with torch.no_grad():
            called(self.model, self.batch)
        return time.perf_counter() - start

    def forwards_of(self, call) -> int:
        """How often `call` runs the model's forward; what the first drew is drawn again then."""
        count, forward, states = 0, self.model.forward, drawn()

        def counted(*arguments, **named):
            nonlocal count, states
            states = drawn() if count == 0 else states
            count += 1
            return forward(*arguments, **named)

        self.model.forward = counted
        try:
            call()
        finally:
            del self.model.forward
        self.states = states
        return count

    def step(self) -> float:
        """The loss after a step of SGD on the mean square of all outputs."""
        optimizer = torch.optim.SGD(self.model.parameters(), 1e-4)
        for _ in range(2):
            optimizer.zero_grad()
            loss = sum(x.square().mean() for x in tensors(called(self.model, self.batch)))
            loss.backward()
            optimizer.step()
        return float(loss)


class Ours(Trial):
    def init(self, **options):
        import lsuv.torch

        return lsuv.torch.init(self.model, self.batch, seed=SEED, **options)

    def look(self) -> dict:
        """What one initialisation did. layers: those scaled; worst: their largest |variance - 1|;
        left: {why: the others}; missed: layers that ran and are in no row; strays: parameters
        that changed and are of no layer scaled; loss: after a step of SGD, None if not finite."""
        self.begin()
        before = {n: bits(p) for n, p in self.model.named_parameters()}
        state, reports = State(self.model), []
        forwards = self.forwards_of(lambda: reports.append(self.init()))
        changed = state.changed(self.model)
        (report,) = reports
        draw_again(self.states)
        found = variances(self.model, self.batch, train=True)
        self.scaled = {name_of(row) for row in report.rows if row.why == "scaled"}
        left: dict[str, list[str]] = {}
        for row in report.rows:
            if row.why != "scaled":
                left.setdefault(re.split(":| to ", row.why)[0], []).append(name_of(row))
        owners = tuple(row.layer + end for row in report.rows for end in "._" if row.chosen)
        touched = [n for n, p in self.model.named_parameters() if bits(p) != before[n]]
        loss = self.step()
        return {
            "layers": len(self.scaled),
            "worst": max((abs(found[name] - 1) for name in self.scaled), default=None),
            "forwards": forwards,
            "reported_forwards": report.forwards,
            "left": left,
            "missed": sorted(set(found) - set(map(name_of, report.rows))),
            "strays": [n for n in touched if not n.startswith(owners)],
            "changed": changed,
            "loss": loss if math.isfinite(loss) else None,
        }

    def times(self, repeats: int) -> dict[str, float]:
        """Medians: seconds of a plain forward pass, and an initialisation's time over it, without
        and with the fill; a round's in turn."""
        plain, without, full = [], [], []
        for _ in range(repeats):
            plain.append(statistics.median(self.plain() for _ in range(5)))
            for times, options in ((without, {"fill": None}), (full, {})):
                self.begin()
                start = time.perf_counter()
                self.init(**options)
                times.append((time.perf_counter() - start) / plain[-1])
        return {
            "plain": statistics.median(plain),
            "without_fill": statistics.median(without),
            "with_fill": statistics.median(full),
        }

    def matrices(self) -> list[tuple[int, int]]:
        """(rows, columns) of the matrices of the layers that `look` found scaled, of a grouped
        convolution those of each group."""
        shapes = []
        for name, module in self.model.named_modules():
            if isinstance(module, nn.MultiheadAttention):
                parts = sum(part.startswith(f"{name}.in_proj") for part in self.scaled)
                shapes += [(module.embed_dim, module.embed_dim)] * parts
            elif name in self.scaled and is_layer(module):
                groups, shape = getattr(module, "groups", 1), module.weight.shape
                inputs_first = getattr(module, "transposed", False) or not hasattr(module, "bias")
                rows = shape[1] if inputs_first else shape[0] // groups
                shapes += [(rows, module.weight.numel() // rows // groups)] * groups
        return shapes


class Package(Trial):
    """The package lsuv. It runs the model in evaluation mode and hands the batch over as one thing;
    where a model wants named arguments, it is tried once more with the first of them alone."""

    def __init__(self, entry: Setting, net: str, folder: str):
        self.lsuv = imported(folder).lsuv_with_singlebatch
        super().__init__(entry, net)

    def run(self) -> dict:
        """raised: what an attempt ended with; forwards, seconds; layers: those of the kinds it
        knows that have a variance; outside: whose deviation is not in 0.9 .. 1.1 afterwards;
        not_finite: of these; furthest: the largest finite variance; untouched: other layers."""
        row = {"plain": statistics.median(self.plain() for _ in range(7)), "raised": []}
        self.begin()
        before = variances(self.model, self.batch, train=False)
        attempts = [self.batch]
        if isinstance(self.batch, dict):
            attempts.append(next(iter(self.batch.values())))
        for batch in attempts:
            self.begin()
            start = time.perf_counter()
            try:
                row["forwards"] = self.forwards_of(
                    partial(self.lsuv, self.model, batch, verbose=False)
                )
            except Exception as error:
                row["raised"].append(f"{type(error).__name__}: {str(error).splitlines()[0]}")
            else:
                row["seconds"] = time.perf_counter() - start
                return row | self.judged(before)
        return row

    def judged(self, before: dict[str, float]) -> dict:
        modules = dict(self.model.named_modules())
        known = [
            name
            for name in before
            if name.endswith("out_proj") or isinstance(modules.get(name), LAYERS)
        ]
        after = variances(self.model, self.batch, train=False)
        found = [after[name] for name in known if before[name] > 0]
        finite = [v for v in found if math.isfinite(v)]
        return {
            "layers": len(found),
            "outside": sum(not 0.9 <= math.sqrt(v) <= 1.1 for v in found),
            "not_finite": len(found) - len(finite),
            "furthest": max(finite, key=lambda v: abs(math.log(v or 1e-300)), default=None),
            "untouched": len(before) - len(known),
        }
