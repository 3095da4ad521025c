"""Convolution by cuDNN: for every shape the fastest plan, found once by timing, kept by its name.

cuDNN describes a convolution as a graph of operations on tensors, and offers plans for it: an
engine and its settings, of which the name is made (eng41_k2=4_k13=0). A shape that is met for the
first time takes the plan that a resumed run names (`prefer`), or one found earlier on this machine
(plan_cache.py), or else the candidates are timed. What is excluded beforehand:

* precision fp32: the plans on tensor cores, which round float32 operands to TF32;
* deterministic: the plans whose sums depend on the order in which threads happen to finish;
* always: plans that convert float32 operands to half or sum in it, and Winograd's algorithm beyond
  float32 and tiles of 4 x 4, whose transforms round too much.

A bias is added to the unrounded sum, in the same plan, and stays float32 beside bfloat16 arrays.
Arrays are NHWC and KRSC; cuDNN names the axes N, C, H, W and K, C, R, S, and strides say the rest.
It also takes every address for a multiple of 16 bytes: an array elsewhere is copied.

Of the frontend's module `cudnn` (1.25 to 1.28) this file uses: create_handle, set_stream,
backend_version_string, cudnnGraphNotSupportedError, data_type, heur_mode, numerical_note,
behavior_note, and of pygraph: tensor, conv_fprop, conv_dgrad, conv_wgrad, bias, validate,
build_operation_graph, create_execution_plans, deselect_numeric_notes, check_support,
get_execution_plan_count, get_plan_name_at_index, get_behavior_notes_for_plan_at_index,
build_plan_at_index (which also selects), get_workspace_size_plan_at_index, execute; of a tensor:
set_output, set_uid, set_data_type, set_dim, set_stride.

Read next: plan_cache.py, the file of choices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cudnn
import cupy
from ml_dtypes import bfloat16

from kernels.cuda.plan_cache import PlanCache
from kernels.errors import DeviceError

LARGEST = 1 << 30  # bytes of a workspace; every shape of our nets has plans below
COMPILED = 8  # plans to try of those that cuDNN compiles, 0.3 s each
MOST_RUNS, ENOUGH = 10, 1.0  # of a plan in one timing, and milliseconds that will do
TIMINGS = 3  # of each plan; the shortest counts
ALIGNMENT = 16  # bytes: cuDNN's assumption about addresses
PLACE = 256  # bytes: where arrays in the workspace begin
DEVICE_TO_DEVICE = 3  # cudaMemcpyKind
X, WEIGHTS, BIAS, Y = 1, 2, 3, 4  # the arrays' numbers in a graph; a gradient has its array's
RESULT = {"conv_forward": Y, "conv_backward_data": X, "conv_backward_filter": WEIGHTS}

FLOAT = cudnn.data_type.FLOAT
NOTE = cudnn.numerical_note
# What a plan that is not supported, or that may not be used, raises in one version or another.
REFUSED = cudnn.cudnnGraphNotSupportedError, RuntimeError, ValueError


class Problem(NamedTuple):
    """Everything that a plan depends on. precision: fp32 | tf32 | bf16."""

    name: str
    N: int
    H: int
    W: int
    C: int
    K: int
    R: int
    S: int
    stride: int
    pad: int
    groups: int
    precision: str
    deterministic: bool = True
    bias: bool = True  # added in conv_forward

    def __str__(self) -> str:
        return (
            f"{self.name} {self.N}x{self.H}x{self.W}x{self.C} -> {self.K}, {self.R}x{self.S}, "
            f"stride {self.stride}, pad {self.pad}, groups {self.groups}, {self.precision}"
            + ("" if self.deterministic else ", nondeterministic")
            + ("" if self.bias else ", no bias")
        )

    @property
    def sizes(self) -> dict[int, tuple[int, int, int, int]]:
        """{array: its axes in cuDNN's order}."""
        Ho, Wo = (
            (length + 2 * self.pad - window) // self.stride + 1
            for length, window in ((self.H, self.R), (self.W, self.S))
        )
        return {
            X: (self.N, self.C, self.H, self.W),
            Y: (self.N, self.K, Ho, Wo),
            WEIGHTS: (self.K, self.C // self.groups, self.R, self.S),
            BIAS: (1, self.K, 1, 1),
        }

    @property
    def excluded(self) -> list:
        """What no plan may be noted for."""
        notes = [NOTE.DOWN_CONVERT_INPUTS, NOTE.REDUCED_PRECISION_REDUCTION]
        if self.precision == "fp32":
            notes += [NOTE.TENSOR_CORE, NOTE.WINOGRAD_TILE_6x6, NOTE.WINOGRAD_TILE_13x13]
        else:
            notes.append(NOTE.WINOGRAD)
        return notes + [NOTE.NONDETERMINISTIC] * self.deterministic


def graph(problem: Problem, **where):
    """The problem's graph, with its candidates, none of them built.

    where: handle=…, or for a GPU that isn't here device_property=… and sm_version=….
    One of REFUSED if cuDNN has no plan for it."""
    real = cudnn.data_type.BFLOAT16 if problem.precision == "bf16" else FLOAT
    made = cudnn.pygraph(
        io_data_type=real, intermediate_data_type=FLOAT, compute_data_type=FLOAT, **where
    )
    sizes = problem.sizes

    def tensor(number: int, kind=real):
        return made.tensor(
            dim=list(sizes[number]),
            stride=channels_last(*sizes[number]),
            data_type=kind,
            uid=number,
        )

    window = {"padding": [problem.pad] * 2, "stride": [problem.stride] * 2, "dilation": [1, 1]}
    if problem.name == "conv_forward":
        out = made.conv_fprop(image=tensor(X), weight=tensor(WEIGHTS), **window)
        if problem.bias:
            out = made.bias(input=out, bias=tensor(BIAS, FLOAT))
    elif problem.name == "conv_backward_data":
        out = made.conv_dgrad(loss=tensor(Y), filter=tensor(WEIGHTS), **window)
    else:
        out = made.conv_wgrad(image=tensor(X), loss=tensor(Y), **window)
    number = RESULT[problem.name]
    out.set_output(True).set_uid(number).set_data_type(real)
    out.set_dim(list(sizes[number])).set_stride(channels_last(*sizes[number]))
    made.validate()
    made.build_operation_graph()
    made.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    made.deselect_numeric_notes(problem.excluded)
    made.check_support()
    return made


def channels_last(N: int, C: int, H: int, W: int) -> list[int]:
    """The strides of N, C, H, W in memory that is N, H, W, C."""
    return [H * W * C, 1, W * C, C]


class Plan(NamedTuple):
    graph: Any  # with this plan built, and no other
    name: str
    workspace: int  # bytes


class Convolutions:
    """The three passes on one stream. Every array of a call is float32, or all are bfloat16 but the
    bias. workspace(nbytes) -> an array of that many bytes or more, which all calls share;
    allocate(nbytes) -> one of its own, for a plan that is only tried."""

    def __init__(self, stream, workspace, allocate, tf32: bool, deterministic: bool = True):
        self.stream, self.workspace, self.allocate = stream, workspace, allocate
        self.precision, self.deterministic = "tf32" if tf32 else "fp32", deterministic
        self.version = cudnn.backend_version_string()
        self.gpu = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        self.handle = cudnn.create_handle()
        cudnn.set_stream(handle=self.handle, stream=stream.ptr)
        self.chosen: dict[Problem, Plan] = {}
        self.preferred: dict[str, str] = {}
        self.cached = PlanCache(f"{self.gpu}, cuDNN {self.version}")

    def forward(self, x, W, b, y, stride, pad, groups) -> None:
        arrays = {X: x, WEIGHTS: W, Y: y} | ({} if b is None else {BIAS: b})
        self._run("conv_forward", arrays, stride, pad, groups, b is not None)

    def backward_data(self, dy, W, dx, stride, pad, groups) -> None:
        self._run("conv_backward_data", {X: dx, WEIGHTS: W, Y: dy}, stride, pad, groups)

    def backward_filter(self, x, dy, dW, stride, pad, groups) -> None:
        self._run("conv_backward_filter", {X: x, WEIGHTS: dW, Y: dy}, stride, pad, groups)

    def plans(self) -> dict[str, str]:
        """{problem: name of its plan} of all problems so far."""
        return {str(problem): plan.name for problem, plan in self.chosen.items()}

    def prefer(self, plans: dict[str, str]) -> None:
        """Take the plans that `plans` of an earlier run named, where they still exist. Before a
        step is captured: what a graph has captured must not be replaced."""
        self.preferred |= plans
        self.chosen = {
            problem: plan
            for problem, plan in self.chosen.items()
            if plans.get(str(problem), plan.name) == plan.name
        }

    def _run(
        self, name: str, arrays: dict, stride: int, pad: int, groups: int, bias: bool = True
    ) -> None:
        N, H, W, C = arrays[X].shape
        K, R, S, _ = arrays[WEIGHTS].shape
        precision = "bf16" if arrays[X].dtype == bfloat16 else self.precision
        problem = Problem(
            name, N, H, W, C, K, R, S, stride, pad, groups, precision, self.deterministic, bias
        )
        plan = self.chosen.get(problem)
        if plan is None:
            if self.stream.is_capturing():
                raise RuntimeError(
                    f"{problem}: a plan can't be chosen during capture; run the "
                    "step once before it is captured"
                )
            plan = self.chosen[problem] = self._choose(problem, arrays)
        addresses, scratch = self._place(arrays, plan.workspace, self.workspace)
        plan.graph.execute(addresses, scratch.data.ptr, handle=self.handle)
        result = arrays[RESULT[name]]
        if addresses[RESULT[name]] != result.data.ptr:
            self._copy(addresses[RESULT[name]], result.data.ptr, result.nbytes)

    def _place(self, arrays: dict, nbytes: int, memory) -> tuple[dict[int, int], cupy.ndarray]:
        """-> the arrays' addresses, and the plan's scratch memory of so many bytes, behind which
        arrays that are not aligned are copied to. memory: `workspace` or `allocate`."""
        addresses = {number: array.data.ptr for number, array in arrays.items()}
        places, end = {}, nbytes
        for number, address in addresses.items():
            if address % ALIGNMENT:
                places[number] = -(-end // PLACE) * PLACE
                end = places[number] + arrays[number].nbytes
        scratch = memory(end)
        for number, place in places.items():
            self._copy(addresses[number], scratch.data.ptr + place, arrays[number].nbytes)
            addresses[number] = scratch.data.ptr + place
        return addresses, scratch

    def _copy(self, source: int, target: int, nbytes: int) -> None:
        cupy.cuda.runtime.memcpyAsync(target, source, nbytes, DEVICE_TO_DEVICE, self.stream.ptr)

    # -- choosing ---------------------------------------------------------------------------------

    def _choose(self, problem: Problem, arrays: dict) -> Plan:
        for names in (self.preferred, self.cached.names):
            plan = self._named(problem, names.get(str(problem)))
            if plan is not None:
                return plan
        name = self._fastest(problem, arrays)
        plan = self._named(problem, name)
        if plan is None:
            raise RuntimeError(f"{problem}: plan {name} could be built once, but not again")
        self.cached.add(str(problem), name)
        return plan

    def _named(self, problem: Problem, name: str | None) -> Plan | None:
        """The plan of this name alone; None if there is none."""
        if name is None:
            return None
        try:
            made = graph(problem, handle=self.handle)
            for index in range(made.get_execution_plan_count()):
                if made.get_plan_name_at_index(index) == name:
                    made.build_plan_at_index(index)
                    return Plan(made, name, made.get_workspace_size_plan_at_index(index))
        except REFUSED:
            pass
        return None

    def _fastest(self, problem: Problem, arrays: dict) -> str:
        """The name of the plan that takes the least time on these arrays."""
        best: tuple[float, str] | None = None
        reason: object = "none is offered"
        left, names = COMPILED, []
        try:
            made = graph(problem, handle=self.handle)
            names = [
                made.get_plan_name_at_index(index)
                for index in range(made.get_execution_plan_count())
            ]
        except REFUSED as error:
            reason = error
        for index, name in enumerate(names):
            notes = made.get_behavior_notes_for_plan_at_index(index)
            compiled = cudnn.behavior_note.RUNTIME_COMPILATION in notes
            if compiled and not left or name in names[:index]:  # both heuristics may offer a plan
                continue
            try:
                made.build_plan_at_index(index)
                left -= compiled
                nbytes = made.get_workspace_size_plan_at_index(index)
                if nbytes > LARGEST:
                    raise ValueError(f"{name} wants a workspace of {nbytes} bytes")
                time = self._milliseconds(made, *self._place(arrays, nbytes, self.allocate))
            except (*REFUSED, MemoryError) as error:
                reason = error
                continue
            if best is None or time < best[0]:
                best = time, name
        if best is None:
            raise DeviceError(
                f"{problem}: cuDNN {self.version} has no plan on {self.gpu} "
                f"({' '.join(str(reason).split())[:200]}); use another --precision or --device cpu"
            )
        return best[1]

    def _milliseconds(self, made, addresses: dict[int, int], scratch: cupy.ndarray) -> float:
        """How long the selected plan takes as a part of a CUDA graph, as a training step has it:
        launched one by one, small convolutions would wait for Python."""

        def run() -> None:
            made.execute(addresses, scratch.data.ptr, handle=self.handle)

        run()  # what is loaded at first must not be captured
        runs = int(min(max(ENOUGH / max(self._elapsed(run), 1e-6), 1), MOST_RUNS))
        self.stream.begin_capture()
        try:
            for _ in range(runs):
                run()
        finally:
            captured = self.stream.end_capture()
        captured.launch(self.stream)
        return (
            min(self._elapsed(lambda: captured.launch(self.stream)) for _ in range(TIMINGS)) / runs
        )

    def _elapsed(self, work) -> float:
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record(self.stream)
        work()
        stop.record(self.stream)
        stop.synchronize()
        return cupy.cuda.get_elapsed_time(start, stop)
