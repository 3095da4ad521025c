"""Jobs by submitit's local executor, with the signals that Slurm sends to every process of a job.

Read next: tests/run/test_sweep.py.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.errors import InputError
from engine.run import checkpoint
from engine.run import folder as runs
from engine.run.queue import Job, pool_of, run_jobs
from helpers.runs import FITNET1

TRAIN = [sys.executable, "-m", "engine.train"]
SMALL = [*FITNET1, "--limit", "128"]


def job(folder: Path, epochs: int = 4) -> Job:
    out = str(folder)
    begin = [*TRAIN, *SMALL, "--epochs", str(epochs), "--out", out]
    return Job(folder.name, folder, begin, [*TRAIN, "--resume", out])


def processes(word: str) -> list[int]:
    """Those with `word` on their command lines, and all below them."""
    parents, found = {}, set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if word in (path / "cmdline").read_text():
                found.add(int(path.name))
        except OSError:
            continue
    while below := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= below
    return sorted(found)


def weights(folder: Path) -> dict[str, bytes]:
    return {name: t.tobytes() for name, t in checkpoint.read(folder).tensors.items()}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_job_that_slurm_stops_goes_on_and_ends_with_the_same_bits(tmp_path, number, capfd):
    pytest.importorskip("submitit")
    straight, cut = job(tmp_path / "straight"), job(tmp_path / "cut")
    queue, stopped = tmp_path / "queue", []

    def stop() -> None:
        deadline = time.monotonic() + 120
        while not runs.read_metrics(cut.folder) and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid in processes(f"submitit.core._submit {queue}".replace(" ", "\0")):
            os.kill(pid, number)
        stopped.append(runs.read_run(cut.folder)["result"])

    thread = threading.Thread(target=stop)
    thread.start()
    assert run_jobs([cut], "local", 1, queue) == {}
    thread.join()
    assert stopped == [None]  # it was in the middle
    logs = "".join(path.read_text() for path in queue.glob("*log.out"))
    assert ("resuming" in logs) and ("stopped at step" in logs)
    errors = "".join(path.read_text() for path in queue.glob("*log.err"))
    again = "Requeued job" in errors + logs
    assert again == (number == signal.SIGUSR2) == ("it goes on" not in capfd.readouterr().out)
    assert run_jobs([straight], None, 1, queue) == {}
    assert runs.read_run(cut.folder)["result"] is not None
    assert weights(cut.folder) == weights(straight.folder)


@pytest.mark.slow
def test_a_job_that_fails_says_why_and_ends_no_other(tmp_path):
    pytest.importorskip("submitit")
    bad = Job("bad", tmp_path / "bad", [*TRAIN, "--net", "fitnet1", "--batch", "0"], [])
    good = job(tmp_path / "good", epochs=0)
    failed = run_jobs([bad, good], "local", 2, tmp_path / "queue")
    assert list(failed) == ["bad"] and "--batch 0" in failed["bad"]
    assert runs.read_run(good.folder)["result"] is not None


@pytest.mark.parametrize(
    "executor, parallel, options, text",
    [
        ("ray", 1, [], "ray"),
        ("local", 0, [], "--parallel 0"),
        ("slurm", 1, ["gpu"], "--set gpu"),
        ("local", 1, ["partition=gpu"], "for --executor slurm"),
        (None, 2, [], "want --executor"),
    ],
)
def test_what_an_executor_can_not_be_told(tmp_path, executor, parallel, options, text):
    with pytest.raises(InputError, match=text):
        pool_of(executor, parallel, tmp_path, options)
