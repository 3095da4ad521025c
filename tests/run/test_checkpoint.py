"""Checkpoints: layouts that others read, damage found, predecessors used, strangers refused.

Read next: tests/engine/test_cli_errors.py.
"""

import errno
import json
import os
import stat
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from engine.cli.settings import MOST_EPOCHS
from engine.errors import InputError, RunError
from engine.run import checkpoint
from engine.run import folder as runs
from engine.run.files import write_json
from helpers.checkpoints import DATA, MEAN, SETTINGS, save
from helpers.hostile import flipped
from helpers.nets import scramble, small_net


def test_round_trip_is_exact(tmp_path):
    net, optimizer = small_net()
    scramble(net, optimizer, 0)
    save(tmp_path, net, optimizer, 7)
    other, other_optimizer = small_net()
    saved = checkpoint.read(tmp_path)
    checkpoint.restore(saved, other, other_optimizer)
    assert (saved.step, saved.epoch, saved.seed, saved.progress) == (7, 3.5, 1, {"rows": 7})
    assert np.array_equal(net.weights, other.weights)
    assert np.array_equal(optimizer.state["momentum"], other_optimizer.state["momentum"])
    for name, state in net.named_state().items():
        assert np.array_equal(state, other.named_state()[name])


def test_layouts_are_the_usual_ones(tmp_path):
    """A convolution is OIHW, and a fully connected layer's inputs stand in C, H, W order."""
    net, optimizer = small_net()
    scramble(net, optimizer, 0)
    file = load_file(save(tmp_path, net, optimizer, 1))
    conv, clf = (net.named_params()[name].value for name in ("conv.W", "clf.W"))
    assert file["conv.W"].shape == (8, 2, 3, 3)  # pieces stacked: 2 x 4 outputs
    assert file["conv.W"][5, 1, 0, 2] == conv[5, 0, 2, 1]
    x = np.random.default_rng(1).normal(size=(1, 5, 6, 4)).astype(np.float32)  # NHWC
    np.testing.assert_allclose(
        x.transpose(0, 3, 1, 2).reshape(1, -1) @ file["clf.W"].T,
        x.reshape(1, -1) @ clf.T,
        rtol=1e-4,
        atol=1e-5,
    )
    momentum = net.arenas.view(optimizer.state["momentum"], "conv.W")
    assert file["optimizer.momentum.conv.W"][3, 0, 2, 1] == momentum[3, 2, 1, 0]
    assert {"bn.mean", "bn.variance", "bn.weight", "conv.b", "data.mean_image"} <= set(file)


def test_the_predecessor_is_kept_and_used_when_the_newest_is_damaged(tmp_path):
    net, optimizer = small_net()
    scramble(net, optimizer, 0)
    save(tmp_path, net, optimizer, 1)
    first = net.weights.copy()
    scramble(net, optimizer, 1)
    path = save(tmp_path, net, optimizer, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint.previous.safetensors",
        "checkpoint.safetensors",
    ]
    whole, told = path.read_bytes(), []
    for damaged in (
        whole[:-3],
        whole[:100],
        b"",
        flipped(whole, 8 * -5),
        flipped(whole, 8 * 300),
        None,
    ):
        path.write_bytes(damaged) if damaged is not None else path.unlink()
        saved = checkpoint.read(tmp_path, told.append)
        assert saved.step == 1
        checkpoint.restore(saved, net, optimizer)
        assert np.array_equal(net.weights, first)
    assert len(told) == 6
    assert all("checkpoint.previous.safetensors, step 1" in line for line in told)
    (tmp_path / "checkpoint.previous.safetensors").unlink()
    with pytest.raises(InputError, match="no checkpoint to load"):
        checkpoint.read(tmp_path)


def test_every_bit_of_the_metadata_counts(tmp_path):
    net, optimizer = small_net()
    path = save(tmp_path, net, optimizer, 2)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert header["__metadata__"]["step"] == "2"
    path.write_bytes(path.read_bytes().replace(b'"step":"2"', b'"step":"3"'))
    with pytest.raises(checkpoint.Damaged, match="header"):
        checkpoint.read_file(path)


def rewritten(path, **changed):
    """The file with other metadata, whose hash is right."""
    with safe_open(path, framework="numpy") as file:
        metadata = {key: value for key, value in (file.metadata() | changed).items() if value}
    metadata["metadata_hash"] = checkpoint.metadata_digest(metadata)
    path.write_bytes(to_bytes(load_file(path), metadata))


def test_a_newer_version_is_refused_by_name_and_not_taken_for_damage(tmp_path):
    net, optimizer = small_net()
    save(tmp_path, net, optimizer, 1)
    path = save(tmp_path, net, optimizer, 2)
    rewritten(path, format="lsuv-engine checkpoint 2")
    with pytest.raises(InputError, match="format 2, and this version of the program knows 1"):
        checkpoint.read(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"checkpoint 2", b"checkpoint 3"))  # a damaged byte
    assert checkpoint.read(tmp_path, lambda note: None).step == 1


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"format": "lsuv-engine checkpoint 1.0"}, "not a checkpoint of this program"),
        ({"format": "other program 1"}, "not a checkpoint of this program"),
        ({"hashes": None}, "hashes"),
        ({"hashes": "[]"}, "hashes"),
        ({"hashes": "{}"}, "tensors are missing"),
        ({"hashes": "[" * 100_000}, "not as this program writes it"),
        ({"settings": "[]"}, "settings"),
        ({"settings": None}, "settings"),
        ({"data": '{"name": "x"}'}, "fingerprint"),
        ({"progress": "0"}, "progress"),
        ({"step": "one"}, "'one'"),
        ({"step": "9" * 5000}, "not as this program"),
        ({"epoch": None}, "epoch"),
    ],
)
def test_metadata_that_only_looks_right_is_damage(tmp_path, changed, said):
    net, optimizer = small_net()
    path = save(tmp_path, net, optimizer, 1)
    rewritten(path, **changed)
    with pytest.raises(checkpoint.Damaged, match=said):
        checkpoint.read_file(path)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8])
def test_tensors_of_other_types_are_damage(tmp_path, dtype):
    net, optimizer = small_net()
    path = save(tmp_path, net, optimizer, 1)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    path.write_bytes(to_bytes(load_file(path) | {"clf.b": np.zeros(3, dtype)}, metadata))
    with pytest.raises(checkpoint.Damaged, match="clf.b is"):
        checkpoint.read_file(path)


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    net, optimizer = small_net()
    save(tmp_path, net, optimizer, 1)
    net.named_params()["clf.b"].value[0] = np.nan
    with pytest.raises(RunError, match="clf.b is not finite at step 2"):
        save(tmp_path, net, optimizer, 2)
    assert checkpoint.read(tmp_path).step == 1


def test_another_net_or_data_set_is_refused_by_name(tmp_path):
    net, optimizer = small_net()
    save(tmp_path, net, optimizer, 1)
    saved = checkpoint.read(tmp_path)
    checkpoint.refuse_others(saved, SETTINGS, DATA)
    with pytest.raises(InputError, match="of net small, not fitnet4"):
        checkpoint.refuse_others(saved, SETTINGS | {"net": "fitnet4"}, DATA)
    with pytest.raises(InputError, match="trained on data synthetic .* not on cifar10"):
        checkpoint.refuse_others(saved, SETTINGS, {"name": "cifar10", "fingerprint": "cd" * 32})
    other, other_optimizer = small_net(outputs=5)
    with pytest.raises(InputError, match=r"clf.W should have shape \(5, 120\)"):
        checkpoint.restore(saved, other, other_optimizer)
    with pytest.raises(InputError, match="optimizer.square.conv.W .* nothing"):
        checkpoint.restore(saved, net, SimpleNamespace(state={"square": net.weights}))


def test_a_failed_write_leaves_both_files(tmp_path, monkeypatch):
    net, optimizer = small_net()
    save(tmp_path, net, optimizer, 1)
    save(tmp_path, net, optimizer, 2)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.run.folder.os.fsync", full)
    with pytest.raises(RunError, match="No space left"):
        save(tmp_path, net, optimizer, 3)
    assert checkpoint.read(tmp_path).step == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_run_may_write_is_what_is_read_again(tmp_path):
    """The longest run's rows fit into the header, and its lines into metrics.csv."""
    row = {"epoch": MOST_EPOCHS, "step": 2**31 - 1} | dict.fromkeys(runs.COLUMNS[2:], -1 / 3e-7)
    rows = [row] * MOST_EPOCHS
    net, optimizer = small_net()
    checkpoint.save(
        tmp_path,
        net,
        optimizer,
        step=1,
        epoch=1.0,
        settings=SETTINGS,
        data=DATA,
        data_tensors=MEAN,
        progress={"rows": rows},
    )
    assert checkpoint.read(tmp_path).progress == {"rows": rows}
    runs.write_metrics(tmp_path, rows)
    assert len(runs.read_metrics(tmp_path)) == MOST_EPOCHS
    with pytest.raises(RunError, match="fewer classes"):
        write_json(tmp_path / runs.RUN, {"classes": ["x" * 250] * 20_000})
    assert not (tmp_path / runs.RUN).exists()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ENOMEM])
def test_a_system_that_refuses_is_no_damage(tmp_path, monkeypatch, number):
    """The predecessor is not taken, and nobody is told to train anew."""
    net, optimizer = small_net()
    save(tmp_path, net, optimizer, 1)
    save(tmp_path, net, optimizer, 2)

    def refuse(path):
        raise OSError(number, "refused", str(path))

    monkeypatch.setattr(checkpoint, "open_regular", refuse)
    with pytest.raises(OSError, match="refused"):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_file_system_that_flushes_no_folder(tmp_path, monkeypatch, call):
    inner = getattr(os, call)

    def refuse(what, *flags):
        if call == "open" and str(what) == str(tmp_path):
            raise PermissionError(errno.EACCES, "Permission denied")
        if call == "fsync" and stat.S_ISDIR(os.fstat(what).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        return inner(what, *flags)

    monkeypatch.setattr(runs.os, call, refuse)
    net, optimizer = small_net()
    save(tmp_path, net, optimizer, 1)
    assert checkpoint.read(tmp_path).step == 1


def test_a_file_system_without_second_names(tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(runs.os, "link", refuse)
    net, optimizer = small_net()
    for step in (1, 2, 3):
        save(tmp_path, net, optimizer, step)
    assert checkpoint.read(tmp_path).step == 3
    (tmp_path / runs.CHECKPOINT).unlink()
    assert checkpoint.read(tmp_path, lambda note: None).step == 2
