"""The order of reading: "Read next" leads through every room, and every link leads somewhere.

A module's docstring, or the comment at the head of a kernel's file, ends with "Read next:" and the
files to go on with. These are roads that fork: from the entrances they lead to every file there is,
inside a room to none twice, and never round.

Read next: tests/test_readme.py.
"""

import ast
import functools
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from urllib.parse import unquote

import pytest

from helpers.programs import ROOT

ROOMS = ("engine", "kernels", "lsuv", "models", "bench")
# Where one may begin, as README.md says; and at every door, a package's __init__.py or __main__.py.
ENTRANCES = (
    "engine/train.py",
    "lsuv/__init__.py",
    "kernels/cuda/common.cuh",
    "kernels/cpu/native/module.cpp",
)
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


@functools.cache
def source(*rooms: str) -> set[Path]:
    return {
        path
        for room in rooms
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".cu", ".cuh", ".cpp", ".h") and path.is_file()
    }


@functools.cache
def roads() -> dict[Path, list[Path]]:
    """Every file of the rooms, and those that it names to be read next."""
    return {
        path: [target for target in read_next(path) if target in source(*ROOMS)]
        for path in sorted(source(*ROOMS))
    }


def doors() -> set[Path]:
    return {ROOT / name for name in ENTRANCES} | {
        path for path in source(*ROOMS) if path.name in ("__init__.py", "__main__.py")
    }


def short(paths) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("room", ["engine", "kernels", "lsuv", "models", "bench"])
def test_the_roads_lead_to_every_file_of_a_room(room):
    reached = ahead = doors()
    while ahead:
        ahead = {target for path in ahead for target in roads()[path]} - reached
        reached = reached | ahead
    assert not short(sorted(source(room) - reached))


@pytest.mark.parametrize("room", ["engine", "kernels", "lsuv", "models", "bench"])
def test_a_file_is_next_for_one_of_its_room(room):
    """And for any number of doors and of other rooms."""
    for target in source(room):
        before = [path for path in sorted(source(room) - doors()) if target in roads()[path]]
        assert len(before) <= 1, f"{short([target])} is next for {short(before)}"


def test_no_road_leads_round():
    files = source(*ROOMS)
    try:
        TopologicalSorter(
            {path: files & set(ahead) for path, ahead in roads().items() if path in files}
        ).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(short(error.args[1])))


def test_what_is_to_be_read_next_is_there():
    """Named by the tests too."""
    paths = source(*ROOMS) | set((ROOT / "tests").rglob("*.py"))
    for path in sorted(paths):
        if "Read next" in head(path):
            assert read_next(path), f"{path.relative_to(ROOT)} names no file to read next"


# -- links of the documents -----------------------------------------------------------------------

DOCUMENTS = [
    path
    for folder in (".", *ROOMS, "tests")
    for path in sorted((ROOT / folder).glob("*.md" if folder == "." else "**/*.md"))
]
LINK = re.compile(
    r"\]\(\s*<?([^)\s>]+)"  # [text](target)
    r"|^\s*\[[^\]]+\]:\s*(\S+)"  # [name]: target
    r"|(?:href|src)=[\"']([^\"']+)",
    re.M,
)
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
        number = sum(
            other == name or other.startswith(f"{name}-") and other[len(name) + 1 :].isdigit()
            for other in names
        )
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
        if (
            not file.exists()
            or not file.is_relative_to(root)
            or (place and file.suffix == ".md" and unquote(place) not in anchors(file))
        ):
            bad.append(target)
    return bad + [name for name in PATH.findall(text) if not (root / name).is_file()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(path):
    assert not broken(path)


@pytest.mark.parametrize(
    "text, bad",
    [
        ("[a](#the-loop-and-what-it-costs)\n# The loop, and what `it` costs", []),
        ("# Twice\n# Twice\n[a](#twice-1) [b](#twice-2)", ["#twice-2"]),
        ('[a](#here) [b](other.md#there)\n<a id="here"></a>', []),
        ("[a](other.md#here)", ["other.md#here"]),
        ("![a](none.png)", ["none.png"]),
        ("[a](../..)", ["../.."]),
        ("[a][n]\n\n[n]: none.md", ["none.md"]),
        ("`engine/layers.py` `engine/none.py` `none/`", ["engine/none.py"]),
        ("[![a](none.png)](https://example.org)", ["none.png"]),
        ("```\n[a](none)\n```\nhttps://example.org/none", []),
    ],
)
def test_the_search_finds_what_leads_nowhere(tmp_path, text, bad):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "layers.py").touch()
    (tmp_path / "other.md").write_text("# There")
    (tmp_path / "it.md").write_text(text)
    assert broken(tmp_path / "it.md", tmp_path) == bad
