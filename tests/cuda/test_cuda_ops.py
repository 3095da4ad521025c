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

from conftest import assert_close
from kernels.reference import NumpyOps
from op_cases import CASES, HELPERS, OPERATIONS, REFERENCE, arguments, run

EVERY = [(name, number) for name in OPERATIONS for number in range(len(CASES[name]))]


def on_device(ops, values):
    """The arguments with every array on the device, as few as 4 bytes off their alignment."""
    moved = {}
    for key, value in values.items():
        if isinstance(value, np.ndarray):
            room = ops.empty((value.size + 1,), value.dtype)
            room[1:] = ops.asarray(value.reshape(-1))
            value = room[1:].reshape(value.shape)
        moved[key] = value
    return moved


def device_run(ops, name, number, dtype=np.float32, place=on_device):
    """{argument: array after the call} on the host, and what was returned, if anything."""
    values = place(ops, arguments(name, number, dtype))
    returned = getattr(ops, name)(**values)
    arrays = {key: ops.tohost(value) for key, value in values.items() if hasattr(value, "nbytes")
              and not isinstance(value, np.generic)}
    if returned is not None:
        returned = returned if isinstance(returned, tuple) else (returned,)
        arrays |= {f"returned {i}": array if isinstance(array, np.ndarray) else ops.tohost(array)
                   for i, array in enumerate(returned)}
    return arrays


def aligned(ops, values):
    """The arguments with every array on the device, as its memory comes."""
    return {key: ops.asarray(value) if isinstance(value, np.ndarray) else value
            for key, value in values.items()}


def compare(name, got, want, before):
    assert got.keys() == want.keys()
    for key in got:
        assert got[key].shape == want[key].shape, key
        if got[key].dtype == np.float32 or got[key].dtype == bfloat16:
            assert np.isfinite(got[key].astype(np.float32)).all(), \
                f"{name}: {key} has an element left unwritten"
            assert_close(name, got[key], want[key])
        elif got[key].dtype.kind == "f":
            np.testing.assert_allclose(got[key], want[key], rtol=1e-5, atol=1e-6, err_msg=key)
        else:
            np.testing.assert_array_equal(got[key], want[key], err_msg=key)
        # What the reference leaves alone, the device leaves alone.
        if key in before and np.array_equal(want[key], before[key], equal_nan=True):
            np.testing.assert_array_equal(got[key], before[key], err_msg=f"{name} changed {key}")


@pytest.mark.parametrize("place", [on_device, aligned])
@pytest.mark.parametrize("name, number", EVERY)
def test_agrees_with_the_reference(cuda_ops, name, number, place):
    before = arguments(name, number, np.float32)
    want = run(REFERENCE, name, number, np.float64)
    got = device_run(cuda_ops, name, number, place=place)
    compare(name, got, want, before)
    for key in {"y", "dx"} & got.keys():
        if "dropout" in name:
            np.testing.assert_array_equal(got[key] == 0, want[key] == 0)


@pytest.mark.parametrize("place", [on_device, aligned])
@pytest.mark.parametrize("name, number", EVERY)
def test_agrees_with_the_reference_in_bf16(cuda_ops, name, number, place):
    """Both are given the same bfloat16 numbers, sum in float32, and round a result once."""
    want = run(REFERENCE, name, number, bfloat16)
    compare(name, device_run(cuda_ops, name, number, bfloat16, place), want, {})


def test_signatures_are_the_references(cuda_ops):
    for name in [*OPERATIONS, *HELPERS]:
        assert (inspect.signature(getattr(type(cuda_ops), name)).parameters
                == inspect.signature(getattr(NumpyOps, name)).parameters), name


def test_everything_is_overridden(cuda_ops):
    assert set(OPERATIONS) <= set(vars(type(cuda_ops)))


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_bits_do_not_depend_on_the_order_of_threads(cuda_ops, name):
    """Every launch of the emulator runs its blocks and threads in another order."""
    for number in range(len(CASES[name])):
        runs = [device_run(cuda_ops, name, number, dtype) for dtype in (np.float32, bfloat16)
                for _ in range(2)]
        for one, two in (runs[:2], runs[2:]):
            assert {key: array.tobytes() for key, array in one.items()} == \
                   {key: array.tobytes() for key, array in two.items()}, number
