"""The pool that CuPy takes memory from: here every array is an allocation of its own.

Read next: tests/cuda/README.md.
"""

from cupy import _double


class MemoryPool:
    def free_all_blocks(self) -> None:
        _double.wait("freeing memory")
