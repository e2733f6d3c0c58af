"""prepare: every clip gets a row, nothing is decoded twice, and what is wrong is said."""

import csv
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from PIL import Image

from emo_ray.config import override
from emo_ray.data import manifest
from emo_ray.data.manifest import Clip
from emo_ray.data.prepared import BAD_MEDIA, MANIFEST
from emo_ray.stages.decoding.corpus import SHEET, prepare_corpus

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def corpus(tiny_config, media_files, tmp_path):
    """A config on a table of good and bad clips; call it with more clips, or config keys."""

    def make(more=(), **changes):
        good = media_files["clip"]
        clips = [
            Clip("good-1", video=str(good), text="hello", label="happy"),
            Clip("good-2", video=str(media_files["silent"]), audio=str(media_files["wav"]), text="no", label="sad"),
            Clip("good-3", video=str(good), text="well", label="happy"),
            Clip("good-4", video=str(good), text="oh", label="sad"),
            Clip("truncated", video=str(media_files["truncated"]), text="hm", label="sad"),
            Clip("text-named-mp4", video=str(media_files["text"]), text="hm", label="sad"),
            Clip("no-sound", video=str(media_files["silent"]), text="hm", label="happy"),
            Clip("sound-only", audio=str(media_files["wav"]), text="", label="happy"),
            Clip("empty-file", video=str(media_files["empty"]), label="sad"),
            Clip("no-such-file", video="/nowhere/x.mp4", text="hm", label="happy"),
            Clip("unlabelled", video=str(good), text="who knows"),
            *more,
        ]
        manifest.write(tmp_path / "clips.parquet", clips)
        keys = {"data.manifest": str(tmp_path / "clips.parquet"), "store.root": str(tmp_path / "store")}
        return override(tiny_config, keys | {"media.clips_per_part": 4} | changes)

    return make


def files_of(prepared):
    return {path.name: path.stat().st_mtime_ns for path in prepared.shards.glob("*.parquet")}


def test_bad_media_are_rows_with_a_status(corpus):
    prepared = prepare_corpus(corpus())
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
    with (prepared.path / BAD_MEDIA).open() as stream:
        bad = {(row["clip_id"], row["modality"]): row for row in csv.DictReader(stream)}
    assert bad["truncated", "video"]["file"].endswith("truncated.mp4")
    assert ("good-1", "video") not in bad
    assert prepared.counts()["video"]["corrupt"] == 3


def test_labelled_and_unlabelled_clips_never_share_a_part(corpus):
    prepared = prepare_corpus(corpus())
    parts = {row["clip_id"]: row["part"] for row in prepared.ledger.to_pylist()}
    assert parts["unlabelled"] not in {part for name, part in parts.items() if name != "unlabelled"}
    assert next(c.split for c in prepared.clips if c.clip_id == "unlabelled") == "unlabelled"


def test_a_second_run_decodes_nothing(corpus):
    first = prepare_corpus(corpus())
    before = files_of(first)
    assert prepare_corpus(corpus()) == first
    assert files_of(first) == before


def test_a_killed_run_goes_on_where_it_stopped(corpus):
    first = prepare_corpus(corpus())
    before, lost = files_of(first), first.parts[0]
    content = pq.read_table(first.shards / lost)
    (first.shards / lost).unlink()
    again = prepare_corpus(corpus())
    after = files_of(again)
    assert {name for name in after if after[name] != before[name]} == {lost}
    assert pq.read_table(again.shards / lost).equals(content)


def test_other_labels_and_splits_decode_nothing(corpus):
    first = prepare_corpus(corpus())
    before = files_of(first)
    other = prepare_corpus(corpus(**{"seed": 5, "data.validation_fraction": 0.5}))
    assert {c.clip_id: c.split for c in first.clips} != {c.clip_id: c.split for c in other.clips}
    assert files_of(other) == before


def test_a_new_clip_decodes_its_own_part_only(corpus, media_files):
    first = prepare_corpus(corpus())
    before = set(files_of(first))
    more = Clip("new-one", video=str(media_files["clip"]), text="new", label="sad")
    again = prepare_corpus(corpus([more]))
    assert len(set(files_of(again)) - before) == 1
    assert "new-one" in again.ledger["clip_id"].to_pylist()


def test_a_wrong_root_is_said_before_anything_is_decoded(corpus, tmp_path):
    table = tmp_path / "clips.csv"
    table.write_text("video,label\na.mp4,happy\nb.mp4,sad\nc.mp4,happy\nd.mp4,sad\n")
    with pytest.raises(ValueError, match=r"none of the 4 media files.*data\.root"):
        prepare_corpus(corpus(**{"data.manifest": str(table)}))


def test_a_single_real_clip_is_prepared_without_splits(tiny_config, shared_data, tmp_path):
    """720p, 30 frames a second, 48 kHz stereo, one label: no training, and no reason not to decode it."""
    keys = {"data.manifest": str(shared_data / "real_clip"), "store.root": str(tmp_path / "store")}
    prepared = prepare_corpus(override(tiny_config, keys))
    row = prepared.ledger.to_pylist()[0]
    assert [row[f"{m}_status"] for m in ("video", "audio", "text")] == ["ok", "ok", "ok"]
    assert abs(row["audio_s"] - 3.3) < 0.1
    assert prepared.clips[0].split == "train"


def test_a_label_outside_the_vocabulary_is_said(corpus):
    with pytest.raises(ValueError, match=r"'sad' \(\d+ clips\).*data\.labels"):
        prepare_corpus(corpus(**{"data.labels": ["happy", "neutral"]}))


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
    again = manifest.read_table(prepared.path / MANIFEST)
    assert again == [replace(c, text=c.text or None) for c in prepared.clips]  # an empty cell is no transcript


def test_a_corpus_has_a_contact_sheet_of_its_labels(tiny_config):
    with Image.open(prepare_corpus(tiny_config).path / SHEET) as sheet:
        assert sheet.width > sheet.height > 500
