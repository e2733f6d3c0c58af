"""The server as deployments of Ray Serve: one takes requests and shows the page, replicas of another predict."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from emo_ray import cluster
from emo_ray.config.job_settings import Serve
from emo_ray.inference.model import load
from emo_ray.stages.encoding.actor import actor_device
from emo_ray.stages.serving.answers import Answer, Upload, answer
from emo_ray.stages.serving.app import Busy, create_app
from emo_ray.stages.serving.guard import Guard
from emo_ray.stages.serving.page import mount

_CLASSIFIER = "Classifier"
_WAITING = 256  # requests that wait for an answer; more are refused
# That wait inside a replica, which costs nothing. For those that wait in front of it Ray Serve asks for room, again and
# again, which took a third of a busy server's CPU time; but only there does it refuse any.
_IN_REPLICA = _WAITING // 2
_BATCH_WAIT_S = 0.02
_BATCHES = 2  # at once in a replica: one is decoded while the other is classified


class Classifier:
    """A replica with a model of its own, which answers several clips at once."""

    def __init__(self, path: str, settings: dict[str, Any], batch_size: int):
        self.model = load(path, device=actor_device(), settings=settings)
        batched: Any = serve.batch(
            max_batch_size=batch_size, batch_wait_timeout_s=_BATCH_WAIT_S, max_concurrent_batches=_BATCHES
        )
        self._answered = batched(self._answer_all)

    async def __call__(self, upload: Upload) -> Answer:
        """The answer to one upload, which is computed with others that came at about the same time."""
        return await self._answered(upload)

    async def _answer_all(self, uploads: list[Upload]) -> list[Answer]:
        return await asyncio.to_thread(answer, self.model, uploads)


def build(
    application: str, path: Path, labels: tuple[str, ...], settings: Serve, model_settings: dict[str, Any],
    resources: dict[str, Any],
) -> serve.Application:  # fmt: skip
    """The application of that name, for `serve.run`. `resources` are what a replica of the classifier asks Ray for."""
    token = cluster.serve_token()
    secret = None if token is None else token.get_secret_value()
    classifier = serve.deployment(
        name=_CLASSIFIER,
        num_replicas=settings.replicas,
        ray_actor_options=resources,
        max_ongoing_requests=_IN_REPLICA,
        max_queued_requests=_WAITING - _IN_REPLICA,
    )(Classifier)
    ingress = serve.ingress(_front(application, path.name, labels, settings, secret))(_Front)
    front = serve.deployment(name="Front", ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=2 * _WAITING)(
        ingress
    )
    return front.bind(classifier.bind(str(path), model_settings, settings.batch_size))


class _Front:
    """Takes requests. Its only replica holds the page's sessions."""

    def __init__(self, classifier: DeploymentHandle):
        self.classifier = classifier  # so that Ray Serve starts it first


def _front(
    application: str, name: str, labels: tuple[str, ...], settings: Serve, token: str | None
) -> Callable[[], ASGIApp]:
    """What makes the ASGI app in the replica that serves it."""

    def make() -> ASGIApp:
        handle: Any = serve.get_deployment_handle(_CLASSIFIER, application)

        async def predict(upload: Upload) -> Answer:
            try:
                return await handle.remote(upload)
            except BackPressureError:
                raise Busy from None

        app: FastAPI = mount(create_app(predict, settings, name, labels), predict, settings, f"emo_ray: {name}")
        app.add_middleware(Guard, token=token, max_bytes=int(settings.max_mb * 2**20))
        return app

    return make
