"""The cases of op_cases.py on device cuda, and what their results are held to: the double's tests
and a GPU's share this.

Read next: tests/cuda/test_cuda_ops.py.
"""

import numpy as np
from ml_dtypes import bfloat16

from helpers.op_cases import REFERENCE, arguments, run
from helpers.tolerances import assert_close


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
    arrays = {
        key: ops.tohost(value)
        for key, value in values.items()
        if hasattr(value, "nbytes") and not isinstance(value, np.generic)
    }
    if returned is not None:
        returned = returned if isinstance(returned, tuple) else (returned,)
        arrays |= {
            f"returned {i}": array if isinstance(array, np.ndarray) else ops.tohost(array)
            for i, array in enumerate(returned)
        }
    return arrays


def aligned(ops, values):
    """The arguments with every array on the device, as its memory comes."""
    return {
        key: ops.asarray(value) if isinstance(value, np.ndarray) else value
        for key, value in values.items()
    }


def compare(name, got, want, before):
    """Assert that every array of a device's results is the reference's. before: the arguments."""
    assert got.keys() == want.keys()
    for key in got:
        assert got[key].shape == want[key].shape, key
        if got[key].dtype == np.float32 or got[key].dtype == bfloat16:
            finite = np.isfinite(got[key].astype(np.float32)) | np.isnan(want[key])
            assert finite.all(), f"{name}: {key} has an element left unwritten"
            assert_close(name, got[key], want[key])
        elif got[key].dtype.kind == "f":
            np.testing.assert_allclose(got[key], want[key], rtol=1e-5, atol=1e-6, err_msg=key)
        else:
            np.testing.assert_array_equal(got[key], want[key], err_msg=key)
        # What the reference leaves alone, the device leaves alone.
        if key in before and np.array_equal(want[key], before[key], equal_nan=True):
            np.testing.assert_array_equal(got[key], before[key], err_msg=f"{name} changed {key}")


def agrees(ops, name, number, place):
    """Assert that a case gives what the reference gives in float64; its arguments are float32."""
    want = run(REFERENCE, name, number, np.float64)
    got = device_run(ops, name, number, place=place)
    compare(name, got, want, arguments(name, number, np.float32))
    for key in {"y", "dx"} & got.keys():
        if "dropout" in name:
            np.testing.assert_array_equal(got[key] == 0, want[key] == 0)


def agrees_in_bf16(ops, name, number, place):
    """Both are given the same bfloat16 numbers, sum in float32, and round a result once."""
    want = run(REFERENCE, name, number, bfloat16)
    compare(name, device_run(ops, name, number, bfloat16, place), want, {})
