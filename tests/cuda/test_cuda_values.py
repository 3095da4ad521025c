"""Values that kernels of device cuda can't use, and values at the edge: labels, orders and segments
that point nowhere, losses and gradients that are not finite, squares that leave float32's range.

A kernel notes the first value that it can't use, touches no memory that isn't there, and goes on as
if it stood for nothing; the host raises the error when it next waits.

Read next: test_cuda_ops.py.
"""

import itertools

import numpy as np
import pytest
from ml_dtypes import bfloat16

from helpers.op_cases import REFERENCE
from kernels.clock import CLIP, CORRECT_SUM, FINITE, FIRST, RATE, STEP, new_clock

LOSSES = ["softmax_loss", "hinge_loss"]
REALS = pytest.mark.parametrize("real", [np.float32, bfloat16])
UPDATES = [
    ("sgd_step", "v", {"momentum": 0.9, "decay": 0.01}),
    ("rmsprop_step", "s", {"rho": 0.9, "delta": 1e-3, "decay": 0.01}),
    (
        "adam_step",
        "s",
        {
            "mean": np.linspace(-1, 1, 99, dtype=np.float32),
            "beta1": 0.9,
            "beta2": 0.99,
            "delta": 1e-3,
            "decay": 0.01,
            "decoupled": False,
            "begun": 0,
            "every": 1,
        },
    ),
]


def randn(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def both(ops, name, words=None, **arguments):
    """{argument: (array on the device, in the reference)} after the call; `words`: of the error
    that the device raises when it is waited for, and then the reference is not asked."""
    arrays = {key: value for key, value in arguments.items() if isinstance(value, np.ndarray)}
    moved = {key: ops.asarray(value) for key, value in arrays.items()}
    copies = {key: value.copy() for key, value in arrays.items()}
    getattr(ops, name)(**arguments | moved)
    if words:
        with pytest.raises(ValueError, match=words):
            ops.synchronize()
        return {key: (ops.tohost(moved[key]), None) for key in arrays}
    with np.errstate(all="ignore"):
        getattr(REFERENCE, name)(**arguments | copies)
    return {key: (ops.tohost(moved[key]), copies[key]) for key in arrays}


def assert_same(found, *keys, rtol=1e-6, atol=0.0):
    for got, want in map(found.get, keys):
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol, atol)


@pytest.fixture(params=[1, 3])
def few_blocks(request, cuda_ops, monkeypatch):
    """Every launch has one or three blocks: loops with a grid's stride do all the work."""
    launch = cuda_ops.launch

    def few(file, kernel, real, blocks, *arguments):
        alone = kernel in ("record", "clip_sums", "clip_merge")  # their blocks are counted
        launch(file, kernel, real, blocks if alone else request.param, *arguments)

    monkeypatch.setattr(cuda_ops, "launch", few)
    return cuda_ops


# -- losses ---------------------------------------------------------------------------------------


@REALS
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "row, value", [*itertools.product([0, 3], [np.nan, np.inf, -np.inf]), (None, 0)]
)
def test_scores_that_are_not_finite_latch(cuda_ops, name, real, row, value):
    """Row 3 is a padding row. Minus infinity for another class leaves the loss finite."""
    scores, labels = randn(9, 40).astype(real), np.arange(9, dtype=np.int32)
    labels[3], labels[5] = -1, -7
    if row is not None:
        scores[row, 35] = value
    found = both(
        cuda_ops,
        f"{name}_forward",
        scores=scores,
        labels=labels,
        clock=new_clock(),
        prob=np.zeros((9, 40), np.float32),
    )
    assert found["clock"][0][FINITE] == (row != 0)
    assert_same(found, "clock", "prob", rtol=1e-5, atol=1e-6)
    first = {"prob": found["prob"][1]} if name == "softmax_loss" else {"scores": scores}
    found = both(
        cuda_ops,
        f"{name}_backward",
        **first,
        labels=labels,
        weight=0.7,
        dscores=np.zeros((9, 40), real),
    )
    assert_same(found, "dscores", rtol=1e-2 if real is bfloat16 else 1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_the_first_of_equal_scores_is_the_answer(cuda_ops, name):
    scores = np.zeros((4, 50), np.float32)
    scores[:, [7, 40]] = 1
    found = both(
        cuda_ops,
        f"{name}_forward",
        scores=scores,
        labels=np.int32([7, 40, 7, 0]),
        prob=np.zeros_like(scores),
        clock=new_clock(),
    )
    assert found["clock"][0][CORRECT_SUM] == 2


@pytest.mark.parametrize("name", LOSSES)
def test_rows_beyond_the_grid(few_blocks, name):
    scores, labels = randn(300, 37), np.random.default_rng(1).integers(-1, 37, 300, np.int32)
    found = both(
        few_blocks,
        f"{name}_forward",
        scores=scores,
        labels=labels,
        clock=new_clock(),
        prob=np.zeros_like(scores),
    )
    assert_same(found, "clock", "prob", rtol=1e-5, atol=1e-6)


@REALS
@pytest.mark.parametrize("kind", ["squared_error", "absolute_error", "binary_cross_entropy"])
def test_values_beyond_the_grid_and_the_block(few_blocks, kind, real):
    scores, values = randn(9, 700).astype(real), abs(randn(700, 9).reshape(9, 700)) % 1
    values[4] = np.nan
    given = {"scores": scores, "values": values}
    found = both(few_blocks, f"{kind}_forward", **given, clock=new_clock())
    assert_same(found, "clock", rtol=1e-6)
    found = both(
        few_blocks, f"{kind}_backward", **given, dscores=np.zeros((9, 700), real), weight=0.7
    )
    assert_same(found, "dscores", rtol=1e-2 if real is bfloat16 else 2e-6, atol=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_a_label_beyond_the_classes_counts_as_padding(cuda_ops, name):
    scores, labels = randn(40, 10), np.zeros(40, np.int32)
    padded = labels.copy()
    labels[17], padded[17] = 10, -1
    for half, given in (
        ("forward", {"scores": scores, "prob": np.zeros_like(scores), "clock": new_clock()}),
        (
            "backward",
            {
                "prob" if name == "softmax_loss" else "scores": abs(scores),
                "dscores": np.zeros_like(scores),
                "weight": 1.0,
            },
        ),
    ):
        wrong = both(
            cuda_ops, f"{name}_{half}", "label 10, but there are 10 classes", **given, labels=labels
        )
        right = both(cuda_ops, f"{name}_{half}", **given, labels=padded)
        for key in wrong.keys() - {"labels"}:
            np.testing.assert_array_equal(wrong[key][0], right[key][0])


def test_scores_without_classes(cuda_ops):
    scores, prob = (cuda_ops.empty((3, 0), np.float32) for _ in range(2))
    with pytest.raises(ValueError, match=r"softmax: scores \(3, 0\) have no classes"):
        cuda_ops.softmax(scores, prob)


# -- gather ---------------------------------------------------------------------------------------


def batch(H=8, W=8, C=4, M=5, N=6, real=np.float32):
    rng = np.random.default_rng((H, W, C))
    return {
        "images": rng.integers(0, 256, (M, H, W, C), np.uint8),
        "labels": np.arange(M, dtype=np.int32),
        "shift": randn(M),
        "scale": randn(M),
        "mean_image": randn(H + 4, W + 4, C),
        "order": rng.integers(0, M, (3, N), np.int32),
        "x": np.full((N, H, W, C), np.nan, real),
        "y": np.zeros(N, np.int32),
        "clock": new_clock(),
        "seed": 3,
        "pad": 2,
        "move": 2,
        "mirror": 1,
        "input_scale": 1.5,
        "augment": True,
    }


@REALS
@pytest.mark.parametrize("H, W, C", [*itertools.product((1, 8), (1, 4, 7, 8), (1, 3, 8))])
def test_pixels_that_lie_across_accesses(cuda_ops, H, W, C, real):
    for step in range(3):
        arguments = batch(H, W, C, real=real)
        arguments["clock"][STEP] = step
        found = both(cuda_ops, "gather", **arguments)
        assert_same(found, "x", rtol=2.0**-7 if real is bfloat16 else 1e-5, atol=1e-4)
        assert_same(found, "y")


def test_images_beyond_the_grid(few_blocks):
    assert_same(both(few_blocks, "gather", **batch(40, 40, 3)), "x", "y", rtol=1e-5, atol=1e-4)


def test_a_step_without_a_row_in_the_order(cuda_ops):
    arguments = batch()
    arguments["clock"][[STEP, FIRST]] = 9, 5
    found = both(
        cuda_ops, "gather", "step 9 has no row in the order, which has 3 from step 5", **arguments
    )
    assert (found["x"][0] == 0).all() and (found["y"][0] == -1).all()


def test_an_image_that_is_not_there(cuda_ops):
    arguments = batch()
    arguments["clock"][STEP] = 1
    arguments["order"][1, 4] = 5
    wrong = both(cuda_ops, "gather", "image 5 of step 1, but there are 5", **arguments)
    arguments["order"][1, 4] = -1
    right = both(cuda_ops, "gather", **arguments)
    for key in ("x", "y"):
        np.testing.assert_array_equal(wrong[key][0], right[key][0])


# -- updates --------------------------------------------------------------------------------------


@REALS
@pytest.mark.parametrize("size", [1, 16, 40003])
@pytest.mark.parametrize("scale", [0, 1e-30, 1e-20, 1e-15, 1, 1e14, 1e16, 1e25, np.nan, np.inf])
def test_the_norm_of_large_and_small_gradients(cuda_ops, size, scale, real):
    g = (
        (randn(size) * np.where(np.arange(size) == size // 2, scale, min(scale, 1e25)))
        .astype(np.float32)
        .astype(real)
    )
    for limit in (0.0, 1e-3, 1e9):
        assert_same(both(cuda_ops, "clip", g=g, limit=limit, clock=new_clock()), "clock")


def arena(state, real, *rows):
    clock = new_clock()
    clock[[RATE, CLIP]] = 0.1, 0.3
    return {
        "w": randn(99),
        "g": randn(1, 99)[0].astype(real),
        state: abs(randn(2, 99)[0]),
        "segments": np.array(rows, np.float64).reshape(-1, 4),
        "clock": clock,
    }


@REALS
@pytest.mark.parametrize("name, state, numbers", UPDATES)
@pytest.mark.parametrize(
    "rows",
    [
        [(0, 3, 1, 1), (5, 99, 2, 1)],
        [(3, 21, 1, 0), (21, 22, 1, 0), (22, 90, 2, 1), (97, 98, 1, 1)],
        [(4, 4, 1, 1), (5, 7, 1, 1), (7, 8, 1, 1), (8, 12, 1, 1)],
        [(0, 98, 1, 1)],
        [],
    ],
)
def test_segments_that_begin_and_end_anywhere(few_blocks, name, state, numbers, rows, real):
    arguments = arena(state, real, *rows)
    found = both(few_blocks, name, **arguments, **numbers)
    assert_same(found, "w", state, atol=1e-7)
    outside = np.ones(99, bool)
    for start, stop, *_ in rows:
        outside[start:stop] = False
    np.testing.assert_array_equal(found["w"][0][outside], arguments["w"][outside])


@pytest.mark.parametrize("name, state, numbers", UPDATES)
@pytest.mark.parametrize("row", [(0, 100), (5, 3), (-1, 3), (np.nan, 3), (0, np.inf)])
def test_a_segment_outside_the_arena_stops_the_update(cuda_ops, name, state, numbers, row):
    arguments = arena(state, np.float32, (0, 5, 1, 1), (*row, 1, 1))
    found = both(cuda_ops, name, "row 1 does not lie in an arena of 99", **arguments, **numbers)
    for key in ("w", state):
        np.testing.assert_array_equal(found[key][0], arguments[key])


def test_a_table_of_rates_that_begins_later(cuda_ops):
    clock = new_clock()
    clock[[STEP, FIRST]] = 3, 6
    found = both(
        cuda_ops,
        "advance",
        "advance: step 4 lies before the table's first, 6",
        clock=clock,
        rates=np.arange(4.0),
    )
    np.testing.assert_array_equal(found["clock"][0], clock)


@pytest.mark.parametrize("own, net", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_side_exit_latches_the_net(cuda_ops, own, net):
    side, clock = new_clock(), new_clock()
    side[FINITE], clock[FINITE] = own, net
    side, clock = cuda_ops.asarray(side), cuda_ops.asarray(clock)
    cuda_ops.latch(side, clock)
    assert cuda_ops.tohost(side)[FINITE] == 1 and cuda_ops.tohost(clock)[FINITE] == own * net
