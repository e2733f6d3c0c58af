"""What the trials of a sweep tell: objectives, and how much each searched key matters."""

import json
import math
from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

from emo_ray.training.bootstrap import DrawnInterval

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
ENOUGH = 10  # complete trials; with fewer the importance of keys is noise

# key -> {"uniform", "loguniform" or "randint": [low, high]} or {"choice": values}
Space = dict[str, dict[str, list[Any]]]


class Trial(TypedDict):
    """One trial. Objectives are shares in [0, 1]; negative ones are of EmoVCLIP's phase and mean "not yet"."""

    number: int
    params: dict[str, Any]  # by searched key
    state: str  # "complete", "pruned" (stopped early) or "failed"
    value: float | None  # the last objective
    epochs: int
    seconds: float
    history: list[tuple[int, float]]  # (epoch, objective of the epoch that would be kept so far)
    curve: NotRequired[list[tuple[int, float]]]  # (epoch, objective at that epoch); not in earlier versions
    error: str | None  # one line


class SweepReport(TypedDict):
    """The content of sweep.json."""

    objective: str  # "SUBSET/METRIC": a subset such as "VA", "mean" (of the seven) or "available"; a key of SCORES
    folds: int | None  # None: judged on the validation split, else in folds of training and validation clips
    search: str  # what suggests trials: "tpe", "random" or "pbt"
    scheduler: str  # what stops trials: "asha" or "none"
    bulk: bool  # whether many trials were trained at a time in one process
    space: Space
    trials: list[Trial]
    best: int | None  # number of the best complete trial
    default: int | None  # number of the trial with the recipe's own settings
    retrained: float | None  # objective of the best settings when they are trained again by the train stage
    seconds: float  # of the whole sweep
    notes: list[str]
    interval: NotRequired[DrawnInterval | None]  # of `retrained`; not in earlier versions


def reached(objective: float | None) -> bool:
    """Whether there is an objective of the fusion head's phase."""
    return objective is not None and math.isfinite(objective) and objective >= 0


def stopped_in_first_phase(trial: Trial) -> bool:
    """Whether the trial ended before the fusion head was trained."""
    return trial["state"] == PRUNED and trial["value"] is not None and trial["value"] < 0


def finished(content: SweepReport) -> list[Trial]:
    """Complete trials with an objective, by number."""
    trials = [trial for trial in content["trials"] if trial["state"] == COMPLETE and reached(trial["value"])]
    return sorted(trials, key=lambda trial: trial["number"])


def value(trial: Trial) -> float:
    """The objective of a finished trial."""
    assert trial["value"] is not None
    return trial["value"]


def best_so_far(trials: Sequence[Trial]) -> list[float]:
    """The highest objective up to each of these finished trials."""
    return np.maximum.accumulate([value(trial) for trial in trials]).tolist()


def lowest_ordinary(objectives: Sequence[float]) -> float:
    """The lowest objective that is not far below most; beside training that went wrong all others would look equal.

    Far is more than twice the distance between the quartiles below the lower one, and this distance counts as a
    hundredth of the highest objective at least.
    """
    first, third = np.quantile(objectives, [0.25, 0.75])
    far = first - 2 * max(third - first, 0.01 * max(objectives))
    return min(objective for objective in objectives if objective >= far)


def choices_of(content: SweepReport, key: str) -> list[Any]:
    """The distinct values of a key with choices, those of the space first; empty for a key with a range."""
    choices = content["space"][key].get("choice", [])
    tried = [trial["params"][key] for trial in content["trials"]] if choices else []
    return list({identity(setting): setting for setting in [*choices, *tried]}.values())


def identity(setting: Any) -> str:
    """Equal for equal settings alone: to Python, true is 1, and lists cannot be keys."""
    return json.dumps(setting)


def groups(content: SweepReport, key: str) -> list[tuple[Any, list[Trial]]]:
    """The distinct values of a key in the order of its choices or of its range, each with its trials."""
    members: dict[str, list[Trial]] = {}
    for trial in content["trials"]:
        members.setdefault(identity(trial["params"][key]), []).append(trial)
    settings = choices_of(content, key) or sorted(trial["params"][key] for trial, *_ in members.values())
    return [(setting, members[identity(setting)]) for setting in settings if identity(setting) in members]


def importances(content: SweepReport) -> dict[str, float]:
    """Key -> share of the objective's variance that it explains alone, by fANOVA; the largest first, their sum is 1.

    Objectives far below most count as the lowest of the others. Empty where fewer than ten trials are complete, fewer
    than two keys differ among them, or the objective does not.
    """
    trials = finished(content)
    if len(trials) < ENOUGH:
        return {}
    low = lowest_ordinary([value(trial) for trial in trials])
    objectives = [max(value(trial), low) for trial in trials]
    differing = [key for key in content["space"] if len({identity(trial["params"][key]) for trial in trials}) > 1]
    if len(differing) < 2 or len(set(objectives)) < 2:
        return {}
    from optuna import logging
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)  # Optuna prints a line for every study
    try:
        study = _study(content, trials, objectives, differing)
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
        return {key: float(share) for key, share in shares.items()}
    finally:
        logging.set_verbosity(verbosity)


def _study(content: SweepReport, trials: Sequence[Trial], objectives: Sequence[float], keys: Sequence[str]) -> Any:
    """An Optuna study of these trials. fANOVA weighs ranges by their length, so logarithmic ones are given as log10."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.study import create_study
    from optuna.trial import create_trial

    columns: dict[str, list[Any]] = {}
    distributions: dict[str, BaseDistribution] = {}
    for key in keys:
        settings = [trial["params"][key] for trial in trials]
        if choices := choices_of(content, key):
            columns[key] = [identity(setting) for setting in settings]
            distributions[key] = CategoricalDistribution([identity(choice) for choice in choices])
            continue
        ((form, bounds),) = content["space"][key].items()
        scaled = [math.log10(number) if form == "loguniform" else float(number) for number in (*settings, *bounds)]
        columns[key] = scaled[: len(settings)]
        distributions[key] = FloatDistribution(min(scaled), max(scaled))
    study = create_study(study_name="sweep", direction="maximize")
    for row, objective in enumerate(objectives):
        params = {key: column[row] for key, column in columns.items()}
        study.add_trial(create_trial(params=params, distributions=distributions, value=objective))
    return study


def as_text(setting: Any) -> str:
    """A setting's value as in YAML, floats with four digits."""
    if isinstance(setting, float):
        if 0 < abs(setting) < 0.001:
            return np.format_float_scientific(setting, precision=3, trim="-", exp_digits=1)
        return f"{setting:.4g}".replace("e+0", "e")
    return setting if isinstance(setting, str) else json.dumps(setting, ensure_ascii=False)
