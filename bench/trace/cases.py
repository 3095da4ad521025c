"""Small cases of every operation that a kernel of ours computes, by a shape that one may choose.

Read next: claims.py.
"""

from collections.abc import Callable

from bench.common import cases as shapes
from bench.common.cases import Case
from engine.errors import InputError, choose

# (words of a shape, a shape that is aligned, one that leaves a remainder wherever something is
# divided, cases of it). An operation is found by its name among them.
Family = tuple[str, tuple[int, ...], tuple[int, ...], Callable[..., list[Case]]]
IMAGES = "N,SIZE,C"
FAMILIES: list[Family] = [
    (IMAGES, (2, 8, 16), (3, 5, 7), lambda N, S, C: shapes.maxout((N, S, S), C, 2)),
    (IMAGES, (2, 8, 16), (3, 7, 5), lambda N, S, C: shapes.maxout_pool(N, S, C, 2, 2, 2)),
    (IMAGES, (2, 8, 16), (3, 7, 5), lambda N, S, C: shapes.maxout_pool(N, S, C, 2, 2, 2, True)),
    (IMAGES, (2, 8, 16), (3, 7, 5), lambda N, S, C: shapes.pool(N, S, C, 2, 2)),
    (IMAGES, (8, 8, 16), (3, 7, 5), lambda N, S, C: shapes.fractional(N, S, C, S * 3 // 4)),
    (IMAGES, (2, 8, 16), (3, 7, 5), lambda N, S, C: shapes.average(N, S, C, 2, 2)),
    (IMAGES, (2, 8, 32), (3, 7, 5), lambda N, S, C: shapes.global_pool(N, S, C)),
    (IMAGES, (2, 8, 16), (3, 5, 7), lambda N, S, C: shapes.lrn((N, S, S, C))),
    (IMAGES, (2, 8, 16), (3, 5, 7), lambda N, S, C: shapes.concat((N, S, S, 2 * C), C, C)),
    (IMAGES, (2, 8, 16), (3, 5, 7), lambda N, S, C: shapes.elementwise((N, S, S, C))),
    (IMAGES, (2, 8, 16), (3, 5, 7), lambda N, S, C: shapes.highway((N, S, S, C))),
    (IMAGES, (2, 8, 16), (3, 5, 7), lambda N, S, C: shapes.dropout((N, S, S, C))),
    ("C,KEPT", (64, 32), (67, 43), lambda C, keep: [shapes.mask(C, keep)]),
    (IMAGES, (2, 8, 32), (3, 5, 7), lambda N, S, C: shapes.batchnorm((N, S, S, C))),
    (IMAGES, (2, 8, 32), (3, 5, 7), lambda N, S, C: shapes.channelwise((N, S, S, C))),
    ("N,K", (64, 10), (37, 11), shapes.loss),
    (IMAGES, (2, 8, 32), (3, 5, 14), lambda N, S, C: [shapes.variance((N, S, S, C), 2)]),
    ("N,F,K", (64, 8, 32), (37, 5, 7), shapes.linear),
    ("ROWS,COLS", (64, 32), (43, 67), lambda rows, cols: [shapes.orthonormal(rows, cols)]),
    ("N,SIZE,C", (4, 8, 4), (3, 9, 5), lambda N, S, C: [shapes.gather(11, N, S, C, 3, 2)]),
    ("N,SIZE,C", (4, 8, 4), (3, 9, 5), lambda N, S, C: [shapes.distort(N, S, C, 2 * S)]),
    ("SIZE,BIASES", (1024, 64), (67, 22), lambda n, b: shapes.optimisation(n - b, n)),
]


def operations() -> list[str]:
    return list(dict.fromkeys(c.op for _, even, _, made in FAMILIES for c in made(*even)))


def case_of(name: str, shape: str | None = None, odd: bool = False) -> Case:
    """The case of an operation. shape: numbers with commas; None: a small aligned one, or, odd, one
    that is not. InputError for a name or a shape that is none."""
    choose("operation", name, operations())
    for words, even, uneven, made in FAMILIES:
        numbers = uneven if odd else even
        if shape is not None:
            try:
                numbers = tuple(int(n) for n in shape.split(","))
            except ValueError:
                numbers = ()
        found = [case for case in made(*even) if case.op == name]
        if not found:
            continue
        if len(numbers) != len(even) or not all(0 < n < 1 << 16 for n in numbers):
            raise InputError(
                f"--shape {shape}: {name} takes {words}, numbers from 1, such as "
                f"{','.join(map(str, even))}"
            )
        return next(case for case in made(*numbers) if case.op == name)
    raise AssertionError(name)
