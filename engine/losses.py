"""The losses: softmax with cross-entropy and the one-vs-all hinge ("SVM") of the paper, what comes
of them by smoothed labels, weights of classes and a squared hinge; and those of values.

A loss says what it wants to know of an image, its target, when it is set up; reads scores and
target; and leaves its mean, its sums and the count of correct images in the clock. A new one of
class labels joins LOSSES. The data sets of the command line have no other targets: the losses of
values are for engine.fit.

Read next: kernels/reference.py, what the operations mean.
"""

from math import inf

import numpy as np

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


def class_weights(weights) -> np.ndarray:
    """(classes,) float64. InputError for what can't be weights."""
    try:
        array = np.array(weights, np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if not (array.ndim == 1 and array.any() and (array >= 0).all() and np.isfinite(array).all()):
        raise InputError(
            f"weights {weights!r:.80}: give each class a number of 0 or more, not 0 to all"
        )
    return array


class SoftmaxLoss(ClassLoss):
    """Mean over the batch of -log softmax(scores)[label]. Caffe's SoftmaxWithLoss.

    smoothing: in training that share of the label's probability is spread over all classes alike
    (Szegedy et al. 2016). weights: (classes,) numbers of 0 or more; an image counts by that of its
    class, as in PyTorch's CrossEntropyLoss, its label_smoothing included."""

    def __init__(self, smoothing: float = 0.0, weights=None, name: str | None = None):
        super().__init__(name)
        if not (is_real(smoothing) and 0 <= smoothing < 1):
            raise InputError(f"label smoothing {smoothing!r} must lie in [0, 1)")
        self.of_classes = None if weights is None else class_weights(weights)
        self.smoothing, self.weights = smoothing, None

    def setup(self, plan, in_shape):
        out_shape = super().setup(plan, in_shape)
        if self.of_classes is not None:
            plan.need(
                self.of_classes.shape == in_shape,
                f"{self.of_classes.size} weights, and the scores are of {in_shape[0]} classes; "
                "give one for each",
            )
            self.weights = plan.ops.constant(self.of_classes.astype(plan.precise))
        return out_shape

    def forward(self, x, train=True):
        smoothing = self.smoothing if train else 0.0
        self.ops.softmax_loss_forward(
            x, self.labels, self.prob, self.clock, smoothing, self.weights
        )

    def backward(self, dy=1.0):
        self.ops.softmax_loss_backward(
            self.prob, self.labels, self.dscores, dy, self.smoothing, self.weights
        )
        return self.dscores


class DistillationLoss(SoftmaxLoss):
    """In training the softmax loss plus `share` times the cross-entropy of the probabilities with a
    teacher's, whose scores are its "values": the teacher's softened by `temperature`, the net's own
    by student_temperature. Outside it is the softmax loss. Romero et al. 2015, equation 2.

    `share` may be changed between two steps; one that was recorded keeps its own."""

    def __init__(
        self,
        share: float = 1.0,
        temperature: float = 3.0,
        student_temperature: float | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        student = temperature if student_temperature is None else student_temperature
        if not (is_real(share) and 0 <= share < inf):
            raise InputError(f"share {share!r} of a teacher must be 0 or more")
        for one in (temperature, student):
            if not (is_real(one) and 0 < one < inf):
                raise InputError(f"temperature {one!r} must be above 0")
        self.share, self.temperature, self.student_temperature = share, temperature, student

    def setup(self, plan, in_shape):
        self.values = plan.target("values", in_shape, np.float32)
        return super().setup(plan, in_shape)

    def forward(self, x, train=True):
        if not train:
            return super().forward(x, train)
        self.ops.distillation_loss_forward(
            x,
            self.labels,
            self.prob,
            self.clock,
            self.values,
            self.share,
            self.temperature,
            self.student_temperature,
        )


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


class ValueLoss(Loss):
    """A loss of scores of any shape and as many "values" of an image, which engine.fit takes as an
    array (N, *shape) of float32. Of padding the first value is nan."""

    operation: str  # of which there is one _forward and one _backward
    limits: tuple[float, float] | None = None  # of the values
    counts = False

    def setup(self, plan, in_shape):
        self.ops, self.clock = plan.ops, plan.clock
        self.values = plan.target("values", in_shape, np.float32, limits=self.limits)
        self.dscores = plan.buffer(in_shape)
        return in_shape

    def forward(self, x, train=True):
        self.scores = x
        getattr(self.ops, f"{self.operation}_forward")(x, self.values, self.clock)

    def backward(self, dy=1.0):
        backward = getattr(self.ops, f"{self.operation}_backward")
        backward(self.scores, self.values, self.dscores, dy)
        return self.dscores


class SquaredError(ValueLoss):
    """Mean over all elements of (score - value)^2: regression, autoencoders."""

    operation = "squared_error"


class HintLoss(SquaredError):
    """Half the squared errors summed over an image's rows, averaged over images, columns and
    channels (H, W, C): its gradient. The loss in the clock is SquaredError, 2 / H times that.
    Romero et al. 2015, equation 3, as in their program."""

    def setup(self, plan, in_shape):
        plan.target("labels")  # which a data set gives with every image
        return super().setup(plan, in_shape)

    def backward(self, dy=1.0):
        return super().backward(dy * self.scores.shape[1] / 2)


class AbsoluteError(ValueLoss):
    """Mean over all elements of |score - value|."""

    operation = "absolute_error"


class BinaryCrossEntropy(ValueLoss):
    """Mean over all elements of -v log p - (1 - v) log(1 - p), p = 1 / (1 + exp(-score)): several
    labels v of 0 or 1 a picture, or what lies between. PyTorch's BCEWithLogitsLoss.

    An image is right when the scores above 0 are those of values above 1/2."""

    operation = "binary_cross_entropy"
    limits = 0.0, 1.0
    counts = True


LOSSES: dict[str, type[Loss]] = {
    "softmax": SoftmaxLoss,
    "svm": HingeLoss,
    "squared-hinge": SquaredHingeLoss,
}


def loss_of(s) -> Loss:
    """The loss that a run's settings name."""
    return SoftmaxLoss(s.smoothing) if s.smoothing else LOSSES[s.loss]()
