"""The thin, deep students of FitNets, as they were trained (the paper's Table 2).

Romero et al. 2015, as in the authors' files (repository `adri-romsor/FitNets`, `yaml/*.yaml`):
every weight starts in [-0.005, 0.005], the norms of an output's weights are limited after every
update, the convolutions for CIFAR learn at a twentieth of the rate; no dropout, no decay. Their
teachers are the nets of models/maxout.py. The MNIST file has a bias for each place of a map; here
a map has one.

Parameters: FitNet-4 2,742,102 (100 classes: 2,787,192), FitNet-MNIST 36,226, of which 35,992 are
weights; the paper counts 30 thousand, as if every maxout had two pieces.

Read next: models/min.py.
"""

from engine.layers import Conv, Layer, Weighted
from models.fitnet import FITNET4, fitnet
from models.maxout import FIRST, FULL, OTHER, START, maxout

# A convolution: channels, pieces, size, pad, its largest norm, and the pooling behind it.
MNIST = (
    (16, 2, 5, 0, FIRST, None),
    (16, 2, 3, 0, FIRST, 4),
    (16, 2, 5, 3, OTHER, None),
    (16, 2, 3, 0, OTHER, 4),
    (12, 4, 3, 3, OTHER, None),
    (12, 4, 3, 0, OTHER, 2),
)


def fitnet4_romero(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """FitNet-4 for a 32x32 image: 5 + 6 + 6 convolutions, fc 500."""
    net = fitnet(FITNET4, act, classes, dropout=False)
    for layer in net:
        if isinstance(layer, Conv):
            layer.original, layer.max_norm = START, FIRST
            layer.rate = layer.bias_rate = 0.05
        elif isinstance(layer, Weighted):
            layer.original, layer.max_norm = START, FULL if layer.name == "ip1" else OTHER
    return net


def fitnet_mnist_romero(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """For a 28x28 image: six convolutions, no fc layer."""
    return maxout(MNIST, 1.0, 0, classes, dropout=False)
