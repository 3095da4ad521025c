"""bench.shards: contestants are timed, and a step in shards is a step.

Read next: bench/shards.py.
"""

import re
import subprocess
import sys

import numpy as np
import pytest

from bench.common.contest import Entry
from bench.common.ours import Step, data_of
from bench.shards import Sharded, main, turn
from engine.errors import InputError
from engine.run.ranks import Alone
from helpers.devices import DEVICES
from helpers.programs import ROOT, environment
from helpers.rank import mpi
from kernels import ops_for

needs_cpu = pytest.mark.skipif("cpu" not in [ops.name for ops in DEVICES], reason="no device cpu")
SHORT = ["--net", "fitnet_mnist", "--steps", "1", "--rounds", "2", "--threads", "1"]
LINE = re.compile(r"^(.*\S) +([0-9.]+) ms a step  ratio ([0-9.]+)  ", re.M)


@needs_cpu
def test_it_prints_a_line_a_contestant(capsys):
    assert main(SHORT) == 0
    lines = LINE.findall(capsys.readouterr().out)
    assert [name for name, *_ in lines] == ["the whole batch", "4 shards"]
    assert lines[0][2] == "1.000" and all(float(ms) > 0 for _, ms, _ in lines)


@pytest.mark.parametrize("shards", ["3", "0", "256"])
def test_a_batch_that_can_not_be_cut_so_is_refused(shards):
    with pytest.raises(InputError, match=f"--shards {shards} must be a power of two that divides"):
        main([*SHORT, "--shards", shards])


@needs_cpu
def test_processes_take_part():
    try:
        mpiexec, library = mpi()
    except LookupError as error:
        pytest.skip(str(error))
    command = [mpiexec, "-n", "2", sys.executable, "-m", "bench.shards", *SHORT, "--shards", "2"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment() | {"MPI4PY_LIBMPI": library},
        check=True,
        capture_output=True,
        text=True,
    )
    names = [name for name, *_ in LINE.findall(done.stdout)]
    assert names == ["the whole batch", "2 shards", "2 shards, 2 processes"]


def test_what_is_timed_is_a_step_of_the_whole_batch():
    """Its gradient is that of the whole batch, up to rounding: the net has no masks."""
    entry = Entry("fitnet1", "maxout", 16, "fp32", 1, "numpy", "synthetic")
    data, ops = data_of(entry), ops_for("numpy")
    whole, cut = Step(ops, entry, data), Sharded(ops, entry, data, 4, Alone())
    for step in (whole, cut):
        turn(step, 1)
    assert np.allclose(whole.net.gradients, cut.net.gradients, rtol=1e-3, atol=1e-5)
    assert not np.array_equal(whole.net.gradients, cut.net.gradients)
