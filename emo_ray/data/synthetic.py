"""The synthetic corpus: mp4 files with a face, a voice and a transcript, made from nothing but a seed.

Each modality shows a clip's class most of the time, and else one that this modality is apt to confuse with it, decided
for each modality on its own: so fusing them beats each alone. Some clips lack a modality, some faces are dark or
covered, some sound is noisy, some transcripts are empty. Lips do not follow the syllables: a clip's modalities share
its label and its speaker, and nothing else.
"""

import hashlib
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from emo_ray.config.data_settings import Synthetic
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.manifest import Clip
from emo_ray.data.synthetic_face import FLAWS, RATE_FPS, face
from emo_ray.data.synthetic_text import sentence
from emo_ray.data.synthetic_voice import RATE_HZ, voice

VERSION = 2  # raise it when the same config gives other clips
SPLITS = ("train", "validation", "test", "unlabelled")
LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
DURATION_S = 2.0
CLIPS_PER_SPEAKER = 10
# Classes that look, sound or read alike: faces by their features, voices by arousal, words by valence.
CONFUSIONS = {
    "video": (("worried", "surprise"), ("angry", "sad"), ("neutral", "sad"), ("neutral", "happy")),
    "audio": (("angry", "happy", "surprise"), ("neutral", "sad", "worried")),
    "text": (("angry", "sad", "worried"), ("happy", "surprise", "neutral")),
}


@dataclass(frozen=True)
class Script:
    """What decides one clip."""

    clip_id: str
    label: str
    shown: dict[str, str]  # modality -> the class it shows; a modality that is not in it is absent from the clip
    flaws: dict[str, str]  # modality -> what is wrong with it: "dark" or "occluded", "noisy", "empty"
    text: str | None
    split: str
    speaker: str
    seed: int  # of the corpus; with clip_id and speaker it decides every pixel and sample


def digest_parts(synthetic: Synthetic) -> tuple[Any, ...]:
    """What decides the corpus' content."""
    return synthetic.model_dump(), VERSION


def write_scripts(synthetic: Synthetic) -> list[Script]:
    """The scripts of all clips: labels balanced within a split, no speaker in two; cheap."""
    splits = {name: getattr(synthetic, f"{name}_clips") for name in SPLITS}
    return [script for name, clips in splits.items() if clips for script in _split(synthetic, name, clips)]


def confusion(modality: str, true_rate: float) -> np.ndarray:
    """P(class shown | class of the clip): rows are the truth, in the order of LABELS."""
    table_KK = np.zeros((len(LABELS), len(LABELS)))
    for k, label in enumerate(LABELS):
        table_KK[k, k] = true_rate
        alike = _alike(modality, label)
        for other in alike:
            table_KK[k, LABELS.index(other)] = (1 - true_rate) / len(alike)
    return table_KK


def ceiling(modalities: Sequence[str], true_rate: float) -> float:
    """The accuracy of the best possible guess from what these modalities show, if each is there and read perfectly."""
    joint = np.full((len(LABELS), 1), 1 / len(LABELS))  # (class, what was shown)
    for modality in modalities:
        joint = np.einsum("ks,kt->kst", joint, confusion(modality, true_rate)).reshape(len(LABELS), -1)
    return float(joint.max(axis=0).sum())


def render(script: Script, folder: Path) -> Clip:
    """The manifest row of a clip, whose file is written below `folder` unless it is there; same script, same bytes.

    Files are named by clip_id alone, so corpora of different `digest_parts` need different folders.
    """
    has_video, has_audio = "video" in script.shown, "audio" in script.shown
    path = Path(folder).absolute() / "clips" / f"{script.clip_id}.{'mp4' if has_video else 'm4a'}"
    if not path.exists():
        frames_THWC = samples_S = None
        if has_video:
            look = _generator(script.seed, script.speaker, "face")
            act = _generator(script.seed, script.clip_id, "face")
            frames_THWC = face(script.shown["video"], look, act, DURATION_S, script.flaws.get("video"))
        if has_audio:
            timbre = _generator(script.seed, script.speaker, "voice")
            act = _generator(script.seed, script.clip_id, "voice")
            samples_S = voice(script.shown["audio"], timbre, act, DURATION_S, noisy="audio" in script.flaws)
        write(path, frames_THWC, samples_S)
    return Clip(
        clip_id=script.clip_id,
        video=str(path) if has_video else None,
        audio=None if has_video else str(path),
        text=script.text,
        label=None if script.split == "unlabelled" else script.label,
        split=script.split,
        speaker=script.speaker,
        language="en",
    )


def _split(synthetic: Synthetic, split: str, clips: int) -> list[Script]:
    """At least two speakers, so that a split can be cut by speaker from any."""
    speakers = max(2, round(clips / CLIPS_PER_SPEAKER))
    speaker_of = np.arange(clips) * speakers // clips
    labels = np.arange(clips) % len(LABELS)
    for speaker in range(speakers):  # so that a clip's number does not tell its label
        mine = np.flatnonzero(speaker_of == speaker)
        labels[mine] = _generator(synthetic.seed, split, "order", str(speaker)).permutation(labels[mine])
    return [
        _script(synthetic, split, f"{split}-{number:05d}", f"{split}-speaker-{speaker:03d}", LABELS[label])
        for number, (speaker, label) in enumerate(zip(speaker_of, labels, strict=True))
    ]


def _script(synthetic: Synthetic, split: str, clip_id: str, speaker: str, label: str) -> Script:
    draw = _generator(synthetic.seed, clip_id, "script")
    shown = {modality: _shown(modality, label, synthetic.true_rate, draw) for modality in MODALITIES}
    lacking = _one_of(MODALITIES, dict.fromkeys(MODALITIES, synthetic.missing_rate), draw)
    shown.pop(lacking, None)
    flaws = {
        "video": _one_of(FLAWS, {"dark": synthetic.dark_rate, "occluded": synthetic.occluded_rate}, draw),
        "audio": _one_of(("noisy",), {"noisy": synthetic.noisy_rate}, draw),
        "text": _one_of(("empty",), {"empty": synthetic.empty_rate}, draw),
    }
    flaws = {modality: flaw for modality, flaw in flaws.items() if flaw and modality in shown}
    text = None
    if "text" in shown:
        text = "" if "text" in flaws else sentence(shown["text"], draw)
    return Script(clip_id, label, shown, flaws, text, split, speaker, synthetic.seed)


def _one_of(names: Sequence[str], rates: Mapping[str, float], draw: np.random.Generator) -> str | None:
    """At most one of these names, each with its rate."""
    at = draw.uniform()
    for name in names:
        if at < rates[name]:
            return name
        at -= rates[name]
    return None


def _shown(modality: str, label: str, true_rate: float, draw: np.random.Generator) -> str:
    alike = _alike(modality, label)
    other = alike[draw.integers(len(alike))]  # drawn in any case, so that another rate moves nothing else
    return label if draw.uniform() < true_rate else other


def _alike(modality: str, label: str) -> list[str]:
    """The classes that this modality may show in the place of a label."""
    return sorted({other for group in CONFUSIONS[modality] if label in group for other in group} - {label})


def _generator(seed: int, *names: str) -> np.random.Generator:
    """A stream of its own for every name: what is drawn for one thing never shifts another."""
    key = hashlib.blake2b("/".join((str(seed), *names)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(key, "little"))


def write(path: Path, frames_THWC: np.ndarray | None, samples_S: np.ndarray | None, rate_fps: int = RATE_FPS) -> None:
    """H.264 and AAC in an mp4 file that appears whole or not at all; one thread and no dates, so bytes repeat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        with av.open(str(temporary), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            streams = []
            if frames_THWC is not None:
                streams.append((_video_stream(container, frames_THWC, rate_fps), _video_frames(frames_THWC)))
            if samples_S is not None:
                streams.append((_audio_stream(container), _audio_frames(samples_S)))
            for stream, frames in streams:
                for frame in (*frames, None):
                    container.mux(stream.encode(frame))
        os.utime(temporary, (0, 0))  # shards are named after size and time: the same corpus, the same shards anywhere
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _video_stream(container: Any, frames_THWC: np.ndarray, rate_fps: int) -> Any:
    # With mbtree, x264 165 gives other bytes from call to call for frames this small on CPUs that have AVX-512.
    options = {"preset": "veryfast", "crf": "20", "x264-params": "mbtree=0"}
    stream = container.add_stream("libx264", rate=rate_fps, options=options)
    _, stream.height, stream.width, _ = frames_THWC.shape
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = 1
    return stream


def _video_frames(frames_THWC: np.ndarray) -> list[av.VideoFrame]:
    return [av.VideoFrame.from_ndarray(frame_HWC, format="rgb24") for frame_HWC in frames_THWC]


def _audio_stream(container: Any) -> Any:
    stream = container.add_stream("aac", rate=RATE_HZ, layout="mono", options={"aac_coder": "fast"})
    stream.bit_rate = 48_000
    stream.codec_context.thread_count = 1
    return stream


def _audio_frames(samples_S: np.ndarray) -> list[av.AudioFrame]:
    frame = av.AudioFrame.from_ndarray(samples_S[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
    return [frame]
