"""Random bits as a pure function: Philox 4x32-10, the same words on every device.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). Ten rounds
of multiplying and exchanging halves turn a 128-bit counter into four 32-bit words, under a 64-bit
key. Nothing is remembered between two calls, so any word of a run can be computed alone, in any
order and on any device:

    key     = (low half, high half) of the 64-bit seed
    counter = (index low, index high, step, purpose << 16 | layer)

`purpose` keeps the streams apart: the dropout of a layer, the order of an epoch, the augmentation
of an image, the weights of a layer, the synthetic data set and the windows of fractional pooling
never share a counter.

Changing anything here changes every result of the project; the tests pin known answers.

Read next: kernels/regions.py, which makes windows of such numbers.
"""

from __future__ import annotations

import numpy as np

DROPOUT, ORDER, AUGMENT, WEIGHTS, SYNTHETIC, FRACTIONAL = 1, 2, 3, 4, 5, 6

ROUNDS = 10
CHUNK = 1 << 13  # counters at a time: the 64-bit temporaries stay in the cache

_MULTIPLY_0, _MULTIPLY_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_BUMP_0, _BUMP_1 = 0x9E3779B9, 0xBB67AE85  # golden ratio, sqrt(3) - 1: their fractions in 32 bits
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Four words for every counter: counter (..., 4) uint32, key (2,) uint32 -> (..., 4) uint32."""
    counter = np.asarray(counter, np.uint32)
    key = np.asarray(key, np.uint32)
    if counter.shape[-1:] != (4,) or key.shape != (2,):
        raise ValueError(
            f"philox: counter {counter.shape} and key {key.shape} must be (..., 4) and (2,)"
        )
    result = np.empty(counter.shape, np.uint32)
    source, target = counter.reshape(-1, 4), result.reshape(-1, 4)
    for start in range(0, len(source), CHUNK):
        part = slice(start, start + CHUNK)
        _rounds(source[part].T.astype(np.uint64), int(key[0]), int(key[1]), target[part])
    return result


def words(seed: int, purpose: int, layer: int, step: int, first: int, count: int) -> np.ndarray:
    """The words of the counters with index first .. first+count-1, (count, 4) uint32."""
    key_0, key_1 = _key(seed)
    if not (0 <= layer < 1 << 16 and 0 <= purpose < 1 << 16 and 0 <= step < 1 << 32):
        raise ValueError(
            f"philox: purpose {purpose}, layer {layer}, step {step} must fit 16, 16 and 32 bits"
        )
    c2, c3 = np.array([step], np.uint64), np.array([purpose << 16 | layer], np.uint64)
    result = np.empty((count, 4), np.uint32)
    for start in range(0, count, CHUNK):
        target = result[start : start + CHUNK]
        index = np.arange(first + start, first + start + len(target), dtype=np.uint64)
        _rounds((index & _LOW, index >> _32, c2, c3), key_0, key_1, target)
    return result


def uniform(
    seed: int, purpose: int, layer: int, count: int, step: int = 0, first: int = 0
) -> np.ndarray:
    """Uniform numbers strictly inside (0, 1), (count,) float64: (word + 0.5) / 2**32.

    Element i is word i % 4 of the counter with index i // 4; the result starts at element `first`.
    """
    begin, end = first // 4, -(-(first + count) // 4)
    bits = words(seed, purpose, layer, step, begin, end - begin).reshape(-1)
    result = bits[first - 4 * begin : first - 4 * begin + count].astype(np.float64)
    result += 0.5
    result *= 2.0**-32
    return result


def normal(
    seed: int, purpose: int, layer: int, count: int, step: int = 0, first: int = 0
) -> np.ndarray:
    """Standard normal numbers, (count,) float64, starting at element `first` of the stream.

    Box and Muller (1958) on pairs of the uniform stream:
    element 2i = sqrt(-2 ln u[2i]) cos(2 pi u[2i+1]), element 2i+1 the same with sin.
    """
    begin, end = first - first % 2, first + count + (first + count) % 2
    result = np.empty((end - begin) // 2 * 2)
    for start in range(0, len(result), 4 * CHUNK):
        target = result[start : start + 4 * CHUNK].reshape(-1, 2)
        u = uniform(seed, purpose, layer, target.size, step, begin + start).reshape(-1, 2)
        radius = np.log(u[:, 0])
        radius *= -2.0
        np.sqrt(radius, out=radius)
        angle = u[:, 1] * (2.0 * np.pi)
        np.multiply(radius, np.cos(angle), out=target[:, 0])
        np.multiply(radius, np.sin(angle), out=target[:, 1])
    return result[first - begin : first - begin + count]


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of an epoch, (count,) int64: stable argsort of one 64-bit word per place."""
    w = words(seed, ORDER, 0, epoch, 0, count)
    keys = w[:, 0].astype(np.uint64) | w[:, 1].astype(np.uint64) << _32
    return np.argsort(keys, kind="stable").astype(np.int64)


def _key(seed: int) -> tuple[int, int]:
    seed = int(seed)
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed {seed} is not a 64-bit number; choose one in 0 .. 2**64 - 1")
    return seed & 0xFFFFFFFF, seed >> 32


def _rounds(counter, key_0: int, key_1: int, target: np.ndarray) -> None:
    """Ten rounds on four arrays of uint64 that hold 32-bit values; writes target (n, 4) uint32."""
    c0, c1, c2, c3 = counter
    for _ in range(ROUNDS):
        product_0, product_1 = c0 * _MULTIPLY_0, c2 * _MULTIPLY_1
        c0 = (product_1 >> _32) ^ c1 ^ np.uint64(key_0)
        c2 = (product_0 >> _32) ^ c3 ^ np.uint64(key_1)
        c1, c3 = product_1 & _LOW, product_0 & _LOW
        key_0, key_1 = (key_0 + _BUMP_0) & 0xFFFFFFFF, (key_1 + _BUMP_1) & 0xFFFFFFFF
    target[:, 0], target[:, 1], target[:, 2], target[:, 3] = c0, c1, c2, c3
