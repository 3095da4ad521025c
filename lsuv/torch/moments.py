"""The moments of a layer's output, channel by channel, over all processes of a group.

In float64, in slices, and in an order that depends on no number of threads: a sample's own values
are summed by one thread each, and samples are folded in a binary tree (lsuv/solve.py), by NumPy
where they are on the host, since its small operations cost less.

Read next: lsuv/solve.py.
"""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from lsuv.solve import Moments, fold, pool

SLICE = 1 << 18  # elements at a time: their float64 stays in the cache


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
    width = max(1, SLICE // rest)
    parts = [_folded(z[:, start : start + width]) for start in range(0, C, width)]
    return Moments(*map(np.concatenate, zip(*parts, strict=True)))


def _folded(z: torch.Tensor) -> Moments:
    """(N, C, rest) -> (C,) each, on the host."""
    N, C, rest = z.shape
    count = max(1, SLICE // (C * rest))
    count = 1 << (count.bit_length() - 1)  # whole branches of the tree
    parts = [_branch(z[start : start + count]) for start in range(0, N, count)]
    library: Any = np if z.device.type == "cpu" else torch
    n, mean, m2 = fold(Moments(*map(library.stack, zip(*parts, strict=True))))
    if library is torch:
        n, mean, m2 = (part.cpu().numpy() for part in (n, mean, m2))
    return Moments(np.repeat(n, C), mean, m2)


def _branch(z: torch.Tensor) -> Moments:
    """(a, C, rest) -> n (1,), mean and m2 (C,)."""
    z = z.to(torch.float64, copy=True)
    a, C, rest = z.shape
    if rest == 1:
        mean, m2 = z[..., 0], torch.zeros_like(z[..., 0])
    else:
        if a * C == 1:  # a single sum would be shared out among threads
            z = z.repeat(2, 1, 1)
        mean = z.sum(2).div_(rest)
        m2 = z.sub_(mean[..., None]).square_().sum(2)[:a]
        mean = mean[:a]
    n = torch.full((a, 1), float(rest), dtype=z.dtype, device=z.device)
    parts = (n, mean, m2)
    return fold(Moments(*(t.numpy() for t in parts) if z.device.type == "cpu" else parts))


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
