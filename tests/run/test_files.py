"""Files are written whole or not at all, and never through a link that somebody has laid.

Read next: tests/run/test_lock.py.
"""

import os

import pytest

from engine.errors import InputError, RunError
from engine.run.files import NoRoom, write_atomic
from engine.run.lock import LOCK, WRITER, hold

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the system has no symbolic links")


@pytest.fixture
def precious(tmp_path):
    """A file outside of the run that nothing may touch."""
    path = tmp_path / "precious"
    path.write_text("kept")
    yield path
    assert path.read_text() == "kept"


def test_a_link_at_the_temporary_name_is_replaced_and_not_followed(tmp_path, precious):
    target = tmp_path / "run.json"
    (tmp_path / f".run.json.{os.getpid()}.part").symlink_to(precious)
    write_atomic(target, b"new")
    assert target.read_bytes() == b"new" and not target.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "run.json"]


def test_a_link_at_the_name_itself_is_replaced(tmp_path, precious):
    (tmp_path / "run.json").symlink_to(precious)
    write_atomic(tmp_path / "run.json", b"new", previous=tmp_path / "before")
    assert (tmp_path / "run.json").read_bytes() == b"new"


@pytest.mark.parametrize("name", [LOCK, WRITER])
def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path, precious, name):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).symlink_to(precious)
    if name == LOCK:
        with pytest.raises(InputError, match="no run's lock; remove it"), hold(folder, print):
            pass
    else:
        with hold(folder, print):
            assert not (folder / WRITER).is_symlink()


def test_a_full_disk_is_told_from_another_fault(tmp_path):
    with pytest.raises(RunError, match="No such file.*what was saved before is kept$") as error:
        write_atomic(tmp_path / "gone" / "file", b"x")
    assert not isinstance(error.value, NoRoom)
    with pytest.raises(NoRoom, match="No space left.*; make room$"):
        write_atomic_full(tmp_path / "file")
    assert not any(tmp_path.iterdir())


def write_atomic_full(path):
    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        write_atomic(path, b"x")
