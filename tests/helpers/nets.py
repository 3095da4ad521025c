"""Small nets for the tests.

Read next: tests/helpers/runs.py.
"""

from dataclasses import replace

import numpy as np

from engine.containers import AuxiliaryClassifier
from engine.layers import BatchNorm, Conv, Dropout, Linear, Maxout, MaxPool, ReLU, Tanh
from engine.losses import LOSSES, SoftmaxLoss
from engine.net import Net
from engine.optimizers import SGD
from kernels import ops_for
from models.recipes import Recipe


def tiny(act: str, classes: int, dropout: bool = True):
    drops = [Dropout(0.2), Dropout(0.2)] if dropout else []
    return [
        *drops[:1],
        Conv(4, pieces=2, name="conv1"),
        Maxout(2),
        MaxPool(2),
        Conv(6, name="conv2"),
        BatchNorm(name="bn_conv2"),
        ReLU(),
        *drops[1:],
        Linear(classes, name="clf"),
    ]


def small_net(outputs: int = 3):
    layers = [
        Conv(4, pieces=2, name="conv"),
        Maxout(2),
        BatchNorm(name="bn"),
        ReLU(),
        Linear(outputs, name="clf"),
    ]
    net = Net(layers, SoftmaxLoss(), ops_for("numpy"), in_shape=(5, 6, 2), batch=2)
    return net, SGD(net)


def scramble(net, optimizer, seed: int):
    """Different random numbers in every tensor, padding left alone."""
    rng = np.random.default_rng(seed)
    for param in net.named_params().values():
        param.value[...] = rng.normal(size=param.value.shape)
        view = net.arenas.view(optimizer.state["momentum"], param.name)
        view[...] = rng.normal(size=view.shape)
    for state in net.named_state().values():
        state[...] = rng.uniform(1, 2, size=state.shape)


def staged(act: str, classes: int, dropout: bool, loss: str, stage: int):
    """A net whose first stage trains its beginning under a layer that is thrown away, and with a
    classifier beside it."""
    begin = [
        *([Dropout(0.2)] if dropout else []),
        Conv(4, pieces=2, name="conv1"),
        Maxout(2),
        MaxPool(2),
        *([AuxiliaryClassifier([Linear(classes)], LOSSES[loss](), 0.01)] if stage == 1 else []),
        Conv(6, name="conv2"),
        Tanh(),
    ]
    return [*begin, Linear(classes, name="hint" if stage == 1 else "clf")]


FIRST = Recipe(
    "paper",
    "sgd",
    {"policy": "multistep", "rate": 0.05, "gamma": 0.1, "steps": [11]},
    steps=22,
    epochs=4,
    batch=16,
    loss="svm",
    head_policy={"policy": "inv", "rate": 1, "gamma": 1, "power": 1},
)
SECOND = replace(
    FIRST, policy={"policy": "fixed", "rate": 0.05}, steps=11, epochs=2, loss=None, head_policy=None
)
THIRD = replace(SECOND, policy={"policy": "fixed", "rate": 0.005}, dropout=False)
STAGED = replace(FIRST, later=(SECOND, THIRD))
