"""Options that change what a run learns from and where it begins: validation, trained weights,
frozen layers, another end, another preprocessing.

Read next: tests/engine/test_train.py.
"""

import re
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest

import engine
import engine.evaluate
from engine.cli.command import run_command
from engine.data import load
from engine.data.dataset import held_out
from engine.data.feed import Feed, read_clock
from engine.layers import Conv, Linear, Maxout, MaxPool
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.run import checkpoint, session
from engine.run import folder as runs
from engine.run.files import write_json
from helpers.data_sets import forge_folder
from helpers.nets import tiny
from helpers.runs import SMALL, assert_same_run, command, metrics, stop_at, whole
from models import NETS, Model, recipes
from models.recipes import PAPER_CIFAR


@pytest.fixture(autouse=True)
def small_nets(monkeypatch):
    monkeypatch.setitem(NETS, "tiny", Model(tiny, (8, 8, 3)))


def run(folder, *options, epochs=3):
    assert command(*SMALL, "--epochs", epochs, "--out", folder, *options) == 0
    return folder


def data(limit=90):
    return load("synthetic", limit=limit, size=(8, 8, 3), report=lambda line: None)


def evaluated(folder, capsys, *options) -> str:
    capsys.readouterr()
    assert (
        run_command("engine.evaluate", lambda: engine.evaluate.main([str(folder), *options])) == 0
    )
    return capsys.readouterr().out


# -- validation -----------------------------------------------------------------------------------


def test_the_best_epoch_is_kept_and_the_test_set_is_seen_once(tmp_path, capsys, monkeypatch):
    """Its accuracy is that of the kept weights, on images that were never trained on."""
    scored, score = [], session.score

    def counted(net, images, *options, **named):
        scored.append(images.count)
        return score(net, images, *options, **named)

    monkeypatch.setattr(session, "score", counted)
    folder = run(tmp_path / "run", "--validation", "0.2", "--lr", "0.3", epochs=6)
    assert scored == [18] * 6 + [90]
    rows = metrics(folder)
    assert list(rows[0])[5:] == ["validation_loss", "validation_accuracy"]
    accuracies = [float(row["validation_accuracy"]) for row in rows]
    best = accuracies.index(max(accuracies)) + 1
    assert best < 6, "the last epoch is the best: choose another rate for this test"
    said = capsys.readouterr().out
    assert f"epoch {best} is the best by validation" in said and "test loss" not in said
    saved = checkpoint.read_file(folder / runs.BEST)
    assert saved.step == int(rows[best - 1]["step"])
    assert checkpoint.read_file(folder / runs.CHECKPOINT).step == int(rows[-1]["step"])
    accuracy = runs.read_run(folder)["result"]["test_accuracy"]
    model = engine.load(folder, device="numpy")
    answers = model.predict(data().test.images).argmax(axis=1)
    assert accuracy == np.mean(answers == data().test.labels)
    assert f"test accuracy {accuracy:.4f}" in evaluated(folder, capsys)
    rows_held = held_out(90, 0.2, 3)[1]
    answers = model.predict(data().train.images[rows_held]).argmax(axis=1)
    assert np.mean(answers == data().train.labels[rows_held]) == pytest.approx(max(accuracies))


def test_a_number_of_images_and_a_share_hold_out_the_same(tmp_path):
    assert_same_run(
        run(tmp_path / "share", "--validation", "0.2"),
        run(tmp_path / "number", "--validation", "18"),
    )


@pytest.mark.parametrize("step", [3, 7, 13])
def test_a_stopped_run_with_validation_goes_on_bit_for_bit(step, tmp_path, monkeypatch):
    straight = run(tmp_path / "straight", "--validation", "0.2", "--lr", "0.3")
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        stopped = tmp_path / "stopped"
        arguments = (*SMALL, "--epochs", 3, "--validation", "0.2", "--lr", "0.3")
        assert command(*arguments, "--out", stopped) == 128 + signal.SIGTERM
    assert command("--resume", stopped) == 0
    assert whole(stopped) == whole(straight)


def test_a_run_killed_before_its_best_epoch_was_kept_keeps_it(tmp_path, monkeypatch):
    straight, killed = run(tmp_path / "straight", "--validation", "0.2"), tmp_path / "killed"
    with monkeypatch.context() as patch:

        def kill(*paths):
            raise SystemExit(9)

        patch.setattr(session, "keep", kill)
        arguments = (*SMALL, "--epochs", 3, "--validation", "0.2", "--out", killed)
        assert command(*arguments) == 9
    assert not (killed / runs.BEST).exists()
    assert command("--resume", killed) == 0
    assert whole(killed) == whole(straight)


# -- another end ----------------------------------------------------------------------------------


def test_a_finished_run_goes_on_to_more_epochs(tmp_path, capsys):
    """By the schedule that a run of so many epochs has."""
    folder, longer = run(tmp_path / "run", epochs=2), run(tmp_path / "longer", epochs=4)
    before = metrics(folder)
    capsys.readouterr()
    assert command("--resume", folder, "--epochs", 4) == 0
    said = capsys.readouterr().out
    assert "epochs         4 " in said and "recipe paper over 22 steps" in said
    rows = metrics(folder)
    assert rows[:2] == before and len(rows) == 4
    assert [row["lr"] for row in rows[2:]] == [row["lr"] for row in metrics(longer)[2:]]
    assert checkpoint.read(folder).step == 22 and runs.read_run(folder)["result"]["epochs"] == 4
    assert command("--resume", folder) == 0
    assert "to train longer give --epochs with --resume" in capsys.readouterr().out


def test_a_stopped_run_is_given_another_end_and_stopped_again(tmp_path, monkeypatch):
    longer, folder = run(tmp_path / "longer", epochs=4), tmp_path / "run"
    for step, arguments in (
        (3, (*SMALL, "--epochs", 9, "--out", folder)),
        (8, ("--resume", folder, "--epochs", 4)),
    ):
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            assert command(*arguments) == 128 + signal.SIGTERM
    assert command("--resume", folder) == 0
    rows = metrics(folder)
    assert [row["lr"] for row in rows] == [row["lr"] for row in metrics(longer)]
    assert runs.read_run(folder)["result"]["epochs"] == 4


@pytest.mark.parametrize(
    "epochs, more, said",
    [
        (2, "1", "--epochs 1 ends at step 6, and the run stands at step 11; give more"),
        (1.5, "3", "--epochs 3: the run ended within epoch 2"),
        (2, "1e9", "--epochs 1e+09 is "),
        (2, "-1", "--epochs -1 must be 0 or more"),
    ],
)
def test_an_end_that_can_not_be_is_one_line(epochs, more, said, tmp_path, capsys):
    folder = run(tmp_path / "run", epochs=epochs)
    before = whole(folder)
    capsys.readouterr()
    assert command("--resume", folder, "--epochs", more) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert whole(folder) == before


# -- trained weights ------------------------------------------------------------------------------


def test_a_run_starts_from_the_weights_of_another(tmp_path, capsys):
    first = run(tmp_path / "first")
    second = run(tmp_path / "second", "--weights", first, epochs=0)
    assert "all" in capsys.readouterr().out
    a, b = (checkpoint.read(folder).tensors for folder in (first, second))
    names = [name for name in a if not name.startswith("optimizer.")]
    assert names and all(np.array_equal(a[name], b[name]) for name in names)
    file = run(tmp_path / "file", "--weights", first / runs.CHECKPOINT, epochs=0)
    c = checkpoint.read(file).tensors
    assert all(np.array_equal(b[name], c[name]) for name in b)


def test_with_other_classes_the_last_layer_is_new_and_the_rest_can_stay(tmp_path, capsys):
    first = run(tmp_path / "first", "--data", "synthetic")
    forged = tmp_path / "images"
    forge_folder(forged, size=(8, 8))
    arguments = ["--net", "tiny", "--data", forged, "--device", "numpy", "--batch", "4"]
    second = tmp_path / "second"
    options = ["--weights", first, "--freeze", "conv*", "--epochs", 2, "--lr", "0.01"]
    assert command(*arguments, *options, "--out", second) == 0
    said = capsys.readouterr().out
    assert "all but clf, which is new" in said
    a, b = (checkpoint.read(folder).tensors for folder in (first, second))
    assert a["clf.W"].shape != b["clf.W"].shape
    kept = [name for name in a if name.startswith("conv")]
    assert kept and all(np.array_equal(a[name], b[name]) for name in kept)


@pytest.mark.parametrize(
    "options, said",
    [
        (["--weights", "nowhere"], "nowhere: no such run or file of weights"),
        (["--freeze", "cnv"], "'cnv' is the name of no layer"),
        (["--freeze", "*"], "--freeze *: that is all of tiny"),
        (["--validation", "0.999"], "validation 0.999 of 90 images"),
        (["--validation", "-1"], "--validation -1 must be a share, or a number of images"),
        (["--validation", "2.5"], "--validation 2.5 must be"),
        (["--validation", "80"], "--batch 16 is more than the 10 training images"),
        (["--move", "99"], "--move 99: the border of data synthetic has"),
        (["--move", "-1"], "--move -1 must be 0 or more"),
        (["--contrast", "gnc"], "did you mean"),
        (["--smoothing", "1"], "--smoothing 1 must be in [0, 1)"),
        (["--smoothing", "0.1", "--loss", "svm"], "--smoothing 0.1 is for --loss softmax"),
    ],
)
def test_what_can_not_work_is_one_line(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(*SMALL, "--epochs", 1, "--out", "run", *options) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error
    assert not (tmp_path / "run").exists()


def test_links_are_followed_again_by_a_resume(tmp_path, capsys):
    """Of a run older than the option too: it followed none, and may be told to now."""
    root, away = forge_folder(tmp_path / "images", size=(8, 8)), tmp_path / "away.png"
    (root / "train" / "cat" / "img0.png").rename(away)
    (root / "train" / "cat" / "img0.png").symlink_to(away)
    arguments = ["--net", "tiny", "--data", root, "--device", "numpy", "--batch", 4, "--epochs", 2]
    arguments += ["--out", tmp_path / "run"]
    assert command(*arguments) == 2
    assert "give --follow-links" in capsys.readouterr().err
    assert command(*arguments, "--follow-links") == 0
    record = runs.read_run(tmp_path / "run")
    assert record["settings"]["follow_links"] is True
    more = ["--resume", tmp_path / "run", "--epochs"]
    assert command(*more, 3) == 0
    del record["settings"]["follow_links"]
    write_json(tmp_path / "run" / runs.RUN, record)
    capsys.readouterr()
    assert command(*more, 4) == 2
    assert "give --follow-links" in capsys.readouterr().err
    assert command(*more, 4, "--follow-links") == 0


# -- preprocessing, smoothing ---------------------------------------------------------------------


def test_a_preprocessing_of_ones_own_is_fitted_kept_and_used(tmp_path, capsys):
    """predict and evaluate see what training saw: pixels over 256, less their mean image."""
    folder = run(tmp_path / "run", "--contrast", "none", "--mean-image", epochs=1)
    plain = run(tmp_path / "plain", "--contrast", "none", "--no-mean-image", epochs=1)
    own = run(tmp_path / "own", epochs=1)
    marks = {runs.read_run(f)["data"]["fingerprint"] for f in (folder, plain, own)}
    assert len(marks) == 3 and data().fingerprint in marks
    mean = checkpoint.read(folder).tensors["data.mean_image"]
    images, pad = data().train.images, data().preprocessing.pad
    inside = mean[pad:-pad, pad:-pad]
    assert np.allclose(inside, images.astype(np.float64).mean(axis=0) / 256, atol=1e-6)
    assert not checkpoint.read(plain).tensors["data.mean_image"].any()
    model = engine.load(folder, device="numpy")
    accuracy = runs.read_run(folder)["result"]["test_accuracy"]
    answers = model.predict(data().test.images).argmax(axis=1)
    assert np.mean(answers == data().test.labels) == accuracy
    x = model.net.ops.tohost(model.net.x)[: len(data().test) % model.net.batch]
    wanted = data().test.images[-len(x) :] / 256.0 - inside
    assert np.allclose(x, wanted * model.preprocessing.input_scale, atol=1e-5)
    assert f"test accuracy {accuracy:.4f}" in evaluated(folder, capsys)


def test_a_run_keeps_its_whitening(tmp_path, capsys):
    """predict and evaluate see what training saw, and a run goes on with the matrix that it has."""
    folder = run(tmp_path / "run", "--contrast", "zca", epochs=2)
    saved = checkpoint.read(folder)
    whitening = saved.tensors["data.whitening"]
    assert whitening.shape == (192, 192) and runs.read_run(folder)["settings"]["contrast"] == "zca"
    accuracy = runs.read_run(folder)["result"]["test_accuracy"]
    model = engine.load(folder, device="numpy")
    answers = model.predict(data().test.images).argmax(axis=1)
    assert np.mean(answers == data().test.labels) == accuracy
    assert f"test accuracy {accuracy:.4f}" in evaluated(folder, capsys)
    assert engine.train.main(["--resume", str(folder), "--epochs", "3"]) == 0
    assert np.array_equal(checkpoint.read(folder).tensors["data.whitening"], whitening)


def test_a_momentum_by_epoch_is_followed_and_goes_on(tmp_path, monkeypatch):
    """Stopped in its second epoch a run has the same weights; a momentum that is typed stays."""
    policy = {"policy": "points", "rate": 1, "steps": [0, 2], "factors": [0.1, 0.9]}
    changing = replace(PAPER_CIFAR, epochs=3, momentum_policy=policy)
    monkeypatch.setitem(recipes.RECIPES, ("paper", "cifar"), (changing,))
    seen, step = [], engine.train.one_step

    def one_step(net, feed, optimizer, *rest, **more):
        seen.append(optimizer.momentum)
        step(net, feed, optimizer, *rest, **more)

    monkeypatch.setattr(engine.train, "one_step", one_step)
    whole = run(tmp_path / "whole", epochs=3)
    assert sorted(set(seen)) == pytest.approx([0.1, 0.5, 0.9])
    seen.clear()
    run(tmp_path / "own", "--momentum", "0.3", epochs=3)
    assert set(seen) == {0.3}
    seen.clear()
    part = run(tmp_path / "part", epochs=1)
    assert engine.train.main(["--resume", str(part), "--epochs", "3"]) == 0
    assert seen[-1] == pytest.approx(0.9)
    assert runs.read_run(part)["settings"]["momentum_policy"]["steps"] == [0, 2]
    assert runs.read_run(whole)["settings"]["momentum_policy"] == policy


def test_smoothing_is_of_the_training_loss_alone(tmp_path):
    """The test loss is the plain one, so that runs can be compared."""
    folder = run(tmp_path / "run", "--smoothing", "0.3", epochs=2)
    other = run(tmp_path / "other", epochs=2)
    assert metrics(folder)[0]["train_loss"] != metrics(other)[0]["train_loss"]
    prob = engine.load(folder, device="numpy").predict(data().test.images)
    loss = -np.log(prob[np.arange(len(prob)), data().test.labels]).mean()
    assert float(metrics(folder)[-1]["test_loss"]) == pytest.approx(loss, rel=1e-4)


def test_mirroring_by_turns_shows_an_image_and_its_mirror_image_in_turn(ops):
    """Over two epochs, wherever batches end; half of the images begin with the mirrored one."""
    net = Net([Linear(10)], SoftmaxLoss(), ops, (8, 8, 3), 16)
    feed = Feed(net, data(), 0, 1.0, mirror=2)
    seen: dict[int, list[np.ndarray]] = {}
    order = feed.order_of.images(0, 12 * 16)
    feed.start(read_clock(net), 0, 12, np.ones(13))
    for step in range(12):
        feed.train_batch()
        for index, image in zip(order[16 * step :], ops.tohost(net.x), strict=False):
            seen.setdefault(int(index), []).append(np.array(image))
        net.ops.advance(net.clock, ops.asarray(np.ones(13)))
    pairs = [images[:2] for images in seen.values() if len(images) > 1]
    assert len(pairs) == 90
    assert all(np.array_equal(first, second[:, ::-1]) for first, second in pairs)
    first = [images[0] for _, images in sorted(seen.items())]
    same = 0
    for begin in range(0, 90, 15):
        feed.train.batch(np.arange(begin, begin + 15))
        same += sum(map(np.array_equal, ops.tohost(net.x)[:15], first[begin : begin + 15]))
    assert 25 < same < 65


# -- logs for other programs ----------------------------------------------------------------------


def events(folder) -> dict[str, dict[int, float]]:
    """{tag: {step: value}} of TensorBoard's files, in their order, what is purged left out."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda p: p.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:  # length, its checksum, an event, its checksum
            size = int.from_bytes(data[:8], "little")
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            if event.HasField("session_log"):
                for tag in found.values():
                    for step in [step for step in tag if step >= event.step]:
                        del tag[step]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_tensorboard_and_caffe_read_what_metrics_say(tmp_path, monkeypatch):
    """Also of a run that was stopped: each epoch stands there once."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 8)
        arguments = (*SMALL, "--epochs", 3, "--log", "tensorboard,caffe", "--out", folder)
        assert command(*arguments) == 128 + signal.SIGTERM
    assert command("--resume", folder) == 0
    rows = runs.read_metrics(folder)
    steps = [row["step"] for row in rows]
    assert len(rows) == 3
    found = events(folder)
    for tag, name in (("train/loss",) * 2, ("test/accuracy",) * 2, ("lr", "lr")):
        values = [row[name.replace("/", "_")] for row in rows]
        assert list(found[tag]) == steps and np.allclose(list(found[tag].values()), values)
    text = (folder / "caffe.log").read_text()
    assert text.splitlines()[0].endswith("Solving") and text.count("Solving") == 1
    for line in text.splitlines():  # glog's prefix, from which the time is read
        assert re.match(r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ solver\.cpp:\d+\] ", line), line
    number = r"([\.\deE+-]+)"  # what tools/extra/parse_log.py calls a number
    assert [int(n) for n in re.findall(r"Iteration (\d+), lr", text)] == steps
    for net in ("Train", "Test"):
        for what in ("accuracy", "loss"):
            values = re.findall(rf"{net} net output #\d+: {what} = {number}", text)
            wanted = [row[f"{net.lower()}_{what}"] for row in rows]
            assert np.allclose([float(v) for v in values], wanted, rtol=1e-5)


def test_a_log_that_can_not_be_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    for log, said in (("tensorboard", "pip install 'tensorboardX>=2.6'"), ("caff", "caffe")):
        assert command(*SMALL, "--epochs", 1, "--out", "run", "--log", log) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


# -- averaged weights, batches in parts -----------------------------------------------------------


@pytest.mark.parametrize(
    "options", [("--ema", "0.9"), ("--accumulate", "3"), ("--optimizer", "adamw")]
)
@pytest.mark.parametrize("step", [4, 10])
def test_an_optimizer_with_more_memory_goes_on_bit_for_bit(options, step, tmp_path, monkeypatch):
    """Also where it was stopped between two parts of a batch."""
    straight, stopped = run(tmp_path / "straight", *options), tmp_path / "stopped"
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        arguments = (*SMALL, "--epochs", 3, *options, "--out", stopped)
        assert command(*arguments) == 128 + signal.SIGTERM
    assert command("--resume", stopped) == 0
    assert whole(stopped) == whole(straight)


def test_averaged_weights_are_scored_and_are_what_others_get(tmp_path, capsys):
    folder, plain = run(tmp_path / "run", "--ema", "0.9"), run(tmp_path / "plain")
    rows, others = metrics(folder), metrics(plain)
    assert [r["train_loss"] for r in rows] == [r["train_loss"] for r in others]
    assert [r["test_loss"] for r in rows] != [r["test_loss"] for r in others]
    saved = checkpoint.read(folder)
    average = saved.tensors["optimizer.average.clf.W"]
    assert not np.array_equal(average, saved.tensors["clf.W"])
    model = engine.load(folder, device="numpy")
    kept = checkpoint.collect(model.net)["clf.W"]
    assert np.array_equal(kept, average)
    answers = model.predict(data().test.images).argmax(axis=1)
    accuracy = np.mean(answers == data().test.labels)
    assert runs.read_run(folder)["result"]["test_accuracy"] == accuracy
    assert f"test accuracy {accuracy:.4f}" in evaluated(folder, capsys)
    second = run(tmp_path / "second", "--weights", folder, epochs=0)
    assert np.array_equal(checkpoint.read(second).tensors["clf.W"], average)


def test_parts_of_a_batch_make_the_update_of_the_whole(tmp_path, monkeypatch):
    """Up to rounding, for a net without dropout or batch norm: the same images in three parts."""

    def plain(act, classes, dropout):
        conv = Conv(4, pieces=2, name="conv1")
        return [conv, Maxout(2), MaxPool(2), Linear(classes, name="clf")]

    monkeypatch.setitem(NETS, "tiny", Model(plain, (8, 8, 3)))
    common = ("--no-mirror", "--move", 0, "--lr", 0.01, "--lsuv-batch", 15)
    for epochs, apart in ((1 / 6, 1e-7), (2, 1e-4)):  # an update, and twelve
        parts = run(
            tmp_path / f"parts{apart}", *common, "--batch", 5, "--accumulate", 3, epochs=epochs
        )
        large = run(tmp_path / f"large{apart}", *common, "--batch", 15, epochs=epochs)
        a, b = (checkpoint.read(folder).tensors for folder in (parts, large))
        assert checkpoint.read(parts).step == 3 * checkpoint.read(large).step
        assert all(np.allclose(a[name], b[name], rtol=0, atol=apart) for name in b)
