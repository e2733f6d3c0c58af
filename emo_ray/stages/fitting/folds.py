"""Work on folds, side by side: in threads of the job's process, or in tasks of a cluster."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from emo_ray import cluster
from emo_ray.config import Config
from emo_ray.config.model_settings import SMALL
from emo_ray.training.in_memory import one_thread

OnDone = Callable[[int], object]  # takes how many folds have ended since it was last called


def _ignore(count: int) -> None:
    """Nobody wants to know how many folds have ended."""


def in_folds(
    config: Config, clips: int, function: Callable[..., Any], folds: Sequence[tuple], on_done: OnDone = _ignore
) -> list[Any]:
    """The results of a function for the arguments of each fold, each computed on one core.

    Folds of a small corpus stay in this process: they take less time than Ray and processes that import torch need to
    start. Torch, NumPy and scikit-learn let other threads work while they compute.
    """
    is_here = clips < SMALL and not cluster.joins(config)
    return (_in_threads if is_here else _in_tasks)(config, function, folds, on_done)


def _in_threads(config: Config, function: Callable[..., Any], folds: Sequence[tuple], on_done: OnDone) -> list[Any]:
    pool = ThreadPoolExecutor(min(len(folds), config.cluster.num_cpus or os.cpu_count() or 1))
    with one_thread():  # in each of the threads
        futures = [pool.submit(function, *fold) for fold in folds]
        try:
            for future in as_completed(futures):
                future.result()  # an error ends the job at once
                on_done(1)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [future.result() for future in futures]


def _in_tasks(config: Config, function: Callable[..., Any], folds: Sequence[tuple], on_done: OnDone) -> list[Any]:
    import ray

    cluster.connect(config)

    @ray.remote(num_cpus=1)
    def task(*arguments: Any) -> Any:
        with one_thread():
            return function(*arguments)

    stored: dict[int, Any] = {}  # what folds share, such as the clips, goes to the object store once
    for argument in (argument for fold in folds for argument in fold):
        if id(argument) not in stored:
            stored[id(argument)] = ray.put(argument)
    tasks = [task.remote(*(stored[id(argument)] for argument in fold)) for fold in folds]
    waiting = list(tasks)
    while waiting:
        done, waiting = ray.wait(waiting)
        ray.get(done)  # an error ends the job at once
        on_done(len(done))
    return ray.get(tasks)
