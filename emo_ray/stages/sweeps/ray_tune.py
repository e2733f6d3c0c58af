"""Sweeps by Ray Tune: each trial in a process, or with workers, of its own; stopped early, perturbed, resumed."""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import ray.tune
from optuna.distributions import CategoricalDistribution
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from emo_ray import bucket, cluster, resources, trouble
from emo_ray.config import Config
from emo_ray.progress import progress, say
from emo_ray.stages.sweeps.records import COMPLETE, FAILED, PRUNED, Records
from emo_ray.stages.sweeps.trial import PHASES, Task, forget_trial, population_member, trial
from emo_ray.training import search
from emo_ray.training.stacked_heads import SHARED_FIELDS


def search_by_trials(task: Task, folder: Path, records: Records) -> None:
    """All trials of the sweep, from where a killed one stopped; Ray Tune's own state lies in `folder`.

    Raises ValueError where the cluster has no room for a single trial, or keys cannot be perturbed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # at INFO it prints every study it creates
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # `Watch` tells of trials that fail
    config = task.config
    is_population = config.tune.search == "pbt"
    if is_population:
        _check_population(config)
    random.seed(config.seed)  # population-based training takes its chances from these two
    np.random.seed(config.seed)
    tuner = _tuner(task, folder)
    with progress("searching", config.tune.trials, "trials") as advance:
        Watch.sweep = _RunningSweep(records, advance, set())
        advance(sum(record["state"] is not None for record in records.trials.values()), earlier=True)
        tuner.fit()
    if not is_population:  # whose state lies with Ray Tune's
        forget_unfinished(records, task)
    records.forget(set(records.trials) - Watch.sweep.trial_ids)


def forget_unfinished(records: Records, task: Task) -> None:
    """Remove the state of trials that were stopped early, that failed, or that a killed sweep had begun."""
    for record in records.trials.values():
        if record["state"] != COMPLETE and record["epochs"]:  # there is no state before the first epoch
            forget_trial(record["params"], task)


def _tuner(task: Task, folder: Path) -> ray.tune.Tuner:
    """A new sweep of Ray Tune, whose state lies in `folder`, or the one that was stopped there."""
    config = task.config
    is_population = config.tune.search == "pbt"
    at_once, requests = room(config)
    trainable = ray.tune.with_parameters(population_member if is_population else trial, task=task)
    trainable = ray.tune.with_resources(trainable, requests)
    storage_path, filesystem = bucket.storage_of(folder.parent)
    place = f"{storage_path}/{folder.name}"
    if ray.tune.Tuner.can_restore(place, filesystem):
        # Trials that trouble of the place ended go on; those that diverged have their record, and diverge once more.
        return ray.tune.Tuner.restore(
            place,
            storage_filesystem=filesystem,
            trainable=trainable,
            param_space=_param_space(config),
            resume_errored=True,
        )
    return ray.tune.Tuner(
        trainable,
        param_space=_param_space(config),
        tune_config=ray.tune.TuneConfig(
            metric="value",
            mode="max",
            num_samples=config.tune.trials,
            max_concurrent_trials=at_once,
            search_alg=None if is_population else _searcher(config),
            scheduler=_scheduler(config),
            reuse_actors=config.train.num_workers <= 1 and not is_population,
        ),
        run_config=ray.tune.RunConfig(
            name=folder.name,
            storage_path=storage_path,
            storage_filesystem=filesystem,
            failure_config=ray.tune.FailureConfig(max_failures=config.tune.max_failures),
            callbacks=[Watch()],
            verbose=0,
        ),
    )


def room(config: Config) -> tuple[int, dict[str, float]]:
    """How many trials run at once, and what each reserves, so that none waits for another for ever.

    A trial in one process shares the machine with the data tasks of all; one with workers reserves nothing itself.
    """
    workers = config.train.shares
    gpu = resources.use_gpu(config, workers)
    if workers == 1:
        most = int(cluster.gpus() if gpu else cluster.cpus())
    else:
        each = workers * resources.train_worker_cpus(workers)
        most = int(cluster.gpus() // workers if gpu else cluster.cpus() / 2 // each)
    if most < 1:
        raise ValueError(
            f"found {cluster.cpus():g} CPUs and {cluster.gpus():g} GPUs, expected room for a trial of {workers} "
            "workers and for the data tasks that feed it: lower train.num_workers"
        )
    at_once = min(most, config.tune.trials, config.tune.max_concurrent or most)
    if workers > 1:
        return at_once, {"node:__internal_head__": 0.001}
    return at_once, resources.trial_resources(config, at_once)


class Asha(FIFOScheduler):
    """Ray's ASHA for each phase of trials by itself, because values of different phases do not compare.

    Two kinds of epochs stop no trial: free ones, of an EmoVCLIP that another trial trained, and those of the recipe as
    it is, which runs to its end because all others are compared with it.
    """

    def __init__(self, spared: search.Params | None, **options: Any):
        super().__init__()
        self.spared = spared
        self.schedulers = {name: AsyncHyperBandScheduler(time_attr="phase_epoch", **options) for name in PHASES}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Set them in the schedulers of both phases."""
        return all(scheduler.set_search_properties(metric, mode, **spec) for scheduler in self.schedulers.values())

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        """Add the trial to both phases."""
        for scheduler in self.schedulers.values():
            scheduler.on_trial_add(controller, trial)

    def on_trial_result(self, controller: Any, trial: Any, result: dict) -> str:
        """The decision of the scheduler whose phase the trial is in."""
        if result["free"]:
            return TrialScheduler.CONTINUE
        decision = self.schedulers[result["phase"]].on_trial_result(controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config == self.spared else decision

    def on_trial_complete(self, controller: Any, trial: Any, result: dict) -> None:
        """Complete the trial in the phase that it was in, and remove it from the other."""
        for phase, scheduler in self.schedulers.items():
            if phase == result.get("phase"):
                scheduler.on_trial_complete(controller, trial, result)
            else:
                scheduler.on_trial_remove(controller, trial)

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        """Remove the trial from both phases."""
        for scheduler in self.schedulers.values():
            scheduler.on_trial_remove(controller, trial)


@dataclass
class _RunningSweep:
    """The sweep of this process."""

    records: Records
    advance: Callable
    trial_ids: set[str]  # of the trials that Ray Tune knows


class Watch(ray.tune.Callback):
    """Writes what happens to the records of the running sweep. It holds no state itself, because Ray pickles it."""

    sweep: ClassVar[_RunningSweep]

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        """Note the trials that Ray knows: a killed sweep may have records of trials that Ray had not noted yet."""
        self.sweep.trial_ids = {trial.trial_id for trial in trials}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Record a trial that begins or goes on."""
        records = self.sweep.records
        records.begin(trial.trial_id, search.from_optuna(records.config.tune.space, _suggested(records.config, trial)))

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """Record an epoch."""
        records = self.sweep.records
        params = search.from_optuna(records.config.tune.space, _suggested(records.config, trial))
        records.epoch(trial.trial_id, result["epoch"], result["value"], result["reached"], params)
        records.log(trial.trial_id, [(result["phase"], result["metrics"])])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Record a trial at its end, or one that was stopped.

        A member of a population that takes over another one at its end has nothing left to train, and reports that
        one's last result: it counts as stopped.
        """
        result = trial.last_result
        record = self.sweep.records.trials.get(trial.trial_id, {})
        is_its_result = result.get("epoch") == record.get("epochs")
        self._end(trial, COMPLETE if is_its_result and result.get("last") else PRUNED)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Record a trial that failed once too often; trouble of the place ends the sweep, which may then go on.

        Raises that trouble.
        """
        cause = trial.get_error()
        if trouble.has_no_setting_to_blame(cause):
            raise cause
        if not isinstance(cause, ValueError):  # which is a trial that diverged
            say(str(cause))
        lines = [line for line in str(cause).splitlines() if line.strip()]
        self._end(trial, FAILED, lines[-1].strip() if lines else type(cause).__name__)

    def _end(self, trial: Any, state: str, error: str | None = None) -> None:
        records = self.sweep.records
        if trial.trial_id in records.trials and records.trials[trial.trial_id]["state"] is None:
            records.end(trial.trial_id, state, error)
            values = [r["value"] for r in records.trials.values() if r["state"] == COMPLETE]
            self.sweep.advance(1, f"best {max(values):.3f}" if values else "")


def _suggested(config: Config, trial: Any) -> search.Params:
    return {key: trial.config[key] for key in config.tune.space}


def _searcher(config: Config) -> OptunaSearch:
    point = search.default_params(config)
    return OptunaSearch(
        space=search.distributions(config.tune.space),
        metric="value",
        mode="max",
        points_to_evaluate=None if point is None else [point],
        sampler=search.sampler(config.tune, config.seed),
    )


def _scheduler(config: Config) -> TrialScheduler:
    settings = config.tune
    if settings.search == "pbt":
        return PopulationBasedTraining(
            time_attr="epoch", perturbation_interval=settings.grace_epochs, hyperparam_mutations=_param_space(config)
        )
    if settings.scheduler == "none":
        return FIFOScheduler()
    return Asha(
        search.default_params(config),
        max_t=max(settings.grace_epochs, config.train.epochs - 1),  # the last epoch is paid for: none is stopped there
        stop_last_trials=False,
        grace_period=settings.grace_epochs,
        reduction_factor=settings.reduction_factor,
    )


def _param_space(config: Config) -> dict[str, Any]:
    """The search space in Ray's terms, for population-based training, which Optuna has no part in; else empty."""
    space: dict[str, Any] = {}
    for key, form in config.tune.space.items() if config.tune.search == "pbt" else ():
        ((kind, values),) = form.items()
        if kind == "choice":
            distribution = search.distributions({key: form})[key]
            assert isinstance(distribution, CategoricalDistribution), "a choice is categorical"
            space[key] = ray.tune.choice(list(distribution.choices))
        else:
            low, high = values
            space[key] = getattr(ray.tune, kind)(low, high + 1 if kind == "randint" else high)
    return space


def _check_population(config: Config) -> None:
    fixed = {f"fusion.{name}" for name in SHARED_FIELDS}
    wrong = [key for key in config.tune.space if not key.startswith("fusion.") or key in fixed]
    if wrong or config.train.num_workers > 1:
        found = f"{', '.join(wrong)} in tune.space" if wrong else f"train.num_workers={config.train.num_workers}"
        raise ValueError(
            f"found {found} with tune.search=pbt, expected keys of fusion that leave a head's shape as it is, and one "
            "worker: members of a population take over each other's state; use tune.search=tpe"
        )
