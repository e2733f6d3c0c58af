"""status: what runs on a store, what is done, what is broken, and what it would take to go on."""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emo_ray import cluster, store
from emo_ray.config import Config
from emo_ray.preflight import megabytes
from emo_ray.progress import duration
from emo_ray.reports.front_page import Section
from emo_ray.reports.table import Cell, Style, Table
from emo_ray.reports.wording import plural
from emo_ray.stages.job_records import JobRecord, State, newest_of_each, read_records, spent
from emo_ray.stages.report import sections_of
from emo_ray.stages.result import Result
from emo_ray.stages.store_files import check_store

_STYLES: dict[State, Style] = {"running": "good", "done": "", "failed": "bad", "stopped": "warning"}
_MOST_JOBS = 12  # in the table; --json has all
# The stages of jobs that do what a stage of a plan of jobs/bench.py does, by how its name begins.
_OF_PLAN = {
    "prepare": r"decoding clips",
    "train EmoVCLIP": r"training emovclip",
    "encode video": r"encoding .*video",
    "encode audio": r"encoding .*audio",
    "encode text": r"encoding .*text",
}


def status(config: Config) -> Result:
    """What the logs and folders of the store say; status 2 where a job failed or stopped, or an artefact is unreadable.

    Files are not read as a whole: jobs/verify.py does that. Raises ValueError where there is no store.
    """
    root = cluster.store_root(config)
    check_store(root)
    records = read_records(root)
    jobs = newest_of_each(records)
    sections = [section for section in sections_of(root) if section.entries]
    plan = _plan(root)
    times = spent(records)
    tables = [_jobs_table(jobs), _artefacts_table(sections), _spent_table(times, root, plan)]
    broken = [job for job in jobs if job.state in ("failed", "stopped")]
    unreadable = [entry for section in sections for entry in section.entries if "verify" in entry.state]
    content = {
        "jobs": [_as_dict(job) for job in jobs],
        "artefacts": {section.title: _counts(section) for section in sections},
        "spent": times,
        "bytes": _bytes(root),
        "plan": plan,
    }
    shown = [table for table in tables if table.rows]
    return Result(root, content, shown, _lines(jobs, broken, len(unreadable)), 2 if broken or unreadable else 0)


def _as_dict(job: JobRecord) -> dict[str, Any]:
    return {
        "job": job.job,
        "command": job.command,
        "state": job.state,
        "began_s": job.began_s,
        "last_s": job.last_s,
        "at": job.at,
        "status": job.status,
        "message": job.message,
        "log": str(job.path),
    }


def _jobs_table(jobs: Sequence[JobRecord]) -> Table:
    rows: list[list[str | Cell]] = [
        [job.command, Cell(job.state, _STYLES[job.state]), duration(time.time() - job.last_s), _how_far(job)]
        for job in jobs
    ]
    header = ["job", "state", "heard of, ago", "how far"]
    note = "The newest of each command; what failed and went well later, with other words, is left out."
    return Table("Jobs", header, rows, note, words=(0, 1, 3), visible_rows=_MOST_JOBS)


def _how_far(job: JobRecord) -> str:
    if job.state == "failed":
        return job.message.splitlines()[0] if job.message else ""
    return f"in {duration(job.last_s - job.began_s)}" if job.state == "done" else job.at


def _artefacts_table(sections: Sequence[Section]) -> Table:
    rows: list[list[str | Cell]] = []
    for section in sections:
        counts = _counts(section)
        bad = Cell(str(counts["unreadable"] or ""), "bad")
        rows.append([section.title, str(counts["whole"] or ""), str(counts["unfinished"] or ""), bad])
    return Table("What lies in the store", ["kind", "whole", "unfinished", "unreadable"], rows)


def _counts(section: Section) -> dict[str, int]:
    unreadable = sum("verify" in entry.state for entry in section.entries)
    whole = sum(not entry.state for entry in section.entries)
    return {"whole": whole, "unfinished": len(section.entries) - whole - unreadable, "unreadable": unreadable}


def _spent_table(times: Mapping[str, Mapping[str, float]], root: Path, plan: Mapping[str, Any] | None) -> Table:
    """Hours of each stage, and bytes of each kind of artefact, beside those that a benchmark planned."""
    rows: list[list[str]] = []
    planned = {stage["stage"]: stage for stage in plan["stages"]} if plan else {}
    for title, total in times.items():
        names = [
            name for name in planned if any(name.startswith(n) and re.match(p, title) for n, p in _OF_PLAN.items())
        ]
        hours = [planned[name]["hours"] for name in names if planned[name]["hours"] is not None]
        expected_time = duration(sum(hours) * 3600) if hours else ""
        rows.append([title, duration(total["seconds"]), f"{total['done']:.0f}", expected_time])
    sizes = _bytes(root)
    planned_bytes = {"shards": "prepare", "features": "encode"}
    for kind, size in sizes.items():
        begin = planned_bytes.get(kind)
        expected = sum(stage["bytes"] or 0 for name, stage in planned.items() if begin and name.startswith(begin))
        rows.append([f"{kind} on disk", megabytes(size), "", megabytes(expected) if expected else ""])
    note = f"Planned by jobs/bench.py for {plural(plan['clips'], 'clip')}." if plan else ""
    return Table("Time and room", ["stage or kind", "spent", "units", "planned"], rows, note)


def _bytes(root: Path) -> dict[str, int]:
    """The size of each folder of the store in which anything lies."""
    sizes: Counter[str] = Counter()
    for name, size in store.sizes(root).items():
        kind, slash, _ = name.partition("/")
        sizes[kind] += size if slash else 0
    return {kind: size for kind, size in sorted(sizes.items()) if size}


def _plan(root: Path) -> dict[str, Any] | None:
    """The estimate of the newest benchmark that made one."""
    store.local(root / "bench", lambda name: name.endswith("bench.json"))
    for path in sorted(root.glob("bench/*/bench.json"), reverse=True):  # their names are dates
        content = store.read_json(path)
        if isinstance(content, dict) and content.get("plan"):
            plan: dict[str, Any] = content["plan"]
            return plan
    return None


def _lines(jobs: Sequence[JobRecord], broken: Sequence[JobRecord], unreadable: int) -> list[str]:
    lines = []
    for job in broken:
        when = "" if job.state == "stopped" else ", once its error is mended"
        lines.append(f"to go on{when}: {job.command}")
    if unreadable:
        lines.append(
            f"{plural(unreadable, 'artefact')} cannot be read: jobs/verify.py says what is damaged and mends it"
        )
    running = sum(job.state == "running" for job in jobs)
    if running:
        lines.append(f"{plural(running, 'job')} running")
    return lines or ["nothing runs, and nothing is broken" if jobs else "no job has logged here yet"]
