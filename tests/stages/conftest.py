"""A chat endpoint on loopback, a corpus of feature tables, and the models and sweeps that several tests look at."""

import csv
import io
import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from emo_ray import store
from emo_ray.config import override
from emo_ray.config.endpoint_settings import Annotate
from emo_ray.data import manifest
from emo_ray.data.manifest import Clip
from emo_ray.experiments.chaos.chat_server import Chat

KEY = "sk-never-to-be-written-anywhere"
PROMPT = "In {language}: {transcript}"


@pytest.fixture
def chat():
    """A function that starts an endpoint; all of them end with the test."""
    servers = []

    def start(**behaviour):
        servers.append(Chat(**behaviour))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def asking_of():
    """A function that makes the settings to ask an endpoint with: quick, patient, and a prompt that it understands."""

    def settings(server, **changes):
        quick = {"backoff_s": 0.01, "timeout_s": 3.0, "max_attempts": 12, "concurrency": 16, "max_answer_tokens": 20}
        return Annotate(**{"url": server.url, "model": "m", "prompt": PROMPT, **quick, **changes})

    return settings


@pytest.fixture
def asking_config(tiny_config, asking_of, tmp_path, monkeypatch):
    """A function to the config that asks an endpoint, with a key, about transcripts by clip_id."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def config(server, texts, **changes):
        with (tmp_path / "clips.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("clip_id", "text"), *texts.items()])
        asking = {f"annotate.{key}": value for key, value in asking_of(server, **changes).model_dump().items()}
        places = {"data.manifest": str(tmp_path / "clips.csv"), "store.root": str(tmp_path / "store")}
        return override(tiny_config, places | asking)

    return config


CLASSES = ("calm", "glad", "upset")
SPLITS = {"train": 24, "validation": 30, "test": 12, "unlabelled": 60}


@pytest.fixture(scope="session")
def few_labels(ray_session, tiny_config, tmp_path_factory):
    """A corpus of two feature tables with few labelled clips and more unlabelled ones; its config."""
    folder, rng = tmp_path_factory.mktemp("few"), np.random.default_rng(0)
    people, features = [], {"audio": {}, "text": {}}
    centres = {name: rng.normal(size=(3, 12)) for name in features}
    for split, count in SPLITS.items():
        for i in range(count):
            k, clip_id = i % 3, f"{split}-{i:03d}"
            label = None if split == "unlabelled" else CLASSES[k]
            people.append(Clip(clip_id, label=label, split=split, speaker=f"{split}-{i // 6}"))
            for name, rows in features.items():
                rows[clip_id] = (centres[name][k] + 1.5 * rng.normal(size=12)).astype(np.float32)
    for name, rows in features.items():
        np.savez(folder / f"{name}.npz", **rows)
    manifest.write(folder / "clips.parquet", people)
    keys = {f"tables.{name}": str(folder / f"{name}.npz") for name in features}
    keys |= {"data.manifest": str(folder / "clips.parquet"), "store.root": str(folder / "store")}
    return override(tiny_config, keys | {"train.epochs": 3, "fusion.passes_per_epoch": 4})


@pytest.fixture(scope="session")
def few_teacher(few_labels):
    """The model of its labelled clips alone: `path`, `corpus` and `prepared`."""
    from emo_ray.stages.train import train_model

    path, corpus = train_model(few_labels)
    return SimpleNamespace(path=path, corpus=corpus, prepared=corpus.prepared)


@pytest.fixture(scope="session")
def trained(evaluated, tiny_config):
    """The tiny model: `path` and `prepared`."""
    from emo_ray.stages.train import train_model

    path, corpus = train_model(tiny_config)
    return SimpleNamespace(path=path, prepared=corpus.prepared)


@pytest.fixture(scope="session")
def accepted_round(pseudo_round, few_teacher, tmp_path_factory):
    """A round for `few_labels` that accepts 30 of 40 clips, as two classes."""
    ids = [f"unlabelled-{i:03d}" for i in range(40)]
    probabilities = {clip_id: [0.8, 0.1, 0.1] if i < 20 else [0.1, 0.1, 0.8] for i, clip_id in enumerate(ids)}
    folder = tmp_path_factory.mktemp("pseudo") / "round-2"
    return pseudo_round(folder, probabilities, few_teacher.prepared.labels, ids[:30], per_part=16)


@pytest.fixture(scope="session")
def student(few_labels, accepted_round):
    """The model that is trained on the accepted clips as well."""
    from emo_ray.stages.train import train

    return train(override(few_labels, {"train.pseudo_labels": str(accepted_round)}))


HEAD_SPACE = {
    "fusion.lr": {"loguniform": [1e-6, 3e-2]},
    "fusion.dropout": {"uniform": [0.0, 0.7]},
    "fusion.hidden": {"choice": [8, 16]},
}
PROMPT_SPACE = {"emovclip.global_prompts": {"choice": [0, 8]}, "fusion.dropout": {"choice": [0.0, 0.5]}}


@pytest.fixture(scope="session")
def optuna_log():
    """What Optuna logs while the sweeps of these fixtures run."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("optuna").addHandler(handler)
    yield stream
    logging.getLogger("optuna").removeHandler(handler)


@pytest.fixture(scope="session")
def sweep_config(few_labels):
    """A sweep of 9 trials of 4 epochs over settings of the head."""
    return override(few_labels, {"tune.space": HEAD_SPACE, "tune.trials": 9, "train.epochs": 4, "tune.grace_epochs": 1})


@pytest.fixture(scope="session")
def swept(sweep_config, optuna_log):
    """The sweep with stacked trials."""
    import optuna

    from emo_ray.stages.tune import tune

    optuna.logging.set_verbosity(optuna.logging.INFO)
    return tune(sweep_config)


@pytest.fixture(scope="session")
def prompt_sweep(tiny_config, evaluated, optuna_log):
    """A sweep by Ray Tune whose trials train EmoVCLIP: `config`, `result`, and the new EmoVCLIPs' folders."""
    import optuna

    from emo_ray.stages.tune import tune

    def emovclips():
        folders = (Path(config.store.root) / "checkpoints").glob("emovclip-*")
        return {folder for folder in folders if store.is_complete(folder)}

    optuna.logging.set_verbosity(optuna.logging.INFO)
    keys = {"tune.space": PROMPT_SPACE, "tune.trials": 4, "tune.grace_epochs": 1, "tune.reduction_factor": 2}
    config = override(tiny_config, keys | {"tune.max_concurrent": 2})  # each process takes seconds to start
    before = emovclips()
    return SimpleNamespace(config=config, result=tune(config), emovclips=emovclips() - before)


@pytest.fixture(scope="session")
def reached():
    """A function to the objective that the train stage alone reaches with a config."""
    from emo_ray.stages.train import train
    from emo_ray.training import metrics

    def objective(config):
        best = store.read_meta(train(config).path)["best"]["fusion"]
        return metrics.objective({f"val_{name}": value for name, value in best.items()}, config.tune.objective)

    return objective


@pytest.fixture(scope="session")
def runs_of():
    """A function to MLflow's client, the run of a sweep in a folder, and the runs of its trials."""
    from mlflow import MlflowClient

    from emo_ray import tracking

    def runs(config, folder):
        client = MlflowClient(tracking_uri=tracking.uri(config, Path(config.store.root)))
        experiment = client.get_experiment_by_name("emo_ray").experiment_id
        (parent,) = client.search_runs([experiment], f"tags.`emo_ray.key` = '{folder.name}'")
        children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        return client, parent, children

    return runs
