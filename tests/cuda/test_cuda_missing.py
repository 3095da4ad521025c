"""What the program says where something that device cuda needs is not there.

Read next: kernels/cuda/__init__.py.
"""

import importlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kernels import DeviceError, cuda, ops_for

INSTALL = "pip install -e '.[cuda13]'"


@pytest.fixture
def machine(double, monkeypatch):
    """A function that makes this a machine without the modules named, or without driver or GPU."""
    import cupy

    find, load = cuda.find_spec, importlib.import_module
    monkeypatch.setattr(cuda, "missing", cuda.missing.__wrapped__)

    def make(*absent, driver=True, says=None, broken=None, capability=(9, 0)):
        def count():
            if says is None:
                return 1
            raise cupy.cuda.runtime.CUDARuntimeError(says)

        def import_module(name):
            if name == broken:
                raise ImportError(f"{name}: libcudnn.so.9\nnot found")
            return load(name)

        facts = {
            "name": b"Old" if capability < (8, 0) else b"Double of a GPU",
            "major": capability[0],
            "minor": capability[1],
        }
        monkeypatch.setattr(cuda, "find_spec", lambda name: None if name in absent else find(name))
        monkeypatch.setattr(cuda, "has_driver", lambda: driver)
        monkeypatch.setattr(cuda.importlib, "import_module", import_module)
        monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", count)
        monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda device: facts)

    return make


@pytest.mark.parametrize(
    "absent, more, words",
    [
        (
            ("cupy", "cudnn"),
            {"driver": False},
            [
                "the NVIDIA driver (libcuda.so.1), CuPy, the cuDNN frontend",
                INSTALL,
                "a driver comes",
            ],
        ),
        (("cupy",), {}, ["missing: CuPy;", INSTALL]),
        (("cudnn",), {}, ["missing: the cuDNN frontend;", INSTALL]),
        ((), {"driver": False}, ["missing: the NVIDIA driver (libcuda.so.1); a driver comes"]),
        (
            (),
            {"says": "cudaErrorInsufficientDriver: CUDA driver\nversion"},
            [
                "the driver is too old for this CuPy (cudaErrorInsufficientDriver: CUDA driver ver",
                "'.[cuda12]'",
            ],
        ),
        (
            (),
            {"says": "cudaErrorNoDevice: no CUDA-capable device"},
            ["the driver gives no GPU (cudaErrorNoDevice", "CUDA_VISIBLE_DEVICES"],
        ),
        (
            (),
            {"capability": (7, 0)},
            ["the GPU, Old, is of compute capability 7.0, and 7.5 is the oldest; use device cpu"],
        ),
        (
            (),
            {"broken": "cudnn"},
            ["cuDNN or its frontend does not load (cudnn: libcudnn.so.9 not", INSTALL],
        ),
        ((), {"broken": "cupy"}, ["CuPy does not load (cupy: libcudnn", "CUPY_CACHE_DIR"]),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(machine, absent, more, words):
    machine(*absent, **more)
    with pytest.raises(DeviceError) as caught:
        ops_for("cuda")
    said = str(caught.value)
    assert said.startswith("device cuda: ") and "\n" not in said
    assert all(word in said for word in words), said


def test_auto_takes_the_gpu_where_all_is_there(machine):
    machine()
    ops = ops_for("auto", precision="bf16")
    assert (ops.name, ops.why) == ("cuda", "device cuda: there is a GPU")
    assert "Double of a GPU, compute capability 9.0" in ops.description
    assert ops_for("cuda").why == "device cuda: asked for"


def test_auto_says_why_it_does_not(machine):
    machine("cupy")
    assert "there is a GPU driver, but for device cuda missing: CuPy" in ops_for("auto").why
    machine("cupy", driver=False)
    assert "GPU" not in ops_for("auto").why


def test_cpu_threads_are_not_for_a_gpu(machine):
    machine()
    with pytest.raises(DeviceError, match="threads 2: device cuda has no CPU threads"):
        ops_for("cuda", threads=2)
    assert "CPU threads were asked for" in ops_for("auto", threads=2).why


def test_precisions_follow_the_gpu(machine):
    machine()
    assert list(ops_for("cuda").precisions) == ["fp32", "bf16"]
    assert list(ops_for("cuda", precision="tf32").precisions) == ["tf32", "bf16"]
    machine(capability=(7, 5))
    for precision in ("bf16", "tf32"):
        with pytest.raises(
            DeviceError,
            match=f"precision {precision}: device cuda computes in "
            "fp32 .Old, compute capability 7.5",
        ):
            ops_for("cuda", precision=precision)


def test_a_gpu_that_fails_is_named_and_auto_goes_on(machine, monkeypatch):
    import cudnn

    def full():
        raise RuntimeError("CUDNN_STATUS_ALLOC_FAILED\nno memory")

    machine()
    monkeypatch.setattr(cudnn, "create_handle", full)
    with pytest.raises(
        DeviceError,
        match="device cuda: the GPU can't be used .CUDNN_STATUS_ALLOC_"
        "FAILED no memory.; look at nvidia-smi",
    ):
        ops_for("cuda")
    ops = ops_for("auto")
    assert ops.name != "cuda" and "the GPU can't be used (CUDNN_STATUS_ALLOC" in ops.why


def test_all_work_is_on_one_stream(machine, double):
    """Of two objects, and from a thread that has never used a stream."""
    machine()
    one, two = ops_for("cuda"), ops_for("cuda")
    assert one.stream is two.stream
    double.current.clear()

    def work():
        x = one.asarray(np.ones((4, 2), np.float32))
        one.add(x, x, x)
        return threading.get_ident(), two.tohost(x)

    with ThreadPoolExecutor(1) as pool:
        number, result = pool.submit(work).result()
    assert double.current == {number: one.stream.ptr} and (result == 2).all()


def test_the_process_keeps_its_allocator(machine, monkeypatch):
    """Memory comes from the allocator that the process has set, whoever set it."""
    import cupy

    def refuse(allocator):
        raise AssertionError(f"device cuda sets the allocator to {allocator}")

    machine()
    monkeypatch.setattr(cupy.cuda, "set_allocator", refuse)
    ops_for("cuda").empty((4,))
