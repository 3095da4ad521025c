"""Data sets: forged files of every format, the official files where there are any, and no network.

Read next: tests/data/test_folder.py.
"""

import dataclasses
import gzip
import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pooch
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import engine.data
from engine.data import cifar, load, mnist, pictures, synthetic
from engine.data.dataset import keep
from engine.data.download import cache_folder
from engine.errors import InputError
from helpers.data_sets import (
    IMAGES,
    LABELS,
    SMALL10,
    SMALL100,
    SMALL_MNIST,
    cifar_rows,
    forge_cifar,
    forge_folder,
    forge_mnist,
    idx,
    mnist_arrays,
    pack,
    serve,
)

OFFICIAL_DIR = os.environ.get("LSUV_DATA_DIR")
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No data from outside, no network; -> list of the addresses that were asked for."""
    asked = []

    def refuse(address, *args, **kwargs):
        asked.append(address)
        raise ConnectionError("Max retries exceeded\nand a paragraph more")

    monkeypatch.delenv("LSUV_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pooch, "retrieve", refuse)
    for name, layout in (("cifar10", SMALL10), ("cifar100", SMALL100), ("mnist", SMALL_MNIST)):
        monkeypatch.setitem(engine.data.OFFICIAL, name, layout)
    return asked


# --- CIFAR ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, layout", [("cifar10", SMALL10), ("cifar100", SMALL100)])
def test_cifar_pixels_and_labels_arrive_where_they_belong(tmp_path, name, layout):
    home = forge_cifar(tmp_path, layout)
    data = load(name, tmp_path)
    file, rows = layout.train[-1]
    raw = np.fromfile(home / file, np.uint8).reshape(rows, -1)
    labels = len(layout.labels)
    assert np.array_equal(data.train.labels[-rows:], raw[:, labels - 1])
    assert np.array_equal(
        data.train.images[-rows:], raw[:, labels:].reshape(rows, 3, 32, 32).transpose(0, 2, 3, 1)
    )
    assert (data.in_shape, data.preprocessing.pad, data.mirror) == ((32, 32, 3), 8, True)
    assert data.preprocessing.mean_image.shape == (48, 48, 3)
    assert len(data.classes) == layout.labels[-1]
    assert data.train.images.dtype == np.uint8 and data.train.labels.dtype == np.int32
    assert data.train.images.flags.c_contiguous
    assert data.train.shift.dtype == data.train.scale.dtype == np.float32
    assert str(home) in data.notes[0]
    assert load(name, home).fingerprint == data.fingerprint  # the files' own folder will do
    assert len(set(data.classes)) == len(data.classes)


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "61,459 bytes, expected 61,460"),
        (lambda p: p.write_bytes(p.read_bytes() + b"x"), "61,461 bytes, expected 61,460"),
        (lambda p: p.write_bytes(b""), " 0 bytes, expected 61,460"),
        (lambda p: p.unlink(), "No such file"),
        (
            lambda p: p.write_bytes(b"\x0a" + p.read_bytes()[1:]),
            "label 10 of image 0, expected 0 to 9",
        ),
    ],
    ids=["short", "long", "empty", "missing", "label"],
)
def test_damaged_cifar_file_is_named(tmp_path, change, text):
    path = forge_cifar(tmp_path, SMALL10) / "data_batch_3.bin"
    change(path)
    with pytest.raises(InputError, match=text) as error:
        load("cifar10", tmp_path)
    assert "data_batch_3.bin" in str(error.value) and "fetch it again" in str(error.value)
    assert "\n" not in str(error.value)


def test_cifar_without_one_class_is_refused(tmp_path):
    home = forge_cifar(tmp_path, SMALL10)
    data = cifar_rows(SMALL10, 20)
    data[data[:, 0] == 4, 0] = 3
    data.tofile(home / "test_batch.bin")
    with pytest.raises(InputError, match="no image of class 4"):
        load("cifar10", tmp_path)


def test_coarse_label_out_of_range(tmp_path):
    home = forge_cifar(tmp_path, SMALL100)
    data = cifar_rows(SMALL100, 100)
    data[7, 0] = 20
    data.tofile(home / "test.bin")
    with pytest.raises(InputError, match="label 20 of image 7, expected 0 to 19"):
        load("cifar100", tmp_path)


# --- MNIST ---------------------------------------------------------------------------------------


def test_mnist_packed_and_unpacked_are_the_same(tmp_path):
    names = list(SMALL_MNIST.md5)
    home, arrays = forge_mnist(tmp_path, packed=names[:3])
    data = load("mnist", tmp_path)
    assert np.array_equal(data.train.images[..., 0], arrays["train-images-idx3-ubyte"])
    assert np.array_equal(data.test.labels, arrays["t10k-labels-idx1-ubyte"])
    assert (data.in_shape, data.preprocessing.pad, data.mirror) == ((28, 28, 1), 0, False)
    mean = data.preprocessing.mean_image
    assert not mean.any() and mean.shape == (28, 28, 1)
    assert not data.train.shift.any() and (data.test.scale == np.float32(0.004)).all()
    for path in home.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert load("mnist", home).fingerprint == data.fingerprint


@pytest.mark.parametrize(
    "name, change, text",
    [
        (IMAGES, lambda b: b[:-1], "23,535 bytes, expected 23,536"),
        (IMAGES, lambda b: b + b"x", "more than 23,536"),
        (IMAGES, lambda b: b"\0\0\x08\x01" + b[4:], "starts with 00000801, expected 00000803"),
        (IMAGES, lambda b: b"\0\0\x0d\x03" + b[4:], "starts with 00000d03"),
        (IMAGES, lambda b: b[:11] + b"\x1d" + b[12:], r"\[30, 29, 28\], expected \[30, 28, 28\]"),
        (IMAGES, lambda b: b"", "starts with nothing"),
        (LABELS, lambda b: b[:-1] + b"\x0a", "label 10 of image 29, expected 0 to 9"),
    ],
    ids=["short", "long", "dims", "type", "side", "empty", "label"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_mnist_file_is_named(tmp_path, name, change, text, packed):
    home, _ = forge_mnist(tmp_path)
    data = change((home / name).read_bytes())
    (home / name).unlink()
    (home / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(InputError, match=text) as error:
        load("mnist", tmp_path)
    assert name in str(error.value) and "fetch it again" in str(error.value)


def test_missing_and_torn_mnist_files(tmp_path):
    home, arrays = forge_mnist(tmp_path, packed=[IMAGES])
    packed = home / f"{IMAGES}.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(InputError, match=f"{IMAGES}.gz: can't be read"):
        load("mnist", tmp_path)
    packed.unlink()
    with pytest.raises(InputError, match=f"{IMAGES}: not there, packed .* or unpacked"):
        load("mnist", tmp_path)


# --- folders -------------------------------------------------------------------------------------


def test_folder_natural_order_modes_and_sizes(tmp_path):
    root = forge_folder(tmp_path / "pets", classes=("c10", "c9", "C1"), count=2)
    home = root / "train" / "c9"
    colour = {"L": 7, "RGBA": (1, 2, 3, 4), "P": 3, "CMYK": (9, 8, 7, 6), "LA": (5, 6), "1": 1}
    for i, (mode, value) in enumerate(colour.items()):
        suffix = "tiff" if mode == "CMYK" else "png"
        Image.new(mode, (32, 32), value).save(home / f"img{10 + i}.{suffix}")
    Image.new("RGB", (50, 20), (10, 20, 30)).save(home / "img5.jpg", quality=95)
    (home / ".hidden").write_bytes(b"no image")
    (root / "train" / ".DS_Store").write_bytes(b"no folder")
    data = load(root)
    assert data.classes == ["C1", "c9", "c10"] and data.name == "pets/"
    assert list(np.bincount(data.train.labels)) == [2, 9, 2]
    assert (data.in_shape, data.preprocessing.pad, data.mirror) == ((32, 32, 3), 8, True)
    assert any("1 of 19 images resized to 32x32" in note for note in data.notes)
    mine = data.train.images[data.train.labels == 1]  # img0 img1 img5 img10 (L) img11 (RGBA) ...
    assert abs(mine[2].astype(int) - [10, 20, 30]).max() <= 4
    assert (mine[3] == 7).all() and (mine[4] == 251).all()  # almost transparent, over white
    grey = load(root, size=(20, 16, 1))
    assert grey.in_shape == (20, 16, 1) and grey.preprocessing.pad == 4
    assert grey.preprocessing.mean_image.shape == (28, 24, 1)


def test_folder_limit_keeps_every_class(tmp_path):
    root = forge_folder(tmp_path / "pets", count=6)
    (root / "train" / "cat" / "img5.png").write_bytes(b"never read")
    data = load(str(root), limit=4)
    assert list(np.bincount(data.train.labels)) == [2, 2]
    assert any("limit 4 keeps 4 of 12 train images" in note for note in data.notes)


def ruin(root, what):
    train = root / "train"
    if what == "no test":
        (root / "test").rename(root / "tset")
    elif what == "empty class":
        [path.unlink() for path in (train / "cat").iterdir()]
    elif what == "other classes":
        (root / "test" / "dog").rename(root / "test" / "dig")
    elif what == "corrupt":
        (train / "cat" / "img1.png").write_bytes((train / "cat" / "img1.png").read_bytes()[:90])
    elif what == "text":
        (train / "dog" / "notes.txt").write_text("hello")
    elif what == "stray":
        (train / "labels.csv").write_text("a,b")
    elif what == "deep":
        (train / "cat" / "more").mkdir()
    elif what == "link":
        Image.new("RGB", (32, 32)).save(root.parent / "outside.png")
        (train / "cat" / "img9.png").symlink_to(root.parent / "outside.png")
    elif what == "deep values":
        Image.new("F", (32, 32)).save(train / "cat" / "img9.tiff")
    elif what == "one class":
        for split in ("train", "test"):
            (root / split / "dog").rename(root / f"{split}-dog")


@pytest.mark.parametrize(
    "what, text",
    [
        ("no test", "no folder 'test' beside 'train', but 'tset'"),
        ("empty class", "cat: no images"),
        ("other classes", "class folders for testing alone .'dig'."),
        ("corrupt", "img1.png: not a readable image"),
        ("text", "notes.txt: not a readable image"),
        ("stray", "labels.csv: a file beside"),
        ("deep", "more: not a file"),
        ("link", "img9.png: a link that leads out"),
        ("deep values", "img9.tiff: more than 8 bits"),
        ("one class", "one class .'cat'."),
    ],
)
def test_folder_errors_name_the_place(tmp_path, what, text):
    root = forge_folder(tmp_path / "pets")
    ruin(root, what)
    with pytest.raises(InputError, match=text) as error:
        load(str(root))
    assert "\n" not in str(error.value)


def test_link_inside_the_folder_is_fine(tmp_path):
    root = forge_folder(tmp_path / "pets")
    (root / "train" / "cat" / "again.png").symlink_to(root / "train" / "cat" / "img0.png")
    assert len(load(str(root)).train) == 7


# --- limit ---------------------------------------------------------------------------------------


@quick
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 45))
def test_limit_takes_classes_in_turn_and_nests(labels, limit):
    labels = np.array(labels, np.int32)
    kept = keep(labels, limit)
    assert len(kept) == min(limit, len(labels)) and (np.diff(kept) > 0).all()
    counts, full = np.bincount(labels[kept], minlength=4), np.bincount(labels, minlength=4)
    most = counts.max()
    assert all(counts[c] >= min(full[c], most - 1) for c in range(4))
    assert set(kept) <= set(keep(labels, limit + 1))


# --- synthetic -----------------------------------------------------------------------------------


def test_synthetic_is_pinned():
    """These bits are a data set: other bits would be another one, and change every result on it."""
    data = load("synthetic")
    assert data.fingerprint == "642fce3dcc7f9fac"
    assert load("synthetic", size=(28, 28, 1)).fingerprint == "7305a911dd4461b3"
    assert data.train.images.shape == (5000, 32, 32, 3) and len(data.test) == 1000
    assert (data.in_shape, data.preprocessing.pad, data.mirror) == ((32, 32, 3), 8, True)
    assert (np.bincount(data.train.labels) == 500).all() and len(data.classes) == 10


def test_synthetic_part_equals_whole():
    few = load("synthetic", limit=30)
    assert np.array_equal(few.train.images, load("synthetic").train.images[:30])
    assert few.fingerprint != load("synthetic").fingerprint


@pytest.mark.parametrize("label", range(10))
def test_shapes_are_their_own_mirror_images(label):
    x = (np.arange(33) - 16.0)[None, None, :]
    y = (np.arange(33) - 16.0)[None, :, None]
    d = synthetic.outline(label, x, y, np.full((1, 1, 1), 9.0)) * np.ones((1, 33, 33))
    assert np.array_equal(d, d[:, :, ::-1])
    assert 40 < (d < 0).sum() < 400  # there is a shape, and it is no larger than its radius
    assert d[0, 0].min() > 0 and d[0, :, 0].min() > 0


def test_a_linear_model_does_not_solve_synthetic():
    data = load("synthetic")
    x, y = (
        split.images[:, ::2, ::2].reshape(len(split), -1).astype(np.float32) / 128 - 1
        for split in (data.train, data.test)
    )
    x -= x.mean(1, keepdims=True)
    y -= y.mean(1, keepdims=True)
    gram = x.T @ x + 300 * np.eye(x.shape[1], dtype=np.float32)
    weights = np.linalg.solve(gram, x.T @ np.eye(10, dtype=np.float32)[data.train.labels])
    right = ((y @ weights).argmax(1) == data.test.labels).mean()
    assert 0.15 < right < 0.6


# --- finding and fetching ------------------------------------------------------------------------


def test_no_files_and_no_network_is_one_line(tmp_path, alone, monkeypatch):
    monkeypatch.setenv("LSUV_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError) as error:
        load("cifar10", report=lambda line: None)
    text = str(error.value)
    assert "\n" not in text and "cifar10" in text and str(tmp_path) in text
    assert cifar.CIFAR10.addresses[0] in text and "ConnectionError" in text
    assert str(tmp_path / "cache" / "lsuv-engine") in text
    assert alone == [cifar.CIFAR10.addresses[0]]


def test_mnist_tries_both_mirrors(alone):
    said = []
    with pytest.raises(InputError, match="could not be fetched"):
        load("mnist", report=said.append)
    assert [address.split("/")[2] for address in alone] == [
        "ossci-datasets.s3.amazonaws.com",
        "storage.googleapis.com",
    ] and len(said) == 2


def test_auto_takes_synthetic_and_says_why():
    data = load("auto", wanted="mnist", report=lambda line: None)
    assert data.name == "synthetic" and data.in_shape == (28, 28, 1)
    assert "mnist not found in" in data.notes[0] and "could not be fetched" in data.notes[0]
    assert load("auto", wanted="cifar100", report=lambda line: None).in_shape == (32, 32, 3)


def test_auto_takes_the_wanted_set_and_does_not_hide_damage(tmp_path):
    home = forge_cifar(tmp_path, SMALL100)
    assert load("auto", tmp_path, wanted="cifar100").name == "cifar100"
    (home / "train.bin").unlink()
    with pytest.raises(InputError, match="train.bin"):
        load("auto", tmp_path, wanted="cifar100")


def test_places_in_order(tmp_path, monkeypatch):
    for name in ("given", "variable", "cache/lsuv-engine"):
        forge_cifar(tmp_path / name, SMALL10)
    monkeypatch.setenv("LSUV_DATA_DIR", str(tmp_path / "variable"))
    assert str(tmp_path / "given") in load("cifar10", tmp_path / "given").notes[0]
    assert str(tmp_path / "variable") in load("cifar10").notes[0]
    monkeypatch.delenv("LSUV_DATA_DIR")
    assert str(tmp_path / "cache") in load("cifar10").notes[0]


@pytest.mark.parametrize("name", ["auto", "cifar10"])
def test_a_data_dir_without_the_set_is_an_error_that_lists_what_lies_there(
    tmp_path, name, alone, monkeypatch
):
    """Neither another folder nor the synthetic set, and nothing is fetched."""
    forge_cifar(tmp_path / "variable", SMALL10)
    monkeypatch.setenv("LSUV_DATA_DIR", str(tmp_path / "variable"))
    place = tmp_path / "given"
    place.mkdir()

    def refused():
        with pytest.raises(InputError) as error:
            load(name, place)
        assert "\n" not in str(error.value) and not alone
        return str(error.value)

    assert f"data cifar10: not in data-dir {place}, which is empty" in refused()
    for number in range(7):
        (place / f"file{number}").touch()
    assert "holds file0, file1, file2, file3, file4 and 2 more; fetch http" in refused()
    assert "cifar-10-batches-bin/data_batch_1.bin lies in it, or leave --data-dir out" in refused()
    (place / "cifar-10-batches-py").mkdir()
    assert "cifar-10-batches-py holds pickles, which can run any code and are never" in refused()
    place = place / "cifar-10-batches-py"
    (place / "data_batch_1").write_bytes(b"a pickle")
    assert "cifar-10-batches-py holds pickles" in refused()


DOTTED = {name: name.replace("-idx", ".idx") for name in SMALL_MNIST.md5}


@pytest.mark.parametrize(
    "tree, dotted, packed",
    [
        (".", True, False),
        (".", True, True),
        ("mnist", True, False),
        ("MNIST/raw", False, True),
        ("MNIST/raw", False, False),
        ("raw", False, True),
    ],
)
def test_mnist_under_other_usual_names(tmp_path, tree, dotted, packed):
    """7-Zip's and Kaggle's files, torchvision's tree."""
    home, arrays = forge_mnist(tmp_path / "one")
    place = tmp_path / "other" / tree
    place.mkdir(parents=True)
    for name, other in DOTTED.items():
        content = (home / name).read_bytes()
        other = (other if dotted else name) + ".gz" * packed
        (place / other).write_bytes(gzip.compress(content) if packed else content)
        if tree == "." and not packed:  # Kaggle's: folders of the official names beside the files
            (place / name).mkdir()
    data = load("auto", tmp_path / "other", wanted="mnist")
    assert data.name == "mnist" and data.fingerprint == load("mnist", home).fingerprint


def test_torchvisions_other_sets_are_not_taken_for_mnist(tmp_path):
    home, _ = forge_mnist(tmp_path)
    (tmp_path / "tree" / "FashionMNIST").mkdir(parents=True)
    home.rename(tmp_path / "tree" / "FashionMNIST" / "raw")
    with pytest.raises(InputError, match="which holds FashionMNIST; fetch"):
        load("mnist", tmp_path / "tree")


def test_the_suite_keeps_out_of_the_users_cache(monkeypatch, cache_of_our_own):
    monkeypatch.undo()
    assert cache_folder().parent == Path(cache_of_our_own)


def test_fetched_archive_is_unpacked_whole_and_nothing_else(tmp_path, monkeypatch):
    members = [
        (f"{SMALL10.folder}/{name}", cifar_rows(SMALL10, rows).tobytes())
        for name, rows in SMALL10.train + SMALL10.test
    ]
    archive = pack([("../evil", b"x"), (f"{SMALL10.folder}/readme.html", b"x"), *members])
    layout = dataclasses.replace(SMALL10, sha256=hashlib.sha256(archive).hexdigest())
    monkeypatch.setitem(engine.data.OFFICIAL, "cifar10", layout)
    serve(monkeypatch, {layout.addresses[0]: archive})
    said = []
    data = load("cifar10", report=said.append)
    cache = tmp_path / "cache" / "lsuv-engine"
    assert len(data.train) == 100 and layout.addresses[0] in said[0]
    assert [path.name for path in cache.iterdir()] == [layout.folder]
    assert {path.name for path in (cache / layout.folder).iterdir()} == set(layout.sizes)
    serve(monkeypatch, {})
    assert load("cifar10").fingerprint == data.fingerprint


@pytest.mark.parametrize(
    "fault, text",
    [
        ("hash", "does not match"),
        ("missing", "no test_batch.bin of 61,460 bytes in the archive"),
        ("size", "no data_batch_1.bin of 61,460 bytes in the archive"),
    ],
)
def test_wrong_archive_leaves_nothing_behind(tmp_path, monkeypatch, fault, text):
    members = [
        (f"{SMALL10.folder}/{name}", cifar_rows(SMALL10, rows).tobytes())
        for name, rows in SMALL10.train + SMALL10.test
    ]
    if fault == "missing":
        members.pop()
    if fault == "size":
        members[0] = (members[0][0], b"short")
    archive = pack(members)
    right = hashlib.sha256(archive).hexdigest()
    layout = dataclasses.replace(SMALL10, sha256="0" * 64 if fault == "hash" else right)
    monkeypatch.setitem(engine.data.OFFICIAL, "cifar10", layout)
    serve(monkeypatch, {layout.addresses[0]: archive})
    with pytest.raises(InputError, match=text):
        load("cifar10", report=lambda line: None)
    assert not list((tmp_path / "cache" / "lsuv-engine").iterdir())


def test_second_mirror_serves_when_the_first_sends_rubbish(tmp_path, monkeypatch):
    unpacked = {name: idx(array) for name, array in mnist_arrays().items()}
    layout = dataclasses.replace(
        SMALL_MNIST,
        md5={
            name: hashlib.md5(data, usedforsecurity=False).hexdigest()
            for name, data in unpacked.items()
        },
    )
    monkeypatch.setitem(engine.data.OFFICIAL, "mnist", layout)
    first, second = layout.addresses
    files = {f"{second}{name}.gz": gzip.compress(data) for name, data in unpacked.items()}
    serve(
        monkeypatch,
        files
        | {f"{first}{name}.gz": gzip.compress(data + b"x") for name, data in unpacked.items()},
    )
    assert len(load("mnist", report=lambda line: None).train) == 30
    assert {path.name for path in (tmp_path / "cache" / "lsuv-engine" / "mnist").iterdir()} == set(
        layout.md5
    )


@pytest.mark.parametrize(
    "call, text",
    [
        (dict(name="cifra10"), "did you mean 'cifar10'"),
        (dict(name="x" * 5000), "unknown data"),
        (dict(name="no\0name"), "unknown data"),
        (
            dict(name="cifar10", data_dir="/no/such/folder"),
            "data-dir /no/such/folder: no such folder",
        ),
        (dict(name="synthetic", limit=0), "limit 0"),
        (dict(name="synthetic", size=(28, 28, 2)), "1 or 3 channels"),
        (dict(name="synthetic", size=(4, 4, 3)), "8x8"),
        (dict(name="cifar10", size=(28, 28, 1)), "32x32x3, not 28x28x1"),
        (dict(name="auto", wanted="imagenet"), "unknown data 'imagenet'"),
    ],
)
def test_bad_arguments(call, text):
    with pytest.raises(InputError, match=text):
        load(**call, report=lambda line: None)


# --- random bytes --------------------------------------------------------------------------------


@quick
@given(st.binary(max_size=200), st.integers(0, 3))
def test_random_bytes_as_cifar(tmp_path_factory, data, start):
    path = tmp_path_factory.mktemp("bytes") / "data_batch_1.bin"
    path.write_bytes(cifar_rows(SMALL10, 20).tobytes()[:start] + data)
    with pytest.raises(InputError, match="data_batch_1.bin"):
        cifar.read_file(path, SMALL10, np.empty((20, 32, 32, 3), np.uint8), np.empty(20, np.int32))


@quick
@given(st.binary(max_size=200), st.integers(0, 20), st.booleans(), st.booleans())
def test_random_bytes_as_idx(tmp_path_factory, data, start, packed, whole):
    home = tmp_path_factory.mktemp("bytes")
    head = idx(np.zeros((30, 28, 28)))
    content = (gzip.compress(head) if packed and not whole else head)[:start] + data
    path = home / (IMAGES + (".gz" if packed else ""))
    path.write_bytes(gzip.compress(content) if packed and whole else content)
    with pytest.raises(InputError, match=IMAGES):
        mnist.read_file(home, IMAGES, SMALL_MNIST)


@quick
@given(
    st.binary(min_size=1, max_size=300),
    st.integers(0, 200),
    st.integers(0, 200),
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO"]),
)
def test_random_bytes_as_an_image(tmp_path_factory, data, start, end, form):
    path = tmp_path_factory.mktemp("bytes") / "img.png"
    file = io.BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(file, form)
    good = file.getvalue()
    path.write_bytes(good[:start] + data + good[len(good) - end :])
    try:
        assert pictures.read_picture(path, 8, 8, 3)[0].shape == (8, 8, 3)  # some damage is harmless
    except InputError as error:
        assert "img.png" in str(error) and "\n" not in str(error)


# --- the official files --------------------------------------------------------------------------


def official(monkeypatch, name, layout):
    if not OFFICIAL_DIR or not (Path(OFFICIAL_DIR) / layout.folder).is_dir():
        pytest.skip(f"$LSUV_DATA_DIR has no {layout.folder}")
    monkeypatch.setitem(engine.data.OFFICIAL, name, layout)
    return load(name, OFFICIAL_DIR)


@pytest.mark.parametrize(
    "name, layout, fingerprint, means",
    [
        ("cifar10", cifar.CIFAR10, "9fd2d7804659a471", (125.30691805, 122.95039414, 113.86538318)),
        ("cifar100", cifar.CIFAR100, "6e3470329d42f5ab", (129.30416561, 124.0699627, 112.43405006)),
    ],
)
def test_official_cifar(monkeypatch, name, layout, fingerprint, means):
    data = official(monkeypatch, name, layout)
    assert data.fingerprint == fingerprint  # those of runs that there are
    assert data.train.images.shape == (50_000, 32, 32, 3) and len(data.test) == 10_000
    np.testing.assert_allclose(
        data.train.images.reshape(-1, 3).mean(0, dtype=np.float64), means, atol=1e-7
    )
    assert len(set(np.bincount(data.train.labels))) == 1
    some = slice(0, 2_000)
    x = (data.train.images[some] - data.train.shift[some, None, None, None]) * data.train.scale[
        some, None, None, None
    ]
    np.testing.assert_allclose(x.reshape(len(x), -1).std(1), 55 / np.sqrt(3072), rtol=1e-5)
    assert 55 / np.sqrt(3072) == pytest.approx(0.992, abs=5e-4)
    x -= data.preprocessing.mean_image[8:40, 8:40]
    assert 0.93 < np.square(x, dtype=np.float64).mean() < 0.985  # below 0.9847: the mean is gone


def test_official_mnist(monkeypatch):
    data = official(monkeypatch, "mnist", mnist.MNIST)
    assert data.train.images.shape == (60_000, 28, 28, 1) and len(data.test) == 10_000
    assert data.train.images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    for prefix, split in (("train", data.train), ("t10k", data.test)):
        image_file = idx(split.images[..., 0])
        name = f"{prefix}-images-idx3-ubyte"
        assert hashlib.md5(image_file, usedforsecurity=False).hexdigest() == mnist.MNIST.md5[name]
        name = f"{prefix}-labels-idx1-ubyte"
        assert (
            hashlib.md5(idx(split.labels), usedforsecurity=False).hexdigest()
            == mnist.MNIST.md5[name]
        )
    assert data.fingerprint == "425b4ceab8f07dd7"


@pytest.mark.parametrize("mode, form", [("1", "PNG"), ("P", "PNG"), ("1", "TIFF")])
def test_a_blank_page_is_an_image(tmp_path, mode, form):
    """A4 at 300 dpi in one bit a pixel packs into a few thousand bytes: dense, and no forgery."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            place = tmp_path / split / name
            place.mkdir(parents=True)
            page = Image.new(mode, (2480, 3508), 1)
            page.save(
                place / f"page.{form.lower()}",
                optimize=form == "PNG",
                **({"compression": "group4"} if form == "TIFF" else {}),
            )
    data = load(tmp_path, size=(8, 8, 1))
    assert data.train.images.shape == (2, 8, 8, 1)
