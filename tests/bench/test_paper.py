"""The paper's tables: cells are judged by the stated bounds, kept, cut short and gone on with.

Trainings run in processes of their own on a small synthetic set; what needs the real data is marked
and wants $LSUV_DATA_DIR.

Read next: tests/bench/test_paper_page.py.
"""

import json
import math
import os
import pathlib
import re
import shlex
import time
import types
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.paper import __main__ as command
from bench.paper import (
    claims,
    figure1,
    figure2_3,
    figure4_5,
    page,
    printed,
    rows,
    study,
    table2_to_7,
    table6,
    table8_to_10,
    training,
)
from bench.paper.rows import AGREES, CUT, DIFFERS, FAILED, NO_VALUE, NOT_RUN, OFF, OK, OTHER, TYPO
from bench.paper.study import Cell, Study
from bench.paper.training import Planned, Run
from engine.data import load
from engine.data.download import MissingData
from engine.errors import InputError, RunError
from engine.fitting import batches
from engine.layers import Conv, Linear, ReLU
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.optimizers import SGD
from engine.run import folder as runs
from helpers.length import often
from kernels.reference import NumpyOps
from models.recipes import recipe

KEYS = ["table", "row", "column", "paper", "ours", "spread", "unit", "epochs", "verdict"]
SMALL = Run("fitnet1", "relu", "lsuv", "synthetic", more=(("limit", 64), ("batch", 16)))


def small_study(tmp_path, **more) -> Study:
    return Study(
        **{
            "folder": tmp_path / "paper",
            "threads": 1,
            "recipe": "fast",
            "epochs": 2.0,
            "seeds": 1,
            **more,
        }
    )


def main(*arguments) -> int:
    return command.main([str(a) for a in arguments])


# -- the paper's numbers --------------------------------------------------------------------------


def test_the_ratio_row_of_table_10_is_that_of_its_own_cells():
    for column in printed.TABLE_10.values():
        ratio = column["ip1"] / column["conv11"]
        assert column[printed.RATIO] == pytest.approx(ratio, rel=0.04)


def test_tables_have_as_many_cells_as_the_paper():
    count = {
        name: sum(len(column) for column in table.values())
        for name, table in (
            ("2", printed.TABLE_2),
            ("3", printed.TABLE_3),
            ("4", printed.TABLE_4),
            ("5", printed.TABLE_5),
            ("8", printed.TABLE_8),
            ("9", printed.TABLE_9),
            ("10", printed.TABLE_10),
        )
    }
    assert count == {"2": 33, "3": 23, "4": 20, "5": 6, "8": 72, "9": 72, "10": 76}


# -- a cell without training ----------------------------------------------------------------------


def test_table_8_by_command(tmp_path, capsys):
    """The columns that need no data: every cell ok but the three typos; JSON as documented."""
    out, folder = tmp_path / "rows.json", tmp_path / "paper"
    assert (
        main(
            "table8",
            "--only",
            "*:Ortho",
            "--only",
            "*:MSRA",
            "--only",
            "*:Xavier",
            "--seeds",
            2,
            "--json",
            out,
            "--folder",
            folder,
        )
        == 0
    )
    found = json.loads(out.read_text())
    assert len(found) == 54 and all(list(row)[:9] == KEYS for row in found)
    assert {
        (r["column"], r["row"]) for r in found if r["verdict"] == TYPO
    } == printed.TABLE_8_SLIPS.keys()
    assert sum(r["verdict"] == OK for r in found) == 51
    for row in found:
        assert row["ours"] == pytest.approx(np.mean(row["seeds"])) and len(row["seeds"]) == 2
    assert "54 cells: 51 ok, 3 typo" in capsys.readouterr().out


def test_a_finished_cell_is_not_measured_again(tmp_path, monkeypatch):
    arguments = [
        "table8",
        "--only",
        "*:Xavier",
        "--seeds",
        1,
        "--folder",
        tmp_path,
        "--json",
        tmp_path / "rows.json",
    ]
    main(*arguments)
    first = (tmp_path / "rows.json").read_text()
    monkeypatch.setattr(table8_to_10, "fill", lambda *a: pytest.fail("measured again"))
    main(*arguments)
    assert (tmp_path / "rows.json").read_text() == first
    with pytest.raises(pytest.fail.Exception):
        main(*arguments[:4], 2, *arguments[5:])  # of two seeds there is none yet


def test_a_budget_that_is_over_leaves_cells_not_run(tmp_path, capsys):
    out = tmp_path / "rows.json"
    assert (
        main(
            "table8",
            "--only",
            "*:MSRA",
            "--budget",
            "0.000001s",
            "--json",
            out,
            "--folder",
            tmp_path,
        )
        == 0
    )
    assert {r["verdict"] for r in json.loads(out.read_text())} == {NOT_RUN}
    assert "the same command goes on" in capsys.readouterr().out
    main("table8", "--only", "*:MSRA", "--json", out, "--folder", tmp_path)
    assert {r["verdict"] for r in json.loads(out.read_text())} == {OK, TYPO}


def test_rows_on_record_are_replaced_cell_by_cell(tmp_path):
    s = small_study(tmp_path)
    first = [
        s.row("table3", "LSUV", "tanh", 89.28, "% accuracy", ours=88.0, verdict=CUT),
        s.row("table3", "MSRA", "tanh", 89.54, "% accuracy"),
    ]
    study.record(s, "table3", first)
    study.record(
        s,
        "table3",
        [
            s.row("table3", "LSUV", "tanh", 89.28, "% accuracy"),
            s.row("table3", "MSRA", "tanh", 89.54, "% accuracy", ours=87.0, verdict=CUT),
        ],
    )
    found = runs.read_json(s.folder / "rows" / "table3.json")
    assert [row["ours"] for row in found] == [88.0, 87.0]


@pytest.mark.parametrize("better, worse", [(OK, CUT), (OFF, OTHER), (OTHER, CUT), (CUT, NOT_RUN)])
def test_a_row_that_is_worth_less_replaces_none(tmp_path, better, worse):
    s = small_study(tmp_path)
    for verdict, ours in ((better, 1.0), (worse, 2.0)):
        study.record(
            s, "table3", [s.row("table3", "LSUV", "tanh", 89.28, "%", ours=ours, verdict=verdict)]
        )
    assert study.on_record(s.folder, "table3")[0]["ours"] == 1.0


@pytest.mark.parametrize("text", ["null", "5", "[1]", "[]", "{}", '[{"row": 1}]', "[{", "\x00"])
def test_a_damaged_cell_names_the_file_and_the_remedy(tmp_path, text):
    main("table8", "--only", "*:Ortho", "--seeds", 1, "--folder", tmp_path)
    (path,) = (tmp_path / "cells").rglob("*.json")
    path.write_text(text)
    with pytest.raises(InputError, match="not as it was written; remove it"):
        main("table8", "--only", "*:Ortho", "--seeds", 1, "--folder", tmp_path)


def test_a_typo_is_what_the_filler_gives(tmp_path, monkeypatch):
    """A filler that is wrong in a typo's cell is off there, not excused."""
    s = small_study(tmp_path, only=["conv21:Xavier"])
    real = table8_to_10.filled_deviations
    monkeypatch.setattr(
        table8_to_10, "filled_deviations", lambda *a: {**real(*a), "conv21": [0.037]}
    )
    assert [r.verdict for r in study.run(s, table8_to_10.table8(s))] == [OFF]


def test_gradient_variances_are_those_of_the_outputs(tmp_path, monkeypatch):
    """Against a backward pass by hand: the variance over all of dz, and the loss."""
    s = small_study(tmp_path, device="numpy", threads=None)
    data = load("synthetic", limit=40)
    layers = [Conv(4, name="conv11"), ReLU(), Linear(10, name="ip1")]
    net = Net(layers, SoftmaxLoss(), NumpyOps(), data.in_shape, 8)
    feed = table8_to_10.Feed(net, data, 2, 0.53)
    monkeypatch.setattr(table8_to_10, "fitnet4", lambda *a: (net, feed))
    monkeypatch.setattr(table8_to_10, "BATCHES", 1)
    found, losses = table8_to_10.gradient_variances(s, "msra", 1)
    next_batch = feed.first_batches()
    next_batch()
    scores = net.forward(train=True)
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    onehot = net.labels[:, None] == np.arange(10)
    assert losses == pytest.approx([-np.log(p[onehot]).mean()], rel=1e-5)
    assert found["ip1"] == pytest.approx([((p - onehot) / 8).var()], rel=1e-4)
    dx = (((p - onehot) / 8) @ layers[2].W).reshape(8, 32, 32, 4) * (layers[0].z > 0)
    assert found["conv11"] == pytest.approx([dx.var()], rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif("LSUV_DATA_DIR" not in os.environ, reason="needs CIFAR-10 in $LSUV_DATA_DIR")
@pytest.mark.parametrize(
    "table, column", [("table8", "*"), ("table9", "maxout"), ("table10", "LSUV")]
)
def test_statistics_are_the_papers(tmp_path, table, column):
    """Five seeds; the one cell that is off is one whose second run in the paper agrees with us.
    Every column with --full: the others of the last two take two minutes."""
    out = tmp_path / "rows.json"
    main(
        table,
        "--only",
        f"*:{often(column, '*')}",
        "--seeds",
        5,
        "--json",
        out,
        "--folder",
        tmp_path,
    )
    off = [r for r in json.loads(out.read_text()) if r["verdict"] not in (OK, TYPO)]
    assert [(r["table"], r["column"], r["row"]) for r in off] == (
        [("table8", "LSUV", "conv21")] if table == "table8" else []
    )
    for row in off:
        again = printed.TABLE_9["ReLU"][row["row"]]
        assert rows.within(row["ours"], again, table8_to_10.LSUV) == OK


# -- a trained cell -------------------------------------------------------------------------------


def every_run() -> list[Run]:
    s = Study(device="numpy")
    found = [run for run in figure2_3.RUNS_3.values()]
    found += [run for claim in claims.CLAIMS for run in (claim.base, claim.other)]
    caught: list[Run] = []

    def catch(study, table, row, column, paper, run, *rest, **more):
        caught.append(run)
        return Cell(None, "", 1, lambda progress: [], [])

    for name in ("table2", "table3", "table4", "table5", "table7", "section51"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(table2_to_7, "cell", catch)
            getattr(table2_to_7, name)(s)
    return found + caught


def test_runs_that_differ_have_folders_that_differ():
    """And every one is a command line that engine.train accepts."""
    from engine.cli.options import check, train_parser
    from engine.train import KNOWN

    names: dict[str, Planned] = {}
    for run in every_run():
        for kind, epochs, precision in (
            ("paper", None, None),
            ("fast", 1.0, "fp32"),
            ("fast", None, "bf16"),
        ):
            planned = training.plan(
                Study(device="numpy", recipe=kind, epochs=epochs, precision=precision), run
            )
            assert names.setdefault(planned.name, planned).arguments == planned.arguments
            teacher = (
                ["--teacher", "a run"] if run.teacher else []
            )  # known once it has been trained
            args = train_parser(KNOWN, "").parse_args([*planned.arguments, *teacher])
            check(args, KNOWN)
    assert len(names) > 250


def test_only_fitnet4_has_the_authors_two_exceptions():
    for net in ("fitnet1", "fitresnet4", "fitnet4-bn-before", "fitnet4-bn-after"):
        for init in ("xavier", "msra"):
            found = recipe(net, "maxout", init)
            assert (found.momentum, found.policy["rate"], found.clip) == (0.9, 0.01, 0.0)
    assert recipe("fitnet4", "maxout", "msra").clip == 50


def test_a_net_that_is_taught_waits_for_its_teacher(tmp_path):
    """Whose run is a cell of its own: trained once, and for both."""
    tiny = Run("fitnet_mnist", "maxout", "lsuv", "synthetic", more=(("limit", 32), ("batch", 16)))
    run = replace(tiny, teacher=tiny, hints="conv22:conv22")
    study = small_study(tmp_path, epochs=6.0)
    planned = training.plan(study, run)
    assert training.plan(small_study(tmp_path, epochs=None), run).full == 60  # 10, and 50 of hints
    assert (
        "fitnet_mnist-maxout-lsuv-limit-32-batch-16-teacher-fitnet_mnist-hints-conv22-conv22"
        in (planned.name)
    )
    assert training.train(small_study(tmp_path, epochs=6.0, budget=0), planned, 0, print) is None
    there = training.train(study, planned, 0, lambda *said: None)
    known = training.outcome(training.folder_of(study, training.plan(study, tiny), 0))
    assert known.finished and there.finished and there.epochs == pytest.approx(6)
    first, second = (runs.read_run(there.folder.parent / f"stage{k}")["settings"] for k in (1, 2))
    assert first["teacher"] == second["teacher"] == str(known.folder)
    assert (first["hints"], first["epochs"]) == ("conv22:conv22", pytest.approx(5))
    assert training.train(study, planned, 0, pytest.fail).accuracy == there.accuracy


def test_half_the_iterations_are_half_of_every_step_of_the_rate():
    s = Study(device="numpy")
    whole, half = (
        training.plan(s, figure2_3.RUNS_3[name]) for name in ("BN after", "BN-half after")
    )
    assert half.epochs == whole.epochs / 2 == 115.2 and half.whole
    assert "--epochs" not in whole.arguments and "115.2" in half.arguments


@pytest.mark.parametrize(
    "planned, paper, ours, values, done, verdict",
    [
        (("paper", 230.4), 93.94, 93.5, [93.5], True, OK),
        (("paper", 230.4), 93.94, 93.3, [93.3], True, OFF),
        (("paper", 230.4), 93.94, 93.3, [92.8, 93.8], True, OK),  # within two standard errors
        (("paper", 230.4), 93.94, 93.9, [93.9], False, CUT),
        (("paper", 3.0), 93.94, 93.9, [93.9], True, CUT),
        (("fast", 40.0), 93.94, 93.9, [93.9], True, OTHER),
        (("fast", 2.0), 93.94, 93.9, [93.9], True, CUT),
        (("paper", 230.4), "n/c", "n/c", [], True, AGREES),
        (("paper", 230.4), "n/c", 90.0, [90.0], True, DIFFERS),
        (("paper", 230.4), 91.0, "n/c", [], True, DIFFERS),
        (("paper", 2.0), "n/c", "n/c", [], True, CUT),
        (("paper", 230.4), "trains", 60.0, [60.0], True, AGREES),
        (("paper", 230.4), "trains", "n/c", [], True, DIFFERS),
        (("paper", 230.4), None, 60.0, [60.0], True, NO_VALUE),
    ],
)
def test_verdicts(planned, paper, ours, values, done, verdict):
    kind, epochs = planned
    found = Planned(Run("fitnet4", "relu", "lsuv"), kind, epochs, "fp32")
    assert training.judge(found, paper, ours, values, done) == verdict
    if verdict == OK:  # a mean that leaves out a seed that failed is not the paper's
        assert training.judge(found, paper, ours, values, done, failures=True) == OFF


@pytest.mark.parametrize(
    "classes, accuracy, finished, failed, good",
    [
        (10, 0.19, True, "", False),
        (10, 0.21, True, "", True),
        (2, 0.7, True, "", False),
        (2, 0.8, True, "", True),
        (10, 0.9, True, "loss is not finite", False),
        (10, 0.1, False, "", True),
    ],
)  # what is not at its end is not n/c yet
def test_the_rule_of_convergence(tmp_path, classes, accuracy, finished, failed, good):
    record = {"data": {"classes": list(range(classes))}, "result": {} if finished else None}
    found = [{"test_accuracy": accuracy, "epoch": 1}]
    assert training.Outcome(tmp_path, record, found, failed).converged is good


def over_after_the_first_epoch(patch) -> list:
    """Let the budget's timer ring when the first epoch is reported -> what rang."""
    timers, rang = [], []

    class Timer:
        def __init__(self, seconds, ring):
            assert seconds > 1e5
            self.ring = ring

        def start(self):
            timers.append(self)

        def cancel(self):
            pass

    say = study.Progress.say

    def rings(self, text, share=0.0):
        say(self, text, share)
        if "epoch 1/" in text and not rang:
            rang.append(timers[-1])
            timers[-1].ring()

    patch.setattr(training.threading, "Timer", Timer)
    patch.setattr(study.Progress, "say", rings)
    return rang


def test_a_training_is_stopped_by_the_budget_and_gone_on_with(tmp_path, capsys):
    """Its cell is marked with its epochs; the whole is what an uninterrupted run gives."""

    def one(s):
        return study.run(s, [training.cell(s, "table3", "LSUV", "ReLU", 92.11, SMALL)])[0]

    straight = small_study(tmp_path / "a")
    whole = one(straight)
    assert (whole.verdict, whole.epochs, whole.of_epochs) == (CUT, 2.0, 40)
    cut = small_study(tmp_path / "b", epochs=None, budget=1e6)
    with pytest.MonkeyPatch.context() as patch:
        over = over_after_the_first_epoch(patch)
        row = one(cut)
        assert over and row.verdict == CUT and 1 <= row.epochs < 40 == row.of_epochs
    folder = training.folder_of(cut, training.plan(cut, SMALL), 0)
    assert runs.read_run(folder)["result"] is None
    calls = []
    real = training.subprocess.Popen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training.subprocess, "Popen", lambda *a, **k: calls.append(a[0]) or real(*a, **k)
        )
        assert one(straight).seeds == whole.seeds and not calls  # finished: not run again
        again = small_study(tmp_path / "b", epochs=None)
        done = one(again)
    assert "--resume" in calls[0] and done.epochs == 40 and done.verdict == OTHER
    assert runs.read_run(folder)["result"] is not None


def test_a_budget_that_ends_while_a_training_starts_is_no_error(tmp_path):
    s = small_study(tmp_path)
    s.budget = time.monotonic() - s.began + 0.3  # Python is still importing then
    assert study.run(s, [training.cell(s, "table3", "LSUV", "ReLU", 92.11, SMALL)])[0].verdict == (
        NOT_RUN
    )


def test_ctrl_c_asks_the_training_once_and_waits_for_it(tmp_path, monkeypatch):
    s, started = small_study(tmp_path, epochs=None), []
    real = training.subprocess.Popen
    monkeypatch.setattr(
        training.subprocess, "Popen", lambda *a, **k: started.append(real(*a, **k)) or started[0]
    )

    def interrupted(line, epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(s, training.plan(s, SMALL), 0, interrupted)
    assert started[0].poll() == 143  # it saved, and said how to go on
    there = training.outcome(training.folder_of(s, training.plan(s, SMALL), 0))
    assert not there.finished and there.epochs > 0


def test_a_run_that_diverges_is_n_c_and_is_not_tried_again(tmp_path, monkeypatch):
    s = small_study(tmp_path)
    run = Run(
        "fitnet1",
        "relu",
        "lsuv",
        "synthetic",
        more=(("limit", 64), ("batch", 16), ("lr", 1e9), ("clip", 0)),
    )
    cell = training.cell(s, "section51", "LSUV, SGD", "ReLU", "trains", run)
    row = study.run(s, [cell])[0]
    assert row.ours == "n/c" and "not finite" in row.note and row.verdict == CUT
    monkeypatch.setattr(training.subprocess, "Popen", lambda *a, **k: pytest.fail("tried again"))
    assert study.run(s, [cell])[0].ours == "n/c"


def test_an_lsuv_that_fails_is_an_error_of_its_cell_and_the_next_one_is_measured(tmp_path):
    """LSUV says "not finite" too, before anything is trained: so nothing is n/c."""
    s = small_study(tmp_path)
    broken = Run("fitnet1", "relu", "lsuv", "synthetic", more=(*SMALL.more, ("input_scale", 3e38)))
    cells = [
        training.cell(s, "section51", row, "ReLU", "trains", run)
        for row, run in (("broken", broken), ("whole", SMALL))
    ]
    first, second = study.run(s, cells)
    assert (first.ours, first.verdict) == (None, FAILED) and second.ours is not None
    assert first.note.startswith("fitnet1-relu-lsuv-") and "are not finite" in first.note


@pytest.mark.parametrize(
    "failure, failed",
    [
        ({"kind": "not finite", "step": 3, "text": "step 3: not finite"}, "step 3: not finite"),
        ({"kind": "disk full", "step": 3, "text": "the checkpoint is not finite"}, ""),
        (None, ""),
    ],
)
def test_what_failed_is_what_run_json_says(tmp_path, monkeypatch, failure, failed):
    (tmp_path / runs.RUN).touch()
    record = {"result": None} | ({} if failure is None else {"failure": failure})
    monkeypatch.setattr(runs, "read_run", lambda folder: record)
    assert training.outcome(tmp_path).failed == failed


def test_a_cell_that_failed_makes_the_commands_exit_code_1(tmp_path, monkeypatch):
    def fails(*a):
        raise RunError("planted")

    monkeypatch.setattr(table8_to_10, "filled_deviations", fails)
    out = tmp_path / "rows.json"
    assert main("table8", "--only", "*:MSRA", "--folder", tmp_path, "--json", out) == 1
    assert {(r["verdict"], r["note"]) for r in json.loads(out.read_text())} == {(FAILED, "planted")}
    monkeypatch.undo()
    assert main("table8", "--only", "*:MSRA", "--folder", tmp_path) == 0


def test_a_training_that_fails_otherwise_is_one_line(tmp_path):
    s = small_study(tmp_path)
    run = Run("fitnet1", "relu", "lsuv", "synthetic", more=(("limit", 8), ("batch", 16)))
    with pytest.raises(InputError, match="batch 16 is more than the 8 training images"):
        study.run(s, [training.cell(s, "table3", "LSUV", "ReLU", 92.11, run)])


def test_a_folder_of_another_run_is_refused(tmp_path):
    s = small_study(tmp_path)
    planned = training.plan(s, SMALL)
    record = {"settings": {"net": "fitnet4", "epochs": 2.0}}
    with pytest.raises(InputError, match="its net is fitnet4, not fitnet1"):
        training.check(training.Outcome(tmp_path, record, [], ""), planned, 0)


def outcomes(*accuracies):
    """Finished runs of these accuracies."""
    record = {
        "result": {},
        "started": "2026-01-01 00:00",
        "device": "cpu",
        "settings": {"epochs": 2.0},
        "device_description": "",
        "data": {"classes": list(range(10))},
        "versions": {"python": "", "numpy": "", "system": ""},
    }
    return [
        training.Outcome(None, record, [{"test_accuracy": a, "epoch": 2}], "") for a in accuracies
    ]


def test_a_claim_is_a_difference_between_paired_seeds(tmp_path, monkeypatch):
    s = small_study(tmp_path, seeds=3)
    found = iter(outcomes(0.80, 0.79, 0.82, 0.80, 0.81, 0.81))
    monkeypatch.setattr(claims, "train", lambda *a: next(found))
    row = study.run(s, [claims.difference(s, claims.CLAIMS[0])])[0]
    assert row.seeds == pytest.approx([-1, -2, 0]) and row.ours == pytest.approx(-1)
    assert row.verdict == CUT and row.spread == pytest.approx(1)


def test_a_short_run_that_trains_shows_the_claim_of_section_5_1(tmp_path):
    row = small_study(tmp_path).row("section51", "LSUV, SGD", "ReLU", "trains", "%")
    for ours, verdict, claimed in (
        (60.0, CUT, AGREES),
        ("n/c", CUT, CUT),
        ("n/c", OTHER, OTHER),
        ("n/c", DIFFERS, DIFFERS),
        (None, NOT_RUN, NOT_RUN),
        (None, FAILED, FAILED),
    ):
        row.ours, row.verdict = ours, verdict
        assert table2_to_7.claimed(row) == claimed


def test_of_section_5_1_sigmoid_fails_to_converge_and_vlrelu_is_not_claimed(tmp_path):
    """As the paper says of ReLU, maxout and tanh in the text, and of sigmoid in Table 3."""
    cells = table2_to_7.section51(small_study(tmp_path))
    papers = {row.column: row.paper for cell in cells for row in cell.blank}
    assert papers == {
        "maxout": "trains",
        "ReLU": "trains",
        "tanh": "trains",
        "VLReLU": None,
        "sigmoid": "n/c",
    }
    row = small_study(tmp_path).row("section51", "LSUV, SGD", "sigmoid", "n/c", "%")
    for ours, verdict, claimed in (
        ("n/c", OTHER, AGREES),
        ("n/c", AGREES, AGREES),
        ("n/c", CUT, CUT),
        (60.0, CUT, DIFFERS),
    ):
        row.ours, row.verdict = ours, verdict
        assert table2_to_7.claimed(row) == claimed
    row = small_study(tmp_path).row(
        "section51", "LSUV, SGD", "VLReLU", None, "%", ours=60.0, verdict=CUT
    )
    assert table2_to_7.claimed(row) == NO_VALUE


# -- figures --------------------------------------------------------------------------------------


def test_walk_measures_every_update():
    """Ratios and losses against the weights themselves; biases are left out."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(16, 6, 6, 3)).astype(np.float32)
    labels = (np.arange(16) % 3).astype(np.int32)
    net = Net(
        [Conv(4, name="a"), ReLU(), Linear(3, name="b")], SoftmaxLoss(), NumpyOps(), (6, 6, 3), 8
    )
    for p in net.named_params().values():
        p.value[...] = rng.normal(size=p.shape) * 0.1
    next_batch = batches(net, images, labels)
    seen = []

    class Look(SGD):
        def step(self, last=True):
            before = [p.value.copy() for n, p in net.named_params().items() if n.endswith(".W")]
            super().step()
            after = [p.value for n, p in net.named_params().items() if n.endswith(".W")]
            moved = np.concatenate(
                [np.abs(a - b).ravel() for a, b in zip(after, before, strict=True)]
            ).mean()
            seen.append(moved / np.concatenate([np.abs(b).ravel() for b in before]).mean())

    feed = types.SimpleNamespace(
        start=lambda clock, first, stop, table: table8_to_10.Feed.start(
            feed, clock, first, stop, table
        ),
        train_batch=next_batch,
        net=net,
        mirror=0,
        fields=[],
        order_of=types.SimpleNamespace(images=lambda first, count: np.zeros(count, np.int32)),
    )
    losses, ratios = figure1.walk(net, feed, Look(net), {"policy": "fixed", "rate": 0.1}, 4)
    assert len(losses) == 4 and all(map(math.isfinite, losses))
    assert ratios == pytest.approx(seen, rel=1e-5)


def test_the_gain_nearest_the_band(tmp_path, monkeypatch):
    """By the first updates' median, on a log scale; a run that breaks off counts as it is."""
    s = small_study(tmp_path, only=["*:ReLU"])
    ratios = dict(zip(figure1.GAINS, (5e-5, 5e-5, 1e-4, 4e-4, 2e-3, 6e-2, 1.0), strict=True))
    for gain, ratio in ratios.items():
        steps = {2.0: 0, 1.7: 5}.get(gain, figure1.STEPS)
        s.keep_series(
            figure1.key_of("ReLU", gain),
            {
                "loss": [2.3] * steps,
                "ratio": [ratio] * min(steps, 10) + [1e-5] * (steps - 10),
                "date": "2026-01-01",
                "machine": "a machine",
            },
        )
    monkeypatch.setattr(figure1, "walk", lambda *a: pytest.fail("walked again"))
    s.keep_series(figure1.key_of("ReLU", None), s.series(figure1.key_of("ReLU", 1.4)))
    found = {row.row: row for row in study.run(s, figure1.figure1(s))}
    ratios[2.0] = "n/c"
    assert [found[figure1.name_of(gain)].ours for gain in figure1.GAINS] == list(ratios.values())
    best = found["gain nearest the band"]
    assert (best.ours, best.paper, best.verdict) == (1.4, 1.4, OK)
    assert "not finite after 5 steps" in found["gain 1.7"].note
    figure = figure1.draw(s)
    assert figure.band[:2] == (0.001, 0.01) and len(figure.series) == len(figure1.GAINS) + 1


def test_a_budget_that_is_over_does_not_hide_what_is_there(tmp_path):
    s = small_study(tmp_path)
    cells = [training.cell(s, "table3", "LSUV", "ReLU", 92.11, SMALL)]
    first = study.run(s, cells)[0]
    over = small_study(tmp_path, budget=-1.0)
    cells = [
        training.cell(over, "table3", row, "ReLU", 92.11, run)
        for row, run in (
            ("LSUV", SMALL),
            ("MSRA", Run("fitnet1", "relu", "msra", "synthetic", more=SMALL.more)),
        )
    ]
    again = study.run(over, cells)
    assert again[0].ours == first.ours and again[0].verdict == CUT
    assert again[1].verdict == NOT_RUN


@pytest.mark.parametrize(
    "losses, step", [([2.3] * 40, None), ([2.3] * 20 + [1.0] * 20, 21), ([1.0] * 9, None)]
)
def test_the_end_of_the_plateau(losses, step):
    assert figure4_5.left_plateau(losses, math.log(10)) == step


# -- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["tabel8"], "did you mean 'table8'"),
        (["table8", "--budget", "soon"], "--budget 'soon': a time such as 90s, 20m or 2h"),
        (["table8", "--seeds", "0"], "--seeds 0 must be at least 1"),
        (["table3", "--recipe", "fats"], "did you mean 'fast'"),
        (["table3", "--epochs", "0"], "--epochs 0 must be above 0"),
        (["table8", "--json", "nowhere/at/all.json"], "no folder"),
        (["figure4"], "figure4 wants --data FOLDER"),
        (["report"], "nothing is measured there yet"),
        (["table8", "--folders", "x"], "did you mean --folder"),
        (["table8", "--only", "conv99"], "--only conv99 names no cell of table8; rows 'conv11'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, message):
    folder = [] if "--folders" in arguments else ["--folder", tmp_path / "none"]
    with pytest.raises(InputError, match=message):
        main(*arguments, *folder)


@pytest.mark.parametrize(
    "text, seconds", [("90s", 90), ("20m", 1200), ("2h", 7200), ("1.5h", 5400), ("3", 180)]
)
def test_budgets(text, seconds):
    assert command.seconds_of(text) == seconds


def test_all_leaves_out_what_wants_a_folder():
    args = command.parser().parse_args(["all"])
    assert "figure4" not in command.chosen(args) and "table4" in command.chosen(args)
    args.data = "pictures"
    assert set(command.chosen(args)) == set(command.EXPERIMENTS) == set(page.TABLES)


@pytest.mark.parametrize("name, least", [("README.md", 1), ("bench/README.md", 7)])
def test_the_commands_of_the_readmes_are_good(name, least):
    text = (pathlib.Path(__file__).resolve().parents[2] / name).read_text()
    lines = re.findall(r"^python -m bench\.paper ([^#\n]*)", text, re.M)
    assert len(lines) >= least
    for line in lines:
        command.check(command.parser().parse_args(shlex.split(line)))


def test_report_of_what_is_there(tmp_path):
    pytest.importorskip("matplotlib")
    main("table8", "--only", "*:Ortho", "--seeds", 1, "--folder", tmp_path)
    assert main("report", "--folder", tmp_path, "--out", tmp_path / "page") == 0
    text = (tmp_path / "page" / "report.html").read_text()
    assert "conv11" in text and (tmp_path / "page" / "report.md").exists()
    found = json.loads((tmp_path / "page" / "rows.json").read_text())
    assert {row["table"] for row in found} == set(page.TABLES)  # what was never run says so
    assert sum(row["verdict"] == OK for row in found) == 18
    assert {row["verdict"] for row in found} == {OK, NOT_RUN}
    (tmp_path / "rows" / "table8.json").write_text("[1]")
    with pytest.raises(InputError, match="table8.json: not as it was written; remove it"):
        main("report", "--folder", tmp_path)


def test_without_the_data_no_other_set_is_offered(tmp_path, monkeypatch):
    def missing(*a, **k):
        raise MissingData("cifar10", "not found in a", "put it into a")

    monkeypatch.setattr(study, "load", missing)
    with pytest.raises(InputError) as error:
        main("table9", "--folder", tmp_path)
    assert str(error.value) == "data cifar10: not found in a; put it into a"


def test_figure_5_on_a_tiny_folder(tmp_path, capsys):
    """The whole road: the first epoch's losses, a training of each initialisation, the plot.
    Figure 4 is the same with CaffeNet, whose checkpoints of 490 MB take a minute."""
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 1)):
        for k, name in enumerate(("dark", "light")):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(100 * k, 100 + 100 * k, (30 + i, 40, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / split / name / f"{i}.png")
    folder, out = tmp_path / "paper", tmp_path / "rows.json"
    arguments = [
        "figure5",
        "--data",
        tmp_path / "set",
        "--recipe",
        "fast",
        "--epochs",
        1,
        "--batch",
        4,
        "--threads",
        1,
        "--folder",
        folder,
        "--json",
        out,
    ]
    assert main(*arguments) == 0
    found = {(r["row"], r["column"]): r for r in json.loads(out.read_text())}
    assert set(found) == {
        (row, column) for row in ("flat loss", "accuracy") for column in ("LSUV", "original")
    }
    assert found["accuracy", "LSUV"]["verdict"] == CUT
    assert found["flat loss", "LSUV"]["verdict"] == OTHER
    assert "--data" in found["accuracy", "LSUV"]["rerun"]
    lines = (folder / "figure5.csv").read_text().splitlines()
    assert sum(line.startswith("loss in the first epoch") for line in lines) == 2 * 3
    assert (folder / "figure5.png").stat().st_size > 5000
    capsys.readouterr()
    main(*arguments)  # nothing is trained again
    assert "epoch 1/1" not in capsys.readouterr().out


def test_what_decides_a_cell_is_in_its_name(tmp_path):
    """Two folders of images of one name, two devices, two counts of threads."""
    runs_of = [Run("googlenet", "relu", "lsuv", str(tmp_path / part / "images")) for part in "ab"]
    s = small_study(tmp_path)
    assert len({training.plan(s, run).name for run in runs_of}) == 2
    devices = [
        small_study(tmp_path, device=name, threads=None)
        for name in ("cpu", "numpy")
        if name == "numpy" or s.ops.name == "cpu"
    ]
    assert len({d.cells for d in devices}) == len(devices)
    for key in (figure2_3.overhead_key, lambda study: table6.table6(study)[0].key):
        names = set()
        for threads in (1, 2):
            one = small_study(tmp_path)
            one.__dict__["ops"] = types.SimpleNamespace(
                name="cpu", threads=threads, precisions={}, description=""
            )
            names.add(key(one))
        assert len(names) == 2


def test_time_left_is_at_the_pace_of_what_took_time(monkeypatch, capsys):
    """Three cells of equal cost: one was there already, one takes 10 s."""
    now = [0.0]
    monkeypatch.setattr(study.time, "monotonic", lambda: now[0])
    cells = [Cell(None, name, 1.0, None, []) for name in ("there", "slow", "next")]
    progress = study.Progress(cells, lambda: 5.0)
    for cell, seconds in zip(cells, (0.0, 10.0, 0.0), strict=True):
        progress.begin(cell)
        now[0] += seconds / 2
        if seconds:
            progress.say("half", 0.5)
        now[0] += seconds / 2
        progress.end()
    assert capsys.readouterr().out.splitlines() == [
        "1/3 there",
        "2/3 slow",
        "2/3 slow: half  [15 s left, more than the budget]",
        "3/3 next  [10 s left, more than the budget]",
    ]


def test_rows_are_on_record_as_soon_as_they_are_there(tmp_path, monkeypatch):
    """An end in the middle of a table loses no cell before it."""

    def ends(*a):
        raise KeyboardInterrupt

    monkeypatch.setattr(table8_to_10, "by_lsuv", ends)
    monkeypatch.setattr(
        table8_to_10, "TABLE_8", {name: printed.TABLE_8[name] for name in ("Ortho", "LSUV")}
    )
    with pytest.raises(KeyboardInterrupt):
        main("table8", "--seeds", 1, "--folder", tmp_path)
    found = runs.read_json(tmp_path / "rows" / "table8.json")
    assert len(found) == 18 and {row["column"] for row in found} == {"Ortho"}


def test_the_accuracy_of_one_pass_and_of_all_are_a_runs_two_cells(tmp_path):
    """The last epoch's test is of one pass, the result of all."""
    record = {"result": {"test_accuracy": 0.97}, "data": {"classes": [*range(10)]}}
    record |= {
        "settings": {"epochs": 3.0},
        "started": "2026-01-01",
        "versions": {},
        "device": "cpu",
    }
    record |= {"device_description": "", "versions": {"python": "", "numpy": ""}}
    done = training.Outcome(tmp_path, record, [{"test_accuracy": 0.95, "epoch": 3}], "")
    found = []
    for averaged in (False, True):
        planned = Planned(Run("fitnet1", "relu", "lsuv", averaged=averaged), "paper", 3, "fp32")
        row = training.summary(
            small_study(tmp_path), "table2", "r", "c", 95.5, "% accuracy", planned, [done], {}
        )
        found.append(row.ours)
    assert found == pytest.approx([95, 97])
    cells = {row: cell for row, cell in table2_to_7.SYSTEMS_2.items() if "Fractional" in row}
    assert len(cells) == 2 and len({name for cell in cells.values() for name in cell.values()}) == 1
