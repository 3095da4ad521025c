"""What the tests share: the devices of this machine, and one table of tolerances.

`ops` runs a test once for every device that works here; numpy always does. A float32 device is
compared with the reference in float64 by `assert_close(op, got, want)`, with the tolerance that
TOLERANCE gives that operation, for inputs of order one. In bfloat16 both round a result of almost
the same float32 value once, so that they may be a unit apart: up to 2^-7 of it.

`double` puts the double of a GPU (tests/cuda/double) on Python's path; `cuda_ops` is device cuda on
it.

`python -m pytest --full` runs the full-length versions of the tests that are cut short otherwise:
`often(short, full)` is how many times they try.
"""

import functools
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from ml_dtypes import bfloat16

from kernels import DeviceError, cuda, ops_for

# (rtol, atol). Sums over many terms are allowed a few units of float32 rounding a term of the sum;
# what only selects, copies or compares is exact.
TOLERANCE = {
    "conv_forward": (1e-4, 1e-4),
    "conv_backward_data": (1e-4, 1e-4),
    "conv_backward_filter": (1e-4, 5e-4),
    "linear_forward": (1e-4, 1e-4),
    "linear_backward_data": (1e-4, 1e-4),
    "linear_backward_filter": (1e-4, 5e-4),
    "maxout_forward": (0, 0),
    "maxout_backward": (0, 0),
    "maxpool_forward": (0, 0),
    "maxpool_backward": (1e-6, 1e-6),
    "avgpool_forward": (1e-5, 1e-6),
    "avgpool_backward": (1e-5, 1e-6),
    "lrn_forward": (2e-6, 1e-6),
    "lrn_backward": (1e-5, 1e-5),
    "concat_forward": (0, 0),
    "concat_backward": (0, 0),
    "maxout_pool_forward": (0, 0),
    "maxout_pool_backward": (1e-6, 1e-6),
    "maxout_pool_dropout_forward": (1e-6, 0),
    "maxout_pool_dropout_backward": (1e-6, 1e-6),
    "leaky_forward": (1e-6, 1e-7),
    "leaky_backward": (1e-6, 1e-7),
    "tanh_forward": (2e-6, 1e-6),
    "tanh_backward": (1e-5, 2e-6),
    "sigmoid_forward": (2e-6, 1e-6),
    "sigmoid_backward": (1e-5, 2e-6),
    "dropout_forward": (1e-6, 0),
    "dropout_backward": (1e-6, 0),
    "add": (1e-6, 1e-6),
    "batchnorm_forward": (1e-5, 1e-5),
    "batchnorm_backward": (1e-4, 2e-5),
    "batchnorm_running": (1e-5, 1e-6),
    "batchnorm_inference": (1e-5, 1e-5),
    "softmax": (1e-5, 1e-6),
    "softmax_loss_forward": (1e-5, 1e-6),
    "softmax_loss_backward": (1e-5, 1e-6),
    "hinge_loss_forward": (1e-5, 1e-6),
    "hinge_loss_backward": (1e-6, 0),
    "variance": (1e-6, 1e-12),
    "orthonormal": (0, 1e-6),
    "gather": (1e-5, 1e-5),
    "clip": (1e-6, 0),
    "sgd_step": (1e-5, 1e-6),
    "rmsprop_step": (1e-5, 1e-6),
    "advance": (0, 0),
    "latch": (0, 0),
}


def _devices():
    """The operations of each device that works here, and the reason for each that doesn't."""
    found, missing = [], []
    for name in ("numpy", "cpu"):
        try:
            found.append(ops_for(name))
        except DeviceError as error:
            missing.append(str(error))
    return found, missing


DEVICES, MISSING = _devices()


@pytest.fixture(scope="session", autouse=True)
def cache_of_our_own():
    """No test, and no program that a test starts, writes into the user's cache folder."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", folder)
        yield folder


_full = False


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="full-length tests: 10^5 hostile inputs, "
                     "440 kills; half an hour instead of minutes")


def pytest_configure(config):
    global _full
    _full = config.getoption("full")
    # In the process of the tests there is either the double or a real GPU, which -m gpu asks for.
    if config.getoption("markexpr") != "gpu":
        cuda.missing = functools.wraps(cuda.missing.__wrapped__)(lambda: "tests have the double")


def often(short: int, full: int) -> int:
    """How many times a test tries: `full` with --full, else `short`."""
    return full if _full else short


def pytest_report_header(config):
    lines = [f"device {ops.name}: {ops.description}" for ops in DEVICES] + MISSING
    if config.getoption("markexpr") == "gpu":
        lines.append(f"device cuda: {cuda.missing() or 'there is a GPU'}")
    return lines


@pytest.fixture(params=DEVICES, ids=[ops.name for ops in DEVICES])
def ops(request):
    """Every device of this machine in turn."""
    return request.param


def assert_close(op: str, got, want) -> None:
    """`got` equals `want` within the tolerance of operation `op`."""
    rtol, atol = TOLERANCE[op]
    if got.dtype == bfloat16:
        got, want = got.astype(np.float32), want.astype(np.float32)
        rtol = 2.0 ** -7 if rtol or atol else 0
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol, err_msg=op)


DOUBLE = Path(__file__).parent / "cuda" / "double"


@functools.cache
def _site():
    """A folder that makes a Python which finds it on its path take the double's word for a driver.
    """
    folder = tempfile.TemporaryDirectory()
    Path(folder.name, "sitecustomize.py").write_text(
        "import kernels.cuda\nkernels.cuda.has_driver = lambda: True\n")
    return folder


def double_environment() -> dict[str, str]:
    """The environment of a program of its own in which the doubles stand for cupy and cudnn."""
    path = os.pathsep.join(map(str, (_site().name, DOUBLE, Path(__file__).parent.parent)))
    return {**os.environ, "PYTHONPATH": path}


@pytest.fixture(scope="session")
def double():
    """From now on `import cupy, cudnn` give the doubles -> the memory and queue of cupy's."""
    if "cupy" not in sys.modules:
        sys.path.insert(0, str(DOUBLE))
    import cudnn  # noqa: F401
    import cupy

    assert Path(cupy.__file__).is_relative_to(DOUBLE), "the real CuPy has been imported"
    return cupy._double


@pytest.fixture(scope="session")
def cuda_ops(double):
    """Device cuda on the double."""
    from kernels.cuda.ops import CudaOps

    return CudaOps()
