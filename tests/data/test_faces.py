"""Faces over boxes: properties of linking, of squares and of what is cut, without any detector."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo_ray.data import faces
from emo_ray.data.faces import Face, Track

SIDES = st.floats(10, 100)
BOXES = st.builds(
    lambda x, y, w, h, c: [x, y, w, h, c], st.floats(-50, 500), st.floats(-50, 500), SIDES, SIDES, st.floats(0.01, 1)
)
FRAMES = st.lists(st.lists(BOXES, max_size=4).map(lambda rows: np.array(rows).reshape(-1, 5)), min_size=1, max_size=8)


def box(x, y, side=40.0, confidence=0.9):
    return np.array([x, y, side, side, confidence])


def face_at(centres, side=40.0, seen=None):
    """A face of constant size whose centres are these, seen in these frames or in all."""
    corner_T2 = np.array(centres, float) - side / 2
    box_T4 = np.concatenate([corner_T2, np.full((len(corner_T2), 2), side)], axis=1)
    return Face(box_T4, np.ones(len(box_T4)) if seen is None else np.array(seen, float), 1)


# Who is who


@given(boxes_T=FRAMES)
def test_every_box_is_in_one_track_and_a_track_has_one_box_a_frame(boxes_T):
    tracks = faces.link(boxes_T)
    linked = [(t, *row) for track in tracks for t, row in track.boxes.items()]
    assert sorted(linked) == sorted((t, *row) for t, rows in enumerate(boxes_T) for row in rows)


@given(boxes_T=FRAMES, scale=st.floats(0.1, 10))
def test_links_do_not_depend_on_the_resolution(boxes_T, scale):
    scaled_T = [rows * (scale, scale, scale, scale, 1) for rows in boxes_T]
    before, after = faces.link(boxes_T), faces.link(scaled_T)
    if [sorted(track.boxes) for track in before] != [sorted(track.boxes) for track in after]:
        overlaps = [faces.iou(a, b) for rows in pairwise(boxes_T) for a in rows[0] for b in rows[1]]
        assert any(abs(overlap - 0.3) < 1e-6 for overlap in overlaps)  # rounding decides at the limit alone


@given(a=BOXES, b=BOXES)
def test_overlap_is_symmetric_and_a_share(a, b):
    overlap = faces.iou(np.array(a), np.array(b))
    assert 0 <= overlap <= 1 + 1e-9
    assert overlap == pytest.approx(faces.iou(np.array(b), np.array(a)))
    assert faces.iou(np.array(a), np.array(a)) == pytest.approx(1)


def test_overlap_by_hand():
    assert faces.iou(box(0, 0), box(20, 0)) == pytest.approx(20 / 60)
    assert faces.iou(box(0, 0), box(0, 0, 20)) == pytest.approx(1 / 4)
    assert faces.iou(box(0, 0), box(40, 0)) == 0


def test_two_people_who_stand_still_are_two_tracks_in_whatever_order_their_boxes_come():
    left, right = box(10, 10), box(200, 10)
    tracks = faces.link([np.stack([left, right]), np.stack([right, left]), np.stack([left, right])])
    assert sorted(tuple(track.boxes) for track in tracks) == [(0, 1, 2), (0, 1, 2)]
    assert {tuple(track.boxes[1][:2]) for track in tracks} == {(10, 10), (200, 10)}


def test_a_face_that_moves_by_less_than_half_its_width_is_followed_and_one_that_jumps_is_another():
    assert len(faces.link([box(0, 0)[None], box(19, 0)[None]])) == 1
    assert faces.iou(box(0, 0, 20), box(9, 3, 40)) < 0.3  # too little overlap, and yet near
    assert len(faces.link([box(0, 0, 20)[None], box(-1, 3, 40)[None]])) == 1
    assert len(faces.link([box(0, 0)[None], box(100, 0)[None]])) == 2


def test_a_face_is_found_again_after_a_gap():
    (track,) = faces.link([box(0, 0)[None], np.zeros((0, 5)), box(5, 0)[None]])
    assert sorted(track.boxes) == [0, 2]


def test_the_main_face_is_the_one_with_most_confidence_times_area():
    large, sure = Track({0: box(0, 0, 50, 0.6)}), Track({0: box(100, 0, 40, 1.0)})  # 1500 and 1600
    assert faces.main_face([large, sure], 1).box_T4[0, 0] == 100
    brief, long = Track({0: box(0, 0, 50)}), Track({t: box(100, 0, 40) for t in range(3)})
    assert faces.main_face([brief, long], 3).box_T4[0, 0] == 100
    assert faces.main_face([], 3) is None


def test_people_are_those_seen_in_a_quarter_of_the_frames():
    main = Track({t: box(0, 0) for t in range(8)})
    assert faces.main_face([main, Track({0: box(200, 0)})], 8).people == 1
    assert faces.main_face([main, Track({0: box(200, 0), 1: box(200, 0)})], 8).people == 2
    assert faces.main_face([main], 8).status == "ok"
    assert faces.main_face([main, Track(dict(main.boxes))], 8).status == "ok: 2 people"


def test_all_people_are_numbered_from_left_to_right_whoever_is_the_main_one():
    right = Track({t: box(300, 0, 80) for t in range(8)})
    left = Track({t: box(10 + t, 0) for t in range(2, 8)})
    passer = Track({0: box(150, 0)})
    for tracks in ([right, left, passer], [passer, left, right]):
        first, second = faces.all_faces(tracks, 8)
        assert (first.person, first.box_T4[2, 0], first.people) == ("1", 12, 2)
        assert (second.person, second.box_T4[0, 0], second.people) == ("2", 300, 2)
        assert first.status == "ok: in 6 of 8 frames; 2 people"
        main = faces.main_face(tracks, 8)
        assert np.array_equal(main.box_T4, second.box_T4)
        assert main.weight == second.weight > first.weight
    assert [face.person for face in faces.all_faces([passer], 8)] == ["1"]  # nobody else is there
    assert faces.all_faces([], 8) == []


@given(boxes_T=FRAMES)
def test_as_many_people_have_a_face_as_are_counted(boxes_T):
    tracks, frames = faces.link(boxes_T), len(boxes_T)
    clip_faces = faces.all_faces(tracks, frames)
    assert len({face.person for face in clip_faces}) == len(clip_faces)
    main = faces.main_face(tracks, frames)
    assert [face.people for face in clip_faces] == [main.people if main else 0] * len(clip_faces)
    assert all((face.confidence_T > 0).mean() >= 0.25 or face.weight == main.weight for face in clip_faces)


def test_frames_without_the_face_take_their_neighbours_box():
    face = faces.main_face([Track({1: box(10, 0), 3: box(30, 20)})], 5)
    assert face.box_T4[:, 0].tolist() == [10, 10, 20, 30, 30]
    assert face.box_T4[:, 1].tolist() == [0, 0, 10, 20, 20]
    assert face.confidence_T.tolist() == [0, 0.9, 0, 0.9, 0]
    assert face.status == "ok: in 2 of 5 frames"


def test_tables_may_say_who_is_who():
    boxes_T = [np.stack([box(0, 0), box(100, 0)]), np.stack([box(100, 0), box(0, 0)])]
    tracks = faces.of_people(boxes_T, [["a", "b"], ["a", "b"]])
    assert [track.boxes[t][0] for track in tracks for t in (0, 1)] == [0, 100, 100, 0]
    assert [face.person for face in faces.all_faces(tracks, 2)] == ["a", "b"]
    (track,) = faces.of_people([np.stack([box(0, 0, confidence=0.9), box(50, 0, confidence=0.7)])], [["a", "a"]])
    assert track.boxes[0][0] == 0


def test_boxes_without_a_name_are_people_of_their_own_and_get_numbers_that_nobody_has():
    boxes_T = [np.stack([box(0, 0), box(100, 0), box(200, 0)])] * 2
    people = [
        (face.person, face.box_T4[0, 0]) for face in faces.all_faces(faces.of_people(boxes_T, [["", "1", ""]] * 2), 2)
    ]
    assert people == [("2", 0), ("1", 100), ("3", 200)]


@given(rows=st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 30.0, np.nan, np.inf]), min_size=5, max_size=5)))
def test_usable_boxes_are_numbers_with_an_area(rows):
    boxes_N5 = np.array(rows, float).reshape(-1, 5)
    kept = boxes_N5[faces.are_usable(boxes_N5, 0.5, 24)]
    assert np.isfinite(kept).all()
    assert (kept[:, 2:4] >= 24).all()
    assert (kept[:, 4] >= 0.5).all()


# Squares


@given(
    centres=st.lists(st.tuples(st.floats(0, 300), st.floats(0, 300)), min_size=1, max_size=8),
    margin=st.floats(0.5, 3),
    shift=st.tuples(st.integers(-100, 100), st.integers(-100, 100)),
)
def test_squares_have_one_side_and_move_with_the_picture(centres, margin, shift):
    squares_T3 = faces.squares(face_at(centres), margin)
    assert set(squares_T3[:, 2].tolist()) == {max(1, round(margin * 40))}
    moved_T3 = faces.squares(face_at(np.array(centres) + shift), margin)
    assert np.abs(moved_T3[:, :2] - squares_T3[:, :2] - shift).max() <= 1  # rounding


def test_a_face_that_jitters_stands_still_and_one_that_walks_is_followed():
    rng = np.random.default_rng(0)
    still_T3 = faces.squares(face_at(100 + rng.uniform(-1.5, 1.5, (8, 2))), 1.3)
    assert len(np.unique(still_T3, axis=0)) == 1
    walking_T3 = faces.squares(face_at([(100 + 10 * t, 100) for t in range(8)]), 1.3)
    assert np.abs(walking_T3[:, 0] + 26 - (100 + 10 * np.arange(8))).max() <= 3
    assert np.ptp(walking_T3[:, 1]) == 0


def test_the_side_is_the_median_of_the_frames_that_show_the_face():
    face = faces.main_face([Track({0: box(0, 0, 40), 1: box(0, 0, 60), 3: box(0, 0, 200)})], 4)
    assert faces.squares(face, 1.0)[0, 2] == 60


@given(centre=st.tuples(st.floats(50, 150), st.floats(50, 150)), margin=st.floats(1.1, 2))
def test_a_still_face_lies_in_its_square(centre, margin):
    face = face_at([centre] * 3)
    for x, y, width, height in faces.in_squares(face, margin):
        assert min(x, y) >= 0
        assert max(x + width, y + height) <= 1
        assert width == height == pytest.approx(1 / margin, abs=0.02)


# Cutting


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    left=st.integers(-40, 40),
    top=st.integers(-40, 40),
    side=st.integers(1, 40),
)
def test_what_is_cut_is_numpys_reflection(height, width, left, top, side):
    image_HWC = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    reach = 100
    padding = ((reach, reach), (reach, reach), (0, 0))
    padded = np.pad(image_HWC, padding, mode="reflect")
    expected = padded[reach + top : reach + top + side, reach + left : reach + left + side]
    assert np.array_equal(faces.cut(image_HWC, np.array([left, top, side])), expected)
