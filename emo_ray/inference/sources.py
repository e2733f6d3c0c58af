"""What people give a model: files, folders, frames, sound and words, as clips."""

import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emo_ray.config.data_settings import Data
from emo_ray.data import manifest
from emo_ray.data.corpora.reader import read_corpus
from emo_ray.data.manifest import Clip

Sound = tuple[np.ndarray, int]  # samples (S,) or (S, channels), int16 or float in [-1, 1], and their rate in Hz
Source = str | Path | np.ndarray | Sound | Mapping[str, Any]
PARTS = ("video", "audio", "text")


def is_folder(source: object) -> bool:
    """Whether this is the path of a folder of clips."""
    return isinstance(source, str | Path) and Path(source).is_dir()


def clips_of_folder(folder: Path) -> list[Clip]:
    """The clips of a folder as jobs/predict.py reads it. Raises ValueError where there are none."""
    clips, _ = read_corpus(Data(manifest=str(folder)))
    return clips


def clip_of(source: Source, clip_id: str, scratch: Path) -> Clip:
    """One clip of a file, frames (F, H, W, 3), sound, or a mapping of `video`, `audio` and `text`.

    Frames and sound become files in `scratch`, for one decoder reads all there is. Raises FileNotFoundError for a file
    that is not there, and ValueError or TypeError for what is no clip.
    """
    if isinstance(source, str | Path):
        return Clip(str(source), **manifest.media_fields(str(_existing(source)), Path()))
    if isinstance(source, np.ndarray):
        return Clip(clip_id, video=_frames_file(source, scratch / f"{clip_id}.npy"))
    if isinstance(source, tuple):
        return Clip(clip_id, audio=_sound_file(source, scratch / f"{clip_id}.wav"))
    if not isinstance(source, Mapping):
        raise TypeError(f"found {type(source).__name__}, expected a path, frames, (samples, rate), or a mapping")
    if not source or set(source) - set(PARTS):
        raise ValueError(f"found a clip of {sorted(source)}, expected some of {', '.join(PARTS)}")
    fields: dict[str, Any] = {"text": source.get("text")}
    if not isinstance(fields["text"], str | None):
        raise TypeError(f"found {type(fields['text']).__name__} as text, expected words")
    for part in ("video", "audio"):
        if (media := source.get(part)) is not None:
            is_path = isinstance(media, str | Path)
            fields[part] = str(_existing(media)) if is_path else getattr(clip_of(media, clip_id, scratch), part)
            if fields[part] is None:
                raise ValueError(f"found {type(media).__name__} as {part}, expected frames as video, sound as audio")
    return Clip(clip_id, **fields)


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: found no such file, expected a video, a sound, or a folder of them")
    return Path(path).absolute()


def _frames_file(frames_FHWC: np.ndarray, path: Path) -> str:
    if frames_FHWC.dtype != np.uint8 or frames_FHWC.ndim != 4 or frames_FHWC.shape[-1] != 3 or not frames_FHWC.size:
        found = f"{frames_FHWC.dtype} of shape {frames_FHWC.shape}"
        raise ValueError(f"found an array of {found}, expected frames, uint8 (F, H, W, 3)")
    np.save(path, np.ascontiguousarray(frames_FHWC))
    return str(path)


def _sound_file(sound: Sound, path: Path) -> str:
    try:
        samples, rate_hz = np.asarray(sound[0]), int(sound[1])
        is_sound = len(sound) == 2 and samples.ndim in (1, 2) and samples.size > 0 and rate_hz > 0
    except (TypeError, ValueError, IndexError):
        is_sound = False
    if not is_sound or not (samples.dtype == np.int16 or np.issubdtype(samples.dtype, np.floating)):
        raise ValueError(
            "found a tuple that is no sound, expected (samples, rate in Hz) with samples of int16 or of floats in "
            "[-1, 1], of shape (S,) or (S, channels)"
        )
    if samples.dtype != np.int16:
        samples = np.clip(np.round(np.nan_to_num(samples) * 32768.0), -32768, 32767).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.ascontiguousarray(samples, "<i2").tobytes())
    return str(path)
