"""The fillers: distributions, orthonormality, a matrix a piece, the same on every device."""

from math import sqrt

import numpy as np
import pytest

from engine.errors import InputError
from engine.layers import Conv, Linear, Maxout, MaxPool, ReLU
from engine.losses import SoftmaxLoss
from engine.net import Net
from kernels.reference import NumpyOps
from lsuv.fillers import INITS, SLOPES, fill, piece_rows
from lsuv.report import orthogonality_error

ORTHONORMAL = ("lsuv", "ortho", "ortho-msra")


def small_net(ops=None, dtype=np.float32):
    """conv1 27 -> 2 x 16, conv2 144 -> 40 and 40 -> 3 x 90 (a tall matrix), 270 values -> 5."""
    layers = [
        Conv(16, pieces=2, name="conv1"),
        Maxout(2),
        MaxPool(4),
        Conv(40, name="conv2"),
        ReLU(),
        MaxPool(2),
        Linear(90, pieces=3, name="ip1"),
        Maxout(3),
        Linear(5, name="clf"),
    ]
    return Net(layers, SoftmaxLoss(), ops or NumpyOps(), (8, 8, 3), batch=2, dtype=dtype)


def matrices(net):
    """{(layer, piece): W (outputs, fan_in) in float64}."""
    return {
        (layer.name, p): np.asarray(net.ops.tohost(layer.W), np.float64).reshape(len(layer.W), -1)[
            rows
        ]
        for layer in net.weighted()
        for p, rows in enumerate(piece_rows(layer))
    }


@pytest.mark.parametrize("init", ORTHONORMAL)
@pytest.mark.parametrize("act", SLOPES)
def test_orthonormal_rows_or_columns_with_the_documented_gain(init, act):
    net = small_net()
    fill(net, init, seed=3, act=act)
    gain = sqrt(2 / (1 + SLOPES[act] ** 2)) if init == "ortho-msra" else 1.0
    for W in matrices(net).values():
        rows, cols = W.shape
        gram = W @ W.T if rows <= cols else W.T @ W
        assert np.abs(gram - gain**2 * np.eye(len(gram))).max() <= 1e-6 * gain**2
        assert orthogonality_error(W) <= 1e-6


def test_the_gains_of_table_3():
    assert sqrt(2 / (1 + SLOPES["relu"] ** 2)) == pytest.approx(1.4142, abs=1e-4)
    assert sqrt(2 / (1 + SLOPES["vlrelu"] ** 2)) == pytest.approx(1.3417, abs=1e-4)


def test_maxout_of_two_keeps_the_second_moment_so_its_gain_is_one():
    a, b = np.random.default_rng(0).normal(size=(2, 400_000))
    assert np.square(np.maximum(a, b)).mean() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    "init, low, high",
    [
        ("uniform", -0.05, 0.05),
        ("xavier", -sqrt(3 / 144), sqrt(3 / 144)),
        ("xavier-fan-out", -sqrt(3 / 360), sqrt(3 / 360)),
        ("xavier-average", -sqrt(6 / 504), sqrt(6 / 504)),
    ],
)
def test_uniform_fillers_pass_kolmogorov_smirnov(init, low, high):
    """conv2: 3 x 3 x 16 inputs = 144 to 40 outputs, fan_out 9 x 40 = 360."""
    net = small_net()
    fill(net, init, seed=1)
    w = np.sort(matrices(net)["conv2", 0].ravel())
    assert kolmogorov_smirnov(w, (w - low) / (high - low))
    assert low <= w[0] and w[-1] <= high


@pytest.mark.parametrize(
    "init, act, std",
    [
        ("gaussian", "relu", 0.01),
        ("msra", "relu", sqrt(2 / 144)),
        ("msra", "tanh", sqrt(2 / 144)),
        ("msra-slope", "relu", sqrt(2 / 144)),
        ("msra-slope", "vlrelu", sqrt(2 / (1 + 0.333**2) / 144)),
    ],
)
def test_gaussian_fillers_pass_kolmogorov_smirnov_and_moments(init, act, std):
    from math import erf

    net = small_net()
    fill(net, init, seed=1, act=act)
    w = np.sort(matrices(net)["conv2", 0].ravel()) / std
    assert kolmogorov_smirnov(w, np.array([(1 + erf(v / sqrt(2))) / 2 for v in w]))
    n = len(w)
    assert abs(w.mean()) < 4 / sqrt(n)
    assert abs(w.var() - 1) < 4 * sqrt(2 / n)
    assert abs((w**3).mean()) < 4 * sqrt(15 / n)
    assert abs((w**4).mean() - 3) < 4 * sqrt(96 / n)


def kolmogorov_smirnov(ordered, cdf) -> bool:
    """Whether the sample agrees with the distribution at the 0.1 % level (asymptotic bound)."""
    n = len(ordered)
    steps = np.arange(n + 1) / n
    return max((steps[1:] - cdf).max(), (cdf - steps[:-1]).max()) < 1.95 / sqrt(n)


ANYWHERE = [init for init in INITS if init not in ("delta-orthogonal", "original")]


@pytest.mark.parametrize("init", ANYWHERE)
def test_every_piece_is_drawn_alone_and_biases_are_zero(init):
    net = small_net()
    for layer in net.weighted():
        layer.b[...] = 1
    fill(net, init, seed=0)
    found = list(matrices(net).values())
    for i, a in enumerate(found):
        for b in found[:i]:
            n = min(a.size, b.size)
            x, y = a.ravel()[:n], b.ravel()[:n]
            assert abs(np.corrcoef(x, y)[0, 1]) < 5 / sqrt(n)
    assert not any(layer.b.any() for layer in net.weighted())


@pytest.mark.parametrize("init", ANYWHERE)
def test_a_filler_is_a_function_of_its_seed(init):
    one, same, other = small_net(), small_net(), small_net()
    fill(one, init, seed=5)
    fill(same, init, seed=5)
    fill(other, init, seed=6)
    assert np.array_equal(one.weights, same.weights)
    assert not np.array_equal(one.weights, other.weights)


@pytest.mark.parametrize("init", ANYWHERE)
def test_the_same_bits_on_every_device(ops, init):
    one, two = small_net(), small_net(ops)
    fill(one, init, seed=9, act="vlrelu")
    fill(two, init, seed=9, act="vlrelu")
    host = two.ops.tohost(two.weights)
    if init in ORTHONORMAL:  # matrix products: a device may order its sums otherwise
        assert np.abs(one.weights - host).max() <= 1e-6
    else:
        assert np.array_equal(one.weights, host)


def test_float64_nets_get_the_unrounded_numbers():
    wide, narrow = small_net(dtype=np.float64), small_net()
    fill(wide, "msra", seed=2)
    fill(narrow, "msra", seed=2)
    assert wide.weights.dtype == np.float64
    assert np.array_equal(wide.weights.astype(np.float32), narrow.weights)
    assert not np.array_equal(wide.weights, narrow.weights)


def test_delta_orthogonal_has_the_centre_tap_alone():
    net = Net(
        [Conv(12, pieces=2, name="conv1"), Maxout(2), Linear(4, name="clf")],
        SoftmaxLoss(),
        NumpyOps(),
        (5, 5, 8),
        batch=1,
    )
    fill(net, "delta-orthogonal", seed=0, gain=1.5)
    conv, clf = net.weighted()
    for rows in piece_rows(conv):
        centre = conv.W[rows, 1, 1].astype(np.float64)
        assert np.abs(centre.T @ centre - 2.25 * np.eye(8)).max() < 1e-5
    taps = conv.W.copy()
    taps[:, 1, 1] = 0
    assert not taps.any()
    assert orthogonality_error(clf.W) < 1e-6


def test_delta_orthogonal_refuses_more_inputs_than_outputs():
    net = Net([Conv(4, name="narrow"), ReLU(), Linear(2)], SoftmaxLoss(), NumpyOps(), (5, 5, 8), 1)
    with pytest.raises(InputError, match="narrow: delta-orthogonal.*8 -> 4; use ortho"):
        fill(net, "delta-orthogonal", seed=0)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(init="ortogonal"), "did you mean"),
        (dict(init="msra", gain=2.0), "gain 2.0 with init 'msra'"),
        (dict(init="ortho", std=0.1), "only gaussian"),
        (dict(init="ortho", act="gelu"), "unknown activation 'gelu'"),
    ],
)
def test_bad_options_are_named(wrong, message):
    with pytest.raises(InputError, match=message):
        fill(small_net(), seed=0, **wrong)


def test_orthogonality_error_of_some_vectors_against_all():
    """A vector that is too long, or not orthogonal to one of those looked at, is seen."""
    Q = NumpyOps().orthonormal(40, 60, (0, 1, 2)).astype(np.float64)
    assert orthogonality_error(Q, most=3) < 1e-6
    leaning = Q.copy()
    leaning[17] += 0.3 * Q[0]  # the first is always looked at
    assert orthogonality_error(leaning, most=3) > 0.25
    assert orthogonality_error(2 * Q, most=40) == pytest.approx(orthogonality_error(Q), abs=1e-9)


def test_orthogonality_error_sees_what_is_not_orthonormal():
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 5)))[0]
    assert orthogonality_error(3 * Q) < 1e-12
    assert orthogonality_error(Q.T) < 1e-12
    Q[:, 0] *= 1.1
    assert 0.1 < orthogonality_error(Q) < 0.3
    assert orthogonality_error(np.zeros((3, 4))) == np.inf
