"""Train a net. Commands to paste:

    python -m engine.train --net fitnet4 --init lsuv
    python -m engine.train --net fitnet4 --init lsuv --act relu --recipe fast
    python -m engine.train --net fitnet_mnist --data mnist --recipe fast --epochs 3
    python -m engine.train --net fitnet1 --data synthetic --limit 512 --epochs 2 --recipe fast
    python -m engine.train --net fitnet4 --init msra --seed 1 --runs 3
    python -m engine.train --net fitnet1 --sweep lr=0.01,0.03 init=lsuv,xavier --runs 3
    python -m engine.train --resume runs/fitnet4-lsuv-20250101-120000

`assemble` puts the rooms together, `train` is the loop. A run stops with Ctrl-C or SIGTERM after
the step in hand, saves, and continues with --resume as if it had not stopped, bit for bit. SIGUSR1
makes it save and go on.

Read next: models/fitnet.py, the net's list of layers, then engine/optimizers.py; what keeps a run
safe is behind the door of engine/run/session.py, what the user types behind engine/cli/settings.py.
"""

import sys
from dataclasses import replace
from functools import partial

from engine.cli import options
from engine.cli.command import run_command, save_ignored
from engine.cli.messages import log_line, print_line, print_settings
from engine.cli.settings import DEFAULTS, Known, Settings, defaults
from engine.data import NAMES
from engine.data import load as load_data
from engine.data.feed import Feed
from engine.errors import InputError
from engine.losses import LOSSES, DistillationLoss, loss_of
from engine.net import Net
from engine.optimizers import Optimizer, optimizer_of
from engine.run.folder import default_name, new_folder
from engine.run.logs import kinds_of
from engine.run.ranks import Alone, joined
from engine.run.session import Session, Work, new_run, resume, several_runs
from engine.run.sweep import sweep
from engine.run.teacher import taught
from engine.run.weights import transfer
from engine.schedules import rates
from engine.scoring import need_draws, need_statistics
from kernels import DEVICES, MOST_THREADS, ops_for
from lsuv import INITS, initialise
from lsuv.algorithm import MODES, NORMALISE
from models import ACTS, NETS, build, weights
from models.recipes import KINDS, recipe

KNOWN = Known(
    nets=NETS,
    acts=ACTS,
    inits=INITS,
    recipes=KINDS,
    modes=MODES,
    normalisations=NORMALISE,
    devices=DEVICES,
    threads=MOST_THREADS,
    recipe=recipe,
)


def assemble(s: Settings, data, ops) -> tuple[Net, Feed, Optimizer]:
    """A net of zero weights on the device, the data set beside it, and the optimizer."""
    layers, teacher = build(s.net, s.act, len(data.classes), s.dropout, s.loss, s.stage), None
    loss = loss_of(s)
    if s.teacher:
        layers, loss, teacher = taught(s, layers, data, ops, KNOWN, build)
    net = Net(layers, loss, ops, data.in_shape, s.shard, s.seed, precision=s.precision)
    for names in (s.freeze or "").split(",") if s.freeze else ():
        net.freeze(names.strip())
    if all(p.layer.frozen for p in net.named_params().values()):
        raise InputError(f"--freeze {s.freeze}: that is all of {s.net}; leave something to train")
    need_draws(net, s.passes)
    data = data.validating(s.validation, s.seed)
    mirror = 2 if s.mirror and s.mirror_turns else s.mirror
    feed = Feed(net, data, s.move, s.input_scale, mirror, teacher, s.distort)
    return net, feed, optimizer_of(net, s)


def first_weights(s: Settings, net: Net, feed: Feed):
    """Fill the weights and, for lsuv, bring every layer's output to unit variance -> the report.
    Of a net with trained weights, only what they do not fit, or, of a later stage, do not have.

    LSUV sees the run's first training batch, or with --lsuv-mode fresh its first batches."""
    new = transfer(net, s.weights, s.stage > 1) if s.weights else None
    need_statistics(net, train=True)
    net.resize(s.lsuv_batch)
    options = s.lsuv_options()
    report = initialise(net, s.init, feed.first_batches(), s.seed, s.act, new=new, **options)
    net.resize(s.shard)
    if new is not None:
        are = "is" if len(new) == 1 else "are"
        kept = f"all but {', '.join(new)}, which {are} new" if new else "all"
        source = f"stage{s.stage - 1}" if s.stage > 1 else s.weights
        report.notes.append(f"weights of {source}: {kept}")
    return report


def one_step(
    net: Net, feed: Feed, optimizer: Optimizer, rates, last: bool = True, parts=lambda: (None,)
) -> None:
    """A training step: a batch, forward, loss, backward, update. rates: of these steps, on the
    device. last: with --accumulate, whether the step is the last one before an update. parts: of
    engine/run/shards.py, where the batch has several. Nothing is read back, so that a device may
    record a step and replay it."""
    for _ in parts():
        feed.train_batch()
        net.forward(train=True)
        net.evaluate_loss()
        net.backward()
    optimizer.step(last)
    net.ops.advance(net.clock, rates)


def by_epoch(policy: dict, epoch: int) -> float:
    """What the policy of a momentum, a share or heads has for epoch 1, 2, …; a step that was
    recorded keeps the one that it was recorded with."""
    return float(rates(policy, epoch - 1, 1)[0])


def train(run: Session) -> bool:
    """The loop, from where the run stands to its last step: True when it is done, False when it was
    stopped.

    Leaves a row in metrics.csv and a checkpoint after every epoch. RunError names step, epoch and
    layer where a loss or gradient is not finite; the last good checkpoint is then kept."""
    net, feed, policy = run.net, run.feed, run.settings.policy
    for epoch in run.epochs():
        table = rates(policy, epoch.first, epoch.end - epoch.first + 1, run.optimizer.accumulate)
        device_table = run.shards.start(feed, run.progress, epoch.first, epoch.end, table)
        if run.settings.momentum_policy:
            run.optimizer.momentum = by_epoch(run.settings.momentum_policy, epoch.number)
        if run.settings.share_policy and isinstance(net.loss, DistillationLoss):
            net.loss.share = by_epoch(run.settings.share_policy, epoch.number)
        if run.settings.head_policy:
            net.pace_heads(by_epoch(run.settings.head_policy, epoch.number))
        step = partial(one_step, net, feed, run.optimizer, device_table, parts=run.shards.parts)
        part, whole = net.ops.captured(partial(step, last=False)), net.ops.captured(step)
        for number in run.steps(epoch):
            (whole if run.optimizer.updates_at(number) else part)()
        tested = run.score()
        if tested is None:
            run.save()
            return False
        run.finished(epoch, tested)
    return True


def main(argv: list[str] | None = None) -> int:
    with save_ignored(), joined() as ranks:
        return start(argv, ranks)


def start(argv: list[str] | None, ranks: Alone) -> int:
    parser = options.train_parser(KNOWN, __doc__.split("\n\n`assemble`")[0])
    args = parser.parse_args(argv)
    options.check(args, KNOWN)
    kinds_of(args.log)
    work = Work(KNOWN, ops_for, assemble, first_weights, train, ranks)
    if args.sweep is not None and args.resume is None:
        return sweep(args, parser, KNOWN)
    for name in ("executor", "parallel", "set"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name} is for --sweep; leave it out")
    if args.resume is not None:
        options.check_resume(args)
        resume(work, args)
        return 0
    ranks.need_divisor(args.shards or 1)
    choice = args.precision or "fp32", not args.nondeterministic
    ops = ops_for(args.device or "auto", args.threads, *choice)
    if ranks.size > 1 and args.threads is None and ops.threads:
        ops = ops_for(ops.name, ranks.share(ops.threads), *choice)
    ranks.need_equal(ops.description)
    args.teacher = args.teacher and str(weights(args.teacher))
    model = NETS[args.net or DEFAULTS["net"]]
    if args.summary:
        print_line(summary(args, model, ops))
        return 0
    load = partial(load_data, args.data or "auto", args.data_dir, args.limit)
    data = ranks.in_turn(
        partial(
            load,
            wanted=model.data,
            size=model.in_shape,
            report=partial(ranks.first, log_line),
            follow_links=bool(args.follow_links),
        )
    )
    data = options.prepared(args, KNOWN, data)
    stages = [
        (replace(s, threads=ops.threads), origins)
        for s, origins in options.resolve(args, KNOWN, data)
    ]
    s, origins = stages[0]
    out = ranks.told(lambda: new_folder(args.out or default_name(s.net, s.init)))
    print_settings(s, origins, data, ops)
    if (args.runs or 1) == len(stages) == 1:
        new_run(work, s, origins, data, ops, out)
    else:
        several_runs(work, stages, data, ops, out, args.runs or 1)
    return 0


def summary(args, model, ops) -> str:
    """The table of --summary. Only a folder of images is looked into, for its number of classes."""
    name = args.data or "auto"
    if name in NAMES:
        classes = {"auto": model.classes, "cifar100": 100}.get(name, 10)
    else:
        classes = len(
            load_data(
                name,
                args.data_dir,
                size=model.in_shape,
                report=log_line,
                follow_links=bool(args.follow_links),
            ).classes
        )
    typed = options.options_of(args)
    names = defaults(typed, KNOWN) | typed
    recipe = options.recipe_of(args, KNOWN, classes)
    layers = build(names["net"], names["act"], classes, recipe.dropout)
    return Net(layers, LOSSES[names["loss"]](), ops, model.in_shape, batch=1).summary()


if __name__ == "__main__":
    sys.exit(run_command("engine.train", main))
