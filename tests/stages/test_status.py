"""jobs/status.py: what the logs and folders of a store say of its jobs."""

import json
import platform
import subprocess
import sys
import time

import psutil
import pytest

from emo_ray import durable, job_log, progress, store
from emo_ray.config import load
from emo_ray.stages import job_records
from emo_ray.stages.status import status
from emo_ray.usage import program


@pytest.fixture
def config(tmp_path):
    return load("mini", {"store.root": str(tmp_path)})


def run(root, job, *words, status=0, units=4):
    """A job that does one stage and ends."""
    with job_log.recorded(root, job, words) as log:
        with progress.progress("decoding clips", units, "clips") as advance:
            advance(units)
        log.write("ended", {"status": status, "path": str(root)})


def leave_log(root, **about):
    """The log of a job that was killed in a stage."""
    log = job_log.JobLog(root, "tune")
    process = {"host": platform.node(), "pid": 2**22 + 1, "started": 0.0}
    log.write("began", {"job": "tune", "words": ["mini"], **process, **about})
    figures = {"title": "searching", "unit": "trials", "done": 2.0, "total": 8, "seconds": 30.0, "rate": 0.1}
    log.write("stage", {"state": "begun", **figures, "line": "searching: 2 of 8 trials"})
    return log


def test_a_store_in_which_all_is_done(config, tmp_path):
    run(tmp_path, "prepare", "mini")
    result = status(config)
    assert result.status == 0
    (job,) = result.content["jobs"]
    assert (job["command"], job["state"], job["status"]) == (f"{program('prepare')} mini", "done", 0)
    result.show()


@pytest.mark.parametrize("mended", [["a=b c"], ["a=c"]])
def test_a_job_that_failed_says_why_until_it_went_well(config, tmp_path, mended):
    with pytest.raises(ValueError, match="found 3"), job_log.recorded(tmp_path, "train", ["mini", "a=b c"]):
        raise ValueError("found 3, expected 4")
    result = status(config)
    assert result.status == 2
    assert any(f"{program('train')} mini 'a=b c'" in line for line in result.lines)
    assert "found 3" in result.content["jobs"][0]["message"]
    run(tmp_path, "prepare", "mini")
    assert status(config).status == 2
    run(tmp_path, "train", "mini", *mended)
    result = status(config)
    assert (result.status, [job["state"] for job in result.content["jobs"]]) == (0, ["done", "done"])


def test_a_job_that_was_killed_was_stopped_and_the_same_command_goes_on(config, tmp_path):
    leave_log(tmp_path)
    result = status(config)
    assert result.status == 2
    (job,) = result.content["jobs"]
    assert (job["state"], job["at"]) == ("stopped", "searching: 2 of 8 trials")
    assert f"to go on: {program('tune')} mini" in result.lines


def test_a_job_that_a_signal_ended_was_stopped(config, tmp_path):
    with pytest.raises(KeyboardInterrupt), job_log.recorded(tmp_path, "train", ["mini"]):
        raise KeyboardInterrupt
    (job,) = status(config).content["jobs"]
    assert (job["state"], job["status"]) == ("stopped", 130)


def test_a_process_with_the_same_number_that_began_later_is_another(config, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        began_s = psutil.Process(child.pid).create_time()
        log = leave_log(tmp_path, pid=child.pid, started=began_s)
        assert [job["state"] for job in status(config).content["jobs"]] == ["running"]
        assert status(config).status == 0
        log.path.unlink()
        leave_log(tmp_path, pid=child.pid, started=began_s - 100)
        assert [job["state"] for job in status(config).content["jobs"]] == ["stopped"]
    finally:
        child.communicate(b"\n")


@pytest.mark.parametrize(("silent_s", "state"), [(0, "running"), (3600, "stopped")])
def test_a_job_on_another_machine_runs_while_it_is_heard_of(config, tmp_path, monkeypatch, silent_s, state):
    leave_log(tmp_path, host="elsewhere")
    now_s = time.time()
    monkeypatch.setattr(job_records.time, "time", lambda: now_s + silent_s)
    assert [job["state"] for job in status(config).content["jobs"]] == [state]


def test_what_was_spent_stands_beside_what_was_planned(config, tmp_path):
    run(tmp_path, "prepare", "mini")
    run(tmp_path, "prepare", "small", units=3)
    durable.write_text(tmp_path / "shards" / "x" / "part", "12345")
    stages = [{"stage": "prepare (720p video to shards)", "hours": 2.0, "bytes": 3e9}]
    plan = {"clips": 9, "cpus": 1, "gpus": 0, "stages": stages, "verdict": ""}
    durable.write_text(tmp_path / "bench" / "20260101" / "bench.json", json.dumps({"plan": plan}))
    result = status(config)
    table = next(table for table in result.tables if table.title == "Time and room")
    row_of = {row[0]: row for row in table.rows}
    assert row_of["decoding clips"][3] == "2 h 0 min"
    assert row_of["shards on disk"][3] == "3.0 GB"
    assert result.content["bytes"]["shards"] == 5
    assert "9 clips" in table.note


@pytest.mark.parametrize("content", ["", "{}\n", "no json\n", '{"event": "began"}\n', "[1]\n"])
def test_a_log_of_which_nothing_can_be_read_is_no_job(config, tmp_path, content):
    (tmp_path / job_log.FOLDER).mkdir()
    (tmp_path / job_log.FOLDER / "train-x.jsonl").write_text(content)
    assert status(config).content["jobs"] == []


def test_an_artefact_that_cannot_be_read_is_broken(config, tmp_path):
    durable.write_text(tmp_path / "reports" / "abc" / store.META, json.dumps({"kind": "report"}))
    result = status(config)
    assert result.status == 2
    assert result.content["artefacts"]["Reports"]["unreadable"] == 1
    assert any("jobs/verify.py" in line for line in result.lines)


def test_where_there_is_no_store_that_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"store\.root"):
        status(load("mini", {"store.root": str(tmp_path / "none")}))
