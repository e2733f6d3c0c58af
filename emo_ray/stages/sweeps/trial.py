"""One trial of a sweep by Ray Tune: the train stage with an override, in its process or with workers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import ray.tune

from emo_ray import cluster, store
from emo_ray.config import Config, override
from emo_ray.stages.fitting import ray_train
from emo_ray.stages.fitting.plan import resolve_training
from emo_ray.stages.prepare import Prepared, prepare
from emo_ray.stages.train import feature_rows, fusion_job, train_phases
from emo_ray.training import loop, search

PHASES = ("emovclip", "fusion")
_TRAINING = ("emovclip.", "fusion.", "train.")  # keys that need no other clips, media or features of sound and text


@dataclass(frozen=True)
class Task:
    """What all trials of a sweep share. The config's `store.root` is absolute: trials stand in their own folders."""

    config: Config
    prepared: Prepared  # without the test split

    @property
    def two_phases(self) -> bool:
        """Whether a trial is judged while it tunes EmoVCLIP as well: not where all trials share one."""
        return not all(key.startswith("fusion.") for key in self.config.tune.space)


def without_test(prepared: Prepared) -> Prepared:
    """The corpus as a sweep sees it: the clips of the test split are not there, nor their labels."""
    return replace(prepared, clips=tuple(clip for clip in prepared.clips if clip.split != "test"))


def trial(suggested: search.Params, task: Task) -> None:
    """A trainable of Ray Tune: the checkpoint of this config, and a report for each of its epochs."""
    config = _config(suggested, task)
    shared = all(key.startswith(_TRAINING) for key in task.config.tune.space)
    plan = resolve_training(config, task.prepared if shared else without_test(prepare(config)))
    first = plan.video_path if task.two_phases else None
    train_phases(config, plan, TuneReporter(config, first))


def member(suggested: search.Params, task: Task) -> None:
    """One of a population: a head that may be given the state of a better one, and settings near those, at a report."""
    config = _config(suggested, task)
    plan = resolve_training(config, task.prepared)
    job, datasets = fusion_job(config, plan, feature_rows(config, plan, plan.wanted.all_clips))
    ray_train.train_locally(job, config, datasets, PbtReporter(TuneReporter(config)))


def _config(suggested: search.Params, task: Task) -> Config:
    config = search.applied(task.config, search.from_optuna(task.config.tune.space, suggested))
    if config.train.shares == 1:  # this process is a worker itself, and a nested trainer takes 10 s to start
        gpu = "yes" if ray.get_gpu_ids() else "no"  # there may be one that Ray gave to nobody
        config = override(config, {"train.num_workers": 0, "train.use_gpu": gpu})
    cluster.connect(config)
    return config


class TuneReporter:
    """Tells Ray Tune of every epoch: its number from 1 over both phases, and the objective of the model so far.

    A trial in EmoVCLIP's phase, which counts where its folder is given, has no head yet, and so no objective: it gets
    the WAF of video alone minus 1, which compares it with others there and ranks it below all that have a head. Epochs
    of an EmoVCLIP that another trial has trained are `free`.
    """

    def __init__(self, config: Config, video_path: Path | None = None):
        self.name, self.epochs, self.video_path = config.tune.objective, config.train.epochs, video_path
        self.best: float | None = None

    def __call__(self, phase: str, metrics: Mapping[str, float], checkpoint: ray.tune.Checkpoint | None = None) -> None:
        """An epoch's metrics, as `on_epoch` gets them."""
        if phase == "emovclip" and self.video_path is None:
            return
        phase_epoch = int(metrics["epoch"]) + 1
        report = {"phase": phase, "phase_epoch": phase_epoch, "told": dict(metrics)}
        if phase == "emovclip":
            free = store.is_complete(self.video_path)
            report |= {"epoch": phase_epoch, "value": metrics["val_waf"] - 1, "free": free, "last": False}
        else:
            if self.best is None or metrics["best_epoch"] == metrics["epoch"]:
                self.best = search.objective(metrics, self.name)
            epoch = phase_epoch + (self.epochs if self.video_path else 0)
            report |= {"epoch": epoch, "value": self.best, "free": False, "last": phase_epoch == self.epochs}
        ray.tune.report(report, checkpoint=checkpoint)


class PbtReporter(loop.PlainReporter):
    """State goes through Ray Tune, which hands it from one member to another."""

    def __init__(self, reports: TuneReporter):
        super().__init__()
        self.reports = reports

    def restore(self) -> Path | None:
        """That of the member that this one goes on from."""
        checkpoint = ray.tune.get_checkpoint()
        return None if checkpoint is None else Path(checkpoint.to_directory())

    def report(self, metrics: dict[str, float], state: Path | None) -> None:
        """An epoch with its state."""
        self.reports("fusion", metrics, ray.tune.Checkpoint.from_directory(state))
