"""A trace holds every access of a kernel and no other: kernels whose accesses are counted by hand.

Read next: tests/cuda/test_traffic.py.
"""

import json
import re

import numpy as np
import pytest

from bench.trace import __main__ as command
from bench.trace.cases import case_of
from bench.trace.document import document
from bench.trace.figures import summary, traffic
from bench.trace.recorder import Recorder
from bench.trace.warps import warps_of
from engine.errors import InputError
from helpers.programs import TESTS
from kernels.cuda.source import options, pasted
from kernels.emulated.compiler import SANITIZE

pytestmark = pytest.mark.skipif(
    bool(SANITIZE), reason="a kernel has one instrumentation: the sanitizers', or a trace's"
)
SIZE = 8 * 256 + 8


@pytest.fixture(scope="module")
def run(double):
    """run(name) -> what one block of a kernel of traced.cu did."""
    import cupy

    with Recorder():
        module = cupy.RawModule(
            code=pasted(TESTS / "cuda" / "traced.cu"), options=options("float32"), backend="nvrtc"
        )

    def one(name):
        with Recorder() as recorder:
            x, y = cupy.zeros((SIZE,), np.float32), cupy.zeros((SIZE,), np.float32)
            module.get_function(name)((1,), (256,), (x, y))
        return warps_of(recorder.launches[0])

    return one


def rows(warps):
    return {(row.array, row.kind): row for row in traffic(warps)}


@pytest.mark.parametrize(
    "name, requests, asked, sectors, ideal",
    [
        ("neighbours", 8, 1024, 4, 4),
        ("strided", 8, 1024, 32, 4),
        ("packs", 8, 4096, 16, 16),
        ("one_by_one", 64, 8192, 32, 4),
        ("locals", 8, 1024, 4, 4),
        ("branches", 16, 1024, 4, 2),
        ("late", 24, 2560, 4, 10 / 3),
        ("staircase", 256, 8 * 4 * 32 * 33 // 2, 1, 1),
    ],
)
def test_loads_are_those_that_one_counts(run, name, requests, asked, sectors, ideal):
    row = rows(run(name))["x", "load"]
    assert (row.requests, row.asked) == (requests, asked)
    assert (row.sectors_per_request, row.ideal_per_request) == pytest.approx((sectors, ideal))
    assert row.lanes == asked / requests / (16 if name == "packs" else 4)
    assert row.moved == 32 * row.sectors


@pytest.mark.parametrize("name", ["neighbours", "strided", "branches", "late", "staircase"])
def test_paths_that_part_meet_again(run, name):
    """At the store, which all threads of a warp do together."""
    row = rows(run(name))["y", "store"]
    assert (row.requests, row.lanes, row.asked, row.needed) == (8, 32, 1024, 1024)


@pytest.mark.parametrize("name", ["branches", "late"])
def test_parted_paths_are_in_the_order_of_the_code_whichever_came_first(run, name):
    first, *others = [run(name) for _ in range(6)]
    assert len({other.order.tobytes() for other in others}) > 1  # the threads' is another
    for other in others:
        for part in ("place", "warp", "request", "lane"):
            np.testing.assert_array_equal(getattr(first, part), getattr(other, part), part)
        assert first.places == other.places


def test_an_access_outside_of_every_array_ends_the_launch(run, double):
    with pytest.raises(double.DoubleError) as caught:
        run("strays")
    line = (TESTS / "cuda" / "traced.cu").read_text().partition("KERNEL strays")[0].count("\n") + 2
    assert re.search(
        r"strays: thread 255 of block \(0, 0, 0\) reads outside of every array, as "
        rf"x\[{SIZE + 8}\] of {SIZE} elements, at tests/cuda/traced.cu:{line}$",
        str(caught.value),
    )


def test_an_access_that_the_compiler_splits_is_one_and_neighbours_are_not(run):
    assert rows(run("packs"))["y", "store"].requests == 8
    assert set(run("packs").nbytes.tolist()) == {0, 16}
    assert rows(run("one_by_one"))["y", "store"].requests == 64
    assert set(run("one_by_one").nbytes.tolist()) == {0, 4}


def test_what_a_cache_must_serve(run):
    row = rows(run("staircase"))["x", "load"]
    assert row.needed == 128 and row.again == 32 * (256 - 4)  # but for the first of 4 sectors
    assert rows(run("one_by_one"))["x", "load"].again == 7 * 8192


def test_banks_barriers_shuffles_and_votes(run):
    warps = run("banks")
    assert rows(warps)["smem", "store"].wavefronts == 8 * 2 + 8 * 32
    assert rows(warps)["smem", "store"].conflicts == 8 * 1 + 8 * 31
    assert rows(warps)["smem", "load"].conflicts == 0
    figures = summary(warps)
    assert [figures[name] for name in ("barriers", "shuffles", "votes")] == [2, 1, 1]


def test_a_place_is_the_line_of_the_kernels_own_file(run):
    warps = run("packs")
    text = (TESTS / "cuda" / "traced.cu").read_text().splitlines()
    (load,) = {warps.place[n] for n in np.flatnonzero(warps.kinds == "load")}
    file, line = warps.places[load].line(warps.launch.code.file)
    assert file == "tests/cuda/traced.cu" and "load<VECTOR>(x + at)" in text[line - 1]
    assert warps.places[load].frames[0][0] == "kernels/cuda/common.cuh"


@pytest.mark.parametrize("precision, width", [("fp32", 4), ("bf16", 2)])
def test_the_json_holds_every_access(tmp_path, capsys, precision, width):
    """Decoded as document.py says, it has each byte that the kernel asks for."""
    path = tmp_path / "trace.json"
    command.main(
        ["maxout_forward", "--shape", "3,5,7", "--precision", precision, "--json", str(path)]
    )
    said = capsys.readouterr().out
    assert "no time and no speed" in said and "maxout_forward" in said
    traced = json.loads(path.read_text())
    (launch,) = traced["launches"]
    elements: dict[str, list] = {array["name"]: [] for array in launch["arrays"]}
    counts: dict[int, int] = {}
    for warp in launch["warps"]:
        for place, mask, *access in warp["steps"]:
            lanes = [lane for lane in range(32) if mask >> lane & 1]
            for lane in lanes:
                number = 256 * warp["block"] + 32 * warp["warp"] + lane
                counts[number] = counts.get(number, 0) + 1
            if access:
                array, first, *stride = access
                array = launch["arrays"][array]
                assert launch["places"][place]["bytes"] == array["itemsize"]
                elements[array["name"]] += (
                    first if not stride else [first + stride[0] * (n - lanes[0]) for n in lanes]
                )
    for name, per in (("x", 14), ("y", 7), ("which", 7)):
        assert sorted(elements[name]) == list(range(75 * per)), name
    assert [array["itemsize"] for array in launch["arrays"]] == [width, width, 1]
    done: dict[int, int] = {}
    for number, count in launch["order"]:
        done[number] = done.get(number, 0) + count
    assert done == counts


def test_an_operation_of_several_kernels_is_several_launches(double):
    launches = command.trace(case_of("batchnorm_forward", "2,3,5"))
    assert [launch.kernel for launch in launches] == [
        "batchnorm_moments",
        "batchnorm_merge",
        "batchnorm_forward",
    ]
    assert json.dumps(document("batchnorm_forward", "", "fp32", launches))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["maxout"], "unknown operation 'maxout'; did you mean"),
        (["maxout_forward", "--shape", "2,x"], "--shape 2,x: maxout_forward takes N,SIZE,C"),
        (["maxout_forward", "--shape", "2,0,1"], "numbers from 1"),
        (["maxout_forward", "--shape", "40,32,32"], "events; give a smaller --shape"),
    ],
)
def test_what_cannot_be_traced_is_one_line(double, arguments, words):
    with pytest.raises(InputError, match=words):
        command.main(arguments)
