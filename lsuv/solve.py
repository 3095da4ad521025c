"""What is measured of a layer's output, and the factor that brings its variance to the target.

The arithmetic that every framework's adapter shares. It works on NumPy's arrays and, where it only
combines, on whatever has + - * / and slices.

A layer makes z = y + b, y linear in its weights and b its bias, a number a channel. With the
weights multiplied by s the variance of all of z's values together is

    s^2 A + 2 s B + C,    A = var(y), B = cov(y, b), C = var(b),

so the moments of each channel are all that has to be known, of however many calls and processes.
They are combined by Chan's formula in a binary tree, whose shape depends on the number of samples
alone: two processes with half of the samples each, a power of two, reach the bits of one with all.

Read next: lsuv/README.md.
"""

import math
from typing import Any, NamedTuple

import numpy as np


class Moments(NamedTuple):
    """How many values a channel has, their mean, and the sum of squared distances from it."""

    n: Any
    mean: Any
    m2: Any

    def rows(self, which) -> "Moments":
        return Moments(self.n[which], self.mean[which], self.m2[which])


def combine(a: Moments, b: Moments) -> Moments:
    """Of two samples taken together (Chan, Golub and LeVeque 1979). Either may be empty."""
    n = a.n + b.n
    share = b.n / (n + (n == 0))
    distance = b.mean - a.mean
    return Moments(n, a.mean + share * distance, a.m2 + b.m2 + a.n * share * distance * distance)


def fold(parts: Moments) -> Moments:
    """Samples along axis 0 taken together: neighbours first, then neighbouring pairs, and so on."""
    rest = None
    while len(parts.mean) > 1:
        even = len(parts.mean) // 2 * 2
        if even < len(parts.mean):
            last = parts.rows(slice(even, None))
            rest = last if rest is None else combine(last, rest)
        parts = combine(parts.rows(slice(0, even, 2)), parts.rows(slice(1, even, 2)))
    return (parts if rest is None else combine(parts, rest)).rows(0)


def pool(samples: list[Moments]) -> Moments:
    """Several samples of the same channels, (C,) each, taken together."""
    return fold(Moments(*(np.stack(part) for part in zip(*samples, strict=True))))


class Spread(NamedTuple):
    """The variance of z as a function of the factor s, and what it was measured from."""

    A: float
    B: float
    C: float
    mean: float  # of z
    mean_y: float
    values: int  # how many

    def variance(self, s: float = 1.0) -> float:
        return s * s * self.A + 2 * s * self.B + self.C


def spread(z: Moments, b: np.ndarray) -> Spread:
    """z (C,) by channels, b (C,) the bias that stands in it."""
    count = z.n.sum()
    share = z.n / max(count, 1)
    y = z.mean - b
    mean_y, mean_b = (share * y).sum(), (share * b).sum()
    dy, db = y - mean_y, b - mean_b
    A = (z.m2.sum() / max(count, 1)) + (share * dy * dy).sum()
    B, C = (share * dy * db).sum(), (share * db * db).sum()
    return Spread(float(A), float(B), float(C), float(mean_y + mean_b), float(mean_y), int(count))


def noise(unit: float) -> float:
    """Below this share of its squared mean, a variance is the rounding of numbers whose neighbours
    are `unit` apart (relative), and no signal."""
    return max(unit * unit, 1e-12)


def solve(z: Spread, target: float, unit: float) -> tuple[float, str]:
    """The factor s > 0 with z.variance(s) == target -> (s, ""), or (1, why there is none)."""
    if z.values == 0:
        return 1.0, "not run"
    if not math.isfinite(z.variance()):
        return 1.0, "not finite"
    if max(noise(unit) * z.mean_y**2, float(np.finfo(np.float32).tiny)) >= z.A:
        return 1.0, "no variance"
    if target <= z.C:
        return 1.0, f"biases alone have variance {z.C:.3g}"
    return (math.sqrt(z.B**2 + z.A * (target - z.C)) - z.B) / z.A, ""


def as_predicted(z: Spread, predicted: float, unit: float) -> bool:
    """Whether a variance measured after scaling is what the formula said, up to rounding."""
    return abs(z.variance() - predicted) <= max(1e-3, 4 * unit) * predicted
