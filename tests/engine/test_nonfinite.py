"""What isn't finite stays visible: through convolutions, maximum and rounding, and every other
operation, in both precisions.

A NaN or an infinity in an operand of a convolution may spread within a Winograd tile, but where the
plain sum has it among its terms the device's result is not finite, and other images and filters are
untouched.

Read next: tests/run/test_nonfinite_runs.py.
"""

import numpy as np
import pytest
from ml_dtypes import bfloat16

from helpers.devices import DEVICES
from helpers.op_cases import CASES, arguments
from kernels.checks import pooled
from kernels.clock import FINITE
from kernels.contract import ACTIVATION, OPERATIONS
from kernels.reference import NumpyOps

REFERENCE = NumpyOps()
PRECISIONS = [
    (ops, dtype)
    for ops in DEVICES
    for dtype in (np.float32, *filter(None, [ops.precisions.get("bf16")]))
]
ROUNDING = [ops for ops in DEVICES if "bf16" in ops.precisions]
every = pytest.mark.parametrize(
    "ops, dtype", PRECISIONS, ids=[f"{ops.name}-{np.dtype(dtype)}" for ops, dtype in PRECISIONS]
)
rounding = pytest.mark.parametrize("ops", ROUNDING, ids=[ops.name for ops in ROUNDING])

# Two blocks of tiles and some, an image no multiple of four: device cpu's Winograd takes all of it.
N, H, W, C, K = 3, 18, 19, 37, 34


def convolved(ops, x, w, dy):
    """{"y", "dx", "dW", "db"} of a 3x3 convolution with stride and padding 1, as float64."""
    dtype = x.dtype
    found = {
        "y": np.zeros(dy.shape, dtype),
        "dx": np.zeros(x.shape, dtype),
        "dW": np.zeros(w.shape, dtype),
        "db": np.zeros(K, dtype),
    }
    with np.errstate(invalid="ignore"):
        ops.conv_forward(x, w, np.zeros(K, np.float32), found["y"], 1, 1, 1)
        ops.conv_backward_data(dy, w, found["dx"], 1, 1, 1)
        ops.conv_backward_filter(x, dy, found["dW"], found["db"], 1, 1, 1)
    return {name: array.astype(np.float64) for name, array in found.items()}


@pytest.fixture(scope="module")
def operands():
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((N, H, W, C), (K, 3, 3, C), (N, H, W, K))
    ]


REACHES = {0: ("y", "dW"), 1: ("y", "dx"), 2: ("dx", "dW", "db")}  # from x, w, dy


def reached(which, place):
    """{result: where it sums a product with operand `which` at `place`}. A tap that only meets the
    padding of an image is no product: some ways of convolving leave it out."""
    marks = [np.ones(shape, np.float32) for shape in ((N, H, W, C), (K, 3, 3, C), (N, H, W, K))]
    marks[which][...] = 0
    marks[which][place] = 1
    found = convolved(REFERENCE, *marks)
    return {
        name: found[name] > 0 if name in REACHES[which] else np.zeros(found[name].shape, bool)
        for name in found
    }


def passes(ops, dtype, operands, which, place, value):
    """What the three passes give with `value` at a place of an operand: {result: not finite}, after
    checking that it is wherever the value reaches."""
    x, w, dy = (array.copy() for array in operands)
    (x, w, dy)[which][place] = value
    got = convolved(ops, x.astype(dtype), w, dy.astype(dtype))
    lost = {name: np.isfinite(got[name]) & there for name, there in reached(which, place).items()}
    assert not any(part.any() for part in lost.values()), lost
    return {name: ~np.isfinite(array) for name, array in got.items()}


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row, column", [(0, 0), (7, 8), (17, 18), (16, 3), (5, 18)])
def test_a_convolution_hides_nothing_and_spreads_only_around(
    ops, dtype, value, row, column, operands
):
    near = np.zeros((N, H, W, 1), bool)  # the tiles of six whose part it is
    near[1, max(row - 8, 0) : row + 9, max(column - 8, 0) : column + 9] = True
    found = passes(ops, dtype, operands, 0, (1, row, column, 33), value)
    assert not (found["y"] & ~near).any() and not found["dx"].any() and not found["db"].any()
    assert not np.delete(found["dW"], 33, 3).any()
    found = passes(ops, dtype, operands, 2, (1, row, column, 33), value)
    assert not (found["dx"] & ~near).any() and not found["y"].any() and found["db"].sum() == 1
    assert not np.delete(found["dW"], 33, 0).any()


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("r, s", [(0, 0), (1, 1), (2, 0), (1, 2)])
def test_a_weight_that_is_not_finite_shows_in_its_output_alone(ops, dtype, value, r, s, operands):
    found = passes(ops, dtype, operands, 1, (33, r, s, 36), value)
    assert not np.delete(found["y"], 33, 3).any() and not np.delete(found["dx"], 36, 3).any()
    assert not found["dW"].any() and not found["db"].any()


@every
@pytest.mark.parametrize("pieces, size, stride", [(2, 2, 2), (2, 4, 2), (3, 3, 2), (1, 3, 1)])
def test_the_first_nan_of_a_window_wins_then_the_first_largest(ops, dtype, pieces, size, stride):
    rng = np.random.default_rng(pieces)
    N, H, W, C = 3, 11, 13, 21
    x = rng.integers(-3, 4, (N, H, W, pieces * C)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.inf
    x[rng.random(x.shape) < 0.1] = -np.inf
    x[rng.random(x.shape) < 0.1] = np.nan
    x = x.astype(dtype)
    shape = (N, pooled(H, size, stride), pooled(W, size, stride), C)
    y, which = np.zeros(shape, dtype), np.zeros(shape, np.uint8)
    ops.maxout_pool_forward(x, y, which, pieces, size, stride)
    wide = x.astype(np.float32).reshape(N, H, W, pieces, C)
    for n, i, j, c in np.ndindex(shape):
        window = wide[n, i * stride : i * stride + size, j * stride : j * stride + size, :, c]
        r, s, p = np.unravel_index(window.argmax(), window.shape)  # NaN is argmax's largest too
        assert which[n, i, j, c] == (r * size + s) * pieces + p
        np.testing.assert_array_equal(np.float32(y[n, i, j, c]), window[r, s, p])


# Every upper half of a float with lower halves around the tie: all exponents and signs, denormals,
# those that overflow to infinity, and NaN of every payload.
LOWER = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
FLOATS = (np.arange(1 << 16, dtype=np.uint32)[:, None] << 16 | LOWER).reshape(-1).view(np.float32)


@rounding
def test_every_float_is_rounded_as_ml_dtypes_does(ops):
    """By `softmax_loss_backward` of one image with a class a float, whose own class is one more:
    dscores is then prob itself, rounded."""
    prob = np.append(FLOATS, np.float32(0))[None]
    dscores = np.zeros(prob.shape, bfloat16)
    with np.errstate(all="ignore"):
        ops.softmax_loss_backward(prob, np.array([len(FLOATS)], np.int32), dscores, 1.0)
        same_bits(dscores[0, :-1], FLOATS.astype(bfloat16))


@rounding
@pytest.mark.parametrize("factor", [1.0, 2.0**-8, 2.0**-8 * 1.0078125, -(2.0**-9), 0.0])
def test_every_sum_is_rounded_once(ops, factor):
    """Every bfloat16 plus a part of itself: by `add`, and by a pooling two of whose windows were
    won at one place. The latter may take a result below float32's normal numbers for zero."""
    a = np.arange(1 << 16, dtype=np.uint16).view(bfloat16)
    with np.errstate(all="ignore"):
        b = (a.astype(np.float32) * np.float32(factor)).astype(bfloat16)
        want = (a.astype(np.float32) + b.astype(np.float32)).astype(bfloat16)
        y = np.zeros(a.shape, bfloat16)
        ops.add(a, b, y)
        same_bits(y, want)
        dy, dx = np.stack([a, b])[None, None], np.zeros((1, 2, 3, len(a)), bfloat16)
        which = np.zeros(dy.shape, np.uint8)
        which[0, 0, 0] = 1  # the middle of the upper row is the first window's second place
        ops.maxpool_backward(dy, which, dx, 2, 1, 0)
    normal = ~(abs(want.astype(np.float32)) < np.finfo(np.float32).tiny)
    same_bits(dx[0, 0, 1][normal], want[normal])
    assert (abs(dx[0, 0, 1][~normal].astype(np.float32)) < np.finfo(np.float32).tiny).all()
    assert not dx[0, 1].astype(np.float32).any()


def same_bits(got, want):
    """Equal but for the payload of a NaN and the sign of a zero."""
    nan = np.isnan(want)
    assert np.array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got[~nan].astype(np.float32), want[~nan].astype(np.float32))


# -- every operation ------------------------------------------------------------------------------

# (operation, argument): where a NaN need not show. It may lie in what is not read (another image,
# a padding row, channels beside the part, what dropout drops, places that meet padding alone), or
# only its sign is asked for; a loss has latched the step before its backward is called. Latched,
# the running statistics stay as they are.
MAY_HIDE = {
    ("gather", "shift"),
    ("gather", "scale"),
    ("gather", "mean_image"),
    ("concat_forward", "y"),
    ("concat_backward", "dy"),
    ("dropout_forward", "x"),
    ("dropout_backward", "dy"),
    ("maxout_pool_dropout_forward", "x"),
    ("maxout_pool_dropout_backward", "dy"),
    ("leaky_backward", "y"),
    ("hinge_loss_backward", "scores"),
    ("squared_hinge_loss_backward", "scores"),
    ("prelu_forward", "slope"),  # of a channel without a negative value
    ("prelu_backward", "slope"),
    ("prelu_backward", "dy"),  # where x is positive and nobody wants dx; likewise
    ("scale_backward", "scale"),
    ("softmax_loss_backward", "prob"),
    ("softmax_loss_forward", "weights"),  # of a class without images; likewise
    ("softmax_loss_backward", "weights"),
    ("squared_error_forward", "values"),  # of padding; and so for the others
    ("squared_error_forward", "scores"),
    ("squared_error_backward", "values"),
    ("squared_error_backward", "scores"),
    ("absolute_error_forward", "values"),
    ("absolute_error_forward", "scores"),
    ("absolute_error_backward", "values"),
    ("absolute_error_backward", "scores"),
    ("binary_cross_entropy_forward", "values"),
    ("binary_cross_entropy_forward", "scores"),
    ("binary_cross_entropy_backward", "values"),
    ("binary_cross_entropy_backward", "scores"),
    ("batchnorm_running", "mean"),
    ("batchnorm_running", "rstd"),
    ("batchnorm_running", "running_mean"),
    ("batchnorm_running", "running_var"),
    ("batchnorm_running", "weight"),
    ("conv_forward", "x"),
    ("conv_backward_data", "W"),
    ("conv_backward_data", "dy"),
    ("conv_backward_filter", "x"),
    ("average", "mean"),  # it stays in the result, which is the argument itself; likewise
    ("accumulate", "g"),
    ("accumulate", "total"),
    ("max_norm", "W"),
    ("distort", "table"),  # of an image's box: no place is in it
}
REFUSED = {("batchnorm_inference", "weight")}  # a ValueError: there are no statistics


def float_inputs(name):
    """[(case, argument)]: every array of floats that is read, of up to 100,000 elements and with
    results to show it."""
    contract = OPERATIONS[name]
    return [
        (number, key)
        for number, case in enumerate(CASES[name])
        for key, value in zip(contract.arguments, case, strict=True)
        if isinstance(value, np.ndarray)
        and contract.dtypes[key] in (np.float32, ACTIVATION)
        and 0 < value.size <= 100_000
        and (name, key) not in REFUSED
        and not (isinstance(case[0], np.ndarray) and not len(case[0]))
    ]


def shown_by(ops, name, number, key, value, dtype):
    """A case with `value` in the middle of argument `key` -> {result: where it is not finite}; of a
    clock, its latch."""
    given = arguments(name, number, dtype)
    given[key].reshape(-1)[given[key].size // 2] = value
    with np.errstate(all="ignore"):
        returned = getattr(ops, name)(**given)
    found = {
        k: array
        for k, array in given.items()
        if isinstance(array, np.ndarray)
        and k not in (key, "clock")
        and array.dtype.kind not in "iu"
    }
    if isinstance(returned, tuple):
        found |= {f"returned {i}": array for i, array in enumerate(returned)}
    shown = {k: ~np.isfinite(array.astype(np.float64)) for k, array in found.items()}
    if "clock" in given:
        shown["latch"] = given["clock"][FINITE] == 0
    return shown


@pytest.mark.parametrize("name", [name for name in OPERATIONS if float_inputs(name)])
def test_no_operation_swallows_a_nan(name):
    for number, key in float_inputs(name):
        shown = shown_by(REFERENCE, name, number, key, np.nan, np.float64)
        assert (name, key) in MAY_HIDE or any(map(np.any, shown.values())), (number, key)


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [name for name in OPERATIONS if float_inputs(name)])
def test_what_the_reference_shows_every_device_shows(ops, dtype, name, value):
    """Place by place; of a convolution's results, somewhere: of its places more is said above."""
    for number, key in float_inputs(name):
        want = shown_by(REFERENCE, name, number, key, value, np.float64)
        got = shown_by(ops, name, number, key, value, dtype)
        for result, places in want.items():
            if name.startswith("conv"):
                assert np.any(got[result]) or not np.any(places), (number, key, result)
            else:
                assert not np.any(places & ~got[result]), (number, key, result)
