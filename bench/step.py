"""How long a training step takes, and where its time goes.

    python -m bench.step --net fitnet4
    python -m bench.step --net fitnet_mnist --batch 64 --json bench/results/step_fitnet_mnist.json

The step is the training command's own, with its `fast` recipe: gather, forward, loss, backward,
clip and update. It is checked first (three steps on a few images give the reference's losses), then
timed: medians over whole steps, and in a second pass by op, with GFLOP/s for the convolutions and
GB/s for the rest (bytes of the arrays that an op is handed; what lies in the cache can be faster
than memory).

Read next: bench/report.py.
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict

import numpy as np

import models
from bench.machine import write
from engine.command import run_command
from engine.data import load
from engine.feed import Feed, read_clock
from engine.layers import Conv
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.optimizers import optimizer_of
from kernels import DeviceError, ops_for
from kernels.clock import LOSS
from lsuv.fillers import fill
from models.recipes import recipe


class Stopwatch:
    """Stands between a net and its ops: every call is passed on and timed."""

    def __init__(self, ops):
        self.ops, self.seconds, self.bytes = ops, defaultdict(float), defaultdict(int)

    def __getattr__(self, name):
        found = getattr(self.ops, name)
        if not callable(found):
            return found

        def timed(*arguments):
            start = time.perf_counter()
            result = found(*arguments)
            self.seconds[name] += time.perf_counter() - start
            self.bytes[name] += moved(name, arguments)
            return result

        return timed


def moved(name: str, arguments) -> int:
    """Bytes that an op must read or write at least: its arrays, and of the data set a batch."""
    if name == "gather":
        x = arguments[6]
        return x.nbytes + x.size  # floats out, bytes in
    return sum(a.nbytes for a in arguments if isinstance(a, np.ndarray))


class Step:
    """A net, its data and optimizer, and one training step as a call."""

    def __init__(self, ops, name: str, act: str, batch: int, steps: int):
        model, r = models.NETS[name], recipe(name, act, "lsuv", "fast")
        data = load("synthetic", size=model.in_shape)
        self.net = Net(models.build(name, act, 10, r.dropout), SoftmaxLoss(), ops, model.in_shape,
                       batch)
        fill(self.net, "ortho", 0, act)
        self.optimizer = optimizer_of(self.net, r)
        self.feed = Feed(self.net, data, r.move, r.input_scale)
        self.rates = self.feed.start(read_clock(self.net), 0, steps, np.full(steps + 1, 1e-3))

    def __call__(self) -> float:
        net = self.net
        self.feed.train_batch()
        net.forward(train=True)
        net.evaluate_loss()
        net.backward()
        self.optimizer.step()
        net.ops.advance(net.clock, self.rates)
        return float(net.clock[LOSS])


def check(ops, net: str, act: str) -> None:
    """AssertionError unless three small steps have the losses that the reference has."""
    ours, reference = (Step(device, net, act, batch=4, steps=3) for device in
                       (ops, ops_for("numpy")))
    for _ in range(3):
        found, wanted = ours(), reference()
        assert abs(found - wanted) < 1e-3, f"loss {found}, the reference has {wanted}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.step", description=__doc__.split("\n")[0])
    parser.add_argument("--net", default="fitnet4", choices=models.NETS)
    parser.add_argument("--act", default="maxout", choices=models.ACTS)
    parser.add_argument("--batch", type=int, default=None, help="images; default the recipe's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--steps", type=int, default=20, help="timed steps (20)")
    parser.add_argument("--json", default=None, help="write the rows to this file")
    options = parser.parse_args()
    ops = ops_for(options.device, options.threads)
    batch = options.batch or recipe(options.net, options.act, "lsuv").batch

    check(ops, options.net, options.act)
    warm = 5
    step = Step(ops, options.net, options.act, batch, warm + options.steps)
    for _ in range(warm):
        step()
    times = []
    for _ in range(options.steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    print(f"{options.net} {options.act}, batch {batch}, {ops.description}")
    print(f"step {1e3 * median:.1f} ms (fastest {1e3 * min(times):.1f}), "
          f"{batch / median:.0f} images/s")

    watch = Stopwatch(ops)
    rounds = max(3, options.steps // 4)
    profiled = Step(watch, options.net, options.act, batch, 1 + rounds)
    profiled()
    watch.seconds.clear()
    watch.bytes.clear()
    for _ in range(rounds):
        profiled()
    convolutions = [layer for layer in profiled.net.weighted() if isinstance(layer, Conv)]
    adds = sum(layer.multiply_adds for layer in convolutions) * batch
    first = convolutions[0].multiply_adds * batch  # nobody wants the images' gradient
    operations = {"conv_forward": 2 * adds, "conv_backward_filter": 2 * adds,
                  "conv_backward_data": 2 * (adds - first)}
    rows = [{"name": "ours", "net": options.net, "act": options.act, "batch": batch,
             "seconds": median, "images_per_second": batch / median}]
    print(f"{'op':<24}{'ms':>9}{'share':>8}{'rate':>16}")
    for name, seconds in sorted(watch.seconds.items(), key=lambda item: -item[1]):
        seconds /= rounds
        if name in operations:
            rate = f"{operations[name] / seconds / 1e9:.0f} GFLOP/s"
        else:
            rate = f"{watch.bytes[name] / rounds / seconds / 1e9:.1f} GB/s"
        print(f"{name:<24}{1e3 * seconds:>9.2f}{seconds / median:>8.1%}{rate:>16}")
        rows.append({"name": name, "seconds": seconds, "share": seconds / median, "rate": rate})
    write(options.json, ops, rows)
    return 0


if __name__ == "__main__":
    sys.exit(run_command("bench.step", main, (DeviceError,)))
