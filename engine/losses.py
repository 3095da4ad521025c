"""The two heads of the paper: softmax with cross-entropy, and the one-vs-all L1 hinge ("SVM").

A loss reads the scores and the labels, and leaves its mean, its sums and the count of correct
images in the clock. Rows whose label is -1 are padding and count for nothing.

Read next: engine/optimizers.py.
"""

from engine.layers import Layer


class SoftmaxLoss(Layer):
    """Mean over the batch of -log softmax(scores)[label]. Caffe's SoftmaxWithLoss."""

    def setup(self, plan, in_shape):
        self.ops, self.clock = plan.ops, plan.clock
        # Rounded to bf16, the probability of a class well learnt would be 1, and its gradient 0.
        self.prob = plan.buffer(in_shape, plan.precise)
        self.dscores = plan.buffer(in_shape)
        return in_shape

    def forward(self, scores, labels):
        self.scores, self.labels = scores, labels
        self.ops.softmax_loss_forward(scores, labels, self.prob, self.clock)

    def backward(self, weight: float = 1.0):
        """Gradient of `weight` times the loss, (N, classes)."""
        self.ops.softmax_loss_backward(self.prob, self.labels, self.dscores, weight)
        return self.dscores


class HingeLoss(SoftmaxLoss):
    """Mean over the batch of sum_k max(0, 1 - t_k score_k), t = +1 for the label, else -1.

    Caffe's HingeLoss with norm L1: one-vs-all, neither Crammer-Singer nor squared."""

    def forward(self, scores, labels):
        self.scores, self.labels = scores, labels
        self.ops.hinge_loss_forward(scores, labels, self.prob, self.clock)

    def backward(self, weight: float = 1.0):
        self.ops.hinge_loss_backward(self.scores, self.labels, self.dscores, weight)
        return self.dscores


LOSSES = {"softmax": SoftmaxLoss, "svm": HingeLoss}
