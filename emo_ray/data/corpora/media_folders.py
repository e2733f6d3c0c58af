"""Folders of media without any table: the clips, their transcripts, and their classes where folders name them."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from emo_ray.data import manifest
from emo_ray.data.corpora import csv_files, subtitles
from emo_ray.data.corpora.imported import Imported
from emo_ray.data.folders import Listing, first_of
from emo_ray.data.manifest import Clip
from emo_ray.data.suffixes import suffix

_LANGUAGE = re.compile(r"\.[a-z]{2,3}$", re.ASCII)


def read(listing: Listing) -> Imported:
    """Media anywhere below a folder: files that differ in suffix alone are one clip, `CLIP.txt` is its transcript.

    The clip_id is the path below the folder without suffix. Subtitles (`CLIP.srt`, `CLIP.vtt`, or with a language,
    `CLIP.en.srt`) make a clip of each cue, `CLIP-1` and so on in order of time. Raises ValueError for two videos,
    sounds, transcripts or subtitles of one clip.
    """
    fields_of: dict[str, dict[str, Any]] = {}
    for name in listing.media:
        clip_id = os.path.splitext(name)[0]
        for field, file in manifest.media_fields(name, listing.path).items():
            csv_files.put(fields_of.setdefault(clip_id, {}), field, file, listing.path / clip_id)
    text_of, unread = _transcripts(listing, fields_of.keys())
    clips: list[Clip] = []
    cut: list[str] = []
    for clip_id in sorted(fields_of):
        clip = Clip(clip_id, **fields_of[clip_id])
        name = text_of.get(clip_id, "")
        if suffix(name) in subtitles.FORMAT_OF:
            language = os.path.splitext(name)[0].removeprefix(clip_id).removeprefix(".") or None
            cues = subtitles.read_cues(listing.path / name)
            clips += [_cue_clip(replace(clip, language=language), i, cue) for i, cue in enumerate(cues, 1)]
            cut += [clip_id] if cues else []
            if cues:
                continue
        elif name:
            clip = replace(clip, text=csv_files.decode(listing.path / name).strip() or None)
        clips.append(clip)
    notes = [f"left out, {len(unread)} in all: transcripts that are links to nowhere ({first_of(unread)})"]
    notes = notes if unread else []
    if cut:
        notes.append(f"{len(cut)} recordings ({first_of(cut)}) are cut by their subtitles: each cue is a clip")
    return Imported(clips, [*text_of.values(), *unread], notes)


def _cue_clip(clip: Clip, number: int, cue: subtitles.Cue) -> Clip:
    return replace(clip, clip_id=f"{clip.clip_id}-{number}", text=cue.text, start_s=cue.start_s, end_s=cue.end_s)


def _transcripts(listing: Listing, clip_ids: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The relative path of the transcript or subtitles by clip, and those that are links to nowhere."""
    clips = set(clip_ids)
    path_of: dict[str, str] = {}
    unread = []
    for name in listing.files:
        clip_id, ending = os.path.splitext(name)
        if ending.lower() in subtitles.FORMAT_OF and clip_id not in clips:
            clip_id = _LANGUAGE.sub("", clip_id)
        if ending.lower() not in (".txt", *subtitles.FORMAT_OF) or clip_id not in clips:
            continue
        if (listing.path / name).is_file():
            csv_files.put(path_of, clip_id, name, listing.path)
        else:
            unread.append(name)
    return path_of, unread


def maybe_classes(listing: Listing) -> list[str]:
    """The folders right below a corpus where these hold all of its media, two or more each; else none."""
    counts = Counter(name.partition("/")[0] for name in listing.media if "/" in name)
    is_all = counts.total() == len(listing.media)
    return sorted(counts) if is_all and len(counts) > 1 and min(counts.values()) > 1 else []


def read_class_folders(listing: Listing) -> Imported:
    """Clips as from `read`, with the first folder below the corpus as the label: `angry/clip.mp4`."""
    if loose := [name for name in listing.media if "/" not in name]:
        todo = "move them into the folder of their class, or set data.corpus=folder"
        raise ValueError(
            f"{listing.path}: found {first_of(loose)} outside of any class folder, expected LABEL/clip.mp4: {todo}"
        )
    imported = read(listing)
    return replace(imported, clips=[replace(clip, label=clip.clip_id.partition("/")[0]) for clip in imported.clips])
