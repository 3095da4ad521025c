"""The threads of a launch side by side, as a GPU's warps would run them.

A thread's events are in the order in which it did them. A warp's 32 threads do together what is at
the same place in the code: they go on in step until their paths part, then each branch is run by
its own threads until the paths meet again, which is the nearest place that all of them pass
(the immediate postdominator, as in the hardware's stack of masks). Places and ways between them are
those that some thread of the launch took.

Read next: figures.py.
"""

from dataclasses import dataclass

import numpy as np

from bench.trace.code import Frame
from bench.trace.recorder import BARRIER, EXCHANGE, LOAD, NOBODY, PATH, STORE, WARP, Launch

OURS = (".cu", ".cuh")
NAMES = {LOAD: "load", STORE: "store", BARRIER: "barrier", EXCHANGE: "shuffle", PATH: "path"}
ENTRY, EXIT = -1, -2


@dataclass(frozen=True)
class Place:
    """kind: load | store | barrier | shuffle | vote | path. frames: from the innermost function
    outwards, those of .cu and .cuh files."""

    kind: str
    frames: list[Frame]

    def line(self, file: str) -> tuple[str, int]:
        """The innermost line in the kernel's own file, or in a header where there is none."""
        own = [frame for frame in self.frames if frame[0] == file]
        return (own or self.frames)[0][:2]


@dataclass(frozen=True)
class Warps:
    """events: (n,) EVENT thread by thread, each thread's in its order. order: (n,) their numbers in
    the order in which they were done. nbytes: (n,). request, lane: (n,) the step of a warp that an
    event belongs to, numbered through all warps, and its thread's number there. warp: (requests,)
    block * warps of a block + warp. place: (requests,)."""

    launch: Launch
    places: list[Place]
    events: np.ndarray
    order: np.ndarray
    nbytes: np.ndarray
    request: np.ndarray
    lane: np.ndarray
    warp: np.ndarray
    place: np.ndarray

    @property
    def kinds(self) -> np.ndarray:
        """(requests,) the kind of each."""
        return np.array([place.kind for place in self.places])[self.place]


def warps_of(launch: Launch) -> Warps:
    places = _places(launch)
    ours = np.array([bool(place.frames) for place in places], bool)
    done = np.flatnonzero(ours[launch.events["place"]])
    order = done[np.argsort(launch.events["thread"][done], kind="stable")]
    events = launch.events[order]
    nbytes = launch.places["bytes"][events["place"]].astype(np.int64)
    kept = _whole(launch, places, events, nbytes)
    events, order, nbytes = events[kept], order[kept], nbytes[kept]
    next_of = _meeting_places(events)
    threads = int(np.prod(launch.block))
    of_block = -(-threads // WARP)
    block, number = np.divmod(events["thread"].astype(np.int64), threads)
    warp_of, lane = block * of_block + number // WARP, number % WARP
    request = np.empty(len(events), np.int64)
    warps, steps, count = [], [], 0
    cuts = np.flatnonzero(np.diff(warp_of, prepend=-1, append=-1))
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        own = events["place"][start:stop].astype(np.int64)
        starts = np.flatnonzero(np.diff(lane[start:stop], prepend=-1))
        sequences = np.split(own, starts[1:])
        taken = _in_step(sequences, next_of)
        for _, lanes, position, length in taken:
            numbers = count + np.arange(length)
            for at in lanes:
                begin = start + starts[at] + position[at]
                request[begin : begin + length] = numbers
            steps.append(sequences[lanes[0]][position[lanes[0]] :][:length])
            count += length
        warps.append((warp_of[start], sum(step[3] for step in taken)))
    return Warps(
        launch,
        places,
        events,
        np.argsort(np.argsort(order)),
        nbytes,
        request,
        lane,
        np.repeat([w for w, _ in warps], [n for _, n in warps]).astype(np.int64),
        np.concatenate([np.empty(0, np.int64), *steps]),
    )


def _places(launch: Launch) -> list[Place]:
    """With the frames of the functions that they were called from."""
    every = launch.code.frames([int(code) for code in launch.places["code"]])
    places: list[Place] = []
    for row, frames in zip(launch.places, every, strict=True):
        if row["caller"] != NOBODY:  # which came before
            frames = frames + list(places[row["caller"]].frames)
        kind = NAMES[row["kind"]]
        if kind == "shuffle" and any("ballot" in frame[2] for frame in frames):
            kind = "vote"
        if kind == "path" and not frames[0][0].endswith(OURS):
            frames = []  # of the emulator itself
        places.append(Place(kind, [frame for frame in frames if frame[0].endswith(OURS)]))
    return places


def _whole(launch: Launch, places: list[Place], events: np.ndarray, nbytes: np.ndarray):
    """Which events remain when the parts of an access that the compiler split are one: neighbours
    of a thread and of a line, up to 16 aligned bytes. Changes nbytes of the first of them."""
    where = [(place.kind, tuple(place.frames)) for place in places]
    lines = np.array([where.index(each) for each in where])[events["place"]]
    kind = launch.places["kind"][events["place"]]
    ends = events["address"].astype(np.int64) + nbytes
    joined = np.zeros(len(events), bool)
    joined[1:] = (
        (kind[1:] <= STORE)
        & (events["thread"][1:] == events["thread"][:-1])
        & (events["place"][1:] != events["place"][:-1])
        & (lines[1:] == lines[:-1])
        & (ends[:-1] == events["address"][1:])
        & (events["address"][1:] % 16 != 0)
    )
    first = np.flatnonzero(~joined)
    sums = np.add.reduceat(nbytes, first) if len(first) else nbytes
    whole = np.isin(sums, (1, 2, 4, 8, 16)) & (events["address"][first] % np.maximum(sums, 1) == 0)
    kept = np.ones(len(events), bool)
    group = np.cumsum(~joined) - 1
    kept[joined & whole[group]] = False
    nbytes[first] = np.where(whole, sums, nbytes[first])
    return kept


def _meeting_places(events: np.ndarray) -> dict[int, int]:
    """{place: its immediate postdominator} in the graph of all ways that were taken."""
    place, thread = events["place"].astype(np.int64), events["thread"].astype(np.int64)
    first = np.flatnonzero(np.diff(thread, prepend=-1))
    before = np.concatenate([[ENTRY], place])[: len(place)]
    before[first] = ENTRY
    last = np.append(first[1:], len(place)) - 1
    many = int(place.max(initial=0)) + 2
    pairs = np.unique((before + 1) * many + place)  # ENTRY is -1
    ways = np.stack([pairs // many - 1, pairs % many], axis=1).tolist()
    ways += [[int(n), EXIT] for n in np.unique(place[last])] if len(place) else [[ENTRY, EXIT]]
    after: dict[int, list[int]] = {}
    behind: dict[int, list[int]] = {}
    for a, b in ways:
        after.setdefault(a, []).append(b)
        behind.setdefault(b, []).append(a)
    # Cooper, Harvey and Kennedy's algorithm, from the exit backwards.
    number: dict[int, int] = {}
    stack, seen = [(EXIT, iter(behind.get(EXIT, [])))], {EXIT}
    while stack:
        node, rest = stack[-1]
        ahead = next((n for n in rest if n not in seen), None)
        if ahead is None:
            number[node] = len(number)
            stack.pop()
        else:
            seen.add(ahead)
            stack.append((ahead, iter(behind.get(ahead, []))))
    meets, changed = {EXIT: EXIT}, True
    while changed:
        changed = False
        for node in sorted(number, key=number.__getitem__, reverse=True)[1:]:
            new = None
            for other in after[node]:
                if other in meets:
                    new = other if new is None else _common(new, other, meets, number)
            if meets.get(node) != new:
                meets[node], changed = new, True
    return meets


def _common(a: int, b: int, meets: dict[int, int], number: dict[int, int]) -> int:
    while a != b:
        while number[a] < number[b]:
            a = meets[a]
        while number[b] < number[a]:
            b = meets[b]
    return a


def _in_step(sequences: list[np.ndarray], meets: dict[int, int]) -> list[tuple]:
    """[(place, lanes, {lane: position in its sequence}, length)]: what these lanes do together."""
    at, taken = [0] * len(sequences), []

    def follow(lanes: list[int], stop: int) -> None:
        node = ENTRY
        while True:
            length = _together([sequences[lane][at[lane] :] for lane in lanes], stop)
            if length:
                first = sequences[lanes[0]][at[lanes[0]]]
                taken.append((first, lanes, {lane: at[lane] for lane in lanes}, length))
                for lane in lanes:
                    at[lane] += length
                node = int(sequences[lanes[0]][at[lanes[0]] - 1])
            ways: dict[int, list[int]] = {}
            for lane in lanes:
                ended = at[lane] == len(sequences[lane])
                ways.setdefault(EXIT if ended else int(sequences[lane][at[lane]]), []).append(lane)
            if len(ways) == 1:
                assert next(iter(ways)) == stop
                return
            for way in sorted(ways):
                follow(ways[way], meets[node])
            if meets[node] == stop:
                return
            node = meets[node]

    follow(list(range(len(sequences))), EXIT)
    return taken


def _together(rest: list[np.ndarray], stop: int) -> int:
    """How many next places all have in common, before the place `stop`."""
    count, window = min(map(len, rest)), 16
    length = 0
    while length < count:
        part = np.stack([r[length : min(length + window, count)] for r in rest])
        equal = (part == part[0]).all(axis=0) & (part[0] != stop)
        if not equal.all():
            return length + int(np.argmin(equal))
        length, window = length + len(equal), 4 * window
    return length
