"""Work on folds: side by side in processes of this machine or in tasks of a cluster, or one by one."""

import os
import pickle
import signal
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache, partial
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from emo_ray import cluster, resources
from emo_ray.config import Config
from emo_ray.training.in_memory import one_thread

OnDone = Callable[[int], object]  # takes how many folds have ended since it was last called


def _ignore(count: int) -> None:
    """Take no notice of folds that have ended."""


def in_folds(
    config: Config, clips: int, function: Callable[..., Any], folds: Sequence[tuple], on_done: OnDone = _ignore
) -> list[Any]:
    """The results of a function for the arguments of each fold, each computed on one core.

    Folds of a small corpus are computed by plain processes, which start sooner than Ray. Threads would wait for each
    other: a step of a small head is too short to let go of the interpreter. `train.num_workers=0` keeps all folds in
    this process.
    """
    if config.train.num_workers == 0:
        return _here(function, folds, on_done)
    is_small = resources.is_small_here(config, clips)
    return (_in_processes if is_small else _in_tasks)(config, function, folds, on_done)


def _here(function: Callable[..., Any], folds: Sequence[tuple], on_done: OnDone) -> list[Any]:
    results = []
    for fold in folds:
        with one_thread():
            results.append(function(*fold))
        on_done(1)
    return results


def _in_processes(config: Config, function: Callable[..., Any], folds: Sequence[tuple], on_done: OnDone) -> list[Any]:
    workers = min(len(folds), config.cluster.num_cpus or _cores())
    earlier_children = set(active_children())
    with TemporaryDirectory() as folder:
        paths = _stored(folds, partial(_write, Path(folder)))
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin)
        try:
            futures = [pool.submit(_fold, function, *paths_of_fold) for paths_of_fold in paths]
            for future in as_completed(futures):
                future.result()  # an error ends the job at once
                on_done(1)
        except BaseException:
            for process in set(active_children()) - earlier_children:
                process.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    return [pickle.loads(future.result()) for future in futures]


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stored(folds: Sequence[tuple], store: Callable[[Any], Any]) -> list[list[Any]]:
    """What `store` gives for each argument of each fold; what folds share, such as the clips, is stored once."""
    stored: dict[int, Any] = {}
    for argument in (argument for fold in folds for argument in fold):
        if id(argument) not in stored:
            stored[id(argument)] = store(argument)
    return [[stored[id(argument)] for argument in fold] for fold in folds]


def _write(folder: Path, argument: Any) -> Path:
    """Write an argument into a new file of a folder."""
    path = folder / f"{uuid.uuid4().hex}.pickle"
    path.write_bytes(pickle.dumps(argument))
    return path


def _begin() -> None:
    """Make this process ready for `_fold`; it ends with its parent, however that ends."""
    Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "the pool starts this process"
    parent.join()
    os._exit(1)


def _fold(function: Callable[..., Any], *paths: Path) -> bytes:
    """The pickled result of one fold, computed in a process of the pool.

    Pickled here, as torch would put its tensors into shared memory, which may be small.
    """
    with one_thread():
        return pickle.dumps(function(*map(_read, paths)))


@lru_cache(maxsize=8)
def _read(path: Path) -> Any:
    """An argument of a fold; what the next fold shares with this one is read once."""
    return pickle.loads(path.read_bytes())


def _in_tasks(config: Config, function: Callable[..., Any], folds: Sequence[tuple], on_done: OnDone) -> list[Any]:
    import ray

    cluster.connect(config)

    @ray.remote(num_cpus=1)
    def task(*arguments: Any) -> Any:
        with one_thread():
            return function(*arguments)

    tasks = [task.remote(*references) for references in _stored(folds, ray.put)]
    waiting = list(tasks)
    while waiting:
        done, waiting = ray.wait(waiting)
        ray.get(done)  # an error ends the job at once
        on_done(len(done))
    return ray.get(tasks)
