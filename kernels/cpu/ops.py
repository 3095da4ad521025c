"""Device cpu: the operations of kernels/reference.py, one call into the native extension a method.

What an operation means stands in the reference. Different here: arrays are float32, or bfloat16
where the contract has activations and gradients (uint8 and int32 where it says so), contiguous,
aligned, and have exactly the shapes that the contract names; an array or a number out of that
contract is a ValueError that names the value, before memory is touched, and a value of another
Python type is pybind11's TypeError. A result shares no memory with another argument; only that of
an activation, a dropout, a sum or their gradients may be an operand's very array. The fully
connected layer and the convolutions that winograd.cpp does not take are oneDNN's, everything else
is our own, in native/.

Read next: native/module.cpp.
"""

from __future__ import annotations

from kernels.cpu import _native
from kernels.reference import NumpyOps


class CpuOps(NumpyOps):
    """Every operation, on NumPy arrays, by our own kernels and oneDNN's."""

    name = "cpu"
    precisions = NumpyOps.precisions if _native.has_bf16() else {"fp32": None}

    def __init__(self, threads: int | None = None, direct: bool = False):
        """threads: OpenMP threads of every kernel that the calling Python thread starts, in this
        and any other CpuOps; None leaves its count as it is. Other Python threads keep OpenMP's.
        direct: every convolution by oneDNN, to compare with.
        """
        if threads is not None:
            _native.set_threads(threads)
        self._convolutions = _native.Convolutions(direct)

    @property
    def threads(self) -> int:
        """OpenMP threads of the kernels that the calling thread starts."""
        return _native.threads()

    @property
    def description(self) -> str:
        """One line for the user."""
        count = self.threads
        threads = f"{count} thread" + ("s" if count != 1 else "")
        return f"oneDNN {_native.onednn()}, {threads}, {_native.instructions()}"

    def plans(self) -> dict[str, str]:
        return self._convolutions.plans()

    # -- convolution ------------------------------------------------------------------------------

    def conv_forward(self, x, W, b, y, stride, pad, groups):
        self._convolutions.conv_forward(x, W, b, y, stride, pad, groups)

    def conv_backward_data(self, dy, W, dx, stride, pad, groups):
        self._convolutions.conv_backward_data(dy, W, dx, stride, pad, groups)

    def conv_backward_filter(self, x, dy, dW, db, stride, pad, groups):
        self._convolutions.conv_backward_filter(x, dy, dW, db, stride, pad, groups)

    # -- fully connected --------------------------------------------------------------------------

    def linear_forward(self, x, W, b, y):
        _native.linear_forward(x, W, b, y)

    def linear_backward_data(self, dy, W, dx):
        _native.linear_backward_data(dy, W, dx)

    def linear_backward_filter(self, x, dy, dW, db):
        _native.linear_backward_filter(x, dy, dW, db)

    # -- maxout and pooling -----------------------------------------------------------------------

    def maxout_forward(self, x, y, which, pieces):
        _native.maxout_forward(x, y, which, pieces)

    def maxout_backward(self, dy, which, dx, pieces):
        _native.maxout_backward(dy, which, dx, pieces)

    def maxpool_forward(self, x, y, which, size, stride, pad):
        _native.maxpool_forward(x, y, which, size, stride, pad)

    def maxpool_backward(self, dy, which, dx, size, stride, pad):
        _native.maxpool_backward(dy, which, dx, size, stride, pad)

    def maxout_pool_forward(self, x, y, which, pieces, size, stride):
        _native.maxout_pool_forward(x, y, which, pieces, size, stride)

    def maxout_pool_backward(self, dy, which, dx, pieces, size, stride):
        _native.maxout_pool_backward(dy, which, dx, pieces, size, stride)

    def maxout_pool_dropout_forward(self, x, y, which, pieces, size, stride, drop, seed, layer,
                                    clock):
        _native.maxout_pool_dropout_forward(x, y, which, pieces, size, stride, drop, seed, layer,
                                            clock)

    def maxout_pool_dropout_backward(self, dy, which, dx, pieces, size, stride, drop):
        _native.maxout_pool_dropout_backward(dy, which, dx, pieces, size, stride, drop)

    def avgpool_forward(self, x, y, size, stride):
        _native.avgpool_forward(x, y, size, stride)

    def avgpool_backward(self, dy, dx, size, stride):
        _native.avgpool_backward(dy, dx, size, stride)

    def global_maxpool_forward(self, x, y, which):
        _native.global_maxpool_forward(x, y, which)

    def global_maxpool_backward(self, dy, which, dx):
        _native.global_maxpool_backward(dy, which, dx)

    def global_avgpool_forward(self, x, y):
        _native.global_avgpool_forward(x, y)

    def global_avgpool_backward(self, dy, dx):
        _native.global_avgpool_backward(dy, dx)

    # -- normalisation across channels, and concatenation -----------------------------------------

    def lrn_forward(self, x, y, size, alpha, beta, k):
        _native.lrn_forward(x, y, size, alpha, beta, k)

    def lrn_backward(self, dy, x, dx, size, alpha, beta, k):
        _native.lrn_backward(dy, x, dx, size, alpha, beta, k)

    def concat_forward(self, x, y, first):
        _native.concat_forward(x, y, first)

    def concat_backward(self, dy, dx, first):
        _native.concat_backward(dy, dx, first)

    # -- activations ------------------------------------------------------------------------------

    def leaky_forward(self, x, y, slope):
        _native.leaky_forward(x, y, slope)

    def leaky_backward(self, dy, y, dx, slope):
        _native.leaky_backward(dy, y, dx, slope)

    def prelu_forward(self, x, slope, y):
        _native.prelu_forward(x, slope, y)

    def prelu_backward(self, dy, x, slope, dx, dslope):
        _native.prelu_backward(dy, x, slope, dx, dslope)

    def tanh_forward(self, x, y):
        _native.tanh_forward(x, y)

    def tanh_backward(self, dy, y, dx):
        _native.tanh_backward(dy, y, dx)

    def sigmoid_forward(self, x, y):
        _native.sigmoid_forward(x, y)

    def sigmoid_backward(self, dy, y, dx):
        _native.sigmoid_backward(dy, y, dx)

    # -- dropout and sum --------------------------------------------------------------------------

    def dropout_forward(self, x, y, drop, seed, layer, clock):
        _native.dropout_forward(x, y, drop, seed, layer, clock)

    def dropout_backward(self, dy, dx, drop, seed, layer, clock):
        _native.dropout_backward(dy, dx, drop, seed, layer, clock)

    def add(self, a, b, y):
        _native.add(a, b, y)

    # -- batch normalisation ----------------------------------------------------------------------

    def batchnorm_forward(self, x, y, mean, rstd, eps):
        _native.batchnorm_forward(x, y, mean, rstd, eps)

    def batchnorm_backward(self, dy, y, rstd, dx):
        _native.batchnorm_backward(dy, y, rstd, dx)

    def batchnorm_running(self, mean, rstd, running_mean, running_var, weight, count, fraction,
                          eps, clock):
        _native.batchnorm_running(mean, rstd, running_mean, running_var, weight, count, fraction,
                                  eps, clock)

    def batchnorm_inference(self, x, y, running_mean, running_var, weight, eps):
        _native.batchnorm_inference(x, y, running_mean, running_var, weight, eps)

    def scale_forward(self, x, scale, shift, y):
        _native.scale_forward(x, scale, shift, y)

    def scale_backward(self, dy, x, scale, dx, dscale, dshift):
        _native.scale_backward(dy, x, scale, dx, dscale, dshift)

    # -- losses -----------------------------------------------------------------------------------

    def softmax(self, scores, prob):
        _native.softmax(scores, prob)

    def softmax_loss_forward(self, scores, labels, prob, clock, smoothing=0.0):
        _native.softmax_loss_forward(scores, labels, prob, clock, smoothing)

    def softmax_loss_backward(self, prob, labels, dscores, weight, smoothing=0.0):
        _native.softmax_loss_backward(prob, labels, dscores, weight, smoothing)

    def hinge_loss_forward(self, scores, labels, prob, clock):
        _native.hinge_loss_forward(scores, labels, prob, clock)

    def hinge_loss_backward(self, scores, labels, dscores, weight):
        _native.hinge_loss_backward(scores, labels, dscores, weight)

    def squared_hinge_loss_forward(self, scores, labels, prob, clock):
        _native.squared_hinge_loss_forward(scores, labels, prob, clock)

    def squared_hinge_loss_backward(self, scores, labels, dscores, weight):
        _native.squared_hinge_loss_backward(scores, labels, dscores, weight)

    # -- statistics and data ----------------------------------------------------------------------

    def variance(self, x, groups):
        return _native.variance(x, groups)

    def gather(self, images, labels, shift, scale, mean_image, order, x, y, clock, seed, pad, move,
               mirror, input_scale, augment):
        _native.gather(images, labels, shift, scale, mean_image, order, x, y, clock, seed, pad,
                       move, mirror, input_scale, augment)

    # -- initialisation ---------------------------------------------------------------------------

    def orthonormal(self, rows, cols, key):
        return _native.orthonormal(rows, cols, *key)

    # -- optimisation -----------------------------------------------------------------------------

    def clip(self, g, limit, clock):
        _native.clip(g, limit, clock)

    def sgd_step(self, w, g, v, segments, clock, momentum, decay):
        _native.sgd_step(w, g, v, segments, clock, momentum, decay)

    def nesterov_step(self, w, g, v, segments, clock, momentum, decay):
        _native.nesterov_step(w, g, v, segments, clock, momentum, decay)

    def rmsprop_step(self, w, g, s, segments, clock, rho, delta, decay):
        _native.rmsprop_step(w, g, s, segments, clock, rho, delta, decay)

    def advance(self, clock, rates):
        _native.advance(clock, rates)

    def latch(self, own, clock):
        _native.latch(own, clock)
