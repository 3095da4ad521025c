"""Guard mode: it finds what a kernel must not do, and changes no result.

Read next: kernels/guard.py.
"""

import ctypes
import json

import numpy as np
import pytest

from conftest import DEVICES
from engine.train import main
from kernels import contract, ops_for
from kernels.guard import Guarded, GuardError
from kernels.reference import NumpyOps
from helpers.op_cases import CASES, OPERATIONS, arguments, run
from models import NETS, Model
from test_train import tiny

NAMES = [ops.name for ops in DEVICES]


class Faulty(NumpyOps):
    """An `add` with a planted defect."""

    def __init__(self, defect):
        self.defect, self.why = defect, "planted"

    def add(self, a, b, y):
        super().add(a, b, y)
        if self.defect == "unwritten":
            y[1, 2] = np.frombuffer(b"\xff\xff\xff\xff", np.float32)[0]
        else:
            at = y.ctypes.data + (y.nbytes if self.defect == "behind" else -1)
            ctypes.memset(at, 7, 1)


def add(ops):
    a, b, y = ops.asarray(np.ones((3, 5), np.float32)), ops.zeros((3, 5)), ops.empty((3, 5))
    assert np.isnan(ops.tohost(y)).all()
    ops.add(a, b, y)
    return ops.tohost(y)


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_device_passes(name):
    np.testing.assert_array_equal(add(ops_for(name, guard=True)), 1)


@pytest.mark.parametrize("defect, words", [
    ("behind", "add wrote behind an array of 60 bytes on device numpy"),
    ("before", "add wrote before an array of 60 bytes"),
    ("unwritten", "add left y[1, 2] and 0 other elements unwritten")])
def test_a_planted_defect_is_named(defect, words):
    with pytest.raises(GuardError) as caught:
        add(Guarded(Faulty(defect)))
    assert words in str(caught.value)


def test_a_result_may_be_an_operands_array():
    for name in NAMES:
        ops = ops_for(name, guard=True)
        x = ops.asarray(np.float32([-1, 2]))
        ops.leaky_forward(x, x, 0.5)
        np.testing.assert_array_equal(ops.tohost(x), [-0.5, 2])


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_are_what_an_operation_changes(name):
    """The table that guard mode and device cuda go by, against what the reference really does."""
    changed = set()
    for number in range(len(CASES[name])):
        before, after = arguments(name, number, np.float32), run(NumpyOps(), name, number)
        changed |= {key for key, value in before.items() if isinstance(value, np.ndarray)
                    and value.tobytes() != after[key].tobytes()}
    assert changed <= contract.changed(name)
    assert set(contract.written(name)) <= changed


def test_a_guarded_run_is_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(NETS, "tiny", Model(tiny, (8, 8, 3)))
    results = []
    for number, more in enumerate([[], ["--guard"]]):
        out = tmp_path / str(number)
        main(["--net", "tiny", "--data", "synthetic", "--limit", "96", "--batch", "32",
              "--epochs", "1", "--device", "auto", "--out", str(out), *more])
        record = json.loads((out / "run.json").read_text())
        results.append({key: record["result"][key] for key in ("test_loss", "test_accuracy")})
        assert record["settings"]["guard"] is bool(more)
    assert results[0] == results[1]
