"""How the layer Distort shows each image of a run: stretched, mirrored, slanted or turned, moved,
and in other colours.

Graham 2014, as in his program for CIFAR (repository `btgraham/SparseConvNet-archived`, cifar10.cpp,
OpenCVPicture.cpp): stretched by up to a fifth along either axis, mirrored or not, then slanted
along one of them or turned, by up to 0.2; moved by up to 16 pixels; each channel brighter by
N(0, 25) of 255, and by N(0, 2) more a pixel to the right and down. (It asks for changes of contrast
too, of 0.15 in a whole number.)

Read next: models/fmp.py, the nets that want it.
"""

import numpy as np

from engine.layers import middle_of
from kernels.philox import AUGMENT, normal, uniform

STRETCH, SLANT, MOVE = 0.2, 0.2, 16  # pixels
LEVELS = 128  # of a pixel's 255, that are 1 of the layer's input
BRIGHTER, RISING = 25 / LEVELS, 2 / LEVELS
FORMS, COLOURS = 2, 3  # of the random counter; 0 and 1 are the crops', and which is mirrored


def rows(
    seed: int, first: int, count: int, last: int, in_shape: tuple[int, ...], field: int
) -> np.ndarray:
    """(count, 10 + 3 C) float32: for `ops.distort` the images that are number `first` and on
    of a run, of which those from number `last` on stay as they are."""
    height, width, channels = in_shape
    many = max(min(count, last - first), 0)
    u = uniform(seed, AUGMENT, FORMS, 8 * many, first=8 * first).reshape(many, 8)
    z = normal(seed, AUGMENT, COLOURS, 3 * channels * many, first=3 * channels * first)
    table = np.repeat(middle_of(in_shape, field), count, axis=0).astype(np.float64)

    # A point (x, y) of the image goes to (x, y) c.
    c, form = np.zeros((many, 2, 2)), np.tile(np.eye(2), (many, 1, 1))
    c[:, 0, 0] = (1 + STRETCH * (2 * u[:, 0] - 1)) * np.where(u[:, 2] < 0.5, -1, 1)
    c[:, 1, 1] = 1 + STRETCH * (2 * u[:, 1] - 1)
    angle, kind = SLANT * (2 * u[:, 4] - 1), (3 * u[:, 3]).astype(int)
    form[:, 1, 0] = np.where(kind == 0, angle, np.where(kind == 2, np.sin(angle), 0))
    form[:, 0, 1] = np.where(kind == 1, angle, np.where(kind == 2, -np.sin(angle), 0))
    form[:, 0, 0] = form[:, 1, 1] = np.where(kind == 2, np.cos(angle), 1)
    c = c @ form

    # The box around it, whole pixels wide, in the middle of the field but for a jiggle.
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ c  # (many, 4, 2)
    least = corners.min(axis=1)
    size = np.ceil(corners.max(axis=1) - least)
    begin = field // 2 - size // 2 + np.floor((2 * MOVE + 1) * u[:, 5:7]) - MOVE
    back = np.linalg.inv(c) if many else c
    start = ((least - begin)[:, None] @ back)[:, 0]
    table[:many, 0:2], table[:many, 2] = back[:, :, 0], start[:, 0]
    table[:many, 3:5], table[:many, 5] = back[:, :, 1], start[:, 1]
    table[:many, 6:8], table[:many, 8:10] = begin, begin + size

    colours = z.reshape(many, channels, 3) * [BRIGHTER, RISING, RISING]
    centre = begin + size // 2
    colours[:, :, 0] -= (colours[:, :, 1:] * centre[:, None]).sum(axis=2)
    table[:many, 10:] = colours.reshape(many, 3 * channels)
    return table.astype(np.float32)
