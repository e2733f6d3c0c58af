"""Corpora in buckets: tables and folders with media beside them, listed once, and read while the server fails."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets import BUCKET, Server, serving

from emo_ray import arrow_s3, bucket, parquet
from emo_ray.config import Config, load
from emo_ray.data import shards
from emo_ray.data.corpora.reader import read_corpus
from emo_ray.data.inputs import fetched
from emo_ray.data.manifest import Clip
from emo_ray.trouble import PlaceTrouble


@pytest.fixture(scope="module")
def server(media_files) -> Iterator[Server]:
    """A bucket with a table, media beside it, and a folder of media with transcripts."""
    with serving() as running:
        bucket._filesystem.cache_clear()
        running.put("corpus/clips.csv", b"video,label\nvideo/a b.mp4,happy\nvideo/c#?.mp4,sad\n")
        for name in ("corpus/video/a b.mp4", "corpus/video/c#?.mp4", "folder/x/one.mp4", "folder/two.mp4"):
            running.put(name, Path(media_files["clip"]).read_bytes())
        running.put("folder/x/one.txt", b"what is said")
        running.put("folder/.hidden.mp4", b"")
        yield running


def config_of(tmp_path: Path, **changes: object) -> Config:
    settings = {f"data.{key}": value for key, value in changes.items()}
    return fetched(load("mini", {"store.cache": str(tmp_path / "cache"), **settings}))


def test_a_table_names_media_beside_it(server, tmp_path):
    config = config_of(tmp_path, manifest=f"s3://{BUCKET}/corpus/clips.csv")
    clips, _ = read_corpus(config.data)
    assert [clip.video for clip in clips] == [
        f"s3://{BUCKET}/corpus/video/a%20b.mp4",
        f"s3://{BUCKET}/corpus/video/c%23%3F.mp4",
    ]
    assert [clip.clip_id for clip in clips] == ["a b", "c#?"]
    assert [path.name for path in (tmp_path / "cache").rglob("*.*") if path.is_file()] == ["clips.csv"]


def test_a_table_that_has_changed_is_read_anew(server, tmp_path):
    for label in ("happy", "angry"):
        server.put("changing/clips.csv", f"video,label\na.mp4,{label}\n".encode())
        config = config_of(tmp_path, manifest=f"s3://{BUCKET}/changing/clips.csv")
        assert [clip.label for clip in read_corpus(config.data)[0]] == [label]
        os.utime(config.data.manifest, (0, 0))  # else both would be of one second, as no two tables of people are


def test_a_table_here_names_media_below_a_root_there(server, tmp_path):
    (tmp_path / "clips.csv").write_text("video,label\na b.mp4,happy\n")
    config = config_of(tmp_path, manifest=str(tmp_path / "clips.csv"), root=f"s3://{BUCKET}/corpus/video")
    assert read_corpus(config.data)[0][0].video == f"s3://{BUCKET}/corpus/video/a%20b.mp4"


@pytest.mark.parametrize(
    "path",
    [
        "../other/a.mp4",
        "s3://other/a.mp4",
        "/etc/passwd",
        f"s3://{BUCKET}/corpus/video/a.mp4?endpoint_override=example.org",
        f"s3://{BUCKET}/corpus/video/../other/a.mp4",
        f"s3://{BUCKET}/corpus/video/%2E%2E/other/a.mp4",
    ],
)
def test_what_lies_outside_of_a_root_there_is_refused(server, tmp_path, path):
    (tmp_path / "clips.csv").write_text(f"video,label\n{path},happy\n")
    config = config_of(tmp_path, manifest=str(tmp_path / "clips.csv"), root=f"s3://{BUCKET}/corpus/video")
    with pytest.raises(ValueError, match=r"row 1, video: found "):
        read_corpus(config.data)


def test_a_prefix_is_a_folder(server, tmp_path):
    clips, _ = read_corpus(config_of(tmp_path, manifest=f"s3://{BUCKET}/folder").data)
    assert clips == [
        Clip("two", video=f"s3://{BUCKET}/folder/two.mp4"),
        Clip("x/one", video=f"s3://{BUCKET}/folder/x/one.mp4", text="what is said"),
    ]


def test_an_address_of_nothing_is_named_with_its_key(server, tmp_path):
    with pytest.raises(ValueError, match=r"data\.manifest: found nothing at s3://bucket/none"):
        config_of(tmp_path, manifest=f"s3://{BUCKET}/none")


def test_many_files_are_listed_and_a_few_are_asked_for_with_equal_identities(server, monkeypatch):
    names = [f"many/{i}.mp4" for i in range(30)]
    for name in names:
        server.put(name, name.encode())
    clips = [Clip(name, video=f"s3://{BUCKET}/{name}") for name in names]
    clips.append(Clip("gone", video=f"s3://{BUCKET}/many/gone.mp4"))
    asked = server.failing.requests
    one_by_one = shards.identified(clips, "sample")
    assert server.failing.requests - asked > 30
    monkeypatch.setattr(bucket, "_LISTED", 10)
    asked = server.failing.requests
    assert shards.identified(clips, "sample") == one_by_one
    assert server.failing.requests - asked < 5  # the listing, and the file that is not in it


def test_clips_are_decoded_alike_while_requests_fail(server, tmp_path):
    config = load("mini", {"media.frames": 2, "media.patience_s": 20})
    clips = [Clip(str(i), video=f"s3://{BUCKET}/folder/two.mp4") for i in range(6)]
    expected = [shards.rows(clip, config.media, 32) for clip in shards.identified(clips, "sample")]
    server.failing.rate = 0.1
    try:
        identified = shards.identified(clips, "sample")
        shards.write_part(tmp_path / "part.parquet", identified, config.media, 32)
    finally:
        server.failing.rate = 0.0
    rows = parquet.read(tmp_path / "part.parquet").to_pylist()
    assert [row["video_status"] for row in rows] == ["ok"] * 6
    assert rows == [row for rows in expected for row in rows]


def test_a_bucket_that_never_answers_makes_no_clip_corrupt(server, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket, "_WAITS_S", (0.01,))
    monkeypatch.setattr(arrow_s3, "_TRIES", 1)
    bucket._filesystem.cache_clear()
    config = load("mini", {"media.frames": 2, "media.patience_s": 0.1})
    identified = shards.identified([Clip("a", video=f"s3://{BUCKET}/folder/two.mp4")], "sample")
    server.failing.rate = 1.0
    try:
        with pytest.raises(PlaceTrouble):
            shards.write_part(tmp_path / "part.parquet", identified, config.media, 32)
    finally:
        server.failing.rate = 0.0
    assert not (tmp_path / "part.parquet").exists()
