"""What two stores hold, compared: whatever decides results, byte for byte, but for times."""

import hashlib
import json
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

# Locks, working folders, records of runs and answers (by random names), and what has seconds in it: pages, and the
# table of a sweep's trials, whose JSON is compared.
_LEFT_OUT = re.compile(
    r"(^|/)(\.?[^/]*lock|mlflow\.db.*|\.[^/]*\.tracked\.json|[^/]*\.html|trials\.csv|[^/]*\.damaged|answers-[^/]*\.jsonl)$"
)
_WORK = ("train/", "tune/", "mlartifacts/", "tracking/", "chaos/", "logs/")
_UNFINISHED = re.compile(r"(^|/)\.[^/]*(-[0-9a-f]{32}|\.[0-9a-f]{32}\.tmp)(/|$)")
_TIMES = re.compile(r"(^|_)(s|seconds|waited)$|^files$")  # files: digests of files that may hold times
_SHOWN = 3  # names of an outcome


def contents(root: Path) -> dict[str, str]:
    """Path in the store -> digest of the content, times left out; and the runs that MLflow's database holds."""
    digests = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not (_LEFT_OUT.search(name) or _UNFINISHED.search(name) or name.startswith(_WORK)):
            digests[name] = hashlib.blake2b(_without_times(path), digest_size=16).hexdigest()
    return digests | {"finished runs of MLflow": " ".join(finished_runs(root / "mlflow.db"))}


def differences(expected: Mapping[str, str], present: Mapping[str, str]) -> str:
    """The files in which two stores differ, in words; empty where they are equal."""
    missing = sorted(set(expected) - set(present))
    added = sorted(set(present) - set(expected))
    changed = sorted(name for name in set(expected) & set(present) if expected[name] != present[name])
    kinds = {"lacks": missing, "has more": added, "differs in": changed}
    parts = [f"{words} {', '.join(names[:_SHOWN])} ({len(names)} in all)" for words, names in kinds.items() if names]
    return "; ".join(parts)


def unfinished(root: Path) -> list[str]:
    """Temporary files and folders that were left in a store."""
    names = (path.relative_to(root).as_posix() for path in root.rglob("*"))
    return sorted(name for name in names if _UNFINISHED.search(name))


def finished_runs(database: Path) -> list[str]:
    """The sorted names of the finished runs in MLflow's database."""
    if not database.exists():
        return []
    with closing(sqlite3.connect(database)) as connection:
        query = "select name from runs where status = 'FINISHED' and lifecycle_stage = 'active'"
        return sorted(str(name) for (name,) in connection.execute(query))


def _without_times(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".json":
        return content
    try:
        return json.dumps(_timeless(json.loads(content)), sort_keys=True).encode()
    except ValueError:
        return content


def _is_random(value: Any) -> bool:
    """Whether a value is the random name that a log of answers has."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32}", value) is not None


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        named = {key: entry for key, entry in value.items() if not _TIMES.search(key) and not _is_random(entry)}
        return {key: _timeless(entry) for key, entry in named.items()}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value
