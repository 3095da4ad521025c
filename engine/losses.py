"""The losses: softmax with cross-entropy and the one-vs-all hinge ("SVM") of the paper, and what
comes of them by smoothed labels and a squared hinge.

A loss says what it wants to know of an image, its target, when it is set up; reads scores and
target; and leaves its mean, its sums and the count of correct images in the clock. A new one joins
LOSSES. Rows whose label is -1 are padding and count for nothing.

Read next: kernels/reference.py, what the operations mean.
"""

from engine.errors import InputError
from engine.layers import Array, Layer, is_real


class Loss(Layer):
    """What a loss is: `setup` declares its targets by plan.target, `forward(scores)` leaves the
    batch's loss in the clock, `backward(weight)` gives the gradient of `weight` times that loss.

    A row whose target is -1, or nan where it is floating-point, is padding and counts for nothing.
    """

    scores: Array
    counts = True  # whether the clock's CORRECT_SUM is how many images are right

    def forward(self, x, train: bool = True) -> None:
        raise NotImplementedError

    def backward(self, dy: float = 1.0):
        raise NotImplementedError


class ClassLoss(Loss):
    """A loss of scores (classes,) and the number of an image's class."""

    def setup(self, plan, in_shape):
        plan.need(
            len(in_shape) == 1,
            f"the last layer gives {in_shape}; a loss wants (classes,): "
            "end with a Linear, or a global pooling",
        )
        self.ops, self.clock = plan.ops, plan.clock
        self.labels = plan.target("labels", classes=in_shape[0])
        # Rounded to bf16, the probability of a class well learnt would be 1, and its gradient 0.
        self.prob = plan.buffer(in_shape, plan.precise)
        self.dscores = plan.buffer(in_shape)
        return in_shape


class SoftmaxLoss(ClassLoss):
    """Mean over the batch of -log softmax(scores)[label]. Caffe's SoftmaxWithLoss.

    smoothing: in training that share of the label's probability is spread over all classes alike
    (Szegedy et al. 2016)."""

    def __init__(self, smoothing: float = 0.0, name: str | None = None):
        super().__init__(name)
        if not (is_real(smoothing) and 0 <= smoothing < 1):
            raise InputError(f"label smoothing {smoothing!r} must lie in [0, 1)")
        self.smoothing = smoothing

    def forward(self, x, train=True):
        smoothing = self.smoothing if train else 0.0
        self.ops.softmax_loss_forward(x, self.labels, self.prob, self.clock, smoothing)

    def backward(self, dy=1.0):
        self.ops.softmax_loss_backward(self.prob, self.labels, self.dscores, dy, self.smoothing)
        return self.dscores


class HingeLoss(ClassLoss):
    """Mean over the batch of sum_k max(0, 1 - t_k score_k), t = +1 for the label, else -1.

    Caffe's HingeLoss with norm L1: one-vs-all, neither Crammer-Singer nor squared."""

    def forward(self, x, train=True):
        self.scores = x
        self.ops.hinge_loss_forward(x, self.labels, self.prob, self.clock)

    def backward(self, dy=1.0):
        self.ops.hinge_loss_backward(self.scores, self.labels, self.dscores, dy)
        return self.dscores


class SquaredHingeLoss(ClassLoss):
    """Mean over the batch of sum_k max(0, 1 - t_k score_k)^2. Caffe's HingeLoss with norm L2."""

    def forward(self, x, train=True):
        self.scores = x
        self.ops.squared_hinge_loss_forward(x, self.labels, self.prob, self.clock)

    def backward(self, dy=1.0):
        self.ops.squared_hinge_loss_backward(self.scores, self.labels, self.dscores, dy)
        return self.dscores


LOSSES: dict[str, type[Loss]] = {
    "softmax": SoftmaxLoss,
    "svm": HingeLoss,
    "squared-hinge": SquaredHingeLoss,
}


def loss_of(s) -> Loss:
    """The loss that a run's settings name."""
    return SoftmaxLoss(s.smoothing) if s.smoothing else LOSSES[s.loss]()
