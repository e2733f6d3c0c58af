"""What a sweep over settings brought: tables, a CSV file of all trials, pictures, and one page."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emo_ray import durable
from emo_ray.reports import page
from emo_ray.reports.page import Page
from emo_ray.reports.sweep_plots import RECIPE, pictures
from emo_ray.reports.sweep_trials import (
    COMPLETE,
    FAILED,
    PRUNED,
    SweepReport,
    Trial,
    as_text,
    finished,
    groups,
    reached,
    stopped_in_first_phase,
    value,
)
from emo_ray.reports.table import Cell, Table
from emo_ray.reports.wording import AVAILABLE, DASH, SCORES, SUBSET_NAMES, percent, plural, points

PAGE, CSV = "sweep.html", "trials.csv"
MOST_ROWS = 25  # of trials that are visible at first
_STATES = {COMPLETE: "complete", PRUNED: "stopped early", FAILED: "failed"}  # in the order of their rows
_SEARCHES = {"tpe": "TPE", "random": "random", "pbt": "population-based training"}
_SCHEDULERS = {"asha": "bad trials stopped early by ASHA", "none": "no early stopping"}
_NOT_YET, _FIRST_PHASE = "not yet", "stopped in EmoVCLIP's phase"


def tables(content: SweepReport) -> list[Table]:
    """The best against the recipe, the trials, and what EmoVCLIP's prompts cost where they were searched."""
    prompts = _prompt_table(content)
    return [_comparison(content), _trial_table(content), *([prompts] if prompts.rows else [])]


def write(content: SweepReport, folder: Path) -> Path:
    """Write `sweep.html`, its pictures as PNG, and `trials.csv`; the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(content, folder / CSV)
    compared, trials, *prompts = tables(content)
    shown = Page(
        title="A sweep over settings",
        summary=summary(content),
        paragraphs=[_method(content)],
        blocks=[replace(compared, note=""), *pictures(content, objective(content)), *prompts, trials],
        notes=content["notes"],
        footer="objectives in percent, on clips on which the best trial was chosen: it looks a little better there "
        "than it is, the more so the more trials there were · the test split is for jobs/evaluate.py",
    )
    return page.write(shown, folder / PAGE)


def objective(content: SweepReport) -> str:
    """The objective in words, such as "WAF, mean of the seven subsets"."""
    subset, score = content["objective"].split("/")
    if subset == "mean":
        return f"{SCORES[score]}, mean of the seven subsets"
    return f"{SCORES[score]} with {AVAILABLE if subset == 'available' else SUBSET_NAMES[subset]}"


def summary(content: SweepReport) -> str:
    """What the best settings reach, and whether that is more than the recipe's."""
    best, recipe = _best_and_recipe(content)
    if best is None:
        return "No trial was completed, so there are no best settings."
    rank = f"is the best of {plural(len(content['trials']), 'trial')}: {percent(value(best))} % {objective(content)}"
    sentence = f"Trial {best['number']} {rank}"
    if best is recipe:
        sentence = f"{RECIPE.capitalize()} (trial {best['number']}) {rank}"
    elif recipe is not None and recipe not in finished(content):
        sentence += f"; {RECIPE} (trial {recipe['number']}) did not get to the end"
    elif recipe is not None:
        gain = points(value(best) - value(recipe))
        sentence += f", {gain} points against {RECIPE} (trial {recipe['number']}, {percent(value(recipe))} %)"
    if content["retrained"] is None:
        return f"{sentence}."
    return f"{sentence}. Trained again in the ordinary way, it reaches {percent(content['retrained'])} %."


def _method(content: SweepReport) -> str:
    counts = [f"{sum(t['state'] == state for t in content['trials'])} {name}" for state, name in _STATES.items()]
    clips = "the validation split"
    if content["folds"] is not None:
        clips = f"{content['folds']} folds of the training and validation clips"
    together = "many trials at a time in one process" if content["bulk"] else "each trial by itself"
    return (
        f"Trials: {', '.join(counts)}, in {_duration(content['seconds'])}. Search: {_SEARCHES[content['search']]}, "
        f"{_SCHEDULERS[content['scheduler']]}, {together}. Objective: {objective(content)}, on {clips}."
    )


def _duration(seconds: float) -> str:
    for unit_s, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.1f} {name}"
    return f"{seconds:.1f} seconds"


def _comparison(content: SweepReport) -> Table:
    """The best trial beside the recipe's."""
    best, recipe = _best_and_recipe(content)
    gain, unfinished = DASH, ""
    if best is not None and recipe is not None and recipe in finished(content):
        gain = points(value(best) - value(recipe))
    if recipe is not None and recipe["state"] != COMPLETE:
        unfinished = f" ({_state(recipe)})"
    rows = [["objective, percent", _objective_cell(recipe) + unfinished, _objective_cell(best), gain]]
    if content["retrained"] is not None:
        ends = interval["ends"] if (interval := content.get("interval")) else []
        spread = f" ({' to '.join(map(percent, ends))})" if ends else ""
        rows.append(["… trained again in the ordinary way", "", percent(content["retrained"]) + spread, ""])
    for key in content["space"]:
        cells = [as_text(trial["params"][key]) if trial else DASH for trial in (recipe, best)]
        rows.append([key, *cells, ""])
    names = [
        name + (f" (trial {trial['number']})" if trial else "")
        for name, trial in ((RECIPE, recipe), ("the best", best))
    ]
    return Table("The best settings and the recipe's", ["setting", *names, "points"], rows, summary(content))


def _trial_table(content: SweepReport) -> Table:
    """All trials, the best first: complete ones, then those that were stopped early, then those that failed."""
    trials = ordered(content)
    keys, errors = list(content["space"]), any(trial["error"] for trial in trials)
    header = ["trial", "state", "objective", "epochs", "seconds", *(re.sub(r"(?<=[._])", "\n", key) for key in keys)]
    rows = [
        [
            str(trial["number"]),
            _state(trial),
            _objective_cell(trial),
            str(trial["epochs"]),
            f"{trial['seconds']:.1f}",
            *(as_text(trial["params"][key]) for key in keys),
            *([trial["error"] or ""] if errors else []),
        ]
        for trial in trials
    ]
    return Table(
        title=f"Trials by {objective(content)}, percent",
        header=[*header, *(["error"] if errors else [])],
        rows=rows,
        emphasised=[
            row for row, trial in enumerate(trials) if trial["number"] in (content["best"], content["default"])
        ],
        words=(1, len(header)),
        visible_rows=MOST_ROWS,
    )


def ordered(content: SweepReport) -> list[Trial]:
    """Trials by state and, in each state, the best first."""

    def place(trial: Trial) -> tuple[int, bool, float, int]:
        objective = trial["value"]
        unknown = objective is None or not np.isfinite(objective)
        return list(_STATES).index(trial["state"]), unknown, 0.0 if unknown else -value(trial), trial["number"]

    return sorted(content["trials"], key=place)


def _state(trial: Trial) -> str:
    return _FIRST_PHASE if stopped_in_first_phase(trial) else _STATES[trial["state"]]


def _objective_cell(trial: Trial | None) -> str:
    if trial is None or trial["value"] is None:
        return DASH
    return _NOT_YET if trial["value"] < 0 else percent(trial["value"])


def _prompt_table(content: SweepReport) -> Table:
    """Objectives and seconds by value of EmoVCLIP's settings that have few values; no rows where none was searched."""
    rows: list[list[str | Cell]] = []
    for key, space in content["space"].items():
        if not key.startswith("emovclip.") or not {"choice", "randint"} & set(space):
            continue
        for setting, trials in groups(content, key):
            done = [trial for trial in trials if trial["state"] == COMPLETE and reached(trial["value"])]
            cells = [DASH] * 3
            if done:
                rates = [value(trial) for trial in done]
                seconds = max(trial["seconds"] for trial in done)
                cells = [percent(float(np.mean(rates))), percent(max(rates)), f"{seconds:.1f}"]
            rows.append([f"{key} = {as_text(setting)}", str(len(trials)), str(len(done)), *cells])
    return Table(
        title="What EmoVCLIP's prompts bring and cost",
        header=["setting", "trials", "complete", "mean", "best", "most seconds"],
        rows=rows,
        note="Objectives in percent and seconds are those of complete trials; the other settings differed, too. "
        "Seconds are those of the longest trial: one that finds its EmoVCLIP trained already takes next to none.",
    )


def _write_csv(content: SweepReport, path: Path) -> None:
    """A row for each trial, by number; settings as in JSON, but words without quotation marks."""
    keys = list(content["space"])
    rows: list[list[Any]] = [["number", "state", "value", "epochs", "seconds", "error", *keys]]
    for trial in sorted(content["trials"], key=lambda trial: trial["number"]):
        about = [trial["number"], trial["state"], trial["value"], trial["epochs"], trial["seconds"], trial["error"]]
        settings = [trial["params"][key] for key in keys]
        rows.append([*about, *(s if type(s) in (str, int, float) else json.dumps(s) for s in settings)])
    durable.write_csv(path, rows)


def _best_and_recipe(content: SweepReport) -> tuple[Trial | None, Trial | None]:
    """The trials of the best and of the recipe's own settings, where there are any."""
    trials = {trial["number"]: trial for trial in content["trials"]}
    numbers = content["best"], content["default"]
    best, recipe = (None if number is None else trials.get(number) for number in numbers)
    return best, recipe
