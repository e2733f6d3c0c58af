"""Waves of trials: none is much smaller than another, and none holds more than the processes do."""

from hypothesis import given
from hypothesis import strategies as st

from emo_ray.stages.sweep_bulk import WIDTH, wave_of


@given(st.integers(1, 300), st.integers(1, 8))
def test_waves_are_even_and_hold_every_trial(trials, processes):
    left, waves = trials, []
    while left:
        waves.append(wave_of(left, processes))
        left -= waves[-1]
    assert sum(waves) == trials
    assert len(waves) == -(-trials // (processes * WIDTH))
    assert max(waves) <= processes * WIDTH
    assert max(waves) - min(waves) <= 1
