"""Train a net. Commands to paste:

    python -m engine.train --net fitnet4 --init lsuv
    python -m engine.train --net fitnet4 --init lsuv --act relu --recipe fast
    python -m engine.train --net fitnet_mnist --data mnist --recipe fast --epochs 3
    python -m engine.train --net fitnet1 --data synthetic --limit 512 --epochs 2 --recipe fast
    python -m engine.train --net fitnet4 --init msra --seed 1 --runs 3
    python -m engine.train --resume runs/fitnet4-lsuv-20250101-120000

`assemble` puts the rooms together, `train` is the loop. A run stops with Ctrl-C or SIGTERM after
the step in hand, saves, and continues with --resume as if it had not stopped, bit for bit. SIGUSR1
makes it save and go on.

Read next: models/fitnet.py, the net's list of layers.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from engine.run import checkpoint

from engine.run import folder as runs
from engine.cli import settings as options
from engine.cli.command import Signals, run_command, save_ignored
from engine.data import NAMES
from engine.data import load as load_data
from engine.diagnosis import first_not_finite
from engine.errors import RunError
from engine.data.feed import Feed, read_clock, zero_sums
from engine.run.lock import hold
from engine.losses import LOSSES
from engine.net import Net
from engine.optimizers import Optimizer, optimizer_of
from engine.cli.progress import Progress
from engine.schedules import rates
from engine.scoring import need_statistics, score
from engine.cli.settings import Known, Settings
from engine.cli.messages import data_words, epoch_line, introduce, last_line, mutter, say
from kernels import DEVICES, MOST_THREADS, DeviceError, ops_for
from kernels.clock import CORRECT_SUM, FINITE, LOSS_SUM, SEEN, STEP, new_clock
from lsuv import INITS, initialise
from lsuv.algorithm import MODES, NORMALISE
from models import ACTS, NETS, build
from models.recipes import KINDS, recipe

KNOWN = Known(nets=NETS, acts=ACTS, inits=INITS, recipes=KINDS, modes=MODES,
              normalisations=NORMALISE, devices=DEVICES, threads=MOST_THREADS, recipe=recipe)


def assemble(s: Settings, data, ops) -> tuple[Net, Feed, Optimizer]:
    """A net of zero weights on the device, the data set beside it, and the optimizer."""
    layers = build(s.net, s.act, len(data.classes), s.dropout)
    net = Net(layers, LOSSES[s.head](), ops, data.in_shape, s.batch, s.seed, precision=s.precision)
    return net, Feed(net, data, s.move, s.input_scale), optimizer_of(net, s)


def first_weights(s: Settings, net: Net, feed: Feed):
    """Fill the weights and, for lsuv, bring every layer's output to unit variance -> the report.

    LSUV sees the run's first training batch, or with --lsuv-mode fresh its first batches."""
    net.resize(s.lsuv_batch)
    report = initialise(net, s.init, feed.first_batches(), s.seed, s.act, **s.lsuv_options())
    net.resize(s.batch)
    return report


def tell(s: Settings, net: Net, report, folder: Path) -> None:
    """What the initialiser did: in a line, and layer by layer in init.json."""
    for note in report.notes:
        say(f"note: {note}")
    say(f"init {s.init}: {len(report.layers())} layers with weights, {net.parameters:,} "
        f"parameters, {report.seconds:.2f} s; {folder / runs.INIT} has every layer")
    runs.write_json(folder / runs.INIT, report.as_dict())


@dataclass
class Past:
    """What a run has done so far, beside its weights: all that a checkpoint's `progress` holds."""

    clock: np.ndarray  # with the unfinished epoch's sums
    rows: list[dict] = field(default_factory=list)  # of metrics.csv
    images: int = 0  # trained on
    training: float = 0.0  # seconds of training, without evaluation
    epoch_training: float = 0.0  # of them in the unfinished epoch
    epoch_images: int = 0
    seconds: float = 0.0  # of everything

    def count(self, clock: np.ndarray, batch: int, seconds: float) -> None:
        """Take up the steps from the last count to this clock, which took so many seconds."""
        images = int(clock[STEP] - self.clock[STEP]) * batch
        self.clock = clock
        self.images, self.epoch_images = self.images + images, self.epoch_images + images
        self.training, self.epoch_training = self.training + seconds, self.epoch_training + seconds

    def as_dict(self) -> dict:
        return {**vars(self), "clock": [float(value).hex() for value in self.clock]}

    @classmethod
    def from_dict(cls, values: dict) -> "Past":
        """What `as_dict` gave, as `runs.need_progress` has seen it."""
        clock = np.array([float.fromhex(value) for value in values["clock"]])
        return cls(**{**values, "clock": clock})


def epoch_ends(s: Settings, images: int) -> Iterator[int]:
    """The step after which each epoch is over: batches run on across epochs, the last may be short.
    """
    epoch = end = 0
    while end < s.steps:
        epoch += 1
        end = min(s.steps, round(epoch * images / s.batch))
        yield end


def one_step(net: Net, feed: Feed, optimizer, rates) -> None:
    """A training step: a batch, forward, loss, backward, update. rates: of these steps, on the
    device. Nothing is read back, so that a device may record a step and replay it."""
    feed.train_batch()
    net.forward(train=True)
    net.evaluate_loss()
    net.backward()
    optimizer.step()
    net.ops.advance(net.clock, rates)


def train(s: Settings, net: Net, feed: Feed, optimizer, folder: Path, past: Past,
          asked: Signals) -> bool:
    """The loop, from `past` to the last step: True when it is done, False when it was stopped.

    Leaves a row in metrics.csv and a checkpoint after every epoch. RunError names step, epoch and
    layer where a loss or gradient is not finite; the last good checkpoint is then kept."""
    ops, rows, began, spent = net.ops, past.rows, time.perf_counter(), past.seconds

    def save() -> None:
        past.seconds = spent + time.perf_counter() - began
        step = int(past.clock[STEP])
        checkpoint.save(folder, net, optimizer, step=step, epoch=step * s.batch / feed.train.count,
                        settings=s.as_dict(), data=runs.describe(feed.data),
                        mean_image=feed.data.mean_image, progress=past.as_dict())
        if asked.save:
            asked.save = False
            show.line(f"saved as SIGUSR1 asked, step {step} of {s.steps}")

    with Progress(s.steps, int(past.clock[STEP])) as show:
        if past.clock[STEP] == 0:
            save()  # so that there is a good checkpoint from the first step on
        ends = islice(epoch_ends(s, feed.train.count), len(rows), None)
        for epoch, end in enumerate(ends, len(rows) + 1):
            first = int(past.clock[STEP])
            table = rates(s.policy, first, end - first + 1)
            device_table = feed.start(past.clock, first, end, table)
            step = ops.captured(lambda: one_step(net, feed, optimizer, device_table))
            start = looked = time.perf_counter()
            for _ in range(first, end):
                step()
                if asked.stop():
                    break
                if asked.save:
                    ops.synchronize()
                    clock, seconds = read_clock(net), time.perf_counter() - start
                    if not clock[FINITE]:
                        break
                    past.count(clock, s.batch, seconds)
                    save()
                    start = looked = time.perf_counter()
                if time.perf_counter() - looked > 1:
                    clock, looked = read_clock(net), time.perf_counter()
                    if not clock[FINITE]:
                        break
                    seen = (clock[STEP] - past.clock[STEP]) * s.batch
                    show.step(int(clock[STEP]), epoch, clock[LOSS_SUM] / clock[SEEN],
                              seen / (looked - start))
            ops.synchronize()
            clock, seconds = read_clock(net), time.perf_counter() - start
            if not clock[FINITE]:
                raise not_finite(s, net, feed, folder, clock, epoch)
            past.count(clock, s.batch, seconds)
            tested = None if asked.stop() else score(net, feed, asked.stop)
            if tested is None:
                save()
                return False
            require_finite(s, tested, folder, f"after step {end} (epoch {epoch})")
            past.seconds = spent + time.perf_counter() - began
            rows.append({
                "epoch": epoch, "step": end, "lr": float(rates(s.policy, end - 1, 1)[0]),
                "train_loss": clock[LOSS_SUM] / clock[SEEN],
                "train_accuracy": clock[CORRECT_SUM] / clock[SEEN],
                "test_loss": tested.loss, "test_accuracy": tested.accuracy,
                "images_per_second": past.epoch_images / max(past.epoch_training, 1e-9),
                "seconds": past.seconds})
            runs.write_metrics(folder, rows)
            show.step(end, epoch, rows[-1]["train_loss"], rows[-1]["images_per_second"])
            show.line(epoch_line(rows[-1], s.epochs))
            zero_sums(past.clock)
            past.epoch_training, past.epoch_images = 0.0, 0
            save()
    return True


def not_finite(s: Settings, net: Net, feed: Feed, folder: Path, clock, epoch: int) -> RunError:
    """The error that ends a run whose clock is latched: that step is repeated, looking."""
    return RunError(f"loss or gradient is not finite at step {int(clock[STEP])} (epoch {epoch}): "
                    f"first seen in {first_not_finite(net, feed)}; {advice(s, folder)}")


def require_finite(s: Settings, tested, folder: Path, when: str) -> None:
    """RunError where the test set shows what training has not met yet."""
    if not np.isfinite(tested.loss):
        raise RunError(f"test loss is not finite {when}: first seen in {tested.where}; "
                       f"{advice(s, folder)}")


def advice(s: Settings, folder: Path) -> str:
    saved = checkpoint.read(folder)
    clip = f"--clip ({s.clip:g})" if s.clip else "set --clip 1"
    return (f"lower --lr ({s.lr:g}) or {clip}, or try another --init ({s.init}); the last good "
            f"checkpoint is {saved.path}, step {saved.step}")


def new_run(s: Settings, origins: dict, data, ops, folder: Path,
            seeds: dict | None = None) -> dict:
    """Initialise and train in a new folder -> the run's record, as run.json holds it.

    seeds: what runs.json holds where this is one of several runs; it is written beside the folder.
    """
    net, feed, optimizer = assemble(s, data, ops)
    if not s.steps:
        need_statistics(net)  # the untrained net is going to be scored
    record = {"settings": s.as_dict(), "origins": origins, "data": runs.describe(data),
              "parameters": net.parameters, "device": ops.name, "device_description":
              ops.description, "versions": runs.versions(),
              "started": time.strftime("%Y-%m-%d %H:%M:%S%z"), "result": None}
    files = {folder.parent / runs.SEEDS: seeds} if seeds is not None else {}
    with runs.made(folder), hold(folder, say):
        runs.new_folder(folder)  # that another one has not begun there meanwhile
        runs.sweep(folder)
        with runs.begun(files | {folder / runs.RUN: record}):
            report = first_weights(s, net, feed)
        tell(s, net, report, folder)
        return finish(s, net, feed, optimizer, folder, Past(new_clock()), record)


def resumed_run(s: Settings, origins: dict, data, ops, folder: Path, record: dict) -> dict:
    """Continue the run in `folder` from its checkpoint -> its record, which was `record`."""
    with hold(folder, say):
        runs.sweep(folder)
        say(f"resuming {folder}")
        began = record["settings"].get("threads")
        if ops.name != record["device"]:
            note_rounding(f"on device {record['device']}", f"on {ops.name}")
        elif isinstance(began, int) and began != s.threads:
            note_rounding(f"with {began} thread{'s' if began > 1 else ''}", f"with {s.threads}")
        elif ops.description != record.get("device_description", ops.description):
            note_rounding(f"on {record['device_description']}", f"on {ops.description}")
        net, feed, optimizer = assemble(s, data, ops)
        if runs.untrained(folder):  # killed as it began: its first weights are made again
            tell(s, net, first_weights(s, net, feed), folder)
            past = Past(new_clock())
        else:
            saved = checkpoint.read(folder, say)
            checkpoint.refuse_others(saved, s.as_dict(), runs.describe(data))
            checkpoint.restore(saved, net, optimizer)
            ops.prefer(saved.plans)
            checkpoint.set_aside(folder, saved)
            ends = epoch_ends(s, feed.train.count)
            past = Past.from_dict(runs.need_progress(saved.progress, saved.step, ends, saved.path))
            runs.write_metrics(folder, past.rows)
            say(f"checkpoint {saved.path}, step {saved.step} of {s.steps}")
        record = record | {"settings": s.as_dict(), "origins": origins, "device": ops.name,
                           "device_description": ops.description}
        return finish(s, net, feed, optimizer, folder, past, record)


def note_rounding(before: str, now: str) -> None:
    say(f"note: the run began {before}; {now} it continues equal up to rounding, not bit for bit")


def finish(s: Settings, net, feed, optimizer, folder: Path, past: Past, record: dict) -> dict:
    """Train to the end, write the result into run.json, print the last line -> the record.

    A run that was stopped ends in SystemExit 130 or 143."""
    quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")
    asked = Signals()
    with asked.open(), quiet:  # a value that is not finite is latched and named by `train`
        done = train(s, net, feed, optimizer, folder, past, asked)
        tested = None
        if done and not past.rows:  # --epochs 0: the untrained net
            tested = score(net, feed, asked.stop)
            done = tested is not None
        if not done:
            say(f"stopped at step {int(past.clock[STEP])} of {s.steps} and saved; continue with "
                f"python -m engine.train --resume {runs.to_resume(folder)}")
            raise SystemExit(asked.exit_code)
        if past.rows:
            accuracy, loss = past.rows[-1]["test_accuracy"], past.rows[-1]["test_loss"]
        else:
            require_finite(s, tested, folder, "before training")
            accuracy, loss = tested.accuracy, tested.loss
        record["result"] = {
            "test_accuracy": accuracy, "test_error": 1 - accuracy,
            "test_loss": loss, "epochs": s.epochs, "steps": s.steps,
            "images_per_second": past.images / past.training if past.training else 0.0,
            "training_seconds": past.training, "seconds": past.seconds, "device": net.ops.name,
            "data": feed.data.name, "finished": time.strftime("%Y-%m-%d %H:%M:%S%z")}
        record = runs.plain(record)
        runs.write_json(folder / runs.RUN, record)
    say(last_line(record["result"]))
    if asked.stop():  # too late for this run, and in time for the seeds that would follow
        raise SystemExit(asked.exit_code)
    return record


def seed_runs(s: Settings, origins: dict, data, ops, out: Path, count: int) -> None:
    """`count` runs, of seeds s.seed, s.seed + 1, ..., each in a folder of `out`, and their mean.

    A run that is there already is continued, or taken as it is if it is complete."""
    runs.sweep(out)
    series = {"settings": s.as_dict(), "origins": origins, "runs": count, "result": None}
    found = []
    for k in range(count):
        one, folder = replace(s, seed=s.seed + k), out / f"seed{s.seed + k}"
        say(f"run {k + 1} of {count}, seed {one.seed}, {folder}")
        if (folder / runs.RUN).exists():
            record = runs.read_run(folder)
            runs.refuse_other_data(record, data, folder)
            if record["result"] is None:
                record = resumed_run(one, origins, data, ops, folder, record)
            else:
                say(f"{folder} is complete")
        else:
            record = new_run(one, origins, data, ops, runs.new_folder(folder), series)
        found.append(record["result"])
    series |= {"result": summarise(found), "results": found}
    runs.write_json(out / runs.SEEDS, series)
    say(last_line(series["result"]))


def resume(args) -> None:
    """Continue what is in args.resume: a run, or a folder of several with runs.json in it."""
    folder = Path(args.resume)
    several = (folder / runs.SEEDS).exists()
    record = runs.read_seeds(folder) if several else runs.read_run(folder)
    changed = {name: getattr(args, name) for name in options.MAY_CHANGE
               if getattr(args, name) is not None}
    if "data_dir" in changed:
        changed["data_dir"] = options.absolute(changed["data_dir"])
    if args.device in ("numpy", "cuda"):
        changed.setdefault("threads", None)  # those of another device
    s = Settings.from_dict(record["settings"] | changed,
                           folder / (runs.SEEDS if several else runs.RUN), KNOWN)
    if record["result"] is not None:
        runs.sweep(folder)
        say(f"{folder} is complete; to train longer start a new run with more --epochs")
        say(last_line(record["result"]))
        return
    ops = ops_for(s.device, s.threads, s.precision, not s.nondeterministic)
    s = replace(s, threads=ops.threads)
    data = load_data(s.data, s.data_dir, s.limit, size=NETS[s.net].in_shape, report=mutter)
    origins = {**record["origins"], **dict.fromkeys(changed, "command line")}
    s.must_fit(data, folder / (runs.SEEDS if several else runs.RUN))
    if not several:
        runs.refuse_other_data(record, data, folder)
    introduce(s, origins, data, ops)
    if several:
        seed_runs(s, origins, data, ops, folder, record["runs"])
    else:
        resumed_run(s, origins, data, ops, folder, record)


def main(argv: list[str] | None = None) -> int:
    with save_ignored():
        return run(argv)


def run(argv: list[str] | None) -> int:
    args = options.train_parser(KNOWN, __doc__.split("\n\n`assemble`")[0]).parse_args(argv)
    options.check(args, KNOWN)
    if args.resume is not None:
        options.check_resume(args)
        resume(args)
        return 0
    ops = ops_for(args.device or "auto", args.threads, args.precision or "fp32",
                  not args.nondeterministic)
    model = NETS[args.net or options.DEFAULTS["net"]]
    if args.summary:
        say(summary(args, model, ops))
        return 0
    data = load_data(args.data or "auto", args.data_dir, args.limit, wanted=model.data,
                     size=model.in_shape, report=mutter)
    s, origins = options.resolve(args, KNOWN, data)
    s = replace(s, threads=ops.threads)
    out = runs.new_folder(args.out or runs.default_name(s.net, s.init))
    introduce(s, origins, data, ops)
    if (args.runs or 1) == 1:
        new_run(s, origins, data, ops, out)
    else:
        seed_runs(s, origins, data, ops, out, args.runs)
    return 0


def summary(args, model, ops) -> str:
    """The table of --summary. Only a folder of images is looked into, for its number of classes."""
    name = args.data or "auto"
    if name in NAMES:
        classes = {"auto": model.classes, "cifar100": 100}.get(name, 10)
    else:
        classes = len(load_data(name, args.data_dir, size=model.in_shape, report=mutter).classes)
    given = options.options_of(args)
    named = options.defaults(given, KNOWN) | given
    net, act, head = (named[key] for key in ("net", "act", "head"))
    layers = build(net, act, classes, options.recipe_of(args, KNOWN).dropout)
    return Net(layers, LOSSES[head](), ops, model.in_shape, batch=1).summary()


def summarise(found: list[dict]) -> dict:
    """Mean and spread (sample standard deviation) of several results -> the result of the mean."""
    accuracy = np.array([result["test_accuracy"] for result in found])
    losses = [float("nan") if r["test_loss"] is None else r["test_loss"] for r in found]
    mean, spread = float(accuracy.mean()), float(accuracy.std(ddof=1))
    say(f"{len(found)} runs: test accuracy mean {mean:.4f}  spread {spread:.4f}  "
        f"min {accuracy.min():.4f}  max {accuracy.max():.4f}")
    return {"test_accuracy": mean, "test_error": 1 - mean, "spread": spread,
            "test_loss": float(np.mean(losses)),
            "images_per_second": float(np.mean([r["images_per_second"] for r in found])),
            **{key: found[-1][key] for key in ("epochs", "device", "data")}}


if __name__ == "__main__":
    sys.exit(run_command("engine.train", main, (DeviceError,)))
