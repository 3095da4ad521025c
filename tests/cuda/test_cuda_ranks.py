"""Ranks whose arrays are a GPU's: the real exchange on NCCL's double, between real processes.

Read next: test_gpu.py, where a communicator of one process is held to none.
"""

import numpy as np
import pytest

from engine.run import checkpoint
from helpers.rank import TEXT, mpi, start
from helpers.runs import whole
from kernels import emulated

RUN = ["--net", "tiny", "--data", "synthetic", "--limit", 40, "--batch", 8, "--lr", 0.05]
RUN += ["--clip", 1, "--epochs", 2, "--shards", 4, "--device", "emulated"]


@pytest.fixture
def together(tmp_path):
    try:
        mpi()
    except LookupError as error:
        pytest.skip(str(error))
    if lack := emulated.missing():
        pytest.skip(f"device emulated: {lack}")

    def run(count, name, *more, event="", code=0):
        with start(count, [*RUN, "--out", tmp_path / name, *more], event) as life:
            out, err = life.communicate(timeout=300)
        assert life.returncode == code, (out, err)
        return tmp_path / name, err

    return run


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_any_number_of_processes_has_the_same_run(together, precision):
    """Steps are captured and replayed, and the exchange within them."""
    one, two, four = (
        whole(together(count, f"{count}", "--precision", precision)[0]) for count in (1, 2, 4)
    )
    assert one == two == four


def test_nccls_own_sum_is_the_same_but_for_rounding(together):
    ours, _ = together(4, "ours", "--epochs", 1)
    its, _ = together(4, "its", "--epochs", 1, "--nondeterministic")
    tensors = [checkpoint.read(folder).tensors for folder in (ours, its)]
    same = [np.array_equal(tensors[0][name], value) for name, value in tensors[1].items()]
    assert not all(same)
    for name, value in tensors[1].items():
        np.testing.assert_allclose(value, tensors[0][name], rtol=1e-3, atol=1e-5)


def test_a_stop_is_heard_by_all_in_time(together, tmp_path):
    """Every so many steps, or at the epoch's end, they look."""
    folder, _ = together(2, "run", "--epochs", 9, event="1 12 TERM 0", code=143)
    assert checkpoint.read(folder).step % 5 == 0
    _, err = together(2, "other", event="1 3 RunError 0", code=1)
    assert err.count(TEXT) == 1
