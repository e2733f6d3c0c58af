"""tune: a sweep over any keys of the config, judged on validation clips alone, to a recipe of the best.

Trials that differ in the head alone are trained many at a time (`sweep_bulk`); others are trials of Ray Tune, each the
train stage with an override (`sweep_tune`). Either goes on where a killed sweep stopped.
"""

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from emo_ray import cluster, store, tracking
from emo_ray.config import Config, flatten, override, recipe
from emo_ray.data import splits
from emo_ray.data.batch import from_features
from emo_ray.data.pseudo import with_targets
from emo_ray.progress import say, show
from emo_ray.reports import sweep
from emo_ray.stages.fitting.plan import TrainingPlan, no_folds, resolve_training, with_video
from emo_ray.stages.prepare import prepare
from emo_ray.stages.sweeps.ray_tune import search_by_trials
from emo_ray.stages.sweeps.records import COMPLETE, Records
from emo_ray.stages.sweeps.stacked import Fold, in_bulk, search_in_bulk
from emo_ray.stages.sweeps.trial import Task, without_test
from emo_ray.stages.train import feature_rows, labelled, train, train_emovclip
from emo_ray.training import search

VERSION = 1
SWEEP, BEST = "sweep.json", "best.yaml"
_NO_VIDEO = "video is left out: EmoVCLIP would have to be trained in every fold; give its features as tables.video"


@dataclass(frozen=True)
class Tuned:
    """The folder of a sweep's report and of its best recipe, and the report's content."""

    path: Path
    content: dict
    mlflow: str

    def summary(self) -> dict:
        """The content of sweep.json."""
        return self.content

    def show(self) -> None:
        """The tables, for people."""
        show(sweep.tables(self.content), self.content["notes"], self.path / sweep.PAGE)
        say(f"the best recipe: jobs/train.py {self.path / BEST}")
        say(f"all runs: {self.mlflow}")


def tune(config: Config) -> Tuned:
    """Search `tune.space`. A sweep that is there already is read; one that was killed goes on.

    Raises ValueError for a space with wrong values, and for a corpus that trials cannot be judged on.
    """
    if config.checkpoint is not None:
        raise ValueError(f"found checkpoint={config.checkpoint}, expected none: every trial trains its own")
    no_folds(config)
    search.check(config)
    _check_folds(config)
    cluster.connect(config, dashboard=config.train.num_workers > 1)  # Ray frees a stopped trial's workers through it
    given, root = config, cluster.store_root(config)
    config = override(config, {"store.root": str(root)})  # trials stand in other folders
    prepared = without_test(prepare(config))
    plan = resolve_training(config, prepared)
    _check_validation(config, plan)
    key = _key(config, plan)
    folder = root / "sweeps" / key
    run = tracking.open_run(config, root, key, f"sweep-{key}")
    with run.running():
        if not store.is_complete(folder):
            state = root / "tune" / key
            _write(folder, given, _searched(config, plan, state, run))
            shutil.rmtree(state)
        content = json.loads((folder / SWEEP).read_text(encoding="utf-8"))
        states = [trial["state"] for trial in content["trials"]]
        run.metrics({state: states.count(state) for state in set(states)})
        if content["best"] is not None:
            run.metrics({"objective": content["trials"][content["best"]]["value"]})
        run.artifacts(folder, "sweep")
    return Tuned(folder, content, tracking.command(config, root))


def _check_folds(config: Config) -> None:
    if config.tune.folds is None:
        return
    if not in_bulk(config):
        raise ValueError(
            f"found tune.folds={config.tune.folds} with trials that are not trained in bulk, expected keys of fusion "
            "alone in tune.space, one worker, tune.bulk=auto and no population: a fold wants an EmoVCLIP of its own"
        )
    for key in ("fusion.start_from", "train.pseudo_labels"):
        if (given := flatten(config)[key]) is not None:
            raise ValueError(f"found {key}={given} with tune.folds, expected none: it may know the clips of a fold")


def _check_validation(config: Config, plan: TrainingPlan) -> None:
    if config.tune.folds:
        return
    if not plan.wanted.validation:
        raise ValueError("found no labelled validation clips, expected some to judge trials on: see data.*")
    searched = any(key.startswith("emovclip.") for key in config.tune.space)
    if searched and plan.video_path is not None and not with_video(config, plan.prepared, plan.wanted).validation:
        raise ValueError("found no labelled validation clip with video, expected some to judge EmoVCLIPs on")


def _key(config: Config, plan: TrainingPlan) -> str:
    """Of everything that decides the trials: their number is part of it, for it shapes the search."""
    elsewhere = {"cluster", "store", "tracking", "evaluate", "crossvalidate", "claims", "bench", "pseudo", "rounds"}
    own = {k: v for k, v in flatten(config).items() if k.split(".")[0] not in elsewhere}
    for name in ("tune.max_concurrent", "tune.max_failures", "train.use_gpu", "train.max_failures"):
        own.pop(name)
    own["train.num_workers"] = config.train.shares
    return store.digest(VERSION, own, plan.key)


def _searched(config: Config, plan: TrainingPlan, state: Path, run: tracking.Run) -> dict:
    """All trials, and what the best of them is worth, as `sweep_report` takes it."""
    begun_s, spent = time.monotonic(), state / "seconds.json"
    before_s = json.loads(spent.read_text(encoding="utf-8")) if spent.exists() else 0.0
    records, notes = Records(config, Path(config.store.root), state / "trials", run), list(plan.prepared.notes)
    try:
        if in_bulk(config):
            folds, said = _folds(config, plan) if config.tune.folds else (_split(config, plan, run), [])
            notes += said
            search_in_bulk(config, plan.prepared.labels, folds, records)
        else:
            search_by_trials(Task(config, plan.prepared), state / "ray", records)
    finally:
        seconds = before_s + time.monotonic() - begun_s
        store.write_text(spent, json.dumps(seconds))
    return _content(config, records.table(), notes) | {"seconds": seconds}


def _content(config: Config, trials: list[dict], notes: list[str]) -> dict:
    own, point = config.tune, search.default_params(config)
    as_it_is = None if point is None else search.from_optuna(own.space, point)
    default = next((trial["number"] for trial in trials if trial["params"] == as_it_is), None)
    if default is None:
        notes = [*notes, "the recipe as it is lies outside of tune.space and so is not among the trials"]
    complete = [trial for trial in trials if trial["state"] == COMPLETE]
    best = max(complete, key=lambda trial: trial["value"], default=None)  # the first of equal ones
    retrained = None if best is None else _again(search.applied(config, best["params"]))
    if best is not None and own.folds:
        notes = [*notes, f"{BEST} is trained on the training split: there it reaches {100 * retrained:.1f}"]
    elif best is not None and own.search == "pbt":
        notes = [
            *notes,
            f"{BEST} has the settings that the best ended with, and its value is that of training with them",
        ]
    names = ("objective", "search", "folds", "space")
    return {name: own.model_dump(mode="json")[name] for name in names} | {
        "scheduler": "none" if own.search == "pbt" else own.scheduler,
        "bulk": in_bulk(config),
        "trials": trials,
        "best": best and best["number"],
        "default": default,
        "retrained": retrained,
        "notes": notes,
    }


def _again(config: Config) -> float:
    """The objective of a config that is trained as jobs/train.py does."""
    found = store.read_meta(train(config).path)["best"]["fusion"]
    return search.objective({f"val_{name}": value for name, value in found.items()}, config.tune.objective)


def _write(folder: Path, config: Config, content: dict) -> None:
    with store.writing(folder, {"kind": "sweep", "version": VERSION}) as temporary:
        store.write_text(temporary / SWEEP, json.dumps(content, indent=1, ensure_ascii=False))
        if content["best"] is not None:
            best = search.applied(config, content["trials"][content["best"]]["params"])
            store.write_text(temporary / BEST, recipe(best))
        sweep.write(content, temporary)


def _split(config: Config, plan: TrainingPlan, run: tracking.Run) -> list[Fold]:
    """The features of training and of validation clips; EmoVCLIP's are those of the one that all trials share."""
    if plan.video_path is not None:
        train_emovclip(config, plan, run.epoch)
    table = feature_rows(config, plan, plan.wanted.all_clips)
    train_rows, validation_rows = (labelled(table, of) for of in (plan.wanted.train, plan.wanted.validation))
    if not len(train_rows) or not len(validation_rows):
        found = f"found {len(train_rows)} training and {len(validation_rows)} validation clips with any usable modality"
        raise ValueError(f"{found}, expected some of both: see bad_media.csv in {plan.prepared.path}")
    return [Fold(with_targets(from_features(train_rows), plan.wanted.pseudo), from_features(validation_rows))]


def _folds(config: Config, plan: TrainingPlan) -> tuple[list[Fold], list[str]]:
    """The labelled clips of training and validation in folds that no speaker crosses, and what to say about them."""
    notes = [_NO_VIDEO] if plan.video_path is not None else []
    label_of = plan.wanted.labelled | plan.wanted.validation
    batch = from_features(labelled(feature_rows(config, replace(plan, video_path=None), label_of), label_of))
    clip_of = {clip.clip_id: clip for clip in plan.prepared.clips}
    fold_B = splits.folds([clip_of[clip_id] for clip_id in batch.clip_ids], config.tune.folds, config.seed)
    held_out = [torch.from_numpy(fold_B == fold) for fold in range(config.tune.folds)]
    return [Fold(batch.rows(~mask_B), batch.rows(mask_B)) for mask_B in held_out], notes
