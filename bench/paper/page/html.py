"""report.md as one HTML file that needs nothing beside it: rendered by markdown-it-py, its pictures
inside, and one style sheet. The page's own policy forbids it to load or run anything.

Read next: bench/README.md.
"""

import base64
import re
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from bench.paper.page.grid import SIGNS

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = Path(__file__).with_name("style.css")
BADGE = re.compile("|".join(rf"{sign} ({verdict})\b" for verdict, sign in SIGNS.items()))
HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
"""


def page(title: str, markdown: str, folder: Path) -> str:
    """The whole file; pictures are read from `folder`."""
    renderer = MarkdownIt("commonmark", {"html": True, "xhtmlOut": False}).enable("table")
    for name, rule in (
        ("text", text),
        ("table_open", table_open),
        ("table_close", table_close),
        ("image", image),
    ):
        renderer.add_render_rule(name, rule)
    tokens = scoped(renderer.parse(markdown))
    head = HEAD.format(policy=escape(POLICY), title=escape(title), style=STYLE.read_text())
    body = renderer.renderer.render(tokens, renderer.options, {"folder": folder})
    return f"{head}{body}</body>\n</html>\n"


def scoped(tokens: list[Token]) -> list[Token]:
    """The tokens, with a scope in every table's heads, which each row's first cell is one of, and
    the heading above a table as its label; the first table is the summary. A link to another file
    becomes the file's name."""
    heading, tables = "", 0
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = "".join(child.content for child in tokens[number + 1].children or ())
        elif token.type == "table_open":
            tables += 1
            token.meta["label"] = heading
            token.attrs |= {"class": "summary"} if tables == 1 else {}
        elif token.type == "th_open":
            token.attrSet("scope", "col")
        elif token.type == "tr_open" and tokens[number + 1].type == "td_open":
            first, _, last = tokens[number + 1 : number + 4]
            first.tag = last.tag = "th"
            first.attrSet("scope", "row")
        elif token.type == "inline":
            inside = token.children or []
            for place, child in enumerate(inside):
                if child.type == "link_open" and not child.attrs["href"].startswith("#"):
                    child.tag, child.attrs = "code", {}
                    next(c for c in inside[place:] if c.type == "link_close").tag = "code"
    return tokens


# What markdown-it-py calls with (its renderer, tokens, place, options, what `page` handed over).


def text(renderer, tokens, place, options, env) -> str:
    """A verdict with its sign has a class, which gives it its colour."""

    def badge(match: re.Match) -> str:
        kind = match[match.lastindex].replace(" ", "-")
        return f'<span class="verdict {kind}">{match[0]}</span>'

    return BADGE.sub(badge, escape(tokens[place].content))


def table_open(renderer, tokens, place, options, env) -> str:
    """In a box of its own for what may be wider than the screen, also reached by keyboard."""
    return box("div", tokens[place].meta["label"]) + renderer.renderToken(
        tokens, place, options, env
    )


def table_close(renderer, tokens, place, options, env) -> str:
    return renderer.renderToken(tokens, place, options, env) + "</div>\n"


def image(renderer, tokens, place, options, env) -> str:
    """The picture itself in the place of its address."""
    token = tokens[place]
    data = base64.b64encode((env["folder"] / token.attrs["src"]).read_bytes()).decode()
    token.attrs["src"] = f"data:image/png;base64,{data}"
    label = renderer.renderInlineAsText(token.children, options, env)
    return f"{box('span', label)}{renderer.image(tokens, place, options, env)}</span>"


def box(tag: str, label: str) -> str:
    return f'<{tag} class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
