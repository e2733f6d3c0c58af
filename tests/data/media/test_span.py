"""Spans of recordings: what a span gives is what decoding everything and cutting at its times gives."""

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from written_media import BITS, SIZE, decoded, number_of, write_pictures, write_sound

from emo_ray.data import media
from emo_ray.data.media import Span
from emo_ray.data.media.container import LIMITS, opened
from emo_ray.data.media.packet_index import index_of_packets, places_in_time, places_in_window
from emo_ray.data.media.span import Window, window_of

FPS, FRAMES = 25, 300  # of the pictures: 12 s
SOUND_S, SOUND_HZ = 12, 48_000
CODECS = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "m4a": "aac", "mka": "aac", "aac": "aac",
          "webm": "libopus", "opus": "libopus", "ts": "mp2", "avi": "mp2"}  # fmt: skip
EXACT = ("wav", "flac")  # sound that comes back as it was; the rate of 16 kHz is that of the answer
VIDEOS = {  # name: suffix, frames between key frames, B-frames in a row
    "mp4": ("mp4", 12, 2), "one key frame": ("mp4", 400, 2), "mkv": ("mkv", 25, 2), "webm": ("webm", 30, 0),
    "avi": ("avi", 12, 0), "mpeg-ts": ("ts", 12, 2), "flv": ("flv", 12, 0),
    "gif": ("gif", 12, 0),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(VIDEOS))
def video(request, tmp_path_factory):
    """A file of numbered pictures, and (time from its beginning, number) of each, as PyAV alone gives them."""
    suffix, gop, b_frames = VIDEOS[request.param]
    times_ms = [40 * i for i in range(FRAMES)]
    path = tmp_path_factory.mktemp("span") / f"clip.{suffix}"
    write_pictures(path, times_ms, gop=gop, b_frames=b_frames)
    frames = decoded(path)
    with av.open(str(path)) as container:
        start_s = (container.start_time or 0) / av.time_base
    return path, [(time_s - start_s, number) for time_s, number in frames]


def cut(frames, span, count):
    """Numbers of `count` frames spread over those that appear within a span, or of the one before it."""
    within = [number for time_s, number in frames if span.start_s - 1e-6 <= time_s < span.end_s - 1e-6]
    within = within or [number for time_s, number in frames if time_s <= span.start_s][-1:]
    return [within[i] for i in media.spread(len(within), count)]


def numbers_in(path, span, count=4):
    frames_THWC, status = media.read_video(str(path), count, SIZE, span=span)
    assert frames_THWC is not None, status
    return [number_of(image) for image in frames_THWC], status


@given(start=st.integers(0, FRAMES - 1), length=st.integers(1, FRAMES))
@hypothesis_settings(max_examples=15)
def test_frames_of_a_span_are_those_of_decoding_everything(video, start, length):
    path, frames = video
    span = Span((start - 0.5) / FPS if start else 0.0, (start + length - 0.5) / FPS)
    numbers, status = numbers_in(path, span)
    assert numbers == cut(frames, span, 4)
    assert (status == "ok") == (span.end_s <= FRAMES / FPS + 0.1)


def test_times_on_a_frame_begin_with_it_and_end_before_it(video):
    path, frames = video
    for first in (0, 77, 150):
        numbers, _ = numbers_in(path, Span(frames[first][0], frames[first + 10][0]), 10)
        assert numbers == [number for _, number in frames[first : first + 10]]


def test_a_span_shorter_than_a_frame_shows_what_is_on_screen(video):
    path, frames = video
    assert numbers_in(path, Span(4.01, 4.02))[0] == cut(frames, Span(4.01, 4.02), 4)


@pytest.mark.parametrize("suffix", ["mpg", "avi"])
def test_packets_without_times_of_their_own_cost_no_more_than_two_frames(tmp_path, suffix):
    path = write_pictures(tmp_path / f"clip.{suffix}", [40 * i for i in range(FRAMES)], gop=12, b_frames=2)
    for first in (5, 20, 45):
        numbers, _ = numbers_in(path, Span((first - 0.5) / FPS, (first + 9.5) / FPS), 10)
        assert max(abs(number - (first + i) % 2**BITS) for i, number in enumerate(numbers)) <= 2


def test_spans_beyond_the_end_have_a_status(video):
    path, _ = video
    frames_THWC, status = media.read_video(str(path), 4, SIZE, span=Span(100, 120))
    assert frames_THWC is None
    assert status.startswith("corrupt: span 100 to 120 s")
    assert "12.0 s" in status
    _, status = numbers_in(path, Span(10, 20))
    assert status.startswith("ok: span 10 to 20 s")
    assert "12.0 s" in status


@pytest.mark.parametrize("span", [Span(2, 2), Span(3, 2), Span(-1, 2), Span(float("nan"), 2), Span(0, float("inf"))])
def test_spans_of_no_time_have_a_status(media_files, span):
    for status in (
        media.read_video(str(media_files["clip"]), 4, SIZE, span=span)[1],
        media.read_audio(str(media_files["clip"]), 60, span=span)[1],
    ):
        assert status.startswith("corrupt: span")


def test_limits_are_those_of_the_span(media_files):
    limits = media.Limits(max_video_s=1.5)
    path = str(media_files["clip"])  # of 2 s
    assert "media.max_video_s=1.5" in media.read_video(path, 4, SIZE, limits)[1]
    assert media.read_video(path, 4, SIZE, limits, Span(0.5, 1.5))[1] == "ok"
    assert "media.max_video_s=1.5" in media.read_video(path, 4, SIZE, limits, Span(0, 2))[1]
    assert "media.max_audio_s=1.5" in media.read_audio(path, 1.5)[1]
    assert media.read_audio(path, 1.5, span=Span(0.5, 1.5))[1] == "ok"
    assert "media.max_audio_s=1.5" in media.read_audio(path, 1.5, span=Span(0, 2))[1]


# Sound


@pytest.fixture(scope="module", params=list(CODECS))
def sound(request, tmp_path_factory):
    """A file of noise, which tells every place in it from all others, and all of its samples."""
    suffix = request.param
    rate_hz = media.RATE_HZ if suffix in EXACT else SOUND_HZ
    samples_S = np.random.default_rng(0).normal(0, 3000, SOUND_S * rate_hz)
    kernel = np.hanning(rate_hz // 100)  # low tones survive compression, and a shift by less than a millisecond
    samples_S = (np.convolve(samples_S, kernel / np.linalg.norm(kernel), "same")).astype(np.int16)
    path = write_sound(tmp_path_factory.mktemp("span") / f"sound.{suffix}", [samples_S], CODECS[suffix], rate_hz)
    whole_S, status = media.read_audio(str(path), 60)
    assert status == "ok"
    return path, whole_S


def offset_of(part_S, whole_S, place, reach=800):
    """By how many samples a part lies later in the whole than at a place, by correlation."""
    start = max(0, place - reach)
    window_S = whole_S[start : place + len(part_S) + reach].astype(float)
    return int(np.correlate(window_S, part_S.astype(float), "valid").argmax()) + start - place


@given(start_ms=st.integers(0, 11_000), length_ms=st.integers(300, 3000))
@hypothesis_settings(max_examples=8)
def test_sound_of_a_span_is_that_of_decoding_everything(sound, start_ms, length_ms):
    path, whole_S = sound
    span = Span(start_ms / 1000, (start_ms + length_ms) / 1000)
    part_S, status = media.read_audio(str(path), 60, span=span)
    place, end = (round(time_s * media.RATE_HZ) for time_s in span)
    expected_S = whole_S[place:end]
    assert abs(len(part_S) - len(expected_S)) <= (0 if path.suffix[1:] in EXACT else 0.05 * media.RATE_HZ)
    assert (status == "ok") == (span.end_s <= SOUND_S + 0.1)
    if path.suffix[1:] in EXACT:
        assert np.array_equal(part_S, expected_S)
    else:
        assert abs(offset_of(part_S[100:4000], whole_S, place + 100)) <= 16  # a millisecond
        length = min(len(part_S), len(expected_S))
        assert np.corrcoef(part_S[:length], expected_S[:length])[0, 1] > 0.95


def test_sound_beyond_the_end_has_a_status(sound):
    path, _ = sound
    samples_S, status = media.read_audio(str(path), 60, span=Span(100, 120))
    assert samples_S is None
    assert status.startswith("corrupt: span 100 to 120 s")
    assert "12." in status or "11.9" in status


def test_stretches_of_sound_join_into_the_whole(sound):
    path, whole_S = sound
    parts = [media.read_audio(str(path), 60, span=Span(i, i + 2.5))[0] for i in np.arange(0, 10, 2.5).tolist()]
    assert [len(part_S) for part_S in parts] == [40_000] * 4
    assert np.corrcoef(np.concatenate(parts), whole_S[:160_000])[0, 1] > 0.95


# Two streams


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_sound_that_begins_later_keeps_its_place(tmp_path, suffix):
    """A bright picture and a beep at 3 s of a file whose sound begins at 1 s."""
    path = tmp_path / f"late.{suffix}"
    beep_S = np.zeros(3 * SOUND_HZ, np.int16)
    beep_S[2 * SOUND_HZ :] = 8000 * np.sign(np.sin(np.arange(SOUND_HZ) / 20))
    with av.open(str(path), "w", format="mpegts" if suffix == "ts" else None) as out:
        pictures = out.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        pictures.width = pictures.height = SIZE
        pictures.pix_fmt = "yuv420p"
        track = out.add_stream("mp2" if suffix == "ts" else "aac", rate=SOUND_HZ, layout="mono")
        for i in range(4 * FPS):
            frame = av.VideoFrame.from_ndarray(np.full((SIZE, SIZE, 3), 255 * (i >= 3 * FPS), np.uint8))
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            out.mux(pictures.encode(frame))
        out.mux(pictures.encode(None))
        frame = av.AudioFrame.from_ndarray(beep_S[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_HZ, SOUND_HZ, Fraction(1, SOUND_HZ)
        out.mux(track.encode(frame))
        out.mux(track.encode(None))
    frames_THWC, _ = media.read_video(str(path), 20, SIZE, span=Span(2.6, 3.4))
    samples_S, _ = media.read_audio(str(path), 60, span=Span(2.6, 3.4))
    assert [bool(image.mean() > 128) for image in frames_THWC] == [False] * 10 + [True] * 10
    assert abs(np.flatnonzero(np.abs(samples_S) > 2000)[0] / media.RATE_HZ - 0.4) < 0.05
    samples_S, _ = media.read_audio(str(path), 60, span=Span(0.5, 2))
    assert abs(len(samples_S) / media.RATE_HZ - 1.5) < 0.05


# Cost


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_packets_of_the_span_alone_are_read(tmp_path, suffix):
    path = write_pictures(tmp_path / f"long.{suffix}", [40 * i for i in range(4000)], gop=25, b_frames=2)
    with opened(str(path), LIMITS) as clip:
        stream = clip.container.streams.video[0]
        window = window_of(Span(100, 102), clip.container, stream)
        index, _ = index_of_packets(clip, stream, LIMITS, window, by_seeking=True)
    assert len(index.keys) < 2 * FPS + 25 + 30


@given(gaps=st.lists(st.integers(1, 9), min_size=1, max_size=60), frames=st.integers(1, 9), last=st.integers(0, 9))
def test_a_window_of_everything_is_the_whole_clip(gaps, frames, last):
    times = np.cumsum([5, *gaps]).tolist()
    window = Window(5, times[-1] + 100, 5, Fraction(1, 10), Span(0, 0.1 * (times[-1] + 95)))
    assert places_in_window(times, last, frames, window) == places_in_time(times, last, frames)
