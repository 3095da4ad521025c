"""A net of one's own in a file, and out of it again.

Read next: tests/run/test_checkpoint.py, the checkpoints of runs.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import engine
import lsuv
from engine.errors import InputError, RunError
from engine.layers import BatchNorm, Conv, Dropout, Linear, Maxout, PReLU
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.optimizers import OPTIMIZERS, SGD, RMSProp
from engine.run import checkpoint
from engine.run.tensorfile import header
from kernels.reference import NumpyOps

N, SHAPE, CLASSES = 50, (6, 6, 2), 3
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((N, *SHAPE)).astype(np.float32)
LABELS = np.abs(IMAGES.mean(axis=(1, 2)) @ [9, -5]).astype(int) % CLASSES


def made(ops=None, seed=0, outputs=CLASSES):
    layers = [
        *(Conv(4, pieces=2, name="conv"), Maxout(2), BatchNorm(affine=True, name="bn")),
        *(PReLU(name="act"), Dropout(0.3), Linear(outputs, name="clf")),
    ]
    net = Net(layers, SoftmaxLoss(), ops or NumpyOps(), SHAPE, 16, seed=5)
    lsuv.fill(net, "lsuv", seed)
    return net


def fit(net, optimizer, epochs=1.0):
    return engine.fit(net, IMAGES, LABELS, optimizer, epochs, 0.01, report=lambda line: None)


def whole(net):
    return {name: p.value for name, p in net.named_params().items()} | net.named_state()


def same(net, other):
    host, theirs = net.ops.tohost, whole(other)
    return all(np.array_equal(host(v), other.ops.tohost(theirs[k])) for k, v in whole(net).items())


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_training_goes_on_from_a_file_bit_for_bit(ops, kind, tmp_path):
    """In the middle of an epoch, with the optimizer's memory, dropout masks and statistics."""
    first, second = made(ops), made(ops, seed=1)
    optimizer, other = kind(first, decay=1e-3), kind(second, decay=1e-3)
    fit(first, optimizer, 1.4)
    engine.save(first, tmp_path / "net.safetensors", optimizer)
    rows = fit(first, optimizer, 0.6)
    engine.restore(second, tmp_path / "net.safetensors", other)
    assert fit(second, other, 0.6) == rows
    assert same(first, second)


def test_weights_alone_begin_anew(ops, tmp_path):
    first, second = made(ops), made(ops, seed=1)
    fit(first, SGD(first))
    engine.save(first, tmp_path / "net")
    engine.restore(second, tmp_path / "net")
    assert same(first, second)
    assert np.array_equal(engine.scores(first, IMAGES), engine.scores(second, IMAGES))
    assert [row["epoch"] for row in fit(second, SGD(second))] == [1]
    with pytest.raises(InputError, match="holds the memory of no optimizer, not of SGD"):
        engine.restore(second, tmp_path / "net", SGD(second))


def test_other_programs_read_the_file_in_their_layout(tmp_path):
    net = made()
    engine.save(net, tmp_path / "net.safetensors")
    tensors = load_file(tmp_path / "net.safetensors")
    assert {name: value.shape for name, value in tensors.items()} == {
        **{"conv.W": (8, 2, 3, 3), "conv.b": (8,), "bn.scale": (4,), "bn.shift": (4,)},
        **{"bn.mean": (4,), "bn.variance": (4,), "bn.weight": (1,), "act.slope": (4,)},
        **{"clf.W": (3, 144), "clf.b": (3,)},
    }
    W = net.named_params()["conv.W"].value
    assert np.array_equal(tensors["conv.W"], W.transpose(0, 3, 1, 2))


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def stripped(path):
    save_file(load_file(path), path)


def forged(path, **changes):
    """Another word in the metadata, with the hashes that belong to it."""
    with open(path, "rb") as file:
        metadata, _ = header(file, 1 << 20)
    del metadata["metadata_hash"]
    metadata["trained"] = json.dumps(json.loads(metadata["trained"]) | changes)
    checkpoint.write_file(path, load_file(path), metadata)


def early(path):
    forged(path, begun=-3)


def late(path):
    forged(path, begun=1 << 40)


def timeless(path):
    forged(path, clock=["0x1.0p+0"] * 3)


@pytest.mark.parametrize("damage", [flipped, cut, stripped, early, late, timeless])
def test_a_damaged_file_changes_nothing(damage, tmp_path):
    net, path = made(), tmp_path / "net.safetensors"
    fit(net, SGD(net))
    engine.save(net, path)
    damage(path)
    before = {name: np.array(value) for name, value in whole(net).items()}
    with pytest.raises(InputError, match="net.safetensors: is .*; give a file that engine.save"):
        engine.restore(net, path)
    assert all(np.array_equal(before[name], value) for name, value in whole(net).items())


def test_another_net_or_optimizer_is_refused_whole(tmp_path):
    net, other = made(), made(seed=1, outputs=4)
    optimizer = SGD(net)
    engine.save(net, tmp_path / "net", optimizer)
    before = np.array(other.weights)
    with pytest.raises(InputError, match=r"clf.W should have shape \(4, 144\) and has shape \(3,"):
        engine.restore(other, tmp_path / "net")
    assert np.array_equal(before, other.weights)
    with pytest.raises(InputError, match="holds the memory of SGD, not of RMSProp"):
        engine.restore(net, tmp_path / "net", RMSProp(net))
    with pytest.raises(InputError, match="nowhere: no such run or file of weights"):
        engine.restore(net, tmp_path / "nowhere")


def test_a_net_that_is_not_finite_is_not_written(tmp_path):
    net = made()
    net.named_params()["clf.W"].value[0, 0] = np.nan
    with pytest.raises(RunError, match="clf.W is not finite; nothing is written"):
        engine.save(net, tmp_path / "net")
    assert not list(tmp_path.iterdir())
