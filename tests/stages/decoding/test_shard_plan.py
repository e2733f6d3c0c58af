"""Parts of shards: which clips share one, what is decoded again, and clips whose media are gone or never were."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from emo_ray.config import Config, override
from emo_ray.config.media_settings import Media
from emo_ray.data.manifest import Clip
from emo_ray.stages.decoding.corpus import plan_corpus, prepare_corpus
from emo_ray.stages.decoding.shard_plan import (
    clips_per_part,
    decode_tasks,
    no_media_reason,
    plan_shards,
    plan_some_parts,
)
from emo_ray.store import META

pytestmark = pytest.mark.usefixtures("ray_session")


def test_labelled_and_unlabelled_clips_never_share_a_part(table_config):
    prepared = prepare_corpus(table_config())
    part_of = {row["clip_id"]: row["part"] for row in prepared.ledger.to_pylist()}
    assert part_of["unlabelled"] not in {part for clip_id, part in part_of.items() if clip_id != "unlabelled"}
    assert next(clip.split for clip in prepared.clips if clip.clip_id == "unlabelled") == "unlabelled"


@pytest.mark.parametrize(
    ("clips", "media", "configured", "expected"),
    [
        (1000, False, None, 64),
        (40_000, False, None, 40_000 // 256),  # parts for as many workers
        (1_000_000, False, None, 1024),
        (1_000_000, True, None, 64),  # one clip with media, whose frames are large
        (1_000_000, False, 8, 8),
    ],
)
def test_parts_without_media_grow_with_the_corpus_unless_their_size_is_set(clips, media, configured, expected):
    light = Clip("a", video=None, audio=None, text="words")
    all_clips = [light] * (clips - 1) + [replace(light, audio="a.wav") if media else light]
    assert clips_per_part(Media(clips_per_part=configured), all_clips) == expected


def test_a_new_clip_needs_its_own_part_alone(table_config, media_files):
    prepare_corpus(table_config())
    new = Clip("new-one", video=str(media_files["clip"]), text="new", label="sad")
    plan = plan_corpus(table_config([new]))
    (part,) = decode_tasks(plan)
    assert "new-one" in {identified.clip.clip_id for identified in plan.clips_of[part]}
    assert not plan.is_decoded
    assert "new-one" in prepare_corpus(table_config([new])).ledger["clip_id"].to_pylist()
    assert plan.is_decoded
    assert decode_tasks(plan) == {}


def test_some_parts_of_a_corpus_hold_the_clips_of_their_rows(table_config):
    prepared = prepare_corpus(table_config())
    plan = plan_some_parts(table_config(), prepared, prepared.parts[:1])
    ledger = prepared.ledger.to_pylist()
    assert [clip.clip_id for clip in plan.clips] == [r["clip_id"] for r in ledger if r["part"] == prepared.parts[0]]
    assert plan.folder == prepared.shards
    assert plan.is_decoded
    decoded_otherwise = plan_some_parts(table_config(**{"media.frames": 3}), prepared, prepared.parts[:1])
    assert decoded_otherwise.folder != prepared.shards
    assert not decoded_otherwise.is_decoded


def test_a_wrong_root_is_said_before_anything_is_decoded(table_config, tmp_path):
    table = tmp_path / "clips.csv"
    table.write_text("video,label\na.mp4,happy\nb.mp4,sad\nc.mp4,happy\nd.mp4,sad\n")
    with pytest.raises(ValueError, match=r"4 media files.*data\.root"):
        prepare_corpus(table_config(**{"data.manifest": str(table)}))


def test_paths_of_windows_are_told_from_a_wrong_root(tmp_path):
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "a.mp4").touch()
    for name, advice in (("day\\a.mp4", "write / in the place of"), ("day\\b.mp4", r"set data\.root")):
        with pytest.raises(ValueError, match=advice):
            plan_shards(Config(), tmp_path, [Clip("a", video=str(tmp_path / name))])


def test_media_that_are_lfs_pointers_all_are_said_in_one_message(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1000000\n"
    clips = [Clip(name, video=str(tmp_path / f"{name}.mp4")) for name in ("a", "b", "c")]
    for clip in clips[:2]:
        Path(clip.video).write_text(pointer)
    with pytest.raises(ValueError, match=r"LFS pointers .* 2 media files .*a\.mp4.*git lfs pull"):
        plan_shards(Config(), tmp_path, clips)
    Path(clips[2].video).write_bytes(b"one that was fetched")
    assert no_media_reason(clips) is None


def test_shards_are_enough_where_the_media_are_gone(tiny_config, media_files, tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    for name in ("clip", "silent", "truncated"):
        shutil.copy(media_files[name], folder / f"{name}.mp4")
    config = override(tiny_config, {"data.manifest": str(folder), "store.root": str(tmp_path / "store")})
    prepared = prepare_corpus(config)
    shutil.rmtree(folder)
    from_shards = override(config, {"data.manifest": str(prepared.path)})
    plan = plan_corpus(from_shards)
    assert (plan.folder, tuple(plan.clips_of)) == (prepared.shards, prepared.parts)
    assert {clip.clip_id for clip in plan.clips} == {"clip", "silent", "truncated"}
    with pytest.raises(ValueError, match=r"'frames': 2.*'frames': 3.*data\.manifest"):
        plan_corpus(override(from_shards, {"media.frames": 3}))
    meta_file = prepared.path / META
    meta = json.loads(meta_file.read_text())
    for change in ({"parts": ["../../elsewhere.parquet"]}, {"shards": f"../../elsewhere/{meta['shards']}"}):
        meta_file.write_text(json.dumps(meta | change))
        with pytest.raises(ValueError, match=r"found .*expected"):
            plan_corpus(from_shards)
    meta_file.write_text(json.dumps(meta))
    (prepared.shards / prepared.parts[0]).unlink()
    with pytest.raises(ValueError, match=r"part-.*jobs/prepare\.py"):
        plan_corpus(from_shards)


def test_labels_and_splits_of_the_clips_do_not_matter(tiny_config, media_files, tmp_path):
    """Preparing must refuse this table: labels outside data.labels and in two spellings, and a single speaker."""
    videos = {label: shutil.copy(media_files["clip"], tmp_path / f"{label}.mp4") for label in ("joy", "Joy", "happy")}
    lines = [f"c-{label},{video},{label},me" for label, video in videos.items()]
    (tmp_path / "clips.csv").write_text("\n".join(["clip_id,video,label,speaker", *lines]))
    keys = {"data.manifest": str(tmp_path / "clips.csv"), "data.labels": ["happy", "sad"]}
    config = override(tiny_config, keys)
    with pytest.raises(ValueError, match="'joy'"):
        prepare_corpus(config)
    assert [len(clips) for clips in plan_corpus(config).clips_of.values()] == [3]
