"""The plans that the pretended cuDNN offers, and what a test may change about them.

Read next: tests/cuda/README.md.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from ml_dtypes import bfloat16

ALIGNMENT = 16  # bytes, of every address that a plan is given
_runs = itertools.count()


class Candidate(NamedTuple):
    name: str
    workspace: int  # bytes
    notes: frozenset = frozenset()
    compiled: bool = False  # at run time, says its behaviour note
    builds: bool = True

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """A factor as this plan reads it."""
        if "DOWN_CONVERT_INPUTS" in self.notes:
            return x.astype(bfloat16).astype(np.float32)
        if "TENSOR_CORE" in self.notes:  # TF32: 10 bits of the mantissa, rounded to nearest
            return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)
        return x

    def error(self) -> float:
        """What the result is multiplied by: of a nondeterministic plan another one every time."""
        if self.notes & {"REDUCED_PRECISION_REDUCTION", "WINOGRAD_TILE_6x6"}:
            return 1.05
        return 1 + 2.0**-20 * (next(_runs) % 7) if "NONDETERMINISTIC" in self.notes else 1.0


def noted(name: str, workspace: int, *notes: str) -> Candidate:
    return Candidate(name, workspace, frozenset(notes))


candidates = [
    noted("eng6_k1=0", 64, "DOWN_CONVERT_INPUTS"),
    noted("eng9", 64, "REDUCED_PRECISION_REDUCTION", "TENSOR_CORE"),
    noted("eng10", 64, "WINOGRAD", "WINOGRAD_TILE_6x6"),
    noted("eng4", 2048, "WINOGRAD"),
    noted("eng1_k2=4_k13=0", 1000, "TENSOR_CORE"),
    Candidate("eng7", 64, builds=False),
    noted("eng5", 4096, "NONDETERMINISTIC"),
    Candidate("eng8_k24=3", 512, compiled=True),
    Candidate("eng8_k24=2", 768, compiled=True),
    Candidate("eng3", 1 << 40),
    Candidate("eng0", 32),
    Candidate("eng0", 32),  # from the second heuristic
]
# For a test to change, and to change back:
seconds: dict[str, float] = {}  # how long the plan of a name is said to take; others 1e-4
unsupported: set[str] = set()  # names of the types of arrays that no plan is offered for
builds: list[str] = []  # the names of the plans built, in order
