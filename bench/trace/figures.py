"""What a trace says about a launch, in the terms of NVIDIA's profiler (Nsight Compute).

A request is one access of a warp. Global memory is moved in sectors of 32 bytes, shared memory in
wavefronts, each of which takes at most one 4-byte word from each of 32 banks. Nothing is known here
of time, of occupancy, or of what a cache holds: the sectors are those that the requests ask for.

Read next: document.py.
"""

from dataclasses import asdict, dataclass

import numpy as np

from bench.trace.recorder import WARP, Array
from bench.trace.warps import Warps

SECTOR, BANKS, WORD = 32, 32, 4


@dataclass(frozen=True)
class Traffic:
    """Loads or stores of an array in a launch.

    sectors: the sum over the requests, `ideal` as many as would hold what each of them asks for.
    asked: bytes, of all threads. moved: those of the sectors. needed: different bytes. again: bytes
    of sectors that an earlier request had moved, which a cache must serve. Of shared memory:
    wavefronts, and `conflicts`, those beyond what the bytes need. lanes: threads active in a
    request, the mean."""

    array: str
    kind: str
    shared: bool
    requests: int
    lanes: float
    asked: int
    needed: int
    sectors: int = 0
    ideal: int = 0
    moved: int = 0
    again: int = 0
    wavefronts: int = 0
    conflicts: int = 0

    @property
    def sectors_per_request(self) -> float:
        return self.sectors / self.requests

    @property
    def ideal_per_request(self) -> float:
        return self.ideal / self.requests


def traffic(warps: Warps) -> list[Traffic]:
    """Of every array that is accessed, its loads and its stores."""
    kinds = warps.kinds[warps.request] if len(warps.place) else np.empty(0, "U5")
    owners = array_of(warps)
    rows = []
    for number, array in enumerate(warps.launch.arrays):
        for kind in ("load", "store"):
            mine = (owners == number) & (kinds == kind)
            if mine.any():
                rows.append(_traffic(array, kind, warps, mine))
    return rows


def array_of(warps: Warps) -> np.ndarray:
    """(events,) the number of the array that an access lies in, -1 of other events; of arguments
    that are the same array the first one is read and the last one written."""
    owners = np.full(len(warps.events), -1)
    stores = warps.kinds[warps.request] == "store"
    for number, array in enumerate(warps.launch.arrays):
        at = warps.events["address"].astype(np.int64) - array.start
        inside = (at >= 0) & (at < array.nbytes) & (warps.nbytes > 0)
        owners[inside & (stores | (owners < 0))] = number
    return owners


def _traffic(array: Array, kind: str, warps: Warps, mine: np.ndarray) -> Traffic:
    request, nbytes = warps.request[mine], warps.nbytes[mine]
    address = warps.events["address"][mine].astype(np.int64)
    requests = np.unique(request)
    common = {
        "array": array.name,
        "kind": kind,
        "shared": array.shared,
        "requests": len(requests),
        "lanes": len(request) / len(requests),
        "asked": int(nbytes.sum()),
        "needed": len(np.unique(_bytes(address, nbytes))),
    }
    if array.shared:
        waves, ideal = _wavefronts(request, address, nbytes, warps.lane[mine])
        return Traffic(**common, wavefronts=waves, conflicts=waves - ideal)
    base = address.min() // SECTOR
    first, last = address // SECTOR - base, (address + nbytes - 1) // SECTOR - base
    both = np.concatenate([first, last]), np.concatenate([request, request])
    sectors = np.unique(both[1] * (int(last.max()) + 1) + both[0])
    different = np.unique(both[0])
    held = np.unique(np.stack([request, address]), axis=1, return_index=True)[1]
    sums = np.bincount(np.searchsorted(requests, request[held]), weights=nbytes[held])
    return Traffic(
        **common,
        sectors=len(sectors),
        ideal=int(np.ceil(sums / SECTOR).sum()),
        moved=SECTOR * len(sectors),
        again=SECTOR * (len(sectors) - len(different)),
    )


def _bytes(address: np.ndarray, nbytes: np.ndarray) -> np.ndarray:
    """The number of every byte of these accesses."""
    return np.concatenate(
        [
            (address[nbytes == size][:, None] + np.arange(size)).reshape(-1)
            for size in np.unique(nbytes)
        ]
    )


def _wavefronts(request, address, nbytes, lane) -> tuple[int, int]:
    """(wavefronts, as few as the threads' bytes need). Accesses of 8 bytes are served by halves of
    a warp, those of 16 by quarters."""
    part = request * 4 + lane * np.maximum(nbytes, WORD) // WORD // WARP
    words = [(address[nbytes > WORD * k] // WORD + k, part[nbytes > WORD * k]) for k in range(4)]
    word, part = (np.concatenate([pair[i] for pair in words]) for i in (0, 1))
    word, part = np.unique(np.stack([word, part]), axis=1)
    bank, many = np.unique(np.stack([part, word % BANKS]), axis=1, return_counts=True)
    starts = np.flatnonzero(np.diff(bank[0], prepend=-1))
    return int(np.maximum.reduceat(many, starts).sum()), len(starts)


def lines(warps: Warps) -> list[dict]:
    """Of every source line of the kernel: how often warps pass it, how many threads do on the mean,
    and the accesses and bytes that it asks for."""
    file = warps.launch.code.file
    where = [place.line(file) if place.frames else ("", 0) for place in warps.places]
    lanes = np.bincount(warps.request, minlength=len(warps.place))
    asked = np.bincount(warps.request, weights=warps.nbytes, minlength=len(warps.place))
    kinds, rows = warps.kinds, []
    at = np.array([hash(w) for w in where])[warps.place]
    for line in sorted({where[number] for number in np.unique(warps.place)}):
        mine = at == hash(line)
        row = {"file": line[0], "line": line[1], "lanes": round(float(lanes[mine].mean()), 2)}
        row |= {kind: int((kinds[mine] == kind).sum()) for kind in np.unique(kinds[mine]).tolist()}
        rows.append(row | {"bytes": int(asked[mine].sum())})
    return rows


def summary(warps: Warps) -> dict:
    """Of a launch: {lanes: the share of a warp's threads that are active in its accesses, barriers:
    a block's, shuffles and votes: a warp's, traffic: rows}; the means where they differ."""
    kinds = warps.kinds
    access = np.isin(kinds, ("load", "store"))
    lanes = np.bincount(warps.request, minlength=len(kinds))
    blocks = int(np.prod(warps.launch.grid))
    per_block = -(-int(np.prod(warps.launch.block)) // WARP)
    waits = np.bincount(warps.request, minlength=len(kinds))[kinds == "barrier"].sum()
    return {
        "lanes": round(float(lanes[access].mean()) / WARP, 4) if access.any() else None,
        "barriers": float(waits) / blocks / int(np.prod(warps.launch.block)),
        "shuffles": float((kinds == "shuffle").sum()) / blocks / per_block,
        "votes": float((kinds == "vote").sum()) / blocks / per_block,
        "traffic": [
            asdict(row)
            | (
                {}
                if row.shared
                else {
                    "sectors_per_request": round(row.sectors_per_request, 3),
                    "ideal_per_request": round(row.ideal_per_request, 3),
                }
            )
            for row in traffic(warps)
        ],
    }
