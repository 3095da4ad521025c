"""tests/sanitizers/run.py is silent about nothing: without a compiler it says that it checks
nothing, and with one that has no sanitizers it fails.

Read next: tests/sanitizers/run.py.
"""

import os
import pathlib
import runpy
import subprocess
import sys

import pytest

from kernels import DeviceError, ops_for

RUN = pathlib.Path(__file__).resolve().parent / "run.py"


def sanitizers(path, *arguments):
    done = subprocess.run(
        [sys.executable, RUN, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": str(path)},
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_without_a_compiler_it_says_so(tmp_path):
    said = "sanitizers: no C++ compiler, so no native extension to check: skipped\n"
    assert sanitizers(tmp_path) == (0, said, "")


@pytest.mark.parametrize("arguments, name", [([], "libasan.so"), (["--thread"], "libtsan.so")])
def test_with_a_compiler_but_no_sanitizer_it_fails(tmp_path, arguments, name):
    try:
        ops_for("cpu")
    except DeviceError:
        pytest.skip("there is no extension to check here")
    compiler = tmp_path / "c++"  # answers -print-file-name=NAME as GCC does where it has none
    compiler.write_text('#!/bin/sh\necho "${1#*=}"\n')
    compiler.chmod(0o755)
    status, _, said = sanitizers(tmp_path, *arguments)
    assert status == 1 and said.startswith(f"sanitizers: {compiler} has no {name}; install it")


def test_the_tests_that_it_names_are_there():
    script = runpy.run_path(str(RUN))
    named = [
        word.split("::")[0]
        for word in script["NATIVE"] + script["THREADS"]
        if word.startswith("tests/")
    ]
    assert len(named) > 10 and not [name for name in named if not (script["ROOT"] / name).is_file()]
