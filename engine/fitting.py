"""Train a net of one's own on arrays of one's own, in a line; the loop of engine/train.py, bare.

    layers = [Conv(16), ReLU(), MaxPool(2), Linear(10)]
    net = Net(layers, SoftmaxLoss(), kernels.ops_for("auto"), in_shape=(8, 8, 1), batch=50)
    lsuv.fill(net, "lsuv", seed=0)
    lsuv.lsuv(net, engine.batches(net, images, labels))
    engine.fit(net, images, labels, SGD(net, momentum=0.9), epochs=5, rate=0.1)

Images are floating-point (N, H, W, C) and go in as they are: normalise and augment them yourself.
A NaN or an infinity among them is refused; one that comes up in training ends it, with the name of
the layer.

Read next: engine/README.md.
"""

import time
from collections.abc import Callable, Mapping
from math import ceil, isfinite
from numbers import Real

import numpy as np

from engine.data.feed import Order, read_clock, write_clock, zero_sums
from engine.diagnosis import first_in_forward, first_in_step, tensor_not_finite
from engine.errors import InputError, NotFinite
from engine.plan import check_seed
from engine.schedules import rates
from engine.scoring import need_statistics
from kernels.clock import CORRECT_SUM, FINITE, FIRST, LOSS_SUM, RATE, SEEN, STEP, TRIAL

UPLOAD = 1 << 28  # bytes of images that go to the device at one time, or those of one step


def batches(net, images: np.ndarray, labels, seed: int = 0) -> Callable[[], None]:
    """A function that fills net.x and net.targets with the next mini-batch, shuffled every epoch.

    It moves the clock's step, which draws new dropout masks: what LSUV wants to be given. Training
    begins where it would have begun without."""
    images, targets = checked(net, images, labels)
    order, number = Order(check_seed(seed), len(images)), -1

    def next_batch() -> None:
        nonlocal number
        number += 1
        clock = read_clock(net)
        clock[TRIAL] = clock[TRIAL] or clock[STEP] + 1
        clock[STEP] = number
        write_clock(net, clock)
        put(net, images, targets, order.images(number * net.batch, net.batch))

    return next_batch


def fit(
    net,
    images: np.ndarray,
    labels,
    optimizer,
    epochs: float,
    rate: float | dict,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> list[dict]:
    """Train for so many epochs -> a row an epoch: epoch, loss, accuracy on the training set.

    labels: (N,) whole numbers below net.classes, or what else the net's loss wants to know of each
    image; of several targets a dict by name. rate: a number, or a policy of engine.schedules.

    A step is a batch, an epoch N / batch of them, rounded. A second call goes on where the first
    ended: order, dropout masks and rate policy count the steps in the net's clock, so that two
    calls are one, bit for bit, also in the middle of an epoch.

    InputError, before the first step, for what can't be trained on. RunError names step and layer
    where a loss or gradient is not finite, and the weights are then those before that step; or the
    tensor, where the updates of an epoch have made one so."""
    images, targets = checked(net, images, labels)
    if optimizer.net is not net:
        raise InputError(f"the {type(optimizer).__name__} is another net's; make one of this net")
    clock, per_epoch = read_clock(net), len(images) / net.batch
    start = int(clock[TRIAL] - 1 if clock[TRIAL] else clock[STEP])
    end, total = last_step(net, epochs, start, per_epoch)
    policy = rate if isinstance(rate, dict) else {"policy": "fixed", "rate": rate}
    table = rates(policy, start, end - start + 1)
    net.epochs = total
    clock[STEP], clock[FIRST], clock[RATE] = start, start, table[0]
    clock[FINITE], clock[TRIAL] = 1, 0
    write_clock(net, clock)
    device_table, order, rows = net.ops.asarray(table), Order(check_seed(seed), len(images)), []

    def learn() -> None:
        net.forward(train=True)
        net.evaluate_loss()
        net.backward()
        optimizer.step()
        net.ops.advance(net.clock, device_table)

    step, epoch = net.ops.captured(learn), int(start / per_epoch) + 1
    while start < end:
        while round(epoch * per_epoch) <= start:
            epoch += 1
        stop = min(end, round(epoch * per_epoch))
        if start == round((epoch - 1) * per_epoch):
            clock = read_clock(net)
            zero_sums(clock)
            write_clock(net, clock)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # latched, and named
            clock = run_steps(net, images, targets, order, step, start, stop)
            if not clock[FINITE]:
                number = int(clock[STEP])
                put(net, images, targets, order.images(number * net.batch, net.batch))
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
        rows.append(
            {
                "epoch": epoch,
                "loss": clock[LOSS_SUM] / clock[SEEN],
                "accuracy": clock[CORRECT_SUM] / clock[SEEN],
            }
        )
        report("epoch {epoch}  loss {loss:.4f}  accuracy {accuracy:.4f}".format(**rows[-1]))
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


def run_steps(net, images, targets, order: Order, step, start: int, stop: int) -> np.ndarray:
    """Steps start .. stop - 1, or up to one that is not finite -> the clock.

    Images go to the device in blocks of whole steps, so that it is waited for once a block, and
    where the clock is looked at, once a second."""
    size = net.batch * images[:1].size * np.dtype(net.dtype).itemsize
    block, last_look = max(1, UPLOAD // size), time.perf_counter()
    for first in range(start, stop, block):
        count = min(block, stop - first)
        rows = order.images(first * net.batch, count * net.batch)
        x, wanted = on_device(net, images, targets, rows)
        for number in range(count):
            part = slice(number * net.batch, (number + 1) * net.batch)
            net.x[...] = x[part]
            for name, values in wanted.items():
                net.targets[name][...] = values[part]
            step()
            if time.perf_counter() - last_look > 1:
                clock, last_look = read_clock(net), time.perf_counter()
                if not clock[FINITE]:
                    return clock
    return read_clock(net)


def scores(net, images: np.ndarray) -> np.ndarray:
    """(N, classes): the net's scores of images (N, H, W, C), without dropout.

    RunError names the layer where one is not finite."""
    images = checked_images(net, images)
    need_statistics(net)
    out = np.empty((len(images), *net.out_shape), net.dtype)
    for first in range(0, len(images), net.batch):
        part = images[first : first + net.batch]
        padded = np.zeros((net.batch, *net.in_shape), net.dtype)
        padded[: len(part)] = part
        net.x[...] = net.ops.asarray(padded.astype(net.activation_dtype, copy=False))
        rows = slice(first, first + len(part))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            out[rows] = net.ops.tohost(net.forward(train=False))[: len(part)]
            if not np.isfinite(out[rows]).all():
                raise NotFinite(
                    f"the scores of images {first} to {rows.stop - 1} are not finite: "
                    f"first seen in {first_in_forward(net, train=False)}; look at the "
                    "weights, or scale the images down"
                )
    return out


def on_device(net, images, targets: dict[str, np.ndarray], rows: np.ndarray):
    """Images `rows` and their targets, as the net's input buffers want them."""
    x = np.ascontiguousarray(images[rows], net.dtype).astype(net.activation_dtype, copy=False)
    return net.ops.constant(x), {
        name: net.ops.constant(values[rows]) for name, values in targets.items()
    }


def put(net, images: np.ndarray, targets: dict[str, np.ndarray], rows: np.ndarray) -> None:
    """Images `rows` and their targets into the net's input buffers."""
    net.x[...], wanted = on_device(net, images, targets, rows)
    for name, values in wanted.items():
        net.targets[name][...] = values


def checked(net, images, labels) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images, and the net's targets by name, in its dtypes. InputError for what it can't be trained
    on."""
    images = checked_images(net, images)
    if len(images) < net.batch:
        raise InputError(
            f"{len(images)} images, and a batch of this net has {net.batch}; give "
            "more, or the net a smaller batch"
        )
    if not isinstance(labels, Mapping) and len(net.wanted) == 1:
        labels = dict.fromkeys(net.wanted, labels)
    if not isinstance(labels, Mapping) or set(labels) != set(net.wanted):
        names = f"targets {', '.join(map(str, labels))}: " if isinstance(labels, Mapping) else ""
        raise InputError(
            f"{names}this net wants {', '.join(net.wanted)}; give a dict with an array for each"
        )
    return images, {
        name: target.of(labels[name], len(images)) for name, target in net.wanted.items()
    }


def checked_images(net, images) -> np.ndarray:
    """Images as an array. InputError for another shape, or a value that is no number or is not
    finite in the net's precision."""
    try:
        images = np.asarray(images)
    except ValueError:
        raise InputError("images: of unequal shapes; give an array") from None
    if images.dtype.kind not in "iufb" and images.dtype != net.activation_dtype:
        raise InputError(f"images are {images.dtype}: give numbers")
    if images.shape[1:] != net.in_shape:
        raise InputError(
            f"images {images.shape}: this net wants (N, {', '.join(map(str, net.in_shape))})"
        )
    if not len(images):
        return images
    with np.errstate(over="ignore"):
        ends = np.array([images.min(), images.max()]).astype(net.dtype)  # of a NaN both are NaN
        if not np.isfinite(ends.astype(net.activation_dtype)).all():
            worst = next(
                n
                for n, image in enumerate(images)
                if not np.isfinite(image.astype(net.dtype).astype(net.activation_dtype)).all()
            )
            raise InputError(
                f"images: number {worst} has a value that is not finite in "
                f"{np.dtype(net.activation_dtype)}; replace it, or leave that image "
                "out"
            )
    return images
