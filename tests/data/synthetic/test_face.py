"""Faces of the synthetic corpus: a person stays recognisable, flaws are visible, and order in time tells classes."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emo_ray.data.synthetic import LABELS
from emo_ray.data.synthetic import face as synthetic_face

PAIRS = (("angry", "sad"), ("worried", "surprise"))  # alike in every frame
MOODS = tuple(enumerate(LABELS))
FRAMES, DURATION_S = 8, 2.0
TIME_T = (np.arange(FRAMES) + 0.5) * DURATION_S / FRAMES
PEOPLE, CLIPS, FOLDS = 24, 2, 4


def face(label, person=0, clip=0, flaw=None, duration_s=DURATION_S):
    generators = np.random.default_rng([1, person]), np.random.default_rng([2, clip])
    return synthetic_face.face(label, *generators, duration_s, flaw)


def grey_blocks(frames_THWC):
    """(T, 256) coarse pixels."""
    return frames_THWC.mean(3).reshape(-1, 16, 6, 16, 6).mean((2, 4)).reshape(-1, 256)


@pytest.mark.parametrize("label", LABELS)
def test_a_face_moves_in_uint8_and_repeats(label):
    frames_THWC = face(label)
    assert (frames_THWC.dtype, frames_THWC.shape) == (np.uint8, (24, 96, 96, 3))
    assert len(np.unique(frames_THWC.reshape(24, -1), axis=0)) == 24
    short, again, person, clip = (face(label, **k, duration_s=0.25) for k in ({}, {}, {"person": 1}, {"clip": 1}))
    assert len(short) == 3
    assert np.array_equal(short, again)
    assert (short != person).any()
    assert (short != clip).any()


def test_a_person_looks_alike_in_every_expression():
    looks_NC = np.array(
        [face(label, p, c, duration_s=0.1)[0, ::6, ::6].ravel() for p in range(6) for c, label in MOODS], float
    )
    distances_NN = np.linalg.norm(looks_NC[:, None] - looks_NC[None], axis=2) + np.diag([np.inf] * len(looks_NC))
    person = np.arange(len(looks_NC)) // len(MOODS)
    assert np.mean(person[distances_NN.argmin(1)] == person) > 0.9


@pytest.mark.parametrize("clip", range(3))
def test_a_dark_face_is_the_same_face_in_a_dark_room(clip):
    clear_THWC, dark_THWC = face("sad", clip=clip), face("sad", clip=clip, flaw="dark")
    assert (dark_THWC.dtype, dark_THWC.shape) == (clear_THWC.dtype, clear_THWC.shape)
    assert 0.08 < dark_THWC.mean() / clear_THWC.mean() < 0.4
    assert np.percentile(dark_THWC, 90) < np.percentile(clear_THWC, 50)
    clear, dark = grey_blocks(clear_THWC), grey_blocks(dark_THWC)
    assert np.corrcoef(clear.ravel(), dark.ravel())[0, 1] > 0.95  # the face is still visible


@pytest.mark.parametrize("clip", range(5))
def test_something_covers_part_of_the_face_in_some_frames_of_one_stretch(clip):
    clear_THWC, covered_THWC = face("happy", clip=clip), face("happy", clip=clip, flaw="occluded")
    assert (covered_THWC.dtype, covered_THWC.shape) == (clear_THWC.dtype, clear_THWC.shape)
    share_T = (clear_THWC != covered_THWC).any(3).mean((1, 2))
    covered = np.flatnonzero(share_T)
    assert len(covered) == covered[-1] - covered[0] + 1  # one stretch
    assert 8 <= len(covered) <= 16
    assert share_T[covered].min() > 0.1
    assert share_T.max() < 0.4


@pytest.fixture(scope="module")
def clips():
    """Coarse pixels_NTD and action units_NTU of clips of both pairs, with their labels and persons."""
    pixels, units, labels, people = [], [], [], []
    for person in range(PEOPLE):
        look = synthetic_face.sample_look(np.random.default_rng([3, person]))
        for label in (label for pair in PAIRS for label in pair):
            for clip in range(CLIPS):
                clip_rng = np.random.default_rng([4, person, LABELS.index(label), clip])
                act = synthetic_face.sample_act(label, clip_rng, TIME_T, DURATION_S)
                pixels.append(grey_blocks(synthetic_face.paint(look, act)))
                units.append([[moment[name] for name in synthetic_face.UNITS] for moment in act.units_T])
                labels.append(label)
                people.append(person)
    return tuple(np.array(x) for x in (pixels, units, labels, people))


def read_units(pixels_NTD, units_NTU, in_train_N):
    """Action units of single frames, from their pixels by a ridge regression that is fitted to the training clips."""
    inputs_FD = (pixels_NTD - pixels_NTD.mean(1, keepdims=True))[in_train_N].reshape(-1, pixels_NTD.shape[2])
    targets_FU = (units_NTU - units_NTU.mean(1, keepdims=True))[in_train_N].reshape(-1, units_NTU.shape[2])
    reader = Ridge(1e4).fit(inputs_FD, targets_FU)
    return reader.predict(pixels_NTD.reshape(-1, pixels_NTD.shape[2])).reshape(units_NTU.shape)


def shuffled(tracks_NTU, rng):
    """The clips with their frames in random order."""
    order_NT = rng.permuted(np.tile(np.arange(FRAMES), (len(tracks_NTU), 1)), axis=1)
    return np.take_along_axis(tracks_NTU, order_NT[:, :, None], axis=1)


def course(tracks_NTU):
    """Mean, deviation, slope and mean step from frame to frame: only the last two depend on the order of frames."""
    slope = np.einsum("t,ntu->nu", TIME_T - TIME_T.mean(), tracks_NTU)
    step = np.abs(np.diff(tracks_NTU, axis=1)).mean(1)
    return np.concatenate([tracks_NTU.mean(1), tracks_NTU.std(1), slope, step], axis=1)


def test_alike_faces_differ_in_the_order_of_their_frames_on_unseen_people(clips):
    pixels_NTD, units_NTU, labels, people = clips
    hits = {pair: {"mean": [], "shuffled": [], "ordered": []} for pair in PAIRS}
    for fold in range(FOLDS):
        in_train_N = people % FOLDS != fold
        tracks_NTU = read_units(pixels_NTD, units_NTU, in_train_N)
        mixed_NTU = shuffled(tracks_NTU, np.random.default_rng(fold))
        views = {"mean": tracks_NTU.mean(1), "shuffled": course(mixed_NTU), "ordered": course(tracks_NTU)}
        for pair, scores_of in hits.items():
            in_pair_N = np.isin(labels, pair)
            train_N, test_N = in_pair_N & in_train_N, in_pair_N & ~in_train_N
            for view, features in views.items():
                probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
                probe.fit(features[train_N], labels[train_N])
                scores_of[view].append(probe.score(features[test_N], labels[test_N]))
    for pair, scores_of in hits.items():
        accuracy = {view: round(float(np.mean(scores)), 3) for view, scores in scores_of.items()}
        assert accuracy["ordered"] > 0.8, (pair, accuracy)
        assert accuracy["shuffled"] < 0.72, (pair, accuracy)
        assert accuracy["ordered"] > accuracy["shuffled"] + 0.15, (pair, accuracy)
        assert accuracy["ordered"] > accuracy["mean"] + 0.25, (pair, accuracy)
