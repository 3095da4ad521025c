"""A trained net as the teacher of another: what it makes of a batch is what that one is to learn.

The student's data are the teacher's, and so is its batch: a teacher reads net.x, has no backward
pass, and leaves what it says in net.targets["values"], where DistillationLoss and HintLoss look.
Its scores are for the former; for the latter, what one of its layers gives: a hint, which the
beginning of the student learns to give behind a regressor, a layer that is thrown away then.
Romero et al. 2015, "FitNets: hints for thin deep nets".

Read next: engine/run/lock.py.
"""

from collections.abc import Callable
from dataclasses import replace
from math import prod

from engine.cli.settings import Known, Settings
from engine.containers import Container
from engine.data.preprocessing import Preprocessing
from engine.errors import InputError, choose
from engine.layers import Conv, Dropout, Layer, Maxout, Original, Weighted
from engine.losses import DistillationLoss, HintLoss, Loss, SquaredError
from engine.net import Net
from engine.run import checkpoint, weights
from engine.run.files import need
from engine.run.folder import DESCRIPTION


class Teacher:
    """Layers that read a student's input, frozen. shape: of what they say of an image."""

    def __init__(self, layers: list[Layer], ops, in_shape, batch: int, precision: str):
        for layer in layers:
            layer.frozen = True  # so that it has no memory for a backward pass
        self.net = Net(layers, SquaredError(), ops, in_shape, batch, precision=precision)
        self.shape = self.net.out_shape

    def tell(self, net) -> None:
        """Put what it makes of net.x into net.targets["values"]."""
        self.net.resize(net.batch)
        said, values = self.net.chain.forward(net.x, train=False), net.targets["values"]
        values[...] = 0.0  # ... and a sum of one term, which widens what is bfloat16
        net.ops.accumulate(said.reshape(-1), values.reshape(-1), 1.0, False, net.clock)


class Regressor(Conv):
    """A convolution whose kernel is so large that its output has a hint's height, without padding.
    Its weights start in [-0.05, 0.05], and the norms of an output's are at most 0.9."""

    def __init__(self, hint: tuple[int, ...], pieces: int):
        start = Original("uniform", 0.05)
        super().__init__(
            hint[-1], pad=0, pieces=pieces, original=start, name="regressor", max_norm=0.9
        )
        self.hint = hint

    def setup(self, plan, in_shape):
        height, *_ = plan.image(in_shape)
        self.size = height - self.hint[0] + 1
        plan.need(
            self.size >= 1 and in_shape[1] - self.size + 1 == self.hint[1],
            f"the guided layer gives {in_shape}, from which no kernel makes a hint of "
            f"{self.hint}; choose another pair with --hints",
        )
        return super().setup(plan, in_shape)


def beginning(layers: list[Layer], name: str, whose: str) -> list[Layer]:
    """The layers up to the one with weights called `name` and what stands behind it: its
    activation and pooling. InputError, which says whose they are, for a name that is none."""
    names = [layer.name for layer in layers if isinstance(layer, Weighted)]
    first = [layer.name for layer in layers].index(choose(f"layer of {whose}", name, names))
    ends = (Weighted, Container, Dropout)
    behind = (i for i in range(first + 1, len(layers)) if isinstance(layers[i], ends))
    return layers[: next(behind, len(layers))]


def guided(layers: list[Layer], name: str, hint: tuple[int, ...], pieces: int) -> list[Layer]:
    """The student's beginning up to layer `name`, and the regressor: a maxout of as many pieces as
    the teacher's layer. InputError for a hint that is no image."""
    if len(hint) != 3:
        raise InputError(f"a hint of {prod(hint)} numbers: choose a convolution with --hints")
    return [
        *beginning(layers, name, "the student"),
        Regressor(hint, pieces),
        *([Maxout(pieces)] if pieces > 1 else []),
    ]


def taught(
    s: Settings, layers: list[Layer], data, ops, known: Known, build: Callable
) -> tuple[list[Layer], Loss, Teacher]:
    """What learns from the run s.teacher: the net's layers, or with s.hints its beginning, the
    loss, and the teacher. InputError for a teacher that is none of these data.

    build(net, act, classes, dropout, loss, stage): a net's layers."""
    saved = weights.read(s.teacher or "")
    if not saved.settings:
        raise InputError(f"--teacher {s.teacher}: a file of weights alone; give a run's folder")
    t = Settings.from_dict(saved.settings, saved.path, known)
    told, shape = need(saved.data, DESCRIPTION | Preprocessing.SAVED, saved.path), data.in_shape
    own = replace(data.preprocessing, input_scale=s.input_scale)
    if (told["classes"], told["in_shape"]) != (data.classes, list(shape)) or not own.like(
        Preprocessing.restored(told, saved.tensors, shape, t.input_scale, saved.path)
    ):
        raise InputError(
            f"--teacher {s.teacher}: its images are not preprocessed as those of data {data.name} "
            "are; give both runs the same --data, --contrast, --mean-image and --input-scale"
        )
    its = build(t.net, t.act, len(data.classes), t.dropout, t.loss, t.stage)
    loss: Loss = DistillationLoss(1.0, s.temperature, s.student_temperature)
    if not s.hints:
        teacher = Teacher(its, ops, shape, s.shard, s.precision)
    else:
        guides, name = s.hints.split(":")
        its = beginning(its, name, "the teacher")
        teacher, loss = Teacher(its, ops, shape, s.shard, s.precision), HintLoss()
        pieces = next(layer.pieces for layer in teacher.net.weighted() if layer.name == name)
        layers = guided(layers, guides, teacher.shape, pieces)
    checkpoint.restore(saved, teacher.net)
    return layers, loss, teacher
