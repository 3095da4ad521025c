"""The report in Markdown, as code forges render it, and as bench/paper/page/html.py does.

Text is escaped, so that nothing in a row can end a cell or begin a tag; commands are code spans.
A table's cell is one line with `<br>` between ours and the paper's.

Read next: bench/paper/page/html.py.
"""

import re
from html import escape

from bench.paper.page.figure import Figure
from bench.paper.page.grid import LABELS, SIGNS, Block, Cell, Section, counted
from bench.paper.rows import MISSING, VERDICTS


def page(title: str, lead: str, sections: list[Section], facts: dict) -> str:
    """The whole file."""
    parts = [f"# {text(title)}", text(lead)]
    if facts:
        parts.append(
            "\n".join(
                f"* **{text(name.capitalize())}**: {fact(value)}" for name, value in facts.items()
            )
        )
    parts += ['<a id="summary"></a>', "## All tables and figures", summary(sections), legend()]
    return "\n\n".join([*parts, *(section(s) for s in sections)]) + "\n"


def text(words: object) -> str:
    """One line in which nothing is markup."""
    line = " ".join(str(words).split())
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", escape(line, quote=False))


def code(words: str) -> str:
    """A code span; the fence is longer than any run of backticks within."""
    line = " ".join(words.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"


def fact(value: object) -> str:
    """Text as it is, a list as commands, a dict of versions as "name version"."""
    if isinstance(value, dict):
        return text(", ".join(f"{name} {version}" for name, version in value.items()))
    if isinstance(value, (list, tuple)):
        return ", ".join(code(str(line)) for line in value)
    return text(value)


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def badge(verdict: str) -> str:
    return f"{SIGNS[verdict]} {verdict}"


def legend() -> str:
    lines = "\n".join(f"* {badge(verdict)}: {meaning}" for verdict, meaning in VERDICTS.items())
    return (
        "A cell: our mean ± the sample standard deviation between seeds; below it the paper's "
        f"value and the verdict.\n\n{lines}"
    )


def summary(sections: list[Section]) -> str:
    """A line a table: how many cells, and how many of each verdict."""
    shown = counted(sections)
    rows = [
        [
            f"[{text(s.title)}](#{s.key})",
            str(len(s.cells) or f"{len(s.figures)} plot{'s' * (len(s.figures) > 1)}"),
            *(str(s.counts[v] or MISSING) for v in shown),
        ]
        for s in sections
    ]
    total = [
        "**together**",
        str(sum(len(s.cells) for s in sections)),
        *(str(sum(s.counts[v] for s in sections)) for v in shown),
    ]
    return table(["table or figure", "cells", *map(badge, shown)], [*rows, total])


def section(s: Section) -> str:
    parts = [f'<a id="{s.key}"></a>', f"## {text(s.title)}", text(s.what)]
    if s.bound:
        parts.append(f"**Judged:** {text(s.bound)}")
    parts += [figure(f) for f in s.figures]
    parts += [grid(b) for b in s.blocks]
    if s.cells:
        parts.append(text(s.tally))
    if s.cut:
        parts.append(
            "Ended before the recipe does, so none of it is its result:\n\n"
            + "\n".join(f"* {text(line)}" for line in s.cut)
        )
    if s.notes:
        parts.append(
            "Notes\n\n" + "\n".join(f"{n}. {text(note)}" for n, note in enumerate(s.notes, 1))
        )
    parts += [how(s), "[Back to the summary](#summary)"]
    return "\n\n".join(filter(None, parts))


def grid(b: Block) -> str:
    heads = [
        text(name) + (f" ({text(b.units[name])})" if b.units[name] else "") for name in b.columns
    ]
    rows = [
        [
            text(row),
            *(
                "<br>".join(box(b, cell) for cell in b.cells.get((row, name), []))
                for name in b.columns
            ),
        ]
        for row in b.rows
    ]
    return table(["", *heads], rows)


def box(b: Block, cell: Cell) -> str:
    unit = f" {text(b.unit(cell))}" if b.unit(cell) else ""
    note = f"<sup>{cell.note}</sup>" if cell.note else ""
    trained = f" after {text(cell.trained)}" if cell.trained else ""
    ours = f"{text(cell.ours)}{unit}"
    plain = cell.trained or cell.ours == MISSING
    return (
        f"{ours if plain else f'**{ours}**'}{note}{trained}<br>paper {text(cell.paper)} "
        f"{badge(cell.verdict)}"
    )


def how(s: Section) -> str:
    """How to measure it again and what it was measured on; the cells' own facts unfold."""
    parts = [
        "<br>\n".join(
            f"{LABELS[key]}: " + "; ".join(value(key, words) for words in texts)
            for key, texts in s.shared.items()
        )
    ]
    lines = [
        f"* **{text(name)}**: "
        + "; ".join(
            f"{text(LABELS.get(key, key).lower())} {value(key, words)}"
            for key, words in own.items()
        )
        for name, own in s.particulars
        if own
    ]
    if lines:
        parts.append(
            "<details><summary>Cell by cell</summary>\n\n" + "\n".join(lines) + "\n\n</details>"
        )
    return "\n\n".join(filter(None, parts))


def value(key: str, words: str) -> str:
    return code(words) if key == "rerun" else text(words)


def figure(f: Figure) -> str:
    """The picture; its description names the axes and the lines, for who can't see it."""
    lines = ", ".join(dict.fromkeys(series.label for series in f.series))
    caption = f"{text(f.caption)} " if f.caption else ""
    return (
        f"![{text(f'{f.title}: {f.y_label} against {f.x_label}; {lines}')}]({f.name}.png)\n\n"
        f"{caption}Its points: [{text(f.name)}.csv]({f.name}.csv)."
    )
