"""bench.scale: its formula at the ends, and what it prints.

Read next: tests/bench/test_paper_queue.py.
"""

import pytest

from bench import scale
from engine.errors import InputError


def test_one_rank_exchanges_nothing_and_the_best_is_where_the_slope_is_none():
    assert scale.seconds(2.0, 1e9, 1, 1e9, 1e-3) == 2.0
    assert scale.seconds(2.0, 1e9, 2, 1e9, 0.0) == 1.0 + 1.0
    assert scale.seconds(2.0, 0.0, 4, 1e9, 0.1) == pytest.approx(0.5 + 0.1 * (3 + 2))
    times = {n: scale.seconds(1.0, 1e8, n, 1e10, 1e-4) for n in (50, 100, 200)}
    assert min(times, key=times.__getitem__) == 100  # sqrt(t / l)


def test_a_line_a_link(capsys):
    assert scale.main(["fitnet4=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in lines[2:5]] == list(scale.LINKS)
    assert lines[2].split(" | ")[2] == "1e+03 ms"


@pytest.mark.parametrize("text", ["fitnet5=1", "fitnet4", "fitnet4=0", "fitnet4=nan"])
def test_what_can_not_be_is_refused(text):
    with pytest.raises(InputError, match=text.partition("=")[0]):
        scale.main([text])
