"""What pytest itself shares: fixtures, and the option --full. All else stands in tests/helpers.

`ops` runs a test once for every device that works here; numpy always does. `double` puts the double
of a GPU (kernels/emulated/double) on Python's path; `cuda_ops` is device cuda on it.

`python -m pytest --full` runs the full-length versions of the tests that are cut short otherwise
(tests/helpers/length.py).

Read next: tests/helpers/devices.py.
"""

import functools
import sys
import tempfile
from pathlib import Path

import pytest

from helpers import length
from helpers.devices import DEVICES, MISSING
from helpers.programs import DOUBLE
from kernels import cuda


@pytest.fixture(scope="session", autouse=True)
def cache_of_our_own():
    """No test, and no program that a test starts, writes into the user's cache folder."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", folder)
        yield folder


def pytest_addoption(parser):
    parser.addoption(
        "--full",
        action="store_true",
        help="full-length tests: 10^5 hostile inputs, 440 kills; half an hour instead of minutes",
    )


def pytest_configure(config):
    length.full = config.getoption("full")
    # In the process of the tests there is either the double or a real GPU, which -m gpu asks for.
    if config.getoption("markexpr") != "gpu":
        cuda.missing = functools.wraps(cuda.missing.__wrapped__)(lambda: "tests have the double")


def pytest_report_header(config):
    lines = [f"device {ops.name}: {ops.description}" for ops in DEVICES] + MISSING
    if config.getoption("markexpr") == "gpu":
        lines.append(f"device cuda: {cuda.missing() or 'there is a GPU'}")
    return lines


@pytest.fixture(params=DEVICES, ids=[ops.name for ops in DEVICES])
def ops(request):
    """Every device of this machine in turn."""
    return request.param


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
