"""The page of results and README's table are what the JSON in bench/results says, to the letter.

Read next: tests/test_reading.py.
"""

import json
import re

import pytest

from bench import report


def test_the_page_and_the_readme_are_what_was_measured():
    assert (report.RESULTS / "README.md").read_text() == report.page()
    assert report.README.read_text() == report.readme()


def test_the_readmes_table_has_eight_rows_and_the_machine_below():
    table, _, line = report.short().partition("\n\n")
    assert len(table.split("\n")) == 2 + 8
    assert "cores" in line and re.search(r"\d{4}-\d\d-\d\d", line)


def test_every_file_of_the_results_is_named_on_the_page():
    files = {path for path in report.RESULTS.glob("*") if path.is_file()}
    named = {path for pattern in report.FILES for path in report.RESULTS.glob(pattern)}
    assert files - named == {report.RESULTS / "README.md"}
    assert all(
        f"`{p}`" in report.part("contents") for p in report.FILES if any(report.RESULTS.glob(p))
    )


def test_every_mark_of_the_template_is_filled_and_no_part_is_without_a_function():
    assert "{{" not in report.page()
    _, *pieces = report.template()
    assert pieces[::2] == list(report.PARTS)


def test_a_conditional_paragraph_stands_only_where_there_is_something():
    text = "a {{x}}\n\n{{?y}}b {{y}}\n\nc"
    assert report.filled(text, {"x": "1", "y": ""}) == "a 1\n\nc"
    assert report.filled(text, {"x": "1", "y": "2"}) == "a 1\n\nb 2\n\nc"


METRIC = {
    "epoch": 1,
    "test_accuracy": 0.5,
    "train_loss": 1.0,
    "images_per_second": 9.0,
    "seconds": 60.0,
}
ROW = {
    "precision": "fp32",
    "seed": 0,
    "net": "fitnet4",
    "act": "maxout",
    "init": "lsuv",
    "data": "cifar10",
    "recipe": "fast",
    "epochs": 3.0,
    "steps": 1172,
    "limit": None,
    "finished": False,
    "metrics": [METRIC],
    "device": "cpu (x)",
    "started": "2026-01-01 00:00:00",
    "versions": {"python": "3", "numpy": "2"},
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a file of results -> a part of the page."""
    monkeypatch.setattr(report, "RESULTS", tmp_path)

    def write(name: str, value, part: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))
        return report.part(part)

    return write


def test_without_results_the_page_has_goals_alone(written):
    assert [name for name in report.PARTS if report.part(name)] == ["goals"]


def training(**changes) -> dict:
    return {"rows": [{**ROW, **changes}], "machine": {"processor": "x"}}


def test_a_cut_run_is_marked(written):
    assert "1 of 3, cut short" in written("training.json", training(), "cifar")
    assert "cut short |" not in written(
        "training.json", training(finished=True, epochs=1.0), "cifar"
    )


@pytest.mark.parametrize("change", [{"limit": 64}, {"data": "synthetic"}, {"recipe": "paper"}])
def test_a_run_of_less_than_the_set_is_not_shown(written, change):
    assert written("training.json", training(**change), "cifar") == ""


def cell(**changes) -> dict:
    return {
        "table": "table2",
        "row": "FitNet-LSUV",
        "column": "MNIST error",
        "paper": 0.48,
        "ours": 0.46,
        "spread": 0.09,
        "unit": "% error",
        "epochs": 53.3,
        "verdict": "ok",
        "seeds": [0.53, 0.49, 0.35],
        "machine": "cpu",
        "date": "2026-01-01",
        **changes,
    }


def test_the_papers_cells_are_counted_and_what_is_off_is_named(written):
    off = cell(
        table="table8",
        row="conv21",
        column="LSUV",
        unit="std",
        paper=0.036,
        ours=0.0457,
        spread=None,
        verdict="off",
    )
    text = written(
        "paper/rows.json",
        [cell(), cell(row="FitNet-Ortho", verdict="cut short", ours=0.7), off],
        "paper",
    )
    assert "| table2 | 2 | 1 |  | 1 |" in text
    assert "0.46 ± 0.09 | 0.53, 0.49, 0.35 | ok |" in text and "cut short |" in text
    assert "table8 conv21 LSUV: 0.0457, the paper 0.036" in text
    assert "MNIST in full" not in written("paper/rows.json", [off], "paper")
