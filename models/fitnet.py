"""The paper's nets: FitNet-1, FitNet-4, FitResNet-4, FitNet-MNIST, and FitNet-4 with batch norm.

Widths and places of pooling and dropout are those of the authors' Caffe files (repository
`ducha-aiki/LSUVinit`, 2015), where FitNet-4 has 5 + 6 + 6 convolutions; the paper's Table 1 prints
a row less in two groups, but its Tables 8 to 10 and the parameter counts agree with 17. FitNet-1
and FitResNet-4 have no public file: they follow the paper's Table 1 and text.

Parameters (10 classes): FitNet-4 2,742,102 with maxout, 1,276,806 otherwise; FitNet-1 348,694 and
128,102; FitResNet-4 2,765,174 and 1,288,342; FitNet-MNIST 21,426.

Read next: engine/layers.py for what a layer does, models/recipes.py for how the nets are trained.
"""

from engine.containers import Residual
from engine.layers import (
    BatchNorm,
    Conv,
    Dropout,
    Layer,
    Linear,
    Maxout,
    MaxPool,
    ReLU,
    Sigmoid,
    Tanh,
    VLReLU,
)

ACTS = {"relu": ReLU, "vlrelu": VLReLU, "tanh": Tanh, "sigmoid": Sigmoid, "maxout": Maxout}
CONV_PIECES, LINEAR_PIECES = 2, 5  # of maxout; Goodfellow et al. 2013 as in the authors' files

FITNET1 = ((16, 16, 16), (32, 32, 32), (48, 48, 64))
FITNET4 = ((32, 32, 32, 48, 48), (80,) * 6, (128,) * 6)
FITRESNET4 = ((32, 32, 48, 48, 48), (80,) * 6, (128,) * 6)  # so that every sum's shapes match


def fitnet(
    groups: tuple[tuple[int, ...], ...],
    act: str,
    classes: int,
    dropout: bool = True,
    residual: bool = False,
    norm: str | None = None,
) -> list[Layer]:
    """Layers for a 32x32 image: three groups of 3x3 convolutions, the last pool global.

    groups: channels of every convolution. norm: None, "before" or "after" the activation.
    residual: the output of every even convolution is summed with its input, before the activation;
    for maxout after it, which is the same, since max(a + x, b + x) = max(a, b) + x.
    """
    rate, size = 0.2 if dropout else 0.0, 32
    net = dropped(rate)
    for g, widths in enumerate(groups, 1):
        for c, width in enumerate(widths, 1):
            conv, phi = unit(Conv, width, act, f"conv{g}{c}", norm)
            if residual and c % 2 == 0:
                conv, phi = (
                    ([Residual(conv + phi)], []) if act == "maxout" else ([Residual(conv)], phi)
                )
            if c == len(widths):
                phi = pooled(phi, 2 if g < len(groups) else size, drop=rate)
            net += conv + phi
        size //= 2
    conv, phi = unit(Linear, 500, act, "ip1", norm)
    return [*net, *conv, *phi, *dropped(rate), Linear(classes, name="clf")]


def unit(
    kind: type[Conv] | type[Linear],
    width: int,
    act: str,
    name: str,
    norm: str | None,
    bias_decay: float = 0.0,
) -> tuple[list[Layer], list[Layer]]:
    """A layer with weights, and its activation, as two lists; batch norm on the side asked for."""
    phi: Layer
    if act == "maxout":
        pieces = CONV_PIECES if kind is Conv else LINEAR_PIECES
        linear = kind(width, pieces=pieces, bias_decay=bias_decay, name=name)
        phi = Maxout(pieces)
    else:
        linear, phi = kind(width, bias_decay=bias_decay, name=name), ACTS[act]()
    before = [BatchNorm(name=f"bn_{name}")] if norm == "before" else []
    after = [BatchNorm(name=f"bn_{name}")] if norm == "after" else []
    return [linear, *before], [phi, *after]


def pooled(
    phi: list[Layer], size: int, stride: int | None = None, drop: float = 0.0
) -> list[Layer]:
    """An activation, the max pooling behind it, and the dropout behind that. A maxout does all in
    one pass, which spares writing and reading what lies between them."""
    if phi and isinstance(phi[-1], Maxout):
        return [*phi[:-1], Maxout(phi[-1].pieces, size, stride, drop)]
    return [*phi, MaxPool(size, stride), *dropped(drop)]


def dropped(drop: float) -> list[Layer]:
    return [Dropout(drop)] if drop else []


def fitnet1(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """FitNet-1: 3 + 3 + 3 convolutions, fc 500."""
    return fitnet(FITNET1, act, classes, dropout)


def fitnet4(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """FitNet-4: 5 + 6 + 6 convolutions, fc 500."""
    return fitnet(FITNET4, act, classes, dropout)


def fitresnet4(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """FitNet-4 with a residual sum over every even convolution."""
    return fitnet(FITRESNET4, act, classes, dropout, residual=True)


def fitnet4_bn_before(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """FitNet-4, batch-normalised before the activation (the paper's Table 5)."""
    return fitnet(FITNET4, act, classes, dropout, norm="before")


def fitnet4_bn_after(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """FitNet-4, batch-normalised after the activation (the paper's Table 5)."""
    return fitnet(FITNET4, act, classes, dropout, norm="after")


def fitnet_mnist(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """FitNet-MNIST for a 28x28 image: widths 16, 16, 12 in pairs; overlapping pools; no fc layer.

    Biases are decayed here, as in the authors' file (it names no decay multiplier for them)."""
    net: list[Layer] = []
    for g, (width, size, drop) in enumerate(((16, 4, 0), (16, 4, 0), (12, 2, 0.3)), 1):
        for c in (1, 2):
            conv, phi = unit(Conv, width, act, f"conv{g}{c}", None, bias_decay=1.0)
            net += conv + (phi if c == 1 else pooled(phi, size, 2, drop if dropout else 0))
    return [*net, Linear(classes, name="clf", bias_decay=1.0)]
