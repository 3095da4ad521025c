"""Makes a finished run small enough to come with the program: `engine.load(NAME)` then has it.

    python -m bench.weights runs/fitnet_mnist-lsuv-… fitnet_mnist-svm

Weights and statistics in half precision, without the optimizer's memory, in models/weights/NAME,
with the run's record. The test images are scored with both, and nothing is left there where the
accuracies differ by more than 0.01 points, or where the file has more than 6 MB. Weights that are
there already are not replaced.

Read next: bench/report.py.
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import replace

import numpy as np

import engine
from engine.cli.command import run_command
from engine.data.feed import Resident
from engine.errors import InputError
from engine.run import checkpoint
from engine.run.files import write_json
from engine.run.folder import CHECKPOINT, RUN
from engine.run.session import data_of
from engine.scoring import score
from models import WEIGHTS

APART = 1e-4  # of the accuracy
LARGEST = 6_000_000  # bytes


def accuracy(model, images) -> float:
    found = score(model.net, Resident(model.net, images, model.preprocessing))
    return found.accuracy


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.weights",
        description=__doc__.split("\n\nRead next")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("name", metavar="NAME")
    args = parser.parse_args(argv)
    model, record, saved, s = engine.restored(args.run, "auto")
    if record["result"] is None:
        raise InputError(f"{args.run}: it has no result; let it end first")
    data = data_of(s, model.in_shape, False)
    before = accuracy(model, data.test)
    halves = {k: v.astype(np.float16) for k, v in checkpoint.collect(model.net).items()}
    tensors = halves | model.preprocessing.tensors()
    folder = WEIGHTS / args.name
    if folder.exists():
        raise InputError(f"{folder}: is there already; remove it, or give another name")
    folder.mkdir(parents=True)
    path = folder / CHECKPOINT
    record |= {
        "settings": replace(s, data_dir=None).as_dict(),
        "data": {**saved.data, "notes": []},  # which name a folder of the machine it was trained on
    }
    metadata = {"format": f"{checkpoint.FORMAT} {checkpoint.VERSION}", "plans": "{}"}
    metadata |= {"step": str(saved.step), "epoch": repr(saved.epoch), "seed": str(saved.seed)}
    metadata |= {key: json.dumps(record[key]) for key in ("settings", "data")}
    metadata["progress"] = json.dumps({"rows": []})
    checkpoint.write_file(path, tensors, metadata)
    write_json(folder / RUN, record)
    after = accuracy(engine.restored(folder, "auto")[0], data.test)
    size = os.path.getsize(path)
    if abs(after - before) > APART or size > LARGEST:
        shutil.rmtree(folder)
        raise InputError(
            f"{args.name}: accuracy {after:.4f} in half precision and {before:.4f} before, in "
            f"{size:,} bytes; the bounds are {APART} and {LARGEST:,}"
        )
    print(f"{folder}  {size:,} bytes  test accuracy {after:.4f}, {before:.4f} in float32")
    return 0


if __name__ == "__main__":
    sys.exit(run_command("bench.weights", main))
