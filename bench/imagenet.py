"""The weight matrices of CaffeNet and GoogLeNet, which the paper's Table 6 initialises.

A matrix is (outputs, inputs * height * width), as Caffe stores a layer; in a convolution of g
groups a row has the inputs of one group. Widths are those of BVLC's public files.

Read next: bench/init.py.
"""

CAFFENET = [
    (96, 3 * 11 * 11),
    (256, 48 * 5 * 5),              # two groups
    (384, 256 * 3 * 3),
    (384, 192 * 3 * 3),             # two groups
    (256, 192 * 3 * 3),             # two groups
    (4096, 256 * 6 * 6),
    (4096, 4096),
    (1000, 4096),
]

# Inception modules: 1x1; the 3x3's reduction and itself; the 5x5's likewise; after the pool.
INCEPTION = [
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
]
HEADS_AFTER = (2, 5)                # modules 4a and 4d, whose outputs the auxiliary heads take


def googlenet(heads: bool = True) -> list[tuple[int, int]]:
    """Its matrices in order; heads: with the two auxiliary classifiers, as it is trained."""
    shapes = [(64, 3 * 7 * 7), (64, 64), (192, 64 * 3 * 3)]
    channels = 192
    for number, (one, reduce3, three, reduce5, five, pool) in enumerate(INCEPTION):
        shapes += [(one, channels), (reduce3, channels), (three, reduce3 * 9),
                   (reduce5, channels), (five, reduce5 * 25), (pool, channels)]
        channels = one + three + five + pool
        if heads and number in HEADS_AFTER:
            shapes += [(128, channels), (1024, 128 * 4 * 4), (1000, 1024)]
    return [*shapes, (1000, channels)]


def parameters(shapes: list[tuple[int, int]]) -> int:
    """Weights and biases."""
    return sum(outputs * (inputs + 1) for outputs, inputs in shapes)
