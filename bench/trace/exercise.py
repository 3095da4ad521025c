"""An exercise of kernels/cuda/README.md: a kernel to edit, and what its trace says of it.

    python -m bench.trace exercise 1                     # writes exercises/maxout.cu and checks it
    python -m bench.trace exercise 1 --html page.html    # and a page that shows what it does

Each call compares the kernels' results with the reference, on every shape and in several orders of
threads, then counts what they move. Exit code 0: all goals are reached, 1: not yet.

Read next: exercises/__init__.py.
"""

import multiprocessing
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.common.cases import Out
from bench.trace.document import document
from bench.trace.exercises import EXERCISES, Case, Exercise
from bench.trace.page import page
from bench.trace.recorder import Launch, Recorder
from bench.trace.warps import warps_of
from engine.cli.command import Parser, run_command
from engine.errors import InputError, RunError
from engine.run.files import write_atomic
from kernels import emulated

FOLDER = Path(__file__).parent / "exercises"
ORDERS, SECONDS = 3, 60  # of threads; that all launches have
LENIENT = " ".join(  # no error in a kernel that is half done
    f'_Pragma("GCC diagnostic ignored \\"-W{warning}\\"")'
    for warning in ("unused-parameter", "unused-variable", "unused-but-set-variable")
    + ("sign-compare",)
)


class Wrong(Exception):
    """What is not right of a kernel, in a line."""


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="bench.trace exercise", description=__doc__)
    parser.add_argument("number", type=int, choices=range(1, 1 + len(EXERCISES)))
    parser.add_argument("--dest", default="exercises", metavar="FOLDER", help="of the file to edit")
    parser.add_argument("--html", default=None, metavar="FILE", help="write a page that shows it")
    options = parser.parse_args(arguments)
    exercise = EXERCISES[options.number - 1]
    path = Path(options.dest)
    path = path if path.suffix == ".cu" else path / f"{exercise.name}.cu"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (FOLDER / f"{exercise.name}.cu").read_bytes())
        print(f"{path} is written. Read what it says, edit it, and run this command again.")
    # In a process of its own: a kernel that is being learnt on may crash, or never end.
    child = multiprocessing.get_context("spawn").Process(
        target=_in_child, args=(exercise, path, options.html, SECONDS)
    )
    child.start()
    child.join()
    if child.exitcode == -signal.SIGALRM:
        raise RunError(f"{path}: not at its end after {SECONDS} s; does a loop never end?")
    if child.exitcode < 0:
        name = signal.Signals(-child.exitcode).name
        raise RunError(f"{path}: crashed ({name}); a division by 0, or a call without end?")
    return child.exitcode


def _in_child(*arguments) -> None:
    code = run_command("bench.trace exercise", lambda: check(*arguments))
    sys.stdout.flush()
    os._exit(code)  # what a kernel has broken is not torn down


def check(exercise: Exercise, path: Path, html: str | None = None, seconds: int = 0) -> int:
    """Prints a line a check. seconds: after which the process is ended; 0: never."""
    from bench.trace.__main__ import show

    try:
        text = _text(path)
        with Recorder() as recorder:
            _compile(recorder, exercise, path, text)
            signal.alarm(seconds)
            try:
                for shape in exercise.shapes:
                    _compare(recorder, exercise, exercise.case(*shape), text)
            finally:
                signal.alarm(0)
    except Wrong as wrong:
        print(f"wrong        {wrong}")
        return 1
    case = exercise.case(*exercise.shapes[0])
    used = len(_launches(case, text))
    launches = recorder.launches[:used]
    traced = document(exercise.name, case.text, "fp32", launches)
    if html:
        run: dict[str, Any] = {"trace": traced, "results": []}
        other = document(exercise.name, case.text, "fp32", recorder.launches[used : 2 * used])
        runs = [run, run | {"trace": other}]
        write_atomic(Path(html), page([{"title": "as it is", "runs": runs}]).encode())
    show(traced)
    print()
    return 0 if all(_goals(exercise, case, launches)) else 1


def _goals(exercise: Exercise, case: Case, launches: list[Launch]) -> list[bool]:
    warps, reached = [warps_of(launch) for launch in launches], []
    for goal in exercise.goals:
        value = goal.figure(warps, case)
        reached.append(goal.reached(value))
        print(
            f"{'reached' if reached[-1] else 'not reached':<13}{goal.text}: {value:.4g}, "
            f"to be {'at least' if goal.least else 'at most'} {goal.bound:g}"
        )
    return reached


def _text(path: Path) -> str:
    from kernels.cuda.source import HERE, pasted

    try:
        for header in re.findall(r'^#include "(.*)"', path.read_text("utf-8"), re.M):
            if not (HERE / header).is_file():
                raise InputError(f"{path}: there is no {header} in kernels/cuda")
        name, _, rest = pasted(path.resolve()).partition("\n")
        return f"{name}\n{LENIENT}\n{name}\n{rest}"
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}") from None


def _launches(case: Case, text: str) -> list[tuple[str, int, str]]:
    """Those of the kernels that the text has."""
    return [each for each in case.launches if re.search(rf"^KERNEL {each[0]}\(", text, re.M)]


def start(exercise: Exercise, *shape: int) -> list[Launch]:
    """What the kernels of the file that an exercise starts from do."""
    path = FOLDER / f"{exercise.name}.cu"
    with Recorder() as recorder:
        text = _text(path)
        _compile(recorder, exercise, path, text)
        _run(recorder, exercise, exercise.case(*shape), text)
    return recorder.launches


def _compile(recorder: Recorder, exercise: Exercise, path: Path, text: str) -> None:
    from kernels.emulated.compiler import CompileException

    main = exercise.name
    if not re.search(rf"^KERNEL {main}\(", text, re.M):
        raise Wrong(f"{path} has no line that begins with KERNEL {main}(")
    recorder.ops.launch.source = lambda file: text
    try:
        recorder.ops.launch.module(main, "float32")
    except CompileException as error:
        raise Wrong(f"{path} does not compile:\n{error}") from None


def _run(recorder: Recorder, exercise: Exercise, case: Case, text: str) -> dict[str, np.ndarray]:
    """{name: what the kernels make of it}, of the arrays that have a right value."""
    ops, double = recorder.ops, emulated.double()
    held = {
        name: value
        if isinstance(value, int)
        else ops.asarray(value.array() if isinstance(value, Out) else value)
        for name, value in case.arguments.items()
    }
    for kernel, blocks, names in _launches(case, text):
        try:
            ops.launch(exercise.name, kernel, "float32", blocks, *map(held.get, names.split()))
        except double.DoubleError as error:
            meant = " (p: a pointer, i: int64)" if "wants arguments" in str(error) else ""
            raise Wrong(f"{case.text}: {error}{meant}") from None
    return {name: ops.tohost(held[name]) for name in case.right}


def _compare(recorder: Recorder, exercise: Exercise, case: Case, text: str) -> None:
    """Wrong unless the results are right, and the same bits, in several orders of threads."""
    first, *others = [_run(recorder, exercise, case, text) for _ in range(ORDERS)]
    same = all(first[name].tobytes() == other[name].tobytes() for other in others for name in first)
    hint = "" if same else "; another order of threads gives other values: a barrier may be missing"
    for name, right in case.right.items():
        got = first[name].astype(np.float64)
        bad = ~(np.abs(got - right) <= exercise.tolerance * np.abs(right).max())
        if bad.any():
            at = tuple(int(i[0]) for i in np.nonzero(bad))
            raise Wrong(
                f"{case.text}: {name}[{', '.join(map(str, at))}] is {got[at]:.7g}, not "
                f"{right[at]:.7g}; {bad.sum()} of {bad.size} values are wrong{hint}"
            )
    if not same:
        raise Wrong(f"{case.text}: right{hint}")
    print(f"right        {case.text}, in {ORDERS} orders of threads")
