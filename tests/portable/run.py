"""Builds the native extension for other processors and by another compiler, without oneDNN, and
runs tests on each build.

    python tests/portable/run.py                    x86-64-v3 (AVX2), clang++, and a 64-bit Arm
    python tests/portable/run.py --full             x86-64-v2 (SSE), the processor at hand, and that
                                                    without OpenMP, too; of the Arm all tests

Other arguments go to pytest. What the build needs beside the compiler must be installed, as for
tests/sanitizers/run.py. clang++ and the Arm are left out, with a line, where there are no

    apt-get install clang libomp-dev g++-aarch64-linux-gnu qemu-user
    dpkg --add-architecture arm64 && apt-get update

The Arm is qemu's, with Debian's Python 3.11 for arm64 and PyPI's wheels in build/portable. All of
it shows that results are right with other and narrower registers, and without the library that
other systems lack. It can't show the speed there, nor what Apple's compiler makes of the sources.

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
BUILDS = ROOT / "build" / "portable"
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
# Of the Arm: qemu takes minutes, and can't start the Python of a test that starts another one.
ARM_CAN = ["-k", "not forked and not leaves_no_trace and not missing_extension"]
FEW, MANY = ["tests/kernels/test_ops.py", *ARM_CAN], [*TESTS[:-1], *ARM_CAN]
# What is built: LSUV_ARCH, and settings of the environment more.
SHORT: dict[str, dict[str, str]] = {"x86-64-v3": {}}
FULL = {"x86-64-v2": {}, "native": {}, "native without OpenMP": {"LSUV_OPENMP": "0"}}
CLANG = {"CC": "clang", "CXX": "clang++"}
ARM = "neoverse-n1"
DEBS = """python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libpython3.11-dev
    libpython3.11 libc6 libgcc-s1 libstdc++6 libgomp1 libexpat1 zlib1g libffi8 libssl3 libbz2-1.0
    liblzma5 libcrypt1 libsqlite3-0 libuuid1"""
WHEELS = "numpy ml_dtypes safetensors pooch Pillow rich filelock pytest pybind11 setuptools"


def show(command: list[str], folder: pathlib.Path, **environment: str) -> None:
    """Prints and runs a command; exits with its status if that is not 0."""
    words = [f"{key}={value}" for key, value in environment.items()] + command
    print(f"+ cd {folder}\n+ {' '.join(words)}", flush=True)
    if code := subprocess.run(command, cwd=folder, env=os.environ | environment).returncode:
        sys.exit(code if code > 0 else 1)


def check(
    name: str, settings: dict[str, str], tests: list[str], python: tuple[str, ...] = (), site=""
) -> None:
    """Build in a copy of the project and run the tests there; exit where either fails."""
    copy = BUILDS / name.replace(" ", "-")
    if copy.exists():
        shutil.rmtree(copy)
    shutil.copytree(ROOT, copy, ignore=KEPT_OUT)
    command = [*(python or [sys.executable])]
    environment = {"LSUV_ARCH": name.split()[0], "LSUV_ONEDNN": "0", **settings}
    environment["PYTHONPATH"] = f"{copy}:{site}" if site else str(copy)
    show([*command, "setup.py", "-q", "build_ext", "--inplace"], copy, **environment)
    if not list((copy / "kernels" / "cpu").glob("*.so")):
        sys.exit(f"portable: the extension for {name} was not built")
    show([*command, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], copy, **environment)


def arm(tests: list[str]) -> None:
    """The same for a 64-bit Arm."""
    missing = [name for name in ("qemu-aarch64", "aarch64-linux-gnu-g++") if not shutil.which(name)]
    known = (
        shutil.which("dpkg")
        and subprocess.run(
            ["dpkg", "--print-foreign-architectures"], capture_output=True, text=True
        ).stdout
    )
    if missing or "arm64" not in (known or ""):
        why = f"no {' and no '.join(missing)}" if missing else "Debian's packages for arm64 unknown"
        return print(f"portable: {why}: the 64-bit Arm is skipped")
    debs, root, site = (BUILDS / name for name in ("debs", "root", "site"))
    for folder in (debs, root, site):
        folder.mkdir(parents=True, exist_ok=True)
    show(["apt-get", "-q", "download", *(f"{name}:arm64" for name in DEBS.split())], debs)
    for deb in sorted(debs.glob("*.deb")):
        show(["dpkg", "-x", str(deb), str(root)], debs)
    platforms = [f"--platform=manylinux{tag}_aarch64" for tag in ("2014", "_2_27", "_2_28")]
    show(
        [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", f"--target={site}"]
        + [*platforms, "--only-binary=:all:", "--python-version=3.11", *WHEELS.split()],
        debs,
    )
    settings = {
        "CC": "aarch64-linux-gnu-gcc",
        "CXX": "aarch64-linux-gnu-g++",
        "CPLUS_INCLUDE_PATH": f"{root}/usr/include",
        "PYTHONHOME": f"{root}/usr",
    }
    python = ("qemu-aarch64", "-L", str(root), f"{root}/usr/bin/python3.11")
    check(ARM, settings, tests, python, str(site))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="more builds, and of the Arm all tests")
    options, tests = parser.parse_known_args()
    if shutil.which("c++") is None or platform.machine() != "x86_64":
        print("portable: no C++ compiler, or not x86-64: skipped")
        return
    for name, settings in (SHORT | FULL if options.full else SHORT).items():
        check(name, settings, tests or TESTS)
    if shutil.which("clang++"):
        check("native by clang", CLANG, tests or TESTS)
    else:
        print("portable: no clang++: skipped")
    arm(tests or (MANY if options.full else FEW))


if __name__ == "__main__":
    main()
