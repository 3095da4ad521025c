"""Preprocessing: what makes a net's input of uint8 images, in training, `predict` and ONNX alike.

Global contrast normalisation or one factor on every pixel, a mean image, ZCA whitening, a factor on
every input.
Sums are taken in float64 in one fixed order, and those of pixels and their squares are whole
numbers, so exact: shift, scale and mean image are the same bits on every machine.

One that is added touches three files. Here it is found (`fit`), saved (`description`, `tensors`,
`restored`) and applied on the device (`gather`); engine/export.py writes it into ONNX
(`preprocessed`); a set asks for it in its layout, such as engine/data/cifar.py's.

Read next: engine/data/dataset.py, what is preprocessed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import InputError

SCALE = 55.0  # norm of a normalised image: a standard deviation of 0.992 at 32 x 32 x 3 values
PIXEL_SCALE = 1 / 256  # of every image where contrast is not normalised, as for the paper's MNIST
CHUNK = 64  # images converted to float64 at a time: stays in cache
ZCA_BIAS = 0.1  # on the covariance's diagonal, as in pylearn2's ZCA
ZCA_MOST = 12_288  # values of an image that is whitened: 64 x 64 x 3, whose matrix takes 604 MB
WHITENED = 2048  # images that are whitened at a time
MEAN_IMAGE, WHITENING = "data.mean_image", "data.whitening"  # the tensors' names in a checkpoint


@dataclass(eq=False)
class Preprocessing:
    """(u - shift) * scale inside an image and 0 in its border, less the mean image, times
    `input_scale`; an image that is whitened is so before it gets its border.

    pad: the border's width in pixels. pixel_scale: scale of every image, with shift 0; None:
    each image has those of its own contrast. mean_image: (H + 2 pad, W + 2 pad, C) float32, in
    normalised units. whitening: (H*W*C, H*W*C) float32, symmetric, or None. input_scale is a
    setting of the run; the rest belongs to the data set."""

    pad: int
    pixel_scale: float | None
    mean_image: np.ndarray
    input_scale: float = 1.0
    whitening: np.ndarray | None = None

    # Of what `description` gives, as `engine.run.folder.need` checks it.
    SAVED = {"pad": int, "pixel_scale": (int, float, type(None))}

    @classmethod
    def fit(
        cls,
        images: np.ndarray,
        pad: int,
        pixel_scale: float | None = None,
        subtract_mean: bool | None = None,
        whiten: bool = False,
    ) -> tuple["Preprocessing", tuple[np.ndarray, np.ndarray]]:
        """Of training images (M, H, W, C) uint8 -> (it, what `normalise` gives for these images).

        Without subtract_mean the mean image is zero: unless that is said, with a `pixel_scale`.
        whiten: by ZCA, which subtracts the mean."""
        height, width, channels = images.shape[1:]
        mean = np.zeros((height + 2 * pad, width + 2 * pad, channels), np.float32)
        preprocessing = cls(pad, pixel_scale, mean)
        shift, scale = preprocessing.normalise(images)
        if pixel_scale is None if subtract_mean is None else subtract_mean:
            preprocessing.mean_image = mean_image(images, shift, scale, pad)
        if whiten:
            centre = preprocessing.middle.astype(np.float64)
            preprocessing.whitening = zca(images, shift, scale, centre)
        return preprocessing, (shift, scale)

    @property
    def middle(self) -> np.ndarray:
        """The mean image without its border, (H, W, C)."""
        height, width, _ = self.mean_image.shape
        return self.mean_image[self.pad : height - self.pad, self.pad : width - self.pad]

    def normalise(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shift and scale, each (M,) float32, of images (M, H, W, C) uint8."""
        if self.pixel_scale is None:
            return contrast(images)
        return (
            np.zeros(len(images), np.float32),
            np.full(len(images), self.pixel_scale, np.float32),
        )

    def description(self) -> dict:
        """The numbers that a run's record of its data holds."""
        return {"pad": self.pad, "pixel_scale": self.pixel_scale}

    def tensors(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds beside them, by name."""
        tensors = {MEAN_IMAGE: np.ascontiguousarray(self.mean_image, np.float32)}
        return tensors if self.whitening is None else tensors | {WHITENING: self.whitening}

    def like(self, other: "Preprocessing") -> bool:
        """Whether both make the same of an image, but for the last bits of a whitening."""
        mine, its = self.tensors(), other.tensors()
        return (
            (self.description(), self.input_scale) == (other.description(), other.input_scale)
            and mine.keys() == its.keys()
            and all(np.allclose(mine[name], its[name], atol=1e-4) for name in mine)
        )

    @classmethod
    def restored(
        cls,
        description: dict,
        tensors: dict[str, np.ndarray],
        in_shape: tuple[int, int, int],
        input_scale: float,
        where,
    ) -> "Preprocessing":
        """What `description` and `tensors` gave, out of the file `where`. InputError for a mean
        image that is missing, or not that of images of in_shape (H, W, C)."""
        pad, (height, width, channels) = description["pad"], in_shape
        mean = tensors.get(MEAN_IMAGE)
        padded = (height + 2 * pad, width + 2 * pad, channels)
        if pad < 0 or mean is None or mean.shape != padded:
            raise InputError(
                f"{where}: its {MEAN_IMAGE} has shape {getattr(mean, 'shape', None)}, "
                f"and this net's images want {padded}; put the run's own file back"
            )
        whitening, values = tensors.get(WHITENING), height * width * channels
        if whitening is not None and whitening.shape != (values, values):
            raise InputError(
                f"{where}: its {WHITENING} has shape {whitening.shape}, and this net's images want "
                f"{(values, values)}; put the run's own file back"
            )
        return cls(pad, description["pixel_scale"], mean, input_scale, whitening)

    def on_device(self, ops, images: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> tuple:
        """What `gather` reads of images with this shift and scale: the images, uint8, and shift,
        scale and mean image; or the images whitened, float32, and others that change nothing."""
        mean = self.mean_image
        if self.whitening is None:
            resident = ops.constant(np.ascontiguousarray(images, np.uint8))
        else:
            resident = self.whitened(ops, images, shift, scale)
            shift, scale, mean = np.zeros_like(shift), np.ones_like(scale), np.zeros_like(mean)
        values = (ops.constant(np.ascontiguousarray(a, np.float32)) for a in (shift, scale, mean))
        return resident, *values

    def whitened(self, ops, images: np.ndarray, shift: np.ndarray, scale: np.ndarray):
        """Images (M, H, W, C) uint8 -> (M, H, W, C) float32, whitened, on the device."""
        flat = images.reshape(len(images), -1)
        result = ops.empty(images.shape, np.float32)
        rows, matrix = result.reshape(flat.shape), ops.constant(self.whitening)
        for first in range(0, len(flat), WHITENED):
            part = slice(first, first + WHITENED)
            x = (flat[part].astype(np.float32) - shift[part, None]) * scale[part, None]
            x -= self.middle.reshape(-1)
            ops.linear_forward(ops.asarray(x), matrix, None, rows[part])
        return result

    def gather(
        self, net, images, labels, arrays: Sequence, order, move: int, mirror: int, augment: bool
    ) -> None:
        """Fill net.x and net.labels with the images that the clock's row of `order` names.

        images, labels, arrays (of `on_device`) and order are on the device."""
        net.ops.gather(
            images,
            labels,
            *arrays,
            order,
            net.x,
            net.labels,
            net.clock,
            net.seed,
            self.pad,
            move,
            mirror,
            self.input_scale,
            augment,
        )


def contrast(images: np.ndarray, norm: float = SCALE) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale, each (M,) float32, that give every image mean 0 and 2-norm `norm`.

    images is (M, H, W, C) uint8; mean and norm are taken over all of an image's values. An image of
    one colour has nothing to scale: its scale is 1 and it becomes zero. This is pylearn2's global
    contrast normalisation (scale 55, no bias), which the paper's CIFAR sets went through.
    """
    values = images[0].size
    total, square = np.concatenate(
        [(chunk.sum(axis=1), np.einsum("ij,ij->i", chunk, chunk)) for _, chunk in _chunks(images)],
        axis=1,
    )
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
        chunk *= weight[first : first + len(chunk), None]
        total += chunk.sum(axis=0)  # rows one after another: a fixed order, unlike a BLAS product's
    total -= math.fsum(weight * shift)
    mean = np.zeros((height + 2 * pad, width + 2 * pad, channels), np.float32)
    mean[pad : pad + height, pad : pad + width] = (total / len(images)).reshape(images.shape[1:])
    return mean


def zca(images: np.ndarray, shift: np.ndarray, scale: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(D, D) float32, symmetric: V L^(-1/2) V', where V L V' is the normalised images' covariance
    with ZCA_BIAS added to its diagonal. Krizhevsky 2009; pylearn2's `ZCA` with all components.

    InputError for images of more than ZCA_MOST values. Its last bits may depend on the machine and
    its threads, so a run keeps it."""
    D = images[0].size
    if D > ZCA_MOST:
        raise InputError(
            f"contrast zca: {D:,} values an image want a matrix of {4 * D * D / 1e9:,.0f} GB; give "
            f"--contrast gcn, or images of at most {ZCA_MOST:,} values"
        )
    covariance = np.zeros((D, D))
    for first in range(0, len(images), WHITENED):
        part = slice(first, first + WHITENED)
        x = images[part].reshape(-1, D) - shift[part, None].astype(np.float64)
        x = x * scale[part, None] - mean.reshape(-1)
        covariance += x.T @ x
    covariance /= len(images)
    covariance[np.diag_indices(D)] += ZCA_BIAS
    values, vectors = np.linalg.eigh(covariance)
    whitening = (vectors / np.sqrt(values)) @ vectors.T
    return np.ascontiguousarray((whitening + whitening.T) / 2, np.float32)


def _chunks(images: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first, float64 (n, H*W*C)) over all images."""
    flat = images.reshape(len(images), -1)
    for first in range(0, len(flat), CHUNK):
        yield first, flat[first : first + CHUNK].astype(np.float64)
