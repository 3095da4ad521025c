"""Device cpu can't be hurt: a call that does not fit is an error of one line, before memory is
touched, and a call that does fit stays inside its arrays.

One call of every operation (tests/helpers/op_cases.py) is spoilt in one argument at a time: dtype,
number of axes, length of an axis, order, a read-only result, results that share memory with
something else, numbers out of their range or of another kind. Every array is compared byte by byte
after the error. The calls that do fit run once more with every array between two pages that no one
may touch, so that a read or write beyond either end, in the vector code and in oneDNN's too, ends a
process.
tests/sanitizers/run.py runs all this in a build that checks itself.

Read next: tests/sanitizers/run.py.
"""

import ctypes
import math
import mmap
import os
import signal

import numpy as np
import pytest
from ml_dtypes import bfloat16

from helpers.devices import DEVICES
from helpers.length import often
from helpers.op_cases import CASES, REFERENCE, arguments, clock, out, randn, run, which
from helpers.tolerances import assert_close
from kernels import philox
from kernels.clock import NORM, STEP
from kernels.contract import OPERATIONS

DEVICE = next((ops for ops in DEVICES if ops.name == "cpu"), None)
pytestmark = pytest.mark.skipif(DEVICE is None, reason="device cpu does not work on this machine")
DTYPES = [np.float32, *([bfloat16] if DEVICE and "bf16" in DEVICE.precisions else [])]

# Whose results may be an operand's very array: each element depends on the same element alone.
ELEMENTWISE = {
    "leaky_forward",
    "leaky_backward",
    "tanh_forward",
    "tanh_backward",
    "add",
    "sigmoid_forward",
    "sigmoid_backward",
    "dropout_forward",
    "dropout_backward",
}


def is_array(value):
    return isinstance(value, np.ndarray)


def chosen(name):
    """The number of the first case that is not tiny."""
    return next(
        (
            number
            for number, case in enumerate(CASES[name])
            if max((math.prod(a.shape) for a in case if hasattr(a, "shape")), default=0) > 30
        ),
        0,
    )


def call(name, dtype=np.float32):
    return arguments(name, chosen(name), dtype)


def results(name):
    """The arrays that the operation writes."""
    before, after = call(name), run(REFERENCE, name, chosen(name))
    return [
        key
        for key, value in before.items()
        if is_array(value) and value.tobytes() != after[key].tobytes()
    ]


def refused(name, values, words="", kinds=ValueError):
    """The call raises an error that has these words, and changes no array."""
    before = {key: value.tobytes() for key, value in values.items() if is_array(value)}
    with pytest.raises(kinds) as caught:
        getattr(DEVICE, name)(**values)
    message = str(caught.value)
    assert words in message, message
    assert message and (caught.type is TypeError or "\n" not in message)
    for key, old in before.items():
        assert values[key].tobytes() == old, f"{name}: {key} was changed before the error"


every_operation = pytest.mark.parametrize("name", OPERATIONS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=[np.dtype(d).name for d in DTYPES])


# -- arrays ---------------------------------------------------------------------------------------


def longer(values, axis):
    return np.concatenate([values, values.take([-1], axis)], axis)


def shorter(values, axis):
    return values.take(range(values.shape[axis] - 1), axis)


# Axes that nothing else in the call fixes, or not upwards.
POOLED = {
    (f"{op}_{way}", key, axis, longer)
    for op in ("maxpool", "avgpool", "maxout_pool", "maxout_pool_dropout")
    for way, key in (("forward", "x"), ("backward", "dx"))
    for axis in (1, 2)
}
POOLED |= {
    (f"fractional_maxpool_{way}", key, axis, change)
    for way, key in (("forward", "x"), ("backward", "dx"))
    for axis in (1, 2)
    for change in (longer, shorter)
}
POOLED |= {
    (f"global_{op}_{way}", key, axis, change)
    for op in ("maxpool", "avgpool")
    for way, key in (("forward", "x"), ("backward", "dx"))
    for axis in (1, 2)
    for change in (longer, shorter)
}
FREE = POOLED | {
    (name, key, axis, change)
    for change in (longer, shorter)
    for name, key, axis in [
        ("concat_forward", "x", -1),
        ("concat_forward", "y", -1),
        ("concat_backward", "dx", -1),
        ("concat_backward", "dy", -1),
        ("clip", "g", 0),
        ("sgd_step", "segments", 0),
        ("nesterov_step", "segments", 0),
        ("rmsprop_step", "segments", 0),
        ("adam_step", "segments", 0),
        ("advance", "rates", 0),
    ]
}
FREE |= {("gather", "order", 0, longer)}
FREE |= {
    ("distort", key, axis, change)
    for key, axis in (("x", 1), ("x", 2), ("y", 1), ("y", 2), ("table", 0))
    for change in (longer, shorter)
}
FREE |= {("channel_mask", "mask", 0, change) for change in (longer, shorter)}
FREE |= {("max_norm", "W", axis, change) for axis in (0, 1) for change in (longer, shorter)}


@every_dtype
@every_operation
def test_an_array_of_another_dtype_is_refused(name, dtype):
    for key, value in call(name, dtype).items():
        if not is_array(value):
            continue
        for wrong in ("float16", "float64", "int64", "int8", ">f4", "complex64", "object"):
            if np.dtype(wrong) != value.dtype:
                spoilt = np.zeros(value.shape, wrong)
                refused(name, call(name, dtype) | {key: spoilt}, "dtype")
        if value.dtype == bfloat16:
            swapped = value.view(value.dtype.newbyteorder())
            refused(name, call(name, dtype) | {key: swapped}, "dtype")


@every_operation
def test_an_array_of_another_shape_is_refused(name):
    for key, value in call(name).items():
        if not is_array(value) or name == "variance":  # which takes any shape
            continue
        for spoilt in (value[None], value[..., None], value[0]):
            refused(name, call(name) | {key: np.array(spoilt)})
        for axis in range(value.ndim):
            for change in (longer, shorter):
                if not {(name, key, axis, change), (name, key, axis - value.ndim, change)} & FREE:
                    refused(name, call(name) | {key: change(value, axis)})


@every_operation
def test_an_array_that_is_not_contiguous_is_refused(name):
    for key, value in call(name).items():
        if not is_array(value):
            continue
        apart = np.repeat(value, 2, axis=-1)[..., ::2]
        turned = np.array(value[..., ::-1])[..., ::-1]
        for spoilt in (apart, turned, np.asfortranarray(value)):
            if not spoilt.flags.c_contiguous:
                refused(name, call(name) | {key: spoilt}, "not C-contiguous")


@every_operation
def test_an_array_off_its_elements_alignment_is_refused(name):
    for key, value in call(name).items():
        if is_array(value) and value.itemsize > 1:
            room = np.zeros(value.nbytes + 1, np.uint8)[1:]
            room[:] = value.reshape(-1).view(np.uint8)
            refused(
                name, call(name) | {key: room.view(value.dtype).reshape(value.shape)}, "not aligned"
            )


@every_operation
def test_a_read_only_result_is_refused(name):
    for key in results(name):
        values = call(name)
        values[key].flags.writeable = False
        refused(name, values, "read-only")


@every_dtype
@every_operation
def test_a_result_that_shares_memory_is_refused(name, dtype):
    """With the start, the end or all of another array; the other's values stand there whole."""
    for result in results(name):
        for other in (key for key, value in call(name).items() if is_array(value)):
            values = call(name, dtype)
            mine, its = values[result], values[other]
            if result == other:
                continue
            for shift in {0, (its.nbytes - 1) // 8 * 8, -((mine.nbytes - 1) // 8 * 8)}:
                whole = name in ELEMENTWISE and shift == 0 and mine.nbytes == its.nbytes
                if whole:
                    continue
                values, at = call(name, dtype), mine.nbytes + 8
                room = np.zeros(2 * at + its.nbytes + 64, np.uint8)
                for key, start in ((result, at // 8 * 8 + shift), (other, at // 8 * 8)):
                    part = room[start : start + values[key].nbytes]
                    part[:] = values[key].reshape(-1).view(np.uint8)
                    values[key] = part.view(values[key].dtype).reshape(values[key].shape)
                refused(name, values, "shares memory with")


@every_dtype
@pytest.mark.parametrize("name", sorted(ELEMENTWISE))
def test_an_elementwise_result_may_be_the_operand(name, dtype):
    want = run(DEVICE, name, chosen(name), dtype)
    result = next(iter(results(name)))
    for key, value in call(name, dtype).items():
        if is_array(value) and key not in (result, "clock"):
            values = call(name, dtype)
            values[result] = values[key]
            getattr(DEVICE, name)(**values)
            assert values[result].tobytes() == want[result].tobytes()


@pytest.mark.parametrize("shape", [(0, 1 << 49), (1 << 30, 0, 1 << 19)])
def test_an_axis_longer_than_an_address_space_is_refused(shape):
    x, y = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=r"more than 2\*\*48"):
        DEVICE.lrn_forward(x, y, 5, 1.0, 0.75, 1.0)


# -- numbers --------------------------------------------------------------------------------------

HUGE = [-1, -(2**63), 2**31, 2**62, 2**63 - 1, 2**63, 10**30]
FINE = {
    ("lrn_forward", "size"): [2**63 - 1],
    ("lrn_backward", "size"): [2**63 - 1],
    ("orthonormal", "rows"): [2**31],
    ("orthonormal", "cols"): [2**31],  # more than memory
    ("batchnorm_running", "count"): [2**31, 2**62, 2**63 - 1, 2**63, 10**30],
}


@every_operation
def test_a_number_of_another_kind_is_refused(name):
    for key, value in call(name).items():
        if is_array(value):
            spoilt = [1.0, value.tolist(), "x"]
            spoilt += [None] if key not in OPERATIONS[name].optional else []
        elif isinstance(value, bool):
            spoilt = [None, 1, 0.0, "x", np.zeros(2)]
        elif isinstance(value, int) and key != "count":
            spoilt = [None, 2.0, np.float32(2), "2", [2], np.zeros(2)]
        elif isinstance(value, tuple):
            spoilt = [(1.5, 4, 2), ("1", 4, 2), (1, 4.0, 2), (1, 4, None)]
        else:
            spoilt = [None, "2", [2], np.zeros(2), 2j]
        for wrong in spoilt:
            refused(name, call(name) | {key: wrong}, kinds=(TypeError, ValueError))


@every_operation
def test_a_number_out_of_its_range_is_refused(name):
    for key, value in call(name).items():
        if isinstance(value, bool) or is_array(value):
            continue
        if key == "seed":
            spoilt = [-1, 2**64, 10**30]
        elif isinstance(value, tuple):
            spoilt = [(-1, 4, 2), (2**64, 4, 2), (1, 2**16, 2), (1, 4, -1), (1, -(2**63), 2)]
        elif isinstance(value, int) and key != "count":
            spoilt = HUGE
        else:
            spoilt = [math.nan, math.inf, -math.inf]
            spoilt += (
                [-1.0]
                if key not in ("beta", "momentum", "decay", "weight", "input_scale", "background")
                else []
            )
        for wrong in spoilt:
            if wrong not in FINE.get((name, key), ()):
                refused(name, call(name) | {key: wrong}, kinds=(TypeError, ValueError))


@pytest.mark.parametrize("name", [n for n in OPERATIONS if "clock" in call(n)])
def test_a_clock_that_holds_no_step_is_refused(name):
    """Where the operation reads it: else it is not looked at."""
    for place, reads in (
        (
            0,
            {
                "dropout_forward",
                "dropout_backward",
                "maxout_pool_dropout_forward",
                "gather",
                "advance",
                "adam_step",
                "average",
            },
        ),
        (1, {"gather", "advance"}),
    ):
        for wrong in (math.nan, math.inf, -math.inf, -1.0, 1e300, 2.0**63):
            values = call(name)
            values["clock"][place] = wrong
            if name in reads:
                refused(name, values, "step")


@pytest.mark.parametrize(
    "row",
    [
        [0, 68, 1, 1],
        [-1, 2, 1, 1],
        [3, 2, 1, 1],
        [0, math.nan, 1, 1],
        [math.nan, 5, 1, 1],
        [0, 1e300, 1, 1],
        [0, math.inf, 1, 1],
        [-math.inf, 5, 1, 1],
        [2.0**63, 2.0**63, 1, 1],
    ],
)
@pytest.mark.parametrize("name", ["sgd_step", "nesterov_step", "rmsprop_step", "adam_step"])
def test_a_segment_outside_the_arena_is_refused(name, row):
    """Also after one that fits: no update is made before all are checked."""
    values = call(name)
    assert values["w"].size == 67
    refused(name, values | {"segments": np.array([[0, 67, 1, 1], row], float)}, "in an arena of 67")


@pytest.mark.parametrize("name", [n for n in OPERATIONS if "labels" in call(n) and n != "gather"])
def test_a_label_is_a_class_or_padding(name):
    for label in (5, 2**31 - 1):
        values = call(name)
        assert values["labels"].shape == (7,)
        values["labels"][6] = label
        refused(name, values, f"label {label}")
    values = call(name)  # every negative number is padding, -2^31 too
    values["labels"][:] = -(2**31)
    getattr(DEVICE, name)(**values)
    assert np.isfinite(values[results(name)[0]]).all()


@pytest.mark.parametrize("index", [11, 2**31 - 1])
def test_an_image_that_does_not_exist_is_refused(index):
    values = call("gather")
    values["order"][2, 6] = index
    refused("gather", values, f"image {index}")


@every_dtype
@pytest.mark.parametrize(
    "name", [n for n in OPERATIONS if n.endswith("_backward") and "which" in call(n)]
)
def test_a_wrong_winner_reaches_nothing(name, dtype):
    """No forward pass writes it; then it names no place, and its gradient is lost."""
    values = call(name, dtype)
    values["which"][...] = 255
    getattr(DEVICE, name)(**values)
    assert not values["dx"].astype(np.float32).any()


@pytest.mark.parametrize("count", [0, -1, 1025, 2**31, 2**40, 2.0, None])
def test_a_count_of_threads_has_a_range(count):
    from kernels.cpu import _native

    before = _native.threads()
    with pytest.raises((ValueError, TypeError)):
        _native.set_threads(count)
    assert _native.threads() == before


# -- the smallest inputs, beside those of tests/helpers/op_cases.py --------------------------------

NONE = np.zeros((0, 4), np.float64)
SMALLEST = [
    ("maxout_forward", randn(3, 0), out(3, 0), which(3, 0), 2),
    ("maxout_backward", randn(3, 0), np.zeros((3, 0), np.uint8), out(3, 0), 2),
    ("maxpool_forward", randn(2, 4, 4, 0), out(2, 2, 2, 0), which(2, 2, 2, 0), 2, 2, 0),
    (
        "maxpool_backward",
        randn(2, 2, 2, 0),
        np.zeros((2, 2, 2, 0), np.uint8),
        out(2, 4, 4, 0),
        2,
        2,
        0,
    ),
    ("maxout_pool_forward", randn(2, 4, 4, 0), out(2, 2, 2, 0), which(2, 2, 2, 0), 2, 2, 2),
    (
        "maxout_pool_backward",
        randn(2, 2, 2, 0),
        np.zeros((2, 2, 2, 0), np.uint8),
        out(2, 4, 4, 0),
        2,
        2,
        2,
    ),
    (
        "maxout_pool_dropout_forward",
        randn(2, 4, 4, 0),
        out(2, 2, 2, 0),
        which(2, 2, 2, 0),
        2,
        2,
        2,
        0.2,
        1,
        2,
        clock(),
    ),
    (
        "maxout_pool_dropout_backward",
        randn(2, 2, 2, 0),
        np.zeros((2, 2, 2, 0), np.uint8),
        out(2, 4, 4, 0),
        2,
        2,
        2,
        0.2,
    ),
    ("avgpool_forward", randn(2, 4, 4, 0), out(2, 2, 2, 0), 2, 2),
    ("avgpool_backward", randn(2, 2, 2, 0), out(2, 4, 4, 0), 2, 2),
    ("global_maxpool_forward", randn(2, 4, 4, 0), out(2, 0), out(2, 0, dtype=np.int32)),
    ("global_maxpool_backward", randn(2, 0), np.zeros((2, 0), np.int32), out(2, 4, 4, 0)),
    ("global_avgpool_forward", randn(2, 4, 4, 0), out(2, 0)),
    ("global_avgpool_backward", randn(2, 0), out(2, 4, 4, 0)),
    ("scale_forward", randn(3, 0), randn(0), randn(0), out(3, 0)),
    ("prelu_forward", randn(3, 0), randn(0), out(3, 0)),
    ("prelu_forward", randn(5), randn(5), out(5)),
    ("nesterov_step", randn(0), randn(0), randn(0), NONE, clock(), 0.9, 0.1),
    ("lrn_forward", randn(3, 0), out(3, 0), 5, 1.0, 0.75, 1.0),
    ("lrn_backward", randn(3, 0), randn(3, 0), out(3, 0), 5, 1.0, 0.75, 1.0),
    ("concat_forward", randn(3, 0), randn(3, 5), 5),
    ("concat_backward", randn(3, 5), out(3, 0), 5),
    # An image without rows, all of whose windows are padding.
    ("conv_forward", randn(2, 0, 5, 3), randn(4, 2, 2, 3), randn(4), out(2, 1, 6, 4), 1, 1, 1),
    ("conv_backward_data", randn(2, 1, 6, 4), randn(4, 2, 2, 3), out(2, 0, 5, 3), 1, 1, 1),
    (
        "conv_backward_filter",
        randn(2, 0, 5, 3),
        randn(2, 1, 6, 4),
        out(4, 2, 2, 3),
        out(4),
        1,
        1,
        1,
    ),
    ("batchnorm_forward", randn(1, 1), out(1, 1), out(1), out(1), 1e-5),
    ("batchnorm_backward", randn(1, 1), randn(1, 1), abs(randn(1)), out(1, 1)),
    (
        "batchnorm_running",
        randn(1),
        1 + abs(randn(1)),
        randn(1),
        randn(1),
        randn(1),
        1,
        0.9,
        1e-5,
        clock(),
    ),
    (
        "batchnorm_inference",
        randn(1, 1),
        out(1, 1),
        randn(1),
        abs(randn(1)),
        np.ones(1, np.float32),
        1e-5,
    ),
    (
        "batchnorm_inference",
        randn(0, 3),
        out(0, 3),
        randn(3),
        abs(randn(3)),
        np.ones(1, np.float32),
        1e-5,
    ),
    ("variance", randn(1, 1), 1),
    ("variance", randn(1), 1),
    ("clip", randn(0), 1.0, clock()),
    ("sgd_step", randn(0), randn(0), randn(0), np.zeros((1, 4)), clock(), 0.9, 0.1),
    ("sgd_step", randn(3), randn(3), randn(3), NONE, clock(), 0.9, 0.1),
    ("rmsprop_step", randn(0), randn(0), randn(0), NONE, clock(), 0.9, 1e-4, 0.1, 0.0),
    ("squared_error_forward", randn(0, 3, 2), randn(0, 3, 2), clock()),
    ("binary_cross_entropy_backward", randn(0, 3), randn(0, 3), out(0, 3), 1.0),
    ("average", randn(0), randn(0), clock(), 0.9, 0, 1),
    ("accumulate", randn(0), randn(0), 0.5, True, clock()),
    (
        "gather",
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros(0, np.int32),
        randn(0),
        randn(0),
        randn(4, 4, 3),
        np.full((3, 2), -1, np.int32),
        out(2, 4, 4, 3),
        out(2, dtype=np.int32),
        clock(),
        1,
        0,
        0,
        True,
        1.0,
        True,
    ),
    (
        "gather",
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros(2, np.int32),
        randn(2),
        randn(2),
        randn(6, 6, 3),
        np.zeros((3, 0), np.int32),
        out(0, 4, 4, 3),
        out(0, dtype=np.int32),
        clock(),
        1,
        1,
        1,
        True,
        1.0,
        True,
    ),
    (
        "gather",
        np.zeros((2, 4, 4, 0), np.uint8),
        np.ones(2, np.int32),
        randn(2),
        randn(2),
        randn(6, 6, 0),
        np.zeros((3, 2), np.int32),
        out(2, 4, 4, 0),
        out(2, dtype=np.int32),
        clock(),
        1,
        1,
        1,
        True,
        1.0,
        True,
    ),
]


@pytest.mark.parametrize(
    "name, case",
    [(name, case) for name, *case in SMALLEST],
    ids=[f"{name}-{n}" for n, (name, *_) in enumerate(SMALLEST)],
)
def test_the_smallest_inputs_agree_with_the_reference(name, case, monkeypatch):
    monkeypatch.setitem(CASES, name, [tuple(case)])
    want, got = run(REFERENCE, name, 0, np.float64), run(DEVICE, name, 0)
    for key in got:
        assert got[key].shape == want[key].shape
        if got[key].dtype.kind == "f":
            assert_close(name, got[key], want[key])
        else:
            np.testing.assert_array_equal(got[key], want[key])


@pytest.mark.parametrize(
    "name, key, result", [("maxpool_forward", "x", "y"), ("maxpool_backward", "dx", "dy")]
)
def test_a_pooling_of_padding_alone_is_refused(name, key, result):
    """An image without rows has no place that a window could be the largest of."""
    values = call(name) | {
        key: np.zeros((7, 0, 11, 5), np.float32),
        "size": 2,
        "stride": 1,
        "pad": 1,
        "which": np.zeros((7, 1, 12, 5), np.uint8),
        result: np.zeros((7, 1, 12, 5), np.float32),
    }
    refused(name, values, "does not fit into 0 x 11")


# -- nothing beyond an array's ends ---------------------------------------------------------------


def guarded(values, at_the_end):
    """A copy between two pages that can't be touched, up against the upper or the lower one."""
    page = mmap.PAGESIZE
    pages = max(1, -(-values.nbytes // page))
    memory = mmap.mmap(-1, (pages + 2) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for at in (0, pages + 1):
        if protect(ctypes.c_void_p(start + at * page), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = page + (pages * page - values.nbytes) * at_the_end
    copy = np.frombuffer(memory, np.uint8, values.nbytes, offset).view(values.dtype)
    copy[...] = values.reshape(-1)
    return copy.reshape(values.shape)


def in_a_child(work):
    """Runs work(say) in a forked process -> how it ended (0, or -signal), and what it said."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            work(lambda text: os.write(write, f"{text}\n".encode()))
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with open(read) as pipe:
        said = pipe.read().splitlines()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


@every_dtype
@pytest.mark.parametrize("at_the_end", [True, False])
def test_nothing_beyond_an_array_is_touched(dtype, at_the_end, monkeypatch):
    """Every operation on every case, and a convolution whose output is written past the caches."""
    wide = randn(24, 64, 64, 16), randn(64, 3, 3, 16), randn(64), out(24, 64, 64, 64), 1, 1, 1
    monkeypatch.setitem(CASES, "conv_forward", [*CASES["conv_forward"], wide])

    def work(say):
        for name in OPERATIONS:
            for number in range(len(CASES[name])):
                say(f"{name}, case {number}")
                values = {
                    key: guarded(value, at_the_end) if is_array(value) else value
                    for key, value in arguments(name, number, dtype).items()
                }
                getattr(DEVICE, name)(**values)

    ended, said = in_a_child(work)
    assert ended == 0, f"{said[-1]}: ended by {ended}"
    assert len(said) == sum(map(len, CASES.values()))


def test_a_touch_beyond_an_array_is_noticed():
    for at_the_end, place in ((True, 8), (False, -1)):
        values = guarded(np.zeros(8, np.float32), at_the_end)
        address = ctypes.c_float.from_address(values.ctypes.data + 4 * place)
        assert in_a_child(lambda say, address=address: address.value) == (-signal.SIGSEGV, [])


# -- more than 2^31 elements ----------------------------------------------------------------------

# The compiler of the sanitizers' build refuses every conversion of a size to a smaller type; here
# the operations run, on arrays of zeros whose pages exist only where they are written.
MANY = 2**31 + 96
SIDE = 46368  # SIDE^2 > 2^31


def pooling(name, which):
    """Windows of 16 x 16 over one image; the last place of all holds the largest number."""
    x, shape = np.zeros((1, SIDE, SIDE, 1), bfloat16), (1, SIDE // 16, SIDE // 16, 1)
    x[0, -1, -1, 0], y = 256, np.zeros(shape, bfloat16)
    getattr(DEVICE, name)(*(x, y, *[np.zeros(shape, np.uint8)][:which], 16, 16, *[0][:which]))
    return [(y[0, -1, -1, 0], 256 if which else 1), (y[0, 0, 0, 0], 0)]


def many_convolution():
    """1 x 1 filters 64 apart, so that the output is small; the last place read holds a 3."""
    x, last = np.zeros((1, SIDE, SIDE, 1), np.float32), (SIDE - 1) // 64
    x[0, 64 * last, 64 * last, 0] = 3
    y = np.zeros((1, last + 1, last + 1, 1), np.float32)
    DEVICE.conv_forward(
        x, np.full((1, 1, 1, 1), 2, np.float32), np.ones(1, np.float32), y, 64, 0, 1
    )
    return [(y[0, -1, -1, 0], 7), (y[0, 0, 0, 0], 1)]


def many_elements():
    x = np.zeros(MANY, bfloat16)
    x[-1] = -3
    DEVICE.leaky_forward(x, x, 0.5)
    return [(x[-1], -1.5), (x[0], 0)]


def many_dropped():
    """The mask at the end is the counter's, whose index has more than 32 bits."""
    x, now = np.ones(MANY, bfloat16), clock()
    DEVICE.dropout_forward(x, x, 0.5, 1, 2, now, 2.0)
    words = philox.words(1, philox.DROPOUT, 2, int(now[STEP]), MANY // 4 - 8, 8).reshape(-1)
    return list(zip(x[-32:], np.where(words >= 2**31, 2, 0), strict=True))


def many_maxout():
    x, y, won = (
        np.zeros((n, 1 << 20), dtype)
        for n, dtype in ((2 * 1025, bfloat16), (1025, bfloat16), (1025, np.uint8))
    )
    x = x.reshape(1025, 1 << 21)
    x[-1, -1] = 5
    DEVICE.maxout_forward(x, y, won, 2)
    return [(y[-1, -1], 5), (won[-1, -1], 1), (y[0, 0], 0)]


def many_joined():
    x, y = np.zeros((MANY // 2, 1), bfloat16), np.zeros((MANY // 2, 2), bfloat16)
    x[-1] = 7
    DEVICE.concat_forward(x, y, 1)
    return [(y[-1, 1], 7), (y[-1, 0], 0)]


def many_inputs():
    F = MANY // 2
    x, W, y = np.zeros((2, F), np.float32), np.zeros((1, F), np.float32), np.zeros((2, 1), "f4")
    x[1, -1], W[0, -1] = 3, 5
    DEVICE.linear_forward(x, W, np.ones(1, np.float32), y)
    return [(y[0, 0], 1), (y[1, 0], 16)]


def many_numbers():
    x = np.zeros((MANY // 2, 2), bfloat16)
    x[-1, 1] = 2
    mean, variance = DEVICE.variance(x, 2)
    DEVICE.clip(x.reshape(-1), 0.0, now := clock())
    return [
        (mean[0], 0),
        (mean[1], 4 / MANY),
        (variance[1], 8 / MANY - (4 / MANY) ** 2),
        (now[NORM], 2),
    ]


def many_weights():
    w, g, v = (np.zeros(MANY, np.float32) for _ in range(3))
    g[-1] = 2
    DEVICE.sgd_step(w, g, v, np.array([[MANY - 8, MANY, 1, 1.0]]), clock(rate=1, factor=1), 0.9, 0)
    return [(w[-1], -2), (v[-1], 2), (w[-2], 0)]


def many_images():
    images = np.zeros((MANY // 12 + 1, 2, 2, 3), np.uint8)
    M = len(images)
    images[-1] = 9
    labels, ones = np.zeros(M, np.int32), np.ones(M, np.float32)
    labels[-1], x, y = 4, np.zeros((1, 2, 2, 3), np.float32), np.zeros(1, np.int32)
    DEVICE.gather(
        images,
        labels,
        ones,
        ones,
        np.zeros((2, 2, 3), np.float32),
        np.full((1, 1), M - 1, np.int32),
        x,
        y,
        clock(1, 1),
        1,
        0,
        0,
        False,
        1.0,
        False,
    )
    return [(x[0, 1, 1, 2], 8), (y[0], 4)]


@pytest.mark.skipif(bfloat16 not in DTYPES, reason="this processor has no bf16 convolutions")
@pytest.mark.parametrize(
    "work",
    [
        lambda: pooling("maxpool_forward", 1),
        lambda: pooling("avgpool_forward", 0),
        many_convolution,
        many_elements,
        many_dropped,
        many_maxout,
        many_joined,
        many_inputs,
        many_numbers,
        many_weights,
        many_images,
    ],
    ids=lambda work: work.__code__.co_name.strip("<>"),
)
def test_offsets_beyond_31_bits_reach_the_last_element(work):
    if not often(0, 1):
        pytest.skip("takes 9 GiB of memory: --full")
    for got, want in work():
        assert float(got) == pytest.approx(float(want), rel=1e-6)
