"""MLflow's database in a file: it appears whole, under its name, or not at all.

MLflow makes its tables one by one, and refuses a database that has some of them for good. So the file is made under
another name and renamed, by one process at a time; one whose making was cut short is made anew.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from emo_ray.locks import lock

_PATIENCE_S = 20.0  # with a process that writes
_PLACES = (  # of files: table and column
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_BESIDE = ("-journal", "-wal", "-shm")  # files of SQLite, which would be applied to whatever has the name


def make(address: str) -> None:
    """Make the database of an SQLite address, unless it is whole; do nothing for other addresses.

    Raises ValueError where the file is none of SQLite's, OSError and sqlite3.Error where it cannot be made or read.
    """
    path = _path(address)
    if path is None or _is_usable(path):
        return
    with lock(path.with_name(f".{path.name}.lock")):
        if _is_usable(path):  # made by the process that held the lock
            return
        fresh = path.with_name(f".{path.name}.new")
        _remove(fresh)  # of a process that was killed
        fresh.touch()  # as the umask says: SQLite would let nobody but its maker write
        try:
            _create(fresh)
            _remove(path)
            fresh.replace(path)
        finally:
            _remove(fresh)


def outdated(address: str) -> str | None:
    """Why this MLflow cannot use the SQLite database of an address as it lies; None where it can, or makes one.

    Raises ValueError where the file is none of SQLite's.
    """
    path = _path(address)
    if path is None or not path.exists() or path.stat().st_size == 0:
        return None
    try:
        with closing(sqlite3.connect(path, timeout=_PATIENCE_S)) as connection:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
            version = _value(connection, "alembic_version", tables, "select version_num from alembic_version")
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path}: found no database ({error}), expected MLflow's: move the file away") from None
    newest = _newest_version()
    return None if version == newest else f"{path}: found tables of version {version}, expected {newest}"


def relocate(address: str, artifact_location: str) -> None:
    """Make the database of a store that was moved or copied name the files of this store, not of the old one.

    MLflow writes whole addresses: a run of a copied store would be logged into the store that it was copied from.
    """
    path = _path(address)
    if path is None:
        return
    folder = artifact_location.rpartition("/")[2]
    with closing(sqlite3.connect(path, timeout=_PATIENCE_S)) as connection:
        query = "select distinct artifact_location from experiments where artifact_location like '%/' || ?"
        former = {location for (location,) in connection.execute(query, (folder,))} - {artifact_location}
        for old in former:
            for table, column in _PLACES:
                connection.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) "
                    f"where {column} = ? or substr({column}, 1, ?) = ?",
                    (artifact_location, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )
        connection.commit()


def _path(address: str) -> Path | None:
    """The file of an SQLite address; None for other databases, for servers, and for SQLite in memory."""
    if not address.startswith(("sqlite:", "sqlite+pysqlite:")):
        return None
    from sqlalchemy.engine import make_url

    name = make_url(address).database
    return Path(name) if name and name != ":memory:" and not name.startswith("file:") else None


def _is_usable(path: Path) -> bool:
    """Whether MLflow may open the file: not where it is missing, or was left half made.

    A database that holds anything is left to MLflow, which says what is wrong with one of another version.
    """
    if not path.exists() or path.stat().st_size == 0:
        return False
    try:
        with closing(sqlite3.connect(path, timeout=_PATIENCE_S)) as connection:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
            version = _value(connection, "alembic_version", tables, "select version_num from alembic_version")
            return _holds_something(connection, tables) or version == _newest_version()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # locked, not readable: nothing is wrong with its content
            raise
        raise ValueError(f"{path}: found no database ({error}), expected MLflow's: move the file away") from None


def _holds_something(connection: sqlite3.Connection, tables: set[str]) -> bool:
    """Whether a database has a run, an experiment that somebody named, or tables that are not MLflow's."""
    known_tables = _tables_of_mlflow() | {"alembic_version", "sqlite_sequence"}
    others = {name for name in tables - known_tables if not name.startswith("_alembic_tmp_")}
    runs = _value(connection, "runs", tables, "select count(*) from runs")
    experiments = _value(connection, "experiments", tables, "select count(*) from experiments where experiment_id > 0")
    return bool(others or runs or experiments)


def _value(connection: sqlite3.Connection, table: str, tables: set[str], query: str) -> object:
    """The first value of a query on a table, None where there is none."""
    row = connection.execute(query).fetchone() if table in tables else None
    return row and row[0]


def _tables_of_mlflow() -> set[str]:
    from mlflow.store.db import utils  # its import registers all tables
    from mlflow.store.db.base_sql_model import Base

    return {*utils.InitialBase.metadata.tables, *Base.metadata.tables}


def _newest_version() -> str:
    from mlflow.store.db import utils

    return utils._get_latest_schema_revision()  # MLflow offers no public way to ask


def _create(path: Path) -> None:
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments(max_results=1)


def _remove(path: Path) -> None:
    for suffix in (*_BESIDE, ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
