"""Tracking: what a run holds, that no run exists twice, and that no training is lost to a server that is away."""

import json
import math
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from emo_ray import store, tracking
from emo_ray.config import Config, flatten, load, override
from emo_ray.data import manifest
from emo_ray.data.manifest import Clip
from emo_ray.stages.train import train
from emo_ray.tracking import description

SECRET = "not-to-be-seen"
EPOCHS = [{"epoch": i, "train_loss": 1.0 / (i + 1), "val_waf": 0.1 * i} for i in range(4)]
KEY = "0123456789abcdef"


def config_of(tracking_uri=None, **changes):
    return load("mini", {"tracking.uri": tracking_uri, **changes})


def logged(client, key=KEY):
    """The one run with a key, and its metrics as lists of (step, value)."""
    experiment = client.get_experiment_by_name("emo_ray")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`emo_ray.key` = '{key}'")
    names = sorted(run.data.metrics)
    return run, {n: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, n)] for n in names}


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A folder with a database of MLflow's, which takes seconds to make."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("database")
    MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder


@pytest.fixture
def root(database, tmp_path):
    """A store with an empty database in it."""
    (tmp_path / "mlflow.db").write_bytes((database / "mlflow.db").read_bytes())
    return tmp_path


@pytest.fixture
def client(root):
    """MLflow's own view of that store."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")


def test_a_run_holds_parameters_epochs_tags_and_files(root, client, tmp_path):
    folder = tmp_path / "files"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file.txt").write_text("content")
    run = tracking.open_run(config_of(), root, KEY, "a name")
    with run.running():
        assert logged(client)[0].info.status == "RUNNING"
        for metrics in EPOCHS:
            run.epoch("fusion", metrics)
        run.tag("state", "complete")
        run.artifacts(folder, "model")
    found, metrics = logged(client)
    assert (found.info.status, found.info.run_name, found.data.tags["state"]) == ("FINISHED", "a name", "complete")
    assert metrics == {f"fusion/{n}": [(e["epoch"], e[n]) for e in EPOCHS] for n in ("train_loss", "val_waf")}
    assert [item.path for item in client.list_artifacts(found.info.run_id, "model/inner")] == ["model/inner/file.txt"]


def test_a_run_records_the_load_of_the_machine_where_that_is_asked_for(root, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    for is_asked in (False, True):
        run = tracking.open_run(config_of(**{"tracking.system_metrics": is_asked}), root, KEY, "a name")
        with run.running():
            run.epoch("fusion", EPOCHS[0])
            while is_asked and not any(name.startswith("system/") for name in logged(client)[1]):
                pass
        found, metrics = logged(client)
        assert found.info.status == "FINISHED"
        assert any(name.startswith("system/cpu") for name in metrics) == is_asked


def test_parameters_are_the_main_ones_those_searched_and_those_that_differ(root, client):
    changes = {"fusion.dropout": 0.125, "data.manifest": "/a/secret/place/clips.csv", "store.root": "/a/place/store"}
    changes |= {"tune.space": {"fusion.weight_decay": {"uniform": [0.0, 1.0]}}}
    config = config_of(**changes)
    tracking.open_run(config, root, KEY, "a name").finish()
    params = logged(client)[0].data.params
    flat, defaults = flatten(config), flatten(Config())
    assert {"seed", "train.epochs", "fusion.dropout", "fusion.weight_decay"} <= set(params)
    assert "fusion.hidden" not in params or flat["fusion.hidden"] != defaults["fusion.hidden"]
    assert params["data.manifest"] == "clips.csv"
    assert all(params[name] == str(flat[name]) for name in params if name != "data.manifest")
    assert len(params) < len(flat) / 2
    assert not any("place" in value for value in params.values())


def test_a_person_reads_what_was_run_on_what(root, client, monkeypatch):
    monkeypatch.setattr(description, "_recipe", "")
    tracking.began("recipes/my_recipe.yaml")
    config = config_of(**{"data.manifest": "/a/place/meld/manifest.csv"})
    run = tracking.open_run(config, root, KEY, tracking.title(config, "train", KEY))
    for _ in range(2):
        run.dataset(config, "abc", {"clips": 3, "splits": {"train": 3}})
    run.finish()
    found, _ = logged(client)
    assert re.fullmatch(r"train my_recipe meld \d{4}-\d\d-\d\d 012345", found.info.run_name)
    tags = found.data.tags
    assert (tags["emo_ray.recipe"], tags["emo_ray.corpus"]) == ("my_recipe", "meld")
    assert re.fullmatch("[0-9a-f]{40}", tags.get("mlflow.source.git.commit", "0" * 40))
    assert "meld" in tags["mlflow.note.content"]
    assert "emo_ray" in tags["mlflow.source.name"]
    assert not any("/place" in value for value in tags.values())
    (dataset,) = (item.dataset for item in found.inputs.dataset_inputs)
    assert (dataset.name, dataset.digest) == ("meld", "abc")
    assert json.loads(dataset.profile)["clips"] == 3


@pytest.mark.parametrize(
    ("manifest_path", "name"),
    [(None, "synthetic"), ("a/meld/clips.csv", "meld"), ("my_clips.csv", "my_clips"), ("videos/", "videos"),
     ("clips.csv", "clips"), ("/data/clips", "clips")],
)  # fmt: skip
def test_a_corpus_is_called_by_its_table_or_folder(manifest_path, name):
    assert description.corpus_of(config_of(**{"data.manifest": manifest_path})) == name


def files_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_copied_or_moved_store_logs_into_itself(root, tmp_path_factory, is_moved):
    from mlflow import MlflowClient
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    (root / "model").mkdir()
    (root / "model" / "first.txt").write_text("first")
    old = root / "old'store %_"
    old.mkdir()
    (root / "mlflow.db").rename(old / "mlflow.db")
    run = tracking.open_run(config_of(), old, KEY, "first")
    run.artifacts(root / "model", "first")
    run.finish()
    new = tmp_path_factory.mktemp("elsewhere") / "new store"
    shutil.copytree(old, new)
    if is_moved:
        shutil.rmtree(old)
    before = files_of(old)
    _artifact_repos_cache.clear()  # the next job is another process
    for key in (KEY, "another"):  # the run that was copied goes on, and one begins
        run = tracking.open_run(config_of(), new, key, "second")
        run.artifacts(root / "model", "second")
        run.finish()
    assert files_of(old) == before
    client = MlflowClient(tracking_uri=f"sqlite:///{new}/mlflow.db")
    for key, names in ((KEY, ["first", "second"]), ("another", ["second"])):
        found, _ = logged(client, key)
        assert found.info.artifact_uri.startswith(new.as_uri())
        assert [item.path for item in client.list_artifacts(found.info.run_id)] == names
    assert len(list((new / "mlartifacts").rglob("first.txt"))) == 3
    assert old.exists() is not is_moved


def test_a_run_is_found_again_and_keeps_what_it_has(root, client):
    first = tracking.open_run(config_of(**{"fusion.dropout": 0.1}), root, KEY, "first")
    first.epochs([("fusion", metrics) for metrics in EPOCHS[:2]])
    first.finish("KILLED")
    again = tracking.open_run(config_of(**{"fusion.dropout": 0.2}), root, KEY, "again")
    assert logged(client)[0].info.status == "RUNNING"
    again.epochs([("fusion", metrics | {"train_loss": 9.0}) for metrics in EPOCHS])
    again.finish()
    found, metrics = logged(client)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "first")
    assert found.data.params["fusion.dropout"] == "0.1"
    assert metrics["fusion/train_loss"] == [(0, 1.0), (1, 0.5), (2, 9.0), (3, 9.0)]


def test_other_keys_are_other_runs_and_children_are_inside_their_parent(root, client):
    parent = tracking.open_run(config_of(), root, KEY, "parent")
    for name in ("a", "b"):
        tracking.open_run(config_of(), root, name, name, parent).finish()
        tracking.open_run(config_of(), root, name, name, parent).finish()
    assert "mlflow.parentRunId" not in logged(client)[0].data.tags
    for name in ("a", "b"):
        assert logged(client, name)[0].data.tags["mlflow.parentRunId"] == logged(client)[0].info.run_id


def test_an_epoch_is_logged_once_in_its_phase(root, client):
    run = tracking.open_run(config_of(), root, KEY, "name")
    for phase in ("emovclip", "fusion", "emovclip"):
        run.epoch(phase, EPOCHS[0])
    run.epochs([("fusion", metrics) for metrics in (*EPOCHS, *EPOCHS)])
    metrics = logged(client)[1]
    assert [step for step, _ in metrics["emovclip/train_loss"]] == [0]
    assert [step for step, _ in metrics["fusion/train_loss"]] == [0, 1, 2, 3]


def test_what_is_not_finite_is_left_out(root, client):
    tracking.open_run(config_of(), root, KEY, "name").epoch(
        "fusion", {"epoch": 0, "train_loss": 1.0, "val_waf": math.nan, "val_uar": math.inf}
    )
    assert list(logged(client)[1]) == ["fusion/train_loss"]


def test_metrics_without_epochs_are_logged_when_they_change(root, client):
    for values in ({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 3.0}, {"a": 1.0, "b": 3.0}):
        tracking.open_run(config_of(), root, KEY, "name").metrics(values)
    metrics = logged(client)[1]
    assert metrics["a"] == [(0, 1.0)]
    assert sorted(metrics["b"]) == [(0, 2.0), (0, 3.0)]


def test_many_epochs_go_in_several_requests(root, client):
    """More values than one request may hold, which ends inside an epoch."""
    wide = [{"epoch": i, "train_loss": 1.0} | {f"m{j}": float(i) for j in range(30)} for i in range(40)]
    tracking.open_run(config_of(), root, KEY, "name").epochs([("fusion", metrics) for metrics in wide])
    metrics = logged(client)[1]
    assert len(metrics) == 31
    assert all([step for step, _ in values] == list(range(40)) for values in metrics.values())


def test_long_parameters_are_cut(root, client):
    names = [f"class-{i:03d}" for i in range(100)]
    tracking.open_run(config_of(**{"data.labels": names}), root, KEY, "name")
    value = logged(client)[0].data.params["data.labels"]
    assert len(value) == 500
    assert value.endswith("...")
    assert str(names).startswith(value.removesuffix("..."))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_run_whose_block_fails_has_failed(root, client, error):
    run = tracking.open_run(config_of(), root, KEY, "name")
    with pytest.raises(error), run.running():
        raise error
    assert logged(client)[0].info.status == "FAILED"


def test_files_are_copied_once(root, client, tmp_path):
    for text in ("first", "second"):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / "file.txt").write_text(text)
        tracking.open_run(config_of(), root, KEY, "name").artifacts(tmp_path / "files", "model")
    found, _ = logged(client)
    assert Path(client.download_artifacts(found.info.run_id, "model/file.txt", tmp_path)).read_text() == "first"


def test_the_command_shows_the_store_or_names_the_setting(root):
    assert f"sqlite:///{root}/mlflow.db" in tracking.command(config_of(), root)
    assert "tracking.uri" in tracking.command(config_of(f"http://me:{SECRET}@127.0.0.1"), root)
    assert SECRET not in tracking.command(config_of(f"http://me:{SECRET}@127.0.0.1"), root)


def test_nothing_is_recorded_where_tracking_is_off(tmp_path):
    config = config_of(**{"tracking.enabled": False})
    run = tracking.open_run(config, tmp_path, KEY, "run")
    with run.running():
        run.epoch("fusion", EPOCHS[0])
        run.metrics({"waf": 0.5})
        run.tag("state", "complete")
        run.artifacts(tmp_path, "files")
        tracking.open_run(config, tmp_path, "child", "child", parent=run).finish()
    assert list(tmp_path.iterdir()) == []
    assert "tracking.enabled" in tracking.command(config, tmp_path)


# A server that is away


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_is_away_at_the_start_is_an_error_that_comes_soon(tmp_path):
    port, begun_s = free_port(), time.monotonic()
    with pytest.raises(ValueError, match=rf"tracking.uri: found http://127.0.0.1:{port} .*refused") as caught:
        tracking.check(config_of(f"http://me:{SECRET}@127.0.0.1:{port}"), tmp_path)
    assert time.monotonic() - begun_s < 30  # MLflow's own patience is four minutes
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__  # a traceback would hold MLflow's message, and that the address


class NoMlflow(BaseHTTPRequestHandler):
    """A web server that knows nothing of MLflow."""

    def do_GET(self):
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, *args):
        pass


def test_a_server_of_something_else_is_an_error(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), NoMlflow) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        with pytest.raises(ValueError, match=r"tracking.uri: found http://127.0.0.1:\d+ .*404"):
            tracking.check(config_of(f"http://127.0.0.1:{server.server_port}"), tmp_path)
        server.shutdown()


class Silent(BaseHTTPRequestHandler):
    """A server that accepts every request and never ends its answer, or never begins one."""

    def do_GET(self):
        if self.server.drips:
            self.send_response(200)
            self.end_headers()
        while not self.server.is_over.wait(0.05):
            if self.server.drips:
                self.wfile.write(b" ")

    do_POST = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture(params=["never begins", "never ends"])
def silent(request, monkeypatch):
    """The address of a server that accepts and does not answer, for a job that waits for a second."""
    monkeypatch.setattr(tracking.server, "_FIRST_ANSWER_S", {"http": 1.0})
    monkeypatch.setattr(tracking.server, "_ANSWER_S", 1.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        server.drips, server.is_over, server.handle_error = request.param == "never ends", Event(), lambda *_: None
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://me:{SECRET}@127.0.0.1:{server.server_port}"
        server.is_over.set()
        server.shutdown()


def test_a_server_that_never_answers_is_an_error_that_comes_soon(silent, tmp_path):
    begun_s = time.monotonic()
    with pytest.raises(ValueError, match=r"tracking.uri: found http://127.0.0.1:\d+ .*no answer within 1 s") as caught:
        tracking.check(config_of(silent), tmp_path)
    assert time.monotonic() - begun_s < 5
    assert SECRET not in str(caught.value)


def test_a_job_whose_server_never_answers_ends_and_keeps_what_is_missed(silent, tmp_path, capsys):
    begun_s = time.monotonic()
    (tmp_path / "files").mkdir()
    whole_job(config_of(silent), tmp_path, KEY, tmp_path / "files")
    tracking.deliver(config_of(silent), tmp_path)
    assert time.monotonic() - begun_s < 8
    told = capsys.readouterr().err
    assert told.count("does not answer") == 1
    assert told.count("has missed 13 entries") == 1
    (kept,) = (tmp_path / "tracking").glob("*/*.jsonl")
    assert len(kept.read_text().splitlines()) == 13
    assert SECRET not in told + kept.read_text()


def test_a_stopped_job_waits_a_moment_for_its_server(silent, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.server, "_ANSWER_S", 60.0)
    monkeypatch.setattr(tracking.server, "_FIRST_ANSWER_S", {"http": 0.5})
    monkeypatch.setattr(tracking.server, "_SHORTEST_PAUSE_S", 0.0)
    monkeypatch.setattr(tracking.server, "_LAST_WORD_S", 0.2)
    run = tracking.open_run(config_of(silent), tmp_path, KEY, "name")
    monkeypatch.setattr(tracking.server, "_FIRST_ANSWER_S", {"http": 60.0})
    begun_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt), run.running():
        raise KeyboardInterrupt
    assert time.monotonic() - begun_s < 5


@pytest.mark.parametrize(
    "address",
    [
        "mlruns",
        "./mlruns",
        "file:/mlruns",
        "file:///tmp/mlruns",
        f"me:{SECRET}@host:5000",
        f"htp://me:{SECRET}@host",
        f"ftp://me:{SECRET}@host/mlruns",
        "nodb+x:///a.db",
        "s3://bucket/mlruns",
        "sqlite:runs.db",
    ],
)
def test_an_address_that_mlflow_cannot_use_is_refused_as_a_setting(address):
    with pytest.raises(ValueError, match=r"tracking\.uri: found .* expected") as caught:
        config_of(address)
    assert SECRET not in str(caught.value)
    assert address.rpartition("@")[2] in str(caught.value)


def test_an_address_is_tried_before_anything_is_trained(root):
    address = "sqlite+nodriver:///a.db"
    with pytest.raises(ValueError, match=r"tracking\.uri: found sqlite.* expected"):
        tracking.check(config_of(address), root)
    tracking.check(config_of(address, **{"tracking.enabled": False}), root)
    tracking.check(config_of(), root)


@pytest.mark.parametrize("name", ["a#b ü", "100%", "+ &"])
def test_the_database_lies_in_the_store_whatever_its_name(database, tmp_path, name):
    root, files = tmp_path / name, tmp_path / "files"
    root.mkdir()
    files.mkdir()
    (files / "note.txt").write_text("content")
    (root / "mlflow.db").write_bytes((database / "mlflow.db").read_bytes())
    run = tracking.open_run(config_of(), root, KEY, "name")
    run.artifacts(files, "notes")
    run.finish()
    (note,) = tmp_path.rglob("*/notes/note.txt")
    assert note.is_relative_to(root / "mlartifacts")
    assert {path.name for path in tmp_path.iterdir()} == {name, "files"}
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        assert connection.execute("select status from runs").fetchall() == [("FINISHED",)]


@pytest.fixture(scope="module")
def server(database, tmp_path_factory):
    """A real MLflow server that can be cut off: its address with credentials, and a function that controls it."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes((database / "mlflow.db").read_bytes())
    command = [sys.executable, str(Path(__file__).with_name("tracking_server.py")), f"{folder}/mlflow.db"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"{folder}/artifacts"], stdout=subprocess.PIPE, stderr=log, text=True)
    port = int(process.stdout.readline())

    def control(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as reply:
            return int(reply.read())

    yield f"http://me:{SECRET}@127.0.0.1:{port}", control, folder / "mlflow.db"
    process.kill()
    process.communicate()


@pytest.fixture
def cut(server, tmp_path, monkeypatch):
    """A function that cuts the server off after some more requests; asked at every write, with no second attempt."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking.server, "_SHORTEST_PAUSE_S", 0.0)
    monkeypatch.setattr(tracking.server, "_WAITING_SHARE", math.inf)
    tracking.runs._server.cache_clear()
    yield lambda answers: server[1](f"answer/{answers}")
    server[1](f"answer/{sys.maxsize}")


def whole_job(config, root, key, files):
    """A job with a run inside its run."""
    run = tracking.open_run(config, root, key, "job")
    with run.running():
        for metrics in EPOCHS[:2]:
            run.epoch("fusion", metrics)
        child = tracking.open_run(config, root, f"{key}-child", "child", run)
        child.epochs([("fusion", metrics) for metrics in EPOCHS])
        child.finish("KILLED")
        for metrics in EPOCHS[2:]:
            run.epoch("fusion", metrics)
        run.artifacts(files, "model")
        run.metrics({"score": 0.5})


@pytest.mark.parametrize("answers", [0, 3, 8, 11, 14, 17, 20, 23])
def test_an_outage_costs_nothing_and_is_told_of_once(server, cut, tmp_path, capsys, answers):
    """The server answers some requests, none where it is away at the start, and then none until the job's last."""
    from mlflow import MlflowClient

    address, control, _ = server
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "file.txt").write_text("content")
    key, before = f"outage-{answers}", control("seen")
    cut(answers)
    whole_job(config_of(address), tmp_path, key, tmp_path / "files")
    tracking.deliver(config_of(address), tmp_path)
    assert control("seen") - before > answers
    told = capsys.readouterr().err
    assert told.count("does not answer") == 1
    assert told.count("has missed") == 1
    assert list((tmp_path / "tracking").glob("*/*.jsonl"))
    cut(sys.maxsize)
    tracking.runs._server(address, tmp_path, None).flush()
    assert "answers again" in capsys.readouterr().err
    client = MlflowClient(tracking_uri=address)
    (run, metrics), (child, child_metrics) = logged(client, key), logged(client, f"{key}-child")
    values = {f"fusion/{n}": [(e["epoch"], e[n]) for e in EPOCHS] for n in ("train_loss", "val_waf")}
    assert metrics == values | {"score": [(0, 0.5)]}
    assert child_metrics == values
    assert (run.info.status, child.info.status) == ("FINISHED", "KILLED")
    assert child.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert run.data.params["fusion.dropout"] == child.data.params["fusion.dropout"]
    assert [item.path for item in client.list_artifacts(run.info.run_id, "model")] == ["model/file.txt"]
    assert not list((tmp_path / "tracking").glob("*/*"))


# A job whose server goes away after its first epoch, and that is killed or ends, after some lines of its file.
MISSES = """
import os, sys, urllib.request
from pathlib import Path
from emo_ray import tracking
from emo_ray.config import load

address, root, end = sys.argv[1:]
config, root = load("mini", {"tracking.uri": address}), Path(root)
run = tracking.open_run(config, root, "missing", "name")
epochs = [{"epoch": i, "train_loss": 1.0 / (i + 1)} for i in range(4)]
run.epoch("fusion", epochs[0])
urllib.request.urlopen(f"http://{address.partition('@')[2]}/answer/0").read()
for metrics in epochs[1:]:
    run.epoch("fusion", metrics)
run.tag("word", "Gl\u00fcck")
if end == "ends":
    run.finish()
    tracking.deliver(config, root)
    assert tracking.runs._server.cache_info().currsize == 1
else:
    (kept,) = root.glob("tracking/*/*.jsonl")
    with kept.open("a") as file:
        file.write('{"kind": "ta')
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("end", ["ends", "killed"])
def test_what_a_job_could_not_send_is_sent_by_the_next_of_its_store(server, cut, tmp_path, capsys, end):
    from mlflow import MlflowClient

    address, _, _ = server
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", MISSES, address, str(tmp_path), end]
    first = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (first.returncode, first.stderr.count("has missed")) == ((0, 1) if end == "ends" else (-9, 0)), first.stderr
    config = config_of(address)
    tracking.deliver(config, tmp_path)
    assert "does not answer" in capsys.readouterr().err  # and all is kept
    cut(sys.maxsize)
    tracking.deliver(config, tmp_path)
    run, metrics = logged(MlflowClient(tracking_uri=address), "missing")
    assert [step for step, _ in metrics["fusion/train_loss"]] == [0, 1, 2, 3]
    assert run.data.tags["word"] == "Gl\u00fcck"
    assert run.info.status == ("FINISHED" if end == "ends" else "RUNNING")
    assert not list((tmp_path / "tracking").glob("*/*"))
    MlflowClient(tracking_uri=address).delete_run(run.info.run_id)  # the same key serves both cases


def test_a_server_that_is_away_is_left_alone_for_a_while(server, cut, tmp_path, monkeypatch):
    address, control, _ = server
    run = tracking.open_run(config_of(address), tmp_path, "pause", "name")
    cut(0)
    monkeypatch.setattr(tracking.server, "_SHORTEST_PAUSE_S", 60.0)
    run.epoch("fusion", EPOCHS[0])
    before = control("seen")
    for metrics in EPOCHS:
        run.epoch("fusion", metrics)
    assert control("seen") == before


def test_what_mlflow_refuses_is_told_and_the_rest_is_logged(server, cut, tmp_path, capsys):
    from mlflow import MlflowClient

    address, _, _ = server
    run = tracking.open_run(config_of(address), tmp_path, "refused", "name")
    run.tag("a" * 5000, "value")
    run.metrics({"score": 0.5})
    assert capsys.readouterr().err.count("refused an entry") == 1
    assert logged(MlflowClient(tracking_uri=address), "refused")[1] == {"score": [(0, 0.5)]}


def test_credentials_are_seen_nowhere(server, cut, tmp_path, capfd):
    address, _, database = server
    (tmp_path / "files").mkdir()
    whole_job(config_of(address), tmp_path, "secret", tmp_path / "files")
    cut(3)
    whole_job(config_of(address), tmp_path, "secret-2", tmp_path / "files")
    cut(sys.maxsize)
    tracking.runs._server(address, tmp_path, None).flush()
    printed = capfd.readouterr()
    assert SECRET not in printed.out + printed.err
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in database.parent.glob("mlflow.db*"))


# Training


@pytest.fixture(scope="module")
def corpus(ray_session, tmp_path_factory):
    """A config of a job that takes a second: sentences with labels, two epochs, this process."""
    folder = tmp_path_factory.mktemp("sentences")
    clips = [
        Clip(f"{split}-{i}", text=f"{word} number {i}", label=word, split=split)
        for split, count in (("train", 12), ("validation", 6))
        for i, word in enumerate(("glad", "calm", "upset") * (count // 3))
    ]
    manifest.write(folder / "clips.parquet", clips)
    changes = {"data.manifest": str(folder / "clips.parquet"), "store.root": str(folder / "store")}
    small = {"train.epochs": 3, "train.num_workers": 0, "fusion.hidden": 8, "text.ngram_features": 64}
    return load("mini", changes | small)


def test_no_training_begins_while_the_server_is_away(corpus, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ValueError, match=r"tracking\.uri"):
        train(override(corpus, {"tracking.uri": f"http://127.0.0.1:{free_port()}", "seed": 1}))
    assert not list(Path(corpus.store.root).glob("checkpoints/model-*"))
    assert not list(Path(corpus.store.root).glob("train/fusion-*"))


def test_training_ends_as_ever_when_the_server_goes_away(corpus, server, cut, capsys):
    from mlflow import MlflowClient

    address, _, _ = server
    cut(7)  # experiment, run, parameters, and the first epoch
    trained = train(override(corpus, {"tracking.uri": address, "seed": 2}))
    assert store.is_complete(trained.path)
    assert [metrics["epoch"] for metrics in store.read_meta(trained.path)["history"]] == [0, 1, 2]
    assert capsys.readouterr().err.count("does not answer") == 1
    cut(sys.maxsize)
    tracking.runs._server(address, Path(corpus.store.root), None).flush()
    run, metrics = logged(MlflowClient(tracking_uri=address), trained.path.name.removeprefix("model-"))
    assert run.info.status == "FINISHED"
    assert [step for step, _ in metrics["fusion/train_loss"]] == [0, 1, 2]
