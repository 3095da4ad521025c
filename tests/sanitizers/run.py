"""Builds the native extension so that it checks itself, and runs tests on that build.

    python tests/sanitizers/run.py                  the extension's own tests, and those of the
                                                    CUDA kernels on the CPU, which g++ builds so
    python tests/sanitizers/run.py tests            the whole suite
    python tests/sanitizers/run.py --thread         what Python threads share

Other arguments go to pytest. Without a C++ compiler nothing is run, and it says so; with one,
a sanitizer that is missing is an error. What the build needs beside the compiler must be installed:

    pip install $(python tests/sanitizers/run.py --needs)

The build stands in a copy of the project in build/sanitizers, so the extension in use stays as it
is. Its kernels are those of lanes.h without AVX-512, as the sanitizers see no masked load or store;
Winograd's convolution runs there too. What else they can't see:

* The kernels of lanes.h with AVX-512, and oneDNN, which the build does without: our own products
  stand in its place. tests/kernels/test_native.py puts every array between two pages that can't be
  touched, which sees those.
* AddressSanitizer: an index that is wrong and still lands inside another part of the same array.
* ThreadSanitizer: anything between the threads of one parallel loop. libgomp's barriers are not
  known to it, and every loop would be reported. So each kernel runs on one OpenMP thread, and
  several Python threads call it: what is checked is what kernels keep from call to call (plans,
  workspaces, memory of a thread), behind cpu_lock and Python's own lock. That the loops share
  nothing is checked otherwise, by equal bits for any number of threads (tests/kernels/test_ops.py).

Read next: tests/sanitizers/test_planted.py, the proof that faults are found.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
KEPT_OUT = shutil.ignore_patterns(
    "build", "dist", "runs", ".*", "venv", "*.egg-info", "*.so", "__pycache__"
)
PLANTED = "tests/sanitizers/test_planted.py"
NATIVE = [
    PLANTED,
    *(
        f"tests/{name}.py"
        for name in (
            "kernels/test_native",
            "kernels/test_ops",
            "kernels/test_orthonormal",
            "engine/test_nonfinite",
            "engine/test_layers",
            "engine/test_bf16",
        )
    ),
    *(
        f"tests/cuda/test_{name}.py"
        for name in (
            "emulator",
            "cuda_ops",
            "cuda_orthonormal",
            "cuda_elementwise",
            "cuda_pool",
            "cuda_statistics",
            "cuda_values",
        )
    ),
]
# Of its orders each does for the sanitizers: an index does not depend on it.
NATIVE += [
    "--deselect",
    "tests/cuda/test_cuda_ops.py::test_the_bits_do_not_depend_on_the_order_of_threads",
]
THREADS = [PLANTED, "tests/sanitizers/test_threads.py"]

# Leaks are not looked for: Python keeps memory until its end. Too much memory asked for is a
# MemoryError, as without the sanitizer.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": f"suppressions={ROOT / 'tests' / 'sanitizers' / 'thread.supp'}",
    "PYTHONMALLOC": "malloc",  # an object each, where Python would cut up large blocks
}


def runtime(compiler: str, name: str) -> str:
    """The path of a run-time library of the compiler's, to be loaded before all others."""
    path = subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(path):  # the bare name: there is none
        sys.exit(f"sanitizers: {compiler} has no {name}; install it, it comes with the compiler")
    return os.path.realpath(path)


def needs() -> list[str]:
    """What setup.py builds with."""
    from setuptools.build_meta import get_requires_for_build_wheel

    os.chdir(ROOT)
    os.environ["LSUV_ONEDNN"] = "0"
    return get_requires_for_build_wheel()


def build(kind: str) -> pathlib.Path:
    """A copy of the project with the extension built inside. Objects of an earlier one are kept."""
    copy = ROOT / "build" / "sanitizers" / kind.replace(",", "+")
    copy.mkdir(parents=True, exist_ok=True)
    for old in copy.iterdir():
        if old.name != "build":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(ROOT, copy, ignore=KEPT_OUT, dirs_exist_ok=True)
    show([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], copy, LSUV_SANITIZE=kind)
    if not list((copy / "kernels" / "cpu").glob("*.so")):
        sys.exit(
            f"sanitizers: the extension was not built; python -m pip install {' '.join(needs())}"
        )
    return copy


def fixed_addresses() -> list[str]:
    """ThreadSanitizer wants addresses where it expects them, and not at random, where a machine
    lets a program ask for that."""
    command = ["setarch", "-R"]
    if shutil.which(command[0]) and not subprocess.run([*command, "true"], check=False).returncode:
        return command
    return []


def show(command: list[str], folder: pathlib.Path, **environment: str) -> None:
    """Prints and runs a command; exits with its status if that is not 0."""
    settings = " ".join(f"{name}={value}" for name, value in environment.items())
    print(f"+ cd {folder}\n+ {settings} {' '.join(command)}", flush=True)
    done = subprocess.run(command, cwd=folder, env=os.environ | environment)
    if done.returncode:
        sys.exit(done.returncode if done.returncode > 0 else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--needs", action="store_true", help="print what the build needs")
    parser.add_argument(
        "--thread", action="store_true", help="ThreadSanitizer; else address, undefined"
    )
    options, tests = parser.parse_known_args()
    if options.needs:
        return print(*needs())
    compiler = shutil.which("c++")
    if compiler is None:
        return print("sanitizers: no C++ compiler, so no native extension to check: skipped")
    kind = "thread" if options.thread else "address,undefined,float-cast-overflow"
    # Python does not load the C++ library, and the sanitizer must find its exceptions at the start.
    loaded = [
        runtime(compiler, name)
        for name in ("libtsan.so" if options.thread else "libasan.so", "libstdc++.so")
    ]
    copy = build(kind)
    if not any((ROOT / word.split("::")[0]).exists() for word in tests):
        tests = [*(THREADS if options.thread else NATIVE), *tests]
    one, fixed = ({"OMP_NUM_THREADS": "1"}, fixed_addresses()) if options.thread else ({}, [])
    show(
        [*fixed, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        copy,
        LD_PRELOAD=" ".join(loaded),
        PYTHONPATH=str(copy),
        **one,
        **OPTIONS,
        **({} if options.thread else {"LSUV_DOUBLE_SANITIZE": "address,undefined"}),
    )


if __name__ == "__main__":
    main()
