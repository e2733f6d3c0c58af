"""The tables and differences that the scores of the trials make, and the verdicts on them. Nothing is trained here."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import stats

from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.synthetic import LABELS
from emo_ray.experiments.claims.trials import (
    AS_DESCRIBED,
    EVERYTHING,
    HEADS,
    LADDER,
    LENGTHS,
    OURS,
    PROBES,
    ROUNDS,
    UNPROMPTED,
    WHOLE,
    ZERO_SHOT,
    Scores,
    dropout_name,
    labelled_counts,
    self_training_name,
    subset_name,
)
from emo_ray.reports.claims import ClaimsReport, Difference
from emo_ray.reports.claims_plots import ClaimRow, ClaimTable, Mean

VERSION = 2  # raise it when the same scores make other tables or verdicts
_HEAD_NAMES = {
    "teacher": "teacher",
    "longer": "teacher with the student's steps",
    "student": "student",
    "kept": f"best on validation of {ROUNDS} rounds",
}
_WORDS_OF_TARGETS = {
    "beyond two SE": "more than 2 SE",
    "not below": "not below",
    "ten points": "at least 10 points",
    "three points": "at least 3 points",
    "within one SE": "no loss beyond 1 SE",
}
INCOMPLETE = tuple(key for key in SUBSETS if len(key) < len(MODALITIES))
AllScores = dict[str, list[list[Scores]]]  # name of a trial -> world -> seed
OverWorlds = Callable[..., np.ndarray]  # (name of a trial, key of its scores, seeds) -> mean score of each world, (W,)
Target = Literal["beyond two SE", "not below", "ten points", "three points", "within one SE"]
Part = tuple[list[ClaimTable], list[Difference]]


class Estimate(Mean):
    """A mean over worlds with the ends of its 95 % interval; None for one world."""

    low: float | None
    high: float | None


def compare(config: Config, scores: AllScores) -> ClaimsReport:
    """The tables and differences of every claim."""
    over_worlds = means_over_worlds(scores)
    tables: list[ClaimTable] = []
    differences: list[Difference] = []
    for part in (_against_untuned, _prompts, _modalities, _dropout, _self_training):
        more_tables, more_differences = part(config, over_worlds)
        tables += more_tables
        differences += more_differences
    world = config.synthetic
    return {
        "title": "The paper's claims, in miniature",
        "metric": "WAF",
        "worlds": config.claims.worlds,
        "seeds": config.claims.seeds,
        "setup": (
            f"Synthetic worlds of {world.train_clips} training, {world.validation_clips} validation and "
            f"{world.test_clips} test clips of {len(LABELS)} classes, no person in two splits; {config.train.epochs} "
            "epochs. Epochs, probe strengths, captions and the dropout rate are chosen on validation; all other "
            "settings were fixed before on another world, that of the demo. Standard errors are over worlds, seeds "
            "averaged first: with so few of them 2 SE is a weaker statement than the 95 % interval beside it. "
            "Nothing here is measured on MER2024."
        ),
        "chance": 1 / len(LABELS),
        "tables": tables,
        "differences": differences,
        "empty": [],
    }


def means_over_worlds(scores: AllScores) -> OverWorlds:
    """A function that gives a trial's mean score over the seeds of each world, (W,)."""

    def over_worlds(name: str, key: str = "test/V", seeds: int | None = None) -> np.ndarray:
        return np.array([np.mean([_score(trial, key) for trial in world[:seeds]]) for world in scores[name]])

    return over_worlds


def _against_untuned(config: Config, over_worlds: OverWorlds) -> Part:
    ours, described = over_worlds(OURS), over_worlds(AS_DESCRIBED)
    mean_probe, *one_more, all_statistics = PROBES
    order_aware = max(one_more, key=lambda name: over_worlds(name).mean())
    names = {ZERO_SHOT: ZERO_SHOT, **{name: name for name in PROBES}}
    names |= {
        "attention over frozen frames, no prompts": UNPROMPTED,
        "EmoVCLIP as described: mean over frames": AS_DESCRIBED,
        "EmoVCLIP: attention over frames": OURS,
    }
    table = _video_table(1, "EmoVCLIP against a frozen CLIP", names, over_worlds)
    targets: dict[str, Target] = {
        ZERO_SHOT: "beyond two SE",
        mean_probe: "beyond two SE",
        order_aware: "not below",
        all_statistics: "not below",
    }
    differences = [
        *(difference(1, f"EmoVCLIP − {name}", ours - over_worlds(name), target) for name, target in targets.items()),
        difference(1, "EmoVCLIP − attention without prompts", ours - over_worlds(UNPROMPTED)),
    ]
    differences += [
        difference(1, f"EmoVCLIP as described − {name}", described - over_worlds(name), "beyond two SE")
        for name in (ZERO_SHOT, mean_probe)
    ]
    return [table], differences


def _prompts(config: Config, over_worlds: OverWorlds) -> Part:
    rungs = {name: name if changes != WHOLE else OURS for name, changes in LADDER.items()}
    ladder = _video_table(2, "Prompts, added one after the other", rungs, over_worlds)
    lengths = {"as above: 8 global prompts, 8 context tokens": OURS, **{name: name for name in LENGTHS}}
    counts = _video_table(2, "Prompt lengths", lengths, partial(over_worlds, seeds=1), "seed 0 alone")
    steps = [
        difference(2, f"{name} over the row above", over_worlds(rungs[name]) - over_worlds(rungs[above]))
        for above, name in pairwise(rungs)
    ]
    return [ladder, counts], steps


def _modalities(config: Config, over_worlds: OverWorlds) -> Part:
    rate = _best_rate(config, over_worlds)
    test = {key: over_worlds(subset_name(key), f"test/{key}") for key in SUBSETS}  # of models trained for the subset
    table: ClaimTable = {
        "claim": 3,
        "title": "Each modality alone, pairs, all three",
        "note": "on clips that have all three modalities",
        "columns": list(SUBSETS),
        "first": "head",
        "rows": [
            {"name": "trained for the subset", "cells": [summarise(values_W) for values_W in test.values()]},
            {"name": f"one for all, dropout {rate:g}", "cells": _subset_cells(dropout_name(rate), over_worlds)},
        ],
    }
    single = max((key for key in SUBSETS if len(key) == 1), key=lambda key: test[key].mean())
    what = f"all three − {single} alone (the best)"
    return [table], [difference(3, what, test[EVERYTHING] - test[single], "ten points")]


def _dropout(config: Config, over_worlds: OverWorlds) -> Part:
    best, incomplete = _best_rate(config, over_worlds), "test/incomplete"
    table: ClaimTable = {
        "claim": 4,
        "title": "Modality dropout, by what is there at test",
        "note": f"rate {best:g} is the best on validation (mean of the seven subsets)",
        "columns": [*SUBSETS, "mean of incomplete"],
        "first": "dropout rate",
        "rows": [
            {
                "name": f"{rate:g}",
                "cells": [
                    *_subset_cells(dropout_name(rate), over_worlds),
                    summarise(over_worlds(dropout_name(rate), incomplete)),
                ],
            }
            for rate in _rates(config)
        ],
    }
    gains = {
        key: over_worlds(dropout_name(best), key) - over_worlds(dropout_name(0), key)
        for key in (incomplete, f"test/{EVERYTHING}")
    }
    words = f"dropout {best:g} − none"
    return [table], [
        difference(4, f"{words}, mean of the incomplete subsets", gains[incomplete], "three points"),
        difference(4, f"{words}, all three", gains[f"test/{EVERYTHING}"], "within one SE" if best > 0 else None),
    ]


def _self_training(config: Config, over_worlds: OverWorlds) -> Part:
    few, plenty = labelled_counts(config)
    targets: dict[int, Target] = {few: "beyond two SE", plenty: "within one SE"}
    tables: list[ClaimTable] = []
    differences: list[Difference] = []
    for count, target in targets.items():
        trial = self_training_name(count)
        test = {name: over_worlds(trial, f"test/{name}") for name in HEADS}
        share, right = (100 * over_worlds(trial, f"accepted/{name}").mean() for name in ("share", "right"))
        tables.append(
            {
                "claim": 5,
                "title": f"Self-training, {count} labelled clips",
                "note": (
                    f"{count} of {config.synthetic.train_clips} training clips keep their labels, drawn by each of "
                    f"{config.claims.self_training_seeds} seeds; {share:.0f} % of the others are accepted, and "
                    f"{right:.0f} % of their labels are right; all {config.synthetic.validation_clips} validation "
                    "clips have labels"
                ),
                "columns": ["whatever each clip has"],
                "first": "head",
                "rows": [{"name": _HEAD_NAMES[name], "cells": [summarise(test[name])]} for name in HEADS],
            }
        )
        pairs: list[tuple[str, str, Target | None]] = [
            ("student", "teacher", target),
            ("student", "longer", target),
            ("kept", "teacher", None),
        ]
        differences += [
            difference(
                5, f"{count} labelled: {_HEAD_NAMES[name]} − {_HEAD_NAMES[other]}", test[name] - test[other], judged_by
            )
            for name, other, judged_by in pairs
        ]
    return tables, differences


def _rates(config: Config) -> list[float]:
    """The rates of modality dropout that are compared, and 0."""
    return sorted({0.0, *config.claims.dropout_rates})


def _best_rate(config: Config, over_worlds: OverWorlds) -> float:
    """The dropout rate with the best mean over all subsets on validation."""

    def validation_waf(rate: float) -> float:
        return float(np.mean([over_worlds(dropout_name(rate), f"validation/{key}").mean() for key in SUBSETS]))

    return max(_rates(config), key=validation_waf)


def _subset_cells(name: str, over_worlds: OverWorlds) -> list[Mean]:
    return [summarise(over_worlds(name, f"test/{key}")) for key in SUBSETS]


def _score(scores: Scores, key: str) -> float:
    split, _, judged = key.partition("/")
    if judged == "incomplete":
        return float(np.mean([scores[f"{split}/{subset}"] for subset in INCOMPLETE]))
    return scores[key]


def _video_table(
    claim: int, title: str, trials: Mapping[str, str], over_worlds: OverWorlds, note: str = ""
) -> ClaimTable:
    """A table of scores on video; `trials` says which trial a row shows."""
    rows: list[ClaimRow] = [{"name": row, "cells": [summarise(over_worlds(trial))]} for row, trial in trials.items()]
    return {"claim": claim, "title": title, "note": note, "columns": ["video"], "first": "method", "rows": rows}


def difference(claim: int, what: str, gain_W: np.ndarray, target: Target | None = None) -> Difference:
    """A paired difference, judged against its target; not judged where one world gives no standard error."""
    estimate = summarise(gain_W)
    words = "" if target is None else _WORDS_OF_TARGETS[target]
    holds = None
    if target is not None and estimate["se"] is not None:
        holds = _holds(target, estimate["mean"], estimate["se"])
    return {"claim": claim, "what": what, **estimate, "target": words, "holds": holds}


def _holds(target: Target, gain: float, error: float) -> bool:
    return {
        "beyond two SE": gain > 2 * error,
        "not below": gain >= 0,
        "ten points": gain >= 0.1,
        "three points": gain >= 0.03,
        "within one SE": gain >= -error,
    }[target]


def summarise(values_W: np.ndarray) -> Estimate:
    """Mean, standard error and 95 % interval (Student's t) over W worlds; one world has no standard error."""
    mean = float(np.mean(values_W))
    if len(values_W) < 2:
        return {"mean": mean, "se": None, "low": None, "high": None}
    error = float(np.std(values_W, ddof=1) / np.sqrt(len(values_W)))
    half = float(stats.t.ppf(0.975, len(values_W) - 1)) * error
    return {"mean": mean, "se": error, "low": mean - half, "high": mean + half}
