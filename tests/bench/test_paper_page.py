"""The report page says what the rows say, no more, in HTML and in Markdown; plots keep their data.

Read next: bench/paper/page/__init__.py.
"""

import csv
import itertools
import json
import re
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest
from PIL import Image

from bench.paper import page
from bench.paper.page import html, plots
from bench.paper.page.figure import Figure, Series
from bench.paper.rows import VERDICTS, number
from engine.errors import InputError

HOSTILE = "<script>alert('x')</script> | a `b` *c* \"d\" & [e](https://example.org)\n# f"
ROW = {
    "table": "table3",
    "row": "LSUV",
    "column": "maxout",
    "paper": 93.94,
    "ours": 93.8712,
    "spread": 0.1234,
    "unit": "%",
    "epochs": 230.4,
    "verdict": "ok",
    "seeds": [93.784, 93.958],
    "of_epochs": 230.4,
    "settings": "paper recipe",
    "rerun": "python -m bench.paper table3",
    "date": "2026-01-02",
    "machine": "a machine",
    "note": "",
}


def row(**changes) -> dict:
    return {**ROW, **changes}


ROWS = [
    row(),
    row(column="relu", paper=92.11, ours=91.5, verdict="off", note="a note of its own"),
    row(column="vlrelu", paper=92.97, ours=41.25, verdict="cut short", epochs=3, spread=None),
    row(column="tanh", paper=89.28, ours=85.5, verdict="other recipe", epochs=20, of_epochs=20),
    row(
        column="sigmoid",
        paper="n/c",
        ours="n/c",
        spread=None,
        epochs=3,
        verdict="convergence agrees",
        seeds=["n/c"],
    ),
    row(row="MSRA", paper="n/c", ours=90.5, verdict="convergence differs"),
    row(
        row="MSRA",
        column="relu",
        paper=90.91,
        ours=None,
        spread=None,
        epochs=None,
        seeds=[],
        verdict="not run",
        date="",
        machine="",
    ),
    row(row="MSRA", column="tanh", paper=None, ours=88.5, verdict="no value"),
    row(
        table="table8",
        row="conv15",
        column="MSRA",
        paper=0.060,
        ours=0.06804,
        spread=1.2e-6,
        unit="std",
        verdict="typo",
        epochs=None,
        of_epochs=None,
    ),
    row(
        table="table10",
        row="conv11",
        column="LSUV",
        paper=4.87e-10,
        ours=5.18e-10,
        spread=3e-11,
        unit="variance",
        epochs=None,
        of_epochs=None,
    ),
    row(
        table="table10",
        row="ip1/conv11",
        column="LSUV",
        paper=12198922,
        ours=11876543.2,
        spread=54321.0,
        unit="ratio",
        epochs=None,
        of_epochs=None,
    ),
    row(
        table="table6",
        row="CaffeNet",
        column="LSUV",
        paper=210,
        ours=9.7,
        spread=None,
        unit="s",
        epochs=None,
        of_epochs=None,
    ),
]
# What each of ROWS is to look like: ours, the paper's, how far it was trained.
TEXTS = [
    ("93.87 ± 0.12", "93.94", ""),
    ("91.50 ± 0.12", "92.11", ""),
    ("41.25", "92.97", "3 of 230.4 epochs"),
    ("85.50 ± 0.12", "89.28", "20 epochs"),
    ("n/c", "n/c", "3 of 230.4 epochs"),
    ("90.50 ± 0.12", "n/c", ""),
    ("–", "90.91", ""),
    ("88.50 ± 0.12", "–", ""),
    ("0.0680 ± 1e-06", "0.060", ""),
    ("5.18e-10 ± 3.0e-11", "4.87e-10", ""),
    ("11,876,543 ± 54,321", "12,198,922", ""),
    ("9.70", "210", ""),
]
FACTS = {
    "machine": "a machine",
    "date": "2026-01-02",
    "versions": {"numpy": "2.0"},
    "commands": ["python -m bench.paper all"],
}


class Reader(HTMLParser):
    """Checks that tags are closed in order; collects the text of the cells behind the summary's,
    addresses and ids."""

    VOID = {"meta", "img", "br"}

    def __init__(self, text: str):
        super().__init__()
        self.open, self.cells, self.addresses, self.ids, self.tags = [], [], [], [], Counter()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags[tag] += 1
        self.addresses += [named[name] for name in ("href", "src") if name in named]
        self.ids += [named["id"]] if "id" in named else []
        if tag == "th":
            assert named["scope"] in ("row", "col")
        in_cell = any(cell for _, cell in self.open)
        if tag == "br" and in_cell:
            self.cells[-1] += " "
        if tag == "td" and named == {} and self.tags["table"] > 1:
            in_cell = True
            self.cells.append("")
        if tag not in self.VOID:
            self.open.append((tag, in_cell))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if any(is_cell for _, is_cell in self.open):
            self.cells[-1] += data


def curve(**changes) -> Figure:
    return Figure(
        **{
            "name": "figure2",
            "title": "curves",
            "x_label": "epoch",
            "y_label": "test accuracy, %",
            **changes,
            "series": changes.get("series", [Series("LSUV", [1.0, 2.0], [50.5, 60.25])]),
        }
    )


def written(folder, rows=ROWS, figures=(), facts=FACTS) -> tuple[str, str]:
    if figures:
        pytest.importorskip("matplotlib")
    for figure in figures:
        plots.draw(figure, folder)
    web, markdown = page.write(list(rows), list(figures), folder, facts)
    return web.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")


def markdown_tables(text: str) -> list[list[list[str]]]:
    """The tables as lines of cells; a bar behind a backslash ends none."""
    groups = itertools.groupby(text.split("\n"), key=lambda line: line.startswith("|"))
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in lines] for bar, lines in groups if bar]


def markdown_places(text: str) -> dict[tuple[str, str], str]:
    """(row, column without its unit) -> text, of all the tables but the summary."""
    return {
        (line[0].strip(), head.split(" (")[0].strip()): cell.strip()
        for first, _, *lines in markdown_tables(text)[1:]
        for line in lines
        for head, cell in zip(first[1:], line[1:], strict=True)
    }


def test_every_row_stands_in_both_pages_with_its_numbers_and_verdict(tmp_path):
    web, markdown = written(tmp_path)
    boxes = [text for cell in Reader(web).cells if (text := " ".join(cell.split()))]
    places = markdown_places(markdown)
    assert len(boxes) == len(ROWS)
    for found, (ours, paper, trained) in zip(ROWS, TEXTS, strict=True):
        place = places[found["row"], found["column"]]
        assert f"paper {paper} " in place and place.endswith(found["verdict"])
        assert re.match(rf"(\*\*)?{re.escape(ours)}\b|–", place)
        assert (f"after {trained}" in place) == bool(trained) == ("after" in place)
        # The one box that begins with the number and ends with the verdict.
        (box,) = [
            b
            for b in boxes
            if b.startswith(ours) and b.endswith(found["verdict"]) and f"paper {paper} " in b
        ]
        assert (f"after {trained}" in box) == bool(trained) == ("after" in box)
    for seed in (
        "93.78; 93.96",
        "a note of its own",
        "2026-01-02",
        "a machine",
        "paper recipe",
        "python -m bench.paper table3",
    ):
        assert seed in web and seed in markdown


def test_the_tables_of_markdown_have_equal_columns(tmp_path):
    for rows in (ROWS, [row(row=HOSTILE, column=HOSTILE, ours=HOSTILE, spread=None)]):
        tables = markdown_tables(written(tmp_path, rows)[1])
        assert len(tables) == 1 + len({r["table"] for r in rows})
        for lines in tables:
            assert len({len(line) for line in lines}) == 1 and len(lines) > 2


def test_hostile_text_stays_text(tmp_path):
    rows = [
        row(
            **{
                key: HOSTILE
                for key in (
                    "table",
                    "row",
                    "column",
                    "paper",
                    "ours",
                    "unit",
                    "settings",
                    "rerun",
                    "date",
                    "machine",
                    "note",
                )
            },
            spread=None,
            seeds=[HOSTILE, HOSTILE],
        ),
        row(**{key: "other" for key in ("settings", "rerun", "date", "machine")}),
    ]
    figure = curve(
        title=HOSTILE,
        caption=HOSTILE,
        x_label=HOSTILE,
        series=[Series(HOSTILE.replace("\n", " "), [1], [2])],
    )
    web, markdown = written(
        tmp_path, rows, [figure], {HOSTILE: HOSTILE, "list": [HOSTILE], "dict": {HOSTILE: HOSTILE}}
    )
    clean, _ = written(
        tmp_path,
        [{**r, **{k: f"plain {k}" for k, v in r.items() if v == HOSTILE}} for r in rows],
        [curve(caption="plain")],
        {"a": "b", "list": ["b"], "dict": {"a": "b"}},
    )
    assert Reader(web).tags == Counter(Reader(clean).tags)
    assert not any("://" in address for address in Reader(web).addresses)
    outside = re.sub(r"(?s)(`+)(?!`).*?(?<!`)\1(?!`)", "", markdown)  # code spans are verbatim
    assert "<script" not in outside
    assert not re.search(r"(?<!\\)\](?=\(http)", outside) and not re.search(r"(?m)^# f", markdown)


def test_the_page_is_well_formed_and_refers_to_nothing_outside_itself(tmp_path):
    web, markdown = written(tmp_path, figures=[curve(), curve(name="figure2-other")])
    reader = Reader(web)
    assert len(set(reader.ids)) == len(reader.ids)
    links = [address for address in reader.addresses if not address.startswith("data:image/png;")]
    assert len(reader.addresses) - len(links) == 2
    assert links and all(link[0] == "#" and link[1:] in reader.ids for link in links)
    assert not re.search(r"https?:|url\(|@import|<script|<link", web)
    for link in re.findall(r"\]\(([^)]*)\)", markdown):
        assert f'id="{link[1:]}"' in markdown if link[0] == "#" else (tmp_path / link).is_file()


def test_a_run_that_ended_early_is_never_judged_and_says_how_far_it_came(tmp_path):
    for verdict in ("ok", "off", "cut short"):
        web, markdown = written(tmp_path, [row(verdict=verdict, epochs=3)])
        (box,) = Reader(web).cells
        for place in (box, markdown_places(markdown)["LSUV", "maxout"]):
            assert "after 3 of 230.4 epochs" in place and "cut short" in place
            assert "✓" not in place and "✗" not in place and "**" not in place
        assert "<strong>93.87" not in web
        assert "1 cell: 1 cut short." in web and "3 of 230.4 epochs: every cell" in web
    web, _ = written(tmp_path, [row()])
    assert "<strong>93.87 ± 0.12</strong>" in web and "1 cell: 1 ok." in web


def test_the_summary_counts_every_verdict(tmp_path):
    summary = markdown_tables(written(tmp_path)[1])[0]
    heads = [head.strip().split(" ", 1)[-1] for head in summary[0]]
    total = [int(cell) for cell in summary[-1][1:]]
    counts = Counter(r["verdict"] for r in ROWS)
    assert dict(zip(heads[2:], total[1:], strict=True)) == counts
    assert total[0] == len(ROWS) == sum(total[1:])
    assert sum(int(line[1]) for line in summary[2:-1]) == len(ROWS)


def test_rows_that_share_no_columns_get_a_table_of_their_own():
    rows = [
        row(row=net, column=column)
        for net in ("a", "b", "c")
        for column in ("CIFAR-10", "CIFAR-100")
    ]
    rows += [row(row=net, column="MNIST") for net in ("c", "d", "e", "f")]
    (made,) = page.sections(rows, [], {})
    assert [(b.rows, b.columns) for b in made.blocks] == [
        (["a", "b", "c"], ["CIFAR-10", "CIFAR-100"]),
        (["c", "d", "e", "f"], ["MNIST"]),
    ]
    (made,) = page.sections([row(row=f"claim {n}", column=f"what {n}") for n in range(3)], [], {})
    assert [b.rows for b in made.blocks] == [
        ["claim 0, what 0", "claim 1, what 1", "claim 2, what 2"]
    ]


def test_a_unit_is_said_once(tmp_path):
    rows = [
        row(unit="s", column="loss", row="a"),
        row(unit="s", column="loss", row="b"),
        row(unit="ratio", column="loss", row="c", ours=2.5, spread=None),
        row(unit="other", column="loss", row="d", ours="n/c", spread=None),
        row(unit="%", column="CIFAR-10, %", row="a"),
        row(unit="%", column="n %", row="a"),
    ]
    (made,) = page.sections(rows, [], {})
    (block,) = made.blocks
    assert block.units == {"loss": "s", "CIFAR-10, %": "", "n %": ""}
    assert [block.unit(cell) for cell in made.cells] == ["", "", "ratio", "", "", ""]


def test_two_rows_of_one_cell_both_stand(tmp_path):
    web, markdown = written(tmp_path, [row(), row(ours=86.5, verdict="other recipe", epochs=20)])
    place = markdown_places(markdown)["LSUV", "maxout"]
    (box,) = Reader(web).cells
    assert all("93.87" in text and "86.50" in text for text in (box, place))


def test_a_bound_of_the_facts_takes_the_place_of_the_pages_own(tmp_path):
    web, markdown = written(tmp_path, facts={"bounds": {"table3": "half a point"}})
    assert "half a point" in web and "half a point" in markdown and "Bounds" not in web
    assert page.TABLES["table9"][2] not in web  # there is no row of it


@pytest.mark.parametrize(
    "value,unit,text",
    [
        (0.03921, "std", "0.0392"),
        (0.38312, "std", "0.3831"),
        (1.234e-10, "variance", "1.23e-10"),
        (93.5, "%", "93.50"),
        (0.45678, "% error", "0.46"),
        (188.26, "s", "188"),
        (0.8, "s", "0.800"),
        (1234.5, "s", "1,234"),
        (254.63, "ratio", "254.6"),
        (0.0, "", "0"),
        (-2.5, "", "-2.5"),
        (float("nan"), "%", "not finite"),
        (None, "%", "–"),
        ("n/c", "%", "n/c"),
        (3, "", "3"),
    ],
)
def test_a_number_has_the_digits_that_its_unit_deserves(value, unit, text):
    assert number(value, unit) == text


def test_bad_rows_are_named_in_one_line(tmp_path):
    for rows, figures, word in (
        ([row(verdict="okay")], [], "okay"),
        ([{k: v for k, v in ROW.items() if k != "unit"}], [], "unit"),
        ([], [curve(name="missing")], "missing.png"),
    ):
        with pytest.raises(InputError, match=word) as failure:
            page.write(rows, figures, tmp_path, {})
        assert "\n" not in str(failure.value)


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.1)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1])
def test_text_stands_out_from_every_ground(theme):
    themes = re.findall(r":root \{(.*?)\}", html.STYLE.read_text(), re.S)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", themes[theme]))
    pairs = [(ink, ground) for ink in ("text", "quiet", "link") for ground in ("ground", "head")]
    pairs += [(name, f"{name}-ground") for name in (v.replace(" ", "-") for v in VERDICTS)]
    assert len(themes) == 2 and {name for pair in pairs for name in pair} | {"line"} == set(colours)
    for ink, ground in ((colours[ink], colours[ground]) for ink, ground in pairs):
        high, low = sorted((luminance(ink), luminance(ground)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


FIGURES = {
    "panels": curve(
        series=[
            Series(label, [1.0, 2.0, 3.5], [0.1 * n, 1 / 3, 1e-12], panel)
            for panel in ("ReLU", "tanh", "maxout", "VLReLU")
            for n, label in enumerate(("a, b", 'c "d"', "e"))
        ],
        log_x=True,
        log_y=True,
        band=(1e-3, 1e-2, "good"),
    ),
    "one point": curve(series=[Series("LSUV", [1], [63.5])]),
    "a label like mathematics": curve(
        title="$x^$",
        y_label="$",
        series=[Series("$_{", [1, 2], [3, 4], "$a$ _")],
        band=(3, 4, "$^"),
    ),
    "an empty series": curve(series=[Series("not run", [], []), Series("LSUV", [1, 2], [3, 4])]),
    "a broken run": curve(series=[Series("MSRA", [1, 2], [2.3, float("nan")])]),
    "long": curve(
        series=[
            Series(
                f"scale {n}",
                list(range(3000)),
                [n + (i * 7919 % 101) / 101 for i in range(3000)],
                panel,
            )
            for n in range(5)
            for panel in "abcd"
        ]
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_and_its_points_read_back(name, tmp_path):
    pytest.importorskip("matplotlib")
    figure = FIGURES[name]
    table, picture = plots.draw(figure, tmp_path)
    with table.open(newline="", encoding="utf-8") as file:
        head, *lines = csv.reader(file)
    assert head == ["panel", "series", figure.x_label, figure.y_label]
    wanted = [
        (s.panel, s.label, x, y) for s in figure.series for x, y in zip(s.x, s.y, strict=True)
    ]
    assert [(p, s, float(x), repr(float(y))) for p, s, x, y in lines] == [
        (p, s, x, repr(float(y))) for p, s, x, y in wanted
    ]
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG" and drawn.width <= 1400
    assert picture.stat().st_size < 200_000


def test_a_lone_point_leaves_ink():
    pytest.importorskip("matplotlib")
    canvas = plots.paint(FIGURES["one point"])
    (line,) = canvas.axes[0].lines
    assert line.get_marker() not in ("", "None", None) and line.get_markersize() > 5


def test_lines_differ_without_colour_and_are_the_same_in_every_panel():
    styles = [plots.style(n, 9) for n in range(35)]
    assert len({(str(s["linestyle"]), s["marker"]) for s in styles}) == 35
    pytest.importorskip("matplotlib")
    canvas = plots.paint(FIGURES["panels"])
    for lines in zip(*(axes.lines for axes in canvas.axes), strict=True):
        assert (
            len({(line.get_label(), line.get_linestyle(), line.get_marker()) for line in lines})
            == 1
        )
    assert len(canvas.legends) == 1 and not any(axes.get_legend() for axes in canvas.axes)


def test_a_figure_survives_json():
    for figure in FIGURES.values():
        again = Figure.from_dict(json.loads(json.dumps(figure.as_dict())))
        assert repr(again) == repr(figure)


@pytest.mark.parametrize(
    "changes,word",
    [
        ({"name": "../figure"}, "name"),
        ({"series": []}, "no point"),
        ({"series": [Series("LSUV", [1, 2], [3])]}, "2 x and 1 y"),
    ],
)
def test_a_figure_that_can_not_be_drawn_is_refused(changes, word):
    with pytest.raises(InputError, match=word):
        curve(**changes)


def test_without_matplotlib_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"\[bench\]"):
        plots.draw(curve(), tmp_path)
