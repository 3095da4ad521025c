"""A run's rows for programs that read other formats than metrics.csv: `--log tensorboard,caffe`.

    events.out.tfevents.…    TensorBoard's, by tensorboardX (pip install 'lsuv-engine[tensorboard]')
    caffe.log                the lines of Caffe's solver that its tools/extra/parse_log.py looks for

Read next: tests/engine/test_train_options.py.
"""

import re
import time
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.run.files import write_atomic

CAFFE = "caffe.log"


def kinds_of(log: str | None) -> list[str]:
    """What --log asks for. InputError where a package is missing."""
    kinds = log.split(",") if log else []
    if "tensorboard" in kinds:
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"--log tensorboard: the package tensorboardX can't be imported ({error}); "
                "pip install 'tensorboardX>=2.6'"
            ) from None
    return kinds


class Logs:
    """What writes them, a call of `epoch` a row. log: as --log has it, or None."""

    def __init__(self, log: str | None, folder: Path):
        self.kinds, self.folder = kinds_of(log), folder
        self.writer: Any = None

    def epoch(self, rows: list[dict]) -> None:
        """The last of these rows is new."""
        if "tensorboard" in self.kinds:
            self.events(rows[-1])
        if "caffe" in self.kinds:
            write_atomic(self.folder / CAFFE, ("\n".join(caffe_lines(rows)) + "\n").encode())

    def events(self, row: dict) -> None:
        """The row's numbers, at its step. What a run that was killed has written beyond its
        checkpoint is purged, as TensorBoard calls it.

        tensorboardX's SummaryWriter has a thread that is never waited for; this is what it uses."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        step = row["step"]
        if self.writer is None:  # its name has the second and this: a run resumed within one, too
            self.writer = EventsWriter(str(self.folder / "events"), f".{step}")
            self.writer.write_event(
                Event(
                    wall_time=time.time(),
                    step=step,
                    session_log=SessionLog(status=SessionLog.START),
                )
            )
        values = [
            Summary.Value(tag=re.sub("_(loss|accuracy)", r"/\1", name), simple_value=value)
            for name, value in row.items()
            if name not in ("epoch", "step") and value is not None
        ]
        self.writer.write_event(
            Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        )
        self.writer.flush()


def caffe_lines(rows: list[dict]) -> list[str]:
    """The log of Caffe's solver that these rows would be, with times as if nothing had stopped it.
    A loss that is not finite is left out."""
    began, which = time.time() - rows[-1]["seconds"], "test"
    if "validation_loss" in rows[0]:
        which = "validation"

    def line(seconds: float, text: str) -> str:
        moment = began + seconds
        micro = int(moment % 1 * 1e6)
        stamp = f"{time.strftime('%m%d %H:%M:%S', time.localtime(moment))}.{micro:06}"
        return f"I{stamp} {1:5} solver.cpp:1] {text}"

    lines = [line(0, "Solving")]
    for row in rows:
        said = [f"Iteration {row['step']}, lr = {row['lr']:.10g}"]
        for net, name in (("Train", "train"), ("Test", which)):
            said.append(f"Iteration {row['step']}, {net} net")
            for number, what in enumerate(("accuracy", "loss")):
                value = row[f"{name}_{what}"]
                if value is not None and abs(value) < float("inf"):
                    said.append(f"    {net} net output #{number}: {what} = {value:.6g}")
        lines += [line(row["seconds"], text) for text in said]
    return lines
