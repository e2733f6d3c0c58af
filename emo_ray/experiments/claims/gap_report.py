"""What was measured across a gap: tables by label count, the learning rates that were tried, paired differences."""

import numpy as np

from emo_ray.config import Config
from emo_ray.data.synthetic import LABELS, ceiling
from emo_ray.experiments.claims.comparisons import Target, difference, summarise
from emo_ray.experiments.claims.gap_trials import (
    ALL_STATISTICS,
    AUGMENTED,
    BLOCKS,
    BOTH,
    COUNTS,
    DESCRIBED,
    FROZEN,
    LORA,
    MIDDLE,
    PROMPTS,
    RATES,
    TEST,
    TRAINED,
    TUNED,
    UNTRAINED,
    VALIDATION,
    VARIANTS,
    AllScores,
)
from emo_ray.experiments.claims.gap_world import FRAMES
from emo_ray.reports.claims import ClaimsReport, Difference
from emo_ray.reports.claims_plots import ClaimRow, ClaimTable, Mean

_TARGETS: dict[str, Target | None] = {
    DESCRIBED: None,
    PROMPTS: "beyond two SE",
    LORA: "beyond two SE",
    BOTH: "beyond two SE",
}


def report_of(config: Config, tuned: AllScores, scores: AllScores, probe: float) -> ClaimsReport:
    """The report; `probe` is the accuracy of a linear probe on stills of the kind that the CLIP has seen."""
    by_count: ClaimTable = {
        "claim": 1,
        "title": "Across a gap, by labelled clips",
        "note": f"{MIDDLE} labelled: all seeds; other counts: seed 0 alone",
        "columns": [str(count) for count in COUNTS],
        "first": "method",
        "rows": [
            {"name": name, "cells": [summarise(over_worlds(scores, name, count)) for count in COUNTS]}
            for name in (*UNTRAINED, *TRAINED)
        ],
    }
    middle: ClaimTable = {
        "claim": 1,
        "title": f"Across a gap, {MIDDLE} labelled clips, with what was not tried at other counts",
        "note": "",
        "columns": ["video"],
        "first": "method",
        "rows": [{"name": n, "cells": [summarise(over_worlds(scores, n, MIDDLE))]} for n in (*UNTRAINED, *VARIANTS)],
    }
    return {
        "title": "Across a gap between CLIP's pictures and the clips",
        "metric": "WAF",
        "worlds": config.claims.worlds,
        "seeds": config.claims.seeds,
        "setup": _setup(probe),
        "chance": 1 / len(LABELS),
        "tables": [by_count, middle, _rates_table(tuned)],
        "differences": _differences(scores),
        "empty": [],
    }


def over_worlds(scores: AllScores, variant: str, labelled: int) -> np.ndarray:
    """WAF on test clips in each world, seeds averaged."""
    by_world: dict[int, list[float]] = {}
    for trial, values in scores.items():
        if (trial.variant, trial.labelled) == (variant, labelled):
            by_world.setdefault(trial.world, []).append(values["test/V"])
    return np.array([np.mean(by_world[world]) for world in sorted(by_world)])


def _differences(scores: AllScores) -> list[Difference]:
    """Each trained variant against attention over frozen frames, and at the middle count what else may be asked."""

    def gain(name: str, other: str, count: int = MIDDLE) -> np.ndarray:
        return over_worlds(scores, name, count) - over_worlds(scores, other, count)

    against_frozen = [
        difference(1, f"{count} labelled: {name} − {FROZEN}", gain(name, FROZEN, count), target)
        for count in COUNTS
        for name, target in _TARGETS.items()
    ]
    pairs = [(LORA, ALL_STATISTICS), (LORA, PROMPTS), (BOTH, LORA), (BLOCKS, LORA), *AUGMENTED.items()]
    return against_frozen + [difference(1, f"{MIDDLE} labelled: {a} − {b}", gain(a, b)) for a, b in pairs]


def _setup(probe: float) -> str:
    return (
        f"Synthetic worlds of candid clips ({VALIDATION} validation, {TEST} test clips, {FRAMES} "
        "frames each), whose video shows the class in 95 of 100: reading faces without an error gives "
        f"{100 * ceiling(['video'], 0.95):.0f}. The frozen CLIP has seen posed, bright, frontal stills alone; a linear "
        f"probe on such stills of other people is right in {100 * probe:.0f} of 100. Epochs are chosen on validation "
        "clips of the world, learning rates on those of another one."
    )


def _rates_table(tuned: AllScores) -> ClaimTable:
    """WAF on validation clips of the world in which learning rates were chosen."""
    rows: list[ClaimRow] = []
    for name in TUNED:
        cells: list[Mean] = [{"mean": s["validation/V"], "se": None} for t, s in tuned.items() if t.variant == name]
        rows.append({"name": name, "cells": cells})
    return {
        "claim": 1,
        "title": "Learning rates that were tried",
        "note": f"validation clips of a world that is not reported, {MIDDLE} labelled, one seed",
        "columns": [f"{rate:g}" for rate in RATES],
        "first": "method",
        "rows": rows,
    }
