"""Shards and ranks: the result is that of the rule, for any number of processes, whatever happens.

The rule is written down here once more, plainly. What needs several processes needs the extra mpi;
`--full` kills 100 times instead of 10.

Read next: tests/run/test_kills.py.
"""

import json
import random
import signal
import sys
import time

import numpy as np
import pytest

import engine.train
from engine.cli.settings import Settings
from engine.data.feed import Feed, read_clock, write_clock
from engine.errors import InputError, RunError
from engine.layers import Linear
from engine.run import checkpoint, ranks
from engine.run import folder as runs
from engine.run.shards import Shards
from engine.schedules import rates
from helpers.devices import DEVICES
from helpers.length import often
from helpers.nets import tiny
from helpers.rank import TEXT, mpi, start
from helpers.runs import again, clean, command, metrics, stop_at, whole
from kernels import ops_for
from kernels.clock import LOSS_SUM, RATE, STEP
from models import NETS, Model

NAMES = [ops.name for ops in DEVICES]
RUN = ["--net", "tiny", "--data", "synthetic", "--limit", 90, "--batch", 16, "--lr", 0.05]
RUN += ["--seed", 3, "--epochs", 4, "--clip", 1, "--out"]
# What a shard's gradient goes through; tiny has dropout and batch normalisation.
WAYS = [("--precision", "bf16"), ("--accumulate", 2), ("--ema", 0.9, "--validation", 20)]


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setitem(NETS, "tiny", Model(tiny, (8, 8, 3)))


def options(folder, *more) -> list:
    return [*RUN, folder, *more]


def settings(folder) -> Settings:
    return Settings.from_dict(runs.read_run(folder)["settings"], folder, engine.train.KNOWN)


# -- one process ----------------------------------------------------------------------------------


def by_the_rule(s: Settings, data, ops, steps: int):
    """The net after some steps of its first epoch, and the sum of their losses."""
    net, feed, optimizer = engine.train.assemble(s, data, ops)
    engine.train.first_weights(s, net, feed)
    bn = next(layer for layer in net.chain.leaves() if layer.name == "bn_conv2")
    bn.deferred = True
    table, V = rates(s.policy, 0, steps + 1), s.shards
    feed.start(read_clock(net), 0, V * steps, table)
    clocks = [read_clock(net) for _ in range(V)]
    for step in range(steps):
        gradients, statistics = [], []
        for shard in range(V):
            clocks[shard][STEP] = V * step + shard
            write_clock(net, clocks[shard])
            feed.train_batch()
            net.forward(train=True)
            net.evaluate_loss()
            net.backward()
            clocks[shard] = read_clock(net)
            gradients.append(net.gradients.astype(np.float32))
            statistics.append((bn.mean.copy(), bn.rstd.copy()))
        while len(gradients) > 1:
            pairs = zip(gradients[::2], gradients[1::2], strict=True)
            gradients = [left + right for left, right in pairs]
        net.gradients[...] = gradients[0] / np.float32(V)
        net.clock[STEP], net.clock[RATE] = step, table[step]
        for one in statistics:
            bn.track(*one)
        optimizer.step()
    return net, sum(clock[LOSS_SUM] for clock in clocks)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shards", [1, 2, 8])
@pytest.mark.parametrize("device", NAMES)
def test_a_run_does_what_the_rule_says(device, shards, precision, tmp_path, monkeypatch):
    """... and of one shard it is a run as it always was, whose checkpoint knows of no shards."""
    if precision not in ops_for(device).precisions:
        pytest.skip(f"device {device} has no {precision} here")
    stop_at(monkeypatch, shards * 6 - 1, batch=16 // shards)  # behind the epoch's last step
    more = ["--device", device, "--shards", shards, "--precision", precision]
    assert command(*options(tmp_path / "run", *more)) == 143
    monkeypatch.undo()
    monkeypatch.setitem(NETS, "tiny", Model(tiny, (8, 8, 3)))
    data = engine.train.load_data("synthetic", None, 90, size=(8, 8, 3))
    net, losses = by_the_rule(settings(tmp_path / "run"), data, ops_for(device), 6)
    saved = checkpoint.read(tmp_path / "run")
    assert saved.step == 6 and ("sums" in saved.progress) == (shards > 1)
    assert float.fromhex(saved.progress["clock"][LOSS_SUM]) == losses
    for name, value in checkpoint.collect(net).items():
        assert np.array_equal(saved.tensors[name], value), name


@pytest.mark.parametrize("device", NAMES)
def test_shards_see_the_images_of_the_whole_batch(device, tmp_path, monkeypatch):
    """... in its order and with its crops; so but for rounding, and for masks and statistics of
    their own, the run is the same."""
    monkeypatch.setitem(NETS, "tiny", Model(lambda *_: [Linear(10, name="clf")], (8, 8, 3)))
    for shards in (1, 4):
        more = ["--shards", shards, "--device", device, "--move", 1]
        assert command(*options(tmp_path / f"{shards}", *more)) == 0
    one, four = (metrics(tmp_path / name) for name in ("1", "4"))
    for row, other in zip(one, four, strict=True):
        assert row["lr"] == other["lr"]
        assert float(row["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-4)
    weights = [checkpoint.read(tmp_path / name).tensors["clf.W"] for name in ("1", "4")]
    assert not np.array_equal(*weights) and np.allclose(*weights, atol=1e-4)


@pytest.mark.parametrize("device", NAMES)
def test_a_run_of_shards_goes_on_within_an_epoch(device, tmp_path, monkeypatch):
    more = ["--shards", 4, "--device", device]
    assert command(*options(tmp_path / "straight", *more)) == 0
    for step in (13, 34):
        stop_at(monkeypatch, step, batch=4)
        assert command(*again(tmp_path / "run", options(tmp_path / "run", *more))) == 143
    monkeypatch.undo()
    monkeypatch.setitem(NETS, "tiny", Model(tiny, (8, 8, 3)))
    assert command("--resume", tmp_path / "run") == 0
    assert whole(tmp_path / "run") == whole(tmp_path / "straight")


def test_a_shard_that_is_not_finite_is_named(tmp_path, monkeypatch, capsys):
    """Image and loss; the weights stay as they were before that step."""
    train_batch = Feed.train_batch

    def spoilt(self):
        train_batch(self)
        if self.net.batch == 4 and read_clock(self.net)[STEP] == 4 * 7 + 2:
            self.net.x[1] = np.nan

    monkeypatch.setattr(Feed, "train_batch", spoilt)
    assert command(*options(tmp_path / "run", "--shards", 4, "--device", "numpy")) == 1
    said = capsys.readouterr().err
    assert "not finite at step 7 (epoch 2): first seen in the images of shard 2;" in said
    failure = runs.read_run(tmp_path / "run")["failure"]
    assert failure["kind"] == "not finite" and failure["step"] == 7


def test_what_cannot_be_cut_is_refused(tmp_path, capsys):
    for more, text in (
        (["--shards", 3], "--shards 3 must be a power of two"),
        (["--shards", 0], "--shards 0 must be a power of two"),
        (["--shards", 4, "--batch", 18], "a batch of 18 is no multiple of it; give --batch 20"),
    ):
        assert command(*options(tmp_path / "run", *more)) == 2
        assert text in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_number_of_shards_is_the_runs(tmp_path, capsys):
    """--resume takes no other, a checkpoint of others is refused, and one without its sums too."""
    folder = tmp_path / "run"
    assert command(*options(folder, "--shards", 2, "--epochs", 1)) == 0
    assert command("--resume", folder, "--shards", 4) == 2
    assert "--shards can't be given with --resume" in capsys.readouterr().err
    record = runs.read_run(folder)
    record["settings"]["shards"], record["result"] = 4, None
    (folder / runs.RUN).write_text(json.dumps(record))
    assert command("--resume", folder) == 2
    assert "this checkpoint is of shards 2, not 4" in capsys.readouterr().err
    record["settings"]["shards"] = 3
    (folder / runs.RUN).write_text(json.dumps(record))
    assert command("--resume", folder) == 2
    assert "must be a power of two" in capsys.readouterr().err


def test_a_larger_batch_leaves_the_rate_and_says_so(tmp_path, capsys):
    sizes = ["--net", "fitnet_mnist", "--recipe", "fast", "--batch", 128, "--limit", 256]
    more = ["--data", "synthetic", "--epochs", 0, "--init", "msra"]
    assert command(*sizes, *more, "--out", tmp_path / "run") == 0
    line = next(line for line in capsys.readouterr().out.split("\n") if line.startswith("  lr  "))
    assert "it stays with a batch 2 times the recipe's" in line


class Others(ranks.Alone):
    """Rank 0 of three, of whom the last has something else."""

    size = 3

    def __init__(self, other):
        self.other = other

    def gather(self, value):
        return [value, value, self.other]


def test_ranks_that_differ_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="process 2 has numpy of another, and process 0 numpy;"):
        Others("numpy of another").need_equal("numpy")
    Others("numpy").need_equal("numpy")
    assert command(*options(tmp_path / "run", "--epochs", 1)) == 0
    data = engine.train.load_data("synthetic", None, 90, size=(8, 8, 3))
    net, *_ = engine.train.assemble(settings(tmp_path / "run"), data, ops_for("numpy"))
    shards = Shards(net, 1, Others(b"12345678"))
    with pytest.raises(RunError, match="process 2 has other weights than process 0 at step 9"):
        shards.need_equal(9)


def test_processes_and_shards_must_fit():
    for shards, size in ((1, 2), (4, 3), (4, 8)):
        group = Others(0)
        group.size = size
        with pytest.raises(InputError, match=f"{size} processes and --shards {shards}: .* give"):
            group.need_divisor(shards)
    ranks.Alone().need_divisor(1)


def test_mpi_without_its_package_is_one_line(tmp_path, monkeypatch, capsys):
    """... of the first process, and not as many runs in one folder."""
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    for name, rank, said in (("PMI_RANK", "0", True), ("OMPI_COMM_WORLD_RANK", "1", False)):
        monkeypatch.setenv(name, rank)
        assert command(*options(tmp_path / "run", "--shards", 2)) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == said and ("pip install 'mpi4py" in error) == said
        monkeypatch.delenv(name)
    assert not (tmp_path / "run").exists()


# -- several processes ----------------------------------------------------------------------------


@pytest.fixture
def together():
    try:
        mpi()
    except LookupError as error:
        pytest.skip(str(error))

    def run(count, arguments, event="", moment=None, code=0) -> tuple[str, str]:
        with start(count, arguments, event, moment) as life:
            out, err = life.communicate(timeout=120)
        assert life.returncode == code, (out, err)
        return out, err

    return run


def everything(folder) -> dict:
    """Of a finished run all that may not depend on what it went through."""
    best = folder / runs.BEST
    kept = checkpoint.read(folder, best=True).step if best.exists() else None
    return whole(folder) | {"best": kept, "sums": checkpoint.read(folder).progress["sums"]}


def of_four(device: str, *more) -> list:
    """Arguments of a run of four shards, with a thread on each rank."""
    return ["--shards", 4, "--device", device, *(["--threads", 1] * (device == "cpu")), *more]


@pytest.mark.parametrize("way", WAYS, ids=[way[0] for way in WAYS])
@pytest.mark.parametrize("device", NAMES)
def test_any_number_of_ranks_has_the_same_run(device, way, together, tmp_path):
    if way[0] == "--precision" and way[1] not in ops_for(device).precisions:
        pytest.skip(f"device {device} has no {way[1]} here")
    for count in (1, 2, 4):
        folder = tmp_path / f"{count}"
        out, err = together(count, options(folder, *of_four(device, *way)))
        assert out.count("epoch 4/4") == 1 and not err
        clean(folder, *[runs.BEST] * ("--validation" in way))
    one, two, four = (everything(tmp_path / name) for name in "124")
    assert one == two == four


@pytest.mark.parametrize("device", NAMES)
def test_a_run_of_four_ranks_goes_on_with_others(device, together, tmp_path):
    """Stopped by a signal that one rank alone has seen, within an epoch; begun with four, gone on
    with one, with two, with four."""
    straight, folder = tmp_path / "straight", tmp_path / "run"
    together(1, options(straight, *of_four(device)))
    out, err = together(4, options(folder, *of_four(device)), "2 4 TERM 0", code=143)
    assert "stopped at step 4 of 22 and saved" in out and not err
    for count, event, step in ((1, "0 21 TERM 0", 10), (2, "1 7 USR1 0", 22)):
        done = step == 22
        out, _ = together(count, ["--resume", folder], event, code=0 if done else 143)
        assert (f"stopped at step {step} of 22" in out) != done
        assert ("saved as SIGUSR1 asked, step" in out) == done
    assert everything(folder) == everything(straight)


def test_sigterm_to_mpiexec_saves_and_exits_143(together, tmp_path):
    folder = tmp_path / "run"
    arguments = options(folder, *of_four("numpy"), "--epochs", 100_0)
    with start(4, arguments) as life:
        while not (folder / runs.METRICS).exists():
            assert life.poll() is None, life.communicate()
            time.sleep(0.05)
        life.send_signal(signal.SIGTERM)
        out, err = life.communicate(timeout=60)
    assert life.returncode == 143 and "and saved; continue with" in out, (out, err)
    assert checkpoint.read(folder, pytest.fail).step > 0


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("error, code", [("RunError", 1), ("ValueError", 1)])
def test_an_error_on_one_rank_ends_all(error, code, rank, together, tmp_path):
    """In less than five seconds, with its message once."""
    moment = tmp_path / "moment"
    arguments = options(tmp_path / "run", *of_four("numpy"))
    _, err = together(4, arguments, f"{rank} 5 {error} 0", moment, code)
    assert time.time() - float(moment.read_text()) < 5
    assert err.count(TEXT) == 1 and ("Traceback" in err) == (error == "ValueError")


def test_an_error_of_all_is_said_once(together, tmp_path):
    for count, more, text in (
        (4, ["--shards", 4, "--lr", 1e30], "is not finite"),
        (4, ["--shards", 3], "--shards 3 must be"),
        (3, ["--shards", 4], "3 processes and --shards 4"),
        (2, [], "2 processes and --shards 1"),
    ):
        code = 1 if "--lr" in more else 2
        _, err = together(count, options(tmp_path / "run", *more), code=code)
        assert err.count("engine.train: error:") == 1 and text in err
    assert runs.read_run(tmp_path / "run")["failure"]["kind"] == "not finite"


def test_several_seeds_are_trained_by_all(together, tmp_path):
    for count in (1, 2):
        arguments = options(tmp_path / f"{count}", *of_four("numpy"), "--runs", 2, "--epochs", 1)
        together(count, arguments)
    for seed in ("seed3", "seed4"):
        assert everything(tmp_path / "1" / seed) == everything(tmp_path / "2" / seed)


@pytest.mark.parametrize("device", NAMES)
def test_a_rank_that_is_killed_at_any_step(device, together, tmp_path):
    """kill -9 of any rank in any step, and again as the run goes on with another number of ranks:
    the end has the same bits."""
    straight, rng, kills = tmp_path / "straight", random.Random(device), 0
    together(1, options(straight, *of_four(device)))
    want = everything(straight)
    while kills < often(5, 50):
        folder = tmp_path / f"after{kills}"
        left, code = 22, None
        while code != 0:
            count = rng.choice((1, 2, 4))
            call = rng.randrange(1, left * 4 // count + 1)
            event = f"{rng.randrange(count)} {call} KILL {rng.choice((0, rng.uniform(0, 0.03)))}"
            arguments = again(folder, options(folder, *of_four(device)))
            with start(count, arguments, event) as life:
                out, err = life.communicate(timeout=120)
            code = life.returncode
            kills += code != 0
            assert code in (0, 9, 137), (out, err)
        assert everything(folder) == want
