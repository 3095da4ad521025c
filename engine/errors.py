"""What can go wrong, in two kinds: bad input (exit code 2) and a failure during a run (1).

Both carry one line that names the value and the remedy. The command lines print it without a
traceback; from Python they are ordinary exceptions.

Read next: kernels/errors.py, those of the devices.
"""

import difflib
from collections.abc import Iterable

LONGEST = 4_000  # characters of an error's line; what is longer loses its middle


class InputError(ValueError):
    """A name, a value or a file that the user can correct. The command lines exit with 2."""

    def __init__(self, text: str):
        super().__init__(one_line(text))


class RunError(RuntimeError):
    """A run that started and can't go on: a NaN loss, a full disk. Commands exit with 1.

    `kind`: a word for run.json, by which a program tells one from another."""

    kind = "failure"

    def __init__(self, text: str):
        super().__init__(one_line(text))


class NotFinite(RunError):
    """A loss, a gradient, a score or a weight that is NaN or infinite."""

    kind = "not finite"


def printable(text: str) -> str:
    """`text` in one line that no terminal obeys: a file's name may hold a line's end, an escape
    sequence, or bytes that are no text. What can't be printed is spelled as `repr` spells it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """`text` as an error's line: printable, and without its middle where it is too long."""
    line = printable(text)
    if len(line) <= LONGEST:
        return line
    half = LONGEST // 2
    return f"{line[:half]} ... {line[-half:]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Text to end an error line with: the nearest known name, then all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


def some(names: Iterable[str], most: int = 5) -> str:
    """The first few of many names, and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """`name` if it is known, else an InputError that names the nearest: a guard for every name."""
    known = list(known)
    if name not in known:
        raise InputError(f"unknown {kind} {name!r}; {nearest(name, known)}")
    return name
