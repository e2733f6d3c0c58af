"""The two phases of training: each is trained once, on the clips and from the weights that its config names."""

import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight

from emo_ray import parquet, store
from emo_ray.config import override
from emo_ray.data import manifest
from emo_ray.models import checkpoint_files
from emo_ray.stages.corpus import open_corpus
from emo_ray.stages.fitting.phases import feature_rows, forget_state, fusion_job, train_phases
from emo_ray.stages.fitting.plan import resolve_training
from emo_ray.stages.fitting.video_job import check_parts
from emo_ray.stages.train import train, train_model

STATUSES = ("video_status", "audio_status", "text_status")
pytestmark = pytest.mark.usefixtures("ray_session")


def checkpoints(config):
    folder = Path(config.store.root) / "checkpoints"
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if not p.name.startswith(".")}  # no locks


def test_of_two_that_need_a_model_one_trains_it_and_both_hear_of_every_epoch(few_labels):
    """Two trials of a sweep may get the same settings, and so need the same model."""
    config = override(few_labels, {"fusion.dropout": 0.123})
    plan = resolve_training(config, open_corpus(config))
    epochs_heard, start = ([], []), threading.Barrier(2)

    def need(epochs):
        start.wait()
        train_phases(config, plan, lambda phase, metrics: epochs.append(metrics["epoch"]))

    threads = [threading.Thread(target=need, args=(epochs,)) for epochs in epochs_heard]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert epochs_heard == (list(range(config.train.epochs)),) * 2
    assert not any((Path(config.store.root) / "train").iterdir())


def test_state_is_forgotten_unless_somebody_goes_on_from_it(few_labels, monkeypatch):
    def no_lock(lock, *arguments, **options):
        raise NotImplementedError

    config = override(few_labels, {"fusion.dropout": 0.321})
    plan = resolve_training(config, open_corpus(config))
    state = Path(config.store.root) / "train" / f"fusion-{plan.key}"
    state.mkdir(parents=True)
    with store.being_made(plan.path):
        forget_state(config, plan)
        assert state.exists()
    with monkeypatch.context() as patched:  # as on a file system without locks, where nobody knows
        patched.setattr(filelock.FileLock, "acquire", no_lock)
        forget_state(config, plan)
        assert state.exists()
    forget_state(config, plan)
    assert not state.exists()


def test_class_weights_are_of_the_clips_that_are_trained_on(few_labels, tmp_path):
    """Clips without any usable modality do not count."""
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
    job, datasets = fusion_job(
        override(few_labels, keys | {"fusion.sampling": "balanced"}),
        plan,
        feature_rows(config, plan, plan.clips.all_clips),
    )
    shown = Counter(datasets["train"]["label"].to_pylist())
    assert (job.train_rows, set(shown.values()), job.class_weight_K) == (24, {8}, None)


def test_another_head_keeps_the_prompts(trained, tiny_config):
    before = checkpoints(tiny_config)
    other = train(override(tiny_config, {"fusion.modality_dropout": 0.1}))
    after = checkpoints(tiny_config)
    assert other.path != trained.path
    assert set(after) - set(before) == {other.path.name}
    assert all(after[name] == before[name] for name in before)


def test_accepted_clips_are_trained_on_beside_labelled_ones_and_nothing_is_judged_on_them(student, few_teacher):
    for model, clips in ((few_teacher, 24), (student, 54)):
        history = store.read_meta(model.path)["history"]
        assert {row["train_clips"] for row in history} == {4 * clips}
        assert {row["val_n"] for row in history} == {30}
    seen = [json.loads((model.path / checkpoint_files.SEEN).read_text()) for model in (few_teacher, student)]
    accepted = {f"unlabelled-{i:03d}": "train" for i in range(30)}
    assert seen[1] == seen[0] | accepted


def test_a_head_goes_on_from_another(few_labels, few_teacher):
    start = {"fusion.start_from": str(few_teacher.path), "train.epochs": 1, "fusion.lr": 1e-9}
    continued = train(override(few_labels, start))
    weights = [load_file(model.path / checkpoint_files.WEIGHTS) for model in (continued, few_teacher)]
    for name, value in weights[1].items():
        torch.testing.assert_close(weights[0][name], value, atol=1e-5, rtol=0)
    assert continued.path != few_teacher.path
    assert f"head started from: {few_teacher.path.name}" in (continued.path / checkpoint_files.CARD).read_text()


def test_prompts_are_trained_on_pseudo_labels_where_they_are_asked_to(trained, tiny_config, pseudo_round, tmp_path):
    """The tiny corpus, with the labels of half of the training clips taken away."""
    lost = [c.clip_id for c in trained.prepared.clips if c.split == "train"][::2]
    clips = [replace(c, label=None, split="unlabelled") if c.clip_id in lost else c for c in trained.prepared.clips]
    manifest.write(tmp_path / "clips.parquet", clips)
    labels = trained.prepared.labels
    sixth = {clip_id: [0.5 if k == i % 6 else 0.1 for k in range(6)] for i, clip_id in enumerate(lost)}
    folder = pseudo_round(tmp_path / "round", sixth, labels, lost)
    keys = {"data.manifest": str(tmp_path / "clips.parquet"), "train.epochs": 1, "emovclip.sampling": "balanced"}
    keys |= {"train.pseudo_labels": str(folder), "train.pseudo_phases": "both", "emovclip.micro_batch_size": 3}
    path, corpus = train_model(override(tiny_config, keys))
    ledger = corpus.prepared.ledger
    statuses = zip(ledger["clip_id"].to_pylist(), ledger["video_status"].to_pylist(), strict=True)
    with_video = {clip_id for clip_id, status in statuses if status == "ok"}
    trained_on = {c.clip_id for c in trained.prepared.clips if c.split == "train"} & with_video
    history = store.read_meta(path / checkpoint_files.EMOVCLIP)["history"]
    truth = {c.clip_id: labels.index(c.label) for c in trained.prepared.clips if c.split == "train"}
    shown = Counter((truth | {clip_id: i % 6 for i, clip_id in enumerate(lost)})[clip_id] for clip_id in trained_on)
    assert [row["train_clips"] for row in history] == [6 * max(shown.values())]  # rarer clips are repeated
    card = (path / checkpoint_files.EMOVCLIP / checkpoint_files.CARD).read_text()
    assert f"pseudo-labelled: {len(with_video & set(lost))} by model-a" in card


def test_a_damaged_shard_part_is_named_before_ray_reads_it(tmp_path):
    rows = [{"clip_id": "a", "frames": [b"jpeg" * 500], "audio": b"", **dict.fromkeys(STATUSES, "ok")}]
    parquet.write(tmp_path / "part.parquet", pa.Table.from_pylist(rows), codec="none")
    check_parts([tmp_path / "part.parquet"])
    content = (tmp_path / "part.parquet").read_bytes()
    (tmp_path / "part.parquet").write_bytes(content.replace(b"jpegjpeg", b"jpegjpef", 1))
    with pytest.raises(store.DamagedFile, match=r"part\.parquet"):
        check_parts([tmp_path / "part.parquet"])


def test_training_that_diverges_at_once_stores_no_model(few_labels):
    config = override(few_labels, {"fusion.lr": 1e30, "train.num_workers": 0})
    with pytest.raises(ValueError, match=r"fusion\.lr=1e\+30"):
        train(config)
    assert not resolve_training(config, open_corpus(config)).path.exists()
    assert not list(Path(config.store.root).glob("train/fusion-*"))
