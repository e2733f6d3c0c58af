"""RAVDESS: takes of 24 actors, whose file names say everything.

`modality-channel-emotion-intensity-statement-repetition-actor.mp4` and the like lie anywhere below the folder.
"""

import re
from pathlib import PurePosixPath
from typing import Any

from emo_ray.data import labels, manifest
from emo_ray.data.corpora.imported import Imported
from emo_ray.data.folders import Listing, first_of
from emo_ray.data.manifest import Clip

EXAMPLE = "03-01-05-01-02-01-12.wav"
# modality (audio and video, video only, audio only), then the take: channel, emotion, intensity, ..., actor
_NAME = re.compile(r"(\d\d)-(\d\d-(\d\d)-\d\d-(\d\d)-\d\d-(\d\d))", re.ASCII)


def misfits(listing: Listing) -> list[str] | None:
    """Media files that are not named as takes of RAVDESS; None where none is."""
    others = [name for name in listing.media if _take(name) is None]
    return others if len(others) < len(listing.media) else None


def read(listing: Listing) -> Imported:
    """A take is one clip, named without the modality.

    Its video is the file of modality 01, else of 02; its audio the file of modality 03, if there is one. Of copies in
    several folders the first is taken. Raises ValueError naming media files that are called otherwise.
    """
    fields_of: dict[str, dict[str, Any]] = {}
    other_names = []
    for name in sorted(listing.media, key=lambda name: (PurePosixPath(name).name, name)):
        take = _take(name)
        if take is None:
            other_names.append(name)
        else:
            clip_id, take_fields = take
            fields_of[clip_id] = manifest.media_fields(name, listing.path) | take_fields | fields_of.get(clip_id, {})
    if other_names:
        example = f"{EXAMPLE}: move the others away, or set data.corpus=folder"
        raise ValueError(
            f"{listing.path}: found {first_of(other_names)}, expected only RAVDESS names such as {example}"
        )
    return Imported([Clip(clip_id, **fields_of[clip_id], language="en") for clip_id in sorted(fields_of)])


def _take(name: str) -> tuple[str, dict[str, str]] | None:
    """The take of a file and the fields that its name says; None where it is not named as one."""
    match = _NAME.fullmatch(PurePosixPath(name).stem)
    modality, take, emotion, statement, actor = match.groups() if match else [""] * 5
    label = labels.RAVDESS_EMOTIONS.get(emotion)
    text = labels.RAVDESS_STATEMENTS.get(statement)
    if label is None or text is None or modality not in ("01", "02", "03"):
        return None
    return take, {"text": text, "label": label, "speaker": actor}
