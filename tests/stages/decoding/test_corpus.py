"""Preparing a corpus: every clip has a row, nothing is decoded twice, and errors say what is wrong."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from emo_ray.config import override
from emo_ray.config.data_settings import Data
from emo_ray.data import manifest
from emo_ray.data.prepared import MANIFEST
from emo_ray.stages.decoding.corpus import prepare_corpus

pytestmark = pytest.mark.usefixtures("ray_session")


def files_of(prepared):
    return {path.name: path.stat().st_mtime_ns for path in prepared.shards.glob("*.parquet")}


def test_bad_media_are_rows_with_a_status(table_config):
    prepared = prepare_corpus(table_config())
    rows = {row["clip_id"]: row for row in prepared.ledger.to_pylist()}
    kinds = {
        name: tuple(row[f"{m}_status"].partition(":")[0] for m in ("video", "audio", "text"))
        for name, row in rows.items()
    }
    assert kinds == {
        "good-1": ("ok", "ok", "ok"),
        "good-2": ("ok", "ok", "ok"),
        "good-3": ("ok", "ok", "ok"),
        "good-4": ("ok", "ok", "ok"),
        "truncated": ("corrupt", "corrupt", "ok"),
        "text-named-mp4": ("corrupt", "corrupt", "ok"),
        "no-sound": ("ok", "missing", "ok"),
        "sound-only": ("missing", "ok", "missing"),
        "empty-file": ("corrupt", "corrupt", "missing"),
        "no-such-file": ("missing", "missing", "ok"),
        "unlabelled": ("ok", "ok", "ok"),
    }
    assert abs(rows["good-2"]["audio_s"] - 2.0) < 0.05
    assert prepared.counts()["video"]["corrupt"] == 3


def test_a_second_run_decodes_nothing(table_config):
    first = prepare_corpus(table_config())
    before = files_of(first)
    assert prepare_corpus(table_config()) == first
    assert files_of(first) == before


def test_a_killed_run_goes_on_where_it_stopped(table_config):
    first = prepare_corpus(table_config())
    before, lost = files_of(first), first.parts[0]
    content = pq.read_table(first.shards / lost)
    (first.shards / lost).unlink()
    again = prepare_corpus(table_config())
    after = files_of(again)
    assert {name for name in after if after[name] != before[name]} == {lost}
    assert pq.read_table(again.shards / lost).equals(content)


def test_other_labels_and_splits_decode_nothing(table_config):
    first = prepare_corpus(table_config())
    before = files_of(first)
    other = prepare_corpus(table_config(**{"seed": 5, "data.validation_fraction": 0.5}))
    assert {c.clip_id: c.split for c in first.clips} != {c.clip_id: c.split for c in other.clips}
    assert files_of(other) == before


def test_a_single_real_clip_is_prepared_without_splits(tiny_config, shared_data, tmp_path):
    """720p, 30 frames a second, 48 kHz stereo, one label: no training, and no reason not to decode it."""
    keys = {"data.manifest": str(shared_data / "real_clip"), "store.root": str(tmp_path / "store")}
    prepared = prepare_corpus(override(tiny_config, keys))
    row = prepared.ledger.to_pylist()[0]
    assert [row[f"{m}_status"] for m in ("video", "audio", "text")] == ["ok", "ok", "ok"]
    assert abs(row["audio_s"] - 3.3) < 0.1
    assert prepared.clips[0].split == "train"


def test_a_label_outside_the_vocabulary_is_said(table_config):
    with pytest.raises(ValueError, match=r"'sad'.*data\.labels"):
        prepare_corpus(table_config(**{"data.labels": ["happy", "neutral"]}))


def test_speakers_do_not_cross_our_cuts(tiny_config, ray_session, tmp_path):
    labelled = [replace(clip, split=None) for clip in prepare_corpus(tiny_config).clips if clip.label is not None]
    manifest.write(tmp_path / "uncut.parquet", labelled)
    prepared = prepare_corpus(override(tiny_config, {"data.manifest": str(tmp_path / "uncut.parquet")}))
    speakers = {}
    for clip in prepared.clips:
        speakers.setdefault(clip.split, set()).add(clip.speaker)
    assert set(speakers) == {"train", "validation", "test"}
    assert not speakers["train"] & speakers["validation"]
    assert not (speakers["train"] | speakers["validation"]) & speakers["test"]


def test_the_prepared_corpus_is_itself_a_manifest(tiny_config):
    prepared = prepare_corpus(tiny_config)
    again, notes = manifest.read_table(prepared.path / MANIFEST, Data(outside_root=True))
    assert notes == []
    assert again == [replace(c, text=c.text or None) for c in prepared.clips]  # an empty cell is no transcript
