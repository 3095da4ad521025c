"""Fractional max-pooling networks for MNIST and CIFAR (the paper's Table 2).

Graham 2014, as in the author's programs (repository `btgraham/SparseConvNet-archived`: mnist.cpp,
cifar10.cpp, cifar10big.cpp, NetworkArchitectures.cpp): 2x2 convolutions whose widths grow by the
same number, behind each a very leaky ReLU and a fractional max pooling, which shrinks a side by the
square root of 2, or for CIFAR by its third root. An image lies in the middle of a field of zeros,
36 or 94 wide, of which the last window is one place. Dropout is of whole channels, from 0 for the
first layer to 0.5 for the last. A net gives another answer in every pass; `--passes` averages them.

There nothing is rescaled in training, and a layer's output is times 1 - p outside it; here what is
kept is multiplied, in training.

By 9 epochs, into which its recipe is shrunk, and its file's fillers FMP-MNIST has an error of
1.08 % in one pass over MNIST's test images and of 0.73 % by the mean of 12 (one seed).

FMP-160 takes 2 GB, and 0.1 GB an image of the batch, in float32 on device cpu.

Parameters: FMP-MNIST 519,946, FMP-32 3,176,490, FMP-160 79,247,530.

Read next: models/maxout.py.
"""

from functools import partial

from engine.layers import Conv, Distort, Dropout, FractionalMaxPool, Layer, Linear, Original
from models.fitnet import ACTS


def sides(factor: float, count: int) -> list[int]:
    """What `count` poolings by `factor` shrink a side to, if the convolutions between and behind
    them take one place each and leave one."""
    found = [2]
    while len(found) < count:
        found.insert(0, max(int(found[0] * factor + 0.5), found[0] + 1) + 1)
    return found


def fmp(
    width: int,
    factor: float,
    inputs: int,
    pad: int,
    random: bool,
    drops: tuple[float, ...],
    act: str,
    classes: int,
    dropout: bool = True,
) -> list[Layer]:
    """Convolutions of `width`, 2 `width`, ... channels, of which all but the last two are pooled by
    `factor`; the last is 1x1. inputs: channels of the image; pad: zeros around a grey one, a colour
    image is distorted in its field. drops: of the channels of each convolution."""
    net: list[Layer] = [Distort(FIELD, 1.0, 2 / 128, "field")] if inputs == 3 else []
    pools, last = sides(factor, len(drops) - 2), len(drops)
    for i, drop in enumerate(drops, 1):
        size, shrink = (1, 1.0) if i == last else (2, 4.0 if i > len(pools) else 4 / factor**2)
        channels = i * width
        conv = Conv(
            channels,
            size,
            pad=pad if i == 1 else 0,
            original=glorot(size * size * inputs, channels * shrink),
            name=f"conv{i}",
        )
        net += [conv, ACTS[act]()]
        if i <= len(pools):
            net.append(FractionalMaxPool(pools[i - 1], random=random, name=f"pool{i}"))
        if dropout and drop:
            net.append(Dropout(drop, "channel"))
        inputs = channels
    return [*net, Linear(classes, original=glorot(inputs, classes), name="clf")]


def glorot(fan_in: float, fan_out: float) -> Original:
    """fan_out: how many numbers an input reaches, less the share that pooling drops."""
    return Original("uniform", (6 / (fan_in + fan_out)) ** 0.5)


def rising(most: float) -> tuple[float, ...]:
    """Of the 14 convolutions of the nets for CIFAR."""
    return tuple(most * min(i / 13, 1) for i in range(14))


FIELD = 94  # for CIFAR, whose images are distorted and moved in it
MNIST_DROPS = (0.0, 0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5)

fmp_mnist = partial(fmp, 32, 2**0.5, 1, 4, False, MNIST_DROPS)
fmp32 = partial(fmp, 32, 2**0.3333, 3, 0, True, rising(0.1))
fmp160 = partial(fmp, 160, 2**0.3333, 3, 0, False, rising(0.5))
