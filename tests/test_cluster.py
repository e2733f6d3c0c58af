"""A local cluster and its processes: signals, tokens, actors that die, and the settings that they get."""

import json
import os
import signal
import stat
import warnings
from types import SimpleNamespace

import psutil
import pytest
from fresh_process import answers_of, process_of

from emo_ray import cluster
from emo_ray.config import load

LOCAL = """
import json, signal, threading, urllib.error, urllib.request
from pathlib import Path
import ray
from emo_ray import cluster, failures, resources
from emo_ray.config import load

@ray.remote
def address():
    return os.environ["RAY_ADDRESS"]

before = signal.getsignal(signal.SIGTERM)
config = load("mini", {"cluster.num_cpus": 3, "train.use_gpu": "yes"})
if STARTED_WITHOUT:
    cluster.connect(config)  # as a job does that has clips to decode before it knows more
    (before_that,) = cluster._session
cluster.connect(config, dashboard=True)
cluster.connect(config, dashboard=True)
if STARTED_WITHOUT:
    assert cluster._session != [before_that]
    assert not before_that.exists()
try:
    use_gpu = resources.use_gpu(load("mini", {"train.use_gpu": "yes"}), 1000)
except ValueError as error:
    use_gpu = str(error)
answers.append({
    "cpus": cluster.cpus(), "dashboard": cluster.has_dashboard(), "use_gpu": use_gpu,
    "handler": signal.getsignal(signal.SIGTERM) == before,
    "actors": [resources.actor_count(n, 0) for n in (1, 5, 500)],
    "address": ray.get(address.remote()), "expected": ray.get_runtime_context().gcs_address,
})
url = ray.init(ignore_reinit_error=True).dashboard_url
try:
    jobs = urllib.request.urlopen(f"http://{url}/api/jobs/").status
except urllib.error.HTTPError as error:
    jobs = error.code
answers[-1] |= {"url": url, "jobs": jobs}
(folder,) = cluster._session
assert folder.is_dir()

@ray.remote
def stopped_by(pid):
    os.kill(pid, signal.SIGTERM)
    threading.Event().wait(60)

failures.catch_signals()
try:
    ray.get(stopped_by.remote(os.getpid()))
except BaseException as error:
    answers[-1]["stopped"] = failures.failure_of(error, None).status

def use_gpus(processes):
    try:
        return resources.use_gpu(config, processes)
    except ValueError as error:
        return str(error)

cluster._session.clear()  # as for a process that joins the cluster
answers[-1]["cannot_grow"] = use_gpus(3)
growing = {"max_workers": 2, "available_node_types": {"gpu": {"resources": {"GPU": 2}, "max_workers": 2}}}
(Path.home() / "ray_bootstrap_config.yaml").write_text(json.dumps(growing))
answers[-1]["may_grow"] = [use_gpus(3), use_gpus(5)]
cluster._session.append(folder)
cluster.leave(keep_logs=False)
cluster.leave(keep_logs=False)
assert not ray.is_initialized()
assert not folder.exists()
"""

# An actor dies once, at its third row.
KILL = """
import pathlib, signal
import ray.data
from emo_ray import cluster, failures, resources
from emo_ray.config import load

class Adder:
    def __init__(self, number):
        self.number = number

    def __call__(self, row):
        killed = pathlib.Path(row["folder"]) / "killed"
        if row["i"] == 3 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"sum": row["i"] + self.number}

cluster.connect(load("mini", {"cluster.num_cpus": 2}))
rows = [{"i": i, "folder": os.getcwd()} for i in range(6)]
pool = {"compute": ray.data.ActorPoolStrategy(min_size=2, max_size=2), "num_cpus": 0.5}
added = ray.data.from_items(rows, override_num_blocks=6).map(Adder, fn_constructor_args=(10,), **pool)
answers.append(sorted(row["sum"] for row in added.iter_rows()))

# A task and an actor whose process dies every time, and a task and an actor's constructor with a bug.
class Killer:
    def __call__(self, row):
        os.kill(os.getpid(), signal.SIGKILL)

def kill(row):
    os.kill(os.getpid(), signal.SIGKILL)

def divide(row):
    return {"x": 1 / 0}

class Divider(Killer):
    def __init__(self):
        1 / 0

assert 0 < resources.task_resources()["max_retries"] < 100
assert 0 < resources.actor_resources(load("mini"))["max_task_retries"] < 100
for work, options in [
    (kill, {"max_retries": 1}), (Killer, {"concurrency": 1, "max_restarts": 1, "max_task_retries": 1}), (divide, {}),
    (Divider, {"concurrency": 1}),
]:
    try:
        ray.data.range(1).map(work, num_cpus=0.5, **options).take_all()
    except Exception as error:
        failure = failures.failure_of(error, pathlib.Path(os.getcwd()))
        answers.append(failure and [failure.message, failure.status])
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The process that ran `KILL`, and its answers."""
    home = tmp_path_factory.mktemp("killed")
    process = process_of(KILL, home, RAY_AUTH_MODE="disabled")
    assert (home / "killed").exists()
    lines = process.stdout.splitlines()  # Ray prints among them that workers died
    return process, json.loads(next(line for line in lines if line.startswith("[[")))


@pytest.mark.slow  # the cluster that it takes starts in 24 s; make chaos kills actors of real jobs
def test_an_actor_of_ray_data_that_dies_is_replaced_and_ray_foresees_no_trouble(killed):
    process, answers = killed
    assert answers[0] == [10, 11, 12, 13, 14, 15]
    assert "constructor arguments" not in process.stdout + process.stderr


@pytest.mark.slow  # the cluster that it takes starts in 24 s; make chaos kills actors of real jobs
def test_work_that_kills_its_process_every_time_ends_with_a_message(killed):
    _, (_, task, actor, bug, bug_of_an_actor) = killed
    for message, status in (task, actor):
        assert status == 2
        assert "a worker process has died" in message
        assert "cluster.num_cpus" in message
    assert bug is None
    assert bug_of_an_actor is None


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["at once", "again"])
def with_dashboard(request, tmp_path_factory):
    """What a local cluster with a dashboard answers, and the home folder of its user. Slow is to start it twice."""
    home = tmp_path_factory.mktemp("home")
    return answers_of(f"STARTED_WITHOUT = {request.param}\n{LOCAL}", home, RAY_AUTH_MODE="token")[0], home


def test_a_local_cluster_is_started_again_where_a_dashboard_is_demanded_and_it_has_none(monkeypatch, tmp_path):
    """Ray's functions are replaced by some that note how they are called; `with_dashboard` starts a real cluster."""
    import ray

    started = []

    def init(address="", ignore_reinit_error=False, **options):
        if not ignore_reinit_error:
            folder = tmp_path / f"session {len(started)}"
            folder.mkdir()
            started.append(options | {"address": address, "folder": folder, "ends": False})
        url = "127.0.0.1:8265" if started[-1]["include_dashboard"] else None
        return SimpleNamespace(dashboard_url=url, address_info={"session_dir": str(started[-1]["folder"])})

    monkeypatch.setattr(cluster, "_session", [])
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: bool(started) and not started[-1]["ends"])
    monkeypatch.setattr(ray, "shutdown", lambda: started[-1].update(ends=True))
    monkeypatch.setattr(psutil.Process, "children", lambda self, recursive: [])  # those of other tests
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = load("mini", {"cluster.num_cpus": 3})
    for dashboard in (False, False, True, True, False):
        cluster.connect(config, dashboard)
    assert [(s["address"], s["num_cpus"], s["include_dashboard"]) for s in started] == [
        ("local", 3, False),
        ("local", 3, True),
    ]
    assert ("dashboard_host" not in started[0], started[1]["dashboard_host"]) == (True, "127.0.0.1")
    assert [(s["ends"], s["folder"].exists()) for s in started] == [(True, False), (False, True)]
    cluster.leave(keep_logs=True)
    assert started[1]["ends"]
    assert started[1]["folder"].exists()


def test_a_local_cluster_has_the_cpus_that_the_config_names(with_dashboard):
    assert with_dashboard[0]["cpus"] == 3
    assert with_dashboard[0]["dashboard"]


def test_a_local_cluster_does_not_grow_whether_it_has_a_dashboard_or_not(with_dashboard):
    assert "train.use_gpu=yes: found" in with_dashboard[0]["use_gpu"]
    assert "expected 1000" in with_dashboard[0]["use_gpu"]
    assert with_dashboard[0]["actors"] == [1, *[min(3, os.cpu_count())] * 2]


def test_a_job_waits_for_gpus_that_may_come_and_ends_where_none_can(with_dashboard):
    answers = with_dashboard[0]
    assert "train.use_gpu=yes" in answers["cannot_grow"]
    assert "expected 3" in answers["cannot_grow"]
    waits, ends = answers["may_grow"]
    assert waits is True
    assert "may grow to 4" in ends
    assert "expected 5" in ends


def test_signals_are_the_jobs_and_not_rays(with_dashboard):
    assert with_dashboard[0]["handler"]


def test_a_job_that_waits_for_ray_ends_at_sigterm(with_dashboard):
    assert with_dashboard[0]["stopped"] == 128 + signal.SIGTERM


def test_workers_know_the_address_of_their_cluster(with_dashboard):
    assert with_dashboard[0]["address"] == with_dashboard[0]["expected"]


def test_the_dashboard_of_a_local_cluster_is_this_machines_and_takes_no_job_without_the_token(with_dashboard):
    assert with_dashboard[0]["url"].startswith("127.0.0.1:")
    assert with_dashboard[0]["jobs"] == 401


def test_the_token_of_a_local_cluster_is_its_users_alone(with_dashboard):
    assert stat.S_IMODE((with_dashboard[1] / ".ray" / "auth_token").stat().st_mode) == 0o600


def test_the_token_is_looked_for_where_ray_is_told_to_keep_it(tmp_path, monkeypatch):
    token = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    cluster._hide_token()
    assert not token.exists()
    token.write_text("secret")
    token.chmod(0o644)
    cluster._hide_token()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() == "secret"


def test_importing_it_loads_no_large_library(tmp_path):
    code = "import sys; from emo_ray import cluster, tracking; answers += sorted(sys.modules)"
    loaded = set(answers_of(code, tmp_path))
    assert not loaded & {"ray", "mlflow", "torch", "sklearn"}


def test_settings_of_the_user_win(tmp_path):
    names = sorted(cluster._ENVIRONMENT)
    code = f"from emo_ray import cluster; answers += [os.environ[name] for name in {names}]"
    assert answers_of(code, tmp_path) == [cluster._ENVIRONMENT[name] for name in names]
    assert answers_of(code, tmp_path, **dict.fromkeys(names, "7")) == ["7"] * len(names)


@pytest.mark.parametrize(("value", "v2"), [("0", False), ("1", True), ("TRUE", True)])
def test_the_users_choice_of_ray_datas_reader_wins(monkeypatch, value, v2):
    """Over what Ray Data has read at its import, which comes first here."""
    import ray.data

    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context, "use_datasource_v2", not v2)
    monkeypatch.setenv("RAY_DATA_USE_DATASOURCE_V2", value)
    with warnings.catch_warnings():
        cluster._configure_data()
    assert context.use_datasource_v2 == v2


@pytest.mark.parametrize("niceness", [0, 7, 18])
def test_a_worker_has_rays_priority_or_a_lower_one(tmp_path, niceness):
    code = f"from emo_ray import cluster; os.nice({niceness}); cluster.as_a_worker(); answers.append(os.nice(0))"
    assert answers_of(code, tmp_path) == [max(15, min(19, os.nice(0) + niceness))]
