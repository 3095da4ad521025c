"""Where a place in a compiled kernel stands in its source: file, line, and what was inlined there.

Read next: warps.py.
"""

import functools
import re
import shutil
import subprocess

from engine.errors import InputError

ADDR2LINE = ("addr2line", "llvm-addr2line", "llvm-addr2line-14")
DIRECTIVE = re.compile(r'^#line (\d+) "(.*)"$')
SHARED = re.compile(r"__shared__ (\w+) (\w+)")
Frame = tuple[str, int, str]  # file, line, function


class Code:
    """A kernel file as it was compiled. library: its path; text: the source with its `#line`s."""

    def __init__(self, library: str, text: str):
        self.library, self.text = library, text

    @functools.cached_property
    def sources(self) -> dict[str, list[str]]:
        """{file: its lines}, of the kernel's file and of its headers."""
        files: dict[str, dict[int, str]] = {}
        file, number = "", 0
        for line in self.text.splitlines():
            if match := DIRECTIVE.match(line):
                number, file = int(match[1]), match[2]
            else:
                files.setdefault(file, {})[number] = line
                number += 1
        return {
            file: [lines.get(n, "") for n in range(1, max(lines) + 1)]
            for file, lines in files.items()
        }

    @property
    def file(self) -> str:
        """The kernel's own file, which the text begins with."""
        return next(iter(self.sources))

    def parameters(self, kernel: str) -> list[tuple[str, str]]:
        """The (type, name) of each parameter of a kernel; a pointer's type is what it points to."""
        listed = re.search(rf"^KERNEL {kernel}\(([^)]*)\)", self.text, re.M)[1]
        words = [re.findall(r"\w+", one) for one in listed.split(",")]
        return [(w[1] if w[0] == "const" else w[0], w[-1]) for w in words]

    def shared(self, kernel: str) -> list[tuple[str, str, int, int]]:
        """(name, type, offset from the first, bytes) of the kernel's variables in shared memory."""
        said = self._run(("nm", "llvm-nm"), "-CS", "--defined-only")
        rows = re.findall(r"^(\w+) (\w+) [bBdD] (?:(\w+)(?:\(.*\))?::)?(\w+)$", said, re.M)
        starts = re.search(r"^(\w+) .* __start_shared_memory$", said, re.M)
        body = self.text.partition(f"KERNEL {kernel}(")[2].partition("\nKERNEL ")[0]
        types = {name: kind for kind, name in SHARED.findall(self.text + body)}  # the own last
        others = set(re.findall(r"^KERNEL (\w+)\(", self.text, re.M)) - {kernel}
        kept = [
            (name, types[name], int(at, 16) - int(starts[1], 16), int(size, 16))
            for at, size, owner, name in rows
            if starts and name in types and owner not in others
        ]
        return sorted(kept, key=lambda row: row[2])

    def frames(self, codes: list[int]) -> list[list[Frame]]:
        """Of the addresses behind calls: the line of the call, then of each inlined function's call
        outwards to the function's own."""
        asked = "".join(f"{code - 1:#x}\n" for code in codes)
        said = self._run(ADDR2LINE, "-a", "-i", "-f", "-C", "-e", asked=asked)
        frames: list[list[Frame]] = []
        lines = iter(said.splitlines())
        for line in lines:
            if line.startswith("0x"):
                frames.append([])
            else:
                file, _, number = next(lines).partition(" ")[0].rpartition(":")
                file = "/".join(file.split("/")[-3:])
                frames[-1].append((file, int(number) if number.isdigit() else 0, line))
        return frames

    def _run(self, programs: tuple[str, ...], *options: str, asked: str = "") -> str:
        program = next(filter(shutil.which, programs), None)
        if program is None:
            raise InputError(
                f"bench.trace: no {programs[0]} is found, which reads lines out of a library; "
                "install binutils or llvm"
            )
        done = subprocess.run(
            [program, *options, self.library], input=asked, capture_output=True, text=True
        )
        if done.returncode:
            raise InputError(f"{program}: {done.stderr[-400:]}")
        return done.stdout
