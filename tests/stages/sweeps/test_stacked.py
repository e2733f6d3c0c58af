"""Waves of trials: none is much smaller than another, and none holds more than the processes do."""

from hypothesis import given
from hypothesis import strategies as st

from emo_ray.stages.sweeps.stacked import WIDTH, wave_of


@given(st.integers(1, 300), st.integers(1, 8))
def test_waves_are_few_and_even_and_keep_every_process_busy(trials, processes):
    left, waves = trials, []
    while left:
        waves.append(wave_of(left, processes))
        left -= waves[-1]
    assert sum(waves) == trials
    each = [-(-wave // processes) for wave in waves]  # trials of the busiest process
    assert len(waves) == -(-trials // (processes * WIDTH))
    assert sum(each) == -(-trials // processes)
    assert max(each) <= WIDTH
    assert max(each) - min(each) <= 1
