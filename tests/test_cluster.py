"""The cluster as it is asked for: settings, places and keys, and what processes get on clusters of several sizes."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo_ray import cluster, resources
from emo_ray.config import load

ROOT = Path(__file__).parents[1]
SIZES = ((0, 0), (1, 0), (3, 0), (6, 2))  # CPUs and GPUs of one cluster, as nodes join it
WORKERS = (1, 2, 3, 4, 7, 60)
PARTS = (1, 3, 500)
SETTINGS = ("RAY_", "TUNE_", "OPENAI_")
# Nodes only claim their CPUs and GPUs, as nodes of any machine may. Ray Data is imported first, as stages import it.
GROW = """
import ray.data
from ray.cluster_utils import Cluster
from emo_ray import cluster, resources
from emo_ray.config import load

quiet = {"include_dashboard": False, "include_log_monitor": False}  # nobody looks at them, and each takes a process
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, **quiet})
config = load("mini", {"cluster.address": nodes.address})
cluster.connect(config)
cluster.connect(config)

def use_gpu(choice, processes):
    try:
        return resources.use_gpu(load("mini", {"train.use_gpu": choice}), processes)
    except ValueError as error:
        return str(error)

before = 0, 0
for size in SIZES:
    if size != before:
        nodes.add_node(num_cpus=size[0] - before[0], num_gpus=size[1] - before[1], **quiet)
        nodes.wait_for_nodes()
    before = size
    answers.append({
        "cpus": cluster.cpus(), "gpus": cluster.gpus(), "bytes": cluster.object_store_bytes(),
        "task": resources.task_cpus(), "workers": [[n, resources.train_worker_cpus(n)] for n in WORKERS],
        "actors": [[n, gpu, resources.actor_count(n, gpu)] for n in PARTS for gpu in (0, 1)],
        "use_gpu": {choice: [[n, use_gpu(choice, n)] for n in (1, 2, 3)] for choice in ("yes", "no", "auto")},
        "nodes": len(ray.nodes()), "dashboard": cluster.has_dashboard(),
        "v2": ray.data.DataContext.get_current().use_datasource_v2,
        "bars": ray.data.DataContext.get_current().enable_progress_bars,
    })
"""
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
cluster.connect(config)  # as a job does that has clips to decode before it knows more
cluster.connect(config, dashboard=True)
cluster.connect(config, dashboard=True)
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


def process_of(code, home, **environment):
    """A new process with no setting of this one's and its own home folder, which prints its `answers` at the end."""
    values = f"SIZES, WORKERS, PARTS = {SIZES}, {WORKERS}, {PARTS}"
    code = f"import json, os\nanswers = []\n{values}\n{code}\nprint(json.dumps(answers))"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), **environment},
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process


def answers_of(code, home, **environment):
    return json.loads(process_of(code, home, **environment).stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """What one cluster that grows answers at each of `SIZES`."""
    workers = {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}  # none has anything to do
    return answers_of(GROW, tmp_path_factory.mktemp("grown"), RAY_AUTH_MODE="disabled", **workers)


def test_resources_are_the_clusters(grown):
    assert [(answer["cpus"], answer["gpus"]) for answer in grown] == list(SIZES)
    memory = [answer["bytes"] for answer in grown]
    assert memory == sorted(set(memory))
    assert [answer["nodes"] for answer in grown] == list(range(1, len(SIZES) + 1))  # a second `connect` adds none
    assert not any(answer["dashboard"] for answer in grown)


def test_settings_of_ray_data_take_effect_although_it_was_imported_first(grown):
    assert not any(answer["v2"] or answer["bars"] for answer in grown)


def test_train_workers_leave_a_data_task_its_cpus(grown):
    for answer in grown:
        for number, cpus in answer["workers"]:
            assert 0 < cpus <= 1
            if answer["cpus"]:
                assert number * cpus <= answer["cpus"] / 2
                assert answer["cpus"] - number * cpus >= answer["task"]
            else:
                assert cpus == 1


def test_train_workers_get_a_whole_cpu_where_there_are_enough(grown):
    for answer in grown:
        for number, cpus in answer["workers"]:
            if answer["cpus"] >= 2 * number:
                assert cpus == 1


def test_several_data_tasks_run_at_once(grown):
    assert all(answer["cpus"] // answer["task"] >= 2 for answer in grown if answer["cpus"])


def test_there_are_no_more_actors_than_parts_or_cores_or_gpus(grown):
    for answer in grown:
        for parts, on_gpu, actors in answer["actors"]:
            places = answer["gpus"] if on_gpu else min(answer["cpus"], os.cpu_count())
            assert actors == max(1, min(parts, places))


def test_gpus_are_used_where_there_are_enough(grown):
    for answer in grown:
        for number, used in answer["use_gpu"]["auto"]:
            assert used == (answer["gpus"] >= number)
        assert not any(used for _, used in answer["use_gpu"]["no"])


def test_gpus_that_are_demanded_and_absent_are_an_error(grown):
    for answer in grown:
        for number, used in answer["use_gpu"]["yes"]:
            if answer["gpus"] >= number:
                assert used is True
            else:
                for word in ("train.use_gpu=yes", f"found {answer['gpus']:g}", f"expected {number}", "num_workers"):
                    assert word in used


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


@pytest.fixture(scope="module")
def with_dashboard(tmp_path_factory):
    """What a local cluster with a dashboard answers, and the home folder of its user."""
    home = tmp_path_factory.mktemp("home")
    return answers_of(LOCAL, home, RAY_AUTH_MODE="token")[0], home


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
def test_the_users_choice_of_ray_datas_reader_wins(tmp_path, value, v2):
    code = (
        "import ray.data; from emo_ray import cluster; cluster._configure_data(); "
        "answers.append(ray.data.DataContext.get_current().use_datasource_v2)"
    )
    assert answers_of(code, tmp_path, RAY_DATA_USE_DATASOURCE_V2=value) == [v2]


@pytest.mark.parametrize("niceness", [0, 7, 18])
def test_a_worker_has_rays_priority_or_a_lower_one(tmp_path, niceness):
    code = f"from emo_ray import cluster; os.nice({niceness}); cluster.as_a_worker(); answers.append(os.nice(0))"
    assert answers_of(code, tmp_path) == [max(15, min(19, os.nice(0) + niceness))]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder beside the working folder of the test."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    return tmp_path / "home"


@pytest.fixture
def submitted(monkeypatch):
    """The environment of a driver that `ray job submit` started."""
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, '{"runtime_env": {}}')


def store_root(root):
    return cluster.store_root(load("mini", {"store.root": root}))


def test_the_store_starts_at_the_working_folder(home):
    assert not cluster.in_submitted_job()
    assert store_root("artifacts/a") == home.parent / "work" / "artifacts" / "a"


def test_the_store_of_a_submitted_job_starts_at_the_home_folder(home, submitted):
    assert cluster.in_submitted_job()
    assert store_root("artifacts/a") == home / "artifacts" / "a"


@pytest.mark.parametrize("where", ["here", "submitted"])
def test_other_roots_are_the_same_wherever_a_job_runs(home, where, request):
    if where == "submitted":
        request.getfixturevalue("submitted")
    assert store_root("/shared/store") == Path("/shared/store")
    assert store_root("~/store") == home / "store"


def test_a_name_below_which_ray_reads_nothing_is_refused(home):
    with pytest.raises(ValueError, match=r"store\.root: found '.*/a\?b/c', expected"):
        cluster.store_root(load("mini", {"store.root": "a?b/c", "tracking.enabled": False}))


@pytest.mark.parametrize("root", ["my%20store", "../a%41b/c"])
def test_names_that_mean_something_else_in_an_address_are_refused_where_a_database_lies_in_the_store(home, root):
    with pytest.raises(ValueError, match=r"store\.root: found .*tracking\.uri") as error:
        store_root(root)
    assert root.rsplit("/", 1)[-1] in str(error.value)
    for change in ({"tracking.enabled": False}, {"tracking.uri": "http://127.0.0.1:5000"}):
        assert cluster.store_root(load("mini", {"store.root": root, **change})).name == Path(root).name


@pytest.mark.parametrize(
    "root",
    [
        "s3://key:hidden@bucket/store",
        "s3://bucket/a?b=c",
        "s3://",
        "hdfs://host/a",
        "file:///tmp/store",
        " ",
        "a\0b",
        "~nobody-at-all/store",
        "file/store",
    ],
)
def test_a_store_that_can_be_no_folder_is_refused(home, root):
    (home.parent / "work" / "file").touch()
    with pytest.raises(ValueError, match=r"store\.root: found .*expected") as error:
        store_root(root)
    assert type(error.value) is ValueError
    assert "hidden" not in str(error.value)


def test_a_store_in_a_bucket_is_a_folder_of_the_cache_and_needs_a_tracking_server(home):
    with pytest.raises(ValueError, match=r"tracking\.uri: found none with store\.root=s3://bucket/a"):
        store_root("s3://bucket/a")
    for change in ({"tracking.enabled": False}, {"tracking.uri": "http://127.0.0.1:5000"}):
        root = cluster.store_root(load("mini", {"store.root": "s3://bucket/a/", **change}))
        assert root == home / ".cache" / "emo_ray" / "emo_ray_buckets" / "s3" / "bucket" / "a"


def test_secrets_of_the_environment_are_values_of_variables_with_such_names(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-hush")
    monkeypatch.setenv("SHORT_KEY", "short")
    monkeypatch.setenv("KEYBOARD", "a-long-name")
    assert "hush-hush" in cluster.secrets()
    assert not {"short", "a-long-name"} & set(cluster.secrets())


def test_the_key_is_never_shown(monkeypatch):
    secret = "sk-shown-nowhere"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    key = cluster.api_key()
    assert key.get_secret_value() == secret
    for shown in (
        str(key),
        repr(key),
        f"{key}",
        f"{[key]}",
        f"{ValueError(key)!r}",
        json.dumps({"key": key}, default=str),
    ):
        assert secret not in shown


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_key_there_is_none(monkeypatch, value):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    assert cluster.api_key() is None


@given(cpus=st.floats(0, 256))
def test_a_process_has_a_thread_for_each_whole_cpu_and_at_least_one(cpus):
    threads = resources.usable_threads(cpus)
    assert threads >= 1
    assert threads == 1 or threads <= cpus < threads + 1


@pytest.fixture
def gpus(monkeypatch):
    """Let this process take its cluster for one of 16 CPUs and 4 GPUs that does not grow."""
    monkeypatch.setattr(resources, "gpus", lambda: 4.0)
    monkeypatch.setattr(resources, "cpus", lambda: 16.0)
    monkeypatch.setattr(resources, "may_grow", lambda: False)
    monkeypatch.setattr(resources, "fewest_cpus", lambda: 4.0)


def test_training_that_may_shrink_asks_for_a_range_of_workers(gpus):
    fixed = resources.train_scaling(load("mini", {"train.num_workers": 4}))
    elastic = resources.train_scaling(load("mini", {"train.num_workers": 4, "train.min_workers": 4}))
    assert (fixed["num_workers"], fixed["placement_strategy"], elastic) == (4, "PACK", fixed)
    settings = {"train.num_workers": 8, "train.min_workers": 4, "train.use_gpu": "yes", "train.placement": "spread"}
    sizes = {"emovclip.batch_size": 840, "fusion.batch_size": 840}
    scaling = resources.train_scaling(load("mini", {**settings, **sizes}))
    assert (scaling["num_workers"], scaling["use_gpu"], scaling["placement_strategy"]) == ((4, 8), True, "SPREAD")
    assert scaling["resources_per_worker"] == {"CPU": 1.0, "GPU": 1}
    scaling = resources.train_scaling(load("mini", {**settings, **sizes, "train.use_gpu": "no"}))
    assert 2 < scaling["resources_per_worker"]["CPU"] <= 3  # no second one fits on a machine, a data task does


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.num_workers": 2, "train.min_workers": 3}, "train.min_workers=3"),
        ({"train.num_workers": 4, "train.min_workers": 2}, "expected a multiple of 3"),
    ],
)
def test_the_batch_of_a_step_stays_as_large_with_any_number_of_workers(changes, message):
    with pytest.raises(ValueError, match=message):
        load("mini", changes)


def test_encoders_may_share_a_gpu_and_gpus_may_be_of_one_kind(gpus):
    config = load("mini", {"cluster.gpu_share": 0.5, "cluster.gpu_type": "L4"})
    kind = {"ray.io/accelerator-type": "L4"}
    requests = resources.actor_resources(config)
    assert (requests["num_gpus"], requests["label_selector"]) == (0.5, kind)
    assert resources.actor_count(100, requests["num_gpus"]) == 8
    assert resources.train_scaling(config)["label_selector"] == kind
    without = load("mini", {"cluster.gpu_share": 0.5, "cluster.gpu_type": "L4", "train.use_gpu": "no"})
    assert resources.actor_resources(without)["num_gpus"] == 0
    assert "label_selector" not in resources.actor_resources(without) | resources.train_scaling(without)
