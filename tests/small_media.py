"""Small media by name, written with PyAV alone, so that they are an independent reference."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 25
WIDTH, HEIGHT = 160, 120
BITS = 10  # horizontal bars of 12 pixels, black or white: the frame's number; any centre crop keeps them
ROTATIONS = {  # a, b, c, d of an mp4 file's display matrix, by which a viewer turns the picture
    "rotated": (0, 1, -1, 0),  # clockwise by 90 degrees, as telephones held upright write it
    "rotated_left": (0, -1, 1, 0),
    "rotated_180": (-1, 0, 0, -1),
    "mirrored": (-1, 0, 0, 1),
    "mirrored_rotated": (0, 1, 1, 0),
}


def write_all(folder: Path) -> dict[str, Path]:
    """Small media by name; every frame tells its number (see `frame_number`), 25 frames per second, 160x120 pixels.

    Good: clip (2 s with stereo sound), short_gop and long_gop (10 s), silent, audio_only, wav, portrait, wide, rotated,
    rotated_left, rotated_180, mirrored, mirrored_rotated, edited (an edit list hides the first second of silent), avi
    and mpg (B-frames, no usable timestamps), ts, mkv, adts (4 s, of which FFmpeg guesses 58), mp3, cover (mp3 with a
    picture), titled (wav whose title is no UTF-8). Bad: truncated, truncated_faststart, truncated_header, text,
    subtitles, empty.
    """
    sound = stereo(2.0)
    files = {
        "clip": write_media(folder / "clip.mp4", numbered(50), sound),
        "faststart": write_media(folder / "faststart.mp4", numbered(50), sound, container={"movflags": "faststart"}),
        "short_gop": write_media(folder / "short_gop.mp4", numbered(250), gop=12),
        "long_gop": write_media(folder / "long_gop.mp4", numbered(250), gop=250),
        "silent": write_media(folder / "silent.mp4", numbered(50)),
        "audio_only": write_media(folder / "audio_only.m4a", None, sound),
        "wav": write_media(folder / "stereo.wav", None, sound, audio_codec="pcm_s16le"),
        "portrait": write_media(folder / "portrait.mp4", numbered(10, 120, 180)),
        "wide": write_media(folder / "wide.mp4", numbered(10, 320, 120)),
        "avi": write_media(folder / "old.avi", numbered(50), sound, codec="mpeg4", audio_codec="mp2"),
        "mpg": write_media(folder / "old.mpg", numbered(50), codec="mpeg2video"),
        "ts": write_media(folder / "broadcast.ts", numbered(50)),
        "mkv": write_media(folder / "clip.mkv", numbered(50), sound),
        "adts": write_media(folder / "bare.aac", None, with_quiet_start(sound)),
        "mp3": write_media(
            folder / "bare.mp3", None, sound, audio_codec="libmp3lame", container={"id3v2_version": "0"}
        ),
    }
    files |= {name: turned(files["silent"], name) for name in ROTATIONS}
    files["edited"] = edited(files["silent"], folder / "edited.mp4", hidden_s=1)
    files["cover"] = with_cover(files["mp3"], folder / "cover.mp3")
    files["titled"] = with_title(files["wav"], folder / "titled.wav", "Gl\u00fcck".encode("latin-1"))
    files["truncated"] = cut_off(files["clip"], folder / "truncated.mp4", 0.5)
    files["truncated_faststart"] = cut_off(files["faststart"], folder / "truncated_faststart.mp4", 0.5)
    files["truncated_header"] = cut_off(files["faststart"], folder / "truncated_header.mp4", 0.005)
    for name, text in {
        "text": "This is a note, not a film.\n" * 40,
        "subtitles": "1\n00:00:01,000 --> 00:00:02,000\nHello\n\n2\n00:00:03,000 --> 00:00:04,000\nBye\n",
        "empty": "",
    }.items():
        files[name] = folder / f"{name}.mp4"
        files[name].write_text(text)
    return files


def frame_number(image_HWC: np.ndarray) -> int:
    """The number of an upright (H, W, 3) image of `media_files`."""
    rows = np.asarray(image_HWC, np.float32).mean((1, 2))
    bars = [bar[len(bar) // 4 : -(len(bar) // 4)].mean() for bar in np.array_split(rows, BITS)]
    return int("".join("1" if bar > 128 else "0" for bar in bars), 2)


def numbered(count: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 frames_THWC; bars from the top are the bits of the frame's number, the left edge is a little darker."""
    frames_THWC = np.empty((count, height, width, 3), np.uint8)
    for number, frame_HWC in enumerate(frames_THWC):
        for bar, bit in zip(np.array_split(frame_HWC, BITS), f"{number:0{BITS}b}", strict=True):
            bar[:] = 200 if bit == "1" else 40
        frame_HWC[:, : width // 2] -= 20
    return frames_THWC


def stereo(seconds: float, rate_hz: int = 48_000) -> np.ndarray:
    """int16 samples_SC: a gliding tone on the left, a beating one on the right."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    left = 0.4 * np.sin(2 * np.pi * (300 + 400 * t) * t)
    right = 0.3 * np.sin(2 * np.pi * 1500 * t) * np.sin(2 * np.pi * 3 * t)
    return np.round(np.stack([left, right], axis=1) * 32767).astype(np.int16)


def with_quiet_start(samples_SC: np.ndarray) -> np.ndarray:
    """The sound after as much silence, which compresses to almost nothing."""
    return np.concatenate([np.zeros_like(samples_SC), samples_SC])


def write_media(
    path: Path,
    frames_THWC: np.ndarray | None = None,
    samples_SC: np.ndarray | None = None,
    *,
    gop: int = 12,
    b_frames: int = 2,
    codec: str = "libx264",
    audio_codec: str = "aac",
    rate_hz: int = 48_000,
    container: dict[str, str] | None = None,
) -> Path:
    """Write frames and sound to a media file, in the container that its suffix names."""
    with av.open(str(path), "w", options=container or {}) as out:
        video = audio = None
        if frames_THWC is not None:
            video = out.add_stream(codec, rate=FPS, options={"preset": "ultrafast", "bf": str(b_frames)})
            video.height, video.width, video.pix_fmt = *frames_THWC.shape[1:3], "yuv420p"
            video.codec_context.gop_size, video.codec_context.thread_count = gop, 1
        if samples_SC is not None:
            layout = {1: "mono", 2: "stereo"}[samples_SC.shape[1]]
            audio = out.add_stream(audio_codec, rate=rate_hz, layout=layout)
        if video is not None:
            for frame_HWC in frames_THWC:
                out.mux(video.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
            out.mux(video.encode(None))
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(samples_SC.reshape(1, -1), format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
            for part in (frame, None):
                out.mux(audio.encode(part))
    return path


def turned(path: Path, name: str) -> Path:
    """A copy of an mp4 file whose header asks viewers to turn the picture, edited byte by byte."""
    a, b, c, d = (value * 2**16 for value in ROTATIONS[name])
    data = bytearray(path.read_bytes())
    matrix = data.find(b"tkhd") + 4 + 4 + 20 + 16  # version and flags; times, id and duration; layer, volume
    assert struct.unpack_from(">9i", data, matrix) == (2**16, 0, 0, 0, 2**16, 0, 0, 0, 2**30)
    struct.pack_into(">9i", data, matrix, a, b, 0, c, d, 0, 0, 0, 2**30)
    path.with_name(f"{name}.mp4").write_bytes(data)
    return path.with_name(f"{name}.mp4")


def edited(path: Path, target: Path, hidden_s: int) -> Path:
    """A copy whose packets are `hidden_s` earlier: by an edit list, mp4 hides those before time zero."""
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(str(path)) as source, av.open(str(target), "w", options=options) as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                shift = int(hidden_s / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                out.mux(packet)
    return target


def with_cover(path: Path, target: Path) -> Path:
    """An mp3 file with an ID3v2.3 tag that holds a PNG, as music players write it."""
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 32, 32, "rgb24", Fraction(1, 1)
    picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8), format="rgb24")
    png = b"".join(bytes(packet) for frame in (picture, None) for packet in encoder.encode(frame))
    body = b"\0image/png\0\x03\0" + png
    apic = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = bytes(len(apic) >> shift & 0x7F for shift in (21, 14, 7, 0))
    target.write_bytes(b"ID3\x03\0\0" + size + apic + path.read_bytes())
    return target


def with_title(path: Path, target: Path, title: bytes) -> Path:
    """A wav file with a title of any bytes."""
    item = b"INFOINAM" + struct.pack("<I", len(title)) + title + b"\0" * (len(title) % 2)
    body = path.read_bytes()[8:] + b"LIST" + struct.pack("<I", len(item)) + item
    target.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return target


def cut_off(path: Path, target: Path, share: float) -> Path:
    """The first `share` of a file's bytes."""
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target
