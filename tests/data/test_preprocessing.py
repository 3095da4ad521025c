"""Preprocessing: its definition, the same wherever it is applied, and its way through a run folder.

Read next: tests/engine/test_export.py.
"""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from engine.data import load
from engine.data.dataset import Raw, Split, build
from engine.data.feed import Resident
from engine.data.preprocessing import (
    CHUNK,
    MEAN_IMAGE,
    WHITENING,
    Preprocessing,
    contrast,
    mean_image,
)
from engine.errors import InputError
from helpers.data_sets import RANDOM
from helpers.length import often
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


# --- whitening -----------------------------------------------------------------------------------


def noisy_images(count: int) -> np.ndarray:
    """With neighbours alike, as those of photographs are."""
    images = RANDOM.normal(0, 1, (count, 6, 5, 3)).cumsum(1).cumsum(2)
    return (128 + 20 * images).clip(0, 255).astype(np.uint8)


def whitening_set(count: int = 400):
    images, labels = noisy_images(count), np.arange(count, dtype=np.int32) % 2
    raw = Raw(images, labels, noisy_images(50), labels[:50], ["a", "b"])
    return build("set", raw, 2, True, None, []).prepared("zca", None)


def test_zca_makes_the_covariance_that_its_formula_gives(ops):
    """V L^(-1/2) V', symmetric; whitened, the covariance is V (1 - 0.1 / L) V'."""
    data = whitening_set()
    how = data.preprocessing
    x = data.train.images.reshape(400, -1) - data.train.shift[:, None].astype(np.float64)
    x = x * data.train.scale[:, None] - how.middle.reshape(-1)
    values, vectors = np.linalg.eigh(x.T @ x / 400 + 0.1 * np.eye(90))
    assert np.array_equal(how.whitening, how.whitening.T) and data.contrast == "zca"
    np.testing.assert_allclose(how.whitening, (vectors / values**0.5) @ vectors.T, atol=1e-5)
    white = ops.tohost(how.whitened(ops, data.train.images, data.train.shift, data.train.scale))
    np.testing.assert_allclose(white.reshape(400, -1), x @ how.whitening, atol=2e-5)
    flat = white.reshape(400, -1).astype(np.float64)
    want = (vectors * (1 - 0.1 / values)) @ vectors.T
    np.testing.assert_allclose(flat.T @ flat / 400, want, atol=1e-4)


def test_whitened_images_are_cropped_with_a_border_of_zeros(ops):
    data = whitening_set()
    net = SimpleNamespace(
        ops=ops,
        wanted={"labels": None},
        x=ops.zeros((3, 6, 5, 3)),
        labels=ops.zeros((3,), np.int32),
        clock=ops.asarray(new_clock()),
        seed=0,
        batch=3,
    )
    resident = Resident(net, data.train, data.preprocessing)
    resident.batch(np.array([4, 2]))
    images, shift, scale = data.train.images, data.train.shift, data.train.scale
    white = ops.tohost(data.preprocessing.whitened(ops, images, shift, scale))
    assert np.array_equal(ops.tohost(net.x), np.stack([white[4], white[2], 0 * white[0]]))
    resident.gather(ops.asarray(np.int32([[4, 2, 7]])), 2, 0, augment=True)
    for crop, whole in zip(ops.tohost(net.x), white[[4, 2, 7]], strict=True):
        padded = np.pad(whole, ((2, 2), (2, 2), (0, 0)))
        windows = [padded[r : r + 6, c : c + 5] for r in range(5) for c in range(5)]
        assert any(np.array_equal(crop, window) for window in windows)


def test_a_whitening_is_kept_with_a_run():
    """Its tensor gives it back, and takes the place of one fitted anew."""
    data = whitening_set()
    how = data.preprocessing
    tensors = how.tensors()
    again = Preprocessing.restored(how.description(), tensors, (6, 5, 3), 0.5, "file")
    assert np.array_equal(again.whitening, how.whitening) and again.input_scale == 0.5
    other = tensors[WHITENING] * 2
    assert data.whitened_by({WHITENING: other}).preprocessing.whitening is other
    with pytest.raises(InputError, match=r"data.whitening has shape \(89, 90\)"):
        Preprocessing.restored(
            how.description(), tensors | {WHITENING: other[1:]}, (6, 5, 3), 0.5, "file"
        )
    plain = data.prepared("gcn", True)
    assert plain.contrast == "gcn" and plain.preprocessing.whitening is None
    assert plain.fingerprint != data.fingerprint


def test_what_cannot_be_whitened():
    with pytest.raises(InputError, match="at most 12,288 values"):
        Preprocessing.fit(np.zeros((1, 65, 64, 3), np.uint8), 0, whiten=True)
    with pytest.raises(InputError, match="leave --no-mean-image out"):
        whitening_set().prepared("zca", False)


@pytest.mark.slow
def test_zca_of_cifar10_has_the_figures_of_pylearn2s():
    if "LSUV_DATA_DIR" not in os.environ:
        pytest.skip("the real data sets are looked for in $LSUV_DATA_DIR")
    if not often(False, True):
        pytest.skip("takes a minute; --full runs it")
    data = load("cifar10").prepared("zca", None)
    whitening = data.preprocessing.whitening.astype(np.float64)
    values = np.linalg.eigvalsh(whitening) ** -2.0
    np.testing.assert_allclose(values[:5], [467.06, 282.35, 186.42, 135.27, 106.90], rtol=1e-4)
    assert abs(values.sum() - 0.1 * 3072 - 2943.65) < 0.5
    assert (values > 1).sum() == 239 and (values > 0.2).sum() == 759
    diagonal = np.diag(whitening)
    assert (round(diagonal.min(), 2), round(diagonal.max(), 2)) == (2.42, 2.72)
    split = data.test
    white = data.preprocessing.whitened(ops_for("auto"), split.images, split.shift, split.scale)
    assert abs(white.std() - 0.527) < 5e-4
