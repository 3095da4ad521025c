"""Device cpu against the reference: every operation, on the cases of tests/op_cases.py.

Arguments are rounded to float32 once, and then the device works on them in float32 and the
reference in float64, so what only selects or copies must be equal, and the rest within conftest's
table. Results are handed over full of NaN, so an element left unwritten shows; every array starts
4 bytes off its alignment.

Read next: kernels/cpu/native/maxout.cpp.
"""

import inspect

import numpy as np
import pytest

from conftest import DEVICES, assert_close
from kernels.reference import NumpyOps
from op_cases import CASES, HELPERS, OPERATIONS, REFERENCE, arguments, clock, run

DEVICE = next((ops for ops in DEVICES if ops.name == "cpu"), None)
needs_cpu = pytest.mark.skipif(DEVICE is None, reason="device cpu does not work on this machine")

EVERY = [(name, number) for name in OPERATIONS for number in range(len(CASES[name]))]
NATIVE = [name for name in OPERATIONS if name != "orthonormal"]  # which is inherited


# -- the contract ---------------------------------------------------------------------------------

@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_has_a_case(name):
    assert CASES[name]


@needs_cpu
def test_signatures_are_the_references():
    for name in [*OPERATIONS, *HELPERS]:
        assert (inspect.signature(getattr(type(DEVICE), name))
                == inspect.signature(getattr(NumpyOps, name))), name


@needs_cpu
def test_everything_is_overridden_and_pairs_together():
    own = set(vars(type(DEVICE)))
    for name in OPERATIONS:
        stem = name.split("_forward")[0]
        if name.endswith("_forward"):
            halves = {other in own for other in OPERATIONS
                      if other == name or other.startswith(f"{stem}_backward")}
            assert len(halves) == 1, name
    assert set(OPERATIONS) - own == {"orthonormal"}


@needs_cpu
@pytest.mark.parametrize("name, number", EVERY)
def test_agrees_with_the_reference(name, number):
    before = arguments(name, number, np.float32)
    want = run(REFERENCE, name, number, np.float64)
    got = run(DEVICE, name, number)
    assert got.keys() == want.keys()
    for key in got:
        assert got[key].shape == want[key].shape, key
        if got[key].dtype.kind == "f":
            assert np.isfinite(got[key]).all(), f"{name}: {key} has an element left unwritten"
            assert_close(name, got[key], want[key])
        else:
            np.testing.assert_array_equal(got[key], want[key], err_msg=key)
        # What the reference leaves alone, the device leaves alone.
        if key in before and np.array_equal(want[key], before[key], equal_nan=True):
            np.testing.assert_array_equal(got[key], before[key], err_msg=f"{name} changed {key}")
    if name.startswith("dropout"):
        for key in ("y", "dx"):
            if key in got:
                np.testing.assert_array_equal(got[key] == 0, want[key] == 0)


@needs_cpu
@pytest.mark.parametrize("number", range(len(CASES["gather"])))
def test_gather_crops_exactly(number):
    """With shift 0, scale 1 and no mean image, a batch is the data set's bytes: equal, not near."""
    batches = []
    for ops, dtype in ((DEVICE, np.float32), (REFERENCE, np.float64)):
        values = arguments("gather", number, dtype) | {"input_scale": 1.0}
        values["shift"][:], values["scale"][:], values["mean_image"][:] = 0, 1, 0
        ops.gather(**values)
        batches.append(values["x"])
    np.testing.assert_array_equal(*batches)


@needs_cpu
@pytest.mark.parametrize("name", [name for name in NATIVE
                                  if not name.startswith(("conv", "linear"))])
def test_the_bits_do_not_depend_on_the_number_of_threads(name):
    from kernels.cpu import _native
    count, runs = _native.threads(), []
    try:
        for threads in (1, 2, 3):
            _native.set_threads(threads)
            runs.append([run(DEVICE, name, number) for number in range(len(CASES[name]))])
    finally:
        _native.set_threads(count)
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            assert {key: array.tobytes() for key, array in one.items()} == \
                   {key: array.tobytes() for key, array in two.items()}


# -- errors come before memory is touched ---------------------------------------------------------

def every_second(values):
    return np.repeat(values, 2, axis=-1)[..., ::2]


WRONG = {
    "dtype": lambda values: values.astype(np.float16),
    "order": every_second,
    "shape": lambda values: values[None],
}


@needs_cpu
@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", NATIVE)
def test_wrong_arrays_are_named(name, kind):
    arrays = [key for key, value in arguments(name, 0, np.float32).items()
              if isinstance(value, np.ndarray)]
    for key in arrays:
        values = arguments(name, 0, np.float32)
        if (name, kind) == ("variance", "shape") or (kind == "order" and values[key].shape[-1] < 2):
            continue
        values[key] = WRONG[kind](values[key])
        before = {k: v.tobytes() for k, v in values.items() if isinstance(v, np.ndarray)}
        with pytest.raises(ValueError) as caught:
            getattr(DEVICE, name)(**values)
        message = str(caught.value)
        assert message and "\n" not in message
        assert {"dtype": "float16", "order": "contiguous", "shape": "("}[kind] in message, message
        assert before == {k: values[k].tobytes() for k in before}, f"{name}: {key} after the error"


@needs_cpu
@pytest.mark.parametrize("name, changed, words", [
    ("maxout_forward", {"x": np.ones((2, 63), np.float32)},
     "63 channels do not split into 2 pieces"),
    ("maxpool_forward", {"size": 17}, "window 17"),
    ("maxpool_forward", {"size": 2, "stride": 3}, "stride 3"),
    ("variance", {"groups": 3}, "10 channels do not split into 3 groups"),
    ("variance", {"x": np.ones((0, 10), np.float32)}, "(0, 10) has no elements"),
    ("dropout_forward", {"drop": 1.0}, "is not a probability"),
    ("dropout_forward", {"layer": 1 << 16}, "layer 65536"),
    ("batchnorm_inference", {"weight": np.zeros(1, np.float32)}, "no running statistics yet"),
    ("softmax_loss_forward", {"labels": np.full(7, 5, np.int32)}, "label 5"),
    ("hinge_loss_forward", {"labels": np.full(7, 5, np.int32)}, "label 5"),
    ("gather", {"move": 4}, "move 4"),
    ("gather", {"clock": clock(step=9)}, "step 9 has no row"),
    ("gather", {"order": np.full((3, 7), 11, np.int32)}, "image 11"),
    ("sgd_step", {"segments": np.array([[0, 2, 1, 1.0]])}, "in an arena of 1"),
    ("advance", {"rates": np.zeros(0)}, "the table of rates is empty"),
])
def test_wrong_values_are_named(name, changed, words):
    with pytest.raises(ValueError) as caught:
        getattr(DEVICE, name)(**(arguments(name, 0, np.float32) | changed))
    assert words in str(caught.value) and "\n" not in str(caught.value)


@needs_cpu
def test_a_read_only_result_is_refused():
    y = np.zeros(3, np.float32)
    y.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        DEVICE.add(np.ones(3, np.float32), np.ones(3, np.float32), y)
