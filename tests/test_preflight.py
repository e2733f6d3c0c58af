"""What is found before a job begins: wrong paths, missing GPUs, what is fetched, stand-ins on real clips."""

import time

import pytest

from emo_ray import cluster, preflight
from emo_ray.commands import COMMANDS
from emo_ray.config import load
from emo_ray.models.weights import Weights

TRAINING = ("emovclip", "audio", "text", "train")


def test_every_path_that_is_wrong_is_named_at_once(tmp_path):
    (tmp_path / "there.npz").write_bytes(b"")
    changes = {
        "data.manifest": "clips.csv",
        "fusion.start_from": "nowhere",
        "train.pseudo_labels": "/no/round-1",
        "tables.audio": [str(tmp_path / "there.npz"), "gone.npz"],
    }
    begun_s = time.monotonic()
    with pytest.raises(ValueError, match=r"fusion\.start_from") as caught:
        preflight.check(load("mini", changes), TRAINING)
    lines = str(caught.value).splitlines()
    keys = [line.partition(":")[0] for line in lines]
    assert keys == ["data.manifest", "train.pseudo_labels", "fusion.start_from", "tables.audio"]
    assert "gone.npz" in lines[3]
    assert time.monotonic() - begun_s < 1


def test_a_job_that_only_transcribes_needs_the_recogniser_alone():
    config = load("mer2024", {"train.use_gpu": "no"})
    with pytest.raises(ValueError, match=r"transcribe\.model") as caught:
        preflight.check(config, ("transcribe",))
    assert "encoder:" not in str(caught.value)
    assert preflight.check(config, ("segment",)) == []
    with pytest.raises(ValueError, match=r"text\.encoder"):
        preflight.check(config, TRAINING)


def test_gpus_that_are_demanded_of_this_machine_are_counted_without_ray(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = load("mini", {"train.use_gpu": "yes", "train.num_workers": 16})
    if cluster.local_gpus() is not None:
        with pytest.raises(ValueError, match=r"train.use_gpu=yes.*16"):
            preflight.check(config, ("train",))
    preflight.check(config, ("segment",))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert preflight.missing_gpus(config) == []


def test_hidden_gpus_do_not_count(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert cluster.local_gpus() in (0, None)


def test_what_is_fetched_is_said_with_its_size():
    needed = [
        Weights("audio.encoder", "a/hubert", 94e6, 4, 378e6),
        Weights("text.encoder", "here", 1e6, 4),
        Weights("emovclip.weights", "ViT", 150e6, 4, 1.2e9),
    ]
    (line,) = preflight.fetched(needed)
    assert "a/hubert (378 MB)" in line
    assert "ViT (1.2 GB)" in line
    assert "1.6 GB in all" in line
    assert "here" not in line
    assert preflight.fetched(needed[1:2]) == []


def test_the_stand_in_of_mini_is_named_where_it_meets_real_clips(tmp_path):
    (tmp_path / "clips.csv").write_text("video,label\na.mp4,happy\n")
    real = {"data.manifest": str(tmp_path / "clips.csv")}
    (note,) = preflight.check(load("mini", real), TRAINING)
    assert note.startswith("warning: ")
    assert "small" in note
    assert preflight.check(load("mini"), TRAINING) == []
    assert preflight.check(load("mini", {**real, "modalities": ["audio", "text"]}), TRAINING) == []


def test_a_job_that_trains_no_video_model_needs_none_and_is_told_of_none(tmp_path):
    (tmp_path / "clips.csv").write_text("video,label\na.mp4,happy\n")
    away = {"data.manifest": str(tmp_path / "clips.csv"), "emovclip.weights": str(tmp_path / "away.safetensors")}
    folds = load("mini", away)
    sections = COMMANDS["crossvalidate"].sections
    assert preflight.check(folds, sections) == []
    assert preflight.check(load("mini", {"data.manifest": away["data.manifest"]}), sections) == []
    with pytest.raises(ValueError, match=r"emovclip\.weights"):
        preflight.check(folds, TRAINING)


def test_a_relative_path_that_is_not_there_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line,) = preflight.missing_paths(load("mini", {"data.manifest": "clips.csv"}))
    assert str(tmp_path) in line
    (line,) = preflight.missing_paths(load("mini", {"data.manifest": "/nowhere/clips.csv"}))
    assert str(tmp_path) not in line


def test_a_cluster_file_says_how_far_it_may_grow():
    kinds = {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 16}, "max_workers": 8},
        "gpu": {"resources": {"CPU": 8, "GPU": 2}, "max_workers": 4},
        "big": {"resources": {"GPU": 8}, "max_workers": 1},
    }
    description = {"max_workers": 12, "available_node_types": kinds}
    assert cluster.most_of("GPU", description) == 16
    assert cluster.most_of("CPU", description) == 160
    assert cluster.most_of("GPU", {**description, "max_workers": 2}) == 10
    assert cluster.most_of("TPU", description) == 0
