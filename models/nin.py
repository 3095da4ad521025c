"""Network in Network (the paper's Table 2).

Lin, Chen and Yan 2014, as in the authors' cuda-convnet files (`NIN/cifar-10_def` and others of the
repository `mavenlin/cuda-convnet`): three times a convolution and two of 1x1, and the mean of a map
for each class. Dropout is plain there: not rescaled in training, halved outside it.

Parameters with 10 and 100 classes: NiN 966,986 and 984,356, NiN-MNIST 349,674.

Read next: models/dsn.py.
"""

from engine.layers import Conv, Dropout, GlobalAvgPool, Layer, MaxPool, Original
from models.fitnet import ACTS

CIFAR = ((5, 192, 160, 96), (5, 192, 192, 192), (3, 192, 192))  # a group: size, then the widths
MNIST = ((5, 96, 64, 48), (5, 128, 96, 48), (5, 128, 96))
BIASES = ((0.001, 0.01, 0.01), (0.05,) * 3, (0.05,) * 3)  # that NiN starts at on CIFAR-100


def body(
    groups: tuple[tuple[int, ...], ...],
    act: str,
    classes: int,
    dropout: bool,
    biases: tuple[tuple[float, ...], ...] | None = None,
) -> list[Layer]:
    """The layers. The last convolution's weights and biases learn at a tenth of the others' rates,
    which are 1 and 2."""
    net: list[Layer] = []
    for g, (size, *widths) in enumerate(groups, 1):
        widths = widths if g < len(groups) else [*widths, classes]
        for c, width in enumerate(widths, 1):
            end = (g, c) == (len(groups), len(widths))
            rate, bias_rate = (0.1, 0.2) if end else (1.0, 2.0)
            start = Original("gaussian", 0.05, biases[g - 1][c - 1] if biases else 0.0)
            name = f"conv{g}" if c == 1 else f"cccp{g}{c - 1}"
            net.append(
                Conv(
                    width,
                    size if c == 1 else 1,
                    bias_rate=bias_rate,
                    original=start,
                    name=name,
                    rate=rate,
                )
            )
            net.append(ACTS[act]())
        if g < len(groups):
            net += [MaxPool(3, 2), *([Dropout(0.5, "plain")] if dropout else [])]
    return [*net, GlobalAvgPool()]


def nin(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """NiN for a 32x32 image."""
    return body(CIFAR, act, classes, dropout, BIASES if classes == 100 else None)


def nin_mnist(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """NiN for a 28x28 image."""
    return body(MNIST, act, classes, dropout)
