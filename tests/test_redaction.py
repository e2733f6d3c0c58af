"""Redaction: no spelling of a secret passes, and nothing else is changed."""

import io
import logging
import sys
import traceback

import pytest

from emo_ray import redaction

PASSWORD = "p%40ss/word-unseen"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Nothing that a test hides is hidden in the next."""
    monkeypatch.setattr(redaction, "_secrets", set())


@pytest.mark.parametrize(
    ("address", "secrets"),
    [
        ("http://me:one-secret@host:5000/path", {"me:one-secret", "one-secret"}),
        ("http://me:one@secret@host", {"me:one@secret", "one@secret"}),
        ("http://me:one/secret@host", {"me:one/secret", "one/secret"}),
        ("http://a-token@host", {"a-token"}),
        ("postgresql://host/name?password=one-secret&sslmode=require", {"one-secret"}),
        ("http://host:5000/a@b", set()),
        ("sqlite:////home/a@b/mlflow.db", set()),
        ("s3://bucket/a@b", set()),
        ("data.root=/folder", set()),
    ],
)
def test_the_secrets_of_an_address(address, secrets):
    assert redaction.secrets_in(address) == secrets
    assert redaction.secrets_in(f"tracking.uri={address}") == secrets


@pytest.mark.parametrize("spelling", [PASSWORD, "p@ss/word-unseen", "bWU6cEBzcy93b3JkLXVuc2Vlbg=="])
def test_every_spelling_is_starred(spelling):
    redaction.hide(redaction.secrets_in(f"http://me:{PASSWORD}@host"))
    assert redaction.redacted(f"before {spelling} after") == "before *** after"


def test_a_short_secret_is_starred_where_it_stands_alone():
    redaction.hide(["ray"])
    assert redaction.redacted("emo_ray said ray:ray, arrays") == "emo_ray said ***:***, arrays"


def test_a_login_in_any_address_is_starred():
    assert (
        redaction.redacted("at http://a:b@host and http://host:80/a@b") == "at http://***@host and http://host:80/a@b"
    )


def test_streams_and_tracebacks():
    redaction.hide(["unseen-secret"])
    out = io.StringIO()
    stream = redaction.RedactedStream(out)
    try:
        raise RuntimeError("no answer of unseen-secret")
    except RuntimeError:
        traceback.print_exc(file=stream)
    assert "no answer of ***" in out.getvalue()
    assert not stream.isatty()
    assert redaction.RedactedStream(sys.__stderr__).encoding == sys.__stderr__.encoding


def test_log_records_of_libraries(monkeypatch):
    before, out = logging.getLogRecordFactory(), io.StringIO()
    logger = logging.getLogger("urllib3.connectionpool")
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(out)])
    redaction.hide(["unseen-secret"])
    try:
        redaction.redact_log_records()
        redaction.redact_log_records()
        logger.error("retry of %s at %s", "http://me:unseen-secret@host", "/path")
        try:
            raise RuntimeError("unseen-secret")
        except RuntimeError:
            logger.exception("failed")
        logger.error("%s of %d", "one", 2)
    finally:
        logging.setLogRecordFactory(before)
    lines = out.getvalue().splitlines()
    assert "unseen-secret" not in out.getvalue()
    assert "retry of http://***@host at /path" in lines
    assert "RuntimeError: ***" in lines
    assert lines[-1] == "one of 2"
