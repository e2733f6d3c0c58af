"""How growth is told from the figures of two sizes."""

from math import isclose

import pytest

from emo_ray.experiments.bench.growth import compared_sizes
from emo_ray.experiments.bench.timing import Figure


@pytest.mark.parametrize("exponent", [1, 2])
def test_the_exponent_is_that_of_the_seconds(exponent):
    seconds_of = {n: 1e-3 * n**exponent for n in (10, 100, 1000)}
    figures = [Figure("growth", f"prepare, tables, {n} clips", n / s, 0.5 * s / n) for n, s in seconds_of.items()]
    (comparison,) = compared_sizes(figures, (10, 100, 1000))
    assert comparison.what.count(f"n^{exponent}.00") == 2
    assert isclose(comparison.ratio, 10 ** (1 - exponent))
    assert (comparison.ratio >= comparison.at_least) == (exponent == 1)


def test_what_is_measured_at_one_size_alone_is_not_compared():
    whats = ["prepare, files, 10 clips", "predict, 10 clips", "predict, 100 clips"]
    figures = [Figure("growth", what, 1.0, 1.0) for what in whats]
    assert [comparison.what.partition(":")[0] for comparison in compared_sizes(figures, (10, 100))] == ["predict"]
    assert compared_sizes(figures[:2], (10,)) == []
