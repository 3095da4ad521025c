"""Deeply supervised nets (the paper's Table 2).

Lee et al. 2015, as in the authors' Caffe files (`examples/best_augmented_cifar10_7.97` of the
repository `s9xie/DSN`): Network in Network without its last activation, and while it trains a
classifier on the raw output of each of its three large convolutions, with the net's own kind of
loss, its weight 1. The classifiers' weights learn at 0.001 of the rate, biases at 0.002. They are
there in the first stage of the recipe alone. The MNIST net has no file: its "350 thousand
parameters, 3 layers" are those of NiN's.

By its recipe and its files' fillers 16.4 % of CIFAR-10's test images are right after 500 updates
and 17.9 % of 4,000 of them after 850 (one seed; the classifiers on the first two convolutions have
35 and 31 % of 100 training images then). A log of a like net, whose classifiers stay
(`tools/extra/nin_test_best+decay.log.test`), has 23.9 % after 500 and 46.2 % after 1,000.

Parameters: those of NiN, 966,986 (100 classes: 984,356) and for MNIST 349,674; with the three
classifiers of ten classes 3,547,496 and 1,415,944.

Read next: models/allcnn.py.
"""

from functools import partial

from engine.containers import AuxiliaryClassifier
from engine.layers import Layer, Linear, Original
from engine.losses import LOSSES
from models.nin import CIFAR, MNIST, body

SUPERVISED = ("conv1", "conv2", "conv3")


def head(classes: int, loss: str, name: str) -> AuxiliaryClassifier:
    """The classifier behind the convolution of this name."""
    clf = Linear(
        classes, rate=0.001, bias_rate=0.002, original=Original("xavier"), name=f"{name}/classifier"
    )
    return AuxiliaryClassifier([clf], LOSSES[loss](), 1.0, f"{name}/head")


def supervised(
    groups: tuple[tuple[int, ...], ...],
    act: str,
    classes: int,
    dropout: bool = True,
    loss: str = "softmax",
    stage: int = 0,
) -> list[Layer]:
    """The layers; without the classifiers from the second stage on."""
    net = body(groups, act, classes, dropout)
    del net[-2]  # the last activation
    for name in SUPERVISED if stage < 2 else ():
        behind = [layer.name for layer in net].index(name) + 1
        net.insert(behind, head(classes, loss, name))
    return net


dsn = partial(supervised, CIFAR)
dsn_mnist = partial(supervised, MNIST)
