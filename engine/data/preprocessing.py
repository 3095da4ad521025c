"""Global contrast normalisation and the mean image, on uint8 images, in chunks.

Sums are taken in float64 in one fixed order, and those of pixels and their squares are whole
numbers, so exact: shift, scale and mean image are the same bits on every machine.

Read next: engine/data/cifar.py, the first reader.
"""

import math

import numpy as np

SCALE = 55.0  # norm of a normalised image: a standard deviation of 0.992 at 32 x 32 x 3 values
CHUNK = 64  # images converted to float64 at a time: stays in cache


def contrast(images: np.ndarray, norm: float = SCALE) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale, each (M,) float32, that give every image mean 0 and 2-norm `norm`.

    images is (M, H, W, C) uint8; mean and norm are taken over all of an image's values. An image of
    one colour has nothing to scale: its scale is 1 and it becomes zero. This is pylearn2's global
    contrast normalisation (scale 55, no bias), which the paper's CIFAR sets went through.
    """
    values = images[0].size
    total = np.empty(len(images))
    square = np.empty(len(images))
    for first, chunk in _chunks(images):
        total[first:first + len(chunk)] = chunk.sum(axis=1)
        square[first:first + len(chunk)] = np.einsum("ij,ij->i", chunk, chunk)
    length = np.sqrt(np.maximum(values * square - total * total, 0.0) / values)  # ||u - mean||
    divisor = length / norm
    divisor[divisor < 1e-8] = 1.0
    return (total / values).astype(np.float32), (1.0 / divisor).astype(np.float32)


def mean_image(images: np.ndarray, shift: np.ndarray, scale: np.ndarray, pad: int) -> np.ndarray:
    """Mean of the normalised images with `pad` zeros around: (H + 2 pad, W + 2 pad, C) float32."""
    height, width, channels = images.shape[1:]
    total = np.zeros(images[0].size)
    weight = scale.astype(np.float64)
    for first, chunk in _chunks(images):
        chunk *= weight[first:first + len(chunk), None]
        total += chunk.sum(axis=0)  # rows one after another: a fixed order, unlike a BLAS product's
    total -= math.fsum(weight * shift)
    mean = np.zeros((height + 2 * pad, width + 2 * pad, channels), np.float32)
    mean[pad:pad + height, pad:pad + width] = (total / len(images)).reshape(images.shape[1:])
    return mean


def _chunks(images: np.ndarray):
    """(first, float64 (n, H*W*C)) over all images; the array is reused from chunk to chunk."""
    flat = images.reshape(len(images), -1)
    room = np.empty((min(CHUNK, len(flat)), flat.shape[1]))
    for first in range(0, len(flat), CHUNK):
        part = flat[first:first + CHUNK]
        chunk = room[:len(part)]
        chunk[...] = part
        yield first, chunk
