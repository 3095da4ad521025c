"""Ten shapes, drawn from counters: a data set for a machine that has no files and no network.

Every image is one shape of random place and size, lighter than its sloping background, in random
colours, under noise. No pixel means a class by itself: a linear model reaches 43 %, a small
convolutional net 93 % after an epoch and 99 % after four. The shapes are their own mirror images,
so mirroring is a fair augmentation. All numbers come from Philox words, and only correctly rounded
arithmetic is used: the set is the same bits on every machine.

Read next: tests/data/test_data.py, what becomes of damaged sets.
"""

import numpy as np

from engine.data.dataset import Raw
from engine.errors import InputError
from kernels.philox import SYNTHETIC, uniform, words

CLASSES = [
    "disc",
    "ring",
    "square",
    "frame",
    "diamond",
    "triangle",
    "plus",
    "saltire",
    "rows",
    "columns",
]
TRAIN, TEST = 5_000, 1_000
PAD = 8
SEED = 1511_06422
TRAITS = 12  # random numbers an image: 2 place, 1 size, 3 background, 3 contrast, 2 slope, 1 noise
CHUNK = 500


def make(size: tuple[int, ...] | None = None) -> Raw:
    """5,000 training and 1,000 test images of `size` (H, W, C), by default 32 x 32 x 3.

    C is 1 or 3. Labels run 0, 1, ..., 9, 0, ...: every class has a tenth of either part.
    """
    height, width, channels = (*(size or (32, 32)), 3)[:3]
    if channels not in (1, 3) or not (8 <= height <= 256 and 8 <= width <= 256):
        raise InputError(
            f"data synthetic: size {height}x{width}x{channels}; it is made from 8x8 "
            f"to 256x256, with 1 or 3 channels"
        )
    count = TRAIN + TEST
    labels = (np.arange(count) % len(CLASSES)).astype(np.int32)
    traits = uniform(SEED, SYNTHETIC, 0, count * TRAITS).reshape(count, TRAITS)
    images = np.empty((count, height, width, channels), np.uint8)
    for first in range(0, count, CHUNK):
        part = slice(first, first + CHUNK)
        images[part] = draw(labels[part], traits[part], first, (height, width, channels))
    return Raw(images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:], list(CLASSES))


def draw(labels: np.ndarray, traits: np.ndarray, first: int, size: tuple[int, int, int]):
    """(N, H, W, C) uint8: images first, first + 1, ... of the set; traits (N, TRAITS) in (0, 1)."""
    height, width, channels = size
    count, unit = len(labels), min(height, width) / 32
    t = traits[:, :, None, None]  # broadcasts over (N, H, W)
    y = (np.arange(height) - (height - 1) / 2)[None, :, None]
    x = (np.arange(width) - (width - 1) / 2)[None, None, :]
    slope = (t[:, 9] - 0.5) * (2.5 / unit) * x + (t[:, 10] - 0.5) * (2.5 / unit) * y
    x = x - (t[:, 0] - 0.5) * 10 * unit
    y = y - (t[:, 1] - 0.5) * 10 * unit
    radius = (6 + 3.5 * t[:, 2]) * unit  # (N, 1, 1)
    cover = np.empty((count, height, width))
    for label in np.unique(labels):
        mine = labels == label
        distance = outline(label, x[mine], y[mine], radius[mine])
        cover[mine] = np.clip(0.5 - distance, 0.0, 1.0)  # an edge is one pixel wide

    background = 20 + 100 * traits[:, 3:6]  # (N, 3)
    contrast = 40 + 90 * traits[:, 6:9]
    amount = (0.1 + 0.3 * traits[:, 11])[:, None, None, None]  # noise of up to 13 to 51 each way
    values = height * width * channels
    counters = -(-values // 16)  # an image's, at 16 bytes each
    noise = words(SEED, SYNTHETIC, 1, 0, first * counters, count * counters)
    noise = noise.astype("<u4", copy=False).view(np.uint8).reshape(count, counters * 16)
    noise = noise[:, :values].reshape(count, height, width, channels)
    image = (noise - 127.5) * amount
    image += slope[..., None]
    image += background[:, None, None, :channels]
    image += cover[..., None] * contrast[:, None, None, :channels]
    return np.rint(np.clip(image, 0, 255, out=image), out=image).astype(np.uint8)


def outline(label: int, x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Distance in pixels from the outline of shape `label` with radius r, negative inside."""
    ax, ay = np.abs(x), np.abs(y)
    name = CLASSES[label]
    if name in ("disc", "ring"):
        far = np.sqrt(x * x + y * y)
        return far - r if name == "disc" else np.abs(far - 0.75 * r) - 0.25 * r
    if name in ("square", "frame"):
        far = np.maximum(ax, ay)
        return far - 0.9 * r if name == "square" else np.abs(far - 0.7 * r) - 0.22 * r
    if name == "diamond":
        return (ax + ay - 1.15 * r) * np.sqrt(0.5)
    if name == "triangle":
        return np.maximum(y - 0.6 * r, np.sqrt(0.75) * ax - 0.5 * y - 0.6 * r)
    if name in ("plus", "saltire"):
        if name == "saltire":
            ax, ay = np.abs(x + y) * np.sqrt(0.5), np.abs(x - y) * np.sqrt(0.5)
        return np.maximum(np.maximum(ax, ay) - r, np.minimum(ax, ay) - 0.28 * r)
    across = ay if name == "rows" else ax  # three bars in a square
    return np.maximum(
        np.maximum(ax, ay) - r, np.minimum(across, np.abs(across - 0.75 * r)) - 0.2 * r
    )
