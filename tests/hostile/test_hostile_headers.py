"""Forged sizes, offsets, shapes and names: refused, and nothing large is allocated for them.

Read next: tests/hostile/test_hostile_files.py.
"""

import copy
import dataclasses
import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from engine.data import download, folder, load, mnist, pictures
from engine.errors import InputError
from engine.run import checkpoint
from engine.run import folder as runs
from helpers.checkpoints import parts, put, save
from helpers.data_sets import IMAGES, SMALL10, SMALL_MNIST, forge_folder, idx, pack, serve
from helpers.hostile import assert_one_line, in_time, small_memory
from helpers.length import often
from helpers.nets import small_net

HUGE = 1 << 62


# --- checkpoint ----------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    net, optimizer = small_net()
    return save(tmp_path, net, optimizer, 2)


def refused(path) -> str:
    with small_memory(), in_time(), pytest.raises(checkpoint.Damaged) as damage:
        checkpoint.read_file(path)
    assert len(str(damage.value)) < 300
    return str(damage.value)


@pytest.mark.parametrize("length", [0, 1, 99_000_000, 1 << 40, HUGE, (1 << 64) - 1])
def test_a_forged_length_of_the_header(saved, length):
    saved.write_bytes(length.to_bytes(8, "little") + saved.read_bytes()[8:])
    refused(saved)


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [HUGE]},
        {"shape": [HUGE, 4]},
        {"shape": [1 << 31, 1 << 31, 4]},
        {"shape": [1 << 64]},
        {"shape": [10**400]},
        {"shape": [HUGE, 0]},
        {"shape": [-8]},
        {"shape": [8.0]},
        {"shape": [True] * 3},
        {"shape": "8"},
        {"shape": [1] * 70 + [8]},
        {"shape": None},
        {"data_offsets": [0, HUGE]},
        {"data_offsets": [HUGE, HUGE + 32]},
        {"data_offsets": [-4, 28]},
        {"data_offsets": [0, 32]},
        {"data_offsets": [32, 0]},
        {"data_offsets": [0]},
        {"data_offsets": [0.5, 32.5]},
        {"dtype": "F8_E4M3"},
        {"dtype": "F8_E5M2"},
        {"dtype": "BF16"},
        {"dtype": "F4"},
        {"dtype": "F64"},
        {"dtype": 7},
        {"dtype": ["F32"]},
        {"more": 1},
    ],
)
def test_a_forged_entry(saved, entry):
    header, body = parts(saved)
    header["conv.b"] = header["conv.b"] | entry
    put(saved, json.dumps(header), body)
    refused(saved)


@pytest.mark.parametrize("shape", [[0], [HUGE, 0], [0] * 8, [1 << 31, 0, 1 << 31]])
def test_a_tensor_of_no_bytes(saved, shape):
    header, body = parts(saved)
    header["none"] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body)] * 2}
    hashes = json.loads(header["__metadata__"]["hashes"]) | {"none": "0"}
    put(saved, sealed(header, hashes=json.dumps(hashes)), body)
    refused(saved)


def sealed(header: dict, **metadata) -> str:
    """The header with other metadata and the hash that belongs to it; None drops a key."""
    header = copy.deepcopy(header)
    found = header["__metadata__"] | metadata
    found = {key: value for key, value in found.items() if value is not None}
    found["metadata_hash"] = checkpoint.metadata_digest(found)
    return json.dumps(header | {"__metadata__": found})


@pytest.mark.parametrize("key", ["hashes", "step", "epoch", "seed", "settings", "data", "progress"])
@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "x",
        "7 8",
        "[]",
        "{",
        "[" * 100_000,
        "9" * 5000,
        '"x"',
        "NaN,",
        '{"name": "x"}' * 2,
    ],
)
def test_metadata_whose_hash_was_made_anew(saved, key, value):
    header, body = parts(saved)
    put(saved, sealed(header, **{key: value}), body)
    refused(saved)


@pytest.mark.parametrize(
    "double",
    [
        lambda t: t.replace('"conv.b": ', '"conv.b": {}, "conv.b": '),
        lambda t: t.replace('"step": ', '"step": "9", "step": '),
        lambda t: t.replace('"dtype": ', '"dtype": "F32", "dtype": ', 1),
        lambda t: t.replace('"__metadata__": ', '"__metadata__": {}, "__metadata__": '),
    ],
    ids=["tensor", "metadata", "entry", "all metadata"],
)
def test_a_name_that_stands_there_twice(saved, double):
    """The last one is right, so a reader that takes the last one would see no difference."""
    header, body = parts(saved)
    put(saved, double(json.dumps(header)), body)
    assert "stands there twice" in refused(saved)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        '{"a":' * 500_000,
        "{}",
        "7",
        '"x"',
        "null",
        "",
        '{"__metadata__":7}',
        '{"__metadata__":{"format":7}}',
    ],
    ids=range(9),
)
def test_a_header_of_something_else(saved, text):
    put(saved, text, parts(saved)[1])
    refused(saved)


def test_a_hole_of_64_gib_is_not_read(saved):
    header, body = parts(saved)
    size = 1 << 36
    header["huge"] = {"dtype": "U8", "shape": [size], "data_offsets": [len(body), len(body) + size]}
    put(saved, json.dumps(header), body)
    os.truncate(saved, saved.stat().st_size + size)
    refused(saved)


# --- run.json, runs.json, metrics.csv ------------------------------------------------------------


@pytest.mark.parametrize("name", [runs.RUN, runs.SERIES, runs.METRICS])
def test_a_file_of_a_gigabyte(tmp_path, name):
    (tmp_path / name).write_bytes(b"{")
    os.truncate(tmp_path / name, 1 << 30)
    read = {runs.RUN: runs.read_run, runs.SERIES: runs.read_series, runs.METRICS: runs.read_metrics}
    with small_memory(), in_time(), pytest.raises(InputError, match="more than") as error:
        read[name](tmp_path)
    assert_one_line(error.value, name)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        "[" + "[]," * 600_000 + "[]]",
        '{"a":' * 300_000,
        "9" * 1_000_000,
        "1e999",
        '"\\ud800"',
        '{"settings": {}, "settings": {}}',
        '{"x": NaN}',
        "\ufeff{}",
        "\0" * 1000,
        '{"settings": "' + "x" * 1_000_000 + '"}',
    ],
    ids=range(11),
)
@pytest.mark.parametrize("read", [runs.read_run, runs.read_series])
def test_forged_json(tmp_path, text, read):
    for name in (runs.RUN, runs.SERIES):
        (tmp_path / name).write_text(text)
    with small_memory(), in_time(), pytest.raises(InputError) as error:
        read(tmp_path)
    assert_one_line(error.value, tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        b"1," * 8 + b"x",
        b"9" * 5000 + b",1" * 8,
        b"1,1",
        b"1," * 10**6,
        b"\0",
        b"\n" * 10**6,
        b"\xff",
        b"1;" * 9,
        b"0x1" + b",1" * 8,
    ],
)
def test_a_forged_row(tmp_path, row):
    (tmp_path / runs.METRICS).write_bytes(",".join(runs.COLUMNS).encode() + b"\n" + row)
    with small_memory(), in_time(), pytest.raises(InputError) as error:
        runs.read_metrics(tmp_path)
    assert_one_line(error.value, runs.METRICS)


# --- MNIST and archives --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dimensions",
    [
        (HUGE >> 32,) * 3,
        (1 << 31, 1, 1),
        (0, 0, 0),
        ((1 << 32) - 1,) * 3,
        (30, 28, 0),
        (23520, 1, 1),
    ],
)
def test_forged_dimensions(tmp_path, dimensions):
    content = struct.pack(">HBB3I", 0, 8, 3, *dimensions) + bytes(30 * 28 * 28)
    (tmp_path / IMAGES).write_bytes(content)
    with small_memory(), pytest.raises(InputError, match="dimensions .*, expected") as error:
        mnist.read_file(tmp_path, IMAGES, SMALL_MNIST)
    assert_one_line(error.value, IMAGES)


def bomb(start: bytes, size: int) -> bytes:
    """A packed file of `start` and then `size` zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    found = [packer.compress(start)]
    found += [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*found, packer.flush()])


def test_a_packed_file_that_unpacks_to_much_more(tmp_path, monkeypatch):
    """256 MiB in 260 kB; reading stops a byte after what is expected."""
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(bomb(idx(np.zeros((30, 28, 28))), 1 << 28))
    read, sizes = gzip.GzipFile.read, []
    monkeypatch.setattr(
        gzip.GzipFile, "read", lambda self, size=-1: sizes.append(size) or read(self, size)
    )
    with small_memory(), pytest.raises(InputError, match="more than 23,536 bytes"):
        mnist.read_file(tmp_path, IMAGES, SMALL_MNIST)
    with small_memory(), pytest.raises(ValueError, match="MD5"):
        download.unpacked(path, SMALL_MNIST, IMAGES)
    assert sizes == [23_537] * 2


def archive(change) -> bytes:
    """A whole set's archive, its first member changed: change(tarinfo) -> its bytes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for place, (name, size) in enumerate(SMALL10.sizes.items()):
            info, data = tarfile.TarInfo(f"{SMALL10.folder}/{name}"), bytes(size)
            info.size = size
            if not place:
                data = change(info)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def become(info, kind, target="") -> bytes:
    info.type, info.linkname, info.size = kind, target, 0
    return b""


def grow(info, size: int) -> bytes:
    info.size = size
    return bytes(size)


def rename(info, name: str) -> bytes:
    info.name = name
    return bytes(info.size)


def fetch(monkeypatch, tmp_path, content: bytes):
    """What `obtain` makes of an archive, as if its hash were the pinned one."""
    layout = dataclasses.replace(SMALL10, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.delenv("LSUV_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    serve(monkeypatch, {layout.addresses[0]: content})
    with small_memory(256), in_time():
        return download.obtain(layout, None, lambda line: None)


@pytest.mark.parametrize(
    "change",
    [
        lambda info: become(info, tarfile.SYMTYPE, "/etc/passwd"),
        lambda info: become(info, tarfile.LNKTYPE, "../../other"),
        lambda info: become(info, tarfile.DIRTYPE),
        lambda info: become(info, tarfile.FIFOTYPE),
        lambda info: become(info, tarfile.CHRTYPE),
        lambda info: grow(info, 1 << 27),
        lambda info: grow(info, 0),
        lambda info: rename(info, f"/{info.name}"),
        lambda info: rename(info, f"../{info.name}"),
        lambda info: rename(info, f"{info.name}.more"),
    ],
    ids=[
        "symlink",
        "hardlink",
        "folder",
        "pipe",
        "device",
        "large",
        "empty",
        "absolute",
        "above",
        "more",
    ],
)
def test_a_forged_member_of_an_archive(tmp_path, monkeypatch, change):
    with pytest.raises(InputError) as error:
        fetch(monkeypatch, tmp_path, archive(change))
    assert_one_line(error.value, "could not be fetched")
    assert [path.name for path in tmp_path.rglob("*")] == ["cache", "lsuv-engine"]


def test_members_that_nobody_asked_for_are_not_unpacked(tmp_path, monkeypatch):
    whole = [(f"{SMALL10.folder}/{name}", bytes(size)) for name, size in SMALL10.sizes.items()]
    others = [
        ("../evil", b"x"),
        ("/evil", b"x"),
        (f"{SMALL10.folder}/{'x' * 300}", bytes(1 << 26)),
        (f"{SMALL10.folder}/../../evil", b"x"),
    ]
    into = fetch(monkeypatch, tmp_path, pack([*others, *whole]))
    assert {path.name for path in into.iterdir()} == set(SMALL10.sizes)
    assert {path.name for path in tmp_path.rglob("*")} == {
        "cache",
        "lsuv-engine",
        SMALL10.folder,
        *SMALL10.sizes,
    }


# --- images --------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, more: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + more
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def gif(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HH", width, height)
        + b"\x80\0\0"
        + bytes(3)
        + b"\xff" * 3
        + b","
        + struct.pack("<HHHH", 0, 0, width, height)
        + b"\0\x02\x02\x44\x01\0;"
    )


def webp(width: int, height: int) -> bytes:
    """An animation on a large canvas whose one frame has 4 x 4 pixels."""

    def part(kind, data):
        return kind + struct.pack("<I", len(data)) + data

    frame = encoded("WEBP")[12:]
    body = (
        b"WEBP"
        + part(
            b"VP8X",
            b"\x02\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"),
        )
        + part(b"ANIM", bytes(6))
        + part(b"ANMF", bytes(6) + b"\x03\0\0\x03\0\0" + bytes(4) + frame)
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (9, 8, 7)).save(file, form)
    return file.getvalue()


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(encoded("JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def tga(width: int, height: int) -> bytes:
    return b"\0\0\x0a" + bytes(9) + struct.pack("<HH", width, height) + b"\x18\0"


def ppm(width: int, height: int) -> bytes:
    return f"P3 {width} {height} 255\n1 2 3".encode()


def tiff(width: int, height: int) -> bytes:
    data = bytearray(encoded("TIFF"))
    first = struct.unpack_from("<I", data, 4)[0]
    for at in range(first + 2, first + 2 + 12 * struct.unpack_from("<H", data, first)[0], 12):
        tag = struct.unpack_from("<H", data, at)[0]
        if tag in (256, 257):
            struct.pack_into("<HII", data, at + 2, 4, 1, width if tag == 256 else height)
    return bytes(data)


@pytest.mark.parametrize("make", [png, gif, webp, jpeg, bmp, tga, ppm, tiff])
@pytest.mark.parametrize("side", [1 << 30, 65_000, 16_000, 9_400, 1_440])
def test_an_image_that_claims_to_be_enormous(tmp_path, make, side, capfd):
    path = tmp_path / "img.png"
    side = min(side, 65_000 if make in (gif, jpeg, tga) else 16_000 if make is webp else side)
    path.write_bytes(make(side, side))
    with small_memory(), in_time():
        try:
            assert pictures.read_picture(path, 8, 8, 3)[0].shape == (8, 8, 3)
        except InputError as error:
            assert_one_line(error, path)
        else:
            assert side == 1_440 and make in (webp, jpeg)  # what is missing of them is grey
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "kind, data", [(b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")]
)
def test_text_that_unpacks_to_much_more(tmp_path, kind, data):
    packed = zlib.compress(bytes(1 << 28), 9)
    path = tmp_path / "img.png"
    path.write_bytes(png(4, 4, chunk(kind, data + packed)))
    with small_memory(), in_time(), pytest.raises(InputError) as error:
        pictures.read_picture(path, 8, 8, 3)
    assert_one_line(error.value, path)


def test_no_other_program_is_run_for_an_image(tmp_path):
    """Pillow hands PostScript to Ghostscript."""
    path = tmp_path / "img.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match="not a readable image .none of PNG"):
        pictures.read_picture(path, 8, 8, 3)


def test_the_formats_that_are_promised_are_read(tmp_path):
    image = Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3))
    for form in pictures.formats():
        image.save(tmp_path / "img.x", form)
        assert (
            abs(
                pictures.read_picture(tmp_path / "img.x", 16, 16, 3)[0].astype(int)
                - np.asarray(image)
            ).mean()
            < 40
        ), form
    assert set(pictures.FORMATS) - set(pictures.formats()) <= {"AVIF", "JPEG2000", "WEBP"}


def test_a_folder_of_many_entries(tmp_path):
    """The names of 100,000 files are not much."""
    root, count = forge_folder(tmp_path / "pets"), often(20_000, 100_000)
    for place in range(count):
        (root / "train" / "cat" / f"never read {place:06}.png").touch()
    with small_memory(), in_time(60):
        data = load(str(root), limit=6)
    assert len(data.train) == 6
    assert any(f"of {count + 6:,} train images" in note for note in data.notes)


def test_images_that_no_memory_holds(tmp_path, monkeypatch):
    def full(*arguments):
        raise MemoryError("Unable to allocate 9.00 TiB")

    root = forge_folder(tmp_path / "pets")
    monkeypatch.setattr(folder.np, "empty", full)
    with pytest.raises(InputError, match="pets: Unable to allocate 9.00 TiB; give smaller images"):
        load(str(root))
