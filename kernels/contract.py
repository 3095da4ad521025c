"""Which arguments of an operation are its results, for whoever stands between a caller and a
device: the checks of device cuda.

Read next: kernels/cuda/arrays.py.
"""

from __future__ import annotations

# Written whole, whatever stood there.
WRITTEN = {
    "batchnorm_forward": ("y", "mean", "rstd"),
    "gather": ("x", "y"),
    "softmax": ("prob",),
    "softmax_loss_forward": ("prob",),
    "hinge_loss_forward": ("prob",),
    "squared_hinge_loss_forward": ("prob",),
    "softmax_loss_backward": ("dscores",),
    "hinge_loss_backward": ("dscores",),
    "squared_hinge_loss_backward": ("dscores",),
    "scale_backward": ("dx", "dscale", "dshift"),
    "prelu_backward": ("dx", "dslope"),
    "global_maxpool_forward": ("y", "which"),
    "conv_backward_filter": ("dW", "db"),
    "linear_backward_filter": ("dW", "db"),
    "maxout_forward": ("y", "which"),
    "maxpool_forward": ("y", "which"),
    "maxout_pool_forward": ("y", "which"),
    "maxout_pool_dropout_forward": ("y", "which"),
    "concat_forward": (),
    "add": ("y",),
    "batchnorm_inference": ("y",),
}
# Read and written, or written in part.
UPDATED = {
    "concat_forward": ("y",),
    "batchnorm_running": ("running_mean", "running_var", "weight"),
    "softmax_loss_forward": ("clock",),
    "hinge_loss_forward": ("clock",),
    "squared_hinge_loss_forward": ("clock",),
    "clip": ("clock",),
    "sgd_step": ("w", "v"),
    "nesterov_step": ("w", "v"),
    "rmsprop_step": ("w", "s"),
    "advance": ("clock",),
    "latch": ("own", "clock"),
}
# Their result may be an operand's whole array.
ELEMENTWISE = {"leaky_forward", "leaky_backward", "tanh_forward", "tanh_backward",
               "sigmoid_forward", "sigmoid_backward", "dropout_forward", "dropout_backward", "add"}


def written(name: str) -> tuple[str, ...]:
    """The arguments that operation `name` writes whole."""
    if name in WRITTEN:
        return WRITTEN[name]
    if name.endswith("_forward"):
        return ("y",)
    return ("dx",) if "_backward" in name else ()


def changed(name: str) -> set[str]:
    """All arguments that it may change."""
    return {*written(name), *UPDATED.get(name, ())}
