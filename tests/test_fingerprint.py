"""Prints of outputs: noise leaves them the same, and a change of any kind does not."""

import numpy as np
import pytest
from fingerprint import fingerprint, same


@pytest.mark.parametrize("size", [2, 100, 20_000])
def test_noise_is_the_same_output_and_a_change_is_not(size):
    rng = np.random.default_rng(size)
    values = rng.normal(size=size)
    output = {"values": values, "names": ["a", "b"], "scores": {"n": 300, "waf": 0.9, "none": None}}
    one = fingerprint(output)
    noise = values * (1 + 1e-6 * rng.normal(size=size)) + 1e-7 * rng.normal(size=size)
    assert same(one, fingerprint(output | {"values": noise}))
    assert same(one, fingerprint(output | {"scores": {"n": 300, "waf": 0.9 + 1e-7, "none": None}}))
    for changed in (
        {"values": values * 1.01},
        {"values": values[::-1]},
        {"values": np.where(np.arange(size) == 1, np.nan, values)},
        {"values": values + 0.01 * rng.normal(size=size)},
        {"values": values[:, None]},
        {"names": ["a", "c"]},
        {"scores": {"n": 300, "waf": 0.85, "none": None}},
        {"scores": {"n": 301, "waf": 0.9, "none": None}},
        {"scores": {"n": 300, "waf": 0.9, "none": 0.0}},
        {"more": 1},
    ):
        assert not same(one, fingerprint(output | changed)), changed


def test_digests_in_names_count_as_equal():
    one, *others = (fingerprint({"model": name}) for name in (f"model-{'0a' * 8}", f"model-{'1b' * 8}", "model-0a"))
    assert [same(one, other) for other in others] == [True, False]
