"""compute-sanitizer's four tools on a small run, each with a control: a planted bug that it finds.

A tool that reports nothing may not have looked. So each command line is run twice, on
bench/gpu/small.py and on the same program with a bug of the tool's kind, and only a clean first run
and a caught bug count. memcheck also sees cuDNN and cuSOLVER at work; the others see our kernels
alone, since what a vendor's kernel does to its own workspace is its own affair.

Read next: bench/gpu/small.py.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import metadata

from bench.common.contest import Deadline
from bench.gpu.small import TOOLS

PROGRAM = "compute-sanitizer"
WHEEL = "nvidia-cuda-sanitizer-api"  # has it too, and needs no toolkit
MARK = "========="  # what the lines of a tool begin with
REPORT = re.compile(r"Invalid|Uninitialized|Error: Race|Barrier error|Program hit")
FOUND = 99  # its exit code where the program ended well and it found errors
OPTIONS = {"memcheck": ["--report-api-errors", "no"]}  # CuPy raises those itself
ROOT = pathlib.Path(__file__).resolve().parents[2]


def program() -> str | None:
    """Where compute-sanitizer is; None if it is not installed."""
    toolkits = (os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda")
    places = [pathlib.Path(toolkit, "bin", PROGRAM) for toolkit in toolkits if toolkit]
    with suppress(metadata.PackageNotFoundError):
        places += [
            pathlib.Path(file.locate())
            for file in metadata.files(WHEEL) or []
            if file.name == PROGRAM
        ]
    return shutil.which(PROGRAM) or next(
        (str(place) for place in places if os.access(place, os.X_OK)), None
    )


def measure(deadline: Deadline, report: Callable[[str], None]) -> tuple[list[dict], list[str]]:
    """(a row a tool, what was left out). Nothing is timed any more: the tools run together."""
    tool = program()
    if tool is None:
        return [], [f"{PROGRAM} (not installed: pip install {WHEEL}, or a CUDA toolkit)"]
    with ThreadPoolExecutor(len(TOOLS)) as pool:
        rows = list(pool.map(lambda name: one(tool, name, deadline), TOOLS))
    for row in rows:
        report(line(row))
    return rows, []


def one(program: str, tool: str, deadline: Deadline) -> dict:
    """A tool's row. clean: nothing found in our run; control: the planted bug found; why: what it
    said, where one of them is not so."""
    start = time.monotonic()
    command = [
        program,
        "--tool",
        tool,
        "--error-exitcode",
        str(FOUND),
        *OPTIONS.get(tool, []),
        sys.executable,
        "-m",
        "bench.gpu.small",
    ]
    code, said = run([*command, "--planted", tool], deadline)
    control = bool(code) and any(
        text.startswith(MARK) and f"planted_{tool}" in text for text in said.splitlines()
    )
    why = "" if control else f"the planted bug was not found: exit code {code}, {ends(code, said)}"
    code, said = run([*command, *(["--products"] if tool == "memcheck" else [])], deadline)
    if code != 0:
        why = f"exit code {code}, {ends(code, said)}"
    return {
        "name": tool,
        "clean": code == 0,
        "control": control,
        "why": why,
        "seconds": time.monotonic() - start,
    }


def run(command: list[str], deadline: Deadline) -> tuple[int | None, str]:
    """(exit code, None where the time was up; everything that was said)"""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=max(deadline.left(), 1.0))
        return process.returncode, said
    except subprocess.TimeoutExpired as late:
        os.killpg(process.pid, signal.SIGKILL)  # and the program that it watches
        process.communicate()
        return None, f"no end within {late.timeout:.0f} s"


def ends(code: int | None, said: str) -> str:
    """What is worth knowing of a run that was not as it should be, in a line: the first thing that
    the tool found, or, where the program itself failed, the last that it said."""
    lines = [text for text in said.splitlines() if text.strip()]
    tools = [text.removeprefix(MARK).strip() for text in lines if text.startswith(MARK)]
    own = [text.strip() for text in lines if not text.startswith(MARK)]
    reports = [text for text in tools if REPORT.match(text)]
    best = reports[:1] if code == FOUND else own[-1:]
    return next(iter(best or tools[-1:]), "it said nothing")


def good(row: dict) -> bool:
    return row["clean"] and row["control"]


def line(row: dict) -> str:
    words = "nothing found, and the planted bug found" if good(row) else row["why"]
    return f"{PROGRAM} {row['name']:<10} {words} ({row['seconds']:.0f} s)"
