"""Sweeps that are killed, whose trials have workers, that are a population, and that a server tracks."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from emo_ray import store
from emo_ray.config import dump, load, override
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.train import train
from emo_ray.stages.tune import BEST, SWEEP, tune
from emo_ray.training.metrics import objective

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SPACE = {"fusion.lr": {"loguniform": [1e-6, 3e-2]}, "fusion.dropout": {"uniform": [0.0, 0.7]}}
TRIALS, EPOCHS = 18, 4


@pytest.fixture(scope="module")
def config(few_labels):
    keys = {"tune.space": SPACE, "tune.trials": TRIALS, "train.epochs": EPOCHS, "tune.grace_epochs": 1}
    config = override(few_labels, keys | {"cluster.num_cpus": 4})
    prepare_corpus(config)
    return config


def job(config, folder):
    """jobs/tune.py in a process and with a Ray of its own."""
    recipe = folder / "sweep_recipe.yaml"
    recipe.write_text(dump(config))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_ADDRESS")}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "tune.py"), str(recipe), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
    )


def answer(process):
    """The content that the job printed. Fails with its errors where it failed."""
    try:
        out, err = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(process.communicate()[1]) from None
    assert process.returncode == 0, err[-3000:]
    return json.loads(out)


def finished(config):
    """The files, with their bytes, of trials that are over while the sweep is under way."""
    files = Path(config.store.root).glob("tune/*/trials/*.json")
    return {path: path.read_bytes() for path in files if json.loads(path.read_text())["state"]}


def kill_after(process, config, trials):
    """Send SIGKILL to the driver once this many trials are over, and return their files."""
    while len(finished(config)) < trials:
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the sweep ended before it was killed: {process.communicate()}")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    return finished(config)


def test_a_sweep_of_processes_whose_driver_is_killed_goes_on(config, tmp_path):
    """Killed when a third is over: the table holds every trial once. Stacked trials are killed by jobs/chaos.py."""
    config_here = override(config, {"store.root": str(tmp_path / "store"), "tune.bulk": "no", "tune.max_concurrent": 1})
    finished_files = kill_after(job(config_here, tmp_path), config_here, TRIALS // 3)
    assert TRIALS // 3 <= len(finished_files) < TRIALS
    before = [json.loads(content) for content in finished_files.values()]
    content = answer(job(config_here, tmp_path))
    trials = content["trials"]
    assert [trial["number"] for trial in trials] == list(range(TRIALS))
    assert len({json.dumps(trial["params"]) for trial in trials}) == TRIALS
    assert {trial["state"] for trial in trials} == {"complete", "pruned"}
    after = {json.dumps(trial["params"]): trial for trial in trials}
    for trial in before:  # Ray saves what it has begun once a second, so its number may differ
        repeated = after[json.dumps(trial["params"])]
        epochs = min(len(repeated["history"]), len(trial["history"]))
        assert repeated["history"][:epochs] == trial["history"][:epochs]


def test_trials_with_workers_of_their_own_are_stopped_early_and_give_them_back(config, tmp_path):
    """The cluster has room for one trial, so the next starts only when the one before has given its workers back."""
    keys = {"train.num_workers": 2, "tune.trials": 5, "store.root": str(tmp_path / "store"), "fusion.batch_size": 8}
    content = answer(job(override(config, keys), tmp_path))
    trials = content["trials"]
    assert [trial["number"] for trial in trials] == list(range(5))
    stopped = [trial for trial in trials if trial["state"] == "pruned"]
    assert stopped
    for trial in trials:
        assert [epoch for epoch, _ in trial["history"]] == list(range(1, trial["epochs"] + 1))
        # A worker may be an epoch ahead of the decision to stop it.
        assert trial["epochs"] == EPOCHS if trial["state"] == "complete" else trial["epochs"] in (1, 2, 3, 4)
    waited_s = content["seconds"] - sum(trial["seconds"] for trial in trials)
    assert waited_s < 20 * len(trials), "workers are free again within seconds"


def test_a_population_takes_over_what_is_better(config, ray_session):
    keys = {"tune.search": "pbt", "tune.trials": 4, "train.epochs": 6, "tune.grace_epochs": 2}
    population = override(config, keys)
    swept = tune(population)
    trials = swept.content["trials"]
    assert [trial["number"] for trial in trials] == list(range(4))
    for trial in trials:  # one may take over another's state, which is ahead, or at its end
        epochs = [epoch for epoch, _ in trial["history"]]
        assert epochs == sorted(set(epochs))
        assert trial["state"] == ("complete" if epochs[-1] == 6 else "pruned")
    best = trials[swept.content["best"]]
    assert best["value"] == max(trial["value"] for trial in trials)
    best_scores = store.read_meta(train(load(str(swept.path / BEST))).path)["best"]["fusion"]
    value = objective({f"val_{name}": score for name, score in best_scores.items()}, "mean/waf")
    assert value == swept.content["retrained"]
    assert any("settings that the best ended with" in note for note in swept.content["notes"])


@pytest.fixture
def server(tmp_path):
    """A real MLflow server on loopback; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mlflow = Path(sys.executable).with_name("mlflow")
    command = [str(mlflow), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "art"),
    ]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    while True:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=1):
                break
        except (urllib.error.URLError, OSError):
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError((tmp_path / "server.log").read_text()) from None
    yield uri
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(30)


def test_a_server_keeps_the_same_tree_over_http(config, server, ray_session):
    from mlflow import MlflowClient

    swept = tune(override(config, {"tracking.uri": server, "tune.trials": 6, "tune.objective": "mean/uar"}))
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("emo_ray").experiment_id
    (parent,) = client.search_runs([experiment], f"tags.`emo_ray.key` = '{swept.path.name}'")
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert sorted(run.data.tags["state"] for run in children) == sorted(t["state"] for t in swept.content["trials"])
    assert {file.path.split("/")[-1] for file in client.list_artifacts(parent.info.run_id, "sweep")} >= {SWEEP, BEST}
    for run in children:
        history = client.get_metric_history(run.info.run_id, "fusion/val_mean/uar")
        trial = swept.content["trials"][int(run.info.run_name.removeprefix("trial-"))]
        assert len(history) == trial["epochs"]
        assert run.data.params["fusion.dropout"] == str(trial["params"]["fusion.dropout"])
