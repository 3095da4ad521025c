"""The numbers that the paper prints, for the programs that set their own beside them.

arXiv 1511.06422. Table 6: seconds of initialisation. The others are of FitNet-4 on CIFAR-10. Table
8: standard deviation of the weights by initialiser, ReLU. Table 9: the same as LSUV finds it, by
activation. A maxout layer's number is the mean of its pieces. The printed numbers are cut off after
three digits, not rounded.

Read next: bench/lsuv.py and bench/init.py, which measure them.
"""

LAYERS = ("conv11", "conv12", "conv13", "conv14", "conv15",
          "conv21", "conv22", "conv23", "conv24", "conv25", "conv26",
          "conv31", "conv32", "conv33", "conv34", "conv35", "conv36", "ip1")


def _column(text: str) -> dict[str, float]:
    return dict(zip(LAYERS, map(float, text.split()), strict=True))


# Seconds on top of a Gaussian initialisation: orthonormal matrices, all of LSUV. The authors take
# their matrices from NumPy's SVD; the machine is not named.
TABLE_6 = {"fitnet4": (1, 4), "caffenet": (188, 210), "googlenet": (24, 60)}

TABLE_8 = {
    "LSUV": _column("0.383 0.091 0.083 0.076 0.068 0.036 0.048 0.061 0.052 0.067 0.055 "
                    "0.034 0.044 0.042 0.041 0.040 0.043 0.048"),
    "Ortho": _column("0.175 0.058 0.058 0.058 0.048 0.048 0.037 0.037 0.037 0.037 0.037 "
                     "0.037 0.029 0.029 0.029 0.029 0.029 0.044"),
    "MSRA": _column("0.265 0.082 0.083 0.083 0.060 0.052 0.052 0.052 0.052 0.052 0.052 "
                    "0.052 0.041 0.041 0.041 0.041 0.041 0.124"),
    "Xavier": _column("0.191 0.059 0.059 0.059 0.048 0.037 0.037 0.037 0.037 0.037 0.037 "
                      "0.037 0.029 0.029 0.029 0.029 0.029 0.088"),
}

# Cells that no such filler can give: sqrt(2 / 432) is 0.0680, sqrt(1 / 432) is 0.0481, while
# conv21's own Ortho cell confirms its fan_in of 432.
TABLE_8_SLIPS = {("MSRA", "conv15"), ("MSRA", "conv21"), ("Xavier", "conv21")}

TABLE_9 = {
    "tanh": _column("0.386 0.118 0.102 0.101 0.081 0.065 0.064 0.060 0.058 0.061 0.063 "
                    "0.054 0.052 0.051 0.050 0.051 0.051 0.084"),
    "relu": _column("0.388 0.083 0.096 0.082 0.064 0.044 0.055 0.055 0.064 0.061 0.049 "
                    "0.032 0.049 0.048 0.047 0.047 0.040 0.044"),
    "vlrelu": _column("0.384 0.084 0.075 0.080 0.065 0.037 0.047 0.049 0.049 0.043 0.052 "
                      "0.037 0.037 0.042 0.038 0.039 0.037 0.044"),
    "maxout": _column("0.383 0.058 0.063 0.065 0.044 0.034 0.040 0.032 0.041 0.040 0.037 "
                      "0.027 0.031 0.033 0.028 0.030 0.033 0.038"),
}
