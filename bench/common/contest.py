"""Contestants in turn: every one a process of its own, one awake at a time.

Two OpenMP runtimes in one process fight over the cores, and a process has one peak of memory. So
each contestant is built and warmed up in a process of its own and then sleeps on a pipe; the parent
wakes one after the other for a few steps, round after round, and whatever else the machine does in
the meantime falls on all of them alike. bench.step, bench.init, bench.kernels and bench.gpu all
time this way.

Read next: bench/common/ours.py, our contestants.
"""

import importlib
import multiprocessing
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from engine.errors import RunError

RATE = 1e-5  # learning rate while timing: a net that trains for long on little stays where it is

# BLAS and OpenMP read these when they are loaded, which is before a contestant could say it.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Setting:
    """What every contestant is told. threads: of its kernels and its BLAS. device: of ours."""

    threads: int
    device: str


@dataclass(frozen=True)
class Entry:
    """What a contestant of a training step is told: a Setting's, and the net. data: the data set of
    our own contestants. recipe: whose dropout, clipping and optimizer a step has."""

    net: str
    act: str
    batch: int
    precision: str
    threads: int
    device: str
    data: str
    recipe: str = "fast"


class Refused(Exception):
    """What a contestant raised, in one line."""


class Deadline:
    """Seconds that something may take."""

    def __init__(self, seconds: float = float("inf")):
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return max(0.0, self.end - time.monotonic())

    def over(self) -> bool:
        return self.left() == 0


class Contestant:
    """A process that holds one contestant, with `entry.threads` threads.

    kind: "module:class", which only the process imports, and calls with the entry and the options.
    Refused where it can't be built, or dies."""

    def __init__(self, name: str, kind: str, entry: Setting | Entry, **options):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, kind, entry, options))
        with environment(dict.fromkeys(THREADS, str(entry.threads))):
            self.process.start()
        theirs.close()
        self.steps: dict[str, int] = {}  # a turn's, by phase
        self.turns: dict[str, list[float]] = {}  # phase -> seconds a step, of every round
        try:
            self.answer()
        except BaseException:
            self.close()
            raise

    def ask(self, call: str, *arguments, within: float | None = None):
        """The result of a method of the contestant; this process sleeps until it is there. within:
        Refused after so many seconds."""
        with suppress(OSError):  # it is gone; `answer` says how
            self.pipe.send((call, arguments))
        return self.answer(within)

    def answer(self, within: float | None = None):
        try:
            if not self.pipe.poll(within):
                raise Refused(f"no answer within {within:.0f} s")
            good, result = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            raise Refused(f"the process ended with code {self.process.exitcode}") from None
        if not good:
            raise Refused(result)
        return result

    def warm(
        self, phase: str, steps: int, least_seconds: float, within: float | None = None
    ) -> None:
        """Compile, fill the caches, and find how many steps make a turn of `least_seconds`. within:
        Refused where the first step takes longer than so many seconds."""
        self.ask(phase, 1, within=within)
        seconds = self.ask(phase, 1)
        self.steps[phase] = max(steps, round(least_seconds / seconds))
        self.turns[phase] = []

    def turn(self, phase: str) -> None:
        self.turns[phase].append(self.ask(phase, self.steps[phase]))

    def close(self) -> None:
        with suppress(OSError):  # it is gone already
            self.pipe.send(None)
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


@dataclass(frozen=True)
class Place:
    """A contestant in one phase, under the name of its row. peer: it may leave; ours may not."""

    name: str
    contestant: Contestant
    phase: str
    peer: bool = False

    @property
    def turns(self) -> list[float]:
        """Seconds a step, of every round."""
        return self.contestant.turns[self.phase]


def compete(
    places: list[Place],
    rounds: int,
    steps: int,
    seconds: float,
    deadline: Deadline | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Warm all up, then the rounds, one place after the other -> {peer that left: why}.

    A turn is `steps` steps, or as many as fill `seconds`. deadline: of a peer's first step, which
    may be a compiler's. RunError where one of ours fails. A peer that leaves is ended, so that it
    does nothing while the others are timed."""
    left: dict[str, str] = {}

    def tried(place: Place, call: Callable[..., None], *arguments) -> None:
        try:
            call(place.phase, *arguments)
        except Refused as error:
            if not place.peer:
                raise RunError(f"{place.name}: {error}") from error
            left[place.name] = str(error)
            place.contestant.close()
            report(f"{place.name} is left out: {error}")

    for place in places:
        within = max(deadline.left(), 1.0) if deadline and place.peer else None
        tried(place, place.contestant.warm, steps, seconds, within)
        report(f"{place.name}: warm for {place.phase}")
    for number in range(rounds):
        for place in places:
            if place.name not in left:
                tried(place, place.contestant.turn)
        report(f"round {number + 1} of {rounds}")
    return left


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """These environment variables, for the processes that are started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def close(contestants: Iterable[Contestant]) -> None:
    for contestant in contestants:
        contestant.close()


def serve(pipe, kind: str, entry: Setting | Entry, options: dict) -> None:
    """A contestant's process: build it, answer calls until the parent sends None or is gone."""
    try:
        module, name = kind.split(":")
        contestant = getattr(importlib.import_module(module), name)(entry, **options)
        pipe.send((True, None))
        while (order := pipe.recv()) is not None:
            call, arguments = order
            method = peak_mb if call == "peak_mb" else getattr(contestant, call)
            pipe.send((True, method(*arguments)))
    except (EOFError, KeyboardInterrupt):
        pass  # the parent is gone, or goes
    except Exception as error:
        line = str(error).strip().splitlines()
        pipe.send((False, f"{type(error).__name__}: {line[0] if line else ''}"))


def mean_seconds(call, times: int, synchronize=lambda: None) -> float:
    """Seconds of a call, the mean over `times`, after one not timed. synchronize: waits for a
    device that has not finished when a call returns."""
    call()
    synchronize()
    start = time.perf_counter()
    for _ in range(times):
        call()
    synchronize()
    return (time.perf_counter() - start) / times


def peak_mb() -> float:
    """The most memory that this process has had resident, in 10^6 bytes.

    On Linux VmHWM: getrusage's peak there begins with that of the process that started this one,
    and is in units of 1,024 bytes; on macOS in bytes."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
