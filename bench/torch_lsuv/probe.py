"""What is looked at, by hooks of the bench's own: the layers' variances, and what must not change.

`variances` measures in float64, in a forward pass of its own, and knows nothing of `lsuv.torch`.
`State` holds all that an initialiser has no business to change.

Read next: bench/torch_lsuv/trial.py.
"""

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bench.torch_lsuv.nets import called

HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
LAYERS = nn.Linear, nn.modules.conv._ConvNd


def drawn() -> tuple:
    """The states of the generators: what a pass will draw, for dropout."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def draw_again(states: tuple) -> None:
    ours, python, numpy = states
    torch.set_rng_state(ours)
    random.setstate(python)
    np.random.set_state(numpy)


def is_layer(module: nn.Module) -> bool:
    """A convolution or a linear layer, the one of transformers that is (inputs, outputs) too."""
    return isinstance(module, LAYERS) or type(module).__name__ == "Conv1D"


def variance(x: torch.Tensor) -> float:
    return float(x.detach().double().var(correction=0))


def variances(model: nn.Module, batch, train: bool) -> dict[str, float]:
    """{layer: variance of its output at its first call}, of those that ran. Of PyTorch's attention
    in_proj[0], [1] and [2], which are q, k and v, and out_proj are layers, which run unseen.

    The model is left as it was, its running statistics too."""
    found: dict[str, float] = {}
    handles, state = [], State(model)

    def output_of(name: str) -> Callable:
        def hook(module, arguments, output):
            found.setdefault(name, variance(output))

        return hook

    def attention(name: str) -> Callable:
        def hook(module, arguments, named, output):
            inputs = [*arguments, *(named[n] for n in ("query", "key", "value") if n in named)][:3]
            weights = module.in_proj_weight.chunk(3)
            biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
            for i, x, W, b in zip(range(3), inputs, weights, biases, strict=True):
                found.setdefault(f"{name}.in_proj[{i}]", variance(F.linear(x, W, b)))
            found.setdefault(f"{name}.out_proj", variance(output[0]))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            handles.append(module.register_forward_hook(attention(name), with_kwargs=True))
        elif is_layer(module):
            handles.append(module.register_forward_hook(output_of(name)))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            called(model.train(train), batch)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()
        state.put_back(model)
    return found


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


class State:
    """What `changed` compares with, taken when it is made."""

    def __init__(self, model: nn.Module):
        self.was = self.of(model)
        self.buffers = {name: b.clone() for name, b in model.named_buffers()}
        self.modes = {name: m.training for name, m in model.named_modules()}

    def of(self, model: nn.Module) -> dict[str, object]:
        modules = dict(model.named_modules())
        parameters = dict(model.named_parameters())
        return {
            "hooks": {
                n: [list(getattr(m, h)) for h in HOOKS if getattr(m, h)] for n, m in modules.items()
            },
            "attributes": {n: sorted(vars(m)) for n, m in modules.items()},
            "modes": {n: m.training for n, m in modules.items()},
            "buffers": {n: bits(b) for n, b in model.named_buffers()},
            "parameters": {
                n: (id(p), p.shape, p.stride(), p.dtype, p.requires_grad, p.grad is None)
                for n, p in parameters.items()
            },
            "random numbers": (
                bits(torch.get_rng_state()),
                random.getstate(),
                str(np.random.get_state()),
            ),
            "settings": (
                torch.get_default_dtype(),
                torch.is_grad_enabled(),
                torch.is_inference_mode_enabled(),
                torch.get_num_threads(),
                torch.are_deterministic_algorithms_enabled(),
                torch.backends.mha.get_fastpath_enabled(),
                torch.is_autocast_enabled("cpu"),
            ),
        }

    def changed(self, model: nn.Module) -> list[str]:
        """What is not as it was."""
        now = self.of(model)
        return [what for what, value in self.was.items() if now[what] != value]

    def put_back(self, model: nn.Module) -> None:
        """Modes and buffers."""
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(self.buffers[name])
        for name, module in model.named_modules():
            module.training = self.modes[name]
