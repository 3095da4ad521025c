"""Contestants in turn: every one a process of its own, one awake at a time.

Two OpenMP runtimes in one process fight over the cores, and a process has one peak of memory. So
each contestant is built and warmed up in a process of its own and then sleeps on a pipe; the parent
wakes one after the other for a few steps, round after round, and whatever else the machine does in
the meantime falls on all of them alike.

Read next: bench/ours.py, our contestants.
"""

import importlib
import multiprocessing
import pathlib
import resource
import time
from dataclasses import dataclass

RATE = 1e-5  # learning rate while timing: a net that trains for long on little stays where it is


@dataclass(frozen=True)
class Entry:
    """What every contestant is told. threads: of the kernels. data: our own contestants' data set.
    """

    net: str
    act: str
    batch: int
    precision: str
    threads: int
    device: str
    data: str


class Refused(Exception):
    """What a contestant raised, in one line."""


class Contestant:
    """A process that holds one contestant. `kind` is "module:class": only the process imports it.

    Refused where it can't be built, or dies."""

    def __init__(self, name: str, kind: str, entry: Entry, **options):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, kind, entry, options))
        self.process.start()
        theirs.close()
        self.steps: dict[str, int] = {}  # a turn's, by phase
        self.turns: dict[str, list[float]] = {}  # phase -> seconds a step, of every round
        try:
            self.answer()
        except BaseException:
            self.close()
            raise

    def ask(self, call: str, *arguments):
        """The result of a method of the contestant; this process sleeps until it is there."""
        try:
            self.pipe.send((call, arguments))
        except OSError:
            pass  # it is gone; `answer` says how
        return self.answer()

    def answer(self):
        try:
            good, result = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            raise Refused(f"the process ended with code {self.process.exitcode}") from None
        if not good:
            raise Refused(result)
        return result

    def warm(self, phase: str, steps: int, least_seconds: float) -> None:
        """Compile, fill the caches, and find how many steps make a turn of `least_seconds`."""
        self.ask(phase, 1)
        seconds = self.ask(phase, 1)
        self.steps[phase] = max(steps, round(least_seconds / seconds))
        self.turns[phase] = []

    def turn(self, phase: str) -> None:
        self.turns[phase].append(self.ask(phase, self.steps[phase]))

    def close(self) -> None:
        try:
            self.pipe.send(None)
        except OSError:
            pass  # it is gone already
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def serve(pipe, kind: str, entry: Entry, options: dict) -> None:
    """A contestant's process: build it, then answer calls until the parent sends None or is gone.
    """
    try:
        module, name = kind.split(":")
        contestant = getattr(importlib.import_module(module), name)(entry, **options)
        pipe.send((True, None))
        while (order := pipe.recv()) is not None:
            call, arguments = order
            called = peak_mb if call == "peak_mb" else getattr(contestant, call)
            pipe.send((True, called(*arguments)))
    except (EOFError, KeyboardInterrupt):
        pass  # the parent is gone, or goes
    except Exception as error:
        line = str(error).strip().splitlines()
        pipe.send((False, f"{type(error).__name__}: {line[0] if line else ''}"))


def peak_mb() -> float:
    """The most memory that this process has had resident, in 10^6 bytes.

    On Linux VmHWM: getrusage's peak there begins with that of the process that started this one."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def one_round(contestants: list[Contestant], phase: str) -> dict[str, str]:
    """A turn for each, one contestant after the other -> {name: why it left}."""
    left: dict[str, str] = {}
    for contestant in contestants:
        try:
            contestant.turn(phase)
        except Refused as error:
            left[contestant.name] = str(error)
    return left
