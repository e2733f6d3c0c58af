"""The synthetic corpus: mp4 files with a face, a voice and a transcript, made from nothing but a seed.

Each modality shows a clip's class most of the time, and otherwise a class that this modality is apt to confuse with it.
This is drawn for each modality independently, so fusing them beats each alone. Some clips lack a modality, some faces
are dark or covered, some sound is noisy, some transcripts are empty. Lips do not follow the syllables: a clip's
modalities share its label and its speaker, and nothing else.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from emo_ray import durable, store
from emo_ray.config.data_settings import Synthetic
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.manifest import Clip
from emo_ray.data.manifest.columns import SPLITS
from emo_ray.data.synthetic.candid import CRF, candid_shot
from emo_ray.data.synthetic.face import FLAWS, RATE_FPS, face
from emo_ray.data.synthetic.scene import wide_shot
from emo_ray.data.synthetic.text import sentence
from emo_ray.data.synthetic.voice import RATE_HZ, voice

VERSION = 2  # raise it when the same config gives other clips
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
    """Everything that decides a clip."""

    clip_id: str
    label: str
    shown: dict[str, str]  # modality -> the class it shows; the clip lacks modalities that are not in it
    flaws: dict[str, str]  # modality -> its flaw: "dark" or "occluded", "noisy", "empty"
    text: str | None
    split: str
    speaker: str
    seed: int  # of the corpus; with clip_id and speaker it decides every pixel and sample
    shot: Literal["close", "wide", "candid"] = "close"


def digest_parts(synthetic: Synthetic) -> tuple[Any, ...]:
    """Everything that decides the corpus' content, for `store.digest`."""
    return synthetic.deciding("corpus"), VERSION


def write_scripts(synthetic: Synthetic) -> list[Script]:
    """The scripts of all clips, without rendering any: labels balanced within a split, no speaker in two splits."""
    splits = {name: getattr(synthetic, f"{name}_clips") for name in SPLITS}
    return [script for name, clips in splits.items() if clips for script in _split_scripts(synthetic, name, clips)]


def confusion(modality: str, true_rate: float) -> np.ndarray:
    """P(class shown | class of the clip), float64 (K, K): rows are the clip's class, in the order of LABELS."""
    table_KK = np.zeros((len(LABELS), len(LABELS)))
    for k, label in enumerate(LABELS):
        table_KK[k, k] = true_rate
        confused = _confused_with(modality, label)
        for other in confused:
            table_KK[k, LABELS.index(other)] = (1 - true_rate) / len(confused)
    return table_KK


def ceiling(modalities: Sequence[str], true_rate: float) -> float:
    """The best possible accuracy of a guess from these modalities, on clips that have them all, each read perfectly."""
    joint = np.full((len(LABELS), 1), 1 / len(LABELS))  # (class, combination of shown classes)
    for modality in modalities:
        joint = np.einsum("ks,kt->kst", joint, confusion(modality, true_rate)).reshape(len(LABELS), -1)
    return float(joint.max(axis=0).sum())


def render(script: Script, folder: Path) -> Clip:
    """The manifest row of a clip. Its file is written below `folder` unless it exists; same script, same bytes.

    Files are named by clip_id alone, so corpora of different `digest_parts` need different folders.
    """
    has_video = "video" in script.shown
    path = Path(folder).absolute() / "clips" / f"{script.clip_id}.{'mp4' if has_video else 'm4a'}"
    if not store.exists(path):
        crf = CRF if script.shot == "candid" else 20
        write(path, _perform_face(script), _perform_voice(script), crf=crf)
    return Clip(
        clip_id=script.clip_id,
        video=store.address(path) if has_video else None,
        audio=None if has_video else store.address(path),
        text=script.text,
        label=None if script.split == "unlabelled" else script.label,
        split=script.split,
        speaker=script.speaker,
        language="en",
    )


def _perform_face(script: Script) -> np.ndarray | None:
    """uint8 frames_THWC, or None if the clip lacks video."""
    if "video" not in script.shown:
        return None
    speaker_rng = _rng(script.seed, script.speaker, "face")
    clip_rng = _rng(script.seed, script.clip_id, "face")
    if script.shot == "wide":
        rngs = (speaker_rng, clip_rng, _rng(script.seed, script.clip_id, "scene"))
        return wide_shot(script.shown["video"], rngs, DURATION_S, script.flaws.get("video"))
    if script.shot == "candid":
        rngs = (speaker_rng, clip_rng, _rng(script.seed, script.clip_id, "camera"))
        return candid_shot(script.shown["video"], rngs, DURATION_S, script.flaws.get("video"))
    return face(script.shown["video"], speaker_rng, clip_rng, DURATION_S, script.flaws.get("video"))


def _perform_voice(script: Script) -> np.ndarray | None:
    """int16 samples_S, or None if the clip lacks audio."""
    if "audio" not in script.shown:
        return None
    speaker_rng = _rng(script.seed, script.speaker, "voice")
    clip_rng = _rng(script.seed, script.clip_id, "voice")
    return voice(script.shown["audio"], speaker_rng, clip_rng, DURATION_S, noisy="audio" in script.flaws)


def _split_scripts(synthetic: Synthetic, split: str, clips: int) -> list[Script]:
    """The scripts of a split; it has at least two speakers, so that any split can be cut by speaker."""
    speakers = max(2, round(clips / CLIPS_PER_SPEAKER))
    speaker_of = np.arange(clips) * speakers // clips
    labels = np.arange(clips) % len(LABELS)
    for speaker in range(speakers):  # shuffled, so that a clip's number does not tell its label
        rows = np.flatnonzero(speaker_of == speaker)
        labels[rows] = _rng(synthetic.seed, split, "order", str(speaker)).permutation(labels[rows])
    return [
        _script(synthetic, split, f"{split}-{number:05d}", f"{split}-speaker-{speaker:03d}", LABELS[label])
        for number, (speaker, label) in enumerate(zip(speaker_of, labels, strict=True))
    ]


def _script(synthetic: Synthetic, split: str, clip_id: str, speaker: str, label: str) -> Script:
    rng = _rng(synthetic.seed, clip_id, "script")
    shown = {modality: _shown_class(modality, label, synthetic.true_rate, rng) for modality in MODALITIES}
    missing = _at_most_one(dict.fromkeys(MODALITIES, synthetic.missing_rate), rng)
    if missing is not None:
        del shown[missing]
    flaw_rates = {
        "video": dict(zip(FLAWS, (synthetic.dark_rate, synthetic.occluded_rate), strict=True)),
        "audio": {"noisy": synthetic.noisy_rate},
        "text": {"empty": synthetic.empty_rate},
    }
    drawn_flaws = {modality: _at_most_one(rates, rng) for modality, rates in flaw_rates.items()}
    flaws = {modality: flaw for modality, flaw in drawn_flaws.items() if flaw is not None and modality in shown}
    text = None
    if "text" in shown:
        text = "" if "text" in flaws else sentence(shown["text"], rng)
    return Script(clip_id, label, shown, flaws, text, split, speaker, synthetic.seed, synthetic.shot)


def _at_most_one(rates: Mapping[str, float], rng: np.random.Generator) -> str | None:
    """One of these names or none, each drawn at its rate."""
    remaining = rng.uniform()
    for name, rate in rates.items():
        if remaining < rate:
            return name
        remaining -= rate
    return None


def _shown_class(modality: str, label: str, true_rate: float, rng: np.random.Generator) -> str:
    """The clip's class, at `true_rate`, or one that is confused with it."""
    confused = _confused_with(modality, label)
    other = confused[rng.integers(len(confused))]  # drawn in any case, so that another rate changes no other draw
    return label if rng.uniform() < true_rate else other


def _confused_with(modality: str, label: str) -> list[str]:
    """The classes that this modality may show instead of a label."""
    return sorted({other for group in CONFUSIONS[modality] if label in group for other in group} - {label})


def _rng(seed: int, *names: str) -> np.random.Generator:
    """A generator for each combination of names, so that the draws for one thing never shift those for another."""
    key = hashlib.blake2b("/".join((str(seed), *names)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(key, "little"))


def write(
    path: Path,
    frames_THWC: np.ndarray | None,
    samples_S: np.ndarray | None,
    rate_fps: int = RATE_FPS,
    crf: int = 20,
) -> None:
    """H.264 and AAC in an mp4 file that appears whole or not at all; one thread and no dates, so bytes repeat.

    The higher `crf`, the lower the rate of the video.
    """
    with (
        durable.renamed(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"fflags": "+bitexact"}) as container,
    ):
        # All streams must exist before the first packet.
        video = None if frames_THWC is None else _video_stream(container, frames_THWC.shape, rate_fps, crf)
        audio = None if samples_S is None else _audio_stream(container)
        if video is not None and frames_THWC is not None:
            for frame_HWC in frames_THWC:
                container.mux(video.encode(VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
            container.mux(video.encode(None))
        if audio is not None and samples_S is not None:
            container.mux(audio.encode(_audio_frame(samples_S)))
            container.mux(audio.encode(None))


def _video_stream(container: OutputContainer, shape_THWC: tuple[int, ...], rate_fps: int, crf: int) -> VideoStream:
    # With mbtree, x264 165 gives other bytes from call to call for frames this small on CPUs that have AVX-512.
    options = {"preset": "veryfast", "crf": str(crf), "x264-params": "mbtree=0"}
    stream = container.add_stream("libx264", rate=rate_fps, options=options)
    _, stream.height, stream.width, _ = shape_THWC
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = 1
    return stream


def _audio_stream(container: OutputContainer) -> AudioStream:
    stream = container.add_stream("aac", rate=RATE_HZ, layout="mono", options={"aac_coder": "fast"})
    stream.bit_rate = 48_000
    stream.codec_context.thread_count = 1
    return stream


def _audio_frame(samples_S: np.ndarray) -> AudioFrame:
    frame = AudioFrame.from_ndarray(samples_S[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
    return frame
