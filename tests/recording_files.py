"""A recording of synthetic voices, which silero-vad takes for speech as it does few others."""

import av
import numpy as np

from emo_ray.data.media import RATE_HZ
from emo_ray.data.synthetic.voice import voice

VOICE_S, GAP_S = 3.0, 1.0
CODECS = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "m4a": "aac", "ts": "mp2"}


def voices(count):
    """int16 samples_S at 16 kHz of voices after a second of silence each, and the (start, end) of each in seconds."""
    spoken_S = voice("sad", np.random.default_rng(7), np.random.default_rng(17), VOICE_S)
    silence_S = np.zeros(round(GAP_S * RATE_HZ), np.int16)
    starts_s = [GAP_S + i * (VOICE_S + GAP_S) for i in range(count)]
    return np.concatenate([silence_S, spoken_S] * count), [(start_s, start_s + VOICE_S) for start_s in starts_s]


def write_sound(path, samples_S, rate_hz=RATE_HZ):
    """A file of the format that its suffix names."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(CODECS[path.suffix[1:]], rate=rate_hz, layout="mono")
        for place in range(0, len(samples_S), 1024):
            frame = av.AudioFrame.from_ndarray(samples_S[None, place : place + 1024], format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate_hz, place
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return path
