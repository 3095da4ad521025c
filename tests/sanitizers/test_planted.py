"""The sanitizers find what they are there for: faults planted in planted.cpp end a process with a
report, and the same calls on fitting arguments end well.

Only in the build that tests/sanitizers/run.py makes.

Read next: tests/sanitizers/planted.cpp.
"""

import pathlib
import subprocess
import sys

import pytest

planted = pytest.importorskip(
    "sanitizers.planted", reason="only in the sanitizers' build: run.py makes it"
)
TESTS = pathlib.Path(__file__).resolve().parents[1]
RACE = (
    "work = {'target': planted.count, 'args': [3 * 10 ** 7]}  # long enough to meet\n"
    "threads = [threading.Thread(**work) for _ in range(COUNT)]\n"
    "for thread in threads: thread.start()\n"
    "for thread in threads: thread.join()"
)


@pytest.mark.parametrize(
    "kind, fine, fault, report",
    [
        (
            "address",
            "planted.write(numpy.zeros(300, 'f4'), 299)",
            "planted.write(numpy.zeros(300, 'f4'), 300)",
            "AddressSanitizer: heap-buffer-overflow",
        ),
        (
            "address",
            "planted.add(2 ** 31 - 1, -1)",
            "planted.add(2 ** 31 - 1, 1)",
            "runtime error: signed integer overflow: 2147483647 + 1",
        ),
        (
            "thread",
            RACE.replace("COUNT", "1"),
            RACE.replace("COUNT", "2"),
            "ThreadSanitizer: data race",
        ),
    ],
    ids=["write beyond the end", "overflow", "race"],
)
def test_a_planted_fault_is_found(kind, fine, fault, report):
    if planted.sanitizer() != kind:
        pytest.skip(f"this is the build with sanitizer {planted.sanitizer()}")
    for code in (fine, fault):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import threading, numpy\nfrom sanitizers import planted\n{code}\nprint('done')",
            ],
            cwd=TESTS,
            capture_output=True,
            text=True,
            timeout=100,
        )
        if code == fine:
            assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
        else:
            assert done.returncode != 0 and report in done.stderr
