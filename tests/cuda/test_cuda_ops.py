"""Device cuda on the double against the reference: every operation, on the cases of op_cases.py.

The kernels are those of kernels/cuda/*.cu, executed on the CPU; launch sizes, the order of
arguments and buffers are those of `CudaOps`. New memory of the device is NaN, so an element left
unwritten shows. Arguments are rounded to float32 once; the reference works in float64.

Read next: README.md.
"""

import inspect

import numpy as np
import pytest
from ml_dtypes import bfloat16

from helpers.cuda_cases import agrees, agrees_in_bf16, aligned, device_run, on_device
from helpers.op_cases import CASES, METHODS
from kernels.contract import OPERATIONS
from kernels.reference import NumpyOps

EVERY = [(name, number) for name in OPERATIONS for number in range(len(CASES[name]))]


@pytest.mark.parametrize("place", [on_device, aligned])
@pytest.mark.parametrize("name, number", EVERY)
def test_agrees_with_the_reference(cuda_ops, name, number, place):
    agrees(cuda_ops, name, number, place)


@pytest.mark.parametrize("place", [on_device, aligned])
@pytest.mark.parametrize("name, number", EVERY)
def test_agrees_with_the_reference_in_bf16(cuda_ops, name, number, place):
    agrees_in_bf16(cuda_ops, name, number, place)


def test_signatures_are_the_references(cuda_ops):
    for name in METHODS:
        assert (
            inspect.signature(getattr(type(cuda_ops), name)).parameters
            == inspect.signature(getattr(NumpyOps, name)).parameters
        ), name


def test_everything_is_overridden(cuda_ops):
    assert set(OPERATIONS) <= set(vars(type(cuda_ops)))


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_bits_do_not_depend_on_the_order_of_threads(cuda_ops, name):
    """Every launch of the emulator runs its blocks and threads in another order."""
    for number in range(len(CASES[name])):
        runs = [
            device_run(cuda_ops, name, number, dtype)
            for dtype in (np.float32, bfloat16)
            for _ in range(2)
        ]
        for one, two in (runs[:2], runs[2:]):
            assert {key: array.tobytes() for key, array in one.items()} == {
                key: array.tobytes() for key, array in two.items()
            }, number
