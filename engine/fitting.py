"""Train a net of one's own on arrays of one's own, in a line; the loop of engine/train.py, bare.

    layers = [Conv(16), ReLU(), MaxPool(2), Linear(10)]
    net = Net(layers, SoftmaxLoss(), kernels.ops_for("auto"), in_shape=(8, 8, 1), batch=50)
    lsuv.fill(net, "lsuv", seed=0)
    lsuv.lsuv(net, engine.batches(net, images, labels))
    engine.fit(net, images, labels, SGD(net, momentum=0.9), epochs=5, rate=0.1)

Images are floating-point (N, H, W, C) and go in as they are: normalise and augment them yourself.
A NaN or an infinity among them is refused; one that comes up in training ends it, with the name of
the layer.

Read next: engine/train.py, which adds a data set on the device, checkpoints and signals.
"""

import time
from collections.abc import Callable

import numpy as np

from engine.diagnosis import first_in_forward, first_in_step, tensor_not_finite
from engine.errors import InputError, RunError
from engine.data.feed import Order, read_clock, write_clock, zero_sums
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
    RunError names step and layer where a loss or gradient is not finite, and the weights are then
    those before that step; or the tensor, where the updates of an epoch have made one so."""
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
        looked = time.perf_counter()
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # latched, and named
            for step in range(start, end):
                put(net, images, labels, order.images(step * net.batch, net.batch))
                net.forward(train=True)
                net.evaluate_loss()
                net.backward()
                optimizer.step()
                net.ops.advance(net.clock, device_table)
                if time.perf_counter() - looked > 1:
                    looked = time.perf_counter()
                    if not read_clock(net)[FINITE]:
                        break
            clock = read_clock(net)
            if not clock[FINITE]:
                step = int(clock[STEP])
                put(net, images, labels, order.images(step * net.batch, net.batch))
                raise RunError(f"loss or gradient is not finite at step {step}: first seen in "
                               f"{first_in_step(net)}; lower the rate, or give the optimizer a "
                               "clip")
        if name := tensor_not_finite(net, optimizer):
            raise RunError(f"{name} is not finite after step {int(clock[STEP])}; lower the rate, "
                           "or give the optimizer a clip")
        rows.append({"epoch": len(rows) + 1, "loss": clock[LOSS_SUM] / clock[SEEN],
                     "accuracy": clock[CORRECT_SUM] / clock[SEEN]})
        report("epoch {epoch}  loss {loss:.4f}  accuracy {accuracy:.4f}".format(**rows[-1]))
        start = end
    return rows


def scores(net, images: np.ndarray) -> np.ndarray:
    """(N, classes): the net's scores of images (N, H, W, C), without dropout.

    RunError names the layer where one is not finite."""
    check_images(net, images)
    out = np.empty((len(images), net.classes), net.dtype)
    for first in range(0, len(images), net.batch):
        part = images[first : first + net.batch]
        padded = np.zeros((net.batch, *net.in_shape), net.dtype)
        padded[: len(part)] = part
        net.x[...] = net.ops.asarray(padded.astype(net.activation_dtype, copy=False))
        rows = slice(first, first + len(part))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            out[rows] = net.ops.tohost(net.forward(train=False))[: len(part)]
            if not np.isfinite(out[rows]).all():
                raise RunError(f"the scores of images {first} to {rows.stop - 1} are not finite: "
                               f"first seen in {first_in_forward(net, train=False)}; look at the "
                               "weights, or scale the images down")
    return out


def put(net, images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> None:
    """Images `rows` and their labels into the net's input buffers."""
    given = np.ascontiguousarray(images[rows], net.dtype)
    net.x[...] = net.ops.asarray(given.astype(net.activation_dtype, copy=False))
    net.labels[...] = net.ops.asarray(np.ascontiguousarray(labels[rows], np.int32))


def check(net, images: np.ndarray, labels: np.ndarray) -> None:
    """InputError for images and labels that the net can't be trained on."""
    if images.shape[1:] != net.in_shape or len(images) != len(labels) or len(images) < net.batch:
        raise InputError(f"images {images.shape} and labels {labels.shape}: this net wants at "
                         f"least {net.batch} images (N, {', '.join(map(str, net.in_shape))}) and a "
                         "label for each")
    if labels.dtype.kind not in "iub":
        raise InputError(f"labels are {labels.dtype}: give whole numbers, labels.astype(int)")
    if labels.min() < 0 or labels.max() >= net.classes:
        raise InputError(f"labels from {labels.min()} to {labels.max()}: this net has "
                         f"{net.classes} classes, 0 to {net.classes - 1}")
    check_images(net, images)


def check_images(net, images: np.ndarray) -> None:
    """InputError for images of another shape, or with a value that is not finite in the net's
    precision."""
    if images.shape[1:] != net.in_shape:
        raise InputError(f"images {images.shape}: this net wants (N, "
                         f"{', '.join(map(str, net.in_shape))})")
    if not len(images):
        return
    with np.errstate(over="ignore"):
        ends = np.array([images.min(), images.max()]).astype(net.dtype)  # of a NaN both are NaN
        if not np.isfinite(ends.astype(net.activation_dtype)).all():
            worst = next(n for n, image in enumerate(images) if not np.isfinite(
                image.astype(net.dtype).astype(net.activation_dtype)).all())
            raise InputError(f"images: number {worst} has a value that is not finite in "
                             f"{np.dtype(net.activation_dtype)}; replace it, or leave that image "
                             "out")
