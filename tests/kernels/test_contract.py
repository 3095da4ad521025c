"""The table of operations, against the reference: its signatures, and what it really changes.

Read next: kernels/contract.py.
"""

import inspect

import numpy as np
import pytest
from ml_dtypes import bfloat16

from helpers.devices import DEVICES
from helpers.op_cases import CASES, METHODS, arguments, run
from kernels import ops_for
from kernels.contract import ACTIVATION, OPERATIONS
from kernels.reference import NumpyOps

# What a device has beside its operations.
OTHERS = {
    "empty",
    "zeros",
    "asarray",
    "constant",
    "communicator",
    "tohost",
    "synchronize",
    "plans",
    "prefer",
    "captured",
}


def test_the_table_has_every_operation_and_its_arguments():
    assert OPERATIONS.keys() == set(METHODS) - OTHERS
    for name, contract in OPERATIONS.items():
        assert ("self", *contract.arguments) == tuple(
            inspect.signature(getattr(NumpyOps, name)).parameters
        ), name


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_an_argument_is(name):
    """An array of the table's type in every case, or no array."""
    for number in range(len(CASES[name])):
        for dtype in (np.float32, bfloat16):
            for key, value in arguments(name, number, dtype).items():
                wanted = OPERATIONS[name].dtypes.get(key)
                wanted = dtype if wanted is ACTIVATION else wanted
                several = wanted if isinstance(wanted, tuple) else (wanted,)
                assert value is None or getattr(value, "dtype", None) in several, key


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_are_what_an_operation_changes(name):
    changed, contract = set(), OPERATIONS[name]
    for number in range(len(CASES[name])):
        before, after = arguments(name, number, np.float32), run(NumpyOps(), name, number)
        changed |= {
            key
            for key, value in before.items()
            if isinstance(value, np.ndarray) and value.tobytes() != after[key].tobytes()
        }
    assert changed == contract.changed


@pytest.mark.parametrize("name", [ops.name for ops in DEVICES])
def test_a_result_may_be_an_operands_array(name):
    ops = ops_for(name)
    x = ops.asarray(np.float32([-1, 2]))
    ops.leaky_forward(x, x, 0.5)
    np.testing.assert_array_equal(ops.tohost(x), [-0.5, 2])
