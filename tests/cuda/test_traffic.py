"""What each kernel's file says of the bytes that it moves is what a trace of it shows.

bench/results/traffic.json has the figures of both shapes in both precisions; they are traced anew
here, and the claims of the .cu files are held to them.

Read next: tests/cuda/README.md.
"""

import pytest

from bench.common.machine import RESULTS
from bench.trace.cases import operations
from bench.trace.claims import MOVED, claims, large, read, rows_of
from helpers.length import often
from helpers.programs import ROOT
from kernels.contract import OPERATIONS
from kernels.cuda import source
from kernels.emulated.compiler import SANITIZE

pytestmark = pytest.mark.skipif(
    bool(SANITIZE), reason="a kernel has one instrumentation: the sanitizers', or a trace's"
)
ROWS = read((RESULTS / "traffic.json").read_text())
KEYS = ("operation", "kernel", "shape", "precision", "array", "kind")
LARGE = [row for row in ROWS if large(row, ROWS)]
CLAIMS = {
    (f"kernels/cuda/{name}.cu", *key): times
    for name in source.FILES
    for key, times in claims((source.HERE / f"{name}.cu").read_text()).items()
}


def name_of(row):
    return " ".join(str(row[key]) for key in KEYS)


@pytest.mark.parametrize("operation", operations())
def test_a_trace_has_the_figures_of_the_table(double, operation):
    """To 5%: another compiler may keep in a register what this one reads twice. In one precision,
    every second operation in bf16; --full traces all in both."""
    stated = [row for row in ROWS if row["operation"] == operation]
    if not often(False, True) and "bf16" in {row["precision"] for row in stated}:
        one = ("fp32", "bf16")[operations().index(operation) % 2]
        stated = [row for row in stated if row["precision"] == one]
    precisions = dict.fromkeys(row["precision"] for row in stated)
    traced = [row for precision in precisions for row in rows_of(operation, precision)]
    assert list(map(name_of, traced)) == list(map(name_of, stated)), "run bench.trace.claims"
    for new, old in zip(traced, stated, strict=True):
        for figure in ("asked", "needed", "moved", "lanes", "conflicts"):
            assert new[figure] == pytest.approx(old[figure], rel=0.05), (name_of(new), figure)


def test_every_kernel_is_in_the_table():
    kernels = {kernel for name in source.FILES for kernel in source.kernels(name)}
    assert {row["kernel"] for row in ROWS} == kernels


def test_an_aligned_shape_moves_what_the_files_say():
    """Once, or as often as "Moved:" has it; and no claim is of nothing."""
    seen = set()
    for row in LARGE:
        if row["shape"] == "aligned":
            key = (row["file"], row["kernel"], row["array"], row["precision"])
            times = CLAIMS.get(key, 1.0)
            got = row["moved"] / row["needed"]
            if key in CLAIMS and got < 0.95 * times:
                continue  # the claim is of the array's stores, or its loads, alone
            seen.add(key)
            assert got == pytest.approx(times, rel=0.05), name_of(row)
    assert {key for key in CLAIMS if CLAIMS[key] > 1} - seen <= {
        key
        for key in CLAIMS
        if key[3] == "bf16" and key[1] in ("orthonormal_reflectors", "max_norm")
    }


def test_a_streamed_array_is_read_in_whole_sectors_by_whole_warps():
    """On the aligned shape, wherever nothing is said to move more than once. Where the arena's
    weights end and its biases begin, in the middle of a warp, an optimizer's threads part."""
    checked = 0
    for row in LARGE:
        key = (row["file"], row["kernel"], row["array"], row["precision"])
        if row["shape"] == "aligned" and CLAIMS.get(key, 1.0) == 1.0:
            assert row["sectors"] <= 1.05 * row["ideal"], name_of(row)
            assert row["lanes"] >= (28 if row["file"].endswith("optimizer.cu") else 32)
            checked += 1
    assert checked > 200


def test_on_any_shape_every_element_of_a_result_is_written_once():
    """Of orthonormal's reflectors, every number that is drawn, and then what scales them."""
    checked = 0
    for row in LARGE:
        contract = OPERATIONS[row["operation"]]
        if row["kind"] == "store" and row["kernel"] != "orthonormal_reflectors":
            assert row["asked"] == row["needed"], name_of(row)
            if row["array"] in contract.written:
                assert row["needed"] == row["held"], name_of(row)
                checked += 1
    assert checked > 100


def test_no_kernel_has_a_bank_conflict():
    shared = [row for row in ROWS if row["wavefronts"]]
    assert len(shared) > 50 and not [name_of(row) for row in shared if row["conflicts"]]


def test_a_claim_is_of_a_kernel_of_its_file_and_an_array_of_it():
    for name in source.FILES:
        for kernel, _ in MOVED.findall((source.HERE / f"{name}.cu").read_text()):
            assert kernel in source.kernels(name)
    arrays = {(row["kernel"], row["array"]) for row in ROWS}
    assert {(kernel, array) for _, kernel, array, _ in CLAIMS} <= arrays
    assert (ROOT / "kernels" / "cuda" / "common.cuh").read_text().count('"Moved:"') == 1
