"""Sweeps of the fusion head alone: trials are trained many at a time, in one process on each core.

Trials come in waves of as many as the processes hold. All trials of a wave end an epoch together, and then those that
promise little are stopped (ASHA); so nothing depends on which process is faster. A killed sweep repeats its last wave.
"""

import json
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import ray
import torch
from threadpoolctl import threadpool_limits

from emo_ray import cluster, store
from emo_ray.config import Config
from emo_ray.config.model_settings import SUBSETS
from emo_ray.data.batch import FeatureBatch
from emo_ray.models import checkpoint
from emo_ray.models.fusion import FusionHead, feature_rates, scalings
from emo_ray.progress import progress
from emo_ray.stages.sweeps.records import COMPLETE, FAILED, PRUNED, Records
from emo_ray.training import metrics, search
from emo_ray.training.divergence import diverged
from emo_ray.training.stacked_heads import SHARED_FIELDS, HeadConfig, StackedHeads

WIDTH = 8  # trials in a process: more save no overhead, and leave the cache
FINISHED_WAVES = "whole.txt"  # how many trials the waves have that are recorded to the end
_OPTUNA_STATE = {PRUNED: optuna.trial.TrialState.PRUNED, FAILED: optuna.trial.TrialState.FAIL}
Metrics = dict[str, float]


@dataclass(frozen=True)
class Fold:
    """The labelled clips with features of a split: to train on, and to validate on."""

    train: FeatureBatch
    validation: FeatureBatch


@dataclass
class _Trial:
    """A trial of a wave."""

    suggestion: optuna.Trial
    params: search.Params
    epochs: list[Metrics]
    history: list[tuple[int, float]]  # epoch from 1, objective
    state: str = COMPLETE
    error: str | None = None


def search_stacked(config: Config, labels: Sequence[str], folds: Sequence[Fold], records: Records) -> None:
    """All trials of the sweep; those that `records` holds already are not repeated."""
    settings = config.tune
    finished_waves = records.folder / FINISHED_WAVES
    finished = finished_trials(records) if store.exists(finished_waves) else 0
    records.forget([name for name, record in records.trials.items() if record["number"] >= finished])
    study = _study(config, records)
    space, processes = search.distributions(settings.space), _processes(config)
    worker_class: Any = Worker  # Ray's decorator keeps the plain class's type
    workers = [worker_class.remote(config, tuple(labels), [ray.put(fold) for fold in folds]) for _ in range(processes)]
    with progress("searching", settings.trials, "trials") as advance:
        advance(len(study.trials))
        while (begun := len(records.trials)) < settings.trials:
            study.sampler = search.sampler(settings, config.seed + begun)  # a resumed sweep goes on as it would have
            suggestions = [study.ask(space) for _ in range(wave_of(settings.trials - begun, processes))]
            begun_s = time.monotonic()
            trials = _run_wave(config, suggestions, workers, records)
            _record(trials, records, time.monotonic() - begun_s)
            store.write_text(finished_waves, json.dumps(len(records.trials)))
            for trial in trials:
                if trial.state == COMPLETE:
                    study.tell(trial.suggestion, trial.history[-1][1])
                else:
                    study.tell(trial.suggestion, state=_OPTUNA_STATE[trial.state])
            values = [record["value"] for record in records.trials.values() if record["value"] is not None]
            advance(len(trials), f"best {max(values):.3f}" if values else "")
    for worker in workers:
        ray.kill(worker)


def finished_trials(records: Records) -> int:
    """How many trials of finished waves are recorded; a record that was damaged ends them, as later ones rest on it."""
    finished = store.read_json(records.folder / FINISHED_WAVES)
    numbers = {record["number"] for record in records.trials.values()}
    return next((number for number in range(finished) if number not in numbers), finished)


def wave_of(trials: int, processes: int) -> int:
    """How many of the trials that are left come next.

    Waves are about as large as each other, for a small one is all overhead, and all processes have as many.
    """
    each = -(-trials // processes)
    waves = -(-each // WIDTH)
    return min(trials, processes * -(-each // waves))


def _study(config: Config, records: Records) -> optuna.Study:
    """Optuna's view of the sweep so far: recorded trials, else the recipe as it is as the first suggestion."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # at INFO it prints every study it creates
    study = optuna.create_study(direction="maximize")
    for record in records.table():
        study.add_trial(search.to_optuna_trial(config.tune, record))
    if not study.trials and (params := search.default_params(config)) is not None:
        study.enqueue_trial(params)
    return study


def _processes(config: Config) -> int:
    """One a core, but no more than can be filled."""
    cores = int(cluster.cpus())
    return max(1, min(config.tune.max_concurrent or cores, cores, -(-config.tune.trials // WIDTH)))


def _run_wave(
    config: Config, suggestions: Sequence[optuna.Trial], workers: Sequence[Any], records: Records
) -> list[_Trial]:
    """Train a wave of trials from its first epoch to its last; a trial that diverges fails."""
    settings, rungs = config.tune, search.rungs(config.tune, config.train.epochs)
    trials = {s.number: _Trial(s, search.from_optuna(settings.space, s.params), [], []) for s in suggestions}
    share_of = [(worker, list(trials)[i :: len(workers)]) for i, worker in enumerate(workers)]
    ray.get([worker.start.remote({n: trials[n].params for n in numbers}) for worker, numbers in share_of])
    live = set(trials)
    for epoch in range(1, config.train.epochs + 1):
        results = ray.get([worker.epoch.remote([n for n in numbers if n in live]) for worker, numbers in share_of])
        for number, values in sorted(item for result in results for item in result.items()):
            trial = trials[number]
            if values is None:
                lr = search.applied(config, trial.params).fusion.lr
                trial.state, trial.error = FAILED, diverged("fusion", lr, epoch - 1)
                live.remove(number)
                continue
            trial.epochs.append(values | {"epoch": epoch - 1})
            trial.history.append((epoch, _value(trial.epochs, settings.objective, settings.folds)))
        if epoch in rungs:
            earlier = [dict(map(tuple, record["history"])).get(epoch) for record in records.trials.values()]
            reached = [value for value in earlier if value is not None] + [trials[n].history[-1][1] for n in live]
            for number in sorted(live - {0}):  # the first is what all others are compared with
                if not search.is_promoted(trials[number].history[-1][1], reached, settings.reduction_factor):
                    trials[number].state = PRUNED
                    live.remove(number)
    return list(trials.values())


def _value(epochs: Sequence[Metrics], objective: str, folds: int | None) -> float:
    """Objective at the epoch that `train` keeps: the best by it and then by loss, or in folds the last one."""
    if folds:
        return metrics.objective(epochs[-1], objective)
    return max(metrics.objective(epoch, objective) for epoch in epochs)


def _record(trials: Sequence[_Trial], records: Records, seconds: float) -> None:
    """Record a wave that is over; each trial gets the share of its time that its epochs took."""
    epoch_s = seconds / max(1, sum(len(trial.epochs) for trial in trials))
    for trial in trials:
        name = f"{trial.suggestion.number:05d}"
        records.begin(name, trial.params)
        for (epoch, value), values in zip(trial.history, trial.epochs, strict=True):
            records.epoch(name, epoch, value, metrics.objective(values, records.config.tune.objective))
        records.log(name, [("fusion", epoch) for epoch in trial.epochs])
        records.end(name, trial.state, trial.error, seconds=epoch_s * len(trial.epochs))


@ray.remote(num_cpus=1)
class Worker:
    """Trains the trials that it is given, those of one shape together, each on every fold."""

    def __init__(self, config: Config, labels: tuple[str, ...], folds: list[ray.ObjectRef]):
        torch.set_num_threads(1)
        threadpool_limits(1)
        self.config, self.labels, self.folds = config, labels, ray.get(folds)
        self.scalings = [scalings(fold.train) for fold in self.folds]
        self.groups: list[tuple[list[int], list[StackedHeads]]] = []  # numbers of trials, and their heads on each fold

    def start(self, params_of: Mapping[int, search.Params]) -> None:
        """Make fresh heads for trials, by number."""
        shapes: dict[Any, list[int]] = defaultdict(list)
        configs = {number: search.applied(self.config, params) for number, params in params_of.items()}
        for number, config in configs.items():
            shape = [getattr(config.fusion, name) for name in SHARED_FIELDS]
            shapes[(*shape, isinstance(config.fusion.modality_dropout, dict))].append(number)
        self.groups = [
            (numbers, [self._stack([configs[n] for n in numbers], fold) for fold in range(len(self.folds))])
            for numbers in shapes.values()
        ]

    def _stack(self, configs: Sequence[Config], fold: int) -> StackedHeads:
        heads: list[FusionHead] = []
        with torch.random.fork_rng(devices=[]):
            for config in configs:
                torch.manual_seed(config.seed)
                rates_of = feature_rates(self.folds[fold].train, config.fusion.feature_dropout)
                heads += checkpoint.fresh_heads(config, self.scalings[fold], self.labels, 1, rates_of)
        head_configs = [HeadConfig(config.fusion, config.seed, self.labels) for config in configs]
        clips = self.folds[fold]
        return StackedHeads(heads, head_configs, clips.train, clips.validation, self.config.train.epochs)

    def epoch(self, live: Collection[int]) -> dict[int, Metrics | None]:
        """Train the next epoch of these trials; trials that are left out never go on. Folds are counted together.

        None stands for the metrics of a trial that diverged on any fold.
        """
        metrics_of: dict[int, Metrics | None] = {}
        for g, (numbers, stacks) in enumerate(self.groups):
            places = [i for i, number in enumerate(numbers) if number in live]
            if not places:
                continue
            if len(places) < len(numbers):
                for stack in stacks:
                    stack.select(places)
                numbers = [numbers[i] for i in places]
                self.groups[g] = (numbers, stacks)
            for i, epochs in enumerate(zip(*(stack.epoch() for stack in stacks), strict=True)):
                if not all(epoch.is_finite for epoch in epochs):
                    metrics_of[numbers[i]] = None
                    continue
                loss = sum(epoch.train_loss for epoch in epochs) / len(epochs)
                counts_SKK = sum(epoch.counts_SKK for epoch in epochs)
                loss_sum = sum(epoch.loss_sum for epoch in epochs)
                validated = metrics.validation_metrics(counts_SKK, loss_sum, tuple(SUBSETS))
                metrics_of[numbers[i]] = {"train_loss": loss, **validated}
        return metrics_of
