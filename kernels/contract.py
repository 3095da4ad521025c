"""The table of operations: what has to be known of each before it is called, said once.

Whoever stands between a caller and a device reads it: the checks of device cuda, the rounding of
the reference, the arguments of benches and tests. What an operation computes: reference.py.

Read next: checks.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

ACTIVATION = "activation"  # float32 or, in bf16, bfloat16: all of a call alike
# The arrays, by their names, which have one type in all operations but where one says otherwise.
# An argument without a type is a number; one with several has any of them.
DTYPES: dict[str, Any] = {
    name: dtype
    for dtype, names in (
        (ACTIVATION, "x y z h t dx dy dz dW db dscale dshift dslope g a scores dscores"),
        (
            np.float32,
            "W b w v s total weights values mean rstd prob shift scale mask table mean_image "
            "running_mean running_var",
        ),
        (np.float64, "clock own rates segments"),
        (np.int32, "labels order"),
        (np.uint8, "which"),
        ((np.uint8, np.float32), "images"),
    )
    for name in names.split()
}


@dataclass(frozen=True)
class Operation:
    """arguments: in the order of the signature. dtypes: {array: its type}, see DTYPES.

    written: results, written whole, whatever stood there. updated: read and written. partial:
    written in part. optional: may be None. elementwise: an element of a result depends on the same
    element of the operands, so a result may be an operand's whole array; any other shares no
    memory."""

    arguments: tuple[str, ...]
    written: tuple[str, ...]
    updated: tuple[str, ...]
    partial: tuple[str, ...]
    optional: tuple[str, ...]
    elementwise: bool
    dtypes: dict[str, Any]

    @property
    def changed(self) -> set[str]:
        """All arguments that it may change."""
        return {*self.written, *self.updated, *self.partial}

    def activation(self, name: str) -> bool:
        """Whether argument `name` may be bfloat16."""
        return self.dtypes.get(name) is ACTIVATION


def _op(
    arguments: str,
    written: str = "",
    updated: str = "",
    partial: str = "",
    optional: str = "",
    elementwise: bool = False,
    **dtypes: Any,
) -> Operation:
    names, known = tuple(arguments.split()), DTYPES | dtypes
    return Operation(
        names,
        tuple(written.split()),
        tuple(updated.split()),
        tuple(partial.split()),
        tuple(optional.split()),
        elementwise,
        {name: known[name] for name in names if name in known},
    )


OPERATIONS = {
    "conv_forward": _op("x W b y stride pad groups", "y", optional="b"),
    "conv_backward_data": _op("dy W dx stride pad groups", "dx"),
    "conv_backward_filter": _op("x dy dW db stride pad groups", "dW db", optional="db"),
    "linear_forward": _op("x W b y", "y", optional="b"),
    "linear_backward_data": _op("dy W dx", "dx"),
    "linear_backward_filter": _op("x dy dW db", "dW db", optional="db"),
    "maxout_forward": _op("x y which pieces", "y which"),
    "maxout_backward": _op("dy which dx pieces", "dx"),
    "maxpool_forward": _op("x y which size stride pad", "y which"),
    "maxpool_backward": _op("dy which dx size stride pad", "dx"),
    "fractional_maxpool_forward": _op("x y which overlapping random seed layer clock", "y which"),
    "fractional_maxpool_backward": _op("dy which dx overlapping random seed layer clock", "dx"),
    "maxout_pool_forward": _op("x y which pieces size stride", "y which"),
    "maxout_pool_backward": _op("dy which dx pieces size stride", "dx"),
    "maxout_pool_dropout_forward": _op(
        "x y which pieces size stride drop seed layer clock", "y which"
    ),
    "maxout_pool_dropout_backward": _op("dy which dx pieces size stride drop", "dx"),
    "avgpool_forward": _op("x y size stride", "y"),
    "avgpool_backward": _op("dy dx size stride", "dx"),
    "global_maxpool_forward": _op("x y which", "y which", which=np.int32),
    "global_maxpool_backward": _op("dy which dx", "dx", which=np.int32),
    "global_avgpool_forward": _op("x y", "y"),
    "global_avgpool_backward": _op("dy dx", "dx"),
    "lrn_forward": _op("x y size alpha beta k", "y"),
    "lrn_backward": _op("dy x dx size alpha beta k", "dx"),
    "concat_forward": _op("x y first", partial="y"),
    "concat_backward": _op("dy dx first", "dx"),
    "leaky_forward": _op("x y slope", "y", elementwise=True),
    "leaky_backward": _op("dy y dx slope", "dx", elementwise=True),
    "prelu_forward": _op("x slope y", "y", slope=np.float32),
    "prelu_backward": _op("dy x slope dx dslope", "dx dslope", optional="dx", slope=np.float32),
    "tanh_forward": _op("x y", "y", elementwise=True),
    "tanh_backward": _op("dy y dx", "dx", elementwise=True),
    "sigmoid_forward": _op("x y", "y", elementwise=True),
    "sigmoid_backward": _op("dy y dx", "dx", elementwise=True),
    "dropout_forward": _op("x y drop seed layer clock factor", "y", elementwise=True),
    "dropout_backward": _op("dy dx drop seed layer clock factor", "dx", elementwise=True),
    "channel_mask": _op("mask keep factor seed layer clock", "mask"),
    "add": _op("a b y", "y", elementwise=True, b=ACTIVATION),
    "highway_forward": _op("x z h t y", "h t y"),
    "highway_backward": _op("dy x h t dz dx", "dz dx", optional="dx"),
    "batchnorm_forward": _op("x y mean rstd eps", "y mean rstd"),
    "batchnorm_backward": _op("dy y rstd dx", "dx"),
    "batchnorm_running": _op(
        "mean rstd running_mean running_var weight count fraction eps clock",
        updated="running_mean running_var weight",
        weight=np.float32,
    ),
    "batchnorm_inference": _op("x y running_mean running_var weight eps", "y", weight=np.float32),
    "scale_forward": _op("x scale shift y", "y"),
    "scale_backward": _op("dy x scale dx dscale dshift", "dx dscale dshift", optional="dx"),
    "softmax": _op("scores prob", "prob"),
    "softmax_loss_forward": _op(
        "scores labels prob clock smoothing weights", "prob", "clock", optional="weights"
    ),
    "softmax_loss_backward": _op(
        "prob labels dscores weight smoothing weights", "dscores", optional="weights"
    ),
    "distillation_loss_forward": _op(
        "scores labels prob clock values share temperature student_temperature", "prob", "clock"
    ),
    "hinge_loss_forward": _op("scores labels prob clock", "prob", "clock"),
    "hinge_loss_backward": _op("scores labels dscores weight", "dscores"),
    "squared_hinge_loss_forward": _op("scores labels prob clock", "prob", "clock"),
    "squared_hinge_loss_backward": _op("scores labels dscores weight", "dscores"),
    "squared_error_forward": _op("scores values clock", updated="clock"),
    "squared_error_backward": _op("scores values dscores weight", "dscores"),
    "absolute_error_forward": _op("scores values clock", updated="clock"),
    "absolute_error_backward": _op("scores values dscores weight", "dscores"),
    "binary_cross_entropy_forward": _op("scores values clock", updated="clock"),
    "binary_cross_entropy_backward": _op("scores values dscores weight", "dscores"),
    "variance": _op("x groups"),
    "orthonormal": _op("rows cols key"),
    "gather": _op(
        "images labels shift scale mean_image order x y clock seed pad move mirror "
        "input_scale augment",
        "x y",
        y=np.int32,
    ),
    "distort": _op("x table y clock background least", "y"),
    "clip": _op("g limit clock", updated="clock"),
    "sgd_step": _op("w g v segments clock momentum decay", updated="w v"),
    "nesterov_step": _op("w g v segments clock momentum decay", updated="w v"),
    "rmsprop_step": _op("w g s segments clock rho delta decay floor", updated="w s"),
    "adam_step": _op(
        "w g mean s segments clock beta1 beta2 delta decay decoupled begun every",
        updated="w mean s",
    ),
    "average": _op("w mean clock decay begun every", updated="mean"),
    "accumulate": _op("g total share last clock", updated="g total"),
    "max_norm": _op("W limit clock", updated="W"),
    "advance": _op("clock rates", updated="clock"),
    "latch": _op("own clock", updated="own clock"),
}
