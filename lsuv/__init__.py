"""Layer-sequential unit-variance initialisation (Mishkin and Matas 2015, arXiv 1511.06422).

    from lsuv import fill, lsuv
    fill(net, "lsuv", seed=0)                  # orthonormal weights, zero biases
    report = lsuv(net, next_batch)             # unit output variance, layer by layer
    print(report.table())

`initialise` does what its name says for any of the initialisers, and returns the same report.

Read next: lsuv/algorithm.py.
"""

from lsuv.algorithm import LsuvError, initialise, lsuv, measure
from lsuv.fillers import INITS, fill
from lsuv.report import Report, Row

__all__ = ["INITS", "LsuvError", "Report", "Row", "fill", "initialise", "lsuv", "measure"]
