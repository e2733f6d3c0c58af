"""The synthetic corpus: mp4 files with a face, a voice and a transcript, made from nothing but a seed.

Each modality shows a clip's class most of the time, and else one that this modality is apt to confuse with it, decided
for each modality on its own: so fusing them beats each alone. Some clips lack a modality. Lips do not follow the
syllables: a clip's modalities share its label and its speaker, and nothing else.
"""

import hashlib
import os
import uuid
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from emo_ray import config
from emo_ray.data.manifest import Clip
from emo_ray.data.synthetic_face import RATE_FPS, SIZE, face
from emo_ray.data.synthetic_voice import RATE_HZ, voice

VERSION = 1  # raise it when the same config gives other clips
LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
DURATION_S = 2.0
CLIPS_PER_SPEAKER = 12
TRUE_SHARE = 0.8  # of clips in which a modality shows the clip's own class
ABSENT_SHARE = 0.05  # of clips that lack a modality, for each modality; no clip lacks two
# Classes that look, sound or read alike: faces by their features, voices by arousal, words by valence.
CONFUSIONS = {
    "video": (("worried", "surprise"), ("angry", "sad"), ("neutral", "sad"), ("neutral", "happy")),
    "audio": (("angry", "happy", "surprise"), ("neutral", "sad", "worried")),
    "text": (("angry", "sad", "worried"), ("happy", "surprise", "neutral")),
}
_OPENERS = ("well", "so", "you know", "look", "oh", "listen", "I mean", "today", "hey", "right")
_WHO = ("my sister", "the neighbour", "our teacher", "the doctor", "my boss", "a friend", "she", "he", "the team")
_DID = (
    "called about the exam", "came to the house", "wrote me a letter", "changed the plan", "talked about the trip",
    "left before dinner", "asked for the money", "opened the box", "told me about the job", "moved the meeting",
    "looked at the pictures", "sold the car",
)  # fmt: skip
# What is said about it, and the classes it fits.
_REMARKS = (
    ("it starts at nine as usual", ("neutral",)),
    ("the list is on the table", ("neutral",)),
    ("we can go through it on Monday", ("neutral",)),
    ("it takes about an hour", ("neutral",)),
    ("we will see", ("neutral", "worried")),
    ("that is how it is", ("neutral", "sad")),
    ("that is fine with me", ("neutral", "happy")),
    ("I have had enough of this", ("angry",)),
    ("they never listen to me", ("angry",)),
    ("how dare they do that", ("angry",)),
    ("this is an outrage and it must stop", ("angry",)),
    ("that is not fair", ("angry", "sad")),
    ("I cannot take it any more", ("angry", "sad", "worried")),
    ("are you serious", ("angry", "surprise")),
    ("that is wonderful", ("happy",)),
    ("I am so glad it worked", ("happy",)),
    ("I love it and I want to dance", ("happy",)),
    ("what a great day", ("happy",)),
    ("I cannot believe it", ("happy", "surprise", "angry")),
    ("oh my god", ("happy", "surprise", "worried")),
    ("I miss how it was", ("sad",)),
    ("it is over and I feel alone", ("sad",)),
    ("I cried all night", ("sad",)),
    ("nothing can be done about it", ("sad", "neutral")),
    ("I do not know what to do", ("sad", "worried")),
    ("what if something goes wrong", ("worried",)),
    ("I hope nothing bad happened", ("worried",)),
    ("I am afraid it is not safe", ("worried",)),
    ("I cannot sleep", ("worried", "sad")),
    ("I did not see that coming", ("surprise",)),
    ("wow who would have thought", ("surprise",)),
    ("all of a sudden, just like that", ("surprise",)),
    ("since when", ("surprise", "angry")),
    ("no way", ("surprise", "happy")),
)


@dataclass(frozen=True)
class Script:
    """What decides one clip."""

    clip_id: str
    label: str
    shown: dict[str, str]  # modality -> the class it shows; a modality that is not in it is absent from the clip
    text: str | None
    split: str
    speaker: str
    seed: int  # of the corpus; with clip_id and speaker it decides every pixel and sample


def digest_parts(synthetic: config.Synthetic) -> tuple[Any, ...]:
    """What decides the corpus' content."""
    return synthetic.model_dump(), VERSION


def plan(synthetic: config.Synthetic) -> list[Script]:
    """The scripts of all clips: labels balanced within a split, no speaker in both; cheap."""
    return [
        *_split(synthetic.seed, "train", synthetic.train_clips),
        *_split(synthetic.seed, "test", synthetic.test_clips),
    ]


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
            frames_THWC = face(script.shown["video"], look, act, DURATION_S)
        if has_audio:
            timbre = _generator(script.seed, script.speaker, "voice")
            act = _generator(script.seed, script.clip_id, "voice")
            samples_S = voice(script.shown["audio"], timbre, act, DURATION_S)
        _write(path, frames_THWC, samples_S)
    return Clip(
        clip_id=script.clip_id,
        video=str(path) if has_video else None,
        audio=None if has_video else str(path),
        text=script.text,
        label=script.label,
        split=script.split,
        speaker=script.speaker,
        language="en",
    )


def _split(seed: int, split: str, clips: int) -> list[Script]:
    """At least two speakers, so that a validation split can be cut by speaker from any corpus."""
    speakers = max(2, round(clips / CLIPS_PER_SPEAKER))
    speaker_of = np.arange(clips) * speakers // clips
    labels = np.arange(clips) % len(LABELS)
    for speaker in range(speakers):  # so that a clip's number does not tell its label
        mine = np.flatnonzero(speaker_of == speaker)
        labels[mine] = _generator(seed, split, "order", str(speaker)).permutation(labels[mine])
    return [
        _script(seed, split, f"{split}-{number:05d}", f"{split}-speaker-{speaker:03d}", LABELS[label])
        for number, (speaker, label) in enumerate(zip(speaker_of, labels, strict=True))
    ]


def _script(seed: int, split: str, clip_id: str, speaker: str, label: str) -> Script:
    draw = _generator(seed, clip_id, "script")
    shown = {modality: _shown(modality, label, draw) for modality in config.MODALITIES}
    lacking = int(draw.uniform() / ABSENT_SHARE)
    if lacking < len(config.MODALITIES):
        del shown[config.MODALITIES[lacking]]
    text = _sentence(shown["text"], draw) if "text" in shown else None
    return Script(clip_id, label, shown, text, split, speaker, seed)


def _shown(modality: str, label: str, draw: np.random.Generator) -> str:
    if draw.uniform() < TRUE_SHARE:
        return label
    alike = sorted({other for group in CONFUSIONS[modality] if label in group for other in group} - {label})
    return alike[draw.integers(len(alike))]


def _sentence(label: str, draw: np.random.Generator) -> str:
    """What happened and what is said about it; only the remarks tell the class, and some fit several."""

    def one(options: tuple | list) -> Any:
        return options[draw.integers(len(options))]

    story, remarks = f"{one(_WHO)} {one(_DID)}", [words for words, classes in _REMARKS if label in classes]
    first, second = (remarks[i] for i in draw.permutation(len(remarks))[:2])
    parts = one(((one(_OPENERS), story, first), (first, story), (one(_OPENERS), first, second)))
    sentence = ", ".join(parts)
    return sentence[0].upper() + sentence[1:] + "."


def _generator(seed: int, *names: str) -> np.random.Generator:
    """A stream of its own for every name: what is drawn for one thing never shifts another."""
    key = hashlib.blake2b("/".join((str(seed), *names)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(key, "little"))


def _write(path: Path, frames_THWC: np.ndarray | None, samples_S: np.ndarray | None) -> None:
    """H.264 and AAC in an mp4 file that appears whole or not at all; one thread and no dates, so bytes repeat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        with av.open(str(temporary), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            streams = []
            if frames_THWC is not None:
                streams.append((_video_stream(container), _video_frames(frames_THWC)))
            if samples_S is not None:
                streams.append((_audio_stream(container), _audio_frames(samples_S)))
            for stream, frames in streams:
                for frame in (*frames, None):
                    container.mux(stream.encode(frame))
        os.utime(temporary, (0, 0))  # shards are named after size and time: the same corpus, the same shards anywhere
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _video_stream(container: Any) -> Any:
    # With mbtree, x264 165 gives other bytes from call to call for frames this small on CPUs that have AVX-512.
    options = {"preset": "veryfast", "crf": "20", "x264-params": "mbtree=0"}
    stream = container.add_stream("libx264", rate=RATE_FPS, options=options)
    stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
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
