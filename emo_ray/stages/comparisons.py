"""Which trials the claims compare, and the tables and differences that their scores make. No Ray, nothing trained."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from emo_ray.config import MODALITIES, Config
from emo_ray.data.synthetic import LABELS
from emo_ray.stages.evaluate import SUBSETS

PROBES = {
    "linear probe, mean": ("mean",),
    "linear probe, mean + deviation": ("mean", "deviation"),
    "linear probe, mean + slope": ("mean", "slope"),
    "linear probe, mean + deviation + slope": ("mean", "deviation", "slope"),
}
OURS, ZERO_SHOT, AS_DESCRIBED = "EmoVCLIP", "zero-shot CLIP", "+ text context"
# Each rung adds to the one above it: AS_DESCRIBED is all that DESIGN describes, the last is OURS.
_BARE = {
    "emovclip.local_prompts": False,
    "emovclip.summary_prompt": False,
    "emovclip.time_embedding": False,
    "emovclip.context_tokens": 0,
    "emovclip.pooling": "mean",
}
LADDER = {
    "global prompts": _BARE,
    "+ local prompts and time embedding": _BARE | {"emovclip.local_prompts": True, "emovclip.time_embedding": True},
    "+ summary prompt": {"emovclip.context_tokens": 0, "emovclip.pooling": "mean"},
    "+ text context": {"emovclip.pooling": "mean"},
    "+ attention over frames": {},
}
LENGTHS = {
    f"{words} {count}": {f"emovclip.{key}": count}
    for key, words in (("global_prompts", "global prompts:"), ("context_tokens", "context tokens:"))
    for count in (2, 16)  # 8 is the default
}
INCOMPLETE = tuple(key for key in SUBSETS if len(key) < len(MODALITIES))
EVERYTHING = next(key for key in SUBSETS if len(key) == len(MODALITIES))


@dataclass(frozen=True)
class Trial:
    """One training or measurement: what is done, and with which changes to the config."""

    kind: str  # zero_shot, probe, video or fusion
    changes: dict[str, Any] = field(default_factory=dict)
    option: tuple[str, ...] = ()  # a probe's statistics, or the modalities that fusion is given
    seeded: bool = True  # else seed 0 alone


Scores = dict[str, float]  # "test/VAT" -> weighted F1
Found = dict[str, list[list[Scores]]]  # name of a trial -> world -> seed
OverWorlds = Callable[..., np.ndarray]  # (name of a trial, key of its scores, seeds) -> mean score of each world
Part = tuple[list[dict], list[dict]]  # tables and differences


def planned(config: Config) -> dict[str, Trial]:
    """Every trial of one world and seed, by the name that its row has."""
    ladder = {name: changes for name, changes in LADDER.items() if changes}
    without = {"fusion.modality_dropout": 0.0}
    return {
        OURS: Trial("video"),  # first, because fusion waits for its features
        ZERO_SHOT: Trial("zero_shot", seeded=False),
        **{name: Trial("probe", option=statistics, seeded=False) for name, statistics in PROBES.items()},
        **{name: Trial("video", changes) for name, changes in ladder.items()},
        **{name: Trial("video", changes, seeded=False) for name, changes in LENGTHS.items()},
        **{f"only {key}": Trial("fusion", without, names) for key, names in SUBSETS.items()},
        **{
            f"dropout {rate:g}": Trial("fusion", {"fusion.modality_dropout": rate}, MODALITIES)
            for rate in config.claims.dropout_rates
            if rate > 0
        },
    }


def claimed(config: Config, found: Found) -> dict[str, Any]:
    """The tables and the differences of every claim, from the scores of its trials: what `claims_report` shows."""

    def over_worlds(name: str, key: str = "test/V", seeds: int | None = None) -> np.ndarray:
        return np.array([np.mean([_score(scores, key) for scores in world[:seeds]]) for world in found[name]])

    tables, differences = [], []
    for part in (_against_untuned, _prompts, _modalities, _dropout):
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
            "Epochs, probe strengths, captions and the dropout rate are chosen on validation. Standard errors are over "
            "worlds, seeds averaged first. Nothing here is measured on MER2024."
        ),
        "chance": 1 / len(LABELS),
        "tables": tables,
        "differences": differences,
        "empty": [{"claim": "5", "why": "self-training from few labels is not built yet"}],
    }


def _against_untuned(config: Config, over_worlds: OverWorlds) -> Part:
    ours = over_worlds(OURS)
    aware = max(list(PROBES)[1:], key=lambda name: over_worlds(name).mean())
    names = {ZERO_SHOT: ZERO_SHOT, **{name: name for name in PROBES}}
    names |= {"EmoVCLIP, mean over frames": AS_DESCRIBED, "EmoVCLIP, attention over frames": OURS}
    table = _table("1", "EmoVCLIP against a frozen CLIP that is not tuned", names, ["test/V"], over_worlds)
    mean_probe = next(iter(PROBES))
    return [table], [
        _difference("1", f"EmoVCLIP − {ZERO_SHOT}", ours - over_worlds(ZERO_SHOT), "two SE", "more than 2 SE"),
        _difference("1", f"EmoVCLIP − {mean_probe}", ours - over_worlds(mean_probe), "two SE", "more than 2 SE"),
        _difference("1", f"EmoVCLIP − {aware} (the best)", ours - over_worlds(aware), 0.0, "not below"),
        _difference(
            "1", f"with the mean over frames − {ZERO_SHOT}", over_worlds(AS_DESCRIBED) - over_worlds(ZERO_SHOT)
        ),
        _difference(
            "1", f"with the mean over frames − {mean_probe}", over_worlds(AS_DESCRIBED) - over_worlds(mean_probe)
        ),
    ]


def _prompts(config: Config, over_worlds: OverWorlds) -> Part:
    ladder = [name if changes else OURS for name, changes in LADDER.items()]
    rungs = dict(zip(LADDER, ladder, strict=True))
    table = _table("2", "Prompts, added one after the other", rungs, ["test/V"], over_worlds)
    own = config.emovclip
    first = {f"as above ({own.global_prompts} global, {own.context_tokens} context)": OURS}
    lengths = first | {name: name for name in LENGTHS}
    counted = _table(
        "2", "Prompt lengths", lengths, ["test/V"], lambda *names: over_worlds(*names, seeds=1), "seed 0 alone"
    )
    steps = [
        _difference("2", f"{name} over the row above", over_worlds(ladder[i + 1]) - over_worlds(ladder[i]))
        for i, name in enumerate(list(LADDER)[1:])
    ]
    return [table, counted], steps


def _modalities(config: Config, over_worlds: OverWorlds) -> Part:
    chosen = _chosen(config, over_worlds)
    cells = [summarise(over_worlds(f"only {key}", f"test/{key}")) for key in SUBSETS]
    table = {
        "claim": "3",
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
    return [table], [_difference("3", f"all three − {single} alone (the best)", gain, 0.1, "at least 10 points")]


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
        "claim": "4",
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
    words = f"dropout {chosen:g} − none"
    return [table], [
        _difference(
            "4", f"{words}, mean of the incomplete subsets", gains["test/incomplete"], 0.03, "at least 3 points"
        ),
        _difference("4", f"{words}, all three", gains[f"test/{EVERYTHING}"], "minus one SE", "no loss beyond 1 SE"),
    ]


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


def _table(
    claim: str, title: str, names: dict[str, str], keys: list[str], over_worlds: OverWorlds, note: str = ""
) -> dict:
    """A table with a row for each name shown, from the trial it stands for."""
    rows = [
        {"name": shown, "cells": [summarise(over_worlds(trial, key)) for key in keys]} for shown, trial in names.items()
    ]
    return {"claim": claim, "title": title, "note": note, "columns": ["video"], "first": "method", "rows": rows}


def _difference(claim: str, what: str, gain_W: np.ndarray, least: float | str | None = None, target: str = "") -> dict:
    """A paired difference with its target: at least a number, "two SE" or "minus one SE"; not judged without an SE."""
    found = summarise(gain_W)
    bound = {"two SE": 2.0, "minus one SE": -1.0}
    if isinstance(least, str):
        least = None if found["se"] is None else bound[least] * found["se"]
    holds = (
        None if least is None else bool(found["mean"] > least if target.startswith("more") else found["mean"] >= least)
    )
    return {"claim": claim, "what": what, **found, "target": target, "holds": holds}


def summarise(values_W: np.ndarray) -> dict[str, float | None]:
    """Mean, standard error and 95 % interval (Student's t) over W worlds; one world has no standard error."""
    mean = float(np.mean(values_W))
    if len(values_W) < 2:
        return {"mean": mean, "se": None, "low": None, "high": None}
    error = float(np.std(values_W, ddof=1) / np.sqrt(len(values_W)))
    half = float(stats.t.ppf(0.975, len(values_W) - 1)) * error
    return {"mean": mean, "se": error, "low": mean - half, "high": mean + half}
