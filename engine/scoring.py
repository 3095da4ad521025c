"""How good a net is on the test set: loss, accuracy, confusion table.

Read next: engine/diagnosis.py, who is to blame for a score that is none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engine.data.feed import Resident, read_clock, write_clock, zero_sums
from engine.diagnosis import first_in_forward
from engine.errors import InputError
from engine.layers import BatchNorm
from kernels.clock import FINITE, LOSS_SUM, SEEN


@dataclass
class Scores:
    """loss: mean over the images, nan if a batch's was not finite. confusion: (classes, classes)
    counts, row = true class, column = predicted; where the loss can count no image right it is
    empty, and the accuracy 0. unscored: images whose scores were not finite; they count as wrong,
    and `where` is what was not finite first: "the output of conv22". first: the accuracy of the
    first pass alone."""

    loss: float
    accuracy: float
    confusion: np.ndarray
    unscored: int
    where: str | None
    first: float


def score(
    net, images: Resident, stop: Callable[[], bool] = lambda: False, passes: int = 1, ranks=None
) -> Scores | None:
    """All these images, such as a feed's `test`, through the net as it is; None if `stop()` became
    true on the way. Of a net that draws, several passes: of an image's probabilities their mean
    counts, and the loss is its logarithm's. ranks: of engine/run/ranks.py, among which the batches
    are dealt out; each has the same scores, for any number of them.

    The clock is given back as it was, so a training run goes on as if nothing had been; and a loss
    that is not finite latches nothing."""
    need_statistics(net)
    need_draws(net, passes)
    before = read_clock(net)
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # counted, and named
            return _score(net, images, before.copy(), stop, passes, ranks)
    finally:
        write_clock(net, before)


def need_statistics(net, train: bool = False) -> None:
    """InputError for a net with batch normalisation that has not trained a step: outside training,
    and where it is frozen, it has nothing to normalise with."""
    for layer in net.chain.leaves():
        if not isinstance(layer, BatchNorm) or (train and not layer.frozen):
            continue
        if not net.ops.tohost(layer.weight).any():
            raise InputError(
                f"{layer.name}: batch normalisation has no running statistics before the first "
                "step; train, with --epochs above 0"
            )


def need_draws(net, passes: int) -> None:
    """InputError for several passes of a net of which all are alike."""
    if passes > 1 and not any(layer.draws for layer in net.chain.leaves()):
        raise InputError(
            f"passes {passes}: nothing in this net draws outside training, so its passes are all "
            "alike; leave it at 1"
        )


def probabilities(net, images: Resident, number: int, batches: int, passes: int) -> np.ndarray:
    """Of the images of batch `number` of `batches`, the mean over the passes of the softmax of
    their scores: (n, classes) in the net's dtype. Each pass of each batch draws by a number of its
    own."""
    rows = np.arange(images.count)[number * net.batch :][: net.batch]
    prob, found = net.ops.zeros((net.batch, net.classes), net.dtype), []
    for one in range(passes):
        images.batch(rows, one * batches + number)
        net.ops.softmax(net.forward(train=False), prob)
        found.append(net.ops.tohost(prob)[: len(rows)])
    return np.mean(found, axis=0)


class Scored(NamedTuple):
    """What one batch adds to the scores. likely: where there are several passes, what they make of
    the true classes."""

    number: int
    loss: float  # the sum of its images'; nan where it is not finite
    seen: int
    right: int
    scored: int
    where: str | None
    likely: np.ndarray | None


def _score(
    net, images: Resident, clock: np.ndarray, stop: Callable[[], bool], passes: int, ranks
) -> Scores | None:
    classes = net.classes if net.loss.counts else 0
    confusion = np.zeros((classes, classes), np.int64)
    batches, stopped = -(-images.count // net.batch), False
    mine: list[Scored] = []
    for number in range(batches) if ranks is None else range(ranks.rank, batches, ranks.size):
        stopped = stop()
        if stopped:
            break
        rows = np.arange(images.count)[number * net.batch :][: net.batch]
        truth = images.truth[rows]
        zero_sums(clock)
        write_clock(net, clock)
        images.batch(rows, number)
        scores = net.forward(train=False)
        net.evaluate_loss(train=False)
        scores = net.ops.tohost(scores)[: len(rows)].astype(net.dtype)
        good = np.isfinite(scores.reshape(len(rows), -1)).all(axis=1)
        after, where, right, likely = read_clock(net), None, 0, None
        if not (good.all() and after[FINITE]) and not any(one.where for one in mine):
            where = first_in_forward(net, train=False) or "the loss"
        if classes:
            right = int((scores.argmax(axis=1) == truth)[good].sum())
            if passes > 1:
                scores = probabilities(net, images, number, batches, passes)
                good &= np.isfinite(scores).all(axis=1)
                likely = scores[np.arange(len(rows)), truth]
            np.add.at(confusion, (truth[good], scores[good].argmax(axis=1)), 1)
        loss = after[LOSS_SUM] if after[FINITE] else np.nan
        scored = int(good.sum())
        mine.append(Scored(number, loss, int(after[SEEN]), right, scored, where, likely))
    parts = [(stopped, mine, confusion)]
    if ranks is not None:
        parts = ranks.gather(parts[0])
    if any(stopped for stopped, *_ in parts):
        return None
    found = sorted((one for _, ones, _ in parts for one in ones), key=lambda one: one.number)
    confusion = np.sum([confusion for *_, confusion in parts], axis=0)
    seen = sum(one.seen for one in found)
    loss = sum(one.loss for one in found) / seen if seen else float("nan")
    if passes > 1 and np.isfinite(loss):
        loss = -np.log(np.maximum(np.concatenate([one.likely for one in found]), 1e-15)).mean()
    return Scores(
        float(loss),
        int(confusion.trace()) / images.count,
        confusion,
        images.count - sum(one.scored for one in found),
        next((one.where for one in found if one.where), None),
        sum(one.right for one in found) / images.count,
    )


def table(confusion: np.ndarray, classes: list[str]) -> str:
    """The confusion table up to 20 classes, else the ten most frequent confusions; then the
    accuracy of every class."""
    lines, width = [], max(6, *(len(name) for name in classes))
    if len(classes) <= 20:
        column = max(6, len(str(confusion.max())) + 1)
        lines.append("confusion: a row is the true class, a column the predicted one")
        lines.append(" " * width + "".join(f"{name[: column - 1]:>{column}}" for name in classes))
        for name, row in zip(classes, confusion, strict=True):
            lines.append(f"{name:<{width}}" + "".join(f"{n:>{column}}" for n in row))
    else:
        wrong = confusion - np.diag(np.diag(confusion))
        lines.append("the most frequent confusions: true class, predicted class, images")
        for place in np.argsort(-wrong, axis=None, kind="stable")[:10]:
            true, predicted = divmod(int(place), len(classes))
            if wrong[true, predicted]:
                lines.append(
                    f"{classes[true]:<{width}}  {classes[predicted]:<{width}}  "
                    f"{wrong[true, predicted]:>5}"
                )
    lines.append("accuracy by class")
    for k, name in enumerate(classes):
        total = int(confusion[k].sum())
        share = f"{confusion[k, k] / total:.4f}" if total else "no images"
        lines.append(f"{name:<{width}}  {share}  of {total}")
    return "\n".join(lines)
