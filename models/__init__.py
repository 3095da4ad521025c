"""The nets by name: what builds each, the image it wants, and the data set it belongs to.

Read next: models/fitnet.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import choose
from engine.layers import Layer
from models import fitnet


@dataclass(frozen=True)
class Model:
    """A family's builder, its input's shape (H, W, C) and its usual data set."""

    build: Callable[..., list[Layer]]
    in_shape: tuple[int, int, int] = (32, 32, 3)
    data: str = "cifar10"


NETS = {
    "fitnet1": Model(fitnet.fitnet1),
    "fitnet4": Model(fitnet.fitnet4),
    "fitresnet4": Model(fitnet.fitresnet4),
    "fitnet4-bn-before": Model(fitnet.fitnet4_bn_before),
    "fitnet4-bn-after": Model(fitnet.fitnet4_bn_after),
    "fitnet_mnist": Model(fitnet.fitnet_mnist, (28, 28, 1), "mnist"),
}
ACTS = tuple(fitnet.ACTS)


def build(name: str, act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """The layers of the net called `name`, new ones every time. InputError on an unknown name."""
    choose("activation", act, ACTS)
    return NETS[choose("net", name, NETS)].build(act, classes, dropout)
