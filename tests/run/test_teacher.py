"""A net that learns from another one: from its scores, and from what one of its layers gives.

Read next: tests/run/test_faults.py.
"""

import os
import signal

import numpy as np
import pytest

import kernels.cuda
from engine.cli import options
from engine.data import load
from engine.data.feed import Feed, read_clock
from engine.layers import Conv, Dropout, Linear, Maxout, MaxPool, ReLU
from engine.losses import DistillationLoss, HintLoss, SoftmaxLoss
from engine.net import Net
from engine.run import checkpoint
from engine.run import folder as runs
from engine.run.teacher import Teacher, beginning, guided
from engine.run.weights import restore, save
from engine.schedules import rates
from engine.scoring import score
from engine.train import KNOWN, assemble, first_weights
from helpers.runs import SMALL, command, whole
from kernels import ops_for
from kernels.clock import RATE
from models import NETS, Model, build, recipes

SHAPE = (8, 8, 3)


def tutor(act: str, classes: int, dropout: bool):
    begin = [Conv(4, pieces=2, name="conv1"), Maxout(2), MaxPool(2), Dropout(0.2 * dropout)]
    begin = [*begin, Conv(6, pad=0, name="conv2"), ReLU()]  # 4 x 4 x 4, then 2 x 2 x 6
    return [*begin, Linear(8, name="fc"), ReLU(), Linear(classes, name="clf")]


def pupil(act: str, classes: int, dropout: bool):
    begin = [Conv(3, pieces=2, name="conv1"), Maxout(2, 2), Conv(3, name="conv2"), ReLU()]
    return [*begin, Linear(classes, name="clf")]


def known(patch) -> None:
    patch.setitem(NETS, "tutor", Model(tutor, SHAPE))
    patch.setitem(NETS, "pupil", Model(pupil, SHAPE))


@pytest.fixture(autouse=True)
def small_nets(monkeypatch):
    known(monkeypatch)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher") / "run"
    with pytest.MonkeyPatch.context() as patch:
        known(patch)
        assert command(*SMALL, "--net", "tutor", "--epochs", 2, "--out", out) == 0
    return out


def learning(teacher, *more):
    return [*SMALL, "--net", "pupil", "--teacher", teacher, "--epochs", 3, *more]


HINTS = ["--hints", "conv2:conv2", "--hint-epochs", "2"]


@pytest.fixture(scope="module")
def straight(teacher, tmp_path_factory):
    """Hints, then distillation, that nothing interrupted: 11 and 17 steps."""
    out = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        known(patch)
        assert command(*learning(teacher, *HINTS), "--out", out) == 0
    return out


def assembled(arguments, ops=None):
    """Net, feed and optimizer of these arguments' first stage, with its first weights."""
    args = options.train_parser(KNOWN, "").parse_args([str(a) for a in arguments])
    options.check(args, KNOWN)
    data = options.prepared(args, KNOWN, load("synthetic", None, 90, size=SHAPE, report=print))
    s, _ = options.resolve(args, KNOWN, data)[0]
    net, feed, optimizer = assemble(s, data, ops or ops_for("numpy"))
    first_weights(s, net, feed)
    return net, feed, optimizer


def test_hints_then_distillation_are_two_stages(straight, teacher):
    one, two = (runs.read_run(straight / f"stage{k}")["settings"] for k in (1, 2))
    assert (one["hints"], two["hints"]) == ("conv2:conv2", None)
    assert (one["epochs"], two["epochs"]) == (2, 3)
    assert one["teacher"] == two["teacher"] == str(teacher)
    assert (one["share_policy"], two["weights"]) == (None, "stage1")
    first, second = (whole(straight / f"stage{k}")["tensors"] for k in (1, 2))
    assert {name for name in first if not name.startswith(("optimizer", "data"))} == {
        f"{layer}.{tensor}" for layer in ("conv1", "conv2", "regressor") for tensor in "Wb"
    }
    assert "clf.W" in second and "regressor.W" not in second
    losses = [float(row["train_loss"]) for row in whole(straight / "stage1")["metrics"]]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("batches", [3, 14, 20])  # stage 1 has 11 steps
def test_a_stopped_run_goes_on_bit_for_bit(straight, teacher, tmp_path, monkeypatch, batches):
    train_batch, calls = Feed.train_batch, []

    def interrupted(self):
        if read_clock(self.net)[RATE] > 0:
            calls.append(self)
        if len(calls) == batches:
            os.kill(os.getpid(), signal.SIGTERM)
        train_batch(self)

    with monkeypatch.context() as patch:
        patch.setattr(Feed, "train_batch", interrupted)
        assert command(*learning(teacher, *HINTS), "--out", tmp_path / "run") == 143
    assert command("--resume", tmp_path / "run") == 0
    for k in (1, 2):
        assert whole(tmp_path / "run" / f"stage{k}") == whole(straight / f"stage{k}")


def test_the_share_falls_by_epoch_and_the_temperatures_reach_the_loss(
    teacher, tmp_path, monkeypatch
):
    seen, forward = [], DistillationLoss.forward

    def watched(self, x, train=True):
        if train and self.clock[RATE] > 0:
            seen.append((self.share, self.temperature, self.student_temperature))
        forward(self, x, train)

    monkeypatch.setattr(DistillationLoss, "forward", watched)
    out = tmp_path / "run"
    assert (
        command(*learning(teacher, "--temperature", 2, "--student-temperature", 1), "--out", out)
        == 0
    )
    s = runs.read_run(out)["settings"]
    shares = rates(s["share_policy"], 0, 3)
    assert list(dict.fromkeys(seen)) == [(share, 2, 1) for share in dict.fromkeys(shares)]
    assert s["stage"] == 0 and shares[0] == 4 and shares[2] < 4
    more = out, "--epochs", 4
    assert command("--resume", *more) == 0  # to another end: the share falls until then
    assert runs.read_run(out)["settings"]["share_policy"] != s["share_policy"]


def test_shares_at_named_epochs():
    """Romero et al.'s TeacherDecayOverEpoch, epochs from 0."""
    cifar, mnist = (
        rates(recipes.recipe(net, "maxout", "original").share_policy, 0, 500)
        for net in ("fitnet4-romero", "fitnet-mnist-romero")
    )
    assert cifar[[0, 1, 2, 3, 4, 287, 399, 499]] == pytest.approx(
        [4, 4, 4, 4, 3.9924, 1.8485, 1, 1], abs=5e-5
    )
    assert mnist[[0, 3, 4, 148, 149, 499]] == pytest.approx([4, 4, 4 - 4 / 146, 4 / 146, 0, 0])


@pytest.mark.parametrize(
    "student, teacher, names, hint, weights",
    [
        ("fitnet4-romero", "maxout-cifar", ("conv26", "conv2"), (7, 7, 192), 2 * 2 * 80 * 384),
        ("fitnet-mnist-romero", "maxout-mnist", ("conv4", "conv2"), (4, 4, 48), 1536),
    ],
)
def test_the_authors_pairs_of_layers(student, teacher, names, hint, weights):
    ops, shape = ops_for("numpy"), NETS[student].in_shape
    its = Teacher(beginning(build(teacher, "maxout", 10), names[1], ""), ops, shape, 1, "fp32")
    layers = guided(build(student, "maxout", 10), names[0], its.shape, pieces=2)
    net = Net(layers, HintLoss(), ops, shape, 1)
    assert its.shape == net.out_shape == hint
    params = net.named_params()
    assert params["regressor.W"].value.size == weights
    assert [name for name in params if name.endswith("W")][-2:] == [f"{names[0]}.W", "regressor.W"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_teacher_says_of_the_batch_what_it_says_alone(teacher, ops, precision):
    """Augmented, without dropout, in a buffer of float32; and it keeps no memory to go back."""
    if precision not in ops.precisions:
        pytest.skip("this device has no bfloat16")
    net, feed, _ = assembled(learning(teacher, "--precision", precision), ops)
    feed.start(read_clock(net), 3, 4, np.ones(2))
    feed.train_batch()
    alone = Net(build("tutor", "maxout", 10), SoftmaxLoss(), ops, SHAPE, 16)
    restore(alone, teacher)
    alone.x[...] = net.x.astype(np.float32)
    scores, values = alone.forward(train=False), net.targets["values"]
    assert values.dtype == np.float32 and np.ptp(scores) > 0.1
    np.testing.assert_allclose(values, scores, atol=1e-6 if precision == "fp32" else 0.05)
    its = feed.teacher.net.chain.layers
    assert all(layer.dx is None for layer in its)
    assert isinstance(net.loss, DistillationLoss) and net.loss.share == 1


def test_both_stages_on_device_cuda(straight, teacher, double, tmp_path, monkeypatch):
    """On the double, where a step is captured: near the reference's all the way."""
    monkeypatch.setattr(kernels.cuda, "missing", lambda: None)
    arguments = learning(teacher, *HINTS, "--device", "cuda")
    assert command(*arguments, "--out", tmp_path / "run") == 0
    for k in (1, 2):
        rows, want = (runs.read_metrics(run / f"stage{k}") for run in (tmp_path / "run", straight))
        for loss in ("train_loss", "test_loss"):
            found = [row[loss] for row in rows]
            assert found == pytest.approx([row[loss] for row in want], rel=1e-3)


def test_a_hint_is_scored_on_all_images_and_no_padding(teacher):
    """90 of them in batches of 16, the last one of 10; none can be right."""
    net, feed, _ = assembled(learning(teacher, *HINTS))
    found, total = score(net, feed.test), 0.0
    assert isinstance(net.loss, HintLoss) and net.out_shape == (2, 2, 6)
    for row in range(feed.test.count):
        feed.test.batch(np.array([row]))
        r, hint = net.forward(train=False)[0], net.targets["values"]
        assert np.isfinite(hint[0]).all() and np.isnan(hint[1:]).all()
        total += np.square(r - hint[0]).mean()
    assert found.loss == pytest.approx(total / feed.test.count, rel=1e-5)
    assert (found.accuracy, found.unscored, found.confusion.size) == (0, 0, 0)


def test_the_best_epoch_of_hints_is_that_of_the_least_loss(teacher, tmp_path):
    more = "--validation", 0.2, "--lr", 0.3, "--hint-epochs", 4, "--epochs", 0  # it rises again
    assert command(*learning(teacher, *HINTS, *more), "--out", tmp_path / "run") == 0
    rows = runs.read_metrics(tmp_path / "run" / "stage1")
    best = min(rows, key=lambda row: row["validation_loss"])
    assert 1 < best["epoch"] < 4
    assert checkpoint.read(tmp_path / "run" / "stage1", best=True).step == best["step"]


@pytest.mark.parametrize(
    "more, said",
    [
        (["--hints", "conv9:conv2"], "unknown layer of the student 'conv9'"),
        (["--hints", "conv2:conv9"], "unknown layer of the teacher 'conv9'"),
        (["--hints", "conv2"], "--hints conv2: give a layer of the net and one of the teacher"),
        (["--hints", "conv2:fc"], "a hint of 8 numbers: choose a convolution with --hints"),
        (["--hints", "clf:conv2"], "regressor: its input is (10,), and it wants an image"),
        (["--hints", "conv1:conv1", "--hint-epochs", "-1"], "--hint-epochs -1 must be 0 or more"),
        (["--hint-epochs", "3"], "--hint-epochs 3.0 wants --hints beside it"),
        (["--temperature", "0"], "--temperature 0 must be above 0"),
        (["--loss", "svm"], "--teacher is for --loss softmax without smoothing, not --loss svm"),
        (["--smoothing", "0.1"], "without smoothing, not --smoothing 0.1"),
        (["--contrast", "none"], "its images are not preprocessed as those of data synthetic"),
        (["--input-scale", "2"], "give both runs the same --data, --contrast"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(teacher, tmp_path, capsys, more, said):
    assert command(*learning(teacher, *more), "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_hint_that_is_larger_than_what_is_guided(tmp_path, teacher, capsys):
    back = [*SMALL, "--net", "tutor", "--teacher", teacher, "--hints", "conv2:conv1"]
    assert command(*back, "--out", tmp_path / "run") == 2
    said = "regressor: the guided layer gives (2, 2, 6), from which no kernel makes a hint of"
    assert said in capsys.readouterr().err


def test_a_teacher_is_a_run(tmp_path, teacher, capsys):
    net, *_ = assembled(learning(teacher))
    save(net, tmp_path / "net.safetensors")
    for path, said in (
        (tmp_path / "net.safetensors", "a file of weights alone; give a run's folder"),
        (tmp_path / "none", "no such run or file of weights"),
        (tmp_path, "no checkpoint to load"),
    ):
        assert command(*learning(path), "--out", tmp_path / "run") == 2
        assert said in capsys.readouterr().err
    for name in ("hints", "temperature", "student-temperature"):
        assert command("--net", "pupil", f"--{name}", 1) == 2
        assert f"--{name} 1" in capsys.readouterr().err


def test_packaged_weights_teach(monkeypatch):
    monkeypatch.undo()
    args = ["--net", "fitnet-mnist-romero", "--teacher", "fitnet_mnist-svm"]
    assert command(*args, "--data", "synthetic", "--limit", 128) == 2  # of other images
