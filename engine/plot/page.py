"""The same as a page: one file of HTML with its pictures in it, from a telephone's width on.

Read next: engine/plot/figures.py.
"""

from base64 import b64encode
from html import escape
from io import BytesIO

from PIL import Image

from engine.plot.figures import CURVES, Shown, Worst, colour, of_run, svg

LARGEST = 128  # pixels of a test image's side
STYLE = """
body { font: 16px/1.4 system-ui, sans-serif; margin: 1rem auto; max-width: 80rem; padding: 0 .8rem;
  color: #222; background: #fff }
h1 { font-size: 1.4rem } h2 { font-size: 1.15rem; margin-top: 2rem; overflow-wrap: anywhere }
h3, figcaption { font-size: .95rem; font-weight: 600; margin: .5rem 0 }
ul { list-style: none; padding: 0 } li, p { overflow-wrap: anywhere }
i { display: inline-block; width: .8em; height: .8em; margin-right: .4em }
figure { margin: 0 } img { display: block; width: 100% }
.figures { display: grid; gap: 1rem 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)) }
.worst { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fill, minmax(5.6rem, 1fr)) }
.worst img { image-rendering: pixelated }
.worst figcaption { font-size: .75rem; font-weight: 400; overflow-wrap: anywhere }
"""


def html(runs: list[Shown]) -> str:
    """The page: the curves of all runs, then each run by itself."""
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(', '.join(run.name for run in runs))}</title><style>{STYLE}</style>",
        f"<h1>{len(runs)} {'run' if len(runs) == 1 else 'runs'}</h1><ul>",
        *(f"<li>{name(k, run)}: {escape(run.title)}; {run.state}" for k, run in enumerate(runs)),
        '</ul><div class="figures">',
        *(picture(title, svg(draw, runs)) for title, draw in CURVES.items()),
        "</div>",
    ]
    for number, run in enumerate(runs):
        parts += [f"<h2>{name(number, run)}</h2>", *(f"<p>{escape(note)}" for note in run.notes)]
        drawings = (picture(t, svg(draw, run, high)) for t, (draw, high) in of_run(run).items())
        parts += ['<div class="figures">', *drawings, "</div>"]
        if run.worst:
            parts += ["<h3>The worst test images: class, answer and its probability</h3>"]
            parts += ['<div class="worst">', *map(worst, run.worst), "</div>"]
    return "\n".join(parts) + "\n"


def name(number: int, run: Shown) -> str:
    return f'<i style="background: {colour(number)}"></i>{escape(run.name)}'


def image(kind: str, content: bytes, what: str) -> str:
    return (
        f'<img alt="{escape(what)}" src="data:image/{kind};base64,{b64encode(content).decode()}">'
    )


def picture(title: str, content: bytes) -> str:
    shown = image("svg+xml", content, title)
    return f"<figure><figcaption>{escape(title)}</figcaption>{shown}</figure>"


def worst(one: Worst) -> str:
    file, small = BytesIO(), Image.fromarray(one.image.squeeze())
    small.thumbnail((LARGEST, LARGEST))
    small.save(file, "PNG")
    shown = image("png", file.getvalue(), one.label)
    said = f"{escape(one.label)}<br>{escape(one.answer)} {one.chance:.2f}"
    return f"<figure>{shown}<figcaption>{said}</figcaption></figure>"
