"""MELD: the tables `train_sent_emo.csv`, `dev_...` and `test_...`, and `dia0_utt0.mp4` in folders named likewise."""

import re
from pathlib import PurePosixPath
from typing import Any

from emo_ray.data import manifest
from emo_ray.data.corpora import csv_files
from emo_ray.data.corpora.imported import Imported
from emo_ray.data.folders import Listing, first_of
from emo_ray.data.manifest import Clip
from emo_ray.data.suffixes import VIDEO_SUFFIXES, suffix

_SPLITS = {  # official word -> our split, and the official folder of its media
    "train": ("train", "train_splits"),
    "dev": ("validation", "dev_splits_complete"),
    "test": ("test", "output_repeated_splits_test"),
}
_TABLE = "_sent_emo.csv"
_COLUMNS = ("Utterance", "Emotion", "Speaker", "Dialogue_ID", "Utterance_ID")
_STEM = re.compile(r"dia\d+_utt\d+")
_LEFTOVER = re.compile(r"final_videos_test" + _STEM.pattern)  # copies in the official folder of the test split


def misfits(listing: Listing) -> list[str] | None:
    """Media files that are not named as utterances of MELD; None where no table is called `*_sent_emo.csv`."""
    if not any(name.endswith(_TABLE) for name in listing.files):
        return None
    stems = {name: PurePosixPath(name).stem for name in listing.media}
    return [name for name, stem in stems.items() if not (_STEM.fullmatch(stem) or _LEFTOVER.fullmatch(stem))]


def read(listing: Listing) -> Imported:
    """Clips are the rows of the tables, in their order; an utterance without a file keeps the path it should have had.

    Sound files are used where an utterance has no video. Every file is an utterance, so the tables' StartTime and
    EndTime, which are times of episodes, are no spans. Raises ValueError where a table is doubled, unknown, or lacks a
    column.
    """
    table_of = _tables(listing)
    media = _media(listing)
    clips = []
    for word in (word for word in _SPLITS if word in table_of):
        split, official_folder = _SPLITS[word]
        folder = next((str(PurePosixPath(name).parent) for name in media[word].values()), official_folder)
        for row in csv_files.rows(listing.path / table_of[word], columns=_COLUMNS):
            text, label, speaker, dialogue, utterance = (row[column].strip() or None for column in _COLUMNS)
            stem = f"dia{dialogue}_utt{utterance}"
            file = manifest.media_fields(media[word].get(stem, f"{folder}/{stem}.mp4"), listing.path)
            place: dict[str, Any] = file | _place(word, dialogue, utterance)
            clips.append(
                Clip(f"{word}_{stem}", **place, text=text, label=label, split=split, speaker=speaker, language="en")
            )
    return Imported(clips, list(table_of.values()))


def _place(word: str, dialogue: str | None, utterance: str | None) -> dict[str, Any]:
    """A row's dialogue, which MELD numbers anew in each table, and its turn; neither where it has no numbers."""
    if dialogue is None or utterance is None or not utterance.isdecimal():
        return {}
    return {"dialogue": f"{word}_{dialogue}", "turn": float(utterance)}


def _tables(listing: Listing) -> dict[str, str]:
    """The relative path of the table for each of MELD's words for a split."""
    tables = [name for name in listing.files if name.endswith(_TABLE)]
    table_of = {PurePosixPath(name).name.removesuffix(_TABLE): name for name in tables}
    if not tables or len(table_of) != len(tables) or not table_of.keys() <= _SPLITS.keys():
        tables_text = first_of(tables) or f"no *{_TABLE}"
        official = ", ".join(word + _TABLE for word in _SPLITS)
        raise ValueError(
            f"{listing.path}: found {tables_text}, expected one each of {official} at most: move the others away"
        )
    return table_of


def _media(listing: Listing) -> dict[str, dict[str, str]]:
    """For each of MELD's words: the relative path of each utterance's file, by its stem.

    The nearest folder that has a word in its name says which split a file is of. Of several files of an utterance, an
    mp4 comes before other videos, and these before sounds.
    """
    ranks = (lambda name: name.endswith(".mp4"), lambda name: suffix(name) in VIDEO_SUFFIXES, lambda name: True)
    in_order = sorted(listing.media, key=lambda name: [rank(name) for rank in ranks].index(True))
    media: dict[str, dict[str, str]] = {word: {} for word in _SPLITS}
    for name in map(PurePosixPath, in_order):
        words = re.findall("|".join(_SPLITS), str(name.parent).lower())
        if words and _STEM.fullmatch(name.stem):
            media[words[-1]].setdefault(name.stem, str(name))
    return media
