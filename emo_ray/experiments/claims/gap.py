"""What to train where CLIP's pictures and the clips differ, measured in this process on one core.

A trial is an artefact of the store, so a killed measurement goes on where it stopped.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from emo_ray import durable, store
from emo_ray.config import Config, override
from emo_ray.config.data_settings import Split
from emo_ray.data import synthetic
from emo_ray.data.batch import VideoBatch
from emo_ray.data.synthetic import LABELS
from emo_ray.experiments.claims import baselines, gap_world
from emo_ray.experiments.claims.gap_report import report_of
from emo_ray.experiments.claims.gap_trials import (
    EPOCHS,
    FIRST_WORLD,
    MIDDLE,
    STEPS,
    TEST,
    TUNING_WORLD,
    VALIDATION,
    VARIANTS,
    AllScores,
    GapTrial,
    best_rates,
    planned_trials,
    tuning_trials,
)
from emo_ray.experiments.claims.gap_world import FRAMES
from emo_ray.experiments.claims.trials import PROBES, ZERO_SHOT, Scores
from emo_ray.models.clip_source import image_size
from emo_ray.models.emovclip import build
from emo_ray.progress import progress
from emo_ray.reports.claims import ClaimsReport
from emo_ray.training import in_memory, mini_clip
from emo_ray.training.loop import predict
from emo_ray.training.metrics import metrics

VERSION = 1  # raise it when the same trial gives other scores
SCORES = "scores.json"
Clips = dict[str, VideoBatch]  # by split


@dataclass(frozen=True)
class _Bench:
    """Where trials run: the settings of all of them, and the CLIP of posed stills under them."""

    root: Path
    config: Config
    clip: Path


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
        durable.write_text(folder / SCORES, json.dumps(_measured(bench, trial)))

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
    if world == TUNING_WORLD:
        counts["test"] = len(LABELS)  # nobody looks at them
    return {split: gap_world.clips_of(root, FIRST_WORLD + world, split, n, size) for split, n in counts.items()}


def _labelled(train: VideoBatch, trial: GapTrial) -> VideoBatch:
    """The training clips that have labels in this trial: the seed draws them, evenly over classes."""
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
