"""What device cuda is meant to reach on an H100, and whether it was measured to.

Until a file of bench.gpu holds a figure, a goal is a goal and no result: "not measured".

Read next: bench/README.md.
"""

from dataclasses import dataclass

NET = "fitnet4"
EAGER, COMPILED = 1.5, 1.1  # of PyTorch's images a second, at equal precision
SHARE = 0.85  # of a copy's bandwidth
LARGE = 16 << 20  # bytes of a kernel that bandwidth bounds, and not its launch
MATRIX, MATRIX_SECONDS = "9216x4096", 0.050
EPOCHS, IMAGES, RUN_SECONDS = 230, 50_000, 300.0
PRECISIONS = ("tf32", "bf16", "fp32")  # the one of the last goal first


@dataclass(frozen=True)
class Goal:
    """what: the quantity; wanted and measured in words; met: None where nothing was measured."""

    what: str
    wanted: str
    measured: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        return {None: "not measured", True: "met", False: "not met"}[self.met]

    def as_dict(self) -> dict:
        return {
            "what": self.what,
            "wanted": self.wanted,
            "measured": self.measured,
            "verdict": self.verdict,
        }


def goals(rows: list[dict]) -> list[Goal]:
    """Every goal, with what these rows of bench.gpu say of it."""
    return [
        *against("torch eager", "PyTorch eager", EAGER, rows),
        *against("torch compile", "torch.compile(max-autotune)", COMPILED, rows),
        bandwidth(rows),
        orthonormal(rows),
        whole_run(rows),
    ]


def against(name: str, words: str, factor: float, rows: list[dict]) -> list[Goal]:
    """Ours over the peer's, in images a second, in each precision."""
    ratios = {
        row["precision"]: row["ratio"]
        for row in rows
        if row["section"] == "steps" and (row["name"], row["net"]) == (name, NET)
    }
    each = []
    for precision in PRECISIONS:
        what, ratio = f"FitNet-4's step against {words}, {precision}", ratios.get(precision)
        measured = ("", None) if ratio is None else (f"{ratio:.2f} x", ratio >= factor)
        each.append(Goal(what, f"at least {factor:g} x", *measured))
    return each


def bandwidth(rows: list[dict]) -> Goal:
    """The least share of all kernels that move enough."""
    what = f"our kernels that move {LARGE >> 20} MiB or more, GB/s of a copy's"
    wanted = f"at least {SHARE:.0%} each"
    large = [row for row in rows if row["section"] == "kernels" and row["bytes"] >= LARGE]
    if not large:
        return Goal(what, wanted)
    least = min(large, key=lambda row: row["share"])
    reach = sum(row["share"] >= SHARE for row in large)
    return Goal(
        what,
        wanted,
        f"{reach} of {len(large)}, least {least['share']:.0%} ({least['op']} {least['precision']})",
        reach == len(large),
    )


def orthonormal(rows: list[dict]) -> Goal:
    what, wanted = f"an orthonormal {MATRIX}", f"at most {1e3 * MATRIX_SECONDS:.0f} ms"
    for row in rows:
        if row["section"] == "init" and row["what"] == MATRIX:
            return Goal(
                what, wanted, f"{1e3 * row['seconds']:.1f} ms", row["seconds"] <= MATRIX_SECONDS
            )
    return Goal(what, wanted)


def whole_run(rows: list[dict]) -> Goal:
    what = f"FitNet-4's {EPOCHS} epochs in tf32"
    wanted = f"at most {RUN_SECONDS / 60:.0f} min"
    seconds = estimate(rows)
    if seconds is None:
        return Goal(what, wanted)
    return Goal(what, wanted, f"{seconds / 60:.1f} min (estimate)", seconds <= RUN_SECONDS)


def estimate(rows: list[dict]) -> float | None:
    """Seconds of the whole run's training steps at the measured rate; evaluation, checkpoints and
    the start are not in it."""
    for row in rows:
        if row["section"] == "steps" and (row["name"], row["net"], row["precision"]) == (
            "ours",
            NET,
            "tf32",
        ):
            return EPOCHS * IMAGES / row["images_per_second"]
    return None


def table(goals: list[Goal]) -> list[str]:
    """The goals as lines."""
    rows = [
        ("goal", "wanted", "measured", ""),
        *((g.what, g.wanted, g.measured, g.verdict) for g in goals),
    ]
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    return [
        "".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
