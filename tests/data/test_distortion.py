"""The distortions that Graham's program draws: that the table of `ops.distort` has them.

Read next: tests/data/test_preprocessing.py.
"""

from dataclasses import replace

import numpy as np
import pytest

from engine.data import distortion, synthetic
from engine.data.dataset import build
from engine.data.feed import Feed
from engine.errors import InputError
from engine.layers import Conv, Distort, FractionalMaxPool, Linear, middle_of
from engine.losses import SoftmaxLoss
from engine.net import Net
from helpers.runs import command
from models import NETS
from models.fmp import fmp32
from models.recipes import recipe

SHAPE, FIELD = (32, 28, 3), 94
ROWS = distortion.rows(7, 0, 4000, 4000, SHAPE, FIELD).astype(np.float64)


def short(act, classes, dropout=True):
    """The net's field, a pooling that draws, and a classifier."""
    return [fmp32(act, classes)[0], FractionalMaxPool(60), Linear(classes)]


def test_the_image_fills_its_box():
    """Its corners, on their way back through the map: the box begins at the least of them and ends
    with the pixel of the largest, and lies in the middle of the field but for 16 pixels."""
    p = ROWS[:, :6].reshape(-1, 2, 3)
    corners = np.array([[0, 28, 0, 28], [0, 0, 32, 32]])
    field = np.linalg.inv(p[:, :, :2]) @ (corners - p[:, :, 2:])  # (M, u v, corner)
    begin, end = ROWS[:, 6:8], ROWS[:, 8:10]
    np.testing.assert_allclose(field.min(axis=2), begin, atol=1e-4)
    assert ((end - field.max(axis=2) > -1e-4) & (end - field.max(axis=2) < 1 + 1e-4)).all()
    jiggle = begin - (FIELD // 2 - (end - begin) // 2)
    assert set(np.unique(jiggle)) == set(range(-16, 17))
    assert begin.min() > 0 and end.max() < FIELD


def test_maps_are_stretched_mirrored_slanted_and_turned():
    c = np.linalg.inv(ROWS[:, :6].reshape(-1, 2, 3)[:, :, :2]).transpose(0, 2, 1)
    area = np.linalg.det(c)
    assert abs((area < 0).mean() - 0.5) < 0.03
    assert 0.63 < abs(area).min() < 0.7 and 1.4 < abs(area).max() < 1.45
    tilted = abs(c) > 1e-6
    assert abs((~tilted[:, 0, 1]).mean() - 1 / 3) < 0.03  # slanted along one axis,
    assert abs((~tilted[:, 1, 0]).mean() - 1 / 3) < 0.03  # along the other,
    assert (tilted[:, 0, 1] | tilted[:, 1, 0]).all()  # or turned
    assert abs(c[:, 0, 1]).max() < 0.25 and abs(c[:, 1, 0]).max() < 0.25


def test_colours_are_brighter_from_the_middle_of_the_box_on():
    q = ROWS[:, 10:].reshape(-1, 3, 3)
    middle = ROWS[:, 6:8] + (ROWS[:, 8:10] - ROWS[:, 6:8]) // 2
    at_middle = q[:, :, 0] + (q[:, :, 1:] * middle[:, None]).sum(axis=2)
    np.testing.assert_allclose(at_middle.std(axis=0), 25 / 128, rtol=0.05)
    np.testing.assert_allclose(q[:, :, 1:].std(axis=0), 2 / 128, rtol=0.05)
    assert abs(np.corrcoef(at_middle.T)[0, 1]) < 0.05


def test_a_row_is_its_images_own_and_the_last_epochs_stay_still():
    parts = [distortion.rows(7, first, 10, 25, SHAPE, FIELD) for first in (0, 10, 20, 30)]
    found = np.concatenate(parts)
    np.testing.assert_array_equal(found[:25], ROWS[:25].astype(np.float32))
    still = middle_of(SHAPE, FIELD)
    np.testing.assert_array_equal(found[25:], np.repeat(still, 15, axis=0))
    assert still[0, :10].tolist() == [1, 0, -33, 0, 1, -31, 33, 31, 61, 63]


def test_a_feed_distorts_what_is_trained_on_and_for_so_long(ops):
    """In training, in the epochs it is told; outside it never."""
    data = build("made up", synthetic.make((8, 8)), 0, False, 40, [])

    def fields(distort, step, train=True):
        net = Net(
            [Distort(60, name="field"), Conv(2), Linear(10)], SoftmaxLoss(), ops, (8, 8, 3), 20
        )
        feed = Feed(net, data, 0, 1.0, distort=distort)
        feed.start(np.array(ops.tohost(net.clock)), step, step + 1, np.ones(2))
        feed.train_batch()
        return ops.tohost(net.chain.layers[0].forward(net.x, train)).copy()

    still = fields(0, 0)
    assert still[:, 26:34, 26:34].any() and not np.delete(still, range(26, 34), 1).any()
    moved = fields(1, 0)
    assert not np.array_equal(moved, still) and not np.array_equal(moved, fields(1, 1))
    np.testing.assert_array_equal(moved, fields(1, 0))
    np.testing.assert_array_equal(fields(1, 0, train=False), still)
    np.testing.assert_array_equal(fields(1, 2), fields(0, 2))  # the second epoch
    with pytest.raises(InputError, match="the net has no Distort layer"):
        net = Net([Linear(10)], SoftmaxLoss(), ops, (8, 8, 3), 20)
        Feed(net, data, 0, 1.0, distort=1)
    with pytest.raises(InputError, match="^late: it has no gradient"):
        Net([Conv(3), Distort(60, name="late"), Linear(10)], SoftmaxLoss(), ops, (8, 8, 3), 20)


def test_a_shorter_run_distorts_the_same_share():
    assert recipe("fmp-32", "vlrelu", "original").distort_over(41) == pytest.approx(40)
    assert recipe("fmp-160", "vlrelu", "original").distort_over(810) == 800
    assert recipe("fmp-mnist", "vlrelu", "original").distort_over(410) == 0


def test_a_run_of_colour_images_has_them_as_the_program_has(tmp_path, monkeypatch):
    """A pixel u is (u - 128) / 128 in the field: no contrast, no mean image; nothing is mirrored
    but by the distortion, which the recipe's last epochs lack."""
    monkeypatch.setattr(synthetic, "TRAIN", 60)
    monkeypatch.setattr(synthetic, "TEST", 30)
    seen = {}

    def look(feed):
        field = feed.net.chain.layers[0]
        feed.test.batch(np.arange(2))
        seen["field"] = np.array(field.forward(feed.net.x, False))
        seen["pixels"], seen["mirror"] = feed.data.test.images[:2], feed.mirror
        seen["distorted"] = feed.distorted
        raise InputError("enough")

    monkeypatch.setattr(Feed, "first_batches", look)
    monkeypatch.setitem(NETS, "fmp-32", replace(NETS["fmp-32"], build=short))
    options = ["--net", "fmp-32", "--data", "synthetic", "--device", "numpy", "--epochs", 4.1]
    assert command(*options, "--batch", 2, "--out", tmp_path / "run") == 2
    want = (seen["pixels"].astype(np.float32) - 128) / 128
    want[(abs(want) <= 2 / 128).all(axis=3)] = 0
    np.testing.assert_allclose(seen["field"][:, 31:63, 31:63], want, atol=1e-6)
    assert (seen["mirror"], seen["distorted"]) == (0, 240)
