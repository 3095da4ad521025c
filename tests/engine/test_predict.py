"""A trained net asked about pictures that are not its own data: one by one, and labelled ones.

Read next: tests/engine/test_export.py.
"""

import json

import numpy as np
import pytest
from PIL import Image

import engine
import engine.evaluate
import engine.predict
from engine.cli.command import run_command
from engine.data import synthetic
from engine.data.dataset import Split
from engine.data.feed import Resident
from engine.data.pictures import read_picture
from engine.layers import Conv, FractionalMaxPool, Linear, ReLU
from engine.run import checkpoint
from engine.run import folder as runs
from helpers.data_sets import forge_folder
from helpers.nets import tiny
from helpers.runs import command
from models import NETS, Model

CLASSES = ("ant", "bee", "cat")


def drawing(act, classes, dropout=True):
    return [Conv(4), ReLU(), FractionalMaxPool(6), Conv(8), FractionalMaxPool(4), Linear(classes)]


@pytest.fixture(scope="module", autouse=True)
def small_nets():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETS, "tiny", Model(tiny, (8, 8, 3)))
        patch.setitem(NETS, "drawing", Model(drawing, (8, 8, 3)))
        patch.setattr(synthetic, "TRAIN", 60)
        patch.setattr(synthetic, "TEST", 30)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs, the folder that one of them was trained on, and other folders."""
    home = tmp_path_factory.mktemp("predict")
    forge_folder(home / "pets", classes=CLASSES, count=8, size=(8, 8))
    forge_folder(home / "others", classes=("cat", "ant"), count=2, size=(9, 11), test=7)
    options = ["--net", "tiny", "--device", "numpy", "--batch", "4", "--epochs", 2, "--seed", 3]
    for name, data in (("run", home / "pets"), ("made-up", "synthetic")):
        more = ["--validation", "0.3"] if name == "run" else []
        assert command(*options, "--data", data, "--out", home / name, *more) == 0
    return home


def said(module, capsys, *arguments, code=0) -> str:
    capsys.readouterr()
    name = module.__name__
    assert run_command(name, lambda: module.main([*map(str, arguments), "--device=numpy"])) == code
    out, error = capsys.readouterr()
    assert error.count("\n") == (code != 0)
    return error if code else out


def pixels(*paths) -> np.ndarray:
    return np.stack([read_picture(path, 8, 8, 3).pixels for path in paths])


# -- labelled pictures ----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["train and test", "test", "classes"])
def test_other_labelled_pictures_are_scored_by_the_names_of_their_classes(home, layout, capsys):
    """As `predict` answers them: so with the run's own mean image, contrast and best weights."""
    place = home / "others"
    if layout == "classes":
        place = place / "test"
    if layout == "test":
        (place / "train").rename(home / "aside")
    try:
        out = said(engine.evaluate, capsys, home / "run", "--data", place)
    finally:
        if layout == "test":
            (home / "aside").rename(place / "train")
    model, right = engine.load(home / "run", device="numpy"), {}
    for name in ("ant", "cat"):
        images = pixels(*sorted((home / "others" / "test" / name).iterdir()))
        right[name] = int((model.predict(images).argmax(axis=1) == CLASSES.index(name)).sum())
        assert f"{name}     {right[name] / 7:.4f}  of 7" in out
    assert 0 < sum(right.values()) < 14, "all or none is right: choose another seed for this test"
    assert f"test accuracy {sum(right.values()) / 14:.4f}" in out
    assert "bee     no images  of 0" in out and "note: no images of 1 class ('bee')" in out
    assert f"note: data {place.name}/: 14 images, those of test/" in out
    assert "14 of 14 images resized to 8x8" in out
    assert f"data {place.name}/, which is other data than the run's own, pets/" in out


def test_the_runs_own_folder_is_known_wherever_it_lies(home, capsys):
    accuracy = runs.read_run(home / "run")["result"]["test_accuracy"]
    for place in ("pets", "moved"):
        (home / "pets").rename(home / place)
        try:
            out = said(engine.evaluate, capsys, home / "run", "--data", home / place)
        finally:
            (home / place).rename(home / "pets")
        assert f"test accuracy {accuracy:.4f}" in out and out.endswith(f"  data {place}/\n")


def test_data_of_a_run_that_goes_on_are_still_its_own(home, capsys):
    assert command("--resume", home / "run", "--epochs", 3, "--data", home / "others") == 2
    assert "this run began on data pets/ (fingerprint" in capsys.readouterr().err


def test_sets_of_ours_and_folders_are_scored_where_the_classes_agree(home, capsys, tmp_path):
    for run, data in (("run", "synthetic"), ("made-up", home / "pets")):
        error = said(engine.evaluate, capsys, home / run, "--data", data, code=2)
        assert "classes that the run does not know ('" in error and "; it knows '" in error
    names = engine.load(home / "made-up", device="numpy").classes
    forge_folder(tmp_path / "mine", classes=names[3:5], size=(8, 8))
    out = said(engine.evaluate, capsys, home / "made-up", "--data", tmp_path / "mine")
    assert "data mine/, which is other data than the run's own, synthetic" in out
    forge_folder(tmp_path / "all", classes=names, size=(8, 8))
    options = ["--net", "tiny", "--device", "numpy", "--batch", "4", "--epochs", 1]
    assert command(*options, "--data", tmp_path / "all", "--out", tmp_path / "run") == 0
    out = said(engine.evaluate, capsys, tmp_path / "run", "--data", "synthetic")
    assert "other data than the run's own, all/" in out
    for name in names:  # 30 images, 3 of each class
        assert out.split(f"\n{name} ")[-1].split("\n")[0].endswith("  of 3")


@pytest.mark.parametrize("what", ["nowhere", "empty", "no images", "damaged"])
def test_what_can_not_be_scored_is_one_line(home, what, capsys, tmp_path):
    place = tmp_path / "images"
    if what != "nowhere":
        place.mkdir()
    if what in ("no images", "damaged"):
        (place / "ant").mkdir()
    if what == "damaged":
        (place / "ant" / "img0.png").write_text("no picture")
    error = said(engine.evaluate, capsys, home / "run", "--data", place, code=2)
    assert (
        str(place) in error
        and {
            "nowhere": "no folder of that name",
            "empty": "no class folders; expected train/CLASS/*.png",
            "no images": "no images; expected",
            "damaged": "ant/img0.png: not a readable image",
        }[what]
        in error
    )


# -- pictures one by one --------------------------------------------------------------------------


def test_pictures_are_answered_as_predict_answers(home, capsys):
    """More than a batch of them; JSON has every digit, and the blocks the same rounded."""
    paths = sorted((home / "others" / "test" / "cat").iterdir())
    want = engine.load(home / "run", device="numpy").predict(pixels(*paths))
    found = json.loads(said(engine.predict, capsys, home / "run", *paths, "--json"))
    assert [one["picture"] for one in found] == list(map(str, paths)) and len(paths) == 7
    for one, row in zip(found, want, strict=True):
        order = [CLASSES.index(each["class"]) for each in one["likeliest"]]
        assert order == np.argsort(-row).tolist()
        np.testing.assert_allclose(
            [each["probability"] for each in one["likeliest"]], row[order], rtol=1e-6
        )
    lines = said(engine.predict, capsys, home / "run", *paths).splitlines()
    assert lines[::4] == list(map(str, paths))
    best = found[0]["likeliest"][0]
    assert lines[1] == f"  {best['probability']:.4f}  {best['class']}"


def test_five_of_many_classes_are_told(home, capsys):
    path = home / "pets" / "train" / "ant" / "img0.png"
    (one,) = json.loads(said(engine.predict, capsys, home / "made-up", path, "--json"))
    chances = [each["probability"] for each in one["likeliest"]]
    assert len(chances) == 5 and chances == sorted(chances, reverse=True)


@pytest.mark.parametrize(
    "picture, why",
    [("nowhere.png", "No such file"), ("pets", "not a readable image"), ("text", "none of PNG")],
)
def test_what_is_no_picture_is_named(home, picture, why, capsys):
    (home / "text").write_text("no picture")
    error = said(engine.predict, capsys, home / "run", home / picture, code=2)
    assert str(home / picture) in error and why in error


def test_scores_that_are_not_finite_are_no_answer(home, capsys, monkeypatch):
    read = checkpoint.read

    def spoilt(*arguments, **options):
        saved = read(*arguments, **options)
        saved.tensors["clf.b"][1] = np.nan
        return saved

    monkeypatch.setattr(engine.predict.checkpoint, "read", spoilt)
    path = home / "picture.png"
    Image.new("RGB", (8, 8), "red").save(path)
    assert "the net's scores are not finite" in said(
        engine.predict, capsys, home / "run", path, code=1
    )


# -- several passes -------------------------------------------------------------------------------


def test_passes_of_a_net_that_draws(home, capsys):
    """Trained with three, a run ends, and is evaluated and predicts, by the mean of three; one is
    the first of them."""
    options = ["--net", "drawing", "--data", "synthetic", "--device", "numpy", "--batch", 20]
    capsys.readouterr()
    assert command(*options, "--epochs", 4, "--lr", 0.05, "--passes", 3, "--out", home / "fmp") == 0
    told = capsys.readouterr().out.splitlines()
    result = runs.read_run(home / "fmp")["result"]
    first, last = result["first_pass_accuracy"], result["test_accuracy"]
    line = f"test accuracy after 1 pass {first:.4f}, after 3 {last:.4f}"
    assert told[-2] == line and told[-1].startswith(f"test accuracy {last:.4f}")
    assert line in said(engine.evaluate, capsys, home / "fmp")
    once = said(engine.evaluate, capsys, home / "fmp", "--passes", 1)
    assert "after 1 pass" not in once and f"test accuracy {first:.4f}" in once

    model, images = engine.load(home / "fmp", "numpy"), synthetic.make((8, 8)).test_images[:30]
    one, three = model.predict(images, 1), model.predict(images)
    assert np.array_equal(one, model.predict(images, 1)) and not np.array_equal(one, three)
    net, found, how = model.net, [], model.preprocessing
    resident = Resident(net, Split(images, np.zeros(30), *how.normalise(images)), how)
    for number in range(3):
        for batch in range(2):
            resident.batch(np.arange(30)[20 * batch :][:20], 2 * number + batch)
            score = net.forward(train=False)[: 30 - 20 * batch].astype(float)
            exp = np.exp(score - score.max(axis=1, keepdims=True))
            found.append(exp / exp.sum(axis=1, keepdims=True))
    found = [np.concatenate(found[2 * k : 2 * k + 2]) for k in range(3)]
    np.testing.assert_allclose(one, found[0], atol=1e-6)
    np.testing.assert_allclose(three, np.mean(found, axis=0), atol=1e-6)


def test_passes_of_a_net_whose_passes_are_alike_are_refused(home, capsys):
    alike = "passes 2: nothing in this net draws outside training"
    assert alike in said(engine.evaluate, capsys, home / "made-up", "--passes", 2, code=2)
    picture = next((home / "pets" / "test").rglob("*.png"))
    assert alike in said(engine.predict, capsys, home / "run", picture, "--passes", 2, code=2)
    options = ["--net", "tiny", "--data", "synthetic", "--batch", 4, "--out", home / "no"]
    assert command(*options, "--passes", 2) == 2
    assert alike in capsys.readouterr().err
    assert "--passes 0 must be" in said(
        engine.evaluate, capsys, home / "run", "--passes", 0, code=2
    )
