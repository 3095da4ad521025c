"""Small nets for the tests.

Read next: tests/helpers/runs.py.
"""

import numpy as np

from engine.layers import BatchNorm, Conv, Dropout, Linear, Maxout, MaxPool, ReLU
from engine.losses import SoftmaxLoss
from engine.net import Net
from engine.optimizers import SGD
from kernels import ops_for


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
