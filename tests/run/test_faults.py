"""Every call that changes a file of a run goes wrong, one after another until there is none left.

The process dies before it, or halfway through it; or it fails, and the run says so in one line,
exits with 1 and keeps its last good checkpoint; or it writes half, as any write may. Afterwards the
run is resumed, and equals the one that nobody disturbed. A new run, a resumed one, and `--runs`.

Read next: tests/helpers/faults.c, which makes the calls go wrong.
"""

import shutil
import signal
from itertools import count
from pathlib import Path

import pytest

from engine.run import checkpoint
from engine.run import folder as runs
from engine.run.lock import LOCK, WRITER
from helpers.length import often
from helpers.lives import ERROR, KILL, SHORT, TORN, End
from helpers.runs import TINY, again, clean, whole

MODES = {"kill": KILL, "torn": TORN, "error": ERROR, "short": SHORT}
NEW = [*TINY, "--device", "numpy", "--out"]


def failures(lives, mode: int, prepare, most: int = 10_000, stride: int = 1):
    """(call number, its folder, the order, End) of every life in which a call went wrong."""
    for at in count(1, stride):
        folder, order = prepare(at)
        end = lives.lead(order, folder, at=at, mode=mode)
        if end.code == 0 and len(end.calls) < at:
            return
        assert at < most
        yield at, folder, order, end


def check(end: End, mode: int, at: int) -> None:
    """The life ended as its fault, in call number `at`, promises."""
    if mode in (KILL, TORN):
        assert end.code == -signal.SIGKILL
    elif mode == SHORT or borne(end, at):
        assert end.code == 0, end.err
    else:
        assert end.code == 1 and end.err.startswith("engine.train: error: "), end.err
        assert end.err.count("\n") == 1
        assert "No space left on device" in end.err or "Input/output error" in end.err


def borne(end: End, at: int) -> bool:
    """Whether a run goes on after that call has failed: where a file can have no second name it is
    moved, what a dead process left and a lock's files may stay, and a lock wants to make a folder
    that is there."""
    name, path, *_ = end.calls[at - 1] if end.calls else ("", "")
    return (
        name == "link"
        or (name == "unlink" and path.endswith((".part", LOCK, WRITER)))
        or (name == "mkdir" and Path(path).is_dir())
    )


@pytest.fixture(scope="module")
def straight(lives, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert lives.lead([*NEW, folder], folder).code == 0
    return whole(folder)


@pytest.mark.parametrize("mode", MODES)
def test_of_a_new_run(lives, straight, mode, tmp_path):  # noqa: F811
    def prepare(at: int):
        folder = tmp_path / str(at)
        return folder, [*NEW, folder]

    seen = 0
    for at, folder, order, end in failures(lives, MODES[mode], prepare, stride=often(2, 1)):
        check(end, MODES[mode], at)
        if mode == "short" or not borne(end, at):
            seen = max(seen, newest(folder, seen_before=seen))
        last = lives.lead(again(folder, order), folder)
        assert last.code == 0, (at, last.err)
        assert whole(folder) == straight
        clean(folder)
    assert at > 40 and seen == 11  # up to the last of all


@pytest.mark.parametrize("mode", MODES)
def test_death_after_a_fall_back_leaves_the_checkpoint_that_was_used(
    lives, straight, mode, tmp_path
):  # noqa: F811
    """The newest is damaged, its predecessor is used, and the next save goes wrong."""
    whole_run = tmp_path / "whole"
    assert lives.lead([*NEW, whole_run], whole_run, kill=("training", 8, 0.0)).code < 0

    def prepare(at: int):
        folder = shutil.copytree(whole_run, tmp_path / str(at))
        damaged = bytearray((folder / runs.CHECKPOINT).read_bytes())
        damaged[-9] ^= 1
        (folder / runs.CHECKPOINT).write_bytes(damaged)
        return folder, ["--resume", folder]

    for at, folder, order, end in failures(lives, MODES[mode], prepare, stride=often(3, 1)):
        check(end, MODES[mode], at)
        last = lives.lead(order, folder)
        assert last.code == 0, (at, last.err)
        assert whole(folder) == straight
    assert at > 20


def newest(folder: Path, seen_before: int) -> int:
    """The step of the checkpoint that would be used, -1 before there is one: a later fault never
    leaves an older one."""
    if runs.untrained(folder):
        assert seen_before == 0
        return 0
    step = checkpoint.read(folder, lambda note: None).step
    assert step >= seen_before
    return step


def test_a_power_cut_finds_nothing_half_done(lives, tmp_path):  # noqa: F811
    """What is renamed into place was flushed to the disk after its last write, and the folder is
    flushed behind the rename before anything else is begun."""
    folder = tmp_path / "run"
    calls = lives.lead([*NEW, folder], folder).calls
    dirty, renamed, files = set(), 0, {runs.RUN, runs.INIT, runs.METRICS, runs.CHECKPOINT}
    for number, (name, path, *target) in enumerate(calls):
        if name in ("opened", "truncated", "write"):
            dirty.add(path)
        elif name == "fsync":
            dirty.discard(path)
        elif name == "rename" and Path(target[0]).name in files:
            renamed += 1
            assert path not in dirty
            assert calls[number + 1][:2] == ["fsync", str(folder)]
    assert renamed == 3 + 2 + 3  # run.json twice, init.json; metrics.csv; the checkpoints
    assert calls[0][:2] == ["mkdir", str(folder)]


@pytest.fixture(scope="module")
def stopped(lives, tmp_path_factory):  # noqa: F811
    """A run that was killed in its second epoch, as it wrote a checkpoint."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    end = lives.lead([*NEW, folder], folder, kill=("training", 8, 0.0))
    assert end.code == -signal.SIGKILL
    (folder / ".checkpoint.safetensors.4194305.part").write_bytes(b"half")  # no such process can be
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_of_a_resumed_run(lives, straight, stopped, mode, tmp_path):  # noqa: F811
    def prepare(at: int):
        return shutil.copytree(stopped, tmp_path / str(at)), ["--resume", tmp_path / str(at)]

    for at, folder, order, end in failures(lives, MODES[mode], prepare, stride=often(3, 1)):
        check(end, MODES[mode], at)
        last = lives.lead(order, folder)
        assert last.code == 0, (at, last.err)
        assert whole(folder) == straight
        clean(folder)
    assert at > 20


@pytest.mark.parametrize("mode", MODES)
def test_of_several_runs(lives, mode, tmp_path):  # noqa: F811
    def prepare(at: int):
        out = tmp_path / str(at)
        return out, [*NEW, out, "--epochs", "1", "--runs", "2"]

    folder, order = prepare(0)
    assert lives.lead(order, folder).code == 0
    want, mean = seeds(folder), runs.read_series(folder)["result"]["test_accuracy"]
    for at, folder, order, end in failures(lives, MODES[mode], prepare, stride=often(7, 1)):
        check(end, MODES[mode], at)
        again_ = ["--resume", folder] if (folder / runs.SERIES).exists() else order
        last = lives.lead(again_, folder)
        assert last.code == 0, (at, last.err)
        assert seeds(folder) == want
        assert runs.read_series(folder)["result"]["test_accuracy"] == mean
    assert at > 60


def test_of_several_stages(lives, tmp_path):  # noqa: F811
    def prepare(at: int):
        out = tmp_path / str(at)
        return out, [*NEW, out, "--net", "staged", "--epochs", "2"]

    folder, order = prepare(0)
    assert lives.lead(order, folder).code == 0
    want = stages(folder)
    for at, folder, order, end in failures(lives, KILL, prepare, stride=often(17, 1)):
        check(end, KILL, at)
        again_ = ["--resume", folder] if (folder / runs.SERIES).exists() else order
        last = lives.lead(again_, folder)
        assert last.code == 0, (at, last.err)
        assert stages(folder) == want
        assert runs.read_series(folder)["result"]["epochs"] == 2
    assert at > 90


def stages(folder: Path) -> list[dict]:
    return [whole(folder / f"stage{k}") for k in (1, 2, 3)]


def seeds(folder: Path) -> list[dict]:
    return [whole(folder / f"seed{seed}") for seed in (3, 4)]
