"""The table of operations, against what the reference really does.

Read next: kernels/contract.py.
"""

import numpy as np
import pytest
from helpers.devices import DEVICES
from helpers.op_cases import CASES, OPERATIONS, arguments, run

from kernels import contract, ops_for
from kernels.reference import NumpyOps


@pytest.mark.parametrize("name", [ops.name for ops in DEVICES])
def test_a_result_may_be_an_operands_array(name):
    ops = ops_for(name)
    x = ops.asarray(np.float32([-1, 2]))
    ops.leaky_forward(x, x, 0.5)
    np.testing.assert_array_equal(ops.tohost(x), [-0.5, 2])


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_are_what_an_operation_changes(name):
    changed = set()
    for number in range(len(CASES[name])):
        before, after = arguments(name, number, np.float32), run(NumpyOps(), name, number)
        changed |= {key for key, value in before.items() if isinstance(value, np.ndarray)
                    and value.tobytes() != after[key].tobytes()}
    assert changed <= contract.changed(name)
    assert set(contract.written(name)) <= changed
