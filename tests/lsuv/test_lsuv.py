"""Algorithm 1: what is true of a net afterwards, and what is refused."""

import json
from math import prod

import numpy as np
import pytest

from engine.containers import STOP, AuxiliaryClassifier, Branches, Chain, Residual
from engine.diagnosis import first_in_step
from engine.errors import InputError
from engine.layers import BatchNorm, Conv, Dropout, Linear, Maxout, MaxPool, ReLU, Tanh, Weighted
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.run.checkpoint import collect
from kernels.clock import STEP
from kernels.reference import NumpyOps
from lsuv import LsuvError, fill, initialise, lsuv, measure
from lsuv.__main__ import main
from lsuv.fillers import piece_rows

N, SHAPE = 16, (8, 8, 3)


def maxout_layers():
    return [
        Dropout(0.2),
        Conv(8, pieces=2, name="conv1"),
        Maxout(2),
        Conv(8, name="conv2"),
        Tanh(),
        MaxPool(2),
        Dropout(0.2),
        Linear(20, pieces=5, name="ip1"),
        Maxout(5),
        Linear(4, name="clf"),
    ]


def relu_layers():
    return [
        Conv(8, name="conv1"),
        ReLU(),
        Conv(8, name="conv2"),
        ReLU(),
        MaxPool(2),
        Linear(12, name="ip1"),
        ReLU(),
        Linear(4, name="clf"),
    ]


class Batches:
    """Random images, new ones and a new step of the clock at every call; counts its calls."""

    def __init__(self, net, seed=0):
        self.net, self.random, self.calls = net, np.random.default_rng(seed), 0

    def __call__(self):
        x = 3 * self.random.normal(size=self.net.x.shape) + 1
        self.net.x[...] = self.net.ops.asarray(x.astype(self.net.dtype))
        self.net.clock[STEP] = self.calls
        self.calls += 1


def make(layers, ops=None, init="lsuv", batch=N):
    net = Net(layers, SoftmaxLoss(), ops or NumpyOps(), SHAPE, batch=batch)
    fill(net, init, seed=1)
    return net, Batches(net)


def output_variances(net):
    """{layer: variance of each piece's z}, found by NumPy on a pass of the training phase."""
    found = {}

    def before(layer, x):
        z = np.asarray(net.ops.tohost(layer.forward(x, True)), np.float64)
        found[layer.name] = [z[..., rows].var() for rows in piece_rows(layer)]

    net.forward(train=True, before=before)
    return found


def weights(net):
    return net.ops.tohost(net.weights).copy()


# -- what is true afterwards --------------------------------------------------------------------


@pytest.mark.parametrize("layers", [maxout_layers, relu_layers])
def test_every_piece_has_unit_variance_on_a_fresh_pass(ops, layers):
    net, batches = make(layers(), ops)
    report = lsuv(net, batches, tolerance=1e-3)
    variances = output_variances(net)  # the batch is still in net.x, the clock at its step, 0
    for name, pieces in variances.items():
        assert np.abs(np.array(pieces) - 1).max() <= 1e-3, name
    assert batches.calls == report.forwards == 1
    assert [row.variance_after for row in report.rows] == pytest.approx(
        sum(variances.values(), []), rel=1e-4
    )


def test_the_first_layer_is_scaled_too():
    net, batches = make(relu_layers())
    report = lsuv(net, batches)
    first = report.layers()["conv1"][0]
    assert first.iterations == 1
    assert first.variance_before == pytest.approx(9, rel=0.2)  # less at the zero padding
    assert first.scale == pytest.approx(first.variance_before**-0.5)


def test_scaling_keeps_the_matrices_orthonormal_and_the_biases_zero():
    net, batches = make(maxout_layers())
    report = lsuv(net, batches)
    assert max(row.orthogonality_error for row in report.rows) < 2e-6
    assert not any(layer.b.any() for layer in net.weighted())


def test_a_second_run_on_kept_weights_changes_no_bit():
    net, batches = make(maxout_layers())
    lsuv(net, batches)
    once = weights(net)
    report = lsuv(net, Batches(net))
    assert np.array_equal(weights(net), once)
    assert all(row.iterations == 0 and row.scale == 1 for row in report.rows)


def test_pieces_are_scaled_each_by_its_own():
    net, batches = make(maxout_layers())
    conv1 = net.weighted()[0]
    first, second = piece_rows(conv1)
    conv1.W[second] *= 7
    report = lsuv(net, batches)
    one, two = report.layers()["conv1"]
    assert two.variance_before > 20 * one.variance_before
    assert one.variance_after == pytest.approx(1) and two.variance_after == pytest.approx(1)


def test_the_report_tells_the_truth_about_the_weights():
    net, batches = make(maxout_layers())
    before = weights(net)
    stds = [layer.W[rows].std() for layer in net.weighted() for rows in piece_rows(layer)]
    report = lsuv(net, batches)
    assert [row.weight_std_before for row in report.rows] == pytest.approx(stds, rel=1e-5)
    for layer in net.weighted():
        for row, rows in zip(report.layers()[layer.name], piece_rows(layer), strict=True):
            assert row.weight_std_after == pytest.approx(layer.W[rows].std(), rel=1e-5)
            scaled = row.scale * row.weight_std_before
            assert row.weight_std_after == pytest.approx(scaled, rel=1e-5)
            assert (row.outputs, row.fan_in) == (len(layer.W[rows]), layer.fan_in)
    assert not np.array_equal(weights(net), before)


@pytest.mark.parametrize("mode", ["same", "fresh"])
@pytest.mark.parametrize("batches", [1, 3])
def test_every_attempt_scales_the_layer_it_measured(mode, batches):
    """Biases make one division inexact. A scale that lands on another layer never converges."""
    net, feed = make(relu_layers(), batch=64)
    for k, layer in enumerate(net.weighted()):
        layer.b[...] = np.random.default_rng(k).normal(0, 0.6, layer.b.shape)
    biases = [layer.b.copy() for layer in net.weighted()]
    report = lsuv(net, feed, mode=mode, tolerance=0.02, batches=batches)
    assert max(row.iterations for row in report.rows) > 1
    for row in report.rows:
        assert abs(row.variance_after - 1) <= 0.02
    feed()
    for name, (variance,) in output_variances(net).items():
        assert abs(variance - 1) < 0.25, name  # another batch of 64
    assert all(np.array_equal(layer.b, b) for layer, b in zip(net.weighted(), biases, strict=True))


def test_fresh_takes_a_new_batch_for_every_measurement():
    net, batches = make(maxout_layers(), batch=64)
    report = lsuv(net, batches, mode="fresh", tolerance=0.1)
    assert batches.calls == report.forwards > len(net.weighted())
    batches()
    for name, pieces in output_variances(net).items():
        assert np.abs(np.array(pieces) - 1).max() < 0.3, name


def test_several_batches_pool_to_the_variance_of_all_of_them():
    net, batches = make(maxout_layers(), batch=8)
    report = lsuv(net, batches, batches=4, tolerance=1e-3)
    assert batches.calls == 4 and report.settings["images"] == 32
    replay = Batches(net)
    for layer in net.weighted():
        z = []
        replay.__init__(net)
        for _ in range(4):
            replay()

            def before(at, x, layer=layer, z=z):
                if at is layer:
                    z.append(at.forward(x, True).copy())
                    return STOP

            net.forward(True, before)
        z = np.concatenate(z).astype(np.float64)
        for row, rows in zip(report.layers()[layer.name], piece_rows(layer), strict=True):
            assert row.variance_after == pytest.approx(z[..., rows].var(), rel=1e-5)
            assert row.mean == pytest.approx(z[..., rows].mean(), abs=1e-5)
            assert row.variance_after == pytest.approx(1, abs=1e-3)


def test_a_residual_branch_is_measured_before_the_sum():
    net, batches = make(
        [
            Conv(8, name="conv1"),
            ReLU(),
            Residual([Conv(8, name="conv2")]),
            ReLU(),
            Linear(4, name="clf"),
        ]
    )
    lsuv(net, batches)
    conv2 = net.weighted()[1]
    assert conv2.z.astype(np.float64).var() == pytest.approx(1, abs=1e-4)
    summed = net.chain.layers[2].y.astype(np.float64)
    assert abs(summed.var() - 1) > 0.1


def test_the_net_is_given_back_but_for_its_weights():
    net, batches = make(
        [Conv(8, name="conv1"), BatchNorm(name="bn1"), ReLU(), Dropout(0.5), Linear(4, name="clf")]
    )
    for k, state in enumerate(net.named_state().values()):
        state[...] = k + 0.5
    net.clock[:] = np.arange(len(net.clock)) + 1.0
    clock = net.clock.copy()
    states = {name: state.copy() for name, state in net.named_state().items()}
    for mode in ("same", "fresh"):
        report = lsuv(net, batches, mode=mode, tolerance=0.2)
        assert np.array_equal(net.clock, clock)
        assert all(np.array_equal(net.named_state()[name], s) for name, s in states.items())
    assert "batch normalisation right after conv1" in report.notes[0]
    assert not measure(net, batches).notes


# -- options ------------------------------------------------------------------------------------


def test_include_and_exclude_choose_the_layers():
    net, batches = make(relu_layers())
    before = {layer.name: layer.W.copy() for layer in net.weighted()}
    report = lsuv(net, batches, include=["conv*", "ip1"], exclude=["conv2"], tolerance=1e-3)
    changed = [
        layer.name for layer in net.weighted() if not np.array_equal(layer.W, before[layer.name])
    ]
    assert changed == ["conv1", "ip1"]
    left = report.layers()["conv2"][0]
    assert left.iterations == 0 and left.variance_before == left.variance_after != 1
    with pytest.raises(InputError, match="'conv9'.*did you mean 'conv"):
        lsuv(net, batches, exclude=["conv9"])


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(mode="frsh"), "unknown LSUV mode 'frsh'; did you mean 'fresh'"),
        (dict(normalise="in"), "unknown normalisation"),
        (dict(tolerance=0.0), "tolerance 0.0"),
        (dict(max_iter=0), "max_iter 0"),
        (dict(batches=0), "batches 0"),
    ],
)
def test_bad_options_are_named(wrong, message):
    net, batches = make(relu_layers())
    with pytest.raises(InputError, match=message):
        lsuv(net, batches, **wrong)


def test_input_mode_gives_every_later_layer_a_unit_variance_input():
    net, batches = make(relu_layers())
    report = lsuv(net, batches, normalise="input")
    inputs = {}
    net.forward(True, lambda layer, x: inputs.__setitem__(layer.name, x.astype(np.float64).var()))
    assert inputs.pop("conv1") == pytest.approx(9, rel=0.1)  # the images stay as they are
    assert list(inputs.values()) == pytest.approx([1, 1, 1], abs=1e-4)
    assert net.scores.astype(np.float64).var() == pytest.approx(1, abs=1e-4)
    assert report.rows[0].variance_after == pytest.approx(inputs["conv2"], rel=1e-5)
    once = weights(net)
    lsuv(net, Batches(net), normalise="input")
    assert np.array_equal(weights(net), once)


def test_input_mode_scales_pieces_together():
    net, batches = make([Conv(8, pieces=2, name="conv1"), Maxout(2), Linear(4, name="clf")])
    one, two = lsuv(net, batches, normalise="input").layers()["conv1"]
    assert one.scale == two.scale != 1


def test_initialise_scales_for_lsuv_and_only_looks_otherwise():
    net, batches = make(maxout_layers())
    report = initialise(net, "msra", batches, seed=4)
    filled = weights(net)
    fill(net, "msra", seed=4)
    assert np.array_equal(filled, weights(net))
    assert all(row.scale == 1 and row.iterations == 0 for row in report.rows)
    report = initialise(net, "lsuv", batches, seed=4, tolerance=0.01)
    assert report.settings["tolerance"] == 0.01
    assert all(abs(row.variance_after - 1) <= 0.01 for row in report.rows)


def test_lsuv_may_start_from_another_filler():
    net, batches = make(relu_layers())
    report = initialise(net, "lsuv", batches, seed=4, pre="gaussian")
    assert report.rows[2].weight_std_before == pytest.approx(0.01, rel=0.1)
    assert report.rows[2].variance_after == pytest.approx(1, abs=0.05)
    with pytest.raises(InputError, match="tolerance, pre: for init lsuv, not msra"):
        initialise(net, "msra", batches, pre="ortho", tolerance=0.1)


def test_report_as_table_and_json():
    net, batches = make(maxout_layers())
    report = lsuv(net, batches)
    lines = report.table().splitlines()
    assert max(len(line) for line in lines) <= 100
    assert [line.split()[0] for line in lines[2:6]] == ["conv1", "conv2", "ip1", "clf"]
    assert "27 -> 2 x 8" in lines[2]
    assert lines[-1].startswith("largest |variance - 1| of what was scaled ")
    assert report.largest_deviation == max(abs(row.variance_after - 1) for row in report.rows)
    assert measure(net, batches).largest_deviation is None
    assert report.as_dict()["largest_deviation"] == report.largest_deviation
    found = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert len(found["rows"]) == 2 + 1 + 5 + 1 and found["settings"]["mode"] == "same"
    net.x[...] = np.inf
    net.weighted()[0].W[...] = np.inf
    with np.errstate(all="ignore"):
        sick = measure(net, lambda: None).as_dict()
    assert sick["rows"][0]["variance_after"] is None


# -- degenerate cases ---------------------------------------------------------------------------


def test_zero_variance_names_layer_and_piece():
    net, batches = make(maxout_layers())
    net.weighted()[0].W[piece_rows(net.weighted()[0])[1]] = 0
    with pytest.raises(LsuvError, match="^conv1 piece 1: output variance 0 ") as error:
        lsuv(net, batches)
    assert (error.value.layer, error.value.piece) == ("conv1", 1)


def test_constant_output_is_zero_variance_even_when_it_rounds():
    net = Net(
        [Conv(3, size=1, pad=0, name="mix"), Linear(2, name="clf")],
        SoftmaxLoss(),
        NumpyOps(),
        SHAPE,
        batch=2,
    )
    fill(net, "ortho", seed=0)
    mix = net.weighted()[0]
    mix.W[...] = 1 / 3
    net.x[...] = 0.1
    with pytest.raises(LsuvError, match="^mix: output variance .*nothing to scale"):
        lsuv(net, lambda: None)


@pytest.mark.parametrize("mode", ["same", "fresh"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_name_the_layer(mode, bad):
    net, batches = make(relu_layers())
    net.weighted()[1].W.flat[5] = bad
    message = "^conv2: output variance (nan|inf)"
    with np.errstate(all="ignore"), pytest.raises(LsuvError, match=message):
        lsuv(net, batches, mode=mode)


def test_biases_too_large_do_not_converge_and_are_named():
    net, batches = make(relu_layers())
    net.weighted()[1].b[...] = 3 * (-1.0) ** np.arange(8)
    with pytest.raises(LsuvError, match="^conv2: .* after 5 divisions.*biases alone have 9"):
        lsuv(net, batches, max_iter=5)


def test_fresh_with_too_few_tries_does_not_converge():
    net, batches = make(relu_layers(), batch=2)
    with pytest.raises(LsuvError, match="after 1 divisions.*raise the tolerance"):
        lsuv(net, batches, mode="fresh", tolerance=1e-6, max_iter=1)


def test_input_mode_names_what_can_not_be_normalised():
    """tanh saturates: no scale brings the next layer's input to a variance of one."""
    net, batches = make([Conv(8, name="conv1"), Tanh(), Linear(4, name="clf")])
    with pytest.raises(LsuvError, match="conv1: .*input normalisation wants a plain chain"):
        lsuv(net, batches, normalise="input", tolerance=0.001, max_iter=10)


def test_containers_inside_containers_are_reached():
    net, batches = make(
        [
            Chain([Conv(8, name="conv1"), BatchNorm(name="bn1"), ReLU()], name="stem"),
            Linear(4, name="clf"),
        ]
    )
    report = lsuv(net, batches)
    assert list(report.layers()) == ["conv1", "clf"] and "conv1" in report.notes[0]


class Own(Weighted):
    """A fully connected layer of somebody else, with no bias."""

    def setup(self, plan, in_shape):
        self.weights(plan, (self.outputs, prod(in_shape)))
        self.z, self.dx = plan.output((self.outputs,)), plan.gradient(in_shape)
        return (self.outputs,)

    def forward(self, x, train):
        self.x = x.reshape(len(x), -1)
        self.z[...] = self.x @ self.W.T
        return self.z

    def backward(self, dz):
        self.dz = dz
        self.dW[...] = dz.T @ self.x
        if self.dx is not None:
            self.dx[...] = (dz @ self.W).reshape(self.dx.shape)
        return self.dx


def test_a_layer_of_ones_own_is_filled_scaled_named_and_saved_as_any():
    """All that the rooms expect of a layer with weights is what Weighted states."""
    net, batches = make(
        [
            Own(12, pieces=2, bias=False, name="own"),
            Maxout(2),
            ReLU(),
            Own(4, bias=False, name="end"),
        ]
    )
    report = lsuv(net, batches)
    assert [(row.layer, row.piece, row.fan_in) for row in report.rows] == [
        ("own", 0, 192),
        ("own", 1, 192),
        ("end", 0, 12),
    ]
    assert report.largest_deviation <= 0.05
    tensors = collect(net)
    assert list(tensors) == ["own.W", "end.W"]
    W = tensors["own.W"].reshape(24, 3, 8, 8).transpose(0, 2, 3, 1).reshape(24, -1)
    assert np.array_equal(W, net.weighted()[0].W)  # inputs in C, H, W order, as any Linear's
    net.weighted()[1].W[0] = np.nan
    assert first_in_step(net) == "the weights of end"


def test_fill_of_some_layers_leaves_the_others_and_their_streams():
    net, whole = make(maxout_layers(), init="msra")[0], make(maxout_layers())[0]
    before = weights(net)
    fill(net, "lsuv", 1, include=["ip1", "clf"], exclude="clf")
    for name, p in net.named_params().items():
        if name == "ip1.W":
            assert np.array_equal(p.value, whole.named_params()[name].value)
        else:
            assert np.array_equal(p.value, net.arenas.view(before, name)), name
    with pytest.raises(InputError, match="no layer with weights is called 'ip'; did you mean"):
        fill(net, "lsuv", 1, include=["ip"])


# -- the command --------------------------------------------------------------------------------

SMALL = [
    "--net",
    "fitnet1",
    "--data",
    "synthetic",
    "--limit",
    "64",
    "--device",
    "numpy",
    "--batch",
    "8",
]


def test_command_prints_the_table_and_writes_the_report(capsys, tmp_path):
    file = tmp_path / "init.json"
    assert (
        main(
            [
                *SMALL,
                "--act",
                "relu",
                "--init",
                "lsuv",
                "--lsuv-batch",
                "4",
                "--json",
                str(file),
                "--lsuv-exclude",
                "clf",
                "--lsuv-batches",
                "2",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "conv11  27 -> 16" in out
    assert "not a real data set" in out.splitlines()[-1]
    found = json.loads(file.read_text())
    assert found["settings"]["images"] == 8 and found["settings"]["act"] == "relu"
    assert (found["settings"]["pre"], found["settings"]["include"]) == ("ortho", ["*"])
    assert found["settings"]["exclude"] == ["clf"]
    assert found["largest_deviation"] <= 0.05 < abs(found["rows"][-1]["variance_after"] - 1)
    *scaled, clf = found["rows"]
    assert all(abs(row["variance_after"] - 1) <= 0.05 for row in scaled)
    assert clf["iterations"] == 0


def test_command_needs_no_more_images_than_lsuvs_batch():
    assert main([*SMALL[:-2], "--lsuv-batch", "16"]) == 0  # the recipe's batch is 128


def test_command_measures_every_other_initialiser(capsys):
    assert main([*SMALL, "--init", "xavier"]) == 0
    assert "27 -> 2 x 16" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["--init", "msra", "--lsuv-pre", "gaussian"], "--lsuv-pre is for --init lsuv, not msra"),
        (["--lsuv-normalise", "outptu"], "did you mean 'output'"),
        (["--lsuv-batches", "0"], "--lsuv-batches 0 must be 1 or more"),
        (["--json", "/nowhere/x.json"], "no folder /nowhere"),
        (["--json", "/"], "a folder; give"),
        (["--lsuv-exclude", "clg"], "did you mean 'clf'"),
    ],
)
def test_command_refuses_in_one_line(wrong, message):
    with pytest.raises(InputError, match=message):
        main([*SMALL, *wrong])


def branched_layers():
    return [
        Conv(8, name="conv1"),
        ReLU(),
        AuxiliaryClassifier(
            [Conv(4, name="aux1"), ReLU(), Dropout(0.5), Linear(4, name="aux2")],
            SoftmaxLoss(),
            0.3,
            "side",
        ),
        Branches(
            [
                [Conv(6, pieces=2, name="left"), Maxout(2)],
                [],
                [Conv(5, name="right"), BatchNorm(name="bn_right"), ReLU()],
            ],
            "fork",
        ),
        Dropout(0.2),
        Linear(4, name="clf"),
    ]


@pytest.mark.parametrize("mode, batches", [("same", 1), ("same", 3), ("fresh", 1)])
def test_branches_and_side_exits_have_unit_variance_too(ops, mode, batches):
    net, next_batch = make(branched_layers(), ops)
    clock = net.clock.copy()
    report = lsuv(net, next_batch, mode=mode, batches=batches, tolerance=0.1)
    assert [row.layer for row in report.rows] == [
        "conv1",
        "aux1",
        "aux2",
        "left",
        "left",
        "right",
        "clf",
    ]
    assert report.largest_deviation <= 0.1
    assert report.notes and "right after right divides" in report.notes[0]
    np.testing.assert_array_equal(net.clock, clock)
    if (mode, batches) == ("same", 1):
        net.clock[STEP] = next_batch.calls - 1
        net.forward(train=True)
        for layer in net.weighted():
            if layer.name != "conv1":  # whose z is a slot
                variance = net.ops.variance(layer.forward(layer.x, True), layer.pieces)[1]
                assert np.abs(variance - 1).max() <= 0.1, layer.name


@pytest.mark.parametrize("number, name", [(2, "side"), (3, "fork")])
def test_input_normalisation_wants_a_plain_chain(number, name):
    layers = branched_layers()
    net, next_batch = make([layers[0], layers[1], layers[number], layers[-1]])
    before = net.weights.copy()
    with pytest.raises(InputError, match=f"{name} has no next layer of its own"):
        lsuv(net, next_batch, normalise="input")
    np.testing.assert_array_equal(net.weights, before)
