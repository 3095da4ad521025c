"""What the tests of lsuv.torch share: models, and variances measured by hooks of the test's own.

PyTorch must be installed. Read next: tests/lsuv/test_torch.py.
"""

import torch
from torch import nn

LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear)


def numbers(*shape, seed=1, scale=3.0, shift=0.5):
    """A normal batch, neither of unit variance nor around zero."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * scale + shift


def variances(model, *batch, **named):
    """{layer: variance of the output of its first call, in float64} of a fresh pass."""
    seen: dict[str, float] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, LAYERS):

            def hook(module, args, z, name=name):
                seen.setdefault(name, float(z.double().var(correction=0)))

            handles.append(module.register_forward_hook(hook))
    with torch.no_grad():
        model(*batch, **named)
    for handle in handles:
        handle.remove()
    return seen


def rows(report):
    """{layer: its first row}"""
    return {row.layer: row for row in reversed(report.rows)}


def bits(model):
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Small(nn.Module):
    """Convolution, batch norm, dropout, a transformer's block and a head that is defined first."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 10)
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)

    def forward(self, x):
        x = torch.relu_(self.norm(self.conv(x)))
        x = torch.relu_(self.depthwise(x))
        return self.head(self.block(x.flatten(2).transpose(1, 2)).mean(1))


def small(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Small()
