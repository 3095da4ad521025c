"""Nets that train on device cuda, on the double or on a GPU, and on the reference beside it.

Read next: tests/cuda/test_cuda_train.py.
"""

import json
import signal

import numpy as np

from engine.cli.command import Signals
from engine.data.examples import Examples
from engine.fitting import put
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.optimizers import SGD
from engine.train import main
from kernels.clock import LOSS, RATE
from kernels.reference import NumpyOps
from lsuv import fill, lsuv
from models import NETS, build

BATCH, STEPS = 2, 10


def device(name, precision="fp32"):
    from kernels.cuda.ops import CudaOps

    return NumpyOps() if name == "numpy" else CudaOps(precision)


def learner(ops, name, act, precision, dropout=True):
    """(a net of the paper's after LSUV with a batch of random images in place, the report)"""
    shape, rng = NETS[name].in_shape, np.random.default_rng(1)
    images = rng.standard_normal((BATCH, *shape)).astype(np.float32)
    net = Net(
        build(name, act, 10, dropout=dropout),
        SoftmaxLoss(),
        ops,
        shape,
        BATCH,
        3,
        precision=precision,
    )
    fill(net, "ortho", 0, act)
    put(net, *Examples(net, images, np.arange(BATCH, dtype=np.int32)).batch(np.arange(BATCH)))
    return net, lsuv(net, lambda: None)


def ten_steps(ops, name, act, precision, captured=True, lead=None):
    """The LSUV report, and of each of ten steps on one batch: weights and momentum before it, its
    loss, its gradient. lead: such states of another run, from which each step is to begin."""
    net, report = learner(ops, name, act, precision)
    optimizer = SGD(net, 0.9, decay=5e-4, clip=35.0)
    clock = np.array(ops.tohost(net.clock))
    clock[RATE] = 0.001
    net.clock[...] = ops.asarray(clock)
    table = ops.asarray(np.full(STEPS + 1, 0.001))

    def one():
        net.forward(train=True)
        net.evaluate_loss()
        net.backward()
        optimizer.step()
        ops.advance(net.clock, table)

    step, states, losses, gradients = ops.captured(one) if captured else one, [], [], []
    arenas = net.weights, optimizer.memory
    for number in range(STEPS):
        if lead:
            for arena, state in zip(arenas, lead[number], strict=True):
                arena[...] = ops.asarray(state)
        states.append([np.array(ops.tohost(arena)) for arena in arenas])
        step()
        losses.append(float(ops.tohost(net.clock)[LOSS]))
        gradients.append(np.array(ops.tohost(net.gradients), np.float32))
    states.append([np.array(ops.tohost(arena)) for arena in arenas])
    return report, states, losses, gradients


def distance(a, b):
    """Of two vectors, relative to the second."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def compare_reports(got, want, rtol):
    for one, other in zip(got.rows, want.rows, strict=True):
        assert (one.layer, one.piece, one.iterations) == (
            other.layer,
            other.piece,
            other.iterations,
        )
        np.testing.assert_allclose(
            [one.variance_before, one.variance_after, one.scale, one.weight_std_after],
            [other.variance_before, other.variance_after, other.scale, other.weight_std_after],
            rtol=rtol,
        )


def run(out, *arguments):
    main(
        [
            "--net",
            "tiny",
            "--data",
            "synthetic",
            "--limit",
            "96",
            "--batch",
            "32",
            "--epochs",
            "3",
            "--out",
            str(out),
            *arguments,
        ]
    )
    return json.loads((out / "run.json").read_text())


def stop_after(monkeypatch, calls: int):
    """SIGTERM arrives when a run asks for the so-manyth time whether it is to stop."""
    seen = []

    def stop(self):
        seen.append(1)
        if len(seen) == calls:
            self.number = signal.SIGTERM
        return self.number != 0

    monkeypatch.setattr(Signals, "stop", stop)
