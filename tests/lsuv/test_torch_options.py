"""The options of lsuv.torch.init, the forms of a batch, and what is refused in one line.

Read next: test_torch_parallel.py.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[torch]'")
from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

import lsuv.torch  # noqa: E402
from engine.errors import InputError  # noqa: E402
from helpers.torch_models import bits, numbers, rows, same, small, variances  # noqa: E402
from kernels import DeviceError, ops_for  # noqa: E402


def chain(*sizes):
    modules: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        modules += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


@pytest.mark.parametrize("target", [1.0, 0.3, 4.0])
def test_biases_are_kept_and_the_factor_solved_for(target):
    model, x = chain(20, 40, 40, 10), numbers(64, 20)
    biases = [layer.bias.detach().clone().mul_(2) for layer in model[::2]]
    with torch.no_grad():
        for layer, bias in zip(model[::2], biases, strict=True):
            layer.bias.copy_(bias)
    report = lsuv.torch.init(model, x, bias="keep", target=target)
    assert variances(model, x) == pytest.approx(dict.fromkeys("024", target), rel=1e-5)
    assert all(torch.equal(a.bias, b) for a, b in zip(model[::2], biases, strict=True))
    assert report.largest_deviation < 1e-5 and report.as_dict()["settings"]["target"] == target


def test_biases_that_alone_vary_too_much_are_named():
    model = chain(20, 40, 10)
    nn.init.normal_(model[0].bias, std=2.0)
    kept = bits(model[0])
    report = lsuv.torch.init(model, numbers(64, 20), bias="keep")
    assert rows(report)["0"].why.startswith("biases alone have variance ")
    assert same(bits(model[0]), kept)


def test_the_matrices_are_the_engines_own():
    try:
        ops = ops_for("cpu")
    except DeviceError:
        ops = ops_for("numpy")
    from kernels.philox import WEIGHTS
    from lsuv.torch.weights import stream

    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2))
    report = lsuv.torch.init(model, numbers(4, 4, 9, 9), seed=5)
    for group in range(2):
        Q = ops.orthonormal(3, 18, (stream("0", 5), WEIGHTS, group)).reshape(3, 2, 3, 3)
        W = model[0].weight.detach()[3 * group : 3 * group + 3].numpy()
        assert np.allclose(W, Q * report.rows[0].scale, atol=1e-6)


def test_a_filler_of_ones_own_and_none():
    model, x = chain(20, 40, 10), numbers(64, 20)
    own = model[0].weight.detach().clone()
    report = lsuv.torch.init(model, x, fill=None)
    assert torch.allclose(model[0].weight, own * report.rows[0].scale)
    states = []
    for order in (0, 1):
        torch.manual_seed(order)
        report = lsuv.torch.init(model, x, fill=nn.init.kaiming_normal_, seed=3)
        states.append(bits(model))
    assert same(*states) and report.settings["fill"] == "kaiming_normal_"
    assert variances(model, x) == pytest.approx({"0": 1, "2": 1}, abs=1e-5)
    lsuv.torch.init(model, x, fill=nn.init.kaiming_normal_, seed=4)
    assert not torch.equal(states[0]["0.weight"], model[0].weight)


def test_names_include_and_exclude():
    model, x = small(), numbers(4, 3, 8, 8)
    kept = bits(model)
    report = lsuv.torch.init(model, x, include=["block.*", "conv"], exclude="block.linear?")
    scaled = {row.layer for row in report.rows if row.why == "scaled"}
    assert scaled == {"conv", "block.self_attn.in_proj", "block.self_attn.out_proj"}
    assert report.skipped["head"] == "excluded"
    for name in ("head.weight", "block.linear1.weight", "depthwise.bias"):
        assert torch.equal(model.state_dict()[name], kept[name])
    with pytest.raises(InputError, match="'blok.*'; did you mean"):
        lsuv.torch.init(model, x, include="blok.*")


def test_pieces_are_scaled_alone():
    model, x = nn.Sequential(nn.Linear(20, 60)), numbers(8, 5, 20)
    nn.init.normal_(model[0].weight[20:40], std=5.0)
    report = lsuv.torch.init(model, x, pieces={"*": 3}, fill=None, bias="keep")
    assert [row.pieces for row in report.rows] == [3, 3, 3]
    for z in model(x).detach().chunk(3, -1):
        assert float(z.double().var(correction=0)) == pytest.approx(1, abs=1e-5)
    grouped = nn.Conv2d(8, 12, 3, groups=4)
    lsuv.torch.init(grouped, numbers(4, 8, 7, 7), pieces={"*": 2})
    for z in grouped(numbers(4, 8, 7, 7)).detach().chunk(2, 1):
        assert float(z.double().var(correction=0)) == pytest.approx(1, abs=1e-5)
    with pytest.raises(InputError, match="pieces 7 of 0: its 60 outputs do not split"):
        lsuv.torch.init(model, x, pieces={"0": 7})


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(20, 20), nn.Linear(20, 10)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.layer(x))
        return self.head(x)


def test_a_shared_layer_is_scaled_for_all_of_its_calls():
    model, x = Shared(), numbers(64, 20)
    report = lsuv.torch.init(model, x, shared="pooled", tolerance=0.01)
    seen = []
    handle = model.layer.register_forward_hook(lambda m, a, z: seen.append(z.detach().double()))
    assert variances(model, x)["head"] == pytest.approx(1, abs=1e-5)
    handle.remove()
    pooled = float(torch.cat(seen).var(correction=0))
    assert pooled == pytest.approx(1, abs=0.01) and 1 < report.forwards <= 20
    assert rows(report)["layer"].variance_after == pytest.approx(pooled, abs=1e-6)
    assert rows(report)["layer"].calls == 3


def test_tied_weights_are_scaled_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 16)
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
            self.head = nn.Linear(16, 50, bias=False)
            self.b.weight, self.head.weight = self.a.weight, self.embed.weight

        def forward(self, ids):
            return self.head(self.b(torch.relu(self.a(self.embed(ids)))))

    model, ids = Tied(), torch.arange(50).reshape(5, 10)
    table = model.embed.weight.detach().clone()
    report = lsuv.torch.init(model, ids)
    why = {row.layer: row.why for row in report.rows}
    assert why == {"a": "scaled", "b": "tied to a", "head": "tied to embed"}
    assert torch.equal(model.embed.weight, table)
    assert model.b.weight is model.a.weight and model.head.weight is model.embed.weight
    assert rows(report)["head"].variance_after > 0
    report = lsuv.torch.init(model, ids, include=["*", "head"])  # by its very name
    assert rows(report)["head"].why == "scaled" and not torch.equal(model.embed.weight, table)


def test_what_is_not_run_and_what_is_unknown():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(20, 10), nn.Linear(5, 5)
            self.lazy, self.rnn = nn.LazyLinear(3), nn.LSTM(10, 8)
            self.position = nn.Parameter(torch.zeros(1, 7, 10))
            self.zero = nn.Linear(10, 10)
            nn.init.zeros_(self.zero.weight)

        def forward(self, x):
            y = self.used(x) + self.position
            return self.rnn(y + self.zero(y))[0]

    model, x = Partly(), numbers(8, 7, 20)
    kept = bits(nn.ModuleList([model.unused, model.rnn, model.zero]))
    report = lsuv.torch.init(model, x)
    why = {row.layer: row.why for row in report.rows}
    assert why == {
        "used": "scaled",
        "zero": "no variance: its weights are all zero",
        "unused": "not run",
        "lazy": "not run",
        "Partly": "unsupported: 70 parameters",
        "rnn": "unsupported: 576 parameters",
    }
    assert same(bits(nn.ModuleList([model.unused, model.rnn, model.zero])), kept)
    report = lsuv.torch.init(model, x, include=["*", "zero"])  # by its very name
    assert rows(report)["zero"].why == "scaled"
    nn.init.zeros_(model.zero.weight)
    report = lsuv.torch.init(model, x)
    assert 0.1 < report.covered < 0.3 and set(report.skipped) == set(why) - {"used"}
    assert "unsupported: 576 parameters" in report.table()
    with pytest.raises(lsuv.torch.TorchLsuvError, match="zero: no variance.* 5 of 6 rows"):
        lsuv.torch.init(model, x, strict=True)


class Kernel(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.rand(20, 30))

    def forward(self, x):
        return x @ self.kernel, "more"


def test_a_layer_of_ones_own():
    x = numbers(64, 20)
    assert rows(lsuv.torch.init(Kernel(), x))["Kernel"].why == "unsupported: 600 parameters"

    def places(layer):
        return lsuv.torch.Place("kernel", bias=None, outputs=1)

    model = Kernel()
    report = lsuv.torch.init(model, x, adapters={Kernel: places})
    assert rows(report)["Kernel"].why == "scaled"
    assert float(model(x)[0].detach().double().var(correction=0)) == pytest.approx(1, abs=1e-5)

    class Own(Kernel):
        pass

    lsuv.torch.adapter(Own)(places)
    model = Own()
    assert rows(lsuv.torch.init(model, x))["Own"].why == "scaled"
    assert float(model(x)[0].detach().double().var(correction=0)) == pytest.approx(1, abs=1e-5)


def test_a_weight_computed_in_ones_own_way():
    class Symmetric(nn.Module):  # has no inverse: it can be scaled, and not filled
        def forward(self, W):
            return W.triu() + W.triu(1).mT

    model, x = chain(20, 20, 10), numbers(64, 20)
    nn.utils.parametrize.register_parametrization(model[0], "weight", Symmetric())
    own = model[0].weight.detach().clone()
    report = lsuv.torch.init(model, x)
    assert rows(report)["0"].why == "scaled" and "0: not filled, " in report.notes[0]
    assert torch.allclose(model[0].weight, own * rows(report)["0"].scale)
    prune.random_unstructured(model[2], "weight", 0.5)
    nn.init.uniform_(model[2].weight_orig)
    report = lsuv.torch.init(model, x)
    assert rows(report)["2"].why == "scaled" and int((model[2].weight == 0).sum()) == 100
    assert variances(model, x) == pytest.approx({"0": 1, "2": 1}, abs=1e-5)


def test_a_layer_that_draws_random_numbers_draws_them_again():
    class DropConnect(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, nn.functional.dropout(self.weight, 0.5), self.bias)

    model, x = (
        nn.Sequential(DropConnect(20, 30), nn.Dropout(0.3), nn.Linear(30, 10)),
        numbers(64, 20),
    )
    report = lsuv.torch.init(model, x)
    assert {row.why for row in report.rows} == {"scaled"}
    again = lsuv.torch.measure(model, x)
    assert [row.variance_after for row in again.rows] == pytest.approx([1, 1], abs=1e-5)


def test_a_layer_that_changes_its_input_is_refused():
    class Doubling(nn.Linear):
        def forward(self, x):
            return super().forward(x.mul_(2))

    model, x = nn.Sequential(Doubling(20, 30), nn.Linear(30, 10)), numbers(64, 20)
    kept = bits(model)
    with pytest.raises(lsuv.torch.TorchLsuvError, match="0 changes its input in place.* exclude"):
        lsuv.torch.init(model, x.clone())
    assert same(bits(model), kept)
    report = lsuv.torch.init(model, x.clone(), exclude="0")
    assert [row.why for row in report.rows] == ["excluded", "scaled"]


def test_attention_of_ones_own_forward_is_a_layer_with_matrices():
    class Own(nn.MultiheadAttention):
        def forward(self, x):
            return self.out_proj(nn.functional.linear(x, self.in_proj_weight[:16]))

    report = lsuv.torch.init(Own(16, 2), numbers(4, 7, 16))
    why = {row.layer: row.why for row in report.rows}
    assert why == {"out_proj": "scaled", "Own": "unsupported: 768 parameters"}


def test_a_model_without_weights_has_an_empty_report():
    report = lsuv.torch.init(nn.Sequential(nn.ReLU()), numbers(4, 3))
    assert not report.rows and report.covered == 0 and report.largest_deviation is None
    assert report.table() and report._repr_html_()
    with pytest.raises(InputError, match="nothing to draw"):
        report.plot()


# -- batches --------------------------------------------------------------------------------------


class Mask(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 10)

    def forward(self, x, mask=None):
        return self.layer(x if mask is None else x * mask)


def test_the_forms_of_a_batch():
    model, x, y = chain(20, 10), numbers(64, 20), torch.arange(64)
    for batch in (x, [x, y], (x, y), (x,), iter([(x, y)]), [x]):
        lsuv.torch.init(model, batch)
        assert variances(model, x)["0"] == pytest.approx(1, abs=1e-5)
    masked = Mask()
    with pytest.raises(InputError, match=r"a batch of 2 for forward\(x, mask\)"):
        lsuv.torch.init(masked, (x, torch.ones(64, 1)))
    for options in (
        {"input_of": lambda batch: batch[0]},
        {"forward": lambda model, batch: model(batch[0])},
    ):
        lsuv.torch.init(masked, (x, y), **options)
        assert variances(masked, x)["layer"] == pytest.approx(1, abs=1e-5)


def test_batches_of_a_loader_are_joined():
    model, x = chain(20, 30, 10), numbers(48, 20)
    loader = [{"input": part} for part in x.split(16)]
    report = lsuv.torch.init(model, iter(loader), batches=3)
    assert report.settings["images"] == 48 and report.forwards == 1
    assert "3 taken from the iterator" in report.notes[0]
    assert variances(model, x) == pytest.approx({"0": 1, "2": 1}, abs=1e-5)
    with pytest.raises(InputError, match=r"shapes \(16, 20\), \(16, 21\) can't be joined"):
        lsuv.torch.init(model, iter([x[:16], numbers(16, 21)]), batches=2)
    with pytest.raises(InputError, match="batches 4: the loader has only 3"):
        lsuv.torch.init(model, iter(loader), batches=4)


def test_autocast_does_not_keep_the_weights_as_they_were():
    model, x = chain(20, 40, 40, 10), numbers(64, 20)
    report = lsuv.torch.init(model, x, autocast=torch.bfloat16)
    assert {row.why for row in report.rows} == {"scaled"}
    with torch.autocast("cpu", torch.bfloat16):
        assert variances(model, x) == pytest.approx(dict.fromkeys("024", 1), abs=1e-2)
        lsuv.torch.init(model, x)  # under the caller's own
        assert variances(model, x) == pytest.approx(dict.fromkeys("024", 1), abs=1e-2)


def test_attention_of_a_whole_encoder_in_evaluation():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2), numbers(4, 7, 16)
    mask = torch.arange(7) > torch.tensor([[6], [4], [5], [3]])
    report = lsuv.torch.init(
        model, {"src": x, "src_key_padding_mask": mask}, mode="eval", strict=True
    )
    assert len(report.rows) == 12 and report.largest_deviation < 1e-5


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, text",
    [
        ({"fill": "orthonormall"}, "unknown fill 'orthonormall'; did you mean 'orthonormal'"),
        ({"mode": "evaluate"}, "unknown mode 'evaluate'"),
        ({"bias": "none"}, "unknown bias 'none'"),
        ({"shared": "last"}, "unknown shared 'last'"),
        ({"on_zero": "stop"}, "unknown on_zero 'stop'"),
        ({"target": 0}, "target 0: give a number above 0"),
        ({"tolerance": 1}, "tolerance 1 must be between 0 and 1"),
        ({"batches": 0}, "batches 0: must be at least 1"),
        ({"batches": 2}, "batches 2: of a single batch; give a loader"),
        ({"seed": -1}, "seed -1"),
        ({"exclude": "*.qkv"}, "no layer with weights is called '\\*.qkv'"),
    ],
)
def test_options_that_are_refused(options, text):
    model = chain(20, 10)
    kept = bits(model)
    with pytest.raises(InputError, match=text):
        lsuv.torch.init(model, numbers(64, 20), **options)
    assert same(bits(model), kept)


def test_models_that_are_refused():
    x = numbers(64, 20)
    with pytest.raises(InputError, match="0.weight is on the meta device: model.to_empty"):
        lsuv.torch.init(chain(20, 10).to("meta"), x)
    with pytest.raises(InputError, match="a model of type function"):
        lsuv.torch.init(lambda x: x, x)
    with pytest.raises(InputError, match="a batch of type int"):
        lsuv.torch.init(chain(20, 10), 3)
    wrapped = type("FullyShardedDataParallel", (nn.Sequential,), {})(chain(20, 10))
    with pytest.raises(InputError, match="init before it, or use torch.distributed.fsdp"):
        lsuv.torch.init(wrapped, x)
    one = nn.Sequential(nn.Linear(20, 10), nn.BatchNorm1d(10))
    with pytest.raises(InputError, match="batch normalisation after 0 has one value a channel"):
        lsuv.torch.init(one, x[:1])
    assert rows(lsuv.torch.init(one, x[:1], mode="eval"))["0"].why == "scaled"


def test_a_capture_is_not_disturbed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(InputError, match="a CUDA graph is being captured: init before"):
        lsuv.torch.init(chain(20, 10), numbers(64, 20))


def test_a_wrong_batch_names_the_layer():
    model = chain(20, 30, 10)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        lsuv.torch.init(model, numbers(64, 21))
    assert caught.value.__notes__ == ["lsuv.torch: layer 0 ran last; the model is as before"]


def test_numbers_that_are_not_finite_are_named():
    x = numbers(64, 20)
    x[3, 4] = float("inf")
    report = lsuv.torch.init(chain(20, 10), x)
    assert report.rows[0].why == "not finite" and report.as_dict()["rows"][0]["mean"] is None
