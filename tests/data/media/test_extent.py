"""When sound begins and ends, against decoding all of it."""

import av
import numpy as np
import pytest

from emo_ray.data import media

RATE_HZ = 48_000
CODECS = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "m4a": "aac", "mka": "aac", "opus": "libopus",
          "ts": "mp2", "avi": "mp2"}  # fmt: skip


def write(path, codec, seconds, start_s=0.0):
    """Noise in a track that begins at `start_s`; where it does, a track of four pixels begins with the file."""
    samples_S = np.random.default_rng(0).integers(-3000, 3000, round(seconds * RATE_HZ)).astype(np.int16)
    with av.open(str(path), "w") as out:
        picture = out.add_stream("mpeg4", rate=1) if start_s else None
        sound = out.add_stream(codec, rate=RATE_HZ, layout="mono")
        if picture is not None:
            picture.width = picture.height = 16
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            for packet in (*picture.encode(frame), *picture.encode(None)):
                out.mux(packet)
        for place in range(0, len(samples_S), 1024):
            frame = av.AudioFrame.from_ndarray(samples_S[None, place : place + 1024], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE_HZ, round(start_s * RATE_HZ) + place
            for packet in sound.encode(frame):
                out.mux(packet)
        for packet in sound.encode(None):
            out.mux(packet)
    return path


@pytest.mark.parametrize("suffix", list(CODECS))
def test_the_extent_is_that_of_decoded_sound(tmp_path, suffix):
    path = write(tmp_path / f"sound.{suffix}", CODECS[suffix], 3.3)
    samples_S, _ = media.read_audio(str(path), 10)
    (start_s, end_s), status = media.read_sound_extent(str(path))
    assert status == "ok"
    assert start_s == 0
    assert end_s == pytest.approx(len(samples_S) / media.RATE_HZ, abs=0.05)


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_sound_may_begin_later_than_the_file(tmp_path, suffix):
    path = write(tmp_path / f"clip.{suffix}", "mp2", 2, start_s=1.5)
    (start_s, end_s), _ = media.read_sound_extent(str(path))
    assert start_s == pytest.approx(1.5, abs=0.05)
    assert end_s == pytest.approx(3.5, abs=0.05)


def test_files_without_sound_have_the_status_of_their_kind(media_files, tmp_path):
    for name, status in {
        "silent": "missing: no sound track",
        "truncated": "corrupt",
        "text": "corrupt",
        "empty": "corrupt: the file has 0 bytes",
    }.items():
        extent, text = media.read_sound_extent(str(media_files[name]))
        assert extent is None
        assert text.startswith(status), name
    assert media.read_sound_extent(str(tmp_path / "nowhere.wav"))[1] == "missing: no such file"


def test_a_file_of_which_half_is_cut_off_is_corrupt(tmp_path):
    path = write(tmp_path / "sound.wav", "pcm_s16le", 3)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    extent, status = media.read_sound_extent(str(path))
    assert extent is None
    assert status.startswith("corrupt: truncated")


def test_a_time_stamp_of_days_is_corrupt(tmp_path):
    path = write(tmp_path / "clip.mkv", "mp2", 0.5, start_s=72 * 3600)
    assert "48 hours" in media.read_sound_extent(str(path))[1]


def test_frames_in_an_array_have_no_sound(tmp_path):
    np.save(tmp_path / "frames.npy", np.zeros((3, 8, 8, 3), np.uint8))
    source = str(tmp_path / "frames.npy")
    assert media.read_sound_extent(source) == media.read_audio(source, 10)
    assert media.read_sound_extent(source)[1].startswith("missing")
