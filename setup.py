"""Builds the extension kernels.cpu._native where a C++17 compiler is at hand, and names the
packages that this machine needs.

Everything else about the package stands in pyproject.toml. On Linux x86-64 with glibc the extension
is linked against oneDNN's wheel, elsewhere and with LSUV_ONEDNN=0 it has products of its own in
oneDNN's place. Without a compiler the installation goes on without the extension: the program then
runs on the device `numpy`, and says so (kernels.ops_for).

LSUV_ARCH names the processor to build for, as -march takes it, such as x86-64-v3; by default it
is the one that builds. x86-64-v3,x86-64-v4 makes an extension of each, for a wheel that others
install: kernels/cpu/__init__.py loads the best that runs.
LSUV_SANITIZE=address,undefined or =thread builds the extension, without oneDNN, so that it checks
itself, which tests/sanitizers/run.py asks for.
Read next: kernels/cpu/native/module.cpp.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("kernels/cpu/native")  # relative, as setuptools wants its sources
# -march=native: the extension is built on the machine that runs it. Apple's compiler knows what its
# processors have without being told.
# No -ffast-math: it would drop the NaN checks that the training loop relies on.
# -fno-math-errno: a square root that may set errno can't become vector code, and nothing here reads
# errno.
# -g0: Python's own flags ask for debug symbols, which cost a quarter of the build time.
# -Wno-psabi: lanes.h's vectors of 64 bytes only pass through functions that are inlined, whose ABI
# is nobody's concern on a processor with smaller ones.
ARCH = os.environ.get("LSUV_ARCH", "native")
MACHINE = platform.machine().lower()
FLAG = "-march=" if MACHINE in ("x86_64", "amd64", "i686") else "-mcpu="
COMPILE = [
    "-O3",
    "-std=c++17",
    "-fvisibility=hidden",
    "-g0",
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-Wno-pass-failed",
]

# The build that checks itself. -fno-wrapv: Python's own flags let signed numbers wrap, and an
# overflow would be none. LSUV_PORTABLE: lanes.h without AVX-512's masked loads and stores, which
# the sanitizers do not see. A size that becomes a smaller type is an error (-Werror=conversion);
# the headers of others, named again by -isystem, may convert as they like.
SANITIZE = os.environ.get("LSUV_SANITIZE", "")
CHECKED = [
    "-O1",
    "-g1",
    "-fno-omit-frame-pointer",
    f"-fsanitize={SANITIZE}",
    "-fno-sanitize-recover=all",
    "-fno-wrapv",
    "-DLSUV_PORTABLE",
    "-Werror=conversion",
]

# oneDNN's wheels are for Linux x86-64 with glibc. A requirement's marker can't name the C library,
# and one without a matching wheel would stop the installation, so they are named only where they
# fit.
HERE = f"{platform.system()} {platform.machine()}, {platform.libc_ver()[0] or 'no glibc'}"
FITS = HERE == "Linux x86_64, glibc" and os.environ.get("LSUV_ONEDNN", "1") != "0" and not SANITIZE
# oneDNN 3.2 built on GNU OpenMP. Pinned: the extension is linked against its libdnnl.so.3, and
# later wheels pull 2 GB of another compiler's run time.
ONEDNN = ["onednn-cpu-gomp==2023.2.0"] if FITS else []
DEPENDENCIES = [
    "numpy>=1.26",  # every array on the host; 1.26 is the first release for Python 3.12
    "ml_dtypes>=0.4",  # bfloat16 for NumPy; 0.4 is the first release for NumPy 2
    "safetensors>=0.4",  # checkpoints
    "pooch>=1.8",  # data sets: one download, checked against pinned hashes
    "Pillow>=10.1",  # images of a folder
    "rich>=13",  # progress bar
    "filelock>=4.3",  # one writer a run folder, on every system; it follows no link
    *ONEDNN,
]
# What the build needs: oneDNN's header, in the same version, and the library to link against.
BUILD = ["pybind11>=2.13", *(["onednn-devel-cpu-gomp==2023.2.0"] if FITS else []), *ONEDNN]


def wheel_file(distribution: str, name: str) -> Path:
    """The path of file `name` of an installed wheel; FileNotFoundError names what is missing."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(f"the wheel {distribution} is not installed") from None
    for file in files:
        if file.name == name:
            return Path(file.locate()).resolve()
    raise FileNotFoundError(f"the wheel {distribution} has no file {name}")


def openmp() -> tuple[list[str], list[str]]:
    """What tells compiler and linker of OpenMP. On macOS it is Homebrew's libomp; without that, or
    with LSUV_OPENMP=0, kernels run on one thread."""
    if os.environ.get("LSUV_OPENMP", "1") == "0":
        return ["-Wno-unknown-pragmas"], []
    if platform.system() != "Darwin":
        return ["-fopenmp"], ["-fopenmp"]
    for prefix in ("/opt/homebrew/opt/libomp", "/usr/local/opt/libomp"):
        if Path(prefix).is_dir():
            return (
                ["-Xpreprocessor", "-fopenmp", f"-I{prefix}/include"],
                [f"-L{prefix}/lib", "-lomp"],
            )
    print("lsuv-engine: no libomp; `brew install libomp` for more threads", file=sys.stderr)
    return [], []


def extension(name: str, folder: Path = NATIVE, arch: str = ARCH) -> Extension:
    """An extension, pointed at pybind11, and at oneDNN's header and library in their wheels where
    they fit.

    No rpath is set: under pip's build isolation the library found here is gone after the build.
    kernels/cpu/__init__.py loads the installed one before it imports the extension.
    """
    import pybind11

    include, libraries = [pybind11.get_include()], []
    if FITS:
        include.insert(0, str(wheel_file("onednn-devel-cpu-gomp", "dnnl.hpp").parent))
        libraries = [str(wheel_file("onednn-cpu-gomp", "libdnnl.so").parent)]
    others = [*include, sysconfig.get_path("include")]
    checked = [*CHECKED, *(f"-isystem{path}" for path in others)] if SANITIZE else []
    compile_openmp, link_openmp = openmp()
    return Extension(
        name,
        sources=[str(path) for path in sorted(folder.glob("*.cpp"))],
        depends=[
            *(str(path) for path in sorted(NATIVE.glob("*.h"))),
            str(Path(pybind11.get_include()) / "pybind11" / "pybind11.h"),
            "setup.py",
        ],
        include_dirs=include,
        library_dirs=libraries,
        libraries=["dnnl"] if FITS else [],
        define_macros=[("LSUV_ONEDNN", "1" if FITS else "0")],
        extra_compile_args=[
            *COMPILE,
            *([FLAG + arch] if arch != "native" or platform.system() != "Darwin" else []),
            *compile_openmp,
            *checked,
        ],
        extra_link_args=[*link_openmp, *[f"-fsanitize={SANITIZE}"] * bool(SANITIZE)],
        language="c++",
        optional=not SANITIZE,
    )


class BuildNative(build_ext):
    """Compiles two files at a time, skips those that did not change, and says in one line what a
    failed build means."""

    def build_extension(self, ext: Extension) -> None:
        headers = max(Path(path).stat().st_mtime for path in ext.depends)
        compile_all = self.compiler.compile

        def compile_one(source: str, arguments: dict) -> str:
            folder = arguments["output_dir"]
            target = Path(*self.compiler.object_filenames([source], output_dir=folder))
            newest = max(headers, Path(source).stat().st_mtime)
            if not self.force and target.exists() and target.stat().st_mtime > newest:
                return str(target)
            return compile_all([source], **arguments)[0]

        def compile_parallel(sources: list[str], **arguments) -> list[str]:
            with ThreadPoolExecutor(self.parallel or 2) as pool:
                return list(pool.map(lambda source: compile_one(source, arguments), sources))

        self.compiler.compile = compile_parallel
        temp, self.build_temp = self.build_temp, str(Path(self.build_temp) / ext.name)
        try:
            super().build_extension(ext)
        except Exception:
            without_extension(f"the C++ compiler {self.compiler.compiler_so[0]} failed")
            raise  # optional=True turns it into a warning
        finally:
            self.compiler.compile, self.build_temp = compile_all, temp


def without_extension(reason: str) -> None:
    print(
        f"lsuv-engine: installed without its native extension ({reason}); it will run on numpy",
        file=sys.stderr,
    )


def extensions() -> list[Extension]:
    try:
        if "," in ARCH:
            folders = {arch.replace("-", "_"): arch for arch in ARCH.split(",")}
            return [extension(f"kernels.cpu.{f}._native", arch=a) for f, a in folders.items()]
        native = extension("kernels.cpu._native")
        if not SANITIZE:
            return [native]
        planted = extension("tests.sanitizers.planted", Path("tests/sanitizers"))  # must be found
        return [native, planted]
    except (FileNotFoundError, ImportError) as error:
        without_extension(str(error))
        return []


# By this command setuptools.build_meta asks what the build needs, before pip has installed it, and
# answers pip with setup_requires. At any other time setup_requires is only warned about.
ASKED = "egg_info" in sys.argv
setup(
    install_requires=DEPENDENCIES,
    setup_requires=BUILD if ASKED else [],
    ext_modules=[] if ASKED else extensions(),
    cmdclass={"build_ext": BuildNative},
)
