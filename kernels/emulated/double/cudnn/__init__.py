"""A test double of the cuDNN frontend: the names that kernels/cuda/ uses of it, and no others.

A graph must be one of that file's three, described with the sizes, strides and types that it says,
its methods called in their order. It offers the candidates of _double.py: among them plans that the
caller must exclude, and that compute so coarsely that an exclusion forgotten shows in the numbers.
A plan computes with the reference in float32 and rounds its result once; before that it fills its
workspace with garbage. Every address must be a multiple of 16 and lie in a live allocation.

Read next: _double.py.
"""

from __future__ import annotations

import enum
import math

import numpy as np
from cudnn import _double
from cupy import _double as device
from ml_dtypes import bfloat16

from kernels.reference import NumpyOps

data_type = enum.Enum("data_type", ["FLOAT", "BFLOAT16"])
heur_mode = enum.Enum("heur_mode", ["A", "FALLBACK"])
numerical_note = enum.Enum(
    "numerical_note",
    [
        "TENSOR_CORE",
        "DOWN_CONVERT_INPUTS",
        "REDUCED_PRECISION_REDUCTION",
        "NONDETERMINISTIC",
        "WINOGRAD",
        "WINOGRAD_TILE_6x6",
        "WINOGRAD_TILE_13x13",
    ],
)
behavior_note = enum.Enum("behavior_note", ["RUNTIME_COMPILATION"])

DTYPES = {data_type.FLOAT: np.dtype(np.float32), data_type.BFLOAT16: np.dtype(bfloat16)}
STAGES = (
    "described",
    "validate",
    "build_operation_graph",
    "create_execution_plans",
    "check_support",
)
REFERENCE = NumpyOps()


class cudnnGraphNotSupportedError(Exception):
    pass


class Handle:
    stream = None


def create_handle() -> Handle:
    return Handle()


def set_stream(handle: Handle, stream: int) -> None:
    handle.stream = stream


def backend_version() -> int:
    return 90000


def backend_version_string() -> str:
    return "9.0.0 (double)"


class Tensor:
    def __init__(self, dim=None, stride=None, data_type=None, uid=None):
        self.dim, self.stride, self.data_type, self.uid = dim, stride, data_type, uid
        self.output = False

    def set_output(self, output: bool) -> Tensor:
        self.output = output
        return self

    def set_uid(self, uid: int) -> Tensor:
        self.uid = uid
        return self

    def set_data_type(self, data_type) -> Tensor:
        self.data_type = data_type
        return self

    def set_dim(self, dim: list[int]) -> Tensor:
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> Tensor:
        self.stride = stride
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """NHWC or KRSC, in which order the memory must be."""
        N, C, H, W = self.dim
        if self.stride != [H * W * C, 1, W * C, C]:
            raise cudnnGraphNotSupportedError(f"strides {self.stride} of {self.dim}")
        return N, H, W, C

    def array(self, address: int) -> np.ndarray:
        dtype = DTYPES[self.data_type]
        nbytes = math.prod(self.shape) * dtype.itemsize
        return device.memory(address, nbytes).view(dtype).reshape(self.shape)


class pygraph:
    def __init__(self, *, io_data_type, intermediate_data_type, compute_data_type, handle):
        if (intermediate_data_type, compute_data_type) != (data_type.FLOAT, data_type.FLOAT):
            raise cudnnGraphNotSupportedError("sums that are not float32")
        self.io, self.handle, self.stage = io_data_type, handle, STAGES[0]
        self.operation = self.bias_tensor = self.selected = None
        self.barred, self.built = set(), set()

    def tensor(self, *, dim, stride, data_type, uid) -> Tensor:
        return Tensor(dim, stride, data_type, uid)

    def conv_fprop(self, *, image, weight, padding, stride, dilation) -> Tensor:
        return self._convolution("conv_forward", image, weight, None, padding, stride, dilation)

    def conv_dgrad(self, *, loss, filter, padding, stride, dilation) -> Tensor:
        return self._convolution(
            "conv_backward_data", None, filter, loss, padding, stride, dilation
        )

    def conv_wgrad(self, *, image, loss, padding, stride, dilation) -> Tensor:
        return self._convolution(
            "conv_backward_filter", image, None, loss, padding, stride, dilation
        )

    def _convolution(self, name, x, W, y, padding, stride, dilation) -> Tensor:
        if self.operation or dilation != [1, 1] or len({*padding}) > 1 or len({*stride}) > 1:
            raise cudnnGraphNotSupportedError(f"{name} {padding} {stride} {dilation}")
        self.operation, self.window = name, (stride[0], padding[0])
        self.result = Tensor()
        self.x, self.W, self.y = (tensor or self.result for tensor in (x, W, y))
        return self.result

    def bias(self, *, input, bias) -> Tensor:
        if input is not self.result or self.operation != "conv_forward":
            raise cudnnGraphNotSupportedError("a bias that is not that of a convolution")
        if bias.data_type != data_type.FLOAT or bias.dim[0] != 1 or bias.dim[2:] != [1, 1]:
            raise cudnnGraphNotSupportedError(f"a bias of {bias.data_type} {bias.dim}")
        self.bias_tensor = bias
        return self.result

    # -- its stages -------------------------------------------------------------------------------

    def _advance(self, stage: str) -> None:
        if STAGES.index(stage) != STAGES.index(self.stage) + 1:
            raise RuntimeError(f"{stage} after {self.stage}")
        self.stage = stage

    def _at(self, *stages: str) -> None:
        if self.stage not in stages:
            raise RuntimeError(f"too early or too late: the graph is at {self.stage}")

    def validate(self) -> None:
        self._advance("validate")
        tensors = self.x, self.W, self.y
        if not self.result.output or any(tensor.data_type != self.io for tensor in tensors):
            raise cudnnGraphNotSupportedError("types that are not the graph's, or no output")
        N, H, W, C = self.x.shape
        K, R, S, inputs = self.W.shape
        (stride, pad), groups = self.window, C // max(inputs, 1)
        Ho, Wo = ((n + 2 * pad - m) // stride + 1 for n, m in ((H, R), (W, S)))
        if self.y.shape != (N, Ho, Wo, K) or Ho < 1 or Wo < 1:
            raise RuntimeError(f"an output of {self.y.shape}, not {(N, Ho, Wo, K)}")
        if groups < 1 or groups * inputs != C or K % groups:
            raise RuntimeError(f"{C} inputs in groups of {inputs}, {K} outputs")
        if self.bias_tensor and self.bias_tensor.shape != (1, 1, 1, K):
            raise RuntimeError(f"a bias of {self.bias_tensor.dim}")
        self.groups = groups

    def build_operation_graph(self) -> None:
        self._advance("build_operation_graph")

    def create_execution_plans(self, heuristics: list) -> None:
        self._advance("create_execution_plans")
        if heuristics != [heur_mode.A, heur_mode.FALLBACK]:
            raise cudnnGraphNotSupportedError(f"heuristics {heuristics}")
        if self.io.name in _double.unsupported:
            raise cudnnGraphNotSupportedError(
                f"No valid engine configs for {self.io.name}\nanother line"
            )
        self.candidates = list(_double.candidates)

    def deselect_numeric_notes(self, notes: list) -> None:
        self._at("create_execution_plans")
        self.barred |= {note.name for note in notes}

    def check_support(self) -> None:
        self._advance("check_support")
        if all(self.barred & candidate.notes for candidate in self.candidates):
            raise cudnnGraphNotSupportedError("every plan is barred")

    # -- its plans --------------------------------------------------------------------------------

    def get_execution_plan_count(self) -> int:
        self._at("check_support")
        return len(self.candidates)

    def get_plan_name_at_index(self, index: int) -> str:
        return self.candidates[index].name

    def get_behavior_notes_for_plan_at_index(self, index: int) -> list:
        return [behavior_note.RUNTIME_COMPILATION] if self.candidates[index].compiled else []

    def build_plan_at_index(self, index: int) -> None:
        self._at("check_support")
        candidate = self.candidates[index]
        if self.barred & candidate.notes:
            raise cudnnGraphNotSupportedError(f"Deselecting execution plan {candidate.name}")
        if not candidate.builds:
            raise cudnnGraphNotSupportedError(f"{candidate.name} does not fit this graph")
        if index not in self.built:
            _double.builds.append(candidate.name)
        self.built.add(index)
        self.selected = index

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        if index not in self.built:
            raise RuntimeError(f"plan {index} is not built")
        return self.candidates[index].workspace

    def execute(self, tensor_dict: dict[int, int], workspace: int, *, handle: Handle) -> None:
        if self.selected is None or handle is not self.handle or not handle.stream:
            raise RuntimeError("no plan is selected, or its handle is another or has no stream")
        candidate = self.candidates[self.selected]
        tensors = {t.uid: t for t in (self.x, self.W, self.y, self.bias_tensor) if t}
        if tensor_dict.keys() != tensors.keys():
            raise RuntimeError(f"arrays {sorted(tensor_dict)}, not {sorted(tensors)}")
        for address in (*tensor_dict.values(), workspace):
            if address % _double.ALIGNMENT:
                raise device.DoubleError(f"misaligned address {address:#x}")
        for uid, tensor in tensors.items():
            array = tensor.array(tensor_dict[uid])
            if _overlap(tensor_dict[uid], array.nbytes, workspace, candidate.workspace):
                raise device.DoubleError(f"array {uid} lies in the workspace")
        device.memory(workspace, candidate.workspace)
        device.submit(
            lambda: self._compute(candidate, tensors, tensor_dict, workspace), handle.stream
        )

    def _compute(self, candidate, tensors, addresses, workspace) -> None:
        device.now += _double.seconds.get(candidate.name, 1e-4)
        device.memory(workspace, candidate.workspace)[...] = 0xFF
        x, W, y = (t.array(addresses[t.uid]) for t in (self.x, self.W, self.y))
        arrays = {"x": x, "W": W, "y": y}
        result = {"conv_forward": "y", "conv_backward_data": "x", "conv_backward_filter": "W"}
        result = result[self.operation]
        wide = {
            key: candidate.rounded(array.astype(np.float32))
            for key, array in arrays.items()
            if key != result
        }
        wide[result] = np.empty(arrays[result].shape, np.float32)
        options = (*self.window, self.groups)
        if self.operation == "conv_forward":
            b = self.bias_tensor and self.bias_tensor.array(
                addresses[self.bias_tensor.uid]
            ).reshape(-1)
            REFERENCE.conv_forward(wide["x"], wide["W"], b, wide["y"], *options)
        elif self.operation == "conv_backward_data":
            REFERENCE.conv_backward_data(wide["y"], wide["W"], wide["x"], *options)
        else:
            db = np.empty(W.shape[0], np.float32)
            REFERENCE.conv_backward_filter(wide["x"], wide["y"], wide["W"], db, *options)
        arrays[result][...] = wide[result] * candidate.error()


def _overlap(start: int, nbytes: int, begin: int, size: int) -> bool:
    return start < begin + size and begin < start + nbytes
