"""The only room that knows hardware: `ops_for` turns the name of a device into its operations.

    ops = kernels.ops_for("auto")       # the fastest device that works here; ops.why says why
    ops = kernels.ops_for("cpu", threads=2)

Devices: cpu (our own OpenMP kernels, and oneDNN's for what those leave over), numpy (the reference;
runs wherever Python does).

Read next: kernels/reference.py, the definition of every operation.
"""

from __future__ import annotations

import difflib

DEVICES = ("auto", "cuda", "cpu", "numpy")
MOST_THREADS = 1024                 # OpenMP ends the process, without an error, at far more


class DeviceError(ValueError):
    """A device that doesn't exist or can't be used on this machine; one line with the remedy."""


def ops_for(name: str = "auto", threads: int | None = None, precision: str = "fp32"):
    """The operations of device `name`, with `threads` CPU threads (None: the count stands, which is
    OpenMP's own until one is asked for). It must be able to compute in `precision`.

    `ops.why` is one line for the user: which device this is, and why. Nothing of a device is
    imported before it is asked for. Raises DeviceError.
    """
    if name not in DEVICES:
        near = difflib.get_close_matches(str(name), DEVICES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DeviceError(f"device {name!r} is not one of {', '.join(DEVICES)}{hint}")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise DeviceError(f"threads {threads} is not a number of CPU threads in "
                          f"1 .. {MOST_THREADS}")
    ops = _ops_for(name, threads)
    if precision not in ops.precisions:
        from kernels.reference import NumpyOps

        elsewhere = ", or device numpy" if precision in NumpyOps.precisions else ""
        raise DeviceError(f"precision {precision}: device {ops.name} computes in "
                          f"{', '.join(ops.precisions)} ({ops.description}); use fp32{elsewhere}")
    return ops


def _ops_for(name: str, threads: int | None):
    if name == "cuda":
        raise DeviceError("device cuda: this build has no CUDA device; use cpu, numpy or auto")
    if name == "numpy":
        return _numpy_ops(threads, "device numpy: asked for")
    try:
        from kernels.cpu.ops import CpuOps
    except ImportError as error:
        if name == "cpu":
            remedy = getattr(error, "remedy", "use numpy")
            raise DeviceError(f"device cpu: {error}; {remedy}") from error
        ops = _numpy_ops(None, f"device numpy: {error}")
        if threads is not None:
            ops.why += "; threads are then chosen by NumPy's BLAS"
        return ops
    ops = CpuOps(threads=threads)
    ops.why = "device cpu: asked for" if name == "cpu" else "device cpu: the native extension loads"
    return ops


def _numpy_ops(threads: int | None, why: str):
    if threads is not None:
        raise DeviceError(
            f"threads {threads}: device numpy takes them from NumPy's BLAS; "
            "set OPENBLAS_NUM_THREADS instead"
        )
    from kernels.reference import NumpyOps

    ops = NumpyOps()
    ops.why = why
    return ops
