"""Device cpu against the reference: every operation, on the cases of tests/helpers/op_cases.py.

Arguments are rounded to float32 once, and then the device works on them in float32 and the
reference in float64, so what only selects or copies must be equal, and the rest within conftest's
table. Results are handed over full of NaN, so an element left unwritten shows; every array starts
4 bytes off its alignment.

The last section is about what loads and builds the device.

Read next: kernels/cpu/native/maxout.cpp.
"""

import inspect
import os
import pathlib
import platform
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ml_dtypes import bfloat16

from helpers.devices import DEVICES
from helpers.op_cases import CASES, METHODS, REFERENCE, arguments, clock, run
from helpers.tolerances import assert_close
from kernels import DeviceError, ops_for
from kernels.contract import OPERATIONS
from kernels.reference import NumpyOps

DEVICE = next((ops for ops in DEVICES if ops.name == "cpu"), None)
needs_cpu = pytest.mark.skipif(DEVICE is None, reason="device cpu does not work on this machine")
needs_bf16 = pytest.mark.skipif(
    DEVICE is not None and "bf16" not in DEVICE.precisions,
    reason="this processor has no bf16 convolutions",
)

EVERY = [(name, number) for name in OPERATIONS for number in range(len(CASES[name]))]


# -- the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_has_a_case(name):
    assert CASES[name]


@needs_cpu
def test_signatures_are_the_references():
    for name in METHODS:
        assert inspect.signature(getattr(type(DEVICE), name)) == inspect.signature(
            getattr(NumpyOps, name)
        ), name


@needs_cpu
def test_everything_is_overridden_and_pairs_together():
    own = set(vars(type(DEVICE)))
    for name in OPERATIONS:
        stem = name.split("_forward")[0]
        if name.endswith("_forward"):
            halves = {
                other in own
                for other in OPERATIONS
                if other == name or other.startswith(f"{stem}_backward")
            }
            assert len(halves) == 1, name
    assert set(OPERATIONS) <= own


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
            finite = np.isfinite(got[key]) | np.isnan(want[key])  # where values are padding
            assert finite.all(), f"{name}: {key} has an element left unwritten"
            assert_close(name, got[key], want[key])
        else:
            np.testing.assert_array_equal(got[key], want[key], err_msg=key)
        # What the reference leaves alone, the device leaves alone.
        if key in before and np.array_equal(want[key], before[key], equal_nan=True):
            np.testing.assert_array_equal(got[key], before[key], err_msg=f"{name} changed {key}")
    if name.startswith("dropout") or name == "maxout_pool_dropout_forward":
        for key in ("y", "dx"):
            if key in got:
                np.testing.assert_array_equal(got[key] == 0, want[key] == 0)


@pytest.mark.parametrize("name, number", EVERY)
@needs_cpu
@needs_bf16
def test_agrees_with_the_reference_in_bf16(name, number):
    """Both are given the same bfloat16 numbers, sum in float32, and round a result once."""
    want, got = (run(ops, name, number, bfloat16) for ops in (REFERENCE, DEVICE))
    for key in got:
        assert got[key].dtype == want[key].dtype, key
        if got[key].dtype == np.float32 or got[key].dtype == bfloat16:
            finite = np.isfinite(got[key]) | np.isnan(want[key])  # where values are padding
            assert finite.all(), f"{name}: {key} has an element left unwritten"
            assert_close(name, got[key], want[key])
        elif got[key].dtype.kind == "f":
            np.testing.assert_allclose(got[key], want[key], rtol=1e-5, atol=1e-6, err_msg=key)
        else:
            np.testing.assert_array_equal(got[key], want[key], err_msg=key)


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
@pytest.mark.parametrize(
    "name", [name for name in OPERATIONS if not name.startswith(("conv", "linear"))]
)
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
            assert {key: array.tobytes() for key, array in one.items()} == {
                key: array.tobytes() for key, array in two.items()
            }


def convolution(ops, number):
    """A function that computes a convolution of its own, that device cpu takes by Winograd's
    algorithm or by AMX, in one of the precisions -> the bytes of its three passes."""
    rng, dtype = np.random.default_rng(number), (np.float32, bfloat16)[number % 2]
    N, H, W, C, K = 3, 20 + number, 20, 32 + number, 40 - number
    x, dy = (rng.standard_normal((N, H, W, n)).astype(dtype) for n in (C, K))
    w, b = rng.standard_normal((K, 3, 3, C)).astype(np.float32), np.ones(K, np.float32)

    def compute():
        y, dx, dW, db = (np.zeros(shape, dtype) for shape in (dy.shape, x.shape, w.shape, b.shape))
        ops.conv_forward(x, w, b, y, 1, 1, 1)
        ops.conv_backward_data(dy, w, dx, 1, 1, 1)
        ops.conv_backward_filter(x, dy, dW, db, 1, 1, 1)
        return [array.tobytes() for array in (y, dx, dW, db)]

    return compute


@needs_cpu
@needs_bf16
@pytest.mark.parametrize("number", [0, 1])
def test_the_bits_of_a_large_convolution_do_not_depend_on_the_number_of_threads(number):
    from kernels.cpu import _native

    count, compute, found = _native.threads(), convolution(DEVICE, number), []
    try:
        for threads in (1, 2, 3, 7):
            _native.set_threads(threads)
            found.append(compute())
    finally:
        _native.set_threads(count)
    assert all(other == found[0] for other in found[1:])


@needs_cpu
@needs_bf16
def test_python_threads_may_share_a_device():
    """Different shapes and precisions at once, through one object's plans and workspace."""
    work = [convolution(DEVICE, number) for number in range(5)]
    with ThreadPoolExecutor(len(work)) as pool:  # each thread's count of threads is OpenMP's own
        want = [pool.submit(compute).result() for compute in work]
        again = [(number, pool.submit(work[number])) for number in 8 * list(range(len(work)))]
        assert all(future.result() == want[number] for number, future in again)


# -- errors come before memory is touched ---------------------------------------------------------


def every_second(values):
    return np.repeat(values, 2, axis=-1)[..., ::2]


def misaligned(values):
    """A contiguous copy whose address is odd."""
    room = np.zeros(values.nbytes + 1, np.uint8)[1:].view(values.dtype)
    room[:] = values.reshape(-1)
    return room.reshape(values.shape)


WRONG = {
    "dtype": lambda values: values.astype(np.float16),
    "order": every_second,
    "shape": lambda values: values[None],
    "alignment": misaligned,
}


@needs_cpu
@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", OPERATIONS)
def test_wrong_arrays_are_named(name, kind):
    arrays = [
        key
        for key, value in arguments(name, 0, np.float32).items()
        if isinstance(value, np.ndarray)
    ]
    for key in arrays:
        values = arguments(name, 0, np.float32)
        if (
            (name, kind) == ("variance", "shape")
            or (kind == "order" and values[key].shape[-1] < 2)
            or (kind == "alignment" and values[key].itemsize == 1)
        ):
            continue
        values[key] = WRONG[kind](values[key])
        before = {k: v.tobytes() for k, v in values.items() if isinstance(v, np.ndarray)}
        with pytest.raises(ValueError) as caught:
            getattr(DEVICE, name)(**values)
        message = str(caught.value)
        assert message and "\n" not in message
        assert {
            "dtype": "float16",
            "order": "contiguous",
            "shape": "(",
            "alignment": "not aligned",
        }[kind] in message, message
        assert before == {k: values[k].tobytes() for k in before}, f"{name}: {key} after the error"


ROOM = np.zeros((1, 9, 11, 5), np.float32)


@pytest.mark.parametrize(
    "name, changed, words",
    [
        ("conv_forward", {"stride": 0}, "stride 0 is not in 1 .. 1048576"),
        ("conv_backward_data", {"stride": 1 << 40}, "stride 1099511627776 is not in"),
        ("conv_backward_filter", {"pad": -1}, "pad -1 is not in 0 .. 1048576"),
        ("conv_forward", {"pad": 1 << 62}, "pad 4611686018427387904 is not in"),
        ("conv_forward", {"groups": 0}, "5 inputs and 3 outputs do not split into 0 groups"),
        (
            "conv_forward",
            {"x": ROOM[..., :0], "W": np.zeros((3, 3, 3, 0), np.float32)},
            "0 inputs and 3 outputs; both must be at least 1",
        ),
        (
            "conv_backward_data",
            {"dx": ROOM, "W": np.zeros((0, 3, 3, 5), np.float32)},
            "5 inputs and 0 outputs; both must be at least 1",
        ),
        (
            "conv_backward_filter",
            {"x": ROOM, "dW": np.zeros((3, 12, 3, 5), np.float32)},
            "does not fit into",
        ),
        (
            "linear_forward",
            {"x": np.zeros((7, 0), np.float32), "W": np.zeros((3, 0), np.float32)},
            "0 inputs and 3 outputs; both must be at least 1",
        ),
        (
            "linear_backward_filter",
            {"dW": np.zeros((0, 45), np.float32)},
            "45 inputs and 0 outputs; both must be at least 1",
        ),
        (
            "maxout_forward",
            {"x": np.ones((2, 63), np.float32)},
            "63 channels do not split into 2 pieces",
        ),
        ("maxpool_forward", {"size": 17}, "window 17"),
        ("maxpool_forward", {"size": 2, "stride": 3}, "stride 3"),
        ("maxpool_forward", {"pad": 2}, "pad 2 is not in 0 .. 1"),
        ("maxpool_backward", {"pad": -1}, "pad -1 is not in 0 .. 1"),
        ("avgpool_forward", {"size": 2, "stride": 3}, "window 2, stride 3"),
        ("avgpool_backward", {"size": 10, "stride": 1}, "a window of 10 does not fit into 9 x 11"),
        ("global_maxpool_forward", {"x": ROOM[:, :0]}, "an image of 0 x 11 has no place"),
        ("global_avgpool_backward", {"dx": ROOM[:, :, :0]}, "an image of 9 x 0 has no place"),
        ("scale_forward", {"shift": np.ones(4, np.float32)}, "(4,)"),
        ("scale_backward", {"dscale": np.ones(1, np.float32)}, "(1,)"),
        ("prelu_backward", {"slope": np.ones((1, 5), np.float32)}, "(1, 5)"),
        ("lrn_forward", {"size": 4}, "size 4"),
        ("lrn_backward", {"size": -1}, "size -1"),
        ("lrn_forward", {"k": 0.0}, "k above 0"),
        ("lrn_backward", {"alpha": float("nan")}, "alpha nan"),
        ("concat_forward", {"first": 4}, "2 channels from 4 on are not among 5"),
        ("concat_backward", {"first": -1}, "2 channels from -1 on are not among 5"),
        ("concat_forward", {"first": (1 << 63) - 1}, "are not among 5"),
        ("maxout_pool_forward", {"pieces": 65}, "65 pieces"),
        ("maxout_pool_forward", {"pieces": 1 << 62, "x": ROOM[..., :0]}, f"{1 << 62} pieces"),
        ("maxout_pool_backward", {"pieces": 3}, "10 channels"),
        ("maxout_pool_dropout_forward", {"pieces": 64, "x": ROOM[..., :0]}, "64 pieces"),
        ("maxout_pool_dropout_backward", {"pieces": 64}, "255 marks what is dropped"),
        ("maxout_pool_dropout_forward", {"pieces": 3}, "10 channels"),
        ("maxout_pool_dropout_forward", {"drop": 1.0}, "is not a probability"),
        ("maxout_pool_dropout_backward", {"drop": -0.5}, "is not a probability"),
        ("maxout_pool_dropout_forward", {"layer": 1 << 16}, "layer 65536"),
        (
            "maxout_pool_dropout_forward",
            {"seed": 1 << 64},
            "seed 18446744073709551616 is not a 64-bit number",
        ),
        ("variance", {"groups": 3}, "10 channels do not split into 3 groups"),
        ("variance", {"x": np.ones((0, 10), np.float32)}, "(0, 10) has no elements"),
        ("dropout_forward", {"drop": 1.0}, "is not a probability"),
        ("dropout_forward", {"layer": 1 << 16}, "layer 65536"),
        ("dropout_forward", {"seed": -1}, "seed -1 is not a 64-bit number"),
        ("gather", {"seed": 1 << 64}, "seed 18446744073709551616 is not a 64-bit number"),
        ("batchnorm_inference", {"weight": np.zeros(1, np.float32)}, "no running statistics yet"),
        ("softmax_loss_forward", {"labels": np.full(7, 5, np.int32)}, "label 5"),
        ("hinge_loss_forward", {"labels": np.full(7, 5, np.int32)}, "label 5"),
        ("softmax_loss_backward", {"labels": np.full(7, 5, np.int32)}, "label 5"),
        ("hinge_loss_backward", {"labels": np.full(7, 5, np.int32)}, "label 5"),
        ("squared_hinge_loss_forward", {"labels": np.full(7, 5, np.int32)}, "label 5"),
        ("softmax_loss_forward", {"smoothing": 1.0}, "smoothing 1.0 is not a share in [0, 1)"),
        ("softmax_loss_backward", {"smoothing": -0.5}, "smoothing -0.5 is not a share in [0, 1)"),
        ("softmax_loss_forward", {"weights": np.ones(4, np.float32)}, "(4,)"),
        ("softmax_loss_backward", {"weights": np.ones((5, 1), np.float32)}, "(5, 1)"),
        ("squared_error_forward", {"values": np.ones((7, 4), np.float32)}, "(7, 4)"),
        ("absolute_error_backward", {"dscores": np.ones((7, 4), np.float32)}, "(7, 4)"),
        (
            "binary_cross_entropy_forward",
            {name: np.ones((7, 0), np.float32) for name in ("scores", "values")},
            "scores (7, 0) have no elements of an image",
        ),
        ("gather", {"move": 4}, "move 4"),
        ("gather", {"pad": (1 << 63) - 1, "mean_image": ROOM[0, :7, :9]}, "(7, 9, 5)"),
        ("gather", {"clock": clock(step=9)}, "step 9 has no row"),
        ("gather", {"order": np.full((3, 7), 11, np.int32)}, "image 11"),
        ("sgd_step", {"segments": np.array([[0, 2, 1, 1.0]])}, "in an arena of 1"),
        ("nesterov_step", {"segments": np.array([[0, 2, 1, 1.0]])}, "in an arena of 1"),
        ("adam_step", {"segments": np.array([[0, 2, 1, 1.0]])}, "in an arena of 1"),
        ("adam_step", {"begun": -1}, "begun -1 is no number of steps in [0, 2^31)"),
        ("adam_step", {"every": 0}, "every 0 is no number of steps in [1, 2^31)"),
        ("average", {"every": 1 << 31}, "every 2147483648 is no number of steps"),
        ("average", {"mean": np.zeros(2, np.float32)}, "(2,)"),
        ("accumulate", {"total": np.zeros(2, np.float32)}, "(2,)"),
        ("advance", {"rates": np.zeros(0)}, "the table of rates is empty"),
        ("advance", {"clock": clock(step=3, first=6)}, "step 4 lies before the table's first, 6"),
    ],
)
def test_wrong_values_are_named(ops, name, changed, words):
    values = arguments(name, 0, np.float32) | changed
    before = {
        key: value.tobytes() for key, value in values.items() if isinstance(value, np.ndarray)
    }
    with pytest.raises(ValueError) as caught:
        getattr(ops, name)(**values)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert before == {key: values[key].tobytes() for key in before}


@needs_cpu
def test_a_read_only_result_is_refused():
    y = np.zeros(3, np.float32)
    y.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        DEVICE.add(np.ones(3, np.float32), np.ones(3, np.float32), y)


# -- loading and building -------------------------------------------------------------------------


def python(code, **environment):
    """What a new Python prints that runs `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("threads", [0, -1, 1025, 10**6])
def test_threads_have_a_range(threads):
    for name in ("auto", "cpu", "numpy"):
        with pytest.raises(DeviceError, match=f"threads {threads} is not .* in 1 .. 1024"):
            ops_for(name, threads=threads)


FORKS = """
import os, signal, sys
import numpy as np
from kernels import ops_for
ops = ops_for("cpu", threads=2)
x, W, b = np.ones((4, 16, 16, 32), np.float32), np.ones((32, 3, 3, 32), np.float32), np.ones(32)
y, z = np.empty_like(x), np.empty_like(x)
def work():
    ops.conv_forward(x, W, b.astype(np.float32), y, 1, 1, 1)
    ops.add(x, y, z)
    return z.tobytes()
want = work()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(work() != want)
print(os.waitpid(child, 0)[1])
"""


@needs_cpu
def test_a_forked_process_computes():
    assert python(FORKS) == ["0"]


@needs_cpu
def test_loading_leaves_no_trace():
    """Neither a variable for later programs nor oneDNN's symbols for other libraries."""
    code = (
        "import ctypes, os, kernels.cpu\n"
        "print(os.environ.get('GOMP_SPINCOUNT'), hasattr(ctypes.CDLL(None), 'dnnl_version'))"
    )
    assert python(code) == ["None", "False"]
    assert python(code, GOMP_SPINCOUNT="7") == ["7", "False"]


def test_a_missing_extension_is_named_with_its_remedy():
    code = (
        "import importlib.machinery as m, kernels\n"
        "find = m.PathFinder.find_spec\n"
        "m.PathFinder.find_spec = lambda name, *more: (\n"
        "    None if name.endswith('_native') else find(name, *more))\n"
        "try:\n    kernels.ops_for('cpu')\nexcept kernels.DeviceError as e:\n    print(e)"
    )
    assert " ".join(python(code)) == (
        "device cpu: the native extension is not built for this Python (no C++ compiler when "
        "it was installed); install g++, then lsuv-engine again; pip -v says why"
    )


@needs_cpu
@pytest.mark.parametrize(
    "flags, wanted",
    [
        ("fma avx2 bmi2 avx512f avx512bw avx512cd avx512dq avx512vl", "x86_64_v4"),
        ("fma avx2 bmi2 avx512f", "x86_64_v3"),
        ("avx2 bmi2", None),
    ],
)
def test_of_a_wheel_for_several_processors_the_best_is_loaded_that_runs(tmp_path, flags, wanted):
    from kernels.cpu import NativeError, _name

    for name in ("x86_64_v3", "x86_64_v4"):
        (tmp_path / name).mkdir()
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: sse {flags}\n")
    if wanted:
        found = _name([str(tmp_path)], tmp_path / "cpuinfo")
        assert found == f"kernels.cpu.{wanted}._native"
    else:
        with pytest.raises(NativeError, match="this processor has no fma, which the installed"):
            _name([str(tmp_path)], tmp_path / "cpuinfo")


@pytest.mark.parametrize(
    "libc, wish, command",
    [
        ("glibc", "1", "egg_info"),
        ("glibc", "1", "bdist_wheel"),
        ("glibc", "0", "egg_info"),
        ("", "1", "egg_info"),
        ("", "1", "bdist_wheel"),
    ],
)
def test_onednn_is_required_only_where_its_wheel_fits(monkeypatch, libc, wish, command):
    root, given = pathlib.Path(__file__).resolve().parents[2], {}
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["setup.py", command])
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: (libc, "2"))
    monkeypatch.setattr("setuptools.setup", given.update)
    monkeypatch.setenv("LSUV_ONEDNN", wish)
    monkeypatch.delenv("LSUV_SANITIZE", raising=False)
    runpy.run_path("setup.py")
    fits, asked = (libc, wish) == ("glibc", "1"), command == "egg_info"
    runs = [name.split("==")[0] for name in given["install_requires"] if "onednn" in name]
    builds = [name.split("==")[0] for name in given["setup_requires"] if "onednn" in name]
    assert runs == (["onednn-cpu-gomp"] if fits else [])
    assert builds == (["onednn-devel-cpu-gomp", "onednn-cpu-gomp"] if fits and asked else [])
    assert not (asked and given["ext_modules"])


@pytest.mark.skipif("cpu" not in [ops.name for ops in DEVICES], reason="only cpu chooses")
def test_plans_say_how_each_convolution_was_computed():
    from kernels.cpu import _native

    ops = ops_for("cpu")
    assert ops.plans() == {}
    b = np.zeros(32, np.float32)
    for size, stride in ((3, 1), (3, 2)):
        x, W = np.ones((64, 32, 32, 32), np.float32), np.ones((32, size, size, 32), np.float32)
        y = np.empty((64, *[(32 - 1) // stride + 1] * 2, 32), np.float32)
        ops.conv_forward(x, W, b, y, stride, 1, 1)
    (first, how), (second, other) = sorted(ops.plans().items())
    assert first.startswith("conv_forward 64x32x32x32 -> 32, 3x3, stride 1, pad 1, groups 1, f32, ")
    others = "oneDNN " if _native.ONEDNN else "direct"
    assert how == "winograd" or (how.startswith(others) and _native.INSTRUCTIONS != "AVX-512")
    assert "stride 2" in second and other.startswith(others)
