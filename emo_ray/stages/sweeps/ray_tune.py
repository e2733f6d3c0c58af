"""Sweeps by Ray Tune: each trial in a process, or with workers, of its own; stopped early, perturbed, resumed."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import ray.tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from emo_ray import cluster
from emo_ray.config import Config
from emo_ray.progress import progress
from emo_ray.stages.sweeps.records import COMPLETE, FAILED, PRUNED, Records
from emo_ray.stages.sweeps.trial import PHASES, Task, member, trial
from emo_ray.training import search
from emo_ray.training.stacked_heads import SHARED_FIELDS


def search_by_trials(task: Task, folder: Path, records: Records) -> None:
    """All trials of the sweep, from where a killed one stopped; Ray Tune's own state lies in `folder`.

    Raises ValueError where the cluster has no room for a single trial, or keys cannot be perturbed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # at INFO it prints every study it creates
    config = task.config
    own, population = config.tune, config.tune.search == "pbt"
    if population:
        _check_population(config)
    at_once, resources = room(config)
    trainable = ray.tune.with_parameters(member if population else trial, task=task)
    trainable = ray.tune.with_resources(trainable, resources)
    random.seed(config.seed)  # population-based training takes its chances from these two
    np.random.seed(config.seed)
    if ray.tune.Tuner.can_restore(str(folder)):
        tuner = ray.tune.Tuner.restore(str(folder), trainable=trainable, param_space=_param_space(config))
    else:
        tuner = ray.tune.Tuner(
            trainable,
            param_space=_param_space(config),
            tune_config=ray.tune.TuneConfig(
                metric="value",
                mode="max",
                num_samples=own.trials,
                max_concurrent_trials=at_once,
                search_alg=None if population else _searcher(config),
                scheduler=_scheduler(config),
                reuse_actors=config.train.num_workers <= 1 and not population,
            ),
            run_config=ray.tune.RunConfig(
                name=folder.name,
                storage_path=str(folder.parent),
                failure_config=ray.tune.FailureConfig(max_failures=own.max_failures),
                callbacks=[Watch()],
                verbose=0,
            ),
        )
    with progress("searching", own.trials, "trials") as advance:
        Watch.now = _UnderWay(records, advance, set())
        advance(sum(record["state"] is not None for record in records.trials.values()))
        tuner.fit()
    records.forget(set(records.trials) - Watch.now.known)


def room(config: Config) -> tuple[int, dict[str, float]]:
    """How many trials run at once, and what each reserves, so that none waits for another for ever.

    A trial in one process shares the machine with the data tasks of all; one with workers reserves nothing itself.
    """
    own, workers = config.tune, config.train.shares
    gpu = cluster.use_gpu(config, workers)
    if workers == 1:
        most = int(cluster.gpus() if gpu else cluster.cpus())
    else:
        each = workers * cluster.train_worker_cpus(workers)
        most = int(cluster.gpus() // workers if gpu else cluster.cpus() / 2 // each)
    if most < 1:
        raise ValueError(
            f"found {cluster.cpus():g} CPUs and {cluster.gpus():g} GPUs, expected room for a trial of {workers} "
            "workers and for the data tasks that feed it: lower train.num_workers"
        )
    at_once = min(most, own.trials, own.max_concurrent or most)
    if workers > 1:
        return at_once, {"node:__internal_head__": 0.001}
    return at_once, {"CPU": cluster.train_worker_cpus(at_once), **({"GPU": 1} if gpu else {})}


class Asha(FIFOScheduler):
    """Ray's ASHA for each phase of trials by itself, for their values do not compare.

    What costs nothing is no reason to stop: epochs of an EmoVCLIP that is there already. And the recipe as it is, which
    all others are compared with, runs to its end.
    """

    def __init__(self, spared: search.Params | None, **options: Any):
        super().__init__()
        self.spared = spared
        self.phases = {name: AsyncHyperBandScheduler(time_attr="phase_epoch", **options) for name in PHASES}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Ray's, of both."""
        return all(one.set_search_properties(metric, mode, **spec) for one in self.phases.values())

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        """Ray's, of both."""
        for one in self.phases.values():
            one.on_trial_add(controller, trial)

    def on_trial_result(self, controller: Any, trial: Any, result: dict) -> str:
        """Ray's decision, in the phase that the trial is in."""
        if result["free"]:
            return TrialScheduler.CONTINUE
        decision = self.phases[result["phase"]].on_trial_result(controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config == self.spared else decision

    def on_trial_complete(self, controller: Any, trial: Any, result: dict) -> None:
        """Ray's, in the phase that the trial was in."""
        for name, one in self.phases.items():
            if name == result.get("phase"):
                one.on_trial_complete(controller, trial, result)
            else:
                one.on_trial_remove(controller, trial)

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        """Ray's, of both."""
        for one in self.phases.values():
            one.on_trial_remove(controller, trial)


@dataclass
class _UnderWay:
    """The sweep of this process."""

    records: Records
    advance: Callable
    known: set[str]


class Watch(ray.tune.Callback):
    """Writes what happens to the records of the sweep under way. It holds nothing itself: Ray keeps it in a file."""

    now: ClassVar[_UnderWay]

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        """Keeps their names: of a killed sweep there may be records of trials that Ray had not noted yet."""
        self.now.known = {one.trial_id for one in trials}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial begins or goes on."""
        records = self.now.records
        records.begin(trial.trial_id, search.from_optuna(records.config.tune.space, _suggested(records.config, trial)))

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        """An epoch."""
        records = self.now.records
        params = search.from_optuna(records.config.tune.space, _suggested(records.config, trial))
        records.epoch(trial.trial_id, result["epoch"], result["value"], params)
        records.tell(trial.trial_id, [(result["phase"], result["told"])])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial at its end, or stopped.

        A member of a population that takes over one at its end has nothing left to train, and that one's last result.
        """
        result, record = trial.last_result, self.now.records.trials.get(trial.trial_id, {})
        own = result.get("epoch") == record.get("epochs")
        self._end(trial, COMPLETE if own and result.get("last") else PRUNED)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial that failed once too often."""
        cause = trial.get_error()
        lines = [line for line in str(cause).splitlines() if line.strip()]
        self._end(trial, FAILED, lines[-1].strip() if lines else type(cause).__name__)

    def _end(self, trial: Any, state: str, error: str | None = None) -> None:
        records = self.now.records
        if trial.trial_id in records.trials and records.trials[trial.trial_id]["state"] is None:
            records.end(trial.trial_id, state, error)
            values = [r["value"] for r in records.trials.values() if r["state"] == COMPLETE]
            self.now.advance(1, f"best {max(values):.3f}" if values else "")


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
    own = config.tune
    if own.search == "pbt":
        return PopulationBasedTraining(
            time_attr="epoch", perturbation_interval=own.grace_epochs, hyperparam_mutations=_param_space(config)
        )
    if own.scheduler == "none":
        return FIFOScheduler()
    return Asha(
        search.default_params(config),
        max_t=max(own.grace_epochs, config.train.epochs - 1),  # the last epoch is paid for: none is stopped there
        stop_last_trials=False,
        grace_period=own.grace_epochs,
        reduction_factor=own.reduction_factor,
    )


def _param_space(config: Config) -> dict[str, Any]:
    """What Ray draws itself: the population's settings, of which Optuna knows nothing."""
    made = {}
    for key, given in config.tune.space.items() if config.tune.search == "pbt" else ():
        ((form, values),) = given.items()
        if form == "choice":
            made[key] = ray.tune.choice(list(search.distributions({key: given})[key].choices))
        else:
            low, high = values
            made[key] = getattr(ray.tune, form)(low, high + 1 if form == "randint" else high)
    return made


def _check_population(config: Config) -> None:
    fixed = {f"fusion.{name}" for name in SHARED_FIELDS}
    wrong = [key for key in config.tune.space if not key.startswith("fusion.") or key in fixed]
    if wrong or config.train.num_workers > 1:
        found = f"{', '.join(wrong)} in tune.space" if wrong else f"train.num_workers={config.train.num_workers}"
        raise ValueError(
            f"found {found} with tune.search=pbt, expected keys of fusion that leave a head's shape as it is, and one "
            "worker: members of a population take over each other's state; use tune.search=tpe"
        )
