"""Trained weights that come with the program: made of a run, never in the place of others.

Read next: bench/weights.py.
"""

import numpy as np
import pytest

import bench.weights
import engine
import models
from engine.errors import InputError
from engine.run import checkpoint
from helpers.nets import tiny
from helpers.runs import SMALL, command
from models import NETS, Model


def test_a_run_becomes_weights_by_name_and_no_others_are_lost(tmp_path, monkeypatch):
    monkeypatch.setitem(NETS, "tiny", Model(tiny, (8, 8, 3)))
    run, weights = tmp_path / "run", tmp_path / "weights"
    weights.mkdir()
    for module in (bench.weights, models):
        monkeypatch.setattr(module, "WEIGHTS", weights)
    assert command(*SMALL, "--epochs", 1, "--out", run) == 0
    assert bench.weights.main([str(run), "small"]) == 0
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)
    answers = [engine.load(name, device="numpy").predict(images) for name in (run, "small")]
    np.testing.assert_allclose(*answers, atol=0.01)
    tensors = checkpoint.read(weights / "small").tensors
    assert tensors["clf.W"].dtype == np.float16
    assert not any(name.startswith("optimizer.") for name in tensors)
    before = {path: path.read_bytes() for path in (weights / "small").iterdir()}
    with pytest.raises(InputError, match="is there already; remove it"):
        bench.weights.main([str(run), "small"])
    assert before == {path: path.read_bytes() for path in (weights / "small").iterdir()}
    monkeypatch.setattr(bench.weights, "LARGEST", 10)
    with pytest.raises(InputError, match="the bounds are"):
        bench.weights.main([str(run), "other"])
    assert [path.name for path in weights.iterdir()] == ["small"]
