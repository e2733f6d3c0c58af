"""MLflow's database in a file: whole or not there, whatever happens while it is made, and never at the cost of runs."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from emo_ray.tracking import database

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A database that MLflow has made for a group, with nothing in it."""
    path = tmp_path_factory.mktemp("whole") / "mlflow.db"
    umask = os.umask(0o002)
    try:
        database.make(f"sqlite:///{path}")
    finally:
        os.umask(umask)
    return path


@pytest.fixture
def path(whole, tmp_path):
    """A copy of it."""
    (tmp_path / "mlflow.db").write_bytes(whole.read_bytes())
    return tmp_path / "mlflow.db"


def execute(path, *statements):
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def tables_of(path):
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}


def cut_short(path, tables):
    """Leave so many tables of a database, none of which has a version: as a kill in the first second does."""
    with closing(sqlite3.connect(path)) as connection:
        statements = [sql for (sql,) in connection.execute("select sql from sqlite_master where type = 'table'")]
    path.unlink()
    execute(path, *[sql for sql in statements if "alembic_version" not in sql][:tables])


@pytest.mark.parametrize("tables", [0, 1, 5, 20, 1000])
def test_a_database_with_some_of_its_tables_is_not_used(path, tables):
    assert database._is_usable(path)
    cut_short(path, tables)
    assert not database._is_usable(path)


def test_a_database_without_content_or_of_an_older_step_is_not_used(path, tmp_path):
    execute(path, "update alembic_version set version_num = '451aebb31d03'")
    assert not database._is_usable(path)
    path.write_bytes(b"")
    assert not database._is_usable(path)
    assert not database._is_usable(tmp_path / "absent.db")


@pytest.mark.parametrize(
    "content",
    [
        "insert into runs (run_uuid, experiment_id) values ('a', 0)",
        "insert into experiments (name, lifecycle_stage) values ('mine', 'active')",
        "create table somebody_elses (name text)",
    ],
)
def test_a_database_that_holds_anything_is_left_to_mlflow(path, content):
    execute(path, content, "delete from alembic_version")
    before = path.read_bytes()
    database.make(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_one_that_was_left_half_made_is_made_anew_without_what_lies_beside_it(path):
    expected = tables_of(path)
    cut_short(path, 5)
    for suffix in ("-journal", "-wal"):
        path.with_name(path.name + suffix).write_bytes(b"of a killed process")
    database.make(f"sqlite:///{path}")
    assert tables_of(path) == expected
    assert {name for name in os.listdir(path.parent) if not name.endswith(".lock")} == {"mlflow.db"}


def test_a_file_of_something_else_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("a letter to somebody\n" * 100)
    with pytest.raises(ValueError, match=r"mlflow\.db: found no database.*expected"):
        database.make(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:", "http://127.0.0.1:1", "postgresql://host/a"])
def test_other_addresses_have_no_file(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    database.make(address)
    assert os.listdir(tmp_path) == []


def size_of(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:  # not yet, or renamed since
        return 0


def making(path):
    code = "import sys; from emo_ray.tracking import database; database.make(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, f"sqlite:///{path}"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow  # every process imports MLflow and makes its tables
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_stopped_leaves_none_or_a_whole_one(whole, tmp_path, number):
    path, fresh = tmp_path / "mlflow.db", tmp_path / ".mlflow.db.new"
    for size in (1, 100_000, 300_000):
        process = making(path)
        while process.poll() is None and size_of(fresh) < size:
            pass
        process.send_signal(number)
        process.communicate()
        if path.exists():  # it was about to be renamed, and Ctrl-C is heard a little later
            assert tables_of(path) == tables_of(whole)
            path.unlink()
    database.make(f"sqlite:///{path}")
    assert tables_of(path) == tables_of(whole)
    assert not fresh.exists()


@pytest.mark.slow  # every process imports MLflow and makes its tables
def test_of_processes_that_start_at_once_one_makes_it(whole, tmp_path):
    processes = [making(tmp_path / "mlflow.db") for _ in range(4)]
    for process in processes:
        _, told = process.communicate()
        assert process.returncode == 0, told
    assert tables_of(tmp_path / "mlflow.db") == tables_of(whole)


def test_the_umask_is_respected(whole):
    assert whole.stat().st_mode & 0o777 == 0o664
