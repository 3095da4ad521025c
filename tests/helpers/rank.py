"""One rank of a run, for the tests: engine.train's command with the net `tiny`, to which something
happens on the way; and `start`, which has MPI start several.

EVENT in the environment is "RANK CALL WHAT SECONDS": so long after the rank's training batch number
CALL began, KILL, TERM or USR1 is sent to it, or it raises RunError or ValueError by itself. When,
it writes into the file that MOMENT names.

Read next: tests/run/test_ranks.py.
"""

import importlib.metadata
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from helpers.programs import environment

ERRORS = {"RunError": "engine.errors", "ValueError": "builtins"}
TEXT = "something is wrong with this one"


def mpi() -> tuple[str, str]:
    """The wheel's mpiexec and library. LookupError where the extra mpi is missing."""
    try:
        importlib.metadata.version("mpi4py")
        files = importlib.metadata.files("mpich") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise LookupError(f"the extra mpi is not installed: {error}") from None
    places = {file.name: file.locate().resolve() for file in files}
    return str(places["mpiexec"]), str(places["libmpi.so.12"])


def start(count: int, arguments, event: str = "", moment: Path | None = None) -> subprocess.Popen:
    """`count` ranks of engine.train ARGUMENTS, of one thread each."""
    mpiexec, library = mpi()
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPI4PY_LIBMPI": library}
    told = {"EVENT": event, "MOMENT": str(moment or os.devnull)}
    return subprocess.Popen(
        [mpiexec, "-n", str(count), sys.executable, __file__, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | one | told,
    )


def happen(what: str) -> None:
    Path(os.environ["MOMENT"]).write_text(repr(time.time()))
    if what in ERRORS:
        raise getattr(__import__(ERRORS[what], fromlist=[what]), what)(TEXT)
    os.kill(os.getpid(), getattr(signal, f"SIG{what}"))


def serve(arguments: list[str]) -> int:
    import engine.train
    from engine.cli.command import run_command
    from helpers.nets import tiny
    from models import NETS, Model

    NETS["tiny"] = Model(tiny, (8, 8, 3))
    rank, call, what, seconds = os.environ["EVENT"].split() or ("-1", "0", "", "0")
    train_batch, calls = engine.train.Feed.train_batch, []

    def watched(self) -> None:
        calls.append(None)
        if len(calls) == int(call) and os.environ["PMI_RANK"] == rank:
            if float(seconds):
                threading.Timer(float(seconds), happen, [what]).start()
            else:
                happen(what)
        train_batch(self)

    engine.train.Feed.train_batch = watched
    return run_command("engine.train", lambda: engine.train.main(arguments))


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
