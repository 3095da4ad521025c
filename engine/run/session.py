"""A run from its first weights to its last line: begun, watched, saved, stopped, resumed, repeated.

engine/train.py has the loop; here is what stands around it, so that it can be read. A `Session` is
the run as it stands between two steps. Nothing of the rooms above is imported: a command hands over
what a session needs of them as `Work`.

Read next: engine/run/ranks.py, engine/run/teacher.py, engine/run/logs.py, and engine/run/folder.py,
where all is kept.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.cli import options
from engine.cli.command import Signals
from engine.cli.messages import (
    epoch_line,
    last_line,
    log_line,
    passes_line,
    print_changes,
    print_line,
    print_settings,
    timed,
)
from engine.cli.progress import ProgressBar
from engine.cli.settings import MAY_CHANGE, Known, Settings
from engine.data import NAMES
from engine.data import load as load_data
from engine.data.feed import Feed, read_clock, zero_sums
from engine.errors import InputError, NotFinite, RunError
from engine.net import Net
from engine.optimizers import Optimizer
from engine.run import checkpoint
from engine.run import folder as run_folder
from engine.run.files import NoRoom, keep, plain, sweep, write_json
from engine.run.lock import hold
from engine.run.logs import Logs
from engine.run.ranks import Alone
from engine.run.shards import SUMS, Shards
from engine.schedules import rates
from engine.scoring import Scores, need_statistics, score
from kernels.clock import CORRECT_SUM, FINITE, LOSS_SUM, SEEN, STEP, new_clock

ALONE = Alone()


@dataclass(frozen=True)
class Work:
    """What a command hands over of the rooms that a session does not import.

    assemble(settings, data, ops) -> net, feed, optimizer. first_weights(settings, net, feed) ->
    report. train(session) -> whether it came to the end. ranks: the processes that do it together.
    """

    known: Known
    ops_for: Callable
    assemble: Callable[[Settings, Any, Any], tuple[Net, Feed, Optimizer]]
    first_weights: Callable[[Settings, Net, Feed], Any]
    train: Callable[["Session"], bool]
    ranks: Alone = ALONE


@dataclass
class Progress:
    """What a run has done so far, beside its weights: all that a checkpoint's `progress` holds."""

    clock: np.ndarray = field(default_factory=new_clock)  # with the unfinished epoch's sums
    rows: list[dict] = field(default_factory=list)  # of metrics.csv
    images: int = 0  # trained on
    training: float = 0.0  # seconds of training, without evaluation
    epoch_training: float = 0.0  # of them in the unfinished epoch
    epoch_images: int = 0
    seconds: float = 0.0  # of everything
    sums: np.ndarray = field(default_factory=lambda: np.zeros((1, 3)))  # the clock's, of each shard

    def count(self, clock: np.ndarray, batch: int, seconds: float) -> None:
        """Take up the steps from the last count to this clock, which took so many seconds."""
        images = int(clock[STEP] - self.clock[STEP]) * batch
        self.clock = clock
        self.images, self.epoch_images = self.images + images, self.epoch_images + images
        self.training, self.epoch_training = self.training + seconds, self.epoch_training + seconds

    def as_dict(self) -> dict:
        values = {**vars(self), "clock": [float(value).hex() for value in self.clock]}
        sums = [[float(value).hex() for value in row] for row in values.pop("sums")]
        return values | ({"sums": sums} if len(sums) > 1 else {})

    @classmethod
    def from_dict(cls, values: dict) -> "Progress":
        """What `as_dict` gave, as `run_folder.need_progress` has seen it."""
        clock = np.array([float.fromhex(value) for value in values["clock"]])
        sums = values.get("sums") or [[values["clock"][place] for place in SUMS]]
        sums = np.array([[float.fromhex(value) for value in row] for row in sums])
        return cls(**{**values, "clock": clock, "sums": sums})


class Epoch(NamedTuple):
    """Its number from 1 on, the first step that is left of it, and the step behind its last."""

    number: int
    first: int
    end: int


def epoch_ends(s: Settings, images: int) -> Iterator[int]:
    """The step after which each epoch is over: batches run across epochs, the last may be short."""
    epoch = end = 0
    while end < s.steps:
        epoch += 1
        end = min(s.steps, round(epoch * images / s.batch))
        yield end


class Session:
    """A run as it stands: net, data, optimizer, folder, and what has been done.

    `asked` is what signals have asked for. Used as a context it shows its progress."""

    def __init__(
        self,
        s: Settings,
        net: Net,
        feed: Feed,
        optimizer: Optimizer,
        folder: Path,
        progress: Progress,
        asked: Signals,
        ranks: Alone = ALONE,
    ):
        self.settings, self.net, self.feed, self.optimizer = s, net, feed, optimizer
        self.folder, self.progress, self.asked = folder, progress, asked
        self.before, self.began = progress.seconds, time.perf_counter()
        self.show = ProgressBar(s.steps, int(progress.clock[STEP]), s.device)
        self.logs = Logs(s.log, folder)
        self.ranks, self.shards = ranks, Shards(net, s.shards, ranks)

    def __enter__(self) -> "Session":
        self.show.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.show.__exit__(*error)

    @property
    def seconds(self) -> float:
        """Of the whole run, those before it was stopped included."""
        return self.before + time.perf_counter() - self.began

    def epochs(self) -> Iterator[Epoch]:
        """The epochs that are not finished. There is a checkpoint before the first step."""
        if self.progress.clock[STEP] == 0:
            self.save()
        ends = epoch_ends(self.settings, self.feed.train.count)
        done = len(self.progress.rows)
        if done and self.progress.rows[-1]["step"] == self.progress.clock[STEP]:
            self.keep_best()  # a process that was killed may not have come to it
        for number, end in enumerate(islice(ends, done, None), done + 1):
            yield Epoch(number, int(self.progress.clock[STEP]), end)

    def steps(self, epoch: Epoch) -> Iterator[int]:
        """The epoch's steps, until it is over, a signal asks to stop or the clock is latched; at
        the end the clock is read and counted. RunError names step, epoch and layer where a loss or
        gradient is not finite.

        Between two steps it saves, if a signal asks for that, and about once a second shows where
        the run is."""
        self.start = last_look = time.perf_counter()
        for step in range(epoch.first, epoch.end):
            yield step
            stop, save, finite = self.shards.hear(self.asked)
            if stop or not finite:
                break
            if save:
                self.count(epoch)
                self.save()
                self.start = last_look = time.perf_counter()
            elif time.perf_counter() - last_look > 1:
                clock, last_look = self.shards.look(), time.perf_counter()
                if not clock[FINITE] and self.ranks.size == 1:  # else all do, as they hear of it
                    break
                images = (clock[STEP] - self.progress.clock[STEP]) * self.settings.batch
                self.show.step(
                    int(clock[STEP]),
                    epoch.number,
                    clock[LOSS_SUM] / clock[SEEN],
                    images / (last_look - self.start),
                )
        self.count(epoch)

    def count(self, epoch: Epoch) -> None:
        """Take up the steps done since the last count."""
        self.net.ops.synchronize()
        (clock, sums), seconds = self.shards.read(), time.perf_counter() - self.start
        if not clock[FINITE]:  # that step is repeated, looking
            where = self.shards.first_not_finite(self.feed)
            raise NotFinite(
                f"loss or gradient is not finite at step {int(clock[STEP])} (epoch "
                f"{epoch.number}): first seen in {where}; {self.advice()}"
            )
        self.progress.count(clock, self.settings.batch, seconds)
        self.progress.sums = sums

    def score(self) -> Scores | None:
        """Of the images held out for validation, else of the test set; None if a signal asks to
        stop."""
        images = self.feed.validation or self.feed.test
        with self.optimizer.averaged():
            return score(self.net, images, self.asked.stop, ranks=self.ranks)

    @property
    def best(self) -> int:
        """The number of the epoch that validation finds best, the earliest of equals; by the loss
        where no image can be counted right."""
        rows = self.progress.rows
        return max(rows, key=lambda row: row["validation_accuracy"] or -row["validation_loss"])[
            "epoch"
        ]

    def finished(self, epoch: Epoch, tested: Scores) -> None:
        """An epoch is over: a row in metrics.csv, a line, a checkpoint."""
        which = "validation" if self.feed.validation else "test"
        self.require_finite(tested, f"after step {epoch.end} (epoch {epoch.number})")
        s, past = self.settings, self.progress
        past.seconds, clock = self.seconds, past.clock
        self.shards.need_equal(epoch.end)
        row = {
            "epoch": epoch.number,
            "step": epoch.end,
            "lr": float(rates(s.policy, epoch.end - 1, 1, s.parts)[0]),
            "train_loss": clock[LOSS_SUM] / clock[SEEN],
            "train_accuracy": clock[CORRECT_SUM] / clock[SEEN],
            f"{which}_loss": tested.loss,
            f"{which}_accuracy": tested.accuracy,
            "images_per_second": past.epoch_images / max(past.epoch_training, 1e-9),
            "seconds": past.seconds,
        }
        past.rows.append(row)
        self.ranks.first(run_folder.write_metrics, self.folder, past.rows)
        self.ranks.first(self.logs.epoch, past.rows)
        self.show.step(epoch.end, epoch.number, row["train_loss"], row["images_per_second"])
        self.show.line(epoch_line(row, s.epochs, s.device))
        zero_sums(clock)
        past.sums[...] = 0
        past.epoch_training, past.epoch_images = 0.0, 0
        self.save()
        self.keep_best()

    def keep_best(self) -> None:
        """Give the checkpoint just written a second name where its epoch is the best so far."""
        if self.feed.validation and self.best == len(self.progress.rows):
            names = run_folder.CHECKPOINT, run_folder.BEST
            self.ranks.first(keep, *(self.folder / name for name in names))

    def test(self) -> Scores | None:
        """Of the test set, at the end, in all passes: with the best epoch's weights, where
        validation chose one; None if a signal asks to stop."""
        passes = self.settings.passes
        weights: AbstractContextManager = self.optimizer.averaged()
        if self.feed.validation and self.progress.rows:
            saved = self.ranks.told(checkpoint.read, self.folder, self.show.line, True)
            checkpoint.restore(saved, self.net)
            self.show.line(f"epoch {self.best} is the best by validation; its weights are kept")
            weights = nullcontext()
        with weights:
            scores = score(self.net, self.feed.test, self.asked.stop, passes, self.ranks)
        if scores and passes > 1:
            print_line(passes_line(scores, passes))
        return scores

    def save(self) -> None:
        self.progress.seconds = self.seconds
        step, s, data = int(self.progress.clock[STEP]), self.settings, self.feed.data
        write = partial(
            checkpoint.save,
            self.folder,
            self.net,
            self.optimizer,
            step=step,
            epoch=step * s.batch / self.feed.train.count,
            settings=s.as_dict(),
            data=run_folder.describe(data),
            data_tensors=data.preprocessing.tensors(),
            progress=self.progress.as_dict(),
        )
        self.ranks.first(write)
        if self.asked.save:
            self.asked.save = False
            self.show.line(f"saved as SIGUSR1 asked, step {step} of {s.steps}")

    def require_finite(self, tested: Scores, when: str) -> None:
        """NotFinite where the test set shows what training has not met yet."""
        if not np.isfinite(tested.loss):
            raise NotFinite(
                f"test loss is not finite {when}: first seen in {tested.where}; {self.advice()}"
            )

    def advice(self) -> str:
        s = self.settings
        clip = f"--clip ({s.clip:g})" if s.clip else "set --clip 1"
        text = f"lower --lr ({s.lr:g}) or {clip}, or try another --init ({s.init})"
        with suppress(InputError):  # where none can be read any more
            saved = self.ranks.told(checkpoint.read, self.folder)
            text += f"; the last good checkpoint is {saved.path}, step {saved.step}"
        return text


def new_run(
    work: Work,
    s: Settings,
    origins: dict,
    data,
    ops,
    folder: Path,
    series: dict[Path, dict] | None = None,
) -> dict:
    """Initialise and train in a new folder -> the run's record, as run.json holds it.

    series: where this is one of several runs, what each runs.json above it holds."""
    ranks = work.ranks
    start, data = carried(s, data, folder, ranks)
    net, feed, optimizer = work.assemble(s, data, ops)
    if not s.steps and s.weights is None:
        need_statistics(net)  # the untrained net is going to be scored
    record = {
        "settings": s.as_dict(),
        "origins": origins,
        "data": run_folder.describe(data),
        "parameters": net.parameters,
        "device": ops.name,
        "device_description": ops.description,
        "versions": run_folder.versions(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "failure": None,
        "result": None,
    }
    with ranks.first(run_folder.made, folder), ranks.first(hold, folder, print_line):
        ranks.first(run_folder.new_folder, folder)  # that another has not begun there meanwhile
        ranks.first(sweep, folder)
        with (
            ranks.first(run_folder.begun, {**(series or {}), folder / run_folder.RUN: record}),
            ranks.first(failure_recorded, folder, record, net),
        ):
            report = work.first_weights(start, net, feed)
        ranks.first(print_report, s, net, report, folder)
        progress = Progress(sums=np.zeros((s.shards, 3)))
        run = Session(s, net, feed, optimizer, folder, progress, Signals(), ranks)
        return finish(work, run, record)


def resumed_run(
    work: Work, s: Settings, origins: dict, data, ops, folder: Path, record: dict
) -> dict:
    """Continue the run in `folder` from its checkpoint -> its record, which was `record`."""
    ranks = work.ranks
    with ranks.first(hold, folder, print_line):
        ranks.first(sweep, folder)
        print_line(f"resuming {folder}")
        threads = record["settings"].get("threads")
        if ops.name != record["device"]:
            print_rounding(f"on device {record['device']}", f"on {ops.name}")
        elif isinstance(threads, int) and threads != s.threads:
            print_rounding(
                f"with {threads} thread{'s' if threads > 1 else ''}", f"with {s.threads}"
            )
        elif ops.description != record.get("device_description", ops.description):
            print_rounding(f"on {record['device_description']}", f"on {ops.description}")
        untrained = ranks.told(run_folder.untrained, folder)
        if untrained:
            start, data = carried(s, data, folder, ranks)
        else:
            saved = ranks.told(checkpoint.read, folder, print_line)
            checkpoint.refuse_others(saved, s.as_dict(), run_folder.describe(data))
            data = data.whitened_by(saved.tensors)
        net, feed, optimizer = work.assemble(s, data, ops)
        record |= {
            "settings": s.as_dict(),
            "origins": origins,
            "device": ops.name,
            "device_description": ops.description,
            "failure": None,
        }
        if untrained:  # killed as it began: its first weights are made again
            with ranks.first(failure_recorded, folder, record, net):
                report = work.first_weights(start, net, feed)
            ranks.first(print_report, s, net, report, folder)
            progress = Progress(sums=np.zeros((s.shards, 3)))
        else:
            if saved.step > s.steps:
                raise InputError(
                    f"--epochs {s.epochs:g} ends at step {s.steps}, and the run stands at step "
                    f"{saved.step}; give more"
                )
            checkpoint.restore(saved, net, optimizer)
            ops.prefer(saved.plans)
            ranks.first(checkpoint.set_aside, folder, saved)
            ends = epoch_ends(s, feed.train.count)
            progress = Progress.from_dict(
                run_folder.need_progress(saved.progress, saved.step, ends, saved.path, s.shards)
            )
            ranks.first(run_folder.write_metrics, folder, progress.rows)
            print_line(f"checkpoint {saved.path}, step {saved.step} of {s.steps}")
        # What it goes on with, should it be stopped.
        ranks.first(write_json, folder / run_folder.RUN, record)
        run = Session(s, net, feed, optimizer, folder, progress, Signals(), ranks)
        return finish(work, run, record)


def finish(work: Work, run: Session, record: dict) -> dict:
    """Train to the end, write the result into run.json, print the last line -> the record.

    A run that was stopped ends in SystemExit 130 or 143."""
    s, progress, folder, asked = run.settings, run.progress, run.folder, run.asked
    ranks = work.ranks
    quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")
    with asked.open(), quiet, ranks.first(failure_recorded, folder, record, run.net):
        with run:
            done = work.train(run)
        tested = None
        again = run.feed.validation or s.passes > 1
        if done and (again or not progress.rows):  # or --epochs 0: the untrained net
            tested = run.test()
            done = tested is not None
        if not done:
            print_line(
                f"stopped at step {int(progress.clock[STEP])} of {s.steps} and saved; "
                "continue with python -m engine.train --resume "
                f"{run_folder.to_resume(folder)}"
            )
            asked.number = ranks.agree(asked.number)
            ranks.part()
            raise SystemExit(asked.exit_code)
        if tested is None:
            accuracy, loss = progress.rows[-1]["test_accuracy"], progress.rows[-1]["test_loss"]
        else:
            run.require_finite(tested, "at the end" if progress.rows else "before training")
            accuracy, loss = tested.accuracy, tested.loss
        record["result"] = {
            "test_accuracy": accuracy,
            "test_error": 1 - accuracy,
            "test_loss": loss,
            "epochs": s.epochs,
            "steps": s.steps,
            "images_per_second": progress.images / progress.training if progress.training else 0.0,
            "training_seconds": progress.training,
            "seconds": progress.seconds,
            "device": run.net.ops.name,
            "data": run.feed.data.name,
            "finished": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        }
        if tested and s.passes > 1:
            record["result"]["first_pass_accuracy"] = tested.first
        record = plain(record)
        ranks.first(write_json, folder / run_folder.RUN, record)
    print_line(last_line(record["result"]))
    asked.number = ranks.agree(asked.number)
    if asked.stop():  # too late for this run, and in time for those that would follow
        ranks.part()
        raise SystemExit(asked.exit_code)
    return record


@contextmanager
def failure_recorded(folder: Path, record: dict, net: Net):
    """Where a RunError ends the context, run.json says so: "failure" with its kind, the step and
    the text. One on a full disk says how to go on."""
    try:
        yield
    except RunError as error:
        failure = {"kind": error.kind, "step": int(read_clock(net)[STEP]), "text": str(error)}
        with suppress(RunError, OSError):
            write_json(folder / run_folder.RUN, {**record, "failure": failure})
        if isinstance(error, NoRoom):
            raise NoRoom(
                f"{error}, then go on with --resume {run_folder.to_resume(folder)}"
            ) from error
        raise


def carried(s: Settings, data, folder: Path, ranks: Alone) -> tuple[Settings, Any]:
    """What a later stage begins with: the weights of the stage before, and the whitening that this
    has kept -> settings for `first_weights`, data. Of another run both are as they were."""
    if s.stage < 2:
        return s, data
    before = folder.parent / f"stage{s.stage - 1}"
    tensors = ranks.told(checkpoint.read, before, print_line).tensors
    return replace(s, weights=str(before)), data.whitened_by(tensors)


def several_runs(
    work: Work,
    stages: list[tuple[Settings, dict]],
    data,
    ops,
    out: Path,
    count: int = 1,
    above: dict[Path, dict] | None = None,
) -> dict:
    """Several runs, each in a folder of `out`: the stages of one; or `count` seeds, from the given
    one on, of one or several stages -> what runs.json holds. Its result is the last stage's, or the
    seeds' mean. A run that is there already is continued, or taken as it is if it is complete.

    stages: settings and their origins. above: what each runs.json above the folder holds."""
    ranks = work.ranks
    ranks.first(sweep, out)
    (first, origins), *later = stages
    series = {
        "settings": first.as_dict(),
        "origins": origins,
        "later": [{"settings": s.as_dict(), "origins": told} for s, told in later],
        "runs": count,
        "result": None,
    }
    above = {**(above or {}), out / run_folder.SERIES: series}
    parts = {f"stage{s.stage}": [(s, told)] for s, told in stages}
    if count > 1:
        seeds = range(first.seed, first.seed + count)
        parts = {f"seed{n}": [(replace(s, seed=n), told) for s, told in stages] for n in seeds}
    results: list[dict] = []
    for name, part in parts.items():
        folder, (s, origins) = out / name, part[0]
        print_line(f"run {len(results) + 1} of {len(parts)}, {name}, {folder}")
        if len(part) > 1:
            record = several_runs(work, part, data, ops, folder, above=above)
        elif ranks.told((folder / run_folder.RUN).exists):
            record = ranks.told(run_folder.read_run, folder)
            run_folder.refuse_other_data(record, data, folder)
            if record["result"] is None:
                record = resumed_run(work, s, origins, data, ops, folder, record)
            else:
                print_line(f"{folder} is complete")
        else:
            if count == 1 and results:
                print_changes(*stages[len(results) - 1], s, origins)
            folder = ranks.told(run_folder.new_folder, folder)
            record = new_run(work, s, origins, data, ops, folder, above)
        results.append(record["result"])
    result = summarise(results) if count > 1 else last_of(results)
    series |= {"result": result, "results": results}
    ranks.first(write_json, out / run_folder.SERIES, series)
    print_line(last_line(result))
    return series


def last_of(results: list[dict]) -> dict:
    """The result of several stages."""
    return results[-1] | {"epochs": sum(result["epochs"] for result in results)}


def summarise(results: list[dict]) -> dict:
    """Mean and spread (sample standard deviation) of several results -> the result of the mean."""
    accuracy = np.array([result["test_accuracy"] for result in results])
    losses = [float("nan") if r["test_loss"] is None else r["test_loss"] for r in results]
    mean, spread = float(accuracy.mean()), float(accuracy.std(ddof=1))
    print_line(
        f"{len(results)} runs: test accuracy mean {mean:.4f}  spread {spread:.4f}  "
        f"min {accuracy.min():.4f}  max {accuracy.max():.4f}"
    )
    return {
        "test_accuracy": mean,
        "test_error": 1 - mean,
        "spread": spread,
        "test_loss": float(np.mean(losses)),
        "images_per_second": float(np.mean([r["images_per_second"] for r in results])),
        **{key: results[-1][key] for key in ("epochs", "device", "data")},
    }


def resume(work: Work, args) -> None:
    """Continue what is in args.resume: a run, or a folder of several with runs.json in it."""
    folder, ranks = Path(args.resume), work.ranks
    several = ranks.told((folder / run_folder.SERIES).exists)
    where = folder / (run_folder.SERIES if several else run_folder.RUN)
    record = ranks.told(run_folder.read_series if several else run_folder.read_run, folder)
    changed = {name: getattr(args, name) for name in MAY_CHANGE if getattr(args, name) is not None}
    for name in changed.keys() & {"data", "data_dir"}:
        if changed[name] not in NAMES:
            changed[name] = options.absolute(changed[name])
    options.refuse_auto(args)
    typed = dict.fromkeys(changed, "command line")
    if args.device in ("numpy", "cuda", "emulated"):
        changed.setdefault("threads", None)  # those of another device
    stages = [
        (Settings.from_dict(one["settings"] | changed, where, work.known), one["origins"] | typed)
        for one in (record, *(record["later"] if several else ()))
    ]
    s, origins = stages[0]
    ranks.need_divisor(s.shards)
    if args.epochs is not None and (several or s.stage):
        remedy = "give them to a new run" if s.stage else "resume one of them"
        kind = "is of several stages" if s.stage else "holds several runs"
        raise InputError(f"--epochs {args.epochs:g}: {folder} {kind}; {remedy}")
    if record["result"] is not None and args.epochs in (None, s.epochs):
        ranks.first(sweep, folder)
        print_line(f"{folder} is complete; to train longer give --epochs with --resume")
        print_line(last_line(record["result"]))
        return
    ops = work.ops_for(s.device, s.threads, s.precision, not s.nondeterministic)
    ranks.need_equal(ops.description)
    data = ranks.in_turn(data_of, s, work.known.nets[s.net].in_shape, "data" in changed)
    if not several:
        run_folder.refuse_other_data(record, data, folder)
    for k, (s, told) in enumerate(stages):
        stages[k] = replace(s, threads=ops.threads, **s.of_data(data)), told
        s.must_fit(data, where)
    s, origins = stages[0]
    if args.epochs is not None:
        if s.epochs % 1 and record["result"] is not None:
            raise InputError(
                f"--epochs {args.epochs:g}: the run ended within epoch {math.ceil(s.epochs)}, "
                "whose row counts a part of it; only a run of whole epochs goes on"
            )
        s = s.lasting(args.epochs, len(data.train), len(data.classes), work.known)
        origins |= {"epochs": "command line", "policy": f"recipe {s.recipe} over {s.steps} steps"}
        record["result"] = None
    print_settings(s, origins, data, ops)
    if several:
        several_runs(work, stages, data, ops, folder, record["runs"])
    else:
        resumed_run(work, s, origins, data, ops, folder, record)


def data_of(s: Settings, in_shape: tuple[int, ...], told: bool):
    """The data set of a run that has begun; told: of which the command line says where it is.
    InputError names the remedy where its folder of images lies elsewhere now."""
    if not told and s.data not in NAMES and not Path(s.data).is_dir():
        raise InputError(
            f"the run's images were in {s.data}, and there is no such folder; give "
            "their new place with --data FOLDER"
        )
    data = load_data(
        s.data, s.data_dir, s.limit, size=in_shape, report=log_line, follow_links=s.follow_links
    )
    return data.prepared(s.contrast, s.mean_image)


def print_report(s: Settings, net: Net, report, folder: Path) -> None:
    """What the initialiser did: in a line, and layer by layer in init.json."""
    for note in report.notes:
        print_line(f"note: {note}")
    seconds = timed(f"{report.seconds:.2f} s", s.device)
    print_line(
        f"init {s.init}: {len(report.layers())} layers with weights, {net.parameters:,} "
        f"parameters, {seconds}; {folder / run_folder.INIT} has every layer"
    )
    write_json(folder / run_folder.INIT, report.as_dict())


def print_rounding(before: str, now: str) -> None:
    print_line(
        f"note: the run began {before}; {now} it continues equal up to rounding, not bit for bit"
    )
