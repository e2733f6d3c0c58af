"""Storage is tried once, with a limit, and named where it does not answer."""

import socket
import time

import pytest

from emo_ray.data.manifest import Clip
from emo_ray.stages.decoding import storage


def test_storage_that_never_answers_is_named_within_the_limit(monkeypatch):
    monkeypatch.setattr(storage, "_LIMIT_S", 3.0)
    begun_s = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1%3A{server.getsockname()[1]}"
        source = f"s3://a-bucket/a.mp4?scheme=http&region=none&endpoint_override={address}"
        with pytest.raises(ValueError, match=r"s3://a-bucket: found .*\(.+\), expected .*s3://a-bucket/a\.mp4"):
            storage.check_storage([Clip("a", audio=source), Clip("b", video=source.replace("a.mp4", "b.mp4"))])
    assert time.monotonic() - begun_s < 15


def test_storage_that_answers_local_files_and_odd_addresses_pass():
    sources = ("mock://bucket/absent.mp4", "/local/a.mp4", "file:///local/b.mp4", "no-such://a/b", "http://[", "://")
    storage.check_storage([Clip(f"clip-{i}", video=source) for i, source in enumerate(sources)])


def test_a_library_that_aborts_is_named(monkeypatch):
    monkeypatch.setattr(storage, "_TRY", "import os; os.abort()")
    with pytest.raises(ValueError, match=r"s3://bucket: found .*-6"):
        storage.check_storage([Clip("a", video="s3://bucket/a.mp4")])
