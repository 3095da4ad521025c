"""What a run shows while it works: a bar with loss, images/s and time left on a terminal, plain
lines elsewhere.

Read next: tests/engine/test_cli_errors.py, what is said of wrong words.
"""

import sys
import time
from typing import Any

from engine.cli.messages import print_line, timed

PLAIN_SECONDS = 60  # between two plain lines within an epoch


class ProgressBar:
    """A context; `line` prints above the bar, `step` moves it. Steps count the whole run."""

    def __init__(self, total: int, done: int, device: str):
        self.total, self.done, self.device = total, done, device
        self.bar: Any = None  # rich's, on a terminal
        self.spoke = time.perf_counter()
        self.terminal = sys.stdout is not None and sys.stdout.isatty()

    def __enter__(self) -> "ProgressBar":
        if self.terminal:
            from rich.console import Console  # 15 ms, for a terminal alone
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                TextColumn(
                    "{task.percentage:>3.0f}%  loss {task.fields[loss]}  {task.fields[speed]}  left"
                ),
                TimeRemainingColumn(),
                console=Console(),
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                refresh_per_second=2,
                speed_estimate_period=120,
            )
            self.task = self.bar.add_task(
                "", total=max(self.total, 1), completed=self.done, epoch="1", loss="-", speed="-"
            )
            self.bar.start()
        return self

    def __exit__(self, *error) -> None:
        if self.bar:
            self.bar.stop()

    def line(self, text: str) -> None:
        """One line of text, above the bar if there is one."""
        if self.bar:
            self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print_line(text)

    def step(self, step: int, epoch: int, loss: float, speed: float) -> None:
        """Show where the run is. loss: mean of the epoch so far; speed: training images/s."""
        if self.bar:
            self.bar.update(
                self.task,
                completed=step,
                epoch=str(epoch),
                loss=f"{loss:.4f}",
                speed=timed(f"{speed:.0f} images/s", self.device),
            )
        elif time.perf_counter() - self.spoke > PLAIN_SECONDS:
            self.spoke = time.perf_counter()
            rate = timed(f"images/s {speed:.0f}", self.device)
            self.line(f"  step {step}/{self.total}  epoch {epoch}  loss {loss:.4f}  {rate}")
