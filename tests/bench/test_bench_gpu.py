"""bench.gpu on the double: every section runs, what it writes, what it refuses to time, its goals.

Its timings mean nothing here; that it is the same code a GPU runs does. In processes of their own,
since the double stands in CuPy's place.

Read next: tests/cuda/test_gpu.py.
"""

import importlib.util
import json
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from bench import report
from bench.common.calls import errors
from bench.common.cases import odd_cases
from bench.common.contest import Deadline
from bench.gpu import __main__ as gpu
from bench.gpu import facts as gpu_facts
from bench.gpu import goals as gpu_goals
from bench.gpu import sanitizer as gpu_sanitizer
from bench.gpu.timer import sets
from helpers.devices import DEVICES
from helpers.programs import double_environment
from kernels.contract import OPERATIONS

ROOT = pathlib.Path(__file__).resolve().parents[2]
TORCH = importlib.util.find_spec("torch") is not None
SANITIZER = """#!{python}
import subprocess, sys
tool = sys.argv[sys.argv.index("--tool") + 1]
program = sys.argv[sys.argv.index({python!r}):]
planted = "--planted" in program
code = 0
if tool == "memcheck":  # the others would run the same once more
    code = subprocess.run(program).returncode
if planted and tool != {blind!r}:
    print(f"========= Invalid write at planted_{{tool}}+0x70")
    code = 99
if {finds!r} == tool and not planted:
    print("========= Error: Race reported between Write access at variance_moments+0x10")
    code = 99
sys.exit(code)
"""


def run(*arguments, program=("-m", "bench.gpu"), path=None, **more):
    """The bench in a process of its own, with the double in CuPy's place."""
    environment = {**double_environment(), "OMP_NUM_THREADS": "1", **more}
    if path:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env=environment,
    )


def sanitizer(folder, blind="", finds="") -> pathlib.Path:
    """A folder with a compute-sanitizer of ours: it finds what is planted, except for tool `blind`,
    and with tool `finds` something in the rest."""
    folder.mkdir()
    program = folder / "compute-sanitizer"
    program.write_text(SANITIZER.format(python=sys.executable, blind=blind, finds=finds))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


def patched(text: str, bench: str = "gpu"):
    """A bench as a program that first changes something."""
    return (
        "import sys\nfrom bench import init, kernels, step\nfrom bench.common import ours\n"
        "from bench.gpu import __main__ as gpu\n"
        "from engine.cli.command import run_command\n" + text + "\nif __name__ == '__main__':\n"
        f"    sys.exit(run_command('bench.{bench}', {bench}.main))\n"
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole run: (what it printed, the JSON)"""
    folder = tmp_path_factory.mktemp("gpu")
    program = folder / "program.py"
    # PyTorch's part, on the CPU; one of its modes can't be built.
    program.write_text(
        patched(
            "eager = {'channels_last': True}\n"
            "step.GPU_MODES = {'torch eager': eager, 'torch compile': {**eager, 'mood': 'x'}}\n"
            + "gpu.torch_missing = lambda device: None"
            * TORCH
        )
    )
    done = run(
        "--quick", "--json", folder / "gpu.json", program=(program,), path=sanitizer(folder / "bin")
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done, json.loads((folder / "gpu.json").read_text())


def rows_of(found: dict, section: str) -> list[dict]:
    return [row for row in found["rows"] if row["section"] == section]


def test_every_section_leaves_its_rows(whole):
    _, found = whole
    assert found["sections"] == list(gpu.SECTIONS) and not found["failed"]
    assert {row["op"] for row in rows_of(found, "check")} == set(OPERATIONS)
    assert {row["precision"] for row in rows_of(found, "check")} == {"fp32", "tf32", "bf16"}
    losses = rows_of(found, "losses")
    assert [row["precision"] for row in losses] == list(gpu_goals.PRECISIONS)
    for row in losses:
        assert len(row["losses"]) == 2 and row["difference"] < row["tolerance"]
    kernels = rows_of(found, "kernels")
    products = {"orthonormal", *(op for op in OPERATIONS if op.startswith(("conv", "linear")))}
    assert {row["op"] for row in kernels} == set(OPERATIONS) - products
    for row in kernels:
        rate = row["bytes"] / row["seconds"] / 1e9
        assert row["gbytes_per_second"] == pytest.approx(rate)
        assert row["share"] == pytest.approx(rate / found["copy"]["gbytes_per_second"])
        assert row["share_of_equal"] > 0 and row["error"] < 0.01
    init = rows_of(found, "init")
    assert [row["what"] for row in init] == ["96x64", "67x97", "fitnet_mnist LSUV, synthetic"]
    assert all(row["seconds"] > 0 and row["error"] < 1e-6 for row in init)
    tools = rows_of(found, "sanitizer")
    assert [row["name"] for row in tools] == list(gpu_sanitizer.TOOLS)
    assert all(row["clean"] and row["control"] for row in tools)


def test_steps_are_compared_with_both_kinds_of_ours_and_the_peers(whole):
    done, found = whole
    steps = rows_of(found, "steps")
    names = ["ours", "ours without the graph"] + ["torch eager"] * TORCH
    assert [(row["precision"], row["name"]) for row in steps] == [
        (precision, name) for precision in gpu_goals.PRECISIONS for name in names
    ]
    for row in steps:
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["seconds"])
        assert (row["ratio"] is None) == (row["name"] == "ours")
        assert row["ratio"] is None or row["ratios"][0] <= row["ratio"] <= row["ratios"][1]
    if TORCH:
        assert [text for text in found["left_out"] if "torch compile" in text and "mood" in text]
        assert "torch compile in bf16" in done.stdout and "torch 2" in found["machine"]["versions"]
    else:
        assert [text for text in found["left_out"] if "torch" in text.lower()]


def test_the_table_comes_last_and_names_every_goal(whole):
    done, found = whole
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Double of a GPU, compute capability 9.0, 132 multiprocessors")
    assert lines[-1].startswith("written: ")
    assert [goal["what"] for goal in found["goals"]] == [
        goal.what for goal in gpu_goals.goals([])
    ] and len(found["goals"]) == 9
    for goal in found["goals"]:
        (line,) = (text for text in lines if text.startswith(goal["what"]))
        assert goal["wanted"] in line and line.endswith(goal["verdict"])
    # The sizes that are tried here say nothing of the goals.
    assert {goal["verdict"] for goal in found["goals"]} == {"not measured"}
    assert found["estimate_seconds"] is None


def test_the_machine_and_the_gpu_stand_beside_the_figures(whole):
    _, found = whole
    assert found["machine"]["device"] == "cuda" and found["machine"]["date"]
    card = found["gpu"]
    assert card["name"] == "Double of a GPU" and card["memory_gb"] == pytest.approx(25.77, abs=0.01)
    assert card["pins_gbs"] == pytest.approx(3352.3, abs=0.1) and card["cupy"].startswith("14.")
    assert found["copy"]["bytes"] == found["sizes"]["copied"]


def test_the_report_takes_its_figures_from_the_file(whole, tmp_path, monkeypatch):
    _, found = whole
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    goals = report.part("goals")
    assert "goals, not results" in goals and "at least 1.5 x" in goals and not report.part("gpu")
    (tmp_path / "gpu-double-of-a-gpu.json").write_text(json.dumps(found))
    text = report.part("gpu")
    assert "## On a GPU: Double of a GPU" in text and not report.part("goals")
    (ours,) = (
        row
        for row in rows_of(found, "steps")
        if (row["name"], row["precision"]) == ("ours", "bf16")
    )
    assert f" {ours['images_per_second']:,.0f} |" in text
    for row in rows_of(found, "kernels"):
        assert f"| `{row['op']}` | {row['case']} | {row['precision']} |" in text
    assert text in report.page() and "{{" not in text


CEILINGS = "{'copy_gbs': 1.0, 'product_gflops': 1.0, 'convolution_gflops': 1.0}"


def test_the_benches_take_device_cuda(tmp_path):
    """Ours alone where there is no peer on a GPU; the sizes are to try it, the ceilings made up."""

    def rows(bench, *arguments):
        program, path = tmp_path / f"{bench}.py", tmp_path / f"{bench}.json"
        program.write_text(
            patched(f"kernels.ceilings = ours.ceilings = lambda *_: {CEILINGS}", bench)
        )
        done = run("--device", "cuda", *arguments, "--json", path, program=(program,))
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(path.read_text())["rows"]

    found = rows("kernels", "--small", "--seconds", "0", "--only", "add,conv_forward,variance")
    assert {(row["name"], row["op"]) for row in found} == {
        ("ours", op) for op in ("add", "conv_forward", "variance")
    }
    assert {row["precision"] for row in found} == {"fp32", "bf16"}
    assert all(row["seconds"] > 0 and row["error"] < 0.01 for row in found)
    found = rows(
        "step",
        "--net",
        "fitnet_mnist",
        "--data",
        "synthetic",
        "--batch",
        "2",
        "--steps",
        "1",
        "--seconds",
        "0",
        "--rounds",
        "1",
        "--precision",
        "tf32",
    )
    assert [row["name"] for row in found[:3]] == ["ours", "ours", "convolutions alone"]
    assert found[0]["precision"] == "tf32" and "conv_forward" in {row["name"] for row in found}
    found = rows("init", "--shapes", "9x4", "--nets", "", "--repeats", "1")
    assert [(row["name"], row["what"]) for row in found] == [("ours", "9x4")]


# -- what is refused, and what is left out --------------------------------------------------------

WRONG = """
from kernels.cuda.ops import CudaOps
right = CudaOps.add
def wrong(self, a, b, y):
    right(self, a, b, y)
    y.fill(0)
CudaOps.add = wrong
for section in gpu.SECTIONS:
    setattr(gpu.Bench, section, lambda *_: sys.exit('something was timed'))
"""


def test_a_wrong_kernel_stops_it_before_anything_is_timed(tmp_path):
    done = run("--quick", "--json", tmp_path / "gpu.json", program=("-c", patched(WRONG)))
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "bench.gpu: error: add (" in last, done.stderr[-2000:]
    assert "on device cuda: y differs from the reference by 1 of its" in last
    assert "a wrong kernel is not timed" in last
    assert not list(tmp_path.iterdir()) and "images/s" not in done.stdout


def test_a_section_that_fails_is_named_and_the_next_one_runs(tmp_path):
    failing = "def fails(*_): raise ValueError('planted')\nkernels.measured = fails"
    done = run(
        "--quick",
        "--only",
        "kernels,init",
        "--json",
        tmp_path / "gpu.json",
        program=("-c", patched(failing)),
    )
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert done.returncode == 1 and found["failed"] == {"kernels": "planted"}
    assert "FAILED kernels: planted" in done.stdout and len(rows_of(found, "init")) == 3


REFUSED = """
from engine.errors import RunError
right, check = gpu.checks.compare, kernels.check
def compare(ops, other, entry, *more):
    if entry.precision == {precision!r}:
        raise RunError('planted')
    return right(ops, other, entry, *more)
gpu.checks.compare = compare
def wrong(ops, case, precision):
    if case.op == {op!r}:
        raise RunError('planted')
    return check(ops, case, precision)
def operations(devices, report):
    kernels.check = wrong               # from here on: at the sizes that are timed
    return [{{'op': 'add', 'precision': 'fp32', 'error': 0.0}}]
gpu.checks.operations = operations
gpu.torch_missing = lambda device: 'planted'
"""


@pytest.mark.parametrize(
    "precision, op, sections, timed",
    [("tf32", None, "losses,steps", {"bf16", "fp32"}), (None, "add", "kernels,steps", set())],
)
def test_what_was_wrong_is_not_timed(tmp_path, precision, op, sections, timed):
    program = tmp_path / "program.py"
    program.write_text(patched(REFUSED.format(precision=precision, op=op)))
    done = run("--quick", "--only", sections, "--json", tmp_path / "gpu.json", program=(program,))
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert done.returncode == 1 and "planted" in found["failed"][sections.split(",")[0]]
    assert {row["precision"] for row in rows_of(found, "steps")} == timed
    assert {
        f"steps in {p} (a result was wrong)" for p in gpu_goals.PRECISIONS if p not in timed
    } <= set(found["left_out"])
    assert "add" not in {row["op"] for row in rows_of(found, "kernels")}


def test_what_there_is_no_time_for_is_left_out_and_said(tmp_path):
    late = "from bench.common.contest import Deadline\nDeadline.left = lambda self: 0.0"
    done = run(
        "--quick",
        "--only",
        "kernels,init,steps",
        "--json",
        tmp_path / "gpu.json",
        program=("-c", patched(late)),
    )
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert done.returncode == 0 and not [row for row in found["rows"] if row["section"] != "check"]
    assert {"orthonormal 96x64", "LSUV of fitnet_mnist", "steps in tf32"} <= set(found["left_out"])
    assert "more, which the JSON names" in done.stdout


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--only", "kernel"], "did you mean 'kernels'"),
        (["--budget", "0"], "--budget 0"),
        (["--qick"], "did you mean --quick"),
    ],
)
def test_bad_input_is_one_line(arguments, said):
    done = run(*arguments)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_without_a_gpu_it_says_what_is_missing():
    done = run("--quick", PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("bench.gpu: error: device cuda: ") and not done.stdout


# -- compute-sanitizer ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tool, words",
    [
        ("memcheck", "planted_memcheck wrote behind an array of 1024 bytes"),
        ("racecheck", None),
        ("initcheck", None),
        ("synccheck", "planted_synccheck: thread 47 of block (0, 0, 0) waits"),
    ],
)
def test_the_planted_bugs_run_and_the_double_finds_two_of_them_too(tool, words):
    done = run("--planted", tool, program=("-m", "bench.gpu.small"))
    assert done.returncode == bool(words) and (words or "") in done.stderr


def test_a_tool_that_finds_something_or_not_the_planted_bug_fails(tmp_path):
    quick = Deadline(60)
    program = str(
        sanitizer(tmp_path / "bin", blind="synccheck", finds="racecheck") / gpu_sanitizer.PROGRAM
    )
    blind, finds, fine = (
        gpu_sanitizer.one(program, tool, quick) for tool in ("synccheck", "racecheck", "initcheck")
    )
    assert blind["clean"] and not blind["control"]
    assert "the planted bug was not found: exit code 0" in gpu_sanitizer.line(blind)
    assert finds["control"] and not finds["clean"]
    assert "exit code 99, Error: Race reported" in gpu_sanitizer.line(finds)
    assert gpu_sanitizer.good(fine) and "and the planted bug found" in gpu_sanitizer.line(fine)


def test_without_the_tool_it_is_left_out_with_the_remedy(monkeypatch):
    monkeypatch.setattr(gpu_sanitizer, "program", lambda: None)
    rows, left = gpu_sanitizer.measure(Deadline(1), print)
    assert not rows and "pip install nvidia-cuda-sanitizer-api" in left[0]


def test_the_time_of_a_tool_ends_it(tmp_path):
    """And with it the program that it watches, which holds its output open."""
    program = tmp_path / "slow"
    program.write_text("#!/bin/sh\nsleep 60\nexit 0\n")
    program.chmod(0o700)
    code, said = gpu_sanitizer.run([str(program)], Deadline(0))
    assert code is None and "no end within 1 s" in said
    row = gpu_sanitizer.one(str(program), "racecheck", Deadline(0))
    assert not gpu_sanitizer.good(row) and "exit code None, no end within" in row["why"]


# -- the parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ops", DEVICES, ids=lambda ops: ops.name)
def test_odd_cases_are_of_every_operation_and_right_on_every_device(ops):
    found = odd_cases()
    assert {case.op for case in found} == set(OPERATIONS)
    for case in found:
        for precision in filter(case.has, ops.precisions):
            assert errors(case, case.arguments(precision), {"ours": ops}).keys() == {"ours"}


def test_tf32_is_another_operation_for_products_alone():
    names = {case.op for case in odd_cases() if case.has("tf32")}
    assert names == {op for op in OPERATIONS if op.startswith(("conv_", "linear"))}


def step(name: str, precision: str, ratio, images: float = 1000.0) -> dict:
    return {
        "section": "steps",
        "name": name,
        "net": "fitnet4",
        "precision": precision,
        "ratio": ratio,
        "images_per_second": images,
    }


def kernel(share: float, size: int = 1 << 25) -> dict:
    return {"section": "kernels", "op": "add", "precision": "fp32", "share": share, "bytes": size}


def test_goals_are_met_or_not_by_what_was_measured():
    rows = [
        step("ours", "tf32", None, 50_000.0),
        step("torch eager", "tf32", 1.5),
        step("torch compile", "tf32", 1.09),
        kernel(0.9),
        kernel(0.85),
        kernel(0.1, 1 << 20),
        {"section": "init", "what": "9216x4096", "seconds": 0.051},
    ]
    found = {goal.what: goal for goal in gpu_goals.goals(rows)}
    verdicts = {
        what: goal.verdict for what, goal in found.items() if goal.verdict != "not measured"
    }
    assert verdicts == {
        "FitNet-4's step against PyTorch eager, tf32": "met",
        "FitNet-4's step against torch.compile(max-autotune), tf32": "not met",
        "our kernels that move 16 MiB or more, GB/s of a copy's": "met",
        "an orthonormal 9216x4096": "not met",
        "FitNet-4's 230 epochs in tf32": "met",
    }
    assert gpu_goals.estimate(rows) == 230 * 50_000 / 50_000
    assert found["FitNet-4's 230 epochs in tf32"].measured == "3.8 min (estimate)"
    worse = gpu_goals.bandwidth([*rows, kernel(0.84)])
    assert worse.verdict == "not met" and worse.measured == "2 of 3, least 84% (add fp32)"


def test_a_cold_cache_wants_more_sets_of_smaller_arguments():
    wanted = [sets(size, 50_000_000) for size in (1, 10_000_000, 54_000_000, 10**9)]
    assert wanted == [64, 13, 3, 2]


def test_the_drivers_own_words(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '580.65.06, 1755, 1980, 2619, 700.00, [N/A]'\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpu_facts.driver_facts("0000:00:00.0") == {
        "driver": "580.65.06",
        "sm_clock_mhz": 1755,
        "most_sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "power_limit_w": 700,
        "temperature_c": None,
    }
    program.write_text("#!/bin/sh\nexit 9\n")
    assert set(gpu_facts.driver_facts("0000:00:00.0").values()) == {None}


def test_a_gpus_name_in_a_files():
    assert gpu_facts.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


@pytest.mark.parametrize(
    "code, said, words",
    [
        (
            99,
            "200 calls\n========= COMPUTE-SANITIZER\n========= Invalid __global__ write of size 4\n"
            "=========     at add+0x10\n",
            "Invalid __global__ write of size 4",
        ),
        (
            1,
            "Traceback\nValueError: planted\n========= Error: process didn't end well\n",
            "ValueError: planted",
        ),
        (255, "========= Error: no launch\n", "Error: no launch"),
        (3, "\n", "it said nothing"),
    ],
)
def test_what_is_worth_knowing_of_a_tools_run(code, said, words):
    assert gpu_sanitizer.ends(code, said) == words
