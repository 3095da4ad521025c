"""A trained net as a function from images to probabilities.

    model = engine.load("runs/fitnet4-lsuv-20250101-120000")
    model.predict(images)              # uint8 (N, H, W, C) -> float32 (N, classes)

Everything it needs is in the run folder; the data set is not.

Read next: engine/export.py, the same for other programs, and engine/fitting.py, nets and arrays of
one's own.
"""

import numpy as np

from engine.data.dataset import Split
from engine.data.feed import Resident
from engine.data.preprocessing import Preprocessing
from engine.errors import InputError
from engine.scoring import need_statistics


class Predictor:
    """A net with a run's weights. `classes`: names; `in_shape`: (H, W, C) of an image; `data`: what
    the run's record says of its data set."""

    def __init__(self, net, data: dict, preprocessing: Preprocessing):
        self.net, self.data, self.preprocessing = net, data, preprocessing
        self.classes, self.in_shape = data["classes"], tuple(data["in_shape"])
        self.prob = net.ops.zeros((net.batch, net.classes), net.dtype)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Softmax of the scores, (N, classes) float32, whatever loss the net was trained with.

        images: (N, H, W, C) uint8, preprocessed as the run did its test images. InputError for
        another shape or type."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.in_shape:
            raise InputError(
                f"predict: images are {images.dtype} {images.shape}; this net wants "
                f"uint8 (N, {', '.join(map(str, self.in_shape))})"
            )
        need_statistics(self.net)
        out = np.empty((len(images), self.net.classes), np.float32)
        if not len(images):
            return out
        split = Split(
            images, np.full(len(images), -1, np.int32), *self.preprocessing.normalise(images)
        )
        resident = Resident(self.net, split, self.preprocessing)
        for first in range(0, len(images), self.net.batch):
            rows = np.arange(first, min(first + self.net.batch, len(images)))
            resident.batch(rows)
            self.net.ops.softmax(self.net.forward(train=False), self.prob)
            out[rows] = self.net.ops.tohost(self.prob)[: len(rows)]
        return out
