"""The pictures of kernels/cuda/README.md show what the kernels do today.

Read next: bench/trace/pictures.py.
"""

import re

import pytest

from bench.trace.__main__ import options_of
from bench.trace.cases import case_of
from bench.trace.pictures import PICTURES
from helpers.programs import ROOT
from kernels.emulated.compiler import SANITIZE

pytestmark = pytest.mark.skipif(
    bool(SANITIZE), reason="a kernel has one instrumentation: the sanitizers', or a trace's"
)
FOLDER = ROOT / "kernels" / "cuda"
GUIDE = (FOLDER / "README.md").read_text()
SHOWN = dict(re.findall(r"!\[([^]]*)\]\((pictures/[^)]*)\)", GUIDE))


def words(svg: str) -> tuple[str, list[float]]:
    """What is written in a picture: the words without their numbers, and the numbers."""
    text = "\n".join(re.findall(r"<text[^>]*>([^<]*)", svg))
    numbers = re.findall(r"\d[\d,]*(?:\.\d+)?", text)
    return re.sub(r"\d[\d,.]*", "#", text), [float(n.replace(",", "")) for n in numbers]


@pytest.mark.parametrize("number", range(len(PICTURES)))
def test_a_picture_is_what_a_trace_says(double, number):
    """To 5%, as tests/cuda/test_traffic.py has it: compilers differ."""
    draw = PICTURES[number]
    stored = (FOLDER / "pictures" / f"{number + 1}_{draw.__name__}.svg").read_text()
    (text, numbers), (now, today) = words(stored), words(draw().svg())
    assert text == now, "run bench.trace pictures"
    assert today == pytest.approx(numbers, rel=0.05), "run bench.trace pictures"


def test_the_commands_of_the_guide_are_commands():
    """Of each the operation and the shape; what they print is tested elsewhere."""
    commands = re.findall(r"^python -m bench.trace (.*)$", GUIDE, re.M)
    assert len(commands) == len(PICTURES) + 2  # the first look, and the first exercise
    for command in commands:
        if not command.startswith("exercise"):
            options = options_of(command.split())
            assert case_of(options.kernel, options.shape).op == options.kernel and options.html


def test_the_guide_shows_each_and_says_in_words_what_is_on_it():
    assert len(SHOWN) == len(PICTURES) == len(list((FOLDER / "pictures").iterdir()))
    for said, name in SHOWN.items():
        svg = (FOLDER / name).read_text()
        assert len(svg) < 60_000 and "prefers-color-scheme:dark" in svg
        assert set(words(f"<text>{said}")[1]) <= set(words(svg)[1]), name
