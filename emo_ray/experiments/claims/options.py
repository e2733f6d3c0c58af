"""What options that are off by default give: the joint phase, and several views of each clip, cropped as in training.

Trials are whole models of the config as it is, in each of which one option is on: so the question can be asked again
of other clips (`synthetic.shot=candid`), of a trained part (`emovclip.lora.rank=8`), or of more stored frames
(`media.frames_stored=16`).
"""

from itertools import chain
from typing import Any

import numpy as np

from emo_ray.config import Config
from emo_ray.data.synthetic import LABELS
from emo_ray.experiments.claims.comparisons import AllScores, OverWorlds, difference, means_over_worlds, summarise
from emo_ray.experiments.claims.trials import EVERYTHING, JUDGED, Trial
from emo_ray.reports.claims import ClaimsReport, Difference
from emo_ray.reports.claims_plots import ClaimTable

PLAIN = "without"
_CROPS = {"augment.crop": 0.5}
_OFF: dict[str, Any] = {"train.joint_epochs": 0, "evaluate.views": 1}
TRIALS = {
    PLAIN: Trial("model", _OFF),
    "joint phase, 1 epoch": Trial("model", _OFF | {"train.joint_epochs": 1}),
    "joint phase, 3 epochs": Trial("model", _OFF | {"train.joint_epochs": 3}),
    "crops": Trial("model", _OFF | _CROPS),
    "crops, 3 views": Trial("model", _OFF | _CROPS | {"evaluate.views": 3}),
}
_COLUMNS = {"V": "V", EVERYTHING: EVERYTHING, "incomplete": "mean of incomplete"}


def compare_options(config: Config, scores: AllScores) -> ClaimsReport:
    """A table of scores on validation, one on test, and the paired differences of each option to none."""
    over_worlds = means_over_worlds(scores)
    world = config.synthetic
    return {
        "title": "What a joint phase and views of each clip give",
        "metric": "WAF",
        "worlds": config.claims.worlds,
        "seeds": config.claims.seeds,
        "setup": (
            f"Synthetic worlds of {world.train_clips} training, {world.validation_clips} validation and "
            f"{world.test_clips} test clips of {len(LABELS)} classes; {config.train.epochs} epochs before the joint "
            "phase, whose best epoch is kept where it is better on validation clips. Scores are on the clips that "
            f"have all three modalities. {_changed_runs(scores)}."
        ),
        "chance": 1 / len(LABELS),
        "tables": [_table(split, over_worlds) for split in JUDGED],
        "differences": _differences(over_worlds),
        "empty": [],
    }


def _table(split: str, over_worlds: OverWorlds) -> ClaimTable:
    best = max(TRIALS, key=lambda name: over_worlds(name, f"validation/{EVERYTHING}").mean())
    return {
        "claim": 1,
        "title": f"Options that are off by default, {split} clips",
        "note": f"the best with all modalities on validation clips: {best}",
        "columns": list(_COLUMNS.values()),
        "first": "option",
        "rows": [
            {"name": name, "cells": [summarise(over_worlds(name, f"{split}/{key}")) for key in _COLUMNS]}
            for name in TRIALS
        ],
    }


def _changed_runs(scores: AllScores) -> str:
    """How many runs of an option have other scores than without: a joint phase that is not kept changes nothing."""
    without = list(chain(*scores[PLAIN]))
    counts = {
        name: sum(run != plain for run, plain in zip(chain(*scores[name]), without, strict=True))
        for name in TRIALS
        if name != PLAIN
    }
    words = ", ".join(f"{name}: {count}" for name, count in counts.items())
    return f"Runs of {len(without)} whose scores changed: {words}"


def _differences(over_worlds: OverWorlds) -> list[Difference]:
    def gain_W(name: str, key: str) -> np.ndarray:
        return over_worlds(name, f"test/{key}") - over_worlds(PLAIN, f"test/{key}")

    return [
        difference(1, f"{words}: {name} − {PLAIN}", gain_W(name, key))
        for name in TRIALS
        if name != PLAIN
        for key, words in _COLUMNS.items()
    ]
