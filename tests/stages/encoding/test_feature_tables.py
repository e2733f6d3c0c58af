"""Feature tables: rows of shards, made once, absent where the shard's row is."""

import wave

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emo_ray.config import override
from emo_ray.data.batch import from_features
from emo_ray.inference.encoders import frozen_encoders
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.encoding.feature_tables import encode_corpus, load

pytestmark = pytest.mark.usefixtures("ray_session")


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


def test_nothing_is_encoded_twice_and_only_what_is_lost_is_made_again(tiny_config, prepared, folders):
    folder, encoders = folders["text"], frozen_encoders(tiny_config)
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.parquet")}
    encode_corpus(tiny_config, prepared, encoders)
    assert {p.name: p.stat().st_mtime_ns for p in folder.glob("*.parquet")} == before
    (folder / prepared.parts[1]).unlink()
    encode_corpus(tiny_config, prepared, encoders)
    after = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.parquet")}
    assert {name for name in after if after[name] != before[name]} == {prepared.parts[1]}


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
    speaker_of = {clip.clip_id: clip.speaker for clip in prepared.clips}
    assert batch.speakers == tuple(speaker_of[clip_id] for clip_id in batch.clip_ids)
    assert len(set(batch.speakers)) > 1
    ledger = {row["clip_id"]: row for row in prepared.ledger.to_pylist()}
    assert list(batch.clip_ids) == [name for name, row in ledger.items() if row["part"] in parts]
    assert not batch.present_BM[:, 0].any()
    for m, name in ((1, "audio"), (2, "text")):
        assert batch.present_BM[:, m].tolist() == [ledger[i][f"{name}_status"] == "ok" for i in batch.clip_ids]


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
    row_of = rows(after, folder)
    assert {clip_id for clip_id, row in row_of.items() if set(row["feature"]) == {7.0}} == {"a", "b", "c"}
    assert set(row_of) == set("abcde")
    assert all(row["present"] for row in row_of.values())
