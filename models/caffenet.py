"""CaffeNet: five convolutions and three fully connected layers for a 227x227 image.

Krizhevsky et al. 2012 as BVLC's public file has it (`models/bvlc_reference_caffenet` of the
repository `BVLC/caffe`): pooling before normalisation, and the two groups of the two-GPU original.
Biases have twice the weights' rate and no decay. 60,965,224 parameters with 1,000 classes.

Read next: models/googlenet.py.
"""

from engine.layers import LRN, Conv, Dropout, Layer, Linear, MaxPool, Original
from models.fitnet import ACTS

IN_SHAPE = (227, 227, 3)


def caffenet(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """The file's activation is relu; any elementwise one fits. Its fillers: `--init original`."""

    def conv(number: int, outputs: int, size: int, bias: float, **options) -> list[Layer]:
        original = Original("gaussian", 0.01, bias)
        layer = Conv(outputs, size, bias_rate=2, original=original, name=f"conv{number}", **options)
        return [layer, ACTS[act]()]

    def full(number: int) -> list[Layer]:
        original = Original("gaussian", 0.005, 1)
        return [
            Linear(4096, bias_rate=2, original=original, name=f"fc{number}"),
            ACTS[act](),
            *([Dropout(0.5)] if dropout else []),
        ]

    return [
        *conv(1, 96, 11, 0, stride=4, pad=0),
        MaxPool(3, 2),
        LRN(),
        *conv(2, 256, 5, 1, pad=2, groups=2),
        MaxPool(3, 2),
        LRN(),
        *conv(3, 384, 3, 0),
        *conv(4, 384, 3, 1, groups=2),
        *conv(5, 256, 3, 1, groups=2),
        MaxPool(3, 2),
        *full(6),
        *full(7),
        Linear(classes, bias_rate=2, original=Original("gaussian", 0.01, 0), name="fc8"),
    ]
