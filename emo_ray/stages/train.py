"""train: EmoVCLIP's prompts, then the fusion head, to one checkpoint; makes what is missing before it."""

from pathlib import Path

from emo_ray import cluster, store, tracking
from emo_ray.config import Config
from emo_ray.models import checkpoint_files
from emo_ray.progress import say
from emo_ray.reports import training as report
from emo_ray.stages.corpus import Corpus, speaker_offer, training_corpus
from emo_ray.stages.export import export_model
from emo_ray.stages.fitting.plan import TrainingPlan, check_no_folds, resolve_training
from emo_ray.stages.result import Result


def train(config: Config) -> Result:
    """The checkpoint of this config, made now where it is missing, and what it reached on validation.

    Raises ValueError where there is nothing to train on.
    """
    path, corpus = train_model(config)
    if config.tracking.register is not None:
        export_model(config, path)
    meta = store.read_meta(path)
    best = meta["best"]
    notes = [*corpus.prepared.notes, *meta.get("stopped", ()), *meta.get("notes", ())]
    lines = [*notes, *speaker_offer(config, corpus.prepared.clips)]
    return Result(path, {"notes": notes, **best}, report.tables(best), lines)


def train_model(
    config: Config, corpus: Corpus | None = None, parent: tracking.Run | None = None
) -> tuple[Path, Corpus]:
    """The checkpoint folder of this config on a corpus (default: the one that it names), and that corpus.

    With a `parent` the run of the training is shown inside of it.
    """
    if config.checkpoint is not None:
        raise ValueError(f"found checkpoint={config.checkpoint}, expected none: train makes one")
    check_no_folds(config)
    root = cluster.store_root(config)
    corpus = corpus or training_corpus(config)
    plan = resolve_training(config, corpus)
    if store.is_complete(plan.path):
        store.check_files(plan.path)
        checkpoint_files.check(plan.path)
        say(f"model {plan.path.name} is trained already")
    if not store.is_complete(plan.path) or not tracking.is_logged(config, root, plan.path, plan.key):
        _train(config, plan, parent)  # of a model that is trained, epochs are replayed to MLflow
    return plan.path, corpus


def _train(config: Config, plan: TrainingPlan, parent: tracking.Run | None) -> None:
    from emo_ray.stages.fitting.phases import train_phases  # torch and Ray: a finished model needs neither

    root = cluster.store_root(config)
    if not store.is_complete(plan.path):
        tracking.check(config, root)
    run = tracking.open_run(config, root, plan.key, tracking.title(config, "train", plan.key), parent)
    with run.running():
        run.dataset(config, plan.prepared.path.name, plan.prepared.counts())
        train_phases(config, plan, run.epoch)
        run.artifacts(plan.path, "checkpoint")
        run.metrics({f"validation/{k}": v for k, v in store.read_meta(plan.path)["best"]["fusion"].items()})
    tracking.note_logged(config, run, plan.path)
