"""The report of a run: a row for each weight and piece, and notes.

Read next: adapters.py, where a layer has its weight.
"""

from math import nan

import numpy as np
from torch.nn.parameter import UninitializedParameter

from engine.errors import some
from lsuv.report import Row
from lsuv.torch.plan import unsupported
from lsuv.torch.weights import Weight


def finish(run) -> None:
    """Fill the report of a `Run` whose passes are over."""
    report = run.report
    every = [w for own in run.weights.values() for w in own]
    for w in run.order + [w for w in every if w not in run.order]:
        report.rows += [_row(run, w, piece) for piece in range(w.pieces)]
        _notes(run, w)
    for name, kind, count in unsupported(run.model, run.weights):
        report.rows.append(_empty(name, kind, f"unsupported: {count:,} parameters"))
    report.covered = _covered(run)
    if run.options.fill is not None and any(w.sharded and w.scaling for w in run.order):
        report.notes.append("sharded weights are scaled as they were, not filled: init, then shard")
    if run.normed:
        report.notes.append(
            f"normalisation right after {some(run.normed)} divides the scale out again: LSUV "
            "changes nothing there but the relative size of an update"
        )


def _row(run, w: Weight, piece: int) -> Row:
    row = _empty(w.name, type(w.module).__name__, w.why[piece])
    row.piece, row.pieces = piece, w.pieces
    if not w.seen and row.why in ("", "measured"):
        row.why = "not run"
    if w.tensors() and not isinstance(w.leaf(), UninitializedParameter):
        row.fan_in, outputs = w.shape()
        row.outputs = outputs // w.pieces
    if w.seen:
        s = w.spreads[0][piece]
        row.weight_std_before = float(w.std[piece])
        row.weight_std_after = float(w.std[piece] * w.scale[piece])
        row.mean, row.variance_before, row.variance_after = (
            s.mean,
            float(w.first[piece]),
            s.variance(),
        )
        row.scale, row.iterations = float(w.scale[piece]), int(w.iterations[piece])
        row.calls, row.chosen = w.calls, w.why[piece] == "scaled"
    return row


def _empty(name: str, kind: str, why: str) -> Row:
    return Row(
        name, 0, 1, 0, 0, nan, nan, nan, nan, nan, 1.0, 0, nan, False, kind=kind, calls=0, why=why
    )


def _notes(run, w: Weight) -> None:
    notes, options = run.report.notes, run.options
    if w.calls > 1 and w not in run.held:
        means = [np.mean([s.variance() for s in spreads]) for spreads in w.spreads]
        notes.append(
            f"{w.name} called {w.calls} times: variance {', '.join(f'{v:.3g}' for v in means)}"
        )
    for s, why in zip(w.spreads[0] if w.spreads else [], w.why, strict=False):
        if why == "scaled" and abs(s.variance() / options.target - 1) > options.tolerance:
            notes.append(
                f"{w.name}: variance {s.variance():.4g}, not within {options.tolerance:g} of "
                f"{options.target:g}"
            )


def _covered(run) -> float:
    """The share of the parameters that is in scaled layers."""
    every = [p for p in run.model.parameters() if not isinstance(p, UninitializedParameter)]
    scaled = [w for w in run.order if set(w.why) == {"scaled"}]
    count = sum(t.numel() for w in scaled for t in w.tensors().values())
    total = sum(p.numel() for p in every)
    return count / total if total else 0.0
