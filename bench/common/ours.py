"""Our contestants: the training step itself, its convolutions alone, and where its time goes.

The step is the training command's own, by the recipe named, `fast` unless another is: gather,
forward, loss, backward, clip and update. Evaluation is the command's too: gather, forward, loss,
scores to the host.

Read next: bench/peers/__init__.py.
"""

import threading
import time
from collections import defaultdict
from dataclasses import replace
from functools import partial

import numpy as np

import models
from bench.common.contest import RATE, Entry, Setting, mean_seconds
from engine.data import load
from engine.data.feed import Feed, read_clock
from engine.errors import RunError
from engine.layers import BatchNorm, Conv
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.optimizers import optimizer_of
from engine.train import one_step
from kernels import ops_for
from kernels.clock import FINITE, LOSS
from lsuv.fillers import fill
from models.recipes import recipe

CONVOLUTIONS = ("conv_forward", "conv_backward_filter", "conv_backward_data")
# Of a loss near 2.3, against the reference device. TF32 keeps three bits more than bf16, and rounds
# only what convolutions read.
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 3e-2}
COPIED = 256 << 20  # bytes, far more than a cache holds


class Step:
    """A net, its data and optimizer, and one training step as a call. `start` before it."""

    def __init__(self, ops, entry: Entry, data):
        r = recipe(entry.net, entry.act, "lsuv", entry.recipe)
        layers = models.build(entry.net, entry.act, len(data.classes), r.dropout)
        self.net = Net(
            layers, SoftmaxLoss(), ops, data.in_shape, entry.batch, precision=entry.precision
        )
        fill(self.net, "ortho", 0, entry.act)
        self.optimizer = optimizer_of(self.net, r)
        self.feed = Feed(self.net, data, r.move, r.input_scale)
        self.done = 0

    def start(self, steps: int, rate: float = RATE) -> None:
        """Order and rates of the next steps, as a run uploads them once an epoch."""
        clock = read_clock(self.net)
        self.rates = self.feed.start(clock, self.done, self.done + steps, np.full(steps + 1, rate))
        self.done += steps

    def __call__(self) -> None:
        one_step(self.net, self.feed, self.optimizer, self.rates)

    def loss(self) -> float:
        """Of the last step, for which it waits."""
        return float(read_clock(self.net)[LOSS])


def check(ops, entry: Entry) -> None:
    """RunError unless three small steps have the losses that the reference has.

    Batch normalisation of four images, layer upon layer, amplifies the rounding of bf16: such a net
    is held to its first loss alone, and not as tightly. RMSProp's first step divides by the
    gradient itself, so that rounding decides where it leads: in tf32 its first loss alone is held.
    """
    steps, tolerance = 3, TOLERANCE[entry.precision]
    if entry.precision == "tf32" and recipe(entry.net, entry.act, "lsuv").optimizer == "rmsprop":
        steps = 1
    layers = models.build(entry.net, entry.act, 10)
    if entry.precision == "bf16" and any(isinstance(layer, BatchNorm) for layer in layers):
        steps, tolerance = 1, 0.2
    compare(ops, ops_for("numpy"), replace(entry, batch=4), steps, tolerance)


def compare(ops, other, entry: Entry, steps: int, tolerance: float) -> list[tuple[float, float]]:
    """The loss of every step, by `ops` and by another device that is right, on the same images.

    RunError where they differ. A device without TF32 computes in fp32."""
    data = load("synthetic", size=models.NETS[entry.net].in_shape, limit=10 * entry.batch)
    in_fp32 = entry.precision == "tf32" and "tf32" not in other.precisions
    ours = Step(ops, entry, data)
    theirs = Step(other, replace(entry, precision="fp32") if in_fp32 else entry, data)
    for step in (ours, theirs):
        step.start(steps, rate=1e-3)
    losses = []
    for number in range(steps):
        ours()
        theirs()
        own, right = ours.loss(), theirs.loss()
        if not abs(own - right) < tolerance:
            raise RunError(
                f"step {number}: the loss is {own:.5f} on device {ops.name} and "
                f"{right:.5f} on {other.name}; a wrong kernel is not timed, run "
                "tests/kernels/test_ops.py to find it"
            )
        losses.append((own, right))
    return losses


def data_of(entry: Entry):
    """The data set that is timed: the net's own where its files are."""
    model = models.NETS[entry.net]
    return load(entry.data, wanted=model.data, size=model.in_shape)


def ops_of(entry: Setting | Entry, direct: bool = False):
    """The operations, with the entry's threads where the device takes them from us. direct: of
    device cpu, with every convolution by oneDNN."""
    if direct and entry.device == "cpu":
        from kernels.cpu.ops import CpuOps

        return CpuOps(entry.threads, direct=True)
    return ops_for(
        entry.device,
        entry.threads if entry.device == "cpu" else None,
        getattr(entry, "precision", "fp32"),
    )


class Ours:
    """The training and the evaluation step, with the data set resident."""

    def __init__(self, entry: Entry):
        self.ops, self.entry = ops_of(entry), entry
        self.data = data_of(entry)
        self.step = Step(self.ops, entry, self.data)
        self.tested = 0

    def facts(self) -> dict:
        split = self.data.train.images, self.data.test.images
        return {
            "parameters": self.step.net.parameters,
            "data": self.data.name,
            "data_mb": sum(images.nbytes for images in split) / 1e6,
        }

    def train(self, steps: int, graph: bool = True) -> float:
        """Seconds of a training step, the mean over `steps`, after two that are not timed: the
        second is recorded, on a device that records a step and replays it. graph: let it."""
        self.step.start(2 + steps)
        step = self.ops.captured(self.step) if graph else self.step
        step()
        seconds = mean_seconds(step, steps, self.ops.synchronize)
        if not read_clock(self.step.net)[FINITE]:
            raise RunError(
                "the loss is not finite; such a step updates nothing, so it says "
                "nothing; give another --act"
            )
        return seconds

    def launched(self, steps: int) -> float:
        """The same of a step whose kernels are launched one by one, every time."""
        return self.train(steps, graph=False)

    def test_batch(self) -> None:
        """One batch of engine/scoring.py, without the confusion table."""
        net, feed = self.step.net, self.step.feed
        first = self.tested % (feed.test.count - net.batch + 1)
        feed.test.batch(np.arange(first, first + net.batch))
        scores = net.forward(train=False)
        net.evaluate_loss()
        net.ops.tohost(scores)
        self.tested += net.batch

    def test(self, steps: int) -> float:
        """Seconds of a batch's scores, likewise."""
        return mean_seconds(self.test_batch, steps, self.ops.synchronize)

    def profile(self, steps: int) -> dict[str, tuple[float, float, float]]:
        """{op: (seconds, floating-point operations, bytes)} of one training step, by op."""
        watch = Stopwatch(self.ops)
        step = Step(watch, self.entry, self.data)
        step.start(1 + steps)
        step()
        watch.seconds.clear()
        watch.bytes.clear()
        for _ in range(steps):
            step()
        operations = operations_of(step.net)
        return {
            name: (seconds / steps, operations.get(name, 0), watch.bytes[name] / steps)
            for name, seconds in watch.seconds.items()
        }


def operations_of(net: Net) -> dict[str, int]:
    """Floating-point operations of the convolutions of one training step."""
    convolutions = [layer for layer in net.weighted() if isinstance(layer, Conv)]
    adds = sum(layer.multiply_adds for layer in convolutions) * net.batch
    first = convolutions[0].multiply_adds * net.batch  # nobody wants the images' gradient
    return dict(zip(CONVOLUTIONS, (2 * adds, 2 * adds, 2 * (adds - first)), strict=True))


class Between:
    """Stands between a net and its ops: every call goes through `passed`."""

    def __init__(self, ops):
        self.ops = ops

    def __getattr__(self, name):
        value = getattr(self.ops, name)
        return partial(self.passed, name, value) if callable(value) else value

    def passed(self, name: str, call, *arguments):
        raise NotImplementedError


class Stopwatch(Between):
    """Every call is timed, until the device has done what it asks for."""

    def __init__(self, ops):
        super().__init__(ops)
        self.seconds, self.bytes = defaultdict(float), defaultdict(int)

    def passed(self, name: str, call, *arguments):
        start = time.perf_counter()
        result = call(*arguments)
        self.ops.synchronize()
        self.seconds[name] += time.perf_counter() - start
        self.bytes[name] += moved(name, arguments)
        return result


def moved(name: str, arguments) -> int:
    """Bytes that an op must read or write at least: its arrays, and of the data set a batch."""
    if name == "gather":
        x = arguments[6]
        return x.nbytes + x.size  # floats out, bytes in
    if name.startswith("concat"):
        return 2 * min(arguments[0].nbytes, arguments[1].nbytes)  # of the whole only the part
    return sum(a.nbytes for a in arguments if hasattr(a, "nbytes") and not isinstance(a, type))


class Recorder(Between):
    """Every call is kept with its arguments."""

    def __init__(self, ops):
        super().__init__(ops)
        self.calls = []

    def passed(self, name: str, call, *arguments):
        self.calls.append((name, arguments))
        return call(*arguments)


class Convolutions:
    """The bound: what a training step's convolutions take when nothing else is done.

    One step of a net of its own is recorded, and its convolution calls are made again in their
    order, on the very buffers, so shapes, dtypes and the reuse of memory are the step's. The first
    layer has no data gradient there, so it has none here. direct: on device cpu the convolutions
    are oneDNN's, all of them."""

    def __init__(self, entry: Entry, direct: bool = False):
        self.ops = Recorder(ops_of(entry, direct))
        small = load("synthetic", size=models.NETS[entry.net].in_shape, limit=40)
        step = Step(self.ops, entry, small)
        step.start(1)
        step()
        self.operations = operations_of(step.net)
        self.calls = [
            (getattr(self.ops.ops, name), arguments)
            for name, arguments in self.ops.calls
            if name in CONVOLUTIONS
        ]
        self.precision, self.threads = entry.precision, entry.threads
        self.replay = self.ops.ops.captured(self.pass_over)
        self.replay()

    def train(self, steps: int) -> float:
        """Seconds of a step's convolutions, the mean over `steps`, after one not timed."""
        return mean_seconds(self.replay, steps, self.ops.ops.synchronize)

    def pass_over(self) -> None:
        for call, arguments in self.calls:
            call(*arguments)

    def ceilings(self) -> dict[str, float]:
        return ceilings(self.ops.ops, self.precision, self.threads)


def ceilings(ops, precision: str, threads: int) -> dict[str, float]:
    """What this machine was measured to reach: GFLOP/s of a matrix product of 2048 by 2048 by
    2048 and of a 3x3 convolution from 128 to 256 channels on 32 images of 16x16, by `ops` in a
    step's dtypes; GB/s (read and written) of copying 256 MiB by NumPy, with as many threads, or, on
    a GPU, from device to device."""
    size, rng = 2048, np.random.default_rng(0)
    narrow = ops.precisions[precision] or np.float32

    def made(*shape, dtype=np.float32):
        return ops.asarray(rng.standard_normal(shape, np.float32).astype(dtype))

    x, y = (made(size, size, dtype=narrow) for _ in range(2))
    W, b = made(size, size), made(size)
    product = fastest(lambda: ops.linear_forward(x, W, b, y), ops.synchronize)
    images, out = made(32, 16, 16, 128, dtype=narrow), made(32, 16, 16, 256, dtype=narrow)
    filters, bias = made(256, 3, 3, 128), made(256)
    filtered = fastest(
        lambda: ops.conv_forward(images, filters, bias, out, 1, 1, 1), ops.synchronize
    )
    return {
        "product_gflops": 2 * size**3 / product / 1e9,
        "convolution_gflops": 2 * out.size * 9 * 128 / filtered / 1e9,
        "copy_gbs": copy_gbs(ops, threads),
    }


def fastest(call, synchronize=lambda: None) -> float:
    """Seconds of the fastest of ten calls, each with the wait for it, after one not timed."""
    call()
    synchronize()
    times = []
    for _ in range(10):
        start = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def copy_gbs(ops, threads: int) -> float:
    """GB/s of copying COPIED bytes; NumPy lets other Python threads run while it copies."""
    if ops.name == "cuda":
        from bench.gpu import timer

        return timer.copy_gbs(ops, 2 * COPIED)
    source, target = np.ones(COPIED // 4, np.float32), np.zeros(COPIED // 4, np.float32)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))

    def copy():
        workers = [threading.Thread(target=np.copyto, args=part) for part in parts]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return 2 * COPIED / fastest(copy) / 1e9
