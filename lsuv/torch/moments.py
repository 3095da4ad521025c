"""The moments of a layer's output, channel by channel, over all processes of a group.

In float64, in slices, and in an order that depends on no number of threads: a sample's own values
are summed by one thread each, and samples are folded in a binary tree (lsuv/solve.py), by NumPy
where they are on the host, since its small operations cost less.

Read next: lsuv/solve.py.
"""

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
    mean, m2 = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Moments(np.full(C, float(N * rest)), mean, m2)


def _folded(z: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(N, C, rest) -> the mean and m2 of each channel."""
    N, C, rest = z.shape
    count = max(1, SLICE // (C * rest))
    count = 1 << (count.bit_length() - 1)  # whole branches of the tree
    branches = []
    for start in range(0, N, count):
        mean, m2 = _samples(z[start : start + count])
        if z.device.type == "cpu":
            mean, m2 = mean.numpy(), m2.numpy()
        branches.append(fold(float(rest), mean, m2))
    _, mean, m2 = pool(branches)
    return (mean, m2) if z.device.type == "cpu" else (mean.cpu().numpy(), m2.cpu().numpy())


def _samples(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, C, rest) -> mean and m2 (N, C) of each sample's values."""
    z = z.to(torch.float64, copy=True)
    N, C, rest = z.shape
    if rest == 1:
        return z[..., 0], torch.zeros_like(z[..., 0])
    if N * C == 1:  # a single sum would be shared out among threads
        z = z.repeat(2, 1, 1)
    mean = z.sum(2).div_(rest)
    m2 = z.sub_(mean[..., None]).square_().sum(2)
    return mean[:N], m2[:N]


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
