"""The operations of device emulated: those of device cuda, on the double.

Read next: tests/cuda/README.md, what it shows of a GPU and what it can't.
"""

from __future__ import annotations

from kernels.cuda.ops import CudaOps
from kernels.emulated import compiler


class EmulatedOps(CudaOps):
    """Imported only after `kernels.emulated.double()`."""

    name = "emulated"

    @property
    def description(self) -> str:
        made = f"our CUDA kernels compiled by {compiler.command()}, thread by thread"
        return f"{made}; no speed of a GPU"
