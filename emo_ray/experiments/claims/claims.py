"""claims: what the paper claims, in miniature, over several synthetic worlds and seeds.

A trial is the config of a synthetic world with some changes, run through the stages that jobs run, and measured. It has
a result file of its own, named by everything that decides it, and its models lie in the store as anybody's. So a run
that is killed goes on where it stopped, and another dropout rate trains no EmoVCLIP again. Worlds are the unit of every
standard error: the seeds of one world share its clips, so they are averaged first.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emo_ray import cluster, durable, resources, store, tracking
from emo_ray.config import Config, declarations, flatten, override, settings_of
from emo_ray.config.model_settings import MODALITIES
from emo_ray.experiments.claims import comparisons, options
from emo_ray.experiments.claims.comparisons import AllScores, compare
from emo_ray.experiments.claims.trials import Scores, Trial, seeds_of, trials_of
from emo_ray.models.identity import frozen_digest
from emo_ray.progress import progress
from emo_ray.reports import claims as report
from emo_ray.stages.corpus import Corpus
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.fitting.plan import resolve_training
from emo_ray.stages.result import Result

VERSION = 3  # raise it when the same trial gives other scores; 3: trials run through the stages
CONTENT, SCORES = "claims.json", "scores.json"
# Artefacts that may come from elsewhere.
_SOURCES = {"corpus", "transcripts", "readings", "emovclip", "fusion", "pseudo_labels"}


@dataclass(frozen=True)
class PlannedTrial:
    """A trial of one world and seed: how it is run, and the folder of its scores."""

    name: str
    world: int
    trial: Trial
    config: Config
    corpus: Corpus
    folder: Path

    @property
    def is_measured(self) -> bool:
        """Whether its scores are there."""
        return store.is_complete(self.folder)


def claims(config: Config) -> Result:
    """Measure every claim on the worlds behind the config's own. Trials that were made before are read, not made again.

    Trials run on CPU cores, one each. Raises ValueError for settings that claims are not measured with.
    """
    _check(config)
    root = cluster.store_root(config)
    if config.claims.part == "gap":
        from emo_ray.experiments.claims import gap

        key, content = gap.measure(config, root)
        return _reported(config, root, key, content)
    planned = plan_trials(config, root)
    if not all(trial.is_measured for trial in planned):
        tracking.check(config, root)
    _run_missing(config, planned)
    key = store.digest(comparisons.VERSION, settings_of(config, "claims"), [trial.folder.name for trial in planned])
    report_of = options.compare_options if config.claims.part == "options" else compare
    return _reported(config, root, key, report_of(config, _read_scores(planned)))


def _reported(config: Config, root: Path, key: str, content: report.ClaimsReport) -> Result:
    """The report, written where it is missing and logged where runs are tracked."""
    folder = root / "claims" / key

    def fill(temporary: Path) -> None:
        durable.write_json(temporary / CONTENT, content)
        report.write(content, temporary)

    store.artefact(folder, {"kind": "claims", "version": VERSION}, fill)
    if not tracking.is_logged(config, root, folder, key):
        run = tracking.open_run(config, root, key, tracking.title(config, "claims", key))
        run.metrics({f"claims/{d['claim']}/{i}": d["mean"] for i, d in enumerate(content["differences"])})
        run.artifacts(folder, "claims")
        run.finish()
        tracking.note_logged(config, run, folder)
    lines = [*report.notes(content), f"pictures and details: {folder / report.PAGE}"]
    return Result(folder, dict(content), report.tables(content), lines)


def plan_trials(config: Config, root: Path) -> list[PlannedTrial]:
    """All trials, world by world, seeds in order. Worlds are decoded where they are not."""
    trials = options.TRIALS if config.claims.part == "options" else trials_of(config)
    planned = []
    for world in range(config.claims.worlds):
        world_config = _world_config(config, root, world)
        corpus = Corpus(prepare_corpus(world_config))
        for name, trial in trials.items():
            for seed in range(seeds_of(trial, config)):
                trial_config = override(world_config, {**trial.changes, "seed": config.seed + seed})
                folder = root / "claims" / "trials" / _key(trial, trial_config, corpus)
                planned.append(PlannedTrial(name, world, trial, trial_config, corpus, folder))
    return planned


def run_trial(planned: PlannedTrial) -> None:
    """Measure a trial in this process, with one thread, and write its scores."""
    from emo_ray.training.in_memory import one_thread

    def fill(folder: Path) -> None:
        with one_thread():
            durable.write_text(folder / SCORES, json.dumps(_measure(planned.trial, planned.config, planned.corpus)))

    store.artefact(planned.folder, {"kind": "trial", "trial": planned.name, "world": planned.world}, fill)


def _check(config: Config) -> None:
    """Raises ValueError for a device that claims are not measured on, and for clips or models from elsewhere.

    Settings that name such things decide by content alone: the same path may hold other content tomorrow.
    """
    if config.train.use_gpu == "yes":
        raise ValueError("found train.use_gpu=yes, expected auto or no: claims are many small trials on CPU cores")
    if set(config.modalities) != set(MODALITIES):
        raise ValueError(f"found modalities={list(config.modalities)}, expected all of {', '.join(MODALITIES)}")
    values, defaults = flatten(config), flatten(Config())
    for key, declared in declarations().items():
        from_elsewhere = any(decision.artefact in _SOURCES for decision in declared.decides) and not any(
            decision.by == "value" for decision in declared.decides
        )
        is_synthetic = key == "data.corpus" and values[key] == "synthetic"
        if from_elsewhere and values[key] != defaults[key] and not is_synthetic:
            raise ValueError(
                f"found {key}={values[key]}, expected {defaults[key]}: claims are measured on synthetic worlds with "
                "models trained there; jobs/evaluate.py measures on a corpus"
            )


def _world_config(config: Config, root: Path, world: int) -> Config:
    """The config of a world's trials: each works in its own process, and what it makes is in no tracked run."""
    return override(
        config,
        {
            "synthetic.seed": config.synthetic.seed + 1 + world,  # the config's own world is where settings were chosen
            "synthetic.unlabelled_clips": 0,
            "store.root": str(root),
            "train.num_workers": 0,
            "train.min_workers": None,
            "train.use_gpu": "no",
            # What is compared are single heads of the same settings, judged on the same clips.
            "train.heads": 1,
            "train.refit": False,
            "fusion.auto": False,
            "evaluate.floors": False,
            "evaluate.views": 1,
            "tracking.enabled": False,
        },
    )


def _key(trial: Trial, config: Config, corpus: Corpus) -> str:
    """The digest of everything that decides a trial's scores: the names of what it trains, and the clips."""
    parts: list[Any]
    if trial.kind in ("zero-shot", "probe"):
        parts = [frozen_digest(config), trial.statistics]
    else:
        plan = resolve_training(config, corpus)
        parts = [plan.video_path.name if trial.kind == "EmoVCLIP" and plan.video_path else plan.path.name]
        parts += [config.evaluate.views] * (config.evaluate.views > 1)
    if trial.kind == "self-training":
        parts += [trial.labelled, settings_of(config, "self_training")]
    return store.digest(VERSION, trial.kind, corpus.prepared.path.name, parts)


def _run_missing(config: Config, planned: Sequence[PlannedTrial]) -> None:
    """Run the trials whose scores are missing, as many at once as there are CPUs.

    Each takes half a CPU of a small machine, so that Ray Data's tasks find a free one.
    """
    missing = [trial for trial in planned if not trial.is_measured]
    if not missing:
        return
    import ray

    cluster.connect(config)
    _encode_worlds(config, missing)
    at_once = max(1, int(cluster.cpus()))
    remote_trial = ray.remote(num_cpus=resources.train_worker_cpus(at_once))(run_trial)
    running: list[ray.ObjectRef] = []
    with progress("measuring claims", len(missing), "trials") as advance:
        for trial in missing:
            if len(running) == at_once:
                done, running = ray.wait(running)
                ray.get(done)  # raises what the trial raised
                advance(1)
            running.append(remote_trial.remote(trial))
        for task in running:
            ray.get(task)
            advance(1)


def _encode_worlds(config: Config, planned: Sequence[PlannedTrial]) -> None:
    """Make the features that the trials of a world share, with all CPUs and before any of them needs them."""
    from emo_ray.experiments.claims.baselines import frames_encoder
    from emo_ray.inference.encoders import frozen_encoders
    from emo_ray.stages.encoding.feature_tables import encode_corpus

    for trial in {trial.world: trial for trial in planned}.values():
        shared = ("seed", "modalities", "train.num_workers")
        world_config = override(trial.config, {key: flatten(config)[key] for key in shared})
        encoders = [*frozen_encoders(world_config), frames_encoder(world_config)]
        encode_corpus(world_config, trial.corpus.prepared, encoders)


def _measure(trial: Trial, config: Config, corpus: Corpus) -> Scores:
    from emo_ray.experiments.claims import baselines, self_training, supervised

    labels = corpus.prepared.labels
    if trial.kind == "zero-shot":
        return baselines.zero_shot(config, labels, baselines.embedded_frames(config, corpus.prepared))
    if trial.kind == "probe":
        return baselines.probe(labels, baselines.embedded_frames(config, corpus.prepared), trial.statistics)
    if trial.kind == "EmoVCLIP":
        return supervised.emovclip_scores(config, corpus)
    if trial.kind == "model":
        return supervised.model_scores(config, corpus)
    return self_training.self_training_scores(config, corpus, trial.labelled)


def _read_scores(planned: Sequence[PlannedTrial]) -> AllScores:
    scores: dict[str, dict[int, list[Scores]]] = defaultdict(lambda: defaultdict(list))
    for trial in planned:
        scores[trial.name][trial.world].append(store.read_json(trial.folder / SCORES))
    return {name: list(worlds.values()) for name, worlds in scores.items()}
