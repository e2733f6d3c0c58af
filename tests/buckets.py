"""A bucket on loopback: moto's server, with requests that fail at random in front of it where a test asks for it."""

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from emo_ray.data import decoder

BUCKET = "bucket"


class Failing:
    """A WSGI application that answers for another one with 500 or 503, or cuts the connection, at some rate."""

    def __init__(self, application: Callable):
        self.application, self.rate, self.failed, self.requests = application, 0.0, 0, 0
        self._random, self._lock = random.Random(0), threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        """Answer, or fail."""
        with self._lock:
            fails, kind = self._random.random() < self.rate, self._random.randrange(3)
            self.failed += fails
            self.requests += 1
        if not fails:
            return self.application(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if kind == 2:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        start_response(("500 Internal Server Error", "503 Slow Down")[kind], [("Content-Length", "0")])
        return [b""]


class Server:
    """The address of a running server, and how often it fails."""

    def __init__(self, address: str, failing: Failing):
        self.address, self.failing = address, failing

    @cached_property
    def client(self) -> Any:
        """Boto's client, which has no part in the product."""
        return boto3.client("s3", endpoint_url=self.address, region_name="us-east-1")

    def objects(self) -> set[str]:
        """The names of all objects, but for the empty ones that stand for folders."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return {o["Key"] for page in pages for o in page.get("Contents", ()) if not o["Key"].endswith("/")}

    def put(self, key: str, content: bytes) -> None:
        """Write an object."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def read(self, key: str) -> bytes:
        """The content of an object."""
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing."""


def _end_decoder() -> None:
    """End the process that decodes media for this one; the next clip starts another."""
    decoder._close_last()
    decoder._child = None


@contextmanager
def serving() -> Iterator[Server]:
    """A server with an empty bucket; the environment of this process, and of its children, names it."""
    failing = Failing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, failing, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret")
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        _end_decoder()  # it would know another environment
        bucket = Server(address, failing)
        bucket.client.create_bucket(Bucket=BUCKET)
        try:
            yield bucket
        finally:
            _end_decoder()
            server.shutdown()
            thread.join()
