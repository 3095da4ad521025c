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
from engine.layers import Conv
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.optimizers import SGD, RMSProp
from kernels import DeviceError, ops_for
from kernels.clock import FIRST, LOSS, RATE, STEP
from kernels.philox import permutation
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

    def __init__(self, ops, name: str, act: str, batch: int, seed: int = 0):
        model = models.NETS[name]
        self.ops = ops
        self.data = load("synthetic", size=model.in_shape)
        r = recipe(name, act, "lsuv", "fast")
        self.net = Net(models.build(name, act, 10, r.dropout), SoftmaxLoss(), ops, model.in_shape,
                       batch, seed)
        fill(self.net, "ortho", seed, act)
        self.optimizer = (SGD(self.net, r.momentum, r.decay, r.clip) if r.optimizer == "sgd" else
                          RMSProp(self.net, r.rho, r.delta, r.decay, r.clip))
        order = np.concatenate([permutation(seed, e, len(self.data.train.images)) for e in (0, 1)])
        rows = len(order) // batch
        self.order = ops.asarray(order[: rows * batch].reshape(rows, batch).astype(np.int32))
        self.rates = ops.asarray(np.full(rows + 1, 1e-3))
        self.net.clock[RATE] = 1e-3
        self.resident = [ops.asarray(a) for a in (
            self.data.train.images, self.data.train.labels, self.data.train.shift,
            self.data.train.scale, self.data.mean_image)]

    def __call__(self) -> float:
        net, data = self.net, self.data
        if net.clock[STEP] - net.clock[FIRST] >= len(self.order):
            net.clock[FIRST] = net.clock[STEP]
        self.ops.gather(*self.resident, self.order, net.x, net.labels, net.clock, net.seed,
                        data.pad, 4 if data.pad else 0, data.mirror, 1.0, True)
        net.forward(train=True)
        net.evaluate_loss()
        net.backward()
        self.optimizer.step()
        self.ops.advance(net.clock, self.rates)
        return float(net.clock[LOSS])


def check(ops, net: str, act: str) -> None:
    """AssertionError unless three small steps have the losses that the reference has."""
    ours, reference = Step(ops, net, act, batch=4), Step(ops_for("numpy"), net, act, batch=4)
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
    step = Step(ops, options.net, options.act, batch)
    for _ in range(5):
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
    profiled = Step(watch, options.net, options.act, batch)
    profiled()
    watch.seconds.clear()
    watch.bytes.clear()
    rounds = max(3, options.steps // 4)
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
