"""All that a forward pass changes besides its result, taken before and put back behind.

Modes of every module, buffers to the bit (running statistics, counters), the states of the random
generators of PyTorch, Python and NumPy, and the switch of attention's fast path, in which no hook
runs.

Read next: batches.py.
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from lsuv.torch.moments import in_group
from lsuv.torch.weights import stream


def rng_states(devices) -> list:
    """Of PyTorch on the host and on each of `devices`, with the function that puts it back."""
    states: list = [(torch.set_rng_state, (torch.get_rng_state(),))]
    for device in devices:
        of: Any = getattr(torch, device.type, None)
        if device.type == "mps":
            states.append((of.set_rng_state, (of.get_rng_state(),)))
        elif device.type != "cpu":
            states.append((of.set_rng_state, (of.get_rng_state(device), device)))
    return states


def put_back(states: list) -> None:
    for function, arguments in states:
        function(*arguments)


def reseed(seed: int) -> None:
    """Dropout and the like are then a function of the seed, and different in every process."""
    rank = torch.distributed.get_rank() if in_group() else 0
    torch.manual_seed(stream(f"pass of {rank}", seed))
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def unchanged(model: nn.Module, devices, mode: str, notes: list[str]) -> Iterator[None]:
    """Inside, no gradients are recorded and the modules are in `mode`; behind it, all is as it was.
    Buffers that are new then are named in `notes`."""
    modes = {m: m.training for m in model.modules()}
    buffers = {m: dict(m._buffers) for m in model.modules()}
    lazy = nn.parameter.UninitializedBuffer
    values = {
        id(b): b.detach().clone()
        for own in buffers.values()
        for b in own.values()
        if b is not None and not isinstance(b, lazy)
    }
    unmade = [m for m, own in buffers.items() if lazy in map(type, own.values())]
    states = rng_states(devices)
    python, numpy = random.getstate(), np.random.get_state()
    fast = torch.backends.mha.get_fastpath_enabled()
    compiled = any(
        hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules()
    )
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            # Hooks set after a compilation may be passed over.
            stack.enter_context(
                torch.compiler.set_stance("force_eager") if compiled else nullcontext()
            )
            torch.backends.mha.set_fastpath_enabled(False)
            if mode != "keep":
                for m in modes:
                    m.training = mode == "train"
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for m, training in modes.items():
            m.training = training
        new = []
        for name, m in model.named_modules():
            before = buffers.get(m, {})
            new += [f"{name}.{key}".lstrip(".") for key in m._buffers.keys() - before.keys()]
            for key, buffer in before.items():
                m._buffers[key] = buffer
                if id(buffer) in values:
                    buffer.detach().copy_(values[id(buffer)])
        for m in unmade:
            if hasattr(m, "reset_running_stats"):
                m.reset_running_stats()
        if new:
            notes.append(f"buffers that the pass has made: {', '.join(sorted(new))}")
        put_back(states)
        random.setstate(python)
        np.random.set_state(numpy)
