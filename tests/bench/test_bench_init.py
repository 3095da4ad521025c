"""The initialisation bench: whose matrices it makes, what it refuses, its rows.

Read next: bench/init.py.
"""

import json

import numpy as np
import pytest

from bench import init, report
from bench.common.machine import write
from bench.peers import orthonormal as peers
from engine.cli.command import run_command
from engine.errors import RunError
from kernels import ops_for
from kernels.reference import NumpyOps


def test_the_nets_matrices_are_all_of_their_weights():
    found = {net: init.shapes_of_net(net) for net in init.NETS}
    parameters = {
        net: sum(outputs * (inputs + 1) for outputs, inputs in shapes)
        for net, shapes in found.items()
    }
    assert parameters == {"fitnet4": 2_742_102, "caffenet": 60_965_224, "googlenet": 13_378_280}
    assert len(found["fitnet4"]) == 17 * 2 + 5 + 1 and found["fitnet4"][0] == (32, 27)
    assert found["caffenet"][1] == (256, 48 * 5 * 5)  # two groups
    assert len(found["googlenet"]) == 3 + 9 * 6 + 2 * 3 + 1


def test_noise_is_a_batch_of_every_imagenet_net():
    data = init.noise("caffenet")
    assert data.name == "noise" and data.train.images.shape == (32, 227, 227, 3)
    assert abs(data.train.images.mean() - 127.5) < 0.1 and len(data.test.images) == 1


@pytest.mark.parametrize("name", ["ours", *peers.available("cpu")])
@pytest.mark.parametrize("rows, cols", [(7, 5), (5, 7), (64, 64), (1, 3)])
def test_every_maker_makes_orthonormal_matrices(name, rows, cols):
    make, tohost = peers.maker(name, "numpy", threads=1)
    Q, other = tohost(make(rows, cols, 0)), tohost(make(rows, cols, 1))
    assert Q.shape == (rows, cols) and Q.dtype == np.float32
    assert peers.orthonormality_error(Q) < 2e-6
    assert (rows, cols) == (1, 1) or abs(Q - other).max() > 1e-3


def test_the_error_is_the_largest_of_the_gram_matrix():
    Q = np.eye(5, 3, dtype=np.float32)
    assert peers.orthonormality_error(Q) == peers.orthonormality_error(Q.T) == 0
    Q[0, 1] = 0.25
    assert peers.orthonormality_error(Q) == 0.25
    Q[0, 1] = -0.25
    assert peers.orthonormality_error(Q.T.copy()) == 0.25


def test_rows(tmp_path, capsys):
    path = tmp_path / "init.json"
    assert (
        init.main(["--shapes", "9x4,4x9", "--nets", "", "--repeats", "1", "--json", str(path)]) == 0
    )
    found = json.loads(path.read_text())
    names = ["ours", *peers.available("cpu")]
    assert [(row["what"], row["name"]) for row in found["rows"]] == [
        (what, name) for what in ("9x4", "4x9") for name in names
    ]
    for row in found["rows"]:
        ours = next(r for r in found["rows"] if (r["what"], r["name"]) == (row["what"], "ours"))
        assert row["seconds"] > 0 and 0 <= row["error"] < 2e-6
        assert row["ratio"] == pytest.approx(row["seconds"] / ours["seconds"])
    assert ("torch" in found["machine"]["versions"]) == ("torch orthogonal_" in names)
    assert "9x4" in capsys.readouterr().out


class Wrong(NumpyOps):
    """Orthonormal, and not the reference's matrix."""

    def orthonormal(self, rows, cols, key):
        return -super().orthonormal(rows, cols, key)


def test_a_wrong_matrix_is_not_timed():
    with pytest.raises(RunError, match="differs from the reference by .* nothing was timed"):
        init.measure(Wrong(), [(4, 4)], [], threads=1)
    with pytest.raises(RunError, match="9x4: max .* is 2e-06"):
        init.judged("ours", "9x4", 2e-6)
    with pytest.raises(RunError):
        init.judged("ours", "9x4", float("nan"))
    assert init.judged("numpy qr", "9x4", 1.0) == 1.0


def test_a_large_svd_waits_for_full(capsys):
    class Counted:
        def __init__(self, name):
            self.name, self.calls = name, 0

        def ask(self, call, shapes, judge=False):
            assert call == "matrices"
            self.calls += 1
            return 0.5, 1e-9 if judge else None

    for full in (False, True):
        makers = [Counted("ours"), Counted("numpy svd")]
        rows = init.compare("big", [(5000, 5000)], makers, repeats=3, full=full)
        assert [maker.calls for maker in makers] == [4, 4 if full else 0]
        assert [row["name"] for row in rows] == ["ours", "numpy svd"][: 1 + full]
        assert ("left out" in capsys.readouterr().out) is not full


def test_the_report_has_a_row_a_matrix_and_a_net(tmp_path, monkeypatch):
    def row(name, what, seconds, error=None):
        return {
            "name": name,
            "what": what,
            "seconds": seconds,
            "ratio": seconds / 0.5,
            "error": error,
        }

    rows = [
        row("ours", "9x4", 0.5, 2e-7),
        row("numpy qr", "9x4", 1.5, 1e-8),
        row("numpy svd", "9x4", 2, 1e-8),
        row("torch orthogonal_", "9x4", 3, 1e-6),
        row("ours", "fitnet4 LSUV, cifar10", 0.5, 3e-7),
        init.paper_row("fitnet4 LSUV, cifar10", 4, 0.5),
    ]
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert not report.part("init")
    write(tmp_path / "init.json", ops_for("numpy"), rows)
    text = report.part("init")
    assert "| 9x4 | 0.5 | 6.0 | 3.0 | 4.0 |  |" in text
    assert "| fitnet4 LSUV, cifar10 | 0.5 |  |  |  | 4 |" in text
    assert "was at most 3.0e-07" in text


@pytest.mark.slow
def test_lsuv_of_fitnet4_is_timed_beside_the_papers_seconds():
    from engine.data import load

    row = init.lsuv_row(ops_for("auto"), "fitnet4", load("synthetic", limit=256), repeats=1)
    assert row["what"] == "fitnet4 LSUV, synthetic"
    assert row["name"] == "ours" and row["seconds"] > 0 and row["error"] < 1e-5
    assert init.paper_row("x", 4, 2.0) == {
        "name": "paper",
        "what": "x",
        "seconds": 4,
        "ratio": 2.0,
        "error": None,
    }


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--shapes", "9x"], "'9x' is not ROWSxCOLS"),
        (["--shapes", "0x3"], "'0x3'"),
        (["--nets", "fitnet5"], "'fitnet5'"),
        (["--repeats", "0"], "--repeats 0"),
        (["--device", "gpu"], "'gpu'"),
        (["--threads", "0"], "threads 0"),
    ],
)
def test_bad_input_is_one_line(arguments, said, capsys):
    code = run_command("bench.init", lambda: init.main(arguments))
    line = capsys.readouterr().err
    assert code == 2 and said in line and line.count("\n") == 1
