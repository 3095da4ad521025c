"""The exercises of kernels/cuda/README.md: each can be done, and none by a kernel that is wrong.

Read next: solutions/maxout.cu.
"""

import re

import pytest

from bench.trace import __main__ as command
from bench.trace import exercise as module
from bench.trace.exercise import FOLDER, check
from bench.trace.exercises import EXERCISES
from engine.errors import InputError, RunError
from helpers.programs import ROOT, TESTS
from kernels.emulated.compiler import SANITIZE

pytestmark = pytest.mark.skipif(
    bool(SANITIZE), reason="a kernel has one instrumentation: the sanitizers', or a trace's"
)
SOLUTIONS = TESTS / "bench" / "solutions"
BY_NAME = {exercise.name: exercise for exercise in EXERCISES}
NAMES = list(BY_NAME)
GUIDE = (ROOT / "kernels" / "cuda" / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_start_is_right_and_moves_too_much(double, capsys, name):
    assert check(BY_NAME[name], FOLDER / f"{name}.cu") == 1
    said = capsys.readouterr().out
    assert said.count("right  ") == len(BY_NAME[name].shapes) and "wrong  " not in said
    assert "not reached  bytes moved" in said
    rows = re.findall(r"^(?:not )?reached +(.*): (\S+), to be (.*)$", said, re.M)
    for row in rows:  # as the guide has them
        assert " | ".join(row) in GUIDE.partition(f"`{name}.cu` |")[2].partition("`")[0], row


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_reaches_every_goal(double, capsys, name):
    assert check(BY_NAME[name], SOLUTIONS / f"{name}.cu") == 0
    said = capsys.readouterr().out
    assert said.count("\nreached  ") == len(BY_NAME[name].goals) and "not reached" not in said


@pytest.mark.parametrize(
    "name, old, new, words",
    [
        ("maxout", "+ i % C", "+ i", r"reads outside of every array, as x\[\d+\] of 8192 .*cu:\d+"),
        ("maxout", "winner.v[k] = 1", "winner.v[k] = 0", r"which\[0, \d+\] is 0, not 1; \d+ of"),
        ("maxout", "store<N>(y", "if (i) store<N>(y", r"y\[0, 0\] is nan, not "),
        ("maxout", "store<N>(y + i,", "store<N>(y + 4 + i,", "writes outside of every array, as y"),
        ("column_sums", "__syncthreads();", ";", "another order of threads gives other values"),
        (
            "column_sums",
            "gridDim.x * warps)",
            "9 * warps)",
            r"sums\[0\] .* 32 of 32 values.*wrong$",
        ),
        (
            "column_sums",
            "    for (int64 first = 0",
            "    if (warp > blockIdx.x) return;\n    for (int64 first = 0",
            r"waits at the barrier of .*, thread \d+ has ended",
        ),
        ("moments", "c < C ? x[c] : 0", "0", r"variance\[\d+\] is .*values are wrong$"),
        ("softmax_loss", "expf(score - largest)", "expf(score)", r"prob\[0, \d+\] is .*"),
        ("softmax_loss", "int64 N,\n", "int N,\n", r"wants arguments pppp\?i, .* ppppii \(p: a"),
        ("softmax_loss", "KERNEL softmax_loss", "KERNEL softmax", "has no line that begins with"),
        ("maxout", "Bytes<N> winner", "Byte<N> winner", r"solution\.cu:9:9: error: .*Byte"),
    ],
)
def test_what_is_wrong_is_said(double, capsys, tmp_path, name, old, new, words):
    text = (SOLUTIONS / f"{name}.cu").read_text()
    assert old in text
    path = tmp_path / "solution.cu"
    path.write_text(text.replace(old, new))
    assert check(BY_NAME[name], path) == 1
    said = capsys.readouterr().out
    assert re.search(f"wrong   .*{words}", said, re.M | re.S), said
    assert "reached" not in said


def test_a_block_that_leaves_the_others_idle_is_not_enough(double, capsys, tmp_path):
    """The sums of one block alone: everything moves once, and three quarters of the warps wait."""
    text = (SOLUTIONS / "column_sums.cu").read_text()
    start = "row = blockIdx.x * warps + warp; row < mine; row += gridDim.x * warps"
    assert start in text
    alone = "row = blockIdx.x ? mine : warp; row < mine; row += warps"
    path = tmp_path / "alone.cu"
    path.write_text(text.replace(start, alone))
    assert check(BY_NAME["column_sums"], path) == 1
    said = capsys.readouterr().out
    assert "\nreached      bytes moved" in said
    assert "not reached  warps that read x: 8, to be at least 32" in said


def test_the_command_writes_the_start_once_and_checks_it_each_time(tmp_path, capfd):
    """In the process that it makes for the kernel; with the page."""
    arguments = ["exercise", "1", "--dest", str(tmp_path / "own"), "--html", str(tmp_path / "page")]
    path = tmp_path / "own" / "maxout.cu"
    assert command.main(arguments) == 1
    said = capfd.readouterr().out
    assert f"{path} is written" in said and "bytes moved, as a multiple of those that must" in said
    assert "maxout, thread by thread" in (tmp_path / "page").read_text()
    path.write_text((SOLUTIONS / "maxout.cu").read_text())
    assert command.main(arguments) == 0
    said = capfd.readouterr().out
    assert "is written" not in said and said.count("\nreached") == 2
    assert path.read_text() == (SOLUTIONS / "maxout.cu").read_text()


@pytest.mark.parametrize(
    "new, words",
    [
        ("while (rows > 0) {\n    }", "not at its end after 2 s; does a loop never end"),
        ("C = rows / (C / 1000);", r"crashed \(SIGFPE\)"),
    ],
)
def test_a_kernel_that_never_ends_or_crashes_is_one_line(tmp_path, monkeypatch, new, words):
    monkeypatch.setattr(module, "SECONDS", 2)
    text = (FOLDER / "maxout.cu").read_text()
    (tmp_path / "maxout.cu").write_text(text.replace("int64 C) {", "int64 C) {\n    " + new))
    with pytest.raises(RunError, match=words):
        command.main(["exercise", "1", "--dest", str(tmp_path)])


@pytest.mark.parametrize(
    "text, words",
    [(b'#include "commn.cuh"\n', "there is no commn.cuh in kernels/cuda"), (b"\xff", "not UTF-8")],
)
def test_a_file_that_is_none_is_one_line(double, tmp_path, text, words):
    (tmp_path / "maxout.cu").write_bytes(text)
    with pytest.raises(InputError, match=words):
        check(EXERCISES[0], tmp_path / "maxout.cu")


def test_an_exercise_that_there_is_not_is_one_line():
    with pytest.raises(InputError, match="invalid choice"):
        command.main(["exercise", "6"])
