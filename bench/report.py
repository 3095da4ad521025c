"""Writes the page of results, bench/results/README.md, and README.md's short table from the JSON.

    python -m bench.report            writes both, and the learning curves
    python -m bench.report --check    exit code 1 if one of them is not what the JSON says

The words stand in bench/report.md.in, which has marks for the tables; here are the tables. No
number is typed by hand.

Read next: bench/README.md.
"""

import argparse
import json
import pathlib
import re
import statistics
import sys

from bench.common.machine import RESULTS
from bench.gpu.goals import goals
from bench.paper.rows import OFF, OK, VERDICTS, number, ours_of
from bench.torch_lsuv.package import outcome
from bench.torch_lsuv.study import INITS, SEEDS
from bench.torch_lsuv.study import NETS as NETS_OF_STUDY

ROOT = pathlib.Path(__file__).resolve().parents[1]
README, TEMPLATE = ROOT / "README.md", pathlib.Path(__file__).with_name("report.md.in")
MARKS = ("images", "judged", "init_images", "epochs", "batch")
BEGIN, END = "<!-- report:begin -->", "<!-- report:end -->"
STYLES = {"lsuv": "-", "xavier": "--", "msra": ":", "ortho": "-."}
NETS = {"fitnet4": "FitNet-4", "fitnet1": "FitNet-1", "fitnet_mnist": "FitNet-MNIST"}
FILES = {  # pattern -> what it holds, the command that writes it
    "step_*.json": (
        "a training step of a net in a precision, ours and PyTorch's",
        "python -m bench.step --against torch --json FILE",
    ),
    "kernels.json": ("every operation by itself", "python -m bench.kernels --json FILE"),
    "init.json": ("orthonormal matrices and LSUV", "python -m bench.init --json FILE"),
    "training.json": (
        "runs of `--recipe fast` on CIFAR-10, FitNet-4's with `--epochs 3`",
        "python -m bench.runs runs/* --json FILE",
    ),
    "precision.json": (
        "runs in fp32 and bf16: FitNet-1's of `--recipe fast`, and `--net fitnet_mnist --runs 3`",
        "python -m bench.runs runs/* --json FILE",
    ),
    "paper/rows.json": (
        "the paper's cells; with it the page, the figures and their points",
        "python -m bench.paper report --out bench/results/paper",
    ),
    "search.json": ("trials of settings for `fast`, by validation accuracy", "by hand"),
    "traffic.json": (
        "what every CUDA kernel moves, traced without a GPU",
        "python -m bench.trace.claims --json FILE",
    ),
    "torch.json": (
        "`lsuv.torch` and the package lsuv on 16 architectures",
        "python -m bench.torch_lsuv --package FOLDER --json FILE",
    ),
    "torch_study.json": (
        "training losses of four nets by initialiser",
        "python -m bench.torch_lsuv study --package FOLDER --json FILE --plot FILE",
    ),
    "torch_study.png": ("drawn from torch_study.json", "the same"),
    "gpu-*.json": ("everything on one GPU", "python -m bench.gpu"),
    "curves.png": ("drawn from training.json", "python -m bench.report"),
}


def read(name: str):
    """A file of the results; None where it is not there."""
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else None


def read_all(pattern: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(pattern))]


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def measured_on(results: dict) -> str:
    m = results["machine"]
    return (
        f"{m['processor']}, {m['cores']} cores, device {m['device']} ({m['description']}), "
        f"Python {m['python']}, {m['versions']}, {m['date']}"
    )


def trained_on(training: dict, rows: list[dict]) -> str:
    """The devices, versions and dates of these runs, from the runs' own records."""
    devices = sorted({r["device"] for r in rows})
    dates = sorted({r["started"][:10] for r in rows})
    versions = rows[0]["versions"]
    own = training["machine"]["processor"]
    processors = sorted({r.get("processor", own) for r in rows})
    return (
        f"{' and '.join(processors)}, device {' and '.join(devices)}, Python "
        f"{versions['python']}, NumPy {versions['numpy']}, {' to '.join(dates)}"
    )


# -- the parts of the page: the marks of each, or several times the marks, or nothing --------------


def contents() -> list[dict]:
    rows = [
        [f"`{pattern}`", what, f"`{command}`"]
        for pattern, (what, command) in FILES.items()
        if any(RESULTS.glob(pattern))
    ]
    return [{"contents": table(["file", "what it holds", "written by"], rows)}] if rows else []


def paper() -> list[dict]:
    """How the paper's tables and figures came out, and its MNIST table, the one run in full."""
    rows = read("paper/rows.json")
    if not rows:
        return []
    verdicts = [v for v in VERDICTS if any(r["verdict"] == v for r in rows)]
    counts = []
    for name in dict.fromkeys(r["table"] for r in rows):
        cells = [r for r in rows if r["table"] == name]
        numbers = (sum(r["verdict"] == v for r in cells) for v in verdicts)
        counts.append([name, str(len(cells)), *(str(n) if n else "" for n in numbers)])
    mnist = [
        [
            r["row"],
            number(r["paper"], r["unit"], printed=True),
            ours_of(r),
            ", ".join(f"{value:.2f}" for value in r["seeds"]),
            r["verdict"],
        ]
        for r in rows
        if r["column"] == "MNIST error"
    ]
    off = "; ".join(
        f"{r['table']} {r['row']} {r['column']}: {ours_of(r)}, the paper "
        f"{number(r['paper'], r['unit'], printed=True)}"
        for r in rows
        if r["verdict"] == OFF
    )
    machines = sorted({r["machine"] for r in rows if r["machine"]})
    dates = sorted({r["date"] for r in rows if r["date"]})
    return [
        {
            "counts": table(["", "cells", *verdicts], counts),
            "off": off or "none",
            "legend": "\n".join(f"* *{v}*: {VERDICTS[v]}" for v in verdicts),
            "mnist": mnist and table(["net", "paper", "ours", "each seed", "verdict"], mnist),
            "measured": f"{' to '.join(sorted({dates[0], dates[-1]}))}; {'; '.join(machines)}.",
        }
    ]


def fast_cifar(training: dict) -> list[dict]:
    """The runs of the `fast` recipe on all of CIFAR-10, finished or not."""
    return [
        r
        for r in training["rows"]
        if (r["data"], r["recipe"], r["limit"]) == ("cifar10", "fast", None)
    ]


def cifar() -> list[dict]:
    training = read("training.json")
    runs = fast_cifar(training) if training else []
    rows = []
    for r in runs:
        last, best = r["metrics"][-1], max(m["test_accuracy"] for m in r["metrics"])
        cut = "" if r["finished"] else f" of {r['epochs']:g}, cut short"
        rows.append(
            [
                r["net"],
                r["act"],
                r["init"],
                r["precision"],
                str(r["seed"]),
                f"{last['epoch']:g}{cut}",
                f"{last['train_loss']:.3f}",
                f"{100 * last['test_accuracy']:.2f}",
                f"{100 * best:.2f}",
            ]
        )
    head = ["net", "act", "init", "precision", "seed", "epochs", "train loss"]
    head += ["test accuracy %", "best %"]
    return [{"runs": table(head, rows), "measured": trained_on(training, runs)}] if runs else []


def search() -> list[dict]:
    """The trials for the `fast` recipe, best first; what failed last."""
    found = read("search.json")
    rows = found["rows"] if found else []

    def best(r: dict) -> float:
        return max(r["validation_accuracy"] or 0, r["averaged_accuracy"] or 0)

    tried = [
        [
            r["net"],
            r["act"],
            f"{r['epochs']:g}",
            ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in r["settings"].items()),
            *(
                f"{100 * r[key]:.2f}" if r[key] is not None else "" if best(r) else "not finite"
                for key in ("validation_accuracy", "averaged_accuracy")
            ),
        ]
        for r in sorted(rows, key=lambda r: (r["net"], -best(r)))
    ]
    head = ["net", "act", "epochs", "settings", "validation %", "averaged weights %"]
    measured = f"{found['machine']}, {found['date']}" if found else ""
    return [{"trials": table(head, tried), "measured": measured}] if rows else []


def precision() -> list[dict]:
    """A net's test errors in each precision, seed by seed."""
    training = read("precision.json")
    if not training:
        return []
    rows = []
    nets = sorted({(r["net"], r["recipe"], f"{r['epochs']:g}") for r in training["rows"]})
    for net, kind, epochs in nets:
        for width in ("fp32", "bf16"):
            runs = sorted(
                (
                    r
                    for r in training["rows"]
                    if r["finished"]
                    and r["recipe"] == kind
                    and (r["net"], r["precision"]) == (net, width)
                ),
                key=lambda r: r["seed"],
            )
            errors = [100 * (1 - r["metrics"][-1]["test_accuracy"]) for r in runs]
            if errors:
                spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
                rows.append(
                    [
                        f"{net}, {kind}, {epochs} epochs",
                        width,
                        f"{statistics.mean(errors):.2f}{spread}",
                        ", ".join(f"{error:.2f}" for error in errors),
                    ]
                )
    return [
        {
            "errors": table(["net", "precision", "error, %", "each seed"], rows),
            "measured": trained_on(training, training["rows"]),
        }
    ]


def by_what(results: dict) -> dict[str, dict[str, dict]]:
    """The rows of init.json: {matrix or net: {maker: row}}."""
    cases: dict[str, dict[str, dict]] = {}
    for row in results["rows"]:
        cases.setdefault(row["what"], {})[row["name"]] = row
    return cases


def init() -> list[dict]:
    """A row a matrix, a net, or LSUV whole: our seconds, the others' over ours, the paper's."""
    results = read("init.json")
    if not results:
        return []
    rows = [
        [
            what,
            f"{by['ours']['seconds']:.3g}",
            *(
                f"{by[peer]['ratio']:.1f}" if peer in by else ""
                for peer in ("torch orthogonal_", "numpy qr", "numpy svd")
            ),
            f"{by['paper']['seconds']:g}" if "paper" in by else "",
        ]
        for what, by in by_what(results).items()
    ]
    worst = max(row["error"] for row in results["rows"] if row["name"] == "ours")
    head = [
        "matrix or net",
        "ours, s",
        "× PyTorch's `orthogonal_`",
        "× NumPy's QR",
        "× NumPy's SVD",
        "the paper, s",
    ]
    return [
        {
            "matrices": table(head, rows),
            "worst": f"{worst:.1e}",
            "measured": f"{measured_on(results)}.",
        }
    ]


def goals_alone() -> list[dict]:
    """The goals on a GPU, where none was measured."""
    if read_all("gpu-*.json"):
        return []
    return [{"goals": table(["goal", "wanted"], [[g.what, g.wanted] for g in goals([])])}]


def gpu() -> list[dict]:
    return list(map(one_gpu, read_all("gpu-*.json")))


def one_gpu(results: dict) -> dict:
    """What was measured on one GPU: the goals, the step, our kernels."""
    card, rows = results["gpu"], results["rows"]
    in_steps = [row for row in rows if row["section"] == "steps"]
    by: dict[str, dict[str, dict]] = {}
    for row in in_steps:
        by.setdefault(row["name"], {})[row["precision"]] = row
    precisions = list(dict.fromkeys(row["precision"] for row in in_steps))
    steps = [
        [name, *(step_cell(own[p]) if p in own else "" for p in precisions)]
        for name, own in by.items()
    ]
    kernels = [
        [
            f"`{row['op']}`",
            row["case"],
            row["precision"],
            f"{1e6 * row['seconds']:.1f}",
            f"{row['gbytes_per_second']:,.0f}",
            f"{row['share']:.2f}",
            f"{row['share_of_equal']:.2f}",
        ]
        for row in rows
        if row["section"] == "kernels"
    ]
    first, m = (in_steps or [{}])[0], results["machine"]
    return {
        "name": card["name"],
        "goals": table(
            ["goal", "wanted", "measured", ""],
            [[g["what"], g["wanted"], g["measured"], g["verdict"]] for g in results["goals"]],
        ),
        **{key: str(first.get(key)) for key in ("net", "batch", "recipe")},
        "steps": steps and table(["", *precisions], steps),
        "copy": f"{results['copy']['gbytes_per_second']:,.0f}",
        "kernels": kernels
        and table(["kernel", "case", "", "µs", "GB/s", "share", "of as many bytes"], kernels),
        "failed": "; ".join(f"{name}: {why}" for name, why in results["failed"].items()),
        "measured": f"{m['description']}, driver {card['driver'] or 'unknown'}, {m['processor']}, "
        f"Python {m['python']}, {m['versions']}, {m['date']}.",
    }


def step_cell(row: dict) -> str:
    ratio = "" if row["ratio"] is None else f" ({row['ratio']:.2f})"
    return f"{row['images_per_second']:,.0f}{ratio}"


def phase(results: dict, name: str) -> tuple[dict, dict | None]:
    """(our row, that of the peer's fastest mode) of a phase of a step."""
    mine, *peers = [r for r in results["rows"] if r.get("phase") == name and "ratio" in r]
    return mine, min(peers, key=lambda r: r["ratio"], default=None)


def step() -> list[dict]:
    """The training step, a row a net and precision."""
    every = read_all("step_*.json")
    if not every:
        return []
    guards = [100 * results["guard"]["share"] for results in every if "guard" in results]
    head = [
        "net",
        "batch",
        "ours",
        "PyTorch",
        "ratio",
        "convolutions alone, %",
        "by oneDNN, %",
        "evaluation",
        "ratio",
        "peak MB",
        "PyTorch's",
    ]
    return [
        {
            "contest": table(head, list(map(contest, every))),
            "guards": guards and f"{min(guards):.2f} to {max(guards):.2f}",
            "measured": "; ".join(dict.fromkeys(map(measured_on, every))) + ".",
        }
    ]


def contest(results: dict) -> list[str]:
    """A net and precision: ours, the bounds, the peer's fastest mode of each phase."""
    rows = results["rows"]
    (ours, peer), (tested, test_peer) = phase(results, "train"), phase(results, "test")
    bounds = [f"{100 * r['share']:.0f}" for r in rows if "share" in r and "phase" in r]
    peaks = [r["peak_mb"] for r in rows if r.get("phase") == "train" and r.get("ratio")]
    best = (
        f"{peer['images_per_second']:,.0f} ({peer['name'].removeprefix('torch ')})" if peer else ""
    )
    ratio = "{:.2f} ({:.2f} to {:.2f})".format(peer["ratio"], *peer["ratios"]) if peer else ""
    test_ratio = (
        f"{test_peer['ratio']:.2f} ({test_peer['name'].removeprefix('torch ')})"
        if test_peer
        else ""
    )
    return [
        f"{ours['net']}, {ours['act']}, {ours['precision']}",
        str(ours["batch"]),
        f"{ours['images_per_second']:,.0f}",
        best,
        ratio,
        *[*bounds, ""][:2],
        f"{tested['images_per_second']:,.0f}",
        test_ratio,
        f"{ours['peak_mb']:,.0f}",
        f"{min(peaks):,.0f}" if peaks else "",
    ]


def kernels() -> list[dict]:
    """A row an operation: the first of its cases, as bench/kernels.py orders them."""
    results = read("kernels.json")
    if not results:
        return []
    cases: dict[str, dict[tuple[str, str], dict]] = {}
    for row in results["rows"]:
        of = cases.setdefault(row["op"], {})
        if row["case"] == next(iter(of.values()), row)["case"]:
            of[row["name"], row["precision"]] = row

    def both(by, name: str, text) -> str:
        """A figure in fp32 / bf16; one of them where there is only one."""
        return " / ".join(text(by[name, p]) for p in ("fp32", "bf16") if (name, p) in by)

    def rate(row) -> str:
        return (
            f"{row['gflops']:,.0f} GFLOP/s"
            if "gflops" in row
            else f"{row['gbytes_per_second']:.0f} GB/s"
        )

    def ratio(row) -> str:
        return f"{row['ratio']:.{1 if row['ratio'] >= 10 else 2}f}"

    rows = [
        [
            f"`{op}`",
            next(iter(by.values()))["case"],
            both(by, "ours", rate),
            both(by, "ours", lambda row: f"{row['share']:.2f}"),
            *(both(by, peer, ratio) for peer in ("numpy", "torch", "onednn direct")),
        ]
        for op, by in cases.items()
    ]
    head = ["operation", "case", "rate", "share", "× NumPy", "× PyTorch", "× oneDNN"]
    return [
        {
            "operations": table(head, rows),
            "measured": f"{measured_on(results)}.",
            "ceilings": "; ".join(
                f"{name} {c['copy_gbs']:.0f} GB/s and {c['product_gflops']:.0f} GFLOP/s"
                for name, c in results["ceilings"].items()
            ),
        }
    ]


def traffic() -> list[dict]:
    """Of every kernel, in the first operation that has it: all its arrays in global memory."""
    results = read("traffic.json")
    if not results:
        return []
    kernels: dict[str, dict[tuple, list[dict]]] = {}
    operations: dict[str, str] = {}
    for values in results["rows"]:
        row = dict(zip(results["columns"], values, strict=True))
        if operations.setdefault(row["kernel"], row["operation"]) == row["operation"]:
            cell = row["shape"], row["precision"]
            kernels.setdefault(row["kernel"], {}).setdefault(cell, []).append(row)

    def total(rows: list[dict], name: str) -> int:
        return sum(row[name] for row in rows)

    order = [(shape, p) for shape in ("aligned", "awkward") for p in ("fp32", "bf16")]
    lines = []
    for kernel, cells in sorted(kernels.items()):
        parts = {cell: [row for row in rows if row["sectors"]] for cell, rows in cells.items()}
        own = next(cell for cell in order if cell in cells)
        first, shared = parts[own], cells[own]
        requests = total(first, "requests")
        lines.append(
            [
                f"`{kernel}`",
                f"{total(first, 'needed'):,}",
                *(
                    f"{total(parts[cell], 'moved') / total(parts[cell], 'needed'):.2f}"
                    if cell in parts
                    else ""
                    for cell in order
                ),
                f"{total(first, 'sectors') / requests:.2f}",
                f"{total(first, 'ideal') / requests:.2f}",
                f"{sum(row['lanes'] * row['requests'] for row in first) / requests:.1f}",
                f"{total(shared, 'conflicts')} of {total(shared, 'wavefronts'):,}"
                if total(shared, "wavefronts")
                else "",
            ]
        )
    head = ["kernel", "bytes", "fp32", "bf16", "awkward", "bf16", "sectors", "ideal", "threads"]
    return [{"kernels": table([*head, "conflicts"], lines)}]


def torch() -> list[dict]:
    """A row an architecture; the models' matrices; what the study's nets came to."""
    results = read("torch.json")
    if not results:
        return []
    rows = []
    for r in results["rows"]:
        package = r.get("package", {})
        theirs = ["", "", ""]
        if "seconds" in package:
            theirs = [
                f"{package['forwards']}",
                f"{package['seconds'] / package['plain']:.0f}",
                f"{r['ratio']:.1f}" if "ratio" in r else "",
            ]
        if "error" in r:
            ours = [r["error"], *[""] * 4]
        else:
            worst = "" if r["worst"] is None else f"{r['worst']:.1e}"
            ours = [f"{r['layers']}", worst, f"{r['forwards']}"]
            ours += [f"{r[key]:.1f}" for key in ("without_fill", "with_fill")]
        left = ", ".join(f"{len(names)} {why}" for why, names in r.get("left", {}).items())
        said = outcome(package) if package else ""
        rows.append([r["name"], *ours, left, said, *theirs, ", ".join(r["misses"]) or "met"])
    head = ["model", "layers", "off by", "passes", "no fill", "fill", "left alone"]
    head += ["the package: outside", "passes", "time", "× ours", "bars"]
    made = [
        [what, f"{by['ours']['seconds']:.3f}", f"{by['torch orthogonal_']['ratio']:.1f}"]
        for what, by in by_what({"rows": results["matrices"]}).items()
    ]
    return [
        {
            "models": table(head, rows),
            "matrices": made and table(["all matrices of", "ours, s", "× `orthogonal_`"], made),
            "threads": str(results["threads"]),
            "measured": "; ".join(filter(None, [measured_on(results), results["note"]])) + ".",
        }
    ]


def study() -> list[dict]:
    """The last training loss of each net, by initialiser: mean and span of the seeds."""
    results = read("torch_study.json")
    if not results:
        return []
    rows = []
    for net in NETS_OF_STUDY:
        cells = []
        for init in INITS:
            found = [r for r in results["rows"] if (r["net"], r["init"]) == (net, init)]
            last = [r["losses"][-1] for r in found if r.get("losses", [None])[-1] is not None]
            failed = len(found) - len(last)
            text = f"{statistics.mean(last):.3f}" if last else ""
            if len(last) > 1:
                text += f" ({min(last):.3f} to {max(last):.3f})"
            if len(found) < len(SEEDS) or failed:
                text += f", {len(last)} of {len(SEEDS)} seeds"
            cells.append(text.removeprefix(", "))
        rows.append([net, f"{results['settings']['rates'][net]:g}", *cells])
    return [
        {
            "losses": table(["net", "rate", *INITS.values()], rows),
            **{key: f"{value:,}" for key, value in results["settings"].items() if key in MARKS},
            "measured": f"{measured_on(results)}.",
        }
    ]


PARTS = {
    "contents": contents,
    "paper": paper,
    "cifar": cifar,
    "search": search,
    "precision": precision,
    "init": init,
    "goals": goals_alone,
    "gpu": gpu,
    "step": step,
    "kernels": kernels,
    "traffic": traffic,
    "torch": torch,
    "study": study,
}


# -- what is written -------------------------------------------------------------------------------


def page() -> str:
    """bench/results/README.md."""
    head, *_ = template()
    return "\n\n".join([head, *filter(None, map(part, PARTS))]) + "\n"


def template() -> list[str]:
    """[what comes first, a part's name, its text, another's name, ...]"""
    pieces = re.split(r"^<!-- part (\w+) -->$", TEMPLATE.read_text(), flags=re.M)
    return [piece.strip() for piece in pieces]


def part(name: str) -> str:
    """A part of the page as often as there are results of its kind."""
    _, *pieces = template()
    text = dict(zip(pieces[::2], pieces[1::2], strict=True))[name]
    return "\n\n".join(filled(text, marks) for marks in PARTS[name]())


def filled(text: str, marks: dict) -> str:
    """The text with {{mark}} replaced; a paragraph that begins with {{?mark}} stands only where the
    mark has something."""
    kept = []
    for paragraph in text.split("\n\n"):
        condition = re.match(r"\{\{\?(\w+)\}\}", paragraph)
        if condition is None or marks[condition[1]]:
            kept.append(paragraph[condition.end() if condition else 0 :])
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: marks[mark[1]], "\n\n".join(kept))


def short() -> str:
    """README.md's table: the rows that say most, and what they were measured on."""
    rows, machines = [], {}
    training = read("training.json")
    runs = [r for r in fast_cifar(training) if r["finished"]] if training else []
    for epochs in sorted({r["epochs"] for r in runs if r["net"] == "fitnet4"}):
        seeds = [r for r in runs if (r["net"], r["epochs"]) == ("fitnet4", epochs)]
        ends = [r["metrics"][-1] for r in seeds]
        rows.append(
            [
                f"FitNet-4, LSUV, {epochs:g} epochs of `fast`, test accuracy of each seed, %",
                ", ".join(f"{100 * end['test_accuracy']:.2f}" for end in ends),
                "the paper, 230 epochs, 93.94",
                ", ".join(f"{end['seconds'] / 60:.0f}" for end in ends) + " min, 1 thread",
            ]
        )
    for net, title in NETS.items():
        each = [r for p in ("fp32", "bf16") if (r := read(f"step_{net}_{p}.json"))]
        pairs = [phase(results, "train") for results in each]
        if pairs and all(peer for _, peer in pairs):
            mine, theirs = (
                " / ".join(f"{own['images_per_second']:,.0f}" for own in side)
                for side in zip(*pairs, strict=True)
            )
            rows.append(
                [
                    f"{title}, training step, images/s, "
                    + " / ".join(own["precision"] for own, _ in pairs),
                    mine,
                    f"PyTorch {theirs}",
                    " / ".join(f"{p['ratio']:.1f} ×" for _, p in pairs),
                ]
            )
            machines |= dict.fromkeys(map(measured_on, each))
    if results := read("init.json"):
        by = by_what(results)["caffenet"]
        if "torch orthogonal_" in by:
            rows.append(
                [
                    "CaffeNet's orthonormal matrices, s",
                    f"{by['ours']['seconds']:.2f}",
                    f"PyTorch {by['torch orthogonal_']['seconds']:.2f}",
                    f"{by['torch orthogonal_']['ratio']:.1f} ×",
                ]
            )
            machines |= {measured_on(results): None}
    cells = read("paper/rows.json") or []
    rows += [
        [
            "FitNet-MNIST, LSUV, trained in full, test error, %",
            ours_of(r),
            f"the paper {number(r['paper'], r['unit'], printed=True)}",
            VERDICTS[r["verdict"]],
        ]
        for r in cells
        if (r["row"], r["column"]) == ("FitNet-LSUV-SVM", "MNIST error")
    ]
    if cells:
        judged = [r for r in cells if r["verdict"] in (OK, OFF)]
        good = sum(r["verdict"] == OK for r in judged)
        rows.append(
            [
                f"the paper's numbers: {len(judged)} of {len(cells)} cells judged so far",
                f"{good} within their bounds",
                f"{len(judged) - good} outside",
                f"{good / len(judged):.0%}",
            ]
        )
    figures = table(["", "ours", "beside", ""], rows)
    return (
        f"{figures}\n\n*{'; '.join(machines)}. PyTorch's figure is the fastest of its modes, "
        "at equal precision and threads, in turn with ours.*"
    )


def readme() -> str:
    """README.md with its table."""
    before, rest = README.read_text().split(BEGIN)
    return f"{before}{BEGIN}\n{short()}\n{END}{rest.split(END)[1]}"


def curves(training: dict) -> None:
    """Test accuracy and training loss by epoch, one line a run, told apart without colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    runs = fast_cifar(training)
    nets = sorted({r["net"] for r in runs})
    figure, axes = pyplot.subplots(2, len(nets), figsize=(4.6 * len(nets), 6), squeeze=False)
    for column, net in enumerate(nets):
        for run in (r for r in runs if r["net"] == net):
            epochs = [m["epoch"] for m in run["metrics"]]
            label = run["init"] + ("" if run["finished"] else " (cut short)")
            style = {"linestyle": STYLES.get(run["init"], "-"), "marker": ".", "label": label}
            accuracy = [100 * m["test_accuracy"] for m in run["metrics"]]
            axes[0, column].plot(epochs, accuracy, **style)
            axes[1, column].plot(epochs, [m["train_loss"] for m in run["metrics"]], **style)
        axes[0, column].set_title(f"{net}, CIFAR-10, fast recipe")
        axes[0, column].set_ylabel("test accuracy, %")
        axes[1, column].set_ylabel("training loss (log)")
        axes[1, column].set_yscale("log")
        for axis in axes[:, column]:
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
            axis.grid(alpha=0.3)
            axis.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "curves.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.report", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if they differ")
    options = parser.parse_args()
    for path, text in ((RESULTS / "README.md", page()), (README, readme())):
        if not options.check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.exit(
                f"{path.relative_to(ROOT)} is not what the JSON says; run python -m bench.report"
            )
    training = read("training.json")
    if not options.check and training and fast_cifar(training):
        curves(training)


if __name__ == "__main__":
    main()
