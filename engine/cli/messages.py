"""The lines that a run prints: its first ones, an epoch's, and the last.

Read next: engine/cli/progress.py.
"""

import math
import os
import sys

from engine.cli.settings import Settings, lines
from engine.errors import printable


def print_line(text: str) -> None:
    """A line on standard output: what was asked for."""
    write(text, sys.stdout)


def log_line(text: str) -> None:
    """What happens before the run's first line, such as a download: on standard error."""
    write(text, sys.stderr)


def write(text: str, stream) -> None:
    """A line. Once nobody reads the stream any more, as behind `| head`, or its disk is full, it
    leads nowhere: a run goes on without its words. What the stream's encoding lacks is spelled
    `\\u0436`."""
    text = "\n".join(map(printable, text.split("\n")))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(text, file=stream, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def data_line(name: str) -> str:
    """The data set as the first and the last line name it."""
    made_up = "  (made up by the program, not a real data set)" if name == "synthetic" else ""
    return f"data {printable(name)}{made_up}"


def timed(text: str, device: str) -> str:
    """A figure that is a time, or comes of one. device: as it was asked for; auto takes none that
    is emulated."""
    return f"{text} (emulated: no speed of a GPU)" if device == "emulated" else text


def epoch_line(row: dict, epochs: float, device: str) -> str:
    which = "validation" if "validation_loss" in row else "test"
    return (
        f"epoch {row['epoch']}/{math.ceil(epochs)}  step {row['step']}  lr {row['lr']:.3g}  "
        f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.4f}  "
        f"{which} loss {row[f'{which}_loss']:.4f} accuracy {row[f'{which}_accuracy']:.4f}  "
        + timed(f"images/s {row['images_per_second']:.0f}", device)
    )


def passes_line(scores, passes: int) -> str:
    """scores: of engine/scoring.py."""
    return f"test accuracy after 1 pass {scores.first:.4f}, after {passes} {scores.accuracy:.4f}"


def last_line(result: dict) -> str:
    rate = f"images/s {result['images_per_second']:.0f}"
    loss = float("nan") if result["test_loss"] is None else result["test_loss"]
    return (
        f"test accuracy {result['test_accuracy']:.4f}  error {result['test_error']:.4f}  "
        f"loss {loss:.4f}  epochs {result['epochs']:g}  "
        f"{timed(rate, result['device'])}  device {result['device']}  "
        f"{data_line(result['data'])}"
    )


def print_settings(s: Settings, origins: dict, data, ops) -> None:
    """The first lines: the run in a line, the device and why, the data's notes, every setting."""
    print_line(f"net {s.net}  act {s.act}  init {s.init}  {data_line(data.name)}")
    print_line(f"{ops.why}; {ops.description}")
    print_line(
        f"{len(data.train.images):,} training and {len(data.test.images):,} test images, "
        f"{'x'.join(map(str, data.in_shape))}, {len(data.classes)} classes, "
        f"fingerprint {data.fingerprint}"
    )
    for note in data.notes:
        print_line(f"note: {printable(note)}")
    for line in lines(s, origins):
        print_line(printable(line))


def print_changes(before: Settings, its_origins: dict, s: Settings, origins: dict) -> None:
    """The settings in which a stage differs from the one before."""
    known = lines(before, its_origins)
    for line in lines(s, origins):
        if line not in known:
            print_line(printable(line))
