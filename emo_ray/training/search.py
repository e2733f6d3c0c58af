"""The search space of a sweep and its objective. Optuna suggests; nothing here knows how trials are run."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna

from emo_ray.config import Config, flatten, override
from emo_ray.config.model_settings import MODALITIES
from emo_ray.config.sweep_settings import Tune

_MODALITY_DROPOUT = "fusion.modality_dropout"
Params = dict[str, Any]  # dotted key -> value


def distributions(space: Mapping[str, Mapping[str, Sequence]]) -> dict[str, optuna.distributions.BaseDistribution]:
    """`tune.space` for Optuna. Lists and mappings among the choices become JSON: `from_optuna` undoes it."""
    distribution_of: dict[str, optuna.distributions.BaseDistribution] = {}
    for key, dimension in space.items():
        ((form, values),) = dimension.items()
        if form == "choice":
            distribution_of[key] = optuna.distributions.CategoricalDistribution([_encoded(value) for value in values])
        elif form == "randint":
            low, high = values
            distribution_of[key] = optuna.distributions.IntDistribution(low, high)
        else:
            low, high = values
            distribution_of[key] = optuna.distributions.FloatDistribution(low, high, log=form == "loguniform")
    return distribution_of


def sampler(tune: Tune, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler of `tune.search`: TPE or random."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # otherwise it prints a line for every study and trial
    if tune.search == "random":
        return optuna.samplers.RandomSampler(seed)
    return optuna.samplers.TPESampler(seed=seed)


def from_optuna(space: Mapping[str, Mapping[str, Sequence]], params: Params) -> Params:
    """Optuna's parameters as values of the config."""
    choices = {
        key: {_encoded(value): value for value in dimension["choice"]}
        for key, dimension in space.items()
        if "choice" in dimension
    }
    return {key: choices[key][value] if key in choices else value for key, value in params.items()}


def to_optuna_trial(tune: Tune, record: Mapping[str, Any]) -> optuna.trial.FrozenTrial:
    """A finished trial for Optuna, from its record: `state`, `value`, `params` and `history` (epoch, objective)."""
    state = optuna.trial.TrialState[{"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}[record["state"]]]
    return optuna.trial.create_trial(
        state=state,
        value=record["value"] if record["state"] == "complete" else None,
        params={key: _encoded(value) for key, value in record["params"].items()},
        distributions=distributions(tune.space),
        intermediate_values=dict(record["history"]),
    )


def rungs(tune: Tune, epochs: int) -> list[int]:
    """The epochs after which ASHA (Li et al., MLSys 2020) stops trials; empty for other schedulers."""
    epochs_of_rungs, rung = [], tune.grace_epochs
    while tune.scheduler == "asha" and rung < epochs:
        epochs_of_rungs.append(rung)
        rung *= tune.reduction_factor
    return epochs_of_rungs


def is_promoted(value: float, reached: Sequence[float], factor: int) -> bool:
    """Whether a trial is among the best 1 / factor of all trials that reached its rung, itself included."""
    return bool(value >= np.quantile(reached, 1 - 1 / factor))


def default_params(config: Config) -> Params | None:
    """Optuna's parameters for the values that the config itself has; None where one of them is outside the space."""
    params, values = {}, flatten(config)
    for key, dimension in config.tune.space.items():
        ((form, ends),) = dimension.items()
        value = values[key] if key in values else _part(values, key)
        if form == "choice":
            if value not in ends:
                return None
        elif not isinstance(value, int | float) or not ends[0] <= value <= ends[1]:
            return None
        params[key] = _encoded(value)
    return params


def applied(config: Config, params: Params) -> Config:
    """The config of a trial: its best epoch is judged as the sweep judges trials, and nothing else is searched in it.

    The dropout rate of one modality leaves the others as they are.

    Raises ValueError as `override` does.
    """
    base = config.fusion.modality_dropout
    if any(key.startswith(_MODALITY_DROPOUT + ".") for key in params) and not isinstance(base, dict):
        config = override(config, {_MODALITY_DROPOUT: dict.fromkeys(MODALITIES, base)})
    return override(config, {"train.objective": config.tune.objective, "fusion.auto": False, **params})


def widest(config: Config) -> Config:
    """The config with the largest windows of neighbours that any trial may have."""
    changes: Params = {}
    for key in ("fusion.context.before", "fusion.context.after"):
        values = next(iter(config.tune.space.get(key, {"choice": [0]}).values()))
        changes[key] = max(flatten(config)[key], *values)
    return override(config, changes)


def check(config: Config) -> None:
    """Raises ValueError for an empty space, for a bound or choice that its key does not accept, and for other heads."""
    if config.fusion.is_classical or "fusion.kind" in config.tune.space:
        kind = "one of tune.space" if "fusion.kind" in config.tune.space else config.fusion.kind
        raise ValueError(f"found fusion.kind={kind} in a sweep, expected mlp: inner folds choose for the other kinds")
    if not config.tune.space:
        raise ValueError("found an empty tune.space, expected keys to search, e.g. tune.space.fusion.lr={...}")
    for key, dimension in config.tune.space.items():
        for values in dimension.values():
            for value in values:
                try:
                    applied(config, {key: value})
                except ValueError as error:
                    raise ValueError(f"tune.space: {error}") from None


def _part(values: Mapping[str, Any], key: str) -> Any:
    """The value of a key that names a part of a setting, such as the dropout rate of one modality."""
    leaf, _, part = key.rpartition(".")
    whole = values[leaf]
    return whole.get(part) if isinstance(whole, dict) else whole


def _encoded(value: Any) -> Any:
    """A value as Optuna accepts it: lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value
