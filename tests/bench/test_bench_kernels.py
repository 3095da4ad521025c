"""The bench of single operations: that none is missing, what it refuses to time, its rows, and
peers that compute the same.

Read next: bench/kernels.py.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from bench import kernels as bench
from bench import report
from bench.common.calls import LIMIT, called, difference, widened
from bench.common.cases import REFERENCE, Case, cases
from bench.common.contest import THREADS, Contestant, Setting
from engine.cli.command import run_command
from engine.errors import RunError
from helpers.devices import DEVICES
from kernels import ops_for
from kernels.clock import LOSS, NORM
from kernels.contract import OPERATIONS
from kernels.reference import NumpyOps

SMALL = cases(small=True)
BOTH = [
    (case, precision) for case in SMALL for precision in ("fp32", "bf16") if case.has(precision)
]
NAMES = [f"{case.op} {case.text} {precision}" for case, precision in BOTH]
QUICK = ["--small", "--seconds", "0", "--threads", "1"]
DEVICE = ops_for("auto")
needs_cpu = pytest.mark.skipif(DEVICE.name != "cpu", reason="the reference is the device here")


# -- the cases ------------------------------------------------------------------------------------


def test_every_operation_has_a_case():
    for found in (SMALL, cases()):
        assert {case.op for case in found} == set(OPERATIONS)
        assert len({(case.op, case.text) for case in found}) == len(found)
    assert [case.op for case in SMALL] == [case.op for case in cases()]


def test_operations_without_a_narrow_argument_are_timed_once():
    assert {case.op for case in SMALL if not case.has("bf16")} == {
        "batchnorm_running",
        "orthonormal",
        "channel_mask",
        "average",
        "max_norm",
        "advance",
        "latch",
    }


@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.op} {case.text}")
def test_arguments_are_the_signatures_and_always_the_same(case):
    first, again = case.arguments("fp32"), case.arguments("fp32")
    assert list(first) == list(case.contract.arguments)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
        assert (
            not isinstance(value, np.ndarray)
            or value.dtype != np.float64
            or name in ("clock", "own", "segments", "rates")
        )


def bytes_of(op: str, precision: str = "fp32") -> tuple[int, dict]:
    case = next(case for case in SMALL if case.op == op)
    arguments = case.arguments(precision)
    return case.bytes(arguments), arguments


def test_bytes_are_what_must_move():
    size, given = bytes_of("add")
    assert size == 3 * 4 * given["y"].size
    assert bytes_of("add", "bf16")[0] == size / 2
    size, given = bytes_of("maxout_forward")
    assert size == 4 * given["x"].size + 5 * given["y"].size
    size, given = bytes_of("maxout_pool_dropout_forward")
    assert size == 4 * given["x"].size + 5 * given["y"].size + given["clock"].nbytes
    size, given = bytes_of("maxout_pool_dropout_backward", "bf16")
    assert size == 2 * given["dx"].size + 3 * given["dy"].size
    size, given = bytes_of("sgd_step")
    assert size == 5 * 4 * given["w"].size + given["segments"].nbytes + given["clock"].nbytes
    size, given = bytes_of("gather")
    assert size == 5 * given["x"].size < given["images"].size
    assert bytes_of("orthonormal")[0] == 4 * 8 * 20


def test_operations_are_the_plain_convolutions():
    case = next(case for case in cases() if case.op == "conv_forward")
    assert case.text == "128x32x32x32 to 64, 3x3"
    assert case.flops == 2 * 128 * 32 * 32 * 64 * 3 * 3 * 32
    case = next(case for case in cases() if case.op == "linear_backward_data")
    assert case.flops == 2 * 128 * 128 * 2500


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("ops", DEVICES, ids=lambda ops: ops.name)
@pytest.mark.parametrize("case, precision", BOTH, ids=NAMES)
def test_every_case_is_right_on_every_device(ops, case, precision):
    if precision not in ops.precisions:
        pytest.skip(f"device {ops.name} does not compute in {precision}")
    found, size = bench.check(ops, case, precision)
    assert 0 <= found["ours"] <= max(LIMIT.values()) and size > 0
    assert (bench.DIRECT in found) == (ops.name == "cpu" and case.op.startswith("conv_"))


def changed(op: str, change):
    """The reference, with something done to the arguments of one operation after it."""

    def wrong(self, *arguments):
        found = getattr(NumpyOps, op)(self, *arguments)
        change(dict(zip(OPERATIONS[op].arguments, arguments, strict=False)))
        return found

    return type("Wrong", (NumpyOps,), {op: wrong})()


def first_nan(name):
    def change(given):
        given[name].reshape(-1)[0] = np.nan

    return change


def negated(name):
    def change(given):
        given[name][...] *= -1

    return change


def one_more(name, at=0):
    def change(given):
        given[name].reshape(-1)[at] += 1

    return change


@pytest.mark.parametrize(
    "op, name, change",
    [
        ("conv_forward", "y", negated),
        ("conv_backward_filter", "db", negated),
        ("conv_backward_data", "dx", first_nan),
        ("maxout_forward", "which", one_more),
        ("maxpool_backward", "dx", negated),
        ("gather", "y", one_more),
        ("rmsprop_step", "w", first_nan),
        ("softmax_loss_forward", "clock", one_more),
    ],
)
def test_a_wrong_kernel_is_refused(op, name, change):
    case = next(case for case in SMALL if case.op == op)
    said = rf"{op} \(.*\) on device numpy: {name} differs .* a wrong kernel is not timed"
    with pytest.raises(RunError, match=said):
        bench.check(changed(op, change(name)), case, "fp32")


def test_an_element_that_is_left_out_is_refused():
    class Lazy(NumpyOps):
        def add(self, a, b, y):
            y[1:] = a[1:] + b[1:]

    case = next(case for case in SMALL if case.op == "add")
    with pytest.raises(RunError, match="y differs from the reference by nan"):
        bench.check(Lazy(), case, "fp32")


def test_nothing_is_timed_after_a_wrong_kernel(monkeypatch, capsys):
    monkeypatch.setattr(bench, "ops_for", lambda *_: changed("add", negated("y")))
    monkeypatch.setattr(bench, "ceilings", lambda *_: {})
    monkeypatch.setattr(bench, "start", lambda *_: [])
    monkeypatch.setattr(bench, "timed", lambda *_: pytest.fail("a wrong kernel was timed"))
    code = run_command("bench.kernels", lambda: bench.main(["--small", "--only", "add"]))
    said = capsys.readouterr().err
    assert code == 1 and said.count("\n") == 1
    assert "add (2x32x32x32) on device numpy: y differs from the reference by 2 of" in said


def test_difference_is_a_part_of_the_largest_value_and_of_a_clock_of_each():
    want = np.array([100.0, 1.0])
    assert difference(want + [0, 0.5], want) == 0.005
    assert difference(want + [0, 0.5], want, each=True) == 0.5
    assert difference(np.zeros(2), np.zeros(2)) == difference(np.zeros(0), np.zeros(0)) == 0
    assert math.isnan(difference(np.array([np.nan, 1.0]), want))


# -- rows -----------------------------------------------------------------------------------------


def rows_of(tmp_path, *more: str) -> dict:
    path = tmp_path / "kernels.json"
    assert bench.main([*QUICK, *more, "--json", str(path)]) == 0
    return json.loads(path.read_text())


@needs_cpu
def test_rows(tmp_path, capsys, monkeypatch):
    found = rows_of(tmp_path, "--only", "conv_forward,add,gather,orthonormal")
    torch = ["torch"] if importlib.util.find_spec("torch") else []
    wanted = {
        ("conv_forward", "fp32"): ["ours", "onednn direct", "numpy", *torch],
        ("conv_forward", "bf16"): ["ours", "onednn direct", *torch],
        ("add", "fp32"): ["ours", "numpy", *torch],
        ("add", "bf16"): ["ours", *torch],
        ("gather", "fp32"): ["ours", "numpy"],
        ("gather", "bf16"): ["ours"],
        ("orthonormal", "fp32"): ["ours", "numpy", *torch],
    }
    precisions = list(DEVICE.precisions)
    names: dict = {}
    for row in found["rows"]:
        names.setdefault((row["op"], row["precision"], row["case"]), []).append(row["name"])
    assert {key[:2] for key in names} == {key for key in wanted if key[1] in precisions}
    for (op, precision, _), by in names.items():
        assert by == wanted[op, precision]
    for row in found["rows"]:
        ours = next(
            r
            for r in found["rows"]
            if r["name"] == "ours"
            and all(r[key] == row[key] for key in ("op", "case", "precision"))
        )
        assert row["seconds"] > 0 and row["bytes"] == ours["bytes"] > 0
        assert row["ratio"] == pytest.approx(row["seconds"] / ours["seconds"])
        limits = found["ceilings"][row["precision"]]
        if row["op"] in ("conv_forward", "orthonormal"):
            assert row["share"] == pytest.approx(row["gflops"] / limits["product_gflops"])
        else:
            rate = row["bytes"] / row["seconds"] / 1e9
            assert row["gbytes_per_second"] == pytest.approx(rate)
            assert row["share"] == pytest.approx(rate / limits["copy_gbs"])
        assert (row["error"] is None) == (row["name"] in ("numpy", "torch"))
    said = capsys.readouterr().out
    assert "onednn direct" in said and "x NumPy" in said and "matrix product" in said
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    text = report.page()
    for op in {op for op, _ in wanted}:
        (row,) = (line for line in text.split("\n") if line.startswith(f"| `{op}` |"))
        shown = len(row.split(" | ")[2].split(" / "))
        assert shown == sum((op, precision) in wanted for precision in precisions)


@needs_cpu
def test_without_torch_its_column_is_left_out(tmp_path, capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "torch" else real(name, *more),
    )
    found = rows_of(tmp_path, "--only", "add", "--precision", "fp32")
    assert [row["name"] for row in found["rows"]] == ["ours", "numpy"]
    assert "torch is not installed" in capsys.readouterr().out
    assert "torch" not in found["machine"]["versions"]


def test_device_numpy_has_no_row_beside_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(
        bench,
        "ceilings",
        lambda *_: {"copy_gbs": 1.0, "product_gflops": 1.0, "convolution_gflops": 1.0},
    )
    path = tmp_path / "kernels.json"
    assert (
        bench.main(
            [
                "--small",
                "--seconds",
                "0",
                "--device",
                "numpy",
                "--only",
                "gather",
                "--json",
                str(path),
            ]
        )
        == 0
    )
    rows = json.loads(path.read_text())["rows"]
    assert [(row["name"], row["precision"]) for row in rows] == [("ours", "fp32"), ("ours", "bf16")]


def test_the_bench_itself_never_imports_torch():
    code = (
        "import sys; sys.modules['torch'] = None; "
        "import bench.kernels, bench.common.calls, bench.init, bench.peers.orthonormal"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_contestant_has_the_settings_threads(monkeypatch):
    monkeypatch.setenv(THREADS[0], "7")
    monkeypatch.delenv(THREADS[1], raising=False)
    told = Contestant("told", "helpers.contestants:Told", Setting(3, "numpy"))
    try:
        assert told.ask("threads") == ["3"] * len(THREADS)
    finally:
        told.close()
    assert os.environ[THREADS[0]] == "7" and THREADS[1] not in os.environ


@pytest.mark.parametrize("slow, takes_part", [(0.5, True), (5.0, False)])
def test_a_slow_reference_is_not_waited_for(slow, takes_part):
    class Counted:
        name = "numpy"

        def ask(self, call, *arguments):
            return {"prepare": True, "run": slow}[call]

    assert bench.takes_part(Counted(), 0, SMALL[0], "fp32") is takes_part


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--only", "conv_foward"], "did you mean 'conv_forward'"),
        (["--seconds", "-1"], "-1"),
        (["--device", "gpu"], "'gpu'"),
        (["--threads", "0"], "threads 0"),
        (["--precision", "fp16"], "fp16"),
        (["--second", "1"], "did you mean --seconds"),
    ],
)
def test_bad_input_is_one_line(arguments, said, capsys):
    code = run_command("bench.kernels", lambda: bench.main(arguments))
    line = capsys.readouterr().err
    assert code == 2 and said in line and line.count("\n") == 1


# -- the peer -------------------------------------------------------------------------------------

# In bfloat16 values tie, and PyTorch shares a maxout's gradient among those that do; and where
# windows lie it computes in bfloat16.
TIES = {
    "fractional_maxpool_forward",
    "fractional_maxpool_backward",
    "maxout_backward",
    "maxpool_backward",
    "global_maxpool_backward",
    "maxout_pool_backward",
    "maxout_pool_dropout_backward",
}
OWN_NUMBERS = {
    "dropout_forward",
    "dropout_backward",
    "maxout_pool_dropout_forward",
    "maxout_pool_dropout_backward",
    "orthonormal",
    "channel_mask",
}


def test_the_peer_computes_the_same():
    torch_ops = pytest.importorskip("bench.peers.torch_ops")
    for case, precision in BOTH:
        made = torch_ops.call_of(case, precision)
        if made is not None and not (precision == "bf16" and case.op in TIES):
            compared(case, precision, made.results())


def compared(case: Case, precision: str, found: dict) -> None:
    """What the peer computed is what the reference computes."""
    if case.op in OWN_NUMBERS:
        return drawn(case, precision, found)
    want = called(REFERENCE, case.op, widened(case.arguments(precision)))
    if "clock" in want:
        want |= {"loss": want["clock"][LOSS], "norm": want["clock"][NORM]}
    for name, got in found.items():
        bound = 2e-6 if precision == "fp32" else 2.0**-7
        bound *= 4 if case.op == "distort" else 1  # by coordinates from -1 to 1
        assert difference(got, np.asarray(want[name])) < bound, (case.op, precision, name)


def drawn(case: Case, precision: str, found: dict) -> None:
    """What it draws is of the same kind."""
    if case.op == "orthonormal":
        Q = found["result 0"]
        gram = Q.T @ Q if len(Q) > len(Q.T) else Q @ Q.T
        assert Q.shape == (case.make()["rows"], case.make()["cols"])
        assert abs(gram - np.eye(len(gram))).max() < 1e-5
        return
    ((name, got),) = found.items()
    if case.op == "channel_mask":
        want = called(REFERENCE, case.op, case.arguments(precision))[name]
        np.testing.assert_allclose(np.sort(got), np.sort(want))
        return
    given = case.arguments(precision, peers=True)
    given |= {key: value for key, value in (("drop", 0.0), ("factor", 1.0)) if key in given}
    if case.op == "maxout_pool_dropout_backward":  # with the winners of all, as nothing is dropped
        options = [given[key] for key in ("pieces", "size", "stride")]
        REFERENCE.maxout_pool_forward(
            given["x"], np.empty_like(given["dy"]), given["which"], *options
        )
        del given["x"]
    whole = called(REFERENCE, case.op, given)[name].astype(np.float32)
    kept = got != 0
    assert not kept[whole == 0].any() and abs(kept[whole != 0].mean() - 0.8) < 0.02
    np.testing.assert_allclose(got[kept], whole[kept] / 0.8, rtol=0.02)


def test_what_has_no_counterpart_is_known():
    torch_ops = pytest.importorskip("bench.peers.torch_ops")
    assert set(OPERATIONS) - set(torch_ops.COUNTERPARTS) == {
        "batchnorm_running",
        "hinge_loss_forward",
        "hinge_loss_backward",
        "squared_hinge_loss_forward",
        "squared_hinge_loss_backward",
        "gather",
        "advance",
        "latch",
    }
