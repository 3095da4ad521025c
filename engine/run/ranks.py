"""Several processes that train one net together, started by MPI's own command:

    mpiexec -n 4 python -m engine.train --net fitnet4 --shards 4

Each is a rank, from 0 on, and holds the whole net; a step's shards are dealt out among them
(engine/run/shards.py). All do the same in the same order, so that what one gathers the others give.
The first alone prints, locks and writes. One that fails ends all: a rank that is gone would else be
waited for, for ever. mpi4py is imported where MPI has started the process, and nowhere else.

Read next: engine/run/shards.py.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from engine.errors import InputError
from kernels.errors import DeviceError

# Where MPI tells a process its rank: MPICH and Intel MPI, Open MPI, and Slurm with PMIx.
TOLD = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
REMEDY = "pip install 'mpi4py>=4.1', or start it without mpiexec"


class Alone:
    """One process, which is all there are: nobody to tell, and to wait for."""

    rank, size = 0, 1
    parted = False

    def first(self, function: Callable, *arguments) -> Any:
        """What the first rank alone does: the call's result there, elsewhere a context that does
        nothing."""
        return function(*arguments)

    def told(self, function: Callable, *arguments) -> Any:
        """What the first rank finds by this call, on all."""
        return function(*arguments)

    def in_turn(self, function: Callable, *arguments) -> Any:
        """The call by the first rank, then by the others, who find what it may have fetched."""
        return function(*arguments)

    def gather(self, value) -> list:
        """The value of every rank, in their order."""
        return [value]

    def agree(self, number: int) -> int:
        """The largest number of any rank."""
        return max(self.gather(number))

    def exchange(self, ops, total, add: Callable) -> None:
        """total (elements), an array of `ops` and a multiple of 64 for each rank, becomes the sum
        of all ranks', the same bits on each. add(a, b): b += a."""

    def wait(self) -> None:
        """Until all ranks are here; asleep, so that one which works has the processor."""

    def part(self) -> None:
        """All have come to the end; from here on one that goes ends nobody else."""

    def share(self, threads: int) -> int:
        """Of a machine's threads those of one rank on it."""
        return threads

    def need_divisor(self, shards: int) -> None:
        """InputError unless every rank can have as many of the shards as the others."""
        if shards % self.size:
            enough = 1 << (self.size - 1).bit_length()
            raise InputError(
                f"{self.size} processes and --shards {shards}: each wants as many shards as the "
                f"others; give --shards {max(enough, shards)}, and mpiexec a power of two up to it"
            )

    def need_equal(self, description: str) -> None:
        """InputError unless all ranks compute on such a device: another one rounds otherwise."""
        first, *others = self.gather(description)
        for rank, other in enumerate(others, 1):
            if other != first:
                raise InputError(
                    f"process {rank} has {other}, and process 0 {first}; start them on equal "
                    "machines, with the same --device and --threads"
                )


class Ranks(Alone):
    """This process among those that MPI has started. comm: mpi4py's communicator of all."""

    def __init__(self, comm, local: int):
        self.comm, self.rank, self.size, self.local = comm, comm.rank, comm.size, local
        self.received: Any = None
        self.device: Any = None  # what carries arrays that are not the host's

    def first(self, function, *arguments):
        return function(*arguments) if self.rank == 0 else nullcontext()

    def told(self, function, *arguments):
        return self.comm.bcast(function(*arguments) if self.rank == 0 else None)

    def in_turn(self, function, *arguments):
        if self.rank:
            self.wait()
        result = function(*arguments)
        if not self.rank:
            self.wait()
        return result

    def gather(self, value):
        return self.comm.allgather(value)

    def exchange(self, ops, total, add):
        """Every rank adds one piece of all, in a fixed binary tree, and hands it round: as many
        bytes as a ring, and no order that depends on who is first."""
        if self.received is None:
            self.device = ops.communicator(self.rank, self.size, self.told)
            self.received = total.copy()
        wire = self.device or self
        if wire.all_to_all(total, self.received):
            pieces, apart = self.received.reshape(self.size, -1), 1
            while apart < self.size:
                for left in range(0, self.size, 2 * apart):
                    add(pieces[left + apart], pieces[left])
                apart *= 2
            wire.all_gather(pieces[0], total)

    def all_to_all(self, total, received) -> bool:
        self.comm.Alltoall(total, received)
        return True

    def all_gather(self, piece, total) -> None:
        self.comm.Allgather(piece, total)

    def wait(self):
        there = self.comm.Ibarrier()
        while not there.Test():
            time.sleep(0.002)

    def part(self):
        self.wait()
        self.parted = True

    def share(self, threads):
        return max(1, threads // self.local)


def wait(rank: int) -> float:
    """Seconds that a rank which fails waits before it says so: where all fail alike, the first's
    words end them all."""
    return min(rank, 4) * 0.5 + 0.5 if rank else 0.0


@contextmanager
def joined() -> Iterator[Alone]:
    """The ranks that this process is one of; an error that leaves the context ends them all.

    InputError where MPI has started it and mpi4py is missing."""
    told = [os.environ[name] for name in TOLD if name in os.environ]
    if not told:
        yield Alone()
        return
    try:
        from mpi4py import MPI, run
    except (ImportError, RuntimeError) as error:
        if told[0] != "0":
            raise SystemExit(2) from None  # the first says it
        reason = str(error).split("\n")[0]
        raise InputError(
            f"MPI has started this process, and mpi4py can't be imported ({reason}); {REMEDY}"
        ) from None
    near = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
    ranks = Ranks(MPI.COMM_WORLD, near.size)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(near.size)))).split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[near.rank % len(gpus)]  # one of its own
    if ranks.rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        yield ranks
    except BaseException as error:
        if not ranks.parted:
            if isinstance(error, Exception):
                time.sleep(wait(ranks.rank))
            bad = isinstance(error, (InputError, DeviceError))
            code = error.code if isinstance(error, SystemExit) else 2 if bad else 1
            run.set_abort_status(code)
        raise
