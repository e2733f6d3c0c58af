"""Context finds what another turn decides, and costs nothing where each turn decides for itself."""

import numpy as np
from conversations import accuracy

QUICK = {"hidden": 32, "passes_per_epoch": 5, "lr": 3e-3, "batch_size": 64}


def test_what_the_turn_before_decides_is_found_with_context_and_not_without():
    alone = accuracy("before", 30, 0, **QUICK)
    with_context = accuracy("before", 30, 0, **QUICK, **{"context.before": 2})
    assert alone < 0.35  # chance is 0.25
    assert with_context - alone > 0.2


def test_context_costs_nothing_where_each_turn_decides_for_itself():
    seeds = range(3)
    alone = np.array([accuracy("own", 15, seed, **QUICK) for seed in seeds])
    gains = np.array([accuracy("own", 15, seed, **QUICK, **{"context.before": 2}) for seed in seeds]) - alone
    assert 0.5 < alone.mean() < 0.95  # there is something to lose
    assert gains.mean() > -2 * max(gains.std(ddof=1) / len(gains) ** 0.5, 0.005)
