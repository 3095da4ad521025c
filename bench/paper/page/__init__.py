"""The report page: every table and figure of the paper with our numbers beside its own.

    write(rows, figures, folder, facts)      report.html, which needs no other file, and report.md

Read next: bench/paper/page/figure.py.
"""

import re
from pathlib import Path

from bench.paper.page import html, markdown
from bench.paper.page.figure import Figure
from bench.paper.page.grid import Section, section
from engine.errors import InputError

TITLE = "All you need is a good init, measured again"
LEAD = (
    "Each table and figure of Mishkin and Matas (arXiv 1511.06422) as lsuv-engine measures it, "
    "beside what the paper prints. What was not run to the end of its recipe says so and is "
    "not judged. Each table names the command that measures it; --only 'ROW:COLUMN' picks a "
    "cell, and what is kept is measured again only in another --folder."
)
ACCURACY = (
    "only after the whole of the paper's recipe, within 0.5 points of its single run (1 on "
    "CIFAR-100, 0.1 on MNIST) or two standard errors of our mean; a run cut short or of "
    "another recipe is shown and not judged. Of n/c, failed to converge, only whether a "
    "run trains is compared: n/c is a loss that is not finite, or a final test accuracy of "
    "at most twice guessing."
)
DEVIATION = (
    "a layer's value may differ by a factor of 1.25, with tanh 1.10 and in conv11 1.03; "
    "the authors' own two runs of one column differ by up to 1.23."
)
BY_EYE = "a figure is compared by eye; a number read off it stands in a cell of its own."

# Table or figure -> its title, what it shows, how it is judged. The page keeps this order.
TABLES = {
    "table2": (
        "Table 2: accuracy and error of the whole nets",
        "Test accuracy of FitNet-4 on CIFAR-10 and CIFAR-100 with mirrored and shifted "
        "images, and test error of FitNet-MNIST: the rows of the paper's own nets.",
        ACCURACY,
    ),
    "table3": (
        "Table 3: FitNet-4, initialisation by activation",
        "Test accuracy on CIFAR-10 of FitNet-4 for each initialisation and activation; with "
        "maxout it has about twice the parameters.",
        ACCURACY,
    ),
    "table4": (
        "Table 4: FitResNet-4, initialisation by activation",
        "The same with residual connections around every second convolution.",
        ACCURACY,
    ),
    "table5": (
        "Table 5: batch normalisation before and after the activation",
        "Test accuracy on CIFAR-10 of FitNet-4 with batch normalisation, initialised by Xavier.",
        ACCURACY,
    ),
    "table6": (
        "Table 6: seconds of initialisation",
        "Time that orthonormal matrices take, and LSUV as a whole, on top of a Gaussian "
        "initialisation.",
        "ok where ours are not more than the paper's, whose machine is another one.",
    ),
    "table7": (
        "Table 7: LSUV's batch size",
        "Final test accuracy of FitNet-4 with tanh on CIFAR-10 by the number of images that "
        "LSUV measured the variance on.",
        ACCURACY,
    ),
    "table8": (
        "Table 8: deviation of the weights by initialisation",
        "Standard deviation of each layer's weights in FitNet-4 with ReLU, before any "
        "training; LSUV's are found on CIFAR-10.",
        "a layer's value may differ by a factor of 1.05 where the initialisation needs no "
        "data, LSUV's as in Table 9. A typo is what no such initialisation can give.",
    ),
    "table9": (
        "Table 9: deviation of the weights that LSUV finds, by activation",
        "Standard deviation of each layer's weights in FitNet-4 after LSUV on CIFAR-10; of "
        "a maxout layer, the mean over its pieces.",
        DEVIATION,
    ),
    "table10": (
        "Table 10: variance of the first gradients",
        "Variance of the loss's gradient with respect to each layer's output before the "
        "activation, in FitNet-4 with ReLU before the first update; the last layer's over "
        "the first's; and the loss then, which the paper does not print.",
        "a variance may differ by a factor of 1.6, Xavier's and a ratio of two by 2; the "
        "loss as its note says.",
    ),
    "figure1": (
        "Figure 1: size of the updates by scale of the weights",
        "How large an update is beside the weights that it changes, for orthonormal "
        "weights multiplied by several scales. The paper finds that 0.1 % to 1 % leads to "
        "convergence, and that more diverges.",
        BY_EYE,
    ),
    "figure2": (
        "Figure 2: learning curves of FitNet-4",
        "Test accuracy on CIFAR-10 by epoch, by activation and initialisation; Highway-19 as its "
        "own file starts it.",
        BY_EYE,
    ),
    "figure3": (
        "Figure 3: LSUV beside batch normalisation, by the clock",
        "Test accuracy against time: batch normalisation makes each iteration longer.",
        "the overhead may differ by a factor of 1.5; the curves are compared by eye.",
    ),
    "figure4": (
        "Figure 4: CaffeNet on ImageNet",
        "Training loss and test accuracy with CaffeNet's own initialisation and with LSUV.",
        BY_EYE,
    ),
    "figure5": (
        "Figure 5: GoogLeNet on ImageNet",
        "Training loss and test accuracy with GoogLeNet's own initialisation and with LSUV.",
        BY_EYE,
    ),
    "section51": (
        "Section 5.1: FitNet-1 trains with every initialisation",
        "Test accuracy on CIFAR-10 of the shallow FitNet-1 with each activation, "
        "optimizer and initialisation. The paper had no difficulty with ReLU, maxout and "
        "tanh and says nothing of VLReLU; of sigmoid all its rows in Table 3 are n/c.",
        "a run that does better than twice guessing trains, however short it is; one "
        "that does not shows something only at the end of a whole recipe.",
    ),
    "claims": (
        "What the text says besides",
        "Statements of the paper that stand in no table: the pre-initialisation, what is "
        "normalised, the tolerance, the number of iterations.",
        "a small decrease is one of less than 2 points; no difference is at most 0.5 "
        "points, and no improvement none beyond two standard errors; each after the whole "
        "of the paper's recipe. Iterations are ok up to 5.",
    ),
}


def write(
    rows: list[dict], figures: list[Figure], folder: str | Path, facts: dict
) -> tuple[Path, Path]:
    """Write report.html and report.md into `folder`, where the figures are drawn -> their paths.

    rows: the cells of all tables, as bench/paper/page/grid.py reads them. facts: lines for the
    top of the page, name -> text, a list of command lines, or {package: version}; the fact
    "bounds", {table: text}, says how a table is judged in place of TABLES.
    """
    folder = Path(folder)
    for figure in figures:
        if not (folder / f"{figure.name}.png").is_file():
            raise InputError(f"{figure.name}.png is not in {folder}; draw it first")
    shown = {name: value for name, value in facts.items() if name != "bounds"}
    text = markdown.page(TITLE, LEAD, sections(rows, figures, facts.get("bounds", {})), shown)
    web, plain = folder / "report.html", folder / "report.md"
    plain.write_text(text, encoding="utf-8")
    web.write_text(html.page(TITLE, text, folder), encoding="utf-8")
    return web, plain


def sections(rows: list[dict], figures: list[Figure], bounds: dict[str, str]) -> list[Section]:
    """A section for each table or figure that has a row or a picture, in TABLES' order; what is
    not among them comes last under its own name."""
    names = dict.fromkeys([*TABLES, *(row.get("table", "") for row in rows), *map(home, figures)])
    made = []
    for name in names:
        its_rows = [row for row in rows if row.get("table", "") == name]
        pictures = [figure for figure in figures if home(figure) == name]
        if its_rows or pictures:
            title, what, bound = TABLES.get(name, (name, "", ""))
            made.append(
                section(anchor(name), title, what, bounds.get(name, bound), its_rows, pictures)
            )
    return made


def home(figure: Figure) -> str:
    """The table that a picture belongs to: "figure2", "figure2-relu" and "figure2_loss" to
    "figure2"; else the one of its own name."""
    return next(
        (name for name in TABLES if re.fullmatch(rf"{name}([_-].*)?", figure.name)), figure.name
    )


def anchor(name: str) -> str:
    """What a link can point to."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "table"
