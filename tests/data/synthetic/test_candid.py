"""Candid shots: the same people and acts repeat, and differ from posed stills as the module says."""

import numpy as np
import pytest

from emo_ray.config.data_settings import Synthetic
from emo_ray.data import synthetic
from emo_ray.data.media.video import read_video
from emo_ray.data.synthetic.candid import candid_shot, posed_act
from emo_ray.data.synthetic.face import EXPRESSIONS, FLAWS, face, paint, sample_look


def rngs(*seeds):
    return tuple(np.random.default_rng(seed) for seed in seeds)


@pytest.mark.parametrize("flaw", [None, *FLAWS])
def test_the_same_draws_give_the_same_shot_and_another_camera_another(flaw):
    shot, again, other = (candid_shot("happy", rngs(1, 2, camera), 0.5, flaw) for camera in (3, 3, 4))
    assert shot.dtype == np.uint8
    assert shot.shape == face("happy", *rngs(1, 2), 0.5).shape
    assert np.array_equal(shot, again)
    assert not np.array_equal(shot, other)


def test_candid_pictures_are_darker_and_blurred():
    close = np.stack([face("sad", *rngs(n, n + 50), 0.25) for n in range(12)]).astype(float)
    candid = np.stack([candid_shot("sad", rngs(n, n + 50, n + 90), 0.25) for n in range(12)]).astype(float)
    assert candid.mean() < 0.8 * close.mean()
    sharpest_edges = [np.quantile(np.abs(np.diff(frames, axis=3)), 0.999) for frames in (candid, close)]
    assert sharpest_edges[0] < 0.8 * sharpest_edges[1]


@pytest.mark.parametrize("label", synthetic.LABELS)
def test_a_posed_face_holds_its_expression_at_the_apex_and_looks_into_the_camera(label):
    act = posed_act(label, np.random.default_rng(0))
    units = act.units_T[0]
    assert all(units[name] >= 0.9 * level for name, level in EXPRESSIONS[label].units.items())
    assert units["blink"] == units["gaze"] == 0.0
    assert not act.pose_T3.any()
    assert len(paint(sample_look(np.random.default_rng(1)), act)) == 1


def test_the_setting_films_the_same_scripts_at_a_lower_rate(tmp_path):
    close, candid = (
        synthetic.write_scripts(Synthetic(train_clips=6, validation_clips=6, test_clips=6, shot=shot, missing_rate=0))[
            0
        ]
        for shot in ("close", "candid")
    )
    assert (close.label, close.shown, close.text) == (candid.label, candid.shown, candid.text)
    paths = [synthetic.render(script, tmp_path / script.shot).video for script in (close, candid)]
    frames = [read_video(path, 4, 64)[0] for path in paths]
    assert frames[0].shape == frames[1].shape
    assert not np.array_equal(*frames)
