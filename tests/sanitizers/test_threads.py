"""Python threads that work on nets of their own share what kernels keep from call to call: plans,
workspaces, a thread's own memory. Their bits are those of one thread after the other.

Meant for ThreadSanitizer, `python tests/sanitizers/run.py --thread`, which says in its docstring
what it can't see; here it also runs without.

Read next: kernels/cpu/native/buffer.h, whose lock this is about.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ml_dtypes import bfloat16

from kernels import DeviceError, ops_for

try:
    DEVICE = ops_for("cpu")
except DeviceError as error:
    pytest.skip(str(error), allow_module_level=True)
DTYPES = [np.float32, *[bfloat16] * ("bf16" in DEVICE.precisions)]


def work(ops, number):
    """Convolutions by Winograd and by oneDNN, the fully connected layer, an orthonormal matrix and
    a few kernels that hold Python's lock, of one's own shapes -> the bytes of all results."""
    rng, dtype = np.random.default_rng(number), DTYPES[number % len(DTYPES)]
    N, H, C, K = 3, 20 + number, 32 + number, 40 - number
    results = []

    def result(*shape, of=dtype):
        results.append(np.zeros(shape, of))
        return results[-1]

    for size in (3, 1):
        x, dy = (rng.standard_normal((N, H, 20, n)).astype(dtype) for n in (C, K))
        W, pad = rng.standard_normal((K, size, size, C)).astype(np.float32), size // 2
        ops.conv_forward(x, W, np.ones(K, np.float32), result(*dy.shape), 1, pad, 1)
        ops.conv_backward_data(dy, W, result(*x.shape), 1, pad, 1)
        ops.conv_backward_filter(x, dy, result(*W.shape), result(K), 1, pad, 1)
    x, dy = (rng.standard_normal((9, n)).astype(dtype) for n in (C, K))
    W = rng.standard_normal((K, C)).astype(np.float32)
    ops.linear_forward(x, W, np.ones(K, np.float32), result(*dy.shape))
    ops.linear_backward_data(dy, W, result(*x.shape))
    ops.linear_backward_filter(x, dy, result(*W.shape), result(K))
    ops.batchnorm_forward(
        x, result(*x.shape), result(C, of=np.float32), result(C, of=np.float32), 1e-5
    )
    ops.lrn_forward(x, result(*x.shape), 5, 1.0, 0.75, 1.0)
    results += [*ops.variance(x, 1), ops.orthonormal(40 + number, 30, (number, 1, 2))]
    return [array.tobytes() for array in results]


@pytest.mark.parametrize("shared", [True, False], ids=["one device", "a device each"])
def test_python_threads_agree_with_one_after_the_other(shared):
    numbers = range(4)
    with ThreadPoolExecutor(1) as pool:  # whose count of OpenMP threads nobody has changed
        want = list(pool.map(lambda number: work(DEVICE, number), numbers))
    with ThreadPoolExecutor(len(numbers)) as pool:
        each = {number: DEVICE if shared else ops_for("cpu") for number in numbers}
        runs = [(number, pool.submit(work, each[number], number)) for number in 4 * list(numbers)]
        assert all(future.result() == want[number] for number, future in runs)
