"""The moments of a layer's output, channel by channel, over all processes of a group.

In float64, in slices, and in an order that depends on no number of threads: a sample's own values
are summed by one thread each, and samples are folded in a binary tree (solve.py).

Read next: lsuv/solve.py.
"""

import numpy as np
import torch
import torch.distributed as dist

from lsuv.solve import Moments, fold, pool

SLICE = 1 << 20  # elements at a time


def measured(z: torch.Tensor, channels: int) -> Moments:
    """Of z's values a channel, (C,) NumPy float64 each; samples along axis 0."""
    z = z.detach()
    if z.device.type == "mps":
        z = z.cpu()  # which has no float64
    if z.ndim + channels < 1:
        z = z.unsqueeze(0)  # one sample, without an axis of its own
    z = z.movedim(channels, 1).flatten(2) if z.ndim > 2 else z.unsqueeze(2)  # (N, C, rest)
    N, C, rest = z.shape
    if z.numel() == 0:
        return Moments(*np.zeros((3, C)))
    count = max(1, SLICE // (C * rest))
    count = 1 << (count.bit_length() - 1)  # whole branches of the tree
    parts = [_branch(z[start : start + count]) for start in range(0, N, count)]
    found = fold(Moments(*map(torch.cat, zip(*parts, strict=True))))
    return Moments(*(part.expand(C).cpu().numpy().copy() for part in found))


def _branch(z: torch.Tensor) -> Moments:
    """(a, C, rest) -> (1, C) each."""
    z = z.double()
    a, C, rest = z.shape
    if rest == 1:
        mean, m2 = z[..., 0], torch.zeros_like(z[..., 0])
    else:
        if a * C == 1:  # a single sum would be shared out among threads
            z = z.expand(2, C, rest)
        mean = z.sum(2) / rest
        m2 = (z - mean[..., None]).square().sum(2)
        mean, m2 = mean[:a], m2[:a]
    n = torch.full((a, 1), float(rest), dtype=z.dtype, device=z.device)
    return Moments(*(part[None] for part in fold(Moments(n, mean, m2))))


def in_group() -> bool:
    """Whether there are other processes to share with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def over_ranks(own: Moments, device: torch.device) -> Moments:
    """Of all processes together, the same bits in each."""
    if not in_group():
        return own
    where = device if dist.get_backend() == "nccl" else torch.device("cpu")
    mine = torch.from_numpy(np.stack(own)).to(where)
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    return pool([Moments(*part.cpu().numpy()) for part in parts])
