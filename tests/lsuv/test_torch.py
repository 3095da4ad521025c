"""lsuv.torch: every kind of layer is brought to unit variance in one pass, or the report says why
not. The variances are checked by hooks of the test's own in a fresh pass.

Read next: test_torch_faults.py.
"""

import re
import sys

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[torch]'")
from torch import nn  # noqa: E402

import lsuv.torch  # noqa: E402
from helpers.programs import ROOT  # noqa: E402
from helpers.torch_models import numbers, variances  # noqa: E402
from lsuv.__main__ import main  # noqa: E402

KINDS = {
    "linear": (lambda: nn.Linear(20, 30), (64, 20)),
    "linear on tokens": (lambda: nn.Linear(20, 30), (8, 5, 20)),
    "one output": (lambda: nn.Linear(20, 1), (64, 20)),
    "conv1d": (lambda: nn.Conv1d(6, 8, 3), (5, 6, 11)),
    "conv2d": (lambda: nn.Conv2d(6, 8, 3, stride=2, padding=1), (5, 6, 11, 9)),
    "conv2d without a batch": (lambda: nn.Conv2d(6, 8, 3), (6, 11, 9)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 3), (3, 2, 7, 6, 5)),
    "groups": (lambda: nn.Conv2d(6, 9, 3, groups=3), (5, 6, 11, 9)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6), (5, 6, 11, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3, stride=2), (5, 6, 7, 5)),
    "transposed in groups": (lambda: nn.ConvTranspose2d(6, 4, 3, groups=2), (5, 6, 7, 5)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(6, 4, 3), (5, 6, 7)),
    "lazy": (lambda: nn.LazyConv2d(8, 3), (5, 6, 11, 9)),
    "lazy linear": (lambda: nn.LazyLinear(8), (64, 6)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer_gets_unit_variance(kind):
    make, shape = KINDS[kind]
    model = nn.Sequential(make())
    x = numbers(*shape)
    report = lsuv.torch.init(model, x)
    (row,) = report.rows
    assert row.why == "scaled" and report.forwards == 1 and report.covered == 1
    assert variances(model, x)["0"] == pytest.approx(1, abs=1e-5)
    assert row.variance_after == pytest.approx(1, abs=1e-6)
    assert model[0].bias.abs().max() == 0


def test_the_example_of_the_page_runs(tmp_path, monkeypatch, capsys):
    """And its command, on a file that holds the example."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    page = (ROOT / "lsuv" / "README.md").read_text()
    example, own = re.findall(r"```python\n(.*?)```", page, re.S)
    (command,) = re.findall(r"python -m lsuv (--torch .*)", page)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(example, names)
    assert names["report"].largest_deviation < 1e-5 and names["report"].covered == 1
    assert (tmp_path / "variances.png").stat().st_size > 3_000
    (tmp_path / "mine.py").write_text(example)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert main(command.split()) == 0
    assert "100.0% of the parameters" in capsys.readouterr().out
    assert (tmp_path / "report.json").is_file()

    class MyLayer(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.rand(20, 30))

        def forward(self, x):
            return x @ self.kernel

    exec(own, {"MyLayer": MyLayer, "lsuv": lsuv})
    assert lsuv.torch.init(MyLayer(), numbers(64, 20)).rows[0].why == "scaled"
