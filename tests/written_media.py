"""Small media files whose every frame tells its number, and files of sound that is given."""

from fractions import Fraction

import av
import numpy as np
from remuxing import MUXER

RATE_HZ = 16_000  # of the sound, so that uncompressed sound must come back unchanged
BITS = 6  # bars that tell a frame's number, black or white
SIZE = 48
CODEC = {
    "webm": "libvpx",
    "flv": "flv",
    "avi": "mpeg4",
    "mpg": "mpeg2video",
    "gif": "gif",
    "wmv": "wmv2",
    "mxf": "mpeg2video",
}


def numbered(number, width=SIZE, height=SIZE):
    """A picture whose bars, from the left, are the bits of its number."""
    bits = np.array([210 if bit == "1" else 40 for bit in f"{number:0{BITS}b}"], np.uint8)
    row = bits[np.arange(width) * BITS // width]
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (height, width, 3)))


def number_of(image):
    bars = np.array_split(np.asarray(image, float).mean((0, 2)), BITS)
    return int("".join("01"[int(bar[len(bar) // 4 : -(len(bar) // 4) or None].mean() > 125)] for bar in bars), 2)


def write_pictures(path, times_ms, codec=None, gop=12, b_frames=0, sar=None, size=(SIZE, SIZE), options=None):
    """Write numbered frames that appear at these times, in the container that the suffix of the path names."""
    suffix = path.suffix[1:]
    with av.open(str(path), "w", format=MUXER.get(suffix, suffix), options=options or {}) as out:
        stream = add_stream(out, codec or CODEC.get(suffix, "libx264"), gop, b_frames, size)
        if sar is not None:
            stream.codec_context.sample_aspect_ratio = sar
        encode_pictures(out, stream, times_ms, size)
    return path


def add_stream(out, codec, gop=12, b_frames=0, size=(SIZE, SIZE)):
    presets = {"libx264": {"preset": "ultrafast"}, "libvpx": {"deadline": "realtime", "cpu-used": "8"}}
    options = {**presets.get(codec, {}), "bf": str(b_frames)} if b_frames else presets.get(codec, {})
    stream = out.add_stream(codec, rate=25, options=options)
    stream.width, stream.height = size
    stream.pix_fmt = "rgb8" if codec == "gif" else "yuvj420p" if codec == "mjpeg" else "yuv420p"
    stream.codec_context.gop_size, stream.codec_context.thread_count = gop, 1
    stream.codec_context.bit_rate = 2_000_000
    ticks = {"mpeg4": Fraction(1, 100), "mpeg2video": Fraction(1, 25), "gif": Fraction(1, 100)}
    stream.codec_context.time_base = ticks.get(codec, Fraction(1, 1000))
    return stream


def encode_pictures(out, stream, times_ms, size=(SIZE, SIZE)):
    for number, time_ms in enumerate(times_ms):
        frame = av.VideoFrame.from_ndarray(numbered(number % 2**BITS, *size), format="rgb24")
        frame.time_base = stream.codec_context.time_base
        frame.pts = round(Fraction(time_ms, 1000) / frame.time_base)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def decoded(path):
    """(time in seconds, number) of every frame, as PyAV alone gives them."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        frames = [(frame.time, number_of(frame.to_ndarray(format="rgb24"))) for frame in container.decode(video=0)]
    return frames


def write_sound(path, samples_CS, codec="pcm_s16le", rate_hz=RATE_HZ, layout="mono", options=None):
    """Write channels of int16 to a file in the container that its suffix names."""
    suffix = path.suffix[1:]
    with av.open(str(path), "w", format=MUXER.get(suffix, suffix), options=options or {}) as out:
        stream = out.add_stream(codec, rate=rate_hz, layout=layout)
        if codec == "wmav2":
            stream.bit_rate = 64_000
        encode_sound(out, stream, samples_CS, rate_hz, layout)
    return path


def encode_sound(out, stream, samples_CS, rate_hz, layout):
    interleaved = np.ascontiguousarray(np.stack(samples_CS, axis=1).reshape(1, -1))
    frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
    for part in (frame, None):
        out.mux(stream.encode(part))
