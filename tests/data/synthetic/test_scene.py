"""Wide shots: the face of the close shot in a room, the same bytes from the same seed."""

import numpy as np
import pytest

from emo_ray.config.data_settings import Synthetic
from emo_ray.data import synthetic
from emo_ray.data.synthetic.canvas import SIZE
from emo_ray.data.synthetic.face import face
from emo_ray.data.synthetic.scene import HEIGHT, WIDTH, wide_shot


def rngs(clip=0, scene=0):
    return tuple(np.random.default_rng(seed) for seed in (1, clip, scene))


@pytest.mark.parametrize("flaw", [None, "dark", "occluded"])
def test_the_same_seeds_give_the_same_room_and_others_another(flaw):
    frames_THWC = wide_shot("happy", rngs(), 1.0, flaw)
    assert frames_THWC.shape == (12, HEIGHT, WIDTH, 3)
    assert frames_THWC.dtype == np.uint8
    assert np.array_equal(frames_THWC, wide_shot("happy", rngs(), 1.0, flaw))
    assert not np.array_equal(frames_THWC, wide_shot("happy", rngs(scene=1), 1.0, flaw))


def test_the_face_is_that_of_the_close_shot():
    patch_HW = face("happy", *rngs()[:2], 1.0)[6, 24:72, 24:72, 0].astype(np.float32)
    wide_HW = wide_shot("happy", rngs(), 1.0)[6, :, :, 0].astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(wide_HW, patch_HW.shape)
    few = np.abs(windows[..., ::8, ::8] - patch_HW[::8, ::8]).mean((-1, -2))  # pixels, to find the place by
    place = np.unravel_index(few.argmin(), few.shape)
    assert np.abs(windows[place] - patch_HW).mean() < 6  # tilted heads are resampled


def test_the_setting_makes_wide_clips_of_the_same_scripts():
    close, wide = (synthetic.write_scripts(Synthetic(train_clips=12, shot=shot)) for shot in ("close", "wide"))
    assert [(s.clip_id, s.label, s.shown, s.flaws) for s in close] == [
        (s.clip_id, s.label, s.shown, s.flaws) for s in wide
    ]
    assert synthetic.digest_parts(Synthetic(shot="close")) != synthetic.digest_parts(Synthetic(shot="wide"))
    assert SIZE < HEIGHT
