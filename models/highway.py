"""Highway-16 and -32 for MNIST, Highway-19 for CIFAR (the paper's Table 2 and Figure 2).

Srivastava, Greff and Schmidhuber 2015, as their public files have them (`examples/highways` of the
repository `flukeskywalker/highway-networks`: mnist-10layers, cifar10-19layers, cifar100-19layers);
their `xavier` is He's filler, N(0, 2 / fan_in). A unit's gate starts at -1, or on CIFAR at -2, so
that at first the image is carried. Biases have twice the weights' rate, and the classifier's
weights ten times the decay. Highway-16 has no file: it is Highway-32 of half the width, which its
39 thousand parameters fit.

Highway-32 by its recipe and its file's fillers has 0.963, 0.975 and 0.983 of MNIST's test images
right after 1, 2 and 5 epochs (one seed), with LSUV 0.972, 0.980 and 0.983; the file's log has
0.959, 0.972 and 0.985.

Parameters: Highway-16 38,986, Highway-32 151,690, Highway-19 2,256,838 (100 classes: 2,265,928).

Read next: models/nin.py.
"""

from functools import partial

from engine.containers import Highway
from engine.layers import Conv, GlobalAvgPool, Layer, Linear, MaxPool, Original, ReLU
from models.fitnet import dropped

HE = Original("msra")


def units(count: int, width: int, gate: float, group: int) -> list[Layer]:
    """So many highway units of 3x3 convolutions."""
    return [
        Highway(
            Conv(width, pieces=2, bias_rate=2, original=HE, name=f"conv{group}{i}"),
            gate,
            name=f"highway{group}{i}",
        )
        for i in range(1, count + 1)
    ]


def classifier(classes: int, original: Original) -> Linear:
    return Linear(classes, bias_rate=2, decay=10, original=original, name="clf")


def highway_mnist(width: int, act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """For a 28x28 image: a 5x5 convolution and 2 + 3 + 3 units of `width` channels."""
    share = 1.0 if dropout else 0.0
    net = [
        *dropped(0.2 * share),
        Conv(width, 5, pad=0, bias_rate=2, original=HE, name="conv1"),
        ReLU(),
    ]
    for group, (count, size, drop) in enumerate(((2, 3, 0.3), (3, 3, 0.4), (3, 2, 0.5)), 1):
        net += [*units(count, width, -1.0, group), MaxPool(size, 2), *dropped(drop * share)]
    return [*net, classifier(classes, Original("gaussian", 0.1))]


highway16 = partial(highway_mnist, 16)
highway32 = partial(highway_mnist, 32)


def highway19(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """For a 32x32 image: groups of 4, 5 and 5 units of 32, 80 and 128 channels, each behind a 3x3
    convolution that widens, and a last 1x1 convolution. (The first filler is N(0, 1): the file
    gives the gaussian no deviation, and that is what it has then.)"""
    drop = 0.2 if dropout else 0.0
    net: list[Layer] = []
    for group, (width, count) in enumerate(((32, 4), (80, 5), (128, 5)), 1):
        original = Original("gaussian", 1.0) if group == 1 else HE
        wider = Conv(width, bias_rate=2, original=original, name=f"conv{group}")
        net += [*dropped(drop), wider, ReLU(), *units(count, width, -2.0, group)]
        if group < 3:
            net.append(MaxPool(2))
    net += [Conv(100, 1, bias_rate=2, original=HE, name="conv4"), ReLU(), GlobalAvgPool()]
    last = Original("gaussian", 0.05) if classes == 10 else HE
    return [*net, *dropped(drop), classifier(classes, last)]
