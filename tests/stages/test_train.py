"""train: two phases, each once; weights that only the config decides; a killed worker loses nothing."""

import json
import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight

from emo_ray import store, tracking
from emo_ray.config import flatten, override
from emo_ray.data import manifest
from emo_ray.models import checkpoint, checkpoint_files
from emo_ray.stages.corpus import open_corpus
from emo_ray.stages.fitting.epoch_log import METRICS
from emo_ray.stages.fitting.phases import feature_rows, fusion_job, train_phases
from emo_ray.stages.fitting.plan import resolve_training
from emo_ray.stages.train import train, train_model
from emo_ray.training import loop

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def trained(evaluated, tiny_config):
    """The tiny model: `path` and `prepared`."""
    path, corpus = train_model(tiny_config)
    return SimpleNamespace(path=path, prepared=corpus.prepared)


def with_workers(config, count):
    """The same with workers of Ray Train, in a store where clips are decoded already and nothing else is."""
    root = f"{config.store.root}-{uuid4().hex[:8]}"
    made = shutil.ignore_patterns("checkpoints", "train", "features", "reports", "mlflow*", "claims")
    shutil.copytree(config.store.root, root, ignore=made)
    return override(config, {"store.root": root, "train.num_workers": count})


def checkpoints(config):
    folder = Path(config.store.root) / "checkpoints"
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if not p.name.startswith(".")}  # locks do


def test_a_checkpoint_can_be_used_on_its_own(trained):
    head = checkpoint.load_fusion(trained.path)
    video = checkpoint.load_emovclip(trained.path / checkpoint_files.EMOVCLIP)
    assert set(head.project) == {"video", "audio", "text"}
    assert not any(name.startswith("clip.") for name in load_file(trained.path / "emovclip" / checkpoint_files.WEIGHTS))
    assert video.clip.visual.output_dim == head.project["video"][0].in_features
    card = (trained.path / checkpoint_files.CARD).read_text()
    assert all(label in card for label in trained.prepared.labels)


def test_every_epoch_of_both_phases_is_kept(trained, tiny_config):
    for folder in (trained.path, trained.path / checkpoint_files.EMOVCLIP):
        history = store.read_meta(folder)["history"]
        assert [row["epoch"] for row in history] == list(range(tiny_config.train.epochs))
        assert all(0 <= row["val_waf"] <= 1 and row["train_loss"] > 0 for row in history)
    assert store.read_meta(trained.path)["history"][0]["train_clips"] == 36


def test_state_for_resuming_is_gone_when_the_result_is_stored(trained, tiny_config):
    assert not any((Path(tiny_config.store.root) / "train").iterdir())


def test_a_second_run_trains_nothing(trained, tiny_config):
    before = checkpoints(tiny_config)
    assert train(tiny_config).path == trained.path
    assert checkpoints(tiny_config) == before


def test_of_two_that_want_a_model_one_makes_it_and_both_hear_of_every_epoch(few_labels):
    """As trials of a sweep do that were suggested the same."""
    config = override(few_labels, {"fusion.dropout": 0.123})
    plan, told, start = resolve_training(config, open_corpus(config)), ([], []), threading.Barrier(2)

    def want(mine):
        start.wait()
        train_phases(config, plan, lambda phase, metrics: mine.append(metrics["epoch"]))

    both = [threading.Thread(target=want, args=(mine,)) for mine in told]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert told == (list(range(config.train.epochs)),) * 2
    assert not any((Path(config.store.root) / "train").iterdir())


def test_class_weights_are_of_the_clips_that_are_trained_on(few_labels, tmp_path):
    """And not of those that have nothing to be seen or heard."""
    lacking = [f"train-{i:03d}" for i in range(0, 18, 3)]  # of the first class
    for name in ("audio", "text"):
        rows = dict(np.load(few_labels.tables.of(name)[0]))
        np.savez(tmp_path / f"{name}.npz", **{clip_id: row for clip_id, row in rows.items() if clip_id not in lacking})
    keys = {f"tables.{name}": str(tmp_path / f"{name}.npz") for name in ("audio", "text")}
    config = override(few_labels, keys | {"fusion.class_weights": "balanced"})
    plan = resolve_training(config, open_corpus(config))
    job, _ = fusion_job(config, plan, feature_rows(config, plan, plan.clips.all_clips))
    counts = np.array([2, 8, 8])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.repeat(np.arange(3), counts))
    np.testing.assert_allclose(job.class_weight_K.numpy(), expected, rtol=1e-6)


def test_another_head_keeps_the_prompts(trained, tiny_config):
    before = checkpoints(tiny_config)
    other = train(override(tiny_config, {"fusion.modality_dropout": 0.1}))
    after = checkpoints(tiny_config)
    assert other.path != trained.path
    assert set(after) - set(before) == {other.path.name}
    assert all(after[name] == before[name] for name in before)


def test_a_worker_of_ray_train_makes_what_one_process_makes(trained, tiny_config):
    """To the same weights, bit for bit, with features from actors, and with every epoch told."""
    config = with_workers(tiny_config, 1)
    plan, told = resolve_training(config, open_corpus(config)), []
    train_phases(config, plan, lambda phase, metrics: told.append((phase, metrics["epoch"])))
    assert told == [(phase, epoch) for phase in ("emovclip", "fusion") for epoch in range(config.train.epochs)]
    assert plan.path.name == trained.path.name
    for folder in ("", checkpoint_files.EMOVCLIP):
        own, reference = (load_file(path / folder / checkpoint_files.WEIGHTS) for path in (plan.path, trained.path))
        for name, value in reference.items():
            torch.testing.assert_close(own[name], value, rtol=0, atol=0, msg=name)


def test_mlflow_has_one_run_with_parameters_epochs_and_artifacts(trained, evaluated, tiny_config):
    from mlflow import MlflowClient

    root = Path(tiny_config.store.root)
    client = MlflowClient(tracking_uri=tracking.uri(tiny_config, root))
    experiment = client.get_experiment_by_name("emo_ray")
    runs = client.search_runs(
        [experiment.experiment_id], f"tags.`emo_ray.key` = '{trained.path.name.removeprefix('model-')}'"
    )
    assert len(runs) == 1
    run = runs[0]
    assert run.info.status == "FINISHED"
    assert set(run.data.params) == set(flatten(tiny_config)) - {"tracking.uri"}
    for phase in ("emovclip", "fusion"):
        steps = [m.step for m in client.get_metric_history(run.info.run_id, f"{phase}/train_loss")]
        assert steps == list(range(tiny_config.train.epochs))
    assert run.data.metrics["test/VAT/waf"] == pytest.approx(evaluated.content["subsets"]["VAT"]["waf"])
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert names >= {"checkpoint", f"report-{evaluated.path.name}"}
    inside = {item.path for item in client.list_artifacts(run.info.run_id, "checkpoint")}
    assert "checkpoint/model.safetensors" in inside


def _timeless(metrics):
    return {k: v for k, v in metrics.items() if k not in loop.TIMES}


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_run_ends_as_it_should(trained, tiny_config, monkeypatch):
    """SIGKILL after the first epoch, shards streamed, a block a part: the very weights of the undisturbed run."""
    monkeypatch.setattr("emo_ray.stages.train._KEPT_SHARE", 0)
    monkeypatch.setattr("emo_ray.stages.train._BLOCK_BYTES", 1)
    config = override(with_workers(tiny_config, 1), {"emovclip.context_tokens": 8})
    train_folder, killed = Path(config.store.root) / "train", []
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.02):
            metrics = [p for p in train_folder.glob(f"emovclip-*/{METRICS}") if p.stat().st_size]
            if metrics and (workers := _our_train_workers()):
                killed.append(workers[0])
                os.kill(workers[0], signal.SIGKILL)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        again = train(config)
    finally:
        done.set()
        killer.join()
    assert killed
    own, reference = (store.read_meta(t.path / checkpoint_files.EMOVCLIP)["history"] for t in (again, trained))
    assert [row["epoch"] for row in own] == [row["epoch"] for row in reference]
    assert [_timeless(row) for row in own] == [_timeless(row) for row in reference]
    weights = [load_file(t.path / "emovclip" / checkpoint_files.WEIGHTS) for t in (again, trained)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    heads = [load_file(t.path / checkpoint_files.WEIGHTS) for t in (again, trained)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[1])


@pytest.mark.slow
def test_two_workers_train_one_model(tiny_config):
    config = override(tiny_config, {"train.num_workers": 2, "train.epochs": 1, "emovclip.micro_batch_size": 1})
    result = train(config)
    history = store.read_meta(result.path)["history"]
    assert len(history) == 1
    assert history[0]["train_clips"] == 36
    assert history[0]["val_n"] == 12


def test_without_labelled_clips_there_is_nothing_to_train_on(tiny_config, media_files, tmp_path):
    table = tmp_path / "clips.jsonl"
    table.write_text(json.dumps({"video": str(media_files["clip"]), "text": "hm"}))
    with pytest.raises(ValueError, match="at least two"):
        train(override(tiny_config, {"data.manifest": str(table), "store.root": str(tmp_path / "store")}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.use_gpu": "yes", "train.num_workers": 4}, r"expected 4: lower train\.num_workers"),
        ({"checkpoint": "somewhere"}, "train makes one"),
    ],
)
def test_what_cannot_be_had_is_one_clear_message(tiny_config, changes, message):
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has GPUs")
    with pytest.raises(ValueError, match=message):
        train(override(tiny_config, {"fusion.hidden": 8, **changes}))


@pytest.fixture(scope="module")
def student(few_labels, accepted_round):
    return train(override(few_labels, {"train.pseudo_labels": str(accepted_round)}))


def test_accepted_clips_are_trained_on_beside_labelled_ones_and_nothing_is_judged_on_them(student, few_teacher):
    for model, clips in ((few_teacher, 24), (student, 54)):
        history = store.read_meta(model.path)["history"]
        assert {row["train_clips"] for row in history} == {4 * clips}
        assert {row["val_n"] for row in history} == {30}
    seen = [json.loads((model.path / checkpoint_files.SEEN).read_text()) for model in (few_teacher, student)]
    accepted = {f"unlabelled-{i:03d}": "train" for i in range(30)}
    assert seen[1] == seen[0] | accepted


def test_the_card_says_how_many_clips_no_person_labelled_and_who_did(student, few_teacher):
    cards = [(model.path / checkpoint_files.CARD).read_text() for model in (few_teacher, student)]
    assert "pseudo" not in cards[0]
    assert "trained on: clips.parquet, 54 clips" in cards[1]
    assert "pseudo-labelled: 30 by model-a (round 2; soft targets, weight 0.5): calm (20), upset (10)" in cards[1]
    assert "calm (8), glad (8), upset (8)" in cards[1]


def test_a_head_goes_on_from_another(few_labels, few_teacher):
    start = {"fusion.start_from": str(few_teacher.path), "train.epochs": 1, "fusion.lr": 1e-9}
    went_on = train(override(few_labels, start))
    weights = [load_file(model.path / checkpoint_files.WEIGHTS) for model in (went_on, few_teacher)]
    for name, value in weights[1].items():
        torch.testing.assert_close(weights[0][name], value, atol=1e-5, rtol=0)
    assert went_on.path != few_teacher.path
    assert f"head started from: {few_teacher.path.name}" in (went_on.path / checkpoint_files.CARD).read_text()


def test_prompts_are_trained_on_pseudo_labels_where_they_are_asked_to(trained, tiny_config, pseudo_round, tmp_path):
    """The tiny corpus, of which half of the training clips have lost their labels."""
    lost = [c.clip_id for c in trained.prepared.clips if c.split == "train"][::2]
    clips = [replace(c, label=None, split="unlabelled") if c.clip_id in lost else c for c in trained.prepared.clips]
    manifest.write(tmp_path / "clips.parquet", clips)
    labels = trained.prepared.labels
    sixth = {clip_id: [0.5 if k == i % 6 else 0.1 for k in range(6)] for i, clip_id in enumerate(lost)}
    folder = pseudo_round(tmp_path / "round", sixth, labels, lost)
    keys = {"data.manifest": str(tmp_path / "clips.parquet"), "train.epochs": 1, "emovclip.class_weights": "balanced"}
    keys |= {"train.pseudo_labels": str(folder), "train.pseudo_phases": "both", "emovclip.micro_batch_size": 3}
    path, corpus = train_model(override(tiny_config, keys))
    ledger = corpus.prepared.ledger
    statuses = zip(ledger["clip_id"].to_pylist(), ledger["video_status"].to_pylist(), strict=True)
    with_video = {clip_id for clip_id, status in statuses if status == "ok"}
    trained_on = {c.clip_id for c in trained.prepared.clips if c.split == "train"} & with_video
    history = store.read_meta(path / checkpoint_files.EMOVCLIP)["history"]
    assert [row["train_clips"] for row in history] == [len(trained_on)]
    card = (path / checkpoint_files.EMOVCLIP / checkpoint_files.CARD).read_text()
    assert f"pseudo-labelled: {len(with_video & set(lost))} by model-a" in card


def _our_train_workers() -> list[int]:
    """Train workers of this process's own Ray: children of a raylet that is its child."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if "RayTrainWorker" in (folder / "cmdline").read_text() and _parent(_parent(folder.name)) == os.getpid():
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def _parent(pid: int | str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
