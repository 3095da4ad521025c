"""The options of the command lines, and how they and the recipe become the settings of a run.

Read next: engine/cli/messages.py.
"""

import argparse
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from engine.cli.command import Parser
from engine.cli.settings import (
    DEFAULTS,
    HYPER,
    LOGS,
    MAY_CHANGE,
    Known,
    Settings,
    check_values,
    defaults,
    option,
    steps_of,
)
from engine.data import NAMES
from engine.data.dataset import held
from engine.errors import InputError
from engine.losses import LOSSES
from engine.optimizers import OPTIMIZERS

PASSES = "of a net that draws in every pass, whose mean counts (default: the run's)"
HINT_EPOCHS = 50  # of our own: the authors stopped by a validation error, and did not say when


def one_of(names: Iterable[str]) -> str:
    return " | ".join(names)


def add_net_options(parser: argparse.ArgumentParser, known: Known) -> dict:
    """What decides a net's first weights and its data: shared by engine.train and lsuv -> the
    groups of --help by title."""
    titles = ("net", "initialisation", "data", "training", "device", "run")
    groups = {title: parser.add_argument_group(title) for title in titles}
    switch = argparse.BooleanOptionalAction

    add = groups["net"].add_argument
    add("--net", metavar="NET", help=f"{one_of(known.nets)} (default: {DEFAULTS['net']})")
    add(
        "--act",
        metavar="ACT",
        help=f"{one_of(known.acts)} (default: the net's own: "
        f"{one_of(sorted({net.act for net in known.nets.values()}))})",
    )
    add("--loss", metavar="LOSS", help=f"{one_of(LOSSES)} (default: {DEFAULTS['loss']})")
    add(
        "--smoothing",
        metavar="X",
        type=float,
        help="share of a label's probability that goes to all classes alike (default: recipe)",
    )

    add = groups["initialisation"].add_argument
    add("--init", metavar="INIT", help=f"{one_of(known.inits)} (default: {DEFAULTS['init']})")
    add(
        "--lsuv-mode",
        metavar="MODE",
        help="same: one kept mini-batch | fresh: a new one for "
        f"every measurement, as the authors did (default: {DEFAULTS['lsuv_mode']})",
    )
    add("--lsuv-batch", metavar="N", type=int, help="images in LSUV's batch (default: --batch)")
    add(
        "--lsuv-tol",
        metavar="X",
        type=float,
        help=f"tolerance on |variance - 1| (default: {DEFAULTS['lsuv_tol']})",
    )
    add(
        "--lsuv-max-iter",
        metavar="N",
        type=int,
        help=f"divisions of a layer at most (default: {DEFAULTS['lsuv_max_iter']})",
    )
    add(
        "--lsuv-pre", metavar="INIT", help=f"the filler before it (default: {DEFAULTS['lsuv_pre']})"
    )
    add(
        "--lsuv-normalise",
        metavar="WHAT",
        help=f"{one_of(known.normalisations)}: a layer's own "
        f"output or the next layer's input (default: {DEFAULTS['lsuv_normalise']})",
    )

    add = groups["data"].add_argument
    add(
        "--data",
        metavar="DATA",
        help=f"{one_of(NAMES)} | a folder with train/CLASS/*.png and "
        "test/CLASS/*.png, or CLASS/*.png alone. auto: the net's own set, else synthetic "
        "(default: auto)",
    )
    add(
        "--data-dir",
        metavar="DIR",
        help="where the data set's files are (default: $LSUV_DATA_DIR, then the cache folder)",
    )
    add(
        "--follow-links",
        action=switch,
        help="read what links lead to that lead out of a folder of images (default: refused)",
    )
    add("--limit", metavar="N", type=int, help="at most N training and N test images")
    add("--input-scale", metavar="X", type=float, help="factor on every input (default: recipe)")
    add(
        "--contrast",
        metavar="HOW",
        help="gcn: every image to mean 0 and one norm | zca: that, then whitened | none: one "
        "factor on every pixel (default: recipe, else as the data set says)",
    )
    add(
        "--mean-image",
        action=switch,
        help="subtract the mean training image (default: as the data set says)",
    )
    add("--move", metavar="N", type=int, help="crops move by up to N pixels (default: recipe)")
    add(
        "--mirror",
        action=switch,
        help="mirror half of the training images (default: as the data set says)",
    )
    add(
        "--mirror-turns",
        action=switch,
        help="mirror each in every second epoch, rather than at random (default: recipe)",
    )
    add(
        "--distort",
        metavar="N",
        type=float,
        help="the first N epochs of a net with a Distort layer are distorted (default: recipe)",
    )
    add(
        "--passes",
        metavar="N",
        type=int,
        help="passes of the last test, of a net that draws in each; their mean counts",
    )

    add = groups["training"].add_argument
    add(
        "--recipe",
        metavar="NAME",
        help=f"{one_of(known.recipes)}: the authors' settings, or our "
        f"short ones (default: {DEFAULTS['recipe']})",
    )
    add("--batch", metavar="N", type=int, help="images in a step (default: recipe)")
    add("--seed", metavar="N", type=int, help="of every random number (default: 0)")

    add = groups["device"].add_argument
    add("--device", metavar="NAME", help=f"{one_of(known.devices)} (default: auto)")
    add("--threads", metavar="N", type=int, help="CPU threads (default: all)")
    add(
        "--precision",
        metavar="P",
        help="fp32 | tf32: device cuda rounds the operands of matmuls "
        "to TF32 | bf16: activations and gradients in bfloat16, weights in float32 (default: fp32)",
    )
    add(
        "--nondeterministic",
        action=switch,
        help="device cuda: faster convolutions whose bits may differ from run to run",
    )
    return groups


def train_parser(known: Known, description: str) -> Parser:
    parser = Parser(
        prog="engine.train",
        description=description,
        epilog=(
            "The recipe's rate policy is stretched in proportion to the steps of the run, so with "
            "--epochs 23 a\nten times shorter `paper` run drops its rate ten times earlier. "
            "A run is round(epochs * images /\nbatch) steps. "
            "Defaults of the recipe are printed at the start."
        ),
    )
    groups = add_net_options(parser, known)
    add = groups["training"].add_argument
    add(
        "--epochs",
        metavar="N",
        type=float,
        help="passes over the training images, of all stages together; 0: no training",
    )
    add(
        "--lr",
        metavar="X",
        type=float,
        help="the policy's rate, before it is lowered; of several stages the first one's",
    )
    add(
        "--shards",
        metavar="N",
        type=int,
        help="a step's batch is computed in N equal parts, a power of two, which mpiexec -n may "
        f"deal out to up to N processes: the result is the same (default: {DEFAULTS['shards']})",
    )
    add("--optimizer", metavar="NAME", help=f"{one_of(OPTIMIZERS)} (default: recipe)")
    for name, hyper in HYPER.items():
        owners = [kind for kind in OPTIMIZERS if name in OPTIMIZERS[kind].options]
        of = "" if len(owners) == len(OPTIMIZERS) else f"of {', '.join(owners)}: "
        add(option(name), metavar="X", type=float, help=f"{of}{hyper.help}, {hyper.wanted}")
    add(
        "--validation",
        metavar="X",
        type=float,
        help="hold out a share or a number of the training images: they are scored after every "
        "epoch, the best epoch's weights are kept, and test images seen at the end alone",
    )
    add("--weights", metavar="RUN", help="start from the weights of a run, or of a file of one")
    add("--teacher", metavar="RUN", help="learn from the scores of a trained net, too")
    add(
        "--hints",
        metavar="LAYERS",
        help="a first stage learns to give what a layer of the teacher gives, for example "
        "'conv26:conv2': the net's layer, the teacher's",
    )
    add(
        "--hint-epochs",
        metavar="N",
        type=float,
        help=f"of that stage, beside --epochs (default: {HINT_EPOCHS})",
    )
    for whose, default in (("", 3), ("student-", "--temperature")):
        add(
            f"--{whose}temperature",
            metavar="X",
            type=float,
            help=f"scores of the {'net' if whose else 'teacher'} are divided by it (default: "
            f"{default})",
        )
    add("--freeze", metavar="NAMES", help="layers whose weights stay, for example 'conv1*,conv2*'")
    add = groups["run"].add_argument
    add("--log", metavar="KINDS", help=f"one or several of {','.join(LOGS)} (default: csv)")
    add("--out", metavar="DIR", help="run folder (default: runs/<net>-<init>-<date>)")
    add(
        "--resume",
        metavar="DIR",
        help="continue the run in DIR exactly, or the runs in it; with --epochs to another end; "
        f"else only {', '.join(map(option, MAY_CHANGE))} may be given with it",
    )
    add(
        "--runs",
        metavar="N",
        type=int,
        help="N runs, seeds --seed and on, a folder each; mean and spread at the end",
    )
    add(
        "--sweep",
        metavar="NAME=A,B",
        nargs="+",
        help="a run for every combination of these settings; what is over is skipped",
    )
    add("--executor", metavar="NAME", help="of --sweep: local | slurm, by submitit (default: none)")
    add("--parallel", metavar="N", type=int, help="of --executor: runs at once (default: 1)")
    add("--set", metavar="NAME=VALUE", action="append", help="an option of Slurm's; again for more")
    add("--summary", action="store_const", const=True, help="print the net's layers and stop")
    return parser


def check(args: argparse.Namespace, known: Known) -> None:
    """Refuse names and values that can't work, before anything is loaded. InputError."""
    typed = options_of(args)
    for name, value in typed.items():
        # What argparse makes of --batch=--
        if isinstance(value, list) and name not in ("sweep", "set"):
            raise InputError(f"{option(name)} '--': expected a value; see --help")
        if isinstance(value, str) and "\0" in value:
            raise InputError(f"{option(name)} {value!r}: no name holds a zero byte; leave it out")
    check_values(typed, known)
    for name in ("hints", "temperature", "student_temperature", "hint_epochs"):
        wanted = "hints" if name == "hint_epochs" else "teacher"
        if name in typed and wanted not in typed:
            raise InputError(f"{option(name)} {typed[name]} wants {option(wanted)} beside it")
    if typed.get("init", DEFAULTS["init"]) != "lsuv":
        for name in (name for name in vars(args) if name.startswith("lsuv_")):
            if name in typed:
                raise InputError(f"{option(name)} is for --init lsuv, not {typed['init']}")
    seed, count = typed.get("seed", DEFAULTS["seed"]), typed.get("runs", 1)
    if seed + count > 1 << 64:
        raise InputError(
            f"--seed {seed} with --runs {count} needs seeds beyond 2^64; give a smaller --seed"
        )


def check_resume(args: argparse.Namespace) -> None:
    """InputError if an option beside --resume would change the run."""
    for name, value in vars(args).items():
        if name not in (*MAY_CHANGE, "epochs", "resume") and value is not None:
            raise InputError(
                f"{option(name)} can't be given with --resume, which continues the "
                "run with its own settings; leave it out, or start a new run"
            )


def refuse_auto(args: argparse.Namespace) -> None:
    """InputError for --data auto with a run that has begun: it has its data."""
    if args.data == "auto":
        raise InputError("--data auto: the run has its data; leave it out, or say where they are")


def options_of(args: argparse.Namespace) -> dict:
    """What stands on the command line, by name."""
    return {name: value for name, value in vars(args).items() if value is not None}


def recipe_of(args: argparse.Namespace, known: Known, classes: int):
    """The recipe that the options ask for. InputError for an option of another optimizer."""
    typed = options_of(args)
    names = defaults(typed, known) | typed
    recipe = known.recipe(
        *(names[key] for key in ("net", "act", "init", "recipe")), typed.get("optimizer"), classes
    )
    own = OPTIMIZERS[recipe.optimizer].options
    for name in HYPER.keys() & typed.keys() - own.keys():
        raise InputError(
            f"{option(name)} {typed[name]:g}: optimizer {recipe.optimizer} has none, "
            f"but {', '.join(own)}; leave it out, or give another --optimizer"
        )
    return recipe


def prepared(args: argparse.Namespace, known: Known, data):
    """The data set with the preprocessing that is typed, or the recipe's."""
    recipe = recipe_of(args, known, len(data.classes))
    mean = recipe.mean_image if args.mean_image is None else args.mean_image
    return data.prepared(args.contrast or recipe.contrast, mean)


def absolute(path: str) -> str:
    """The same folder from wherever the run is continued."""
    return str(Path(os.path.expanduser(path)).resolve())


def resolve(args: argparse.Namespace, known: Known, data) -> list[tuple[Settings, dict[str, str]]]:
    """Settings for a data set -> (settings, origins) of every stage; most recipes have one.

    InputError for a batch larger than the data set, too many steps or none, or an option that the
    optimizer can't use."""
    recipe = recipe_of(args, known, len(data.classes))
    if hints := options_of(args).get("hints"):
        if recipe.later:
            raise InputError(f"--hints {hints}: the recipe has stages of its own; leave it out")
        recipe = replace(recipe, later=recipe.stages)  # the first is of the hints
    return [of_stage(args, known, data, recipe, k) for k in range(len(recipe.stages))]


def of_stage(args: argparse.Namespace, known: Known, data, whole, k: int):
    """`resolve` for stage k, from 0 on. What is typed is so in every stage, but for the epochs,
    which are of all together, and the rate, which is the first one's: they keep the recipe's
    proportion. A stage of hints has epochs of its own."""
    typed, images, recipe = options_of(args), len(data.train), whole.stages[k]
    hinted = "hints" in typed and k == 0
    share = 1.0 if "hints" in typed else recipe.epochs / whole.all_epochs
    if whole.later:
        factors = {"epochs": share, "lr": recipe.policy["rate"] / whole.policy["rate"]}
        typed |= {name: typed[name] * factors[name] for name in factors.keys() & typed.keys()}
    if hinted:
        typed["epochs"] = typed.get("hint_epochs", HINT_EPOCHS)
    if typed.get("validation"):
        images -= held(images, typed["validation"])
    origins: dict[str, str] = {}

    def pick(name: str, default, origin: str):
        origins[name] = "command line" if name in typed else origin
        return typed.get(name, default)

    values = {name: pick(name, value, "default") for name, value in defaults(typed, known).items()}
    for name in ("data_dir", "limit", "threads", "weights", "teacher", "freeze", "log"):
        values[name] = pick(name, None, "default")
    values["validation"] = pick("validation", 0.0, "default")
    if values["data"] == "auto":
        values["data"] = data.name
    elif values["data"] not in NAMES:
        values["data"] = absolute(values["data"])
    for name in ("data_dir", "weights", "teacher"):
        if values[name] is not None:
            values[name] = absolute(values[name])
    source = f"recipe {recipe.name}"
    if recipe.loss:
        values["loss"] = pick("loss", recipe.loss, source)
    values["stage"] = pick("stage", k + 1 if whole.later else 0, source)
    if k:
        values["weights"], origins["weights"] = f"stage{k}", source
    for name in (
        "optimizer",
        "epochs",
        "batch",
        "input_scale",
        "dropout",
        "move",
        "smoothing",
        "mirror_turns",
        "passes",
    ):
        values[name] = pick(name, getattr(recipe, name), source)
    values["distort"] = pick("distort", recipe.distort_over(values["epochs"]), source)
    hyper = {
        name: pick(name, getattr(recipe, name), source)
        if hasattr(recipe, name)
        else pick(name, one.default, "default")
        for name, one in OPTIMIZERS[recipe.optimizer].options.items()
    }
    values["lr"] = pick("lr", recipe.policy["rate"], source)
    values["lsuv_batch"] = pick("lsuv_batch", values["batch"], "the batch")
    for name in ("mirror", "contrast", "mean_image"):
        values[name] = pick(name, getattr(data, name), f"data {data.name}")
        if name not in typed and getattr(recipe, name) is not None:
            values[name], origins[name] = getattr(recipe, name), source
    values["hints"] = pick("hints", None, "default") if hinted else None
    if hinted and args.hint_epochs is None:
        origins["epochs"] = "default"
    values["temperature"] = pick("temperature", 3.0, "default")
    values["student_temperature"] = pick(
        "student_temperature", values["temperature"], "the temperature"
    )
    taught = values["teacher"] is not None and not hinted
    origins["share_policy"] = source if taught else "default"
    if (values["loss"] != "softmax" or values["teacher"]) and "smoothing" not in typed:
        values["smoothing"] = 0.0
    if values["move"] > data.preprocessing.pad:
        if "move" in typed:
            raise InputError(
                f"--move {values['move']}: the border of data {data.name} has "
                f"{data.preprocessing.pad} pixels; give no more"
            )
        origins["move"] = f"{source}'s {values['move']}, cut to the border of data {data.name}"
        values["move"] = data.preprocessing.pad
    for name in ("batch", "lsuv_batch"):
        if values[name] > images:
            raise InputError(
                f"{option(name)} {values[name]} is more than the {images} training "
                f"images of {data.name}; give a smaller one, or raise --limit"
            )
    shards = values["shards"]
    if shards > 0 and values["batch"] % shards:
        raise InputError(
            f"--shards {shards}: a batch of {values['batch']} is no multiple of it; give --batch "
            f"{-(-values['batch'] // shards) * shards}"
        )
    if "lr" not in typed and values["batch"] > recipe.batch:
        origins["lr"] += (
            f"; it stays with a batch {values['batch'] / recipe.batch:g} times the recipe's, where "
            "others multiply it and warm up"
        )
    parts = int(hyper["accumulate"])
    steps = steps_of(values["epochs"], images, values["batch"], parts, share)
    updates = steps // parts
    policy = recipe.policy_over(updates) if steps else recipe.policy
    stretch = (
        "" if policy == recipe.policy else f", stretched from {recipe.steps} to {updates} steps"
    )
    origins |= {"policy": source + stretch, "steps": "epochs x images / batch"}
    check_values(values, known)
    stays = "momentum" in typed or "momentum" not in hyper or recipe.momentum_policy is None
    origins["momentum_policy"] = "default" if stays else source
    origins["head_policy"] = source if recipe.head_policy else "default"
    return Settings(
        **values,
        hyper=hyper,
        steps=steps,
        policy={**policy, "rate": values["lr"]},
        momentum_policy=None if stays else recipe.over(recipe.momentum_policy, values["epochs"]),
        share_policy=recipe.over(recipe.share_policy, values["epochs"]) if taught else None,
        head_policy=recipe.over(recipe.head_policy, values["epochs"]),
    ), origins
