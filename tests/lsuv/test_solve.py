"""The arithmetic that adapters share: it is exact, and needs no framework. And what is said where
PyTorch, or our own package, is not what Python imports.

Read next: test_torch.py.
"""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from helpers.programs import ROOT
from lsuv.report import Report, Row
from lsuv.solve import Moments, as_predicted, fold, noise, pool, solve, spread

RNG = np.random.default_rng(0)


def moments(z):
    """z (samples, C), by the definition."""
    return Moments(np.full(z.shape[1], float(len(z))), z.mean(0), ((z - z.mean(0)) ** 2).sum(0))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 100])
def test_samples_folded_are_the_samples_taken_together(count):
    z = RNG.normal(3, 2, (count, 4, 5))  # samples of 5 values in 4 channels
    centred = z - z.mean(2, keepdims=True)
    found = fold(5.0, z.mean(2), (centred**2).sum(2))
    want = moments(z.transpose(0, 2, 1).reshape(-1, 4))
    np.testing.assert_allclose(found.mean, want.mean, rtol=1e-13)
    np.testing.assert_allclose(found.m2, want.m2, rtol=1e-12)


def test_halves_pooled_are_the_bits_of_the_whole():
    z = RNG.normal(3, 2, (16, 4))
    halves = [fold(1.0, z[half], 0 * z[half]) for half in (slice(8), slice(8, 16))]
    whole, pooled = fold(1.0, z, 0 * z), pool(halves)
    assert whole.n == pooled.n == 16
    assert (whole.mean == pooled.mean).all() and (whole.m2 == pooled.m2).all()


def test_an_empty_sample_adds_nothing():
    z = moments(RNG.normal(0, 1, (9, 3)))
    found = pool([Moments(*np.zeros((3, 3))), z, Moments(*np.zeros((3, 3)))])
    for a, b in zip(found, z, strict=True):
        np.testing.assert_array_equal(a, b)
    assert solve(spread(pool([Moments(*np.zeros((3, 3)))]), np.zeros(3)), 1, 1e-7) == (1, "not run")


@pytest.mark.parametrize("target", [0.5, 1.0, 9.0])
def test_the_factor_is_exact_with_biases(target):
    y = RNG.normal(RNG.normal(0, 3, 4), RNG.uniform(0.1, 3, 4), (1000, 4))
    b = RNG.normal(0, 0.4, 4)
    z = spread(moments(y + b), b)
    assert z.variance() == pytest.approx((y + b).var(), rel=1e-12)
    s, why = solve(z, target, 1e-7)
    assert why == "" and (s * y + b).var() == pytest.approx(target, rel=1e-12) and s > 0
    assert as_predicted(spread(moments(s * y + b), b), target, 1e-7)
    assert not as_predicted(z, target, 1e-7)


@pytest.mark.parametrize(
    "y, b, why",
    [
        (np.full((50, 2), 7.0), [0, 0], "no variance"),
        (1e4 + RNG.normal(0, 1e-3, (50, 2)), [0, 0], "no variance"),  # rounding of float32
        (np.zeros((50, 2)), [1, -1], "no variance"),
        (RNG.normal(0, 1, (50, 2)), [3, -3], "biases alone have variance 9"),
        (np.where(np.eye(50, 2) > 0, np.nan, 1), [0, 0], "not finite"),
        (np.where(np.eye(50, 2) > 0, np.inf, 1), [0, 0], "not finite"),
    ],
)
def test_why_there_is_no_factor(y, b, why):
    with np.errstate(invalid="ignore"):
        z = spread(moments(y + np.array(b)), np.array(b, float))
    assert solve(z, 1.0, 1e-6) == (1.0, why)


def test_noise_is_the_rounding_of_a_precision():
    values = 1 + RNG.uniform(0, 2.0**-9, 10_000)
    rounded = np.round(values * 2**7) / 2**7  # bfloat16's neighbours of 1
    assert rounded.var() <= noise(2.0**-7) < (2.0**-5) ** 2


def test_a_foreign_report_is_a_table_everywhere():
    nan = float("nan")
    rows = [
        Row("<a>", 0, 1, 9, 4, 0.1, 0.2, 0, 4.0, 1.0, 0.5, 1, nan, True, "Conv2d", 1, "scaled"),
        Row(
            "b", 0, 1, 0, 0, nan, nan, nan, nan, nan, 1, 0, nan, False, "LSTM", 0, "unsupported: 9"
        ),
    ]
    report = Report({"images": 8, "target": 1.0}, rows, ["<note>"], 1, 0.25, 0.75)
    text = report.table()
    assert "what became of it" in text and "unsupported: 9" in text and "nan" not in text
    assert "75.0% of the parameters are in scaled layers" in text
    html = report._repr_html_()
    assert html.count("<tr>") == 3 and "<td>&lt;a&gt;</td>" in html and "<a>" not in html
    assert "75.0% of the parameters" in html and "<p>note: &lt;note&gt;</p>" in html
    values = report.as_dict()
    assert values["skipped"] == {"b": "unsupported: 9"} and values["covered"] == 0.75
    assert values["rows"][1]["mean"] is None and values["largest_deviation"] == 0


def test_a_report_draws_itself(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    row = Row("a$b", 0, 1, 9, 4, 0.1, 0.2, 0, 4.0, 2.0, 0.5, 1, 0.0, True)
    more = Row("c", 1, 2, 9, 4, 0.1, 0.2, 0, 0.5, 2.0, 0.5, 1, 0.0, True)
    figure = Report({"target": 2.0}, [row, more]).plot(tmp_path / "a.png")
    (axes,) = figure.axes
    assert [bar.get_width() for bars in axes.containers for bar in bars] == [4, 0.5, 2, 2]
    assert [t.get_text() for t in axes.get_yticklabels()] == [r"a\$b", "c[1]"]
    assert (tmp_path / "a.png").stat().st_size > 3_000


def run(code, folder, *, module=False):
    return subprocess.run(
        [sys.executable, "-m" if module else "-c", *([code] if not module else code.split())],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_the_core_and_the_engine_import_no_framework(tmp_path):
    done = run(
        "import sys, engine.train, lsuv.solve, lsuv.report, lsuv.picture, lsuv.__main__\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'matplotlib')])",
        tmp_path,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_without_pytorch_the_remedy_is_named(tmp_path):
    prevent = "import sys; sys.modules['torch'] = None\n"
    done = run(prevent + "import lsuv.torch", tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: lsuv.torch needs PyTorch (")
    assert last.endswith("pip install 'lsuv-engine[torch]'")
    code = "from engine.cli.command import run_command; from lsuv.__main__ import main; "
    done = run(
        prevent + code + "sys.exit(run_command('lsuv', lambda: main(['--torch', 'a:b'])))", tmp_path
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("lsuv: error: lsuv.torch needs PyTorch (")


@pytest.mark.parametrize("command", ["engine.train --help", "engine", "bench.init", "lsuv --help"])
def test_another_package_called_lsuv_is_named_in_one_line(command, tmp_path):
    (tmp_path / "lsuv").mkdir()
    (tmp_path / "lsuv" / "__init__.py").write_text("__version__ = '0.9'\n")
    shutil.copy(ROOT / "lsuv" / "__main__.py", tmp_path / "lsuv")  # installed over ours
    done = run(command, tmp_path, module=True)
    assert done.returncode == 2 and done.stderr == (
        f"error: {tmp_path / 'lsuv'} is another package called lsuv, not lsuv-engine's; "
        "pip uninstall lsuv, then install lsuv-engine again\n"
    )
    done = run("import engine", tmp_path)
    assert done.stderr.splitlines()[-1].startswith("ImportError: ") and done.returncode == 1
