"""The options of engine.train, and how they and the recipe become the settings of a run.

Every setting has one value and one origin, which the run prints: the command line, the recipe of
the net, or a default. Values that can't work are refused before anything is loaded. `Known` hands
over the names of the other rooms, which this file does not import.

Read next: engine/train.py, which turns settings into a run.
"""

import argparse
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_type_hints

import numpy as np

from engine.cli.command import Parser
from engine.data import NAMES
from engine.errors import InputError, choose
from engine.losses import LOSSES
from engine.optimizers import OPTIMIZERS
from engine.schedules import rates

DEFAULTS = {"net": "fitnet4", "head": "softmax", "init": "lsuv", "recipe": "paper", "data": "auto",
            "device": "auto", "precision": "fp32", "seed": 0, "lsuv_mode": "same", "lsuv_tol": 0.05,
            "lsuv_max_iter": 100, "lsuv_pre": "ortho", "lsuv_normalise": "output",
            "nondeterministic": False}
# ... and the activation: each net has its own, see `defaults`.
# Of a run that is resumed. Another device or count of threads sums in another order, so the result
# is equal up to rounding only, and the run says so.
MAY_CHANGE = ("device", "threads", "data_dir", "nondeterministic")
MOST_EPOCHS = 40_000  # a checkpoint's header has a row for each, and 50,000 are more than is read
MOST_RUNS = 1_000  # likewise runs.json
# Settings that a run folder may lack, because they are younger than it: it had these defaults.
YOUNGER = ("lsuv_pre", "lsuv_normalise", "nondeterministic")
# Settings of older run folders that decide nothing any more: passed over.
RETIRED = ("guard",)


@dataclass(frozen=True)
class Known:
    """Names that exist, and `recipe(net, act, init, kind, optimizer)`. A net has `act`, its own
    activation, and `acts`, those that it may have."""

    nets: Mapping[str, object]
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

    `steps` updates in all; `policy` spans them. `clip` 0 is off; `limit` None is all; `threads` is
    the count in use, None where the device has none of its own."""

    net: str
    act: str
    head: str
    init: str
    data: str  # auto is resolved: the name of a data set, or a folder
    data_dir: str | None
    limit: int | None
    device: str
    precision: str
    threads: int | None
    seed: int
    recipe: str
    optimizer: str
    epochs: float
    batch: int
    steps: int
    lr: float
    policy: dict
    momentum: float
    rho: float
    delta: float
    decay: float
    clip: float
    input_scale: float
    dropout: bool
    move: int
    lsuv_mode: str
    lsuv_batch: int
    lsuv_tol: float
    lsuv_max_iter: int
    lsuv_pre: str
    lsuv_normalise: str
    nondeterministic: bool

    def as_dict(self) -> dict:
        return asdict(self)

    def on(self, ops) -> "Settings":
        """These, on a device that looks at a trained net: where it has no tf32, in fp32, which is
        finer."""
        return self if self.precision in ops.precisions else replace(self, precision="fp32")

    def lsuv_options(self) -> dict:
        """What `lsuv.initialise` is to be told; nothing for another initialiser."""
        if self.init != "lsuv":
            return {}
        return {"pre": self.lsuv_pre, "mode": self.lsuv_mode, "tolerance": self.lsuv_tol,
                "max_iter": self.lsuv_max_iter, "normalise": self.lsuv_normalise}

    @classmethod
    def from_dict(cls, values: dict, where: str | Path, known: Known) -> "Settings":
        """The settings that a run folder or a checkpoint holds. InputError if they don't fit."""
        values = {name: DEFAULTS[name] for name in YOUNGER} | values
        kinds = get_type_hints(cls)
        missing = [name for name in kinds if name not in values]
        if missing:
            raise InputError(f"{where}: its settings lack {', '.join(missing)}; it was written by "
                             "another version")
        found = {name: values[name] for name in kinds}
        for name, kind in kinds.items():
            if not of_kind(found[name], kind):
                raise InputError(f"{where}: its setting {name} is {found[name]!r}, which is no "
                                 f"{getattr(kind, '__name__', kind)}; put the run's own file back")
        try:
            check_values(found, known)
            check_policy(found["policy"], found["steps"])
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        return cls(**found)

    def must_fit(self, data, where: str | Path) -> None:
        """InputError unless these settings, out of a file, are those of a run on this data set."""
        images = len(data.train.images)
        for name, fits, wanted in (
                ("batch", self.batch <= images, f"at most the {images} training images"),
                ("lsuv_batch", self.lsuv_batch <= images, f"at most the {images} training images"),
                ("move", 0 <= self.move <= data.pad, f"from 0 to the border, {data.pad}"),
                ("steps", self.steps == round(self.epochs * images / self.batch),
                 "epochs x images / batch")):
            if not fits:
                raise InputError(f"{where}: its setting {name} is {getattr(self, name)}, and on "
                                 f"data {data.name} it must be {wanted}; put the run's own file "
                                 "back")


def of_kind(value, kind) -> bool:
    """Whether a value out of JSON has that type; a whole number is a float too, a bool is neither.
    A number is one that 64 bits hold."""
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, kind) or (kind is float and isinstance(value, int))


def check_policy(policy: dict, steps: int) -> None:
    """InputError unless a rate policy out of a file has a rate at the first and the last step."""
    for name, value in policy.items():
        values = value if name == "steps" and isinstance(value, list) else [value]
        if not all(isinstance(v, str) if name == "policy" else of_kind(v, float) for v in values):
            raise InputError(f"its rate policy has {name} {value!r:.80}, which is no number")
    try:
        with np.errstate(all="ignore"):
            found = [rates(policy, step, 1)[0] for step in (0, max(steps - 1, 0))]
    except InputError:
        raise
    except (ArithmeticError, TypeError, ValueError) as error:
        raise InputError(f"its rate policy does not work: {error}") from None
    if not all(math.isfinite(rate) and rate >= 0 for rate in found):
        raise InputError(f"its rate policy begins with {found[0]:g} and ends with {found[1]:g}, "
                         "which are no rates")


def add_net_options(parser: argparse.ArgumentParser, known: Known) -> None:
    """What decides a net's first weights and its data: shared by engine.train and lsuv."""

    def one_of(names: Iterable[str]) -> str:
        return " | ".join(names)

    add = parser.add_argument
    add("--net", metavar="NET", help=f"{one_of(known.nets)} (default: {DEFAULTS['net']})")
    add("--act", metavar="ACT", help=f"{one_of(known.acts)} (default: the net's own: "
        f"{one_of(sorted({net.act for net in known.nets.values()}))})")
    add("--head", metavar="HEAD", help=f"{one_of(LOSSES)} (default: {DEFAULTS['head']})")
    add("--init", metavar="INIT", help=f"{one_of(known.inits)} (default: {DEFAULTS['init']})")
    add("--lsuv-mode", metavar="MODE", help="same: one kept mini-batch | fresh: a new one for "
        f"every measurement, as the authors did (default: {DEFAULTS['lsuv_mode']})")
    add("--lsuv-batch", metavar="N", type=int, help="images in LSUV's batch (default: --batch)")
    add("--lsuv-tol", metavar="X", type=float, help="LSUV: tolerance on |variance - 1| "
        f"(default: {DEFAULTS['lsuv_tol']})")
    add("--lsuv-max-iter", metavar="N", type=int, help="LSUV: divisions of a layer at most "
        f"(default: {DEFAULTS['lsuv_max_iter']})")
    add("--lsuv-pre", metavar="INIT", help="LSUV: the filler before it "
        f"(default: {DEFAULTS['lsuv_pre']})")
    add("--lsuv-normalise", metavar="WHAT", help=f"LSUV: {one_of(known.normalisations)}, a layer's "
        f"own output or the next layer's input (default: {DEFAULTS['lsuv_normalise']})")
    add("--data", metavar="DATA", help=f"{one_of(NAMES)} | a folder with train/CLASS/*.png and "
        "test/CLASS/*.png. auto: the net's own set, else synthetic (default: auto)")
    add("--data-dir", metavar="DIR", help="where the data set's files are (default: "
        "$LSUV_DATA_DIR, then the cache folder)")
    add("--limit", metavar="N", type=int, help="at most N training and N test images")
    add("--input-scale", metavar="X", type=float, help="factor on every input (default: recipe)")
    add("--batch", metavar="N", type=int, help="images in a step (default: recipe)")
    add("--recipe", metavar="NAME", help=f"{one_of(known.recipes)}: the authors' settings, or our "
        f"short ones (default: {DEFAULTS['recipe']})")
    add("--device", metavar="NAME", help=f"{one_of(known.devices)} (default: auto)")
    add("--threads", metavar="N", type=int, help="CPU threads (default: all)")
    add("--precision", metavar="P", help="fp32 | tf32: device cuda rounds the factors of products "
        "to TF32 | bf16: activations and gradients in bfloat16, weights in float32 (default: fp32)")
    add("--nondeterministic", action="store_const", const=True, help="device cuda: faster "
        "convolutions whose bits may differ from run to run")
    add("--seed", metavar="N", type=int, help="of every random number (default: 0)")


def train_parser(known: Known, description: str) -> Parser:
    parser = Parser(prog="engine.train", description=description, epilog=(
        "The recipe's rate policy is stretched in proportion to the steps of the run, so with "
        "--epochs 23 a\nten times shorter `paper` run drops its rate ten times earlier. A run is "
        "round(epochs * images /\nbatch) steps. Defaults of the recipe are printed at the start."))
    add_net_options(parser, known)
    add = parser.add_argument
    add("--optimizer", metavar="NAME", help=f"{' | '.join(OPTIMIZERS)} (default: recipe)")
    add("--epochs", metavar="N", type=float, help="passes over the training images; 0: no training")
    add("--lr", metavar="X", type=float, help="the policy's rate, before it is lowered")
    add("--momentum", metavar="X", type=float, help="of sgd")
    add("--decay", metavar="X", type=float, help="L2 weight decay")
    add("--clip", metavar="X", type=float, help="limit on the gradient's 2-norm; 0 is off")
    add("--runs", metavar="N", type=int, help="N runs, seeds --seed and on, a folder each; mean "
        "and spread at the end")
    add("--out", metavar="DIR", help="run folder (default: runs/<net>-<init>-<date>)")
    add("--resume", metavar="DIR", help="continue the run in DIR exactly, or the --runs in it; "
        "only --device, --threads, --data-dir and --nondeterministic may be given with it")
    add("--summary", action="store_true", help="print the net's layers and stop")
    return parser


def check(args: argparse.Namespace, known: Known) -> None:
    """Refuse names and values that can't work, before anything is loaded. InputError."""
    given = options_of(args)
    for name, value in given.items():
        if isinstance(value, list):  # what argparse makes of --batch=--
            raise InputError(f"{option(name)} '--': expected a value; see --help")
        if isinstance(value, str) and "\0" in value:
            raise InputError(f"{option(name)} {value!r}: no name holds a zero byte; leave it out")
    check_values(given, known)
    if given.get("init", DEFAULTS["init"]) != "lsuv":
        for name in (name for name in vars(args) if name.startswith("lsuv_")):
            if name in given:
                raise InputError(f"{option(name)} is for --init lsuv, not {given['init']}")
    seed, count = given.get("seed", DEFAULTS["seed"]), given.get("runs", 1)
    if seed + count > 1 << 64:
        raise InputError(f"--seed {seed} with --runs {count} needs seeds beyond 2^64; give a "
                         "smaller --seed")


def defaults(given: dict, known: Known) -> dict:
    """The default of every setting that has one. Of the activation it is that of the net."""
    return DEFAULTS | {"act": known.nets[given.get("net", DEFAULTS["net"])].act}


def options_of(args: argparse.Namespace) -> dict:
    """What stands on the command line, by name."""
    return {name: value for name, value in vars(args).items() if value is not None}


def check_values(given: dict, known: Known) -> None:
    """Refuse names that nobody knows and numbers out of range. InputError."""
    for name, names in (("net", known.nets), ("act", known.acts), ("head", LOSSES),
                        ("init", known.inits), ("recipe", known.recipes),
                        ("device", known.devices), ("optimizer", OPTIMIZERS),
                        ("lsuv_mode", known.modes), ("lsuv_pre", known.inits),
                        ("lsuv_normalise", known.normalisations),
                        ("precision", ("fp32", "tf32", "bf16"))):
        if name in given:
            choose(option(name), given[name], names)
    if "act" in given:
        net = given.get("net", DEFAULTS["net"])
        choose(f"--act for --net {net}", given["act"], known.nets[net].acts)
    for name, wanted, fits in (
            ("epochs", "0 or more", lambda v: v >= 0), ("batch", "1 or more", lambda v: v >= 1),
            ("lr", "above 0", lambda v: v > 0), ("momentum", "in [0, 1)", lambda v: 0 <= v < 1),
            ("decay", "0 or more", lambda v: v >= 0), ("clip", "0 or more", lambda v: v >= 0),
            ("input_scale", "above 0", lambda v: v > 0), ("limit", "1 or more", lambda v: v >= 1),
            ("runs", f"in [1, {MOST_RUNS}]", lambda v: 1 <= v <= MOST_RUNS),
            ("threads", f"in [1, {known.threads}]", lambda v: 1 <= v <= known.threads),
            ("seed", "in [0, 2^64)", lambda v: 0 <= v < 1 << 64),
            ("lsuv_batch", "1 or more", lambda v: v >= 1),
            ("lsuv_tol", "in (0, 1)", lambda v: 0 < v < 1),
            ("lsuv_max_iter", "1 or more", lambda v: v >= 1),
            ("steps", "in [0, 2^31)", lambda v: 0 <= v < 1 << 31),
            ("rho", "in [0, 1)", lambda v: 0 <= v < 1), ("delta", "0 or more", lambda v: v >= 0)):
        value = given.get(name)
        if value is not None and not (fits(value) and value != math.inf):
            raise InputError(f"{option(name)} {value:g} must be {wanted}"
                             if isinstance(value, float) else
                             f"{option(name)} {value} must be {wanted}")


def check_resume(args: argparse.Namespace) -> None:
    """InputError if an option beside --resume would change the run."""
    for name, value in vars(args).items():
        if name not in (*MAY_CHANGE, "resume") and value is not None and value is not False:
            raise InputError(f"{option(name)} can't be given with --resume, which continues the "
                             "run with its own settings; leave it out, or start a new run")


def option(name: str) -> str:
    """The command line's spelling of a setting."""
    return "--" + name.replace("_", "-")


def recipe_of(args: argparse.Namespace, known: Known):
    """The recipe that the options ask for. InputError for one that its optimizer can't use."""
    given = options_of(args)
    names = {**defaults(given, known), **given}
    found = known.recipe(*(names[key] for key in ("net", "act", "init", "recipe")),
                         given.get("optimizer"))
    if "momentum" in given and found.optimizer != "sgd":
        raise InputError(f"--momentum {given['momentum']:g}: optimizer {found.optimizer} has no "
                         "momentum; give --optimizer sgd, or leave it out")
    return found


def absolute(path: str) -> str:
    """The same folder from wherever the run is continued."""
    return str(Path(os.path.expanduser(path)).resolve())


def resolve(args: argparse.Namespace, known: Known, data) -> tuple[Settings, dict[str, str]]:
    """Settings for a data set -> (settings, origins).

    InputError for a batch larger than the data set, too many steps, or an option that the optimizer
    can't use."""
    given, images = options_of(args), len(data.train.images)
    origins: dict[str, str] = {}

    def pick(name: str, default, origin: str):
        origins[name] = "command line" if name in given else origin
        return given.get(name, default)

    plain = {name: pick(name, value, "default") for name, value in defaults(given, known).items()}
    for name in ("data_dir", "limit", "threads"):
        plain[name] = pick(name, None, "default")
    if plain["data"] == "auto":
        plain["data"] = data.name
    elif plain["data"] not in NAMES:
        plain["data"] = absolute(plain["data"])
    if plain["data_dir"] is not None:
        plain["data_dir"] = absolute(plain["data_dir"])
    found = recipe_of(args, known)
    source = f"recipe {found.name}"
    tuned = {name: pick(name, getattr(found, name), source) for name in
             ("optimizer", "epochs", "batch", "momentum", "rho", "delta", "decay", "clip",
              "input_scale", "dropout", "move")}
    tuned["lr"] = pick("lr", found.policy["rate"], source)
    tuned["lsuv_batch"] = pick("lsuv_batch", tuned["batch"], "the batch")
    if tuned["move"] > data.pad:
        origins["move"] = f"{source}'s {tuned['move']}, cut to the border of data {data.name}"
        tuned["move"] = data.pad
    for name in ("batch", "lsuv_batch"):
        if tuned[name] > images:
            raise InputError(f"{option(name)} {tuned[name]} is more than the {images} training "
                             f"images of {data.name}; give a smaller one, or raise --limit")
    length = tuned["epochs"] * images / tuned["batch"]
    if not length < (1 << 31) - 1:
        raise InputError(f"--epochs {tuned['epochs']:g} is {length:.3g} steps, and a run has fewer "
                         "than 2^31; give fewer epochs")
    if tuned["epochs"] > MOST_EPOCHS:
        raise InputError(f"--epochs {tuned['epochs']:g} is more than {MOST_EPOCHS:,}, the rows "
                         "that a checkpoint has room for; give fewer epochs, of a larger --limit")
    steps = round(length)
    policy = found.policy_over(steps) if steps else found.policy
    stretch = "" if policy == found.policy else f", stretched from {found.steps} to {steps} steps"
    origins |= {"policy": source + stretch, "steps": "epochs x images / batch"}
    return Settings(**plain, **tuned, steps=steps, policy={**policy, "rate": tuned["lr"]}), origins


def lines(settings: Settings, origins: dict[str, str]) -> list[str]:
    """One line a setting: name, value, origin. What the optimizer or initialiser ignores is left
    out."""
    hidden = {"sgd": ("rho", "delta"), "rmsprop": ("momentum",)}[settings.optimizer]
    out = []
    for name, value in settings.as_dict().items():
        if name in hidden or (name.startswith("lsuv_") and settings.init != "lsuv"):
            continue
        origin = origins.get(name, "")
        out.append(f"  {name.replace('_', '-'):<13}  {shown(value):<24}  {origin}".rstrip())
    return out


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
