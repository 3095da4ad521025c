"""Train a net of one's own on arrays of one's own, in a line; the loop of engine/train.py, bare.

    layers = [Conv(16), ReLU(), MaxPool(2), Linear(10)]
    net = Net(layers, SoftmaxLoss(), kernels.ops_for("auto"), in_shape=(8, 8, 1), batch=50)
    lsuv.fill(net, "lsuv", seed=0)
    lsuv.lsuv(net, engine.batches(net, images, labels))
    engine.fit(net, images, labels, SGD(net, momentum=0.9), epochs=5, rate=0.1)

Images are floating-point (N, H, W, C) and go in as they are: normalise and augment them yourself.
A NaN or an infinity among them is refused; one that comes up in training ends it, with the name of
the layer.

Read next: engine/data/examples.py, what it is given.
"""

import time
from collections.abc import Callable
from functools import partial
from math import ceil, isfinite, prod
from numbers import Real
from typing import Any

import numpy as np

from engine.data.dataset import held_out
from engine.data.examples import Examples
from engine.data.feed import Order, read_clock, write_clock, zero_sums
from engine.diagnosis import first_in_forward, first_in_step, tensor_not_finite
from engine.errors import InputError, NotFinite
from engine.layers import is_real
from engine.plan import check_seed
from engine.schedules import rates
from engine.scoring import need_statistics
from kernels.clock import CORRECT_SUM, FINITE, FIRST, LOSS_SUM, RATE, SEEN, STEP, TRIAL

UPLOAD = 1 << 28  # bytes of images that go to the device at one time, or those of one step


def batches(net, images: np.ndarray, labels, seed: int = 0) -> Callable[[], None]:
    """A function that fills net.x and net.targets with the next mini-batch, shuffled every epoch.

    It moves the clock's step, which draws new dropout masks: what LSUV wants to be given. Training
    begins where it would have begun without."""
    examples = Examples(net, images, labels).need_batch()
    order, number = Order(check_seed(seed), len(examples)), -1

    def next_batch() -> None:
        nonlocal number
        number += 1
        clock = read_clock(net)
        clock[TRIAL] = clock[TRIAL] or clock[STEP] + 1
        clock[STEP] = number
        write_clock(net, clock)
        put(net, *examples.batch(order.images(number * net.batch, net.batch)))

    return next_batch


def fit(
    net,
    images,
    labels,
    optimizer,
    epochs: float,
    rate: float | dict,
    seed: int = 0,
    report: Callable[[str], None] = print,
    validation=None,
    each_epoch: Callable[[dict], Any] | None = None,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
) -> list[dict]:
    """Train for so many epochs -> a row an epoch: epoch, loss and, where the loss counts hits,
    accuracy on the training set; with `validation` also validation_loss and validation_accuracy.

    images: an array, or any sequence whose `images[rows]`, for an array of row numbers, is one: a
    memory-mapped file, or a class of your own. labels: (N,) whole numbers below net.classes, or
    what else the net's loss wants to know of each image; of several targets a dict by name. rate: a
    number, or a policy of engine.schedules, which counts updates.

    validation: (images, labels), or the share or number of the images that are held out for it, by
    the seed. each_epoch is handed every row; training ends early where it returns False. augment is
    handed each training batch, (n, *in_shape) in the net's dtype, and a random generator that
    depends on seed and step alone; it returns the batch to train on.

    A step is a batch, an epoch N / batch of them, rounded. A second call goes on where the first
    ended: order, dropout masks and rate policy count the steps in the net's clock, so that two
    calls are one, bit for bit, also in the middle of an epoch.

    InputError, before the first step, for what can't be trained on. RunError names step and layer
    where a loss or gradient is not finite, and the weights are then those before that step; or the
    tensor, where the updates of an epoch have made one so."""
    check_seed(seed)
    examples, tested = Examples(net, images, labels, augment, seed), None
    if isinstance(validation, (tuple, list)) and len(validation) == 2:
        tested = Examples(net, *validation)
    elif is_real(validation):
        examples, tested = map(examples.part, held_out(len(examples), validation, seed))
    elif validation is not None:
        raise InputError(
            f"validation {validation!r:.80}: give (images, labels), or a share such as 0.1"
        )
    examples.need_batch()
    if optimizer.net is not net:
        raise InputError(f"the {type(optimizer).__name__} is another net's; make one of this net")
    need_statistics(net, train=True)
    clock, per_epoch = read_clock(net), len(examples) / net.batch
    start = int(clock[TRIAL] - 1 if clock[TRIAL] else clock[STEP])
    end, total = last_step(net, epochs, start, per_epoch)
    policy = rate if isinstance(rate, dict) else {"policy": "fixed", "rate": rate}
    table = rates(policy, start, end - start + 1, optimizer.accumulate)
    net.epochs = total
    clock[STEP], clock[FIRST], clock[RATE] = start, start, table[0]
    clock[FINITE], clock[TRIAL] = 1, 0
    write_clock(net, clock)
    device_table, order, rows = net.ops.asarray(table), Order(seed, len(examples)), []

    def learn(last: bool = True) -> None:
        net.forward(train=True)
        net.evaluate_loss()
        net.backward()
        optimizer.step(last)
        net.ops.advance(net.clock, device_table)

    part, whole = net.ops.captured(partial(learn, last=False)), net.ops.captured(learn)

    def step(number: int) -> None:
        (whole if optimizer.updates_at(number) else part)()

    epoch = int(start / per_epoch) + 1
    while start < end:
        while round(epoch * per_epoch) <= start:
            epoch += 1
        stop = min(end, round(epoch * per_epoch))
        if start == round((epoch - 1) * per_epoch):
            clock = read_clock(net)
            zero_sums(clock)
            write_clock(net, clock)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # latched, and named
            clock = run_steps(net, examples, order, step, start, stop)
            if not clock[FINITE]:
                number = int(clock[STEP])
                put(net, *examples.batch(order.images(number * net.batch, net.batch), number))
                raise NotFinite(
                    f"loss or gradient is not finite at step {number}: first seen in "
                    f"{first_in_step(net)}; lower the rate, or give the optimizer a "
                    "clip"
                )
        if name := tensor_not_finite(net, optimizer):
            raise NotFinite(
                f"{name} is not finite after step {int(clock[STEP])}; lower the rate, "
                "or give the optimizer a clip"
            )
        row = {"epoch": epoch} | sums(net, clock)
        if tested is not None:
            with optimizer.averaged():
                means = score(net, tested)
            row |= {f"validation_{name}": value for name, value in means.items()}
        rows.append(row)
        numbers = (f"{name.replace('_', ' ')} {row[name]:.4f}" for name in list(row)[1:])
        report(f"epoch {epoch}  {'  '.join(numbers)}")
        if each_epoch is not None and each_epoch(dict(row)) is False:
            break
        start = stop
    return rows


def last_step(net, epochs: float, start: int, per_epoch: float) -> tuple[int, float]:
    """The step that ends so many more epochs, and all the epochs that have been asked for: their
    steps are rounded together. InputError for epochs that give no step."""
    if isinstance(epochs, bool) or not (isinstance(epochs, Real) and isfinite(epochs)):
        raise InputError(f"epochs {epochs!r}: give a number above 0")
    total = (net.epochs if round(net.epochs * per_epoch) == start else start / per_epoch) + epochs
    end = round(total * per_epoch)
    if not start < end < 1 << 31:
        least = ceil(1000 / per_epoch) / 1000
        raise InputError(
            f"epochs {epochs:g} is no step of batch {net.batch} from step {start} on; "
            f"{least:g} epochs are a step"
            if end <= start
            else f"epochs {epochs:g} ends at step {end}, and a run has fewer than 2^31"
        )
    return end, total


def run_steps(net, examples: Examples, order: Order, step, start: int, stop: int) -> np.ndarray:
    """Steps start .. stop - 1, or up to one that is not finite -> the clock.

    Images go to the device in blocks of whole steps, so that it is waited for once a block, and
    where the clock is looked at, once a second."""
    size = net.batch * prod(net.in_shape) * np.dtype(net.dtype).itemsize
    block, last_look = max(1, UPLOAD // size), time.perf_counter()
    for first in range(start, stop, block):
        count = min(block, stop - first)
        rows = order.images(first * net.batch, count * net.batch)
        x, wanted = examples.batch(rows, first)
        for number in range(count):
            part = slice(number * net.batch, (number + 1) * net.batch)
            put(net, x[part], {name: values[part] for name, values in wanted.items()})
            step(first + number)
            if time.perf_counter() - last_look > 1:
                clock, last_look = read_clock(net), time.perf_counter()
                if not clock[FINITE]:
                    return clock
    return read_clock(net)


def sums(net, clock: np.ndarray) -> dict[str, float]:
    """Mean loss, and accuracy where the net's loss counts hits, since the clock's sums were 0."""
    means = {"loss": clock[LOSS_SUM] / clock[SEEN]}
    return means | ({"accuracy": clock[CORRECT_SUM] / clock[SEEN]} if net.loss.counts else {})


def score(net, examples: Examples) -> dict[str, float]:
    """`sums` of these examples, without dropout; the clock stays. RunError names the layer where a
    score or the loss is not finite."""
    need_statistics(net)
    before = read_clock(net)
    clock = before.copy()
    zero_sums(clock)
    write_clock(net, clock)
    try:
        for first in range(0, len(examples), net.batch):
            rows = np.arange(first, min(first + net.batch, len(examples)))
            put(net, *examples.batch(rows))
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                net.forward(train=False)
                net.evaluate_loss(train=False)
                clock = read_clock(net)
                if not clock[FINITE]:
                    raise NotFinite(
                        f"the loss of validation images {rows[0]} to {rows[-1]} is not finite: "
                        f"first seen in {first_in_forward(net, train=False) or 'the loss'}; lower "
                        "the rate, or give the optimizer a clip"
                    )
    finally:
        write_clock(net, before)
    return sums(net, clock)


def scores(net, images) -> np.ndarray:
    """(N, classes): the net's scores of images (N, H, W, C), without dropout.

    RunError names the layer where one is not finite."""
    examples = Examples(net, images)
    need_statistics(net)
    out = np.empty((len(examples), *net.out_shape), net.dtype)
    for first in range(0, len(examples), net.batch):
        rows = slice(first, min(first + net.batch, len(examples)))
        put(net, *examples.batch(np.arange(rows.start, rows.stop)))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            out[rows] = net.ops.tohost(net.forward(train=False))[: rows.stop - first]
            if not np.isfinite(out[rows]).all():
                raise NotFinite(
                    f"the scores of images {first} to {rows.stop - 1} are not finite: "
                    f"first seen in {first_in_forward(net, train=False)}; look at the "
                    "weights, or scale the images down"
                )
    return out


def put(net, x, targets: dict) -> None:
    """A batch on the device into the net's input buffers."""
    net.x[...] = x
    for name, values in targets.items():
        net.targets[name][...] = values
