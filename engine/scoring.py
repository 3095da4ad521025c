"""How good a net is on the test set: loss, accuracy, confusion table.

Read next: engine/diagnosis.py, who is to blame for a score that is none.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.data.feed import Resident, read_clock, write_clock, zero_sums
from engine.diagnosis import first_in_forward
from engine.errors import InputError
from engine.layers import BatchNorm
from kernels.clock import FINITE, LOSS_SUM, SEEN


@dataclass
class Scores:
    """loss: mean over the images, nan if a batch's was not finite. confusion: (classes, classes)
    counts, row = true class, column = predicted. unscored: images whose scores were not finite;
    they count as wrong, and `where` is what was not finite first: "the output of conv22"."""

    loss: float
    accuracy: float
    confusion: np.ndarray
    unscored: int
    where: str | None = None


def score(net, images: Resident, stop: Callable[[], bool] = lambda: False) -> Scores | None:
    """All these images, such as a feed's `test`, through the net as it is; None if `stop()` became
    true on the way.

    The clock is given back as it was, so a training run goes on as if nothing had been; and a loss
    that is not finite latches nothing."""
    need_statistics(net)
    before = read_clock(net)
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # counted, and named
            return _score(net, images, before.copy(), stop)
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


def _score(net, images: Resident, clock: np.ndarray, stop: Callable[[], bool]) -> Scores | None:
    zero_sums(clock)
    write_clock(net, clock)
    confusion, where = np.zeros((net.classes, net.classes), np.int64), None
    for first in range(0, images.count, net.batch):
        if stop():
            return None
        rows = np.arange(first, min(first + net.batch, images.count))
        images.batch(rows)
        scores = net.forward(train=False)
        net.evaluate_loss(train=False)
        scores = net.ops.tohost(scores)[: len(rows)].astype(net.dtype)
        good = np.isfinite(scores).all(axis=1)
        if where is None and not (good.all() and read_clock(net)[FINITE]):
            where = first_in_forward(net, train=False) or "the loss"
        np.add.at(confusion, (images.truth[rows][good], scores[good].argmax(axis=1)), 1)
    after = read_clock(net)
    loss = after[LOSS_SUM] / after[SEEN] if after[FINITE] and after[SEEN] else float("nan")
    return Scores(
        float(loss),
        int(confusion.trace()) / images.count,
        confusion,
        images.count - int(confusion.sum()),
        where,
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
