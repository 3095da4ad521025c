"""The same bits however it is run: any number of threads, any order of definition, 1, 2 and 4
processes; and models that torch.compile, data parallelism or FSDP2 have wrapped.

Read next: test_torch_command.py.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[torch]'")
from torch import nn  # noqa: E402

import lsuv.torch  # noqa: E402
from helpers.programs import ROOT, TESTS  # noqa: E402
from helpers.torch_models import bits, numbers, same, small, variances  # noqa: E402
from lsuv.solve import fold  # noqa: E402


def test_any_number_of_threads_gives_the_same_bits():
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            model = small()
            lsuv.torch.init(model, numbers(8, 3, 12, 12))
            found.append(bits(model))
    finally:
        torch.set_num_threads(before)
    assert all(same(found[0], other) for other in found[1:])


@pytest.mark.parametrize("shape", [(1, 1, 200, 300), (5, 3, 40, 50), (7, 2, 9, 9, 9)])
def test_moments_are_the_same_for_any_number_of_threads(shape):
    from lsuv.torch.moments import measured

    z, before, found = numbers(*shape), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            found.append([part.tolist() for part in measured(z, 2 - len(shape) - 1)])
    finally:
        torch.set_num_threads(before)
    assert all(other == found[0] for other in found[1:])
    x = z.double().movedim(1, 0).flatten(1).numpy()
    assert found[0][1] == pytest.approx(x.mean(1).tolist(), rel=1e-13)
    assert found[0][2] == pytest.approx((x.var(1) * x.shape[1]).tolist(), rel=1e-13)


def test_tensors_and_arrays_are_folded_to_the_same_bits():
    z = numbers(13, 5).double()
    for a, b in zip(fold(1.0, z, 0 * z), fold(1.0, z.numpy(), 0 * z.numpy()), strict=True):
        assert (np.asarray(a) == np.asarray(b)).all()


def test_any_order_of_definition_gives_the_same_bits():
    class Ordered(nn.Module):
        def __init__(self, names):
            super().__init__()
            for name in names:
                self.add_module(name, nn.Linear(20, 20))

        def forward(self, x):
            return self.c(torch.relu(self.b(torch.relu(self.a(x)))))

    found = []
    for names in ("abc", "cab", "bca"):
        model = Ordered(names)
        lsuv.torch.init(model, numbers(64, 20))
        found.append(bits(model))
    assert all(same(found[0], other) for other in found[1:])


def test_a_compiled_model_is_the_model():
    plain, x = small(), numbers(4, 3, 8, 8)
    lsuv.torch.init(plain, x)
    wrapped = torch.compile(small(), backend="eager")
    wrapped(x)  # so that it is compiled before the hooks are there
    lsuv.torch.init(wrapped, x)
    for name, W in plain.named_parameters():
        assert torch.equal(wrapped._orig_mod.get_parameter(name), W), name
    inside = small()
    inside.conv = torch.compile(inside.conv, backend="eager")
    inside.block.compile(backend="eager")
    inside(x)
    report = lsuv.torch.init(inside, x)
    assert "conv" in [row.layer for row in report.rows]
    assert torch.equal(inside.conv._orig_mod.weight, plain.conv.weight)
    assert torch.equal(inside.block.linear1.weight, plain.block.linear1.weight)


def processes(body, counts, folder):
    """Run `body` in gloo groups of these sizes -> the results of all processes. PyTorch is imported
    once, and the processes are forks of that one."""
    code = f"""
import os, sys, torch, torch.distributed as dist
from torch import nn
import lsuv.torch
from helpers.torch_models import *
def run(rank, count):
    dist.init_process_group('gloo', init_method='file://{folder}/store' + str(count), rank=rank,
                            world_size=count)
    {body.strip().replace(chr(10), chr(10) + "    ")}
    torch.save(result, f'{folder}/{{count}}-{{rank}}.pt')
    dist.barrier()
    dist.destroy_process_group()
for count in {counts}:
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            run(rank, count)
            os._exit(0)
        children.append(child)
    assert not any(os.waitpid(child, 0)[1] for child in children)
"""
    path = os.pathsep.join([str(ROOT), str(TESTS)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(path) for path in sorted(folder.glob("*.pt"))]


DATA_PARALLEL = """
torch.manual_seed(rank)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
model = nn.parallel.DistributedDataParallel(model)
x = numbers(8, 3, 8, 8)[rank * 8 // count:][:8 // count]
report = lsuv.torch.init(model, x)
result = {name: t for name, t in model.module.state_dict().items()}
model(x).square().mean().backward()
"""


def test_data_parallel_processes_get_the_same_bits(tmp_path):
    found = processes(DATA_PARALLEL, (1, 2, 4), tmp_path)
    assert len(found) == 7 and all(same(found[0], other) for other in found[1:])
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    model.load_state_dict(found[0])
    assert variances(model, numbers(8, 3, 8, 8)) == pytest.approx({"0": 1, "3": 1}, abs=1e-5)


SHARDED = """
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh
model = small()
x = numbers(8, 3, 8, 8)
mesh = init_device_mesh("cpu", (count,))
for module in (model.block, model.conv, model):
    fully_shard(module, mesh=mesh)
mine = x[rank * 8 // count:(rank + 1) * 8 // count]
report = lsuv.torch.init(model, mine, mode="eval")
again = lsuv.torch.measure(model, mine, mode="eval")
result = {
    "notes": report.notes,
    "why": [row.why for row in report.rows],
    "variance": [row.variance_after for row in again.rows],
    "sharded": all(hasattr(p, "placements") for p in model.parameters()),
    "weights": {name: t.full_tensor() for name, t in model.state_dict().items()
                if hasattr(t, "full_tensor")},
}
"""


def test_a_sharded_model_is_scaled_in_its_shards(tmp_path):
    found = processes(SHARDED, (2,), tmp_path)
    assert found[0]["why"] == ["scaled"] * 9 and found[0]["sharded"]
    assert found[0]["variance"] == pytest.approx([1] * 9, abs=1e-5)
    assert same(found[0]["weights"], found[1]["weights"])
    assert found[0]["notes"][0].startswith("sharded weights are scaled as they were, not filled")
    plain = small()
    lsuv.torch.init(plain, numbers(8, 3, 8, 8), mode="eval", fill=None, bias="keep")
    for name, W in found[0]["weights"].items():
        assert torch.allclose(W, plain.state_dict()[name], atol=1e-5), name
