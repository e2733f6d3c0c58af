"""What a sweep over settings found: tables for the terminal, a CSV file, pictures, and one self-contained HTML page.

`content` is a plain dict, as `sweep.json` holds it:

    objective   "SUBSET/METRIC": one of `report.SUBSETS`, "mean" (of these seven) or "available", and one of
                `report.SCORES`, of the validation split
    folds       None, or of how many folds of the training and validation clips the objective is instead
    search, scheduler    what suggests trials ("tpe", "random", "pbt") and what stops them ("asha", "none")
    bulk        whether many trials were trained at a time in one process
    space       {key: {"uniform" or "loguniform" or "randint": [low, high]} or {key: {"choice": values}}}
    trials      [{"number", "params" {key: value}, "state" ("complete", "pruned": stopped early, "failed"), "value",
                "epochs", "seconds", "history" [[epoch, objective]], "error" (a line or None)}]; "value" is the last
                objective or None; of EmoVCLIP's phase objectives are negative, which is no share: "not yet"
    best        number of the best complete trial, or None;   default: that of the recipe as it is, or None
    retrained   objective of the best settings when trained again in the ordinary way, or None
    seconds     of the whole sweep;   notes: sentences

Objectives are shares in [0, 1] and shown in percent.
"""

import csv
import json
import math
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from emo_ray.reports import page
from emo_ray.reports.evaluation import AVAILABLE, SCORES, SUBSETS
from emo_ray.reports.sweep_axes import (
    COMPLETE,
    FAILED,
    PRUNED,
    Trial,
    axes_of,
    broken,
    finished,
    groups,
    shown,
    stopped_in_first_phase,
    value,
)
from emo_ray.reports.sweep_plots import RECIPE, pictures

PAGE, CSV = "sweep.html", "trials.csv"
_TITLE, _PROMPTS_TITLE = "A sweep over settings", "What EmoVCLIP's prompts bring and cost"
MOST_ROWS = 25  # of trials in the terminal
_STATES = {COMPLETE: "complete", PRUNED: "stopped early", FAILED: "failed"}  # in the order of their rows
_SEARCHES = {"tpe": "TPE", "random": "random", "pbt": "population-based training"}
_SCHEDULERS = {"asha": "bad trials stopped early by ASHA", "none": "no early stopping"}
_NOT_YET, _FIRST_PHASE = "not yet", "stopped in EmoVCLIP's phase"
_TRIAL = ["trial", "state", "objective", "epochs", "seconds"]
_PROMPTS = ["setting", "trials", "complete", "mean", "best", "most seconds"]
_WORDS = ("setting", "state", "error")  # columns that hold no numbers
_DASH = "–"

Row = list[str]


def tables(content: dict[str, Any]) -> list[Table]:
    """The best against the recipe, the trials, and what EmoVCLIP's prompts cost where they were searched."""
    header, rows = _trial_rows(content)
    more = len(rows) - MOST_ROWS
    drawn = [
        _terminal("The best settings and the recipe's", *_compared(content), summary(content)),
        _terminal(
            f"Trials by {objective(content)}, percent",
            header,
            rows[:MOST_ROWS],
            f"{more} more trial{'s' if more > 1 else ''} in {CSV}" if more > 0 else "",
        ),
    ]
    if prompts := _prompt_rows(content):
        drawn.append(_terminal(_PROMPTS_TITLE, _PROMPTS, prompts, ""))
    return drawn


def write(content: dict[str, Any], folder: Path) -> Path:
    """Write `trials.csv`, pictures as PNG, and `sweep.html`, which holds a copy of them; the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(content, folder / CSV)
    drawn = {}
    for name, (figure, about) in pictures(content, objective(content)).items():
        png = page.png(figure)
        (folder / f"{name}.png").write_bytes(png)
        drawn[name] = page.picture(png, about)
    if "importance" in drawn:
        drawn["importance"] += f"<p class='note'>{escape(_importance_caption(content))}</p>"
    body = [
        f"<h1>{_TITLE}</h1>",
        f"<p class='summary'>{escape(summary(content))}</p>",
        f"<p>{escape(_how(content))}</p>",
        page.html_table(*_compared(content)),
        *_picture_section("Trial by trial", drawn.get("trials"), drawn.get("curves")),
        *_picture_section("Settings and objectives", drawn.get("parallel"), drawn.get("settings")),
        *_picture_section("Importance", drawn.get("importance")),
        *_prompt_section(content),
        *_trial_section(content),
        *page.notes(content["notes"]),
        f"<footer>{_FOOTER}</footer>",
    ]
    path = folder / PAGE
    path.write_text(page.document(_TITLE, body, _CSS), encoding="utf-8")
    return path


def objective(content: dict[str, Any]) -> str:
    """In words, such as "WAF, mean of the seven subsets"."""
    subset, metric = content["objective"].split("/")
    if subset == "mean":
        return f"{SCORES[metric]}, mean of the seven subsets"
    return f"{SCORES[metric]} with {AVAILABLE if subset == 'available' else SUBSETS[subset]}"


def summary(content: dict[str, Any]) -> str:
    """What the best settings reach, and whether that is more than the recipe's."""
    best, recipe = (_numbered(content, content[which]) for which in ("best", "default"))
    if best is None:
        return "No trial was completed, so there are no best settings."
    trials = f"{len(content['trials'])} trial{'s' if len(content['trials']) > 1 else ''}"
    where = f"of {trials}: {page.percent(best['value'])} % {objective(content)}"
    said = f"Trial {best['number']} is the best {where}"
    if best is recipe:
        said = f"{RECIPE.capitalize()} (trial {best['number']}) is the best {where}"
    elif recipe is not None and recipe not in finished(content):
        said += f"; {RECIPE} (trial {recipe['number']}) did not get to the end"
    elif recipe is not None:
        gain = page.points(best["value"] - recipe["value"])
        said += f", {gain} points against {RECIPE} (trial {recipe['number']}, {page.percent(recipe['value'])} %)"
    if content["retrained"] is None:
        return f"{said}."
    return f"{said}. Trained again in the ordinary way, it reaches {page.percent(content['retrained'])} %."


def _how(content: dict[str, Any]) -> str:
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
    for unit, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} seconds"


def _compared(content: dict[str, Any]) -> tuple[Row, list[Row]]:
    """Header and rows of the best trial beside the recipe's."""
    best, recipe = (_numbered(content, content[which]) for which in ("best", "default"))
    header = [
        "setting",
        RECIPE + (f" (trial {recipe['number']})" if recipe else ""),
        "the best" + (f" (trial {best['number']})" if best else ""),
    ]
    known = None not in (best, recipe) and recipe in finished(content)
    gain = page.points(best["value"] - recipe["value"]) if known else _DASH
    at_end = "" if recipe is None or recipe["state"] == COMPLETE else f" ({_state(recipe)})"
    rows = [["objective, percent", _objective_cell(recipe) + at_end, _objective_cell(best), gain]]
    if content["retrained"] is not None:
        rows.append(["… trained again in the ordinary way", "", page.percent(content["retrained"]), ""])
    for key in content["space"]:
        cells = [shown(trial["params"][key]) if trial else _DASH for trial in (recipe, best)]
        rows.append([key, *cells, ""])
    return [*header, "points"], rows


def _trial_rows(content: dict[str, Any]) -> tuple[Row, list[Row]]:
    """Header and rows, the best first: complete ones, then those that were stopped early, then those that failed."""
    trials = ordered(content)
    errors = any(trial["error"] for trial in trials)
    rows = [
        [
            str(trial["number"]),
            _state(trial),
            _objective_cell(trial),
            str(trial["epochs"]),
            f"{trial['seconds']:.1f}",
            *(shown(trial["params"][key]) for key in content["space"]),
            *([trial["error"] or ""] if errors else []),
        ]
        for trial in trials
    ]
    return [*_TRIAL, *(broken(key, 10) for key in content["space"]), *(["error"] if errors else [])], rows


def ordered(content: dict[str, Any]) -> list[Trial]:
    """Trials by state and, in each, the best first."""

    def place(trial: Trial) -> tuple[int, float, int]:
        known = trial["value"] is not None and math.isfinite(trial["value"])
        return list(_STATES).index(trial["state"]), -trial["value"] if known else math.inf, trial["number"]

    return sorted(content["trials"], key=place)


def _state(trial: Trial) -> str:
    return _FIRST_PHASE if stopped_in_first_phase(trial) else _STATES[trial["state"]]


def _objective_cell(trial: Trial | None) -> str:
    if trial is None or trial["value"] is None:
        return _DASH
    return _NOT_YET if trial["value"] < 0 else page.percent(trial["value"])


def _prompt_rows(content: dict[str, Any]) -> list[Row]:
    """For each value of those of EmoVCLIP's settings that have few; means and times are of complete trials.

    The longest time, for trials that find an EmoVCLIP that another has trained take next to none.
    """
    rows, complete = [], {trial["number"] for trial in finished(content)}
    for axis in axes_of(content):
        if not axis.key.startswith("emovclip.") or not (axis.choices or axis.whole):
            continue
        for setting, own in groups(content["trials"], axis):
            done = [trial for trial in own if trial["number"] in complete]
            numbers = [_DASH] * 3
            if done:
                values, seconds = [value(trial) for trial in done], [trial["seconds"] for trial in done]
                numbers = [page.percent(np.mean(values)), page.percent(max(values)), f"{max(seconds):.1f}"]
            rows.append([f"{axis.key} = {shown(setting)}", str(len(own)), str(len(done)), *numbers])
    return rows


def _prompt_section(content: dict[str, Any]) -> list[str]:
    """In HTML; nothing where none of EmoVCLIP's settings was searched."""
    if not (rows := _prompt_rows(content)):
        return []
    said = (
        "Objectives in percent and seconds are those of complete trials; the other settings differed, too. Seconds are "
        "those of the trial that took longest: one that finds its EmoVCLIP trained already takes next to none."
    )
    return [f"<h2>{escape(_PROMPTS_TITLE)}</h2>", page.html_table(_PROMPTS, rows), f"<p class='note'>{said}</p>"]


def _picture_section(title: str, *drawn: str | None) -> list[str]:
    """In HTML; nothing without a picture."""
    there = [each for each in drawn if each]
    return [f"<h2>{title}</h2>", *there] if there else []


def _importance_caption(content: dict[str, Any]) -> str:
    return (
        f"By fANOVA (a random forest, as optuna.importance has it) of {len(finished(content))} complete trials, of "
        "which those far below most count as the lowest of the others: a hint from a few trials, not a measurement."
    )


def _trial_section(content: dict[str, Any]) -> list[str]:
    """In HTML: the best of them, and the rest on demand."""
    header, rows = _trial_rows(content)
    words = {trial["error"]: "words" for trial in content["trials"] if trial["error"]}
    body = ["<h2>All trials</h2>", page.html_table(header, rows[:MOST_ROWS], words)]
    if rest := rows[MOST_ROWS:]:
        body += [
            f"<details><summary>The other {len(rest)}</summary>",
            page.html_table(header, rest, words),
            "</details>",
        ]
    return body


def _write_csv(content: dict[str, Any], path: Path) -> None:
    """A row for each trial, by number; settings as in JSON, but for words, which stand as they are."""
    about, keys = ["number", "state", "value", "epochs", "seconds", "error"], list(content["space"])
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*about, *keys])
        for trial in sorted(content["trials"], key=lambda trial: trial["number"]):
            settings = [trial["params"][key] for key in keys]
            rows.writerow(
                [*(trial[name] for name in about), *(s if isinstance(s, str) else json.dumps(s) for s in settings)]
            )


def _numbered(content: dict[str, Any], number: int | None) -> Trial | None:
    return next((trial for trial in content["trials"] if trial["number"] == number), None)


def _terminal(title: str, header: Row, rows: list[Row], note: str) -> Table:
    """All words are `Text`: rich would read brackets in a plain string as markup."""
    drawn = Table(title=Text(title), caption=Text(note) if note else None, box=box.SIMPLE_HEAD, collapse_padding=True)
    drawn.title_justify = drawn.caption_justify = "left"
    for name in header:
        drawn.add_column(Text(name), justify="left" if name in _WORDS else "right", overflow="fold", vertical="bottom")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn


_FOOTER = (
    "objectives in percent, on clips on which the best trial was chosen: it looks a little better there than it is, "
    "the more so the more trials there were · the test split is for jobs/evaluate.py"
)
_CSS = """
body { max-width: 66rem; }
table { font-size: .92rem; }
th, td { padding: .3rem .5rem; }
thead th { white-space: pre-line; vertical-align: bottom; }
td.words { white-space: normal; min-width: 14rem; text-align: left; }
.note { color: var(--faint); }
"""
