"""What the trials of a sweep say (`sweep_report` tells what `content` holds): objectives, and where settings lie."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
ENOUGH = 10  # complete trials; the importance of settings is noise in fewer
_LONGEST_CHOICE = 12  # letters beside an axis; the page has the whole
_BESIDE = -0.13  # where values that a scale has no place for are drawn
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, are spread evenly however many there are
_STEPS = ((1,), (1, 3), (1, 2, 5), range(1, 10))  # round values in a decade, fewer first

Trial = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """Where the values of one searched key lie, from 0 to 1.

    `low` and `high` are the ends of the scale, their logarithms to the base of 10 where `log`; `choices` are all values
    of a key without a scale. `others` are values that the scale has no place for, such as null or, on a logarithmic
    one, zero: the recipe's own value need not lie in the space.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()
    others: tuple[Any, ...] = ()

    def place(self, setting: Any) -> float:
        """From 0 to 1, or a little below 0 for one of `others`."""
        if self.choices:
            return ([_same(choice) for choice in self.choices].index(_same(setting)) + 0.5) / len(self.choices)
        if not _on_scale(setting, self.log):
            return _BESIDE
        return self._share(math.log10(setting) if self.log else setting)

    def jittered(self, trial: Trial) -> float:
        """The place of a trial's value; moved a little for choices, so that trials of the same one can be told."""
        width = 0.5 / len(self.choices) if self.choices else 0.0
        return self.place(trial["params"][self.key]) + width * ((trial["number"] * _GOLDEN + 0.5) % 1 - 0.5)

    def ends(self) -> tuple[float, float]:
        """The lowest and the highest place, with room for what is moved."""
        return (_BESIDE if self.others else 0.0) - 0.06, 1.06

    def ticks(self) -> list[tuple[float, str]]:
        """Places and their texts."""
        if self.choices:
            return [(self.place(choice), _short(shown(choice))) for choice in self.choices]
        beside = [(_BESIDE, _short("/".join(shown(other) for other in self.others)))] if self.others else []
        return beside + [(self.place(number), shown(number)) for number in self._round_numbers()]

    def _share(self, position: float) -> float:
        return (position - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def _round_numbers(self) -> list[float]:
        """A few on the scale."""
        if self.low == self.high:
            return [10**self.low if self.log else self.low]
        if not self.log:
            steps = MaxNLocator(5, steps=[1, 2, 5, 10], integer=self.whole).tick_values(self.low, self.high)
            numbers = [round(step) if self.whole else float(step) for step in steps]
            return [number for number in numbers if _within(self.place(number))]
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        for steps in _STEPS:
            numbers = [float(f"{step}e{decade}") for decade in decades for step in steps]
            inside = [number for number in numbers if _within(self.place(number))]
            if len(inside) > 1:
                return inside[:: math.ceil(len(inside) / 5)]
        return [10**self.low, 10**self.high]


def axes_of(content: dict[str, Any]) -> list[Axis]:
    """One for each searched key; they hold the space and every trial's value."""
    return [_axis(key, space, [t["params"][key] for t in content["trials"]]) for key, space in content["space"].items()]


def _axis(key: str, space: dict[str, list[Any]], tried: list[Any]) -> Axis:
    ((form, bounds),) = space.items()
    settings = _distinct([*bounds, *tried])
    if form == "choice":
        return Axis(key, choices=tuple(settings))
    log = form == "loguniform"
    numbers = [math.log10(setting) if log else setting for setting in settings if _on_scale(setting, log)]
    others = tuple(setting for setting in settings if not _on_scale(setting, log))
    return Axis(key, min(numbers), max(numbers), log, form == "randint", others=others)


def groups(trials: Iterable[Trial], axis: Axis) -> list[tuple[Any, list[Trial]]]:
    """The distinct values of a key in the order of its axis, each with its trials."""
    own: dict[tuple[bool, Any], list[Trial]] = {}
    for trial in trials:
        own.setdefault(_same(trial["params"][axis.key]), []).append(trial)
    return sorted(((setting, some) for (_, setting), some in own.items()), key=lambda group: axis.place(group[0]))


def value(trial: Trial) -> float | None:
    """The objective; None where there is none, or only that of EmoVCLIP's phase."""
    return trial["value"] if reached(trial["value"]) else None


def reached(objective: float | None) -> bool:
    """Whether there is an objective; negative ones are of EmoVCLIP's phase, and no share."""
    return objective is not None and math.isfinite(objective) and objective >= 0


def stopped_in_first_phase(trial: Trial) -> bool:
    """Whether it ended before the fusion head was trained."""
    return trial["state"] == PRUNED and trial["value"] is not None and trial["value"] < 0


def finished(content: dict[str, Any]) -> list[Trial]:
    """Complete trials, by number."""
    there = [trial for trial in content["trials"] if trial["state"] == COMPLETE and value(trial) is not None]
    return sorted(there, key=lambda trial: trial["number"])


def best_so_far(trials: Sequence[Trial]) -> list[float]:
    """The highest objective up to each of these trials."""
    return np.maximum.accumulate([value(trial) for trial in trials]).tolist()


def lowest_ordinary(objectives: Sequence[float]) -> float:
    """Without those far below most, of training that went wrong, beside which all others would seem equal.

    Far is more than twice the distance between the quartiles below the lower one, a distance of a hundredth of the
    highest at least.
    """
    first, third = np.quantile(objectives, [0.25, 0.75])
    far = first - 2 * max(third - first, 0.01 * max(objectives))
    return min(objective for objective in objectives if objective >= far)


def importances(content: dict[str, Any]) -> dict[str, float]:
    """Key -> share of the objective's variance that it explains alone, by fANOVA; the largest first, their sum is 1.

    Objectives far below most count as the lowest of the others. Empty where fewer than ten trials are complete, fewer
    than two keys differ among them, or the objective does not.
    """
    trials = finished(content)
    if len(trials) < ENOUGH:
        return {}
    low = lowest_ordinary([value(trial) for trial in trials])
    objectives = [max(value(trial), low) for trial in trials]
    differing = [axis for axis in axes_of(content) if len(groups(trials, axis)) > 1]
    if len(differing) < 2 or len(set(objectives)) < 2:
        return {}
    from optuna import logging
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)  # it tells of every study
    try:
        shares = get_param_importances(
            _study(trials, objectives, differing), evaluator=FanovaImportanceEvaluator(seed=0)
        )
        return {key: float(share) for key, share in shares.items()}
    finally:
        logging.set_verbosity(verbosity)


def _study(trials: Sequence[Trial], objectives: Sequence[float], axes: Sequence[Axis]) -> Any:
    """Of optuna, with places on the axes: by values, fANOVA would weigh a logarithmic range by its linear length."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.study import create_study
    from optuna.trial import create_trial

    spans = {
        axis.key: CategoricalDistribution([axis.place(choice) for choice in axis.choices])
        if axis.choices
        else FloatDistribution(_BESIDE if axis.others else 0.0, 1.0)
        for axis in axes
    }
    study = create_study(study_name="sweep", direction="maximize")
    for trial, objective in zip(trials, objectives, strict=True):
        places = {axis.key: axis.place(trial["params"][axis.key]) for axis in axes}
        study.add_trial(create_trial(params=places, distributions=spans, value=objective))
    return study


def shown(setting: Any) -> str:
    """A setting's value as in YAML, floats with four digits."""
    if setting is None or isinstance(setting, bool):
        return {None: "null", True: "true", False: "false"}[setting]
    if isinstance(setting, float) and 0 < abs(setting) < 0.001:
        return np.format_float_scientific(setting, precision=3, trim="-", exp_digits=1)
    return f"{setting:.4g}".replace("e+0", "e") if isinstance(setting, float) else str(setting)


def broken(key: str, letters: int) -> str:
    """A key on lines of so many letters where that is possible, broken after dots and underscores."""
    first, *parts = re.split(r"(?<=[._])", key)
    lines = [first]
    for part in parts:
        if len(lines[-1] + part) > letters:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_CHOICE else text[: _LONGEST_CHOICE - 1] + "…"


def _on_scale(setting: Any, log: bool) -> bool:
    number = isinstance(setting, int | float) and not isinstance(setting, bool) and math.isfinite(setting)
    return number and (setting > 0 or not log)


def _within(place: float) -> bool:
    return -1e-9 <= place <= 1 + 1e-9


def _same(setting: Any) -> tuple[bool, Any]:
    """Equal for equal settings alone: to Python, true is 1."""
    return isinstance(setting, bool), setting


def _distinct(settings: Iterable[Any]) -> list[Any]:
    return [setting for _, setting in dict.fromkeys(_same(setting) for setting in settings)]
