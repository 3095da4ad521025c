"""How each net is trained: the authors' settings as data, and a short recipe of our own.

`paper` is what the authors' Caffe solver files say (repository `ducha-aiki/LSUVinit`, 2015); much
of it is not in the paper: the weight decay, the batch, five dropouts of 0.2, crops out of a border
of 8 pixels. CIFAR-10's input scale is not documented there; 0.53 is what the paper's own weight
deviations of the first layer imply (its Tables 8 and 9).

`fast` is ours: no dropout, because it is dropout that makes short runs slow; crops of 4 pixels; a
warm-up, then a straight line to 0; the gradient's norm clipped at 1, which is what lets a 17-layer
maxout net take a high rate; Nesterov's momentum; smoothed labels; each image mirrored in every
second epoch. It was searched in 23 trials of ten epochs with FitNet-1 and LSUV on images held out
of the training set (bench/results/README.md has them all); the deeper nets take what was found.
MNIST's is the best of seven with the softmax loss: RMSProp as in `paper`, and averaged weights.

NiN's rates were lowered by hand when the training accuracy stopped; here that is at 100,000 and
110,000 of 120,000 updates. ALL-CNN-C's are a public port's. The Large ALL-CNN's settings are not
public: it has ALL-CNN-C's. MIN's solver keeps the rate outside of the momentum, ours inside, which
differs where the rate changes; its MNIST net has the CIFAR net's epochs. The maxout net for MNIST
was trained until a validation error stood for 100 epochs, and then on all images without dropout
until its loss there was that of the first training; here it has 250 epochs and 20.
FitNets' students learn from a teacher, whose share in the loss falls from epoch to epoch; those of
MNIST, which were stopped by a validation error, have 150 epochs here, when that share is 0.

DSN's classifiers beside the net have a rate that falls by update in its files, and here by epoch.
Its MNIST net has no file: it has 0.6 of the updates.

CaffeNet's and GoogLeNet's `paper` is BVLC's solver file (GoogLeNet's the quick one), for the 1.28
million images of ImageNet; their crops come out of 256 x 256, so they move by 14 and 16 pixels.
Their `fast` is ours, for a folder of some thousand images, and no rate was searched.

Read next: models/caffenet.py.
"""

from dataclasses import dataclass, field, replace
from math import exp

from engine.errors import choose
from engine.optimizers import OPTIMIZERS
from engine.schedules import stretched
from models import NETS

KINDS = ("paper", "fast")
IMAGENET = 1_281_167  # training images of ILSVRC 2012


SHARE = {"policy": "points", "rate": 4, "steps": [3, 399], "factors": [1, 0.25]}  # FitNets' CIFAR


@dataclass(frozen=True)
class Recipe:
    """Everything that a run takes from its net and data set. `policy` spans `steps` updates."""

    name: str
    optimizer: str
    policy: dict  # engine.schedules, with its "rate"
    steps: int  # updates that the policy is written for
    epochs: float
    batch: int
    decay: float = 5e-4  # L2 weight decay; biases have a multiplier of their own in the net
    momentum: float = 0.9  # sgd, nesterov
    rho: float = 0.9  # rmsprop
    delta: float = 1e-8  # rmsprop
    floor: float = 0.0  # rmsprop
    clip: float = 0.0  # global 2-norm of the gradient; 0 is off
    ema: float = 0.0  # share of the old averaged weights; 0 is off
    input_scale: float = 1.0
    dropout: bool = True
    move: int = 0  # random crops move by up to this many pixels
    smoothing: float = 0.0  # of the labels
    momentum_policy: dict | None = None  # the momentum by epoch, as a policy; None: it stays
    head_policy: dict | None = None  # a factor on the rates of auxiliary classifiers, likewise
    share_policy: dict = field(default_factory=SHARE.copy)  # a teacher's in the loss, by epoch
    contrast: str | None = None  # of engine.data.dataset.CONTRASTS; None: as the data set says
    mean_image: bool | None = None  # whether it is subtracted; None: as the data set says, and so
    mirror: bool | None = None  # whether training images are mirrored
    distort: float = 0.0  # epochs, the first ones, in which images are distorted
    passes: int = 1  # forward passes whose mean is tested, of a net that draws in each
    mirror_turns: bool = False  # each image in every second epoch, rather than at random
    loss: str | None = None  # of engine.losses.LOSSES, unless another is asked for; None: softmax
    later: tuple["Recipe", ...] = ()  # stages that follow, each from the weights of the one before

    @property
    def stages(self) -> tuple["Recipe", ...]:
        return (replace(self, later=()), *self.later)

    @property
    def all_epochs(self) -> float:
        """Those of all stages."""
        return sum(stage.epochs for stage in self.stages)

    def changed(self, **fields) -> "Recipe":
        """With other fields in every stage."""
        return replace(self, **fields, later=tuple(replace(s, **fields) for s in self.later))

    def policy_over(self, steps: int) -> dict:
        """The policy stretched or shrunk to a run of `steps` updates."""
        return self.policy if steps == self.steps else stretched(self.policy, steps / self.steps)

    def over(self, policy: dict | None, epochs: float) -> dict | None:
        """One of its policies by epoch, stretched or shrunk to so many epochs."""
        if policy is None or epochs in (0, self.epochs):
            return policy
        return stretched(policy, epochs / self.epochs)

    def distort_over(self, epochs: float) -> float:
        """Of a run of so many epochs, those with distortion: the share that the recipe has."""
        return self.distort * epochs / self.epochs


def staged(first: Recipe, *later: Recipe) -> Recipe:
    """A recipe of several stages."""
    return replace(first, later=later)


PAPER_CIFAR = Recipe(
    "paper",
    "sgd",
    {"policy": "multistep", "rate": 0.01, "gamma": 0.1, "steps": [40_000, 60_000, 80_000]},
    steps=90_000,
    epochs=230.4,
    batch=128,
    input_scale=0.53,
    move=8,
)

PAPER_CIFAR_RMSPROP = replace(  # the rows marked with a dagger in the paper's Table 2
    PAPER_CIFAR,
    optimizer="rmsprop",
    steps=190_000,
    epochs=486.4,
    rho=0.9,
    policy={
        "policy": "multistep",
        "rate": 5e-4,
        "gamma": 0.5,
        "steps": [70_000, 100_000, 130_000, 150_000, 170_000, 180_000],
    },
)

PAPER_MNIST = Recipe(
    "paper",
    "rmsprop",
    {"policy": "step", "rate": 2e-3, "gamma": 0.1, "size": 15_000},
    steps=50_000,
    epochs=160 / 3,
    batch=64,
    rho=0.99,
)

PAPER_MNIST_SGD = replace(  # not in the paper: its MNIST nets were all trained with RMSProp
    PAPER_MNIST, optimizer="sgd", policy={**PAPER_MNIST.policy, "rate": 0.01}
)

FAST_CIFAR = Recipe(
    "fast",
    "nesterov",
    {"policy": "poly", "power": 1, "rate": 0.1, "total": 15_625, "warmup": 781},
    steps=15_625,
    epochs=40,
    batch=128,
    momentum=0.95,
    clip=1.0,
    input_scale=0.53,
    dropout=False,
    move=4,
    smoothing=0.1,
    mirror_turns=True,
)

FAST_CIFAR_RMSPROP = replace(
    FAST_CIFAR, optimizer="rmsprop", policy={**FAST_CIFAR.policy, "rate": 1e-3}
)

FAST_MNIST = Recipe(
    "fast",
    "rmsprop",
    {"policy": "cosine", "rate": 2e-3, "total": 9_400, "warmup": 100},
    steps=9_400,
    epochs=10,
    batch=64,
    rho=0.99,
    ema=0.999,
)

FAST_MNIST_SGD = replace(
    FAST_MNIST, optimizer="sgd", clip=1.0, policy={**FAST_MNIST.policy, "rate": 0.05}
)

PAPER_HIGHWAY_MNIST = Recipe(
    "paper",
    "nesterov",
    {"policy": "multistep", "rate": 0.01, "gamma": 0.1, "steps": [60_000, 120_000]},
    steps=180_000,
    epochs=300,
    batch=100,
    decay=1e-3,
)

PAPER_HIGHWAY = Recipe(
    "paper",
    "nesterov",
    {"policy": "multistep", "rate": 0.025, "gamma": 0.1, "steps": [100_000, 150_000, 175_000]},
    steps=200_000,
    epochs=400,
    batch=100,
    decay=1e-3,
    input_scale=0.53,
    move=8,
)

PAPER_NIN = Recipe(
    "paper",
    "sgd",
    {"policy": "multistep", "rate": 0.1, "gamma": 0.1, "steps": [100_000, 110_000]},
    steps=120_000,
    epochs=307.2,
    batch=128,
    decay=1e-4,
    move=4,
    contrast="zca",
)

PAPER_NIN_100 = replace(PAPER_NIN, policy={**PAPER_NIN.policy, "rate": 0.02}, decay=5e-4)

PAPER_NIN_MNIST = replace(PAPER_NIN, epochs=256, move=0, contrast=None)

DSN_FIRST = Recipe(
    "paper",
    "sgd",
    {"policy": "fixed", "rate": 0.025},
    steps=50_000,
    epochs=100,
    batch=100,
    move=4,
    contrast="zca",
    loss="squared-hinge",
    head_policy={"policy": "inv", "rate": 1, "gamma": 0.05, "power": 0.75},
)
DSN_SECOND = replace(
    DSN_FIRST,
    policy={"policy": "multistep", "rate": 0.025, "gamma": 0.05, "steps": [100_001]},
    steps=120_000,
    epochs=240,
    head_policy=None,
)
DSN_THIRD = replace(DSN_SECOND, policy={"policy": "fixed", "rate": 1e-4}, steps=30_000, epochs=60)

PAPER_DSN = staged(DSN_FIRST, DSN_SECOND, DSN_THIRD)

PAPER_DSN_MNIST = staged(
    *(
        replace(
            stage,
            policy=stretched(stage.policy, 0.6),
            steps=stage.steps * 6 // 10,
            epochs=stage.epochs / 2,
            head_policy=stage.over(stage.head_policy, stage.epochs / 2),
            move=0,
            contrast=None,
        )
        for stage in PAPER_DSN.stages
    )
)

PAPER_ALL_CNN = Recipe(
    "paper",
    "sgd",
    {"policy": "multistep", "rate": 0.05, "gamma": 0.1, "steps": [40_000, 50_000, 60_000]},
    steps=70_000,
    epochs=358.4,
    batch=256,
    decay=1e-3,
    move=5,
    contrast="zca",
)

PAPER_MIN = Recipe(
    "paper",
    "sgd",
    {
        "policy": "points",
        "rate": 0.5,
        "steps": [500 * epoch for epoch in (80, 179, 180, 221)],
        "factors": [1, 0.01, 0.01, 0.0018],
        "every": 500,
    },
    steps=111_000,
    epochs=222,
    batch=100,
    move=4,
    contrast="zca",
)

PAPER_MIN_MNIST = replace(
    PAPER_MIN, policy=stretched(PAPER_MIN.policy, 1.2), steps=133_200, move=0, contrast=None
)

PAPER_FMP_MNIST = Recipe(  # the rate is 0.003 an image, times the batch, times 1 - momentum
    "paper",
    "nesterov",
    {"policy": "exp", "rate": 3e-3 * exp(-0.01), "gamma": exp(-0.01 / 600), "every": 600},
    steps=246_000,
    epochs=410,
    batch=100,
    decay=0.0,
    momentum=0.99,
    passes=12,
    input_scale=1 / (255 * 0.004),  # of a pixel, which the data set multiplies by 0.004
)

PAPER_FMP_32 = replace(
    PAPER_FMP_MNIST,
    policy={"policy": "exp", "rate": 1.5e-3 * exp(-0.01), "gamma": exp(-1e-5), "every": 1000},
    steps=410_000,
    batch=50,
    mean_image=False,
    mirror=False,  # but for what distorts
    distort=400,
    input_scale=2.0,
    contrast="none",
)

PAPER_FMP_160 = replace(
    PAPER_FMP_32,
    policy={"policy": "exp", "rate": 1.5e-3 * exp(-0.005), "gamma": exp(-5e-6), "every": 1000},
    steps=810_000,
    epochs=810,
    distort=800,
)

PAPER_MAXOUT = Recipe(
    "paper",
    "sgd",
    {
        "policy": "points",
        "rate": 0.17,
        "steps": [0, 499 * 390.625],
        "factors": [1 - 0.99 / 500, 0.01],
        "every": 390.625,
    },
    steps=185_156,
    epochs=474,
    batch=128,
    decay=0.0,
    momentum=0.5,
    momentum_policy={"policy": "points", "rate": 1, "steps": [0, 249], "factors": [0.5, 0.65]},
    move=4,
    contrast="zca",
)

MAXOUT_MNIST = replace(
    PAPER_MAXOUT,
    policy={"policy": "exp", "rate": 0.05, "gamma": 1 / 1.00004},
    steps=117_188,
    epochs=250,
    momentum_policy={"policy": "points", "rate": 1, "steps": [0, 249], "factors": [0.5, 0.7]},
    move=0,
    contrast=None,
)

PAPER_MAXOUT_MNIST = staged(
    MAXOUT_MNIST,
    replace(
        MAXOUT_MNIST,
        policy={"policy": "fixed", "rate": 0.05 / 1.00004**117_187},
        steps=9_375,
        epochs=20,
        momentum=0.7,
        momentum_policy=None,
        dropout=False,
    ),
)

PAPER_ROMERO = Recipe(
    "paper",
    "rmsprop",
    {"policy": "fixed", "rate": 5e-3},
    steps=112_500,
    epochs=288,
    batch=128,
    decay=0.0,
    rho=0.9,
    delta=0.0,
    floor=1e-5,
    move=8,
    contrast="zca",
)

PAPER_ROMERO_MNIST = replace(
    PAPER_ROMERO,
    policy={"policy": "fixed", "rate": 5e-4},
    steps=70_312,
    epochs=150,
    share_policy={**SHARE, "steps": [3, 149], "factors": [1, 0]},
    move=0,
    contrast=None,
)

PAPER_CAFFENET = Recipe(
    "paper",
    "sgd",
    {"policy": "step", "rate": 0.01, "gamma": 0.1, "size": 100_000},
    steps=450_000,
    epochs=450_000 * 256 / IMAGENET,
    batch=256,
    move=14,
)

PAPER_GOOGLENET = Recipe(
    "paper",
    "sgd",
    {"policy": "poly", "rate": 0.01, "power": 0.5, "total": 2_400_000},
    steps=2_400_000,
    epochs=2_400_000 * 32 / IMAGENET,
    batch=32,
    decay=2e-4,
    move=16,
)

FAST_CAFFENET = Recipe(
    "fast",
    "sgd",
    {"policy": "cosine", "rate": 0.01, "total": 3_000, "warmup": 150},
    steps=3_000,
    epochs=20,
    batch=32,
    clip=1.0,
    dropout=False,
    move=14,
)

FAST_GOOGLENET = replace(FAST_CAFFENET, decay=2e-4, move=16)


def with_rmsprop(sgd: Recipe) -> Recipe:
    """Not in any solver file: those of these nets are SGD's, or RMSProp's own. Later stages keep
    their share of the first one's rate."""
    if sgd.optimizer == "rmsprop":
        return sgd
    return staged(
        *(
            replace(
                stage,
                optimizer="rmsprop",
                policy={**stage.policy, "rate": 1e-4 * (stage.policy["rate"] / sgd.policy["rate"])},
            )
            for stage in sgd.stages
        )
    )


SOLVERS = {  # of the nets whose authors used one optimizer
    "highway-16": PAPER_HIGHWAY_MNIST,
    "highway-32": PAPER_HIGHWAY_MNIST,
    "highway-19": PAPER_HIGHWAY,
    "nin": PAPER_NIN,
    "nin-mnist": PAPER_NIN_MNIST,
    "dsn": PAPER_DSN,
    "dsn-mnist": PAPER_DSN_MNIST,
    "all-cnn-c": PAPER_ALL_CNN,
    "all-cnn-large": PAPER_ALL_CNN,
    "min": PAPER_MIN,
    "min-mnist": PAPER_MIN_MNIST,
    "fmp-mnist": PAPER_FMP_MNIST,
    "fmp-32": PAPER_FMP_32,
    "fmp-160": PAPER_FMP_160,
    "maxout-cifar": PAPER_MAXOUT,
    "maxout-mnist": PAPER_MAXOUT_MNIST,
    "fitnet4-romero": PAPER_ROMERO,
    "fitnet-mnist-romero": PAPER_ROMERO_MNIST,
    "caffenet": PAPER_CAFFENET,
    "googlenet": PAPER_GOOGLENET,
}

OF_MANY_CLASSES = {  # more than ten, where the authors' settings are others then
    "nin": PAPER_NIN_100,
    "dsn": PAPER_DSN.changed(loss="softmax"),
}

FAST_FMP = replace(
    FAST_CIFAR, input_scale=2.0, contrast="none", mean_image=False, move=0, passes=12
)

RECIPES = {  # (kind, family); the first optimizer of a pair is the default
    ("paper", "cifar"): (PAPER_CIFAR, PAPER_CIFAR_RMSPROP),
    ("paper", "fitnet_mnist"): (PAPER_MNIST, PAPER_MNIST_SGD),
    **{("paper", net): (solver, with_rmsprop(solver)) for net, solver in SOLVERS.items()},
    ("fast", "cifar"): (FAST_CIFAR, FAST_CIFAR_RMSPROP),
    ("fast", "fmp-32"): (FAST_FMP, with_rmsprop(FAST_FMP)),
    ("fast", "fmp-160"): (FAST_FMP, with_rmsprop(FAST_FMP)),
    ("fast", "fitnet_mnist"): (FAST_MNIST, FAST_MNIST_SGD),
    ("fast", "caffenet"): (FAST_CAFFENET, with_rmsprop(FAST_CAFFENET)),
    ("fast", "googlenet"): (FAST_GOOGLENET, with_rmsprop(FAST_GOOGLENET)),
}


# Optimizers that scale each gradient by its square, as RMSProp: its rates suit them. A decay beside
# the gradient is not scaled; this one shrinks a weight in a step as SGD's 5e-4 does.
ADAPTIVE: dict[str, tuple[str, dict]] = {
    "adam": ("rmsprop", {}),
    "adamw": ("rmsprop", {"decay": 0.05}),
}


def recipe(
    net: str,
    act: str,
    init: str,
    kind: str = "paper",
    optimizer: str | None = None,
    classes: int = 10,
) -> Recipe:
    """The recipe of a net (a name of models.NETS), its activation, initialiser and classes.

    The authors ran FitNet-4 maxout with Xavier at momentum 0.5, and with MSRA at a tenth of the
    rate too, with clipping and a single step; those are the recipes of these two here."""
    choose("recipe", kind, KINDS)
    usual = "fitnet_mnist" if net in NETS and NETS[net].data == "mnist" else "cifar"
    pair = RECIPES[kind, net if (kind, net) in RECIPES else usual]
    if kind == "paper" and classes > 10 and net in OF_MANY_CLASSES:
        pair = (OF_MANY_CLASSES[net], with_rmsprop(OF_MANY_CLASSES[net]))
    known = {r.optimizer: r for r in pair}
    for name in OPTIMIZERS:  # of others no solver file tells: they take what one of these does
        like, own = ADAPTIVE.get(name, ("sgd", {}))
        known.setdefault(name, known.get(like, pair[0]).changed(optimizer=name, **own))
    chosen = known[choose("optimizer", optimizer, known)] if optimizer else pair[0]
    if chosen is PAPER_CIFAR and (net, act, init) == ("fitnet4", "maxout", "xavier"):
        return replace(chosen, momentum=0.5)
    if chosen is PAPER_CIFAR and (net, act, init) == ("fitnet4", "maxout", "msra"):
        return replace(
            chosen,
            momentum=0.5,
            clip=50.0,
            policy={**chosen.policy, "rate": 1e-3, "steps": [80_000]},
        )
    return chosen
