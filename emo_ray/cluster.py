"""Ray itself: joining or starting it, and what its machines can give. The only reader of os.environ."""

import logging
import os
from pathlib import Path

# Read by Ray when it is imported, so they are set before; a user's own settings win.
_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # also how often reports are fetched; 2 s by default
    "RAY_DATA_USE_DATASOURCE_V2": "0",  # V2 starts 32 footer actors for every pass over a dataset
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # the stages show their own
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # with it Tune prints a box of its own in spite of verbose=0
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # 10 s or more by default: a sweep that is killed would repeat what it had
}
_WORKER_NICENESS = 15  # Ray's default for `worker_niceness`
_MOST_ACTORS = 64  # encoder processes on a cluster that may grow
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import ray.data  # noqa: E402
from pydantic import SecretStr  # noqa: E402

from emo_ray.config import Config  # noqa: E402


def connect(config: Config, dashboard: bool = False) -> None:
    """Join the cluster of this job or of `cluster.address`, else start a local one; nothing if connected already.

    Only a local one may lack a dashboard, which takes a quarter of a gigabyte.
    """
    if not ray.is_initialized():
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        if config.cluster.address or os.environ.get("RAY_ADDRESS"):
            ray.init(config.cluster.address, **quiet)
        else:
            hook = {"runtime_env": {"worker_process_setup_hook": _tell_address}} if dashboard else {}
            own = {"num_cpus": config.cluster.num_cpus or os.cpu_count(), "include_dashboard": dashboard}
            ray.init("local", **own, **hook, **quiet)
            _hide_token()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = None  # one shard part is one block


def _tell_address() -> None:
    """Let a worker process know its own Ray: its state API looks for any, and gives up where a machine has several."""
    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


def as_a_worker() -> None:
    """Give this process the low priority that Ray gives its workers, so that neither starves the other."""
    os.setpriority(os.PRIO_PROCESS, 0, max(_WORKER_NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


def _hide_token() -> None:
    """Ray writes the token that lets one run code on this cluster readable by everyone on the machine."""
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    if token.exists():
        token.chmod(0o600)


def has_dashboard() -> bool:
    """Whether Ray's state API can be asked; the local cluster that `connect` starts has none."""
    return bool(ray.init(ignore_reinit_error=True, logging_level="ERROR").dashboard_url)


def in_submitted_job() -> bool:
    """Whether this process was started by `ray job submit`, so that its working folder is a temporary copy."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def store_root(config: Config) -> Path:
    """`store.root` as an absolute path. In a submitted job a relative one starts at the home folder."""
    base = Path.home() if in_submitted_job() else Path.cwd()
    return (base / Path(config.store.root).expanduser()).absolute()


def api_key() -> SecretStr | None:
    """OPENAI_API_KEY, which shows as stars wherever it is printed; None without one, as local servers need none."""
    key = os.environ.get("OPENAI_API_KEY")
    return SecretStr(key) if key else None


def cpus() -> float:
    """CPUs of the cluster as it is now (an autoscaled one may grow)."""
    return ray.cluster_resources().get("CPU", 0.0)


def gpus() -> float:
    """GPUs of the cluster as it is now."""
    return ray.cluster_resources().get("GPU", 0.0)


def object_store_bytes() -> float:
    """The shared memory that Ray keeps data in, over all nodes."""
    return ray.cluster_resources().get("object_store_memory", 0.0)


def use_gpu(config: Config, wanted: int) -> bool:
    """Whether `wanted` GPU processes are to be started.

    Raises ValueError where a local cluster has not the GPUs demanded; a joined one may grow, so there Ray waits.
    """
    choice = config.train.use_gpu
    if choice == "yes" and gpus() < wanted and not has_dashboard():
        raise ValueError(
            f"train.use_gpu=yes: found {gpus():g} GPUs, expected {wanted}: lower train.num_workers or set "
            "train.use_gpu=auto"
        )
    return choice == "yes" or (choice == "auto" and gpus() >= wanted)


def train_worker_cpus(num_workers: int) -> float:
    """CPUs of a train worker: at most one, and half of a small machine's stay free for Ray Data's tasks."""
    total = cpus() or 2.0 * num_workers  # nothing yet: an autoscaled cluster will bring whole CPUs
    return min(1.0, round(total / (2 * num_workers), 2))


def task_cpus() -> float:
    """CPUs of a data task: fractional where there are so few that whole ones could wait for each other for ever."""
    return 1.0 if cpus() >= 4 or cpus() == 0 else 0.5


def actor_count(parts: int, use_gpu: bool) -> int:
    """How many encoder actors there may be for so many shard parts: a joined cluster may grow, a local one not.

    CPUs of a local one are what it was told; more processes than cores only take each other's.
    """
    local = gpus() if use_gpu else min(cpus(), os.cpu_count())
    most = _MOST_ACTORS if has_dashboard() else int(local)
    return max(1, min(parts, most))


def usable_threads(cpus_given: float) -> int:
    """Torch threads of a process that was given so many CPUs: more than its cores makes all of them slower."""
    return max(1, int(cpus_given))
