"""NCCL's few names that kernels/cuda/ranks.py uses, between processes of one machine.

What is sent is a file in a folder of the communicator's name, whose reader takes it away: sending
never waits, and what is asked for within a group runs at its end, as it must.

Read next: ../../../../../tests/cuda/README.md.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from pathlib import Path

import numpy as np
from cupy import _double

NCCL_FLOAT, NCCL_SUM = 7, 0  # as in nccl.h
PATIENCE = 60  # seconds
_group: list | None = None


def get_unique_id() -> tuple[int, ...]:
    return tuple(secrets.token_bytes(128))


def groupStart() -> None:  # noqa: N802  (NCCL's name)
    global _group
    _group = []


def groupEnd() -> None:  # noqa: N802
    global _group
    work, _group = _group, None
    for one in work or ():
        one()


class NcclCommunicator:
    def __init__(self, ndev: int, commId: tuple[int, ...], rank: int):  # noqa: N803
        _double.wait("meeting the other processes")
        self.size, self.rank, self.sent, self.got = ndev, rank, [0] * ndev, [0] * ndev
        self.folder = Path(tempfile.gettempdir(), f"nccl-double-{bytes(commId[:16]).hex()}")
        self.folder.mkdir(exist_ok=True)

    def _submit(self, work, stream: int) -> None:
        if _group is None:
            _double.submit(work, stream)
        else:
            _group.append(lambda: _double.submit(work, stream))

    def _memory(self, pointer: int, count: int, kind: int) -> np.ndarray:
        if kind != NCCL_FLOAT:
            raise TypeError(f"a type of {kind}")
        return _double.memory(pointer, 4 * count)

    def _put(self, data: np.ndarray, peer: int) -> None:
        path = self.folder / f"{self.rank}-{peer}-{self.sent[peer]}"
        self.sent[peer] += 1
        path.with_suffix(".part").write_bytes(data.tobytes())
        path.with_suffix(".part").rename(path)

    def _take(self, data: np.ndarray, peer: int) -> None:
        path, end = self.folder / f"{peer}-{self.rank}-{self.got[peer]}", time.time() + PATIENCE
        self.got[peer] += 1
        while not path.exists():
            if time.time() > end:
                raise _double.DoubleError(f"nothing came from process {peer}")
            time.sleep(0.0005)
        data[:] = np.frombuffer(path.read_bytes(), np.uint8)
        os.unlink(path)

    def send(self, sendbuf, count, datatype, peer, stream) -> None:
        data = self._memory(sendbuf, count, datatype)
        self._submit(lambda: self._put(data, peer), stream)

    def recv(self, recvbuf, count, datatype, peer, stream) -> None:
        data = self._memory(recvbuf, count, datatype)
        self._submit(lambda: self._take(data, peer), stream)

    def allGather(self, sendbuf, recvbuf, count, datatype, stream) -> None:  # noqa: N802
        piece = self._memory(sendbuf, count, datatype)
        whole = self._memory(recvbuf, count * self.size, datatype).reshape(self.size, -1)

        def work() -> None:
            for peer in range(self.size):
                self._put(piece, peer)
            for peer in range(self.size):
                self._take(whole[peer], peer)

        self._submit(work, stream)

    def allReduce(self, sendbuf, recvbuf, count, datatype, op, stream) -> None:  # noqa: N802
        """In another order than we add in, as NCCL may."""
        if op != NCCL_SUM:
            raise TypeError(f"an operation of {op}")
        values = self._memory(sendbuf, count, datatype)
        result = self._memory(recvbuf, count, datatype)

        def work() -> None:
            parts = np.empty((self.size, values.size), np.uint8)
            for peer in range(self.size):
                self._put(values, peer)
            for peer in range(self.size):
                self._take(parts[peer], peer)
            result.view(np.float32)[:] = np.add.reduce(parts.view(np.float32)[::-1])

        self._submit(work, stream)
