"""Waves of trials are even, and what they train is shared out evenly."""

from hypothesis import given
from hypothesis import strategies as st

from emo_ray.config import load
from emo_ray.stages.sweeps.stacked import measured_subsets, shared_out, wave_of


@given(st.integers(1, 300), st.integers(1, 64))
def test_waves_are_few_and_even(trials, most):
    left, waves = trials, []
    while left:
        waves.append(wave_of(left, most))
        left -= waves[-1]
    assert sum(waves) == trials
    assert len(waves) == -(-trials // most)
    assert max(waves) <= most
    assert max(waves) - min(waves) <= 1


@given(st.integers(1, 16), st.integers(1, 6), st.integers(1, 4))
def test_every_process_has_as_many_heads_of_each_width(trials, folds, processes):
    widths = [64, 128, 256]
    params_of = {number: {"fusion.hidden": widths[number % 3]} for number in range(trials)}
    shares = shared_out(params_of, folds, load("mini"), processes)
    assert sorted(cell for share in shares for cell in share) == [(t, f) for t in range(trials) for f in range(folds)]
    work = [sum(widths[number % 3] ** 2 for number, _ in share) for share in shares]
    assert max(work) - min(work) <= 256**2


def test_a_sweep_measures_what_its_objective_looks_at():
    assert measured_subsets("VA/uar") == ("VA",)
    assert measured_subsets("available/waf") == ()
    assert len(measured_subsets("mean/waf")) == 7
