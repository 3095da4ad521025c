"""Prepared folders: OpenCV's formula, the same bytes however they came to be, and what is refused.

Read next: tests/data/test_distortion.py.
"""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from engine.data import pictures, prepare
from engine.errors import InputError
from helpers.data_sets import RANDOM
from helpers.programs import ROOT

FILES = ("train.npy", "test.npy", "mean.npy", "prepared.json")
SIZE = ["--size", "24"]


@pytest.fixture
def root(tmp_path):
    """150 training and 21 test pictures of two classes: three blocks and one."""
    root = tmp_path / "pictures"
    for part, counts in (("train", (80, 70)), ("val", (10, 11))):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                size = RANDOM.integers(20, 50, 2)
                picture = Image.fromarray(RANDOM.integers(0, 256, (*size, 3)).astype(np.uint8))
                picture.save(root / part / name / f"{i}.{('jpg', 'png')[i % 2]}")
    (root / "train" / "dog" / "Thumbs.db").write_bytes(b"litter")
    return root


def prepared(root, dest, *options):
    """The files' bytes."""
    assert prepare.main([str(root), str(dest), *SIZE, *options]) == 0
    return {name: (dest / name).read_bytes() for name in FILES}


def by_the_formula(pixels, height, width):
    """OpenCV 2.4's resize of 8 bits, a value at a time: weights of 11 bits, first along a row, then
    down, where 4 bits and then 16 are dropped. Weights beyond the picture's sides count above and
    below it alone."""
    y = np.empty((height, width, pixels.shape[2]), np.uint8)

    def between(place, size, wanted):
        at = np.float32((place + 0.5) * (size / wanted) - 0.5)
        low = int(np.floor(at))
        part = np.float32(at - low)
        return low, round(float((1 - part) * 2048)), round(float(part * 2048))

    for i, j, c in np.ndindex(y.shape):
        row, down0, down1 = between(i, pixels.shape[0], height)
        column, right0, right1 = between(j, pixels.shape[1], width)
        if column < 0 or column >= pixels.shape[1] - 1:
            column, right0, right1 = max(0, min(column, pixels.shape[1] - 1)), 2048, 0
        sums = []
        for r in (row, row + 1):
            line = pixels[max(0, min(r, pixels.shape[0] - 1)), :, c].astype(int)
            sums.append(line[column] * right0 + line[min(column + 1, len(line) - 1)] * right1)
        y[i, j, c] = (((down0 * (sums[0] >> 4)) >> 16) + ((down1 * (sums[1] >> 4)) >> 16) + 2) >> 2
    return y


@pytest.mark.parametrize("size", [(37, 50), (16, 16), (48, 32), (1, 9), (7, 1), (5, 6)])
@pytest.mark.parametrize("channels", [1, 3])
def test_bilinear_is_opencvs_formula(size, channels):
    pixels = RANDOM.integers(0, 256, (*size, channels)).astype(np.uint8)
    image = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)
    resized = np.asarray(pictures.bilinear(image, 16, 24)).reshape(16, 24, channels)
    np.testing.assert_array_equal(resized, by_the_formula(pixels, 16, 24))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_simplejpeg_has_pillows_pixels(tmp_path, monkeypatch, mode, progressive, subsampling):
    pytest.importorskip("simplejpeg", reason="not installed: pip install -e '.[jpeg]'")
    path, decoded = tmp_path / "a.jpg", []
    smooth = Image.fromarray(RANDOM.integers(0, 256, (6, 8, 3)).astype(np.uint8)).resize((61, 47))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    smooth.convert(mode).save(path, progressive=progressive, subsampling=subsampling, exif=exif)
    real = pictures.simplejpeg.decode_jpeg
    monkeypatch.setattr(
        pictures.simplejpeg, "decode_jpeg", lambda *a, **k: decoded.append(a) or real(*a, **k)
    )
    ours = pictures.read_picture(path, 61, 47, 3)
    assert len(decoded) == (mode != "CMYK")
    monkeypatch.setattr(pictures, "simplejpeg", None)
    theirs = pictures.read_picture(path, 61, 47, 3)
    np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    assert ours.changes == theirs.changes == ["turned upright, as their EXIF orientation says"]


def test_files_hold_what_they_say_and_are_the_same_for_any_number_of_workers(
    root, tmp_path, capsys
):
    files = prepared(root, tmp_path / "one", "--workers", "1")
    out = capsys.readouterr().out
    assert "1 entries that are no pictures of yours passed over (Thumbs.db)" in out
    assert "a class has 70 to 80 training and 10 to 11 test images" in out
    assert prepared(root, tmp_path / "three", "--workers", "3") == files
    record = json.loads(files["prepared.json"])
    assert record["classes"] == ["cat", "dog"]
    assert record["images"] == {"train": [80, 70], "test": [10, 11]}
    assert record["mean"] == hashlib.sha256(files["mean.npy"]).hexdigest()
    paths = [root / "train" / "cat" / f"{i}.{('jpg', 'png')[i % 2]}" for i in range(80)]
    paths += [root / "train" / "dog" / f"{i}.{('jpg', 'png')[i % 2]}" for i in range(70)]
    images = np.load(tmp_path / "one" / "train.npy", mmap_mode="r")
    expected = [pictures.read_picture(p, 24, 24, 3, resize=pictures.bilinear).pixels for p in paths]
    np.testing.assert_array_equal(images, expected)
    hashes = [hashlib.sha256(images[i : i + 64].tobytes()).hexdigest() for i in (0, 64, 128)]
    assert record["blocks"]["train"] == hashes and len(record["blocks"]["test"]) == 1
    mean = np.load(tmp_path / "one" / "mean.npy")
    assert mean.dtype == np.float64
    np.testing.assert_array_equal(mean, images.sum(axis=0, dtype=np.int64) / 150)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(root, tmp_path, request):
    expected = prepared(root, tmp_path / "whole")
    chance, dest = random.Random(7), tmp_path / "killed"
    command = [sys.executable, "-m", "engine.data.prepare", root, dest, *SIZE, "--workers", "2"]
    ends = []
    for _ in range(12):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            process.wait(chance.uniform(0.2, 2.5))
        except subprocess.TimeoutExpired:
            process.kill()
        ends.append(process.wait())
        time.sleep(0.1)
        if ends[-1] == 0:  # begin again, from blocks without a record of the whole
            (dest / prepare.RECORD).unlink()
            (dest / prepare.JOURNAL).unlink()
    assert -signal.SIGKILL in ends
    assert prepared(root, dest) == expected
    assert not list(dest.glob(".*.part"))


def test_a_line_cut_off_and_other_bytes_in_the_journal_cost_their_blocks_alone(
    root, tmp_path, monkeypatch
):
    dest = tmp_path / "dest"
    expected = prepared(root, dest)
    journal = dest / prepare.JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    journal.write_bytes(b"\xff[[],{}\n[[1],2,3,4,{}]\n[]\n" + b"".join(lines[:3]) + lines[3][:-9])
    found = prepare.folder.find(root, None, False)
    blocks = [
        block
        for part, paths in zip(prepare.PARTS, found.paths, strict=True)
        for block in prepare.split(root, dest / f"{part}.npy", paths, 24)
    ]
    prepare.recall(dest, blocks)
    assert sum(block.sha256 is not None for block in blocks) == 3
    assert prepared(root, dest) == expected


def test_a_flipped_byte_is_found_and_its_block_made_anew(root, tmp_path, capsys):
    dest = tmp_path / "dest"
    expected = prepared(root, dest)
    with open(dest / "train.npy", "r+b") as file:
        file.seek(128 + 100 * 24 * 24 * 3 + 5)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 16]))
    assert (dest / "train.npy").read_bytes() != expected["train.npy"]
    capsys.readouterr()
    assert prepared(root, dest) == expected
    assert f"1 blocks in {dest} were not what was written; made anew" in capsys.readouterr().out
    (dest / "test.npy").unlink()
    assert prepared(root, dest) == expected


def test_pictures_that_come_go_and_change_are_seen(root, tmp_path):
    dest = tmp_path / "dest"
    prepared(root, dest)
    (root / "train" / "cat" / "3.png").unlink()
    Image.new("RGB", (30, 30), "red").save(root / "val" / "dog" / "4.jpg")
    Image.new("RGB", (30, 30), "red").save(root / "val" / "dog" / "99.jpg")
    assert prepared(root, dest) == prepared(root, tmp_path / "new")


def test_all_that_can_not_be_read_is_named_and_repaired_ones_are_read_alone(root, tmp_path):
    dest = tmp_path / "dest"
    content = {name: (root / name).read_bytes() for name in ("train/cat/2.jpg", "val/dog/9.png")}
    for name, data in content.items():
        (root / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError) as error:
        prepare.main([str(root), str(dest), *SIZE])
    assert "2 entries can't be used: train/cat/2.jpg (" in str(error.value)
    assert "val/dog/9.png (" in str(error.value) and not (dest / prepare.RECORD).exists()
    assert len((dest / prepare.JOURNAL).read_bytes().splitlines()) == 2
    for name, data in content.items():
        (root / name).write_bytes(data)
    assert prepared(root, dest) == prepared(root, tmp_path / "new")


def test_what_is_refused(root, tmp_path):
    def error(*words):
        with pytest.raises(InputError) as error:
            prepare.main([str(word) for word in words])
        return str(error.value)

    dest = tmp_path / "dest"
    assert "no such folder" in error(tmp_path / "none", dest)
    assert "lies in the other" in error(root, root / "dest")
    assert "lies in the other" in error(root, tmp_path)
    assert "--size 4" in error(root, dest, "--size", "4")
    assert "--workers 0" in error(root, dest, "--workers", "0")
    assert not dest.exists()
    dest.mkdir()
    with FileLock(dest / prepare.LOCK):
        assert "another process prepares it" in error(root, dest)
