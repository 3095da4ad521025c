"""Collects run folders into one JSON that the report reads.

    python -m bench.runs runs/a runs/b ... --json bench/results/training.json

A row a run: its settings, whether it came to its end, and metrics.csv as it is; the processor is
this one's, so collect runs where they ran. A folder of several seeds (`--runs N`) gives a row a
seed, one of several stages the last one's.

Read next: bench/weights.py.
"""

import argparse
import json
import pathlib

from bench.common.machine import processor, write
from engine.run.folder import METRICS, read_metrics, read_run, runs_in
from kernels import ops_for

SETTINGS = (
    "net",
    "act",
    "loss",
    "init",
    "data",
    "recipe",
    "seed",
    "epochs",
    "steps",
    "batch",
    "optimizer",
    "lr",
    "dropout",
    "limit",
    "input_scale",
    "precision",
)


def row(folder: pathlib.Path) -> dict:
    record = read_run(folder)
    init = json.loads((folder / "init.json").read_text())
    return {
        **{name: record["settings"][name] for name in SETTINGS},
        "parameters": record["parameters"],
        "finished": record["result"] is not None,
        "init_seconds": init["seconds"],
        "started": record["started"],
        "device": f"{record['device']} ({record['device_description']})",
        "processor": processor(),
        "versions": record["versions"],
        "fingerprint": record["data"]["fingerprint"],
        "metrics": read_metrics(folder),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.runs", description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="run folders")
    parser.add_argument("--json", default=None, help="write the rows to this file")
    options = parser.parse_args()
    found = [folder for path in options.runs for folder in runs_in(path)]
    rows = [row(folder) for folder in found if (folder / METRICS).exists()]
    for r in rows:
        last = r["metrics"][-1]
        print(
            f"{r['net']} {r['act']} {r['init']} {r['loss']} seed {r['seed']}: epoch "
            f"{last['epoch']} of {r['epochs']:g}, test accuracy {last['test_accuracy']:.4f}"
        )
    if rows:
        record = read_run(found[0])
        write(options.json, ops_for(record["device"], record["settings"]["threads"]), rows)


if __name__ == "__main__":
    main()
