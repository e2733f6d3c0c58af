"""The search space of a sweep: suggestions lie in it and become configs."""

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo_ray.config import load, override
from emo_ray.config.model_settings import MODALITIES
from emo_ray.training import search

SPACE = {
    "fusion.lr": {"loguniform": [1e-4, 1e-2]},
    "fusion.dropout": {"uniform": [0.0, 0.6]},
    "fusion.hidden": {"randint": [8, 256]},
    "emovclip.summary_prompt": {"choice": [True, False]},
    "audio.layers": {"choice": [[-1], [-4, -3, -2, -1]]},
    "fusion.modality_dropout": {"choice": [0.0, 0.5, {"video": 0.5, "audio": 0.1}]},
}


def config_of(space=SPACE, **settings):
    return load("mini", {"tune.space": space} | {f"tune.{key}": value for key, value in settings.items()})


def ask(config, trials, seed=0):
    study = optuna.create_study(sampler=search.sampler(config.tune, seed))
    space = search.distributions(config.tune.space)
    return [search.from_optuna(config.tune.space, study.ask(space).params) for _ in range(trials)]


@pytest.mark.parametrize("how", ["tpe", "random"])
def test_suggestions_lie_in_the_space_and_the_seed_decides_them(how):
    config = config_of(search=how)
    suggestions = ask(config, 30)
    assert suggestions == ask(config, 30)
    assert suggestions != ask(config, 30, seed=1)
    for params in suggestions:
        assert 1e-4 <= params["fusion.lr"] <= 1e-2
        assert 0 <= params["fusion.dropout"] <= 0.6
        for key in ("emovclip.summary_prompt", "audio.layers", "fusion.modality_dropout"):
            assert params[key] in SPACE[key]["choice"]
        applied = search.applied(config, params)
        assert applied.fusion.lr == params["fusion.lr"]
        assert applied.audio.layers == tuple(params["audio.layers"])
        assert applied.fusion.modality_dropout == params["fusion.modality_dropout"]
    assert {params["fusion.hidden"] for params in ask(config_of({"fusion.hidden": {"randint": [8, 9]}}), 30)} == {8, 9}


def test_the_recipe_is_a_point_of_a_space_that_holds_it():
    config = config_of()
    point = search.default_params(config)
    of_the_sweep = override(config, {"train.objective": config.tune.objective, "fusion.auto": False})
    assert search.applied(config, search.from_optuna(SPACE, point)) == of_the_sweep
    for key, dimension in {"fusion.lr": {"uniform": [0.5, 0.7]}, "fusion.hidden": {"choice": [7]}}.items():
        assert search.default_params(config_of({**SPACE, key: dimension})) is None


def test_a_rate_of_one_modality_leaves_the_others():
    config = config_of({"fusion.modality_dropout.video": {"uniform": [0.0, 1.0]}})
    rate = config.fusion.modality_dropout
    rates = search.applied(config, {"fusion.modality_dropout.video": 0.9}).fusion.modality_dropout
    assert rates == dict.fromkeys(MODALITIES, rate) | {"video": 0.9}
    assert search.default_params(config) == {"fusion.modality_dropout.video": rate}


def test_what_is_seen_of_a_trial_is_what_it_was():
    tune = config_of().tune
    params = ask(config_of(), 1)[0]
    record = {"params": params, "history": [[1, 0.2], [2, 0.3]], "value": 0.3, "state": "complete"}
    complete = search.to_optuna_trial(tune, record)
    assert (complete.value, complete.intermediate_values) == (0.3, {1: 0.2, 2: 0.3})
    assert search.from_optuna(tune.space, complete.params) == params
    assert search.to_optuna_trial(tune, record | {"state": "pruned"}).state == optuna.trial.TrialState.PRUNED
    assert search.to_optuna_trial(tune, record | {"state": "failed", "value": None, "history": []}).value is None


@given(st.integers(1, 5), st.integers(2, 4), st.integers(1, 60))
def test_rungs_lie_a_factor_apart_and_before_the_end(grace, factor, epochs):
    rungs = search.rungs(config_of(grace_epochs=grace, reduction_factor=factor).tune, epochs)
    assert rungs == [grace * factor**i for i in range(len(rungs))]
    assert all(rung < epochs for rung in rungs)
    assert grace * factor ** len(rungs) >= epochs
    assert search.rungs(config_of(scheduler="none").tune, epochs) == []


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.integers(2, 4))
def test_the_best_goes_on_and_at_least_one_in_factor(reached, factor):
    going = [value for value in reached if search.is_promoted(value, reached, factor)]
    assert max(reached) in going
    assert len(going) > len(reached) / factor - 1  # rounding may put the quantile of ties above them
    assert min(going) >= max((value for value in reached if value not in going), default=-2)
    if len(set(reached)) == len(reached):
        assert len(going) <= int(np.ceil(len(reached) / factor)) + 1


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "empty tune.space"),
        ({"fusion.dropout": {"uniform": [0.0, 2.0]}}, r"tune\.space: fusion\.dropout: .*found 2\.0"),
        ({"fusion.hidden": {"choice": [8, "many"]}}, r"fusion\.hidden.*found 'many'"),
        ({"fusion.modality_dropout.smell": {"uniform": [0.0, 0.5]}}, r"smell"),
    ],
)
def test_values_that_a_key_cannot_have_are_told_before_any_trial(space, message):
    with pytest.raises(ValueError, match=message):
        search.check(config_of(space))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"fusion.drpout": {"uniform": [0.0, 0.5]}}, r"fusion\.drpout.*did you mean 'fusion\.dropout'"),
        ({"tune.trials": {"randint": [1, 5]}}, r"tune\.space"),
        ({"fusion.lr": {"uniform": [1, 0]}}, "expected {uniform"),
        ({"fusion.lr": {"loguniform": [0, 1]}}, "expected {uniform"),
        ({"fusion.hidden": {"randint": [8, 16.5]}}, "expected {uniform"),
        ({"fusion.hidden": {"choice": []}}, "expected {uniform"),
        ({"fusion.hidden": {"normal": [0, 1]}}, "expected {uniform"),
        ({"fusion.hidden": {"choice": [1], "uniform": [0, 1]}}, "expected {uniform"),
    ],
)
def test_a_space_of_another_form_is_told_when_it_is_read(space, message):
    with pytest.raises(ValueError, match=message):
        config_of(space)
