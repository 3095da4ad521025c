"""Commands one after the other; or beside each other, here or in Slurm's queue, by submitit.

A job is a command that goes on where it was stopped, in a process of its own. What Slurm sends
before a time limit or a preemption (SIGUSR2) reaches the command as SIGTERM: it saves and ends, and
the job is queued again. Exit codes 130 and 143 are of a command that was stopped, not of a failure.

Read next: engine/run/sweep.py.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from engine.cli.messages import print_line
from engine.errors import InputError, choose
from engine.run.folder import RUN, SERIES

EXECUTORS = ("local", "slurm")
STOPPED = {130, 143, -signal.SIGINT, -signal.SIGTERM}
ALWAYS = 1_000_000  # a job is queued again however often its time is over
WARNING = 120  # seconds from Slurm's signal to its end
MINUTES = 60 * 24  # a job's, unless --set time says another


class Job(NamedTuple):
    """begin starts what is kept in folder, go_on continues it; both are argv."""

    name: str
    folder: Path
    begin: list[str]
    go_on: list[str]

    @property
    def argv(self) -> list[str]:
        begun = any((self.folder / name).exists() for name in (RUN, SERIES))
        return self.go_on if begun else self.begin


class Task:
    """A job as submitit calls it -> the command's exit code."""

    def __init__(self, job: Job):
        self.job = job
        self.process: subprocess.Popen | None = None

    def __call__(self) -> int:
        # Slurm signals every process of a job. A blocked signal stays so in the command, whose
        # processes SIGUSR2 would end; and none comes here before the process is known.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        # A session of its own: a terminal's Ctrl-C comes to us alone, and we ask the run once.
        self.process = subprocess.Popen(self.job.argv, start_new_session=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        try:
            # Polled: wait() would hold Popen's lock, for which a handler waits forever.
            while (code := self.process.poll()) is None:
                time.sleep(0.1)
            return code
        except KeyboardInterrupt:
            self.stop()
            raise

    def stop(self) -> None:
        """Ask the command to save, and wait until it has ended."""
        if self.process is not None:
            with suppress(ProcessLookupError, ChildProcessError):
                self.process.terminate()
                peek = os.WEXITED | os.WNOWAIT | os.WNOHANG  # it is for poll() to reap
                while os.waitid(os.P_PID, self.process.pid, peek) is None:
                    time.sleep(0.1)

    def checkpoint(self):
        """Called by submitit in the handler of Slurm's signal -> what is queued again."""
        from submitit.helpers import DelayedSubmission

        self.stop()
        return DelayedSubmission(Task(self.job))


class Here:
    """An executor without submitit: a job is over when it is submitted."""

    def submit(self, task: Task) -> "Here":
        done = Here()
        done.code = task()
        return done

    code = 0

    def batch(self):
        return nullcontext()

    def done(self) -> bool:
        return True

    def result(self) -> int:
        return self.code

    def stderr(self) -> str:
        return ""  # the terminal has it


def pool_of(executor: str | None, parallel: int, folder: Path, options: Sequence[str]) -> Any:
    """submitit's executor; options: Slurm's own, "partition=gpu". InputError."""
    if executor is None:
        if parallel != 1 or options:
            raise InputError("--parallel and --set want --executor local or slurm beside them")
        return Here()
    choose("--executor", executor, EXECUTORS)
    if parallel < 1:
        raise InputError(f"--parallel {parallel} must be at least 1")
    for text in options:
        if not text.partition("=")[2]:
            raise InputError(f"--set {text}: an option of Slurm's, such as partition=gpu")
        if executor == "local":
            raise InputError(f"--set {text} is for --executor slurm")
    try:
        import submitit
    except ImportError:
        raise InputError("--executor needs submitit; pip install 'lsuv-engine[slurm]'") from None
    if executor == "local":
        local = submitit.LocalExecutor(folder, max_num_timeout=ALWAYS)
        local.update_parameters(timeout_min=MINUTES * 365, signal_delay_s=WARNING)
        return local
    try:
        slurm = submitit.SlurmExecutor(folder, max_num_timeout=ALWAYS)
    except RuntimeError:
        raise InputError("--executor slurm: no srun here; run it where Slurm is") from None
    slurm.update_parameters(
        time=MINUTES,
        array_parallelism=parallel,
        signal_delay_s=WARNING,
        additional_parameters=dict(text.split("=", 1) for text in options),
    )
    return slurm


def run_jobs(
    jobs: list[Job], executor: str | None, parallel: int, folder: Path, options: Sequence[str] = ()
) -> dict[str, str]:
    """Run them, `parallel` at a time, and wait -> why each of those that failed did, by name.

    One that was stopped by another than the queue goes on behind the others. folder: of submitit's
    logs."""
    pool = pool_of(executor, parallel, folder, options)
    failed: dict[str, str] = {}
    waiting = list(jobs)
    running: list[tuple[Job, Any]] = []
    try:
        rounds(pool, waiting, running, failed, len(jobs) if executor == "slurm" else parallel)
    except KeyboardInterrupt:
        if executor == "slurm":
            print_line("Slurm goes on with what is queued; the same command puts it together")
        for _, task in running if executor == "local" else ():
            task.cancel()
        raise
    return failed


def rounds(pool, waiting: list, running: list, failed: dict[str, str], room: int) -> None:
    """Submit up to `room` at a time and see what has ended, until nothing is left."""
    while waiting or running:
        batch = waiting[: room - len(running)]
        del waiting[: len(batch)]
        if batch:
            with pool.batch():
                running += [(job, pool.submit(Task(job))) for job in batch]
        for job, task in [pair for pair in running if pair[1].done()]:
            running.remove((job, task))
            if (code := code_of(task)) in STOPPED:
                print_line(f"{job.name}: stopped; it goes on")
                waiting.append(job)
            elif code:
                failed[job.name] = last_line_of(task) or f"exit code {code}"
                print_line(f"{job.name}: failed: {failed[job.name]}")
            else:
                print_line(f"{job.name}: done, {len(waiting) + len(running)} left")
        if running:
            time.sleep(0.5)


def code_of(task) -> int:
    """The command's exit code; 1 where the task came to none."""
    try:
        return task.result()
    except Exception as error:  # submitit's, of many kinds
        print_line(f"queue: {error}".splitlines()[0])
        return 1


def last_line_of(task) -> str:
    lines = (task.stderr() or "").strip().splitlines()
    return next((line for line in reversed(lines) if not line.startswith("submitit")), "")
