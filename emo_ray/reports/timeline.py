"""Emotion over time in one recording: what is known of each utterance, as rows of CSV and as subtitles (WebVTT)."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from emo_ray.reports.wording import whole_percent

NO_PREDICTION = "no prediction"
_UNSAFE = re.compile(r"[^\w .,()+@=-]")  # in names of files; letters and digits are those of any script
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LONGEST_NAME = 120  # bytes; file systems take 255, and endings and names of temporary files need some


@dataclass(frozen=True)
class Utterance:
    """A clip of a recording, from `start_s` to `end_s`, or one of the people who are seen in it.

    No words, nobody known to speak and nobody seen in particular are empty texts.
    """

    clip_id: str
    start_s: float
    end_s: float
    text: str
    person: str  # who speaks
    probabilities: Sequence[float] | None  # in the order of the timeline's labels; None: nothing could be predicted
    statuses: Mapping[str, str]  # of each modality and of the prediction, by the name of their column
    seen: str = ""  # whose face the pictures show, where everyone who is seen has a prediction
    face_probabilities: Sequence[float] | None = None  # what this face alone says

    @property
    def subject(self) -> str:
        """Whom the prediction is about."""
        return self.seen or self.person


@dataclass(frozen=True)
class Timeline:
    """The utterances of a recording in order of time, and the labels that a model tells apart."""

    recording: str  # the name of its file
    labels: Sequence[str]
    utterances: Sequence[Utterance]
    note: str = ""  # why there are no utterances

    @cached_property
    def end_s(self) -> float:
        """The end of the last utterance; a recording may go on in silence."""
        return max((utterance.end_s for utterance in self.utterances), default=0.0)

    @cached_property
    def moments(self) -> list[list[Utterance]]:
        """The utterances, those together that are one clip with several people."""
        moments: list[list[Utterance]] = []
        for utterance in self.utterances:
            if moments and _is_same_clip(moments[-1][0], utterance):
                moments[-1].append(utterance)
            else:
                moments.append([utterance])
        return moments

    def label_of(self, utterance: Utterance) -> str | None:
        """The most probable label."""
        ranked = self.ranked(utterance)
        return ranked[0][0] if ranked else None

    def ranked(self, utterance: Utterance) -> list[tuple[str, float]]:
        """Labels with their probabilities, the most probable first; empty where nothing could be predicted."""
        return self._ranked(utterance.probabilities)

    def ranked_by_face(self, utterance: Utterance) -> list[tuple[str, float]]:
        """Labels with the probabilities that the face alone gives, the most probable first; empty without any."""
        return self._ranked(utterance.face_probabilities)

    def _ranked(self, probabilities: Sequence[float] | None) -> list[tuple[str, float]]:
        pairs = zip(self.labels, probabilities or (), strict=probabilities is not None)
        return sorted(pairs, key=lambda pair: -pair[1])


def _is_same_clip(first: Utterance, second: Utterance) -> bool:
    is_same_span = (first.start_s, first.end_s) == (second.start_s, second.end_s)
    return bool(is_same_span and first.seen and second.seen)


def csv_rows(timeline: Timeline) -> list[list[str | float | None]]:
    """A header, and a row for each utterance and person: `label` and the probabilities are empty without prediction."""
    columns = sorted({column for utterance in timeline.utterances for column in utterance.statuses})
    probabilities = [f"p_{label}" for label in timeline.labels]
    header = ["recording", "start_s", "end_s", "clip_id", "label", *probabilities, "text", "person", *columns]
    rows: list[list[str | float | None]] = [list(header)]
    for utterance in timeline.utterances:
        rows.append(
            [
                timeline.recording,
                round(utterance.start_s, 3),
                round(utterance.end_s, 3),
                utterance.clip_id,
                timeline.label_of(utterance),
                *(round(p, 4) for p in utterance.probabilities or ()),
                *([None] * len(timeline.labels) if utterance.probabilities is None else []),
                utterance.text,
                utterance.subject,
                *(utterance.statuses.get(column) for column in columns),
            ]
        )
    return rows


def webvtt(timeline: Timeline) -> str:
    """Subtitles with a cue for each clip: the emotion and its probability, of each person, then who says what."""
    cues = [
        f"{number}\n{_cue_times(moment[0])}\n{_cue_text(timeline, moment)}\n"
        for number, moment in enumerate(timeline.moments, start=1)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _cue_times(utterance: Utterance) -> str:
    start_ms = round(1000 * utterance.start_s)
    end_ms = max(round(1000 * utterance.end_s), start_ms + 1)  # a cue without duration is none
    return f"{_cue_time(start_ms)} --> {_cue_time(end_ms)}"


def _cue_time(time_ms: int) -> str:
    seconds, ms = divmod(time_ms, 1000)
    minutes, s = divmod(seconds, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{s:02d}.{ms:03d}"


def _cue_text(timeline: Timeline, moment: Sequence[Utterance]) -> str:
    words = ": ".join(filter(None, (moment[0].person, moment[0].text)))
    lines = [f"[{_cue_emotion(timeline, utterance)}]" for utterance in moment]
    return "\n".join(_escape(line) for line in (*lines, words) if line)


def _cue_emotion(timeline: Timeline, utterance: Utterance) -> str:
    ranked = timeline.ranked(utterance)
    emotion = f"{ranked[0][0]} {whole_percent(ranked[0][1])}" if ranked else NO_PREDICTION
    return f"{utterance.seen}: {emotion}" if utterance.seen else emotion


def _escape(text: str) -> str:
    """The text on one line, in which WebVTT sees neither tags nor the arrow between times."""
    line = _CONTROL.sub("", " ".join(text.split()))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def file_names(recordings: Iterable[str]) -> list[str]:
    """A name for the files of each recording (a file name, such as `talk.mp4`): its stem, without a suffix.

    Whatever the recordings are called, a name has neither folders nor characters that a shell, a page or another file
    system may take amiss, does not begin with a dot or a dash, and occurs once, whether or not case counts.
    """
    names: list[str] = []
    taken: set[str] = set()
    for recording in recordings:
        stem = re.sub(r"\.[^.]*$", "", recording.replace("\\", "/").rsplit("/", 1)[-1])
        safe = _UNSAFE.sub("_", unicodedata.normalize("NFC", stem)).strip(" .-") or "recording"
        safe = safe.encode()[:_LONGEST_NAME].decode(errors="ignore")
        name, count = safe, 1
        while name.casefold() in taken:
            count += 1
            name = f"{safe}-{count}"
        taken.add(name.casefold())
        names.append(name)
    return names
