"""Where a store lies wherever a job runs, and secrets of the environment, which nothing shows."""

import json
from pathlib import Path

import pytest

from emo_ray import cluster
from emo_ray.config import load


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder beside the working folder of the test."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    return tmp_path / "home"


@pytest.fixture
def submitted(monkeypatch):
    """The environment of a driver that `ray job submit` started."""
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, '{"runtime_env": {}}')


def store_root(root):
    return cluster.store_root(load("mini", {"store.root": root}))


def test_the_store_starts_at_the_working_folder(home):
    assert not cluster.in_submitted_job()
    assert store_root("artifacts/a") == home.parent / "work" / "artifacts" / "a"


def test_the_store_of_a_submitted_job_starts_at_the_home_folder(home, submitted):
    assert cluster.in_submitted_job()
    assert store_root("artifacts/a") == home / "artifacts" / "a"


@pytest.mark.parametrize("where", ["here", "submitted"])
def test_other_roots_are_the_same_wherever_a_job_runs(home, where, request):
    if where == "submitted":
        request.getfixturevalue("submitted")
    assert store_root("/shared/store") == Path("/shared/store")
    assert store_root("~/store") == home / "store"


def test_a_name_below_which_ray_reads_nothing_is_refused(home):
    with pytest.raises(ValueError, match=r"store\.root: found '.*/a\?b/c', expected"):
        cluster.store_root(load("mini", {"store.root": "a?b/c", "tracking.enabled": False}))


@pytest.mark.parametrize("root", ["my%20store", "../a%41b/c"])
def test_names_that_mean_something_else_in_an_address_are_refused_where_a_database_lies_in_the_store(home, root):
    with pytest.raises(ValueError, match=r"store\.root: found .*tracking\.uri") as error:
        store_root(root)
    assert root.rsplit("/", 1)[-1] in str(error.value)
    for change in ({"tracking.enabled": False}, {"tracking.uri": "http://127.0.0.1:5000"}):
        assert cluster.store_root(load("mini", {"store.root": root, **change})).name == Path(root).name


@pytest.mark.parametrize(
    "root",
    [
        "s3://key:hidden@bucket/store",
        "s3://bucket/a?b=c",
        "s3://",
        "hdfs://host/a",
        "file:///tmp/store",
        " ",
        "a\0b",
        "~nobody-at-all/store",
        "file/store",
    ],
)
def test_a_store_that_can_be_no_folder_is_refused(home, root):
    (home.parent / "work" / "file").touch()
    with pytest.raises(ValueError, match=r"store\.root: found .*expected") as error:
        store_root(root)
    assert type(error.value) is ValueError
    assert "hidden" not in str(error.value)


def test_a_store_in_a_bucket_is_a_folder_of_the_cache_and_needs_a_tracking_server(home):
    with pytest.raises(ValueError, match=r"tracking\.uri: found none with store\.root=s3://bucket/a"):
        store_root("s3://bucket/a")
    for change in ({"tracking.enabled": False}, {"tracking.uri": "http://127.0.0.1:5000"}):
        root = cluster.store_root(load("mini", {"store.root": "s3://bucket/a/", **change}))
        assert root == home / ".cache" / "emo_ray" / "emo_ray_buckets" / "s3" / "bucket" / "a"


def test_secrets_of_the_environment_are_values_of_variables_with_such_names(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-hush")
    monkeypatch.setenv("SHORT_KEY", "short")
    monkeypatch.setenv("KEYBOARD", "a-long-name")
    assert "hush-hush" in cluster.secrets()
    assert not {"short", "a-long-name"} & set(cluster.secrets())


def test_the_key_is_never_shown(monkeypatch):
    secret = "sk-shown-nowhere"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    key = cluster.api_key()
    assert key.get_secret_value() == secret
    for shown in (
        str(key),
        repr(key),
        f"{key}",
        f"{[key]}",
        f"{ValueError(key)!r}",
        json.dumps({"key": key}, default=str),
    ):
        assert secret not in shown


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_key_there_is_none(monkeypatch, value):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    assert cluster.api_key() is None
