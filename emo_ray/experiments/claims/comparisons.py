"""Which trials the claims compare, and the tables and differences that their scores make. No Ray, nothing trained."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from scipy import stats

from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.synthetic import LABELS
from emo_ray.experiments.claims.self_training import HEADS, ROUNDS

VERSION = 2  # raise it when the same scores make other tables or verdicts
PROBES = {
    "linear probe, mean": ("mean",),
    "linear probe, mean + deviation": ("mean", "deviation"),
    "linear probe, mean + slope": ("mean", "slope"),
    "linear probe, mean + deviation + slope": ("mean", "deviation", "slope"),
}
OURS, ZERO_SHOT, UNPROMPTED, AS_DESCRIBED = "EmoVCLIP", "zero-shot CLIP", "attention, no prompts", "+ text context"
_GLOBAL, _CONTEXT = "emovclip.global_prompts", "emovclip.context_tokens"
_NOTHING = {
    _GLOBAL: 0,
    "emovclip.local_prompts": False,
    "emovclip.summary_prompt": False,
    "emovclip.time_embedding": False,
    _CONTEXT: 0,
    "emovclip.pooling": "mean",
}
_WHOLE = {
    _GLOBAL: 8,
    "emovclip.local_prompts": True,
    "emovclip.summary_prompt": True,
    "emovclip.time_embedding": True,
    _CONTEXT: 8,
    "emovclip.pooling": "attention",
}
_LOCAL = {"emovclip.local_prompts": True, "emovclip.time_embedding": True}
# Each rung adds to the one above it: AS_DESCRIBED is all that DESIGN describes, the last is OURS.
LADDER = {
    "global prompts": _NOTHING | {_GLOBAL: 8},
    "+ local prompts and time embedding": _NOTHING | {_GLOBAL: 8} | _LOCAL,
    "+ summary prompt": _WHOLE | {_CONTEXT: 0, "emovclip.pooling": "mean"},
    AS_DESCRIBED: _WHOLE | {"emovclip.pooling": "mean"},
    "+ attention over frames": _WHOLE,
}
LENGTHS = {
    f"{words} {count}": _WHOLE | {key: count}
    for key, words in ((_GLOBAL, "global prompts:"), (_CONTEXT, "context tokens:"))
    for count in (2, 16)
}
_HEADS = {
    "teacher": "teacher",
    "longer": "teacher with the student's steps",
    "student": "student",
    "kept": f"best on validation of {ROUNDS} rounds",
}
INCOMPLETE = tuple(key for key in SUBSETS if len(key) < len(MODALITIES))
EVERYTHING = next(key for key in SUBSETS if len(key) == len(MODALITIES))


@dataclass(frozen=True)
class Trial:
    """One training or measurement: what is done, and with which changes to the config."""

    kind: str  # zero_shot, probe, video, fusion or self_training
    changes: dict[str, Any] = field(default_factory=dict)
    option: tuple[str, ...] = ()  # a probe's statistics, fusion's modalities, or how many labels a teacher knows
    seeded: bool = True  # else seed 0 alone


Scores = dict[str, float]  # "test/VAT" -> weighted F1
Found = dict[str, list[list[Scores]]]  # name of a trial -> world -> seed
OverWorlds = Callable[..., np.ndarray]  # (name of a trial, key of its scores, seeds) -> mean score of each world
Part = tuple[list[dict], list[dict]]  # tables and differences


def trials_of(config: Config) -> dict[str, Trial]:
    """Every trial of one world and seed, by the name that its row has."""
    ladder = {name: changes for name, changes in LADDER.items() if changes != _WHOLE}
    without = {"fusion.modality_dropout": 0.0}
    return {
        OURS: Trial("video", _WHOLE),  # first, because fusion waits for its features
        ZERO_SHOT: Trial("zero_shot", seeded=False),
        **{name: Trial("probe", option=statistics, seeded=False) for name, statistics in PROBES.items()},
        UNPROMPTED: Trial("video", _NOTHING | {"emovclip.pooling": "attention"}),
        **{name: Trial("video", changes) for name, changes in ladder.items()},
        **{name: Trial("video", changes, seeded=False) for name, changes in LENGTHS.items()},
        **{f"only {key}": Trial("fusion", without, names) for key, names in SUBSETS.items()},
        **{
            f"dropout {rate:g}": Trial("fusion", {"fusion.modality_dropout": rate}, MODALITIES)
            for rate in config.claims.dropout_rates
            if rate > 0
        },
        **{_taught(count): Trial("self_training", _WHOLE, (str(count),)) for count in labels_known(config)},
    }


def seeds_of(trial: Trial, config: Config) -> int:
    """How often a trial is made in each world."""
    several = config.claims.self_training_seeds if trial.kind == "self_training" else config.claims.seeds
    return several if trial.seeded else 1


def labels_known(config: Config) -> tuple[int, int]:
    """Of how many training clips a teacher knows the labels: few of them, and plenty."""
    return tuple(max(len(LABELS), config.synthetic.train_clips // share) for share in (10, 2))


def claimed(config: Config, found: Found) -> dict[str, Any]:
    """The tables and the differences of every claim, from the scores of its trials: what `claims_report` shows."""

    def over_worlds(name: str, key: str = "test/V", seeds: int | None = None) -> np.ndarray:
        return np.array([np.mean([_score(scores, key) for scores in world[:seeds]]) for world in found[name]])

    tables, differences = [], []
    for part in (_against_untuned, _prompts, _modalities, _dropout, _self_training):
        new_tables, new_differences = part(config, over_worlds)
        tables += new_tables
        differences += new_differences
    own = config.synthetic
    return {
        "title": "The paper's claims, in miniature",
        "metric": "WAF",
        "worlds": config.claims.worlds,
        "seeds": config.claims.seeds,
        "setup": (
            f"Synthetic worlds of {own.train_clips} training, {own.validation_clips} validation and {own.test_clips} "
            f"test clips of {len(LABELS)} classes, no person in two splits; {config.train.epochs} epochs. "
            "Epochs, probe strengths, captions and the dropout rate are chosen on validation; all other settings were "
            "fixed before on another world, that of the demo. Standard errors are over worlds, seeds averaged first: "
            "with so few of them 2 SE is a weaker statement than the 95 % interval beside it. "
            "Nothing here is measured on MER2024."
        ),
        "chance": 1 / len(LABELS),
        "tables": tables,
        "differences": differences,
        "empty": [],
    }


def _against_untuned(config: Config, over_worlds: OverWorlds) -> Part:
    ours = over_worlds(OURS)
    *one_more, both = list(PROBES)[1:]  # order-aware: with one more statistic, with both
    aware = max(one_more, key=lambda name: over_worlds(name).mean())
    names = {ZERO_SHOT: ZERO_SHOT, **{name: name for name in PROBES}}
    names |= {
        "attention over frozen frames, no prompts": UNPROMPTED,
        "EmoVCLIP as described: mean over frames": AS_DESCRIBED,
        "EmoVCLIP: attention over frames": OURS,
    }
    table = _table(1, "EmoVCLIP against a frozen CLIP", names, over_worlds)
    untuned = (ZERO_SHOT, next(iter(PROBES)))
    differences = [
        *(_difference(1, f"EmoVCLIP − {name}", ours - over_worlds(name), "two SE") for name in untuned),
        *(_difference(1, f"EmoVCLIP − {name}", ours - over_worlds(name), "none") for name in (aware, both)),
        _difference(1, "EmoVCLIP − attention without prompts", ours - over_worlds(UNPROMPTED)),
    ]
    described = over_worlds(AS_DESCRIBED)
    differences += [
        _difference(1, f"EmoVCLIP as described − {name}", described - over_worlds(name), "two SE") for name in untuned
    ]
    return [table], differences


def _prompts(config: Config, over_worlds: OverWorlds) -> Part:
    ladder = [name if changes != _WHOLE else OURS for name, changes in LADDER.items()]
    rungs = dict(zip(LADDER, ladder, strict=True))
    table = _table(2, "Prompts, added one after the other", rungs, over_worlds)
    lengths = {"as above: 8 global prompts, 8 context tokens": OURS, **{name: name for name in LENGTHS}}
    counted = _table(2, "Prompt lengths", lengths, partial(over_worlds, seeds=1), "seed 0 alone")
    steps = [
        _difference(2, f"{name} over the row above", over_worlds(ladder[i + 1]) - over_worlds(ladder[i]))
        for i, name in enumerate(list(LADDER)[1:])
    ]
    return [table, counted], steps


def _modalities(config: Config, over_worlds: OverWorlds) -> Part:
    chosen = _chosen(config, over_worlds)
    cells = [summarise(over_worlds(f"only {key}", f"test/{key}")) for key in SUBSETS]
    table = {
        "claim": 3,
        "title": "Each modality alone, pairs, all three",
        "note": "on clips that have all three modalities",
        "columns": list(SUBSETS),
        "first": "head",
        "rows": [
            {"name": "trained for the subset", "cells": cells},
            {"name": f"one for all, dropout {chosen:g}", "cells": _cells(_rate(chosen), over_worlds)},
        ],
    }
    single = max(
        (key for key in SUBSETS if len(key) == 1), key=lambda key: over_worlds(f"only {key}", f"test/{key}").mean()
    )
    gain = over_worlds(f"only {EVERYTHING}", f"test/{EVERYTHING}") - over_worlds(f"only {single}", f"test/{single}")
    return [table], [_difference(3, f"all three − {single} alone (the best)", gain, "ten")]


def _dropout(config: Config, over_worlds: OverWorlds) -> Part:
    chosen = _chosen(config, over_worlds)
    rows = [
        {
            "name": f"{rate:g}",
            "cells": [*_cells(_rate(rate), over_worlds), summarise(over_worlds(_rate(rate), "test/incomplete"))],
        }
        for rate in sorted({0.0, *config.claims.dropout_rates})
    ]
    table = {
        "claim": 4,
        "title": "Modality dropout, by what is there at test",
        "note": f"rate {chosen:g} is the best on validation (mean of the seven subsets)",
        "columns": [*SUBSETS, "mean of incomplete"],
        "first": "dropout rate",
        "rows": rows,
    }
    gains = {
        key: over_worlds(_rate(chosen), key) - over_worlds(_rate(0), key)
        for key in ("test/incomplete", f"test/{EVERYTHING}")
    }
    incomplete, whole = gains["test/incomplete"], gains[f"test/{EVERYTHING}"]
    words, judged = f"dropout {chosen:g} − none", chosen > 0
    return [table], [
        _difference(4, f"{words}, mean of the incomplete subsets", incomplete, "three"),
        _difference(4, f"{words}, all three", whole, "minus one SE" if judged else None),
    ]


def _self_training(config: Config, over_worlds: OverWorlds) -> Part:
    tables, differences = [], []
    for count, target in zip(labels_known(config), ("two SE", "minus one SE"), strict=True):
        test = {name: over_worlds(_taught(count), f"test/{name}") for name in HEADS}
        accepted, right = (100 * over_worlds(_taught(count), f"accepted/{name}").mean() for name in ("share", "right"))
        table = {
            "claim": 5,
            "title": f"Self-training, {count} labelled clips",
            "note": (
                f"{count} of {config.synthetic.train_clips} training clips keep their labels, drawn by each of "
                f"{config.claims.self_training_seeds} seeds; {accepted:.0f} % of the others are accepted, and "
                f"{right:.0f} % of their labels are right; all {config.synthetic.validation_clips} validation clips "
                "have labels"
            ),
            "columns": ["whatever each clip has"],
            "first": "head",
            "rows": [{"name": _HEADS[name], "cells": [summarise(test[name])]} for name in HEADS],
        }
        tables.append(table)
        for name, other, judged in [
            ("student", "teacher", target),
            ("student", "longer", target),
            ("kept", "teacher", None),
        ]:
            what = f"{count} labelled: {_HEADS[name]} − {_HEADS[other]}"
            differences.append(_difference(5, what, test[name] - test[other], judged))
    return tables, differences


def _taught(count: int) -> str:
    return f"self-training, {count} labelled"


def _chosen(config: Config, over_worlds: OverWorlds) -> float:
    """The dropout rate that is best on validation, over all subsets."""
    rates = sorted({0.0, *config.claims.dropout_rates})
    return max(rates, key=lambda r: np.mean([over_worlds(_rate(r), f"validation/{key}").mean() for key in SUBSETS]))


def _rate(rate: float) -> str:
    return f"dropout {rate:g}" if rate else f"only {EVERYTHING}"


def _cells(name: str, over_worlds: OverWorlds) -> list[dict]:
    return [summarise(over_worlds(name, f"test/{key}")) for key in SUBSETS]


def _score(scores: Scores, key: str) -> float:
    if key == "test/incomplete":
        return float(np.mean([scores[f"test/{subset}"] for subset in INCOMPLETE]))
    return scores[key]


def _table(claim: int, title: str, names: dict[str, str], over_worlds: OverWorlds, note: str = "") -> dict:
    """A table of video scores with a row for each name shown, from the trial it stands for."""
    rows = [{"name": shown, "cells": [summarise(over_worlds(trial))]} for shown, trial in names.items()]
    return {"claim": claim, "title": title, "note": note, "columns": ["video"], "first": "method", "rows": rows}


TARGETS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "two SE": ("more than 2 SE", lambda gain, error: gain > 2 * error),
    "none": ("not below", lambda gain, error: gain >= 0),
    "ten": ("at least 10 points", lambda gain, error: gain >= 0.1),
    "three": ("at least 3 points", lambda gain, error: gain >= 0.03),
    "minus one SE": ("no loss beyond 1 SE", lambda gain, error: gain >= -error),
}


def _difference(claim: int, what: str, gain_W: np.ndarray, target: str | None = None) -> dict:
    """A paired difference, judged against one of TARGETS; not judged where one world gives no standard error."""
    found = summarise(gain_W)
    words, reached = TARGETS.get(target, ("", None))
    judged = reached is not None and found["se"] is not None
    holds = bool(reached(found["mean"], found["se"])) if judged else None
    return {"claim": claim, "what": what, **found, "target": words, "holds": holds}


def summarise(values_W: np.ndarray) -> dict[str, float | None]:
    """Mean, standard error and 95 % interval (Student's t) over W worlds; one world has no standard error."""
    mean = float(np.mean(values_W))
    if len(values_W) < 2:
        return {"mean": mean, "se": None, "low": None, "high": None}
    error = float(np.std(values_W, ddof=1) / np.sqrt(len(values_W)))
    half = float(stats.t.ppf(0.975, len(values_W) - 1)) * error
    return {"mean": mean, "se": error, "low": mean - half, "high": mean + half}
