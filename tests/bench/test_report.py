"""README's measured tables are what the JSON in bench/results says, to the letter.

Read next: bench/report.py.
"""

from bench import report


def test_readme_is_what_was_measured():
    text = report.README.read_text()
    between = text.split(report.BEGIN)[1].split(report.END)[0]
    assert between.strip() == report.sections().strip()


METRIC = {"epoch": 1, "test_accuracy": 0.5, "train_loss": 1.0, "images_per_second": 9.0,
          "seconds": 60.0}
ROW = {"net": "fitnet4", "act": "maxout", "init": "lsuv", "head": "softmax", "data": "cifar10",
       "recipe": "fast", "epochs": 3.0, "steps": 1172, "limit": None, "finished": False,
       "metrics": [METRIC], "device": "cpu (x)", "started": "2026-01-01 00:00:00",
       "versions": {"python": "3", "numpy": "2"}}


def training(**changes) -> dict:
    return {"rows": [{**ROW, **changes}], "machine": {"processor": "x"}}


def test_a_cut_run_is_marked():
    assert "1 of 3, cut short" in report.cifar(training())
    assert "cut short |" not in report.cifar(training(finished=True, epochs=1.0))


def test_a_run_of_less_than_the_set_is_not_shown():
    for change in ({"limit": 64}, {"data": "synthetic"}, {"recipe": "paper"}):
        assert report.cifar(training(**change)) == ""


def cell(**changes) -> dict:
    return {"table": "table2", "row": "FitNet-LSUV", "column": "MNIST error", "paper": 0.48,
            "ours": 0.46, "spread": 0.09, "unit": "% error", "epochs": 53.3, "verdict": "ok",
            "seeds": [0.53, 0.49, 0.35], "machine": "cpu", "date": "2026-01-01", **changes}


def test_the_papers_cells_are_counted_and_what_is_off_is_named():
    text = report.paper([cell(), cell(row="FitNet-Ortho", verdict="cut short", ours=0.7),
                         cell(table="table8", row="conv21", column="LSUV", unit="std", paper=0.036,
                              ours=0.0457, spread=None, verdict="off")])
    assert "| table2 | 2 | 1 |  | 1 |" in text
    assert "0.46 ± 0.09 | 0.53, 0.49, 0.35 | ok |" in text and "cut short |" in text
    assert "table8 conv21 LSUV: 0.0457, the paper 0.036" in text
