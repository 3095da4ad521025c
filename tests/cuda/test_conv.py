"""Convolutions of device cuda on the doubles of CuPy and cuDNN, against the reference.

The plans compute with the reference, so what is tested is everything around them: the graph's
sizes, strides and numbers, what is excluded, how a plan is chosen and kept, the workspace, arrays
that are not aligned, capture, and the errors.

Read next: test_plans.py, where the real cuDNN takes the same graphs.
"""

import gc
import json

import numpy as np
import pytest
from ml_dtypes import bfloat16

from helpers.op_cases import CASES, REFERENCE, arguments, run
from helpers.tolerances import assert_close

pytestmark = pytest.mark.usefixtures("double")

PASSES = {
    "conv_forward": ("forward", "y", ("x", "W", "b", "y")),
    "conv_backward_data": ("backward_data", "dx", ("dy", "W", "dx")),
    "conv_backward_filter": ("backward_filter", "dW", ("x", "dy", "dW")),
}
EVERY = [
    (name, number) for name in PASSES for number, case in enumerate(CASES[name]) if len(case[0])
]  # an empty batch never comes here
# What may be tried of the double's candidates, by precision.
ALLOWED = {
    "fp32": {"eng4", "eng8_k24=3", "eng8_k24=2", "eng3", "eng0"},
    "tf32": {"eng1_k2=4_k13=0", "eng8_k24=3", "eng8_k24=2", "eng3", "eng0"},
}
ALLOWED["bf16"] = ALLOWED["tf32"]


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch, double):
    """A cache folder of the test's own, and the pretended cuDNN as it was."""
    from cudnn import _double

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_double, "seconds", {})
    monkeypatch.setattr(_double, "unsupported", set())
    monkeypatch.setattr(_double, "builds", [])
    return tmp_path / "lsuv-engine" / "plans.json"


class Scratch:
    """The workspace: grows, and keeps no smaller one alive."""

    def __init__(self):
        self.asked = []

    def __call__(self, nbytes):
        import cupy

        self.asked.append(nbytes)
        if nbytes > max(self.asked[:-1], default=0):
            self.room = cupy.empty((nbytes,), np.uint8)
        return self.room


def made(tf32=False, deterministic=True):
    import cupy

    from kernels.cuda.conv import Convolutions

    return Convolutions(
        cupy.cuda.Stream(non_blocking=True).use(),
        Scratch(),
        lambda nbytes: cupy.empty((nbytes,), np.uint8),
        tf32,
        deterministic,
    )


def on_device(host, offset=0):
    """A copy on the device; `offset` elements behind a place that is aligned."""
    import cupy

    array = cupy.empty((host.size + offset,), host.dtype)[offset:].reshape(host.shape)
    array.set(np.ascontiguousarray(host))
    return array


def device_arguments(name, number, dtype, offset=0):
    """The arrays of a case for its pass here, and stride, pad and groups."""
    _, _, keys = PASSES[name]
    values = arguments(name, number, dtype)
    if dtype == bfloat16 and "W" in keys:
        values["W"] = values["W"].astype(bfloat16)
    arrays = {key: None if values[key] is None else on_device(values[key], offset) for key in keys}
    return arrays, [values[key] for key in ("stride", "pad", "groups")]


def call(convolutions, name, number=0, dtype=np.float32, offset=0):
    """The result of a case, on the host."""
    method, result, _ = PASSES[name]
    arrays, options = device_arguments(name, number, dtype, offset)
    getattr(convolutions, method)(*arrays.values(), *options)
    return arrays[result].get()


def choices(convolutions):
    (choice,) = set(convolutions.plans().values())
    return choice


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
@pytest.mark.parametrize("name, number", EVERY)
def test_agrees_with_the_reference(name, number, dtype, offset):
    want = run(REFERENCE, name, number, np.float64 if dtype == np.float32 else dtype)
    convolutions = made()
    got = call(convolutions, name, number, dtype, offset)
    assert_close(name, got, want[PASSES[name][1]])
    assert len(convolutions.plans()) == 1


def test_operands_are_left_alone():
    for name, (method, result, _) in PASSES.items():
        arrays, options = device_arguments(name, 1, np.float32, offset=1)
        before = {key: array.get() for key, array in arrays.items() if key != result}
        getattr(made(), method)(*arrays.values(), *options)
        for key, values in before.items():
            np.testing.assert_array_equal(arrays[key].get(), values, err_msg=f"{name} {key}")


def test_a_problem_is_named_and_its_plan_is_kept():
    from cudnn import _double

    convolutions = made()
    call(convolutions, "conv_forward", 1)
    (line,) = convolutions.plans()
    assert line == "conv_forward 7x9x11x5 -> 7, 3x2, stride 2, pad 1, groups 1, fp32"
    _double.builds.clear()
    call(convolutions, "conv_forward", 1)
    assert not _double.builds and len(convolutions.plans()) == 1
    call(convolutions, "conv_forward", 1, bfloat16)
    assert line.replace("fp32", "bf16") in convolutions.plans()
    call(
        convolutions,
        "conv_forward",
        next(number for number, case in enumerate(CASES["conv_forward"]) if case[2] is None),
    )
    assert sum(line.endswith(", fp32, no bias") for line in convolutions.plans()) == 1


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("precision", ALLOWED)
def test_only_plans_of_the_precision_are_tried(name, precision):
    from cudnn import _double

    convolutions = made(precision == "tf32")
    call(convolutions, name, 0, bfloat16 if precision == "bf16" else np.float32)
    assert set(_double.builds) == ALLOWED[precision]
    assert len(_double.builds) == len(ALLOWED[precision]) + 1  # the chosen one a second time
    assert choices(convolutions) in ALLOWED[precision] - {"eng3"}
    assert list(convolutions.plans())[0].endswith(precision)


def test_tf32_is_seen_in_the_result():
    from cudnn import _double

    _double.seconds = {name: 0.01 for name in ALLOWED["tf32"] - {"eng1_k2=4_k13=0"}}
    want = run(REFERENCE, "conv_forward", 5, np.float64)["y"]
    error = abs(call(made(tf32=True), "conv_forward", 5) - want).max()
    assert 1e-4 < error / abs(want).max() < 1e-2


def test_nondeterministic_plans_are_tried_only_when_allowed():
    from cudnn import _double

    _double.seconds = {name: 0.01 for name in ALLOWED["fp32"]}
    assert choices_after(made()) != "eng5"
    convolutions = made(deterministic=False)
    assert choices_after(convolutions) == "eng5"
    assert list(convolutions.plans())[0].endswith("fp32, nondeterministic")


def choices_after(convolutions):
    call(convolutions, "conv_forward")
    return choices(convolutions)


@pytest.mark.parametrize("fastest", sorted(ALLOWED["fp32"] - {"eng3"}))
def test_the_fastest_is_chosen_and_kept_alone(fastest):
    from cudnn import _double

    _double.seconds = {name: 0.01 for name in ALLOWED["fp32"] - {fastest}}
    convolutions = made()
    assert choices_after(convolutions) == fastest
    (plan,) = convolutions.chosen.values()
    assert [plan.graph.candidates[index].name for index in plan.graph.built] == [fastest]


def test_few_plans_are_compiled(monkeypatch):
    from cudnn import _double

    from kernels.cuda import conv

    monkeypatch.setattr(conv, "COMPILED", 1)
    call(made(), "conv_forward")
    assert "eng8_k24=3" in _double.builds and "eng8_k24=2" not in _double.builds


def test_the_workspace_is_asked_for_and_never_a_huge_one():
    from kernels.cuda import conv

    convolutions = made()
    call(convolutions, "conv_forward")
    (plan,) = convolutions.chosen.values()
    assert convolutions.workspace.asked == [plan.workspace] and 0 < plan.workspace < conv.LARGEST
    call(convolutions, "conv_forward", offset=1)
    assert convolutions.workspace.asked[-1] > plan.workspace


def test_a_workspace_without_memory_for_it_is_not_chosen():
    from cudnn import _double

    convolutions = made()
    allocate = convolutions.allocate

    def small(nbytes):
        if nbytes > 600:
            raise MemoryError(f"{nbytes} bytes")
        return allocate(nbytes)

    convolutions.allocate = small
    _double.seconds = {"eng0": 0.01}
    assert choices_after(convolutions) == "eng8_k24=3"


def test_memory_does_not_depend_on_the_plans_that_were_tried(double, monkeypatch):
    """A device that timed the candidates holds what one holds that was told the plan."""
    from cudnn import _double

    from kernels.cuda.ops import CudaOps

    large = _double.Candidate("eng11", 32 << 20)
    monkeypatch.setattr(_double, "candidates", [large, *_double.candidates])
    _double.seconds = {name: 0.01 for name in (ALLOWED["fp32"] | {"eng11"}) - {"eng0"}}
    arrays, options = device_arguments("conv_forward", 1, np.float32)
    devices, plans, used = [], {}, []
    for _ in range(2):
        gc.collect()  # what other tests have left
        before, ops = double.used, CudaOps()
        devices.append(ops)
        ops.prefer(plans)
        ops.conv_forward(*arrays.values(), *options)
        used.append(double.used - before)
        plans = ops.plans()
        assert set(plans.values()) == {"eng0"}
    assert _double.builds.count("eng11") == 1 and used[0] == used[1] < large.workspace


# -- names instead of timing ----------------------------------------------------------------------


def test_preferred_plans_are_taken_where_they_exist():
    from cudnn import _double

    first = made()
    call(first, "conv_forward")
    (line,) = first.plans()
    for name in ALLOWED["fp32"] - {"eng3"}:
        convolutions = made()
        convolutions.prefer({line: name, "another line": "eng77"})
        _double.builds.clear()
        assert choices_after(convolutions) == name
        assert _double.builds == [name]
    for name in ("eng77", "eng7", "eng1_k2=4_k13=0", "eng5"):  # gone, unbuildable, or excluded
        convolutions = made()
        convolutions.prefer({line: name})
        assert choices_after(convolutions) in ALLOWED["fp32"]


def test_a_preference_replaces_what_was_chosen():
    convolutions = made()
    call(convolutions, "conv_forward")
    call(convolutions, "conv_backward_data")
    before = convolutions.plans()
    line = next(iter(before))
    other = "eng4" if before[line] == "eng0" else "eng0"
    convolutions.prefer(before | {line: other})
    call(convolutions, "conv_forward")
    call(convolutions, "conv_backward_data")
    assert convolutions.plans() == before | {line: other}


def test_the_file_is_used_in_the_next_process(fresh):
    from cudnn import _double

    first = made()
    call(first, "conv_forward")
    call(first, "conv_backward_filter")
    ((machine, names),) = json.loads(fresh.read_text()).items()
    assert machine == "Double of a GPU, cuDNN 9.0.0 (double)"
    assert names == first.plans()
    assert [path.name for path in fresh.parent.iterdir()] == ["plans.json"]

    line = next(iter(names))
    other = "eng4" if names[line] == "eng0" else "eng0"
    fresh.write_text(json.dumps({machine: names | {line: other}, "another GPU": {line: "eng5"}}))
    _double.builds.clear()
    second = made()
    call(second, "conv_forward")
    assert second.plans() == {line: other} and _double.builds == [other]
    call(second, "conv_backward_data")
    found = json.loads(fresh.read_text())
    assert found == {machine: names | {line: other} | second.plans(), "another GPU": {line: "eng5"}}


def test_two_processes_keep_each_others_choices(fresh):
    first, second = made(), made()
    call(first, "conv_forward")
    call(second, "conv_backward_data")
    (names,) = json.loads(fresh.read_text()).values()
    assert names == first.plans() | second.plans()


def test_a_name_in_the_file_that_is_gone_is_timed_again(fresh):
    first = made()
    call(first, "conv_forward")
    found = json.loads(fresh.read_text())
    (names,) = found.values()
    names.update(dict.fromkeys(names, "eng77"))
    fresh.write_text(json.dumps(found))
    second = made()
    assert choices_after(second) in ALLOWED["fp32"]
    assert json.loads(fresh.read_text())["Double of a GPU, cuDNN 9.0.0 (double)"] == second.plans()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"null",
        b"\xff\xfe",
        b'{"a": 1, "b": {"c": 2}}',
        b"[" * 100_000,
        b'{"Double of a GPU, cuDNN 9.0.0 (double)": ["eng0"]}',
    ],
)
def test_a_damaged_file_is_made_anew(fresh, content):
    fresh.parent.mkdir()
    fresh.write_bytes(content)
    convolutions = made()
    call(convolutions, "conv_forward")
    assert json.loads(fresh.read_text()) == {
        "Double of a GPU, cuDNN 9.0.0 (double)": convolutions.plans()
    }


def test_a_file_that_cannot_be_written_only_costs_time(monkeypatch, fresh):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert choices_after(made()) in ALLOWED["fp32"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh.parent.parent))
    fresh.mkdir(parents=True)  # a folder where the file should be
    assert choices_after(made()) in ALLOWED["fp32"]
    assert [path.name for path in fresh.parent.iterdir()] == ["plans.json"]


# -- capture and errors ---------------------------------------------------------------------------


def test_a_captured_call_is_replayed():
    convolutions = made()
    for offset in (0, 1):
        arrays, options = device_arguments("conv_forward", 0, np.float32, offset)
        convolutions.forward(*arrays.values(), *options)
        want = arrays["y"].get()
        convolutions.stream.begin_capture()
        convolutions.forward(*arrays.values(), *options)
        captured = convolutions.stream.end_capture()
        arrays["y"].fill(0)
        captured.launch(convolutions.stream)
        np.testing.assert_array_equal(arrays["y"].get(), want)


def test_a_plan_cannot_be_chosen_during_capture():
    convolutions = made()
    arrays, options = device_arguments("conv_forward", 0, np.float32)
    convolutions.stream.begin_capture()
    with pytest.raises(
        RuntimeError,
        match="conv_forward 7x9x11x5 -> 3, 3x3, .* can't be chosen "
        "during capture; run the step once before",
    ):
        convolutions.forward(*arrays.values(), *options)
    convolutions.stream.end_capture()
    convolutions.forward(*arrays.values(), *options)
    assert len(convolutions.plans()) == 1


@pytest.mark.parametrize("name", PASSES)
def test_a_shape_without_a_plan_is_an_error_in_one_line(name):
    from cudnn import _double

    from kernels.errors import DeviceError

    _double.unsupported.add("BFLOAT16")
    convolutions = made()
    with pytest.raises(DeviceError) as error:
        call(convolutions, name, 0, bfloat16)
    said = str(error.value)
    assert "\n" not in said
    for part in (
        f"{name} 7x9x11x5 -> 3, 3x3",
        "bf16",
        "no plan on Double of a GPU",
        "cuDNN 9.0.0",
        "No valid engine configs",
        "use another --precision",
    ):
        assert part in said
    call(convolutions, name)
    assert len(convolutions.plans()) == 1


def test_plans_that_all_fail_are_an_error_with_the_last_reason(monkeypatch):
    from cudnn import _double

    from kernels.errors import DeviceError

    few = [c for c in _double.candidates if c.name in ("eng7", "eng3")]
    monkeypatch.setattr(_double, "candidates", few)
    with pytest.raises(DeviceError, match="eng3 wants a workspace of 1099511627776 bytes"):
        call(made(), "conv_forward")
