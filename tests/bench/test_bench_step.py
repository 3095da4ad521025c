"""The bench of a training step: its rows, what it refuses to time, and a peer of the same net.

Read next: bench/step.py.
"""

import importlib.util
import json
import types
from dataclasses import replace

import numpy as np
import pytest

import models
from bench import report, step
from bench.common import contest
from bench.common.contest import (
    Contestant,
    Deadline,
    Entry,
    Place,
    Refused,
    close,
    compete,
    peak_mb,
)
from bench.common.ours import Convolutions, Recorder, check
from engine.containers import AuxiliaryClassifier, Residual
from engine.errors import InputError, RunError
from engine.layers import Conv, Linear, Maxout, MaxPool, ReLU
from engine.losses import SoftmaxLoss
from engine.net import Net
from helpers.devices import DEVICES
from kernels import ops_for
from lsuv.fillers import fill
from models.caffenet import caffenet
from models.googlenet import googlenet

SMALL = [
    "--net",
    "fitnet_mnist",
    "--data",
    "synthetic",
    "--batch",
    "8",
    "--steps",
    "1",
    "--seconds",
    "0",
    "--rounds",
    "2",
]
ENTRY = Entry("fitnet_mnist", "maxout", 4, "fp32", 1, "numpy", "synthetic")


def rows_of(tmp_path, *more: str) -> dict:
    path = tmp_path / "step_fitnet_mnist_fp32.json"
    assert step.main([*SMALL, *more, "--json", str(path)]) == 0
    return json.loads(path.read_text())


@pytest.mark.parametrize("net", ["fitnet_mnist", "fitnet4-bn-before"])
def test_in_bf16_devices_agree_well_enough_to_be_timed(net):
    for ops in DEVICES:
        if "bf16" in ops.precisions:
            check(ops, replace(ENTRY, net=net, precision="bf16"))


def test_rows_of_our_step_alone(tmp_path, capsys, monkeypatch):
    found = rows_of(tmp_path)
    rows = found["rows"]
    ours, tested, alone, direct, *ops = rows
    for r, phase in ((ours, "train"), (tested, "test")):
        assert (r["name"], r["phase"], r["batch"], r["precision"]) == ("ours", phase, 8, "fp32")
        assert r["ratio"] is None and r["peak_mb"] > 20
        assert r["images_per_second"] == pytest.approx(8 / r["seconds"])
    assert alone["name"] == "convolutions alone" and alone["share"] > 0
    assert direct["name"] == "convolutions by oneDNN" and direct["share"] > 0
    names = {r["name"] for r in ops}
    assert {
        "gather",
        "conv_forward",
        "conv_backward_data",
        "conv_backward_filter",
        "clip",
        "rmsprop_step",
        "advance",
    } <= names
    assert all(r["seconds"] > 0 and r["of_ceiling"] >= 0 for r in ops)
    assert all(rate > 0 for rate in found["ceilings"].values())
    guard = sum(r["seconds"] for r in ops if r["name"] in ("clip", "softmax_loss_forward"))
    assert found["guard"] == pytest.approx({"seconds": guard, "share": guard / ours["seconds"]})
    assert "convolutions alone" in capsys.readouterr().out
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert "| fitnet_mnist, maxout, fp32 | 8 |" in report.part("step")


@pytest.mark.slow
def test_rows_against_pytorch(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    eager = {
        "torch eager": {},
        "torch eager channels_last": {"channels_last": True},
        "torch odd": {"no such": "mode"},
    }
    monkeypatch.setattr(step, "CPU_MODES", eager)
    found = rows_of(tmp_path, "--against", "torch")
    rows = [r for r in found["rows"] if r["name"].startswith("torch eager")]
    assert sorted((r["name"], r["phase"]) for r in rows) == [
        (name, phase) for name in sorted(eager)[:2] for phase in ("test", "train")
    ]
    for r in rows:
        low, high = r["ratios"]
        assert 0 < low <= r["ratio"] <= high and r["peak_mb"] > 20
    (odd,) = (r for r in found["rows"] if r["name"] == "torch odd")
    assert "no such" in odd["error"] and "seconds" not in odd
    assert f"torch {torch.__version__}" in found["machine"]["versions"]
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert "(eager" in report.part("step")


@pytest.mark.parametrize(
    "op, result",
    [
        ("conv_forward", 3),
        ("conv_backward_filter", 2),
        ("maxout_pool_backward", 2),
        ("rmsprop_step", 0),
    ],
)
def test_a_wrong_kernel_is_not_timed(op, result, monkeypatch):
    ops = ops_for("auto")
    if ops.name == "numpy":
        pytest.skip("device numpy is the reference itself")
    right = getattr(type(ops), op)

    def wrong(self, *arguments):
        right(self, *arguments)
        arguments[result][...] *= -1

    monkeypatch.setattr(type(ops), op, wrong)
    monkeypatch.setattr(step, "start", lambda *_: pytest.fail("a wrong kernel came to be timed"))
    with pytest.raises(RunError, match="wrong kernel is not timed"):
        step.main(SMALL)


def test_without_the_peer_the_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install torch"):
        step.main([*SMALL, "--against", "torch"])


def test_a_contestant_that_fails_says_why_in_a_line():
    with pytest.raises(Refused, match="ModuleNotFoundError: No module named 'bench.nobody'"):
        Contestant("nobody", "bench.nobody:Nobody", ENTRY)
    ours = Contestant("ours", "bench.common.ours:Ours", ENTRY)
    try:
        assert ours.ask("train", 1) > 0 and ours.ask("peak_mb") > 20
        with pytest.raises(Refused, match="AttributeError"):
            ours.ask("dance")
        with pytest.raises(Refused, match="ended"):
            ours.ask("train", 1)
    finally:
        ours.close()
    assert not ours.process.is_alive()


def test_peak_memory_is_of_this_process_and_grows_with_it():
    before = peak_mb()
    size = int(before) * 2_000_000
    np.ones(size, np.uint8)
    assert peak_mb() > size / 1e6


def test_where_there_is_no_proc_the_peak_is_getrusages_in_the_systems_unit(monkeypatch):
    """1,024 bytes on Linux and bytes on macOS."""

    def missing(self):
        raise FileNotFoundError(self)

    monkeypatch.setattr(contest.pathlib.Path, "read_text", missing)
    monkeypatch.setattr(
        contest.resource, "getrusage", lambda who: types.SimpleNamespace(ru_maxrss=50_000_000)
    )
    for platform, megabytes in (("linux", 51_200), ("darwin", 50)):
        monkeypatch.setattr(contest.sys, "platform", platform)
        assert peak_mb() == megabytes


def test_a_peer_that_fails_leaves_and_ours_may_not():
    ours, late, weak = (
        Contestant(name, "helpers.contestants:Late", ENTRY, **options)
        for name, options in (("ours", {}), ("late", {"first": 30}), ("weak", {"good": 3}))
    )
    try:
        places = [
            Place("ours", ours, "train"),
            Place("late", late, "train", peer=True),
            Place("weak", weak, "train", peer=True),
        ]
        left = compete(places, 3, 1, 0.0, Deadline(0))
        assert left == {"late": "no answer within 1 s", "weak": "RuntimeError: planted"}
        assert not late.process.is_alive() and not weak.process.is_alive()
        assert ours.turns["train"] == [1e-4] * 3
        weak = Contestant("weak", "helpers.contestants:Late", ENTRY, good=3)
        with pytest.raises(RunError, match="ours, launched: RuntimeError: planted"):
            compete([Place("ours, launched", weak, "train")], 3, 1, 0.0)
    finally:
        close([ours, late, weak])


def test_the_bound_makes_the_convolutions_of_a_step_and_nothing_else():
    bound = Convolutions(ENTRY)
    names = [call.__name__ for call, _ in bound.calls]
    assert names == (
        ["conv_forward"] * 6
        + ["conv_backward_filter", "conv_backward_data"] * 5
        + ["conv_backward_filter"]
    )
    for _, arguments in bound.calls:
        assert len(arguments[0]) == ENTRY.batch and np.isfinite(arguments[0]).all()


def test_the_recorder_passes_on_and_keeps():
    recorder = Recorder(ops_for("numpy"))
    a, y = np.arange(3.0), np.empty(3)
    recorder.add(a, a, y)
    assert (y == 2 * a).all() and recorder.name == "numpy"
    assert [name for name, _ in recorder.calls] == ["add"]


def scores_of_both(layers, in_shape, train: bool):
    """Ours on the reference and PyTorch's, with our weights, on the same three images."""
    torch = pytest.importorskip("torch")
    from bench.peers.torch_nets import module

    theirs = module(layers, in_shape).train(train)
    net = Net(layers, SoftmaxLoss(), ops_for("numpy"), in_shape, 3)
    fill(net, "ortho", 0, "maxout")
    net.x[...] = np.random.default_rng(0).standard_normal(net.x.shape)
    for value in (p.value for name, p in net.named_params().items() if name.endswith(".b")):
        value[...] = np.linspace(-0.1, 0.1, value.size)
    weighted = [m for m in theirs.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    with torch.no_grad():
        for ours, m in zip(net.weighted(), weighted, strict=True):
            W = ours.W
            if W.ndim == 2 and len(ours.in_shape) == 3:  # F is H, W, C here and C, H, W there
                H, width, C = ours.in_shape
                W = W.reshape(-1, H, width, C).transpose(0, 3, 1, 2).reshape(W.shape)
            elif W.ndim == 4:
                W = W.transpose(0, 3, 1, 2)
            m.weight.copy_(torch.from_numpy(np.ascontiguousarray(W)))
            m.bias.copy_(torch.from_numpy(ours.b))
        x = torch.from_numpy(net.x.transpose(0, 3, 1, 2).copy())
        got = theirs(x).numpy()
    assert sum(p.numel() for p in theirs.parameters()) == net.parameters
    return net.forward(train=train).copy(), got


PEERS = [
    (name, act)
    for name, model in models.NETS.items()
    if model.in_shape[0] <= 32
    for act in (model.acts if name.startswith("fit") else [model.act])
    if not name.startswith("fmp")  # whose windows are each one's own
    and name != "maxout-cifar"  # a matrix whose orthogonal values take PyTorch many seconds
]


@pytest.mark.parametrize("net, act", PEERS)
def test_the_peer_is_the_same_net(net, act):
    layers = models.build(net, act, 10, dropout=False)
    # Of batch norm running statistics are kept differently; a batch's are the same.
    train = "bn" in net or "min" in net
    ours, theirs = scores_of_both(layers, models.NETS[net].in_shape, train)
    assert np.abs(ours).max() > 1e-3
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3 * np.abs(ours).max())


def test_a_head_of_the_peer_learns():
    """The activation behind it leaves what it has read as it was."""
    torch = pytest.importorskip("torch")
    from bench.peers.torch_nets import module

    head = AuxiliaryClassifier([Linear(3)], SoftmaxLoss(), 1.0)
    net = module([Conv(4), head, ReLU(), Linear(3)], (5, 5, 2)).train()
    (net(torch.randn(2, 2, 5, 5)).sum() + net[1].scores.sum()).backward()
    assert all(p.grad is not None for p in net.parameters())


def without_fc7():
    """CaffeNet, but for a matrix whose orthogonal values take PyTorch many seconds."""
    *most, _, _, last = caffenet("relu", 10, dropout=False)
    return [*most, last]


@pytest.mark.parametrize(
    "layers, size", [(without_fc7, 67), (lambda: googlenet("relu", 10, False, last=2), 80)]
)
def test_the_peer_of_an_imagenet_net_is_the_same(layers, size):
    ours, theirs = scores_of_both(layers(), (size, size, 3), train=True)
    assert np.abs(ours).max() > 1e-3
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3 * np.abs(ours).max())


def test_the_peer_of_strides_groups_and_overlapping_pools():
    layers = [
        Conv(6, size=5, stride=2, pad=1, pieces=2),
        Maxout(2),
        MaxPool(4, 3),
        Residual([Conv(6, groups=3)]),
        Linear(7, pieces=5),
        Maxout(5),
        Linear(10),
    ]
    ours, theirs = scores_of_both(layers, (29, 23, 3), train=False)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("way", ["maximum", "amax", "max"])
@pytest.mark.parametrize("pieces", [2, 3])
def test_every_way_to_write_a_maxout_is_a_maxout(way, pieces):
    torch = pytest.importorskip("torch")
    from bench.peers.torch_nets import TorchMaxout

    x = torch.randperm(2 * pieces * 5 * 3).float().reshape(2, pieces * 5, 3, 1)
    want = x.numpy().reshape(2, pieces, 5, 3, 1).max(1)
    np.testing.assert_array_equal(TorchMaxout(pieces, way)(x).numpy(), want)


def test_the_ways_to_write_a_maxout_are_timed_only_where_there_is_one():
    names = {act: set(step.peers_of("cpu", act)) for act in ("maxout", "relu")}
    assert names["maxout"] - names["relu"] == {"torch eager amax", "torch eager max"}


def test_a_maxout_that_pools_and_drops_has_the_peers_of_all_three():
    pytest.importorskip("torch")
    from bench.peers.torch_nets import walk

    modules, shape = walk([Maxout(2, 4, 2, drop=0.3)], (13, 13, 8), "maximum")
    assert [type(m).__name__ for m in modules] == ["TorchMaxout", "MaxPool2d", "Dropout"]
    assert shape == (6, 6, 4) and modules[2].p == 0.3
    assert (modules[1].kernel_size, modules[1].stride, modules[1].ceil_mode) == (4, 2, True)
