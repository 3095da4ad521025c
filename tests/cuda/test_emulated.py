"""Device emulated as a user has it: asked for by name, from anywhere, with what it says of speed.

Read next: tests/cuda/test_emulator.py.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

import kernels
from helpers.programs import ROOT
from kernels import emulated
from kernels.emulated import compiler

ADD = """
import numpy as np, kernels
ops = kernels.ops_for("emulated")
a = ops.asarray(np.arange(5, dtype=np.float32))
y = ops.empty((5,))
ops.add(a, a, y)
print(ops.name, ops.tohost(y).tolist(), kernels.emulated.compiler.folder())
"""


def python(*arguments, root=ROOT, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(root)} | environment,
    )


def command(line):
    done = python("-m", *line.split())
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_net_trains_on_it_and_every_time_is_said_to_be_none(tmp_path):
    said = command(
        "engine.train --net fitnet_mnist --device emulated --data synthetic --limit 8 --batch 8 "
        f"--lsuv-batch 8 --epochs 1 --recipe fast --out {tmp_path / 'run'}"
    )
    times = [line for line in said.splitlines() if re.search(r"images/s|\d s\b", line)]
    assert len(times) == 3  # of LSUV, the epoch, and the run
    assert all("(emulated: no speed of a GPU)" in line for line in times)
    assert "device emulated: asked for; our CUDA kernels" in said


def test_lsuv_says_so_too():
    said = command(
        "lsuv --net fitnet_mnist --device emulated --data synthetic --limit 8 --lsuv-batch 8"
    )
    times = [line for line in said.splitlines() if re.search(r"\d s\b|seconds", line)]
    assert len(times) == 2 and all("no speed of a GPU" in line for line in times)


def test_auto_never_takes_it(monkeypatch):
    monkeypatch.setattr(kernels, "_emulated_ops", pytest.fail)
    assert kernels.ops_for("auto").name != "emulated"


@pytest.mark.parametrize("bench", ["step", "kernels", "init", "paper"])
def test_no_bench_measures_it(bench):
    more = ["table6"] if bench == "paper" else []
    done = python("-m", f"bench.{bench}", *more, "--device", "emulated")
    assert done.returncode == 2 and "it has no speed of a GPU" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_compiler_one_line_has_the_remedy(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(kernels.DeviceError, match=r"no C\+\+ compiler .* apt install g\+\+"):
        kernels.ops_for("emulated")
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(compiler.shutil, "which", lambda name: name == "clang++")
    assert emulated.missing() is None and compiler.command() == "clang++"


def test_it_takes_no_threads():
    with pytest.raises(kernels.DeviceError, match="threads 2: device emulated runs on one"):
        kernels.ops_for("emulated", threads=2)


@pytest.mark.parametrize("cache", ["there", "not to be written"])
def test_installed_it_compiles_into_the_users_cache_or_a_temporary_folder(tmp_path, cache):
    """With what pyproject.toml puts into a package; four at once, and each has a whole library."""
    installed = tmp_path / "site"
    shutil.copytree(
        ROOT / "kernels",
        installed / "kernels",
        ignore=lambda folder, names: [n for n in names if n.endswith((".so", ".md"))],
    )
    if cache == "there":
        place = tmp_path
    else:
        place = tmp_path / "file"
        place.touch()
    environment = os.environ | {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(place)}
    several = [
        subprocess.Popen(
            [sys.executable, "-c", ADD],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        for _ in range(4 if cache == "there" else 1)
    ]
    for one in several:
        said, error = one.communicate()
        assert said.startswith("emulated [0.0, 2.0, 4.0, 6.0, 8.0]"), error
        assert ("lsuv-engine/emulated" in said) == (cache == "there"), said
        assert str(ROOT) not in said
        if cache != "there":
            shutil.rmtree(said.split()[-1])
