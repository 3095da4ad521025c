"""Arrays of GPUs from process to process: NCCL, by CuPy, on the stream of all other work.

A process has a GPU of its own. What it asks for is queued like a kernel, so it may be captured in a
step's graph (NCCL 2.9 and later), where every process then replays it. The first exchange connects
them, and allocates: it runs as it is, as a captured step does when it is first called.

NCCL's own sum is quicker, and its order depends on the number of processes and on what it chooses;
so here bytes are only carried, and our own kernel adds, in a fixed order. No GPU has run this yet.

Read next: ../emulated/double/cupy/cuda/nccl.py, what stands for it without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

from cupy.cuda import nccl


class Communicator:
    """This process, `rank` of `size`. told(function): what rank 0 finds by it, on all. In an order
    that may change, where `deterministic` is false."""

    def __init__(self, stream, rank: int, size: int, told: Callable, deterministic: bool):
        self.stream, self.size, self.deterministic = stream, size, deterministic
        self.comm = nccl.NcclCommunicator(size, told(nccl.get_unique_id), rank)

    def all_to_all(self, total, received) -> bool:
        """Piece r of `total` to rank r, whose own pieces come into `received` by rank: both float32
        and of one size. False where `total` is the sum of all already."""
        count, stream = total.size // self.size, self.stream.ptr
        if not self.deterministic:
            start = total.data.ptr
            self.comm.allReduce(start, start, total.size, nccl.NCCL_FLOAT, nccl.NCCL_SUM, stream)
            return False
        nccl.groupStart()
        for peer in range(self.size):
            piece = peer * count
            self.comm.send(total[piece:].data.ptr, count, nccl.NCCL_FLOAT, peer, stream)
            self.comm.recv(received[piece:].data.ptr, count, nccl.NCCL_FLOAT, peer, stream)
        nccl.groupEnd()
        return True

    def all_gather(self, piece, total) -> None:
        """Every rank's piece into `total`, by rank."""
        self.comm.allGather(
            piece.data.ptr, total.data.ptr, piece.size, nccl.NCCL_FLOAT, self.stream.ptr
        )
