"""tune: a sweep over any keys of the config, judged on validation clips alone, to a recipe of the best.

Trials that differ in the head alone are trained many at a time (`sweeps.stacked`); others are trials of Ray Tune, each
the train stage with an override (`sweeps.ray_tune`). Either goes on where a killed sweep stopped.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emo_ray import cluster, durable, store, tracking
from emo_ray.config import Config, flatten, override, recipe, settings_of
from emo_ray.data import splits
from emo_ray.data.dialogues import windows_of
from emo_ray.reports import sweep as report_page
from emo_ray.reports.sweep_trials import SweepReport
from emo_ray.stages.corpus import training_corpus
from emo_ray.stages.evaluate import validation_interval
from emo_ray.stages.fitting.plan import (
    NO_VIDEO_IN_FOLDS,
    TrainingPlan,
    check_no_folds,
    clips_with_video,
    resolve_training,
    votes_of,
)
from emo_ray.stages.result import Result
from emo_ray.stages.train import train_model
from emo_ray.training import search
from emo_ray.training.metrics import objective

if TYPE_CHECKING:
    from emo_ray.training.bootstrap import DrawnInterval
    from emo_ray.training.stacked_clips import Clips

VERSION = 4  # 3: features are dropped in training, objectives of each epoch; 4: the interval of the best
SWEEP, BEST = "sweep.json", "best.yaml"


def tune(config: Config) -> Result:
    """Search `tune.space`. A sweep that is there already is read; one that was killed goes on.

    The result's content is that of sweep.json. Raises ValueError for a space with wrong values, and for a corpus that
    trials cannot be judged on.
    """
    if config.checkpoint is not None:
        raise ValueError(f"found checkpoint={config.checkpoint}, expected none: every trial trains its own")
    check_no_folds(config)
    search.check(config)
    _check_folds(config)
    _check_readings(config)
    _check_joint(config)
    user_config = config
    root = cluster.store_root(config)
    config = override(config, {"store.root": str(root)})  # trials stand in other folders
    corpus = training_corpus(config)
    corpus = replace(corpus, prepared=corpus.prepared.without_test())
    plan = resolve_training(config, corpus)
    _check_validation(config, plan)
    key = _key(config, plan)
    folder = root / "sweeps" / key
    state = root / "tune" / key
    if not store.is_complete(folder):
        tracking.check(config, root)
    run = tracking.open_run(config, root, key, tracking.title(config, "tune", key))
    with run.running():
        run.dataset(config, corpus.prepared.path.name, corpus.prepared.counts())

        def fill(temporary: Path) -> None:
            _write(temporary, user_config, _search(config, plan, state, run))

        store.artefact(folder, {"kind": "sweep", "version": VERSION}, fill)
        store.remove(state)
        content = store.read_json(folder / SWEEP)
        states = [trial["state"] for trial in content["trials"]]
        run.metrics({state: states.count(state) for state in set(states)})
        if content["best"] is not None:
            run.metrics({"objective": content["trials"][content["best"]]["value"]})
        run.artifacts(folder, "sweep")
    lines = [
        *content["notes"],
        f"pictures and details: {folder / report_page.PAGE}",
        f"the best recipe: jobs/train.py {folder / BEST}",
        f"all runs: {tracking.command(config, root)}",
    ]
    return Result(folder, content, report_page.tables(content), lines)


def trains_stacked(config: Config) -> bool:
    """Whether the trials of this sweep can be trained many at a time: they differ in the head alone."""
    settings = config.tune
    one_by_one = settings.bulk == "no" or settings.search == "pbt" or config.train.num_workers > 1
    return not one_by_one and all(key.startswith("fusion.") for key in settings.space)


def _check_folds(config: Config) -> None:
    if config.tune.folds is None:
        return
    if not trains_stacked(config):
        raise ValueError(
            f"found tune.folds={config.tune.folds} with trials that are not trained in bulk, expected keys of fusion "
            "alone in tune.space, one worker, tune.bulk=auto and no population: a fold needs an EmoVCLIP of its own"
        )
    for key in ("fusion.start_from", "train.pseudo_labels"):
        if (value := flatten(config)[key]) is not None:
            raise ValueError(f"found {key}={value} with tune.folds, expected none: it may know the clips of a fold")


def _check_joint(config: Config) -> None:
    """Raises ValueError for a joint phase, whose epochs trials are not judged by."""
    if config.train.joint_epochs or "train.joint_epochs" in config.tune.space:
        raise ValueError(
            "found train.joint_epochs in a sweep, expected none: trials are judged by the head's phase, so train the "
            "recipe that is found jointly"
        )


def _check_readings(config: Config) -> None:
    """Raises ValueError for trials that would each ask or transcribe: a sweep does so once, within one budget."""
    keys = [key for key in config.tune.space if key.startswith(("annotate.", "transcribe."))]
    if keys:
        raise ValueError(
            f"tune.space: found {', '.join(keys)}, expected keys that all trials share the texts of: make a sweep "
            "for each prompt or model"
        )


def _check_validation(config: Config, plan: TrainingPlan) -> None:
    if config.tune.folds:
        return
    if not plan.clips.validation:
        raise ValueError("found no labelled validation clips, expected some to judge trials on: see data.*")
    searches_prompts = any(key.startswith("emovclip.") for key in config.tune.space)
    if searches_prompts and plan.video_path and not clips_with_video(config, plan.prepared, plan.clips).validation:
        raise ValueError("found no labelled validation clip with video, expected some to judge EmoVCLIPs on")


def _key(config: Config, plan: TrainingPlan) -> str:
    """The digest of everything that decides the trials: their number is part of it, for it shapes the search."""
    searches_context = any(key.startswith("fusion.context.") for key in config.tune.space)
    dialogues = [plan.prepared.path.name] if searches_context else []
    return store.digest(VERSION, settings_of(config, "sweep"), plan.key, *dialogues)


def _search(config: Config, plan: TrainingPlan, state: Path, run: tracking.Run) -> SweepReport:
    """All trials, and what the best of them is worth, as `reports.sweep` takes it."""
    from emo_ray.stages.sweeps.ray_tune import search_by_trials  # Ray and torch: a finished sweep needs neither
    from emo_ray.stages.sweeps.records import Records
    from emo_ray.stages.sweeps.stacked import search_stacked
    from emo_ray.stages.sweeps.trial import Task

    cluster.connect(config, dashboard=config.train.num_workers > 1)  # Ray frees a stopped trial's workers through it
    begun_s = time.monotonic()
    seconds_file = state / "seconds.json"
    before_s = store.read_json(seconds_file) if store.exists(seconds_file) else 0.0
    try:
        records = Records(config, Path(config.store.root), state / "trials", run)
    except store.DamagedFile:
        store.remove(state / "ray")  # it would go on without the trial whose record is damaged
        raise
    notes = list(plan.prepared.notes)
    try:
        if trains_stacked(config):
            plan = replace(plan, windows=windows_of(plan.prepared.clips, search.widest(config).fusion.context.offsets))
            folds = _folds(config, plan, config.tune.folds) if config.tune.folds else [_split(config, plan, run)]
            notes += [NO_VIDEO_IN_FOLDS] if config.tune.folds and plan.video_path is not None else []
            search_stacked(config, plan.prepared.labels, folds, records)
        else:
            search_by_trials(Task(config, plan.corpus), state / "ray", records)
    finally:
        seconds = before_s + time.monotonic() - begun_s
        durable.write_text(seconds_file, json.dumps(seconds))
    return _content(config, plan, records.table(), notes, seconds)


def _content(config: Config, plan: TrainingPlan, trials: list[Any], notes: list[str], seconds: float) -> SweepReport:
    settings = config.tune
    params = search.default_params(config)
    recipe_params = None if params is None else search.from_optuna(settings.space, params)
    default = next((trial["number"] for trial in trials if trial["params"] == recipe_params), None)
    if default is None:
        notes = [*notes, "the recipe as it is lies outside of tune.space and so is not among the trials"]
    complete = [trial for trial in trials if trial["state"] == "complete"]
    best = max(complete, key=lambda trial: trial["value"], default=None)  # the first of equal ones
    retrained = None
    interval = None
    if best is not None:
        retrained, interval = _retrained(search.applied(config, best["params"]), plan)
    if retrained is not None and settings.folds:
        notes = [*notes, f"{BEST} is trained on the training split: there it reaches {100 * retrained:.1f}"]
    elif best is not None and settings.search == "pbt":
        notes = [
            *notes,
            f"{BEST} has the settings that the best ended with, and its value is that of training with them",
        ]
    return {
        "objective": settings.objective,
        "search": settings.search,
        "folds": settings.folds,
        "space": settings.model_dump(mode="json")["space"],
        "scheduler": "none" if settings.search == "pbt" else settings.scheduler,
        "bulk": trains_stacked(config),
        "trials": trials,
        "best": None if best is None else best["number"],
        "default": default,
        "retrained": retrained,
        "interval": interval,
        "notes": notes,
        "seconds": seconds,
    }


def _retrained(config: Config, plan: TrainingPlan) -> "tuple[float, DrawnInterval]":
    """The objective, with its interval, of a config that is trained as jobs/train.py does."""
    config = override(config, {"train.refit": False})
    path, _ = train_model(config, plan.corpus)
    best = store.read_meta(path)["best"]["fusion"]
    value = objective({f"val_{name}": value for name, value in best.items()}, config.tune.objective)
    return value, validation_interval(config, path, plan.corpus, config.tune.objective)


def _write(folder: Path, config: Config, content: SweepReport) -> None:
    durable.write_json(folder / SWEEP, content)
    if content["best"] is not None:
        best = search.applied(config, content["trials"][content["best"]]["params"])
        durable.write_text(folder / BEST, recipe(best))
    report_page.write(content, folder)


def _split(config: Config, plan: TrainingPlan, run: tracking.Run) -> "Clips":
    """The features of training and of validation clips; EmoVCLIP's are of the one that all trials share."""
    from emo_ray.data.targets import with_targets
    from emo_ray.stages.encoding.labelled import labelled_batch
    from emo_ray.stages.fitting.phases import feature_rows, scaling_by_speaker, train_emovclip
    from emo_ray.training.stacked_clips import Clips

    if plan.video_path is not None:
        train_emovclip(config, plan, run.epoch)
    table = feature_rows(config, plan, plan.clips.all_clips)
    train, validation = (
        labelled_batch(table, label_of, plan.windows) for label_of in (plan.clips.train, plan.clips.validation)
    )
    if not len(train) or not len(validation):
        raise ValueError(
            f"found {len(train)} training and {len(validation)} validation clips with any usable modality, "
            f"expected some of both: see bad_media.csv in {plan.prepared.path}"
        )
    if (by_speaker := scaling_by_speaker(config, plan, table)) is not None:
        train, validation = by_speaker.applied(train), by_speaker.applied(validation)
    return Clips(with_targets(train, plan.clips.targets), validation)


def _folds(config: Config, plan: TrainingPlan, count: int) -> "list[Clips]":
    """The labelled clips of training and validation in folds that no speaker crosses, without video."""
    import torch

    from emo_ray.data.targets import with_targets
    from emo_ray.stages.encoding.labelled import labelled_batch
    from emo_ray.stages.fitting.phases import feature_rows
    from emo_ray.training.speaker_scaling import standardised
    from emo_ray.training.stacked_clips import Clips

    label_of = plan.clips.labelled | plan.clips.validation
    table = feature_rows(config, replace(plan, video_path=None), label_of)
    ids = labelled_batch(table, label_of, None).clip_ids
    fold_B = splits.folds(plan.prepared.clips_of(ids), count, config.seed)
    offsets = plan.windows.offsets if plan.windows else ()
    windows = windows_of(plan.prepared.clips, offsets, dict(zip(ids, fold_B.tolist(), strict=True)))
    batch = with_targets(labelled_batch(table, label_of, windows), votes_of(config, plan.prepared, label_of))
    held_out = [torch.from_numpy(fold_B == fold) for fold in range(count)]
    return [Clips(*standardised(config, batch.rows(~mask_B), [batch.rows(mask_B)])) for mask_B in held_out]
