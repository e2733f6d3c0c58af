"""IEMOCAP: dialogues of two actors in five sessions, cut into turns, each with a sound file, words and a label.

Session1/dialog/EmoEvaluation/Ses01F_impro01.txt      [6.29 - 8.23]  Ses01F_impro01_F000  neu  [2.5, 2.5, 2.5]
                                                      C-E2:  Neutral; Anger;  ()
Session1/dialog/transcriptions/Ses01F_impro01.txt     Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.
Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav
"""

import re
from pathlib import PurePosixPath

from emo_ray.data import manifest
from emo_ray.data.corpora import csv_files
from emo_ray.data.corpora.imported import Imported
from emo_ray.data.folders import Listing
from emo_ray.data.manifest import Clip
from emo_ray.data.manifest.votes import Votes, sorted_votes

_LABELS = re.compile(r"(?:.*/)?Session\d/dialog/EmoEvaluation/Ses[^/]*\.txt")
_WORDS = re.compile(r"(?:.*/)?Session\d/dialog/transcriptions/Ses[^/]*\.txt")
_STEM = re.compile(r"Ses\d\d[FM]_\w+")  # of turns, and of the dialogues that they are cut from
_LABEL_LINE = re.compile(r"\[([\d.]+) - [\d.]+\]\t(\w+)\t(\w+)\t")
_WORD_LINE = re.compile(r"(\w+) \[[\d.]+-[\d.]+\]: (.*)")
_ACTOR = re.compile(r"(Ses\d\d)[FM]_\w+_([FM])\d+")  # the first F or M is whose motion was captured
_NO_AGREEMENT = "xxx"
_VOTE_LINE = re.compile(r"C-E\d+:\t([^\t(]*)")  # of annotators; C-F1 and C-M1 are what the actors say of themselves
_VOTE_NAMES = {
    **{"neutral": "neu", "frustration": "fru", "anger": "ang", "sadness": "sad", "happiness": "hap"},
    **{"excited": "exc", "surprise": "sur", "fear": "fea", "disgust": "dis", "other": "oth"},
}


def misfits(listing: Listing) -> list[str] | None:
    """Media files that are not named as turns or dialogues of IEMOCAP; None where it has no table of labels."""
    if not any(map(_LABELS.fullmatch, listing.files)):
        return None
    return [name for name in listing.media if not _STEM.fullmatch(PurePosixPath(name).stem)]


def read(listing: Listing) -> Imported:
    """Clips are the turns that were labelled, with the labels' own short names, such as `neu`, `exc` and `fru`.

    Turns on which the annotators did not agree (`xxx`) have no label. An annotator who names two classes gives half a
    vote to each. Sound and words alone are taken: a video shows both actors, and the whole dialogue. A dialogue's turns
    come in the order of time. Raises ValueError where there is no table of labels, or a turn is not named as one.
    """
    tables = [name for name in listing.files if _LABELS.fullmatch(name)]
    if not tables:
        raise ValueError(
            f"{listing.path}: found no table of labels, expected Session1/dialog/EmoEvaluation/Ses01F_impro01.txt and "
            "the like: correct data.manifest"
        )
    transcripts = [name for name in listing.files if _WORDS.fullmatch(name)]
    words = {turn: text for name in transcripts for turn, text in _matches(listing, name, _WORD_LINE)}
    sound_of = {PurePosixPath(name).stem: name for name in listing.media if "/sentences/" in f"/{name}"}
    clips = []
    for name in tables:
        votes_of = _votes(listing, name)
        for start_s, turn, label in _matches(listing, name, _LABEL_LINE):
            actor = _ACTOR.fullmatch(turn)
            if actor is None:
                raise ValueError(
                    f"{listing.path / name}: found a turn {turn!r}, expected names such as Ses01F_impro01_F000"
                )
            dialogue = PurePosixPath(name).stem
            path = sound_of.get(turn, f"{PurePosixPath(name).parents[2]}/sentences/wav/{dialogue}/{turn}.wav")
            clips.append(
                Clip(
                    turn,
                    **manifest.media_fields(path, listing.path),
                    text=words.get(turn),
                    label=None if label == _NO_AGREEMENT else label,
                    speaker="_".join(actor.groups()),
                    language="en",
                    dialogue=dialogue,
                    turn=float(start_s),
                    votes=votes_of.get(turn),
                )
            )
    return Imported(clips, [*tables, *transcripts])


def _votes(listing: Listing, name: str) -> dict[str, Votes | None]:
    """The annotators' votes for each turn of a table of labels, in which their lines follow the turn's."""
    counts_of: dict[str, dict[str, float]] = {}
    turn = ""
    for line in csv_files.decode(listing.path / name, ("utf-8-sig", "latin-1")).splitlines():
        if match := _LABEL_LINE.match(line):
            turn = match[2]
        elif match := _VOTE_LINE.match(line):
            names = [part.strip().lower() for part in match[1].split(";") if part.strip()]
            counts = counts_of.setdefault(turn, {})
            for label in (_VOTE_NAMES.get(part, part) for part in names):
                counts[label] = counts.get(label, 0.0) + 1 / len(names)
    return {turn: sorted_votes(counts) for turn, counts in counts_of.items()}


def _matches(listing: Listing, name: str, pattern: re.Pattern) -> list[tuple[str, ...]]:
    """The groups of those lines of a text file that a pattern matches from their beginning."""
    lines = csv_files.decode(listing.path / name, ("utf-8-sig", "latin-1")).splitlines()
    return [match.groups() for line in lines if (match := pattern.match(line))]
