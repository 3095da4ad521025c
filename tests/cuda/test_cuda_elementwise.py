"""Elementwise operations of device cuda: at the ends of their range, and with a result that is an
operand itself.

Read next: test_cuda_ops.py.
"""

import numpy as np
import pytest
from ml_dtypes import bfloat16

from kernels.clock import STEP, new_clock
from kernels.reference import NumpyOps

REFERENCE = NumpyOps()
# Zeros, numbers below the normal ones, both sides of where a formula may change, and no numbers.
ENDS = np.float32(
    [
        0,
        -0.0,
        1e-45,
        -1e-45,
        1e-30,
        3e-4,
        -3e-4,
        0.5,
        0.624,
        0.626,
        -9,
        9.1,
        17,
        -17,
        88,
        -88,
        89,
        -104,
        1e4,
        -1e4,
        3e38,
        -3e38,
        np.inf,
        -np.inf,
        np.nan,
    ]
)
SIZES = [1, 7, 8, 255, 4099, 8192]


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "leaky"])
def test_ends_of_the_range(cuda_ops, name, dtype):
    x = ENDS.astype(dtype)
    slope = (0.333,) if name == "leaky" else ()
    y, want = cuda_ops.empty(x.shape, dtype), np.empty(x.shape)
    getattr(cuda_ops, f"{name}_forward")(cuda_ops.asarray(x), y, *slope)
    getattr(REFERENCE, f"{name}_forward")(x.astype(np.float64), want, *slope)
    got = cuda_ops.tohost(y).astype(np.float64)
    unit = 2.0**-7 if dtype == bfloat16 else 2e-6
    np.testing.assert_allclose(got, want, rtol=unit, atol=1e-37)
    assert (np.signbit(got) == np.signbit(want))[~np.isnan(want)].all()


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_a_result_may_be_an_operand(cuda_ops, size, dtype):
    rng = np.random.default_rng(size)
    a, b = rng.standard_normal((2, size)).astype(dtype)
    clock = new_clock()
    clock[STEP] = 5
    for name, operands, more in [
        ("leaky_forward", [a], [0.1]),
        ("leaky_backward", [a, b], [0.1]),
        ("tanh_forward", [a], []),
        ("tanh_backward", [a, b], []),
        ("sigmoid_forward", [a], []),
        ("sigmoid_backward", [a, b], []),
        ("add", [a, b], []),
        ("dropout_forward", [a], [0.5, 77, 3, clock, 2.0]),
        ("dropout_backward", [a], [0.5, 77, 3, clock, 2.0]),
    ]:
        for written in range(len(operands)):
            arrays = [cuda_ops.asarray(operand) for operand in operands]
            apart = cuda_ops.empty((size,), dtype)
            numbers = [
                cuda_ops.asarray(value) if isinstance(value, np.ndarray) else value
                for value in more
            ]
            getattr(cuda_ops, name)(*arrays, apart, *numbers)
            getattr(cuda_ops, name)(*arrays, arrays[written], *numbers)
            assert cuda_ops.tohost(arrays[written]).tobytes() == cuda_ops.tohost(apart).tobytes(), (
                name
            )


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("size", SIZES)
def test_dropout_drops_the_same_wherever_an_array_lies(cuda_ops, size, first):
    """In both types; and what is dropped is 0, whatever it was."""
    clock = cuda_ops.asarray(new_clock())
    want = np.empty(size)
    REFERENCE.dropout_forward(np.ones(size), want, 0.3, 2**64 - 1, 9, new_clock(), 1.5)
    for dtype in (np.float32, bfloat16):
        room = cuda_ops.empty((size + 1,), dtype)
        x, y = room[first : first + size], cuda_ops.empty((size,), dtype)
        x.set(np.where(want == 0, np.nan, 1).astype(dtype))
        cuda_ops.dropout_forward(x, y, 0.3, 2**64 - 1, 9, clock, 1.5)
        got = cuda_ops.tohost(y)
        np.testing.assert_array_equal(got == 0, want == 0)
        np.testing.assert_array_equal(got, want.astype(np.float32).astype(dtype))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("size", SIZES)
def test_weights_are_rounded_once(cuda_ops, size, first):
    host = np.random.default_rng(size).standard_normal(size + 1).astype(np.float32)
    weights = cuda_ops.asarray(host)[first : first + size]
    got = cuda_ops.tohost(cuda_ops._rounded(weights, cuda_ops.empty((1,), bfloat16)))
    np.testing.assert_array_equal(got, host[first : first + size].astype(bfloat16))
