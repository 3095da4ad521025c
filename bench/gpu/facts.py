"""What a number was measured on, where that is a GPU: its name, size, clocks and software.

Read next: bench/gpu/sanitizer.py.
"""

import re
import shutil
import subprocess

# What only the driver's own program says. {our name: its name}
ASKED = {
    "driver": "driver_version",
    "sm_clock_mhz": "clocks.sm",
    "most_sm_clock_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
}


def facts(ops) -> dict:
    """Of the GPU of device cuda; None where a fact can't be had. Clocks as they are now."""
    import cupy
    from cupy.cuda import runtime

    def attribute(name: str) -> int:
        return runtime.deviceGetAttribute(getattr(runtime, f"cudaDevAttr{name}"), 0)

    free, total = runtime.memGetInfo()
    # Two transfers a clock.
    pins = 2e3 * attribute("MemoryClockRate") * attribute("GlobalMemoryBusWidth") / 8
    return {
        "name": ops.gpu,
        "capability": ".".join(map(str, ops.capability)),
        "multiprocessors": attribute("MultiProcessorCount"),
        "memory_gb": total / 1e9,
        "free_gb": free / 1e9,
        "l2_bytes": attribute("L2CacheSize"),
        "pins_gbs": pins / 1e9,
        "cuda_driver": _version(runtime.driverGetVersion()),
        "cuda_runtime": _version(runtime.runtimeGetVersion()),
        "cupy": cupy.__version__,
        "cudnn": ops.description.rpartition("cuDNN ")[2],
        **driver_facts(runtime.deviceGetPCIBusId(0)),
    }


def driver_facts(bus: str) -> dict:
    """What nvidia-smi says of the GPU at this address of the bus."""
    program = shutil.which("nvidia-smi")
    values = [None] * len(ASKED)
    if program:
        done = subprocess.run(
            [
                program,
                f"--id={bus}",
                f"--query-gpu={','.join(ASKED.values())}",
                "--format=csv,noheader,nounits",
            ],
            capture_output=True,
            text=True,
        )
        answers = [value.strip() for value in done.stdout.split(",")]
        if done.returncode == 0 and len(answers) == len(ASKED):
            values = [
                value if name == "driver" else _number(value)
                for name, value in zip(ASKED, answers, strict=True)
            ]
    return dict(zip(ASKED, values, strict=True))


def slug(name: str) -> str:
    """A GPU's name as part of a file's: "NVIDIA H100 80GB HBM3" -> "nvidia-h100-80gb-hbm3"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def lines(gpu: dict) -> list[str]:
    """The facts for the reader."""

    def known(name: str, unit: str) -> str:
        return "unknown" if gpu[name] is None else f"{gpu[name]:g} {unit}"

    return [
        f"{gpu['name']}, compute capability {gpu['capability']}, "
        f"{gpu['multiprocessors']} multiprocessors, {gpu['memory_gb']:.1f} GB "
        f"({gpu['free_gb']:.1f} free), L2 {gpu['l2_bytes'] / 1e6:.0f} MB",
        f"driver {gpu['driver'] or 'unknown'}, CUDA {gpu['cuda_runtime']} (driver's "
        f"{gpu['cuda_driver']}), CuPy {gpu['cupy']}, cuDNN {gpu['cudnn']}",
        f"clocks now: SM {known('sm_clock_mhz', 'MHz')} of at most "
        f"{known('most_sm_clock_mhz', 'MHz')}, memory {known('memory_clock_mhz', 'MHz')}; "
        f"power limit {known('power_limit_w', 'W')}, {known('temperature_c', 'degrees')}",
    ]


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]"
        return None
