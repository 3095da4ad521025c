"""Train a net of one's own on arrays of one's own, in a line; the loop of engine/train.py, bare.

    layers = [Conv(16), ReLU(), MaxPool(2), Linear(10)]
    net = Net(layers, SoftmaxLoss(), kernels.ops_for("auto"), in_shape=(8, 8, 1), batch=50)
    lsuv.fill(net, "lsuv", seed=0)
    lsuv.lsuv(net, engine.batches(net, images, labels))
    engine.fit(net, images, labels, SGD(net, momentum=0.9), epochs=5, rate=0.1)

Images are floating-point (N, H, W, C) and go in as they are: normalise and augment them yourself.

Read next: engine/train.py, which adds a data set on the device, checkpoints and signals.
"""

from collections.abc import Callable

import numpy as np

from engine.errors import InputError, RunError
from engine.feed import Order, read_clock, write_clock, zero_sums
from engine.schedules import rates
from kernels.clock import CORRECT_SUM, FINITE, FIRST, LOSS_SUM, RATE, SEEN, STEP


def batches(net, images: np.ndarray, labels: np.ndarray, seed: int = 0) -> Callable[[], None]:
    """A function that fills net.x and net.labels with the next mini-batch, shuffled every epoch.

    It moves the clock's step, which draws new dropout masks: what LSUV wants to be given."""
    check(net, images, labels)
    order, number = Order(seed, len(images)), -1

    def next_batch() -> None:
        nonlocal number
        number += 1
        clock = read_clock(net)
        clock[STEP] = number
        write_clock(net, clock)
        put(net, images, labels, order.images(number * net.batch, net.batch))

    return next_batch


def fit(net, images: np.ndarray, labels: np.ndarray, optimizer, epochs: float, rate: float | dict,
        seed: int = 0, report: Callable[[str], None] = print) -> list[dict]:
    """round(epochs * N / batch) steps -> a row an epoch: epoch, loss, accuracy on the training set.

    labels: (N,) whole numbers below net.classes. rate: a number, or a policy of engine.schedules.
    RunError where a loss or gradient is not finite."""
    check(net, images, labels)
    policy = rate if isinstance(rate, dict) else {"policy": "fixed", "rate": rate}
    steps, rows, start = round(epochs * len(images) / net.batch), [], 0
    order = Order(seed, len(images))
    while start < steps:
        end = min(steps, round((len(rows) + 1) * len(images) / net.batch))
        table = rates(policy, start, end - start + 1)
        clock = read_clock(net)
        zero_sums(clock)
        clock[STEP], clock[FIRST], clock[RATE] = start, start, table[0]
        write_clock(net, clock)
        device_table = net.ops.asarray(table)
        for step in range(start, end):
            put(net, images, labels, order.images(step * net.batch, net.batch))
            net.forward(train=True)
            net.evaluate_loss()
            net.backward()
            optimizer.step()
            net.ops.advance(net.clock, device_table)
        clock = read_clock(net)
        if not clock[FINITE]:
            raise RunError(f"loss is not finite at step {int(clock[STEP])}; lower the rate")
        rows.append({"epoch": len(rows) + 1, "loss": clock[LOSS_SUM] / clock[SEEN],
                     "accuracy": clock[CORRECT_SUM] / clock[SEEN]})
        report("epoch {epoch}  loss {loss:.4f}  accuracy {accuracy:.4f}".format(**rows[-1]))
        start = end
    return rows


def scores(net, images: np.ndarray) -> np.ndarray:
    """(N, classes): the net's scores of images (N, H, W, C), without dropout."""
    out = np.empty((len(images), net.classes), net.dtype)
    for first in range(0, len(images), net.batch):
        part = images[first : first + net.batch]
        padded = np.zeros((net.batch, *net.in_shape), net.dtype)
        padded[: len(part)] = part
        net.x[...] = net.ops.asarray(padded)
        out[first : first + len(part)] = net.ops.tohost(net.forward(train=False))[: len(part)]
    return out


def put(net, images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> None:
    """Images `rows` and their labels into the net's input buffers."""
    net.x[...] = net.ops.asarray(np.ascontiguousarray(images[rows], net.dtype))
    net.labels[...] = net.ops.asarray(np.ascontiguousarray(labels[rows], np.int32))


def check(net, images: np.ndarray, labels: np.ndarray) -> None:
    if images.shape[1:] != net.in_shape or len(images) != len(labels) or len(images) < net.batch:
        raise InputError(f"images {images.shape} and labels {labels.shape}: this net wants at "
                         f"least {net.batch} images (N, {', '.join(map(str, net.in_shape))}) and a "
                         "label for each")
    if labels.min() < 0 or labels.max() >= net.classes:
        raise InputError(f"labels from {labels.min()} to {labels.max()}: this net has "
                         f"{net.classes} classes, 0 to {net.classes - 1}")
