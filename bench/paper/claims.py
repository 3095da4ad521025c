"""What the paper says in its text and prints no table for, as one more table.

* Gaussian instead of orthonormal pre-initialisation: "small, but consistent decrease"; consistent
  is one with every seed.
* Normalising a layer's input instead of its output: "no improvement".
* The tolerance on the variance, 0.01 to 0.1: no difference.
* Unit variance is reached in 1 to 5 iterations.

The first three are differences of FitNet-1's test accuracy, in points, between runs that share
their seeds. In the authors' `fresh` mode every measurement is of a new mini-batch; in `same` mode
one division is exact, and neither tolerance nor iterations play a part.

Read next: bench/paper/figure1.py.
"""

import statistics
from dataclasses import dataclass

from bench.paper import training
from bench.paper.printed import ACTS, NC
from bench.paper.rows import CUT, NO_VALUE, OFF, OK, OTHER, Row, mean_and_spread
from bench.paper.study import Cell, Progress, Study
from bench.paper.table8_to_10 import BATCH, fitnet4
from bench.paper.training import Run, plan, settings_options, train
from lsuv import initialise

SEEDS = 3
SAME = 0.5  # points that are no difference
LARGE = 2.0  # points that are no small decrease any more
MOST = 5  # iterations
TOLERANCES = (0.1, 0.05, 0.02, 0.01)
BASE = Run("fitnet1", "relu", "lsuv")


def fresh(tolerance: float) -> Run:
    return Run("fitnet1", "relu", "lsuv", more=(("lsuv_mode", "fresh"), ("lsuv_tol", tolerance)))


@dataclass(frozen=True)
class Claim:
    """`other` against `base`. holds(differences, mean, standard error of it) -> bool."""

    row: str
    says: str
    base: Run
    other: Run
    holds: object


CLAIMS = (
    Claim(
        "Gaussian pre-initialisation",
        "small decrease",
        BASE,
        Run("fitnet1", "relu", "lsuv", more=(("lsuv_pre", "gaussian"),)),
        lambda each, d, error: max(each) < 0 and d > -LARGE,
    ),
    Claim(
        "input normalisation",
        "no improvement",
        BASE,
        Run("fitnet1", "relu", "lsuv", more=(("lsuv_normalise", "input"),)),
        lambda each, d, error: d <= 2 * error,
    ),
    Claim(
        "tolerance 0.01, not 0.1",
        "no difference",
        fresh(0.1),
        fresh(0.01),
        lambda each, d, error: abs(d) <= max(SAME, 2 * error),
    ),
)


def claims(study: Study) -> list[Cell]:
    """The differences in accuracy, then the iterations by activation and tolerance."""
    return [
        *map(lambda claim: difference(study, claim), CLAIMS),
        *(iterations(study, column, act) for column, act in ACTS.items() if act != "sigmoid"),
    ]


def difference(study: Study, claim: Claim) -> Cell:
    """Accuracy of one setting less that of another, seed by seed."""
    seeds = study.seeds or SEEDS
    pair = plan(study, claim.base), plan(study, claim.other)
    more = {
        "of_epochs": pair[0].full,
        "settings": f"{pair[1].words}, less the same with {changed(claim)}, {seeds} seeds",
        "rerun": study.command("claims", *settings_options(study, seeds)),
    }

    def measure(progress: Progress) -> list[Row]:
        outcomes = []
        for number in range(2 * seeds):
            seed, planned = number // 2, pair[number % 2]

            def report(line, epoch, number=number, planned=planned):
                progress.say(
                    f"seed {number // 2}, {line}",
                    (number + min(epoch / planned.epochs, 1)) / (2 * seeds),
                )

            outcomes.append(train(study, planned, seed, report))
        begun = [o for o in outcomes if o is not None and (o.epochs or o.failed)]
        both = [
            (a, b)
            for a, b in zip(outcomes[::2], outcomes[1::2], strict=True)
            if a is not None and b is not None and a.finished and b.finished
        ]
        if not begun:
            return blank
        broken = sorted({o.failed.strip() for o in begun if o.failed})
        if not both:
            return [
                study.row(
                    "claims",
                    claim.row,
                    "accuracy",
                    claim.says,
                    "points",
                    **{
                        **more,
                        "ours": NC if broken else None,
                        "verdict": CUT,
                        "epochs": min(o.epochs for o in begun),
                        "note": "; ".join(broken),
                    },
                )
            ]
        values = [100 * (b.accuracy - a.accuracy) for a, b in both]
        mean, spread = mean_and_spread(values)
        done = len(both) == seeds and pair[0].whole
        if not done:
            verdict = CUT
        elif pair[0].kind != "paper":
            verdict = OTHER
        elif spread is None:  # one seed has no error to judge by
            verdict = NO_VALUE
        else:
            verdict = OK if claim.holds(values, mean, spread / seeds**0.5) else OFF
        return [
            study.row(
                "claims",
                claim.row,
                "accuracy",
                claim.says,
                "points",
                **{
                    **more,
                    "ours": mean,
                    "spread": spread,
                    "seeds": values,
                    "verdict": verdict,
                    "epochs": pair[0].epochs,
                    "date": both[-1][1].record["started"][:10],
                    "machine": training.ran_on(both[-1][1].record),
                    "note": "; ".join(
                        [
                            *broken,
                            *([] if len(both) == seeds else [f"{len(both)} of {seeds} seeds"]),
                        ]
                    ),
                },
            )
        ]

    blank = [study.row("claims", claim.row, "accuracy", claim.says, "points", **more)]
    cost = 2 * seeds * pair[0].epochs * training.multiply_adds(claim.base.net, claim.base.act)
    folders = tuple(
        folder for planned in pair for folder in training.folders_of(study, planned, seeds)
    )
    return Cell(None, f"claims {claim.row}", cost, measure, blank, folders)


def changed(claim: Claim) -> str:
    """What the base has where the other differs."""
    if claim.base.more:
        return " ".join(f"{key.replace('_', '-')} {value}" for key, value in claim.base.more)
    return "the orthonormal pre-initialisation and output normalisation"


def iterations(study: Study, column: str, act: str) -> Cell:
    """The most divisions that any layer of FitNet-4 needed, by tolerance, in `fresh` mode."""
    seeds = study.seeds or SEEDS

    def rows(found: dict[float, list[list[int]]]) -> list[Row]:
        out = []
        for tolerance in TOLERANCES:
            counts, more = found.get(tolerance, []), {}
            if counts:
                most = [max(of_layers) for of_layers in counts]
                mean = statistics.fmean(sum(counts, []))
                more = {
                    "ours": float(max(most)),
                    "seeds": [float(c) for c in most],
                    "verdict": OK if max(most) <= MOST else OFF,
                    "note": f"{mean:.1f} on average over the layers",
                }
            out.append(
                study.row(
                    "claims",
                    f"iterations, tolerance {tolerance:g}",
                    column,
                    "1 to 5",
                    "iterations",
                    settings=f"FitNet-4, {act}, LSUV in fresh mode, CIFAR-10, batch {BATCH}, "
                    f"the most of any layer, {seeds} seeds",
                    rerun=study.command("claims", f"--seeds {seeds}"),
                    **more,
                )
            )
        return out

    def measure(progress: Progress) -> list[Row]:
        found: dict[float, list[list[int]]] = {}
        for tolerance in TOLERANCES:
            for seed in range(seeds):
                net, feed = fitnet4(study, act, seed)
                report = initialise(
                    net, "lsuv", feed.first_batches(), seed, act, mode="fresh", tolerance=tolerance
                )
                found.setdefault(tolerance, []).append([r.iterations for r in report.rows])
                progress.say(
                    f"tolerance {tolerance:g}, seed {seed}",
                    (TOLERANCES.index(tolerance) + (seed + 1) / seeds) / len(TOLERANCES),
                )
        return rows(found)

    cost = 0.05 * training.multiply_adds("fitnet4", act) * seeds
    return Cell(
        f"claims-iterations-{column}-{seeds}seeds",
        f"claims iterations, {column}",
        cost,
        measure,
        rows({}),
    )
