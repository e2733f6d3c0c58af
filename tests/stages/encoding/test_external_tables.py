"""Feature tables from elsewhere in the place of encoders and media, and ours exported and read back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from emo_ray import store
from emo_ray.config import absolute_paths, override
from emo_ray.data import manifest
from emo_ray.data.manifest import Clip
from emo_ray.inference.encoders import frozen_encoders
from emo_ray.models import checkpoint, checkpoint_files
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.encoding import external_tables
from emo_ray.stages.encoding.external_tables import BAD_ROWS
from emo_ray.stages.encoding.feature_tables import encode_corpus, load
from emo_ray.stages.evaluate import evaluate
from emo_ray.stages.features import features
from emo_ray.stages.predict import predict
from emo_ray.stages.train import train

pytestmark = pytest.mark.usefixtures("ray_session")
SIZES = {"audio": 6, "text": 4}


@pytest.fixture(scope="module")
def corpus(tiny_config, tmp_path_factory):
    """A manifest of ids and labels; features of sound in a folder, and of text in an npz file that lacks some clips."""
    folder, rng = tmp_path_factory.mktemp("imports"), np.random.default_rng(0)
    clips, texts = [], {}
    (folder / "hubert").mkdir()
    for i in range(60):
        split = ("train", "train", "train", "validation", "test")[i // 12]
        clips.append(Clip(f"c{i}", label=("a", "b", "c")[i % 3], split=split, speaker=f"s{i // 6}"))
        signal = np.eye(3)[i % 3].repeat(2) * 2
        np.save(folder / "hubert" / f"c{i}.npy", (signal + rng.normal(size=(4, 6))).astype(np.float32))
        texts[f"c{i}"] = rng.normal(size=4)
    for gone in (3, 30, 50):
        (folder / "hubert" / f"c{gone}.npy").unlink()
    np.save(folder / "hubert" / "c7.npy", np.full(6, np.inf))
    np.savez(folder / "llm.npz", **{name: row for name, row in texts.items() if name not in ("c3", "c4")})
    manifest.write(folder / "clips.parquet", clips)
    keys = {"tables.audio": str(folder / "hubert"), "tables.text": [str(folder / "llm.npz")], "train.epochs": 3}
    places = {"data.manifest": str(folder / "clips.parquet"), "store.root": str(folder / "store")}
    quick = {"fusion.passes_per_epoch": 10, "fusion.lr": 3e-3, "tracking.enabled": False}
    return override(tiny_config, keys | places | quick)


@pytest.fixture(scope="module")
def measured(corpus):
    return evaluate(corpus)


def table_of(config):
    prepared = prepare_corpus(config)
    return load(prepared, encode_corpus(config, prepared, frozen_encoders(config))).sort_by("clip_id")


def as_rows(table, name):
    return np.stack(table[name].to_numpy(zero_copy_only=False))


def test_a_head_is_trained_and_measured_without_any_media(measured, corpus):
    subsets = measured.content["subsets"]
    assert [name for name, scores in subsets.items() if scores] == ["A", "T", "AT"]
    assert (subsets["A"]["n"], subsets["T"]["n"], measured.content["n_clips"]) == (11, 12, 12)
    assert subsets["A"]["waf"] > 0.6
    model = Path(corpus.store.root) / "checkpoints" / measured.content["checkpoint"]
    assert not (model / checkpoint_files.EMOVCLIP).exists()
    assert "audio: tables hubert" in (model / checkpoint_files.CARD).read_text()
    widths = {k: v.shape[1] for k, v in load_file(model / checkpoint_files.WEIGHTS).items() if k.startswith("scaling_")}
    assert widths == {"scaling_audio": 6, "scaling_text": 4}


def test_rows_without_a_file_are_absent_and_bad_ones_are_listed(measured, corpus):
    table = table_of(corpus)
    present = {m: dict(zip(table["clip_id"].to_pylist(), table[f"has_{m}"].to_pylist(), strict=True)) for m in SIZES}
    assert {i for i, is_present in present["audio"].items() if not is_present} == {"c3", "c30", "c50", "c7"}
    assert {i for i, is_present in present["text"].items() if not is_present} == {"c3", "c4"}
    for name in SIZES:
        assert (np.isnan(as_rows(table, name)).all(axis=1) == ~table[f"has_{name}"].to_numpy()).all()
    folder = next(Path(corpus.store.root).glob(f"features/audio-*/{BAD_ROWS}"))
    assert folder.read_text().split() == ["clip_id,status", "c7,corrupt:", "infinite", "values"]


def test_a_second_run_makes_nothing(measured, corpus):
    before = {p: p.stat().st_mtime_ns for p in Path(corpus.store.root).rglob("*.parquet")}
    assert evaluate(corpus).path == measured.path
    assert {p: p.stat().st_mtime_ns for p in Path(corpus.store.root).rglob("*.parquet")} == before


def test_another_table_is_another_model(measured, corpus):
    fewer = train(override(corpus, {"tables.text": [], "train.epochs": 1}))
    assert fewer.path.name != measured.content["checkpoint"]
    assert set(checkpoint.load_fusion(fewer.path).project) == {"audio"}


def test_a_model_of_tables_predicts_from_tables_and_refuses_others(measured, corpus):
    model = Path(corpus.store.root) / "checkpoints" / measured.content["checkpoint"]
    with_checkpoint = override(corpus, {"checkpoint": str(model)})
    predicted = predict(with_checkpoint)
    counts = predicted.content
    assert (sum(counts["predicted"].values()), counts["without any usable modality"]) == (
        59,
        1,
    )  # nothing is known of c3
    rows = {row["clip_id"]: row for part in predicted.path.glob("*.parquet") for row in pq.read_table(part).to_pylist()}
    assert [rows[name]["audio_status"] for name in ("c0", "c3", "c7")] == ["ok", "missing", "corrupt: infinite values"]
    assert not rows["c3"]["has_audio"]
    with pytest.raises(ValueError, match=r"tables\.audio=PATH or tables\.text=PATH"):
        evaluate(override(with_checkpoint, {"tables.audio": [], "tables.text": []}))
    with pytest.raises(ValueError, match=r"4 audio features.* 6"):
        evaluate(override(with_checkpoint, {"tables.audio": corpus.tables.text}))


def test_a_table_of_other_clips_is_refused(corpus, tmp_path):
    np.savez(tmp_path / "x.npz", **{"c1.wav": np.ones(3), "c2.wav": np.ones(3)})
    with pytest.raises(ValueError, match=r"60 clips .*'c1\.wav', 'c2\.wav'.*'c0', 'c1'"):
        train(override(corpus, {"tables.text": str(tmp_path / "x.npz")}))


def test_clips_without_ids_or_media_are_refused(corpus, tmp_path):
    (tmp_path / "clips.csv").write_text("label\na\nb\n")
    with pytest.raises(ValueError, match=r"video, audio, text, file.*clip_id"):
        prepare_corpus(override(corpus, {"data.manifest": str(tmp_path / "clips.csv")}))


def test_media_that_are_not_there_are_not_missed(corpus, tmp_path):
    clips = [replace(clip, video=f"/nowhere/{clip.clip_id}.mp4") for clip in manifest.read(Path(corpus.data.manifest))]
    manifest.write(tmp_path / "clips.parquet", clips)
    config = override(corpus, {"data.manifest": str(tmp_path / "clips.parquet")})
    assert prepare_corpus(config).ledger["video_status"].unique().to_pylist() == ["missing"]
    with pytest.raises(ValueError, match="60 media files"):
        prepare_corpus(override(config, {"tables.audio": [], "tables.text": []}))


@pytest.mark.parametrize("form", ["{}", "{}.parquet"])
def test_what_is_exported_is_read_back_identically(tiny_config, tmp_path, form):
    config = override(tiny_config, {"tables.export": str(tmp_path / "out")})
    exported = features(config)
    assert {Path(p).name for p in exported.content["exported"]} == {"audio", "audio.parquet", "text", "text.parquet"}
    assert features(config).content == exported.content
    keys = {f"tables.{name}": str(tmp_path / "out" / form.format(name)) for name in SIZES}
    original, read_back = table_of(tiny_config), table_of(override(tiny_config, keys))
    assert read_back["clip_id"].equals(original["clip_id"])
    for name in SIZES:
        assert 0 < sum(original[f"has_{name}"].to_pylist()) < len(original)
        assert read_back[f"has_{name}"].equals(original[f"has_{name}"])
        np.testing.assert_array_equal(as_rows(read_back, name), as_rows(original, name))


def test_an_export_keeps_what_others_left(tiny_config, tmp_path):
    config = override(tiny_config, {"tables.export": str(tmp_path), "tables.export_as": ["npy"]})
    features(config)
    assert store.is_complete(tmp_path / "audio")
    other = override(config, {"text.ngram_features": 32})
    with pytest.raises(ValueError, match=r"tables\.export"):
        features(other)
    absent = [row["clip_id"] for row in prepare_corpus(tiny_config).ledger.to_pylist() if row["audio_status"] != "ok"]
    assert absent
    assert not any((tmp_path / "audio" / f"{clip_id}.npy").exists() for clip_id in absent)


def test_paths_of_tables_become_absolute_where_they_exist(tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hubert").mkdir()
    config = override(tiny_config, {"tables.audio": ["hubert", "nowhere.npz"], "tables.text": "llm.npz"})
    assert absolute_paths(config).tables.audio == (str(tmp_path / "hubert"), "nowhere.npz")
    assert config.tables.text == ("llm.npz",)
    assert config.tables.given == ("audio", "text")
    with pytest.raises(ValueError, match="each source once"):
        override(config, {"tables.audio": ["a", "a"]})


def test_a_jsonl_manifest_of_ids_and_labels_will_do(corpus, tmp_path):
    rows = [{"id": clip.clip_id, "emotion": clip.label} for clip in manifest.read(Path(corpus.data.manifest))]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepared = prepare_corpus(override(corpus, {"data.manifest": str(tmp_path / "clips.jsonl")}))
    assert prepared.labels == ("a", "b", "c")
    assert pq.read_table(prepared.path / "manifest.parquet").num_rows == 60


@pytest.mark.parametrize(
    "clip_id", ["../secret", "a/../../b", "/etc/passwd", "..", ".", "a//b", "a/", "", "a\0b", "x" * 300]
)
def test_no_clip_id_leads_out_of_an_export(clip_id):
    with pytest.raises(ValueError, match=r"clip_id .*tables\.export_as"):
        external_tables._file_name(clip_id)
    assert external_tables._file_name("folder/..clip") == "folder/..clip"
