"""What an initialiser did to a net, layer by layer. Commands to paste:

    python -m lsuv --net fitnet4 --act relu --init lsuv --data cifar10
    python -m lsuv --net fitnet4 --act relu --init msra --data cifar10
    python -m lsuv --net fitnet_mnist --init lsuv --lsuv-mode fresh --lsuv-tol 0.02 --json init.json
    python -m lsuv --net fitnet1 --init lsuv --lsuv-pre gaussian --lsuv-exclude clf --data synthetic
    python -m lsuv --torch torchvision.models:resnet50 --batch 32x3x224x224    (--torch --help)

LSUV scales the weights on the first training batch of the run that engine.train would make of the
same options; every other initialiser is only measured on it. Nothing is trained.

Read next: lsuv/README.md.
"""

import argparse
import sys
from pathlib import Path

from engine.cli import options
from engine.cli.command import Parser, run_command
from engine.cli.messages import data_line, log_line, print_line, timed
from engine.cli.settings import DEFAULTS
from engine.data import load
from engine.errors import InputError
from engine.run.files import write_json
from engine.train import KNOWN, assemble
from kernels import ops_for
from lsuv import initialise
from models import NETS


def make_parser() -> Parser:
    parser = Parser(prog="lsuv", description=__doc__.split("\n\nLSUV scales")[0])
    groups = options.add_net_options(parser, KNOWN)
    add = groups["initialisation"].add_argument
    add(
        "--lsuv-batches",
        metavar="N",
        type=int,
        help="mini-batches pooled in a measurement (default: 1)",
    )
    add("--lsuv-include", metavar="NAMES", help="scale these layers only, for example 'conv1*,clf'")
    add("--lsuv-exclude", metavar="NAMES", help="leave these layers as they are")
    groups["run"].add_argument("--json", metavar="FILE", help="write the report there too")
    return parser


def check(args: argparse.Namespace) -> None:
    """What this command alone refuses. InputError."""
    if args.lsuv_batches is not None and args.lsuv_batches < 1:
        raise InputError(f"--lsuv-batches {args.lsuv_batches} must be 1 or more")
    if args.json is not None and Path(args.json).is_dir():
        raise InputError(f"--json {args.json}: a folder; give the name of a file in it")
    if args.json is not None and not Path(args.json).parent.is_dir():
        raise InputError(f"--json {args.json}: no folder {Path(args.json).parent}; make it first")


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if any(word.split("=")[0] == "--torch" for word in argv):
        return of_torch(argv)
    args = make_parser().parse_args(argv)
    options.check(args, KNOWN)
    check(args)
    args.batch = args.lsuv_batch or args.batch  # nothing is trained: no other batch is used
    ops = ops_for(
        args.device or "auto", args.threads, args.precision or "fp32", not args.nondeterministic
    )
    model = NETS[args.net or DEFAULTS["net"]]
    data = load(
        args.data or "auto",
        args.data_dir,
        args.limit,
        wanted=model.data,
        size=model.in_shape,
        report=log_line,
        follow_links=bool(args.follow_links),
    )
    data = options.prepared(args, KNOWN, data)
    s, _ = options.resolve(args, KNOWN, data)[0]
    print_line(
        f"net {s.net}  act {s.act}  init {s.init}  seed {s.seed}  input-scale {s.input_scale:g}"
    )
    print_line(f"{ops.why}; {ops.description}")
    for note in data.notes:
        print_line(f"note: {note}")
    net, feed, _ = assemble(s, data, ops)
    asked: dict = {}
    if s.init == "lsuv":
        asked = {
            "batches": args.lsuv_batches or 1,
            "include": names(args.lsuv_include) or ["*"],
            "exclude": names(args.lsuv_exclude),
        }
    report = initialise(
        net, s.init, feed.first_batches(), s.seed, s.act, **s.lsuv_options(), **asked
    )
    report.settings = {
        "net": s.net,
        "act": s.act,
        "init": s.init,
        "seed": s.seed,
        "data": data.name,
        "fingerprint": data.fingerprint,
        "input_scale": s.input_scale,
        "device": ops.name,
        **report.settings,
    }
    print_line(report.table())
    if args.json is not None:
        write_json(Path(args.json), report.as_dict())
        print_line(f"report in {args.json}")
    print_line(
        f"layers {len(report.layers())}  parameters {net.parameters}  "
        f"{timed(f'seconds {report.seconds:.2f}', ops.name)}  "
        f"device {ops.name}  {data_line(data.name)}"
    )
    return 0


def of_torch(argv: list[str]) -> int:
    """The command for a model of PyTorch's. InputError where that is not installed."""
    try:
        from lsuv.torch.command import main
    except ImportError as error:
        raise InputError(str(error)) from None
    return main(argv)


def names(text: str | None) -> list[str]:
    """A comma-separated list of layer names or patterns."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


if __name__ == "__main__":
    sys.exit(run_command("lsuv", main))
