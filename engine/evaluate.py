"""Accuracy of a finished or running run, its confusion table and its classes one by one.

    python -m engine.evaluate runs/fitnet4-lsuv-20250101-120000
    python -m engine.evaluate RUN --device numpy --data-dir /data

Read next: engine/predict.py, the same from Python on images of one's own.
"""

import sys
from pathlib import Path

from engine.run import checkpoint

from engine.run import folder as runs
from engine.cli import settings as options
from engine.cli.command import Parser, run_command
from engine.data import load as load_data
from engine.errors import printable
from engine.scoring import score, table
from engine.cli.settings import Settings
from engine.train import KNOWN, assemble
from engine.cli.messages import data_words, mutter, say
from kernels import DeviceError, ops_for
from models import NETS


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="engine.evaluate", description=__doc__.split("\n\nRead next")[0])
    parser.add_argument("run", metavar="RUN", help="a run folder; the run may still be going on")
    parser.add_argument("--device", default="auto",
                        help="auto | cuda | cpu | numpy (default: auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--data-dir", metavar="DIR", help="default: the one the run was given")
    args = parser.parse_args(argv)
    options.check(args, KNOWN)
    record = runs.read_run(args.run)
    s = Settings.from_dict(record["settings"], Path(args.run) / runs.RUN, KNOWN)
    ops = ops_for(args.device, args.threads, s.precision, allow_fp32=True)
    saved = checkpoint.read(args.run, say)
    data = load_data(s.data, args.data_dir or s.data_dir, s.limit, size=NETS[s.net].in_shape,
                     report=mutter)
    checkpoint.refuse_others(saved, s.as_dict(), runs.describe(data))
    s.must_fit(data, Path(args.run) / runs.RUN)
    net, feed, _ = assemble(s.on(ops), data, ops)
    checkpoint.restore(saved, net)
    say(f"net {s.net}  act {s.act}  init {s.init}  {data_words(data.name)}")
    say(f"{ops.why}; {ops.description}")
    say(f"checkpoint {saved.path}, step {saved.step} of {s.steps}")
    found = score(net, feed)
    say(table(found.confusion, list(map(printable, data.classes))))
    if found.unscored:
        say(f"{found.unscored} images had scores that are not finite, first in {found.where}, and "
            "count as wrong")
    say(f"test accuracy {found.accuracy:.4f}  error {1 - found.accuracy:.4f}  "
        f"loss {found.loss:.4f}  epochs {saved.epoch:g}  device {ops.name}  "
        f"{data_words(data.name)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command("engine.evaluate", main, (DeviceError,)))
