"""Builds the native extension for lesser processors, without oneDNN, and runs tests on each build.

    python tests/portable/run.py                    x86-64-v3 (AVX2)
    python tests/portable/run.py --full             x86-64-v2 (SSE), the processor at hand, and that
                                                    without OpenMP, too

Other arguments go to pytest. What the build needs beside the compiler must be installed, as for
tests/sanitizers/run.py. It shows that results are right on processors of fewer and narrower
registers, and without the library that other systems lack; it can't show the speed there, nor what
Apple's compiler makes of the sources.

Read next: kernels/cpu/native/product.h.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import platform
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
KEPT_OUT = shutil.ignore_patterns(
    "build", "dist", "runs", ".*", "venv", "*.egg-info", "*.so", "__pycache__"
)
TESTS = [
    f"tests/{name}.py"
    for name in (
        "kernels/test_native",
        "kernels/test_ops",
        "kernels/test_orthonormal",
        "engine/test_layers",
        "engine/test_nonfinite",
        "engine/test_bf16",
        "run/test_repeatable",
    )
]
# What is built: LSUV_ARCH, and a setting of the environment more.
SHORT: dict[str, dict[str, str]] = {"x86-64-v3": {}}
FULL = {"x86-64-v2": {}, "native": {}, "native without OpenMP": {"LSUV_OPENMP": "0"}}


def check(name: str, settings: dict[str, str], tests: list[str]) -> None:
    """Build in a copy of the project and run the tests there; exit where either fails."""
    copy = ROOT / "build" / "portable" / name.replace(" ", "-")
    if copy.exists():
        shutil.rmtree(copy)
    shutil.copytree(ROOT, copy, ignore=KEPT_OUT)
    environment = {"LSUV_ARCH": name.split()[0], "LSUV_ONEDNN": "0", **settings}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    for command in (build, run):
        words = [f"{key}={value}" for key, value in environment.items()] + command
        print(f"+ cd {copy}\n+ {' '.join(words)}", flush=True)
        more = {**environment, "PYTHONPATH": str(copy)}
        if code := subprocess.run(command, cwd=copy, env=os.environ | more).returncode:
            sys.exit(code if code > 0 else 1)
        if not list((copy / "kernels" / "cpu").glob("*.so")):
            sys.exit(f"portable: the extension for {name} was not built")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="more builds")
    options, tests = parser.parse_known_args()
    if shutil.which("c++") is None or platform.machine() != "x86_64":
        print("portable: no C++ compiler, or not x86-64: skipped")
        return
    for name, settings in (SHORT | FULL if options.full else SHORT).items():
        check(name, settings, tests or TESTS)


if __name__ == "__main__":
    main()
