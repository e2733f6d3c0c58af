"""Videos that are NumPy files: the frames of the array, and a status for any other file."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo_ray.data import media
from emo_ray.data.media import Span


def array(frames=10, height=40, width=40, dtype=np.uint8):
    """Frames of one grey each, red plane 1 higher than the blue one."""
    frames_FHWC = np.zeros((frames, height, width, 3), dtype)
    frames_FHWC[:] = (10 * np.arange(frames))[:, None, None, None] + np.array([1, 0, 0])
    return frames_FHWC


def read(path, frames=5, size=40, **kwargs):
    return media.read_video(str(path), frames, size, **kwargs)


def test_frames_are_spread_over_the_array(tmp_path):
    np.save(tmp_path / "clip.npy", array())
    frames_THWC, status = read(tmp_path / "clip.npy")
    assert status == "ok"
    assert np.array_equal(frames_THWC, array()[media.spread(10, 5)])
    swapped_THWC, _ = read(tmp_path / "clip.npy", channels="bgr")
    assert np.array_equal(swapped_THWC, frames_THWC[..., ::-1])


def test_frames_are_resized_and_cropped_as_those_of_a_video(tmp_path):
    np.save(tmp_path / "wide.npy", array(height=40, width=120))
    frames_THWC, _ = read(tmp_path / "wide.npy", size=20)
    assert frames_THWC.shape == (5, 20, 20, 3)


def test_an_array_has_neither_sound_nor_clock(tmp_path):
    path = tmp_path / "clip.npy"
    np.save(path, array())
    assert media.read_audio(str(path), 60) == (None, "missing: an array of frames has no sound")
    frames_THWC, status = media.read_video(str(path), 5, 40, span=Span(0, 1))
    assert frames_THWC is None
    assert status.startswith("corrupt: span 0 to 1 s")


@pytest.mark.parametrize(
    "other",
    [array(dtype=np.float32), array()[..., 0], array()[:, :, :, :2], array()[:0], np.asfortranarray(array()),
     np.array([{"a": 1}], dtype=object)],
    ids=["float", "grey", "two channels", "no frames", "order", "objects"],
)  # fmt: skip
def test_other_arrays_have_a_status(tmp_path, other):
    np.save(tmp_path / "clip.npy", other, allow_pickle=True)
    frames_THWC, status = read(tmp_path / "clip.npy")
    assert frames_THWC is None
    assert status.startswith("corrupt: ")


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def test_nothing_is_unpickled(tmp_path):
    (tmp_path / "clip.npy").write_bytes(pickle.dumps(_Trap()))
    assert read(tmp_path / "clip.npy")[1].startswith("corrupt: no NumPy file")


@given(share=st.floats(0, 0.999))
def test_a_cut_file_has_a_status(tmp_path_factory, share):
    path = tmp_path_factory.mktemp("cut") / "clip.npy"
    np.save(path, array())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    frames_THWC, status = read(path)
    assert frames_THWC is None
    assert status.startswith("corrupt: ")
