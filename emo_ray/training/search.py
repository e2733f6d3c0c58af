"""The space of a sweep, and what is sought in it. Optuna suggests; nothing here knows how trials are run."""

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
    """`tune.space` for Optuna. Lists and tables among the choices are JSON there: see `decoded`."""
    made = {}
    for key, given in space.items():
        ((form, values),) = given.items()
        if form == "choice":
            made[key] = optuna.distributions.CategoricalDistribution([_encoded(value) for value in values])
        elif form == "randint":
            made[key] = optuna.distributions.IntDistribution(*values)
        else:
            made[key] = optuna.distributions.FloatDistribution(*values, log=form == "loguniform")
    return made


def sampler(own: Tune, seed: int) -> optuna.samplers.BaseSampler:
    """What suggests: TPE, or chance."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line for every study and trial
    if own.search == "random":
        return optuna.samplers.RandomSampler(seed)
    return optuna.samplers.TPESampler(seed=seed)


def from_optuna(space: Mapping[str, Mapping[str, Sequence]], params: Params) -> Params:
    """A suggestion as values of the config."""
    choices = {key: {_encoded(v): v for v in given["choice"]} for key, given in space.items() if "choice" in given}
    return {key: choices[key][value] if key in choices else value for key, value in params.items()}


def to_optuna_trial(own: Tune, record: Mapping[str, Any]) -> optuna.trial.FrozenTrial:
    """What Optuna is to know of a trial that is over (a dict as `sweep_report` takes it)."""
    state = optuna.trial.TrialState[{"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}[record["state"]]]
    return optuna.trial.create_trial(
        state=state,
        value=record["value"] if record["state"] == "complete" else None,
        params={key: _encoded(value) for key, value in record["params"].items()},
        distributions=distributions(own.space),
        intermediate_values=dict(record["history"]),
    )


def rungs(own: Tune, epochs: int) -> list[int]:
    """The epochs after which ASHA (Li et al., MLSys 2020) stops trials; none without it."""
    found, rung = [], own.grace_epochs
    while own.scheduler == "asha" and rung < epochs:
        found.append(rung)
        rung *= own.reduction_factor
    return found


def is_promoted(value: float, reached: Sequence[float], factor: int) -> bool:
    """Whether a trial is among the best 1 / factor of all that reached its rung, itself among them."""
    return value >= np.quantile(reached, 1 - 1 / factor)


def default_params(config: Config) -> Params | None:
    """The suggestion that is the config as it is; None where the space does not hold it."""
    point, values = {}, flatten(config)
    for key, given in config.tune.space.items():
        ((form, ends),) = given.items()
        value = values[key] if key in values else _part(values, key)
        if form == "choice":
            if value not in ends:
                return None
        elif not isinstance(value, int | float) or not ends[0] <= value <= ends[1]:
            return None
        point[key] = _encoded(value)
    return point


def applied(config: Config, params: Params) -> Config:
    """The config of a trial; a rate of one modality leaves those of the others. Raises ValueError as override does."""
    base = config.fusion.modality_dropout
    if any(key.startswith(_MODALITY_DROPOUT + ".") for key in params) and not isinstance(base, dict):
        config = override(config, {_MODALITY_DROPOUT: dict.fromkeys(MODALITIES, base)})
    return override(config, params)


def check(config: Config) -> None:
    """Raises ValueError where any end or choice of the space is no value of its key."""
    if not config.tune.space:
        raise ValueError("found an empty tune.space, expected keys to search, e.g. tune.space.fusion.lr={...}")
    for key, given in config.tune.space.items():
        for values in given.values():
            for value in values:
                try:
                    applied(config, {key: value})
                except ValueError as error:
                    raise ValueError(f"tune.space: {error}") from None


def objective(metrics: Mapping[str, float], name: str) -> float:
    """`tune.objective` in an epoch's metrics. Raises ValueError where no validation clip has what it asks for."""
    where, metric = name.split("/")
    key = f"val_{metric}" if where == "available" else f"val_{where}/{metric}"
    if key not in metrics:
        raise ValueError(f"found no validation clip for tune.objective={name}, expected some that have all of {where}")
    return metrics[key]


def _part(values: Mapping[str, Any], key: str) -> Any:
    """The value of a key that is a part of a leaf, such as the rate of one modality."""
    leaf, _, part = key.rpartition(".")
    whole = values[leaf]
    return whole.get(part) if isinstance(whole, dict) else whole


def _encoded(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
