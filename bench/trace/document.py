"""A trace as JSON: all that a page needs to show it, with the sources.

    {"format": 1, "operation": "maxout_forward", "case": "2x4x4x16, 2 pieces", "precision": "fp32",
     "note": that nothing here is a time, "sources": {file: [line, ...]}, "launches": [...]}

Of a launch:

    kernel, file        its name, and the file of its own (a key of `sources`)
    grid, block         three numbers each
    numbers             {parameter: value}, those that are no arrays
    arrays              [{name, type, itemsize, elements, shared, offset}]; offset: bytes of element
                        0 from the start of its sector, or, in shared memory, of its banks (128)
    places              [{kind, bytes, line: [file, line], frames: [[file, line, function], ...]}]
                        kind: load | store | barrier | shuffle | vote | path. line: the innermost in
                        the kernel's own file. frames: from the innermost outwards. bytes: of one
                        thread's access
    warps               [{block, warp, steps}]: what its threads do together, in order. A step:
                          [place, mask]                          a barrier, shuffle, vote or path
                          [place, mask, array, first, stride]    an access: the element of the
                              lowest thread, and by how much it grows from thread to thread
                          [place, mask, array, [element, ...]]   the same, of each thread in turn
                        mask: bit i is thread i of the warp, -1 all 32. A path's step is there only
                        where the line or the mask has changed
    order               [[thread, count], ...]: in which order they were done here: thread (of the
                        block * threads of a block + number) does its next `count` steps, of those
                        in whose mask it is
    lines               [{file, line, lanes, load, store, barrier, ..., bytes}]: how often warps do
                        a thing there (path: pass), threads active on the mean, bytes asked for
    figures             figures.summary

One thread's events are the steps of its warp in whose mask it is.

Read next: versions.py.
"""

import numpy as np

from bench.trace.figures import array_of, lines, summary
from bench.trace.recorder import WARP, Launch
from bench.trace.warps import Warps, warps_of

NOTE = "run on a CPU, thread by thread: no time and no speed of a GPU is known here"


def document(operation: str, case: str, precision: str, launches: list[Launch]) -> dict:
    traced = [warps_of(launch) for launch in launches]
    sources: dict[str, list[str]] = {}
    for launch in launches:
        sources |= launch.code.sources
    return {
        "format": 1,
        "operation": operation,
        "case": case,
        "precision": precision,
        "note": NOTE,
        "sources": sources,
        "launches": [_launch(warps) for warps in traced],
    }


def _launch(warps: Warps) -> dict:
    launch, file = warps.launch, warps.launch.code.file
    steps, shown = _steps(warps)
    warp_threads = -(-int(np.prod(launch.block)) // WARP)
    by_warp: dict[int, list] = {}
    for warp, step in zip(warps.warp.tolist(), steps, strict=True):
        if step is not None:
            by_warp.setdefault(warp, []).append(step)
    done = np.argsort(warps.order)  # events as they were done
    threads = warps.events["thread"][done][shown[warps.request[done]]]
    starts = np.flatnonzero(np.diff(threads.astype(np.int64), prepend=-1))
    counts = np.diff(np.append(starts, len(threads)))
    used = {step[0] for own in by_warp.values() for step in own}
    sizes = _sizes(warps)
    banks = min([array.start for array in launch.arrays if array.shared], default=0)
    return {
        "kernel": launch.kernel,
        "file": file,
        "grid": launch.grid,
        "block": launch.block,
        "numbers": launch.numbers,
        "arrays": [
            {
                "name": array.name,
                "type": array.type,
                "itemsize": array.itemsize,
                "elements": array.nbytes // array.itemsize,
                "shared": array.shared,
                "offset": (array.start - banks) % 128 if array.shared else array.start % 32,
            }
            for array in launch.arrays
        ],
        "places": [
            {
                "kind": place.kind,
                "bytes": sizes.get(number, 0),
                "line": place.line(file),
                "frames": [[f, line, name.split("(")[0]] for f, line, name in place.frames],
            }
            if number in used
            else None
            for number, place in enumerate(warps.places)
        ],
        "warps": [
            {"block": warp // warp_threads, "warp": warp % warp_threads, "steps": own}
            for warp, own in sorted(by_warp.items())
        ],
        "order": np.stack([threads[starts], counts], axis=1).tolist(),
        "lines": lines(warps),
        "figures": summary(warps),
    }


def _sizes(warps: Warps) -> dict[int, int]:
    """{place: bytes of an access}."""
    access = warps.nbytes > 0
    pairs = np.stack([warps.place[warps.request[access]], warps.nbytes[access]])
    return dict(np.unique(pairs, axis=1).T.tolist())


def _steps(warps: Warps) -> tuple[list, np.ndarray]:
    """([step or None of each request], (requests,) whether it is one)."""
    owners, launch = array_of(warps), warps.launch
    by_request = np.argsort(warps.request, kind="stable")
    cuts = np.searchsorted(warps.request[by_request], np.arange(len(warps.place) + 1)).tolist()
    lanes = warps.lane[by_request].tolist()
    owners = owners[by_request].tolist()
    addresses = warps.events["address"][by_request].tolist()
    lines = [p.line(launch.code.file) if p.frames else None for p in warps.places]
    steps: list = []
    last: tuple = ()
    for number, place in enumerate(warps.place.tolist()):
        start, stop = cuts[number], cuts[number + 1]
        mask = sum(1 << lane for lane in lanes[start:stop])
        mask = -1 if mask == 0xFFFFFFFF else mask
        now = warps.warp[number], lines[place], mask
        if owners[start] < 0:
            same = warps.places[place].kind == "path" and now == last
            steps.append(None if same else [place, mask])
        else:
            array = launch.arrays[owners[start]]
            elements = [(a - array.start) // array.itemsize for a in addresses[start:stop]]
            ahead = lanes[start + 1] - lanes[start] if stop - start > 1 else 1
            stride = (elements[1] - elements[0]) // ahead if stop - start > 1 else 0
            even = all(
                e - elements[0] == stride * (lane - lanes[start])
                for e, lane in zip(elements, lanes[start:stop], strict=True)
            )
            where = [elements[0], stride] if even else [elements]
            steps.append([place, mask, owners[start], *where])
        last = now
    return steps, np.array([step is not None for step in steps], bool)
