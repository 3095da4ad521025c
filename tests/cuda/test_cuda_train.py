"""Device cuda end to end on the double: nets train as on the reference, from the command line too.

`CudaOps` is the real one, and so are the kernels; a convolution plan is the reference's. So losses,
gradients and weights are those of device numpy up to the rounding of sums.

Read next: README.md.
"""

import subprocess
import sys

import numpy as np
import pytest

import engine
from engine.errors import RunError
from engine.evaluate import main as evaluate
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.run import checkpoint
from engine.train import main
from helpers.cuda_training import compare_reports, device, distance, run, stop_after, ten_steps
from helpers.nets import tiny
from helpers.programs import ROOT, double_environment
from helpers.runs import assert_same_run
from kernels import cuda
from models import NETS, Model, build


@pytest.mark.parametrize(
    "name, act", [("fitnet1", "maxout"), ("fitnet_mnist", "maxout"), ("fitnet_mnist", "tanh")]
)
def test_ten_steps_are_the_references(double, name, act):
    want = ten_steps(device("numpy"), name, act, "fp32")
    got = ten_steps(device("cuda"), name, act, "fp32")
    compare_reports(got[0], want[0], 1e-5)
    np.testing.assert_allclose(got[2], want[2], rtol=1e-5)
    assert min(got[2][-3:]) < got[2][0]
    assert max(distance(g, w) for g, w in zip(got[3], want[3], strict=True)) < 1e-4
    assert distance(got[1][-1][0], want[1][-1][0]) < 1e-6


@pytest.mark.parametrize(
    "name, act", [("fitnet1", "maxout"), ("fitnet_mnist", "maxout"), ("fitnet_mnist", "tanh")]
)
def test_ten_steps_are_the_references_in_bf16(double, name, act):
    """Each from the reference's state: left alone, the two drift apart, as a sum that rounds to the
    next bfloat16 makes another piece the largest. Then only the losses stay near."""
    want = ten_steps(device("numpy"), name, act, "bf16")
    got = ten_steps(device("cuda", "bf16"), name, act, "bf16", lead=want[1])
    compare_reports(got[0], want[0], 1e-3)
    np.testing.assert_allclose(got[2], want[2], rtol=1e-3)
    assert max(distance(g, w) for g, w in zip(got[3], want[3], strict=True)) < 2e-2
    assert distance(got[1][-1][0], want[1][-1][0]) < 1e-5
    alone = ten_steps(device("cuda", "bf16"), name, act, "bf16")
    np.testing.assert_allclose(alone[2], want[2], rtol=0.1)


def test_a_replayed_step_is_the_step(double):
    """Bit for bit; and a step makes no memory and waits for nothing, or its capture would fail."""
    runs = [
        ten_steps(device("cuda"), "fitnet_mnist", "maxout", "fp32", captured)
        for captured in (True, False)
    ]
    assert runs[0][2] == runs[1][2]
    np.testing.assert_array_equal(runs[0][1][-1], runs[1][1][-1])


def test_memory_that_runs_out_names_a_batch_that_fits(double, monkeypatch):
    def net(batch):
        return Net(
            build("fitnet1", "maxout", 10), SoftmaxLoss(), device("cuda"), (32, 32, 3), batch
        )

    monkeypatch.setattr(double, "capacity", double.used + (60 << 20))
    with pytest.raises(RunError) as caught:
        net(500)
    words = str(caught.value)
    assert words.startswith("batch 500: device cuda needs ") and "MB were free; --batch " in words
    fits = int(words.split("--batch ")[1].split()[0])
    net(fits)
    with pytest.raises(RunError):
        net(int(1.5 * fits))


@pytest.fixture
def tiny_net(monkeypatch, double):
    monkeypatch.setitem(NETS, "tiny", Model(tiny, (8, 8, 3)))
    monkeypatch.setattr(cuda, "missing", lambda: None)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_run_is_that_of_the_reference(tmp_path, tiny_net, precision):
    ours = run(tmp_path / "cuda", "--device", "cuda", "--precision", precision)
    theirs = run(
        tmp_path / "numpy",
        "--device",
        "numpy",
        "--precision",
        "fp32" if precision == "tf32" else precision,
    )
    assert ours["device"] == "cuda" and "Double of a GPU" in ours["device_description"]
    if precision == "tf32":  # which another device looks at in fp32
        assert evaluate([str(tmp_path / "cuda"), "--device", "numpy"]) == 0
        assert engine.load(tmp_path / "cuda", device="numpy").net.precision == "fp32"
    rtol = 0.05 if precision == "bf16" else 1e-3
    assert ours["result"]["test_loss"] == pytest.approx(theirs["result"]["test_loss"], rel=rtol)


@pytest.mark.parametrize("calls", [1, 2, 5, 8])
def test_a_run_goes_on_with_its_plans_and_its_bits(tmp_path, tiny_net, calls):
    assert run(tmp_path / "whole", "--device", "cuda")["result"]
    plans = checkpoint.read(tmp_path / "whole").plans
    assert any(line.startswith("conv_forward ") for line in plans)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, calls)
        with pytest.raises(SystemExit):
            run(tmp_path / "parts", "--device", "cuda")
    main(["--resume", str(tmp_path / "parts")])
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert checkpoint.read(tmp_path / "parts").plans.items() <= plans.items()


def test_the_commands_work_on_the_device(tmp_path, double):
    """In programs of their own, as a user starts them."""

    def command(*words):
        done = subprocess.run(
            [sys.executable, "-m", *words],
            capture_output=True,
            text=True,
            env=double_environment(),
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    out = str(tmp_path / "run")
    said = command(
        "engine.train",
        "--net",
        "fitnet_mnist",
        "--data",
        "synthetic",
        "--limit",
        "32",
        "--batch",
        "16",
        "--epochs",
        "1",
        "--out",
        out,
    )
    assert "device cuda: there is a GPU; Double of a GPU" in said
    assert "device cuda  data synthetic" in said.splitlines()[-1]
    on_gpu, on_cpu = (
        command("engine.evaluate", out, "--device", name).splitlines()[-1]
        for name in ("cuda", "numpy")
    )
    assert on_gpu.split("  device")[0] == on_cpu.split("  device")[0]
    assert "conv" in command(
        "lsuv",
        "--net",
        "fitnet_mnist",
        "--data",
        "synthetic",
        "--limit",
        "32",
        "--batch",
        "8",
        "--device",
        "cuda",
    )
