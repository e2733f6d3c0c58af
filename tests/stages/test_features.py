"""features: rows of shards, made once, absent where the shard's row is."""

import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from emo_ray.config import override
from emo_ray.data.batch import audio_from_shards, from_features, video_from_shards
from emo_ray.models import audio, checkpoint, checkpoint_files
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.encoding.encoders import frozen_encoders, video_encoder
from emo_ray.stages.encoding.feature_tables import encode_corpus, load
from emo_ray.stages.features import features

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def prepared(tiny_config, ray_session):
    return prepare_corpus(tiny_config)


@pytest.fixture(scope="module")
def folders(tiny_config, prepared):
    return encode_corpus(tiny_config, prepared, frozen_encoders(tiny_config))


def test_rows_are_those_of_the_shards_and_absent_ones_are_no_numbers(prepared, folders):
    for modality, folder in folders.items():
        for part in prepared.parts:
            shard, table = pq.read_table(prepared.shards / part), pq.read_table(folder / part)
            assert table["clip_id"].equals(shard["clip_id"])
            present = np.array([status == "ok" for status in shard[f"{modality}_status"].to_pylist()])
            assert (table["present"].to_numpy() == present).all()
            values = np.stack(table["feature"].to_numpy(zero_copy_only=False))
            assert np.isnan(values[~present]).all()
            assert np.isfinite(values[present]).all()


def test_values_are_the_encoders_own(tiny_config, prepared, folders):
    part = prepared.parts[0]
    shard = pq.read_table(prepared.shards / part)
    rows = [i for i, status in enumerate(shard["audio_status"].to_pylist()) if status == "ok"]
    module = audio.build(tiny_config.audio)
    expected = module(audio_from_shards(shard.take(rows)))
    found = np.stack(pq.read_table(folders["audio"] / part).take(rows)["feature"].to_numpy(zero_copy_only=False))
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


def test_nothing_is_encoded_twice_and_only_what_is_lost_is_made_again(tiny_config, prepared, folders):
    folder, encoders = folders["text"], frozen_encoders(tiny_config)
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.parquet")}
    encode_corpus(tiny_config, prepared, encoders)
    assert {p.name: p.stat().st_mtime_ns for p in folder.glob("*.parquet")} == before
    (folder / prepared.parts[1]).unlink()
    encode_corpus(tiny_config, prepared, encoders)
    after = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.parquet")}
    assert {name for name in after if after[name] != before[name]} == {prepared.parts[1]}


def test_another_encoder_has_another_folder(tiny_config, prepared, folders):
    other = frozen_encoders(override(tiny_config, {"text.ngram_features": 32}))
    found = encode_corpus(tiny_config, prepared, other, prepared.parts[:1])
    assert found["text"] != folders["text"]
    assert found["audio"] == folders["audio"]


def test_a_clip_that_an_encoder_has_no_feature_for_is_absent(tiny_config, tmp_path):
    for name, samples in (("click", 200), ("long", 8000), ("short", 400)):
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(np.int16(9000 * np.sin(np.arange(samples) / 8)).tobytes())
    config = override(tiny_config, {"data.manifest": str(tmp_path), "data.corpus": "folder"})
    prepared = prepare_corpus(config)
    assert prepared.ledger["audio_status"].unique().to_pylist() == ["ok"]
    table = load(prepared, encode_corpus(config, prepared, frozen_encoders(config)[:1]))
    has = dict(zip(table["clip_id"].to_pylist(), table["has_audio"].to_pylist(), strict=True))
    assert has == {"click": False, "long": True, "short": True}
    rows = np.stack(table["audio"].to_numpy(zero_copy_only=False))
    assert (np.isnan(rows).all(axis=1) == ~np.array(table["has_audio"])).all()


def test_tables_are_joined_in_the_ledgers_order(prepared, folders):
    parts = prepared.parts[1:]
    table = load(prepared, folders, parts)
    batch = from_features(table)
    ledger = {row["clip_id"]: row for row in prepared.ledger.to_pylist()}
    assert list(batch.clip_ids) == [name for name, row in ledger.items() if row["part"] in parts]
    assert not batch.present_BM[:, 0].any()
    for m, name in ((1, "audio"), (2, "text")):
        assert batch.present_BM[:, m].tolist() == [ledger[i][f"{name}_status"] == "ok" for i in batch.clip_ids]


def test_video_features_are_those_of_the_checkpoints_model(tiny_config, evaluated, prepared):
    model = Path(tiny_config.store.root) / "checkpoints" / evaluated.content["checkpoint"]
    folder = encode_corpus(tiny_config, prepared, [video_encoder(model / checkpoint_files.EMOVCLIP)])["video"]
    part = prepared.parts[0]
    shard = pq.read_table(prepared.shards / part)
    rows = [i for i, status in enumerate(shard["video_status"].to_pylist()) if status == "ok"]
    expected = checkpoint.load_emovclip(model / checkpoint_files.EMOVCLIP)(video_from_shards(shard.take(rows)))
    found = np.stack(pq.read_table(folder / part).take(rows)["feature"].to_numpy(zero_copy_only=False))
    torch.testing.assert_close(torch.from_numpy(found), expected.features_BD.detach(), atol=1e-5, rtol=1e-4)


def test_the_job_covers_video_where_a_checkpoint_is_given(tiny_config, evaluated):
    model = Path(tiny_config.store.root) / "checkpoints" / evaluated.content["checkpoint"]
    assert set(features(tiny_config).content) == {"audio", "text"}
    assert set(features(override(tiny_config, {"checkpoint": str(model)})).content) == {"audio", "text", "video"}


def test_clips_that_join_a_corpus_are_the_only_ones_encoded(tiny_config, tmp_path):
    """Another corpus with some of the clips and new ones: rows of the old ones are copied, bit for bit."""
    manifest = tmp_path / "clips.csv"

    def corpus(clips):
        lines = [
            "a,one,happy,train",
            "b,two,sad,validation",
            "c,three,sad,test",
            "d,four,sad,train",
            "e,five,happy,train",
        ]
        manifest.write_text("\n".join(["clip_id,text,label,split", *lines[:clips]]))
        base = {"data.manifest": str(manifest), "data.corpus": "table", "store.root": str(tmp_path / "store")}
        config = override(tiny_config, base)
        prepared = prepare_corpus(config)
        return prepared, encode_corpus(config, prepared, [text_encoder(config)])["text"]

    def text_encoder(config):
        return next(encoder for encoder in frozen_encoders(config) if encoder.modality == "text")

    def rows(prepared, folder):
        return {r["clip_id"]: r for name in prepared.parts for r in pq.read_table(folder / name).to_pylist()}

    before, folder = corpus(3)
    marked = pq.read_table(folder / before.parts[0])  # a value that no encoder gives shows what is copied
    width = marked["feature"].type.list_size
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.full(3 * width, 7, np.float32)), width)
    pq.write_table(marked.set_column(1, "feature", values), folder / before.parts[0])
    after, folder_after = corpus(5)
    assert folder_after == folder
    assert after.parts != before.parts
    found = rows(after, folder)
    assert {clip_id for clip_id, row in found.items() if set(row["feature"]) == {7.0}} == {"a", "b", "c"}
    assert set(found) == set("abcde")
    assert all(row["present"] for row in found.values())
