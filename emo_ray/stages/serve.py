"""serve: a live page and a JSON API over a checkpoint, until somebody stops it."""

import logging
import threading
from collections.abc import Collection
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from emo_ray import cluster, redaction, resources
from emo_ray.addresses import listening_problem
from emo_ray.config import Config
from emo_ray.inference.encoders import of_checkpoint
from emo_ray.models.checkpoint_files import folder_of, read_config
from emo_ray.progress import say
from emo_ray.stages.result import Result
from emo_ray.stages.serving.guard import is_loopback

APPLICATION = "emo_ray"  # of Ray Serve
_LEAST_TOKEN = 16  # characters


def serve(config: Config) -> Result:
    """Serve the model of `checkpoint` until Ctrl-C.

    Raises ValueError without one, for a host that others reach where no token is set, for a port where no server can
    start, and where Ray Serve is in use in the cluster that is joined (`serve.replace` ends an earlier server of ours).
    """
    path, labels = check(config)
    settings = config.serve
    is_here = not cluster.joins(config)  # else a cluster's machines have ports of their own
    if is_here and (problem := listening_problem(settings.host, settings.port)):
        raise ValueError(
            f"serve.port={settings.port}: found that no server can start on {settings.host} ({problem}), expected a "
            "free port of this machine: end what listens there, which Ray would share the port with, or give another "
            "serve.port or serve.host"
        )
    from ray import serve as ray_serve  # seconds to import

    from emo_ray.stages.serving import deployments

    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # each step of its start, and of its end
    cluster.connect(config)
    requests = resources.actor_resources(config)
    model_settings = {
        "store.root": str(cluster.store_root(config)),
        "text.trust_remote_code": config.text.trust_remote_code,
        **{f"transcribe.{name}": value for name, value in config.transcribe if config.transcribe.model is not None},
    }
    if not is_here:
        check_unused(ray_serve.status().applications, settings.replace)
        ray_serve.shutdown()  # else proxies that are there would keep their host and port
    ray_serve.start(http_options={"host": settings.host, "port": settings.port})
    deployed_s = None
    try:
        application = deployments.build(
            APPLICATION,
            path,
            labels,
            settings,
            model_settings,
            {key: requests[key] for key in ("num_cpus", "num_gpus", "label_selector") if key in requests},
        )
        ray_serve.run(application, name=APPLICATION, route_prefix="/")
        deployed_s = ray_serve.status().applications[APPLICATION].last_deployed_time_s
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        say(f"{path.name} answers at http://{host}:{settings.port}/ (its API: /docs); Ctrl-C stops it")
        threading.Event().wait()
    finally:
        applications = ray_serve.status().applications
        last = applications.get(APPLICATION)
        is_ours = last is not None and deployed_s in (None, last.last_deployed_time_s)  # else another took its place
        if is_ours and len(applications) > 1:
            ray_serve.delete(APPLICATION)
        elif is_ours:
            with redirect_stdout(StringIO()):  # Ray tells there of the controller's end, which was asked for
                ray_serve.shutdown()
    return Result(path, {})


def check_unused(applications: Collection[str], replaces: bool) -> None:
    """Raises ValueError where these applications of Ray Serve leave no room for ours in their cluster."""
    if others := sorted(set(applications) - {APPLICATION}):
        raise ValueError(
            f"found Ray Serve in use in the cluster (by {', '.join(others)}), expected no application of others, "
            "whose host and port ours would have: end them, or serve in a cluster of its own (without cluster.address)"
        )
    if APPLICATION in applications and not replaces:
        raise ValueError(
            "found a server of ours in the cluster, expected none: end its job with Ctrl-C, or put this model in its "
            "place with serve.replace=true, as after a job that was killed"
        )


def check(config: Config) -> tuple[Path, tuple[str, ...]]:
    """The checkpoint folder and its classes. Raises ValueError for settings that cannot be served."""
    path = folder_of(config)
    of_checkpoint(config, path)
    token = cluster.serve_token()
    if token is not None:
        redaction.hide([token.get_secret_value()])
    if token is not None and len(token.get_secret_value()) < _LEAST_TOKEN:
        raise ValueError(
            f"{cluster.SERVE_TOKEN}: found fewer than {_LEAST_TOKEN} characters, expected a long random one, such as "
            "of `openssl rand -hex 16`"
        )
    if token is None and not is_loopback(config.serve.host):
        raise ValueError(
            f"serve.host={config.serve.host}: found no {cluster.SERVE_TOKEN} in the environment, expected one, for "
            "other machines reach this host: set it to a long random token, or take serve.host=127.0.0.1"
        )
    return path, read_config(path)[1]
