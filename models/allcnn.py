"""The all-convolutional nets: ALL-CNN-C, and the large one (the paper's Table 2).

Springenberg et al. 2015. ALL-CNN-C as in a public port (`train_val.prototxt` of the repository
`mateuszbuda/ALL-CNN`): strided convolutions for poolings, biases decayed like weights. The large
one by the paper's own table: 2x2 convolutions without padding, which take an image of 126x126 to
one place; its slope, 0.333, and its classifier, a 1x1 convolution, are choices: it has no file.

Parameters with 10 classes: 1,369,738 (100: 1,387,108) and 77,455,690.

Read next: models/fmp.py.
"""

from engine.layers import Conv, Flatten, GlobalAvgPool, Layer, Original
from models.fitnet import ACTS, dropped

XAVIER = Original("xavier")
LARGE = (320, 640, 960, 1280, 1600)  # channels of a group of three
DROPS = (0.0, 0.1, 0.2, 0.3, 0.4)  # in front of its first two convolutions


def conv(width: int, size: int, name: str, **options) -> Conv:
    return Conv(width, size, bias_decay=1, original=XAVIER, name=name, **options)


def all_cnn_c(act: str, classes: int, dropout: bool = True) -> list[Layer]:
    """ALL-CNN-C for a 32x32 image: 3x3 convolutions, of which two have stride 2."""
    share, net = (1.0 if dropout else 0.0), []
    for g, width in enumerate((96, 192), 1):
        net += dropped((0.2 if g == 1 else 0.5) * share)
        for c in (1, 2, 3):
            net += [conv(width, 3, f"conv{g}{c}", stride=1 if c < 3 else 2, pad=1), ACTS[act]()]
    net += dropped(0.5 * share)
    for c, (width, size) in enumerate(((192, 3), (192, 1), (classes, 1)), 1):
        net += [conv(width, size, f"conv3{c}", pad=0), ACTS[act]()]
    return [*net, GlobalAvgPool()]


def all_cnn_large(
    act: str, classes: int, dropout: bool = True, widths: tuple[int, ...] = LARGE
) -> list[Layer]:
    """The large one for a 126x126 image: five groups of three, the third of stride 2, and three
    more. `widths`: of the groups, for a narrow copy."""
    share, net = (1.0 if dropout else 0.0), []
    for g, width in enumerate(widths, 1):
        for c in (1, 2, 3):
            if c < 3:
                net += dropped(DROPS[g - 1] * share)
            net += [conv(width, 2, f"conv{g}{c}", stride=1 if c < 3 else 2, pad=0), ACTS[act]()]
    wide = widths[-1] * 6 // 5
    for c, size in ((1, 2), (2, 1)):
        net += [*dropped(0.5 * share), conv(wide, size, f"conv6{c}", pad=0), ACTS[act]()]
    return [*net, conv(classes, 1, "clf", pad=0), Flatten()]
