"""What every operation means, in plain NumPy: the contract of all devices, and the manual.

`NumpyOps` is the oracle of the tests and the device of last resort. Other devices subclass it and
override methods, never signatures; what their docstrings don't say is said here. The rules that
hold for all of them:

* Every result goes into a buffer that the caller hands over; inputs are never changed. A result
  shares no memory with another argument; only where each element of it depends on the same element
  of the operands (leaky, tanh, sigmoid, dropout, `add`) may it be an operand's whole array.
* Activations are NHWC and contiguous, weights KRSC: (outputs, height, width, inputs).
* Backward stands directly under forward, same argument names with a `d` in front.
* Where several values tie for the largest, the lowest piece or the first position wins. NaN is
  larger than every number, and the first NaN wins, as in NumPy's max and argmax.
* A label of -1 marks a padding row: it counts in no loss and no sum, and has no gradient.
* `clock` is the small array of kernels/clock.py.
* Outside kernels/ nobody relies on NumPy: an array of a device has shape, dtype, ndim, size,
  itemsize, nbytes and a length, basic slices that are views, reshape and copy; a slice can be set
  to an array of its dtype or a number, and be multiplied in place by a float. `tohost` does the
  rest.

The methods here work in any float dtype, taken from their arrays; gradient checks run in float64.
Activations, their gradients and those of the parameters may be bfloat16 (`--precision bf16`) beside
float32 parameters, statistics and clock: then an operation computes in float32 and rounds each of
its results once (`rounds`). Loops run over taps of a window, pieces, segments, images or the
channels of a mask, never over elements.

Read next: contract.py, the table of operations, and cuda/ops.py, the fastest device.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from numpy.lib.stride_tricks import sliding_window_view

from kernels import checks, philox
from kernels.clock import CLIP, CORRECT_SUM, FINITE, FIRST, LOSS, LOSS_SUM, NORM, RATE, SEEN, STEP
from kernels.contract import OPERATIONS
from kernels.orthonormal import orthonormal
from kernels.regions import edges

ALIGNMENT = 64  # bytes: a cache line, and an AVX-512 register
COLUMN_BYTES = 32 << 20  # the windows of a convolution that are unfolded at one time
TILE = 1 << 16  # elements of a tile of `variance`: in float64 it fits the cache


def rounds(operation):
    """Lets an operation, whose arrays are of one float dtype, take bfloat16 arrays beside float32.

    Those are widened to float32, it runs, and those that it may change (contract.py) are rounded
    back, each once. `W`, the float32 weights of a matmul, is rounded to bfloat16 beforehand: both
    operands of a matmul are bfloat16, and the sum is not.
    """
    signature, changed = inspect.signature(operation), OPERATIONS[operation.__name__].changed

    @functools.wraps(operation)
    def rounded(self, *values, **named):
        if not any(map(_is_bfloat16, (*values, *named.values()))):
            return operation(self, *values, **named)
        named = signature.bind(self, *values, **named).arguments
        del named["self"]
        narrow = {name: value for name, value in named.items() if _is_bfloat16(value)}
        if "W" in named:
            named["W"] = named["W"].astype(bfloat16).astype(np.float32)
        named |= {name: value.astype(np.float32) for name, value in narrow.items()}
        returned = operation(self, **named)
        for name in narrow.keys() & changed:
            narrow[name][...] = named[name]
        return returned

    return rounded


def _is_bfloat16(value) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == bfloat16


class NumpyOps:
    """Every operation, on NumPy arrays."""

    name = "numpy"
    why = ""  # one line on why this device was chosen, set by ops_for
    # What it computes in, and the dtype of activations and gradients (None: the parameters').
    precisions: dict[str, Any] = {"fp32": None, "bf16": bfloat16}

    @property
    def threads(self) -> int | None:
        """CPU threads of the kernels; None where a library chooses them."""
        return None

    @property
    def description(self) -> str:
        """One line for the user."""
        set_ones = (os.environ.get(f"{name}_NUM_THREADS") for name in ("OPENBLAS", "OMP"))
        threads = next(filter(None, set_ones), os.cpu_count())
        return f"NumPy {np.__version__}, BLAS threads {threads}"

    def plans(self) -> dict[str, str]:
        """How each convolution so far was computed, by its shapes, on a device that chooses."""
        return {}

    def prefer(self, plans: dict[str, str]) -> None:
        """Compute convolutions as `plans()` of another run said, on a device that chooses by time:
        so a run goes on with the same bits."""

    def captured(self, step):
        """A function that does what `step()` does, which must be the same work on the same arrays
        every time: a device may record it once and replay it."""
        return step

    # -- memory -----------------------------------------------------------------------------------

    def empty(self, shape, dtype=np.float32) -> np.ndarray:
        """An uninitialised array, 64-byte aligned."""
        return _aligned(np.empty, shape, dtype)

    def zeros(self, shape, dtype=np.float32) -> np.ndarray:
        """An array of zeros, 64-byte aligned."""
        return _aligned(np.zeros, shape, dtype)

    def asarray(self, host) -> np.ndarray:
        """A copy on the device of a host array, same shape and dtype."""
        host = np.asarray(host)
        array = self.empty(host.shape, host.dtype)
        array[...] = host
        return array

    def constant(self, host) -> np.ndarray:
        """`asarray` of values that nobody writes to any more: read-only, and here the host array
        itself where its memory will do, so that a data set is not held twice."""
        host = np.asarray(host)
        fits = host.flags.c_contiguous and host.flags.aligned
        array = host.view() if fits else self.asarray(host)
        array.flags.writeable = False
        return array

    def tohost(self, array) -> np.ndarray:
        """A copy on the host of a device array."""
        return np.array(array)

    def communicator(self, rank, size, told):
        """What carries this device's arrays between `size` processes, of which this is `rank`; None
        where they are the host's. told(function): what rank 0 finds by it, on all."""
        return None

    def synchronize(self) -> None:
        """Wait for the device; here every call has finished when it returns."""

    # -- convolution ------------------------------------------------------------------------------

    @rounds
    def conv_forward(self, x, W, b, y, stride, pad, groups):
        """y[n,i,j,k] = b[k] + sum over r,s,c of x[n, i*stride+r-pad, j*stride+s-pad, c] W[k,r,s,c].

        x (N,H,W,C)  W (K,R,S,C/groups)  b (K,)  y (N,Ho,Wo,K), Ho = (H + 2 pad - R) // stride + 1.
        b may be None: no bias. Group g reads the g-th block of input channels and writes the g-th
        block of outputs. It is a cross-correlation: the filter isn't flipped.
        """
        checks.conv("conv_forward", x, W, y, stride, pad, groups)
        K, R, S, C = W.shape
        for part in _parts(y, R * S * C):
            windows = _windows(x[part], R, S, stride, pad)  # (n,Ho,Wo,R,S,C*groups)
            for inputs, outputs in _groups(C, K, groups):
                columns = windows[..., inputs].reshape(-1, R * S * C)
                product = columns @ W[outputs].reshape(-1, R * S * C).T
                y[part][..., outputs] = product.reshape(*y[part].shape[:3], -1)
        if b is not None:
            y += b

    @rounds
    def conv_backward_data(self, dy, W, dx, stride, pad, groups):
        """dx (N,H,W,C) from dy (N,Ho,Wo,K) and W (K,R,S,C/groups): each tap adds where it read."""
        checks.conv("conv_backward_data", dx, W, dy, stride, pad, groups)
        K, R, S, C = W.shape
        _, H, width, channels = dx.shape
        _, Ho, Wo, _ = dy.shape
        for part in _parts(dy, R * S * C):
            n = len(dy[part])
            padded = np.zeros((n, H + 2 * pad, width + 2 * pad, channels), dx.dtype)
            for inputs, outputs in _groups(C, K, groups):
                columns = (
                    dy[part][..., outputs].reshape(-1, K // groups)
                    @ W[outputs].reshape(-1, R * S * C)
                ).reshape(n, Ho, Wo, R, S, C)
                for r, s in np.ndindex(R, S):
                    rows, cols = _tap(r, Ho, stride), _tap(s, Wo, stride)
                    padded[:, rows, cols, inputs] += columns[:, :, :, r, s]
            dx[part] = padded[:, pad : pad + H, pad : pad + width]

    @rounds
    def conv_backward_filter(self, x, dy, dW, db, stride, pad, groups):
        """dW (K,R,S,C/groups) and db (K,), or None, from x (N,H,W,C) and dy (N,Ho,Wo,K)."""
        checks.conv("conv_backward_filter", x, dW, dy, stride, pad, groups)
        K, R, S, C = dW.shape
        dW[...] = 0
        for part in _parts(dy, R * S * C):
            windows = _windows(x[part], R, S, stride, pad)
            for inputs, outputs in _groups(C, K, groups):
                columns = windows[..., inputs].reshape(-1, R * S * C)
                product = dy[part][..., outputs].reshape(-1, K // groups).T @ columns
                dW[outputs] += product.reshape(-1, R, S, C)
        if db is not None:
            db[...] = _channel_sums(dy)

    # -- fully connected --------------------------------------------------------------------------

    @rounds
    def linear_forward(self, x, W, b, y):
        """y = x W' + b.  x (N,F)  W (K,F)  b (K,) or None  y (N,K)."""
        checks.linear("linear_forward", x, W, y)
        np.matmul(x, W.T, out=y)
        if b is not None:
            y += b

    @rounds
    def linear_backward_data(self, dy, W, dx):
        """dx = dy W.  dy (N,K)  W (K,F)  dx (N,F)."""
        checks.linear("linear_backward_data", dx, W, dy)
        np.matmul(dy, W, out=dx)

    @rounds
    def linear_backward_filter(self, x, dy, dW, db):
        """dW = dy' x, db = the column sums of dy.  x (N,F)  dy (N,K)  dW (K,F)  db (K,) or None."""
        checks.linear("linear_backward_filter", x, dW, dy)
        np.matmul(dy.T, x, out=dW)
        if db is not None:
            db[...] = _channel_sums(dy)

    # -- maxout and pooling -----------------------------------------------------------------------

    @rounds
    def maxout_forward(self, x, y, which, pieces):
        """y = the largest of the pieces, which = its number.  x (...,P*C)  y, which (...,C).

        Piece-major: channel p*C + c of x is piece p of channel c. which is uint8, so P <= 256.
        Goodfellow et al., "Maxout networks" (2013).
        """
        checks.maxout("maxout_forward", x, y, pieces)
        C = y.shape[-1]
        y[...] = x[..., :C]
        which[...] = 0
        for p in range(1, pieces):
            piece = x[..., p * C : (p + 1) * C]
            larger = _beats(piece, y)
            np.copyto(y, piece, where=larger)
            np.copyto(which, np.uint8(p), where=larger)

    @rounds
    def maxout_backward(self, dy, which, dx, pieces):
        """The piece that won receives dy, the others 0.  dy, which (...,C)  dx (...,P*C)."""
        checks.maxout("maxout_backward", dx, dy, pieces)
        C = dy.shape[-1]
        for p in range(pieces):
            dx[..., p * C : (p + 1) * C] = np.where(which == p, dy, 0)

    @rounds
    def maxpool_forward(self, x, y, which, size, stride, pad):
        """The largest of each size x size window.  x (N,H,W,C)  y, which (N,Ho,Wo,C), uint8.

        Caffe's output size, Ho = ceil((H + 2 pad - size) / stride) + 1, less a last window that
        would start beyond the image, in the padding. A window is clipped to the image: padding
        never wins. which = r * size + s, the place in the unclipped window, so size <= 16.
        """
        checks.maxpool("maxpool_forward", x, y, size, stride, pad)
        y[...], which[...] = 0, 0
        untouched = np.ones((1, *y.shape[1:3], 1), bool)
        for r, s in np.ndindex(size, size):
            windows, places = _clipped(r, s, x, y, stride, pad)
            larger = _beats(x[places], y[windows]) | untouched[windows]
            np.copyto(y[windows], x[places], where=larger)
            np.copyto(which[windows], np.uint8(r * size + s), where=larger)
            untouched[windows] = False

    @rounds
    def maxpool_backward(self, dy, which, dx, size, stride, pad):
        """Each dy is added where its window was won.  dy, which (N,Ho,Wo,C)  dx (N,H,W,C)."""
        checks.maxpool("maxpool_backward", dx, dy, size, stride, pad)
        dx[...] = 0
        for r, s in np.ndindex(size, size):
            windows, places = _clipped(r, s, dx, dy, stride, pad)
            dx[places] += np.where(which[windows] == r * size + s, dy[windows], 0)

    @rounds
    def fractional_maxpool_forward(self, x, y, which, overlapping, random, seed, layer, clock):
        """The largest of each window of kernels/regions.py, at most 2 x 2 places: its rows and
        columns begin 1 or 2 apart, drawn for each image anew.  x (N,H,W,C)  y, which (N,Ho,Wo,C).

        which = 2 r + s, the place in the window. Graham, "Fractional max-pooling" (2014).
        """
        checks.fractional("fractional_maxpool_forward", x, y, overlapping)
        y[...], which[...] = 0, 0
        drawn = overlapping, random, seed, layer, clock
        for (r, s), inside, places in _fractional(x, y, *drawn):
            value = x[places]
            larger = inside & (_beats(value, y) | (r + s == 0))
            np.copyto(y, value, where=larger)
            np.copyto(which, np.uint8(2 * r + s), where=larger)

    @rounds
    def fractional_maxpool_backward(self, dy, which, dx, overlapping, random, seed, layer, clock):
        """Each dy is added where its window, drawn again, was won.  dy, which (N,Ho,Wo,C)  dx
        (N,H,W,C)."""
        checks.fractional("fractional_maxpool_backward", dx, dy, overlapping)
        dx[...] = 0
        drawn = overlapping, random, seed, layer, clock
        for (r, s), inside, places in _fractional(dx, dy, *drawn):
            won = inside & (which == 2 * r + s)
            dx[places] += np.where(won, dy, 0)  # of one tap no two windows share a place

    @rounds
    def maxout_pool_forward(self, x, y, which, pieces, size, stride):
        """Max pooling of a maxout, in one: maxout_forward, then maxpool_forward without padding.

        x (N,H,W,P*C)  y, which (N,Ho,Wo,C). which = place * P + piece, place as in maxpool_forward:
        a byte, so P * size^2 <= 256.
        """
        checks.maxout_pool("maxout_pool_forward", x, y, pieces, size, stride)
        C = y.shape[-1]
        _, places = _clipped(0, 0, x, y, stride)
        y[...], which[...] = x[places][..., :C], 0
        for r, s, p in np.ndindex(size, size, pieces):
            windows, places = _clipped(r, s, x, y, stride)
            value = x[places][..., p * C : (p + 1) * C]
            larger = _beats(value, y[windows])
            np.copyto(y[windows], value, where=larger)
            np.copyto(which[windows], np.uint8((r * size + s) * pieces + p), where=larger)

    @rounds
    def maxout_pool_backward(self, dy, which, dx, pieces, size, stride):
        """Each dy goes to the piece and place that won.  dy, which (N,Ho,Wo,C)  dx (N,H,W,P*C)."""
        checks.maxout_pool("maxout_pool_backward", dx, dy, pieces, size, stride)
        C = dy.shape[-1]
        dx[...] = 0
        for r, s, p in np.ndindex(size, size, pieces):
            windows, places = _clipped(r, s, dx, dy, stride)
            won = which[windows] == (r * size + s) * pieces + p
            dx[places][..., p * C : (p + 1) * C] += np.where(won, dy[windows], 0)

    @rounds
    def maxout_pool_dropout_forward(
        self, x, y, which, pieces, size, stride, drop, seed, layer, clock
    ):
        """Dropout of a max pooling of a maxout, in one: maxout_pool_forward, then dropout_forward.

        Arguments and results as in those two, but which = 255 where the element was dropped, so
        that backward draws no words: P * size^2 <= 255.
        """
        op = "maxout_pool_dropout_forward"
        checks.maxout_pool(op, x, y, pieces, size, stride, checks.DROPPED)
        kept = _kept(op, y.size, drop, seed, layer, clock).reshape(y.shape)
        self.maxout_pool_forward(x, y, which, pieces, size, stride)
        y[...] = np.where(kept, y * (1 / (1 - drop)), 0)
        which[~kept] = checks.DROPPED

    @rounds
    def maxout_pool_dropout_backward(self, dy, which, dx, pieces, size, stride, drop):
        """Each dy that was not dropped, times 1 / (1 - drop), is added to the piece and place that
        won.  dy, which (N,Ho,Wo,C)  dx (N,H,W,P*C)."""
        op = "maxout_pool_dropout_backward"
        checks.maxout_pool(op, dx, dy, pieces, size, stride, checks.DROPPED)
        checks.drop(op, drop)
        self.maxout_pool_backward(dy * (1 / (1 - drop)), which, dx, pieces, size, stride)

    @rounds
    def avgpool_forward(self, x, y, size, stride):
        """The mean of each size x size window.  x (N,H,W,C)  y (N,Ho,Wo,C).

        Sizes and clipping as in maxpool_forward without padding: the mean is that of the places
        inside the image, as in Caffe, whose divisor counts the places in image and padding.
        """
        checks.avgpool("avgpool_forward", x, y, size, stride)
        y[...] = 0
        for r, s in np.ndindex(size, size):
            windows, places = _clipped(r, s, x, y, stride)
            y[windows] += x[places]
        y /= _window_sizes(x, y, size, stride)

    @rounds
    def avgpool_backward(self, dy, dx, size, stride):
        """Each place gets its share of all windows that it is in.  dy (N,Ho,Wo,C)  dx (N,H,W,C)."""
        checks.avgpool("avgpool_backward", dx, dy, size, stride)
        share = dy / _window_sizes(dx, dy, size, stride)
        dx[...] = 0
        for r, s in np.ndindex(size, size):
            windows, places = _clipped(r, s, dx, dy, stride)
            dx[places] += share[windows]

    @rounds
    def global_maxpool_forward(self, x, y, which):
        """The largest of each channel of an image.  x (N,H,W,C)  y, which (N,C), which int32.

        which = h * W + w, the winner's place.
        """
        places = checks.places("global_maxpool_forward", x, y)
        which[...] = places.argmax(axis=1)
        y[...] = np.take_along_axis(places, which[:, None].astype(np.int64), 1)[:, 0]

    @rounds
    def global_maxpool_backward(self, dy, which, dx):
        """The place that won receives dy, the others 0.  dy, which (N,C)  dx (N,H,W,C)."""
        places = checks.places("global_maxpool_backward", dx, dy)
        won = which[:, None] == np.arange(places.shape[1])[:, None]
        dx[...] = np.where(won, dy[:, None], 0).reshape(dx.shape)

    @rounds
    def global_avgpool_forward(self, x, y):
        """The mean of each channel of an image.  x (N,H,W,C)  y (N,C)."""
        y[...] = checks.places("global_avgpool_forward", x, y).mean(axis=1, dtype=np.float64)

    @rounds
    def global_avgpool_backward(self, dy, dx):
        """Each of the H W places gets the same share.  dy (N,C)  dx (N,H,W,C)."""
        count = checks.places("global_avgpool_backward", dx, dy).shape[1]
        dx[...] = (dy / count)[:, None, None]

    # -- normalisation across channels, and concatenation -----------------------------------------

    @rounds
    def lrn_forward(self, x, y, size, alpha, beta, k):
        """y = x / S^beta, S = k + alpha / size * (sum of x^2 over `size` channels around its own).

        Local response normalisation across channels (Krizhevsky et al. 2012, with Caffe's division
        of alpha by size); x, y (...,C). size is odd; channels that do not exist add nothing.
        """
        checks.lrn("lrn_forward", x, y, size, alpha, k)
        y[...] = x * _lrn_sums(x, size, alpha, k) ** -beta

    @rounds
    def lrn_backward(self, dy, x, dx, size, alpha, beta, k):
        """dx = dy / S^beta - 2 alpha beta / size * x * (sum over channels of dy x / S^(beta + 1)).

        S is computed again from x: that is fewer bytes than keeping it would move.
        """
        checks.lrn("lrn_backward", x, dx, size, alpha, k)
        checks.shape("lrn_backward", dy, x.shape)
        sums = _lrn_sums(x, size, alpha, k)
        power = sums**-beta
        dx[...] = dy * power
        dx -= (2 * alpha * beta / size) * x * _neighbours(dy * x * power / sums, size)

    def concat_forward(self, x, y, first):
        """Copy x (...,C) to channels first .. first + C - 1 of y; its others stay as they are."""
        y[..., checks.concat("concat_forward", x, y, first)] = x

    def concat_backward(self, dy, dx, first):
        """dx (...,C) = channels first .. first + C - 1 of dy."""
        dx[...] = dy[..., checks.concat("concat_backward", dx, dy, first)]

    # -- activations ------------------------------------------------------------------------------

    @rounds
    def leaky_forward(self, x, y, slope):
        """y = x where x > 0, else slope * x. ReLU has slope 0, the paper's VLReLU 0.333."""
        checks.shape("leaky_forward", y, x.shape)
        y[...] = np.where(x > 0, x, slope * x)

    @rounds
    def leaky_backward(self, dy, y, dx, slope):
        """dx = dy where y > 0, else slope * dy: the sign of y is that of x, as slope >= 0."""
        checks.shape("leaky_backward", dx, y.shape)
        dx[...] = np.where(y > 0, dy, slope * dy)

    @rounds
    def prelu_forward(self, x, slope, y):
        """y = x where x > 0, else slope * x, with a slope for each channel.  x (...,C)  slope (C,).

        He et al., "Delving deep into rectifiers" (2015).
        """
        checks.channels("prelu_forward", x, (y,), slope)
        y[...] = np.where(x > 0, x, slope * x)

    @rounds
    def prelu_backward(self, dy, x, slope, dx, dslope):
        """dx = dy where x > 0, else slope * dy; dslope (C,) = the sums of dy * x where x <= 0.

        dx may be None: of the first layer.
        """
        checks.channels("prelu_backward", x, (dy, dx), slope, dslope)
        if dx is not None:
            dx[...] = np.where(x > 0, dy, slope * dy)
        dslope[...] = _channel_sums(np.where(x > 0, 0, dy * x))

    @rounds
    def tanh_forward(self, x, y):
        """y = tanh(x)."""
        checks.shape("tanh_forward", y, x.shape)
        np.tanh(x, out=y)

    @rounds
    def tanh_backward(self, dy, y, dx):
        """dx = dy * (1 - y^2)."""
        checks.shape("tanh_backward", dx, y.shape)
        np.multiply(dy, 1 - y * y, out=dx)

    @rounds
    def sigmoid_forward(self, x, y):
        """y = 1 / (1 + exp(-x)), written with exp(-|x|), which can't overflow."""
        checks.shape("sigmoid_forward", y, x.shape)
        small = np.exp(-np.abs(x))
        np.divide(np.where(x >= 0, 1, small), 1 + small, out=y)

    @rounds
    def sigmoid_backward(self, dy, y, dx):
        """dx = dy * y * (1 - y)."""
        checks.shape("sigmoid_backward", dx, y.shape)
        np.multiply(dy, y * (1 - y), out=dx)

    @rounds
    def highway_forward(self, x, z, h, t, y):
        """y = t h + (1 - t) x, of h = max(zH, 0) and the gate t = 1 / (1 + exp(-zT)), which let
        through and carry.  x, h, t, y (...,C)  z (...,2C) = zH | zT.

        Srivastava, Greff and Schmidhuber, "Highway networks" (2015).
        """
        checks.highway("highway_forward", x, z, h, t, y)
        C = x.shape[-1]
        np.maximum(z[..., :C], 0, out=h)
        small = np.exp(-np.abs(z[..., C:]))
        np.divide(np.where(z[..., C:] >= 0, 1, small), 1 + small, out=t)
        y[...] = t * h + (1 - t) * x

    @rounds
    def highway_backward(self, dy, x, h, t, dz, dx):
        """dz (...,2C) = dy t [h > 0] | dy t (1 - t) (h - x);  dx = dy (1 - t), of the carry alone.

        dx may be None: of the first layer.
        """
        checks.highway("highway_backward", x, dz, dy, h, t, dx)
        C = x.shape[-1]
        dz[..., :C] = np.where(h > 0, dy * t, 0)
        dz[..., C:] = dy * t * (h - x) * (1 - t)
        if dx is not None:
            dx[...] = dy * (1 - t)

    # -- dropout and sum --------------------------------------------------------------------------

    @rounds
    def dropout_forward(self, x, y, drop, seed, layer, clock, factor):
        """An element is dropped with probability `drop`, the kept are multiplied by `factor`;
        inverted dropout's 1 / (1 - drop) spares evaluation a scaling.

        Element i of the flat array is dropped where word i % 4 of the counter (index i // 4, step
        clock[STEP], DROPOUT << 16 | layer) is less than floor(drop * 2**32). Nothing is stored.
        """
        checks.shape("dropout_forward", y, x.shape)
        kept = _kept("dropout", x.size, drop, seed, layer, clock).reshape(x.shape)
        y[...] = np.where(kept, x * factor, 0)

    def dropout_backward(self, dy, dx, drop, seed, layer, clock, factor):
        """The same mask, computed again from the same counters, applied to dy."""
        self.dropout_forward(dy, dx, drop, seed, layer, clock, factor)

    def channel_mask(self, mask, keep, factor, seed, layer, clock):
        """mask (C,) = `factor` for `keep` channels, drawn for the step, and 0 for the others: what
        scale_forward drops whole channels of all images by.

        Channel i is kept where word i % 4 of the counter (index i // 4, step clock[STEP],
        DROPOUT << 16 | layer), times C - i, >> 32, is less than what is left of them.
        """
        checks.mask("channel_mask", mask, keep)
        C, left = len(mask), keep
        step = int(clock[STEP])
        bits = philox.words(seed, philox.DROPOUT, layer, step, 0, -(-C // 4)).reshape(-1).tolist()
        for i in range(C):
            kept = bits[i] * (C - i) >> 32 < left
            mask[i] = factor if kept else 0
            left -= kept

    @rounds
    def add(self, a, b, y):
        """y = a + b: the sum of a residual connection, and of the gradients of a fork."""
        checks.shape("add", y, a.shape)
        np.add(a, b, out=y)

    # -- batch normalisation ----------------------------------------------------------------------

    @rounds
    def batchnorm_forward(self, x, y, mean, rstd, eps):
        """y = (x - mean) * rstd with the statistics of this batch, per channel (last axis).

        mean, rstd (C,) are written; rstd = 1 / sqrt(biased variance + eps). No scale and shift, as
        in the Caffe of the paper. Ioffe and Szegedy, "Batch normalization" (2015).
        """
        checks.batchnorm("batchnorm_forward", x, (y,), mean, rstd)
        count = x.size // x.shape[-1]
        mean[...] = _channel_sums(x) / count
        np.subtract(x, mean, out=y)
        rstd[...] = 1 / np.sqrt(_channel_sums(y * y) / count + eps)
        y *= rstd

    @rounds
    def batchnorm_backward(self, dy, y, rstd, dx):
        """dx = rstd * (dy - mean(dy) - y * mean(dy * y)), means per channel."""
        checks.batchnorm("batchnorm_backward", y, (dy, dx), rstd)
        count = y.size // y.shape[-1]
        along = (_channel_sums(dy * y) / count).astype(y.dtype)
        level = (_channel_sums(dy) / count).astype(y.dtype)
        dx[...] = rstd * (dy - level - y * along)

    def batchnorm_running(
        self, mean, rstd, running_mean, running_var, weight, count, fraction, eps, clock
    ):
        """Add a batch to the running sums, as Caffe does: each sum = fraction * sum + value.

        The values are mean, the unbiased variance (count = N*H*W values a channel) and, for
        weight (1,), 1. Does nothing while clock[FINITE] is 0.
        """
        if clock[FINITE] == 0:
            return
        biased = np.maximum(1 / np.square(rstd.astype(np.float64)) - eps, 0)
        for running, value in (
            (running_mean, mean),
            (weight, 1.0),
            (running_var, biased * (count / max(count - 1, 1))),
        ):
            running *= fraction
            running += value

    @rounds
    def batchnorm_inference(self, x, y, running_mean, running_var, weight, eps):
        """y = (x - mean) / sqrt(variance + eps) with the running sums divided by weight (1,)."""
        checks.shape("batchnorm_inference", y, x.shape)
        if not weight[0] > 0:
            raise ValueError("batchnorm: no running statistics yet; train at least one step first")
        mean, variance = running_mean / weight[0], running_var / weight[0]
        np.subtract(x, mean, out=y)
        y *= 1 / np.sqrt(variance + eps)

    @rounds
    def scale_forward(self, x, scale, shift, y):
        """y = x * scale + shift, both per channel: what batch normalisation may learn besides.

        x (...,C)  scale, shift (C,).
        """
        checks.channels("scale_forward", x, (y,), scale, shift)
        y[...] = x * scale + shift

    @rounds
    def scale_backward(self, dy, x, scale, dx, dscale, dshift):
        """dx = dy * scale; dscale (C,) = the sums of dy * x, dshift (C,) = those of dy.

        dx may be None: of the first layer.
        """
        checks.channels("scale_backward", x, (dy, dx), scale, dscale, dshift)
        if dx is not None:
            dx[...] = dy * scale
        dscale[...] = _channel_sums(dy * x)
        dshift[...] = _channel_sums(dy)

    # -- losses -----------------------------------------------------------------------------------

    @rounds
    def softmax(self, scores, prob):
        """prob[n] = exp(scores[n]) / its sum, both (N,K)."""
        checks.shape("softmax", prob, scores.shape)
        np.exp(scores - scores.max(axis=1, keepdims=True), out=prob)
        prob /= prob.sum(axis=1, keepdims=True)

    @rounds
    def softmax_loss_forward(self, scores, labels, prob, clock, smoothing=0.0, weights=None):
        """The loss, the sum over k of -target[k] log prob[n,k], averaged over the images with a
        label.

        target = (1 - smoothing) * onehot(label) + smoothing / K, 0 <= smoothing < 1; smoothing 0 is
        -log prob[n, label]. Szegedy et al., "Rethinking the Inception architecture" (2015).
        weights (K,), 0 or more: they multiply target, and the mean is over the labels' weights, as
        PyTorch has it; where these sum to 0 the loss is a sum. None: all are 1.
        scores, prob (N,K)  labels (N,) int32. Writes prob and clock[LOSS]; adds to clock[LOSS_SUM],
        clock[CORRECT_SUM] (the first largest score is the label) and clock[SEEN]. A loss, or any
        score of an image with a label, that isn't finite latches clock[FINITE] to 0 and adds
        nothing.
        """
        checks.labels("softmax_loss_forward", labels, scores)
        checks.smoothing("softmax_loss_forward", smoothing)
        checks.weights("softmax_loss_forward", weights, scores)
        self.softmax(scores, prob)
        shifted = scores - scores.max(axis=1, keepdims=True)
        normaliser = np.log(np.exp(shifted).sum(axis=1))
        if weights is not None:
            target, logs = (
                _target(labels, shifted, smoothing, weights),
                shifted - normaliser[:, None],
            )
            return _record(scores, labels, -(target * logs).sum(axis=1), clock, weights)
        truth = np.take_along_axis(shifted, np.maximum(labels, 0)[:, None].astype(np.int64), 1)
        wanted = truth[:, 0]
        if smoothing:
            wanted = (1 - smoothing) * wanted + smoothing * shifted.mean(axis=1)
        _record(scores, labels, normaliser - wanted, clock)

    @rounds
    def softmax_loss_backward(self, prob, labels, dscores, weight, smoothing=0.0, weights=None):
        """dscores = weight * (prob - target) / the number of images with a label; 0 in padding
        rows. With weights, prob times the sum of target, and over the sum of the labels'."""
        checks.shape("softmax_loss_backward", dscores, prob.shape)
        checks.labels("softmax_loss_backward", labels, prob)
        checks.smoothing("softmax_loss_backward", smoothing)
        checks.weights("softmax_loss_backward", weights, prob)
        target = _target(labels, prob, smoothing, weights)
        whole = 1 if weights is None else target.sum(axis=1, keepdims=True)
        count = _sum_of_weights(labels, weights) or 1
        dscores[...] = np.where(labels[:, None] >= 0, weight * (whole * prob - target) / count, 0)

    @rounds
    def distillation_loss_forward(
        self, scores, labels, prob, clock, values, share, temperature, student_temperature
    ):
        """The softmax loss plus `share` times the cross-entropy of softened probabilities, the sum
        over k of -q[n,k] log p[n,k]: q = softmax(values / temperature), of a teacher's scores, and
        p = softmax(scores / student_temperature). Hinton, Vinyals and Dean (2015).

        scores, values, prob (N,K); else as softmax_loss_forward. softmax_loss_backward makes the
        gradient of what is left in prob: softmax(scores) + share / student_temperature * (p - q).
        """
        name = "distillation_loss_forward"
        checks.shape(name, prob, scores.shape)
        checks.labels(name, labels, scores)
        checks.distillation(name, scores, values, share, temperature, student_temperature)
        logs, softer, taught = map(
            _log_softmax, (scores, scores / student_temperature, values / temperature)
        )
        q = np.exp(taught)
        prob[...] = np.exp(logs) + share / student_temperature * (np.exp(softer) - q)
        truth = np.take_along_axis(logs, np.maximum(labels, 0)[:, None].astype(np.int64), 1)
        _record(scores, labels, -truth[:, 0] - share * (q * softer).sum(axis=1), clock)

    @rounds
    def hinge_loss_forward(self, scores, labels, prob, clock):
        """Caffe's L1 hinge, one class against all: the sum over k of max(0, 1 - t s[n,k]).

        t = +1 for the label, else -1. Averaged over the images with a label; the clock as in
        softmax_loss_forward. prob (N,K) is a work buffer: here it holds the margins' losses.
        """
        _, margins = _margins("hinge_loss_forward", scores, labels, prob)
        prob[...] = margins
        _record(scores, labels, prob.sum(axis=1), clock)

    @rounds
    def hinge_loss_backward(self, scores, labels, dscores, weight):
        """dscores = -t * weight / the number of images with a label where 1 - t s > 0, else 0; 0 in
        padding rows."""
        t, margins = _margins("hinge_loss_backward", scores, labels, dscores)
        violated = (margins > 0) & (labels[:, None] >= 0)
        dscores[...] = np.where(violated, -t * (weight / max(_seen(labels), 1)), 0)

    @rounds
    def squared_hinge_loss_forward(self, scores, labels, prob, clock):
        """Caffe's L2 hinge, sum over k of max(0, 1 - t s[n,k])^2; else as hinge_loss_forward."""
        _, margins = _margins("squared_hinge_loss_forward", scores, labels, prob)
        prob[...] = margins * margins
        _record(scores, labels, prob.sum(axis=1), clock)

    @rounds
    def squared_hinge_loss_backward(self, scores, labels, dscores, weight):
        """dscores = -2 t max(0, 1 - t s) * weight / the number of images with a label; 0 in padding
        rows."""
        t, margins = _margins("squared_hinge_loss_backward", scores, labels, dscores)
        slopes = -t * margins * (2 * weight / max(_seen(labels), 1))
        dscores[...] = np.where(labels[:, None] >= 0, slopes, 0)

    @rounds
    def squared_error_forward(self, scores, values, clock):
        """The mean over all elements of (scores - values)^2. scores, values (N,...), at least one
        of an image.

        An image whose first value is NaN is padding. Writes clock[LOSS], adds to clock[LOSS_SUM],
        the sum of the images' means, and clock[SEEN]; a loss that isn't finite latches
        clock[FINITE] to 0 and adds nothing.
        """
        checks.values("squared_error_forward", scores, values)
        _record_values(values, np.square(scores - values), clock)

    @rounds
    def squared_error_backward(self, scores, values, dscores, weight):
        """dscores = 2 (scores - values) * weight / the number of elements; 0 in padding."""
        checks.values("squared_error_backward", scores, values)
        _value_slopes("squared_error_backward", values, 2 * (scores - values), dscores, weight)

    @rounds
    def absolute_error_forward(self, scores, values, clock):
        """The mean over all elements of |scores - values|; else as squared_error_forward."""
        checks.values("absolute_error_forward", scores, values)
        _record_values(values, np.abs(scores - values), clock)

    @rounds
    def absolute_error_backward(self, scores, values, dscores, weight):
        """dscores = the sign of scores - values, 0 where they are equal, * weight / the number of
        elements; 0 in padding."""
        checks.values("absolute_error_backward", scores, values)
        _value_slopes("absolute_error_backward", values, np.sign(scores - values), dscores, weight)

    @rounds
    def binary_cross_entropy_forward(self, scores, values, clock):
        """The mean over all elements of -v log p - (1 - v) log(1 - p), p = 1 / (1 + exp(-score)),
        v in [0, 1] the value: several labels an image. Else as squared_error_forward, and
        clock[CORRECT_SUM] counts the images all of whose scores are above 0 where v is above 1/2,
        and only there.
        """
        checks.values("binary_cross_entropy_forward", scores, values)
        losses = np.maximum(scores, 0) - scores * values + np.log1p(np.exp(-np.abs(scores)))
        _record_values(values, losses, clock, (scores > 0) == (values > 0.5))

    @rounds
    def binary_cross_entropy_backward(self, scores, values, dscores, weight):
        """dscores = (p - v) * weight / the number of elements; 0 in padding. Small ones keep their
        digits."""
        checks.values("binary_cross_entropy_backward", scores, values)
        small = np.exp(-np.abs(scores))
        small /= 1 + small  # the lesser of p and 1 - p
        slopes = np.where(scores > 0, (1 - values) - small, small - values)
        _value_slopes("binary_cross_entropy_backward", values, slopes, dscores, weight)

    # -- statistics and initialisation ------------------------------------------------------------

    def variance(self, x, groups):
        """(mean, variance) of each of the `groups` blocks of the last axis: float64 host arrays.

        Population variance over everything of a block: its channels, all places, all images. One
        read of x: mean and sum of squared deviations (M2) of a tile in float64, merged in order.
        Chan, Golub and LeVeque, "Updating formulae ... for computing sample variances" (1979).
        """
        checks.variance(x, groups)
        channels = x.shape[-1]
        rows = x.reshape(-1, groups, channels // groups)
        height = max(1, TILE // channels)
        count, mean, M2 = 0, np.zeros(groups), np.zeros(groups)
        for start in range(0, len(rows), height):
            tile = rows[start : start + height].astype(np.float64)
            tile_count = tile.shape[0] * tile.shape[2]
            tile_mean = tile.mean(axis=(0, 2))
            tile -= tile_mean[:, None]
            tile_M2 = np.square(tile, out=tile).sum(axis=(0, 2))
            total = count + tile_count
            delta = tile_mean - mean
            mean += delta * (tile_count / total)
            M2 += tile_M2 + delta * delta * (count * tile_count / total)
            count = total
        return mean, M2 / count

    def orthonormal(self, rows, cols, key):
        """A Haar orthonormal matrix (rows, cols) float32; key = (seed, purpose, index).

        Orthonormal columns if rows >= cols, else orthonormal rows. Computed in float64, rounded
        once: max |Q'Q - 1| <= 1e-6. kernels/orthonormal.py tells how.
        """
        return self.asarray(orthonormal(rows, cols, key).astype(np.float32))

    # -- data -------------------------------------------------------------------------------------

    @rounds
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
        """The next batch of a resident data set: cropped, mirrored and normalised.

        images (M,H,W,C) uint8 or, whitened, float32, labels (M,) int32, shift and scale (M,)
        float32, mean_image (H+2pad, W+2pad, C) float32, order (S,N) int32 -> x (N,H,W,C), y (N,)
        int32. Row clock[STEP] - clock[FIRST] of order names the images; -1 is a padding row: zeros,
        label -1.

        A padded image is (u - shift) * scale inside and 0 in its border, less the mean image, times
        input_scale; x[i] is an H x W crop of it. With `augment`, image n = STEP*N + i of the run
        draws w from the counter (index n, step 0, AUGMENT << 16): the crop starts at row
        pad - move + (w0 * (2 move + 1) >> 32), at the column likewise from w1. Without, it is the
        middle. move <= pad.

        mirror, with `augment`: 0 never; 1 where the top bit of w2 is set; 2 where the order says
        so: it then holds checks.MIRRORED + the number of an image that is to be mirrored.
        """
        checks.gather(images, mean_image, order, x, pad, move, mirror)
        step = int(clock[STEP])
        row = step - int(clock[FIRST])
        if not 0 <= row < len(order):
            raise ValueError(
                f"gather: step {step} has no row in the order, which has {len(order)} "
                f"from step {int(clock[FIRST])}; upload the next one"
            )
        told = (order[row] >= checks.MIRRORED) & (mirror == 2)
        numbers = order[row] - told * checks.MIRRORED
        if numbers.max(initial=-1) >= len(images):
            worst = order[row][numbers.argmax()]
            raise ValueError(f"gather: image {worst} of step {step}, but there are {len(images)}")
        N, H, width, _ = x.shape
        w = philox.words(seed, philox.AUGMENT, 0, 0, step * N, N).astype(np.uint64)
        span = np.uint64(2 * move + 1)
        tops = (pad - move + (w[:, 0] * span >> np.uint64(32)).astype(np.int64)).tolist()
        lefts = (pad - move + (w[:, 1] * span >> np.uint64(32)).astype(np.int64)).tolist()
        flips = (told if mirror == 2 else mirror * (w[:, 2] >> np.uint64(31))).tolist()
        canvas = np.zeros(mean_image.shape, x.dtype)
        for i, index in enumerate(numbers.tolist()):
            if index < 0:
                x[i], y[i] = 0, -1
                continue
            top, left, flip = (tops[i], lefts[i], flips[i]) if augment else (pad, pad, 0)
            inside = canvas[pad : pad + H, pad : pad + width]
            np.subtract(images[index], shift[index], out=inside, dtype=x.dtype)
            inside *= scale[index]
            window = slice(top, top + H), slice(left, left + width)
            crop = (canvas[window] - mean_image[window]) * float(input_scale)
            x[i] = crop[:, ::-1] if flip else crop
            y[i] = labels[index]

    @rounds
    def distort(self, x, table, y, clock, background, least):
        """Each image in a field of zeros, under an affine map and with colours of its own.

        x (N,H,W,C)  table (rows, 10 + 3 C) float32  y (N,Fh,Fw,C). Image i has row
        (STEP - FIRST) * N + i, modulo rows: p (2,3), left, top, right, bottom, and q (C,3).

        Place (u, v) of the field, column and row, is 0 unless left <= u < right, top <= v < bottom;
        there it shows the image at the column p[0] . (u, v, 1) and the row p[1] . (u, v, 1), in
        between the four pixels around, less `background`, which lies around the image too. Channel
        c is then q[c] . (1, u, v) brighter; but where all channels are within `least` of 0, they
        are 0.
        """
        checks.distort("distort", x, table, y)
        N, H, W, C = x.shape
        v, u = np.indices(y.shape[1:3]).astype(y.dtype)
        first = (int(clock[STEP]) - int(clock[FIRST])) * N
        for i in range(N):
            row = table[(first + i) % len(table)]
            left, top, right, bottom = row[6:10]
            sx, sy = (p[0] * u + p[1] * v + p[2] for p in row[:6].reshape(2, 3))
            inside = (left <= u) & (u < right) & (top <= v) & (v < bottom)
            inside &= (sx > -1) & (sx < W) & (sy > -1) & (sy < H)
            bordered = np.pad(x[i] - y.dtype.type(background), ((1, 2), (1, 2), (0, 0)))
            sx, sy = np.where(inside, sx, 0), np.where(inside, sy, 0)
            w, h = np.floor(sx).astype(int), np.floor(sy).astype(int)
            across, down = (sx - w)[..., None], (sy - h)[..., None]
            upper, lower = (
                (1 - across) * bordered[h + r, w + 1] + across * bordered[h + r, w + 2]
                for r in (1, 2)
            )
            value = (1 - down) * upper + down * lower
            seen = inside & ~(np.abs(value) <= least).all(axis=-1)
            q = row[10:].reshape(C, 3)
            brighter = q[:, 0] + q[:, 1] * u[..., None] + q[:, 2] * v[..., None]
            y[i] = np.where(seen[..., None], value + brighter, 0)

    # -- optimisation -----------------------------------------------------------------------------

    @rounds
    def clip(self, g, limit, clock):
        """Measure the whole gradient: clock[NORM] = |g|, clock[CLIP] = min(1, limit / |g|).

        g is the flat gradient arena; summed in float64. limit 0 means no clipping. A norm that
        isn't finite latches clock[FINITE] to 0. g is not changed: the update applies the factor.
        """
        norm = math.sqrt(np.square(g, dtype=np.float64).sum())
        clock[NORM] = norm
        clock[CLIP] = limit / norm if 0 < limit < norm < math.inf else 1.0
        if not math.isfinite(norm):
            clock[FINITE] = 0.0

    @rounds
    def sgd_step(self, w, g, v, segments, clock, momentum, decay):
        """Caffe's SGD: v = momentum * v + rate * g', w = w - v, with g' = CLIP * g + decay * w.

        w, g, v: flat arenas. segments (S,4) float64: start, stop, rate multiplier, decay
        multiplier. The rate, clock[RATE], is inside v, so that a smaller rate does not shrink the
        velocity that has built up. Clipping comes before decay. Nothing while clock[FINITE] is 0.
        """
        for part, rate, step in _updates(w, g, segments, clock, decay):
            v[part] = momentum * v[part] + rate * step
            w[part] -= v[part]

    @rounds
    def nesterov_step(self, w, g, v, segments, clock, momentum, decay):
        """Caffe's Nesterov momentum: v' = momentum * v + rate * g', the velocity of sgd_step, but
        w = w - ((1 + momentum) * v' - momentum * v). Sutskever et al., "On the importance of
        initialization and momentum in deep learning" (2013).
        """
        for part, rate, step in _updates(w, g, segments, clock, decay):
            velocity = momentum * v[part] + rate * step
            w[part] -= (1 + momentum) * velocity - momentum * v[part]
            v[part] = velocity

    @rounds
    def rmsprop_step(self, w, g, s, segments, clock, rho, delta, decay, floor=0.0):
        """RMSProp: s = rho * s + (1-rho) * g'^2, w = w - rate * g' / (max(sqrt(s), floor) + delta).

        Caffe has delta and no floor, pylearn2 a floor and no delta."""
        for part, rate, step in _updates(w, g, segments, clock, decay):
            s[part] = rho * s[part] + (1 - rho) * np.square(step)
            w[part] -= rate * step / (np.maximum(np.sqrt(s[part]), floor) + delta)

    @rounds
    def adam_step(
        self, w, g, mean, s, segments, clock, beta1, beta2, delta, decay, decoupled, begun, every
    ):
        """Adam: mean = beta1 * mean + (1-beta1) * g', s = beta2 * s + (1-beta2) * g'^2,
        w = w - rate * mean / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + delta).

        This is update t, from 1 on, of an optimizer that began at step `begun` and makes one in
        `every` steps. decoupled: decay is no part of g', but w shrinks by rate * decay of itself
        (AdamW). Kingma and Ba (2015); Loshchilov and Hutter (2019).
        """
        t = _update_number("adam_step", clock, begun, every)
        within = 0 if decoupled else decay
        parts = _updates(w, g, segments, clock, within)
        for (part, rate, step), row in zip(parts, segments.tolist(), strict=False):
            mean[part] = beta1 * mean[part] + (1 - beta1) * step
            s[part] = beta2 * s[part] + (1 - beta2) * np.square(step)
            root = np.sqrt(s[part] / (1 - beta2**t)) + delta
            shrunk = rate * row[3] * (decay - within) * w[part]
            w[part] -= shrunk + rate / (1 - beta1**t) * mean[part] / root

    def average(self, w, mean, clock, decay, begun, every):
        """Average the weights: mean = mean + share * (w - mean), t as in adam_step.

        share = max(1 - decay, 9 / (10 + t)), so that the first weights are soon forgotten; in
        update 1 it is 1. w, mean: flat arenas. Nothing while clock[FINITE] is 0.
        """
        t = _update_number("average", clock, begun, every)
        checks.shape("average", mean, w.shape)
        if clock[FINITE]:
            mean += (1 if t == 1 else max(1 - decay, 9 / (10 + t))) * (w - mean)

    @rounds
    def accumulate(self, g, total, share, last, clock):
        """total = total + share * g: the gradient of a batch that is computed in parts. With the
        last one g = total, rounded once, and total = 0. Nothing while clock[FINITE] is 0."""
        checks.shape("accumulate", total, g.shape)
        if clock[FINITE]:
            total += share * g
            if last:
                g[...], total[...] = total, 0

    def max_norm(self, W, limit, clock):
        """Rows of W (rows, F) whose 2-norm is above `limit` are scaled to it: w = w * limit / |w|.
        Nothing while clock[FINITE] is 0. Srebro & Shraibman 2005; Goodfellow et al. 2013.
        """
        checks.limit("max_norm", W, limit)
        if clock[FINITE]:
            norm = np.sqrt(np.square(W, dtype=np.float64).sum(axis=1, keepdims=True))
            W *= np.where(norm > limit, limit / np.maximum(norm, limit), 1)

    def advance(self, clock, rates):
        """End a step: STEP += 1 and RATE = the table's rate for it; nothing while FINITE is 0.

        rates (S+1,) float64 starts at clock[FIRST]; past its end the last rate stays.
        """
        checks.rates(rates)
        if clock[FINITE] == 0:
            return
        step, first = int(clock[STEP]) + 1, int(clock[FIRST])
        if step < first:
            raise ValueError(f"advance: step {step} lies before the table's first, {first}")
        clock[STEP] = step
        clock[RATE] = rates[min(step - first, len(rates) - 1)]

    def latch(self, own, clock):
        """clock[FINITE] *= own[FINITE], then own[FINITE] = 1: the clock that an auxiliary
        classifier's loss has to itself latches the net's, and is clear for the next step."""
        clock[FINITE] *= own[FINITE]
        own[FINITE] = 1.0


# -- memory ---------------------------------------------------------------------------------------


def _aligned(allocate, shape, dtype) -> np.ndarray:
    shape = (shape,) if np.ndim(shape) == 0 else tuple(shape)
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    raw = allocate(size + ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    return raw[offset : offset + size].view(dtype).reshape(shape)


# -- windows --------------------------------------------------------------------------------------


def _parts(y, width):
    """Slices of the batch whose unfolded windows, `width` values a place, fit COLUMN_BYTES."""
    N, Ho, Wo, _ = y.shape
    step = max(1, COLUMN_BYTES // (Ho * Wo * width * y.itemsize))
    return [slice(start, min(start + step, N)) for start in range(0, N, step)]


def _groups(C, K, groups):
    """For each group the slices of its C inputs and of its share of the K outputs."""
    k = K // groups
    return [(slice(g * C, (g + 1) * C), slice(g * k, (g + 1) * k)) for g in range(groups)]


def _windows(x, R, S, stride, pad):
    """The (R,S) windows of the zero-padded x (N,H,W,C): a view (N,Ho,Wo,R,S,C)."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))) if pad else x
    windows = sliding_window_view(x, (R, S), axis=(1, 2))[:, ::stride, ::stride]
    return windows.transpose(0, 1, 2, 4, 5, 3)


def _tap(offset, count, stride):
    """The places that tap `offset` of `count` windows reads along one axis."""
    return slice(offset, offset + (count - 1) * stride + 1, stride)


def _clipped(r, s, x, y, stride, pad=0):
    """Which windows of y (N,Ho,Wo,C) have their tap (r, s) inside x (N,H,W,C), and the places that
    it reads there: an index into y and one into x."""
    windows, places = [slice(None)], [slice(None)]
    for offset, length, count in zip((r - pad, s - pad), x.shape[1:3], y.shape[1:3], strict=True):
        first = max(0, -(offset // stride))  # offset + first * stride >= 0
        stop = max(first, min(count, -(-(length - offset) // stride)))
        windows.append(slice(first, stop))
        start = offset + first * stride
        places.append(slice(start, start + (stop - first) * stride, stride))
    return tuple(windows), tuple(places)


def _fractional(x, y, overlapping, random, seed, layer, clock):
    """For each tap (r, s) of the windows of y: which have it, (N,Ho,Wo,1), and an index of the
    places that they read of x, a window's last place where it is narrower."""
    N, *lengths = x.shape[:3]
    drawn = overlapping, random, seed, layer, int(clock[STEP])
    rows, cols = (
        edges(N, axis, length, count, *drawn)
        for axis, (length, count) in enumerate(zip(lengths, y.shape[1:3], strict=True))
    )
    images = np.arange(N)[:, None, None]
    for r, s in np.ndindex(2, 2):
        h, w = rows[:, :, None, 0] + r, cols[:, None, :, 0] + s
        last_h, last_w = rows[:, :, None, 1] - 1, cols[:, None, :, 1] - 1
        inside = (h <= last_h) & (w <= last_w)
        yield (r, s), inside[..., None], (images, np.minimum(h, last_h), np.minimum(w, last_w))


def _window_sizes(x, y, size, stride):
    """How many places of x each window of y has: (1, Ho, Wo, 1) in the dtype of y."""
    rows, cols = (
        np.minimum(size, length - stride * np.arange(count))
        for length, count in zip(x.shape[1:3], y.shape[1:3], strict=True)
    )
    return np.multiply.outer(rows, cols).astype(y.dtype)[None, :, :, None]


def _neighbours(values, size):
    """For each place of the last axis the sum over the `size` places around it."""
    total = values.copy()
    for d in range(1, min(size // 2 + 1, values.shape[-1])):
        total[..., d:] += values[..., :-d]
        total[..., :-d] += values[..., d:]
    return total


def _lrn_sums(x, size, alpha, k):
    """What lrn_forward raises to a power, in the dtype of x."""
    return k + (alpha / size) * _neighbours(x * x, size)


# -- comparisons, sums, losses and updates --------------------------------------------------------


def _beats(value, old):
    """Where `value` takes the place of `old` as the largest: never on a tie, and NaN stays."""
    return ~(old >= value) & (old == old)


def _channel_sums(x):
    """Sums over all axes but the last, in float64: (C,)."""
    return x.reshape(-1, x.shape[-1]).sum(axis=0, dtype=np.float64)


def _kept(op, count, drop, seed, layer, clock):
    """(count,) bool: dropout's mask."""
    checks.drop(op, drop)
    step = int(clock[STEP])
    bits = philox.words(seed, philox.DROPOUT, layer, step, 0, -(-count // 4)).reshape(-1)[:count]
    return bits >= np.uint32(math.floor(drop * 2.0**32))


def _log_softmax(scores):
    """log softmax of each row of scores (N,K)."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _margins(op, scores, labels, result):
    """-> t, which is +1 in the column of the label and -1 elsewhere, and max(0, 1 - t s): (N,K)."""
    checks.shape(op, result, scores.shape)
    checks.labels(op, labels, scores)
    onehot = labels[:, None] == np.arange(scores.shape[1])
    t = np.where(onehot, 1, -1).astype(scores.dtype)
    return t, np.maximum(0, 1 - t * scores)


def _seen(labels) -> int:
    """The number of images with a label."""
    return int((labels >= 0).sum())


def _target(labels, like, smoothing, weights):
    """The softmax loss's target (N,K) in the dtype of `like`, times the classes' weights."""
    onehot = labels[:, None] == np.arange(like.shape[1])
    target = ((1 - smoothing) * onehot + smoothing / like.shape[1]).astype(like.dtype)
    return target if weights is None else target * weights


def _sum_of_weights(labels, weights=None):
    """What a mean over the images with a label divides by: their number, or their weights."""
    kept = labels[labels >= 0]
    return len(kept) if weights is None else float(weights[kept].sum(dtype=np.float64))


def _record(scores, labels, losses, clock, weights=None) -> None:
    """Write a batch's losses (N,) into the clock."""
    labelled = labels >= 0
    # An infinite score of another class can leave the loss finite, but not the weights.
    finite = bool(np.isfinite(scores[labelled]).all())
    total = float(losses[labelled].sum(dtype=np.float64))
    correct = int((scores.argmax(axis=1) == labels)[labelled].sum())
    _add(total, _seen(labels), correct, _sum_of_weights(labels, weights) or 1, finite, clock)


def _add(total, seen, correct, divisor, finite, clock) -> None:
    clock[LOSS] = total / divisor
    if not (math.isfinite(total) and finite):
        clock[FINITE] = 0.0
        return
    clock[LOSS_SUM] += total * (seen / divisor)
    clock[CORRECT_SUM] += correct
    clock[SEEN] += seen


def _images_with_values(values):
    """(N,) bool: those that are no padding."""
    return ~np.isnan(values.reshape(len(values), math.prod(values.shape[1:]))[:, 0])


def _record_values(values, losses, clock, right=None) -> None:
    """Write a batch's losses, one of each value, into the clock; right: whether it is met."""
    kept = _images_with_values(values)
    losses = losses[kept].reshape(kept.sum(), math.prod(values.shape[1:]))
    total = float(losses.mean(axis=1, dtype=np.float64).sum())
    correct = 0 if right is None else int(right[kept].reshape(losses.shape).all(axis=1).sum())
    _add(total, len(losses), correct, max(len(losses), 1), True, clock)


def _value_slopes(op, values, slopes, dscores, weight) -> None:
    checks.shape(op, dscores, values.shape)
    kept = _images_with_values(values)
    count = max(kept.sum(), 1) * math.prod(values.shape[1:])
    dscores[...] = slopes * (weight / count)
    dscores[~kept] = 0


def _update_number(op, clock, begun, every) -> int:
    checks.updates(op, begun, every)
    return max((int(clock[STEP]) - begun) // every, 0) + 1


def _updates(w, g, segments, clock, decay):
    """For each segment its slice, its rate and its gradient, clipped and with weight decay."""
    for row, (start, stop) in enumerate(segments[:, :2].tolist()):
        if not 0 <= start <= stop <= len(w):
            raise ValueError(
                f"segments: row {row} runs from {start:.0f} to {stop:.0f} in an arena of {len(w)}"
            )
    if clock[FINITE] == 0:
        return
    factor, base = float(clock[CLIP]), float(clock[RATE])
    for start, stop, rate, share in segments.tolist():
        part = slice(int(start), int(stop))
        yield part, base * rate, factor * g[part] + decay * share * w[part]
