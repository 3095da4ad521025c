"""The numbers that the paper prints, for the programs that set their own beside them.

arXiv 1511.06422; rows and columns are called as they are there. "n/c" is the paper's "failed to
converge". The cells of Tables 8 and 9 are cut off after three digits, not rounded; a maxout layer's
number is the mean of its pieces.

Read next: bench/paper/table8_to_10.py, the tables that train nothing.
"""

from math import sqrt

LAYERS = (
    "conv11",
    "conv12",
    "conv13",
    "conv14",
    "conv15",
    "conv21",
    "conv22",
    "conv23",
    "conv24",
    "conv25",
    "conv26",
    "conv31",
    "conv32",
    "conv33",
    "conv34",
    "conv35",
    "conv36",
    "ip1",
)
RATIO = "ip1/conv11"  # the last row of Table 10
NC = "n/c"

ACTS = {
    "maxout": "maxout",
    "ReLU": "relu",
    "VLReLU": "vlrelu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}  # the paper's name: ours
INITS = {
    "LSUV": "lsuv",
    "OrthoNorm": "ortho",
    "OrthoNorm, MSRA scaled": "ortho-msra",
    "Xavier": "xavier",
    "MSRA": "msra",
    "Ortho": "ortho",
}


def _column(text: str, names=LAYERS) -> dict[str, float]:
    return dict(zip(names, map(float, text.split()), strict=True))


def _row(text: str, names=tuple(ACTS)) -> dict[str, float | str]:
    """Cells by column; a dash is a cell that the paper leaves empty, and has no entry here."""
    return {
        name: cell if cell == NC else float(cell)
        for name, cell in zip(names, text.split(), strict=True)
        if cell != "-"
    }


# Table 2, the rows of the paper's own nets. Accuracy in % with augmentation; the columns marked
# RMSProp have a dagger there. On MNIST the error in %, without augmentation.
TABLE_2 = {
    "Fitnet4-LSUV": {"CIFAR-10": 93.94, "CIFAR-100": 70.04, "CIFAR-100 RMSProp": 72.34},
    "Fitnet4-OrthoInit": {"CIFAR-10": 93.78, "CIFAR-100": 70.44, "CIFAR-100 RMSProp": 72.30},
    "FitNet-Ortho": {"MNIST error": 0.48},
    "FitNet-LSUV": {"MNIST error": 0.48},
    "FitNet-Ortho-SVM": {"MNIST error": 0.43},
    "FitNet-LSUV-SVM": {"MNIST error": 0.38},
    "Fitnet4-Highway": {"CIFAR-10": 92.46, "CIFAR-100": 68.09},
    "Fitnet4-Hints": {"CIFAR-10": 91.61, "CIFAR-100": 64.96},
    "FitNet-Hints": {"MNIST error": 0.51},
    "ALL-CNN": {"CIFAR-10": 92.75, "CIFAR-100": 66.29},
    "DSN": {"CIFAR-10": 92.03, "CIFAR-100": 65.43},
    "DSN-Softmax": {"MNIST error": 0.51},
    "DSN-SVM": {"MNIST error": 0.39},
    "NiN": {"CIFAR-10": 91.19, "CIFAR-100": 64.32},
    "maxout": {"CIFAR-10": 90.62, "CIFAR-100": 65.46, "MNIST error": 0.45},
    "MIN": {"CIFAR-10": 93.25, "CIFAR-100": 71.14, "MNIST error": 0.24},
    "Fractional MP, 1 test": {"CIFAR-10": 95.50},
    "Fractional MP, 12 tests": {"CIFAR-10": 96.53},
    "HighWay-16": {"MNIST error": 0.57},
    "HighWay-32": {"MNIST error": 0.45},
}

# Accuracy in % on CIFAR-10, of FitNet-4 and FitResNet-4.
TABLE_3 = {
    "LSUV": _row("93.94 92.11 92.97 89.28 n/c"),
    "OrthoNorm": _row("93.78 91.74 92.40 89.48 n/c"),
    "OrthoNorm, MSRA scaled": _row("- 91.93 93.09 - n/c"),
    "Xavier": _row("91.75 90.63 92.27 89.82 n/c"),
    "MSRA": _row("n/c 90.91 92.43 89.54 n/c"),
}
TABLE_4 = {
    "LSUV": _row("94.16 92.82 93.36 89.17 n/c"),
    "OrthoNorm": _row("n/c 91.42 n/c 89.31 n/c"),
    "Xavier": _row("n/c 92.48 93.34 89.62 n/c"),
    "MSRA": _row("n/c n/c n/c 88.59 n/c"),
}

# Of FitNet-1 the text of section 5.1 says that it trains with these activations, every optimizer
# and initialisation. Sigmoid has no number there: it is n/c wherever Tables 3 and 4 have it.
SECTION_51 = {"maxout": "trains", "ReLU": "trains", "tanh": "trains", "sigmoid": NC}

# Batch-normalised FitNet-4, the norm before or after the activation. Accuracy in %.
TABLE_5 = {
    "before": _row("88.10 92.60 92.30", ("tanh", "ReLU", "maxout")),
    "after": _row("89.22 92.58 92.98", ("tanh", "ReLU", "maxout")),
}

# Seconds on top of a Gaussian initialisation: orthonormal matrices, all of LSUV. The authors take
# their matrices from NumPy's SVD; the machine is not named.
TABLE_6 = {"fitnet4": (1, 4), "caffenet": (188, 210), "googlenet": (24, 60)}
TABLE_6_NAMES = {"fitnet4": "FitNet4", "caffenet": "CaffeNet", "googlenet": "GoogLeNet"}

# Accuracy in % of FitNet-4 with tanh, by the number of images that LSUV sees.
TABLE_7 = {2: 89.27, 16: 89.30, 32: 89.30, 128: 89.28, 1024: 89.31}

# Standard deviation of FitNet-4's weights by initialiser, ReLU, CIFAR-10.
TABLE_8 = {
    "LSUV": _column(
        "0.383 0.091 0.083 0.076 0.068 0.036 0.048 0.061 0.052 0.067 0.055 "
        "0.034 0.044 0.042 0.041 0.040 0.043 0.048"
    ),
    "Ortho": _column(
        "0.175 0.058 0.058 0.058 0.048 0.048 0.037 0.037 0.037 0.037 0.037 "
        "0.037 0.029 0.029 0.029 0.029 0.029 0.044"
    ),
    "MSRA": _column(
        "0.265 0.082 0.083 0.083 0.060 0.052 0.052 0.052 0.052 0.052 0.052 "
        "0.052 0.041 0.041 0.041 0.041 0.041 0.124"
    ),
    "Xavier": _column(
        "0.191 0.059 0.059 0.059 0.048 0.037 0.037 0.037 0.037 0.037 0.037 "
        "0.037 0.029 0.029 0.029 0.029 0.029 0.088"
    ),
}

# Cells that no such filler can give: sqrt(2 / 432) is 0.0680, sqrt(1 / 432) is 0.0481, while
# conv21's own Ortho cell confirms its fan_in of 432. What the filler does give.
TABLE_8_SLIPS = {
    ("MSRA", "conv15"): sqrt(2 / 432),
    ("MSRA", "conv21"): sqrt(2 / 432),
    ("Xavier", "conv21"): sqrt(1 / 432),
}

# The same as LSUV finds it, by activation.
TABLE_9 = {
    "tanh": _column(
        "0.386 0.118 0.102 0.101 0.081 0.065 0.064 0.060 0.058 0.061 0.063 "
        "0.054 0.052 0.051 0.050 0.051 0.051 0.084"
    ),
    "ReLU": _column(
        "0.388 0.083 0.096 0.082 0.064 0.044 0.055 0.055 0.064 0.061 0.049 "
        "0.032 0.049 0.048 0.047 0.047 0.040 0.044"
    ),
    "VLReLU": _column(
        "0.384 0.084 0.075 0.080 0.065 0.037 0.047 0.049 0.049 0.043 0.052 "
        "0.037 0.037 0.042 0.038 0.039 0.037 0.044"
    ),
    "maxout": _column(
        "0.383 0.058 0.063 0.065 0.044 0.034 0.040 0.032 0.041 0.040 0.037 "
        "0.027 0.031 0.033 0.028 0.030 0.033 0.038"
    ),
}

# Variance of the gradient of each layer's output before the activation, at initialisation, ReLU,
# and the last layer's over the first's. That it is the output's gradient, not the weights', is what
# its numbers say: the weights' would be flat along a column.
TABLE_10 = {
    "LSUV": _column(
        "4.87e-10 5.07e-10 4.36e-10 3.21e-10 3.85e-10 1.25e-09 1.15e-09 1.19e-09 9.12e-10 7.45e-10 "
        "8.21e-10 3.06e-09 2.57e-09 2.40e-09 2.19e-09 1.94e-09 2.31e-09 1.24e-07 255",
        (*LAYERS, RATIO),
    ),
    "MSRA": _column(
        "9.42e-09 9.62e-09 1.07e-08 7.03e-09 6.57e-09 9.11e-09 9.73e-09 1.07e-08 1.07e-08 1.09e-08 "
        "1.15e-08 1.92e-08 2.01e-08 1.99e-08 2.25e-08 2.57e-08 2.97e-08 1.95e-07 20",
        (*LAYERS, RATIO),
    ),
    "Ortho": _column(
        "5.67e-15 1.17e-14 2.30e-14 2.95e-14 6.71e-14 1.95e-13 3.79e-13 8.18e-13 1.79e-12 4.04e-12 "
        "8.36e-12 2.65e-11 5.95e-11 1.21e-10 2.64e-10 5.89e-10 1.32e-09 6.91e-08 12198922",
        (*LAYERS, RATIO),
    ),
    "Xavier": _column(
        "2.30e-14 4.85e-14 9.94e-14 1.35e-13 3.10e-13 8.00e-13 1.56e-12 3.28e-12 6.69e-12 1.36e-11 "
        "2.99e-11 1.05e-10 2.28e-10 4.69e-10 1.01e-09 2.27e-09 5.57e-09 7.31e-08 3176821",
        (*LAYERS, RATIO),
    ),
}
