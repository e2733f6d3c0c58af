"""Pictures of files as they are: rates that vary, odd pixels, late starts, several tracks, cut and damaged content."""

import gc
from bisect import bisect_right
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from remuxing import garbage, remuxed
from written_media import SIZE, add_stream, decoded, encode_pictures, number_of, write_pictures

from emo_ray.data import media
from emo_ray.data.media.packet_index import places_in_time
from emo_ray.data.status import is_ok

SLOW = [33 * i for i in range(30)] + [990 + 200 * i for i in range(10)]  # ms: 30 frames a second, then 5
EVEN = [40 * i for i in range(40)]


def on_screen(times, last_s, frames):
    """The frame on screen at the middle of each of `frames` equal stretches of time, by looking at each moment."""
    moments = [times[0] + (i + 0.5) / frames * (times[-1] + last_s - times[0]) for i in range(frames)]
    return [bisect_right(times, moment + 1e-9) - 1 for moment in moments]


def read_numbers(path, frames=8, size=SIZE):
    frames_THWC, status = media.read_video(str(path), frames, size)
    assert is_ok(status), status
    return [number_of(image) for image in frames_THWC], status


# Time


@given(
    count=st.integers(2, 300), fps=st.sampled_from([10, 12.5, 15, 24, 25, 29.97, 30, 50, 60]), frames=st.integers(1, 20)
)
def test_at_a_constant_rate_places_are_those_of_spread_however_times_are_rounded(count, fps, frames):
    for ticks_per_s in (1000, 90_000, fps):
        times = [round(i / fps * ticks_per_s) for i in range(count)]
        for last in (0, round(ticks_per_s / fps)):
            assert places_in_time(times, last, frames) == media.spread(count, frames)


@given(
    gaps=st.lists(st.integers(1, 2000), min_size=1, max_size=80),
    last=st.integers(1, 2000),
    frames=st.integers(1, 20),
)
def test_places_are_what_is_on_screen_at_the_middles_of_equal_stretches_of_time(gaps, last, frames):
    times = np.cumsum([5, *gaps]).tolist()
    places = places_in_time(times, last, frames)
    if len(set(gaps)) > 1 and max(gaps) - min(gaps) > 4 * min(gaps):  # else the rate is constant up to rounding
        assert places == on_screen(times, last, frames)
    assert places == sorted(places)
    assert 0 <= places[0] <= places[-1] < len(times)


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "flv", "avi", "ts"])
def test_frames_are_spread_over_time(tmp_path, suffix, b_frames):
    if b_frames and suffix in ("webm", "flv"):
        pytest.skip("its codec has no such frames")
    times_ms = [10 * round(time / 10) for time in SLOW]
    path = write_pictures(tmp_path / f"slow.{suffix}", times_ms, b_frames=b_frames)
    times_s = [time_s for time_s, _ in decoded(path)]
    if (suffix, b_frames) != ("avi", 2):  # AVI has times of decoding alone, and shows frames of another order late
        np.testing.assert_allclose(np.array(times_s) - times_s[0], np.array(times_ms) / 1000, atol=0.011)
    for frames in (1, 3, 8):
        numbers, status = read_numbers(path, frames)
        assert status == "ok"
        assert numbers in expected_numbers(times_s, frames)


def expected_numbers(times_s, frames):
    """What may be on screen: muxers differ in how long the last frame stays."""
    return [on_screen(times_s, last_s, frames) for last_s in (0.001, 0.01, 0.03, 0.04, 0.2)]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_with_dropped_frames(tmp_path, codec):
    times_ms = [40 * i for i in range(60) if i < 30 or i % 6 == 0]
    path = write_pictures(tmp_path / "capture.avi", times_ms, codec)
    numbers, status = read_numbers(path)
    assert status == "ok"
    assert numbers in expected_numbers(np.array(times_ms) / 1000, 8)


def test_avi_that_states_a_late_start(tmp_path):
    path = write_pictures(tmp_path / "late.avi", EVEN)
    content = bytearray(path.read_bytes())
    place = content.index(b"strh") + 8 + 28
    content[place : place + 4] = (200).to_bytes(4, "little")
    path.write_bytes(content)
    assert read_numbers(path) == (media.spread(40, 8), "ok")


@pytest.mark.parametrize("suffix", ["flv", "mkv", "mp4", "ts", "webm", "mpg"])
@pytest.mark.parametrize("first_ms", [40, 1000, 12_000])
def test_the_first_picture_may_be_late(tmp_path, suffix, first_ms):
    path = write_pictures(tmp_path / f"late.{suffix}", [first_ms + time for time in EVEN], gop=5)
    for frames in (1, 8, 40):
        numbers, status = read_numbers(path, frames)
        assert status == "ok"
        assert numbers == media.spread(40, frames)


# Picture


@pytest.mark.parametrize("sar", [Fraction(64, 45), Fraction(8, 9), Fraction(1, 2)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mpg", "mov"])
def test_pixels_that_are_not_square_are_shown_as_players_show_them(tmp_path, suffix, sar):
    size = (120, 96)
    if suffix == "mpg":  # MPEG-2 states the shape of the whole picture: 4:3
        sar = Fraction(4, 3) / Fraction(*size)
    path = write_pictures(tmp_path / f"anamorphic.{suffix}", [0], sar=sar, size=size)
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    width, height = round(size[0] * sar), size[1]
    scale = 48 / min(width, height)
    shown = Image.fromarray(stored).resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (shown.width - 48) // 2, (shown.height - 48) // 2
    expected = np.asarray(shown, float)[top : top + 48, left : left + 48]
    frames_THWC, status = media.read_video(str(path), 1, 48)
    assert status == "ok"
    assert np.abs(frames_THWC[0] - expected).mean() < 5


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("default", [0, 1])
def test_the_default_video_stream_is_taken(tmp_path, suffix, default):
    path = tmp_path / f"two.{suffix}"
    with av.open(str(path), "w") as out:
        streams = [add_stream(out, "libx264") for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.disposition = av.stream.Disposition.default if number == default else 0
        encode_pictures(out, streams[0], EVEN[:10])
        encode_pictures(out, streams[1], EVEN[:20])
    numbers, status = read_numbers(path, 2)
    assert status == f"ok: video stream {default + 1} of 2"
    assert numbers == media.spread(10 * (default + 1), 2)


# Streams without a container, and streams that begin or end anywhere


@pytest.mark.parametrize(
    ("suffix", "codec"), [("h264", "libx264"), ("m4v", "mpeg4"), ("mjpeg", "mjpeg"), ("mpeg2video", "mpeg2video")]
)
def test_raw_streams(tmp_path, suffix, codec):
    path = write_pictures(tmp_path / f"raw.{suffix}", EVEN, codec)
    for frames in (1, 8):
        numbers, status = read_numbers(path, frames)
        assert is_ok(status)
        assert numbers == media.spread(40, frames)


@pytest.mark.parametrize("suffix", ["ts", "h264", "mkv"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_a_stream_that_begins_between_key_frames(tmp_path, suffix, b_frames):
    whole = write_pictures(tmp_path / "whole.ts", EVEN, gop=16, b_frames=b_frames)
    path = remuxed(whole, tmp_path / f"cut.{suffix}", lambda number, packet: packet if number >= 6 else None)
    numbers, _ = read_numbers(path)
    assert len(set(numbers)) == 8  # no frame twice, for there are enough
    assert numbers == sorted(numbers)
    decodable = len(decoded(path))
    assert decodable >= 24
    assert abs(numbers[-1] - (39 - decodable / 16)) <= 3


@pytest.mark.parametrize("suffix", ["mkv", "webm", "flv", "avi", "wmv", "mp4", "fragments.mp4", "mxf"])
def test_a_stated_length_is_compared(tmp_path, suffix):
    fragments = "frag_keyframe+empty_moov+default_base_moof+global_sidx"
    options = {"movflags": {"mp4": "faststart", "fragments.mp4": fragments}[suffix]} if "mp4" in suffix else {}
    content = write_pictures(tmp_path / f"whole.{suffix}", EVEN, gop=1, size=(160, 120), options=options).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for share, expected in ((1, "ok"), (0.5, "corrupt: truncated"), (0.6, "corrupt: truncated")):
        path.write_bytes(content[: round(share * len(content))])
        assert media.read_video(str(path), 4, 32)[1].startswith(expected)


def test_a_gif_without_its_end_has_a_note(tmp_path):
    path = write_pictures(tmp_path / "whole.gif", EVEN)
    assert read_numbers(path)[1] == "ok"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert media.read_video(str(path), 4, 32)[1].startswith("ok: the file ends without its end mark")


# Damaged packets


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_bad_packet_costs_a_few_pictures_alone(tmp_path, codec, suffix):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    whole = write_pictures(tmp_path / f"whole.{suffix}", EVEN, codec, gop=10)
    path = remuxed(whole, tmp_path / f"bad.{suffix}", lambda number, p: garbage(p) if number == 20 else p)
    numbers, status = read_numbers(path, 8)
    assert status in ("ok", "ok: 1 of 40 packets unreadable")
    assert numbers[:4] == media.spread(40, 8)[:4]
    assert len(set(numbers)) >= 7


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_many_bad_packets_are_corrupt(tmp_path, suffix):
    whole = write_pictures(tmp_path / f"whole.{suffix}", EVEN, "libvpx-vp9", gop=10)
    path = remuxed(whole, tmp_path / f"bad.{suffix}", lambda number, p: garbage(p) if number % 4 == 1 else p)
    frames_THWC, status = media.read_video(str(path), 8, 32)
    assert frames_THWC is None
    assert status.startswith("corrupt: ")
    assert "packets unreadable" in status


# Limits and memory


def test_pictures_that_are_too_large_are_not_decoded(tmp_path):
    head = b"GIF89a" + (16_000).to_bytes(2, "little") * 2 + b"\x80\0\0\0\0\0\xff\xff\xff"
    path = tmp_path / "bomb.gif"
    path.write_bytes(head + b"\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0\x3b")
    assert media.read_video(str(path), 8, 64) == (
        None,
        "corrupt: 16000 x 16000 pixels are more than media.max_pixels=35389440",
    )
    path = write_pictures(tmp_path / "clip.mp4", EVEN[:4], size=(64, 48))
    assert media.read_video(str(path), 1, 32, media.Limits(max_pixels=64 * 48))[1] == "ok"
    assert "media.max_pixels" in media.read_video(str(path), 1, 32, media.Limits(max_pixels=64 * 48 - 1))[1]
    wide = write_pictures(
        tmp_path / "wide.mp4", EVEN[:4], size=(2048, 16)
    )  # resized to a short side of 224, it is 28,672 wide
    assert "28672 x 224" in media.read_video(str(wide), 1, 224, media.Limits(max_pixels=2**20))[1]


def test_long_clips_are_refused(tmp_path):
    for suffix in ("mp4", "mkv"):
        path = write_pictures(tmp_path / f"long.{suffix}", [0, 20_000])
        assert (
            "20 s of pictures are more than media.max_video_s=10"
            in media.read_video(str(path), 1, 32, media.Limits(max_video_s=10))[1]
        )


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path):
    path = write_pictures(tmp_path / "large.mp4", EVEN[:24], size=(1280, 720))

    def kept_mb(frames):
        before = resident_mb()
        media.read_video(str(path), frames, 32)
        return resident_mb() - before

    gc.collect()
    gc.disable()
    try:
        kept_mb(24)
        assert kept_mb(24) < 8  # 24 frames are 33 MB
    finally:
        gc.enable()


def resident_mb():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / 2**20
