"""Derived seeds: reproducible, within bounds, and different for every use."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from emo_ray.training.seeds import Stream, derived_seed, number_of

seeds = st.integers(0, 2**64 - 1)
places = st.lists(st.integers(0, 2**20), max_size=3).map(tuple)


@given(seeds, st.sampled_from(Stream), places, st.integers(1, 63))
def test_a_seed_is_numpys_and_within_its_bits(seed, stream, place, bits):
    value = derived_seed(seed, stream, *place, bits=bits)
    assert 0 <= value < 2**bits
    whole = np.random.SeedSequence(seed, spawn_key=(int(stream), *place)).generate_state(1, np.uint64)[0]
    assert value == int(whole) // 2 ** (64 - bits)


@given(st.lists(st.tuples(seeds, st.sampled_from(Stream), places), min_size=2, max_size=20, unique=True))
def test_every_seed_stream_and_place_has_its_own(uses):
    assert len({derived_seed(seed, stream, *place) for seed, stream, place in uses}) == len(uses)


def test_a_place_that_ends_in_zeros_is_another_than_the_shorter_one():
    assert len({derived_seed(0, Stream.ORDER, *place) for place in [(), (0,), (0, 0), (1,), (1, 0)]}) == 5


def test_another_process_derives_the_same():
    code = (
        "from emo_ray.training.seeds import Stream, derived_seed, number_of; "
        "print(derived_seed(7, Stream.NOISE, 3, number_of('a clip')))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert int(output) == derived_seed(7, Stream.NOISE, 3, number_of("a clip"))
