"""LSUV on 16 architectures of other people's: is it right, how long does it take, is anything left.

    python -m bench.torch_lsuv --json bench/results/torch.json --package FOLDER
    python -m bench.torch_lsuv --only vgg16 'hf *' --repeats 1
    python -m bench.torch_lsuv study --help

A line a model. Of `lsuv.torch`: the layers scaled; the largest |variance - 1| of them in a forward
pass of the bench's own, measured by its own hooks in float64; forward passes, counted by the bench;
the time without and with orthonormal matrices, over that of a plain forward pass without gradients,
medians of rounds in turn; what was left alone, and why. Hooks, modes, buffers, gradients, settings
and random numbers must be what they were before, to the bit, and a step of SGD must end in a finite
loss. Of the package lsuv, in a process of its own on the same weights and batch: how many layers'
deviation is not in 0.9 .. 1.1, what it raised, its forward passes and its time, once.

Then the orthonormal matrices of each model by our kernels and by PyTorch's orthogonal_, in at
most three turns.
Exit code 1 where a bar is missed. Weights are random, batches are noise or random tokens.

Read next: bench/torch_lsuv/nets.py.
"""

import fnmatch
import sys
from importlib import metadata

from bench.common.contest import Contestant, Refused, Setting, close
from bench.common.machine import write
from bench.peers import torch_missing
from bench.torch_lsuv import study
from bench.torch_lsuv.package import INSTALL, outcome, version_in
from engine.cli.command import Parser, run_command
from engine.errors import InputError, choose
from kernels import ops_for

WORST = 1e-5  # |variance - 1| of every layer scaled
FORWARDS = 1
WITHOUT_FILL = 3.5  # plain forward passes
FASTER = 5.0  # times the package's, with fill, on these:
CONTESTED = ("resnet50", "densenet121")
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "segmentation_models_pytorch")
TRIAL = "bench.torch_lsuv.trial"
HEAD = (
    f"{'model':<24}{'layers':>6}{'|var-1|':>9}{'passes':>7}{'no fill':>8}{'fill':>7}"
    f"  {'package: outside':<27}{'passes':>7}{'time':>7}{'ratio':>7}"
)


def asked(kind: str, entry: Setting, calls: list[tuple], **options) -> dict[str, object]:
    """{method: its result} of a contestant that is ended then; Refused is its word."""
    contestant = Contestant(kind, f"{TRIAL}:{kind}", entry, **options)
    try:
        return {call: contestant.ask(call, *arguments) for call, *arguments in calls}
    finally:
        contestant.close()


def row_of(name: str, entry: Setting, folder: str | None, repeats: int) -> dict:
    """A model's row: `look` and `times` of trial.Ours, `package` of trial.Package, `matrices`, or
    `error`; `misses` the bars it misses, in words."""
    row: dict = {"name": name}
    calls = [("look",), ("times", repeats), ("matrices",)]
    try:
        found = asked("Ours", entry, calls, net=name)
        row |= found["look"] | found["times"] | {"matrices": found["matrices"]}
    except Refused as error:
        row["error"] = str(error)
    if folder:
        try:
            row["package"] = asked("Package", entry, [("run",)], net=name, folder=folder)["run"]
        except Refused as error:
            row["package"] = {"raised": [str(error)]}
        if "seconds" in row["package"] and "error" not in row:
            theirs = row["package"]["seconds"] / row["package"]["plain"]
            row["ratio"] = theirs / row["with_fill"]
    return row | {"misses": misses(row)}


def misses(row: dict) -> list[str]:
    """The bars that a row misses, in words."""
    if "error" in row:
        return [row["error"]]
    found = {
        f"worst |variance - 1| {row['worst'] or 0:.1e}": not (row["worst"] or 0) <= WORST,
        f"{row['forwards']} forward passes": row["forwards"] != FORWARDS,
        f"{row['reported_forwards']} reported": row["reported_forwards"] != row["forwards"],
        f"{row['without_fill']:.1f} without fill": row["without_fill"] > WITHOUT_FILL,
        f"changed: {', '.join(row['changed'])}": row["changed"],
        f"in no row: {', '.join(row['missed'])}": row["missed"],
        f"changed, not scaled: {', '.join(row['strays'])}": row["strays"],
        "loss not finite": row["loss"] is None,
        f"only {row.get('ratio', FASTER):.1f} x the package": row["name"] in CONTESTED
        and row.get("ratio", FASTER) < FASTER,
    }
    return [text for text, missed in found.items() if missed]


def show(row: dict) -> None:
    text = f"{row['name']:<24}"
    if "error" not in row:
        worst = "" if row["worst"] is None else f"{row['worst']:.1e}"
        text += (
            f"{row['layers']:>6}{worst:>9}{row['forwards']:>7}{row['without_fill']:>8.1f}"
            f"{row['with_fill']:>7.1f}"
        )
    if package := row.get("package"):
        text += f"  {outcome(package):<27}"
        if "seconds" in package:
            time = package["seconds"] / package["plain"]
            ratio = f"{row['ratio']:.1f}" if "ratio" in row else ""
            text += f"{package['forwards']:>7}{time:>7.0f}{ratio:>7}"
    left = "; ".join(f"{len(names)} {why}" for why, names in row.get("left", {}).items())
    print(f"{text}  {left}".rstrip(), flush=True)
    for missed in row["misses"]:
        print(f"{'':<24}missed: {missed}", flush=True)


def matrices(rows: list[dict], entry: Setting, repeats: int) -> list[dict]:
    """bench.init's rows of every model's orthonormal matrices, ours and PyTorch's in turn."""
    from bench import init  # it imports our lsuv, which no process of the package may have

    makers: list[Contestant] = []
    found = []
    try:
        for name in ("ours", "torch orthogonal_"):
            makers.append(Contestant(name, init.MAKER, entry, by=name))
        for row in rows:
            if shapes := row.pop("matrices", None):
                found += init.compare(row["name"], shapes, makers, repeats, full=False)
                ours, theirs = found[-2:]
                print(
                    f"{row['name']:<24}{len(shapes):>6} matrices  ours {ours['seconds']:.3f} s  "
                    f"orthogonal_ {theirs['seconds']:.3f} s  ratio {theirs['ratio']:.1f}",
                    flush=True,
                )
    finally:
        close(makers)
    return found


def versions(folder: str | None) -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | ({"lsuv (PyPI)": version_in(folder)} if folder else {})


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["study"]:
        return study.main(arguments[1:])
    parser = Parser(prog="bench.torch_lsuv", description=__doc__.split("\n\nRead next")[0])
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="models, with *")
    parser.add_argument("--package", metavar="FOLDER", help=f"the package lsuv: {INSTALL}")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the timing (5)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch and our kernels (1)")
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file")
    parser.add_argument("--note", default="", metavar="TEXT", help="written beside the date")
    options = parser.parse_args(arguments)
    if why := torch_missing("cpu"):
        raise InputError(f"{why}; pip install torch")
    from bench.torch_lsuv.nets import NETS

    for name in options.only:
        if not fnmatch.filter(NETS, name):
            choose("model", name, NETS)
    if options.repeats < 1:
        raise InputError(f"--repeats {options.repeats}: give at least 1")
    chosen = [name for name in NETS if any(fnmatch.fnmatchcase(name, o) for o in options.only)]
    ops, peers = ops_for("auto", options.threads), versions(options.package)
    entry = Setting(options.threads, ops.name)
    print(HEAD)
    rows = []
    for name in chosen:
        library = NETS[name].module
        if library not in peers:
            print(
                f"{name:<24}left out: {library} is not installed; pip install {NETS[name].library}"
            )
            continue
        rows.append(row_of(name, entry, options.package, options.repeats))
        show(rows[-1])
    made = matrices(rows, entry, min(3, options.repeats))
    facts = {"threads": options.threads, "note": options.note, "matrices": made}
    write(options.json, ops, rows, peers=peers, **facts)
    return int(any(row["misses"] for row in rows))


if __name__ == "__main__":
    sys.exit(run_command("bench.torch_lsuv", main))
