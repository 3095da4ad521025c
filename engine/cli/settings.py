"""The settings of a run: what they may be, and the lines that print them.

Every setting has one value and one origin, which the run prints: the command line, the recipe of
the net, or a default. Values that can't work are refused before anything is loaded. `Known` hands
over the names of the other rooms, which this file does not import.

Read next: engine/cli/options.py, the command line that they come from.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from engine.data.dataset import CONTRASTS, held
from engine.errors import InputError, choose
from engine.losses import LOSSES
from engine.optimizers import OPTIMIZERS
from engine.schedules import rates

DEFAULTS: dict[str, Any] = {
    "net": "fitnet4",
    "loss": "softmax",
    "init": "lsuv",
    "recipe": "paper",
    "data": "auto",
    "device": "auto",
    "precision": "fp32",
    "shards": 1,
    "seed": 0,
    "lsuv_mode": "same",
    "lsuv_tol": 0.05,
    "lsuv_max_iter": 100,
    "lsuv_pre": "ortho",
    "lsuv_normalise": "output",
    "nondeterministic": False,
    "follow_links": False,
}
# ... and the activation: each net has its own, see `defaults`.
# Of a run that is resumed. Another device or count of threads sums in another order, so the result
# is equal up to rounding only, and the run says so. Data are the same by their fingerprint.
MAY_CHANGE = ("device", "threads", "data", "data_dir", "follow_links", "nondeterministic")
BY_EPOCH = ("momentum_policy", "head_policy", "share_policy")
# What --resume --epochs changes, in run.json first.
LENGTH = ("epochs", "steps", "policy", *BY_EPOCH, "distort")
TAUGHT = ("teacher", "hints", "temperature", "student_temperature", "share_policy")
PRECISIONS = ("fp32", "tf32", "bf16")
LOGS = ("csv", "tensorboard", "caffe")  # metrics.csv is there with any
MOST_EPOCHS = 40_000  # a checkpoint's header has a row for each, and 50,000 are more than is read
MOST_RUNS = 1_000  # likewise runs.json
HYPER = {name: option for kind in OPTIMIZERS.values() for name, option in kind.options.items()}
# Settings that a run folder may lack, because they are younger than it: it had these values.
YOUNGER = {
    name: DEFAULTS[name]
    for name in ("lsuv_pre", "lsuv_normalise", "nondeterministic", "follow_links")
}
YOUNGER |= {"mirror": None, "contrast": None, "mean_image": None}  # as the data set says
YOUNGER |= {
    "mirror_turns": False,
    "smoothing": 0.0,
    "validation": 0.0,
    "weights": None,
    "freeze": None,
    "log": None,
    "momentum_policy": None,
    "head_policy": None,
    "passes": 1,
    "stage": 0,
    "teacher": None,
    "hints": None,
    "temperature": 3.0,
    "student_temperature": 3.0,
    "share_policy": None,
    "distort": 0.0,
    "shards": 1,
}
YOUNGER |= {name: HYPER[name].default for name in ("ema", "accumulate", "floor")}
RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "epochs": ("0 or more", lambda v: v >= 0),
    "batch": ("1 or more", lambda v: v >= 1),
    "shards": ("a power of two", lambda v: v > 0 and int(v).bit_count() == 1),
    "lr": ("above 0", lambda v: v > 0),
    "input_scale": ("above 0", lambda v: v > 0),
    "limit": ("1 or more", lambda v: v >= 1),
    "distort": ("0 or more", lambda v: v >= 0),
    "passes": ("in [1, 10000]", lambda v: 1 <= v <= 10_000),
    "move": ("0 or more", lambda v: v >= 0),
    "smoothing": ("in [0, 1)", lambda v: 0 <= v < 1),
    "validation": (
        "a share, or a number of images",
        lambda v: 0 <= v < 1 or (v >= 1 and v % 1 == 0),
    ),
    "runs": (f"in [1, {MOST_RUNS}]", lambda v: 1 <= v <= MOST_RUNS),
    "seed": ("in [0, 2^64)", lambda v: 0 <= v < 1 << 64),
    "lsuv_batch": ("1 or more", lambda v: v >= 1),
    "lsuv_tol": ("in (0, 1)", lambda v: 0 < v < 1),
    "lsuv_max_iter": ("1 or more", lambda v: v >= 1),
    "steps": ("in [0, 2^31)", lambda v: 0 <= v < 1 << 31),
    "stage": ("0 or more", lambda v: v >= 0),
    "hint_epochs": ("0 or more", lambda v: v >= 0),
    "temperature": ("above 0", lambda v: v > 0),
    "student_temperature": ("above 0", lambda v: v > 0),
    **{name: (option.wanted, option.fits) for name, option in HYPER.items()},
}


@dataclass(frozen=True)
class Known:
    """Names that exist, and `recipe(net, act, init, kind, optimizer, classes)`. A net has `act`,
    its own activation, `acts`, those that it may have, and its input's `in_shape`."""

    nets: Mapping[str, Any]
    acts: Collection[str]
    inits: Collection[str]
    recipes: Collection[str]
    modes: Collection[str]  # of LSUV
    normalisations: Collection[str]  # of LSUV
    devices: Collection[str]
    threads: int  # at most
    recipe: Callable


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's result, and device, threads and folders. run.json holds it.

    `steps` updates in all; `policy` spans them; `momentum_policy`, unless it is None, is the
    momentum by epoch, from 0 on. `limit` None is all; `threads` is the count in use, None where the
    device has none of its own; `mirror`, `contrast` and `mean_image` None are as the data set says.
    `validation` is 0, or a share or a number of the training images; `weights` and `freeze`: what
    trained weights it starts from, and the layers that keep them, None for none. `stage` is 0 where
    the recipe has one; a later stage starts from the weights of the one before. `teacher` is the
    run that the net learns from, if there is one, too: its scores, at those temperatures, with
    `share_policy` their share by epoch; or, where `hints` names a layer of each, what that gives.
    `shards`: the equal parts of a batch, by engine/run/shards.py.
    `hyper` holds the optimizer's own numbers, and each is an attribute too: s.momentum."""

    net: str
    act: str
    loss: str
    smoothing: float
    init: str
    weights: str | None
    freeze: str | None
    data: str  # auto is resolved: the name of a data set, or a folder
    data_dir: str | None
    follow_links: bool
    limit: int | None
    validation: float
    contrast: str | None
    mean_image: bool | None
    device: str
    precision: str
    threads: int | None
    seed: int
    recipe: str
    stage: int
    optimizer: str
    epochs: float
    batch: int
    shards: int
    steps: int
    lr: float
    policy: dict
    momentum_policy: dict | None
    head_policy: dict | None
    teacher: str | None
    hints: str | None
    temperature: float
    student_temperature: float
    share_policy: dict | None
    hyper: dict[str, float]
    input_scale: float
    dropout: bool
    move: int
    mirror: bool | None
    mirror_turns: bool
    passes: int
    distort: float
    lsuv_mode: str
    lsuv_batch: int
    lsuv_tol: float
    lsuv_max_iter: int
    lsuv_pre: str
    lsuv_normalise: str
    nondeterministic: bool
    log: str | None

    def __getattr__(self, name: str):
        try:
            return self.__dict__["hyper"][name]
        except KeyError:
            raise AttributeError(f"no setting {name!r}") from None

    def as_dict(self) -> dict:
        """Name to value, the optimizer's numbers among the others."""
        values: dict = {}
        for name, value in asdict(self).items():
            values |= value if name == "hyper" else {name: value}
        return values

    def on(self, ops) -> "Settings":
        """These, on a device that looks at a trained net: where it has no tf32, in fp32, which is
        finer."""
        return self if self.precision in ops.precisions else replace(self, precision="fp32")

    def lasting(self, epochs: float, images: int, classes: int, known: Known) -> "Settings":
        """These for another number of epochs, of a set of so many training images: the recipe's
        policy spans all of them. InputError for epochs that can't be."""
        steps = steps_of(epochs, self.trained_on(images), self.batch, self.parts)
        recipe = known.recipe(self.net, self.act, self.init, self.recipe, self.optimizer, classes)
        policy = {**recipe.policy_over(steps // self.parts), "rate": self.lr}
        by_epoch: dict = {
            name: recipe.over(getattr(recipe, name), epochs)
            for name in BY_EPOCH
            if getattr(self, name)
        }
        by_epoch["distort"] = recipe.distort_over(epochs) if self.distort else 0.0
        return replace(self, epochs=epochs, steps=steps, policy=policy, **by_epoch)

    def of_data(self, data) -> dict:
        """What the data set says where these say nothing."""
        names = ("mirror", "contrast", "mean_image")
        return {name: getattr(data, name) for name in names if getattr(self, name) is None}

    @property
    def parts(self) -> int:
        """Steps that make an update."""
        return int(self.accumulate)

    @property
    def shard(self) -> int:
        """Images in a shard of a step."""
        return self.batch // self.shards

    def trained_on(self, images: int) -> int:
        """How many of a set's training images are: all but those held out."""
        return images - (held(images, self.validation) if self.validation else 0)

    def lsuv_options(self) -> dict:
        """What `lsuv.initialise` is to be told; nothing for another initialiser."""
        if self.init != "lsuv":
            return {}
        return {
            "pre": self.lsuv_pre,
            "mode": self.lsuv_mode,
            "tolerance": self.lsuv_tol,
            "max_iter": self.lsuv_max_iter,
            "normalise": self.lsuv_normalise,
        }

    @classmethod
    def from_dict(cls, values: dict, where: str | Path, known: Known) -> "Settings":
        """The settings that a run folder or a checkpoint holds. InputError if they don't fit."""
        values = YOUNGER | values
        kinds = get_type_hints(cls)
        del kinds["hyper"]
        if isinstance(name := values.get("optimizer"), str) and name in OPTIMIZERS:
            kinds |= dict.fromkeys(OPTIMIZERS[name].options, float)
        if missing := [name for name in kinds if name not in values]:
            raise InputError(
                f"{where}: its settings lack {', '.join(missing)}; it was written by "
                "another version"
            )
        values = {name: values[name] for name in kinds}
        for name, kind in kinds.items():
            if not of_kind(values[name], kind):
                raise InputError(
                    f"{where}: its setting {name} is {values[name]!r}, which is no "
                    f"{getattr(kind, '__name__', kind)}; put the run's own file back"
                )
        try:
            check_values(values, known)
            for step in (0, max(values["steps"] - 1, 0)):
                rates(values["policy"], step, 1)
                for name in BY_EPOCH:
                    if values[name] is not None:
                        rates(values[name], step, 1)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        hyper = {name: values.pop(name) for name in OPTIMIZERS[values["optimizer"]].options}
        return cls(**values, hyper=hyper)

    def must_fit(self, data, where: str | Path) -> None:
        """InputError unless these settings, out of a file, are those of a run on this data set."""
        images, border = self.trained_on(len(data.train)), data.preprocessing.pad
        for name, fits, wanted in (
            ("batch", self.batch <= images, f"at most the {images} training images"),
            ("lsuv_batch", self.lsuv_batch <= images, f"at most the {images} training images"),
            ("shards", self.batch % self.shards == 0, f"a divisor of the batch, {self.batch}"),
            ("move", 0 <= self.move <= border, f"from 0 to the border, {border}"),
            (
                "steps",
                self.steps == round(self.epochs * images / (self.batch * self.parts)) * self.parts,
                "epochs x images / batch",
            ),
        ):
            if not fits:
                raise InputError(
                    f"{where}: its setting {name} is {getattr(self, name)}, and on "
                    f"data {data.name} it must be {wanted}; put the run's own file "
                    "back"
                )


def steps_of(epochs: float, images: int, batch: int, parts: int = 1, share: float = 1.0) -> int:
    """round(epochs x images / batch), or the nearest multiple of the `parts` that an update has.
    share: of all stages' epochs. InputError where it is none, or more than a run can have."""
    batch *= parts
    length = epochs * images / batch
    if not length * parts < (1 << 31) - 1:
        raise InputError(
            f"--epochs {epochs:g} is {length:.3g} steps, and a run has fewer than "
            "2^31; give fewer epochs"
        )
    if epochs > MOST_EPOCHS:
        raise InputError(
            f"--epochs {epochs:g} is more than {MOST_EPOCHS:,}, the rows that a "
            "checkpoint has room for; give fewer epochs, of a larger --limit"
        )
    if epochs > 0 and round(length) == 0:
        raise InputError(
            f"--epochs {epochs / share:g} of {images} images is no step of {batch}; give "
            f"--epochs {batch / images / share:.4g}, which is one, or 0 for the untrained net"
        )
    return round(length) * parts


def of_kind(value, kind) -> bool:
    """Whether a value out of JSON has that type; a whole number is a float too, a bool is neither.
    A number is one that 64 bits hold."""
    if isinstance(value, bool):
        return kind in (bool, bool | None)
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, kind) or (kind is float and isinstance(value, int))


def defaults(given: dict, known: Known) -> dict:
    """The default of every setting that has one. Of the activation it is that of the net."""
    return DEFAULTS | {"act": known.nets[given.get("net", DEFAULTS["net"])].act}


def check_values(given: dict, known: Known) -> None:
    """Refuse names that nobody knows and numbers out of range. InputError."""
    names = {
        "net": known.nets,
        "act": known.acts,
        "loss": LOSSES,
        "contrast": CONTRASTS,
        "init": known.inits,
        "recipe": known.recipes,
        "device": known.devices,
        "optimizer": OPTIMIZERS,
        "lsuv_mode": known.modes,
        "lsuv_pre": known.inits,
        "lsuv_normalise": known.normalisations,
        "precision": PRECISIONS,
    }
    for name in names.keys() & given.keys():
        if given[name] is not None:
            choose(option(name), given[name], names[name])
    for kind in given["log"].split(",") if given.get("log") is not None else ():
        choose("--log", kind, LOGS)
    if given.get("smoothing") and given.get("loss", DEFAULTS["loss"]) != "softmax":
        raise InputError(
            f"--smoothing {given['smoothing']:g} is for --loss softmax, not {given['loss']}"
        )
    if given.get("teacher"):
        loss, smoothing = given.get("loss", DEFAULTS["loss"]), given.get("smoothing")
        if loss != "softmax" or smoothing:
            own = f"--smoothing {smoothing:g}" if smoothing else f"--loss {loss}"
            raise InputError(f"--teacher is for --loss softmax without smoothing, not {own}")
    if given.get("hints") is not None and given["hints"].count(":") != 1:
        raise InputError(
            f"--hints {given['hints']}: give a layer of the net and one of the teacher, such as "
            "conv26:conv2"
        )
    if "act" in given:
        net = given.get("net", DEFAULTS["net"])
        choose(f"--act for --net {net}", given["act"], known.nets[net].acts)
    ranges = RANGES | {"threads": (f"in [1, {known.threads}]", lambda v: 1 <= v <= known.threads)}
    for name, (wanted, fits) in ranges.items():
        value = given.get(name)
        if value is not None and not (fits(value) and value != math.inf):
            text = f"{value:g}" if isinstance(value, float) else value
            raise InputError(f"{option(name)} {text} must be {wanted}")


def option(name: str) -> str:
    """The command line's spelling of a setting."""
    return "--" + name.replace("_", "-")


def lines(settings: Settings, origins: dict[str, str]) -> list[str]:
    """One line a setting: name, value, origin. What the initialiser ignores is left out, and what
    is said of a teacher that is none."""
    return [
        f"  {name.replace('_', '-'):<13}  {shown(value):<24}  {origins.get(name, '')}".rstrip()
        for name, value in settings.as_dict().items()
        if (settings.init == "lsuv" or not name.startswith("lsuv_"))
        and (settings.stage or name != "stage")
        and (settings.teacher or name not in TAUGHT)
    ]


def shown(value) -> str:
    """A setting's value as text."""
    if isinstance(value, dict):  # a rate policy; its rate is the setting lr
        rest = (f"{key} {shown(v)}" for key, v in value.items() if key not in ("policy", "rate"))
        return ", ".join([value.get("policy", "fixed"), *rest])
    if isinstance(value, list):
        return " ".join(map(shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    return "-" if value is None else str(value)
