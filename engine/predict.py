"""A trained net as a function from images to probabilities. From Python, and from the command line:

    model = engine.load("runs/fitnet4-lsuv-20250101-120000")
    model.predict(images)              # uint8 (N, H, W, C) -> float32 (N, classes)

    python -m engine.predict runs/fitnet4-lsuv-20250101-120000 cat.jpg dog.png
    python -m engine.predict RUN cat.jpg --json

Everything it needs is in the run folder; the data set is not. The command reads pictures as those
of a folder of images are read, and prints the likeliest classes of each.

Read next: engine/export.py, the same for other programs, and engine/fitting.py, nets and arrays of
one's own.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.cli import options
from engine.cli.command import Parser, run_command
from engine.cli.messages import log_line, print_line
from engine.cli.options import PASSES
from engine.cli.settings import Settings
from engine.data.dataset import Split
from engine.data.feed import Resident
from engine.data.preprocessing import Preprocessing
from engine.errors import InputError, NotFinite
from engine.losses import loss_of
from engine.net import Net
from engine.run import checkpoint
from engine.run.files import need
from engine.run.folder import DESCRIPTION, read_run, run_in
from engine.scoring import need_draws, need_statistics, probabilities
from engine.train import KNOWN
from kernels import ops_for
from models import NETS, build, weights

BATCH = 1024  # images that a net makes room for at most
LIKELIEST = 5  # classes that the command prints


class Predictor:
    """A net with a run's weights. `classes`: names; `in_shape`: (H, W, C) of an image; `data`: what
    the run's record says of its data set; `passes`: how often it was tested."""

    def __init__(self, net, data: dict, preprocessing: Preprocessing, passes: int = 1):
        self.net, self.data, self.preprocessing = net, data, preprocessing
        self.classes, self.in_shape = data["classes"], tuple(data["in_shape"])
        self.passes = passes

    def predict(self, images: np.ndarray, passes: int | None = None) -> np.ndarray:
        """Softmax of the scores, (N, classes) float32, whatever loss the net was trained with; of a
        net that draws in every pass, the mean over `passes`, or as many as the run was tested with.

        images: (N, H, W, C) uint8, preprocessed as the run did its test images. InputError for
        another shape or type, or for several passes of a net that does not draw."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.in_shape:
            raise InputError(
                f"predict: images are {images.dtype} {images.shape}; this net wants "
                f"uint8 (N, {', '.join(map(str, self.in_shape))})"
            )
        passes = self.passes if passes is None else passes
        need_statistics(self.net)
        need_draws(self.net, passes)
        out = np.empty((len(images), self.net.classes), np.float32)
        if not len(images):
            return out
        split = Split(
            images, np.full(len(images), -1, np.int32), *self.preprocessing.normalise(images)
        )
        resident = Resident(self.net, split, self.preprocessing)
        batches = -(-len(images) // self.net.batch)
        for number in range(batches):
            part = slice(number * self.net.batch, (number + 1) * self.net.batch)
            out[part] = probabilities(self.net, resident, number, batches, passes)
        return out


def restored(run, device: str, threads: int | None = None, report=print, **other):
    """What `engine.load` gives, and what it was made from -> (Predictor, its run's record, Saved,
    Settings).

    other: `precision` and `batch`, where they are not to be the run's."""
    run = run_in(weights(run))
    record = read_run(run)
    saved = checkpoint.read(run, report, best=True)
    checkpoint.refuse_others(saved, record["settings"], record["data"])
    settings = replace(Settings.from_dict(saved.settings, saved.path, KNOWN), **other)
    data = need(saved.data, DESCRIPTION | Preprocessing.SAVED, saved.path)
    shape = NETS[settings.net].in_shape
    if tuple(data["in_shape"]) != shape or not all(
        isinstance(name, str) for name in data["classes"]
    ):
        raise InputError(
            f"{saved.path}: its data are not {settings.net}'s; put the run's own file back"
        )
    layers = build(
        settings.net,
        settings.act,
        len(data["classes"]),
        settings.dropout,
        settings.loss,
        settings.stage,
    )
    ops = ops_for(device, threads, settings.precision, allow_fp32=True)
    settings = settings.on(ops)
    net = Net(
        layers,
        loss_of(settings),
        ops,
        shape,
        min(settings.batch, BATCH),
        settings.seed,
        precision=settings.precision,
    )
    checkpoint.restore(saved, net)
    preprocessing = Preprocessing.restored(
        data, saved.tensors, shape, settings.input_scale, saved.path
    )
    model = Predictor(net, data, preprocessing, settings.passes)
    return model, record, saved, settings


def answers(model: Predictor, pictures: list[Path], passes: int | None = None) -> list[dict]:
    """The likeliest classes of picture files, as JSON has them. InputError for a file that is no
    picture, NotFinite where the net's scores are none."""
    from engine.data.pictures import read_picture  # Pillow is loaded for this alone

    images = np.stack([read_picture(path, *model.in_shape).pixels for path in pictures])
    found = []
    for path, row in zip(pictures, model.predict(images, passes), strict=True):
        if not np.isfinite(row).all():
            raise NotFinite(f"{path}: the net's scores are not finite; retrain it at a lower --lr")
        likeliest = np.argsort(-row, kind="stable")[:LIKELIEST]
        each = [{"class": model.classes[k], "probability": float(row[k])} for k in likeliest]
        found.append({"picture": str(path), "likeliest": each})
    return found


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="engine.predict", description=__doc__.split("\n\nRead next")[0])
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder; the run may still be going on")
    add("pictures", metavar="PICTURE", nargs="+", help="PNG, JPEG, WebP, ...")
    add("--device", default="auto", help="auto | cuda | cpu | numpy (default: auto)")
    add("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    add("--passes", type=int, metavar="N", help=PASSES)
    add("--json", action="store_true", help="the same as JSON, with every digit")
    args = parser.parse_args(argv)
    pictures = list(map(Path, args.pictures))
    del args.pictures
    options.check(args, KNOWN)
    model = restored(args.run, args.device, args.threads, log_line)[0]
    found = []
    for first in range(0, len(pictures), model.net.batch):
        for answer in answers(model, pictures[first : first + model.net.batch], args.passes):
            found.append(answer)
            if not args.json:
                print_line(answer["picture"])
                for one in answer["likeliest"]:
                    print_line(f"  {one['probability']:.4f}  {one['class']}")
    if args.json:
        print_line(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(run_command("engine.predict", main))
