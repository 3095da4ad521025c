"""Tables 2, 3, 4, 5 and 7, and the claim of section 5.1, as grids of trained cells.

Each is a list of cells with the paper's number; what is trained, and for how long, is the recipe's
affair (`--recipe`, `--epochs`). CIFAR accuracies are judged within 0.5 points of the paper's single
run (CIFAR-100: 1), MNIST errors within 0.1, or within two standard errors of our own mean where
that is more; and only where the whole of the paper's recipe was run.

Read next: bench/paper/training.py, which trains a cell.
"""

from dataclasses import replace

from bench.paper.printed import (
    ACTS,
    INITS,
    NC,
    SECTION_51,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_7,
)
from bench.paper.rows import AGREES, CUT, DIFFERS, NO_VALUE, OTHER, Row
from bench.paper.study import Cell, Study
from bench.paper.training import Run, cell
from models import NETS

MNIST_SEEDS = 3
NETS_2 = {"Fitnet4-LSUV": "lsuv", "Fitnet4-OrthoInit": "ortho"}
# The systems of others: {row: {column: net}}, each with its own filler. The net of maxout for
# CIFAR-100 that its paper has is of 61.43 %; the paper's table says 65.46.
SYSTEMS_2 = {
    "Fitnet4-Highway": {"CIFAR": "highway-19"},
    "Fitnet4-Hints": {"CIFAR": "fitnet4-romero"},
    "FitNet-Hints": {"MNIST": "fitnet-mnist-romero"},
    "ALL-CNN": {"CIFAR": "all-cnn-c"},
    "NiN": {"CIFAR": "nin"},
    "DSN": {"CIFAR": "dsn"},
    "DSN-Softmax": {"MNIST": "dsn-mnist"},
    "DSN-SVM": {"MNIST": "dsn-mnist"},
    "maxout": {"CIFAR": "maxout-cifar", "MNIST": "maxout-mnist"},
    "MIN": {"CIFAR": "min", "MNIST": "min-mnist"},
    "Fractional MP, 1 test": {"CIFAR": "fmp-160"},
    "Fractional MP, 12 tests": {"CIFAR": "fmp-160"},
    "HighWay-16": {"MNIST": "highway-16"},
    "HighWay-32": {"MNIST": "highway-32"},
}
# Of those that learn from another net: that, and the layer of theirs that gives what one of its.
TEACHERS_2 = {
    "fitnet4-romero": ("maxout-cifar", "conv26:conv2"),
    "fitnet-mnist-romero": ("maxout-mnist", "conv4:conv2"),
}
HINGES_2 = {("DSN", "CIFAR-10"), ("DSN-SVM", "MNIST error")}  # the others' loss is softmax
DATA_2 = {
    "CIFAR-10": ("cifar10", None),
    "CIFAR-100": ("cifar100", None),
    "CIFAR-100 RMSProp": ("cifar100", "rmsprop"),
}
NOTES = {
    ("table3", "MSRA", "maxout"): "the paper trained it once, with a very small rate and "
    "clipping; its paper recipe here has those"
}
OPTIMIZERS = {"SGD": None, "RMSProp": "rmsprop"}


def table2(study: Study) -> list[Cell]:
    """Accuracy on CIFAR-10 and CIFAR-100, error on MNIST: the paper's own nets, then those of
    others that are built here."""
    cells = []
    for row, columns in TABLE_2.items():
        for column, paper in columns.items():
            if row in SYSTEMS_2:
                of_mnist = column == "MNIST error"
                net = SYSTEMS_2[row]["MNIST" if of_mnist else "CIFAR"]
                data = "mnist" if of_mnist else DATA_2[column][0]
                averaged = row.endswith("12 tests")  # of one run, which has both numbers
                loss = "squared-hinge" if (row, column) in HINGES_2 else "softmax"
                run = Run(net, NETS[net].act, "original", data, loss=loss, averaged=averaged)
                if net in TEACHERS_2:
                    teacher, hints = TEACHERS_2[net]
                    run = replace(run, teacher=replace(run, net=teacher), hints=hints)
                cells.append(cell(study, "table2", row, column, paper, run, error=of_mnist))
            elif column == "MNIST error":
                init = "lsuv" if "LSUV" in row else "ortho"
                run = Run(
                    "fitnet_mnist",
                    "maxout",
                    init,
                    "mnist",
                    loss="svm" if row.endswith("SVM") else "softmax",
                )
                cells.insert(
                    0, cell(study, "table2", row, column, paper, run, MNIST_SEEDS, error=True)
                )
            else:
                data, optimizer = DATA_2[column]
                run = Run("fitnet4", "maxout", NETS_2[row], data, optimizer=optimizer)
                cells.append(cell(study, "table2", row, column, paper, run))
    return cells


def grid(study: Study, table: str, net: str, paper: dict[str, dict]) -> list[Cell]:
    return [
        cell(
            study,
            table,
            row,
            column,
            printed,
            Run(net, ACTS[column], INITS[row]),
            note=NOTES.get((table, row, column), ""),
        )
        for row, columns in paper.items()
        for column, printed in columns.items()
    ]


def table3(study: Study) -> list[Cell]:
    """FitNet-4, initialiser by activation."""
    return grid(study, "table3", "fitnet4", TABLE_3)


def table4(study: Study) -> list[Cell]:
    """FitResNet-4, initialiser by activation."""
    return grid(study, "table4", "fitresnet4", TABLE_4)


def table5(study: Study) -> list[Cell]:
    """Batch-normalised FitNet-4, Xavier, the norm before or after the activation."""
    return [
        cell(
            study, "table5", row, column, printed, Run(f"fitnet4-bn-{row}", ACTS[column], "xavier")
        )
        for row, columns in TABLE_5.items()
        for column, printed in columns.items()
    ]


def table7(study: Study) -> list[Cell]:
    """FitNet-4 with tanh, by the images of LSUV's batch; the training batch is 128."""
    return [
        cell(
            study,
            "table7",
            str(images),
            "accuracy",
            printed,
            Run("fitnet4", "tanh", "lsuv", more=() if images == 128 else (("lsuv_batch", images),)),
        )
        for images, printed in TABLE_7.items()
    ]


def section51(study: Study) -> list[Cell]:
    """FitNet-1 trains with each optimizer and initialisation, by activation."""

    def trains(found: Cell) -> Cell:
        def measure(progress):
            rows = found.measure(progress)
            for row in rows:
                row.verdict = claimed(row)
            return rows

        return replace(found, measure=measure)

    return [
        trains(
            cell(
                study,
                "section51",
                f"{init}, {optimizer}",
                act,
                SECTION_51.get(act),
                Run("fitnet1", ACTS[act], INITS[init], optimizer=OPTIMIZERS[optimizer]),
            )
        )
        for optimizer in OPTIMIZERS
        for init in ("LSUV", "OrthoNorm", "Xavier", "MSRA")
        for act in ACTS
    ]


def claimed(row: Row) -> str:
    """The verdict on "trains" or n/c. A run that trains shows it, however short it is and by
    whatever recipe; one that does not shows nothing before its end, and by another recipe than the
    paper's nothing against the paper."""
    if row.ours is None:
        return row.verdict
    if row.paper is None:
        return NO_VALUE
    if (row.ours == NC) == (row.paper == NC):
        return CUT if row.ours == NC and row.verdict == CUT else AGREES
    return row.verdict if row.ours == NC and row.verdict in (CUT, OTHER) else DIFFERS
