"""The order of reading: "Read next" leads through every room, and every link leads somewhere.

A module's docstring, or the comment at the head of a kernel's file, ends with "Read next:" and the
files to go on with. From each entrance these are roads that fork and never meet: whoever follows
them comes to no file twice, and from all entrances together to every file there is.

Read next: tests/test_readme.py.
"""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from helpers.programs import ROOT

ROOMS = ("engine", "kernels", "lsuv", "models", "bench")
# Where one may begin: the four of README.md, and every room's own door.
ENTRANCES = ("engine/train.py", "lsuv/__init__.py", "kernels/cuda/common.cuh",
             "kernels/cpu/native/module.cpp", "engine/__init__.py", "kernels/__init__.py",
             "models/__init__.py", "bench/__init__.py")
NAMES = re.compile(r"[\w./-]+\.(?:py|cuh?|cpp|c|h|md)\b")


def head(path: Path) -> str:
    """A module's docstring, or the comment that a file of C++ or CUDA begins with."""
    text = path.read_text()
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(text)) or ""
    comment = re.match(r"(?://[^\n]*\n)*", text)[0]
    return re.sub(r"^// ?", "", comment, flags=re.M)


def read_next(path: Path) -> list[Path]:
    """The files that `path` names behind its last "Read next:"."""
    _, mark, names = head(path).rpartition("Read next:")
    assert mark, f"{path.relative_to(ROOT)} does not say what to read next"
    targets = []
    for name in NAMES.findall(names):
        places = [place for place in (path.parent / name, ROOT / name) if place.is_file()]
        assert places, f"{path.relative_to(ROOT)}: Read next names {name}, and there is none"
        targets.append(places[0].resolve())
    return targets


def source(*rooms: str) -> set[Path]:
    return {path for room in rooms for path in (ROOT / room).rglob("*")
            if path.suffix in (".py", ".cu", ".cuh", ".cpp", ".h") and path.is_file()}


def follow(entrance: str, rooms: tuple[str, ...]) -> dict[Path, Path]:
    """Every file of these rooms on the roads from an entrance, and the file that led to it."""
    begin, files = ROOT / entrance, source(*rooms)
    reached, ahead = {begin: begin}, [begin]
    while ahead:
        path = ahead.pop()
        for target in read_next(path):
            if target in files:
                assert target not in reached, (
                    f"{entrance}: {target.relative_to(ROOT)} is next for both "
                    f"{reached[target].relative_to(ROOT)} and {path.relative_to(ROOT)}")
                reached[target] = path
                ahead.append(target)
    return reached


@pytest.mark.parametrize("room", [])
def test_the_roads_through_a_room_lead_to_all_of_it(room):
    reached = set()
    for entrance in ENTRANCES:
        if (ROOT / entrance).is_relative_to(ROOT / room):
            reached |= follow(entrance, (room,)).keys()
    lost = {str(path.relative_to(ROOT)) for path in source(room) - reached}
    assert not lost


def test_everything_says_what_to_read_next_and_it_is_there():
    """The tests too."""
    assert all(read_next(path) for path in sorted(source(*ROOMS)))
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if "Read next" in head(path):
            assert read_next(path), path
