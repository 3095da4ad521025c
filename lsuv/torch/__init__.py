"""LSUV for a PyTorch model of one's own, in one forward pass:

    import lsuv.torch
    report = lsuv.torch.init(model, batch)     # the model is changed in place
    print(report.table())

`measure` gives the same report and changes nothing; `adapter` tells where a layer of one's own has
its weight. lsuv/README.md says what is scaled and what is only reported.

Read next: initialise.py.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"lsuv.torch needs PyTorch ({error}): pip install 'lsuv-engine[torch]'"
    ) from None

from lsuv.report import Report, Row
from lsuv.torch.adapters import Place, adapter
from lsuv.torch.initialise import init, measure
from lsuv.torch.passes import TorchLsuvError

__all__ = ["Place", "Report", "Row", "TorchLsuvError", "adapter", "init", "measure"]
