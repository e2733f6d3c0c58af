"""What tasks, actors and workers ask Ray for, as the arguments of its options: CPUs, GPUs, tries."""

import math
import os
from typing import Any

from emo_ray.cluster import cpus, fewest_cpus, gpus, joins, may_grow, most_gpus
from emo_ray.config import Config
from emo_ray.config.model_settings import SMALL
from emo_ray.progress import say

_CPU_FRACTIONS = 10_000  # parts of a CPU that Ray tells apart
_RETRIES = 20  # of a task or actor whose process or node dies; without end by default, also where it dies every time
_MAJORITY = 0.6  # of a machine's CPUs
_GPU_LABEL = "ray.io/accelerator-type"
_MOST_ACTORS = 64  # encoder processes on a cluster that may grow


def is_small_here(config: Config, clips: int) -> bool:
    """Whether so many clips are too few to start Ray's workers for, and no cluster is joined that has some."""
    return clips < SMALL and not joins(config)


def stays_here(config: Config, tasks: int, clips: int | None = None, is_light: bool = False) -> bool:
    """Whether this process does so many tasks: one at most, or no more clips than a part holds, and no cluster to join.

    To start Ray and a process that imports torch takes longer than such work. `is_light`: rows are written, but nothing
    is decoded or computed; so many parts of a small corpus take less.
    """
    most_clips = SMALL - 1 if is_light else config.media.clips_of_part
    return not joins(config) and (tasks <= 1 or (clips is not None and clips <= most_clips))


def use_gpu(config: Config, processes: int) -> bool:
    """Whether to start `processes` processes with a GPU each. A joined cluster may have to grow first: Ray waits then.

    Raises ValueError where a cluster has fewer GPUs than demanded, and cannot grow to as many.
    """
    choice = config.train.use_gpu
    if choice == "yes" and gpus() < processes:
        most = most_gpus()
        if most is not None and most < processes:
            growth = f", and it may grow to {most:g}" if most > gpus() else ""
            raise ValueError(
                f"train.use_gpu=yes: found {gpus():g} GPUs in the cluster{growth}, expected {processes}: lower "
                "train.num_workers, add machines with GPUs, or set train.use_gpu=auto"
            )
        say(
            f"waiting for {processes} GPU{'s' if processes > 1 else ''}: the cluster has {gpus():g} and may grow to "
            f"{'some number' if most is None else f'{most:g}'}; to go on without them, set train.use_gpu=auto"
        )
    return choice == "yes" or (choice == "auto" and gpus() >= processes)


def train_scaling(config: Config) -> dict[str, Any]:
    """What Ray Train's workers ask for: the arguments of its ScalingConfig."""
    fewest, most = config.train.worker_counts[0], config.train.num_workers
    gpu = use_gpu(config, fewest)
    is_alone = fewest < most and not gpu  # on its machine
    resources = {"CPU": lone_worker_cpus() if is_alone else train_worker_cpus(most), **({"GPU": 1} if gpu else {})}
    return {
        "num_workers": most if fewest == most else (fewest, most),
        "use_gpu": gpu,
        "resources_per_worker": resources,
        "placement_strategy": config.train.placement.upper(),
        **_gpu_type(config, gpu),
    }


def trial_resources(config: Config, trials: int) -> dict[str, float]:
    """What a trial in one process asks for, where so many run at once and share the machine with their data tasks."""
    return {"CPU": train_worker_cpus(trials), **({"GPU": 1} if use_gpu(config, 1) else {})}


def actor_resources(config: Config) -> dict[str, Any]:
    """What an actor that encodes or predicts asks for: the arguments of Ray Data's `map`."""
    retries = {"max_restarts": _RETRIES, "max_task_retries": _RETRIES}
    gpu = use_gpu(config, 1)
    gpus = config.cluster.gpu_share if gpu else 0
    return {"num_cpus": task_cpus(), "num_gpus": gpus, **_gpu_type(config, gpu), **retries}


def _gpu_type(config: Config, gpu: bool) -> dict[str, dict[str, str]]:
    """The label that a machine must have, where a GPU is asked for and its kind is set."""
    kind = config.cluster.gpu_type
    return {"label_selector": {_GPU_LABEL: kind}} if gpu and kind is not None else {}


def task_resources(share: float = 1.0) -> dict[str, Any]:
    """What a data task asks for, a share of its usual CPUs: the arguments of Ray Data's `map`."""
    return {"num_cpus": share * task_cpus(), "max_retries": _RETRIES}


def train_worker_cpus(num_workers: int) -> float:
    """CPUs of a train worker: at most one, and half of a small machine's stay free for Ray Data's tasks.

    Rounded down to Ray's resolution: if the workers took more than half, a task could wait for its CPU for ever.
    """
    total = cpus() or 2.0 * num_workers  # nothing yet: an autoscaled cluster will bring whole CPUs
    return min(1.0, math.floor(total / (2 * num_workers) * _CPU_FRACTIONS) / _CPU_FRACTIONS)


def lone_worker_cpus() -> float:
    """CPUs of a train worker that shares its machine with data tasks and no other worker: more than half of them.

    Where machines leave, those that stay would else get so many workers that none of their CPUs were free for data.
    """
    return max(1.0, _MAJORITY * (fewest_cpus() or 1.0))


def task_cpus() -> float:
    """CPUs of a data task: fractional where there are so few that whole ones could wait for each other for ever."""
    return 1.0 if cpus() >= 4 or cpus() == 0 else 0.5


def actor_count(parts: int, gpu_share: float) -> int:
    """The most encoder actors to start for `parts` shard parts. A joined cluster may grow, a local one does not.

    `gpu_share` is what each takes of a GPU, 0 for none.

    A local cluster may claim more CPUs than the machine has cores; processes beyond the cores only slow each other.
    """
    local = gpus() / gpu_share if gpu_share else min(cpus(), os.cpu_count() or 1)
    most = _MOST_ACTORS if may_grow() else int(local)
    return max(1, min(parts, most))


def task_count(config: Config, tasks: int) -> int | None:
    """The most of so many data tasks to run at once; None, as many as there is room for, on a cluster that is joined.

    Each is a process that imports Ray Data and what it decodes with: on this machine, more than its cores only wait
    for each other, although `task_cpus` has room for them.
    """
    return None if joins(config) else actor_count(tasks, 0)


def usable_threads(cpus_given: float) -> int:
    """Torch threads of a process that Ray gave `cpus_given` CPUs: more than its cores makes all of them slower."""
    return max(1, int(cpus_given))
