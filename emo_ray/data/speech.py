"""Where somebody speaks: silero-vad's probabilities of speech, window by window, and the spans that follow from them.

Sound comes in stretches, so that a recording of hours is never in memory as a whole. The model's state goes on from one
stretch to the next: where sound is cut makes no difference.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emo_ray.config.media_settings import Segment
from emo_ray.data.media import RATE_HZ, Span

WINDOW = 512  # samples that the model takes at once: 32 ms
_LEEWAY = 0.15  # as in silero-vad: speech ends where the probability is this much below the threshold that starts it
_LOWEST = 0.01  # of the thresholds that end speech
_PAUSE_WINDOWS = 5  # whose mean probability tells how quiet a place is: 160 ms
_FULL_SCALE = 32768.0


def speech_spans(stretches: Iterable[np.ndarray], settings: Segment) -> list[Span]:
    """The spans of a sound in which somebody speaks, in seconds. Stretches are int16 samples_S at 16 kHz, in order."""
    probabilities_W, samples = speech_probabilities(stretches)
    return spans(probabilities_W, samples / RATE_HZ, settings)


def speech_probabilities(stretches: Iterable[np.ndarray]) -> tuple[np.ndarray, int]:
    """The probability of speech in each window of a sound, float32, and the sound's length in samples.

    The last window is filled up with silence.
    """
    model = _model()
    model.reset_states()
    samples = 0
    rest_S = np.zeros(0, np.int16)
    values: list[np.ndarray] = []
    with torch.inference_mode(), _one_thread():
        for stretch_S in stretches:
            samples += len(stretch_S)
            sound_S = np.concatenate([rest_S, stretch_S])
            whole = len(sound_S) // WINDOW * WINDOW
            values.append(_heard(model, sound_S[:whole]))
            rest_S = sound_S[whole:]
        if len(rest_S):
            values.append(_heard(model, np.pad(rest_S, (0, WINDOW - len(rest_S)))))
    return np.concatenate(values) if values else np.zeros(0, np.float32), samples


def _heard(model: Any, sound_S: np.ndarray) -> np.ndarray:
    """The model's probabilities of speech in whole windows."""
    windows_WS = torch.from_numpy(sound_S.astype(np.float32) / np.float32(_FULL_SCALE)).reshape(-1, WINDOW)
    return np.array([model(window_S, RATE_HZ).item() for window_S in windows_WS], np.float32)


@cache
def _model() -> Any:
    """silero-vad in TorchScript, from its package.

    The package itself is not imported: it would set the number of threads of the whole process.
    """
    package = find_spec("silero_vad")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "data" / "silero_vad.jit"
    with warnings.catch_warnings():
        # PyTorch deprecates TorchScript; silero-vad offers its weights in that form and for libraries that we lack.
        warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
        return torch.jit.load(path, map_location="cpu").eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in a single thread: so small a model is slower by a factor of ten where two share its operations."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def spans(probabilities: Sequence[float] | np.ndarray, sound_s: float, settings: Segment) -> list[Span]:
    """The spans in which somebody speaks, in seconds, from the probability of speech in each window.

    Speech starts where the probability reaches `threshold`, and ends where it is well below for `min_silence_s`. What
    is shorter than `min_speech_s` is left out. Then `pad_s` is added on both sides, or half of the silence between two
    spans where that is less. A span longer than `max_s` is cut at its quietest places.
    """
    probabilities_W = np.asarray(probabilities, np.float64)
    sound_samples = round(sound_s * RATE_HZ)
    min_samples, pad = settings.min_speech_s * RATE_HZ, round(settings.pad_s * RATE_HZ)
    spoken = [
        (start * WINDOW, min(end * WINDOW, sound_samples))
        for start, end in _spoken(probabilities_W, settings.threshold, settings.min_silence_s * RATE_HZ / WINDOW)
    ]
    spoken = [(start, end) for start, end in spoken if end - start >= min_samples]
    middles = [(end + next_start) // 2 for (_, end), (next_start, _) in pairwise(spoken)]
    bounds = pairwise([0, *middles, sound_samples])
    padded = [
        (max(start - pad, first), min(end + pad, last))
        for (start, end), (first, last) in zip(spoken, bounds, strict=False)
    ]
    pieces = [piece for span in padded for piece in _pieces(span, probabilities_W, round(settings.max_s * RATE_HZ))]
    return [Span(start / RATE_HZ, end / RATE_HZ) for start, end in pieces]


def _spoken(probabilities_W: np.ndarray, threshold: float, min_silence_windows: float) -> Iterator[tuple[int, int]]:
    """First window of each stretch of speech, and the first one after it."""
    quiet_below = max(threshold - _LEEWAY, _LOWEST)
    start = pause = None
    for window, probability in enumerate(probabilities_W):
        if probability >= threshold:
            start, pause = window if start is None else start, None
        elif probability < quiet_below and start is not None and pause is None:
            pause = window
        if start is not None and pause is not None and window + 1 - pause >= min_silence_windows:
            yield start, pause
            start = pause = None
    if start is not None:
        yield start, len(probabilities_W) if pause is None else pause


def _pieces(span: tuple[int, int], probabilities_W: np.ndarray, max_samples: int) -> Iterator[tuple[int, int]]:
    """A span in samples, cut into pieces of `max_samples` at most and a quarter of that at least.

    Each cut lies where the mean probability around is lowest in what is allowed, which is from half of `max_samples`.
    """
    start, end = span
    while end - start > max_samples:
        first = -(-(start + max_samples // 2) // WINDOW)
        last = min(start + max_samples, end - max_samples // 4) // WINDOW
        around = _PAUSE_WINDOWS // 2
        quietness = [
            probabilities_W[max(0, window - around) : window + around + 1].mean() for window in range(first, last + 1)
        ]
        cut = (first + int(np.argmin(quietness))) * WINDOW
        yield start, cut
        start = cut
    yield start, end
