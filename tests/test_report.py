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


def test_a_run_that_is_not_the_papers_is_not_shown_as_if_it_were():
    full = {"net": "fitnet_mnist", "data": "mnist", "recipe": "paper", "steps": 50_000,
            "finished": True}
    assert "FitNet-LSUV" in report.mnist(training(**full))
    for change in ({"limit": 64}, {"data": "synthetic"}, {"act": "relu"}, {"init": "xavier"},
                   {"steps": 49_999}, {"finished": False}, {"recipe": "fast"}):
        assert report.mnist(training(**full | change)) == ""
    for change in ({"limit": 64}, {"data": "synthetic"}, {"recipe": "paper"}):
        assert report.cifar(training(**change)) == ""
