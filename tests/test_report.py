"""README's measured tables are what the JSON in bench/results says, to the letter.

Read next: bench/report.py.
"""

from bench import report


def test_readme_is_what_was_measured():
    text = report.README.read_text()
    between = text.split(report.BEGIN)[1].split(report.END)[0]
    assert between.strip() == report.sections().strip()


def test_a_cut_run_is_marked():
    metric = {"epoch": 1, "test_accuracy": 0.5, "train_loss": 1.0, "images_per_second": 9.0,
              "seconds": 60.0}
    row = {"net": "fitnet4", "act": "maxout", "init": "lsuv", "recipe": "fast", "epochs": 3.0,
           "finished": False, "metrics": [metric]}
    machine = dict.fromkeys(("processor", "cores", "device", "description", "python", "versions",
                             "date"), "x")
    assert "1 of 3, cut short" in report.cifar({"rows": [row], "machine": machine})
