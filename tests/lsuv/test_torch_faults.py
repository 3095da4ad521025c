"""What goes wrong where LSUV is done layer after layer by names, copies and global state. Each test
is named after the fault that it keeps out.

Read next: test_torch_state.py.
"""

import random
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[torch]'")
from torch import nn  # noqa: E402

import lsuv.torch  # noqa: E402
from helpers.torch_models import bits, numbers, rows, same, small, variances  # noqa: E402


def test_an_in_place_activation_changes_what_is_measured():
    model = nn.Sequential(
        nn.Linear(20, 40), nn.ReLU(inplace=True), nn.Linear(40, 30), nn.ReLU(inplace=True)
    )
    x = numbers(64, 20)
    lsuv.torch.init(model, x)
    assert variances(nn.Sequential(*model[:1]), x)["0"] == pytest.approx(1, abs=1e-5)
    before = model[2](model[1](model[0](x))).detach()
    assert float(before.var(correction=0)) == pytest.approx(1, abs=1e-5)


def test_a_layer_without_variance_scales_another():
    model = nn.Sequential(nn.Linear(20, 40), nn.Threshold(1e6, 0.0), nn.Linear(40, 30))
    kept = bits(model[2])
    report = lsuv.torch.init(model, numbers(64, 20))
    assert rows(report)["2"].why == "no variance" and same(bits(model[2]), kept)
    assert variances(model, numbers(64, 20))["0"] == pytest.approx(1, abs=1e-5)
    with pytest.raises(lsuv.torch.TorchLsuvError, match="2: no variance"):
        lsuv.torch.init(model, numbers(64, 20), on_zero="raise")


def test_layers_are_taken_in_the_order_of_their_definition():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(40, 10), nn.Linear(20, 40)

        def forward(self, x):
            return self.head(torch.relu(self.body(x)))

    model, x = Backwards(), numbers(64, 20)
    lsuv.torch.init(model, x)
    assert variances(model, x) == pytest.approx({"body": 1, "head": 1}, abs=1e-5)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 20)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


def test_the_last_of_several_calls_is_measured():
    model, x = Twice(), numbers(64, 20)
    report = lsuv.torch.init(model, x)
    assert variances(model, x)["layer"] == pytest.approx(1, abs=1e-5)
    assert rows(report)["layer"].calls == 2
    assert "layer called 2 times: variance 1, 0." in report.notes[0]


@pytest.mark.parametrize("way", ["parametrizations", "hooks"])
@pytest.mark.parametrize("fill", ["orthonormal", None])
def test_a_weight_computed_from_others_is_scaled_in_vain(way, fill):
    with warnings.catch_warnings(action="ignore"):
        norm = {"hooks": nn.utils.weight_norm}.get(way, nn.utils.parametrizations.weight_norm)
        model = nn.Sequential(norm(nn.Linear(20, 30)), nn.ReLU(), nn.Linear(30, 10))
    x = numbers(64, 20)
    name = {"hooks": "0.weight_v"}.get(way, "0.parametrizations.weight.original1")
    direction = bits(model)[name]
    report = lsuv.torch.init(model, x, fill=fill)
    assert rows(report)["0"].why == "scaled"
    assert variances(model, x) == pytest.approx({"0": 1, "2": 1}, abs=1e-5)
    assert torch.equal(bits(model)[name], direction) == (fill is None)


@pytest.mark.parametrize("way", ["parametrizations", "hooks"])
def test_a_weight_of_which_the_scale_is_taken_out_again_is_scaled_without_end(way):
    with warnings.catch_warnings(action="ignore"):
        norm = {"hooks": nn.utils.spectral_norm}.get(way, nn.utils.parametrizations.spectral_norm)
        model = nn.Sequential(norm(nn.Linear(20, 30)), nn.ReLU(), nn.Linear(30, 10))
    kept = bits(model[0])
    report = lsuv.torch.init(model, numbers(64, 20))
    assert rows(report)["0"].why.startswith("no effect: ")
    assert same(bits(model[0]), kept)
    assert report.covered < 1 and report.skipped.keys() == {"0"}


class Standardised(nn.Linear):
    def forward(self, x):
        W = self.weight - self.weight.mean(1, keepdim=True)
        return nn.functional.linear(x, W / W.std(1, keepdim=True), self.bias)


def test_a_layer_that_standardises_its_weight_is_broken():
    model, x = nn.Sequential(Standardised(20, 30), nn.ReLU(), nn.Linear(30, 10)), numbers(64, 20)
    kept = bits(model[0])
    report = lsuv.torch.init(model, x)
    assert rows(report)["0"].why == "no effect: Standardised" and same(bits(model[0]), kept)
    assert variances(model, x)["2"] == pytest.approx(1, abs=1e-5)


def test_a_layer_without_a_shape_yet_is_an_error():
    model, x = nn.Sequential(nn.LazyLinear(40), nn.ReLU(), nn.LazyLinear(10)), numbers(64, 20)
    lsuv.torch.init(model, x)
    assert variances(model, x) == pytest.approx({"0": 1, "2": 1}, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_precision_is_an_error(dtype):
    model = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 30)).to(dtype)
    x = numbers(64, 20).to(dtype)
    report = lsuv.torch.init(model, x)
    assert {row.why for row in report.rows} == {"scaled"}
    assert variances(model, x) == pytest.approx({"0": 1, "2": 1}, abs=1e-2)


def test_a_batch_of_names_is_an_error():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(20, 30)

        def forward(self, *, ids, mask):
            return self.layer(ids * mask)

    model, batch = Named(), {"ids": numbers(64, 20), "mask": torch.ones(64, 1)}
    assert rows(lsuv.torch.init(model, batch))["layer"].why == "scaled"
    assert variances(model, **batch)["layer"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("other", [None, (24, 20)])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_keeps_what_it_had(other, bias):
    kdim, vdim = other or (None, None)
    model = nn.MultiheadAttention(16, 2, dropout=0.2, bias=bias, kdim=kdim, vdim=vdim)
    q = k = v = numbers(7, 5, 16)
    if other is not None:
        k, v = numbers(9, 5, kdim, seed=2), numbers(9, 5, vdim, seed=3)
    with torch.no_grad():
        if bias:
            model.in_proj_bias.normal_(0, 0.5)
    batch = {"query": q, "key": k, "value": v}
    report = lsuv.torch.init(model, batch, bias="keep")
    assert len(report.rows) == 4 and {row.why for row in report.rows} == {"scaled"}
    again = lsuv.torch.measure(model, batch)
    for i, (x, row) in enumerate(zip((q, k, v), again.rows, strict=False)):
        W = (
            model.in_proj_weight.chunk(3)
            if other is None
            else (model.q_proj_weight, model.k_proj_weight, model.v_proj_weight)
        )[i]
        z = (x @ W.T + (model.in_proj_bias.chunk(3)[i] if bias else 0)).detach()
        assert float(z.double().var(correction=0)) == pytest.approx(1, abs=1e-5)
        assert row.variance_after == pytest.approx(1, abs=1e-5)
    model.eval()
    model.dropout = 0.0
    lsuv.torch.init(model, batch, mode="eval")
    assert float(model(**batch)[0].detach().var(correction=0)) == pytest.approx(1, abs=1e-5)


class Conv1D(nn.Module):
    """A layer of the class's name in the library transformers: its weight lies the other way."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


def test_a_layer_that_lies_the_other_way_is_unknown():
    model, x = Conv1D(24, 20), numbers(8, 5, 20)
    report = lsuv.torch.init(model, x, pieces={"*": 3})
    assert [(row.fan_in, row.outputs, row.why) for row in report.rows] == [(20, 8, "scaled")] * 3
    for z in model(x).chunk(3, -1):
        assert float(z.detach().double().var(correction=0)) == pytest.approx(1, abs=1e-5)
    W = model.weight.detach()[:, :8] / report.rows[0].scale
    assert torch.allclose(W.T @ W, torch.eye(8), atol=1e-5)


def test_frozen_weights_are_overwritten():
    model, x = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 10)), numbers(64, 20)
    model[0].requires_grad_(False)
    kept = bits(model[0])
    report = lsuv.torch.init(model, x)
    assert rows(report)["0"].why == "frozen" and same(bits(model[0]), kept)
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]


def test_a_module_in_another_mode_comes_back_changed():
    model = small()
    model.norm.eval()
    model.block.self_attn.eval()
    modes = [m.training for m in model.modules()]
    lsuv.torch.init(model, numbers(4, 3, 8, 8))
    assert [m.training for m in model.modules()] == modes


def test_the_filters_of_a_depthwise_layer_have_different_lengths():
    model = nn.Conv2d(12, 24, 3, groups=12)
    lsuv.torch.init(model, numbers(4, 12, 8, 8))
    lengths = model.weight.detach().flatten(1).norm(dim=1)
    assert float(lengths.max() / lengths.min()) == pytest.approx(1, abs=1e-5)
    pairs = model.weight.detach().reshape(12, 2, 9)
    assert float((pairs[:, 0] * pairs[:, 1]).sum(1).abs().max()) < 1e-5


def test_a_transposed_layer_is_orthonormal_along_the_wrong_axis():
    model = nn.ConvTranspose2d(8, 6, 2, groups=2)  # (8, 3, 2, 2)
    lsuv.torch.init(model, numbers(4, 8, 5, 5))
    W = model.weight.detach().reshape(2, 4, 3, 4).transpose(1, 2).flatten(2)  # (2, 3, 16)
    gram = W @ W.mT
    assert torch.allclose(gram, gram[0, 0, 0] * torch.eye(3).expand(2, 3, 3), atol=1e-5)


def test_the_global_random_numbers_move_on():
    model = small()
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    lsuv.torch.init(model, numbers(4, 3, 8, 8))
    lsuv.torch.init(model, numbers(4, 3, 8, 8), fill=nn.init.kaiming_normal_)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


def test_a_hook_is_left_after_an_exception():
    model = small()
    with pytest.raises(RuntimeError):
        lsuv.torch.init(model, numbers(4, 5, 8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_forward_has_kept_breaks_training():
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.cache = nn.Linear(20, 10), None

        def forward(self, x):
            if self.cache is None:
                self.cache = torch.arange(20) * 0.1
            return self.layer(x * self.cache)

    model, x = Caching(), numbers(64, 20)
    with torch.inference_mode():
        lsuv.torch.init(model, x)
    model(x).square().mean().backward()
    assert model.layer.weight.grad.abs().max() > 0


def test_a_pass_for_every_layer_and_attempt():
    class Counting(nn.Sequential):
        passes = 0

        def forward(self, x):
            self.passes += 1
            return super().forward(x)

    model = Counting(*(nn.Linear(20, 20) for _ in range(12)))
    report = lsuv.torch.init(model, numbers(64, 20))
    assert model.passes == report.forwards == 1
