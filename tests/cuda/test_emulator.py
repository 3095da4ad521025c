"""The emulator and the double find what they are there for: planted.cu has a defect a kernel.

In the build with sanitizers (tests/sanitizers/run.py) those that only a sanitizer sees, too.

Read next: README.md.
"""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from helpers.planted import SIZE, planted, run
from helpers.programs import DOUBLE, environment
from kernels.cuda import source

SANITIZED = os.environ.get("LSUV_DOUBLE_SANITIZE", "")


def expected():
    x = np.arange(2 * 256, dtype=np.float32)
    x[SIZE:] = 0
    return (x + np.repeat(x.reshape(2, 256).sum(axis=1), 256))[:SIZE]


def test_a_sound_kernel_passes(double):
    for _ in range(5):
        np.testing.assert_array_equal(run("sound"), expected())


def test_a_missing_barrier_gives_a_wrong_result(double):
    assert all((run("missing_barrier") != expected()).any() for _ in range(5))


@pytest.mark.parametrize(
    "name, words",
    [
        ("barrier_in_a_conditional", "has ended"),
        ("two_barriers", "at that of tests/cuda/planted.cu:4"),
        ("lost_lane", "for lanes of its warp that never come"),
    ],
)
def test_a_barrier_or_exchange_that_not_all_reach_is_named(double, name, words):
    with pytest.raises(double.DoubleError, match=words) as caught:
        run(name)
    assert name in str(caught.value)


@pytest.mark.skipif(bool(SANITIZED), reason="the sanitizer ends the process there")
@pytest.mark.parametrize(
    "name, words",
    [
        ("writes_behind", "wrote behind an array of 1200 bytes"),
        ("writes_before", "wrote before an array of 1200 bytes"),
    ],
)
def test_a_write_outside_is_named(double, name, words):
    with pytest.raises(double.DoubleError, match=words):
        run(name)


def test_an_unwritten_element_is_nan(double):
    y = run("leaves_one_unwritten")
    assert np.isnan(y[-1]) and np.isfinite(y[:-1]).all()


def test_a_race_shows_in_the_order(double):
    assert len({float(run("order_decides", size=256, blocks=1)[0]) for _ in range(8)}) > 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), None),
        ((np.int64(1),), "wants arguments ppi, and was given ppii"),
        ((np.float64(1),), "wants arguments ppi, and was given ppid"),
    ],
)
def test_arguments_are_held_to_the_kernels_parameters(double, arguments, words):
    if words is None:
        run("sound", arguments=arguments)
        return
    with pytest.raises(double.DoubleError, match=words):
        run("sound", arguments=arguments)
    with pytest.raises(TypeError, match="an argument of <class 'int'>"):
        run("sound", arguments=(3,))


@pytest.mark.parametrize(
    "file, after, number",
    [("reduce.cuh", "#pragma once", 2), ("columns.cu", '#include "reduce.cuh"', 2)],
)
def test_a_compilers_error_names_the_file_and_its_line(
    double, tmp_path, monkeypatch, file, after, number
):
    """An error in a header, and one behind an `#include`, planted in copies of the kernels."""
    import cupy

    from kernels.emulated.compiler import CompileException

    folder = tmp_path / "kernels" / "cuda"
    shutil.copytree(source.HERE, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    before, behind = (folder / file).read_text().split(f"{after}\n")
    (folder / file).write_text(f"{before}{after}\n\nthis is no C++;\n{behind}")
    monkeypatch.setattr(source, "HERE", folder)
    with pytest.raises(CompileException) as caught:
        cupy.RawModule(
            code=source.pasted(folder / "columns.cu"),
            options=source.options("float32"),
            backend="nvrtc",
        )
    line = before.count("\n") + 1 + number
    assert f"kernels/cuda/{file}:{line}:" in str(caught.value)


def test_memory_that_is_gone_and_a_grid_that_is_none_are_named(double):
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True).use()
    x, y = cupy.zeros((4,), np.float32), cupy.zeros((4,), np.float32)
    sound = planted().get_function("sound")
    stream.begin_capture()
    sound((1,), (256,), (x, y, np.int64(4)))
    with pytest.raises(double.DoubleError, match="memory is allocated during stream capture"):
        cupy.empty((3,), np.float32)
    with pytest.raises(double.DoubleError, match="a copy to the host during stream capture"):
        y.get()
    graph = stream.end_capture()
    assert (y.get() == 0).all()  # recorded, not run
    graph.launch(stream)
    assert (y.get() == 0 + 0).all()
    del x
    with pytest.raises(double.DoubleError, match="lies in no live allocation"):
        graph.launch(stream)
    with pytest.raises(double.DoubleError, match="a grid or block"):
        sound((0,), (256,), (y, y, np.int64(4)))


def test_what_a_gpu_would_wait_for_is_refused(double):
    import cupy

    x = cupy.zeros((4,), np.float32)
    for wait in (
        lambda: bool(x[0]),
        lambda: float(x[0]),
        lambda: np.isfinite(x),
        lambda: np.asarray(x),
        lambda: list(x),
        lambda: x == x,
        lambda: x + 1,
    ):
        with pytest.raises(TypeError):
            wait()


@pytest.mark.skipif(not SANITIZED, reason="only in the sanitizers' build: run.py makes it")
@pytest.mark.parametrize(
    "name, report",
    [
        ("sound", ""),
        ("writes_behind", "AddressSanitizer: heap-buffer-overflow"),
        ("writes_before", "AddressSanitizer: heap-buffer-overflow"),
        ("reads_behind", "AddressSanitizer: heap-buffer-overflow"),
        ("misaligned", "to misaligned address"),
        ("overflows", "runtime error: signed integer overflow"),
    ],
)
def test_the_sanitizers_find_what_only_they_see(double, name, report):
    done = subprocess.run(
        [sys.executable, "-c", f"from helpers.planted import run\nrun({name!r})\nprint('done')"],
        capture_output=True,
        text=True,
        env=environment(DOUBLE),
    )
    assert (done.returncode == 0) == (report == "") and report in done.stderr, done.stderr
