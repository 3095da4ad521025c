"""GoogLeNet: nine inception modules for a 224x224 image, and two auxiliary classifiers.

Szegedy et al. 2015 as BVLC's public file has it (`models/bvlc_googlenet` of the repository
`BVLC/caffe`), whose layer names these are. Biases have twice the weights' rate and no decay.
Parameters with 1,000 classes: 13,378,280 with the auxiliary classifiers, as it is trained, and
6,998,552 without.

Read next: models/highway.py.
"""

from engine.containers import AuxiliaryClassifier, Branches
from engine.layers import LRN, AvgPool, Conv, Dropout, Layer, Linear, MaxPool, Original
from engine.losses import SoftmaxLoss
from models.fitnet import ACTS

IN_SHAPE = (224, 224, 3)
AUXILIARY_WEIGHT = 0.3  # of each auxiliary classifier's loss

# Widths of a module: 1x1; the 3x3's reduction and itself; the 5x5's likewise; after the pool.
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
AUXILIARY = {"4a": "loss1", "4d": "loss2"}  # the module that each auxiliary classifier is behind
POOLED = ("3b", "4e")  # modules with a max pooling behind them


def conv(act: str, outputs: int, size: int, name: str, stride: int = 1) -> list[Layer]:
    """A convolution that keeps the image's size but for its stride, and its activation."""
    return [
        Conv(
            outputs,
            size,
            stride,
            size // 2,
            bias_rate=2,
            name=name,
            original=Original("xavier", bias=0.2),
        ),
        ACTS[act](),
    ]


def classifier(classes: int, name: str) -> Layer:
    return Linear(classes, bias_rate=2, original=Original("xavier"), name=f"{name}/classifier")


def inception(act: str, module: str) -> Branches:
    """1x1, 3x3 and 5x5 convolutions and a pooling of one input, side by side."""
    one, reduce3, three, reduce5, five, pool = INCEPTION[module]
    name = f"inception_{module}"
    return Branches(
        [
            conv(act, one, 1, f"{name}/1x1"),
            conv(act, reduce3, 1, f"{name}/3x3_reduce") + conv(act, three, 3, f"{name}/3x3"),
            conv(act, reduce5, 1, f"{name}/5x5_reduce") + conv(act, five, 5, f"{name}/5x5"),
            [MaxPool(3, 1, 1), *conv(act, pool, 1, f"{name}/pool_proj")],
        ],
        name,
    )


def auxiliary_classifier(act: str, classes: int, dropout: bool, name: str) -> AuxiliaryClassifier:
    """Its loss is softmax, whatever the net's own is."""
    full = Linear(1024, bias_rate=2, original=Original("xavier", bias=0.2), name=f"{name}/fc")
    drop = [Dropout(0.7)] if dropout else []
    layers = [
        AvgPool(5, 3),
        *conv(act, 128, 1, f"{name}/conv"),
        full,
        ACTS[act](),
        *drop,
        classifier(classes, name),
    ]
    return AuxiliaryClassifier(layers, SoftmaxLoss(), AUXILIARY_WEIGHT, name)


def googlenet(
    act: str, classes: int, dropout: bool = True, auxiliary: bool = True, last: int = 7
) -> list[Layer]:
    """The file's activation is relu; any elementwise one fits. Its fillers are `--init original`.

    auxiliary: with the auxiliary classifiers, which stand in training alone. last: the window of
    the last average pooling, which is the whole image there: 7 for one of 224, 2 for one of 80.
    """
    net = [
        *conv(act, 64, 7, "conv1/7x7_s2", stride=2),
        MaxPool(3, 2),
        LRN(),
        *conv(act, 64, 1, "conv2/3x3_reduce"),
        *conv(act, 192, 3, "conv2/3x3"),
        LRN(),
        MaxPool(3, 2),
    ]
    for module in INCEPTION:
        net.append(inception(act, module))
        if module in POOLED:
            net.append(MaxPool(3, 2))
        if auxiliary and module in AUXILIARY:
            net.append(auxiliary_classifier(act, classes, dropout, AUXILIARY[module]))
    drop = [Dropout(0.4)] if dropout else []
    return [*net, AvgPool(last, 1), *drop, classifier(classes, "loss3")]
