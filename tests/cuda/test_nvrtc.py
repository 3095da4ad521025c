"""Every kernel as a GPU would get it: compiled by NVRTC for seven architectures, without a GPU.

No kernel spills registers or keeps anything in local memory, both of which would be memory traffic
that no file's floor counts; and where a kernel is bound by bandwidth, its loads and stores are 128
bits wide in the machine code. Needs the extra `cuda-check`.

Read next: test_plans.py, the same for cuDNN.
"""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from kernels.cuda.source import FILES, HERE, REALS, kernels, options, pasted, source

nvrtc = pytest.importorskip(
    "cuda.bindings.nvrtc", exc_type=ImportError, reason="no NVRTC: pip install -e '.[cuda-check]'"
)

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
# Registers of a thread with which three blocks still fit a multiprocessor's 65,536.
MOST_REGISTERS = 80
# Of kernels that need more: one of initialisation only, which sums eight channels in float64.
MORE_REGISTERS = {"variance_moments": 128}
# Bound by bandwidth: {kernel: (128-bit loads, 128-bit stores)} that its code must at least have.
WIDE = {
    "maxout_forward": (2, 1),
    "maxout_backward": (1, 2),
    "maxpool_forward": (4, 1),
    "maxpool_backward": (1, 1),
    "maxout_pool_forward": (8, 1),
    "maxout_pool_backward": (1, 4),
    "maxout_pool_dropout_forward": (8, 1),
    "maxout_pool_dropout_backward": (1, 4),
    "fractional_maxpool_forward": (4, 1),
    "fractional_maxpool_backward": (4, 1),
    "avgpool_forward": (1, 1),
    "avgpool_backward": (1, 1),
    "lrn_forward": (1, 1),
    "lrn_backward": (2, 1),
    "concat_forward": (1, 1),
    "concat_backward": (1, 1),
    "leaky_forward": (1, 1),
    "leaky_backward": (2, 1),
    "tanh_forward": (1, 1),
    "tanh_backward": (2, 1),
    "sigmoid_forward": (1, 1),
    "sigmoid_backward": (2, 1),
    "add": (2, 1),
    "highway_forward": (3, 3),
    "highway_backward": (4, 3),
    "dropout": (1, 1),
    "batchnorm_moments": (4, 0),
    "batchnorm_forward": (1, 1),
    "batchnorm_backward": (2, 1),
    "batchnorm_inference": (1, 1),
    "scale_forward": (1, 1),
    "scale_backward": (4, 1),
    "prelu_forward": (1, 1),
    "prelu_backward": (4, 1),
    "global_maxpool_forward": (1, 1),
    "global_maxpool_backward": (1, 1),
    "nesterov_step": (2, 2),
    "column_sums": (4, 0),
    "variance_moments": (4, 0),
    "gather": (0, 1),
    "clip_sums": (4, 0),
    "sgd_step": (2, 2),
    "rmsprop_step": (2, 2),
    "cast": (1, 0),
}


def compiled(text: str, arguments: tuple[str, ...]) -> tuple[bool, str, bytes]:
    """Whether the text compiles, the compiler's words, and the machine code."""
    _, program = nvrtc.nvrtcCreateProgram(text.encode(), b"kernel.cu", 0, [], [])
    flags = [flag.encode() for flag in arguments]
    good = (
        nvrtc.nvrtcCompileProgram(program, len(flags), flags)[0] == nvrtc.nvrtcResult.NVRTC_SUCCESS
    )
    log = b" " * nvrtc.nvrtcGetProgramLogSize(program)[1]
    nvrtc.nvrtcGetProgramLog(program, log)
    cubin = b""
    if good:
        cubin = b" " * nvrtc.nvrtcGetCUBINSize(program)[1]
        nvrtc.nvrtcGetCUBIN(program, cubin)
    nvrtc.nvrtcDestroyProgram(program)
    return good, log.decode(errors="replace"), cubin


def resources(log: str) -> dict[str, tuple[int, int, int]]:
    """{kernel: (bytes of stack, bytes spilled, registers)} of ptxas's words."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        stack, stores, loads = map(
            int,
            re.search(
                r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
            ).groups(),
        )
        found[part.split("'")[0]] = (
            stack,
            stores + loads,
            int(re.search(r"Used (\d+) registers", part)[1]),
        )
    return found


def flags(real: str, architecture: int) -> tuple[str, ...]:
    return (
        *options(real),
        f"--gpu-architecture=sm_{architecture}",
        "--ptxas-options=-v",
        "-ftz=true",
        "--device-as-default-execution-space",
    )  # the last two as CuPy adds them


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("file", FILES)
def test_every_kernel_compiles_without_local_memory(file, real):
    for architecture in ARCHITECTURES:
        good, log, _ = compiled(source(file), flags(real, architecture))
        assert good and "warning" not in log, f"sm_{architecture}: {log}"
        found = resources(log)
        assert sorted(found) == sorted(kernels(file))
        for kernel, (stack, spilled, registers) in found.items():
            assert (stack, spilled) == (0, 0), (
                f"{kernel} on sm_{architecture}: {stack} bytes of local memory, {spilled} spilled"
            )
            most = MORE_REGISTERS.get(kernel, MOST_REGISTERS)
            assert registers <= most, f"{kernel} on sm_{architecture}: {registers}"


def disassembly(cubin: bytes, folder: Path) -> dict[str, str]:
    """{kernel: its machine code as text}"""
    (folder / "kernel.cubin").write_bytes(cubin)
    tools = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "bin")
    done = subprocess.run(
        ["nvdisasm", str(folder / "kernel.cubin")],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr
    parts = re.split(r"^\.text\.(\w+):$", done.stdout, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("file", FILES)
def test_accesses_are_128_bits_wide(file, real, tmp_path):
    wanted = {kernel: WIDE[kernel] for kernel in kernels(file) if kernel in WIDE}
    if not wanted:
        return
    good, log, cubin = compiled(source(file), flags(real, 90))
    assert good, log
    code = disassembly(cubin, tmp_path)
    for kernel, (loads, stores) in wanted.items():
        assert len(re.findall(r"LDG\.E(?:\.\w+)*\.128", code[kernel])) >= loads, kernel
        assert len(re.findall(r"STG\.E(?:\.\w+)*\.128", code[kernel])) >= stores, kernel


def test_the_exercises_and_their_solutions_are_cuda_too():
    """And not C++ alone, which is all that the emulator asks."""
    root = Path(__file__).parents[2]
    for path in [
        *root.glob("bench/trace/exercises/*.cu"),
        *root.glob("tests/bench/solutions/*.cu"),
    ]:
        good, log, _ = compiled(pasted(path), flags("float32", 90))
        assert good and "warning" not in log, f"{path.name}: {log}"


def test_every_wide_kernel_exists():
    assert set(WIDE) <= {kernel for file in FILES for kernel in kernels(file)}


SPILLS = """
#define KERNEL extern "C" __global__ void
KERNEL spills(float* x, int n) {
    float kept[64];
    for (int i = 0; i < 64; ++i) kept[i] = x[i * n];
    for (int i = 0; i < n; ++i) kept[(i * 7) % 64] += kept[i % 64];
    for (int i = 0; i < 64; ++i) x[i] = kept[i];
}
"""


def test_the_check_finds_local_memory_and_what_does_not_compile():
    good, log, _ = compiled(SPILLS, flags("float32", 90))
    assert good and resources(log)["spills"][0] > 0
    text = source("maxout").rstrip() + "\nthis is no C++"
    good, log, _ = compiled(text, flags("float32", 90))
    lines = (HERE / "maxout.cu").read_text().rstrip().count("\n") + 2
    assert not good and f"kernels/cuda/maxout.cu({lines}): error" in log


def test_the_bugs_that_bench_gpu_plants_compile():
    text = (Path(__file__).parents[2] / "bench" / "gpu" / "planted.cu").read_text()
    for architecture in ARCHITECTURES:
        good, log, _ = compiled(text, flags("float32", architecture))
        assert good and set(resources(log)) == {
            f"planted_{tool}" for tool in ("memcheck", "racecheck", "initcheck", "synccheck")
        }, log
