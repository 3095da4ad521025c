"""Algorithm 1 of the paper, layer-sequential unit variance, as a visitor of the forward pass.

Layer by layer, from the images to the classifier, divide the weights by the standard deviation of
the layer's output until its variance is within `tolerance` of one. The output is z, the linear
output before max, sum and activation, all of its values together; a maxout piece is measured and
scaled alone, as the authors' nets make each piece a layer. The net is in its training phase
(dropout and augmentation on), as in the authors' script: that reproduces the paper's Table 9.

* `same` keeps one mini-batch. A single forward pass does it: just before a layer runs, it is run,
  measured, scaled and measured again. With zero biases one division is exact, and a second run on
  the same weights changes nothing. Several batches together are kept as well, and replayed up to
  each layer.
* `fresh` is the authors' way: a new mini-batch for every measurement, with the prefix of the net
  run again and the pass stopped at the layer in question.

normalise="input" is the variant that the paper tried without gain: each layer is scaled, all pieces
alike, until the input of the *next* layer with weights has unit variance, and the last one until
the scores have. It wants a plain chain and an activation that does not saturate.

On device cpu the sums of a forward pass and of a variance are taken in an order that does not
depend on the number of threads, so the weights of every net of models/ are the same bits for any.
(oneDNN may cut otherwise a convolution's sum of thousands of terms on images of a few pixels.)

Read next: lsuv/fillers.py, what stands in the weights before.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.containers import STOP, AuxiliaryClassifier, Container, Highway, Parallel, Residual
from engine.errors import InputError, RunError, choose
from engine.layers import BatchNorm, Weighted
from lsuv.fillers import chosen, fill, piece_rows
from lsuv.report import Report, Row, orthogonality_error

MODES = ("same", "fresh")
WHAT = {"output": "output variance", "input": "variance of the next input"}
NORMALISE = tuple(WHAT)

# The authors' script as it was when the paper was written: margin 0.05 on the variance, at most 100
# iterations. (Four months later it had 0.02 and 20; the paper finds no difference in 0.01 to 0.1.)
TOLERANCE, MAX_ITER = 0.05, 100

# Below this share of its squared mean, a variance is the rounding of the activations, not a signal.
# Rounding to a unit u in the last place makes up to u^2 / 12; bfloat16 has u = 2^-7, TF32 2^-10.
NOISE = {"fp32": 1e-12, "tf32": 2.0**-20, "bf16": 2.0**-14}


class LsuvError(RunError):
    """A layer that can't be brought to unit variance. `layer` and `piece` say which."""

    kind = "lsuv"

    def __init__(self, layer, piece: int, text: str):
        self.layer, self.piece = layer.name, piece
        super().__init__(f"{layer.name}{f' piece {piece}' if layer.pieces > 1 else ''}: {text}")


@dataclass(frozen=True)
class _Options:
    mode: str
    tolerance: float
    max_iter: int
    batches: int
    normalise: str
    chosen: frozenset[str]  # the layers to scale; the others are only measured


def initialise(
    net,
    init: str,
    next_batch: Callable[[], None],
    seed: int = 0,
    act: str = "relu",
    pre: str | None = None,
    new: Sequence[str] | None = None,
    **options,
) -> Report:
    """Fill the weights; with init "lsuv" scale them, with any other only measure them.

    pre: the filler that LSUV starts from, orthonormal unless another is named. new: the layers that
    have no weights yet, unless it is all; trained ones are only measured. options: those of `lsuv`,
    for init "lsuv" alone."""
    if new is not None and not new:
        return measure(net, next_batch)
    include = ("*",) if new is None else new
    if init == "lsuv":
        fill(net, pre or "ortho", seed, act, include=include)
        options = {"include": include} | options
        report = lsuv(net, next_batch, **options)
        report.settings["pre"] = pre or "ortho"
        return report
    if options or pre is not None:
        names = ", ".join([*options, *(["pre"] if pre is not None else [])])
        raise InputError(f"{names}: for init lsuv, not {init}")
    fill(net, init, seed, act, include=include)
    return measure(net, next_batch)


def lsuv(
    net,
    next_batch: Callable[[], None],
    mode: str = "same",
    tolerance: float = TOLERANCE,
    max_iter: int = MAX_ITER,
    batches: int = 1,
    normalise: str = "output",
    include: Iterable[str] = ("*",),
    exclude: Iterable[str] = (),
) -> Report:
    """Scale the weights that `net` has (see `fill` for orthonormal ones); biases stay.

    next_batch: fills net.x with a new training mini-batch, and moves the clock's step, which is
    what draws new dropout masks. tolerance: on |variance - 1|. max_iter: divisions a layer.
    batches: mini-batches pooled in one measurement. include, exclude: layer names, with * and ?.

    The net is given back as it was but for the weights: clock and running statistics included (a
    forward pass does not touch those). Raises InputError for bad options; LsuvError where the
    variance of a layer to scale is zero or never within tolerance, or any layer's is not finite.
    Layers before that one stay scaled.
    """
    choose("LSUV mode", mode, MODES)
    choose("normalisation", normalise, NORMALISE)
    for name, value, good in (
        ("tolerance", tolerance, 0 < tolerance < 1),
        ("max_iter", max_iter, max_iter >= 1),
        ("batches", batches, batches >= 1),
    ):
        if not good:
            wanted = "between 0 and 1" if name == "tolerance" else "at least 1"
            raise InputError(f"LSUV {name} {value}: must be {wanted}")
    if normalise == "input":
        for layer in net.chain.every():
            fork = isinstance(layer, Parallel) and not isinstance(layer, Residual)
            if fork or isinstance(layer, (AuxiliaryClassifier, Highway)):
                raise InputError(
                    f"LSUV normalisation input: {layer.name} has no next layer of its "
                    "own; normalise output instead"
                )
    include, exclude = ([p] if isinstance(p, str) else list(p) for p in (include, exclude))
    options = _Options(mode, tolerance, max_iter, batches, normalise, chosen(net, include, exclude))
    return _run(
        net,
        next_batch,
        options,
        {
            "algorithm": "lsuv",
            "mode": mode,
            "tolerance": tolerance,
            "max_iter": max_iter,
            "include": include,
            "exclude": exclude,
        },
    )


def measure(net, next_batch: Callable[[], None], batches: int = 1) -> Report:
    """The same report of a net whose weights stay as they are. It raises for nothing: a variance
    that is zero or not finite stands in the report."""
    options = _Options("same", TOLERANCE, MAX_ITER, batches, "output", frozenset())
    return _run(net, next_batch, options, {"algorithm": "none"})


def _run(net, next_batch, options, settings) -> Report:
    start = time.perf_counter()
    report = Report(
        {
            **settings,
            "normalise": options.normalise,
            "batches": options.batches,
            "images": options.batches * net.batch,
        }
    )
    clock = net.clock.copy()
    try:
        if options.batches == 1 and options.mode == "same" and options.normalise == "output":
            _one_pass(net, next_batch, options, report)
        else:
            _many_passes(net, next_batch, options, report)
    finally:
        net.clock[...] = clock
    report.notes = _notes(net, options)
    report.seconds = time.perf_counter() - start
    return report


def _one_pass(net, next_batch, options, report) -> None:
    """Every layer on one kept batch, while the pass goes through it."""

    def before(layer, x):
        def probe():
            layer.forward(x, True)
            return net.ops.variance(layer.z, layer.pieces)

        report.rows += _adjust(net, layer, probe, options)
        return layer.z  # of the last probe: the weights have not changed since

    next_batch()
    report.forwards += 1
    net.forward(train=True, before=before)


def _many_passes(net, next_batch, options, report) -> None:
    """Every layer by passes of its own that end there: kept batches replayed, or new ones."""
    layers = net.weighted()
    kept = []
    if options.mode == "same":
        for _ in range(options.batches):
            next_batch()
            kept.append((net.x.copy(), net.clock.copy()))

    def replay(number):
        if options.mode == "fresh":
            next_batch()
        else:
            net.x[...], net.clock[...] = kept[number]

    for layer, following in zip(layers, [*layers, None][1:], strict=True):

        def probe(layer=layer, following=following):
            parts = []
            for number in range(options.batches):
                replay(number)
                report.forwards += 1
                parts.append(_statistics(net, layer, following, options.normalise))
            return _pool(parts)

        report.rows += _adjust(net, layer, probe, options)


def _statistics(net, layer, following, normalise):
    """Mean and variance (P,) of what `layer` is to bring to one, on the batch in net.x."""
    from_input = normalise == "input" and following is not None
    statistics = []

    def before(at, x):
        if at is following and from_input:
            mean, variance = net.ops.variance(x, 1)
            statistics[:] = [np.repeat(mean, layer.pieces), np.repeat(variance, layer.pieces)]
            return STOP
        if at is layer and not from_input:
            at.forward(x, True)
            statistics[:] = net.ops.variance(at.z, 1 if normalise == "input" else at.pieces)
            return STOP
        return None

    net.forward(train=True, before=before)
    return statistics


def _pool(parts):
    """Mean and variance of equally large batches taken together (Chan's formula, in float64)."""
    means, variances = (np.array(part, np.float64) for part in zip(*parts, strict=True))
    return means.mean(0), variances.mean(0) + means.var(0)


def _adjust(net, layer, probe, options) -> list[Row]:
    """Scale `layer` until `probe()` -> (mean, variance), (P,) each, is within tolerance of one.

    A piece that has been within tolerance is finished, whatever a later batch says of it."""
    P = layer.pieces
    chosen = layer.name in options.chosen
    std_before = [w.std() for w in _pieces(net, layer)]
    to_scale = np.full(P, chosen)
    if layer.gate is not None:  # how much is let through is not the gate's variance to say
        to_scale[-1] = False
    scale, iterations, finished = np.ones(P), np.zeros(P, int), ~to_scale
    mean, variance = (np.broadcast_to(part, P).copy() for part in probe())
    first = variance.copy()
    while True:
        _check(net, layer, mean, variance, finished, options)
        finished |= np.abs(variance - 1) <= options.tolerance
        if finished.all():
            break
        if iterations.max() >= options.max_iter:
            _fail(net, layer, variance, finished, options)
        for p, rows in enumerate(piece_rows(layer)):
            if not finished[p]:
                factor, piece = float(variance[p] ** -0.5), layer.W[rows]
                piece *= factor
                scale[p] *= factor
                iterations[p] += 1
        new_mean, new_variance = probe()
        mean = np.where(finished, mean, new_mean)
        variance = np.where(finished, variance, new_variance)
    return [
        Row(
            layer.name,
            p,
            P,
            w.shape[1],
            w.shape[0],
            float(std_before[p]),
            float(w.std()),
            float(mean[p]),
            float(first[p]),
            float(variance[p]),
            float(scale[p]),
            int(iterations[p]),
            orthogonality_error(w),
            bool(to_scale[p]),
        )
        for p, w in enumerate(_pieces(net, layer))
    ]


def _pieces(net, layer) -> list[np.ndarray]:
    """Each piece's weights as a float64 matrix on the host, (outputs, fan_in)."""
    W = np.asarray(net.ops.tohost(layer.W), np.float64).reshape(layer.W.shape[0], -1)
    return [W[rows] for rows in piece_rows(layer)]


def _check(net, layer, mean, variance, finished, options) -> None:
    for p in range(layer.pieces):
        if options.chosen and not np.isfinite(variance[p]):
            raise LsuvError(
                layer,
                p,
                f"{WHAT[options.normalise]} {variance[p]:g}; look for values "
                "that are not finite in images and weights, or lower the input scale",
            )
        if finished[p]:
            continue
        noise = max(NOISE[net.precision] * mean[p] ** 2, np.finfo(np.float32).tiny)
        if variance[p] <= noise:
            raise LsuvError(
                layer,
                p,
                f"{WHAT[options.normalise]} {variance[p]:.3g} around a mean "
                f"of {mean[p]:.3g}, nothing to scale; look for constant images, zero "
                "weights or an activation that is off everywhere",
            )


def _fail(net, layer, variance, finished, options) -> None:
    p = int(np.flatnonzero(~finished)[0])
    if options.normalise == "input":
        remedy = "input normalisation wants a plain chain without saturation; use output"
    else:
        biases = np.zeros(len(layer.W)) if layer.b is None else net.ops.tohost(layer.b)
        bias = float(np.var(biases[piece_rows(layer)[p]], dtype=np.float64))
        remedy = (
            f"its biases alone have {bias:.3g}, so zero them"
            if bias > 1
            else "raise the tolerance, the iterations or the batch"
        )
    raise LsuvError(
        layer,
        p,
        f"{WHAT[options.normalise]} {variance[p]:.4g} after "
        f"{options.max_iter} divisions, not within {options.tolerance:g} of 1; "
        f"{remedy}",
    )


def _notes(net, options) -> list[str]:
    notes = []
    if any(layer.gate is not None and layer.name in options.chosen for layer in net.weighted()):
        notes.append("of a highway unit the gate, its second piece, is measured and not scaled")
    undone = [name for name in _before_batchnorm(net.chain) if name in options.chosen]
    if not undone:
        return notes
    return notes + [
        f"batch normalisation right after {', '.join(undone)} divides the scale out again: "
        "LSUV changes nothing there but the relative size of an update"
    ]


def _before_batchnorm(container: Container) -> list[str]:
    names = []
    for chain in container.chains:
        for layer, following in zip(chain.layers, [*chain.layers, None][1:], strict=True):
            if isinstance(layer, Container):
                names += _before_batchnorm(layer)
            elif isinstance(layer, Weighted) and isinstance(following, BatchNorm):
                names.append(layer.name)
    return names
