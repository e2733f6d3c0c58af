"""Sound of files as they are: several tracks, gaps, microphones, changes on the way, cut and damaged content."""

import io
import struct

import av
import numpy as np
import pytest
from remuxing import MUXER, garbage, remuxed
from written_media import RATE_HZ, encode_sound, write_sound

from emo_ray.data import media
from emo_ray.data.media.container import Tally

LOSSY = {"m4a": "aac", "mka": "aac", "mp3": "libmp3lame", "ogg": "libvorbis", "flv": "aac", "ts": "mp2", "aac": "aac"}
STATED = {  # suffix: codec and the muxer's options, of files whose header says how long the sound is
    "wav": ("pcm_s16le", {}),
    "rf64": ("pcm_s16le", {"rf64": "always"}),
    "w64": ("pcm_s16le", {}),
    "aiff": ("pcm_s16be", {}),
    "au": ("pcm_s16be", {}),
    "caf": ("pcm_s16le", {}),
    "mp3": ("libmp3lame", {}),
    "mka": ("aac", {}),
    "flv": ("aac", {}),
    "wma": ("wmav2", {}),
    "flac": ("flac", {}),
    "avi": ("mp2", {}),
}


def tone(hz, seconds, rate_hz=RATE_HZ):
    return np.round(9000 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.int16)


def loudness(samples_S, start_s, end_s):
    return np.abs(samples_S[round(start_s * media.RATE_HZ) : round(end_s * media.RATE_HZ)].astype(float)).mean()


def pitch_hz(samples_S, start_s, end_s):
    part = samples_S[round(start_s * media.RATE_HZ) : round(end_s * media.RATE_HZ)]
    return np.abs(np.fft.rfft(part)).argmax() / (end_s - start_s)


def wav_bytes(samples_CS, mask=None, bits=16):
    """A WAV file; with `mask`, one of the extensible kind, which says where the speakers stand."""
    count = len(samples_CS)
    dtype = {8: np.uint8, 16: "<i2", 32: "<i4"}[bits]
    data = np.ascontiguousarray(np.stack(samples_CS, axis=1).astype(dtype)).tobytes()
    block = count * bits // 8
    form = struct.pack("<HHIIHH", 1 if mask is None else 0xFFFE, count, RATE_HZ, RATE_HZ * block, block, bits)
    if mask is not None:
        pcm = bytes.fromhex("0100000000001000800000aa00389b71")
        form += struct.pack("<HHI", 22, bits, mask) + pcm
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks


# Tracks


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("default", [0, 1, 2])
def test_the_default_track_is_taken(tmp_path, suffix, default):
    path = tmp_path / f"tracks.{suffix}"
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("aac", rate=48_000, layout="mono") for _ in range(3)]
        for number, stream in enumerate(streams):
            stream.disposition = av.stream.Disposition.default if number == default else 0
        for number, stream in enumerate(streams):
            encode_sound(out, stream, [tone(400 * (number + 1), 1, 48_000)], 48_000, "mono")
    samples_S, status = media.read_audio(str(path), 60)
    assert status == f"ok: sound track {default + 1} of 3"
    assert pitch_hz(samples_S, 0.2, 0.8) == pytest.approx(400 * (default + 1), abs=5)


# Gaps


@pytest.mark.parametrize("suffix", ["m4a", "mka", "flv", "ts", "webm", "ogg"])
def test_gaps_are_silent_and_time_stays_true(tmp_path, suffix):
    codec = {"ts": "mp2", "webm": "libopus", "ogg": "libopus"}.get(suffix, "aac")
    samples_S = np.concatenate([tone(500, 1.5, 48_000), tone(500, 1, 48_000), tone(1500, 1.5, 48_000)])
    whole = write_sound(tmp_path / f"whole.{suffix}", [samples_S], codec, 48_000)
    start = first_time(whole)
    path = remuxed(
        whole, tmp_path / f"gap.{suffix}", lambda _, p: None if 1 <= float(p.pts * p.time_base) - start < 2.5 else p
    )
    expected_S, _ = media.read_audio(str(whole), 60)
    sound_S, status = media.read_audio(str(path), 60)
    assert "of gaps filled with silence" in status
    assert abs(len(sound_S) - len(expected_S)) < 0.05 * media.RATE_HZ
    assert loudness(sound_S, 1.1, 2.4) == 0
    for start_s, end_s in ((0.2, 0.9), (2.7, 3.8)):
        assert loudness(sound_S, start_s, end_s) == pytest.approx(loudness(expected_S, start_s, end_s), rel=0.05)
        assert pitch_hz(sound_S, start_s, end_s) == pitch_hz(expected_S, start_s, end_s)


def first_time(path):
    with av.open(str(path)) as container:
        return next(float(packet.pts * packet.time_base) for packet in container.demux(audio=0))


# Changes on the way


@pytest.mark.parametrize("suffix", ["aac", "mp3", "ts"])
@pytest.mark.parametrize("second", [("stereo", 48_000), ("mono", 24_000), ("stereo", 22_050)])
def test_channels_and_rate_may_change(tmp_path, suffix, second):
    codec = {"ts": "mp2"}.get(suffix, LOSSY[suffix])
    layout, rate_hz = second
    first = write_sound(tmp_path / f"first.{suffix}", [tone(500, 2, 48_000)], codec, 48_000)
    channels = [tone(900, 2, rate_hz)] * (2 if layout == "stereo" else 1)
    write_sound(tmp_path / f"second.{suffix}", channels, codec, rate_hz, layout)
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(first.read_bytes() + (tmp_path / f"second.{suffix}").read_bytes())
    sound_S, status = media.read_audio(str(path), 60)
    assert status.startswith("ok")
    assert len(sound_S) / media.RATE_HZ == pytest.approx(4, abs=0.25)  # encoders add some hundredths of a second
    assert pitch_hz(sound_S, 0.5, 1.5) == pytest.approx(500, abs=5)
    assert pitch_hz(sound_S, 2.5, 3.5) == pytest.approx(900, abs=5)


# Channels


@pytest.mark.parametrize("count", [3, 4, 6, 7, 8, 16])
@pytest.mark.parametrize("kind", ["plain", "mask 0", "au", "mka", "caf", "8 bits", "32 bits"])
def test_channels_without_names_are_averaged(tmp_path, count, kind):
    draw = np.random.default_rng(count)
    samples_CS = draw.integers(-9000, 9000, (count, 1600)).astype(np.int16)
    path = tmp_path / "microphones.wav"
    if kind == "8 bits":
        path.write_bytes(wav_bytes(samples_CS // 256 + 128, bits=8))
        samples_CS = samples_CS // 256 * 256
    else:
        stored = samples_CS.astype(np.int64) * 2**16 if kind == "32 bits" else samples_CS
        path.write_bytes(wav_bytes(stored, 0 if kind == "mask 0" else None, 32 if kind == "32 bits" else 16))
    if kind in ("au", "mka", "caf"):
        plain, path = path, tmp_path / f"microphones.{kind}"
        with av.open(str(plain)) as source, av.open(str(path), "w", format=MUXER.get(kind, kind)) as out:
            layout = source.streams.audio[0].layout
            stream = out.add_stream("pcm_s16be" if kind == "au" else "pcm_s16le", rate=RATE_HZ, layout=layout)
            for frame in [*source.decode(audio=0), None]:
                out.mux(stream.encode(frame))
    sound_S, status = media.read_audio(str(path), 60)
    assert status == "ok"
    assert np.abs(sound_S - samples_CS.mean(axis=0)).max() <= 1


@pytest.mark.parametrize("count", [6, 9, 16, 24])
def test_many_channels_in_planes_of_their_own_are_averaged(tmp_path, count):
    path = tmp_path / "microphones.mka"
    samples_CS = np.zeros((count, 48_000), np.int16)
    samples_CS[3] = tone(440, 1, 48_000)
    with av.open(str(path), "w", format="matroska") as out:
        options = {"mapping_family": "255"}  # no speakers; Opus decodes to a plane for each channel
        stream = out.add_stream("libopus", rate=48_000, layout=f"{count} channels", options=options)
        encode_sound(out, stream, samples_CS, 48_000, f"{count} channels")
    sound_S, status = media.read_audio(str(path), 60)
    assert status == "ok"
    assert np.abs(sound_S[4000:12_000]).max() == pytest.approx(9000 / count, rel=0.1)


@pytest.mark.parametrize(("channel", "heard"), [(0, True), (2, True), (3, False), (4, True)])
def test_named_surround_channels_are_mixed_by_their_speakers(tmp_path, channel, heard):
    samples_CS = np.zeros((6, RATE_HZ), np.int16)
    samples_CS[channel] = tone(440, 1)
    path = tmp_path / "surround.wav"
    path.write_bytes(wav_bytes(samples_CS, mask=0x3F))  # 5.1: left, right, centre, subwoofer, two at the back
    sound_S, status = media.read_audio(str(path), 60)
    assert status == "ok"
    assert (loudness(sound_S, 0, 1) > 500) == heard
    write_sound(tmp_path / "surround.m4a", samples_CS, "aac", RATE_HZ, "5.1")
    assert (loudness(media.read_audio(str(tmp_path / "surround.m4a"), 60)[0], 0.1, 0.9) > 500) == heard


# Cut files


@pytest.mark.parametrize("suffix", STATED)
def test_a_stated_length_is_compared(tmp_path, suffix):
    codec, options = STATED[suffix]
    sound = np.random.default_rng(0).integers(-9000, 9000, 4 * RATE_HZ).astype(np.int16)
    path = write_sound(tmp_path / f"whole.{suffix}", [sound], codec, options=options)
    content = path.read_bytes()
    whole_S, status = media.read_audio(str(path), 60)
    assert status == "ok"
    for share, expected in ((0.5, "corrupt: truncated"), (0.8, "corrupt: truncated"), (0.95, "ok: "), (0.99, "ok")):
        path.write_bytes(content[: round(share * len(content))])
        cut_S, status = media.read_audio(str(path), 60)
        assert status.startswith(expected), share
        assert (cut_S is None) == (share < 0.9)
        assert cut_S is None or len(cut_S) == pytest.approx(share * len(whole_S), rel=0.06)  # packets of WMA are long


def test_mp3_that_states_its_bytes_as_fraunhofers_encoder_does(tmp_path):
    path = write_sound(
        tmp_path / "vbri.mp3", [tone(440, 4, 48_000)], "libmp3lame", 48_000, options={"id3v2_version": "0"}
    )
    content = bytearray(path.read_bytes())
    content[36:62] = b"VBRI" + struct.pack(">HHHIIHHHH", 1, 0, 75, len(content), 168, 0, 1, 1, 168)
    content[content.index(b"Info") : content.index(b"Info") + 4] = bytes(4)
    for share, expected in ((1, "ok"), (0.5, "corrupt: truncated: 2.0 of 4.")):
        path.write_bytes(content[: round(share * len(content))])
        assert media.read_audio(str(path), 60)[1].startswith(expected)


@pytest.mark.parametrize(("suffix", "codec"), [("wv", "wavpack"), ("tta", "tta")])
def test_half_of_a_file_of_few_long_packets_is_corrupt(tmp_path, suffix, codec):
    path = write_sound(tmp_path / f"whole.{suffix}", [tone(440, 4)], codec)
    assert media.read_audio(str(path), 60)[1] == "ok"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert media.read_audio(str(path), 60)[1].startswith("corrupt: ")


def test_ogg_without_its_end_has_a_note(tmp_path):
    path = write_sound(tmp_path / "whole.ogg", [tone(440, 3, 48_000)], "libopus", 48_000)
    assert media.read_audio(str(path), 60)[1] == "ok"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert media.read_audio(str(path), 60)[1] == "ok: the file ends without its end mark"


def test_ogg_pages_that_ffmpeg_leaves_out_are_missed(tmp_path):
    """Each page holds about a second and has a checksum; one that does not fit is left out silently."""
    path = write_sound(tmp_path / "whole.ogg", [tone(440, 4, 48_000)], "libopus", 48_000)
    content = path.read_bytes()
    for place, status in (
        (len(content) // 2, "ok: 1.0 s of gaps"),
        (content.rindex(b"OggS") - 100, "corrupt: truncated"),
    ):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert media.read_audio(str(path), 60)[1].startswith(status)


@pytest.mark.parametrize("stated", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_length_that_the_writer_did_not_know_is_ignored(tmp_path, stated):
    content = bytearray(wav_bytes([tone(440, 1)]))
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", stated)
    path = tmp_path / "streamed.wav"
    path.write_bytes(content)
    sound_S, status = media.read_audio(str(path), 60)
    assert status == "ok"
    np.testing.assert_array_equal(sound_S, tone(440, 1))


def test_webm_that_states_no_length_is_whole(tmp_path):
    path = write_sound(tmp_path / "live.webm", [tone(440, 3, 48_000)], "libopus", 48_000, options={"live": "1"})
    assert media.read_audio(str(path), 60)[1] == "ok"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert media.read_audio(str(path), 60)[1].startswith("ok")


# Damaged packets


@pytest.mark.parametrize("suffix", ["m4a", "mka", "flv"])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_bad_packet_costs_its_own_sound_alone(tmp_path, suffix, place):
    whole = write_sound(tmp_path / f"whole.{suffix}", [tone(500, 2, 48_000)], "aac", 48_000)
    with av.open(str(whole)) as container:
        count = sum(packet.size > 0 for packet in container.demux(audio=0))
    bad = {"first": 0, "middle": count // 2, "last": count - 1}[place]
    path = remuxed(whole, tmp_path / f"bad.{suffix}", lambda i, p: garbage(p) if i == bad else p)
    expected_S, _ = media.read_audio(str(whole), 60)
    sound_S, status = media.read_audio(str(path), 60)
    assert status == f"ok: 1 of {count} packets unreadable"
    assert 0 <= len(expected_S) - len(sound_S) <= 0.05 * media.RATE_HZ
    assert pitch_hz(sound_S, 0.2, 0.9) == pitch_hz(expected_S, 0.2, 0.9)


@pytest.mark.parametrize("suffix", ["m4a", "mka"])
def test_many_bad_packets_are_corrupt(tmp_path, suffix):
    whole = write_sound(tmp_path / f"whole.{suffix}", [tone(500, 2, 48_000)], "aac", 48_000)
    for every, expected in ((8, "corrupt: "), (20, "ok: ")):
        path = remuxed(whole, tmp_path / f"bad.{suffix}", lambda i, p, n=every: garbage(p) if i % n == 5 else p)
        assert media.read_audio(str(path), 60)[1].startswith(expected)
        assert "packets unreadable" in media.read_audio(str(path), 60)[1]


def test_zeros_after_the_last_mp3_frame_cost_nothing(tmp_path):
    path = write_sound(tmp_path / "padded.mp3", [tone(500, 2, 48_000)], "libmp3lame", 48_000)
    expected_S, _ = media.read_audio(str(path), 60)
    path.write_bytes(path.read_bytes() + bytes(5000))
    sound_S, status = media.read_audio(str(path), 60)
    assert status.startswith("ok")
    assert np.abs(sound_S[:31_900].astype(int) - expected_S[:31_900]).max() <= 1


class BrokenStorage:
    """A file whose connection breaks after some reads."""

    def __init__(self, path, reads):
        self.file, self.reads = io.BytesIO(path.read_bytes()), reads
        self.seek, self.tell = self.file.seek, self.file.tell

    def read(self, size):
        self.reads -= 1
        if self.reads < 0:
            raise ConnectionResetError(104, "Connection reset by peer")
        return self.file.read(size)


def test_errors_of_storage_are_not_taken_for_the_end_of_a_file(tmp_path):
    path = write_sound(tmp_path / "remote.mp3", [tone(440, 20, 48_000)], "libmp3lame", 48_000)
    with av.open(BrokenStorage(path, 4)) as container, pytest.raises(ConnectionResetError):
        list(Tally().read(container, [container.streams[0]]))


# Limits


@pytest.mark.parametrize("rate_hz", [1, 999, 1_000_000])
def test_rates_that_no_sound_has_are_refused(tmp_path, rate_hz):
    content = bytearray(wav_bytes([tone(440, 1)]))
    content[24:28] = struct.pack("<I", rate_hz)
    path = tmp_path / "rate.wav"
    path.write_bytes(content)
    samples_S, status = media.read_audio(str(path), 1e9)
    assert samples_S is None
    assert status == f"corrupt: a sample rate of {rate_hz} Hz"


def test_files_of_very_many_streams_are_refused(tmp_path):
    path = tmp_path / "many.mkv"
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono") for _ in range(65)]
        encode_sound(out, streams[0], [tone(440, 0.1)], RATE_HZ, "mono")
    assert media.read_audio(str(path), 60) == (None, "corrupt: 65 streams are more than 64")


def test_large_files_and_git_lfs_pointers_are_refused(tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(wav_bytes([tone(440, 1)]))
    _, status = media.read_audio(str(path), 60, media.Limits(max_file_gb=1e-6))
    assert status.startswith("corrupt: a file of 0.0 GB is larger than media.max_file_gb=1e-06")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    for read in (lambda: media.read_audio(str(path), 60), lambda: media.read_video(str(path), 2, 32)):
        assert read() == (None, "corrupt: a Git LFS pointer: run git lfs pull")
