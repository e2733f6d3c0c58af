"""jobs/submit.py: what is sent, under which id, and on a real cluster how submissions join and start again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo_ray import config as configuration
from emo_ray.commands import COMMANDS
from emo_ray.config import load
from emo_ray.stages import submit

ROOT = Path(__file__).resolve().parents[2]
# A cluster of a head and a worker, which has all CPUs; it ends with this process's standard input. Each node has a
# folder of its own, as machines do: in a shared one, Ray unpacks a job's working folder anew under the running job.
CLUSTER = """
import sys
from tempfile import TemporaryDirectory
from ray.cluster_utils import Cluster
nodes = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": 0,
    "dashboard_agent_listen_port": None})  # any free port: the default one is that of the tests' shared Ray
with TemporaryDirectory() as folder:
    nodes.add_node(num_cpus=2, temp_dir=folder)
    print(nodes.head_node.webui_url, flush=True)
    sys.stdin.read()
    nodes.shutdown()
"""


def test_every_job_but_submit_can_be_submitted():
    names = set(configuration.choices("submit.job"))
    assert names == set(COMMANDS) - {"submit"}, "submit.job in emo_ray/config/cluster_settings.py lists the jobs"


def test_the_id_is_that_of_the_job_and_of_what_it_does():
    name = submit.submission_name(load("mini"))
    assert name.startswith("train-")
    elsewhere = {"submit.address": "http://head:8265", "submit.follow": False}
    assert submit.submission_name(load("mini", elsewhere)) == name
    for changes in ({"submit.job": "tune"}, {"seed": 1}, {"store.root": "/shared/other"}):
        assert submit.submission_name(load("mini", changes)) != name


@given(st.integers(0, 30), st.sampled_from(["train-ab", "tune-ab"]))
def test_numbers_follow_each_other(count, name):
    ids = {}
    for _ in range(count):
        ids[submit.next_id(name, submit._latest(name, ids))] = ""
    others = {f"{name}c": "", f"x{name}": "", f"{name}-2-3": "", "raysubmit_7": ""}
    assert len(ids) == count
    assert submit.next_id(name, submit._latest(name, ids | others)) == (name if not count else f"{name}-{count + 1}")


def test_what_is_sent_is_the_package_and_a_recipe_of_the_same_config():
    config = load("mini", {"submit.job": "tune", "seed": 5, "submit.address": "http://head:8265"})
    with submit._working_folder(config) as folder:
        assert {path.name for path in folder.iterdir()} == {"emo_ray", "submitted.yaml"}
        assert not list(folder.rglob("__pycache__"))
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 20e6
        sent = load(str(folder / "submitted.yaml"))
        assert sent.seed == 5
        assert submit.submission_name(sent) == submit.submission_name(config)
        called = [sys.executable, "-m", "emo_ray", "tune", "--help"]
        assert subprocess.run(called, cwd=folder, capture_output=True).returncode == 0
    assert not folder.exists()


def test_relative_paths_of_this_machine_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("clips.csv").touch()
    with pytest.raises(ValueError, match=r"data\.manifest: found clips\.csv"):
        submit.submit(load("mini", {"data.manifest": "clips.csv"}))


def test_where_no_cluster_answers_the_address_is_named(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match=r"submit\.address: found no cluster.*127\.0\.0\.1:9\b"):
        submit.submit(load("mini", {"submit.address": "http://127.0.0.1:9"}))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment and the address of a cluster of two nodes."""
    home = tmp_path_factory.mktemp("home")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TUNE_"))}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"  # as on machines whose Ray was started in its environment
    environment = kept | {"HOME": str(home), "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT), "PATH": path}
    environment["RAY_raylet_start_wait_time_s"] = "300"  # a busy machine takes its time
    nodes = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    address = f"http://{nodes.stdout.readline().strip()}"
    yield environment, address
    nodes.communicate()


def started(cluster, *words):
    environment, address = cluster
    command = [sys.executable, str(ROOT / "jobs" / "submit.py"), *words, f"submit.address={address}"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    with process:
        err, out = process.stderr.read(), process.stdout.read()  # one line, which fits a pipe
        return process.wait(), out.strip(), err


def until(process, word):
    """What a process says up to a line with a word."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if word in line:
            return "".join(lines)
    raise AssertionError(f"no {word!r} in:\n{''.join(lines)}")


@pytest.mark.slow
def test_a_second_submission_joins_the_first_and_one_after_its_end_starts_again(cluster, tmp_path):
    root = tmp_path / "store"
    sizes = [f"synthetic.{split}_clips=6" for split in ("train", "validation", "test", "unlabelled")]
    head = ["modalities=[audio, text]", "train.heads=1", "train.refit=false", "fusion.auto=false", "train.epochs=2"]
    words = ["train", "mini", f"store.root={root}", "train.num_workers=1", *head, *sizes]
    first = started(cluster, *words)
    said = until(first, "submitting train-")
    until(first, "Running entrypoint")
    second = started(cluster, *words)
    joined = until(second, "joining train-")
    first.send_signal(signal.SIGINT)  # while the second one watches
    status, name, err = ended(first)
    assert (status, name in said, name in joined) == (0, True, True)
    assert f"ray job stop --address {cluster[1]} {name}" in err
    status, same, err = ended(second)
    assert (status, same) == (0, name), err
    assert f"{name}: SUCCEEDED" in err
    assert list(root.glob("checkpoints/model-*/meta.json"))
    status, third, err = ended(started(cluster, *words, "--json"))
    assert (status, json.loads(third)["id"]) == (0, f"{name}-2"), err


@pytest.mark.slow
def test_a_job_runs_on_the_head_and_its_status_is_the_jobs(cluster, tmp_path):
    from ray.job_submission import JobSubmissionClient

    words = ["train", "mini", f"store.root={tmp_path}", "data.manifest=/nowhere/clips.csv"]
    status, name, err = ended(started(cluster, *words))
    assert status == 2, err
    assert "/nowhere/clips.csv" in err
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        client = JobSubmissionClient(cluster[1])
        info = client.get_job_info(name)
        nodes = client._do_request("GET", "/nodes?view=summary").json()["data"]["summary"]
    (head,) = (node["raylet"]["nodeId"] for node in nodes if node["raylet"]["isHeadNode"])
    assert (info.driver_exit_code, info.driver_node_id) == (2, head)
