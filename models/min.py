"""MIN, the maxout network in network with batch normalisation (the paper's Table 2).

Chang and Chen 2015, as in the authors' MatConvNet files (`example/cifar` of the repository
`JiaRenChang/Batch_Normalized_Maxout_NIN`): three times a convolution without an activation and two
of 1x1 with maxout of five pieces, each normalised; mean pooling. Its MNIST net has no file: of a
million configurations like the CIFAR one, this alone has the 447 thousand weights that its paper
gives.

Weights: 1,599,936 (1,686,336 with 100 classes) and 447,296; with biases, scales and shifts
1,614,294, 1,702,044 and 454,358 parameters.

Read next: tests/models/test_models.py.
"""

from functools import partial

from engine.layers import AvgPool, BatchNorm, Conv, GlobalAvgPool, Layer, Maxout, Original
from models.fitnet import dropped

PIECES = 5
CIFAR = ((5, 192, 160, 96), (5, 192, 192, 192), (3, 192, 192))  # a group: size, then the widths
MNIST = ((5, 128, 96, 48), (5, 128, 96, 48), (3, 128, 96))


def min_net(
    groups: tuple[tuple[int, ...], ...], act: str, classes: int, dropout: bool = True
) -> list[Layer]:
    """The layers: rates are 0.1 of the recipe's for convolutions, and 0.01 for the last. The file's
    own filler makes one unit vector of a whole 1x1 convolution, which the norm behind it hides;
    orthonormal is meant."""
    net: list[Layer] = []
    for g, (size, *widths) in enumerate(groups, 1):
        widths = widths if g < len(groups) else [*widths, classes]
        for c, width in enumerate(widths, 1):
            end = (g, c) == (len(groups), len(widths))
            pieces, name = (1 if c == 1 else PIECES), f"conv{g}" if c == 1 else f"cccp{g}{c - 1}"
            rate, bias_rate = (0.01, 0.1) if end else (0.1, 1.0)
            net += [
                Conv(
                    width,
                    size if c == 1 else 1,
                    pieces=pieces,
                    bias_rate=bias_rate,
                    original=Original("ortho"),
                    name=name,
                    rate=rate,
                ),
                BatchNorm(0.5, 1e-3, affine=True, name=f"bn_{name}"),
                *([Maxout(pieces)] if pieces > 1 else []),
            ]
        if g < len(groups):
            net += [AvgPool(3, 2), *dropped(0.5 if dropout else 0.0)]
    return [*net, GlobalAvgPool()]


min_cifar = partial(min_net, CIFAR)
min_mnist = partial(min_net, MNIST)
