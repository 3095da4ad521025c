"""The nets by name: what builds each, the image it wants, and the data set it belongs to.

Read next: models/fitnet.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import choose
from engine.layers import Layer
from models import allcnn, caffenet, dsn, fitnet, fmp, googlenet, highway, maxout, min, nin, romero

ACTS = tuple(fitnet.ACTS)
WEIGHTS = Path(__file__).parent / "weights"
ELEMENTWISE = tuple(act for act in ACTS if act != "maxout")


@dataclass(frozen=True)
class Model:
    """A family's builder, its input's shape (H, W, C), its usual data set ("folder": images of
    one's own) and how many classes that has, the activation it has unless another is named, and all
    that it may have. staged: whether the builder is told the loss and the stage, too."""

    build: Callable[..., list[Layer]]
    in_shape: tuple[int, int, int] = (32, 32, 3)
    data: str = "cifar10"
    classes: int = 10
    act: str = "maxout"
    acts: tuple[str, ...] = ACTS
    staged: bool = False


NETS = {
    "fitnet1": Model(fitnet.fitnet1),
    "fitnet4": Model(fitnet.fitnet4),
    "fitresnet4": Model(fitnet.fitresnet4),
    "fitnet4-bn-before": Model(fitnet.fitnet4_bn_before),
    "fitnet4-bn-after": Model(fitnet.fitnet4_bn_after),
    "fitnet_mnist": Model(fitnet.fitnet_mnist, (28, 28, 1), "mnist"),
    "highway-16": Model(highway.highway16, (28, 28, 1), "mnist", act="relu", acts=("relu",)),
    "highway-32": Model(highway.highway32, (28, 28, 1), "mnist", act="relu", acts=("relu",)),
    "highway-19": Model(highway.highway19, act="relu", acts=("relu",)),
    "nin": Model(nin.nin, act="relu", acts=ELEMENTWISE),
    "nin-mnist": Model(nin.nin_mnist, (28, 28, 1), "mnist", act="relu", acts=ELEMENTWISE),
    "dsn": Model(dsn.dsn, act="relu", acts=ELEMENTWISE, staged=True),
    "dsn-mnist": Model(
        dsn.dsn_mnist, (28, 28, 1), "mnist", act="relu", acts=ELEMENTWISE, staged=True
    ),
    "all-cnn-c": Model(allcnn.all_cnn_c, act="relu", acts=ELEMENTWISE),
    "all-cnn-large": Model(
        allcnn.all_cnn_large, (126, 126, 3), "folder", act="vlrelu", acts=ELEMENTWISE
    ),
    "fmp-mnist": Model(fmp.fmp_mnist, (28, 28, 1), "mnist", act="vlrelu", acts=ELEMENTWISE),
    "fmp-32": Model(fmp.fmp32, act="vlrelu", acts=ELEMENTWISE),
    "fmp-160": Model(fmp.fmp160, act="vlrelu", acts=ELEMENTWISE),
    "maxout-cifar": Model(maxout.maxout_cifar, acts=("maxout",)),
    "maxout-mnist": Model(maxout.maxout_mnist, (28, 28, 1), "mnist", acts=("maxout",)),
    "fitnet4-romero": Model(romero.fitnet4_romero, acts=("maxout",)),
    "fitnet-mnist-romero": Model(
        romero.fitnet_mnist_romero, (28, 28, 1), "mnist", acts=("maxout",)
    ),
    "min": Model(min.min_cifar, acts=("maxout",)),
    "min-mnist": Model(min.min_mnist, (28, 28, 1), "mnist", acts=("maxout",)),
    "caffenet": Model(caffenet.caffenet, caffenet.IN_SHAPE, "folder", 1000, "relu", ELEMENTWISE),
    "googlenet": Model(
        googlenet.googlenet, googlenet.IN_SHAPE, "folder", 1000, "relu", ELEMENTWISE
    ),
}


def weights(run: str | Path) -> Path:
    """Where a name of trained weights that come with the program lies, such as "fitnet_mnist-svm";
    what is no such name is a run's folder, and stays."""
    packaged = {path.name: path for path in WEIGHTS.iterdir() if path.is_dir()}
    return packaged.get(str(run), Path(run))


def build(
    name: str, act: str, classes: int, dropout: bool = True, loss: str = "softmax", stage: int = 0
) -> list[Layer]:
    """The layers of the net called `name`, new ones every time; stage: of a recipe that has
    several, from 1 on. InputError on an unknown name, or an activation that the net is not made
    for."""
    choose("activation", act, ACTS)
    model = NETS[choose("net", name, NETS)]
    choose(f"activation of {name}", act, model.acts)
    return model.build(act, classes, dropout, *((loss, stage) if model.staged else ()))
