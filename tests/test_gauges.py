"""Gauges and the log of a job hear what is shown, measured and ended; the board draws every gauge and no other."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from emo_ray import gauges, job_log, progress, redaction

ROOT = Path(__file__).resolve().parents[1]
BOARD = ROOT / "docs" / "grafana.json"
# A cluster of one node, whose metrics are those of this process; Ray hands them on every second.
PUBLISH = """
import time, urllib.request
import ray
from emo_ray import gauges, progress

ray.init("local", num_cpus=1, include_dashboard=False, _system_config={"metrics_report_interval_ms": 1000})
(node,) = ray.nodes()
address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def offered():
    with urllib.request.urlopen(address) as answer:
        return [line for line in answer.read().decode().splitlines() if line.startswith("ray_emo_ray_")]


def until(holds, times=1):
    answers = 0  # that hold, one after another: Ray forgets after two intervals what is not handed on again
    while answers < times:
        lines = offered()
        answers = answers + 1 if holds(" ".join(lines)) else 0
        time.sleep(0.2)
    return lines


with gauges.published("train"):
    with progress.progress("training fusion", 8, "epochs") as advance:
        progress.measured("validation_waf", 0.75, stage="training fusion")
        progress.measured("clips_per_second", 9, stage="training fusion")
        until(lambda text: "clips_per_second" in text and "validation_waf" in text, times=40)
    lines = until(lambda text: "clips_per_second" not in text)  # the stage has ended
print(*lines, sep="\\n")
"""


@pytest.mark.slow  # Ray hands figures on in its own time
def test_what_is_measured_is_offered_to_prometheus(tmp_path):
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    environment.pop("RAY_ADDRESS", None)
    code = [sys.executable, "-c", PUBLISH]
    done = subprocess.run(code, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("ray_emo_ray_validation_waf"))
    assert 'job_name="train"' in line
    assert 'stage="training fusion"' in line
    assert line.endswith(" 0.75")


def test_without_ray_nothing_is_published_and_ray_is_not_loaded():
    code = (
        "import sys\nfrom emo_ray import gauges, progress\n"
        "with gauges.published('train'):\n  progress.measured('bad_media', 1, modality='video')\n"
        "assert 'ray' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_nothing_is_published_while_another_thread_imports_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))  # as an import leaves it until it has ended
    assert not gauges._is_connected()


def calls():
    """The names of gauges that code measures, and their tags."""
    for path in (ROOT / "emo_ray").rglob("*.py"):
        for name, tags in re.findall(r'\bmeasured\("(\w+)"(.*)\)', path.read_text(encoding="utf-8")):
            yield name, set(re.findall(r"(\w+)=", tags)), path.name


def test_every_gauge_is_measured_with_its_tag_and_nothing_else_is():
    from emo_ray.stages.fitting import epoch_log

    measured = {name: tags for name, tags, _ in calls()}
    assert set(measured) | set(epoch_log._GAUGES.values()) == set(gauges.GAUGES)
    for name, tags in measured.items():
        assert (gauges.GAUGES[name].tag is None) or gauges.GAUGES[name].tag in tags, name
    assert {gauges.GAUGES[name].tag for name in epoch_log._GAUGES.values()} == {"stage"}


def test_the_board_draws_every_gauge_and_no_other():
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    drawn = {name for text in expressions for name in re.findall(r"\bray_emo_ray_(\w+)", text)}
    assert drawn == set(gauges.GAUGES)
    assert all(panel["title"] and panel["description"] for panel in board["panels"])
    places = [tuple(panel["gridPos"][side] for side in "xywh") for panel in board["panels"]]
    assert all(x + w <= 24 for x, _, w, _ in places)
    assert len(set(places)) == len(places)


def test_labels_of_the_board_are_those_of_the_gauges_and_none_of_prometheus_own():
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    labels_of = {gauges.PREFIX + name: {gauges.JOB, about.tag} - {None} for name, about in gauges.GAUGES.items()}
    for labels in labels_of.values():
        assert not labels & {"job", "instance"}  # Prometheus would set its own there, and rename ours
    for panel in board["panels"]:
        for target in panel["targets"]:
            text = target["expr"]
            (name,) = re.findall(r"\bray_(emo_ray_\w+)", text)
            grouped = set(re.findall(r"by \((\w+)\)", text))
            asked = set(re.findall(r"(\w+)=~", text)) | grouped | set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert grouped
            assert asked <= labels_of[name], text
    (choice,) = (each["query"] for each in board["templating"]["list"] if each["name"] == "job")
    assert choice.endswith(f", {gauges.JOB})")


def test_a_log_keeps_few_events_of_a_running_stage_and_all_others(tmp_path):
    log = job_log.JobLog(tmp_path, "train")
    for state, title in [("begun", "a"), ("running", "a"), ("running", "a"), ("running", "b"), ("ended", "a")]:
        log.hear("stage", {"state": state, "title": title})
    for _ in range(2):
        log.hear("said", {"text": "a"})
    events = [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]
    stages = [(event["state"], event["title"]) for event in events if event["event"] == "stage"]
    assert stages == [("begun", "a"), ("running", "b"), ("ended", "a")]
    assert sum(event["event"] == "said" for event in events) == 2


def test_a_log_holds_what_a_job_began_with_said_measured_and_ended_with(tmp_path):
    redaction.hide({"hunter2hunter2"})
    with job_log.recorded(tmp_path, "train", ["mini", "tracking.uri=http://me:hunter2hunter2@host"]) as log:
        progress.say("the password is hunter2hunter2")
        with progress.progress("decoding", 2, "clips") as advance:
            advance(2)
        progress.measured("validation_waf", 0.5, stage="training fusion")
        log.write("ended", {"status": 0, "path": "somewhere"})
    progress.say("after its end")
    text = log.path.read_text(encoding="utf-8")
    events = [json.loads(line) for line in text.splitlines()]
    assert "hunter2" not in text
    assert "after its end" not in text
    assert [event["event"] for event in events] == ["began", "said", "stage", "stage", "said", "measured", "ended"]
    assert events[0]["job"] == "train"
    assert [event["state"] for event in events if event["event"] == "stage"] == ["begun", "ended"]
    assert events[3]["done"] == 2
    times = [event["time"] for event in events]
    assert times == sorted(times)


def test_an_error_ends_a_log_and_a_log_that_cannot_be_written_ends_no_job(tmp_path):
    with pytest.raises(ValueError, match="found 3"), job_log.recorded(tmp_path, "train", []) as log:
        raise ValueError("found 3, expected 4")
    last = json.loads(log.path.read_text(encoding="utf-8").splitlines()[-1])
    assert (last["event"], last["status"], "found 3" in last["message"]) == ("failed", 2, True)
    (tmp_path / "file").touch()
    with job_log.recorded(tmp_path / "file", "train", []) as log:
        progress.say("nothing can be written below a file")
    assert not log.path.exists()
