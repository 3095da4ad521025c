"""What the arguments of an operation must be, beyond their types: shapes, and numbers in range.

Each function is named after its operation, or after what it checks; op is the name in the error, a
ValueError of one line. They look at shapes and numbers only, so any device's arrays will do;
`labels` alone reads its array.

Read next: errors.py.
"""

from __future__ import annotations

import math

FARTHEST = 1 << 20  # the widest stride and padding of a convolution
MIRRORED = 1 << 30  # added to the number of an image in the order, where that says to mirror it
LONGEST = 1 << 15  # places of an axis of fractional pooling, whose products then fit 64 bits
DROPPED = 255  # in `which`: the number of no winner


def shape(op: str, array, wanted) -> None:
    """The array has this shape."""
    if array.shape != tuple(wanted):
        raise ValueError(
            f"{op}: the buffer is {array.shape}, but its shape must be {tuple(wanted)}"
        )


def conv(op, x, W, y, stride, pad, groups) -> None:
    """Shapes and numbers of a convolution of x by W into y."""
    N, H, width, channels = x.shape
    K, R, S, C = W.shape
    if channels < 1 or K < 1:
        raise ValueError(f"{op}: {channels} inputs and {K} outputs; both must be at least 1")
    if not 1 <= stride <= FARTHEST:
        raise ValueError(f"{op}: stride {stride} is not in 1 .. {FARTHEST}")
    if not 0 <= pad <= FARTHEST:
        raise ValueError(f"{op}: pad {pad} is not in 0 .. {FARTHEST}")
    if groups < 1 or channels != C * groups or K % groups:
        raise ValueError(
            f"{op}: {channels} inputs and {K} outputs do not split into {groups} "
            f"groups of {C} inputs"
        )
    if R < 1 or S < 1 or H + 2 * pad < R or width + 2 * pad < S:
        raise ValueError(
            f"{op}: a filter of {R} x {S} does not fit into {H} x {width} with pad {pad}"
        )
    shape(op, y, (N, (H + 2 * pad - R) // stride + 1, (width + 2 * pad - S) // stride + 1, K))


def linear(op, x, W, y) -> None:
    """x (N,F), W (K,F), y (N,K), F and K at least 1."""
    N, F = x.shape
    K = len(W)
    if F < 1 or K < 1:
        raise ValueError(f"{op}: {F} inputs and {K} outputs; both must be at least 1")
    shape(op, W, (K, F))
    shape(op, y, (N, K))


def maxout(op, x, y, pieces) -> None:
    """x (...,P*C) and y (...,C)."""
    if not 1 <= pieces <= 256 or x.shape[-1] % pieces:
        raise ValueError(
            f"{op}: {x.shape[-1]} channels do not split into {pieces} pieces (1 .. 256)"
        )
    shape(op, y, (*x.shape[:-1], x.shape[-1] // pieces))


def highway(op, x, z, *results) -> None:
    """x and results (...,C), or None, and z (...,2C)."""
    shape(op, z, (*x.shape[:-1], 2 * x.shape[-1]))
    for array in results:
        if array is not None:
            shape(op, array, x.shape)


def maxpool(op, x, y, size, stride, pad) -> None:
    """Shapes of x and y; a window that a byte can number, and no place skipped."""
    if not 1 <= size <= 16 or not 1 <= stride <= size:
        raise ValueError(
            f"{op}: window {size}, stride {stride}; a window is 1 .. 16 wide and its "
            "stride is no wider, or places would be skipped"
        )
    if not 0 <= pad < size:
        raise ValueError(
            f"{op}: pad {pad} is not in 0 .. {size - 1}; a window of {size} could lie "
            "in the padding alone"
        )
    windows(op, x, y, size, stride, pad)


def avgpool(op, x, y, size, stride) -> None:
    """Shapes of x and y; no place skipped."""
    if not 1 <= stride <= size:
        raise ValueError(
            f"{op}: window {size}, stride {stride}; a stride is 1 or more and no "
            "wider than its window, or places would be skipped"
        )
    windows(op, x, y, size, stride, 0)


def windows(op, x, y, size, stride, pad) -> None:
    """y has the windows of x."""
    N, H, width, C = x.shape
    if size > H + 2 * pad or size > width + 2 * pad:
        raise ValueError(f"{op}: a window of {size} does not fit into {H} x {width} with pad {pad}")
    shape(op, y, (N, *(pooled(n, size, stride, pad) for n in (H, width)), C))


def pooled(length: int, size: int, stride: int, pad: int = 0) -> int:
    """How many windows an axis has: Caffe's ceiling, and none that starts beyond the image."""
    count = -(-(length + 2 * pad - size) // stride) + 1
    return count - ((count - 1) * stride >= length + pad)


def fractional(op, x, y, overlapping) -> None:
    """Windows that begin 1 or 2 places apart, on axes that 64 bits can count on."""
    N, *lengths, C = x.shape
    if y.ndim != 4 or (y.shape[0], y.shape[3]) != (N, C):
        raise ValueError(f"{op}: {y.shape} are no windows of {x.shape}")
    for length, count in zip(lengths, y.shape[1:3], strict=True):
        least, most = -(-length // 2), length - bool(overlapping)
        if not 1 <= least <= count <= most:
            raise ValueError(
                f"{op}: {length} places do not make {count} windows; {least} to {most} they do"
            )
        if length > LONGEST:
            raise ValueError(f"{op}: an axis of {length} places, and the longest has {LONGEST}")


def maxout_pool(op, x, y, pieces, size, stride, most=256) -> None:
    """most: numbers that a winner may have."""
    if not 1 <= pieces * size * size <= most or x.shape[-1] % pieces:
        raise ValueError(
            f"{op}: {x.shape[-1]} channels, {pieces} pieces, a window of {size} x "
            f"{size}: the pieces must divide the channels, and a byte must hold the "
            "winner's number" + ", and 255 marks what is dropped" * (most == DROPPED)
        )
    maxpool(op, x[..., : x.shape[-1] // pieces], y, size, stride, 0)


def drop(op, drop) -> None:
    """A probability of dropping."""
    if not 0 <= drop < 1:
        raise ValueError(f"{op}: {drop} is not a probability of dropping in [0, 1)")


def mask(op, mask, keep) -> None:
    """A number of its channels."""
    if mask.ndim != 1 or not 0 <= keep <= len(mask):
        raise ValueError(f"{op}: {keep} of a mask {mask.shape} can't be kept")


def places(op, x, y):
    """x (N,H,W,C) as (N, H*W, C), checked, for y (N,C)."""
    N, H, width, C = x.shape
    if not 1 <= H * width < 1 << 31:
        raise ValueError(f"{op}: an image of {H} x {width} has no place, or more than 2^31")
    shape(op, y, (N, C))
    return x.reshape(N, H * width, C)


def channels(op, x, results, *per_channel) -> None:
    """results: of the shape of x, or None; per_channel: (C,)."""
    for array in results:
        if array is not None:
            shape(op, array, x.shape)
    for array in per_channel:
        shape(op, array, x.shape[-1:])


def batchnorm(op, x, results, *per_channel) -> None:
    """As `channels`, and there are elements to take statistics of."""
    if x.size == 0:
        raise ValueError(f"{op}: {x.shape} has no elements, and so no statistics")
    channels(op, x, results, *per_channel)


def smoothing(op, smoothing) -> None:
    """The share that label smoothing takes."""
    if not 0 <= smoothing < 1:
        raise ValueError(f"{op}: smoothing {smoothing} is not a share in [0, 1)")


def distillation(op, scores, values, share, *temperatures) -> None:
    """A teacher's score for each of the scores, and numbers that a loss can have."""
    shape(op, values, scores.shape)
    if not 0 <= share < math.inf:
        raise ValueError(f"{op}: share {share} is no number of 0 or more")
    for temperature in temperatures:
        if not 0 < temperature < math.inf:
            raise ValueError(f"{op}: temperature {temperature} is no number above 0")


def lrn(op, x, y, size, alpha, k) -> None:
    """y as x, and numbers with which no sum is 0."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"{op}: size {size}; the channels around one are an odd number")
    if not (0 <= alpha < math.inf and 0 < k < math.inf):
        raise ValueError(
            f"{op}: alpha {alpha:g}, k {k:g}; alpha must be 0 or more and k above 0, "
            "or the sum could be 0"
        )
    shape(op, y, x.shape)


def concat(op, part, whole, first) -> slice:
    """The channels of `whole` that `part` is, checked."""
    C = part.shape[-1]
    if first < 0 or first + C > whole.shape[-1]:
        raise ValueError(f"{op}: {C} channels from {first} on are not among {whole.shape[-1]}")
    shape(op, part, (*whole.shape[:-1], C))
    return slice(first, first + C)


def labels(op, labels, scores) -> None:
    """labels (N,) of scores (N,K), each below K."""
    shape(op, labels, scores.shape[:1])
    if labels.max(initial=-1) >= scores.shape[1]:
        raise ValueError(f"{op}: label {labels.max()}, but there are {scores.shape[1]} classes")


def weights(op, weights, scores) -> None:
    """A weight for each class of scores (N,K), or none."""
    if weights is not None:
        shape(op, weights, scores.shape[1:])


def values(op, scores, values) -> None:
    """As many values as scores, and some of each image."""
    shape(op, values, scores.shape)
    if math.prod(scores.shape[1:]) < 1:
        raise ValueError(f"{op}: scores {scores.shape} have no elements of an image")


def variance(x, groups) -> None:
    """The channels split into groups, and there are elements."""
    if groups < 1 or x.shape[-1] % groups:
        raise ValueError(f"variance: {x.shape[-1]} channels do not split into {groups} groups")
    if x.size == 0:
        raise ValueError(f"variance: x {x.shape} has no elements")


def gather(images, mean_image, order, x, pad, move, mirror) -> None:
    """Shapes of a batch and of the mean image; a crop that stays in the border."""
    N, H, width, C = x.shape
    shape("gather", x, (order.shape[1], *images.shape[1:]))
    shape("gather", mean_image, (H + 2 * pad, width + 2 * pad, C))
    if not 0 <= move <= pad:
        raise ValueError(f"gather: move {move} must lie in 0 .. pad = {pad}")
    if mirror not in (0, 1, 2):
        raise ValueError(
            f"gather: mirror {mirror}; it is 0 never, 1 at random or 2 as the order says"
        )


def distort(op, x, table, y) -> None:
    """Images, their fields, and rows of as many numbers as the channels want."""
    N, _, _, C = x.shape
    shape(op, y, (N, *y.shape[1:3], C))
    shape(op, table, (len(table), 10 + 3 * C))
    if not len(table):
        raise ValueError(f"{op}: the table is empty")


def limit(op, W, limit) -> None:
    """W (rows, F), and a norm that a row can have."""
    if W.ndim != 2:
        raise ValueError(f"{op}: W {W.shape} must have rows and columns")
    if not 0 < limit < math.inf:
        raise ValueError(f"{op}: limit {limit} is no norm above 0")


def updates(op, begun, every) -> None:
    """The numbers that tell which update a step is."""
    for name, value, least in (("begun", begun, 0), ("every", every, 1)):
        if not least <= value < 1 << 31:
            raise ValueError(f"{op}: {name} {value} is no number of steps in [{least}, 2^31)")


def rates(table) -> None:
    """The table of `advance` has a row."""
    if len(table) == 0:
        raise ValueError("advance: the table of rates is empty")
