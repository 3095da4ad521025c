"""Our CUDA kernels as text: each .cu file with its headers put in their places.

CuPy caches what it compiles under the text and the options, which do not name an included header;
so headers are pasted in. A file is compiled once for each type of activations, REALS.

Read next: common.cuh.
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
    seen: set[str] = set()

    def pasted(path: Path) -> str:
        text = path.read_text(encoding="utf-8").replace("#pragma once\n", "")

        def include(found) -> str:
            if found[1] in seen:
                return ""
            seen.add(found[1])
            return pasted(HERE / found[1])

        return INCLUDE.sub(include, text)

    return pasted(HERE / f"{name}.cu")


def options(real: str) -> tuple[str, ...]:
    """The compiler's options for activations of the dtype called `real`."""
    return "--std=c++17", f"-DREAL={REALS[real]}"


def kernels(name: str) -> list[str]:
    """The names of the kernels in file `name`."""
    return re.findall(r"^KERNEL (\w+)\(", source(name), re.MULTILINE)
