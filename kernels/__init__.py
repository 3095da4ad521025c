"""The only room that knows hardware: `ops_for` turns the name of a device into its operations.

    ops = kernels.ops_for("auto")       # the fastest device that works here; ops.why says why
    ops = kernels.ops_for("cpu", threads=2)

Devices: cuda (our own CUDA kernels, and cuDNN's convolutions), cpu (our own OpenMP kernels, and
oneDNN's for some convolutions where its wheel fits), numpy (the reference; runs wherever Python
does), emulated (the CUDA kernels without a GPU, thread by thread on a CPU; auto never takes it).

Read next: kernels/reference.py, the definition of every operation.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from kernels.errors import DeviceError

if TYPE_CHECKING:
    from kernels.reference import NumpyOps

__all__ = ["DEVICES", "MOST_THREADS", "DeviceError", "ops_for"]
DEVICES = ("auto", "cuda", "cpu", "numpy", "emulated")
MOST_THREADS = 1024  # OpenMP ends the process, without an error, at far more


def ops_for(
    name: str = "auto",
    threads: int | None = None,
    precision: str = "fp32",
    deterministic: bool = True,
    allow_fp32: bool = False,
) -> NumpyOps:
    """The operations of device `name`, with `threads` CPU threads (None: the count stands, which is
    OpenMP's own until one is asked for). It must be able to compute in `precision`.

    deterministic: device cuda takes only plans that give the same bits in every run. allow_fp32:
    fp32 will do where a device has no tf32.

    `ops.why` is one line for the user: which device this is, and why. Nothing of a device is
    imported before it is asked for. Raises DeviceError.
    """
    if name not in DEVICES:
        near = difflib.get_close_matches(str(name), DEVICES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DeviceError(f"device {name!r} is not one of {', '.join(DEVICES)}{hint}")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise DeviceError(
            f"threads {threads} is not a number of CPU threads in 1 .. {MOST_THREADS}"
        )
    ops = _ops_for(name, threads, precision, deterministic)
    fits = precision in ops.precisions or (allow_fp32 and precision == "tf32")
    if not fits:
        from kernels.reference import NumpyOps

        elsewhere = ", or device numpy" if precision in NumpyOps.precisions else ""
        raise DeviceError(
            f"precision {precision}: device {ops.name} computes in "
            f"{', '.join(ops.precisions)} ({ops.description}); use fp32{elsewhere}"
        )
    return ops


def _ops_for(name: str, threads: int | None, precision: str, deterministic: bool) -> NumpyOps:
    if name == "numpy":
        return _numpy_ops(threads, "device numpy: asked for")
    if name == "emulated":
        return _emulated_ops(threads, precision, deterministic)
    without = ""  # why auto does not take the GPU
    if name in ("cuda", "auto"):
        from kernels import cuda

        lack = cuda.missing()
        if name == "cuda":
            if lack:
                raise DeviceError(f"device cuda: {lack}")
            if threads is not None:
                raise DeviceError(
                    f"threads {threads}: device cuda has no CPU threads; leave them "
                    "out, or use device cpu"
                )
        if lack is None and threads is None:
            from kernels.cuda.ops import CudaOps

            try:
                ops: NumpyOps = CudaOps(precision, deterministic)
            except Exception as error:  # of any library: the GPU may be full or another's alone
                lack = f"the GPU can't be used ({' '.join(str(error).split())[:200]})"
                if name == "cuda":
                    raise DeviceError(f"device cuda: {lack}; look at nvidia-smi") from error
            else:
                ops.why = "device cuda: " + ("asked for" if name == "cuda" else "there is a GPU")
                return ops
        if lack is None:
            without = "CPU threads were asked for; "
        elif cuda.has_driver():
            without = f"there is a GPU driver, but for device cuda {lack}; "
    try:
        from kernels.cpu.ops import CpuOps
    except ImportError as error:
        if name == "cpu":
            remedy = getattr(error, "remedy", "use numpy")
            raise DeviceError(f"device cpu: {error}; {remedy}") from error
        ops = _numpy_ops(None, f"device numpy: {without}{error}")
        if threads is not None:
            ops.why += "; threads are then chosen by NumPy's BLAS"
        return ops
    ops = CpuOps(threads=threads)
    ops.why = "device cpu: " + (
        "asked for" if name == "cpu" else f"{without}the native extension loads"
    )
    return ops


def _numpy_ops(threads: int | None, why: str) -> NumpyOps:
    if threads is not None:
        raise DeviceError(
            f"threads {threads}: device numpy takes them from NumPy's BLAS; "
            "set OPENBLAS_NUM_THREADS instead"
        )
    from kernels.reference import NumpyOps

    ops = NumpyOps()
    ops.why = why
    return ops


def _emulated_ops(threads: int | None, precision: str, deterministic: bool) -> NumpyOps:
    from kernels import emulated

    if lack := emulated.missing():
        raise DeviceError(f"device emulated: {lack}")
    if threads is not None:
        raise DeviceError(
            f"threads {threads}: device emulated runs on one; leave them out, or use device cpu"
        )
    emulated.double()
    from kernels.emulated.ops import EmulatedOps

    ops = EmulatedOps(precision, deterministic)
    ops.why = "device emulated: asked for"
    return ops
