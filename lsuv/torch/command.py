"""python -m lsuv --torch: what LSUV does to a PyTorch model that is installed here.

    python -m lsuv --torch torchvision.models:resnet50 --batch 32x3x224x224
    python -m lsuv --torch mine.nets:small --batch 64x1x28x28 --json small.json --plot small.png
    python -m lsuv --torch mine.nets:tagger --batch 8x64 --dtype int64 --init measure

The model is what the function behind the colon gives without arguments, a torch.nn.Module; modules
are looked for in the current folder too. The batch is made up: normal numbers, or with --dtype
int64 numbers of tokens below --tokens. Nothing is trained or saved.

Read next: lsuv/README.md.
"""

import sys
from importlib import import_module
from pathlib import Path

import torch

from engine.cli.command import Parser
from engine.cli.messages import print_line
from engine.errors import InputError, RunError
from engine.run.files import write_json
from lsuv.torch.initialise import CHOICES, init, measure

TYPES = {
    name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64", "int64")
}


def make_parser() -> Parser:
    parser = Parser(prog="lsuv --torch", description=__doc__.split("\n\nRead next")[0])
    add = parser.add_argument
    add("--torch", metavar="MODULE:FUNCTION", required=True, help="what makes the model")
    add("--batch", metavar="32x3x224x224", required=True, help="the shape of its one argument")
    add("--dtype", choices=TYPES, default="float32", help="of the batch, and of the model's floats")
    add("--tokens", metavar="N", type=int, default=100, help="with --dtype int64 (default: 100)")
    add("--init", choices=("lsuv", "measure"), default="lsuv", help="scale, or only measure")
    add("--mode", choices=CHOICES["mode"], default="train", help="the model's (default: train)")
    add("--seed", metavar="N", type=int, default=0, help="of model, weights and batch (default: 0)")
    add("--json", metavar="FILE", help="write the report there too")
    add("--plot", metavar="FILE", help="draw the variances there, as PNG, SVG or PDF")
    return parser


def main(argv: list[str]) -> int:
    args = make_parser().parse_args(argv)
    for name in ("json", "plot"):
        path = getattr(args, name)
        if path is not None and not Path(path).parent.is_dir():
            raise InputError(f"--{name} {path}: no folder {Path(path).parent}; make it first")
    if args.tokens < 1:
        raise InputError(f"--tokens {args.tokens}: must be 1 or more")
    shape = sizes(args.batch)
    torch.manual_seed(args.seed)
    model = built(args.torch)
    if args.dtype == "int64":
        batch = torch.randint(0, args.tokens, shape)
    else:
        model, batch = model.to(TYPES[args.dtype]), torch.randn(shape).to(TYPES[args.dtype])
    try:
        if args.init == "lsuv":
            report = init(model, batch, mode=args.mode, seed=args.seed)
        else:
            report = measure(model, batch, mode=args.mode)
    except (InputError, RunError):
        raise
    except Exception as error:  # of the model's own
        where = "; ".join(getattr(error, "__notes__", []))
        raise InputError(
            f"--torch {args.torch} on --batch {args.batch}: {type(error).__name__}: {error}"
            + (f" ({where})" if where else "")
        ) from error
    report.settings = {"model": args.torch, "batch": args.batch, **report.settings}
    print_line(report.table())
    if args.json is not None:
        write_json(Path(args.json), report.as_dict())
        print_line(f"report in {args.json}")
    if args.plot is not None:
        try:
            report.plot(args.plot)
        except ValueError as error:
            raise InputError(f"--plot {args.plot}: {error}") from error
        print_line(f"picture in {args.plot}")
    return 0


def sizes(text: str) -> list[int]:
    """32x3x224x224 -> [32, 3, 224, 224]."""
    parts = text.split("x")
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise InputError(f"--batch {text}: give sizes above 0 with x between, like 32x3x224x224")
    return [int(part) for part in parts]


def built(name: str) -> torch.nn.Module:
    """What the function `module:function` gives."""
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise InputError(f"--torch {name}: give MODULE:FUNCTION, like torchvision.models:resnet50")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        make = import_module(module)
        for part in function.split("."):
            make = getattr(make, part)
        model = make()  # type: ignore[operator]
    except Exception as error:  # of whatever it runs
        raise InputError(f"--torch {name}: {type(error).__name__}: {error}") from error
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"--torch {name}: gives a {type(model).__name__}, not a torch.nn.Module")
    return model
