"""What the logs of a store tell of its jobs: what each was asked, how far it is, how it ended, what it spent."""

import json
import platform
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from emo_ray import store, usage
from emo_ray.failures import SIGNALLED
from emo_ray.job_log import ALIVE_S, FOLDER
from emo_ray.stages.store_files import whole_lines

State = Literal["running", "done", "failed", "stopped"]
_SILENT_S = 4 * ALIVE_S  # a job on another machine that logs nothing for so long is no more
_SAME_START_S = 1.0  # what times of a process's start may differ by


@dataclass
class JobRecord:
    """One run of a job; times are Unix times in seconds."""

    path: Path  # of the log
    job: str
    words: list[str]
    began_s: float
    last_s: float
    state: State
    status: int | None = None  # exit status, once it has ended
    message: str = ""  # of the error that ended it
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)  # the last event of each stage, by its title
    ended_stages: list[dict[str, Any]] = field(default_factory=list)  # the last event of each that has ended

    @property
    def command(self) -> str:
        """The words that run it, as this process was started, with secrets starred out."""
        return f"{usage.program(self.job)} {shlex.join(self.words)}".rstrip()

    @property
    def at(self) -> str:
        """How far its last stage is."""
        running = [stage for stage in self.stages.values() if stage["state"] != "ended"]
        return str((running or list(self.stages.values()))[-1]["line"]) if self.stages else ""


def read_records(root: Path) -> list[JobRecord]:
    """The jobs that logged in a store, newest first; a log of which nothing can be read is left out."""
    records = filter(None, map(_record, sorted(store.local(root / FOLDER).glob("*.jsonl"))))
    return sorted(records, key=lambda record: record.began_s, reverse=True)


def newest_of_each(records: Iterable[JobRecord]) -> list[JobRecord]:
    """The newest record for each command line. `records` are sorted, newest first.

    A newer run of the same words goes on with what the older ones left, so these say nothing more. A failed run is left
    out too if the same job ended well later with other words: somebody has mended them.
    """
    newest: dict[str, JobRecord] = {}
    done = set()
    for record in records:
        if record.state == "done":
            done.add(record.job)
        if record.state != "failed" or record.job not in done:
            newest.setdefault(record.command, record)
    return list(newest.values())


def spent(records: Iterable[JobRecord]) -> dict[str, dict[str, float]]:
    """Seconds and units of every stage over all jobs, by its title; units that an earlier run did are not counted."""
    totals: dict[str, dict[str, float]] = {}
    for record in records:
        under_way = [stage for stage in record.stages.values() if stage["state"] != "ended"]
        for stage in (*record.ended_stages, *under_way):
            total = totals.setdefault(stage["title"], {"seconds": 0.0, "done": 0.0})
            total["seconds"] += stage["seconds"]
            total["done"] += round(stage["rate"] * stage["seconds"])
    return totals


def _record(path: Path) -> JobRecord | None:
    events = list(_events(path))
    if not events or events[0].get("event") != "began":
        return None
    first, last = events[0], events[-1]
    with suppress(KeyError, TypeError, ValueError):  # lines that somebody changed
        state: State = "running" if _runs(first, float(last["time"])) else "stopped"
        times = float(first["time"]), float(last["time"])
        record = JobRecord(path, str(first["job"]), [str(word) for word in first["words"]], *times, state)
        for event in events[1:]:
            _add(record, event)
        return record
    return None


def _add(record: JobRecord, event: Mapping[str, Any]) -> None:
    """Take an event of the log into the record of its job."""
    if event["event"] == "stage":
        record.stages.pop(event["title"], None)  # the last one to be heard of stands last
        record.stages[event["title"]] = dict(event)
        if event["state"] == "ended":
            record.ended_stages.append(dict(event))
    elif event["event"] == "ended":
        record.state, record.status = "done", int(event["status"])
    elif event["event"] == "failed":
        record.status, record.message = int(event["status"]), str(event["message"])
        record.state = "stopped" if record.status > SIGNALLED else "failed"


def _runs(began: Mapping[str, Any], last_s: float) -> bool:
    """Whether the process of a log without an end still runs: seen on its own machine, elsewhere guessed."""
    if began["host"] != platform.node():
        return time.time() - last_s < _SILENT_S
    try:
        return abs(psutil.Process(int(began["pid"])).create_time() - float(began["started"])) < _SAME_START_S
    except psutil.Error:
        return False


def _events(path: Path) -> Iterator[dict[str, Any]]:
    for line in whole_lines(path):
        event = json.loads(line)
        if isinstance(event, dict):
            yield event
