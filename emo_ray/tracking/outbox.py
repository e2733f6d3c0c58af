"""Entries that a server has missed, in files of the store, so that a later job can send what this one could not.

Every process appends to a file of its own, which it holds locked; a file whose process has ended is anybody's.
"""

import json
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from emo_ray import bucket
from emo_ray.durable import append_lines
from emo_ray.locks import lock
from emo_ray.tracking.entries import Entry


def outboxes(root: Path) -> Path:
    """The folder of all servers' entries. Of a store in a bucket it stays on this machine: objects cannot grow."""
    return root / ("tracking" if bucket.address_of(root) is None else ".tracking")


class Outbox:
    """The files of one server in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._path: Path | None = None  # of this process, once it has missed something
        self._locks = ExitStack()

    def append(self, entries: Iterable[Entry]) -> None:
        """Keep entries. Raises OSError where nothing can be written."""
        if self._path is None:
            path = self.folder / f"{uuid.uuid4().hex}.jsonl"
            self._locks.enter_context(lock(_lock_path(path)))
            self._path = path
        append_lines(self._path, (json.dumps(entry.as_json(), ensure_ascii=False) for entry in entries))

    def clear(self) -> None:
        """Drop what this process has kept: all of it is sent."""
        if self._path is not None:
            _drop(self._path)
            self._path = None
        self._locks.close()

    def left_behind(self) -> list[Path]:
        """The files of other processes, the oldest first."""
        paths = set(self.folder.glob("*.jsonl")) - {self._path}
        return sorted(paths, key=lambda path: path.stat().st_mtime_ns)

    @contextmanager
    def taken(self, path: Path) -> Iterator[list[Entry]]:
        """The entries in a file of an ended process, which is deleted if the block ends without an error.

        None are in a file that another process holds, or has sent.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(lock(_lock_path(path), 0.0))
            except TimeoutError:
                yield []
                return
            yield _read(path)
            _drop(path)


def _read(path: Path) -> list[Entry]:
    """The entries in a file; a last line that a killed process left unfinished is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return entries


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _drop(path: Path) -> None:
    path.unlink(missing_ok=True)
    _lock_path(path).unlink(missing_ok=True)  # names are never used again
