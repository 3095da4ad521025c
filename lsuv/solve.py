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


def fold(n: float, mean: Any, m2: Any) -> Moments:
    """Samples along axis 0, of n values each, taken together: neighbours first, then neighbouring
    pairs, and so on."""
    rest = None
    while len(mean) > 1:
        even = len(mean) // 2 * 2
        if even < len(mean):
            last = Moments(n, mean[even], m2[even])
            rest = last if rest is None else combine(last, rest)
        a, distance = mean[0:even:2], mean[1:even:2] - mean[0:even:2]
        mean = a + 0.5 * distance
        m2 = m2[0:even:2] + m2[1:even:2] + n * 0.5 * distance * distance
        n = 2 * n
    whole = Moments(n, mean[0], m2[0])
    return whole if rest is None else combine(whole, rest)


def pool(samples: list[Moments]) -> Moments:
    """Any samples of the same channels taken together, in a tree of the same shape."""
    while len(samples) > 1:
        pairs = zip(samples[0::2], samples[1::2], strict=False)
        samples = [combine(a, b) for a, b in pairs] + samples[len(samples) // 2 * 2 :]
    return samples[0]


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
    """z (C,) by channels, b (C,) the bias that stands in it. NumPy's sums, unlike BLAS's, depend on
    no number of threads."""
    count = float(z.n.sum())
    share = z.n / max(count, 1.0)
    y = z.mean - b
    mean_y, mean_b = float((share * y).sum()), float((share * b).sum())
    dy, db = y - mean_y, b - mean_b
    A = float(z.m2.sum()) / max(count, 1.0) + float((share * dy * dy).sum())
    B, C = float((share * dy * db).sum()), float((share * db * db).sum())
    return Spread(A, B, C, mean_y + mean_b, mean_y, int(count))


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
