"""Our CUDA kernels as text: each .cu file with its headers put in their places.

CuPy caches what it compiles under the text and the options, which do not name an included header;
so headers are pasted in, with `#line` around them: a compiler's error names the file and its own
line. A file is compiled once for each type of activations, REALS.

Read next: __init__.py, which says whether any of this can run here.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

HERE = Path(__file__).parent
FILES = tuple(sorted(path.stem for path in HERE.glob("*.cu")))
REALS = {"float32": "float", "bfloat16": "bfloat16"}  # of a dtype's name: the type in the kernels
INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)


@functools.cache
def source(name: str) -> str:
    """The text of kernel file `name`, without `#include` and `#pragma once`."""
    return pasted(HERE / f"{name}.cu")


def pasted(path: Path) -> str:
    """The text of a file, each of our headers once, where it is first included."""
    seen: set[str] = set()

    def text_of(path: Path) -> str:
        text = path.read_text(encoding="utf-8").replace("#pragma once\n", "\n")

        def include(match: re.Match) -> str:
            header, line = match[1], text.count("\n", 0, match.start()) + 1
            if header in seen:
                return ""
            seen.add(header)
            return f"{text_of(HERE / header)}\n{_line(line + 1, path)}"

        return f"{_line(1, path)}\n{INCLUDE.sub(include, text)}"

    return text_of(path)


def _line(number: int, path: Path) -> str:
    """The directive before line `number` of a file, by its name in the project: CuPy's cache must
    not depend on where that is installed."""
    return f'#line {number} "{"/".join(path.parts[-3:])}"'


def options(real: str) -> tuple[str, ...]:
    """The compiler's options for activations of the dtype called `real`."""
    return "--std=c++17", f"-DREAL={REALS[real]}"


def kernels(name: str) -> list[str]:
    """The names of the kernels in file `name`."""
    return re.findall(r"^KERNEL (\w+)\(", source(name), re.MULTILINE)
