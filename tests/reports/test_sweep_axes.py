import itertools

import numpy as np
import pytest
from optuna import logging

from emo_ray.reports import sweep_axes as sweep
from emo_ray.reports.sweep_axes import Axis


def trial(number, value, state="complete", **params):
    return {"number": number, "value": value, "state": state, "params": params}


def axis(space, *settings):
    return sweep.axes_of({"space": {"a": space}, "trials": [trial(i, 0.5, a=s) for i, s in enumerate(settings)]})[0]


@pytest.mark.parametrize(
    ("space", "setting", "place"),
    [
        ({"uniform": [0.0, 0.6]}, 0.15, 0.25),
        ({"loguniform": [1e-4, 1e-2]}, 1e-3, 0.5),
        ({"randint": [10, 30]}, 20, 0.5),
        ({"choice": [0, "x"]}, 0, 0.25),
        ({"choice": [0, "x"]}, "x", 0.75),
        ({"choice": [None]}, None, 0.5),
        ({"uniform": [2.0, 2.0]}, 2.0, 0.5),
    ],
)
def test_places_by_hand(space, setting, place):
    assert axis(space, setting).place(setting) == pytest.approx(place)


def test_true_is_not_one():
    drawn = axis({"choice": [1, True, 0, False, None, "1"]})
    places = [drawn.place(setting) for setting in (1, True, 0, False, None, "1")]
    assert places == sorted(set(places))
    assert drawn.place(1.0) == drawn.place(1)


@pytest.mark.parametrize("space", [{"uniform": [0.1, 0.6]}, {"loguniform": [1e-4, 1e-2]}, {"randint": [1, 9]}])
@pytest.mark.parametrize("setting", [0, None, "off", True, 50, 1e-7])
def test_the_recipe_may_lie_outside_the_space(space, setting):
    """A number widens the scale; what it has no place for stands below it, with a tick of its own."""
    drawn = axis(space, setting)
    low, high = drawn.ends()
    assert low < drawn.place(setting) < high
    assert all(low < place < high for place, _ in drawn.ticks())
    if setting in (None, "off", True) or (setting == 0 and "loguniform" in space):
        assert drawn.place(setting) < 0
        assert (drawn.place(setting), sweep.shown(setting)) in drawn.ticks()
    else:
        assert 0 <= drawn.place(setting) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_ticks_are_few_distinct_and_where_they_say(seed):
    rng = np.random.default_rng(seed)
    low, high = sorted(10 ** rng.uniform(-6, 3, 2))
    for space in ({"uniform": [low, high]}, {"loguniform": [low, high]}, {"randint": [round(low), round(high) + 2]}):
        drawn = axis(space)
        places, texts = zip(*drawn.ticks(), strict=True)
        assert 2 <= len(set(texts)) == len(texts) <= 7
        assert [drawn.place(float(text)) for text in texts] == pytest.approx(places, abs=0.01)


def test_trials_of_one_choice_are_moved_apart_but_not_to_another():
    drawn = axis({"choice": ["a", "b", "c"]})
    places = [drawn.jittered(trial(number, 0.5, a="b")) for number in range(100)]
    assert len(set(places)) == 100
    assert max(abs(place - 0.5) for place in places) < 1 / 6
    assert places[0] == 0.5  # the recipe's
    moved = axis({"uniform": [0, 1]})
    assert moved.jittered(trial(7, 0.5, a=0.3)) == pytest.approx(0.3)


@pytest.mark.parametrize("value", [None, float("nan"), -0.6])
def test_no_objective_and_that_of_the_first_phase_are_none(value):
    assert sweep.value(trial(1, value)) is None
    assert sweep.finished({"trials": [trial(1, value), trial(0, 0.5), trial(2, 0.7, "pruned")]}) == [trial(0, 0.5)]
    assert sweep.stopped_in_first_phase(trial(1, value, "pruned")) == (value == -0.6)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_so_far_never_falls_and_is_the_highest_until_then(seed):
    values = np.random.default_rng(seed).uniform(size=20).tolist()
    best = sweep.best_so_far([trial(number, value) for number, value in enumerate(values)])
    assert best == [max(values[: i + 1]) for i in range(20)]
    assert all(a <= b for a, b in itertools.pairwise(best))


def test_groups_hold_every_trial_once_in_the_order_of_the_axis():
    drawn = axis({"choice": [8, None, 4]})
    trials = [trial(i, 0.5, a=setting) for i, setting in enumerate([4, 8, None, 4])]
    assert sweep.groups(trials, drawn) == [(8, [trials[1]]), (None, [trials[2]]), (4, [trials[0], trials[3]])]


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
    ],
)
def test_settings_as_text_by_hand(setting, text):
    assert sweep.shown(setting) == text


@pytest.mark.parametrize(
    "key", ["fusion.lr", "emovclip.global_prompts", "a_very_long.key_with_many_parts", "unbreakable"]
)
@pytest.mark.parametrize("letters", [5, 10, 14, 26])
def test_keys_are_broken_and_nothing_is_lost(key, letters):
    lines = sweep.broken(key, letters).split("\n")
    assert "".join(lines) == key
    assert all(len(line) <= letters or not set("._") & set(line[:-1]) for line in lines)
    assert all(len(a + b.partition(".")[0].partition("_")[0]) >= letters for a, b in itertools.pairwise(lines))


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
    content["trials"][0]["params"] |= {"log": 0, "plain": 1.5, "word": "y"}
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


def test_an_axis_without_a_scale_has_a_tick_for_each_choice():
    assert [text for _, text in Axis("a", choices=(0, "mean", None)).ticks()] == ["0", "mean", "null"]
