"""Every flipped bit and every missing end of a small checkpoint, of CIFAR and of MNIST files.

A flip is found, or it changes the fingerprint that the run prints and a resume compares, or nothing
that is read has changed: never a crash, never another result under the same fingerprint.

Read next: tests/hostile/test_hostile_headers.py.
"""

import dataclasses
import gzip
import os
from pathlib import Path

import numpy as np
import pytest

import engine.data
from engine.data import cifar, load, mnist
from engine.errors import InputError
from engine.run import checkpoint
from helpers.checkpoints import save
from helpers.data_sets import CIFAR10, CIFAR100, SMALL_MNIST, forge_cifar, idx, mnist_arrays
from helpers.hostile import assert_one_line, flipped
from helpers.length import often
from helpers.nets import scramble, small_net

FLIPS = 10_000
OFFICIAL_DIR = os.environ.get("LSUV_DATA_DIR")
MNIST = dataclasses.replace(SMALL_MNIST, counts=(11, 10))


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Small sets."""
    monkeypatch.delenv("LSUV_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    for name, layout in (("cifar10", CIFAR10), ("cifar100", CIFAR100), ("mnist", MNIST)):
        monkeypatch.setitem(engine.data.OFFICIAL, name, layout)


def bits(size: int, count: int, seed: int = 0) -> np.ndarray:
    """`count` of a file's bits: those of its first bytes and its last, and others all over it."""
    edge = min(8 * size, count // 4)
    others = np.random.default_rng(seed).choice(8 * size, min(count, 8 * size), replace=False)
    return np.unique(np.r_[0:edge, 8 * size - edge : 8 * size, others])


def content(data) -> list[bytes]:
    """All that a run sees of a set."""
    return [
        array.tobytes() for split in (data.train, data.test) for array in vars(split).values()
    ] + [data.preprocessing.mean_image.tobytes()]


# --- checkpoint ----------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """The file of a small net's checkpoint."""
    net, optimizer = small_net()
    scramble(net, optimizer, 0)
    return save(tmp_path, net, optimizer, 7)


def test_every_flip_of_a_checkpoint_is_found(saved):
    whole = saved.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = bits(len(whole), often(400, FLIPS), seed=1)
    everywhere = (
        np.arange(8 * header)
        if often(0, 1)
        else np.arange(header) * 8 + np.random.default_rng(2).integers(0, 8, header)
    )
    for bit in np.union1d(places, everywhere):
        saved.write_bytes(flipped(whole, int(bit)))
        with pytest.raises(checkpoint.Damaged) as damage:
            checkpoint.read_file(saved)
        assert len(str(damage.value)) < 300
    saved.write_bytes(whole)
    assert checkpoint.read_file(saved).step == 7


def test_every_truncation_of_a_checkpoint_is_found(saved):
    for size in reversed(range(saved.stat().st_size)):
        os.truncate(saved, size)
        with pytest.raises(checkpoint.Damaged):
            checkpoint.read_file(saved)


# --- data ----------------------------------------------------------------------------------------


def forge(root, name):
    """A set's folder -> (its files, packed ones among them, how they can be loaded)."""
    if name != "mnist":
        home = forge_cifar(root, engine.data.OFFICIAL[name])
    else:
        home = root / "mnist"
        home.mkdir()
        for file, array in mnist_arrays().items():
            array = array[tuple(map(slice, MNIST.shape(file)))]
            packed = file.startswith("t10k")
            (home / f"{file}{'.gz' * packed}").write_bytes(
                gzip.compress(idx(array), mtime=1) if packed else idx(array)
            )
    return home, sorted(home.iterdir())


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist"])
def test_a_flip_of_a_data_file_is_found_or_another_fingerprint(tmp_path, name):
    home, files = forge(tmp_path, name)
    good = load(name, home)
    before, same = content(good), 0
    for path in files:
        whole = path.read_bytes()
        share = len(whole) / sum(file.stat().st_size for file in files)
        for bit in bits(len(whole), max(often(8, 100), round(often(250, FLIPS) * share))):
            path.write_bytes(flipped(whole, int(bit)))
            try:
                data = load(name, home)
            except InputError as error:
                assert_one_line(error, home)
                continue
            changed = content(data) != before
            assert changed == (data.fingerprint != good.fingerprint), (path, bit)
            if not changed:  # the time in a packed file's header, or a bit that fills up a byte
                assert path.suffix == ".gz", (path, bit)
                same += 1
        path.write_bytes(whole)
    assert load(name, home).fingerprint == good.fingerprint
    assert (same > 0) == (name == "mnist")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist"])
def test_every_truncation_of_a_data_file_is_found(tmp_path, name):
    layout = engine.data.OFFICIAL[name]
    home, files = forge(tmp_path, name)
    for path in files:
        file = path.name.removesuffix(".gz")
        rows = dict(getattr(layout, "train", ()) + getattr(layout, "test", ())).get(file)
        step = often(1 if path.stat().st_size < 40_000 else 97, 1)
        whole = path.read_bytes()
        for size in reversed(range(0, len(whole), step)):
            os.truncate(path, size)
            with pytest.raises(InputError) as error:
                if rows is None:
                    mnist.read_file(home, file, layout)
                else:
                    cifar.read_file(
                        path,
                        layout,
                        np.empty((rows, 32, 32, 3), np.uint8),
                        np.empty(rows, np.int32),
                    )
            assert_one_line(error.value, path)
        path.write_bytes(whole)
    load(name, home)


def test_a_coarse_label_that_others_of_its_class_do_not_have(tmp_path):
    home, _ = forge(tmp_path, "cifar100")
    rows = np.fromfile(home / "test.bin", np.uint8).reshape(200, -1)
    rows[3, 0] ^= 1
    rows.tofile(home / "test.bin")
    with pytest.raises(InputError, match="test.bin: image .* of class 3 has coarse label"):
        load("cifar100", home)


@pytest.mark.parametrize("name, layout", [("cifar10", cifar.CIFAR10), ("mnist", mnist.MNIST)])
def test_flips_of_the_official_files(tmp_path, monkeypatch, name, layout):
    if not often(0, 1):
        pytest.skip("--full only")
    if not OFFICIAL_DIR or not (Path(OFFICIAL_DIR) / layout.folder).is_dir():
        pytest.skip(f"$LSUV_DATA_DIR has no {layout.folder}")
    monkeypatch.setitem(engine.data.OFFICIAL, name, layout)
    home = tmp_path / layout.folder
    home.mkdir()
    files = sorted((Path(OFFICIAL_DIR) / layout.folder).glob("*"))
    for file in files:
        (home / file.name).symlink_to(file.resolve())
    good = load(name, home).fingerprint
    victim = next(home / file.name for file in files if file.name.startswith(("data_b", "train-i")))
    whole = victim.read_bytes()
    victim.unlink()
    for bit in np.random.default_rng(4).integers(0, 8 * len(whole), 12):
        victim.write_bytes(flipped(whole, int(bit)))
        try:
            assert load(name, home).fingerprint != good
        except InputError as error:
            assert_one_line(error, victim.name)
