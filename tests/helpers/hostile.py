"""Hostile input for the tests: damaged bytes, forged JSON, and guards around what reads them.

Read next: tests/hostile/test_hostile_flips.py.
"""

import contextlib
import copy
import json
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from helpers.length import often

SECONDS = 20  # for one input: far more than any needs, on a machine that is busy
STATUS = Path("/proc/self/status")


def fuzz(short: int, full: int):
    """The settings of a fuzzer that tries `short` inputs, or `full` with --full."""
    return settings(
        max_examples=often(short, full),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def in_time(seconds: float = SECONDS):
    """A hang is a failure."""

    def ring(number, frame):
        raise AssertionError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def small_memory(megabytes: int = 64):
    """What happens inside needs at most that much memory beyond what the process has.

    Linux keeps the most that a process ever had, and forgets it when clear_refs is given a 5."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the system does not say how much memory was used at most")
    before = kilobytes("VmRSS")
    yield
    assert kilobytes("VmHWM") - before < megabytes * 1024


def kilobytes(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def assert_one_line(error: Exception, *named) -> None:
    """The message is one line, printable on any terminal, and names these."""
    text = str(error)
    assert text.isprintable() and text
    for name in named:
        assert str(name) in text, text


# --- bytes ---------------------------------------------------------------------------------------


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


EXTREME = [
    b"\0",
    b"\xff",
    b"\0" * 4,
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0" * 8,
    b"\xff" * 8,
    b"\xff" * 7 + b"\x7f",
    b"\0\0\0\0\0\0\0\x40",
]


@st.composite
def damaged(draw, whole: bytes):
    """`whole` after one to four accidents: bits flipped, bytes lost, doubled, moved, made up."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        near = draw(st.booleans())  # most of what matters stands at the beginning
        at = draw(st.integers(0, min(64, len(data)) if near else len(data)))
        length = draw(st.integers(1, 40))
        kind = draw(st.integers(0, 6))
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = draw(st.binary(min_size=1, max_size=40))
        elif kind == 3:
            data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            data[at : at + length] = draw(st.sampled_from(EXTREME))
        else:
            del data[at:]
    return bytes(data)


# --- JSON ----------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            False,
            0,
            1,
            -1,
            2,
            2**31,
            2**32,
            2**62,
            2**63,
            2**64,
            10**30,
            -(10**30),
            10**400,
            1e308,
            0.5,
            -0.5,
            "",
            "x",
            "1",
            "a\nb",
            "\0",
            "\ud800",
            "\u202e",
            "x" * 5000,
            [],
            {},
            [[]],
            [1],
            [0.1],
            ["x"],
            {"policy": "fixed"},
            [2**62],
            [2**62, 0],
            [0, 2**62],
            [-1, 1],
            [[1]],
            {"a": {}},
        ]
    ),
    st.integers(-10, 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)


@st.composite
def forged(draw, value):
    """JSON text of `value` with some of it dropped, renamed, doubled, or of other types."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = list(every_place(value))
        if not places:
            break
        inner, key = draw(st.sampled_from(places))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            del inner[key]
        elif kind == 1 and isinstance(inner, dict):
            inner[draw(st.sampled_from(["", "x", f"{key}2", "__metadata__"]))] = inner.pop(key)
        else:
            inner[key] = copy.deepcopy(draw(VALUES))
    text = json.dumps(value)
    kind = draw(st.integers(0, 9))
    if kind == 0 and '"' in text:  # a member twice
        at = draw(st.sampled_from([i for i, c in enumerate(text) if c == "{"] or [0]))
        text = f'{text[: at + 1]}"seed": 1, "seed": 2, {text[at + 1 :]}'
    elif kind == 1:
        text = draw(damaged(text.encode())).decode(errors="replace")
    elif kind == 2:
        text = text.replace(
            "1", draw(st.sampled_from(["NaN", "1e999", "-Infinity", "1" * 5000])), 1
        )
    elif kind == 3:
        text = text.replace("}", draw(st.sampled_from(["[" * 3000, "]", ",}", '"', "\ufeff"])), 1)
    return text


def every_place(value):
    """(container, key) of everything within a value of JSON."""
    for key, inner in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield value, key
        yield from every_place(inner)


# --- names ---------------------------------------------------------------------------------------

NAMES = [
    "a",
    "b",
    "img10",
    "img9",
    "chat",
    "猫",
    "собака",
    "café",
    "cafe\u0301",
    "قطة",
    "ⅷ",
    "４２",
    "😺",
    "a b",
    " ",
    "a\nb",
    "a\tb",
    "\x1b[31mred",
    "\u202eltr",
    "\u2028",
    "\x7f",
    "-h",
    "--",
    "'",
    '"',
    "\\",
    "$(x)",
    "%s",
    "{}",
    "*",
    "?",
    "~",
    "NUL",
    "a.png",
    ".hidden",
    "..x",
    os.fsdecode(b"\xff\xfe"),
    os.fsdecode(b"caf\xe9"),
    "0" * 200,
    "9" * 255,
    "é" * 120,
]


def file_names():
    """Names that a file can have: in any script, of no script, with a line's end in them."""
    made = st.binary(min_size=1, max_size=12).map(os.fsdecode) | st.text(min_size=1, max_size=12)
    return (st.sampled_from(NAMES) | made).filter(is_name)


def is_name(name: str) -> bool:
    try:
        return (
            name not in (".", "..")
            and not set(name) & {"/", "\0"}
            and len(os.fsencode(name)) <= 255
        )
    except UnicodeEncodeError:
        return False
