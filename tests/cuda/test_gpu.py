"""Device cuda on a GPU: that the real CuPy, cuDNN and cuSOLVER do what the double pretends.

    python -m pytest -m gpu                 on a machine with a GPU; elsewhere it skips and says why

The same functions run on the double in the ordinary tests, at sizes that a CPU manages: so that on
the day of the GPU none of them runs for the first time. What is held to what: every operation to
the reference in float64, nets to device numpy, a captured step to the launched one, a run to
itself.

Read next: test_cuda_train.py, whose nets and runs these are.
"""

import subprocess
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from ml_dtypes import bfloat16

import helpers.cuda_training as training
from bench.common.calls import LIMIT, TF32_LIMIT, called, difference, widened
from bench.common.cases import REFERENCE, cases
from bench.common.contest import Entry
from bench.common.ours import data_of
from bench.peers.orthonormal import orthonormality_error
from bench.shards import Sharded
from engine.errors import RunError
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.run import checkpoint
from engine.run.ranks import Alone, Ranks
from engine.train import main
from helpers.cuda_cases import agrees, agrees_in_bf16, aligned, on_device
from helpers.cuda_training import compare_reports, device, distance, run, stop_after, ten_steps
from helpers.nets import tiny
from helpers.op_cases import CASES
from helpers.programs import ROOT, double_environment
from helpers.runs import assert_same_run
from kernels import cuda
from kernels.clock import STEP
from kernels.contract import OPERATIONS
from kernels.philox import WEIGHTS
from models import NETS, Model, build


@dataclass(frozen=True)
class Place:
    """Where the tests run, and with how much."""

    name: str
    most_cases: int  # of an operation
    batch: int  # of a net's steps
    steps: int
    matrix: tuple[int, int]  # the largest orthonormal one
    elements: int  # of the largest array
    too_large: int  # a batch of FitNet-1 that has no room


SHARDED = Entry("fitnet_mnist", "maxout", 8, "fp32", 1, "cuda", "synthetic")
PLACES = {
    "double": Place("double", 2, 2, 2, (96, 64), 5000, 500),
    "gpu": Place("gpu", 1 << 30, 4, 10, (9216, 4096), 2**31 + 5000, 4_000_000),
}


@pytest.fixture(params=["double", pytest.param("gpu", marks=pytest.mark.gpu)])
def place(request, monkeypatch):
    if request.param == "double":
        request.getfixturevalue("double")
        monkeypatch.setattr(cuda, "missing", lambda: None)
    elif request.config.getoption("markexpr") != "gpu":
        pytest.skip("for a GPU: python -m pytest -m gpu, since here the double stands for CuPy")
    elif lack := cuda.missing():
        pytest.skip(f"device cuda: {lack}")
    found = PLACES[request.param]
    monkeypatch.setattr(training, "BATCH", found.batch)
    monkeypatch.setattr(training, "STEPS", found.steps)
    return found


# -- operations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_agrees_with_the_reference(place, name):
    ops = device("cuda")
    for number in range(min(len(CASES[name]), place.most_cases)):
        for put in (aligned, on_device):
            agrees(ops, name, number, put)
            agrees_in_bf16(ops, name, number, put)


@pytest.mark.parametrize("op", ["conv_forward", "conv_backward_data", "conv_backward_filter"])
def test_fp32_is_strict_and_tf32_is_not(place, op):
    """In fp32 no factor is rounded to TF32. In tf32 a plan may do so, and of several some will."""
    found = []
    for case in (case for case in cases(small=True) if case.op == op):
        given = case.arguments("fp32")
        result = next(name for name in ("y", "dx", "dW") if name in given)
        want = called(REFERENCE, op, widened(given))[result]
        found.append(
            [
                difference(called(device("cuda", precision), op, given)[result], want)
                for precision in ("fp32", "tf32")
            ]
        )
    assert all(strict < LIMIT[np.dtype(np.float32)] for strict, _ in found), found
    assert all(rounded < TF32_LIMIT for _, rounded in found), found
    assert any(rounded > 10 * strict for strict, rounded in found), found


def test_more_elements_than_32_bits_count(place):
    """The last of them are written, and what is written is right."""
    import cupy

    ops, count = device("cuda"), place.elements
    free, _ = cupy.cuda.runtime.memGetInfo()
    if free < 5 * count:
        pytest.skip(f"{5 * count / 1e9:.0f} GB are needed and {free / 1e9:.0f} are free")
    x, y = ops.zeros((count,), bfloat16), ops.empty((count,), bfloat16)
    ends = np.arange(1, 1001).astype(bfloat16)
    x[:1000] = ops.asarray(ends)
    x[count - 1000 :] = ops.asarray(ends)
    ops.leaky_forward(x, y, 0.5)
    for part in (y[:1000], y[count - 1000 :]):
        np.testing.assert_array_equal(ops.tohost(part), ends)
    mean, variance = ops.variance(y.reshape(count, 1), 1)
    wide = ends.astype(np.float64)
    want = 2 * wide.sum() / count
    assert mean[0] == pytest.approx(want, rel=1e-5)
    assert variance[0] == pytest.approx(2 * (wide**2).sum() / count - want**2, rel=1e-5)


def test_a_large_matrix_is_orthonormal_and_the_references(place):
    ops, (rows, cols) = device("cuda"), place.matrix
    Q = ops.tohost(ops.orthonormal(rows, cols, (3, WEIGHTS, 1)))
    assert Q.shape == (rows, cols) and orthonormality_error(Q) < 1e-6
    for m, n in ((500, 128), (128, 1152)):
        key = 3, WEIGHTS, 1
        np.testing.assert_allclose(
            ops.tohost(ops.orthonormal(m, n, key)), REFERENCE.orthonormal(m, n, key), atol=1e-6
        )


# -- nets -----------------------------------------------------------------------------------------

# On a GPU every sum is another one: a rounding now and then makes another piece the largest, whose
# weights then get the gradient. So each step begins at the reference's state.
TOLERANCE = {  # LSUV's report, loss, gradient
    "fp32": (1e-4, 1e-4, 3e-2),
    "tf32": (2e-2, 2e-2, 0.3),
    "bf16": (1e-2, 1e-2, 0.1),
}


# The other nets' steps on the double are in test_cuda_train.py.
TRAINED = [
    ("double", "fitnet4", "fp32"),
    ("double", "fitnet4", "bf16"),
    ("double", "fitnet_mnist", "tf32"),
    *(
        pytest.param("gpu", name, precision, marks=pytest.mark.gpu)
        for name in ("fitnet4", "fitnet1", "fitnet_mnist")
        for precision in TOLERANCE
    ),
]


@pytest.mark.parametrize("place, name, precision", TRAINED, indirect=["place"])
def test_steps_and_lsuvs_report_are_the_references(place, name, precision):
    report, loss, gradient = TOLERANCE[precision]
    want = ten_steps(device("numpy"), name, "maxout", "fp32" if precision == "tf32" else precision)
    got = ten_steps(device("cuda", precision), name, "maxout", precision, lead=want[1])
    compare_reports(got[0], want[0], report)
    np.testing.assert_allclose(got[2], want[2], rtol=loss)
    assert max(distance(g, w) for g, w in zip(got[3], want[3], strict=True)) < gradient


@pytest.mark.parametrize("precision", TOLERANCE)
def test_the_same_bits_captured_or_not_and_again(place, precision):
    def bits(captured=True):
        _, states, losses, gradients = ten_steps(
            device("cuda", precision), "fitnet_mnist", "maxout", precision, captured
        )
        arrays = [*gradients, *(array for state in states for array in state)]
        return losses, [array.tobytes() for array in arrays]

    first = bits()
    assert bits() == first
    assert bits(captured=False) == first


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_shards_are_exchanged_within_a_captured_step(place, precision, deterministic):
    """By NCCL, with a communicator of one process: the bits are those without it."""
    from kernels.cuda.ops import CudaOps

    ops, entry = CudaOps(precision, deterministic), replace(SHARDED, precision=precision)
    alone = SimpleNamespace(rank=0, size=1, bcast=lambda value: value, allgather=lambda v: [v])
    arenas = []
    for ranks in (Ranks(alone, 1), Alone()):
        step = Sharded(ops, entry, data_of(entry), 4, ranks)
        step.start(place.steps + 2)
        once = ops.captured(step)
        for _ in range(place.steps + 2):
            once()
        assert ops.tohost(step.net.clock)[STEP] == place.steps + 2
        arenas.append([ops.tohost(one) for one in (step.net.weights, step.net.gradients)])
    for one, other in zip(*arenas, strict=True):
        np.testing.assert_array_equal(one, other)


def test_memory_that_runs_out_names_a_batch_that_fits(place, request, monkeypatch):
    if place.name == "double":
        double = request.getfixturevalue("double")
        monkeypatch.setattr(double, "capacity", double.used + (60 << 20))
    ops = device("cuda")

    def net(batch):
        return Net(build("fitnet1", "maxout", 10), SoftmaxLoss(), ops, (32, 32, 3), batch)

    with pytest.raises(RunError) as caught:
        net(place.too_large)
    words = str(caught.value)
    assert words.startswith(f"batch {place.too_large}: device cuda needs ")
    assert "MB were free; --batch " in words and "\n" not in words
    fits = int(words.split("--batch ")[1].split()[0])
    assert 0 < fits < place.too_large
    made = net(fits)
    del made
    with pytest.raises(RunError):
        net(int(1.5 * fits))


# -- runs -----------------------------------------------------------------------------------------


@pytest.fixture
def tiny_net(monkeypatch, place):
    monkeypatch.setitem(NETS, "tiny", Model(tiny, (8, 8, 3)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_run_goes_on_with_its_bits(tmp_path, tiny_net, precision):
    more = ["--device", "cuda", "--precision", precision]
    assert run(tmp_path / "whole", *more)["device"] == "cuda"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(SystemExit):
            run(tmp_path / "parts", *more)
    assert 0 < checkpoint.read(tmp_path / "parts").step < checkpoint.read(tmp_path / "whole").step
    main(["--resume", str(tmp_path / "parts")])
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


STOPPED = """
import signal, sys
from engine import train
from engine.cli.command import Signals
def stop(self, seen=[]):
    seen.append(1)
    if len(seen) == 2:
        self.number = signal.SIGTERM
    return self.number != 0
Signals.stop = stop
train.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "more", [[], ["--precision", "tf32"], ["--precision", "bf16"], ["--nondeterministic"]]
)
def test_the_commands_from_end_to_end(tmp_path, place, more):
    """In processes of their own: a run is stopped, goes on, and is evaluated on two devices."""
    environment = double_environment() if place.name == "double" else None

    def command(*words, code=0):
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    out = tmp_path / "run"
    options = [
        "--net",
        "fitnet_mnist",
        "--data",
        "synthetic",
        "--limit",
        "24",
        "--batch",
        "8",
        "--epochs",
        "2",
        "--device",
        "cuda",
        "--out",
        out,
        *more,
    ]
    assert "stopped at step 2 of 6" in command("-c", STOPPED, *options, code=143)
    said = command("-m", "engine.train", "--resume", out)
    assert "device cuda: asked for" in said and f"resuming {out}" in said
    assert "epochs 2" in said.splitlines()[-1] and "device cuda" in said.splitlines()[-1]
    accuracies = [
        command("-m", "engine.evaluate", out, "--device", name).splitlines()[-1].split()
        for name in ("cuda", "numpy")
    ]
    if not more:
        assert accuracies[0][2] == accuracies[1][2]
