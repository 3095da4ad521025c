"""The readers under fire: valid files of every kind, damaged at random and by structure.

Either an error of one line that names the file, or what was read is as it should be. With --full
these fuzzers and those of tests/hostile/test_hostile_commands.py try 100,000 inputs.

Read next: tests/hostile/test_hostile_commands.py.
"""

import gzip
import io
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.data import cifar, dataset, folder, load, mnist, pictures
from engine.errors import InputError, printable
from engine.run import checkpoint
from engine.run import folder as runs
from helpers.checkpoints import parts, put, save
from helpers.data_sets import CIFAR10, CIFAR100, IMAGES, SMALL_MNIST, cifar_rows, idx
from helpers.hostile import (
    VALUES,
    assert_one_line,
    damaged,
    every_place,
    file_names,
    forged,
    fuzz,
    in_time,
)
from helpers.nets import scramble, small_net

RANDOM = np.random.default_rng(11)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for all of a fuzzer's inputs, one after another."""
    return tmp_path_factory.mktemp("fuzz")


# --- CIFAR and MNIST -----------------------------------------------------------------------------

ROWS = {layout.name: cifar_rows(layout, 12).tobytes() for layout in (CIFAR10, CIFAR100)}


@fuzz(120, 10_000)
@given(st.data())
def test_damaged_cifar(place, data):
    layout = data.draw(st.sampled_from([CIFAR10, CIFAR100]))
    content = data.draw(damaged(ROWS[layout.name]))
    path = place / "test_batch.bin"
    path.write_bytes(content)
    images, labels = np.empty((12, 32, 32, 3), np.uint8), np.empty(12, np.int32)
    try:
        with in_time():
            cifar.read_file(path, layout, images, labels)
    except InputError as error:
        assert_one_line(error, path)
        return
    width = len(layout.labels)  # what was read, written again, is the file
    rows = np.frombuffer(content, np.uint8).reshape(12, -1)
    assert np.array_equal(labels, rows[:, width - 1]) and labels.max() < layout.labels[-1]
    assert np.array_equal(images.transpose(0, 3, 1, 2).reshape(12, -1), rows[:, width:])


IDX = idx(RANDOM.integers(0, 256, (30, 28, 28)))


@fuzz(150, 15_000)
@given(st.data(), st.sampled_from(["plain", "packed, then damaged", "damaged, then packed"]))
def test_damaged_idx(place, data, way):
    whole = gzip.compress(IDX[:2000] + bytes(21_536), 1) if way == "packed, then damaged" else IDX
    content = data.draw(damaged(whole))
    name = IMAGES + ("" if way == "plain" else ".gz")
    if way == "damaged, then packed":
        content = gzip.compress(content, 1)
    for other in (IMAGES, f"{IMAGES}.gz"):
        (place / other).unlink(missing_ok=True)
    (place / name).write_bytes(content)
    try:
        with in_time():
            images = mnist.read_file(place, IMAGES, SMALL_MNIST)
    except InputError as error:
        assert_one_line(error, place / name)
        return
    unpacked = content if way == "plain" else gzip.decompress(content)
    assert idx(images) == unpacked


# --- checkpoint ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(header, tensors' bytes, what is read) of a small net's checkpoint."""
    net, optimizer = small_net()
    scramble(net, optimizer, 0)
    path = save(tmp_path_factory.mktemp("whole"), net, optimizer, 7)
    return path.read_bytes(), *parts(path), checkpoint.read_file(path)


def read_as(path, want) -> None:
    """Damaged, or the very checkpoint that it was."""
    try:
        with in_time():
            found = checkpoint.read_file(path)
    except checkpoint.Damaged as damage:
        assert 0 < len(str(damage)) < 400
        return
    for field, value in vars(want).items():
        if field not in ("path", "tensors"):
            assert getattr(found, field) == value
    assert set(found.tensors) == set(want.tensors)
    for name, value in want.tensors.items():
        assert found.tensors[name].dtype == value.dtype
        assert np.array_equal(found.tensors[name], value)


@fuzz(150, 10_000)
@given(st.data())
def test_a_damaged_checkpoint(place, whole, data):
    (place / runs.CHECKPOINT).write_bytes(data.draw(damaged(whole[0])))
    read_as(place / runs.CHECKPOINT, whole[3])


@fuzz(150, 10_000)
@given(st.data())
def test_a_checkpoint_of_another_header(place, whole, data):
    text = data.draw(forged(whole[1]))
    (place / runs.CHECKPOINT).write_bytes(
        len(text.encode(errors="replace")).to_bytes(8, "little")
        + text.encode(errors="replace")
        + whole[2]
    )
    read_as(place / runs.CHECKPOINT, whole[3])


@fuzz(100, 5_000)
@given(st.data())
def test_a_checkpoint_of_other_metadata_and_their_hash(place, whole, data):
    """Whoever changes the metadata can make their hash anew. What is then read has its types."""
    header = json.loads(json.dumps(whole[1]))
    metadata = header["__metadata__"]
    key = data.draw(st.sampled_from(sorted(metadata)))
    inner = json.loads(metadata[key]) if metadata[key][:1] == "{" else metadata[key]
    text = data.draw(forged(inner) if isinstance(inner, dict) else VALUES.map(str))
    metadata[key] = text.encode(errors="replace").decode()
    metadata["metadata_hash"] = checkpoint.metadata_digest(metadata)
    put(place / runs.CHECKPOINT, json.dumps(header), whole[2])
    try:
        with in_time():
            found = checkpoint.read_file(place / runs.CHECKPOINT)
    except checkpoint.Damaged as damage:
        assert 0 < len(str(damage)) < 400
        return
    assert found.step >= 0 and found.seed >= 0 and 0 <= found.epoch < float("inf")
    assert all(isinstance(value, dict) for value in (found.settings, found.data, found.progress))
    try:
        checkpoint.refuse_others(found, whole[3].settings, whole[3].data)
        checkpoint.restore(found, *small_net())
    except InputError as error:
        assert_one_line(error, runs.CHECKPOINT)


# --- run.json, runs.json, metrics.csv ------------------------------------------------------------

RESULT = {
    "test_accuracy": 0.5,
    "test_error": 0.5,
    "test_loss": 1.25,
    "epochs": 2.0,
    "images_per_second": 99.0,
    "device": "numpy",
    "data": "synthetic",
}
RECORD = {
    "settings": {"net": "fitnet1", "lr": 0.1},
    "origins": {"net": "default"},
    "data": {"name": "synthetic", "fingerprint": "ab" * 8, "classes": ["a", "b"]},
    "device": "numpy",
    "runs": 3,
    "result": RESULT,
}


@fuzz(150, 8_000)
@given(st.data(), st.booleans())
def test_forged_records(place, data, result):
    text = data.draw(forged(RECORD if result else RECORD | {"result": None}))
    for name, read in ((runs.RUN, runs.read_run), (runs.SERIES, runs.read_series)):
        (place / name).write_text(text, errors="replace")
        try:
            with in_time():
                found = read(place)
        except InputError as error:
            assert_one_line(error, place)
            continue
        assert isinstance(found["settings"], dict)
        if found["result"] is not None:
            assert all(f"{found['result'][key]:.4f}" for key in ("test_accuracy", "epochs"))


ROW = b"1,20,0.01,1.5,0.25,1.25,0.5,321.5,12.25\n"


@fuzz(100, 4_000)
@given(damaged(",".join(runs.COLUMNS).encode() + b"\n" + ROW * 3))
def test_damaged_metrics(place, content):
    (place / runs.METRICS).write_bytes(content)
    try:
        with in_time():
            rows = runs.read_metrics(place)
    except InputError as error:
        assert_one_line(error, runs.METRICS)
    else:
        assert all(tuple(row) == runs.COLUMNS for row in rows)


# --- images --------------------------------------------------------------------------------------


def of_every_kind() -> dict[str, bytes]:
    """One of every format that is read, and of every mode that the format has."""
    found = {}
    for form in pictures.formats():
        for mode in ("RGB", "L", "RGBA", "LA", "P", "CMYK", "1", "I;16"):
            image, file = Image.effect_noise((13, 9), 60).convert("RGB"), io.BytesIO()
            try:
                (Image.new(mode, (13, 9)) if mode == "I;16" else image.convert(mode)).save(
                    file, form
                )
            except (OSError, ValueError, KeyError):
                continue
            found[f"{form} {mode}"] = file.getvalue()
    frames = [Image.new("RGB", (9, 13), colour) for colour in ("red", "blue")]
    for form in ("GIF", "PNG", "TIFF", "WEBP"):
        file = io.BytesIO()
        frames[0].save(file, form, save_all=True, append_images=frames[1:])
        found[f"{form} animation"] = file.getvalue()
    return found


PICTURES = of_every_kind()


@fuzz(300, 18_000)
@given(st.data(), st.sampled_from(sorted(PICTURES)))
def test_damaged_images(place, data, kind):
    path = place / "img.png"
    path.write_bytes(data.draw(damaged(PICTURES[kind])))
    try:
        with in_time():
            pixels = pictures.read_picture(path, 8, 8, 3).pixels
            assert min(folder.common_size(place, [path])) > 0
    except InputError as error:
        assert_one_line(error, path)
    else:
        assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8


def link(target: str):
    return lambda path: path.symlink_to(target)


ODD = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("no image"),
    "out": link("/etc/passwd"),
    "zeros": link("/dev/zero"),
    "loop": link("."),
    "away": link("../../../.."),
    "nowhere": link("nowhere"),
}


@fuzz(120, 8_000)
@given(st.data())
def test_folders_of_any_names_and_things(place, data):
    root = place / "images"
    shutil.rmtree(root, ignore_errors=True)
    classes = data.draw(st.lists(file_names(), min_size=1, max_size=3, unique=True))
    some = st.lists(file_names(), min_size=1, max_size=2, unique=True)
    for home in (root / split / name for split in ("train", "test") for name in classes):
        home.mkdir(parents=True)
        for name in data.draw(some):
            content = PICTURES[data.draw(st.sampled_from(sorted(PICTURES)))]
            rare = data.draw(st.integers(0, 9)) == 0
            (home / name).write_bytes(data.draw(damaged(content)) if rare else content)
    odd = data.draw(st.none() | st.sampled_from(sorted(ODD)))
    if odd is not None:
        ODD[odd](root / data.draw(st.sampled_from(["train", f"train/{classes[0]}"])) / "odd thing")
    size = data.draw(st.sampled_from([None, (8, 8), (1, 1), (9, 11, 1)]))
    try:
        with in_time():
            found = load(str(root), size=size)
    except InputError as error:
        assert_one_line(error, printable(str(root)))
        return
    assert sorted(found.classes) == sorted(name for name in classes if not folder.litter(name))
    mean = found.preprocessing.mean_image
    assert np.isfinite(found.train.scale).all() and np.isfinite(mean).all()
    assert found.fingerprint == dataset.fingerprint(
        "/".join(found.classes), found.train, found.test, mean
    )


def test_the_forgeries_are_varied(whole):
    """The fuzzers reach every part of a header: a forger that changes nothing tests nothing."""
    assert len(list(every_place(whole[1]))) > 60 and len(PICTURES) > 30
