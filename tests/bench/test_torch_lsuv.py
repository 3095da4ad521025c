"""The bench of `lsuv.torch`: what its probe sees, the bars, and a study that goes on.

Read next: bench/torch_lsuv/__init__.py.
"""

import json
import random

import numpy as np
import pytest

from bench import report
from bench.common.contest import Setting
from bench.common.machine import write
from bench.torch_lsuv import __main__ as command
from bench.torch_lsuv import package, study
from engine.cli.command import run_command
from engine.errors import InputError, RunError
from kernels import ops_for

GOOD = {
    "name": "resnet50",
    "layers": 54,
    "worst": 1e-6,
    "forwards": 1,
    "reported_forwards": 1,
    "left": {},
    "missed": [],
    "strays": [],
    "changed": [],
    "loss": 0.5,
    "without_fill": 3.0,
    "with_fill": 9.0,
    "ratio": 8.0,
}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"worst": 2e-5}, "worst |variance - 1| 2.0e-05"),
        ({"worst": float("nan")}, "worst |variance - 1| nan"),
        ({"forwards": 2}, "2 forward passes"),
        ({"reported_forwards": 2}, "2 reported"),
        ({"without_fill": 3.6}, "3.6 without fill"),
        ({"changed": ["modes"]}, "changed: modes"),
        ({"missed": ["fc"]}, "in no row: fc"),
        ({"strays": ["bn.weight"]}, "changed, not scaled: bn.weight"),
        ({"loss": None}, "loss not finite"),
        ({"ratio": 4.9}, "only 4.9 x the package"),
        ({"error": "it raised"}, "it raised"),
    ],
)
def test_every_bar_can_be_missed(change, said):
    assert command.misses(GOOD) == []
    assert any(text.startswith(said) for text in command.misses(GOOD | change))


def test_only_two_models_have_to_beat_the_package():
    assert command.misses(GOOD | {"name": "vgg16", "ratio": 1.0}) == []


def test_what_the_package_did_is_said_in_a_few_words():
    found = {"layers": 5, "outside": 3, "not_finite": 2, "untouched": 0, "raised": []}
    assert package.outcome(found) == "3 of 5, 2 NaN"
    assert package.outcome(found | {"not_finite": 0, "raised": ["E: x"]}) == "3 of 5 (2nd try)"
    assert package.outcome(found | {"untouched": 4}) == "3 of 5, 2 NaN, 4 untouched"
    assert package.outcome({"raised": ["TypeError: no"]}) == "TypeError"


def test_the_package_is_not_ours(tmp_path):
    with pytest.raises(InputError, match="no package lsuv in it; pip install --target"):
        package.version_in(str(tmp_path))
    import lsuv  # noqa: F401

    with pytest.raises(RunError, match="use another process"):
        package.imported(str(tmp_path))


def test_the_page_has_a_row_a_model_and_says_what_was_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    found = {"layers": 54, "outside": 2, "not_finite": 0, "untouched": 0, "raised": []}
    found |= {"forwards": 103, "seconds": 15.0, "plain": 0.2}
    rows = [
        GOOD | {"package": found, "left": {"no variance": ["a", "b"]}, "misses": []},
        {"name": "vgg16", "error": "it raised", "misses": ["it raised"]},
    ]
    made = [
        {"what": "resnet50", "name": name, "seconds": s, "ratio": s / 0.5}
        for name, s in (("ours", 0.5), ("torch orthogonal_", 2.0))
    ]
    path, ops = tmp_path / "torch.json", ops_for("numpy")
    write(path, ops, rows, threads=1, note="shared", matrices=made)
    text = report.part("torch")
    ours = "| resnet50 | 54 | 1.0e-06 | 1 | 3.0 | 9.0 | 2 no variance |"
    assert f"{ours} 2 of 54 | 103 | 75 | 8.0 | met |" in text
    assert "| vgg16 | it raised |" in text and "| resnet50 | 0.500 | 4.0 |" in text
    assert "; shared." in text


def test_the_page_says_how_many_seeds_a_loss_is_of(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    rows = [row(seed=seed, losses=[2.3, 1 + seed]) for seed in study.SEEDS]
    rows += [row(init="default", losses=[2.3, None]), row(init="package")]
    write(tmp_path / "torch_study.json", ops_for("numpy"), rows, settings=study.SETTINGS)
    line = "| VGG-like | 0.01 | 0 of 3 seeds | 1.500, 1 of 3 seeds | 2.000 (1.000 to 3.000) |"
    assert line in report.part("study")


# -- the study, without PyTorch --------------------------------------------------------------------


def test_all_of_seed_0_comes_first():
    order = study.cells(study.INITS)
    assert len(set(order)) == len(order) == 45
    assert [seed for *_, seed in order] == sorted(seed for *_, seed in order)
    assert {init for _, init, _ in study.cells(["ours"])} == {"ours"}


def row(net="VGG-like", init="ours", seed=0, **more) -> dict:
    return {"net": net, "init": init, "seed": seed, **({"losses": [2.3, 1.5]} | more)}


def test_a_study_goes_on_with_its_own_settings_alone(tmp_path):
    path = tmp_path / "study.json"
    assert study.done(path, study.SETTINGS) == []
    failed = {"net": "VGG-like", "init": "package", "seed": 0, "error": "killed"}
    path.write_text(json.dumps({"settings": study.SETTINGS, "rows": [row(), failed]}))
    assert study.done(path, study.SETTINGS) == [row()]  # what failed is tried again
    with pytest.raises(InputError, match="other settings"):
        study.done(path, study.SETTINGS | {"epochs": 9})


def test_what_is_missing_is_written_on_the_plot(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [row(seed=seed) for seed in (0, 1)] + [row(init="default", losses=[2.3, None])]
    figure = study.drawn(rows, study.SETTINGS)
    title = figure.axes[0].get_title()
    assert "lsuv.torch: 2 of 3 seeds" in title and "PyTorch's default: 0 of 3 seeds" in title
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() > 2]
    assert [list(line.get_ydata()) for line in thick] == [[2.3, 1.5]]  # no mean without its seeds
    study.draw(rows, study.SETTINGS, tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--only", "resnet51"], "'resnet51'"),
        (["--repeats", "0"], "--repeats 0"),
        (["--package", "/nowhere"], "--package /nowhere"),
        (["study", "--json", "x", "--inits", "msra"], "'msra'"),
        (["study", "--json", "x"], "--package FOLDER is missing"),
    ],
)
def test_bad_input_is_one_line(arguments, said, capsys):
    pytest.importorskip("torch")
    code = run_command("bench.torch_lsuv", lambda: command.main(arguments))
    line = capsys.readouterr().err
    assert code == 2 and said in line and line.count("\n") == 1


# -- with PyTorch ----------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def model(torch):
    """A convolution, batch norm, dropout, an attention, and a layer that runs twice."""
    nn = torch.nn

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8)
            self.drop, self.act = nn.Dropout(0.5), nn.ReLU(inplace=True)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            x = self.drop(self.norm(self.act(self.conv(x)))).transpose(1, 2)
            x = self.attention(x, x, x, need_weights=False)[0]
            return self.fc(2 * self.fc(x))

    torch.manual_seed(0)
    return Small().train()


def test_the_probe_measures_each_layer_and_leaves_the_model_as_it_was(torch, model):
    from bench.torch_lsuv.probe import State, draw_again, drawn, variances

    x = torch.randn(4, 3, 9)
    states = drawn()
    state = State(model)
    found = variances(model, x, train=True)
    state.was.pop("random numbers")  # dropout draws
    assert state.changed(model) == []
    parts = [f"attention.{p}" for p in (*(f"in_proj[{i}]" for i in range(3)), "out_proj")]
    assert list(found) == ["conv", *parts, "fc"]

    def variance(y):
        return pytest.approx(float(y.double().var(correction=0)))

    with torch.no_grad():
        z = model.conv(x)
        assert found["conv"] == variance(z)  # before the activation in place
        draw_again(states)
        h = model.drop(model.norm(model.act(z))).transpose(1, 2)
        W, b = model.attention.in_proj_weight, model.attention.in_proj_bias
        assert found["attention.in_proj[1]"] == variance(h @ W[8:16].T + b[8:16])
        out = model.attention(h, h, h)[0]
        assert found["attention.out_proj"] == variance(out)
        assert found["fc"] == variance(model.fc(out))  # the first call


def test_the_state_sees_every_change(torch, model):
    from bench.torch_lsuv.probe import State

    def buffer():
        model.norm.running_mean[0] += 1e-7

    def parameter():
        model.fc.weight = torch.nn.Parameter(model.fc.weight.detach().clone())

    changes = {
        "hooks": lambda: model.fc.register_forward_hook(print),
        "attributes": lambda: setattr(model.conv, "left", 1),
        "modes": lambda: model.drop.eval(),
        "buffers": buffer,
        "parameters": parameter,
        "settings": lambda: torch.backends.mha.set_fastpath_enabled(False),
    }
    for draw in (lambda: torch.rand(1), random.random, lambda: np.random.rand(1)):
        state = State(model)
        draw()
        assert state.changed(model) == ["random numbers"]
    for what, change in changes.items():
        state = State(model)
        assert state.changed(model) == []
        change()
        torch.backends.mha.set_fastpath_enabled(True) if what != "settings" else None
        assert state.changed(model) == [what]
    torch.backends.mha.set_fastpath_enabled(True)
    state = State(model)
    model.norm.weight.requires_grad_(False)
    assert state.changed(model) == ["parameters"]


def test_forwards_are_counted_and_matrices_are_a_groups(torch, monkeypatch):
    from bench.torch_lsuv import nets, trial

    nn = torch.nn
    parts = [nn.Conv1d(4, 6, 3, groups=2), nn.ConvTranspose1d(6, 4, 5, groups=2), nn.Linear(11, 7)]
    small = nets.Net("torch", lambda: nn.Sequential(*parts), lambda: torch.randn(2, 4, 9))
    monkeypatch.setitem(nets.NETS, "small", small)
    found = trial.Ours(Setting(torch.get_num_threads(), "numpy"), "small")
    assert found.forwards_of(lambda: [found.plain() for _ in range(3)]) == 3
    assert "forward" not in vars(found.model) and found.step() > 0
    found.scaled = {"0", "1", "2"}
    assert found.matrices() == [(3, 6)] * 2 + [(2, 15)] * 2 + [(7, 11)]


def test_a_cell_learns_and_a_seed_is_the_same_weights_and_order(torch, monkeypatch):
    from bench.torch_lsuv import cell
    from engine.data import load

    monkeypatch.setattr(cell, "load", lambda name, folder, limit: load("synthetic", limit=limit))
    few = {"images": 100, "judged": 50, "init_images": 20, "epochs": 2, "batch": 10}
    place = cell.Cell(Setting(torch.get_num_threads(), "numpy"), study.SETTINGS | few, None, None)
    losses = place.train("small ViT", "default", 0)
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert place.train("small ViT", "default", 0) == losses
    assert place.train("small ViT", "default", 1)[0] != losses[0]
    assert set(study.NETS) == set(cell.NETS)
