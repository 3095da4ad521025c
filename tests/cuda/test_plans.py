"""The real cuDNN has a plan for every convolution of every net, on GPUs that are not here.

Every layer with weights of every net (with each of its activations and recipes), every pass that
it needs, in fp32 without tensor cores, in tf32 and in bf16, deterministic, for compute capability
8.0, 9.0 and 10.0: the graph of kernels/cuda/conv.py is accepted, its plans are built, and one gets
by with a workspace of at most LARGEST. cuDNN runs in a process of its own, behind libcuda.c, the
driver without a GPU. What it needs is in the extra `cuda-check`; without that the test is skipped,
and says so.

In bf16 cuDNN compiles every forward plan (the bias is float32), 0.3 s each: unless --full, those
are built for two nets on one GPU, and checked for support everywhere.

Read next: ../conftest.py.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import models
from engine.layers import Conv
from engine.losses import SoftmaxLoss
from engine.net import Net
from helpers.length import often
from kernels.reference import NumpyOps
from models.recipes import KINDS, recipe

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CAPABILITIES, PRECISIONS = (80, 90, 100), ("fp32", "tf32", "bf16")
BUILT_NETS, BUILT_CAPABILITY = ("fitnet4", "caffenet"), 90
# What must not get a plan: (capability, problem, words of the reason).
WRONG = [
    (75, ("conv_forward", 8, 16, 16, 32, 32, 3, 3, 1, 1, 1, "bf16"), "NOT_SUPPORTED"),
    (90, ("wrong conv_backward_data", 8, 16, 16, 32, 32, 3, 3, 1, 1, 1, "fp32"), "spatial_dim"),
    (90, ("conv_forward", 8, 3, 16, 32, 32, 7, 3, 1, 1, 1, "fp32"), "BAD_PARAM"),
]


def layer_fields(layer, batch):
    """N to groups, as conv.Problem has them."""
    if isinstance(layer, Conv):
        return (
            batch,
            *layer.in_shape,
            layer.outputs,
            layer.size,
            layer.size,
            layer.stride,
            layer.pad,
            layer.groups,
        )
    return batch, 1, 1, layer.fan_in, layer.outputs, 1, 1, 1, 0, 1


def problems():
    """{(pass, N, ..., groups): the nets that have it}."""
    found = defaultdict(set)
    for name, model in models.NETS.items():
        for act in model.acts:
            layers = models.build(name, act, model.classes)
            net = Net(layers, SoftmaxLoss(), NumpyOps(), model.in_shape, 1)
            for batch in {recipe(name, act, "lsuv", kind).batch for kind in KINDS}:
                for layer in net.weighted():
                    passes = ["conv_forward", "conv_backward_filter"]
                    passes += ["conv_backward_data"] * (layer.dx is not None)
                    for each in passes:
                        found[each, *layer_fields(layer, batch)].add(name)
    return found


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        pytest.skip("libcuda.c needs Linux and a C compiler")
    path = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    subprocess.run(
        [
            compiler,
            "-Wall",
            "-Wextra",
            "-Werror",
            "-shared",
            "-fPIC",
            "-Wl,-soname,libcuda.so.1",
            "-o",
            path,
            HERE / "libcuda.c",
        ],
        check=True,
    )
    return path


def check(driver, asked):
    """What plan_check.py answers."""
    run = subprocess.run(
        [sys.executable, HERE / "plan_check.py", driver],
        input=json.dumps(asked),
        text=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": python_path()},
        cwd=ROOT,
    )
    if run.returncode == 77:
        pytest.skip(f"cuDNN's plans are not checked: {run.stdout.strip()}")
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


def python_path() -> str:
    """This project's own modules first; the test double of cuDNN not at all."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def test_every_convolution_of_every_net_has_plans(driver, capsys):
    wanted = problems()
    asked = [
        (
            capability,
            (*fields, precision),
            bool(often(capability == BUILT_CAPABILITY and bool(nets & {*BUILT_NETS}), True)),
        )
        for fields, nets in wanted.items()
        for precision in PRECISIONS
        for capability in CAPABILITIES
    ]
    answer = check(driver, asked)
    assert not answer["absent names"], "the test double has names that the frontend has not"
    totals = defaultdict(list)
    for (capability, fields, build), found in zip(asked, answer["plans"], strict=True):
        assert "error" not in found, (capability, fields, found["error"])
        if build or found["built"]:
            assert found["built"], (capability, fields, found["refusal"])
            assert found["smallest"] <= answer["limit"], (capability, fields, found)
            totals[capability, fields[-1]].append(found)
        else:
            assert found["skipped"] and fields[0] == "conv_forward" and fields[-1] == "bf16", (
                capability,
                fields,
                found,
            )
    with capsys.disabled():
        print(
            f"\n{len(wanted)} convolutions, cuDNN {answer['cudnn']}, frontend "
            f"{answer['frontend']}; compute capability, precision: plans built for how many "
            "convolutions, and the largest workspace among them"
        )
        for (capability, precision), found in totals.items():
            count = sum(each["built"] for each in found)
            largest = max(each["largest"] for each in found) / 1e6
            print(f"{capability:4d} {precision}: {count:6d} for {len(found)}, {largest:5.0f} MB")


@pytest.mark.parametrize("capability, fields, words", WRONG)
def test_what_cannot_be_computed_has_no_plan(driver, capability, fields, words):
    answer = check(driver, [(capability, fields, True)])
    (found,) = answer["plans"]
    assert "error" in found and words in found["error"], found
