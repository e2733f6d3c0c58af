"""What to train where CLIP's pictures and the clips differ: EmoVCLIP's parts, on a CLIP of posed stills.

Sizes were decided before anything was measured, for a share of one core: 60, 200 or 600 labelled clips, 60 validation
and 150 test clips of 4 frames; 6 epochs of 24 to 38 steps, so that fewer clips are seen more often. Learning rates, of
two, are those that are best on validation clips of a fourth world with 200 labels, which is not reported.
Nothing is chosen on test clips. A trial is an artefact of the store, so a killed measurement goes on where it stopped.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from emo_ray import store
from emo_ray.config import Config, override
from emo_ray.config.data_settings import Split
from emo_ray.data import synthetic
from emo_ray.data.batch import VideoBatch
from emo_ray.data.synthetic import LABELS, ceiling
from emo_ray.experiments.claims import baselines, gap_world
from emo_ray.experiments.claims.comparisons import Target, difference, summarise
from emo_ray.experiments.claims.gap_world import FRAMES
from emo_ray.experiments.claims.trials import NOTHING, PROBES, WHOLE, ZERO_SHOT, Scores
from emo_ray.models.clip_source import image_size
from emo_ray.models.emovclip import build
from emo_ray.progress import progress
from emo_ray.reports.claims import ClaimsReport
from emo_ray.reports.claims_plots import ClaimRow, ClaimTable, Mean
from emo_ray.training import in_memory, mini_clip
from emo_ray.training.loop import predict
from emo_ray.training.metrics import metrics

VERSION = 1  # raise it when the same trial gives other scores
SCORES = "scores.json"
MIDDLE, COUNTS = 200, (60, 200, 600)  # labelled clips
VALIDATION, TEST = 60, 150  # clips of a world
EPOCHS, STEPS = 6, 24  # of training; of an epoch, at least
RATES = (1e-3, 3e-3)
_ATTENTION = NOTHING | {"emovclip.pooling": "attention"}
_LORA = {"emovclip.lora.rank": 8}
FROZEN = "attention over frozen frames"
DESCRIBED = "prompts as described: mean over frames"
PROMPTS, LORA, BOTH = "prompts + attention", "LoRA + attention", "prompts + LoRA + attention"
BLOCKS = "all blocks trained + attention"
TRAINED: dict[str, dict[str, Any]] = {
    FROZEN: _ATTENTION,
    DESCRIBED: WHOLE | {"emovclip.pooling": "mean"},
    PROMPTS: WHOLE,
    LORA: _ATTENTION | _LORA,
    BOTH: WHOLE | _LORA,
}
_AUGMENT = {f"augment.{name}": 0.5 for name in ("flip", "crop", "brightness", "colour")}
AUGMENTED = {f"{name}, augmented": name for name in (FROZEN, PROMPTS, LORA)}
MORE = {name: TRAINED[plain] | _AUGMENT for name, plain in AUGMENTED.items()}  # at the middle count alone
MORE[BLOCKS] = _ATTENTION | {"emovclip.unfreeze_blocks": 4}
VARIANTS = TRAINED | MORE
TUNED = (FROZEN, PROMPTS, LORA)
RATE_OF = {DESCRIBED: PROMPTS, BOTH: LORA, **AUGMENTED}  # whose learning rate the others take
ALL_STATISTICS = list(PROBES)[-1]
UNTRAINED = (ZERO_SHOT, next(iter(PROBES)), ALL_STATISTICS)
_TARGETS: dict[str, Target | None] = {
    DESCRIBED: None,
    PROMPTS: "beyond two SE",
    LORA: "beyond two SE",
    BOTH: "beyond two SE",
}
_FIRST_WORLD, _TUNING_WORLD = 101, -1  # seeds of worlds count from the first


@dataclass(frozen=True)
class GapTrial:
    """A measurement: which variant, on how many labels, in which world, with which seed and learning rate."""

    variant: str
    labelled: int
    world: int
    seed: int
    rate: float | None = None  # None: nothing is trained by steps

    @property
    def name(self) -> str:
        """What is measured, in words."""
        return f"{self.variant}, {self.labelled} labelled, world {self.world}, seed {self.seed}, rate {self.rate}"


@dataclass(frozen=True)
class _Bench:
    """Where trials run: the settings of all of them, and the CLIP of posed stills under them."""

    root: Path
    config: Config
    clip: Path


AllScores = dict[GapTrial, Scores]
Clips = dict[Split, VideoBatch]


def measure(config: Config, root: Path) -> tuple[str, ClaimsReport]:
    """Measure what is missing, in this process with one thread; the key of what was measured, and the report."""
    with in_memory.one_thread():
        bench = _bench(config, root)
        tuned = _all_scores(bench, tuning_trials(config), "choosing learning rates")
        rate_of = best_rates(tuned)
        trials = planned_trials(config, rate_of)
        scores = _all_scores(bench, trials, "measuring across the gap")
    key = store.digest(VERSION, [_folder(bench, trial).name for trial in (*tuned, *trials)])
    return key, report_of(config, tuned, scores, store.read_meta(bench.clip)["probe"])


def tuning_trials(config: Config) -> list[GapTrial]:
    """The variants that are tuned with every learning rate, in the world that is not reported."""
    return [GapTrial(name, MIDDLE, _TUNING_WORLD, config.seed, rate) for name in TUNED for rate in RATES]


def best_rates(tuned: AllScores) -> dict[str, float]:
    """The learning rate of each variant: the best on validation clips, its own or that of the one it is most like."""
    rate_of: dict[str, tuple[float, float]] = {}
    for trial, scores in tuned.items():
        assert trial.rate is not None, "tuning trials have rates"
        rate_of[trial.variant] = max(rate_of.get(trial.variant, (-1.0, 0.0)), (scores["validation/V"], trial.rate))
    rates = {name: rate for name, (_, rate) in rate_of.items()}
    return rates | {name: rates[tuned] for name, tuned in RATE_OF.items()} | {BLOCKS: min(RATES)}


def planned_trials(config: Config, rate_of: Mapping[str, float]) -> list[GapTrial]:
    """All reported trials, the most telling first: every world once, then more labels and fewer, then other seeds."""

    def trials(names: Sequence[str], labelled: int, seed: int) -> list[GapTrial]:
        worlds = range(config.claims.worlds)
        return [GapTrial(n, labelled, world, config.seed + seed, rate_of.get(n)) for world in worlds for n in names]

    planned = trials([*UNTRAINED, *TRAINED], MIDDLE, 0) + trials([*MORE], MIDDLE, 0)
    for count in (600, 60):
        planned += trials([*UNTRAINED, *TRAINED], count, 0)
    for seed in range(1, config.claims.seeds):
        planned += trials([*UNTRAINED, *VARIANTS], MIDDLE, seed)
    return planned


def report_of(config: Config, tuned: AllScores, scores: AllScores, probe: float) -> ClaimsReport:
    """The table across label counts, the learning rates that were tried, and paired differences."""

    def over_worlds(variant: str, labelled: int) -> np.ndarray:
        return np.array(
            [
                np.mean(
                    [
                        values["test/V"]
                        for trial, values in scores.items()
                        if (trial.variant, trial.labelled, trial.world) == (variant, labelled, world)
                    ]
                )
                for world in range(config.claims.worlds)
            ]
        )

    rows: list[ClaimRow] = [
        {"name": name, "cells": [summarise(over_worlds(name, count)) for count in COUNTS]}
        for name in (*UNTRAINED, *TRAINED)
    ]
    table: ClaimTable = {
        "claim": 1,
        "title": "Across a gap, by labelled clips",
        "note": f"{MIDDLE} labelled: all seeds; other counts: seed 0 alone",
        "columns": [str(count) for count in COUNTS],
        "first": "method",
        "rows": rows,
    }
    middle: ClaimTable = {
        "claim": 1,
        "title": f"Across a gap, {MIDDLE} labelled clips, with what was not tried at other counts",
        "note": "",
        "columns": ["video"],
        "first": "method",
        "rows": [{"name": n, "cells": [summarise(over_worlds(n, MIDDLE))]} for n in (*UNTRAINED, *VARIANTS)],
    }
    differences = [
        difference(1, f"{count} labelled: {name} − {FROZEN}", gain, target)
        for count in COUNTS
        for name, target in _TARGETS.items()
        for gain in [over_worlds(name, count) - over_worlds(FROZEN, count)]
    ]
    differences += [
        difference(1, f"{MIDDLE} labelled: {name} − without", over_worlds(name, MIDDLE) - over_worlds(plain, MIDDLE))
        for name, plain in AUGMENTED.items()
    ]
    return {
        "title": "Across a gap between CLIP's pictures and the clips",
        "metric": "WAF",
        "worlds": config.claims.worlds,
        "seeds": config.claims.seeds,
        "setup": _setup(probe),
        "chance": 1 / len(LABELS),
        "tables": [table, middle, _rates_table(tuned)],
        "differences": differences,
        "empty": [],
    }


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


def _bench(config: Config, root: Path) -> _Bench:
    clip = gap_world.posed_clip(root)
    changes = {
        "emovclip.clip": str(mini_clip.FILES["json"]),
        "emovclip.weights": str(clip / gap_world.WEIGHTS),
        "media.frames": FRAMES,
        "media.image_size": None,
        "train.epochs": EPOCHS,
        "modalities": ["video"],
    }
    return _Bench(root, override(config, changes), clip)


def _all_scores(bench: _Bench, trials: Sequence[GapTrial], what: str) -> AllScores:
    """The scores of these trials, which are run where they are missing."""
    with progress(what, len(trials), "trials") as advance:
        for trial in trials:
            _run(bench, trial)
            advance(1)
    return {trial: store.read_json(_folder(bench, trial) / SCORES) for trial in trials}


def _run(bench: _Bench, trial: GapTrial) -> None:
    """Measure a trial and write its scores, unless they are there."""

    def fill(folder: Path) -> None:
        store.write_text(folder / SCORES, json.dumps(_measured(bench, trial)))

    store.artefact(_folder(bench, trial), {"kind": "trial", "trial": trial.name, "world": trial.world}, fill)


def _folder(bench: _Bench, trial: GapTrial) -> Path:
    """Where a trial's scores lie or will lie: named by all that decides them."""
    config = _settings(bench, trial)
    emovclip = config.emovclip.model_dump(mode="json", exclude={"clip", "weights"})
    trained = (emovclip, config.augment.model_dump(), config.train.ema)
    settings = trained if trial.rate else trial.variant
    sizes = (VERSION, gap_world.VERSION, synthetic.VERSION, FRAMES, EPOCHS, STEPS, VALIDATION, TEST)
    parts = (sizes, settings, trial.labelled, trial.world, trial.seed, bench.clip.name)
    return bench.root / "claims" / "trials" / store.digest(*parts)


def _settings(bench: _Bench, trial: GapTrial) -> Config:
    changes = VARIANTS.get(trial.variant, {}) | ({"emovclip.lr": trial.rate} if trial.rate else {})
    return override(bench.config, {**changes, "seed": trial.seed})


def _measured(bench: _Bench, trial: GapTrial) -> Scores:
    config = _settings(bench, trial)
    clips = _world_clips(bench.root, trial.world, max(MIDDLE, trial.labelled), image_size(config))
    clips = clips | {"train": _labelled(clips["train"], trial)}
    if trial.variant in VARIANTS:
        return _trained_scores(config, clips)
    embedded = {split: _embedded(config, batch) for split, batch in clips.items()}
    if trial.variant == ZERO_SHOT:
        return baselines.zero_shot(config, LABELS, embedded)
    return baselines.probe(LABELS, embedded, PROBES[trial.variant])


@lru_cache(maxsize=1)
def _world_clips(root: Path, world: int, train: int, size: int) -> Clips:
    """The clips of a world by split; those of the last world stay in memory."""
    counts: dict[Split, int] = {"train": train, "validation": VALIDATION, "test": TEST}
    if world == _TUNING_WORLD:
        counts["test"] = len(LABELS)  # nobody looks at them
    return {split: gap_world.clips_of(root, _FIRST_WORLD + world, split, n, size) for split, n in counts.items()}


def _labelled(train: VideoBatch, trial: GapTrial) -> VideoBatch:
    """As many training clips as have labels, drawn by the seed, evenly over classes."""
    if trial.labelled >= len(train):
        return train
    rows = np.arange(len(train))
    chosen, _ = train_test_split(
        rows, train_size=trial.labelled, stratify=train.label_B.numpy(), random_state=trial.seed
    )
    return train.rows(torch.from_numpy(np.sort(chosen)))


def _trained_scores(config: Config, clips: Clips) -> Scores:
    model = build(config, LABELS)
    steps = -(-len(clips["train"]) // config.emovclip.batch_size)
    passes = max(1, round(STEPS / steps))
    best = in_memory.fit(model, clips["train"], clips["validation"], config.emovclip, config, len(LABELS), passes)
    test = metrics(*predict(model, in_memory.chunks(clips["test"])))
    return {"validation/V": best["score"][0], "test/V": test["waf"], "epoch": float(best["epoch"])}


def _embedded(config: Config, batch: VideoBatch) -> tuple[np.ndarray, np.ndarray]:
    """Normalised embeddings of frames (B, T, D) by the frozen CLIP, and classes (B,)."""
    encoder = baselines.FrozenFrames(config).eval()
    with torch.inference_mode():
        rows = torch.cat([encoder(part) for part in in_memory.chunks(batch)])
    return rows.unflatten(1, (FRAMES, -1)).numpy(), batch.label_B.numpy()
