"""A small run of device cuda for a tool that watches it: bench/gpu/sanitizer.py starts it.

    compute-sanitizer --tool memcheck python -m bench.gpu.small --products
    compute-sanitizer --tool memcheck python -m bench.gpu.small --planted memcheck

Every operation of our own once, in float32 and bfloat16, on arguments with and without remainders,
and without CuPy's pool: an array is an allocation of its own, so that what lies behind its end is
nobody's. --products: also what is cuDNN's and cuSOLVER's, and some steps of a small net, recorded
and replayed. --planted: nothing but a bug that this tool must find (planted.cu).

Read next: bench/gpu/planted.cu.
"""

import argparse
import pathlib
import sys

import numpy as np

from bench.common.cases import cases, odd_cases
from bench.common.contest import Entry
from bench.common.ours import Step
from engine.cli.command import run_command
from engine.data import load
from kernels import ops_for

THREADS = 256
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SOURCE = pathlib.Path(__file__).with_name("planted.cu")


def unpooled():
    """Device cuda, in a process that takes each array from the driver."""
    ops_for("cuda")  # says what is missing
    import cupy

    cupy.cuda.set_allocator(None)
    return ops_for("cuda")


def plant(ops, tool: str) -> None:
    """Launch the bug for a tool. What the tool then does to this process is no failure of it."""
    import cupy

    module = cupy.RawModule(code=SOURCE.read_text(), options=("--std=c++17",), backend="nvrtc")
    x, y = ops.empty((THREADS,)), ops.zeros((THREADS,))
    try:
        module.get_function(f"planted_{tool}")((1,), (THREADS,), (x, y))
        ops.synchronize()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        print(f"the tool ended it: {error}")


def operations(ops, products: bool) -> int:
    """Call every operation -> how many calls."""
    count = 0
    for case in (*odd_cases(), *cases(small=True)):
        if case.flops is not None and not products:
            continue
        for precision in filter(case.has, ops.precisions):
            given = [
                ops.asarray(value) if isinstance(value, np.ndarray) else value
                for value in case.arguments(precision).values()
            ]
            getattr(ops, case.op)(*given)
            ops.synchronize()
            count += 1
    return count


def steps(ops, count: int) -> None:
    """Of FitNet-MNIST with two images; the second is recorded."""
    step = Step(
        ops,
        Entry("fitnet_mnist", "maxout", 2, "fp32", 1, "cuda", "synthetic", "paper"),
        load("synthetic", size=(28, 28, 1), limit=40),
    )
    step.start(count)
    call = ops.captured(step)
    for _ in range(count):
        call()
    ops.synchronize()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.gpu.small", description=__doc__.split("\n")[0])
    parser.add_argument("--planted", choices=TOOLS, help="launch this bug, and nothing else")
    parser.add_argument(
        "--products",
        action="store_true",
        help="what is cuDNN's and cuSOLVER's too, and a small net",
    )
    options = parser.parse_args(arguments)
    ops = unpooled()
    if options.planted:
        plant(ops, options.planted)
        return 0
    print(f"{operations(ops, options.products)} calls of operations")
    if options.products:
        steps(ops, 4)
        print("4 steps of fitnet_mnist")
    return 0


if __name__ == "__main__":
    sys.exit(run_command("bench.gpu.small", main))
