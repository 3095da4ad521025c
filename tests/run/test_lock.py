"""One run folder, one writer: refused while a process lives, taken over when it is gone.

Read next: tests/engine/test_train.py.
"""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

import engine.train
from engine.errors import InputError
from engine.run import folder as runs
from engine.run.files import write_json
from engine.run.lock import LOCK, WRITER, hold

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the system has no flock")
RUN = [
    "--net",
    "fitnet1",
    "--data",
    "synthetic",
    "--limit",
    "16",
    "--batch",
    "8",
    "--recipe",
    "fast",
    "--epochs",
    "1",
    "--device",
    "numpy",
]
HOLDER = """
import sys, time, pathlib
from engine.run.lock import hold
with hold(pathlib.Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], text=True, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_writer_is_refused_by_name(tmp_path, holder):
    before = (tmp_path / WRITER).read_text()
    words = f"process {holder.pid} on .* is writing this run; wait"
    with pytest.raises(InputError, match=words), hold(tmp_path, print):
        pytest.fail("two writers")
    assert (tmp_path / WRITER).read_text() == before
    assert json.loads(before)["pid"] == holder.pid


def test_a_lock_that_was_left_is_taken_over_and_said(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    notes = []
    with hold(tmp_path, notes.append):
        assert json.loads((tmp_path / WRITER).read_text())["pid"] == os.getpid()
    assert len(notes) == 1 and f"left by process {holder.pid}" in notes[0]
    assert not (tmp_path / WRITER).exists()


@pytest.mark.parametrize("text", ["", "{", "5", '{"pid": "x", "host": 1, "started": 2}'])
def test_what_stands_in_the_file_does_not_matter(tmp_path, text):
    (tmp_path / WRITER).write_text(text)
    notes = []
    with hold(tmp_path, notes.append):
        pass
    assert not notes and not (tmp_path / WRITER).exists()


def test_an_error_inside_frees_the_folder(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), hold(tmp_path, pytest.fail):
            raise ZeroDivisionError


def test_training_and_resuming_want_the_folder_alone(tmp_path, holder):
    """A new run and a resumed one are refused, and change nothing."""
    with pytest.raises(InputError, match="is writing this run"):
        engine.train.main([*RUN, "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {LOCK, WRITER}
    holder.kill()
    holder.wait()
    engine.train.main([*RUN, "--out", str(tmp_path)])
    assert not (tmp_path / WRITER).exists()
    record = runs.read_run(tmp_path)
    write_json(tmp_path / runs.RUN, record | {"result": None})
    with hold(tmp_path, pytest.fail), pytest.raises(InputError, match="is writing this run"):
        engine.train.main(["--resume", str(tmp_path)])


def test_many_writers_in_turn(tmp_path):
    """Ten processes that want the folder at once: each gets it whole, one after another."""
    work = """
import sys, time, pathlib
from engine.errors import InputError
from engine.run.lock import hold
folder = pathlib.Path(sys.argv[1])
for _ in range(5):
    while True:
        try:
            with hold(folder, print):
                inside = folder / "inside"
                assert not inside.exists()
                inside.touch()
                time.sleep(0.002)
                inside.unlink()
            break
        except InputError:
            time.sleep(0.001)
"""
    started = [subprocess.Popen([sys.executable, "-c", work, str(tmp_path)]) for _ in range(10)]
    assert [process.wait() for process in started] == [0] * 10
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_can_be_no_lock_is_named(tmp_path, make):
    make(tmp_path / LOCK)
    words = f"{LOCK}: .*no run's lock; remove it"
    with pytest.raises(InputError, match=words), hold(tmp_path, print):
        pass


def test_a_file_system_without_locks_is_not_taken_for_a_second_writer(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    words = "can't be locked .No locks available.; give an --out"
    with pytest.raises(InputError, match=words), hold(tmp_path, print):
        pass
