"""How near a device comes to the reference: one table of tolerances, and what compares by it.

A float32 device is compared with the reference in float64 by `assert_close(op, got, want)`, with
the tolerance that TOLERANCE gives that operation, for inputs of order one. In bfloat16 both round a
result of almost the same float32 value once, so that they may be a unit apart: up to 2^-7 of it.

Read next: tests/helpers/op_cases.py.
"""

import numpy as np
from ml_dtypes import bfloat16


def gram_error(Q) -> float:
    """max |Q'Q - I| in float64, of columns where Q is tall and of rows where it is wide."""
    wide = Q.astype(np.float64)
    gram = wide.T @ wide if Q.shape[0] >= Q.shape[1] else wide @ wide.T
    return abs(gram - np.eye(len(gram))).max()


# (rtol, atol). Sums over many terms are allowed a few units of float32 rounding a term of the sum;
# what only selects, copies or compares is exact.
TOLERANCE = {
    "conv_forward": (1e-4, 1e-4),
    "conv_backward_data": (1e-4, 1e-4),
    "conv_backward_filter": (1e-4, 5e-4),
    "linear_forward": (1e-4, 1e-4),
    "linear_backward_data": (1e-4, 1e-4),
    "linear_backward_filter": (1e-4, 5e-4),
    "maxout_forward": (0, 0),
    "maxout_backward": (0, 0),
    "maxpool_forward": (0, 0),
    "maxpool_backward": (1e-6, 1e-6),
    "fractional_maxpool_forward": (0, 0),
    "fractional_maxpool_backward": (1e-6, 1e-6),
    "avgpool_forward": (1e-5, 1e-6),
    "avgpool_backward": (1e-5, 1e-6),
    "global_maxpool_forward": (0, 0),
    "global_maxpool_backward": (0, 0),
    "global_avgpool_forward": (1e-5, 1e-6),
    "global_avgpool_backward": (1e-6, 0),
    "lrn_forward": (2e-6, 1e-6),
    "lrn_backward": (1e-5, 1e-5),
    "concat_forward": (0, 0),
    "concat_backward": (0, 0),
    "maxout_pool_forward": (0, 0),
    "maxout_pool_backward": (1e-6, 1e-6),
    "maxout_pool_dropout_forward": (1e-6, 0),
    "maxout_pool_dropout_backward": (1e-6, 1e-6),
    "leaky_forward": (1e-6, 1e-7),
    "leaky_backward": (1e-6, 1e-7),
    "prelu_forward": (1e-6, 1e-7),
    "prelu_backward": (1e-4, 2e-5),
    "tanh_forward": (2e-6, 1e-6),
    "tanh_backward": (1e-5, 2e-6),
    "sigmoid_forward": (2e-6, 1e-6),
    "sigmoid_backward": (1e-5, 2e-6),
    "highway_forward": (2e-6, 2e-6),
    "highway_backward": (1e-5, 2e-6),
    "dropout_forward": (1e-6, 0),
    "dropout_backward": (1e-6, 0),
    "channel_mask": (0, 0),
    "add": (1e-6, 1e-6),
    "batchnorm_forward": (1e-5, 1e-5),
    "batchnorm_backward": (1e-4, 2e-5),
    "batchnorm_running": (1e-5, 1e-6),
    "batchnorm_inference": (1e-5, 1e-5),
    "scale_forward": (1e-5, 1e-6),
    "scale_backward": (1e-4, 2e-5),
    "softmax": (1e-5, 1e-6),
    "softmax_loss_forward": (1e-5, 1e-6),
    "softmax_loss_backward": (1e-5, 1e-6),
    "hinge_loss_forward": (1e-5, 1e-6),
    "hinge_loss_backward": (1e-6, 0),
    "distillation_loss_forward": (1e-5, 1e-6),
    "squared_hinge_loss_forward": (1e-5, 1e-6),
    "squared_hinge_loss_backward": (1e-5, 1e-6),
    "squared_error_forward": (1e-5, 1e-6),
    "squared_error_backward": (1e-5, 1e-6),
    "absolute_error_forward": (1e-5, 1e-6),
    "absolute_error_backward": (1e-6, 0),
    "binary_cross_entropy_forward": (1e-5, 1e-6),
    "binary_cross_entropy_backward": (1e-5, 1e-9),
    "variance": (1e-6, 1e-12),
    "orthonormal": (0, 1e-6),
    "gather": (1e-5, 1e-5),
    "distort": (1e-4, 1e-4),
    "clip": (1e-6, 0),
    "sgd_step": (1e-5, 1e-6),
    "nesterov_step": (1e-5, 1e-6),
    "rmsprop_step": (1e-5, 1e-6),
    "adam_step": (1e-5, 1e-6),
    "average": (1e-5, 1e-6),
    "accumulate": (1e-5, 1e-6),
    "max_norm": (1e-6, 0),
    "advance": (0, 0),
    "latch": (0, 0),
}


def assert_close(op: str, got, want) -> None:
    """`got` equals `want` within the tolerance of operation `op`."""
    rtol, atol = TOLERANCE[op]
    if got.dtype == bfloat16:
        got, want = got.astype(np.float32), want.astype(np.float32)
        rtol = 2.0**-7 if rtol or atol else 0
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol, err_msg=op)
