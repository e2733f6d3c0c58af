"""Damaged media: whatever is wrong with a file, decoding it gives a status.

Small files of twelve formats are damaged by a seeded generator. `damaged(content, name, number)` makes an input again.
"""

import random
import re
from collections import Counter
from fractions import Fraction

import av
import numpy as np
import pytest

from emo_ray.data import decoder, media

FORMATS = {  # suffix -> codec of pictures, codec of sound
    "mp4": ("libx264", "aac"),
    "mov": ("mjpeg", "pcm_s16le"),
    "mkv": ("ffv1", "flac"),
    "webm": ("libvpx", "libopus"),
    "avi": ("mpeg4", "mp2"),
    "flv": ("flv", "libmp3lame"),
    "ts": ("mpeg2video", "aac"),
    "wav": (None, "pcm_s16le"),
    "flac": (None, "flac"),
    "mp3": (None, "libmp3lame"),
    "ogg": ("libvpx", "flac"),
    "gif": ("gif", None),
}
PIXEL_FORMATS = {"mjpeg": "yuvj420p", "gif": "rgb8"}
SOUND_RATES_HZ = {"libmp3lame": 44_100}
FPS, SECONDS = 25, 0.5
FRAMES, SIZE, MAX_AUDIO_S = 2, 32, 20.0
LIMITS = {"max_s": 20.0, "max_memory_mb": 1024}
STATUS = re.compile("ok(: .+)?|missing(: .+)?|corrupt: .+")
ENDINGS = {"the decoder crashed": "crash", "media.max_decode_s": "hang", "media.max_memory_mb": "memory"}
KINDS = ("ok", "ok: note", "missing", "corrupt", "exception", "crash", "hang", "memory")


def flipped_bits(content, draw):
    for _ in range(2 ** draw.randrange(8)):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return content


def flipped_header_bits(content, draw):
    for _ in range(2 ** draw.randrange(5)):
        content[draw.randrange(min(512, len(content)))] ^= 1 << draw.randrange(8)
    return content


def cut_off(content, draw):
    return content[: draw.randrange(len(content) + 1)]


def cut_out(content, draw):
    start, end = stretch(content, draw)
    return content[:start] + content[end:]


def zeroed(content, draw):
    start, end = stretch(content, draw)
    return content[:start] + bytes(end - start) + content[end:]


def overwritten(content, draw):
    start, end = stretch(content, draw)
    return content[:start] + draw.randbytes(end - start) + content[end:]


def doubled(content, draw):
    start, end = stretch(content, draw)
    return content[:end] + content[start:]


def swapped(content, draw):
    a, b, c, d = sorted(draw.randrange(len(content) + 1) for _ in range(4))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def wrong_header(content, draw):
    """A few bytes of the header are anything."""
    start = draw.randrange(min(256, len(content)))
    return content[:start] + draw.randbytes(draw.randrange(1, 9)) + content[start + 8 :]


def wrong_number(content, draw):
    """Four bytes near the beginning or the end, where sizes and counts stand, are extreme."""
    place = draw.randrange(min(1500, len(content)))
    start = draw.choice([place, len(content) - 1 - place])
    number = draw.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, draw.randrange(2**32)])
    return content[:start] + number.to_bytes(4, draw.choice(["big", "little"])) + content[start + 4 :]


def followed_by_rubbish(content, draw):
    return content + draw.randbytes(draw.randrange(1, 5000))


def preceded_by_rubbish(content, draw):
    return draw.randbytes(draw.randrange(1, 5000)) + content


DAMAGES = (
    flipped_bits,
    flipped_header_bits,
    cut_off,
    cut_out,
    zeroed,
    overwritten,
    doubled,
    swapped,
    wrong_header,
    wrong_number,
    followed_by_rubbish,
    preceded_by_rubbish,
)


def stretch(content, draw):
    """Start and end of at most a quarter of the content."""
    start = draw.randrange(len(content))
    return start, min(len(content), start + draw.randrange(1, 2 + len(content) // 4))


def damaged(content, name, number):
    """A damaged copy of a file, and the kinds of damage: usually one, sometimes up to three."""
    draw = random.Random(f"{name} {number}")
    damages = draw.sample(DAMAGES, draw.choice([1, 1, 1, 2, 3]))
    for damage in damages:
        content = bytes(damage(bytearray(content), draw)) or b"\0"
    return content, " and ".join(damage.__name__ for damage in damages)


def write_small(path, video_codec, audio_codec):
    """Half a second of 64x48 moving pictures, a tone, or both."""
    draw = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        video = audio = None
        if video_codec:
            video = out.add_stream(video_codec, rate=FPS)
            video.width, video.height, video.pix_fmt = 64, 48, PIXEL_FORMATS.get(video_codec, "yuv420p")
            video.codec_context.gop_size, video.codec_context.thread_count = 6, 1
        if audio_codec:
            rate_hz = SOUND_RATES_HZ.get(audio_codec, 48_000)
            audio = out.add_stream(audio_codec, rate=rate_hz, layout="stereo")
        if video:
            background = draw.integers(0, 200, (48, 64, 3), np.uint8)
            for i in range(round(FPS * SECONDS)):
                image = background + np.uint8(i)
                out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=video.pix_fmt)))
            out.mux(video.encode(None))
        if audio:
            t = np.arange(round(rate_hz * SECONDS)) / rate_hz
            samples_SC = np.stack([9000 * np.sin(2000 * t), 9000 * np.sin(3000 * t * t)], axis=1).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples_SC.reshape(1, -1), format="s16", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
            out.mux(audio.encode(frame))
            out.mux(audio.encode(None))
    return path


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    """The content of a small file of every format, which decodes without a note."""
    folder = tmp_path_factory.mktemp("whole")
    paths = {name: write_small(folder / f"whole.{name}", *codecs) for name, codecs in FORMATS.items()}
    for name, path in paths.items():
        statuses = (media.read_video(str(path), FRAMES, SIZE)[1], media.read_audio(str(path), MAX_AUDIO_S)[1])
        assert [status == "ok" for status in statuses] == [bool(codec) for codec in FORMATS[name]], (name, statuses)
    return {name: path.read_bytes() for name, path in paths.items()}


def kind_of(values, status):
    """One of KINDS. What the process that decodes survived only by its end counts as a kind of its own."""
    assert STATUS.fullmatch(status), status
    assert (values is not None) == status.startswith("ok"), status
    ending = next((kind for text, kind in ENDINGS.items() if text in status), None)
    word, colon, _ = status.partition(":")
    return ending or ("ok: note" if word == "ok" and colon else word)


def read_video(path):
    frames_THWC, status = decoder.decode(media.read_video, path, FRAMES, SIZE, **LIMITS)
    if frames_THWC is not None:
        assert (frames_THWC.shape, frames_THWC.dtype) == ((FRAMES, SIZE, SIZE, 3), np.uint8)
    return kind_of(frames_THWC, status), status


def read_audio(path):
    samples_S, status = decoder.decode(media.read_audio, path, MAX_AUDIO_S, **LIMITS)
    if samples_S is not None:
        assert (samples_S.ndim, samples_S.dtype) == (1, np.int16)
        assert 0 < len(samples_S) <= MAX_AUDIO_S * media.RATE_HZ
    return kind_of(samples_S, status), status


def survey(whole_files, folder, count):
    """Damage `count` files, as many of each format, and read them: (counts by format and modality, faults)."""
    counts = {(name, word): Counter() for name in FORMATS for word in ("video", "audio")}
    faults = []
    for number in range(count):
        name = list(FORMATS)[number % len(FORMATS)]
        content, damage = damaged(whole_files[name], name, number)
        path = folder / f"damaged.{name}"
        path.write_bytes(content)
        for word, read in (("video", read_video), ("audio", read_audio)):
            try:
                kind, status = read(str(path))
            except Exception as error:
                kind, status = "exception", repr(error)
            counts[name, word][kind] += 1
            if kind in ("exception", *ENDINGS.values()):
                faults.append(f"{word} of damaged(..., {name!r}, {number}), {damage}: {status}")
    return counts, faults


def table(counts):
    lines = [["format", "", *KINDS]]
    lines += [[name, word, *(row[kind] for kind in KINDS)] for (name, word), row in counts.items()]
    lines += [["all", "", *(sum(row[kind] for row in counts.values()) for kind in KINDS)]]
    return "\n".join("".join(f"{cell:>10}" for cell in line) for line in lines)


@pytest.mark.parametrize("count", [240, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damaged_media_have_a_status(whole_files, tmp_path, count):
    counts, faults = survey(whole_files, tmp_path, count)
    print(table(counts))
    assert sum(sum(row.values()) for row in counts.values()) == 2 * count
    assert not faults, "\n".join(faults)
