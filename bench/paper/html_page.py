"""The report as one HTML file that needs nothing beside it: no script, no font, no picture file.

Every text passes through `escape`. The page's own policy forbids it to load anything.

Read next: bench/paper/html_style.py, and bench/paper/markdown_page.py, the same in Markdown.
"""

import base64
from html import escape
from pathlib import Path

from bench.paper.figure import Figure
from bench.paper.grid import LABELS, SIGNS, Block, Cell, Section, counted
from bench.paper.rows import MISSING, VERDICTS
from bench.paper.html_style import STYLE, verdict_class

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, lead: str, sections: list[Section], folder: Path, facts: dict) -> str:
    """The whole file; the figures' pictures are read from `folder`."""
    return "\n".join([
        "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
        f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", "</head>", "<body>",
        '<header id="top">', f"<h1>{escape(title)}</h1>", f"<p>{escape(lead)}</p>",
        known_facts(facts), "</header>", "<main>", summary(sections), legend(),
        *(section(s, folder) for s in sections), "</main>", "</body>", "</html>", ""])


def known_facts(facts: dict) -> str:
    items = [f"<dt>{escape(name.capitalize())}</dt><dd>{fact(value)}</dd>"
             for name, value in facts.items()]
    return f"<dl>{''.join(items)}</dl>" if items else ""


def fact(value: object) -> str:
    """Text as it is, a list as commands, a dict of versions as "name version"."""
    if isinstance(value, dict):
        return escape(", ".join(f"{name} {version}" for name, version in value.items()))
    if isinstance(value, (list, tuple)):
        return "<br>".join(f"<code>{escape(str(line))}</code>" for line in value)
    return escape(str(value))


def badge(verdict: str) -> str:
    return (f'<span class="verdict {verdict_class(verdict)}"><span aria-hidden="true">'
            f"{SIGNS[verdict]}</span>&nbsp;{escape(verdict)}</span>")


def legend() -> str:
    """A name for every sign, once."""
    items = "".join(f"<li>{badge(verdict)} {escape(meaning)}</li>"
                    for verdict, meaning in VERDICTS.items())
    return ("<details class=\"legend\" open><summary>How to read a cell</summary><p>Our mean ± the "
            "sample standard deviation between seeds; below it the paper's value and the verdict:"
            f"</p><ul>{items}</ul></details>")


def scroll(label: str, inside: str) -> str:
    """A box of its own for what may be wider than the screen, also reached by keyboard."""
    return (f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
            f"{inside}</div>")


def summary(sections: list[Section]) -> str:
    """A line a table: how many cells, and how many of each verdict."""
    shown = counted(sections)
    heads = "".join(f'<th scope="col">{head}</th>'
                    for head in ("table or figure", "cells", *map(badge, shown)))
    lines = []
    for s in sections:
        numbers = "".join(f"<td>{s.counts[v] or MISSING}</td>" for v in shown)
        lines.append(f'<tr><th scope="row"><a href="#{escape(s.key)}">{escape(s.title)}</a></th>'
                     f"<td>{len(s.cells) or figure_count(s)}</td>{numbers}</tr>")
    total = "".join(f"<td>{sum(s.counts[v] for s in sections)}</td>" for v in shown)
    cells = sum(len(s.cells) for s in sections)
    return scroll("Summary", (
        '<table class="summary"><caption><span>All tables and figures</span></caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody><tfoot><tr>"
        f'<th scope="row">together</th><td>{cells}</td>{total}</tr></tfoot></table>'))


def figure_count(s: Section) -> str:
    return "plot" if len(s.figures) == 1 else f"{len(s.figures)} plots"


def section(s: Section, folder: Path) -> str:
    parts = [f'<section id="{escape(s.key)}">', f"<h2>{escape(s.title)}</h2>",
             f"<p>{escape(s.what)}</p>"]
    if s.bound:
        parts.append(f'<p class="bound"><b>Judged:</b> {escape(s.bound)}</p>')
    parts += [figure(f, folder) for f in s.figures]
    for number, b in enumerate(s.blocks, 1):
        part = f", part {number}" if len(s.blocks) > 1 else ""
        parts.append(scroll(s.title + part, grid(s, b, part)))
    if s.cells:
        parts.append(f"<p>{escape(s.tally)}</p>")
    if s.cut:
        items = "".join(f"<li>{escape(line)}</li>" for line in s.cut)
        parts.append("<p>Ended before the recipe does, so none of it is its result:</p>"
                     f"<ul>{items}</ul>")
    if s.notes:
        items = "".join(f'<li id="{escape(s.key)}-note{n}">{escape(note)}</li>'
                        for n, note in enumerate(s.notes, 1))
        parts.append(f'<p>Notes</p><ol class="notes">{items}</ol>')
    return "\n".join([*parts, how(s), '<p class="back"><a href="#top">Back to the summary</a></p>',
                      "</section>"])


def grid(s: Section, b: Block, part: str) -> str:
    heads = "".join(column_head(name, b.units[name]) for name in b.columns)
    lines = []
    for row in b.rows:
        places = "".join(place(s, b, b.cells.get((row, name), [])) for name in b.columns)
        lines.append(f'<tr><th scope="row">{escape(row)}</th>{places}</tr>')
    return (f"<table><caption><span>{escape(s.title + part)}</span></caption>"
            f'<thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>')


def column_head(name: str, unit: str) -> str:
    shown = f" <small>{escape(unit)}</small>" if unit else ""
    return f'<th scope="col">{escape(name)}{shown}</th>'


def place(s: Section, b: Block, cells: list[Cell]) -> str:
    """A place of the grid: a box for each of its cells, mostly one."""
    return f"<td>{''.join(box(s, b, cell) for cell in cells)}</td>"


def box(s: Section, b: Block, cell: Cell) -> str:
    unit = f" <small>{escape(b.unit(cell))}</small>" if b.unit(cell) else ""
    note = (f'<sup><a href="#{escape(s.key)}-note{cell.note}">{cell.note}</a></sup>'
            if cell.note else "")
    trained = f'<span class="trained">after {escape(cell.trained)}</span>' if cell.trained else ""
    ours = "ours partial" if cell.trained else "ours"
    return (f'<div class="cell {verdict_class(cell.verdict)}">'
            f'<span class="{ours}">{escape(cell.ours)}{unit}{note}</span>{trained}'
            f'<span class="paper">paper {escape(cell.paper)}</span> {badge(cell.verdict)}</div>')


def how(s: Section) -> str:
    """How to measure it again and what it was measured on; the cells' own facts unfold."""
    items = "".join(f"<dt>{LABELS[key]}</dt><dd>"
                    + "<br>".join(value(key, text) for text in texts) + "</dd>"
                    for key, texts in s.shared.items())
    shared = f"<dl>{items}</dl>" if items else ""
    own = [(name, facts) for name, facts in s.particulars if facts]
    if not own:
        return shared
    lines = "".join(f"<li><b>{escape(name)}</b>: " + "; ".join(
        f"{escape(LABELS.get(key, key).lower())} {value(key, text)}" for key, text in facts.items())
        + "</li>" for name, facts in own)
    return f"{shared}<details><summary>Cell by cell</summary><ul>{lines}</ul></details>"


def value(key: str, text: str) -> str:
    return f"<code>{escape(text)}</code>" if key == "rerun" else escape(text)


def figure(f: Figure, folder: Path) -> str:
    picture = base64.b64encode((folder / f"{f.name}.png").read_bytes()).decode()
    text = f"{f.title}: {f.y_label} against {f.x_label}; " + ", ".join(
        dict.fromkeys(series.label for series in f.series))
    image = f'<img alt="{escape(text)}" src="data:image/png;base64,{picture}">'
    caption = f"{f.caption} " if f.caption else ""
    return (f"<figure>{scroll(f.title, image)}<figcaption>{escape(caption)}Its points: "
            f"<code>{escape(f.name)}.csv</code>.</figcaption></figure>")
