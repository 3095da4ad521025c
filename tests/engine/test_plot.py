"""Pictures of runs: what is drawn is what the runs hold, of any number and in any state.

Read next: tests/engine/test_predict.py.
"""

import shutil
import sys
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import engine
import engine.plot.__main__ as plot
from engine.cli.command import run_command
from engine.data import load, synthetic
from engine.plot import figures, page
from engine.plot.figures import Shown
from engine.run import folder as runs
from engine.run.files import write_json
from engine.scoring import score
from helpers.data_sets import forge_folder
from helpers.nets import tiny
from helpers.runs import command
from models import NETS, Model

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install -e '.[test]'")
FIRST = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module", autouse=True)
def small_nets():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETS, "tiny", Model(tiny, (8, 8, 3)))
        patch.setattr(synthetic, "TRAIN", 60)
        patch.setattr(synthetic, "TEST", 50)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs: one as it is, one with validation on a folder, a series, one that never began."""
    home = tmp_path_factory.mktemp("plot")
    options = ["--net", "tiny", "--device", "numpy", "--batch", 4, "--seed", 3, "--data"]
    forge_folder(home / "pets", size=(8, 8), count=9)
    pets = [home / "pets", "--validation", "0.3", "--init", "msra", "--epochs", 2]
    assert command(*options, "synthetic", "--epochs", 3, "--out", home / "run") == 0
    assert command(*options, *pets, "--out", home / "pets-run") == 0
    assert command(*options, "synthetic", "--epochs", 1, "--runs", 2, "--out", home / "all") == 0
    shutil.copytree(home / "run", home / "begun")
    record = runs.read_run(home / "run") | {"result": None}
    write_json(home / "begun" / runs.RUN, record)
    for name in (runs.METRICS, runs.CHECKPOINT, runs.PREVIOUS):
        (home / "begun" / name).unlink()
    return home


def arguments(**given):
    class Args:
        data, data_dir, device, threads = None, None, "numpy", None

    for name, value in given.items():
        setattr(Args, name, value)
    return Args


def drawn(draw, what):
    axes = figures.canvas(4, 3).subplots()
    draw(axes, what)
    return axes


def said(capsys, *words, code=0) -> str:
    capsys.readouterr()
    words = [*map(str, words), "--device=numpy"]
    assert run_command("engine.plot", lambda: plot.main(words)) == code
    out, error = capsys.readouterr()
    assert error.count("\n") == (code != 0)
    return error if code else out


def test_curves_are_the_rows_of_the_metrics(home):
    shown = [plot.look_at(home / name, arguments()) for name in ("run", "pets-run")]
    for what in ("loss", "accuracy"):
        lines = drawn(lambda axes, runs, what=what: figures.curves(axes, runs, what), shown).lines
        want = [(0, f"train_{what}"), (0, f"test_{what}")]
        want += [(1, f"train_{what}"), (1, f"validation_{what}")]
        assert len(lines) == 4
        for line, (number, column) in zip(lines, want, strict=True):
            rows = runs.read_metrics(home / ("run", "pets-run")[number])
            assert list(line.get_ydata()) == [row[column] for row in rows]
            assert list(line.get_xdata()) == list(range(1, 4 - number))
            assert line.get_color() == figures.colour(number)
            assert line.get_linestyle() == ("--" if "train" in column else "-")
    for what in ("lr", "images_per_second"):
        lines = drawn(lambda axes, runs, what=what: figures.curves(axes, runs, what), shown).lines
        assert [list(line.get_ydata()) for line in lines] == [
            [row[what] for row in run.rows] for run in shown
        ]


def test_only_a_run_without_rows_has_no_epoch(home):
    row = dict.fromkeys(runs.COLUMNS, 0.0)
    for rows, count in (([], 1), ([row], 0), ([{**row, "lr": float("nan")}], 0)):
        axes = drawn(lambda axes, runs: figures.curves(axes, runs, "lr"), [Shown("", "", rows)])
        assert len(axes.texts) == count


def test_names_of_ticks_are_few_and_epochs_whole():
    """A range of variances within a decade had names that overlapped, one epoch 0.96 beside it."""
    near = Shown("", "", [], variances={"one": (0.4, 1.0), "two": (3.0, 1.0)})
    axes = drawn(figures.bars, near)
    assert len(axes.get_xticklabels()) >= 3
    assert not any(label.get_text() for label in axes.get_xticklabels(minor=True))
    rows = [{"epoch": 1.0, "lr": 0.1}]
    axes = drawn(lambda axes, runs: figures.curves(axes, runs, "lr"), [Shown("", "", rows)])
    assert all(place == int(place) for place in axes.get_xticks())


def test_bars_are_the_initialisers_report(home):
    shown = plot.look_at(home / "run", arguments())
    rows = runs.read_json(home / "run" / runs.INIT)["rows"]
    names = list(dict.fromkeys(row["layer"] for row in rows))
    assert list(shown.variances) == names and any(row["pieces"] == 2 for row in rows)
    axes = drawn(figures.bars, shown)
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    for bars, column in zip(axes.containers, ("variance_before", "variance_after"), strict=True):
        want = [np.mean([r[column] for r in rows if r["layer"] == name]) for name in names]
        np.testing.assert_allclose([bar.get_width() for bar in bars], want, rtol=1e-12)
    assert axes.get_xscale() == "log"


def test_the_table_is_that_of_evaluation_and_the_worst_are_the_worst(home):
    shown = plot.look_at(home / "run", arguments())
    model = engine.load(home / "run", device="numpy")
    data = load("synthetic", size=(8, 8, 3))
    resident = plot.engine.data.feed.Resident(model.net, data.test, model.preprocessing)
    assert (shown.confusion == score(model.net, resident).confusion).all()
    shade = drawn(figures.table, shown).images[0].get_array()
    np.testing.assert_allclose(shade, shown.confusion / 5, rtol=1e-12)  # 50 images of 10 classes
    chances = model.predict(data.test.images)
    own = chances[np.arange(50), data.test.labels]
    own[chances.argmax(axis=1) == data.test.labels] = 2
    order = np.argsort(own, kind="stable")[:25]
    assert len(shown.worst) == min(25, int((own < 2).sum())) > 9
    for k, one in zip(order, shown.worst, strict=False):
        assert (one.image == data.test.images[k]).all()
        assert one.label == data.classes[data.test.labels[k]] != one.answer
        assert one.answer == data.classes[chances[k].argmax()] and one.chance == chances[k].max()


class Page(HTMLParser):
    """What a page shows, and where its parts come from."""

    def __init__(self, text: str):
        super().__init__()
        self.sources, self.text, self.tags = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("names", [["run"], ["pets-run"], ["all"], ["run", "pets-run", "all"]])
def test_the_files_hold_all_and_need_no_network(home, names, tmp_path, capsys):
    out = tmp_path / "both.html"
    said(capsys, *(home / name for name in names), "--out", out)
    content = (tmp_path / "both.png").read_bytes()
    assert content.startswith(FIRST) and Image.open(BytesIO(content)).width == 1600
    text = out.read_text()
    shown = Page(text)
    assert all(source.startswith("data:image/") for source in shown.sources)
    assert "script" not in shown.tags and "link" not in shown.tags and "http" not in shown.text
    count = sum({"all": 2}.get(name, 1) for name in names)
    assert f"{count} run" in shown.text
    drawings = [source for source in shown.sources if "svg" in source]
    assert len(drawings) == 4 + 2 * count
    assert ("worst test images" in shown.text) and 'name="viewport"' in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.html", "both.png"]


def test_by_itself_a_run_has_its_pictures_in_its_folder(home, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"wrote {home / 'run' / 'plot.png'}" in said(capsys, home / "run")
    assert (home / "run" / "plot.html").exists() and not list(tmp_path.iterdir())
    assert "wrote plot.html" in said(capsys, home / "run", home / "all")


def test_what_is_missing_is_said(home, capsys, tmp_path):
    """A run that has no epoch and no checkpoint yet, and one whose images are gone."""
    shown = plot.look_at(home / "begun", arguments())
    assert shown.state == "not finished: 0 of 3 epochs are over"
    assert shown.confusion is None and not shown.rows and shown.variances
    assert any("no test images: " in note and "no checkpoint" in note for note in shown.notes)
    (home / "pets").rename(home / "moved")
    try:
        shown = plot.look_at(home / "pets-run", arguments())
        assert shown.confusion is None and not shown.worst
        assert any("give their new place with --data FOLDER" in note for note in shown.notes)
        found = plot.look_at(home / "pets-run", arguments(data=str(home / "moved")))
        assert found.confusion.sum() == 4 and not found.notes
        other = plot.look_at(home / "pets-run", arguments(data="synthetic"))
        assert "began on data pets/" in other.notes[0] and other.confusion is None
        out = tmp_path / "x.html"
        said(capsys, home / "begun", home / "pets-run", "--out", out)
        assert "no epoch is over" not in Page(out.read_text()).text  # the other has some
        assert "there is no such folder" in Page(out.read_text()).text
    finally:
        (home / "moved").rename(home / "pets")


def test_words_that_other_programs_would_read(tmp_path):
    """HTML, a formula of matplotlib, letters that its font lacks, many classes and layers."""
    nasty = "<script>alert(1)</script> $x^{2$ 猫"
    count = 45
    run = Shown(
        name=nasty,
        title=nasty,
        rows=[],
        state="not finished",
        variances={f"{nasty}{k}": (10.0**-k, float(k == 3)) for k in range(300)},
        classes=[f"{nasty}{k}" for k in range(count)],
        confusion=np.eye(count, dtype=np.int64),
        worst=[figures.Worst(np.zeros((300, 200, 1), np.uint8), nasty, nasty, 0.5)],
        notes=[nasty],
    )
    text = page.html([run, run])
    assert "<script" not in text and "&lt;script&gt;" in text
    assert Page(text).tags.count("img") == 4 + 2 * 3
    assert figures.png([run]).startswith(FIRST)


@pytest.mark.parametrize(
    "words, code, why",
    [
        (["nowhere"], 2, "nowhere: not a run folder"),
        (["run"] * 11, 2, "11 runs, and a picture has colours for 10; give fewer"),
        (["run", "--out", "x.png"], 2, "--out x.png: give the name of a file that ends in .html"),
        (["run", "--out", "no/x.html"], 2, "--out no/x.html: give the name"),
        (["run", "--data", "auto"], 2, "--data auto: the run has its data"),
    ],
)
def test_what_can_not_be_drawn_is_one_line(home, words, code, why, capsys, monkeypatch):
    monkeypatch.chdir(home)
    assert why in said(capsys, *words, code=code)


def test_without_matplotlib_the_remedy_is_named(home, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    error = said(capsys, home / "run", code=2)
    assert "engine.plot needs matplotlib" in error and "pip install 'matplotlib>=3.8'" in error
