"""The compiler of device emulated: a kernel file's text behind emulator.h -> a library.

What it makes is kept under a hash of everything that goes into it: in a checkout in its folder
build/, else in the user's cache folder, or a temporary one if that can't be written. Processes may
share it, and delete it between two runs.

Read next: emulator.h.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMPILE = [
    "-std=c++17",
    "-O2",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Wno-unused-function",
    "-Wno-unknown-pragmas",
    "-fno-strict-aliasing",
]  # as nvcc compiles; the kernels read 128 bits of floats
# What the kernels are checked with: LSUV_DOUBLE_SANITIZE=address,undefined.
SANITIZE = os.environ.get("LSUV_DOUBLE_SANITIZE", "")
CHECKED = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
if sys.platform == "darwin":  # its ucontext is deprecated, and hidden without the first
    COMPILE += ["-D_XOPEN_SOURCE=700", "-D_DARWIN_C_SOURCE", "-Wno-deprecated-declarations"]
TAIL = """
#line 1 "launch functions"
#ifdef __APPLE__
extern char __start_shared_memory[] __asm("section$start$__DATA$shared_memory");
extern char __stop_shared_memory[] __asm("section$end$__DATA$shared_memory");
#else
extern char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));
#endif
"""
# bench.trace's: the calls that trace.cpp answers, at an optimisation that keeps accesses whole, and
# lines with the functions that were inlined there.
TRACED = ["-O1", "-g", "-gdwarf-4", "-DEMULATOR_TRACE", "-Wno-attributes"]
AS_WRITTEN = ["-fno-thread-jumps"]  # of GCC's, else paths meet elsewhere than in the source
INSTRUMENTED = ["-fsanitize=thread", "-fsanitize-coverage=trace-pc"]
# CuPy's -ftz=true, on x86-64: a processor flushes float32 and float64 alike.
ENTRY = """
extern "C" __attribute__((visibility("default")))
const char* launch_{0}(emulator::Launch* given) {{
    given->shared = reinterpret_cast<unsigned char*>(__start_shared_memory);
    given->shared_end = reinterpret_cast<unsigned char*>(__stop_shared_memory);
#ifdef __x86_64__
    const unsigned before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before | 0x8040);  // subnormal numbers are 0, as results and as operands
#endif
    const char* problem = emulator::launch(*given, {0});
#ifdef __x86_64__
    __builtin_ia32_ldmxcsr(before);
#endif
    return problem;
}}
"""


class CompileException(Exception):
    """cupy.cuda.compiler.CompileException."""


def command() -> str | None:
    """$CXX, g++ or clang++; None if none of them is there."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return next((name for name in names if shutil.which(name)), None)


@functools.cache
def folder() -> Path:
    """Where what was compiled is kept."""
    checkout = HERE.parents[1]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    places = [cache / "lsuv-engine" / "emulated"]
    if (checkout / "setup.py").is_file():
        places.insert(0, checkout / "build" / "emulated")
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()
            return place
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix="lsuv-emulated-"))


def build(code: str, options: tuple[str, ...], traced: bool = False) -> Path:
    """The library of a kernel file's text. traced: its accesses are recorded, by trace.cpp.
    CompileException with the compiler's words."""
    names = re.findall(r"^KERNEL (\w+)\(", code, re.MULTILINE)
    code += TAIL + "".join(ENTRY.format(name) for name in names)
    flags = [*COMPILE, *(CHECKED if SANITIZE else []), *(TRACED if traced else [])]
    own = [option for option in options if not option.startswith("--std")]
    files = ("emulator.cpp", "trace.cpp")[: 1 + traced]
    parts = [_made("-c", (HERE / name).read_text(), flags) for name in files]
    if traced:
        own += [*INSTRUMENTED, *([] if "clang" in str(command()) else AS_WRITTEN)]
    parts.append(_made("-c", code, [*flags, *own]))
    return _made("-shared", "", flags, *parts)


def _made(kind: str, text: str, flags: list[str], *parts: Path) -> Path:
    """The object of a text ("-c"), or the library of objects ("-shared"), unless it is there. Each
    process compiles in a folder of its own, and what is whole gets its name."""
    name = command() or "g++"
    strict = ["-Werror"] if name == "g++" else []  # other compilers warn of other things
    words = [name, *flags, *strict, f"-I{HERE}", kind]
    header = (HERE / "emulator.h").read_text()
    key = hashlib.sha256("\0".join([*words, header, text, *map(str, parts)]).encode())
    target = folder() / f"{key.hexdigest()[:24]}{'.o' if kind == '-c' else '.so'}"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=target.parent) as own:
        unit, result = Path(own, "kernels.cpp"), Path(own, target.name)
        if kind == "-c":
            unit.write_text(text, encoding="utf-8")
            words += ["-include", str(HERE / "emulator.h"), str(unit)]
        done = subprocess.run(
            [*words, *map(str, parts), "-o", str(result)], capture_output=True, text=True
        )
        if done.returncode:
            raise CompileException(done.stderr[-4000:])
        result.replace(target)
    return target
