"""The pictures of kernels/cuda/README.md, drawn from traces.

    python -m bench.trace pictures kernels/cuda/pictures

Each shows what an exercise starts from above what the project's own kernel does. They are SVG, 400
wide: as wide as a phone, light or dark as the reader's page is.

Read next: bench/README.md.
"""

from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np

from bench.trace.cases import case_of
from bench.trace.exercise import start
from bench.trace.exercises import EXERCISES, THREADS
from bench.trace.figures import array_of, traffic
from bench.trace.recorder import WARP, Launch
from bench.trace.warps import Warps, warps_of
from engine.cli.command import Parser
from engine.run.files import write_atomic

WIDTH, LEFT = 400, 8
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2328}.b{font-weight:600}"
    ".load{fill:#2f81f7}.store{fill:#d9822b}.shuffle{fill:#a371f7}.idle{fill:#d0d7de}"
    ".vote{fill:#3fa55c}.waste{fill:#f2a6a0}.b0{fill:#2f81f7}.b1{fill:#d9822b}.b2{fill:#3fa55c}.b3{fill:#a371f7}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.idle{fill:#343b44}.waste{fill:#8c3b38}}"
)
BY_NAME = {exercise.name: exercise for exercise in EXERCISES}


class Drawing:
    """Grows downwards: `y` is where the next part goes."""

    def __init__(self, title: str):
        self.title, self.parts, self.y = title, [], 6
        self.text(title, "b")

    def text(self, words: str, kind: str = "") -> None:
        self.y += 14
        mark = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text x="{LEFT}" y="{self.y}"{mark}>{escape(words)}</text>')
        self.y += 5

    def legend(self, *items: tuple[str, str]) -> None:
        """A line of (kind, words), each behind a box of its colour."""
        x = LEFT
        for kind, words in items:
            self.box(x, self.y + 4, 10, 10, kind)
            self.parts.append(f'<text x="{x + 14}" y="{self.y + 13}">{escape(words)}</text>')
            x += 30 + round(6.3 * len(words))
        self.y += 20

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        numbers = zip(["x", "y", "width", "height"], [x, y, width, height], strict=True)
        where = " ".join(f'{name}="{number:g}"' for name, number in numbers)
        self.parts.append(f'<rect {where} class="{kind}"/>')

    def grid(self, kinds: list[list[str]], width: float, height: float, x: float = LEFT) -> None:
        """Rows of cells. Equal ones of a column are one box, and between columns is a gap."""
        for i, column in enumerate(zip(*kinds, strict=True)):
            at = 0
            for kind, run in groupby(column):
                size = len(list(run))
                place = round(x + i * width, 2), round(self.y + at * height, 2)
                self.box(*place, width - 0.5, round(size * height, 2), kind)
                at += size

    def svg(self) -> str:
        size = f'width="{WIDTH}" height="{self.y + 6}" viewBox="0 0 {WIDTH} {self.y + 6}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>'
        lines = [head, f"<title>{escape(self.title)}</title>", f"<style>{STYLE}</style>"]
        return "\n".join([*lines, *self.parts, "</svg>\n"])


def ours(operation: str, shape: str | None = None) -> list[Launch]:
    from bench.trace.__main__ import trace

    return trace(case_of(operation, shape))


def loads(warps: Warps, array: str) -> tuple[np.ndarray, np.ndarray]:
    """(events,) which of them load of an array, and their addresses, from that of its start."""
    number = [each.name for each in warps.launch.arrays].index(array)
    mine = (array_of(warps) == number) & (warps.kinds[warps.request] == "load")
    address = warps.events["address"][mine].astype(np.int64)
    return mine, address - warps.launch.arrays[number].start


def request(warps: Warps, array: str) -> tuple[np.ndarray, np.ndarray]:
    """(addresses, bytes) of the first load of an array by a whole warp."""
    mine, address = loads(warps, array)
    whole = np.flatnonzero(np.bincount(warps.request[mine]) == WARP)[0]
    first = warps.request[mine] == whole
    return address[first], warps.nbytes[mine][first]


def sectors(drawing: Drawing, words: str, launch: Launch, array: str) -> None:
    """The sectors that a request touches, each with its eight words of 4 bytes."""
    address, nbytes = request(warps_of(launch), array)
    wanted = {a + at for a, n in zip(address, nbytes, strict=True) for at in range(0, n, 4)}
    touched = sorted({word // 32 for word in wanted})
    drawing.text(
        f"{words}: {len(touched)} sectors, {4 * len(wanted)} of {32 * len(touched)} bytes wanted"
    )
    for n, sector in enumerate(touched):
        kinds = ["load" if 32 * sector + at in wanted else "waste" for at in range(0, 32, 4)]
        drawing.grid([kinds], 5.5, 10, LEFT + n % 8 * 48)
        if n % 8 == 7 or n + 1 == len(touched):
            drawing.y += 13


def maxout() -> Drawing:
    drawing = Drawing("A warp's first request for x, and the sectors it touches")
    sectors(drawing, "start", start(BY_NAME["maxout"], 256, 16)[0], "x")
    sectors(drawing, "maxout.cu", ours("maxout_forward", "4,8,16")[0], "x")
    drawing.legend(("load", "4 bytes, wanted"), ("waste", "moved all the same"))
    return drawing


def maxout_pool() -> Drawing:
    drawing = Drawing("Bytes that are moved, array by array")
    for words, launches in (
        ("start", start(BY_NAME["maxout_pool"], 2, 8, 8, 16)),
        ("maxout_pool.cu", ours("maxout_pool_forward", "2,8,16")),
    ):
        rows = [row for launch in launches for row in traffic(warps_of(launch))]
        drawing.text(f"{words}: {sum(row.moved for row in rows):,} bytes")
        for row in rows:
            length = row.moved * 200 / 16384
            drawing.box(170, drawing.y + 4, length, 12, row.kind)
            drawing.text(f"    {row.kind}s of {row.array}: {row.moved:,}")
    return drawing


def column_sums() -> Drawing:
    drawing = Drawing("Which block reads what of x, 512 rows of 32 channels")
    for words, launch in (
        ("start", start(BY_NAME["column_sums"], 512, 32)[0]),
        ("columns.cu", ours("linear_backward_filter", "512,8,32")[0]),
    ):
        warps = warps_of(launch)
        mine, address = loads(warps, "x")
        block, nbytes = warps.events["thread"][mine] // THREADS, warps.nbytes[mine]
        reader = np.zeros(512 * 32, int)
        for at in range(4):
            reader[(address // 4 + at)[nbytes > 4 * at]] = block[nbytes > 4 * at]
        drawing.text(f"{words}: {len(set(block))} blocks, {nbytes[0]} bytes an access of a thread")
        drawing.grid([[f"b{b % 4}" for b in row] for row in reader.reshape(512, 32)], 12, 0.25)
        drawing.y += 132
    return drawing


def moments() -> Drawing:
    drawing = Drawing("A warp's load of shared memory, by its 32 banks")
    project = warps_of(ours("batchnorm_forward", "2,8,32")[0])
    first = warps_of(start(BY_NAME["moments"], 256, 64)[0])
    for words, warps in (("start", first), ("moments.cuh", project)):
        banks = np.bincount(request(warps, "smem")[0] // 4 % 32, minlength=32)
        drawing.text(f"{words}: {banks.max()} turns, as many as words of one bank")
        rows = [["load" if n > level else "idle" for n in banks] for level in range(banks.max())]
        drawing.grid(rows[::-1], 12, 7)
        drawing.y += 7 * len(rows) + 4
    drawing.text("moments.cuh, between barriers: which threads add", "b")
    mine, _ = loads(project, "smem")
    thread, barrier = project.events["thread"], project.kinds[project.request] == "barrier"
    waits = np.cumsum(barrier)  # of a thread, from what those before it have waited
    waits -= waits[np.searchsorted(thread, thread)]
    for after in range(1, waits[thread == 0].max()):
        adding = set(thread[mine & (waits == after)].tolist())
        if not adding:
            break
        kinds = ["load" if 8 * cell in adding else "idle" for cell in range(THREADS // 8)]
        drawing.grid([kinds], 10, 10)
        drawing.parts.append(f'<text x="336" y="{drawing.y + 10}">{len(adding)} add</text>')
        drawing.y += 16
    return drawing


def softmax_loss() -> Drawing:
    drawing = Drawing("A warp: 32 threads from top to bottom, step by step")
    for words, launch in (
        ("start, 32 rows", start(BY_NAME["softmax_loss"], 64, 10)[0]),
        ("loss.cu, one row", ours("softmax_loss_forward", "64,10")[0]),
    ):
        warps = warps_of(launch)
        numbers = np.unique(warps.request[warps.warp[warps.request] == 0])
        steps = [number for number in numbers if warps.kinds[number] != "path"]
        columns = []
        for step in steps:
            lanes = set(warps.lane[warps.request == step].tolist())
            kind = warps.kinds[step]
            columns.append([kind if lane in lanes else "idle" for lane in range(WARP)])
        row = next(row for row in traffic(warps) if (row.array, row.kind) == ("scores", "load"))
        drawing.text(
            f"{words}: {len(steps)} steps, {row.sectors_per_request:.1f} sectors a load of scores"
        )
        width = min(12, (WIDTH - 2 * LEFT) / len(steps))
        drawing.grid([list(row) for row in zip(*columns, strict=True)], width, 4)
        drawing.y += 4 * WARP + 4
    kinds = "load", "store", "shuffle", "vote", "idle"
    drawing.legend(*((kind, kind) for kind in kinds))
    return drawing


PICTURES = (maxout, maxout_pool, column_sums, moments, softmax_loss)


def main(arguments: list[str]) -> int:
    parser = Parser(prog="bench.trace pictures", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="kernels/cuda/pictures are those shown")
    folder = Path(parser.parse_args(arguments).folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number, draw in enumerate(PICTURES, 1):
        path = folder / f"{number}_{draw.__name__}.svg"
        write_atomic(path, draw().svg().encode())
        print(path)
    return 0
