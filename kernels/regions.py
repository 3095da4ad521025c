"""Where the windows of fractional max pooling begin: random, and the same on every device.

Graham, "Fractional max-pooling" (2014). An axis of `length` places has `count` windows, which begin
1 or 2 places apart. Those that overlap are 2 wide, and A = length - 2, B = count - 1; those that
are disjoint end where the next begins, and A = length, B = count. An axis of an image draws its own
steps, B of them, which sum to A:

* pseudo-random: window j begins at floor((j + u) A / B) - floor(u A / B), with u = w / 2^32, in
  whole numbers of 64 bits;
* random: A - B of the steps are 2, any of them alike. Step j is 2 where w (B - j) >> 32 is less
  than what is left of these.

w of step j (pseudo-random: of step 0) is word 2 (j % 2) + axis of the counter (index low = image of
the batch, index high = j // 2, step, FRACTIONAL << 16 | layer); axis 0 is the rows.

Read next: kernels/orthonormal.py, which makes matrices of such numbers.
"""

from __future__ import annotations

import numpy as np

from kernels.philox import FRACTIONAL, words

_32 = np.uint64(32)


def edges(
    images: int,
    axis: int,
    length: int,
    count: int,
    overlapping: bool,
    random: bool,
    seed: int,
    layer: int,
    step: int,
) -> np.ndarray:
    """(images, count, 2) int64: where each window begins, and where it ends."""
    A, B = length - 2 * overlapping, count - overlapping
    begin = np.zeros((images, B + 1), np.int64)

    def drawn(j: int) -> np.ndarray:
        pair = words(seed, FRACTIONAL, layer, step, j // 2 << 32, images)
        return pair[:, 2 * (j % 2) + axis].astype(np.uint64)

    if random:
        twos = np.full(images, A - B, np.int64)
        for j in range(B):
            two = (drawn(j) * np.uint64(B - j) >> _32).astype(np.int64) < twos
            begin[:, j + 1] = begin[:, j] + 1 + two
            twos -= two
    elif B:
        w, whole = drawn(0)[:, None], np.uint64(B << 32)
        number = np.arange(B + 1, dtype=np.uint64) << _32
        begin[...] = (number + w) * np.uint64(A) // whole - w * np.uint64(A) // whole
    end = begin + 2 if overlapping else begin[:, 1:]
    return np.stack([begin[:, :count], end], axis=2)
