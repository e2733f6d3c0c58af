"""A card a clip: what a model says of it, what it looks and sounds like, and how much a person should look at it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from emo_ray.data import status
from emo_ray.reports.table import Cell, Table
from emo_ray.reports.wording import DASH, shorten, whole_percent

NOTHING = "no prediction"
_MEDIA = {"video": "picture", "audio": "sound", "text": "words"}  # by modality, what a reader calls it
TABLE_ROWS = 20  # clips that a terminal shows
_LONGEST_FILE = 48  # characters of a file in a terminal

Row = Sequence[float] | None  # probabilities in the order of the labels; None where nothing can be said


@dataclass(frozen=True)
class Answer:
    """What a model says of a clip: of all of it, of each modality alone, and of the others without it.

    `statuses` are those of each modality, as shards have them. `truth` is the label that the manifest has, if any.
    """

    clip_id: str
    file: str  # path or address of its media; empty where it has none
    labels: Sequence[str]
    together: Row
    alone: Mapping[str, Row]
    without: Mapping[str, Row]
    statuses: Mapping[str, str]
    truth: str | None = None
    notes: Sequence[str] = ()  # what a person must know of this answer
    is_unfamiliar: bool = False  # far from what the model was trained on
    attention: Sequence[float] | None = None  # over the frames of the video
    is_part: bool = False  # of its file, which holds other clips as well

    @cached_property
    def ranked(self) -> list[tuple[str, float]]:
        """Labels with their probabilities, the most probable first; empty where nothing can be said."""
        return ranked(self.labels, self.together)

    @property
    def prediction(self) -> str | None:
        """The most probable label."""
        return self.ranked[0][0] if self.ranked else None

    def top(self, row: Row) -> str | None:
        """The most probable label of a row."""
        return ranked(self.labels, row)[0][0] if row else None

    @property
    def confidence(self) -> float:
        """The probability of the prediction; 0 without one."""
        return self.ranked[0][1] if self.ranked else 0.0

    @property
    def lead(self) -> float:
        """The probability of the prediction minus that of the next class; 0 without a prediction."""
        return self.ranked[0][1] - self.ranked[1][1] if len(self.ranked) > 1 else self.confidence

    @cached_property
    def dissenting(self) -> list[str]:
        """The modalities that say another class when they are shown alone."""
        return [name for name, row in self.alone.items() if row is not None and self.top(row) != self.prediction]

    @property
    def is_broken(self) -> bool:
        """Whether media of the clip are damaged or gone."""
        return any(map(status.is_broken, self.statuses.values()))

    @property
    def is_wrong(self) -> bool:
        """Whether the manifest has another label than the prediction."""
        return self.truth is not None and self.prediction is not None and self.truth != self.prediction

    @cached_property
    def doubt(self) -> float:
        """How much a person should look at the clip, from 0 to 3.

        The sum of 1 - lead, of the share of its modalities that alone say another class, and of 1 for broken media.
        """
        modalities = sum(row is not None for row in self.alone.values())
        return 1 - self.lead + len(self.dissenting) / max(modalities, 1) + self.is_broken


@dataclass(frozen=True)
class ClipMedia:
    """What a clip looks and sounds like."""

    strip: bytes = b""  # a JPEG of `pictures` frames side by side; empty without video
    pictures: int = 0
    loudness: Sequence[float] = ()  # of equal stretches; see drawings.loudness
    sound_s: float = 0.0
    words: str = ""


NO_MEDIA = ClipMedia()


@dataclass(frozen=True)
class Card:
    """A clip with what a model says of it. `columns` are its values in a manifest, empty where it has none."""

    answer: Answer
    place: str  # what a reader calls the clip
    media: ClipMedia = NO_MEDIA
    columns: Sequence[str] = ()


def ranked(labels: Sequence[str], row: Row) -> list[tuple[str, float]]:
    """Labels with their probabilities, the most probable first."""
    pairs = zip(labels, row or (), strict=row is not None)
    return sorted(pairs, key=lambda pair: -pair[1])


def said(labels: Sequence[str], row: Row) -> str:
    """The most probable label with its probability, or a dash."""
    top = ranked(labels, row)[:1]
    return f"{shorten(top[0][0])} {whole_percent(top[0][1])}" if top else DASH


def status_words(answer: Answer) -> list[str]:
    """What became of each modality, in words; nothing of one that is used and has no note."""
    sentences = []
    for name, text in answer.statuses.items():
        kind, note = status.kind(text), text.partition(": ")[2]
        about = f": {note}" if note else ""
        if kind == status.MISSING:
            sentences.append(f"no {_MEDIA[name]}{about}")
        elif kind == status.CORRUPT:
            sentences.append(f"{_MEDIA[name]} broken{about}")
        elif answer.alone.get(name) is None:
            sentences.append(f"{_MEDIA[name]} not used by this model{about}")
        elif note:
            sentences.append(f"{_MEDIA[name]} used, {note}")
    return sentences


def unfamiliar_words(excess: Mapping[str, float]) -> str:
    """How far the modalities of a clip are from those that the model was trained on, as in models.familiarity."""
    parts = [f"{_MEDIA[name]} at {times:.3g} times" for name, times in excess.items()]
    return f"unlike the training clips: {', '.join(parts)} the distance that 99 % of them keep"


def table(answers: Sequence[Answer], count: int, is_calibrated: bool) -> Table:
    """The clips that a person should look at first, of `count` in all, for the terminal."""
    shown = answers[:TABLE_ROWS]
    has_truth = any(answer.truth is not None for answer in shown)
    modalities, clips_of = list(_MEDIA), Counter(answer.file or None for answer in shown)  # utterances share a file
    names = Counter(_name(file) for file in clips_of if file)
    rows: list[list[str | Cell]] = []
    for answer in shown:
        truth = Cell(answer.truth or DASH, "bad" if answer.is_wrong else "")
        rows.append(
            [
                _end(answer.clip_id if answer.is_part or clips_of[answer.file] != 1 else _shortest(answer.file, names)),
                *([truth] if has_truth else []),
                answer.prediction or Cell(NOTHING, "warning"),
                whole_percent(answer.confidence) if answer.ranked else DASH,
                *(said(answer.labels, answer.alone.get(name)) for name in modalities),
                "; ".join([*status_words(answer), *answer.notes]),
            ]
        )
    header = ["file", *(["label"] if has_truth else []), "prediction", "probability"]
    header += [f"{name} alone" for name in modalities] + ["notes"]
    note = "" if is_calibrated else "Probabilities are not calibrated: this model has no temperature."
    if count > len(shown):
        note = f"The {len(shown)} of {count} clips that a person should look at first. {note}".strip()
    words = tuple(i for i, name in enumerate(header) if name != "probability")
    return Table("Predictions", header, rows, note, words=words)


def _name(file: str) -> str:
    """The name of a file or address without its folder."""
    return file.rpartition("/")[2]


def _shortest(file: str, names: Mapping[str, int]) -> str:
    """The name of a file, or its path where another file of the table has the same name."""
    return _name(file) if names[_name(file)] == 1 else file


def _end(file: str) -> str:
    """The end of a path, which tells it from others."""
    return file if len(file) <= _LONGEST_FILE else "…" + file[1 - _LONGEST_FILE :]
