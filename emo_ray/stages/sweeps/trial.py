"""One trial of a sweep by Ray Tune: the train stage with an override, in its process or with workers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.tune

from emo_ray import cluster, store
from emo_ray.config import Config, override
from emo_ray.progress import nothing_said
from emo_ray.stages.corpus import Corpus
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.fitting.phases import feature_rows, forget_state, fusion_job, scaling_by_speaker, train_phases
from emo_ray.stages.fitting.plan import TrainingPlan, resolve_training
from emo_ray.stages.fitting.ray_train import train_locally
from emo_ray.training import loop, search
from emo_ray.training.metrics import objective

PHASES = ("emovclip", "fusion")
_TRAINING = ("emovclip.", "fusion.", "train.")  # keys that need no other clips, media or features of sound and text


@dataclass(frozen=True)
class Task:
    """What all trials of a sweep share. The config's `store.root` is absolute: trials stand in their own folders."""

    config: Config
    corpus: Corpus  # without the test split; its texts are all that a trial uses, so that no trial asks

    @property
    def two_phases(self) -> bool:
        """Whether a trial is judged while it tunes EmoVCLIP as well: not where all trials share one."""
        return not all(key.startswith("fusion.") for key in self.config.tune.space)


def trial(suggested: search.Params, task: Task) -> None:
    """A trainable of Ray Tune: the checkpoint of this config, and a report for each of its epochs.

    Raises ValueError where training diverged, so that the trial counts as failed.
    """
    config = _config(search.from_optuna(task.config.tune.space, suggested), task)
    plan = _plan(config, task)
    train_phases(config, plan, TuneReporter(config, plan.video_path if task.two_phases else None))
    if stopped := store.read_meta(plan.path).get("stopped"):
        raise ValueError(stopped[0])


def population_member(suggested: search.Params, task: Task) -> None:
    """A head of a population, which at a report may be given a better one's state and settings near that one's."""
    config = _config(search.from_optuna(task.config.tune.space, suggested), task)
    config = override(config, {"train.save_every_steps": None})  # nobody keeps states inside epochs
    plan = resolve_training(config, task.corpus)
    table = feature_rows(config, plan, plan.clips.all_clips)
    job, datasets = fusion_job(config, plan, table, scaling_by_speaker(config, plan, table))
    train_locally(job, config, datasets, PbtReporter(TuneReporter(config)))


def forget_trial(params: search.Params, task: Task) -> None:
    """Remove the state of a trial that did not end, which nothing goes on from."""
    config = _config(params, task)
    with nothing_said():  # which every trial would repeat
        forget_state(config, _plan(config, task))


def _plan(config: Config, task: Task) -> TrainingPlan:
    """What a trial with this config trains."""
    corpus = task.corpus
    if not all(key.startswith(_TRAINING) for key in task.config.tune.space):
        corpus = replace(corpus, prepared=prepare_corpus(config).without_test())
    return resolve_training(config, corpus)


def _config(params: search.Params, task: Task) -> Config:
    config = search.applied(task.config, params)
    config = override(config, {"train.refit": False})  # trials are judged on validation clips
    if config.train.shares == 1:  # this process is a worker itself, and a nested trainer takes 10 s to start
        gpu = "yes" if ray.get_gpu_ids() else "no"  # the machine may have one that Ray gave to nobody
        config = override(config, {"train.num_workers": 0, "train.use_gpu": gpu})
    cluster.connect(config)
    return config


class TuneReporter:
    """Tells Ray Tune of every epoch: its number from 1 over both phases, the objective so far, and that of this epoch.

    A trial in EmoVCLIP's phase, which counts where its folder is given, has no head yet, and so no objective: it gets
    the WAF of video alone minus 1, which compares it with others in that phase and ranks it below all that have a head.
    Epochs of an EmoVCLIP that another trial has trained are `free`.
    """

    def __init__(self, config: Config, video_path: Path | None = None):
        self.objective, self.epochs, self.video_path = config.tune.objective, config.train.epochs, video_path
        self.best: float | None = None

    def __call__(self, phase: str, metrics: Mapping[str, float], checkpoint: Any = None) -> None:
        """Report an epoch's metrics, as `on_epoch` gets them, with a checkpoint of Ray Tune where there is one."""
        phase_epoch = int(metrics["epoch"]) + 1
        report = {"phase": phase, "phase_epoch": phase_epoch, "metrics": dict(metrics)}
        if phase == "emovclip":
            if self.video_path is None:
                return
            is_free = store.is_complete(self.video_path)
            rank = metrics["val_waf"] - 1
            report |= {"epoch": phase_epoch, "value": rank, "reached": rank, "free": is_free, "last": False}
        else:
            reached = objective(metrics, self.objective)
            if self.best is None or metrics["best_epoch"] == metrics["epoch"]:
                self.best = reached
            epoch = phase_epoch + (self.epochs if self.video_path else 0)
            is_last = phase_epoch == self.epochs
            report |= {"epoch": epoch, "value": self.best, "reached": reached, "free": False, "last": is_last}
        ray.tune.report(report, checkpoint=checkpoint)


class PbtReporter(loop.PlainReporter):
    """The reporter of population-based training: Ray Tune hands state from one member to another."""

    def __init__(self, reporter: TuneReporter):
        super().__init__()
        self.reporter = reporter

    def restore(self) -> Path | None:
        """The state of the member that this one goes on from."""
        checkpoint = ray.tune.get_checkpoint()
        return None if checkpoint is None else Path(checkpoint.to_directory())

    def report(self, metrics: dict[str, float], state: Path | None) -> None:
        """Report an epoch with its state."""
        assert state is not None, "a single process is rank 0"
        self.reporter("fusion", metrics, ray.tune.Checkpoint.from_directory(state))
