"""Folders of media without any table: the clips, their transcripts, and their classes where folders name them."""

import os
from collections.abc import Iterable
from dataclasses import replace

from emo_ray.data import manifest
from emo_ray.data.corpora import csv_files
from emo_ray.data.corpora.imported import Imported
from emo_ray.data.folders import Listing, first_of
from emo_ray.data.manifest import Clip


def read(listing: Listing) -> Imported:
    """Media anywhere below a folder: files that differ in suffix alone are one clip, `CLIP.txt` is its transcript.

    The clip_id is the path below the folder without suffix. Raises ValueError for two videos, sounds or transcripts of
    one clip.
    """
    fields_of: dict[str, dict[str, str]] = {}
    for name in listing.media:
        clip_id = os.path.splitext(name)[0]
        for field, file in manifest.media_fields(name, listing.path).items():
            csv_files.put(fields_of.setdefault(clip_id, {}), field, file, listing.path / clip_id)
    text_of, unread = _transcripts(listing, fields_of.keys())
    for clip_id, name in text_of.items():
        text = csv_files.decode(listing.path / name)
        csv_files.put(fields_of[clip_id], "text", text, listing.path / clip_id)
    clips = [Clip(clip_id, **fields_of[clip_id]) for clip_id in sorted(fields_of)]
    note = f"left out, {len(unread)} in all: transcripts that are links to nowhere ({first_of(unread)})"
    return Imported(clips, [*text_of.values(), *unread], [note] if unread else [])


def _transcripts(listing: Listing, clip_ids: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The relative path of the transcript by clip, and those that are links to nowhere."""
    clips = set(clip_ids)
    path_of: dict[str, str] = {}
    unread = []
    for name in listing.files:
        clip_id, ending = os.path.splitext(name)
        if ending.lower() != ".txt" or clip_id not in clips:
            continue
        if (listing.path / name).is_file():
            csv_files.put(path_of, clip_id, name, listing.path)
        else:
            unread.append(name)
    return path_of, unread


def read_class_folders(listing: Listing) -> Imported:
    """Clips as from `read`, with the first folder below the corpus as the label: `angry/clip.mp4`."""
    if loose := [name for name in listing.media if "/" not in name]:
        todo = "move them into the folder of their class, or set data.corpus=folder"
        raise ValueError(
            f"{listing.path}: found {first_of(loose)} outside of any class folder, expected LABEL/clip.mp4: {todo}"
        )
    imported = read(listing)
    return replace(imported, clips=[replace(clip, label=clip.clip_id.partition("/")[0]) for clip in imported.clips])
