"""Sweeps of the fusion head alone: trials are trained many at a time, on each core in one process.

They come in waves of as many as the processes hold. All of a wave end an epoch together, and then those that promise
little are stopped (ASHA); so nothing depends on which process is faster. A sweep that is killed repeats its last wave.
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
from emo_ray.models.fusion import scalings
from emo_ray.progress import progress
from emo_ray.stages.sweeps.records import COMPLETE, PRUNED, Records
from emo_ray.training import search
from emo_ray.training.loop import validation_metrics
from emo_ray.training.stacked_heads import SHARED_FIELDS, HeadConfig, StackedHeads

WIDTH = 8  # trials in a process: more save no overhead, and leave the cache
WAVES = "whole.txt"  # how many trials the waves have that are told of to the end
Metrics = dict[str, float]


@dataclass(frozen=True)
class Fold:
    """The labelled clips with features of a split: to train on, and to validate on."""

    train: FeatureBatch
    validation: FeatureBatch


@dataclass
class _Playing:
    """A trial of a wave."""

    trial: optuna.Trial
    params: search.Params
    epochs: list[Metrics]
    history: list[tuple[int, float]]  # epoch from 1, objective
    state: str = COMPLETE


def in_bulk(config: Config) -> bool:
    """Whether the trials of this sweep can be trained in bulk: they differ in the head alone."""
    own = config.tune
    alone = own.bulk == "no" or own.search == "pbt" or config.train.num_workers > 1
    return not alone and all(key.startswith("fusion.") for key in own.space)


def search_in_bulk(config: Config, labels: Sequence[str], folds: Sequence[Fold], records: Records) -> None:
    """All trials of the sweep; those that `records` hold already are not repeated."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # at INFO it prints every study it creates
    own, study = config.tune, optuna.create_study(direction="maximize")
    whole = records.folder / WAVES
    told = json.loads(whole.read_text(encoding="utf-8")) if whole.exists() else 0
    records.forget([name for name, record in records.trials.items() if record["number"] >= told])
    for record in records.table():
        study.add_trial(search.to_optuna_trial(own, record))
    if not study.trials and (point := search.default_params(config)) is not None:
        study.enqueue_trial(point)
    space, processes = search.distributions(own.space), _processes(config)
    workers = [Worker.remote(config, tuple(labels), [ray.put(fold) for fold in folds]) for _ in range(processes)]
    with progress("searching", own.trials, "trials") as advance:
        advance(len(study.trials))
        while (begun := len(records.trials)) < own.trials:
            study.sampler = search.sampler(own, config.seed + begun)  # a resumed sweep goes on as it would have
            wave = [study.ask(space) for _ in range(wave_of(own.trials - begun, processes))]
            begun_s = time.monotonic()
            played = _play(config, wave, workers, records)
            _record(played, records, time.monotonic() - begun_s)
            store.write_text(whole, json.dumps(len(records.trials)))
            for one in played:
                pruned = {"state": optuna.trial.TrialState.PRUNED} if one.state == PRUNED else {}
                study.tell(one.trial, None if pruned else one.history[-1][1], **pruned)
            advance(len(wave), f"best {max(r['value'] for r in records.trials.values()):.3f}")
    for worker in workers:
        ray.kill(worker)


def wave_of(trials: int, processes: int) -> int:
    """How many of the trials that are left come next.

    Waves are about as large as each other, for a small one is all overhead, and all processes have as many.
    """
    each = -(-trials // processes)
    waves = -(-each // WIDTH)
    return min(trials, processes * -(-each // waves))


def _processes(config: Config) -> int:
    """One a core, but no more than can be filled."""
    most = config.tune.max_concurrent or int(cluster.cpus())
    return max(1, min(most, int(cluster.cpus()), -(-config.tune.trials // WIDTH)))


def _play(config: Config, wave: Sequence[optuna.Trial], workers: Sequence, records: Records) -> list[_Playing]:
    """A wave from its first epoch to its last."""
    own, rungs = config.tune, search.rungs(config.tune, config.train.epochs)
    played = {t.number: _Playing(t, search.from_optuna(own.space, t.params), [], []) for t in wave}
    hosts = [list(played)[i :: len(workers)] for i in range(len(workers))]
    ray.get([w.start.remote({n: played[n].params for n in mine}) for w, mine in zip(workers, hosts, strict=True)])
    live = set(played)
    for epoch in range(1, config.train.epochs + 1):
        made = ray.get([w.epoch.remote([n for n in mine if n in live]) for w, mine in zip(workers, hosts, strict=True)])
        for number, metrics in sorted(item for each in made for item in each.items()):
            one = played[number]
            one.epochs.append(metrics | {"epoch": epoch - 1})
            one.history.append((epoch, _value(one.epochs, own.objective, own.folds)))
        if epoch in rungs:
            before = [dict(map(tuple, r["history"])).get(epoch) for r in records.trials.values()]
            reached = [v for v in before if v is not None] + [played[n].history[-1][1] for n in live]
            for number in sorted(live - {0}):  # the first is what all others are compared with
                if not search.is_promoted(played[number].history[-1][1], reached, own.reduction_factor):
                    played[number].state = PRUNED
                    live.remove(number)
    return list(played.values())


def _value(epochs: Sequence[Metrics], objective: str, folds: int | None) -> float:
    """That of the epoch that `train` would keep; in folds, where it would keep the last, that of the last."""
    kept = epochs[-1] if folds else max(epochs, key=lambda metrics: metrics["val_waf"])  # the first of equal ones
    return search.objective(kept, objective)


def _record(played: Sequence[_Playing], records: Records, seconds: float) -> None:
    """A wave that is over; of its time each trial has the share of its epochs."""
    each_s = seconds / sum(len(one.epochs) for one in played)
    for one in played:
        name = f"{one.trial.number:05d}"
        records.begin(name, one.params)
        for epoch, value in one.history:
            records.epoch(name, epoch, value)
        records.tell(name, [("fusion", metrics) for metrics in one.epochs])
        records.end(name, one.state, seconds=each_s * len(one.epochs))


@ray.remote(num_cpus=1)
class Worker:
    """Trains the trials that it is given, those of one shape together, each on every fold."""

    def __init__(self, config: Config, labels: tuple[str, ...], folds: list[ray.ObjectRef]):
        torch.set_num_threads(1)
        threadpool_limits(1)
        self.config, self.labels, self.folds = config, labels, ray.get(folds)
        self.scalings = [scalings(fold.train) for fold in self.folds]
        self.groups: list[tuple[list[int], list[StackedHeads]]] = []

    def start(self, params_of: Mapping[int, search.Params]) -> None:
        """Fresh heads for trials, by number."""
        shapes: dict[Any, list[int]] = defaultdict(list)
        configs = {number: search.applied(self.config, params) for number, params in params_of.items()}
        for number, config in configs.items():
            own = config.fusion
            shape = [getattr(own, name) for name in SHARED_FIELDS]
            shapes[(*shape, isinstance(own.modality_dropout, dict))].append(number)
        self.groups = [
            (numbers, [self._bulk([configs[n] for n in numbers], i) for i in range(len(self.folds))])
            for numbers in shapes.values()
        ]

    def _bulk(self, configs: Sequence[Config], fold: int) -> StackedHeads:
        heads = []
        with torch.random.fork_rng(devices=[]):
            for config in configs:
                torch.manual_seed(config.seed)
                heads.append(checkpoint.fresh_fusion(config, self.scalings[fold], self.labels))
        lanes = [HeadConfig(config.fusion, config.seed) for config in configs]
        clips = self.folds[fold]
        return StackedHeads(heads, lanes, clips.train, clips.validation, self.config.train.epochs)

    def epoch(self, live: Collection[int]) -> dict[int, Metrics]:
        """The next epoch of these trials, and never again one of others; over folds the clips are counted together."""
        made = {}
        for g, (numbers, bulks) in enumerate(self.groups):
            places = [i for i, number in enumerate(numbers) if number in live]
            if not places:
                continue
            if len(places) < len(numbers):
                for bulk in bulks:
                    bulk.select(places)
                self.groups[g] = ([numbers[i] for i in places], bulks)
            for i, epochs in enumerate(zip(*(bulk.epoch() for bulk in bulks), strict=True)):
                loss = sum(one.train_loss for one in epochs) / len(epochs)
                counted = sum(one.counts_SKK for one in epochs)
                made[self.groups[g][0][i]] = {"train_loss": loss, **validation_metrics(counted, tuple(SUBSETS))}
        return made
