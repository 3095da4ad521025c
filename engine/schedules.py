"""Learning rates by step: Caffe's seven policies, cosine, and lines through points.

A policy is a dictionary, so that a recipe is data and a run folder can hold it:

    {"policy": "multistep", "rate": 0.01, "gamma": 0.1, "steps": [40000, 60000, 80000]}
    {"policy": "cosine", "rate": 0.1, "total": 7800, "warmup": 400}

With t the step (an update's number, from 0):

    fixed      rate
    step       rate * gamma ^ floor(t / size)
    exp        rate * gamma ^ t
    inv        rate * (1 + gamma t) ^ -power
    multistep  rate * gamma ^ (how many of `steps` are <= t)
    poly       rate * (1 - t / total) ^ power
    sigmoid    rate / (1 + exp(-gamma (t - size)))
    cosine     rate * (1 + cos(pi (t - warmup) / (total - warmup))) / 2
    points     rate * the factor that a line through the points (steps, factors) has at t

`warmup: n` multiplies the first n steps of any policy by (t + 1) / n; `every: n` holds a rate for n
steps, as nets do that lower it once an epoch: t is then n * floor(t / n). Formulas as in Caffe's
`GetLearningRate`; cosine as in Loshchilov & Hutter 2017 without restarts.

Read next: engine/data/feed.py, which brings the batches.
"""

from itertools import pairwise

import numpy as np

from engine.errors import InputError, choose

LARGEST = 1e300  # a part of a policy is smaller
NEEDS = {
    "fixed": (),
    "step": ("gamma", "size"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "multistep": ("gamma", "steps"),
    "poly": ("power", "total"),
    "sigmoid": ("gamma", "size"),
    "cosine": ("total",),
    "points": ("steps", "factors"),
}
LISTS = ("steps", "factors")


def rates(policy: dict, first: int, count: int, every: int = 1) -> np.ndarray:
    """(count,) float64: the learning rates of steps first .. first + count - 1, of which `every` so
    many make an update; the policy counts updates.

    InputError names an unknown policy, what a known one lacks, has no use for or can't be given,
    or the first step whose rate is no finite number of 0 or more."""
    kind = check(policy)
    t = np.floor(np.arange(first, first + count, dtype=np.float64) / every)
    warming = t + 1
    if held := policy.get("every"):
        t = held * np.floor(t / held)
    rate, gamma, power, size, total, warmup = (
        float(policy.get(key, 0)) for key in ("rate", "gamma", "power", "size", "total", "warmup")
    )
    with np.errstate(all="ignore"):  # what is not finite is named
        if kind == "fixed":
            factor = np.ones(count)
        elif kind == "step":
            factor = np.power(gamma, t // size)
        elif kind == "exp":
            factor = np.power(gamma, t)
        elif kind == "inv":
            factor = (1 + gamma * t) ** -power
        elif kind == "multistep":
            drops = np.searchsorted(np.sort(np.array(policy["steps"], float)), t, side="right")
            factor = np.power(gamma, drops.astype(float))
        elif kind == "poly":
            factor = np.maximum(1 - t / total, 0) ** power
        elif kind == "sigmoid":
            factor = 1 / (1 + np.exp(-gamma * (t - size)))
        elif kind == "points":
            factor = np.interp(t, policy["steps"], policy["factors"])
        else:
            done = np.clip((t - warmup) / max(total - warmup, 1), 0, 1)
            factor = (1 + np.cos(np.pi * done)) / 2
        if warmup:
            factor = factor * np.minimum(warming / warmup, 1)
        table = rate * factor
    bad = np.flatnonzero(~(np.isfinite(table) & (table >= 0)))
    if bad.size:
        raise InputError(
            f"rate policy {kind!r} gives {table[bad[0]]:g} at step {first + bad[0]}; "
            "a rate is a number of 0 or more"
        )
    return table


def check(policy: dict) -> str:
    """The policy's kind, if it has what that needs and nothing else. InputError."""
    kind = choose("rate policy", policy.get("policy", "fixed"), NEEDS)
    wanted = ("rate", *NEEDS[kind])
    missing = [key for key in wanted if key not in policy]
    if missing:
        raise InputError(f"rate policy {kind!r} needs {', '.join(missing)}")
    for key, value in policy.items():
        if key == "policy":
            continue
        choose(f"part of rate policy {kind!r}", key, (*wanted, "warmup", "every"))
        if key in LISTS and not (isinstance(value, (list, tuple)) and value):
            raise InputError(f"rate policy {kind!r}: {key} {value!r:.80} is no list of {key}")
        for number in value if key in LISTS else [value]:
            if isinstance(number, np.generic):
                number = number.item()
            if (
                isinstance(number, bool)
                or not isinstance(number, (int, float))
                or not -LARGEST < number < LARGEST
            ):
                raise InputError(f"rate policy {kind!r}: {key} {value!r:.80} is no number")
    if not policy["rate"] > 0:
        raise InputError(f"rate {policy['rate']:g} must be above 0")
    for key in ("warmup", "every"):
        if not policy.get(key, 0) >= 0:
            raise InputError(f"rate policy {kind!r}: {key} {policy[key]:g} must be 0 or more")
    if kind == "points":
        steps = policy["steps"]
        if len(steps) != len(policy["factors"]) or any(a > b for a, b in pairwise(steps)):
            raise InputError(
                f"rate policy 'points': steps {steps!r:.80} must not fall, and each has a factor"
            )
    return kind


def stretched(policy: dict, factor: float) -> dict:
    """The same shape over `factor` times as many steps: every length in it is multiplied."""
    longer = dict(policy)
    for key in ("size", "total", "warmup", "every"):
        if key in longer:
            longer[key] = max(1, round(longer[key] * factor)) if longer[key] else longer[key]
    if "steps" in longer:
        longer["steps"] = [round(step * factor) for step in longer["steps"]]
    if longer.get("policy") in ("exp", "inv", "sigmoid"):
        if longer["policy"] == "exp":
            longer["gamma"] = longer["gamma"] ** (1 / factor)
        else:
            longer["gamma"] = longer["gamma"] / factor
    return longer
