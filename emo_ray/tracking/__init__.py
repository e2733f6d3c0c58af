"""MLflow, and nothing else. One process writes, the driver; a run is found again by its tag, so none exists twice.

A server that does not answer is an error where something is about to be trained, within seconds. One that stops
answering later costs no training: what it misses waits in the store, and is sent when it answers again, by whichever
job asks next.

Reading order: description, packaging, database, entries, outbox, server, runs.
"""

from emo_ray.tracking.database import outdated
from emo_ray.tracking.description import began, title
from emo_ray.tracking.entries import ALIAS
from emo_ray.tracking.packaging import write_mlmodel
from emo_ray.tracking.runs import (
    Run,
    check,
    command,
    deliver,
    is_logged,
    note_logged,
    open_run,
    uri,
)

__all__ = [
    "ALIAS",
    "Run",
    "began",
    "check",
    "command",
    "deliver",
    "is_logged",
    "note_logged",
    "open_run",
    "outdated",
    "title",
    "uri",
    "write_mlmodel",
]
