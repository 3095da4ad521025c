"""Training: what it prints and leaves, and that a stopped run continues bit for bit.

A small net with every kind of state (maxout, dropout, batch norm) stands in for the paper's; the
command is the real one, called in this process.

Read next: tests/run/test_checkpoint.py.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import engine
import engine.predict
import engine.train
from engine.cli.command import SAVE
from engine.cli.settings import YOUNGER, Settings
from engine.data.feed import Feed, Order, read_clock
from engine.errors import InputError
from engine.layers import Conv, Linear, MaxPool, ReLU
from engine.losses import HingeLoss, SoftmaxLoss
from engine.net import Net
from engine.optimizers import SGD
from engine.run import checkpoint, session
from engine.run import folder as runs
from helpers.devices import DEVICES
from helpers.nets import tiny
from helpers.runs import SMALL, assert_same_run, command, metrics, stop_at
from kernels import ops_for
from kernels.clock import RATE, STEP
from lsuv import fill, lsuv
from models import NETS, Model


@pytest.fixture(autouse=True)
def small_nets(monkeypatch):
    monkeypatch.setitem(NETS, "tiny", Model(tiny, (8, 8, 3)))


@pytest.fixture
def device():
    return "numpy"


@pytest.fixture
def straight(tmp_path, small_nets, device):
    """A run of three epochs (17 steps of 16 out of 90 images) that nothing interrupted."""
    out = tmp_path / "straight"
    assert command(*SMALL, "--device", device, "--epochs", 3, "--out", out) == 0
    return out


@pytest.mark.parametrize("device", [ops.name for ops in DEVICES])
@pytest.mark.parametrize("steps", [(0,), (5,), (6,), (11,), (3, 8), (16,)])
def test_a_stopped_run_continues_bit_for_bit(tmp_path, straight, steps, device):
    """Stopped within an epoch, at its last step (6 is an end), twice, and at the last of all."""
    folder = tmp_path / "stopped"
    arguments = [*SMALL, "--device", device, "--epochs", 3, "--out", folder]
    for step in steps:
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, step)
            assert command(*arguments) == 143
        assert checkpoint.read(folder).step == step + 1
        arguments = ["--resume", folder]
    assert command(*arguments) == 0
    assert_same_run(straight, folder)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    stop_at(monkeypatch, 2, signal.SIGINT)
    assert command(*SMALL, "--epochs", 1, "--out", tmp_path / "run") == 130
    assert f"--resume {tmp_path / 'run'}" in capsys.readouterr().out
    assert checkpoint.read(tmp_path / "run").step == 3


def test_a_stop_during_evaluation_repeats_only_the_evaluation(tmp_path, straight, monkeypatch):
    folder, batch = tmp_path / "stopped", Feed.train_batch
    resident = type("once", (), {"left": 2})

    def interrupted(self, *arguments, _batch=engine.data.feed.Resident.batch):
        resident.left -= 1
        if resident.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        _batch(self, *arguments)

    monkeypatch.setattr(engine.data.feed.Resident, "batch", interrupted)
    assert command(*SMALL, "--epochs", 3, "--out", folder) == 143
    assert checkpoint.read(folder).step == 6 and not (folder / "metrics.csv").exists()
    assert Feed.train_batch is batch
    assert command("--resume", folder) == 0
    assert_same_run(straight, folder)


@pytest.mark.skipif(SAVE is None, reason="the system has no SIGUSR1")
@pytest.mark.parametrize("step", [0, 3, 5, 16])
def test_sigusr1_saves_and_goes_on(tmp_path, straight, monkeypatch, capsys, step):
    """The run ends as one that was left alone; what it saved on the way continues to the same."""
    folder, kept, save = tmp_path / "run", tmp_path / "kept", checkpoint.save
    stop_at(monkeypatch, step, SAVE)

    def keeping(folder, *arguments, **named):
        path = save(folder, *arguments, **named)
        if named["step"] == step + 1 and not kept.exists():
            shutil.copytree(folder, kept)
        return path

    monkeypatch.setattr(checkpoint, "save", keeping)
    assert command(*SMALL, "--epochs", 3, "--out", folder) == 0
    assert f"saved as SIGUSR1 asked, step {step + 1} of 17" in capsys.readouterr().out
    assert_same_run(straight, folder)
    assert checkpoint.read(kept).step == step + 1
    assert command("--resume", kept) == 0
    assert_same_run(straight, kept)
    row = runs.read_metrics(folder)[0]
    assert 0 < row["seconds"] < 60 and row["images_per_second"] > 0


@pytest.mark.skipif(SAVE is None, reason="the system has no SIGUSR1")
def test_sigusr1_before_there_is_something_to_save_and_in_evaluation(tmp_path, monkeypatch, capsys):
    first_weights, score = engine.train.first_weights, session.score

    def signalled(inner):
        def outer(*arguments, **named):
            os.kill(os.getpid(), SAVE)
            return inner(*arguments, **named)

        return outer

    monkeypatch.setattr(engine.train, "first_weights", signalled(first_weights))
    assert command(*SMALL, "--epochs", 1, "--out", tmp_path / "first") == 0
    assert "SIGUSR1" not in capsys.readouterr().out
    monkeypatch.setattr(engine.train, "first_weights", first_weights)
    monkeypatch.setattr(session, "score", signalled(score))
    assert command(*SMALL, "--epochs", 1, "--out", tmp_path / "second") == 0
    assert "saved as SIGUSR1 asked, step 6 of 6" in capsys.readouterr().out


def test_a_second_signal_leaves_at_once(tmp_path, monkeypatch):
    """With the checkpoint of before, and nothing half written."""

    def hurried(self):
        if read_clock(self.net)[RATE] > 0:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the second signal was not heard")

    monkeypatch.setattr(Feed, "train_batch", hurried)
    assert command(*SMALL, "--init", "ortho", "--epochs", 1, "--out", tmp_path / "run") == 143
    assert checkpoint.read(tmp_path / "run").step == 0
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize(
    "error, left", [(InputError("no such filler"), set()), (KeyboardInterrupt(), {"run.json"})]
)
def test_an_initialiser_that_fails_leaves_nothing_and_one_that_is_stopped_a_run(
    tmp_path, straight, monkeypatch, error, left
):
    def failing(*arguments):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(engine.train, "first_weights", failing)
        out = tmp_path / "above" / "run"
        assert command(*SMALL, "--epochs", 3, "--out", out) in (2, 130)
    assert {path.name for path in out.glob("*")} == left and out.parent.exists() == bool(left)
    if left:
        assert command("--resume", out) == 0
        assert_same_run(straight, out)
        assert (out / runs.INIT).exists()


@pytest.mark.parametrize("left", [None, 0, 1, 3])
def test_the_checkpoint_has_the_rows_of_metrics_csv(tmp_path, straight, left):
    """The file may be gone, shorter, or a row ahead of the checkpoint: none is lost or doubled."""
    folder = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 12)
        assert command(*SMALL, "--epochs", 3, "--out", folder) == 143
    file = folder / "metrics.csv"
    if left is None:
        file.unlink()
    else:
        lines = (straight / "metrics.csv").read_text().splitlines()
        file.write_text("\n".join(lines[: 1 + left]) + "\n")
    assert command("--resume", folder) == 0
    assert_same_run(straight, folder)


def test_rows_with_a_loss_that_is_not_finite_survive_a_resume(tmp_path):
    row = dict.fromkeys(runs.COLUMNS, 1.0) | {"epoch": 1, "step": 6, "test_loss": None}
    runs.write_metrics(tmp_path, [row])
    assert np.isnan(runs.read_metrics(tmp_path)[0]["test_loss"])


def test_a_run_killed_before_its_first_checkpoint_resumes(tmp_path, straight, monkeypatch):
    folder, save = tmp_path / "killed", checkpoint.save

    def killed(*arguments, **named):
        raise SystemExit(137)

    monkeypatch.setattr(checkpoint, "save", killed)
    assert command(*SMALL, "--epochs", 3, "--out", folder) == 137
    assert sorted(path.name for path in folder.iterdir()) == ["init.json", "run.json"]
    monkeypatch.setattr(checkpoint, "save", save)
    assert command("--resume", folder) == 0
    assert_same_run(straight, folder)


def test_resume_removes_what_dead_processes_left(tmp_path, monkeypatch):
    stop_at(monkeypatch, 2)
    assert command(*SMALL, "--epochs", 1, "--out", tmp_path) == 143
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process in (dead.pid, os.getppid()):
        (tmp_path / f".checkpoint.safetensors.{process}.part").write_bytes(b"half")
    assert command("--resume", tmp_path) == 0
    assert [path.name for path in tmp_path.glob(".*")] == [
        f".checkpoint.safetensors.{os.getppid()}.part"
    ]


@pytest.mark.skipif("cpu" not in [ops.name for ops in DEVICES], reason="device cpu has the threads")
def test_another_count_of_threads_is_noted(tmp_path, monkeypatch, capsys):
    stop_at(monkeypatch, 2)
    one = [*SMALL, "--device", "cpu", "--threads", 1, "--epochs", 1, "--out", tmp_path]
    assert command(*one) == 143
    assert runs.read_run(tmp_path)["settings"]["threads"] == 1
    assert checkpoint.read(tmp_path).settings["threads"] == 1
    capsys.readouterr()
    try:
        assert command("--resume", tmp_path, "--threads", 2) == 0
    finally:
        ops_for("cpu", threads=1)
    assert (
        "note: the run began with 1 thread; with 2 it continues equal up to rounding, not bit "
        "for bit"
    ) in capsys.readouterr().out
    assert runs.read_run(tmp_path)["settings"]["threads"] == 2


@pytest.mark.skipif("cpu" not in [ops.name for ops in DEVICES], reason="device cpu has the threads")
def test_threads_in_use_are_stored_and_another_device_has_its_own(tmp_path, monkeypatch, capsys):
    from kernels.cpu import _native

    stop_at(monkeypatch, 2)
    assert command(*SMALL, "--device", "cpu", "--epochs", 1, "--out", tmp_path) == 143
    assert runs.read_run(tmp_path)["settings"]["threads"] == _native.threads()
    assert command("--resume", tmp_path, "--device", "numpy") == 0
    assert "note: the run began on device cpu; on numpy" in capsys.readouterr().out


def test_a_home_folder_is_stored_in_full(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    assert command(*SMALL, "--epochs", 0.2, "--data-dir", "~/data", "--out", tmp_path / "run") == 0
    settings = runs.read_run(tmp_path / "run")["settings"]
    assert settings["data_dir"] == str(tmp_path / "data")


def test_move_is_cut_to_the_border_and_stored_so(tmp_path, monkeypatch, capsys):
    load = engine.train.load_data

    def narrow(*arguments, **named):
        data = load(*arguments, **named)
        border, cut = data.preprocessing, data.preprocessing.pad - 3
        border.pad, border.mean_image = 3, border.mean_image[cut:-cut, cut:-cut]
        return data

    monkeypatch.setattr(engine.train, "load_data", narrow)
    assert command(*SMALL, "--epochs", 0.2, "--out", tmp_path) == 0
    assert runs.read_run(tmp_path)["settings"]["move"] == 3
    assert re.search(r"move +3 +recipe paper's 8, cut to the border", capsys.readouterr().out)


def test_a_run_goes_on_when_nobody_reads_its_output(tmp_path):
    """As behind `| head -2`: standard output is a pipe that is closed after two lines."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "engine.train",
            "--net",
            "fitnet_mnist",
            "--act",
            "relu",
            "--data",
            "synthetic",
            "--limit",
            "16",
            "--batch",
            "16",
            "--epochs",
            "2",
            "--out",
            tmp_path / "run",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline(), process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 0
    assert runs.read_run(tmp_path / "run")["result"]["steps"] == 2


def test_epochs_end_where_they_did_and_cost_no_list():
    from types import SimpleNamespace

    def ends(epochs, images=90, batch=16):
        s = SimpleNamespace(steps=round(epochs * images / batch), batch=batch)
        return session.epoch_ends(s, images)

    assert list(ends(3)) == [6, 11, 17] and list(ends(2.5)) == [6, 11, 14]
    assert list(ends(0.5)) == [3] and list(ends(0)) == []
    start = time.perf_counter()
    assert next(ends(3e8)) == 6 and time.perf_counter() - start < 1


def test_run_folder_and_output(straight, capsys):
    record = json.loads((straight / "run.json").read_text())
    assert record["settings"]["steps"] == round(3 * 90 / 16) == 17
    assert record["origins"]["lr"] == "command line"
    assert record["origins"]["momentum"] == "recipe paper"
    assert record["data"]["name"] == "synthetic" and record["result"]["device"] == "numpy"
    assert json.loads((straight / "init.json").read_text())["settings"]["algorithm"] == "lsuv"
    lines = (straight / "metrics.csv").read_text().splitlines()
    assert lines[0] == (
        "epoch,step,lr,train_loss,train_accuracy,test_loss,test_accuracy,images_per_second,seconds"
    )
    assert [line.split(",")[1] for line in lines[1:]] == ["6", "11", "17"]
    assert not list(straight.glob("*.part")) and not list(straight.glob(".*"))
    assert command("--resume", straight) == 0  # complete: says so, and gives the same last line
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(
        r"test accuracy 0\.\d{4}  error 0\.\d{4}  loss \d+\.\d{4}  epochs 3  "
        r"images/s \d+  device numpy  data synthetic  \(made up .*\)",
        last,
    )


def plain(act: str, classes: int, dropout: bool = True):
    return [
        Conv(12, name="conv1"),
        ReLU(),
        MaxPool(2),
        Conv(16, name="conv2"),
        ReLU(),
        MaxPool(8),
        Linear(classes, name="clf"),
    ]


@pytest.mark.parametrize(
    "options, wanted",
    [
        ([], {"pre": "ortho", "normalise": "output"}),
        (["--lsuv-pre", "gaussian"], {"pre": "gaussian", "normalise": "output"}),
        (
            ["--lsuv-normalise", "input", "--lsuv-tol", "0.02", "--net", "plain"],
            {"normalise": "input", "tolerance": 0.02},
        ),
    ],
)
def test_lsuv_options_reach_the_initialiser(tmp_path, monkeypatch, options, wanted):
    layers = [Conv(4, name="conv1"), ReLU(), Linear(10, name="clf")]
    monkeypatch.setitem(NETS, "plain", Model(lambda *args: layers, (8, 8, 3)))
    out = tmp_path / "run"
    assert command(*SMALL, "--epochs", 0.2, "--init", "lsuv", *options, "--out", out) == 0
    report = json.loads((out / "init.json").read_text())
    assert {name: report["settings"][name] for name in wanted} == wanted


def test_a_run_older_than_a_setting_goes_on(tmp_path, straight, monkeypatch):
    stopped = tmp_path / "stopped"
    stop_at(monkeypatch, 8)
    assert command(*SMALL, "--epochs", 3, "--out", stopped) == 143
    record = json.loads((stopped / runs.RUN).read_text())
    for name in YOUNGER:
        record["settings"].pop(name, None)  # one may be another optimizer's
    (stopped / runs.RUN).write_text(json.dumps(record))
    assert command("--resume", stopped) == 0
    assert_same_run(straight, stopped)


def test_a_run_that_has_a_retired_setting_goes_on(tmp_path, straight, monkeypatch):
    stopped, as_dict = tmp_path / "stopped", Settings.as_dict
    with monkeypatch.context() as older:
        older.setattr(Settings, "as_dict", lambda s: as_dict(s) | {"guard": False})
        stop_at(older, 8)
        assert command(*SMALL, "--epochs", 3, "--out", stopped) == 143
    assert json.loads((stopped / runs.RUN).read_text())["settings"]["guard"] is False
    assert command("--resume", stopped) == 0
    assert_same_run(straight, stopped)


def test_it_learns(tmp_path, monkeypatch):
    monkeypatch.setitem(NETS, "tiny", Model(plain, (16, 16, 3)))
    assert (
        command(
            *SMALL,
            "--limit",
            320,
            "--lr",
            "0.1",
            "--recipe",
            "fast",
            "--epochs",
            15,
            "--device",
            "auto",
            "--out",
            tmp_path / "run",
        )
        == 0
    )
    rows = metrics(tmp_path / "run")
    assert float(rows[-1]["train_loss"]) < 0.75 * float(rows[0]["train_loss"])
    assert float(rows[-1]["test_accuracy"]) > 0.3


def test_batches_run_on_across_epochs():
    """Image n of the run is place n mod N of permutation n div N."""
    from kernels.philox import permutation

    order = Order(seed=5, size=7)
    want = np.concatenate([permutation(5, epoch, 7) for epoch in range(5)])
    for first, count in ((0, 3), (6, 3), (5, 20), (9, 0), (14, 7)):
        assert np.array_equal(order.images(first, count), want[first : first + count])


def test_epochs_rescale_the_schedule(tmp_path, capsys):
    assert command(*SMALL, "--epochs", 2, "--out", tmp_path / "run") == 0
    policy = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["policy"]
    assert policy["steps"] == [round(11 * share) for share in (4 / 9, 6 / 9, 8 / 9)]
    assert "stretched from 90000 to 11 steps" in capsys.readouterr().out


def test_runs_gives_mean_and_spread(tmp_path, capsys):
    assert command(*SMALL, "--epochs", 1, "--runs", 2, "--out", tmp_path / "all") == 0
    found = [
        runs.read_run(tmp_path / "all" / f"seed{seed}")["result"]["test_accuracy"]
        for seed in (3, 4)
    ]
    text = capsys.readouterr().out
    mean, spread = np.mean(found), np.std(found, ddof=1)
    assert f"2 runs: test accuracy mean {mean:.4f}  spread {spread:.4f}" in text
    assert text.splitlines()[-1].startswith(f"test accuracy {np.mean(found):.4f}  error ")


def same_seeds(first, second):
    for seed in (3, 4, 5):
        assert_same_run(first / f"seed{seed}", second / f"seed{seed}")
    means = [runs.read_series(out)["result"]["test_accuracy"] for out in (first, second)]
    assert means[0] == means[1]


def test_several_runs_are_finished_after_a_stop(tmp_path, capsys):
    """Stopped in the second of three: the first is kept, the second goes on, the third starts."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    three = [*SMALL, "--epochs", 1, "--runs", 3, "--out"]
    assert command(*three, whole) == 0
    with pytest.MonkeyPatch.context() as patch:
        train_batch = Feed.train_batch

        def interrupted(self):
            if self.net.seed == 4 and read_clock(self.net)[RATE] > 0:
                os.kill(os.getpid(), signal.SIGTERM)
            train_batch(self)

        patch.setattr(Feed, "train_batch", interrupted)
        capsys.readouterr()
        assert command(*three, stopped) == 143
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"--resume {stopped}")
    assert sorted(path.name for path in stopped.iterdir()) == ["runs.json", "seed3", "seed4"]
    finished = (stopped / "seed3" / "run.json").read_bytes()
    assert command(*three, stopped) == 2
    assert f"--resume {stopped}" in capsys.readouterr().err
    assert command("--resume", stopped) == 0
    assert (stopped / "seed3" / "run.json").read_bytes() == finished
    assert "3 runs: test accuracy mean" in capsys.readouterr().out
    same_seeds(whole, stopped)
    assert command("--resume", stopped) == 0
    assert "is complete" in capsys.readouterr().out


def test_a_nan_names_step_and_layer_and_keeps_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    forward = Conv.forward

    def spoil(self, x, train):
        z = forward(self, x, train)
        if self.name == "conv2" and train and self.poison():
            z.reshape(-1)[0] = np.inf
        return z

    net_of = engine.train.assemble

    def watched(*arguments):
        net, feed, optimizer = net_of(*arguments)
        Conv.poison = lambda self: net.clock[RATE] > 0 and net.clock[STEP] == 8
        return net, feed, optimizer

    monkeypatch.setattr(engine.train, "assemble", watched)
    monkeypatch.setattr(Conv, "forward", spoil)
    monkeypatch.setattr(Conv, "poison", None, raising=False)
    assert command(*SMALL, "--epochs", 3, "--out", tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "engine.train: error: loss or gradient is not finite at step 8 (epoch "
        "2): first seen in the output of conv2; lower --lr (0.05)"
    )
    assert error.count("\n") == 1
    assert error.rstrip().endswith("checkpoint.safetensors, step 6")
    assert checkpoint.read(tmp_path / "run").step == 6


@pytest.mark.parametrize("device", [ops.name for ops in DEVICES])
def test_a_test_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch, capsys, device):
    """Training has not met it: the last update of the last epoch leaves finite, absurd weights."""
    out = tmp_path / "run"
    monkeypatch.setitem(NETS, "tiny", Model(plain, (16, 16, 3)))
    assert (
        command(
            *SMALL,
            "--device",
            device,
            "--epochs",
            16 / 90,
            "--clip",
            1,
            "--lr",
            "1e25",
            "--out",
            out,
        )
        == 1
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(
        r"test loss is not finite after step 1 \(epoch 1\): first seen in the output of \w+; lower "
        r"--lr \(1e\+25\) or --clip \(1\), .*checkpoint.safetensors, step 0$",
        error.rstrip(),
    )
    assert checkpoint.read(out).step == 0 and not (out / runs.METRICS).exists()


def test_a_rate_that_is_too_high_ends_in_one_line(tmp_path, capsys):
    code = command(*SMALL, "--lr", "1e30", "--epochs", 2, "--out", tmp_path / "run")
    error = capsys.readouterr().err
    assert code == 1 and error.count("\n") == 1 and "not finite at step" in error
    assert checkpoint.read(tmp_path / "run").step < 6


def test_a_full_disk_ends_in_one_line_and_keeps_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 12:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert command(*SMALL, "--epochs", 3, "--out", tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error and "--resume" in error and error.count("\n") == 1
    monkeypatch.setattr(os, "fsync", fsync)
    assert not list((tmp_path / "run").glob(".*"))
    assert command("--resume", tmp_path / "run") == 0


def test_load_predicts_what_evaluation_measured(straight, tmp_path, capsys):
    import engine.evaluate
    from engine.data import load

    data = load("synthetic", limit=90, size=(8, 8, 3), report=lambda line: None)
    prob = engine.load(straight, device="numpy").predict(data.test.images)
    assert prob.shape == (90, 10) and prob.dtype == np.float32
    np.testing.assert_allclose(prob.sum(axis=1), 1, rtol=1e-5)
    accuracy = runs.read_run(straight)["result"]["test_accuracy"]
    assert (prob.argmax(axis=1) == data.test.labels).mean() == pytest.approx(accuracy)
    capsys.readouterr()
    assert engine.evaluate.main([str(straight), "--device", "numpy"]) == 0
    text = capsys.readouterr().out
    assert f"test accuracy {accuracy:.4f}" in text.splitlines()[-1] and "confusion" in text


@pytest.mark.parametrize("loss", [SoftmaxLoss, HingeLoss])
def test_a_net_and_arrays_of_ones_own(loss):
    """Build, LSUV, train: two classes told apart by where the light is."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    images = rng.normal(size=(80, 6, 6, 1)).astype(np.float32)
    images[labels == 1, :3] += 1
    layers = [Conv(4), ReLU(), MaxPool(2), Linear(2)]
    net = Net(layers, loss(), ops_for("numpy"), in_shape=(6, 6, 1), batch=20)
    fill(net, "lsuv", seed=0)
    report = lsuv(net, engine.batches(net, images, labels))
    assert all(abs(row.variance_after - 1) < 0.05 for row in report.rows)
    rows = engine.fit(
        net, images, labels, SGD(net, momentum=0.9), epochs=8, rate=0.02, report=lambda line: None
    )
    assert len(rows) == 8 and rows[-1]["loss"] < rows[0]["loss"]
    assert (engine.scores(net, images).argmax(axis=1) == labels).mean() > 0.9


def test_a_stop_in_a_seeds_last_save_stops_the_series(tmp_path, monkeypatch):
    save = checkpoint.save

    def stopping(folder, *arguments, **named):
        if named["step"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return save(folder, *arguments, **named)

    out = tmp_path / "all"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stopping)
        assert command(*SMALL, "--epochs", 1, "--runs", 2, "--out", out) == 143
    assert runs.read_run(out / "seed3")["result"] is not None and not (out / "seed4").exists()
    assert command("--resume", out) == 0
    assert runs.read_series(out)["result"] is not None


def test_a_stop_in_the_evaluation_of_an_untrained_net(tmp_path, monkeypatch):
    batch = engine.data.feed.Resident.batch

    def interrupted(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        batch(self, *arguments)

    monkeypatch.setitem(NETS, "tiny", Model(plain, (16, 16, 3)))
    with monkeypatch.context() as patch:
        patch.setattr(engine.data.feed.Resident, "batch", interrupted)
        assert command(*SMALL, "--epochs", 0, "--out", tmp_path / "run") == 143
    assert command("--resume", tmp_path / "run") == 0


def test_a_log_on_a_full_disk_does_not_end_a_run(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("the system has no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "engine.train",
                "--net",
                "fitnet_mnist",
                "--act",
                "relu",
                "--data",
                "synthetic",
                "--limit",
                "16",
                "--batch",
                "16",
                "--epochs",
                "1",
                "--out",
                tmp_path / "run",
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.stderr == "" and done.returncode == 0
    assert runs.read_run(tmp_path / "run")["result"]["steps"] == 1


def test_load_makes_room_for_a_bounded_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(engine.predict, "BATCH", 4)
    assert command(*SMALL, "--epochs", 1, "--out", tmp_path / "run") == 0
    model = engine.load(tmp_path / "run", device="numpy")
    assert model.net.batch == 4
    assert model.predict(np.zeros((9, 8, 8, 3), np.uint8)).shape == (9, 10)
