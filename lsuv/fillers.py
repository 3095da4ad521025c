"""Fillers: the weights that a net starts from, as a function of the seed alone.

Every maxout piece is a matrix of its own, (outputs of the piece, fan_in), with its own stream of
random numbers, because the authors' nets make each piece a layer. Numbers are drawn in float64 and
rounded once to the net's dtype, so every device gets the same weights. (Orthonormal matrices are
float32; a gain other than 1 multiplies them after that.)

    filler            weights of one piece                               source
    gaussian          N(0, std^2), std 0.01                              Krizhevsky 2012
    uniform           U(-0.05, 0.05)
    xavier            U(-a, a), a = sqrt(3 / fan_in)                     Caffe's xavier
    xavier-fan-out    likewise, fan_out = outputs * height * width       Caffe's FAN_OUT
    xavier-average    likewise, (fan_in + fan_out) / 2                   Glorot & Bengio 2010
    msra              N(0, 2 / fan_in), whatever the activation          Caffe's msra
    msra-slope        N(0, 2 / ((1 + a^2) fan_in)), activation slope a   He et al. 2015
    ortho             orthonormal, gain 1                                Saxe et al. 2014
    ortho-msra        orthonormal, gain sqrt(2 / (1 + a^2))              the paper's Table 3
    delta-orthogonal  orthonormal at the centre tap, zero elsewhere      Xiao et al. 2018
    lsuv              orthonormal; then lsuv/algorithm.py scales it      the paper's Algorithm 1
    original          what each layer of the net declares, biases too    the net's own public file

An orthonormal matrix has orthonormal rows where outputs <= fan_in, else orthonormal columns.

Read next: lsuv/report.py, what an initialiser tells of its work.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from math import inf, prod, sqrt

from engine.errors import InputError, choose, nearest
from engine.layers import Original, Weighted
from engine.plan import check_seed
from kernels.philox import WEIGHTS, normal, uniform

INITS = (
    "lsuv",
    "ortho",
    "ortho-msra",
    "delta-orthogonal",
    "xavier",
    "xavier-fan-out",
    "xavier-average",
    "msra",
    "msra-slope",
    "gaussian",
    "uniform",
    "original",
)

GAINED = ("ortho", "ortho-msra", "delta-orthogonal", "lsuv")

# The slope a of each activation's other half, in the gain sqrt(2 / (1 + a^2)) that keeps the second
# moment. tanh and sigmoid are taken as linear around zero (a = 1, gain 1). So is maxout: the larger
# of two independent symmetric numbers has the same second moment as either (max^2 + min^2 = a^2 +
# b^2, and min is max mirrored), so gain 1 is exact for two pieces.
SLOPES = {"relu": 0.0, "vlrelu": 0.333, "tanh": 1.0, "sigmoid": 1.0, "maxout": 1.0}

GAUSSIAN_STD, UNIFORM_BOUND = 0.01, 0.05


def fill(
    net,
    init: str,
    seed: int,
    act: str = "relu",
    gain: float | None = None,
    std: float | None = None,
    include: Iterable[str] = ("*",),
    exclude: Iterable[str] = (),
) -> None:
    """Write every weight of `net`, and zero every bias or, with init original, give it its value.
    Scales, shifts and slopes get the values that they start at.

    include, exclude: names of layers with weights, with * and ?; the others keep what they have.
    act: the activation between the layers, for the gain of ortho-msra and msra-slope. gain: in
    place of the filler's own, for the orthonormal fillers. std: gaussian's. Raises InputError for
    an unknown name, for a gain or std that the filler has no use for, for a delta-orthogonal layer
    with more inputs than outputs, and for original weights of a net that declares none.
    """
    choose("init", init, INITS)
    choose("activation", act, SLOPES)
    check_seed(seed)
    if gain is not None and init not in GAINED:
        raise InputError(f"gain {gain} with init {init!r}: only {', '.join(GAINED)} have a gain")
    if std is not None and init != "gaussian":
        raise InputError(f"std {std} with init {init!r}: only gaussian takes a standard deviation")
    for name, value in (("gain", gain), ("std", std)):
        if value is not None and not 0 < value < inf:
            raise InputError(f"{name} {value}: give a number above 0")
    if gain is None:
        gain = sqrt(2 / (1 + SLOPES[act] ** 2)) if init == "ortho-msra" else 1.0
    if init == "original":
        _need_originals(net)
    names = chosen(net, include, exclude)
    if len(names) == len(net.weighted()):
        for p in net.named_params().values():
            if not isinstance(p.layer, Weighted):
                p.value[...] = p.start
    index = 0  # of the matrix: every piece of every layer draws from its own stream
    for layer in net.weighted():
        own = layer.original if init == "original" else Original(init, std)
        if layer.b is not None and layer.name in names:
            layer.b[...] = own.bias
            if layer.gate is not None:
                layer.b[piece_rows(layer)[-1]] = layer.gate
        for rows in piece_rows(layer):
            piece = layer.W[rows]
            if layer.name not in names:
                pass
            elif own.filler in GAINED:
                _orthonormal(net, layer, piece, own.filler, (seed, WEIGHTS, index), gain)
            else:
                values = _independent(piece.shape, own.filler, seed, index, act, own.std)
                piece[...] = net.ops.asarray(values.astype(net.dtype))
            index += 1


def chosen(net, include: Iterable[str], exclude: Iterable[str] = ()) -> frozenset[str]:
    """The names of the layers with weights that a pattern of `include` names, and none of
    `exclude`. InputError for a pattern that names none."""
    names = [layer.name for layer in net.weighted()]
    include, exclude = ([p] if isinstance(p, str) else list(p) for p in (include, exclude))
    for pattern in include + exclude:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"no layer with weights is called {pattern!r}; {nearest(pattern, names)}"
            )
    return frozenset(
        name
        for name in names
        if any(fnmatchcase(name, pattern) for pattern in include)
        and not any(fnmatchcase(name, pattern) for pattern in exclude)
    )


def _need_originals(net) -> None:
    """InputError unless every layer with weights declares its original filler."""
    for layer in net.weighted():
        if layer.original is None:
            raise InputError(
                f"init 'original': {layer.name} declares no filler of a public file, "
                "as caffenet and googlenet do; use another init, such as lsuv"
            )


def piece_rows(layer) -> list[slice]:
    """The rows of W, and the channels of z, that belong to each maxout piece."""
    C = layer.W.shape[0] // layer.pieces
    return [slice(p * C, (p + 1) * C) for p in range(layer.pieces)]


def _orthonormal(net, layer, piece, init, key, gain):
    """piece (C, R, S, inputs) or (C, F): gain * Q, Q orthonormal in float32 on the net's device."""
    if init == "delta-orthogonal" and piece.ndim == 4:
        outputs, R, S, inputs = piece.shape
        if inputs > outputs:
            raise InputError(
                f"{layer.name}: delta-orthogonal needs at least as many outputs as "
                f"inputs, not {inputs} -> {outputs}; use ortho"
            )
        piece[...] = 0
        piece = piece[:, R // 2, S // 2]
    rows, cols = piece.shape[0], piece[0].size
    piece[...] = net.ops.orthonormal(rows, cols, key).reshape(piece.shape)
    if gain != 1.0:
        piece *= float(gain)


def _independent(shape, init, seed, index, act, std):
    """Independent weights in float64, in the memory order of W: (C, R, S, inputs) or (C, F)."""
    count, fan_in = prod(shape), prod(shape[1:])
    fan_out = prod(shape[:-1])  # (outputs, height, width)
    if init in ("gaussian", "msra", "msra-slope"):
        scale = {
            "gaussian": GAUSSIAN_STD if std is None else std,
            "msra": sqrt(2 / fan_in),
            "msra-slope": sqrt(2 / ((1 + SLOPES[act] ** 2) * fan_in)),
        }[init]
        return scale * normal(seed, WEIGHTS, index, count).reshape(shape)
    bound = {
        "uniform": UNIFORM_BOUND if std is None else std,
        "xavier": sqrt(3 / fan_in),
        "xavier-fan-out": sqrt(3 / fan_out),
        "xavier-average": sqrt(6 / (fan_in + fan_out)),
    }[init]
    return bound * (2 * uniform(seed, WEIGHTS, index, count) - 1).reshape(shape)
