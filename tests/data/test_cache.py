"""The cache of whole sets: what it gives is what the files give, whatever happens to either.

Read next: engine/data/cache.py.
"""

import ast
import errno
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

import engine.data
from engine.data import cache, cifar, load, mnist
from engine.data import preprocessing as preprocess
from engine.data.download import cache_folder
from helpers.data_sets import SMALL10, SMALL100, SMALL_MNIST, forge_cifar, forge_mnist
from helpers.programs import environment

OFFICIAL_DIR = os.environ.get("LSUV_DATA_DIR")
LAYOUTS = {"cifar10": SMALL10, "cifar100": SMALL100, "mnist": SMALL_MNIST}
TICK = 0.02  # seconds, longer than that of a file system's clock on Linux


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Small sets, an empty cache folder, and files that count as settled at once."""
    monkeypatch.delenv("LSUV_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SETTLED", 0.0)
    for name, layout in LAYOUTS.items():
        monkeypatch.setitem(engine.data.OFFICIAL, name, layout)


def forge(root, name):
    """The folder of a forged set, a moment old."""
    if name == "mnist":
        home, _ = forge_mnist(root, packed=list(SMALL_MNIST.md5)[:2])
    else:
        home = forge_cifar(root, LAYOUTS[name])
    time.sleep(TICK)
    return home


def file_of(name):
    return cache_folder() / f"{name}.safetensors"


def fresh(name, home):
    """The set as it is computed where there is no cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", os.devnull)
        data = load(name, home)
    assert "not cached (Not a directory) in" in data.notes[0]
    return data


def assert_same(one, other):
    for part in ("train", "test"):
        for field, value in vars(getattr(one, part)).items():
            assert_bits(value, getattr(getattr(other, part), field))
    assert_bits(one.mean_image, other.mean_image)
    for field in ("name", "pad", "mirror", "classes", "fingerprint", "in_shape"):
        value = getattr(one, field)
        assert value == getattr(other, field) and type(value) is type(getattr(other, field))


def assert_bits(one, other):
    assert one.dtype == other.dtype and one.shape == other.shape
    assert one.tobytes() == other.tobytes()
    assert one.flags.c_contiguous and one.flags.aligned


def cached(data) -> bool:
    return len(data.notes) == 1 and data.notes[0].endswith(f" (cached in {file_of(data.name)})")


# --- hits ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", LAYOUTS)
def test_a_hit_is_the_set_to_the_bit_and_reads_no_source(tmp_path, monkeypatch, name):
    home = forge(tmp_path, name)
    want = fresh(name, home)
    first = load(name, home)
    assert first.notes == [f"data {name}: read from {home}, now cached in {file_of(name)}"]
    assert_same(first, want)
    monkeypatch.setattr(cifar, "read", None)
    monkeypatch.setattr(mnist, "read", None)
    hit = load(name, home)
    assert cached(hit) and str(home) in hit.notes[0]
    assert_same(hit, want)
    hit.train.images[0] = 7  # it belongs to the caller
    assert_same(load(name, home), want)
    assert [path.name for path in cache_folder().iterdir()] == [f"{name}.safetensors"]


def test_other_programs_read_the_file(tmp_path):
    data = load("cifar10", forge(tmp_path, "cifar10"))
    tensors = load_file(file_of("cifar10"))
    assert len(tensors) == 9
    assert np.array_equal(tensors["test.images"], data.test.images)
    assert np.array_equal(tensors["train.scale"], data.train.scale)


def test_a_limit_is_another_set_and_is_computed(tmp_path, monkeypatch):
    home = forge(tmp_path, "cifar10")
    few = load("cifar10", home, limit=30)
    assert not cache_folder().exists() and len(few.train) == 30
    whole = load("cifar10", home)
    assert load("cifar10", home).fingerprint == whole.fingerprint != few.fingerprint
    again = load("cifar10", home, limit=30)
    assert_same(again, few)
    assert not cached(again) and cached(load("cifar10", home))


def test_the_official_set_comes_back_with_its_fingerprint(monkeypatch):
    if not OFFICIAL_DIR or not (Path(OFFICIAL_DIR) / cifar.CIFAR10.folder).is_dir():
        pytest.skip("$LSUV_DATA_DIR has no CIFAR-10")
    monkeypatch.setitem(engine.data.OFFICIAL, "cifar10", cifar.CIFAR10)
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("XDG_CACHE_HOME", folder)
        first, hit = load("cifar10", OFFICIAL_DIR), load("cifar10", OFFICIAL_DIR)
        assert not cached(first) and cached(hit)
        assert_same(first, hit)
    assert hit.fingerprint == "9fd2d7804659a471"


# --- changed sources -----------------------------------------------------------------------------

def other_content(path):
    """The file's bytes with one pixel changed."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    return bytes(data)


def rewritten(path):
    path.write_bytes(other_content(path))


def rewritten_and_dated_back(path):
    before = path.stat()
    path.write_bytes(other_content(path))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path):
    """As `cp -p` and `mv` do it: another file, with the size and the time of the first."""
    before, other = path.stat(), path.with_name("other")
    other.write_bytes(other_content(path))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


def behind_a_link(path):
    target = path.with_name("target")
    target.write_bytes(other_content(path))
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("change", [rewritten, rewritten_and_dated_back, replaced, behind_a_link])
@pytest.mark.parametrize("file", ["data_batch_2.bin", "test_batch.bin"])
def test_a_changed_source_is_read_again(tmp_path, change, file):
    home = forge(tmp_path, "cifar10")
    before = load("cifar10", home)
    change(home / file)
    time.sleep(TICK)
    data = load("cifar10", home)
    assert data.notes == [f"data cifar10: read from {home}, now cached in {file_of('cifar10')}, "
                          "which was made from other files"]
    assert data.fingerprint != before.fingerprint
    assert_same(data, fresh("cifar10", home))
    assert cached(load("cifar10", home))


def test_a_damaged_source_is_named_though_the_set_is_cached(tmp_path):
    home = forge(tmp_path, "cifar10")
    load("cifar10", home)
    (home / "test_batch.bin").write_bytes(b"short")
    with pytest.raises(engine.data.InputError, match="test_batch.bin: 5 bytes"):
        load("cifar10", home)
    (home / "test_batch.bin").unlink()
    with pytest.raises(engine.data.InputError, match="test_batch.bin: No such file"):
        load("cifar10", home)


def test_an_unpacked_file_beside_the_packed_one_is_noticed(tmp_path):
    home = forge(tmp_path, "mnist")
    before = load("mnist", home)
    other, _ = forge_mnist(tmp_path / "other")
    name = next(iter(SMALL_MNIST.md5))
    (other / name).rename(home / name)
    time.sleep(TICK)
    data = load("mnist", home)
    assert "made from other files" in data.notes[0] and data.fingerprint != before.fingerprint


def test_the_same_set_elsewhere_and_another_set(tmp_path):
    one, other = forge(tmp_path / "one", "cifar10"), forge(tmp_path / "other", "cifar10")
    sets = [load("cifar10", one), load("cifar10", other), load("cifar10", one)]
    assert sets[0].fingerprint == sets[2].fingerprint != sets[1].fingerprint
    assert all("made from other files" in data.notes[0] for data in sets[1:])
    os.replace(file_of("cifar10"), file_of("cifar100"))
    assert "other files" in load("cifar100", forge(tmp_path, "cifar100")).notes[0]


def test_files_that_have_just_changed_are_not_cached_yet(tmp_path, monkeypatch):
    home = forge(tmp_path, "cifar10")
    monkeypatch.setattr(cache, "SETTLED", 60.0)
    assert load("cifar10", home).notes == [f"data cifar10: read from {home}"]
    assert not cache_folder().exists()
    monkeypatch.setattr(cache, "SETTLED", 0.0)
    load("cifar10", home)
    rewritten(home / "test_batch.bin")
    monkeypatch.setattr(cache, "SETTLED", 60.0)
    assert load("cifar10", home).notes == [
        f"data cifar10: read from {home}, not from {file_of('cifar10')}, which was made from other "
        "files"]


# --- changed code --------------------------------------------------------------------------------

def test_other_code_makes_the_set_anew(tmp_path, monkeypatch):
    home = forge(tmp_path, "cifar10")
    load("cifar10", home)
    edited = tmp_path / "preprocess.py"
    edited.write_bytes(Path(preprocess.__file__).read_bytes().replace(b"55.0", b"56.0"))
    monkeypatch.setattr(preprocess, "__file__", str(edited))
    monkeypatch.setattr(preprocess.contrast, "__defaults__", (56.0,))
    data = load("cifar10", home)
    assert data.notes[0].endswith("which was made from other code")
    assert_same(data, fresh("cifar10", home))
    assert cached(load("cifar10", home))


def test_no_code_that_a_set_depends_on_is_left_out():
    """What the hashed modules import is hashed, too, or makes no bits."""
    for module in cache.MAKERS:
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] not in \
                    sys.stdlib_module_names | {"numpy"} and node.module not in (
                    "engine.errors", "engine.run.files"):
                found = [getattr(engine.data, alias.name, None) for alias in node.names] \
                    if node.module == "engine.data" else [sys.modules[node.module]]
                assert all(one in cache.MAKERS for one in found), ast.unparse(node)


# --- damaged files -------------------------------------------------------------------------------

def assert_made_anew(home, why):
    data = load("cifar10", home)
    assert len(data.notes) == 1 and "\n" not in data.notes[0]
    assert re.search(rf"now cached in {file_of('cifar10')}, which {why}", data.notes[0])
    assert_same(data, fresh("cifar10", home))
    assert cached(load("cifar10", home))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 500, 100_000, -1])
def test_a_truncated_file_is_made_anew(tmp_path, size):
    home = forge(tmp_path, "cifar10")
    load("cifar10", home)
    content = file_of("cifar10").read_bytes()
    file_of("cifar10").write_bytes(content[:size])
    assert_made_anew(home, "was damaged")


HEAD = {"__metadata__": {}, "mean_image": {"dtype": "F32", "shape": [48, 48, 3],
                                           "data_offsets": [0, 27648]}}


@pytest.mark.parametrize("header", [
    b"", b"{", b"[]", b"7", b"{}", b"\xff\xfe", b"[" * 200_000, b"9" * 10_000,
    b'{"__metadata__":7}', b'{"__metadata__":[]}', b'{"__metadata__":null}',
    json.dumps(HEAD).encode()])
def test_a_forged_header_is_made_anew(tmp_path, header):
    home = forge(tmp_path, "cifar10")
    load("cifar10", home)
    file_of("cifar10").write_bytes(len(header).to_bytes(8, "little") + header + bytes(700_000))
    assert_made_anew(home, "was damaged")


@pytest.mark.parametrize("entry", [
    7, {}, {"dtype": "F64"}, {"shape": [1]}, {"shape": None}, {"data_offsets": []},
    {"data_offsets": None}, {"data_offsets": ["0", "1"]}, {"data_offsets": [-10**6, 0]},
    {"data_offsets": [10**30, 0]}, {"data_offsets": [0.5, 1]}, {"data_offsets": [10**9, 10**10]},
    {"data_offsets": [1, 2]}])
def test_a_forged_entry_is_made_anew(tmp_path, entry):
    home = forge(tmp_path, "cifar10")
    load("cifar10", home)
    content = file_of("cifar10").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    mine = header["train.labels"]
    header["train.labels"] = mine | entry if entry and isinstance(entry, dict) else entry
    text = json.dumps(header).encode()
    file_of("cifar10").write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
    assert_made_anew(home, "(was damaged|could not be read)")


def test_a_flipped_bit_anywhere_is_seen(tmp_path):
    home = forge(tmp_path, "cifar10")
    load("cifar10", home)
    path, content = file_of("cifar10"), bytearray(file_of("cifar10").read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    origin = json.loads(content[8:start])["__metadata__"]
    origin.pop("fingerprint")
    assert cache.read(path, SMALL10, origin).name == "cifar10"
    random = np.random.default_rng(3)
    for place in [*range(0, start, 9), *random.integers(start, len(content), 150)]:
        bit = 1 << random.integers(8)
        content[place] ^= bit
        path.write_bytes(content)
        with pytest.raises(cache.Unusable):
            cache.read(path, SMALL10, origin)
        content[place] ^= bit
    path.write_bytes(content)
    assert cached(load("cifar10", home))
    content[start + 5] ^= 4
    path.write_bytes(content)
    assert_made_anew(home, r"was damaged \(its fingerprint is \w{16}\)")


# --- folders that can't be used, and company -----------------------------------------------------

def test_a_folder_in_place_of_the_file(tmp_path):
    home = forge(tmp_path, "cifar10")
    file_of("cifar10").mkdir(parents=True)
    data = load("cifar10", home)
    assert "not cached (Is a directory)" in data.notes[0] and len(data.notes) == 1
    assert "which could not be read (Is a directory)" in data.notes[0]
    assert_same(data, fresh("cifar10", home))
    assert list(cache_folder().iterdir()) == [file_of("cifar10")]


def test_a_file_in_place_of_the_folder(tmp_path):
    home = forge(tmp_path, "cifar10")
    cache_folder().parent.mkdir()
    cache_folder().write_text("a file")
    data = load("cifar10", home)
    assert data.notes == [f"data cifar10: read from {home}, not cached (File exists) in "
                          f"{file_of('cifar10')}"]
    assert_same(data, fresh("cifar10", home))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"),
                                   SafetensorError("No space left on device\nand more")])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, error):
    home = forge(tmp_path, "cifar10")
    load("cifar10", home)
    content = file_of("cifar10").read_bytes()

    def fill_up(tensors, name, metadata):
        Path(name).write_bytes(b"half")
        raise error

    monkeypatch.setattr(cache, "save_file", fill_up)
    rewritten(home / "data_batch_1.bin")
    time.sleep(TICK)
    data = load("cifar10", home)
    assert data.notes == [f"data cifar10: read from {home}, not cached (No space left on device) "
                          f"in {file_of('cifar10')}, which was made from other files"]
    assert_same(data, fresh("cifar10", home))
    assert file_of("cifar10").read_bytes() == content
    assert list(cache_folder().iterdir()) == [file_of("cifar10")]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    cache_folder().mkdir(parents=True)
    for process in (dead.pid, os.getppid()):
        (cache_folder() / f".cifar10.safetensors.x.{process}.part").write_bytes(b"half")
    load("cifar10", forge(tmp_path, "cifar10"))
    assert {path.name for path in cache_folder().iterdir()} == {
        "cifar10.safetensors", f".cifar10.safetensors.x.{os.getppid()}.part"}


# One of several processes that read, make and remove one cache file.
REPEAT = """
import sys
import engine.data
from engine.data import cache, load
from engine.data.download import cache_folder
from helpers.programs import environment
from helpers.data_sets import SMALL10

home, fingerprint = sys.argv[1:]
cache.SETTLED = 0.0
engine.data.OFFICIAL["cifar10"] = SMALL10
for turn in range(30):
    data = load("cifar10", home)
    assert data.fingerprint == fingerprint and "damaged" not in data.notes[0], data.notes
    if turn % 3 == 0:
        (cache_folder() / "cifar10.safetensors").unlink(missing_ok=True)
"""


def test_several_processes_at_once(tmp_path):
    home = forge(tmp_path, "cifar10")
    want = fresh("cifar10", home).fingerprint
    several = [subprocess.Popen([sys.executable, "-c", REPEAT, str(home), want], text=True,
                                stderr=subprocess.PIPE, env=environment()) for _ in range(3)]
    for one in several:
        assert one.communicate()[1] == "" and one.returncode == 0
    assert cached(load("cifar10", home))
    assert list(cache_folder().iterdir()) == [file_of("cifar10")]


def test_the_suite_keeps_out_of_the_users_cache(monkeypatch, cache_of_our_own):
    monkeypatch.undo()
    assert cache_folder().parent == Path(cache_of_our_own)
