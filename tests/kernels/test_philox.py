"""The random words: published answers, our layout of the counter, distributions, and pinned values.

The pinned values are what makes a run repeatable on another machine and in another year: if one of
them changes, every result of the project changes.

Read next: tests/kernels/test_orthonormal.py.
"""

import math

import numpy as np
import pytest

from kernels import philox as P


def _hex(words):
    return " ".join(f"{int(word):08x}" for word in np.ravel(words))


def _ks(sample, cdf):
    """Kolmogorov and Smirnov's distance, times sqrt(n): above 1.95 in one of a thousand samples."""
    values = cdf(np.sort(sample))
    n = len(values)
    steps = np.arange(n + 1) / n
    return math.sqrt(n) * max((values - steps[:-1]).max(), (steps[1:] - values).max())


@pytest.mark.parametrize(
    "counter, key, answer",
    [  # Random123's known answers
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers(counter, key, answer):
    assert _hex(P.philox(np.array(counter, np.uint32), np.array(key, np.uint32))) == answer


def test_words_are_philox_of_the_documented_counter():
    seed, purpose, layer, step, first = 0x0123456789ABCDEF, P.DROPOUT, 513, 77, 2**32 - 2
    index = [first + i for i in range(5)]  # crosses into the high half
    counter = [[i & 0xFFFFFFFF, i >> 32, step, purpose << 16 | layer] for i in index]
    want = P.philox(np.array(counter, np.uint32), np.array([0x89ABCDEF, 0x01234567], np.uint32))
    np.testing.assert_array_equal(P.words(seed, purpose, layer, step, first, 5), want)


def test_a_long_draw_equals_its_parts():
    count = P.CHUNK + 7
    whole = P.words(3, P.WEIGHTS, 1, 0, 0, count)
    np.testing.assert_array_equal(whole[P.CHUNK - 2 :], P.words(3, P.WEIGHTS, 1, 0, P.CHUNK - 2, 9))
    for draw in (P.uniform, P.normal):
        whole = draw(3, P.WEIGHTS, 1, 4 * P.CHUNK + 11)
        for first, n in ((0, 1), (1, 1), (3, 6), (4 * P.CHUNK - 3, 14), (5, 0)):
            np.testing.assert_array_equal(
                draw(3, P.WEIGHTS, 1, n, first=first), whole[first : first + n]
            )


def test_streams_differ_by_seed_purpose_layer_and_step():
    base = dict(seed=1, purpose=P.DROPOUT, layer=2, step=3, first=0, count=64)
    words = [P.words(**base)]
    words += [
        P.words(**{**base, name: value})
        for name, value in (
            ("seed", 2),
            ("seed", 1 + 2**32),
            ("purpose", P.ORDER),
            ("layer", 3),
            ("step", 4),
        )
    ]
    assert len({w.tobytes() for w in words}) == len(words)


def test_uniform_and_normal_follow_their_distributions():
    u = P.uniform(11, P.WEIGHTS, 0, 40_000)
    assert u.min() > 0 and u.max() < 1
    assert _ks(u, lambda x: x) < 1.95
    z = P.normal(11, P.WEIGHTS, 0, 40_000)
    assert _ks(z, lambda x: 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))) < 1.95
    assert abs(np.corrcoef(z[::2], z[1::2])[0, 1]) < 0.02  # the two of a pair
    assert abs(np.mean(z**4) - 3) < 0.15


def test_uniform_is_the_documented_map_of_the_words():
    w = P.words(5, P.SYNTHETIC, 0, 2, 0, 3).reshape(-1)
    np.testing.assert_array_equal(P.uniform(5, P.SYNTHETIC, 0, 10, step=2), (w[:10] + 0.5) / 2**32)


def test_permutation_is_a_permutation_and_changes_with_epoch():
    a, b = P.permutation(0, 0, 1001), P.permutation(0, 1, 1001)
    assert a.dtype == np.int64
    np.testing.assert_array_equal(np.sort(a), np.arange(1001))
    assert (a != b).mean() > 0.9
    assert abs(np.corrcoef(a, np.arange(1001))[0, 1]) < 0.1


PIN_WORDS = "24f7c0b8 efc381c9 a8a3d1a9 23980759 eda0c5db 27d9b2e6 58b48e3c 1be3f636"
PIN_ORDER = [4, 1, 0, 11, 2, 6, 9, 3, 7, 8, 5, 10]
PIN_NORMAL = [
    0.1572587680992772,
    0.008871691726252899,
    -0.7165266968726558,
    -0.17929650472164674,
    -0.5721449035374478,
]


def test_pinned():
    assert _hex(P.words(12345, P.DROPOUT, 3, 7, 2**32 - 1, 2)) == PIN_WORDS
    assert P.permutation(1, 2, 12).tolist() == PIN_ORDER
    np.testing.assert_allclose(P.normal(1, P.WEIGHTS, 0, 5), PIN_NORMAL, rtol=1e-12)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed):
    with pytest.raises(ValueError, match=str(seed)):
        P.words(seed, P.ORDER, 0, 0, 0, 1)


def test_a_layer_number_has_16_bits():
    with pytest.raises(ValueError, match="65536"):
        P.words(0, P.DROPOUT, 65536, 0, 0, 1)
