"""Ray itself: joining or starting it, and what its machines can give. The only reader of os.environ.

Ray takes more than a second to import, so the functions that need it import it: a job that is finished asks only for
`store_root`, and never loads Ray.
"""

import logging
import os
import re
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil
from pydantic import SecretStr

from emo_ray import addresses, bucket
from emo_ray.config import Config
from emo_ray.config.yaml_core import read
from emo_ray.data.inputs import cache_folder

# Ray reads these when it starts, trains or tunes, and local workers inherit them. A user's settings win.
_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # also how often reports are fetched; 2 s by default
    "RAY_DATA_USE_DATASOURCE_V2": "0",  # V2 starts 32 footer actors for every pass over a dataset
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # the stages show their own
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it goes on for a while, and the job's own handler says what is kept
    "RAY_AIR_NEW_OUTPUT": "0",  # at 1, Tune prints its own status box in spite of verbose=0
    "RAY_task_oom_retries": "20",  # without end by default, also for a task that is too large for the machine
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # 10 s or more by default: a killed sweep would repeat that much
}
SERVE_TOKEN = "EMO_RAY_SERVE_TOKEN"  # the environment variable of jobs/serve.py's token
_WORKER_NICENESS = 15  # Ray's default for `worker_niceness`
_SECRET = re.compile(r"(PASSWORD|SECRET|TOKEN|KEY|CREDENTIALS)$")  # names of variables that hold one
_SHORTEST_SECRET = 8  # characters; a shorter value may be a word of any message
_ENDING_S = 3.0  # that Ray's processes get to end by themselves
_BOOTSTRAP = Path.home() / "ray_bootstrap_config.yaml"  # where `ray up` puts its file on a cluster's head
_session: list[Path] = []  # the folder of the local cluster that this process started
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)


def connect(config: Config, dashboard: bool = False) -> None:
    """Join the cluster of this job or of `cluster.address`, or start a local one. Do nothing if already connected.

    Only a local cluster may lack a dashboard, which takes a quarter of a gigabyte. Where one is demanded and this
    process started its cluster without, for decoding say, the cluster is started again: nothing may lie in it any more.
    """
    import ray

    if dashboard and _session and not has_dashboard():
        leave(keep_logs=False)
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if joins(config):
            with _same_handlers():
                ray.init(config.cluster.address, **options)
        else:
            options |= {"num_cpus": config.cluster.num_cpus or os.cpu_count(), "include_dashboard": dashboard}
            if dashboard:
                options["dashboard_host"] = "127.0.0.1"  # it takes jobs, which are any code
                options["runtime_env"] = {"worker_process_setup_hook": _set_address}
            with _same_handlers():
                context: Any = ray.init("local", **options)  # typed as the base of all contexts
            _session.append(Path(context.address_info["session_dir"]))
            _hide_token()
    _configure_data()


@contextmanager
def _same_handlers() -> Iterator[None]:
    """Put the handlers of signals back after `ray.init`, whose own end the process with the number of the signal."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


def leave(keep_logs: bool, is_stopped: bool = False) -> None:
    """Leave the cluster, and end it if this process started it; without `keep_logs` remove its session folder then.

    Where a signal has stopped the job, threads of Ray Data may still be at work. One that asks Ray for something after
    `ray.shutdown` ends this process with a status of its own. So there Ray is not asked to end: its processes are
    killed, or in a cluster that was joined, end of themselves with this one.
    """
    processes = psutil.Process().children(recursive=True)
    if is_stopped:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what had to be said is said; Ray's threads would tell of kills
        _kill(processes)
    elif (loaded := sys.modules.get("ray")) is not None:  # a finished job does without
        loaded.shutdown()
    if not _session:
        return
    folder = _session.pop()
    if not keep_logs:
        _, living = psutil.wait_procs(processes, timeout=_ENDING_S)  # they may still write to the folder
        _kill(living)
        psutil.wait_procs(living, timeout=_ENDING_S)
        shutil.rmtree(folder, ignore_errors=True)
        latest = folder.with_name("session_latest")
        if latest.is_symlink() and not latest.exists():
            latest.unlink(missing_ok=True)


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _configure_data() -> None:
    """Configure Ray Data in this process.

    Ray Data reads its environment variables once, at its import, which may come before that of this module. So they
    are passed on here.
    """
    import ray.data
    from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised as well, and told once by the job
    context = ray.data.DataContext.get_current()
    context.use_datasource_v2 = os.environ["RAY_DATA_USE_DATASOURCE_V2"].lower() in ("1", "true")
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = None  # one shard part is one block
    # Ray Data deprecates the arguments that limit retries (see `task_resources`), and has no others for it yet.
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
    # Ray Data puts an actor's constructor arguments into the object store, and Ray says at every start of a pool that
    # an actor cannot be restarted once they are lost (ray-project/ray issues 53727 and 57733). By value they travel in
    # the actor's specification, which Ray keeps.
    for reference, value in {"_map_transformer_ref": "_map_transformer", "_data_context_ref": "data_context"}.items():
        setattr(ActorPoolMapOperator, reference, property(attrgetter(value)))


def _set_address() -> None:
    """Set a worker's RAY_ADDRESS to its cluster: Ray's state API gives up where a machine runs several clusters."""
    import ray

    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


def as_a_worker() -> None:
    """Give this process the low priority that Ray gives its workers, so that neither starves the other."""
    os.setpriority(os.PRIO_PROCESS, 0, max(_WORKER_NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


def _hide_token() -> None:
    """Make Ray's token file readable by its owner only.

    Ray writes it readable by everyone on the machine, and whoever has the token can run code on this cluster.
    """
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    if token.exists():
        token.chmod(0o600)


def has_dashboard() -> bool:
    """Whether Ray's state API can be asked; the local cluster that `connect` starts has none."""
    import ray

    with _same_handlers():
        return bool(ray.init(ignore_reinit_error=True, logging_level=logging.ERROR).dashboard_url)


def may_grow() -> bool:
    """Whether nodes may still join: a cluster that this process started has this machine alone."""
    return not _session and has_dashboard()


def most_gpus() -> float | None:
    """The most GPUs that the cluster may grow to; None where nobody knows, as under Kubernetes.

    What is known of an autoscaler: what it reports to Ray, or the file from which `ray up` started it on this machine.
    """
    if not may_grow():
        return gpus()
    from ray._private.state import state

    if (reported := state.get_max_resources_from_cluster_config()) is not None:
        return float(max(gpus(), reported.get("GPU", 0)))
    if _BOOTSTRAP.exists():
        return max(gpus(), most_of("GPU", read(_BOOTSTRAP.read_text(encoding="utf-8"))))
    return None if "KUBERNETES_SERVICE_HOST" in os.environ else gpus()


def most_of(resource: str, description: dict[str, Any]) -> float:
    """The most of a resource in a cluster that a file of `ray up` describes, such as cluster.yaml."""
    most_nodes = description.get("max_workers", 2)  # Ray's default
    amounts: list[float] = []
    for kind in description.get("available_node_types", {}).values():
        count = min(kind.get("max_workers", most_nodes), most_nodes)
        amounts += [kind.get("resources", {}).get(resource, 0)] * count
    return float(sum(sorted(amounts, reverse=True)[:most_nodes]))


def joins(config: Config) -> bool:
    """Whether a job of this config joins a cluster, and starts none of its own."""
    return bool(config.cluster.address or os.environ.get("RAY_ADDRESS"))


def local_gpus() -> int | None:
    """GPUs that a local cluster will have, counted without Ray; None where they are not NVIDIA's own on Linux.

    CUDA_VISIBLE_DEVICES may hide some.
    """
    if any(Path(device).exists() for device in ("/dev/dxg", "/dev/kfd")):  # Windows' own driver, AMD's
        return None
    count = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    names = [name for name in visible.split(",") if name.strip()]
    return min(count, len(names[: names.index("-1")] if "-1" in names else names))


def in_submitted_job() -> bool:
    """Whether this process was started by `ray job submit`, so that its working folder is a temporary copy."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def store_root(config: Config) -> Path:
    """`store.root` as an absolute path. In a submitted job a relative one starts at the home folder.

    The root of a store in a bucket is a folder of `bucket`, below `store.cache`. Raises ValueError where no folder is
    there and none can be made, where Ray Data reads nothing, and where MLflow's database cannot lie in it.
    """
    if addresses.is_address(config.store.root):
        return _root_in_bucket(config)
    base = Path.home() if in_submitted_job() else Path.cwd()
    try:
        root = (base / Path(config.store.root).expanduser()).absolute()
    except RuntimeError as error:  # ~nobody
        raise ValueError(f"store.root: found {config.store.root!r}, expected a folder: {error}") from None
    nearest = next(path for path in (root, *root.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise ValueError(
            f"store.root: found {nearest}, which is no folder; expected a folder, or none yet: name another"
        )
    if nearest != root and not os.access(nearest, os.W_OK):
        raise ValueError(
            f"store.root: found that nothing can be written in {nearest}, expected a folder that can be made"
        )
    in_database_address = config.tracking.enabled and config.tracking.uri is None
    if "?" in str(root):
        raise ValueError(
            f"store.root: found {str(root)!r}, expected a path without '?', for Ray Data finds no rows in files below "
            "one: name another folder"
        )
    if in_database_address and unquote(str(root)) != str(root):
        raise ValueError(
            f"store.root: found {str(root)!r}, expected a path without codes such as '%20', which mean other things in "
            "the address of MLflow's database: name another folder, or set tracking.uri"
        )
    return root


def _root_in_bucket(config: Config) -> Path:
    if config.tracking.enabled and config.tracking.uri is None:
        raise ValueError(
            f"tracking.uri: found none with store.root={config.store.root}, expected the address of an MLflow server, "
            "for its database cannot lie in a bucket: set tracking.uri=http://HOST:PORT, or tracking.enabled=false"
        )
    return bucket.local_path(config.store.root, cache_folder(config))


def api_key() -> SecretStr | None:
    """OPENAI_API_KEY, which shows as stars wherever it is printed; None without one, as local servers need none."""
    key = os.environ.get("OPENAI_API_KEY")
    return SecretStr(key) if key else None


def serve_token() -> SecretStr | None:
    """What clients of jobs/serve.py must send; None without one, as on loopback."""
    token = os.environ.get(SERVE_TOKEN)
    return SecretStr(token) if token else None


def secrets() -> list[str]:
    """The values of environment variables that hold a key, a token or a password, which no message may show."""
    names = (name for name in os.environ if _SECRET.search(name.upper()))
    return [value for value in map(os.environ.__getitem__, names) if len(value) >= _SHORTEST_SECRET]


def cpus() -> float:
    """CPUs of the cluster as it is now (an autoscaled one may grow)."""
    return _resource("CPU")


def fewest_cpus() -> float:
    """CPUs of the smallest machine that has any; 0 while there is none."""
    import ray

    machines = (node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])
    return min((count for count in machines if count), default=0.0)


def gpus() -> float:
    """GPUs of the cluster as it is now."""
    return _resource("GPU")


def object_store_bytes() -> float:
    """The shared memory that Ray keeps data in, summed over all nodes."""
    return _resource("object_store_memory")


def _resource(name: str) -> float:
    import ray

    return ray.cluster_resources().get(name, 0.0)
