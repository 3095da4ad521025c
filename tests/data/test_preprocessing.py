"""Preprocessing: its definition, the same wherever it is applied, and its way through a run folder.

Read next: tests/engine/test_export.py.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from engine.data.dataset import Raw, Split, build
from engine.data.feed import Resident
from engine.data.preprocessing import CHUNK, MEAN_IMAGE, Preprocessing, contrast, mean_image
from engine.errors import InputError
from helpers.data_sets import RANDOM
from kernels import ops_for
from kernels.clock import new_clock


def test_contrast_agrees_with_its_definition():
    images = RANDOM.integers(0, 256, (2 * CHUNK + 3, 9, 11, 3)).astype(np.uint8)
    images[1] = images[1] // 200 + 100  # little contrast
    shift, scale = contrast(images)
    x = images.reshape(len(images), -1).astype(np.float64)
    x -= x.mean(1, keepdims=True)
    np.testing.assert_allclose(shift, images.reshape(len(x), -1).mean(1), rtol=1e-7)
    np.testing.assert_allclose(scale, 55 / np.linalg.norm(x, axis=1), rtol=1e-7)


@pytest.mark.parametrize("value", [0, 1, 77, 255])
@pytest.mark.parametrize("side", [1, 7, 32, 300])
def test_contrast_of_a_constant_image(value, side):
    shift, scale = contrast(np.full((2, side, side, 3), value, np.uint8))
    assert (shift == value).all() and (scale == 1).all()


def test_mean_image_is_padded_with_zeros():
    images = RANDOM.integers(0, 256, (150, 6, 5, 3)).astype(np.uint8)
    shift, scale = contrast(images)
    mean = mean_image(images, shift, scale, 4)
    x = (images - shift.astype(np.float64)[:, None, None, None]) * scale[:, None, None, None]
    assert mean.shape == (14, 13, 3) and mean.dtype == np.float32
    np.testing.assert_allclose(mean[4:10, 4:9], x.mean(0), rtol=1e-5, atol=1e-7)
    mean[4:10, 4:9] = 0
    assert not mean.any()
    assert mean_image(images, shift, scale, 0).shape == (6, 5, 3)


# --- the object ----------------------------------------------------------------------------------


def some_images(count: int = 5) -> np.ndarray:
    images = RANDOM.integers(0, 256, (count, 6, 5, 3)).astype(np.uint8)
    images[-1] = 201
    return images


@pytest.mark.parametrize("pixel_scale", [None, 0.004])
def test_a_data_set_holds_what_its_training_images_decide(pixel_scale):
    images, labels = some_images(), np.array([0, 1, 0, 1, 0], np.int32)
    data = build(
        "set",
        Raw(images, labels, images[::-1].copy(), labels, ["a", "b"]),
        2,
        True,
        None,
        [],
        pixel_scale,
    )
    found = data.preprocessing
    assert (found.pad, found.pixel_scale, found.input_scale) == (2, pixel_scale, 1.0)
    if pixel_scale is None:
        shift, scale = contrast(images)
        assert np.array_equal(found.mean_image, mean_image(images, shift, scale, 2))
    else:
        shift, scale = np.zeros(5, np.float32), np.full(5, np.float32(pixel_scale))
        assert not found.mean_image.any() and found.mean_image.shape == (10, 9, 3)
    for split, order in ((data.train, slice(None)), (data.test, slice(None, None, -1))):
        assert np.array_equal(split.shift, shift[order])
        assert np.array_equal(split.scale, scale[order])


@pytest.mark.parametrize("pixel_scale", [None, 0.004])
def test_it_is_the_same_out_of_a_file_and_on_a_device(pixel_scale):
    """What `gather` makes of unseen images is the definition, before and after saving."""
    images, others = some_images(), some_images(4)
    before, _ = Preprocessing.fit(images, 2, pixel_scale)
    before.input_scale = 0.53
    after = Preprocessing.restored(before.description(), before.tensors(), (6, 5, 3), 0.53, "file")
    assert after.pad == 2 and after.pixel_scale == pixel_scale
    for preprocessing in (before, after):
        shift, scale = preprocessing.normalise(others)
        ops = ops_for("numpy")
        net = SimpleNamespace(
            ops=ops,
            wanted=["labels"],
            batch=4,
            seed=0,
            x=np.zeros((4, 6, 5, 3), np.float32),
            labels=np.zeros(4, np.int32),
            clock=new_clock(),
        )
        Resident(net, Split(others, np.zeros(4, np.int32), shift, scale), preprocessing).batch(
            np.arange(4)
        )
        want = (others - shift[:, None, None, None]) * scale[:, None, None, None]
        want = (want - before.mean_image[2:8, 2:7]) * np.float32(0.53)
        np.testing.assert_allclose(net.x, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "description, shape",
    [({"pad": 1}, (10, 9, 3)), ({"pad": -2}, (2, 1, 3)), ({}, (10, 9, 1)), ({}, None)],
)
def test_a_mean_image_of_other_images_is_refused(description, shape):
    tensors = {} if shape is None else {MEAN_IMAGE: np.zeros(shape, np.float32)}
    with pytest.raises(InputError, match="file: its data.mean_image has shape .*, and this net's"):
        Preprocessing.restored(
            {"pad": 2, "pixel_scale": None} | description, tensors, (6, 5, 3), 1.0, "file"
        )
