"""Maxout networks for CIFAR and MNIST (the paper's Table 2; teachers of FitNets).

Goodfellow et al. 2013, as in pylearn2's files (`scripts/papers/maxout/{cifar10,mnist}.yaml`): large
convolutions, overlapping max pooling, norms of weights limited after every update, dropout in front
of every layer; that of the images is not rescaled. The MNIST file has a bias for each place of a
map; here a map has one.

Parameters: 16,247,830 (100 classes: 16,292,920) and 418,714.

Read next: models/romero.py.
"""

from engine.layers import Conv, Dropout, Layer, Linear, Maxout, Original

START = Original("uniform", 0.005)
FIRST, FULL, OTHER = 0.9, 1.9, 1.9365  # largest norms of an output's weights

# A convolution: channels, pieces, size, pad, its largest norm, and the pooling behind it.
CIFAR = ((96, 2, 8, 4, FIRST, 4), (192, 2, 8, 3, OTHER, 4), (192, 2, 5, 3, OTHER, 2))
MNIST = ((48, 2, 8, 0, FIRST, 4), (48, 2, 8, 3, OTHER, 4), (24, 4, 5, 3, OTHER, 2))


def maxout(
    convolutions: tuple[tuple, ...], rate: float, full: int, classes: int, dropout: bool
) -> list[Layer]:
    """The layers. No pooling where a convolution has None for it. rate: of the convolutions, in
    shares of the recipe's. full: outputs of a fully connected maxout layer of five pieces, or 0."""
    net: list[Layer] = [Dropout(0.2, "mask")] if dropout else []
    half = 0.5 if dropout else 0.0
    for i, (width, pieces, size, pad, most, pool) in enumerate(convolutions, 1):
        conv = Conv(
            width,
            size,
            pad=pad,
            pieces=pieces,
            original=START,
            name=f"conv{i}",
            rate=rate,
            bias_rate=rate,
            max_norm=most,
        )
        net += [conv, Maxout(pieces, pool, 2, half)]
    if full:
        net += [Linear(full, 5, original=START, name="fc", max_norm=FULL), Maxout(5)]
        net += [Dropout(0.5)] if dropout else []
    return [*net, Linear(classes, original=START, name="clf", max_norm=OTHER)]


def maxout_cifar(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """For a 32x32 image: three convolutions, fc 500."""
    return maxout(CIFAR, 0.05, 500, classes, dropout)


def maxout_mnist(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """For a 28x28 image: three convolutions, no fc layer."""
    return maxout(MNIST, 1.0, 0, classes, dropout)
