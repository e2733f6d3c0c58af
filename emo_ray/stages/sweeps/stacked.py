"""Sweeps of the fusion head alone: trials are trained many at a time, in one process on each core.

Trials come in waves. All trials of a wave reach a rung together, and then those that promise little are stopped (ASHA);
so nothing depends on which process is faster. A trial is trained on every fold, and the processes share out trials and
folds alike, so that a single trial keeps several of them busy. A killed sweep repeats its last wave.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import ray
import torch
from threadpoolctl import threadpool_limits

from emo_ray import cluster, durable, resources, store
from emo_ray.config import Config
from emo_ray.config.model_settings import SUBSETS
from emo_ray.models import checkpoint
from emo_ray.models.fusion import feature_rates, scalings
from emo_ray.progress import progress
from emo_ray.stages.sweeps.records import COMPLETE, FAILED, PRUNED, Records
from emo_ray.training import metrics, search
from emo_ray.training.divergence import diverged
from emo_ray.training.head_stacks import Heads
from emo_ray.training.stacked_clips import Clips
from emo_ray.training.stacked_heads import Epoch, HeadConfig

_WIDTH = 8  # trials of a wave for each process; with more of them the search would learn less from wave to wave
_FEWEST_WAVES = 4
_WIDTH_ON_GPU = 64  # a GPU is not filled before: 50 trials of MER2024's size take twice the time of 8
FINISHED_WAVES = "whole.txt"  # how many trials the waves have that are recorded to the end
_OPTUNA_STATE = {PRUNED: optuna.trial.TrialState.PRUNED, FAILED: optuna.trial.TrialState.FAIL}
_STEP = 20_000  # parameters of a head that cost as much as what a step of any head costs
Metrics = dict[str, float]
Cell = tuple[int, int]  # the number of a trial, and that of a fold


@dataclass
class _Trial:
    """A trial of a wave."""

    suggestion: optuna.Trial
    params: search.Params
    epochs: list[Metrics]  # with what is measured on validation clips, where it is
    history: list[tuple[int, float]]  # epoch from 1, objective: of the epochs that are measured
    state: str = COMPLETE
    error: str | None = None


def search_stacked(config: Config, labels: Sequence[str], folds: Sequence[Clips], records: Records) -> None:
    """All trials of the sweep; those that `records` holds already are not repeated."""
    settings = config.tune
    finished_waves = records.folder / FINISHED_WAVES
    finished = finished_trials(records) if store.exists(finished_waves) else 0
    records.forget([name for name, record in records.trials.items() if record["number"] >= finished])
    study = _study(config, records)
    space = search.distributions(settings.space)
    processes = process_count(config, settings.trials * len(folds))
    workers = start_workers(config, labels, folds, processes)
    most = most_at_once(config, processes)
    with progress("searching", settings.trials, "trials") as advance:
        advance(len(study.trials), earlier=True)
        while (begun := len(records.trials)) < settings.trials:
            study.sampler = search.sampler(settings, config.seed + begun)  # a resumed sweep goes on as it would have
            suggestions = [study.ask(space) for _ in range(wave_of(settings.trials - begun, most))]
            begun_s = time.monotonic()
            trials = _run_wave(config, suggestions, workers, len(folds), records)
            _record(trials, records, time.monotonic() - begun_s)
            durable.write_text(finished_waves, json.dumps(len(records.trials)))
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


def process_count(config: Config, heads: int) -> int:
    """One process a core, or a GPU, but no more than can be filled."""
    most = int(cluster.gpus() if resources.use_gpu(config, 1) else cluster.cpus())
    return max(1, min(config.tune.max_concurrent or most, most, -(-heads // _WIDTH)))


def most_at_once(config: Config, processes: int) -> int:
    """The most trials of a wave. On GPUs a search that learns from wave to wave has four waves at least."""
    if not resources.use_gpu(config, 1):
        return processes * _WIDTH
    most = processes * _WIDTH_ON_GPU
    return min(most, -(-config.tune.trials // _FEWEST_WAVES)) if config.tune.search == "tpe" else most


def wave_of(trials: int, most: int) -> int:
    """How many of the trials that are left come next: waves are about as large as each other."""
    return -(-trials // -(-trials // most))


def start_workers(config: Config, labels: Sequence[str], folds: Sequence[Clips], processes: int) -> list[Any]:
    """So many processes that hold the clips; on GPUs, each has one."""
    gpus = 1 if resources.use_gpu(config, 1) else 0
    worker_class: Any = ray.remote(num_cpus=resources.task_cpus() if gpus else 1, num_gpus=gpus)(Worker)
    references = [ray.put(fold) for fold in folds]
    return [worker_class.remote(config, tuple(labels), references) for _ in range(processes)]


def shared_out(params_of: Mapping[int, search.Params], folds: int, config: Config, processes: int) -> list[list[Cell]]:
    """For each process the trials and folds that it trains: about as much work for all, the widest heads first."""
    costs = {number: _cost(search.applied(config, params)) for number, params in params_of.items()}
    cells = [(number, fold) for fold in range(folds) for number in params_of]
    shares: list[list[Cell]] = [[] for _ in range(processes)]
    load = [0.0] * processes
    for cell in sorted(cells, key=lambda cell: -costs[cell[0]]):
        least = load.index(min(load))
        shares[least].append(cell)
        load[least] += costs[cell[0]]
    return shares


def _cost(config: Config) -> float:
    """How long an epoch of a head takes, in no unit: the parameters of its mix, and what each step costs anyhow."""
    settings = config.fusion
    return (_STEP + 4 * settings.hidden**2) * settings.passes_per_epoch / settings.batch_size


def _study(config: Config, records: Records) -> optuna.Study:
    """Optuna's view of the sweep so far: recorded trials, else the recipe as it is as the first suggestion."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # at INFO it prints every study it creates
    study = optuna.create_study(direction="maximize")
    for record in records.table():
        study.add_trial(search.to_optuna_trial(config.tune, record))
    if not study.trials and (params := search.default_params(config)) is not None:
        study.enqueue_trial(params)
    return study


def _run_wave(
    config: Config, suggestions: Sequence[optuna.Trial], workers: Sequence[Any], folds: int, records: Records
) -> list[_Trial]:
    """Train a wave of trials from rung to rung; a trial that diverges fails."""
    settings = config.tune
    rungs = search.rungs(config.tune, config.train.epochs)
    trials = {s.number: _Trial(s, search.from_optuna(settings.space, s.params), [], []) for s in suggestions}
    params_of = {number: trial.params for number, trial in trials.items()}
    shares = shared_out(params_of, folds, config, len(workers))
    share_of = list(zip(workers, shares, strict=True))
    ray.get([worker.start.remote({cell: params_of[cell[0]] for cell in share}) for worker, share in share_of])
    live = set(trials)
    done = 0
    for rung in [*rungs, config.train.epochs]:
        plan = [_measures_each(config) or epoch == rung for epoch in range(done + 1, rung + 1)]
        results = ray.get([worker.train.remote([c for c in share if c[0] in live], plan) for worker, share in share_of])
        epochs_of = {cell: epochs for result in results for cell, epochs in result.items()}
        for number in sorted(live):
            each_fold = [epochs_of[number, fold] for fold in range(folds)]
            _continue(trials[number], list(zip(*each_fold, strict=True)), done, config)
        done = rung
        live = {number for number in live if trials[number].state == COMPLETE}
        if rung in rungs:
            earlier = [dict(map(tuple, record["history"])).get(rung) for record in records.trials.values()]
            reached = [value for value in earlier if value is not None] + [trials[n].history[-1][1] for n in live]
            for number in sorted(live - {0}):  # the first is what all others are compared with
                if not search.is_promoted(trials[number].history[-1][1], reached, settings.reduction_factor):
                    trials[number].state = PRUNED
                    live.remove(number)
    return list(trials.values())


def _measures_each(config: Config) -> bool:
    """Whether every epoch is measured: a trial without folds is worth its best epoch, one in folds its last."""
    return config.tune.curves or config.tune.folds is None


def _continue(trial: _Trial, epochs: Sequence[Sequence[Epoch]], done: int, config: Config) -> None:
    """Note epochs of a trial, each given fold by fold, that follow `done` ones; folds are counted together."""
    for epoch, each_fold in enumerate(epochs, start=done + 1):
        if not all(result.is_finite for result in each_fold):
            lr = search.applied(config, trial.params).fusion.lr
            trial.state, trial.error = FAILED, diverged("fusion", lr, epoch - 1)
            return
        values: Metrics = {"train_loss": sum(result.train_loss for result in each_fold) / len(each_fold)}
        tables = [result.counts_SKK for result in each_fold if result.counts_SKK is not None]
        if tables:
            loss_sum = sum(result.loss_sum for result in each_fold)
            values |= metrics.validation_metrics(np.sum(tables, axis=0), loss_sum, tuple(SUBSETS))
        trial.epochs.append(values | {"epoch": epoch - 1})
        if tables:
            reached = metrics.objective(values, config.tune.objective)
            # The epoch that `train` keeps is the best by the objective and then by loss, or in folds the last one.
            earlier = [] if config.tune.folds else [value for _, value in trial.history]
            trial.history.append((epoch, max([*earlier, reached])))


def measured_subsets(objective: str) -> tuple[str, ...]:
    """The subsets of the modalities that an objective looks at."""
    where = objective.split("/")[0]
    return tuple(SUBSETS) if where == "mean" else () if where == "available" else (where,)


def _record(trials: Sequence[_Trial], records: Records, seconds: float) -> None:
    """Record a wave that is over; each trial gets the share of its time that its epochs took."""
    epoch_s = seconds / max(1, sum(len(trial.epochs) for trial in trials))
    for trial in trials:
        name = f"{trial.suggestion.number:05d}"
        records.begin(name, trial.params)
        for epoch, value in trial.history:
            reached = metrics.objective(trial.epochs[epoch - 1], records.config.tune.objective)
            records.epoch(name, epoch, value, reached)
        records.log(name, [("fusion", epoch) for epoch in trial.epochs])
        records.end(name, trial.state, trial.error, seconds=epoch_s * len(trial.epochs))


class Worker:
    """Trains heads of the trials and folds that it is given, together."""

    def __init__(self, config: Config, labels: tuple[str, ...], folds: list[ray.ObjectRef]):
        torch.set_num_threads(1)
        threadpool_limits(1)
        self.config, self.labels, self.folds = config, labels, ray.get(folds)
        self.device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        self.scalings = [scalings(fold.train) for fold in self.folds]
        self.cells: list[Cell] = []
        self.heads: Heads | None = None

    def start(self, params_of: Mapping[Cell, search.Params]) -> None:
        """Make fresh heads."""
        self.cells, heads, head_configs = list(params_of), [], []
        with torch.random.fork_rng(devices=[]):
            for (_, fold), params in params_of.items():
                config = search.applied(self.config, params)
                torch.manual_seed(config.seed)
                rates_of = feature_rates(self.folds[fold].train, config.fusion.feature_dropout)
                heads += checkpoint.fresh_heads(config, self.scalings[fold], self.labels, 1, rates_of)
                head_configs.append(HeadConfig(config.fusion, config.seed, self.labels, fold))
        self.heads = Heads(heads, head_configs, self.folds, self.config.train.epochs, self.device)

    def train(self, live: Sequence[Cell], plan: Sequence[bool]) -> dict[Cell, list[Epoch]]:
        """Train an epoch for each entry of `plan`, measured where it says so; heads that are left out never go on."""
        if not live:
            return {}
        assert self.heads is not None, "heads are made before they are trained"
        if len(live) < len(self.cells):
            self.heads.select([self.cells.index(cell) for cell in live])
            self.cells = list(live)
        subsets = measured_subsets(self.config.tune.objective)
        epochs = [self.heads.epoch(subsets if is_measured else None) for is_measured in plan]
        return {
            cell: [epoch._replace(logits_BK=None) for epoch in each]
            for cell, each in zip(self.cells, zip(*epochs, strict=True), strict=True)
        }
