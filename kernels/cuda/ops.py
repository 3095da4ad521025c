"""Device cuda: the operations of kernels/reference.py on CuPy's arrays, a kernel or plan a method.

What an operation means stands in the reference. Different here: a call returns when its work is
queued on the device's stream, not when it is done; `synchronize` and `tohost` wait. A kernel that
meets a value it can't use (a label beyond the classes) notes it, and these two raise it. So a step
can be captured as a CUDA graph: `captured`.

Of CuPy this folder uses `ndarray` (slices, reshape, view, fill, get, set, copy), `empty`, `zeros`,
`RawModule`, streams, events, graphs, the runtime's device facts and memory, cuSOLVER's orgqr, and
NCCL in ranks.py; the test double knows no more. Convolutions and fully connected layers are cuDNN's
(cuBLAS can't be captured), everything else is our own.

Read next: arrays.py, and maxout.cu, the first kernel.
"""

from __future__ import annotations

import functools
import math

import cupy
import numpy as np
from ml_dtypes import bfloat16

from kernels import checks, philox
from kernels.cuda import orthonormal
from kernels.cuda.arrays import checked
from kernels.cuda.conv import Convolutions
from kernels.cuda.graph import Captured
from kernels.cuda.launch import MOST_BLOCKS, THREADS, Launcher, blocks_for
from kernels.errors import DeviceError, MemoryFull
from kernels.reference import NumpyOps

ACCESS_BYTES = 16  # of an access of VECTOR elements, as in common.cuh
SLAB = 64  # numbers whose sum a thread makes alone, in float32
MOST_PARTS = 1024  # blocks that share a sum over all of an array
MATRIX_TASKS = 512  # tasks of a matrix: one wave of blocks on an H100 (4 * 132)
LONGEST = 1 << 30  # a pooling's axes are shorter: their places fit 32 bits
CHUNK = 2048  # values whose rows a block of `lrn_backward` takes at a time
# What a kernel noted: {code in common.cuh: words for (value, bound, step)}.
FAULTS = {
    1: "label {0}, but there are {1} classes",
    2: "gather: step {0} has no row in the order, which has {1} from step {2}; upload the next one",
    3: "gather: image {0} of step {2}, but there are {1}",
    4: "segments: row {0} does not lie in an arena of {1}",
    5: "advance: step {0} lies before the table's first, {1}",
    6: "batchnorm: no running statistics yet; train at least one step first",
}


@functools.cache
def the_stream() -> cupy.cuda.Stream:
    """The one stream of all work, in whose order it is done. CuPy launches on the stream that a
    thread uses, so every method first makes this one the thread's; what is done to arrays outside
    of methods, as `a[...] = b`, follows there."""
    return cupy.cuda.Stream(non_blocking=True)


class CudaOps(NumpyOps):
    """Every operation, on CuPy's arrays."""

    name = "cuda"

    def __init__(self, precision: str = "fp32", deterministic: bool = True):
        """precision: fp32 | tf32 | bf16; in tf32 the operands of matmuls are rounded to TF32.
        deterministic: only convolutions that give the same bits in every run. Memory comes from
        the allocator that the process has set; CuPy's own is its pool."""
        self.stream = the_stream()
        self.stream.use()
        facts = cupy.cuda.runtime.getDeviceProperties(0)
        self.gpu, self.capability = facts["name"].decode(), (facts["major"], facts["minor"])
        tensor_cores = self.capability >= (8, 0)  # those with TF32 and bfloat16
        self.precisions = {"tf32" if precision == "tf32" and tensor_cores else "fp32": None}
        if tensor_cores:
            self.precisions["bf16"] = bfloat16
        self.launch, self.deterministic = Launcher(), deterministic
        self._fault = cupy.zeros((4,), np.int64)
        self._workspaces = {kind: cupy.empty((0,), np.uint8) for kind in ("workspace", "weights")}
        self._convolutions = Convolutions(
            self.stream,
            self._workspace,
            lambda nbytes: self.empty((nbytes,), np.uint8),
            precision == "tf32",
            deterministic,
        )

    @property
    def description(self) -> str:
        """One line for the user."""
        major, minor = self.capability
        return (
            f"{self.gpu}, compute capability {major}.{minor}, CuPy {cupy.__version__}, "
            f"cuDNN {self._convolutions.version}"
        )

    def plans(self) -> dict[str, str]:
        return self._convolutions.plans()

    def prefer(self, plans: dict[str, str]) -> None:
        self._convolutions.prefer(plans)

    # -- memory -----------------------------------------------------------------------------------

    def empty(self, shape, dtype=np.float32):
        """An uninitialised array, 256-byte aligned. MemoryFull if none is left."""
        self.stream.use()
        return _allocated(cupy.empty, shape, dtype)

    def zeros(self, shape, dtype=np.float32):
        self.stream.use()
        return _allocated(cupy.zeros, shape, dtype)

    def asarray(self, host):
        host = np.ascontiguousarray(host)
        array = self.empty(host.shape, host.dtype)
        array.set(host, stream=self.stream)
        self.stream.synchronize()  # until then the copy may still read `host`
        return array

    def constant(self, host):
        return self.asarray(host)

    def tohost(self, array) -> np.ndarray:
        self.stream.use()
        host = array.get(stream=self.stream)
        self._raise_fault()
        return host

    def synchronize(self) -> None:
        self.stream.use()
        self.stream.synchronize()
        self._raise_fault()

    def communicator(self, rank, size, told):
        try:  # NCCL is no part of a run of one process
            from kernels.cuda.ranks import Communicator
        except ImportError as error:
            raise DeviceError(
                f"device {self.name}: several processes want NCCL ({error}); "
                "pip install nvidia-nccl-cu13, or nvidia-nccl-cu12 with the extra cuda12"
            ) from error
        return Communicator(self.stream, rank, size, told, self.deterministic)

    def captured(self, step):
        return Captured(self.stream, step, lambda: list(self._workspaces.values()))

    def _raise_fault(self) -> None:
        """ValueError for the first value that a kernel could not use since the last one."""
        code, *values = self._fault.get(stream=self.stream).tolist()
        if code:
            self._fault.fill(0)
            raise ValueError(FAULTS[code].format(*values))

    def _workspace(self, nbytes: int, kind: str = "workspace"):
        """At least so many bytes for one operation's own use. Graphs keep those they know."""
        if self._workspaces[kind].nbytes < nbytes:
            self._workspaces[kind] = self.empty((nbytes,), np.uint8)
        return self._workspaces[kind]

    # -- convolution ------------------------------------------------------------------------------

    @checked
    def conv_forward(self, x, W, b, y, stride, pad, groups):
        checks.conv("conv_forward", x, W, y, stride, pad, groups)
        if b is not None:
            checks.shape("conv_forward", b, (len(W),))
        if len(x):
            self._convolutions.forward(x, self._rounded(W, x), b, y, stride, pad, groups)

    @checked
    def conv_backward_data(self, dy, W, dx, stride, pad, groups):
        checks.conv("conv_backward_data", dx, W, dy, stride, pad, groups)
        if len(dx):
            self._convolutions.backward_data(dy, self._rounded(W, dy), dx, stride, pad, groups)

    @checked
    def conv_backward_filter(self, x, dy, dW, db, stride, pad, groups):
        checks.conv("conv_backward_filter", x, dW, dy, stride, pad, groups)
        if db is not None:  # first: dy has just been written and may still be in the cache
            checks.shape("conv_backward_filter", db, (len(dW),))
            self._channel_sums(dy, db)
        if len(x):
            self._convolutions.backward_filter(x, dy, dW, stride, pad, groups)
        else:
            dW.fill(0)

    def _rounded(self, W, like):
        """W in the dtype of `like`: both operands of a product are of one."""
        if W.dtype == like.dtype:
            return W
        nbytes = W.size * like.itemsize
        narrow = self._workspace(nbytes, "weights")[:nbytes].view(like.dtype).reshape(W.shape)
        self.launch("cast", "cast", like.dtype, _vectors(W), W, narrow, W.size)
        return narrow

    def _channel_sums(self, x, sums) -> None:
        """sums (C,) = sums over all axes but the last."""
        blocks, shape = _matrix_grid(x)
        C, parts = shape[1], shape[-1]
        partial = self._workspace(4 * C * parts)
        self.launch("columns", "column_sums", x.dtype, blocks, x, partial, *shape)
        self._merge_sums(partial, sums, C, parts)

    def _merge_sums(self, partial, sums, C, parts) -> None:
        """sums (C,) = sums over the parts of partial (C, parts)."""
        self.launch(
            "columns",
            "column_sums_merge",
            sums.dtype,
            min(max(C, 1), MOST_BLOCKS),
            partial,
            sums,
            C,
            parts,
        )

    # -- fully connected --------------------------------------------------------------------------
    # cuDNN's convolution of images of one pixel.

    @checked
    def linear_forward(self, x, W, b, y):
        checks.linear("linear_forward", x, W, y)
        self.conv_forward(_pixels(x), _pixels(W), b, _pixels(y), 1, 0, 1)

    @checked
    def linear_backward_data(self, dy, W, dx):
        checks.linear("linear_backward_data", dx, W, dy)
        self.conv_backward_data(_pixels(dy), _pixels(W), _pixels(dx), 1, 0, 1)

    @checked
    def linear_backward_filter(self, x, dy, dW, db):
        checks.linear("linear_backward_filter", x, dW, dy)
        self.conv_backward_filter(_pixels(x), _pixels(dy), _pixels(dW), db, 1, 0, 1)

    # -- maxout and pooling -----------------------------------------------------------------------

    @checked
    def maxout_forward(self, x, y, which, pieces):
        checks.maxout("maxout_forward", x, y, pieces)
        checks.shape("maxout_forward", which, y.shape)
        C = y.shape[-1]
        self.launch(
            "maxout",
            "maxout_forward",
            x.dtype,
            _vectors(y),
            x,
            y,
            which,
            y.size // max(C, 1),
            C,
            pieces,
        )

    @checked
    def maxout_backward(self, dy, which, dx, pieces):
        checks.maxout("maxout_backward", dx, dy, pieces)
        checks.shape("maxout_backward", which, dy.shape)
        C = dy.shape[-1]
        self.launch(
            "maxout",
            "maxout_backward",
            dx.dtype,
            _vectors(dy),
            dy,
            which,
            dx,
            dy.size // max(C, 1),
            C,
            pieces,
        )

    @checked
    def maxpool_forward(self, x, y, which, size, stride, pad):
        checks.maxpool("maxpool_forward", x, y, size, stride, pad)
        checks.shape("maxpool_forward", which, y.shape)
        team = _log2_team(size)
        self.launch(
            "maxpool",
            "maxpool_forward",
            x.dtype,
            _vectors(y, 1 << team),
            x,
            y,
            which,
            *_windows(x, y),
            size,
            stride,
            pad,
            team,
        )

    @checked
    def maxpool_backward(self, dy, which, dx, size, stride, pad):
        checks.maxpool("maxpool_backward", dx, dy, size, stride, pad)
        checks.shape("maxpool_backward", which, dy.shape)
        self.launch(
            "maxpool",
            "maxpool_backward",
            dx.dtype,
            _spread(dx, dy, size, stride),
            dy,
            which,
            dx,
            *_windows(dx, dy),
            size,
            stride,
            pad,
        )

    @checked
    def fractional_maxpool_forward(self, x, y, which, overlapping, random, seed, layer, clock):
        drawn = overlapping, random, seed, layer, clock
        self._fractional("fractional_maxpool_forward", x, y, which, (x, y, which), False, *drawn)

    @checked
    def fractional_maxpool_backward(self, dy, which, dx, overlapping, random, seed, layer, clock):
        drawn = overlapping, random, seed, layer, clock
        self._fractional(
            "fractional_maxpool_backward", dx, dy, which, (dy, which, dx), True, *drawn
        )

    def _fractional(
        self, name, x, y, which, arrays, backward, overlapping, random, seed, layer, clock
    ) -> None:
        """Draw the windows into the workspace, then compute the last of `arrays`."""
        checks.fractional(name, x, y, overlapping)
        checks.shape(name, which, y.shape)
        philox.words(seed, philox.FRACTIONAL, layer, 0, 0, 0)  # no words, but the check
        N, H, W, Ho, Wo, _ = shape = _windows(x, y)
        rows, cols = (8 * N * length for length in ((H, W) if backward else (Ho, Wo)))
        space = self._workspace(rows + cols)
        tables = space, space[rows:]
        options = int(bool(overlapping)), int(bool(random)), int(backward), _signed(seed), layer
        blocks = blocks_for(2 * N)
        self.launch(
            "fractional",
            "fractional_regions",
            x.dtype,
            blocks,
            *tables,
            *shape[:5],
            *options,
            clock,
        )
        blocks = _vectors(x if backward else y)
        self.launch("fractional", name, x.dtype, blocks, *arrays, *tables, *shape)

    @checked
    def maxout_pool_forward(self, x, y, which, pieces, size, stride):
        checks.maxout_pool("maxout_pool_forward", x, y, pieces, size, stride)
        self._maxout_pool("maxout_pool_forward", x, y, which, pieces, size, stride)

    @checked
    def maxout_pool_backward(self, dy, which, dx, pieces, size, stride):
        checks.maxout_pool("maxout_pool_backward", dx, dy, pieces, size, stride)
        self._maxout_unpool("maxout_pool_backward", dy, which, dx, pieces, size, stride)

    @checked
    def maxout_pool_dropout_forward(
        self, x, y, which, pieces, size, stride, drop, seed, layer, clock
    ):
        name = "maxout_pool_dropout_forward"
        checks.maxout_pool(name, x, y, pieces, size, stride, checks.DROPPED)
        self._maxout_pool(
            name, x, y, which, pieces, size, stride, *_dropout(drop, seed, layer), clock
        )

    @checked
    def maxout_pool_dropout_backward(self, dy, which, dx, pieces, size, stride, drop):
        name = "maxout_pool_dropout_backward"
        checks.maxout_pool(name, dx, dy, pieces, size, stride, checks.DROPPED)
        checks.drop(name, drop)
        self._maxout_unpool(name, dy, which, dx, pieces, size, stride, 1 / (1 - drop))

    def _maxout_pool(self, name, x, y, which, pieces, size, stride, *dropout) -> None:
        checks.shape(name, which, y.shape)
        team = _log2_team(size)
        self.launch(
            "maxout_pool",
            name,
            x.dtype,
            _vectors(y, 1 << team),
            x,
            y,
            which,
            *_windows(x, y),
            pieces,
            size,
            stride,
            team,
            *dropout,
        )

    def _maxout_unpool(self, name, dy, which, dx, pieces, size, stride, *factor) -> None:
        checks.shape(name, which, dy.shape)
        self.launch(
            "maxout_pool",
            name,
            dx.dtype,
            _spread(dx, dy, size, stride),
            dy,
            which,
            dx,
            *_windows(dx, dy),
            pieces,
            size,
            stride,
            *factor,
        )

    @checked
    def avgpool_forward(self, x, y, size, stride):
        checks.avgpool("avgpool_forward", x, y, size, stride)
        self._averages(x, y, size, stride)

    @checked
    def avgpool_backward(self, dy, dx, size, stride):
        checks.avgpool("avgpool_backward", dx, dy, size, stride)
        self._shares(dy, dx, size, stride)

    @checked
    def global_avgpool_forward(self, x, y):
        checks.places("global_avgpool_forward", x, y)
        self._averages(x, _pixels(y), *[max(x.shape[1:3])] * 2)

    @checked
    def global_avgpool_backward(self, dy, dx):
        checks.places("global_avgpool_backward", dx, dy)
        self._shares(_pixels(dy), dx, *[max(dx.shape[1:3])] * 2)

    def _averages(self, x, y, size, stride) -> None:
        team = _log2_team(size)
        self.launch(
            "avgpool",
            "avgpool_forward",
            x.dtype,
            _vectors(y, 1 << team),
            x,
            y,
            *_windows(x, y),
            size,
            stride,
            team,
        )

    def _shares(self, dy, dx, size, stride) -> None:
        self.launch(
            "avgpool",
            "avgpool_backward",
            dx.dtype,
            _spread(dx, dy, size, stride),
            dy,
            dx,
            *_windows(dx, dy),
            size,
            stride,
        )

    @checked
    def global_maxpool_forward(self, x, y, which):
        checks.places("global_maxpool_forward", x, y)
        checks.shape("global_maxpool_forward", which, y.shape)
        N, H, W, _, _, C = _windows(x, _pixels(y))
        team = _log2_team(H)
        self.launch(
            "maxpool",
            "global_maxpool_forward",
            x.dtype,
            _vectors(y, 1 << team),
            x,
            y,
            which,
            N,
            H,
            W,
            C,
            team,
        )

    @checked
    def global_maxpool_backward(self, dy, which, dx):
        checks.places("global_maxpool_backward", dx, dy)
        checks.shape("global_maxpool_backward", which, dy.shape)
        N, H, W, _, _, C = _windows(dx, _pixels(dy))
        self.launch(
            "maxpool",
            "global_maxpool_backward",
            dx.dtype,
            _spread(dx, _pixels(dy), 1, 1),
            dy,
            which,
            dx,
            N,
            H,
            W,
            C,
        )

    # -- normalisation across channels, and concatenation -----------------------------------------

    @checked
    def lrn_forward(self, x, y, size, alpha, beta, k):
        checks.lrn("lrn_forward", x, y, size, alpha, k)
        C = x.shape[-1]
        self.launch(
            "lrn",
            "lrn_forward",
            x.dtype,
            _vectors(x),
            x,
            y,
            x.size,
            C,
            min(size // 2, C),
            alpha / size,
            float(beta),
            float(k),
        )

    @checked
    def lrn_backward(self, dy, x, dx, size, alpha, beta, k):
        checks.lrn("lrn_backward", x, dx, size, alpha, k)
        checks.shape("lrn_backward", dy, x.shape)
        C, blocks = x.shape[-1], _vectors(x)
        share = max(CHUNK, C)
        # Windows of size 5 need no workspace (lrn.cu), nor does a block without a chunk of rows.
        five = min(size // 2, C) == 2 and beta == 0.75 and _wide(dy, x, dx)
        chunk = share // max(C, 1) * C
        parts = 0 if five else min(blocks, MOST_PARTS, -(-x.size // max(chunk, 1)))
        self.launch(
            "lrn",
            "lrn_backward",
            x.dtype,
            blocks,
            dy,
            x,
            dx,
            self._workspace(8 * parts * share),
            parts,
            share,
            x.size,
            C,
            min(size // 2, C),
            alpha / size,
            float(beta),
            float(k),
            2 * alpha / size * beta,
        )

    @checked
    def concat_forward(self, x, y, first):
        checks.concat("concat_forward", x, y, first)
        self.launch(
            "concat",
            "concat_forward",
            x.dtype,
            _vectors(x),
            x,
            y,
            x.size,
            x.shape[-1],
            y.shape[-1],
            first,
        )

    @checked
    def concat_backward(self, dy, dx, first):
        checks.concat("concat_backward", dx, dy, first)
        self.launch(
            "concat",
            "concat_backward",
            dx.dtype,
            _vectors(dx),
            dy,
            dx,
            dx.size,
            dx.shape[-1],
            dy.shape[-1],
            first,
        )

    # -- activations ------------------------------------------------------------------------------

    @checked
    def leaky_forward(self, x, y, slope):
        self._elementwise("leaky_forward", x, y, float(slope))

    @checked
    def leaky_backward(self, dy, y, dx, slope):
        self._elementwise("leaky_backward", dy, y, dx, float(slope))

    @checked
    def prelu_forward(self, x, slope, y):
        self._channelwise("prelu_forward", x, y, slope)

    @checked
    def prelu_backward(self, dy, x, slope, dx, dslope):
        self._channel_gradients("prelu_backward", dy, x, slope, dx, dslope)

    @checked
    def tanh_forward(self, x, y):
        self._elementwise("tanh_forward", x, y)

    @checked
    def tanh_backward(self, dy, y, dx):
        self._elementwise("tanh_backward", dy, y, dx)

    @checked
    def sigmoid_forward(self, x, y):
        self._elementwise("sigmoid_forward", x, y)

    @checked
    def sigmoid_backward(self, dy, y, dx):
        self._elementwise("sigmoid_backward", dy, y, dx)

    @checked
    def add(self, a, b, y):
        self._elementwise("add", a, b, y)

    def _elementwise(self, name, *arguments) -> None:
        arrays = [value for value in arguments if isinstance(value, cupy.ndarray)]
        for array in arrays[1:]:
            checks.shape(name, array, arrays[0].shape)
        self.launch(
            "activation", name, arrays[0].dtype, _vectors(arrays[0]), *arguments, arrays[0].size
        )

    @checked
    def highway_forward(self, x, z, h, t, y):
        checks.highway("highway_forward", x, z, h, t, y)
        self.launch("highway", "highway_forward", x.dtype, _vectors(x), x, z, h, t, y, *_rows(x))

    @checked
    def highway_backward(self, dy, x, h, t, dz, dx):
        checks.highway("highway_backward", x, dz, dy, h, t, dx)
        carried = (dz if dx is None else dx), *_rows(x), int(dx is not None)
        self.launch("highway", "highway_backward", x.dtype, _vectors(x), dy, x, h, t, dz, *carried)

    # -- dropout ----------------------------------------------------------------------------------

    @checked
    def dropout_forward(self, x, y, drop, seed, layer, clock, factor):
        checks.shape("dropout_forward", y, x.shape)
        self.launch(
            "dropout",
            "dropout",
            x.dtype,
            _vectors(x),
            x,
            y,
            x.size,
            *_dropout(drop, seed, layer, factor),
            clock,
        )

    @checked
    def dropout_backward(self, dy, dx, drop, seed, layer, clock, factor):
        self.dropout_forward(dy, dx, drop, seed, layer, clock, factor)

    @checked
    def channel_mask(self, mask, keep, factor, seed, layer, clock):
        checks.mask("channel_mask", mask, keep)
        threshold, *rest = _dropout(0.0, seed, layer, factor)
        self.launch("dropout", "channel_mask", np.float32, 1, mask, len(mask), keep, *rest, clock)

    # -- batch normalisation ----------------------------------------------------------------------

    @checked
    def batchnorm_forward(self, x, y, mean, rstd, eps):
        checks.batchnorm("batchnorm_forward", x, (y,), mean, rstd)
        blocks, shape = _matrix_grid(x)
        rows, C, _, _, height, parts = shape
        partial = self._workspace(12 * C * parts)
        self.launch("batchnorm", "batchnorm_moments", x.dtype, blocks, x, partial, *shape)
        self.launch(
            "batchnorm",
            "batchnorm_merge",
            x.dtype,
            min(C, MOST_BLOCKS),
            partial,
            mean,
            rstd,
            rows,
            C,
            height,
            parts,
            float(eps),
        )
        self.launch("batchnorm", "batchnorm_forward", x.dtype, blocks, x, y, mean, rstd, *shape)

    @checked
    def batchnorm_backward(self, dy, y, rstd, dx):
        checks.batchnorm("batchnorm_backward", y, (dy, dx), rstd)
        blocks, shape = _matrix_grid(y)
        rows, C, parts = shape[0], shape[1], shape[-1]
        both = self._workspace(8 * C + 8 * C * parts)
        means, partial = both[: 8 * C], both[8 * C :]
        self.launch(
            "channelwise", "scale_backward", y.dtype, blocks, dy, y, rstd, y, partial, *shape, 0
        )  # the sums alone
        self.launch(
            "batchnorm",
            "batchnorm_means",
            y.dtype,
            min(2 * C, MOST_BLOCKS),
            partial,
            means,
            rows,
            C,
            parts,
        )
        self.launch(
            "batchnorm", "batchnorm_backward", y.dtype, blocks, dy, y, rstd, means, dx, *shape
        )

    @checked
    def batchnorm_running(
        self, mean, rstd, running_mean, running_var, weight, count, fraction, eps, clock
    ):
        for array in (rstd, running_mean, running_var):
            checks.shape("batchnorm_running", array, mean.shape)
        C = len(mean)
        self.launch(
            "batchnorm",
            "batchnorm_running",
            np.float32,
            blocks_for(C),
            mean,
            rstd,
            running_mean,
            running_var,
            weight,
            C,
            count,
            float(fraction),
            float(eps),
            clock,
        )

    @checked
    def batchnorm_inference(self, x, y, running_mean, running_var, weight, eps):
        checks.channels("batchnorm_inference", x, (y,), running_mean, running_var)
        blocks, shape = _matrix_grid(x)
        self.launch(
            "batchnorm",
            "batchnorm_inference",
            x.dtype,
            blocks,
            x,
            y,
            running_mean,
            running_var,
            weight,
            *shape,
            float(eps),
            self._fault,
        )

    @checked
    def scale_forward(self, x, scale, shift, y):
        self._channelwise("scale_forward", x, y, scale, shift)

    @checked
    def scale_backward(self, dy, x, scale, dx, dscale, dshift):
        self._channel_gradients("scale_backward", dy, x, scale, dx, dscale, dshift)

    def _channelwise(self, name, x, y, *parameters) -> None:
        checks.channels(name, x, (y,), *parameters)
        blocks, shape = _matrix_grid(x)
        self.launch("channelwise", name, x.dtype, blocks, x, *parameters, y, *shape)

    def _channel_gradients(self, name, dy, x, parameter, dx, *gradients) -> None:
        checks.channels(name, x, (dy, dx), parameter, *gradients)
        blocks, shape = _matrix_grid(x)
        C, parts = shape[1], shape[-1]
        partial = self._workspace(8 * C * parts)
        self.launch(
            "channelwise",
            name,
            x.dtype,
            blocks,
            dy,
            x,
            parameter,
            x if dx is None else dx,
            partial,
            *shape,
            int(dx is not None),
        )
        for number, sums in enumerate(gradients):
            self._merge_sums(partial[4 * number * C * parts :], sums, C, parts)

    # -- losses -----------------------------------------------------------------------------------

    @checked
    def softmax(self, scores, prob):
        N, K = _classes("softmax", scores, prob)
        self.launch("loss", "softmax", scores.dtype, blocks_for(32 * N), scores, prob, N, K)

    @checked
    def softmax_loss_forward(self, scores, labels, prob, clock, smoothing=0.0, weights=None):
        name = "softmax_loss_forward"
        checks.smoothing(name, smoothing)
        checks.weights(name, weights, scores)
        of_classes = prob if weights is None else weights, int(weights is not None)
        self._loss(name, scores, labels, prob, clock, float(smoothing), *of_classes)

    @checked
    def softmax_loss_backward(self, prob, labels, dscores, weight, smoothing=0.0, weights=None):
        name = "softmax_loss_backward"
        checks.smoothing(name, smoothing)
        checks.weights(name, weights, prob)
        of_classes = prob if weights is None else weights, int(weights is not None)
        self._dscores(name, prob, labels, dscores, weight, float(smoothing), *of_classes)

    @checked
    def distillation_loss_forward(
        self, scores, labels, prob, clock, values, share, temperature, student_temperature
    ):
        numbers = float(share), float(temperature), float(student_temperature)
        checks.distillation("distillation_loss_forward", scores, values, *numbers)
        self._loss("distillation_loss_forward", scores, labels, prob, clock, values, *numbers)

    @checked
    def hinge_loss_forward(self, scores, labels, prob, clock):
        self._loss("hinge_loss_forward", scores, labels, prob, clock, 1)

    @checked
    def hinge_loss_backward(self, scores, labels, dscores, weight):
        self._dscores("hinge_loss_backward", scores, labels, dscores, weight, 1)

    @checked
    def squared_hinge_loss_forward(self, scores, labels, prob, clock):
        self._loss("squared_hinge_loss_forward", scores, labels, prob, clock, 2)

    @checked
    def squared_hinge_loss_backward(self, scores, labels, dscores, weight):
        self._dscores("squared_hinge_loss_backward", scores, labels, dscores, weight, 2)

    def _loss(self, name, scores, labels, prob, clock, *options) -> None:
        """options: the share of smoothing and the classes' weights, a teacher's scores and numbers,
        or the norm of a hinge."""
        N, K = _classes(name, scores, prob)
        checks.shape(name, labels, (N,))
        outcomes = self._workspace(16 * N)  # an image's loss, and whether it was classified right
        self.launch(
            "loss",
            name.removeprefix("squared_"),
            scores.dtype,
            blocks_for(32 * N),
            scores,
            labels,
            prob,
            outcomes,
            N,
            K,
            *options,
            self._fault,
        )
        self.launch("loss", "record", scores.dtype, 1, outcomes, N, clock)

    def _dscores(self, name, source, labels, dscores, weight, *options) -> None:
        N, K = _classes(name, source, dscores)
        checks.shape(name, labels, (N,))
        self.launch(
            "loss",
            name.removeprefix("squared_"),
            dscores.dtype,
            blocks_for(source.size),
            source,
            labels,
            dscores,
            N,
            K,
            float(weight),
            *options,
            self._fault,
        )

    @checked
    def squared_error_forward(self, scores, values, clock):
        self._value_loss("squared_error_forward", scores, values, clock, 0)

    @checked
    def squared_error_backward(self, scores, values, dscores, weight):
        self._value_slopes("squared_error_backward", scores, values, dscores, weight, 0)

    @checked
    def absolute_error_forward(self, scores, values, clock):
        self._value_loss("absolute_error_forward", scores, values, clock, 1)

    @checked
    def absolute_error_backward(self, scores, values, dscores, weight):
        self._value_slopes("absolute_error_backward", scores, values, dscores, weight, 1)

    @checked
    def binary_cross_entropy_forward(self, scores, values, clock):
        self._value_loss("binary_cross_entropy_forward", scores, values, clock, 2)

    @checked
    def binary_cross_entropy_backward(self, scores, values, dscores, weight):
        self._value_slopes("binary_cross_entropy_backward", scores, values, dscores, weight, 2)

    def _value_loss(self, name, scores, values, clock, kind) -> None:
        """kind: the number of the loss in loss.cu."""
        checks.values(name, scores, values)
        N, outcomes = len(scores), self._workspace(16 * len(scores))
        self.launch(
            "loss",
            "value_loss_forward",
            scores.dtype,
            min(max(N, 1), MOST_BLOCKS),
            scores,
            values,
            outcomes,
            N,
            math.prod(scores.shape[1:]),
            kind,
        )
        self.launch("loss", "record", scores.dtype, 1, outcomes, N, clock)

    def _value_slopes(self, name, scores, values, dscores, weight, kind) -> None:
        checks.values(name, scores, values)
        checks.shape(name, dscores, scores.shape)
        self.launch(
            "loss",
            "value_loss_backward",
            scores.dtype,
            blocks_for(scores.size),
            scores,
            values,
            dscores,
            len(scores),
            math.prod(scores.shape[1:]),
            float(weight),
            kind,
        )

    # -- statistics and initialisation ------------------------------------------------------------

    @checked
    def variance(self, x, groups):
        checks.variance(x, groups)
        blocks, shape = _matrix_grid(x)
        rows, C, _, _, height, parts = shape
        end = 24 * C * parts
        partial = self._workspace(end + 16 * groups)
        result = partial[end : end + 16 * groups].view(np.float64)
        self.launch("variance", "variance_moments", x.dtype, blocks, x, partial, *shape)
        self.launch(
            "variance",
            "variance_merge",
            x.dtype,
            min(groups, MOST_BLOCKS),
            partial,
            result,
            rows,
            C,
            groups,
            height,
            parts,
        )
        mean, variance = self.tohost(result).reshape(2, groups)
        return mean, variance

    def orthonormal(self, rows, cols, key):
        return orthonormal.orthonormal(self, rows, cols, key)

    # -- data -------------------------------------------------------------------------------------

    @checked
    def gather(
        self,
        images,
        labels,
        shift,
        scale,
        mean_image,
        order,
        x,
        y,
        clock,
        seed,
        pad,
        move,
        mirror,
        input_scale,
        augment,
    ):
        N, H, W, C = x.shape
        checks.gather(images, mean_image, order, x, pad, move, mirror)
        checks.shape("gather", y, (N,))
        for array in (labels, shift, scale):
            checks.shape("gather", array, (len(images),))
        if mean_image.size > 1 << 30:
            raise ValueError(f"gather: mean_image {mean_image.shape} has more than 2^30 elements")
        # One thread per 16-byte vector of an image; of many or large images it takes several.
        count = max(N, 1)
        parts = max(min(-(-_vectors(x) // count), MOST_PARTS // count), 1)
        self.launch(
            "gather",
            "gather",
            x.dtype,
            (count, parts),
            images,
            labels,
            shift,
            scale,
            mean_image,
            order,
            x,
            y,
            clock,
            len(images),
            len(order),
            N,
            H,
            W,
            C,
            _signed(seed),
            pad,
            move,
            int(mirror),
            float(input_scale),
            int(bool(augment)),
            int(images.dtype == np.float32),
            self._fault,
        )

    @checked
    def distort(self, x, table, y, clock, background, least):
        checks.distort("distort", x, table, y)
        blocks = blocks_for(math.prod(y.shape[:3]))
        numbers = *x.shape[:3], *y.shape[1:], len(table), float(background), float(least)
        self.launch("distort", "distort", x.dtype, blocks, x, table, y, clock, *numbers)

    # -- optimisation -----------------------------------------------------------------------------

    @checked
    def clip(self, g, limit, clock):
        parts = min(blocks_for(-(-g.size // 32)), MOST_PARTS)
        partial = self._workspace(8 * parts)
        self.launch("optimizer", "clip_sums", g.dtype, parts, g, partial, g.size)
        self.launch("optimizer", "clip_merge", g.dtype, 1, partial, parts, float(limit), clock)

    @checked
    def sgd_step(self, w, g, v, segments, clock, momentum, decay):
        self._update("sgd_step", (w, g, v), segments, clock, float(momentum), float(decay))

    @checked
    def nesterov_step(self, w, g, v, segments, clock, momentum, decay):
        self._update("nesterov_step", (w, g, v), segments, clock, float(momentum), float(decay))

    @checked
    def rmsprop_step(self, w, g, s, segments, clock, rho, delta, decay, floor=0.0):
        numbers = float(rho), float(delta), float(decay), float(floor)
        self._update("rmsprop_step", (w, g, s), segments, clock, *numbers)

    @checked
    def adam_step(
        self, w, g, mean, s, segments, clock, beta1, beta2, delta, decay, decoupled, begun, every
    ):
        checks.updates("adam_step", begun, every)
        numbers = float(beta1), float(beta2), float(delta), float(decay)
        numbers += int(bool(decoupled)), begun, every
        self._update("adam_step", (w, g, mean, s), segments, clock, *numbers, each=1)

    def _update(self, name, arenas, segments, clock, *numbers, each=16) -> None:
        """arenas: w, g and what the optimizer keeps. each: elements that a thread has."""
        w, g, *_ = arenas
        for array in arenas:
            checks.shape(name, array, w.shape)
        self.launch(
            "optimizer",
            name,
            g.dtype,
            blocks_for(-(-w.size // each)),
            *arenas,
            segments,
            clock,
            w.size,
            len(segments),
            *numbers,
            self._fault,
        )

    @checked
    def average(self, w, mean, clock, decay, begun, every):
        checks.updates("average", begun, every)
        checks.shape("average", mean, w.shape)
        self.launch(
            "optimizer",
            "average",
            np.float32,
            blocks_for(w.size),
            w,
            mean,
            clock,
            w.size,
            float(decay),
            begun,
            every,
        )

    @checked
    def accumulate(self, g, total, share, last, clock):
        checks.shape("accumulate", total, g.shape)
        self.launch(
            "optimizer",
            "accumulate",
            g.dtype,
            blocks_for(g.size),
            g,
            total,
            clock,
            g.size,
            float(share),
            int(bool(last)),
        )

    @checked
    def max_norm(self, W, limit, clock):
        checks.limit("max_norm", W, limit)
        rows, F = W.shape
        blocks = min(max(rows, 1), MOST_BLOCKS)
        self.launch("optimizer", "max_norm", np.float32, blocks, W, rows, F, float(limit), clock)

    @checked
    def advance(self, clock, rates):
        checks.rates(rates)
        self.launch("clock", "advance", np.float32, 1, clock, rates, len(rates), self._fault)

    @checked
    def latch(self, own, clock):
        self.launch("clock", "latch", np.float32, 1, own, clock)


def _allocated(allocate, shape, dtype):
    shape = (shape,) if np.ndim(shape) == 0 else tuple(shape)
    for _ in range(2):
        try:
            return allocate(shape, dtype)
        except cupy.cuda.memory.OutOfMemoryError:
            cupy.get_default_memory_pool().free_all_blocks()
        except cupy.cuda.runtime.CUDARuntimeError as error:  # of an allocator without a pool
            if "cudaErrorMemoryAllocation" not in str(error):
                raise
    free, _ = cupy.cuda.runtime.memGetInfo()
    raise MemoryFull("cuda", math.prod(shape) * np.dtype(dtype).itemsize, free)


def _vectors(array, threads: int = 1) -> int:
    """Blocks for so many threads per 16-byte vector of an array."""
    return blocks_for(-(-array.nbytes // ACCESS_BYTES) * threads)


def _rows(x) -> tuple[int, int]:
    """Rows and channels of x (...,C)."""
    return x.size // max(x.shape[-1], 1), x.shape[-1]


def _wide(*arrays) -> bool:
    """Whether a kernel can read rows of channels a vector at a time: `wide` of common.cuh."""
    return all(
        (array.data.ptr | array.shape[-1] * array.itemsize) % ACCESS_BYTES == 0 for array in arrays
    )


def _log2_team(size: int) -> int:
    """2 ** this many threads search a window together."""
    return 3 if size > 4 else 0


def _spread(dx, dy, size, stride) -> int:
    """Blocks for a pooling's backward: one thread per 16-byte vector of a place of dx, all its
    pieces together, or of a row of a window where windows do not overlap."""
    across = dy.shape[2] if stride == size else dx.shape[2]
    nbytes = dx.shape[0] * dx.shape[1] * across * dy.shape[3] * dy.itemsize
    return blocks_for(-(-nbytes // ACCESS_BYTES))


def _pixels(array):
    """(N,F) as images of one pixel, (N,1,1,F)."""
    return array.reshape(array.shape[0], 1, 1, array.shape[1])


def _matrix_grid(x) -> tuple[int, tuple[int, ...]]:
    """Blocks; rows, C, across, tiles, height, parts: how they share a matrix (columns.cuh).

    A part is as high as gives each thread SLAB numbers to sum, or fewer if there are too few blocks
    otherwise; a multiple of 4, which a thread reads at once."""
    C = x.shape[-1]
    rows, vectors = x.size // max(C, 1), -(-C * x.itemsize // ACCESS_BYTES)
    tiles = max(-(-vectors // THREADS), 1)
    across = max(-(-vectors // tiles), 1)
    down = THREADS // across
    fours = min(max(-(-rows * tiles // (4 * down * MATRIX_TASKS)), 1), SLAB // 4)
    height = 4 * fours * down
    parts = -(-rows // height)
    blocks = min(max(tiles * parts, 1), MOST_BLOCKS)
    return blocks, (rows, C, across, tiles, height, parts)


def _windows(x, y) -> tuple[int, ...]:
    """N, H, W, Ho, Wo, C of a pooling; C is that of y."""
    if max(x.shape) >= LONGEST:
        raise ValueError(
            f"pooling: x {x.shape} has {LONGEST} or more along an axis; pool a part of it at a time"
        )
    return (*x.shape[:3], *y.shape[1:])


def _classes(name, scores, result) -> tuple[int, int]:
    """N and K of (N,K) scores and what is computed of them, checked."""
    checks.shape(name, result, scores.shape)
    N, K = scores.shape
    if K < 1:
        raise ValueError(f"{name}: scores {scores.shape} have no classes")
    return N, K


def _signed(seed: int) -> int:
    """A 64-bit seed as a kernel's int64."""
    philox.words(seed, 0, 0, 0, 0, 0)  # no words, but the seed's check
    return int(np.uint64(seed).view(np.int64))


def _dropout(drop, seed, layer, factor=None) -> tuple:
    """Threshold, factor, seed and layer, checked."""
    checks.drop("dropout", drop)
    philox.words(seed, philox.DROPOUT, layer, 0, 0, 0)
    times = 1 / (1 - drop) if factor is None else float(factor)
    return math.floor(drop * 2.0**32), times, _signed(seed), layer
