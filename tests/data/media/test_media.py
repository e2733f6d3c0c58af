"""Decoding: frames and sound are those of an independent decoder, and damaged files have a status."""

import os
import random
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from emo_ray.data import media
from emo_ray.data.media import packet_index, video
from emo_ray.data.media.container import LIMITS, opened
from emo_ray.data.status import is_ok

FPS = 25
GOOD_VIDEO = ("clip", "faststart", "short_gop", "long_gop", "silent", "edited", "mkv", "avi", "mpg", "ts")
ROTATED = {  # from the stored picture to what a viewer shows
    "rotated": lambda image: np.rot90(image, -1),
    "rotated_left": lambda image: np.rot90(image, 1),
    "rotated_180": lambda image: np.rot90(image, 2),
    "mirrored": np.fliplr,
    "mirrored_rotated": lambda image: np.rot90(np.flipud(image), -1),
}


def every_image(path):
    """All images of a video in the order they are shown, with PyAV alone."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def middle(image, size=120):
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def expected_places(count, frames):
    """The frame that is shown at the middle of each of `frames` equal stretches of time."""
    return [int(np.floor((i + 0.5) / frames * count)) for i in range(frames)]


def every_sample(path):
    """Sound as float samples_CS at the file's rate, and that rate, with PyAV alone."""
    with av.open(str(path), metadata_errors="ignore") as container:
        rate_hz = container.streams.audio[0].rate
        chunks = [
            frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T
            if not frame.format.is_planar
            else frame.to_ndarray()
            for frame in container.decode(audio=0)
        ]
    samples_CS = np.concatenate(chunks, axis=1)
    return samples_CS / (1 if samples_CS.dtype.kind == "f" else 32768), rate_hz


def write_tones(path, tones_hz, rate_hz=48_000, seconds=1.0, layout="mono"):
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    samples_CS = [np.round(9000 * np.sin(2 * np.pi * tone_hz * t)).astype(np.int16) for tone_hz in tones_hz]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.stack(samples_CS, axis=1).reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate = rate_hz
        for part in (frame, None):
            out.mux(stream.encode(part))
    return np.stack(samples_CS)


@given(count=st.integers(1, 10_000), frames=st.integers(1, 64))
def test_spread_takes_the_middles_of_equal_stretches(count, frames):
    places = media.spread(count, frames)
    assert places == sorted(places)
    assert len(places) == frames
    assert 0 <= places[0] <= places[-1] < count
    assert max(places[0], count - 1 - places[-1]) <= count / frames / 2 + 1  # as much is left out at both ends
    assert len(set(places)) == min(count, frames)
    assert media.spread(count, count) == list(range(count)) if count < 100 else True


@pytest.mark.parametrize("frames", [1, 3, 8, 50, 120])
@pytest.mark.parametrize("name", GOOD_VIDEO)
def test_frames_are_those_of_decoding_everything(media_files, frame_number, name, frames):
    images = every_image(media_files[name])
    places = expected_places(len(images), frames)
    frames_THWC, status = media.read_video(str(media_files[name]), frames, 120)
    assert status == "ok"
    assert frames_THWC.shape == (frames, 120, 120, 3)
    assert frames_THWC.dtype == np.uint8
    first = frame_number(images[0])  # an edit list hides the start
    assert [frame_number(image) - first for image in frames_THWC] == places
    for image, place in zip(frames_THWC, places, strict=True):
        assert np.abs(image.astype(int) - middle(images[place])).max() <= 2


@settings(max_examples=40)
@given(
    suffix=st.sampled_from(["mp4", "mov", "mkv"]),
    gop=st.integers(1, 30),
    b_frames=st.integers(0, 3),
    open_gop=st.booleans(),
    count=st.integers(1, 60),
    frames=st.integers(1, 12),
)
@example(suffix="mp4", gop=2, b_frames=0, open_gop=False, count=60, frames=4)
@example(suffix="mp4", gop=10, b_frames=3, open_gop=True, count=60, frames=8)
def test_seeking_finds_the_same_frames_whatever_the_key_frames(
    tmp_path_factory, frame_number, suffix, gop, b_frames, open_gop, count, frames
):
    path = tmp_path_factory.mktemp("gop") / f"clip.{suffix}"
    with av.open(str(path), "w") as out:
        options = {"preset": "ultrafast", "bf": str(b_frames), "x264-params": f"open-gop={int(open_gop)}:scenecut=0"}
        stream = out.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.thread_count = gop, 1
        for number in range(count):
            bits = [200 if bit == "1" else 40 for bit in f"{number:08b}"]
            rows = np.repeat(np.array(bits, np.uint8), 8)
            image = np.broadcast_to(rows[:, None, None], (64, 64, 3))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        out.mux(stream.encode(None))
    frames_THWC, status = media.read_video(str(path), frames, 64)
    assert status == "ok"
    numbers = [int("".join("01"[int(row > 128)] for row in image[4::8, 32, 0]), 2) for image in frames_THWC]
    assert numbers == expected_places(count, frames)


@given(
    gaps=st.lists(st.integers(1, 5), min_size=1, max_size=80),
    keys=st.sets(st.integers(0, 79)),
    frames=st.integers(1, 10),
)
def test_segments_hold_each_target_frame_once_and_start_at_key_frames(gaps, keys, frames):
    shown = np.cumsum(gaps).tolist()
    packets = [(pts, i == 0 or i in keys) for i, pts in enumerate(shown)]
    targets = [shown[i] for i in media.spread(len(shown), frames)]
    segments = video._segments(packets, targets, None)
    assert [pts for _, group in segments for pts in group] == sorted(set(targets))
    assert all(start is None or ((start, True) in packets and start <= group[0]) for start, group in segments)
    decoded = [shown.index(group[-1]) + 1 - (shown.index(start) if start else 0) for start, group in segments]
    assert sum(decoded) <= shown.index(targets[-1]) + 1  # no more frames than straight through


def test_seeking_is_for_frequent_key_frames_only(media_files):
    for name, starts in (("short_gop", 3), ("long_gop", 1)):
        with opened(str(media_files[name]), LIMITS) as clip:
            index, _ = packet_index.index_of_packets(clip, clip.container.streams.video[0], LIMITS, None, False)
        targets = [index.times[i] for i in media.spread(250, 3)]
        assert len(video._segments(list(zip(index.pts, index.keys, strict=True)), targets, None)) == starts


def test_short_clips_repeat_frames(media_files, frame_number):
    frames_THWC, _ = media.read_video(str(media_files["wide"]), 25, 120)
    assert [frame_number(image) for image in frames_THWC] == [int((i + 0.5) * 10 / 25) for i in range(25)]


@pytest.mark.parametrize("name", ["portrait", "wide", "silent"])
@pytest.mark.parametrize("size", [120, 60, 224])
def test_the_middle_of_the_picture_is_kept(media_files, name, size):
    image = Image.fromarray(every_image(media_files[name])[0])
    scale = size / min(image.size)
    resized = np.asarray(image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC))
    frames_THWC, _ = media.read_video(str(media_files[name]), 10 if name != "silent" else 50, size)
    assert frames_THWC.shape[1:] == (size, size, 3)
    difference = np.abs(frames_THWC[0].astype(float) - middle(resized, size))
    assert difference.mean() < 2
    assert np.percentile(difference, 95) < 12  # resizers differ at edges


@pytest.mark.parametrize("name", ROTATED)
def test_pictures_are_shown_upright(media_files, name):
    stored, _ = media.read_video(str(media_files["silent"]), 3, 120)
    shown, status = media.read_video(str(media_files[name]), 3, 120)
    assert status == "ok"
    np.testing.assert_array_equal(shown, np.stack([ROTATED[name](image) for image in stored]))
    assert (shown != stored).any()


@pytest.mark.parametrize(
    "name", ["clip", "faststart", "audio_only", "wav", "mkv", "avi", "mp3", "cover", "adts", "titled"]
)
def test_sound_is_that_of_another_resampler(media_files, name):
    samples_CS, rate_hz = every_sample(media_files[name])
    reference = torch.from_numpy(samples_CS.mean(axis=0).astype(np.float32))
    expected = torchaudio.functional.resample(reference, rate_hz, media.RATE_HZ).numpy()
    samples_S, status = media.read_audio(str(media_files[name]), 60)
    assert status == "ok"
    assert samples_S.dtype == np.int16
    assert abs(len(samples_S) - len(expected)) <= 0.003 * media.RATE_HZ
    length = min(len(samples_S), len(expected))
    sound = samples_S[:length] / 32768
    assert np.corrcoef(sound, expected[:length])[0, 1] > 0.99
    assert np.sqrt(np.mean((sound - expected[:length]) ** 2)) < 0.02


def test_sound_that_needs_no_change_is_not_changed(tmp_path):
    tones = write_tones(tmp_path / "mono.wav", [440], rate_hz=16_000)
    samples_S, status = media.read_audio(str(tmp_path / "mono.wav"), 60)
    assert status == "ok"
    np.testing.assert_array_equal(samples_S, tones[0])


def test_channels_are_mixed_and_frequencies_above_8_khz_are_removed(tmp_path):
    path = tmp_path / "stereo.wav"
    write_tones(path, [440, 11_000], layout="stereo")  # folded down, 11 kHz would sound as 5 kHz
    spectrum = np.abs(np.fft.rfft(media.read_audio(str(path), 60)[0])) / media.RATE_HZ * 2
    assert spectrum[440] == pytest.approx(9000 / 2, rel=0.02)
    assert spectrum[4500:5500].max() < 9000 / 2 / 100
    write_tones(path, [440, 1000], layout="stereo")
    spectrum = np.abs(np.fft.rfft(media.read_audio(str(path), 60)[0])) / media.RATE_HZ * 2
    assert spectrum[[440, 1000]] == pytest.approx([4500, 4500], rel=0.02)


def test_sound_that_is_too_long_has_a_status(media_files):
    samples_S, status = media.read_audio(str(media_files["wav"]), 1.5)
    assert samples_S is None
    assert status.startswith("corrupt: more than media.max_audio_s=1.5 s")
    assert media.read_audio(str(media_files["wav"]), 2.0)[1] == "ok"


def test_a_length_that_ffmpeg_guesses_is_ignored(media_files):
    with av.open(str(media_files["adts"])) as container:
        stream = container.streams.audio[0]
        assert stream.duration * stream.time_base > 20  # it is 4: FFmpeg extrapolates from the silent start
    assert media.read_audio(str(media_files["adts"]), 60)[1] == "ok"


@pytest.mark.parametrize(
    ("name", "video", "audio"),
    [
        ("clip", "ok", "ok"),
        ("silent", "ok", "missing: no sound track"),
        ("audio_only", "missing: no video stream", "ok"),
        ("wav", "missing: no video stream", "ok"),
        ("cover", "missing: no video stream", "ok"),  # the picture of an album is no video
        ("truncated", "corrupt: ", "corrupt: "),
        ("truncated_faststart", "corrupt: truncated: ", "corrupt: truncated: "),
        ("truncated_header", "corrupt: ", "corrupt: "),
        ("text", "corrupt: ", "corrupt: "),
        ("subtitles", "corrupt: ", "corrupt: "),
        ("empty", "corrupt: ", "corrupt: "),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_every_file_has_the_status_of_its_kind(media_files, name, video, audio, scheme):
    source = scheme + str(media_files[name])
    for (content, status), expected in zip(
        (media.read_video(source, 2, 32), media.read_audio(source, 60)), (video, audio), strict=True
    ):
        assert status.startswith(expected)
        assert (content is not None) == (status == "ok")


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_pipes_and_devices_are_never_opened(prefix, tmp_path):
    os.mkfifo(tmp_path / "clip.wav")
    for path in (tmp_path / "clip.wav", os.devnull, tmp_path):
        for _, status in (media.read_video(f"{prefix}{path}", 4, 32), media.read_audio(f"{prefix}{path}", 5.0)):
            assert status == "corrupt: not a regular file"


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (None, "missing"),
        ("/nowhere/clip.mp4", "missing: no such file"),
        ("file:///nowhere/clip.mp4", "missing: no such file"),
        ("/", "corrupt: "),
        ("nul\0byte.mp4", "corrupt: "),
        ("x" * 5000, "corrupt: "),
        ("https://example.org/clip.mp4", "corrupt: "),
        ("nonsense://clip.mp4", "corrupt: "),
        ("file:///with space.mp4", "corrupt: "),
        (f"{__file__}/clip.mp4", "corrupt: "),
        (__file__, "corrupt: "),
    ],
)
def test_sources_that_are_no_files_have_a_status(source, kind):
    assert media.read_video(source, 2, 32)[0] is None
    assert media.read_video(source, 2, 32)[1].startswith(kind)
    assert media.read_audio(source, 60)[0] is None
    assert media.read_audio(source, 60)[1].startswith(kind)


def test_a_uri_gives_the_same_as_its_path(media_files):
    path = str(media_files["clip"])
    np.testing.assert_array_equal(media.read_video(f"file://{path}", 4, 64)[0], media.read_video(path, 4, 64)[0])
    np.testing.assert_array_equal(media.read_audio(f"file://{path}", 60)[0], media.read_audio(path, 60)[0])


@pytest.mark.parametrize(
    "name", ["clip", "faststart", "edited", "rotated", "mkv", "avi", "ts", "mpg", "cover", "wav", "adts"]
)
def test_no_damaged_file_raises(media_files, tmp_path, name):
    content = media_files[name].read_bytes()
    draw = random.Random(name)
    path = tmp_path / "damaged.mp4"
    for trial in range(12):
        damaged = bytearray(content)
        for _ in range(draw.choice([1, 5, 50])):
            damaged[draw.randrange(min(len(damaged), draw.choice([200, 3000, 10**9])))] = draw.randrange(256)
        path.write_bytes(damaged[: draw.randrange(len(damaged))] if trial % 4 == 0 else damaged)
        frames_THWC, video_status = media.read_video(str(path), 3, 32)
        samples_S, audio_status = media.read_audio(str(path), 60)
        assert video_status.partition(":")[0] in ("ok", "missing", "corrupt")
        assert audio_status.partition(":")[0] in ("ok", "missing", "corrupt")
        assert is_ok(video_status) == (frames_THWC is not None and frames_THWC.shape == (3, 32, 32, 3))
        assert is_ok(audio_status) == (samples_S is not None and samples_S.ndim == 1 and len(samples_S) > 0)


def test_a_real_clip_is_decoded(shared_data):
    path = next(Path(shared_data / "real_clip").rglob("*.mp4"))
    frames_THWC, status = media.read_video(str(path), 8, 224)
    assert status == "ok"
    assert frames_THWC.shape == (8, 224, 224, 3)
    images = every_image(path)
    for image, place in zip(frames_THWC, expected_places(len(images), 8), strict=True):
        resized = Image.fromarray(images[place]).resize((398, 224), Image.Resampling.BICUBIC)
        difference = np.abs(image.astype(float) - middle(np.asarray(resized), 224))
        assert difference.mean() < 2  # swscale's rounding makes the image 1.6 darker
    samples_S, status = media.read_audio(str(path), 60)
    assert status == "ok"
    assert len(samples_S) / media.RATE_HZ == pytest.approx(3.3, abs=0.05)
    assert np.abs(samples_S).max() > 500
