"""Accuracy of a finished or running run, its confusion table and its classes one by one.

    python -m engine.evaluate runs/fitnet4-lsuv-20250101-120000
    python -m engine.evaluate RUN --device numpy --data-dir /data
    python -m engine.evaluate RUN --data FOLDER    # its folder of images, where that lies now

Read next: engine/scoring.py, then engine/predict.py, the same from Python on images of one's own.
"""

import sys
from dataclasses import replace
from pathlib import Path

from engine.cli import options
from engine.cli.command import Parser, run_command
from engine.cli.messages import data_line, print_line
from engine.cli.settings import Settings
from engine.errors import printable
from engine.run import checkpoint
from engine.run import folder as run_folder
from engine.run.session import data_of
from engine.scoring import score, table
from engine.train import KNOWN, assemble
from kernels import ops_for
from models import NETS


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="engine.evaluate", description=__doc__.split("\n\nRead next")[0])
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder; the run may still be going on")
    add("--device", default="auto", help="auto | cuda | cpu | numpy (default: auto)")
    add("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    add("--data", metavar="DATA", help="default: the one the run was given")
    add("--data-dir", metavar="DIR", help="likewise")
    args = parser.parse_args(argv)
    options.check(args, KNOWN)
    options.refuse_auto(args)
    record, where = run_folder.read_run(args.run), Path(args.run) / run_folder.RUN
    s = Settings.from_dict(record["settings"], where, KNOWN)
    ops = ops_for(args.device, args.threads, s.precision, allow_fp32=True)
    saved = checkpoint.read(args.run, print_line, best=True)
    data = data_of(
        replace(s, data=args.data or s.data, data_dir=args.data_dir or s.data_dir),
        NETS[s.net].in_shape,
        args.data is not None,
    )
    checkpoint.refuse_others(saved, s.as_dict(), run_folder.describe(data))
    s.must_fit(data, where)
    net, feed, _ = assemble(s.on(ops), data, ops)
    checkpoint.restore(saved, net)
    print_line(f"net {s.net}  act {s.act}  init {s.init}  {data_line(data.name)}")
    print_line(f"{ops.why}; {ops.description}")
    print_line(f"checkpoint {saved.path}, step {saved.step} of {s.steps}")
    scores = score(net, feed.test)
    assert scores is not None  # nothing asks it to stop
    print_line(table(scores.confusion, list(map(printable, data.classes))))
    if scores.unscored:
        print_line(
            f"{scores.unscored} images had scores that are not finite, first in "
            f"{scores.where}, and count as wrong"
        )
    print_line(
        f"test accuracy {scores.accuracy:.4f}  error {1 - scores.accuracy:.4f}  "
        f"loss {scores.loss:.4f}  epochs {saved.epoch:g}  device {ops.name}  "
        f"{data_line(data.name)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command("engine.evaluate", main))
