"""The order of reading: "Read next" leads through every room, and every link leads somewhere.

A module's docstring, or the comment at the head of a kernel's file, ends with "Read next:" and the
files to go on with. From each entrance these are roads that fork and never meet: whoever follows
them comes to no file twice, and from all entrances together to every file there is.

Read next: tests/test_readme.py.
"""

import ast
import re
from pathlib import Path
from urllib.parse import unquote

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


@pytest.mark.parametrize("room", ["kernels"])
def test_the_roads_through_a_room_lead_to_all_of_it(room):
    reached = set()
    for entrance in ENTRANCES:
        if (ROOT / entrance).is_relative_to(ROOT / room):
            reached |= follow(entrance, (room,)).keys()
    lost = {str(path.relative_to(ROOT)) for path in source(room) - reached}
    assert not lost


def test_what_is_to_be_read_next_is_there():
    """Named by the tests too."""
    paths = source(*ROOMS) | set((ROOT / "tests").rglob("*.py"))
    for path in sorted(paths):
        if "Read next" in head(path):
            assert read_next(path), f"{path.relative_to(ROOT)} names no file to read next"


# -- links of the documents -----------------------------------------------------------------------

DOCUMENTS = [path for folder in (".", *ROOMS, "tests") for path in sorted((ROOT / folder).glob(
    "*.md" if folder == "." else "**/*.md"))]
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)"                # [text](target)
                  r"|^\s*\[[^\]]+\]:\s*(\S+)"           # [name]: target
                  r"|(?:href|src)=[\"']([^\"']+)", re.M)
PATH = re.compile(rf"`((?:{'|'.join(ROOMS)}|tests)/[\w./-]+\.(?:py|cuh?|cpp|h|md))`")


def prose(text: str) -> str:
    """Without its blocks of code."""
    return re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    """The names of a document's places: its headings' as GitHub makes them, and those in HTML."""
    text, names = prose(path.read_text()), set()
    for heading in re.findall(r"^#{1,6} +(.*?)[ #]*$", text, re.M):
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = sum(other == name or other.startswith(f"{name}-") and
                     other[len(name) + 1:].isdigit() for other in names)
        names.add(f"{name}-{number}" if number else name)
    return names | set(re.findall(r"<\w+ [^>]*(?:id|name)=[\"']([^\"']+)", text))


def broken(path: Path, root: Path = ROOT) -> list[str]:
    """The links of a document that lead nowhere, and the files in `code` that are not there."""
    text, bad = prose(path.read_text()), []
    for targets in LINK.findall(text):
        target = next(filter(None, targets))
        if re.match(r"[a-z]+:", target):  # of the web
            continue
        name, _, place = target.partition("#")
        file = (path.parent / unquote(name)).resolve() if name else path
        if not file.exists() or not file.is_relative_to(root) or (
                place and file.suffix == ".md" and unquote(place) not in anchors(file)):
            bad.append(target)
    return bad + [name for name in PATH.findall(text) if not (root / name).is_file()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(path):
    assert not broken(path)


@pytest.mark.parametrize("text, bad", [
    ("[a](#the-loop-and-what-it-costs)\n# The loop, and what `it` costs", []),
    ("# Twice\n# Twice\n[a](#twice-1) [b](#twice-2)", ["#twice-2"]),
    ("[a](#here) [b](other.md#there)\n<a id=\"here\"></a>", []),
    ("[a](other.md#here)", ["other.md#here"]), ("![a](none.png)", ["none.png"]),
    ("[a](../..)", ["../.."]), ("[a][n]\n\n[n]: none.md", ["none.md"]),
    ("`engine/layers.py` `engine/none.py` `none/`", ["engine/none.py"]),
    ("[![a](none.png)](https://example.org)", ["none.png"]),
    ("```\n[a](none)\n```\nhttps://example.org/none", [])])
def test_the_search_finds_what_leads_nowhere(tmp_path, text, bad):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "layers.py").touch()
    (tmp_path / "other.md").write_text("# There")
    (tmp_path / "it.md").write_text(text)
    assert broken(tmp_path / "it.md", tmp_path) == bad
