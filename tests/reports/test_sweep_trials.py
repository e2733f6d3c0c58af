import itertools

import numpy as np
import pytest
from optuna import logging

from emo_ray.reports import sweep_trials as sweep


def trial(number, value, state="complete", **params):
    return {"number": number, "value": value, "state": state, "params": params}


def test_true_is_not_one_and_lists_are_choices_too():
    choices = [1, True, 0, False, None, "1", [1, 2]]
    trials = [trial(number, 0.5, a=choice) for number, choice in enumerate(choices)]
    content = {"space": {"a": {"choice": choices[:3]}}, "trials": trials}
    assert list(map(repr, sweep.choices_of(content, "a"))) == list(map(repr, choices))
    assert [len(members) for _, members in sweep.groups(content, "a")] == [1] * 7


@pytest.mark.parametrize("value", [None, float("nan"), -0.6])
def test_no_objective_and_that_of_the_first_phase_are_none(value):
    assert not sweep.reached(value)
    assert sweep.finished({"trials": [trial(1, value), trial(0, 0.5), trial(2, 0.7, "pruned")]}) == [trial(0, 0.5)]
    assert sweep.stopped_in_first_phase(trial(1, value, "pruned")) == (value == -0.6)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_so_far_never_falls_and_is_the_highest_until_then(seed):
    values = np.random.default_rng(seed).uniform(size=20).tolist()
    best = sweep.best_so_far([trial(number, value) for number, value in enumerate(values)])
    assert best == [max(values[: i + 1]) for i in range(20)]
    assert all(a <= b for a, b in itertools.pairwise(best))


def test_groups_hold_every_trial_once_in_the_order_of_choices_or_numbers():
    trials = [trial(i, 0.5, a=setting, b=number) for i, (setting, number) in enumerate([(4, 9), (8, 3), (None, 9)])]
    content = {"space": {"a": {"choice": [8, None, 4]}, "b": {"randint": [1, 9]}}, "trials": trials}
    assert sweep.groups(content, "a") == [(8, [trials[1]]), (None, [trials[2]]), (4, [trials[0]])]
    assert sweep.groups(content, "b") == [(3, [trials[1]]), (9, [trials[0], trials[2]])]


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (None, "null"),
        (True, "true"),
        (8, "8"),
        (0.3, "0.3"),
        (0.123456, "0.1235"),
        (1e-4, "1e-4"),
        (0.000321, "3.21e-4"),
        (0.0, "0"),
        (1e6, "1e6"),
        ("a b", "a b"),
        (False, "false"),
        ([1, "a"], '[1, "a"]'),
    ],
)
def test_settings_as_text_by_hand(setting, text):
    assert sweep.as_text(setting) == text


SPACE = {
    "log": {"loguniform": [1e-4, 1e-2]},
    "plain": {"uniform": [0, 1]},
    "word": {"choice": ["x", None, True]},
    "one": {"choice": [3]},
}


def searched(count, objective, space=SPACE):
    rng = np.random.default_rng(0)
    trials = []
    for number in range(count):
        params = {
            "log": 10 ** rng.uniform(-4, -2),
            "plain": rng.uniform(),
            "word": ["x", None, True][number % 3],
            "one": 3,
        }
        trials.append(trial(number, objective(params), **{key: params[key] for key in space}))
    return {"space": space, "trials": trials}


@pytest.mark.parametrize(
    ("key", "objective"),
    [
        ("log", lambda p: 0.5 + 0.1 * np.log10(p["log"])),
        ("plain", lambda p: p["plain"]),
        ("word", lambda p: {"x": 0.1, None: 0.5, True: 0.6}[p["word"]]),
    ],
)
def test_the_setting_that_decides_is_the_important_one(key, objective):
    content = searched(30, objective)
    shares = sweep.importances(content)
    assert next(iter(shares)) == key
    assert shares[key] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == {"log", "plain", "word"}  # one that never differs is left out
    assert sweep.importances(content) == shares


def test_training_that_went_wrong_does_not_decide_what_is_important():
    content = searched(30, lambda p: 0.6 + 0.1 * p["plain"])
    for number in (3, 4):
        content["trials"][number]["value"] = 0.05
    assert next(iter(sweep.importances(content))) == "plain"


@pytest.mark.parametrize(
    ("objectives", "low"),
    [
        ([0.5], 0.5),
        ([0.5, 0.5, 0.5, 0.49], 0.49),
        ([0.6, 0.61, 0.62, 0.63, 0.1], 0.6),
        ([60, 61, 62, 63, 10], 60),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 0.1),
        ([0.0, 0.0], 0.0),
        ([*[0.7] * 9, 0.2], 0.7),
    ],
)
def test_the_lowest_ordinary_objective_by_hand(objectives, low):
    assert sweep.lowest_ordinary(objectives) == low


def test_settings_outside_the_space_count_too():
    content = searched(20, lambda p: p["plain"])
    content["trials"][0]["params"] |= {"log": 0.1, "plain": 1.5, "word": "y"}
    assert next(iter(sweep.importances(content))) == "plain"


def test_asking_for_importance_says_nothing_and_leaves_optuna_as_it_was(capfd):
    before = logging.get_verbosity()
    sweep.importances(searched(12, lambda p: p["plain"]))
    assert logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "content",
    [
        searched(9, lambda p: p["plain"]),
        searched(20, lambda p: 0.5),
        searched(20, lambda p: 0.1 if p["plain"] > 0.95 else 0.5),  # one far below, the others the same
        searched(20, lambda p: p["plain"], {"plain": SPACE["plain"]}),
        searched(20, lambda p: p["plain"], {"plain": SPACE["plain"], "one": SPACE["one"]}),
        searched(20, lambda p: -0.5),
    ],
)
def test_importance_is_not_asked_of_too_little(content):
    assert sweep.importances(content) == {}
