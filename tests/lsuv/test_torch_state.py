"""lsuv.torch leaves nothing behind but weights: also where the model raises, at any of its layers.

Read next: test_torch_options.py.
"""

import random

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[torch]'")
from torch import nn  # noqa: E402

import lsuv.torch  # noqa: E402
from helpers.torch_models import bits, numbers, rows, same, small, variances  # noqa: E402


def everything(model):
    """All that must be as it was, but for the weights."""
    return {
        "modes": [m.training for m in model.modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "buffers": {name: (id(b), b.tolist()) for name, b in model.named_buffers()},
        "grads": [(p.requires_grad, p.grad) for p in model.parameters()],
        "parameters": [(id(p), p.dtype, p.stride(), p.device) for p in model.parameters()],
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "fast": torch.backends.mha.get_fastpath_enabled(),
        "threads": torch.get_num_threads(),
    }


@pytest.mark.parametrize("mode", ["train", "eval", "keep"])
def test_nothing_but_weights_is_different(mode):
    model, x = small().to(memory_format=torch.channels_last), numbers(4, 3, 8, 8)
    model.norm.eval()
    before = everything(model)
    report = lsuv.torch.init(model, x, mode=mode)
    assert everything(model) == before
    assert {row.why for row in report.rows} == {"scaled"} and len(report.rows) == 9
    kept = bits(model)
    lsuv.torch.measure(model, x, mode=mode)
    assert everything(model) == before and same(bits(model), kept)


class Planted(Exception):
    pass


def layers(model):
    return [name for name, m in model.named_modules() if not list(m.children())]


@pytest.mark.parametrize("at", layers(small()))
@pytest.mark.parametrize("when", ["before", "after"])
def test_all_is_as_before_where_the_model_raises(at, when):
    model, x = small(), numbers(4, 3, 8, 8)
    calls = []

    def broken(*args, **kwargs):
        calls.append(at)
        if when == "before" or len(calls) > 1:  # at the layer's own second run
            raise Planted
        return type(layer).forward(layer, *args, **kwargs)

    layer = model.get_submodule(at)
    layer.forward = broken
    before, kept = everything(model), bits(model)
    raised = False
    try:
        lsuv.torch.init(model, x)
    except Planted as error:
        raised = True
        assert not at.startswith(("conv", "depth", "head")) or at in error.__notes__[0]
    if raised:
        assert same(bits(model), kept)
    assert raised == (bool(calls) if when == "before" else len(calls) > 1)
    assert everything(model) == before


def test_the_users_hooks_run_once_and_see_the_final_output():
    model, x, seen = nn.Sequential(nn.Linear(20, 30), nn.ReLU()), numbers(64, 20), []
    model[0].register_forward_hook(lambda m, args, z: seen.append(z.detach().clone()))
    model[0].register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    lsuv.torch.init(model, x)
    (z,) = seen
    assert float(z.double().var(correction=0)) == pytest.approx(1, abs=1e-5)
    assert variances(model, x)["0"] == pytest.approx(1, abs=1e-5)


def test_dropout_is_the_same_in_both_runs_of_a_layer():
    """And a function of the seed alone, so that `measure` sees what `init` has seen."""
    model, x = small(), numbers(4, 3, 8, 8)
    lsuv.torch.init(model, x)
    torch.manual_seed(5)
    report = lsuv.torch.measure(model, x)
    assert [row.variance_after for row in report.rows] == pytest.approx([1.0] * 9, abs=1e-5)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 10)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.steps = self.steps + 1
        self.register_buffer("seen", x.detach().mean(0))
        return self.layer(x)


def test_buffers_that_are_exchanged_or_new():
    model = Counting()
    steps = model.steps
    report = lsuv.torch.init(model, numbers(64, 20))
    assert model.steps is steps and int(steps) == 0
    assert report.notes == ["buffers that the pass has made: seen"]


def test_the_statistics_of_a_lazy_norm_are_new():
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d())
    lsuv.torch.init(model, numbers(4, 3, 8, 8))
    assert torch.equal(model[1].running_mean, torch.zeros(8))
    assert int(model[1].num_batches_tracked) == 0


WORKERS = {"num_workers": 1, "persistent_workers": True}


def test_a_loader_is_not_advanced():
    data = torch.utils.data.TensorDataset(numbers(40, 20), torch.arange(40))
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(20, 10))
    for own, workers in ((generator, {}), (None, {}), (generator, WORKERS)):
        loader = torch.utils.data.DataLoader(
            data, batch_size=8, shuffle=True, generator=own, **workers
        )
        torch.manual_seed(1)
        generator.manual_seed(3)
        fresh = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True, generator=own)
        first = [y.tolist() for _, y in fresh]
        torch.manual_seed(1)
        generator.manual_seed(3)
        report = lsuv.torch.init(model, loader)
        assert report.settings["images"] == 8
        assert [y.tolist() for _, y in loader] == first


def test_training_goes_on():
    model, x = small(), numbers(4, 3, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    lsuv.torch.init(model, x)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(x), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_a_layer_that_is_normalised_next_is_named():
    report = lsuv.torch.init(small(), numbers(4, 3, 8, 8))
    assert [n for n in report.notes if n.startswith("normalisation right after conv divides")]
    assert rows(report)["conv"].why == "scaled"
