"""Rate policies against Caffe's formulas, value by value.

Read next: tests/data/test_data.py.
"""

import math

import numpy as np
import pytest

from engine.errors import InputError
from engine.schedules import NEEDS, rates, stretched

CASES = {
    "fixed": ({}, lambda t: 1),
    "step": ({"gamma": 0.1, "size": 7}, lambda t: 0.1 ** (t // 7)),
    "exp": ({"gamma": 0.99}, lambda t: 0.99**t),
    "inv": ({"gamma": 0.1, "power": 0.75}, lambda t: (1 + 0.1 * t) ** -0.75),
    "multistep": ({"gamma": 0.5, "steps": [3, 10]}, lambda t: 0.5 ** ((t >= 3) + (t >= 10))),
    "poly": ({"power": 0.5, "total": 20}, lambda t: (1 - t / 20) ** 0.5),
    "sigmoid": ({"gamma": -0.3, "size": 9}, lambda t: 1 / (1 + math.exp(0.3 * (t - 9)))),
    "points": (
        {"steps": [4, 8, 16], "factors": [1, 0.5, 0]},
        lambda t: 1 if t < 4 else 1 - (t - 4) / 8 if t < 8 else max(0.5 - (t - 8) / 16, 0),
    ),
    "cosine": ({"total": 20}, lambda t: (1 + math.cos(math.pi * t / 20)) / 2),
}


@pytest.mark.parametrize("kind", NEEDS)
def test_policy_is_its_formula(kind):
    extra, formula = CASES[kind]
    found = rates({"policy": kind, "rate": 0.02, **extra}, 0, 20)
    assert found.dtype == np.float64
    assert np.allclose(found, [0.02 * formula(t) for t in range(20)], rtol=1e-12)


@pytest.mark.parametrize("kind", NEEDS)
def test_a_part_is_a_part_of_the_whole(kind):
    policy = {"policy": kind, "rate": 0.02, "warmup": 5, **CASES[kind][0]}
    assert np.array_equal(rates(policy, 4, 9), rates(policy, 0, 20)[4:13])


def test_warm_up_rises_to_the_rate():
    found = rates({"policy": "cosine", "rate": 1.0, "total": 100, "warmup": 10}, 0, 101)
    assert np.allclose(found[:10], np.arange(1, 11) / 10)
    assert found[10] == found.max() == 1 and np.all(np.diff(found[10:]) < 0) and found[100] == 0


def test_a_rate_may_be_held_for_an_epoch():
    policy = {"policy": "poly", "rate": 1.0, "power": 1, "total": 20, "every": 5, "warmup": 2}
    want = np.repeat([1, 0.75, 0.5, 0.25], 5)
    want[0] = 0.5
    assert np.allclose(rates(policy, 0, 20), want)
    assert np.allclose(rates(stretched(policy, 2.0), 0, 40)[4:], np.repeat(want, 2)[4:])


@pytest.mark.parametrize(
    "wrong", [{"steps": [4, 3, 9]}, {"factors": [1, 2]}, {"steps": []}, {"factors": 3}]
)
def test_points_that_make_no_line(wrong):
    policy = {"policy": "points", "rate": 1.0, "steps": [1, 2, 3], "factors": [1, 1, 0]}
    with pytest.raises(InputError, match="rate policy 'points': "):
        rates(policy | wrong, 0, 3)


def test_stretched_keeps_the_shape():
    for kind, (extra, _) in CASES.items():
        policy = {"policy": kind, "rate": 1.0, **extra}
        twice = rates(stretched(policy, 2.0), 0, 40)[::2]
        assert np.allclose(twice, rates(policy, 0, 20), atol=1e-12), kind


def test_errors_name_the_policy_and_what_it_lacks():
    with pytest.raises(InputError, match="unknown rate policy 'cosin'; did you mean 'cosine'"):
        rates({"policy": "cosin", "rate": 1}, 0, 1)
    with pytest.raises(InputError, match="'step' needs gamma, size"):
        rates({"policy": "step", "rate": 1}, 0, 1)


@pytest.mark.parametrize("number", [10**400, float("nan"), float("inf"), "1", None, True])
@pytest.mark.parametrize("key", ["rate", "gamma", "size", "warmup"])
def test_what_a_file_may_hold_in_place_of_a_number_is_refused(key, number):
    policy = {"policy": "step", "rate": 0.1, "gamma": 0.5, "size": 3, "warmup": 0}
    with pytest.raises(InputError, match=f"rate policy 'step': {key} .* is no number"):
        rates(policy | {key: number}, 0, 3)
