"""Lives of a run: processes that call engine.train's command and end as they are told to.

`Lives()` is a process with everything imported and faults.c preloaded; `lead` forks a child of it
that runs one command, to its end or to its death, so that a life costs no start of Python. The
command line, its files and its signals are the real ones; only the net may be a small one, `tiny`,
or `staged`, whose recipe has three stages.

Read next: tests/run/test_kills.py and tests/run/test_faults.py.
"""

import ctypes
import functools
import json
import os
import shutil
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from helpers.programs import environment

HERE = Path(__file__).resolve().parent
NONE, KILL, TORN, ERROR, SHORT = range(5)  # as in faults.c
STAGES = ("lsuv", "training", "evaluation", "checkpoint")


@dataclass
class End:
    """code: the exit code, minus the signal's number where one ended it. calls: those that changed
    the folder, in words, where the process came to its end. stages: seconds of every entry of every
    stage, by its name."""

    code: int
    out: str
    err: str
    calls: list[list[str]]
    stages: dict[str, list[float]]


class Lives:
    """A context. RuntimeError where there is no C compiler."""

    def __init__(self, folder: Path):
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None or sys.platform != "linux":
            raise RuntimeError("needs Linux and a C compiler")
        self.library, self.folder = folder / "faults.so", folder
        subprocess.run(
            [
                compiler,
                "-O1",
                "-shared",
                "-fPIC",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-o",
                self.library,
                HERE / "faults.c",
                "-ldl",
                "-lpthread",
            ],
            check=True,
        )

    def __enter__(self) -> "Lives":
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.library, self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=environment()
            | {
                "LD_PRELOAD": str(self.library),
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
        )
        return self

    def __exit__(self, *error) -> None:
        self.process.stdin.close()
        self.process.wait(30)

    def lead(
        self,
        arguments,
        root: Path,
        at: int = 0,
        mode: int = NONE,
        kill: tuple[str, int, float] | None = None,
    ) -> End:
        """Run `engine.train ARGUMENTS`. Call number `at` under `root` goes wrong in that mode;
        kill: (stage, its entry, the first being 0, seconds after it began)."""
        order = {
            "arguments": [str(a) for a in arguments],
            "root": str(root),
            "at": at,
            "mode": mode,
            "kill": kill,
        }
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return End(**json.loads(self.process.stdout.readline()))


def serve(library: str, folder: Path) -> None:
    """The process of `Lives`: an order a line on standard input, an End a line on its output."""
    import engine.cli.messages
    import engine.run.checkpoint  # nobody needs it here, and every life does
    import engine.train
    from helpers.nets import STAGED, staged, tiny
    from models import NETS, Model, recipes

    NETS["tiny"] = Model(tiny, (8, 8, 3))
    NETS["staged"] = Model(staged, (8, 8, 3), staged=True)
    recipes.RECIPES["paper", "staged"] = (STAGED,)
    engine.train.load_data = functools.cache(engine.train.load_data)
    engine.run.session.load_data = engine.train.load_data
    engine.train.load_data(
        "synthetic", None, 90, size=(8, 8, 3), wanted="cifar10", report=engine.cli.messages.log_line
    )
    faults = ctypes.CDLL(library)
    for line in sys.stdin:
        order = json.loads(line)
        files = {name: folder / f"life.{name}" for name in ("out", "err", "end")}
        files["end"].write_text("{}")
        child = os.fork()
        if child == 0:
            live(order, faults, files)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        end = {"calls": [], "stages": {}}
        if code >= 0:  # one that was killed may have begun to write it
            end |= json.loads(files["end"].read_text())
        print(
            json.dumps(
                end
                | {
                    "code": code,
                    **{name: files[name].read_text(errors="replace") for name in ("out", "err")},
                }
            ),
            flush=True,
        )


def live(order: dict, faults, files: dict[str, Path]) -> None:
    """The child: does not return."""
    code = 70
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(files[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        times = watched(faults, order["kill"])
        faults.faults_arm(order["root"].encode(), ctypes.c_long(order["at"]), order["mode"])
        code = command(order["arguments"])
        faults.faults_history.restype = ctypes.c_char_p
        calls = [line.split() for line in faults.faults_history().decode().splitlines()]
        faults.faults_arm(b"", ctypes.c_long(0), NONE)
        files["end"].write_text(json.dumps({"calls": calls, "stages": times}))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def command(arguments: list[str]) -> int:
    from engine.cli.command import run_command
    from engine.train import main

    try:
        return run_command("engine.train", lambda: main(arguments))
    except SystemExit as stopped:
        return stopped.code


def watched(faults, kill) -> dict[str, list[float]]:
    """Have every stage timed, and the executioner called at the entry of one that is asked for."""
    import time

    import engine.run.checkpoint
    import engine.train

    times = {stage: [] for stage in STAGES}

    def timed(holder, name: str, stage: str) -> None:
        inner = getattr(holder, name)

        def outer(*arguments, **named):
            if kill and kill[0] == stage and kill[1] == len(times[stage]):
                faults.faults_kill_in(ctypes.c_long(int(kill[2] * 1e6)))
            start = time.perf_counter()
            try:
                return inner(*arguments, **named)
            finally:
                times[stage].append(time.perf_counter() - start)

        setattr(holder, name, outer)

    timed(engine.train, "first_weights", "lsuv")
    timed(engine.train.Net, "backward", "training")
    timed(engine.run.session, "score", "evaluation")
    timed(engine.run.checkpoint, "save", "checkpoint")
    return times


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
