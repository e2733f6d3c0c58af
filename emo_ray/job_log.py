"""A log of every job in its store: JSON lines of what it began with, said, measured and ended with.

jobs/status.py reads them. Secrets are starred out, as in all that a job prints.
"""

import json
import math
import platform
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import psutil

from emo_ray import durable, failures, progress, redaction

FOLDER = "logs"  # in the store
ALIVE_S = 60.0  # how often a job logs that it runs
_RUNNING_EVERY_S = 29.0  # events of a running stage: in a bucket each of them writes the log anew


class JobLog:
    """The log of one job, which is written as things happen."""

    def __init__(self, root: Path, job: str):
        day = time.strftime("%Y%m%d-%H%M%S")
        self.path = root / FOLDER / f"{job}-{day}-{uuid.uuid4().hex[:6]}.jsonl"
        self._lock = Lock()
        self._written_s: dict[str, float] = {}  # when the last event of each stage was

    def hear(self, kind: str, fields: dict[str, Any]) -> None:
        """Add what `progress` tells, but of a running stage no more than two events a minute."""
        if kind == "stage":
            now_s, title = time.monotonic(), fields["title"]
            if fields["state"] == "running" and now_s - self._written_s.get(title, -math.inf) < _RUNNING_EVERY_S:
                return
            self._written_s[title] = now_s
        self.write(kind, fields)

    def write(self, kind: str, fields: dict[str, Any]) -> None:
        """Add an event. A log that cannot be written ends no job: whatever is wrong there, the job itself will meet."""
        event = {"time": time.time(), "event": kind, **fields}
        line = redaction.redacted(json.dumps(event, ensure_ascii=False))
        with self._lock, suppress(OSError):
            durable.append_lines(self.path, [line])


@contextmanager
def recorded(root: Path, job: str, words: Sequence[str]) -> Iterator[JobLog]:
    """Log a job while the block runs, with its words and its process, and how it ends where an error ends it."""
    log = JobLog(root, job)
    process = psutil.Process()
    about = {"host": platform.node(), "pid": process.pid, "started": process.create_time()}
    log.write("began", {"job": job, "words": list(words), **about})
    try:
        with progress.listening(log.hear), progress.repeated(lambda: log.write("alive", {}), ALIVE_S):
            yield log
    except BaseException as error:
        failure = failures.failure_of(error, root)
        message = failure.message if failure else f"{type(error).__name__}: {error}"
        log.write("failed", {"message": message, "status": failure.status if failure else 1})
        raise
