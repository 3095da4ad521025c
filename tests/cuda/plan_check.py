"""A program: what plans the real cuDNN has for the graphs of kernels/cuda/conv.py, without a GPU.

    python tests/cuda/plan_check.py build/libcuda.so.1 < problems.json > plans.json

In: [[capability, Problem's fields, whether to build a plan that is compiled], ...]. Out, for each:
how many plans were built and how many were skipped because they are compiled (0.3 s each), their
largest and smallest workspace, and the first one's name; or the error. cuDNN is told what it must
know of a GPU (GPUS); heuristics, the checks of support and the building of plans are its own.
Exit code 77 and a line: something is not installed.

Read next: test_plans.py, which runs it.
"""

import ctypes
import functools
import json
import sys
from importlib.util import find_spec

A100 = {  # data sheet of the A100 80 GB and table "technical specifications" of the CUDA guide
    "deviceName": "NVIDIA A100-SXM4-80GB",
    "multiProcessorCount": 108,
    "totalGlobalMem": 80 << 30,
    "maxSharedMemoryPerBlockOptin": 163 << 10,
    "l2CacheSize": 40 << 20,
    "memoryBusWidth": 5120,
    "smClockRateKHz": 1_410_000,
    "memClockRateKHz": 1_593_000,
    "maxThreadsPerSM": 2048,
    "maxCtasPerSM": 32,
    "cudaDeviceId": 0,
    "driverVer": 13000,
    "warpSize": 32,
    "pciDeviceId": 0,
    "maxGridSize": [2**31 - 1, 65535, 65535],
    "maxBlockSize": [1024, 1024, 64],
    "maxThreadsPerBlock": 1024,
    "regsPerBlock": 65536,
    "maxRegistersPerSM": 65536,
    "maxSharedMemoryPerBlock": 48 << 10,
    "reservedSharedMemoryPerBlock": 1 << 10,
    "isTccDriver": 0,
    "supportCoopLaunch": 1,
}
GPUS = {  # by compute capability: what differs from an A100
    75: {
        "deviceName": "Tesla T4",
        "multiProcessorCount": 40,
        "totalGlobalMem": 16 << 30,
        "maxSharedMemoryPerBlockOptin": 64 << 10,
        "l2CacheSize": 4 << 20,
        "memoryBusWidth": 256,
        "smClockRateKHz": 1_590_000,
        "memClockRateKHz": 5_001_000,
        "maxThreadsPerSM": 1024,
        "maxCtasPerSM": 16,
        "reservedSharedMemoryPerBlock": 0,
    },
    80: {},
    90: {
        "deviceName": "NVIDIA H100 80GB HBM3",
        "multiProcessorCount": 132,
        "maxSharedMemoryPerBlockOptin": 227 << 10,
        "l2CacheSize": 50 << 20,
        "smClockRateKHz": 1_980_000,
        "memClockRateKHz": 2_619_000,
    },
    100: {
        "deviceName": "NVIDIA B200",
        "multiProcessorCount": 148,
        "totalGlobalMem": 180 << 30,
        "maxSharedMemoryPerBlockOptin": 227 << 10,
        "l2CacheSize": 126 << 20,
        "memoryBusWidth": 8192,
        "smClockRateKHz": 1_965_000,
        "memClockRateKHz": 3_996_000,
    },
}


@functools.cache
def properties(capability: int):
    """The GPU as cuDNN takes it, `device_property` of a graph."""
    import cudnn

    facts = A100 | GPUS[capability] | {"deviceVer": 10 * capability}
    return cudnn.create_device_properties(json.dumps(facts))


def built(capability: int, problem, compile_plans: bool) -> dict:
    """What becomes of the problem's candidates: all are built, of those that are compiled only one,
    and only where there is no other."""
    import cudnn

    from kernels.cuda.conv import REFUSED, graph

    try:
        made = graph(problem, device_property=properties(capability), sm_version=10 * capability)
    except REFUSED as error:
        return {"error": " ".join(str(error).split())}
    sizes, name, refusal, skipped = [], "", "", 0
    for index in range(made.get_execution_plan_count()):
        notes = made.get_behavior_notes_for_plan_at_index(index)
        if cudnn.behavior_note.RUNTIME_COMPILATION in notes and (sizes or not compile_plans):
            skipped += 1
            continue
        try:
            made.build_plan_at_index(index)
        except REFUSED as error:  # one that is excluded, most often
            refusal = " ".join(str(error).split())
            continue
        name = name or made.get_plan_name_at_index(index)
        sizes.append(made.get_workspace_size_plan_at_index(index))
    return {
        "built": len(sizes),
        "skipped": skipped,
        "name": name,
        "refusal": refusal,
        "largest": max(sizes, default=0),
        "smallest": min(sizes, default=0),
    }


def wrong_problem(fields):
    """A convolution that is said to have a row of results more than it has."""
    from kernels.cuda.conv import Problem, Y

    class Wrong(Problem):
        @property
        def sizes(self):
            N, K, Ho, Wo = super().sizes[Y]
            return super().sizes | {Y: (N, K, Ho + 1, Wo)}

    return Wrong(*fields)


def main(driver: str) -> None:
    absent = [name for name in ("cudnn", "cupy", "cuda.pathfinder") if not _installed(name)]
    if absent:
        print(f"not installed: {', '.join(absent)}; pip install -e '.[cuda-check]'")
        sys.exit(77)
    ctypes.CDLL(driver, ctypes.RTLD_GLOBAL)  # before anything looks for the real one
    from cuda.pathfinder import load_nvidia_dynamic_lib

    for library in ("cudart", "cublasLt", "nvrtc"):
        load_nvidia_dynamic_lib(library)
    from kernels.cuda import conv

    found = []
    for capability, fields, compile_plans in json.load(sys.stdin):
        wrong = fields[0].startswith("wrong ")
        fields[0] = fields[0].removeprefix("wrong ")
        problem = wrong_problem(fields) if wrong else conv.Problem(*fields)
        found.append(built(capability, problem, compile_plans))
    import cudnn

    json.dump(
        {
            "cudnn": cudnn.backend_version_string(),
            "frontend": cudnn.__version__,
            "limit": conv.LARGEST,
            "absent names": absent_names(),
            "plans": found,
        },
        sys.stdout,
    )


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of a package around it
        return False


def absent_names() -> list[str]:
    """What the test double of the frontend has, and the frontend has not."""
    import ast
    from pathlib import Path

    import cudnn

    source = (
        Path(__file__).parents[2] / "kernels" / "emulated" / "double" / "cudnn" / "__init__.py"
    ).read_text()
    tree = {node.name: node for node in ast.parse(source).body if hasattr(node, "name")}
    names = [
        f"{name}"
        for name in (
            "create_handle",
            "set_stream",
            "backend_version",
            "backend_version_string",
            "cudnnGraphNotSupportedError",
        )
    ]
    absent = [name for name in names if name not in tree or not hasattr(cudnn, name)]
    return absent + [
        f"pygraph.{node.name}"
        for node in tree["pygraph"].body
        if hasattr(node, "name")
        and not node.name.startswith("_")
        and not hasattr(cudnn.pygraph, node.name)
    ]


if __name__ == "__main__":
    main(sys.argv[1])
