"""Decoded clips made worse in known steps: noise in sound, blur and fewer frames in pictures, dropped words.

MER2024-NOISE does this to its test clips (noise at 5 to 10 dB, blur by pyramids). Every function is pure, and random
ones take a generator, so that the same clip is made worse in the same way every time.
"""

import io
import zlib
from collections.abc import Sequence
from unicodedata import east_asian_width

import numpy as np
from PIL import Image

_BABBLE = 4  # voices of other clips in the babble
_JPEG_QUALITY = 95
_LOUDEST = 32767  # of an int16 sample


def clip_rng(seed: int, clip_id: str, step: str) -> np.random.Generator:
    """The generator of one clip at one step."""
    return np.random.default_rng([seed, zlib.crc32(f"{clip_id}/{step}".encode())])


def noise(samples: int, others: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """White noise and babble of equal power, float64 (S,); `others` are sounds of other clips, which may be none."""
    white_S = rng.normal(size=samples)
    babble_S = np.zeros(samples)
    for place in rng.permutation(len(others))[:_BABBLE]:
        voice_S = np.asarray(others[place], np.float64)
        if voice_S.any():
            shifted_S = np.roll(np.resize(voice_S, samples), int(rng.integers(samples)))
            babble_S += shifted_S / _rms(voice_S)
    if not babble_S.any():
        return white_S
    return white_S / _rms(white_S) + babble_S / _rms(babble_S)


def with_noise(sound_S: np.ndarray, noise_S: np.ndarray, snr_db: float) -> np.ndarray:
    """int16 sound with noise at a signal-to-noise ratio; silence stays silence.

    Where the sum is too loud for int16, all of it is made quieter, which leaves the ratio as it is.
    """
    if not sound_S.any():
        return sound_S
    signal_S = sound_S.astype(np.float64)
    mixed_S = signal_S + noise_S * (_rms(signal_S) / _rms(noise_S)) * 10 ** (-snr_db / 20)
    return np.round(mixed_S * min(1.0, _LOUDEST / np.abs(mixed_S).max())).astype(np.int16)


def blurred(picture: Image.Image, levels: int) -> Image.Image:
    """A picture that went down so many levels of a pyramid, each of half the size, and up again."""
    small = picture
    for _ in range(levels):
        small = small.resize((max(1, small.width // 2), max(1, small.height // 2)), Image.Resampling.BICUBIC)
    return small.resize(picture.size, Image.Resampling.BICUBIC)


def blurred_frames(jpegs: Sequence[bytes], levels: int) -> list[bytes]:
    """JPEG frames, each blurred by so many levels of a pyramid."""
    frames = []
    for jpeg in jpegs:
        stream = io.BytesIO()
        blurred(Image.open(io.BytesIO(jpeg)).convert("RGB"), levels).save(
            stream, "JPEG", quality=_JPEG_QUALITY, subsampling=0
        )
        frames.append(stream.getvalue())
    return frames


def halved_frames(jpegs: Sequence[bytes]) -> list[bytes]:
    """Repeat each even frame in place of the odd one after it: half the frame rate, the same number of frames."""
    return [jpegs[place - place % 2] for place in range(len(jpegs))]


def with_words_dropped(text: str, share: float, rng: np.random.Generator) -> str:
    """A text without a share of its words, rounded, but with at least one.

    In a text of Chinese or Japanese, which puts no spaces between words, the share is one of its characters.
    """
    has_spaces = " " in text.strip() or not any(east_asian_width(letter) in "WF" for letter in text)
    words, joint = (text.split(), " ") if has_spaces else (list(text), "")
    dropped = min(round(share * len(words)), len(words) - 1)
    if dropped <= 0:
        return text
    kept = np.sort(rng.permutation(len(words))[dropped:])
    return joint.join(words[place] for place in kept)


def _rms(values_S: np.ndarray) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(np.square(values_S))))
