"""MER2024: label and transcript CSVs directly in the folder, media below its subfolders `video*` and `audio*`."""

import os
from pathlib import PurePosixPath

from emo_ray.data.corpora import csv_files
from emo_ray.data.corpora.imported import Imported
from emo_ray.data.folders import Listing, first_of
from emo_ray.data.manifest import Clip
from emo_ray.data.roots import resolve
from emo_ray.data.suffixes import AUDIO_SUFFIXES, VIDEO_SUFFIXES, suffix

_TEXT_COLUMNS = ("chinese", "sentence", "text", "transcript", "transcription", "english")  # first match wins


def misfits(listing: Listing) -> list[str] | None:
    """Media files that are neither read nor named like a clip; None where no CSV has the columns name and discrete.

    Renditions of a clip in other folders (cropped faces, denoised sound) are not read, and fit.
    """
    if not any({"name", "discrete"} <= set(header) for header in csv_files.headers(listing).values()):
        return None
    names = {clip.clip_id for clip in read(listing).clips}
    return [name for name in listing.media if PurePosixPath(name).stem not in names]


def read(listing: Listing) -> Imported:
    """Every labelled name and every video is a clip; those without a label are split `unlabelled`.

    Where no folder is called `video*`, videos anywhere count, and where there is no video at all, sounds anywhere do. A
    labelled name without media keeps the path that its video should have had. Raises ValueError where tables or folders
    disagree.
    """
    label_of, text_of, labelled_names, tables = _tables(listing)
    videos = _stems(listing, "video", VIDEO_SUFFIXES) or _stems(listing, "", VIDEO_SUFFIXES)
    audios = _stems(listing, "audio", AUDIO_SUFFIXES) or ({} if videos else _stems(listing, "", AUDIO_SUFFIXES))
    video_folder = PurePosixPath(min(videos.values(), default="video/none.mp4")).parent
    clips = []
    for name in sorted(labelled_names | videos.keys()):
        audio = resolve(audios[name], listing.path) if name in audios else None
        video = resolve(videos.get(name, f"{video_folder}/{name}.mp4"), listing.path)
        split = None if name in label_of else "unlabelled"
        has_video = bool(videos) or audio is None
        clips.append(
            Clip(name, video if has_video else None, audio, text_of.get(name), label_of.get(name), split, language="zh")
        )
    return Imported(clips, tables)


def _tables(listing: Listing) -> tuple[dict[str, str], dict[str, str], set[str], list[str]]:
    """Label and transcript by name, all names of the label tables, and the CSVs of the folder that say so."""
    headers = csv_files.headers(listing)
    if not any({"name", "discrete"} <= set(header) for header in headers.values()):
        tables_text = first_of([f"{name} ({', '.join(header)})" for name, header in headers.items()]) or "no CSV"
        todo = "put the label table (label-disdim.csv) there, or set data.corpus=folder"
        raise ValueError(
            f"{listing.path}: found {tables_text}, expected a CSV with the columns name and discrete: {todo}"
        )
    label_of: dict[str, str] = {}
    text_of: dict[str, str] = {}
    labelled_names: set[str] = set()
    tables = []
    for name, header in headers.items():
        text_column = next((column for column in _TEXT_COLUMNS if column in header), "")
        if "name" not in header or not (text_column or "discrete" in header):
            continue
        tables.append(name)
        file = listing.path / name
        # Transcripts are Chinese and also circulate in GB 18030, labels do not.
        for row in csv_files.rows(file, ("utf-8-sig", "gb18030") if text_column else ("utf-8-sig",)):
            labelled_names |= {row["name"].strip()} if "discrete" in header else set()
            csv_files.put(label_of, row["name"], row.get("discrete", ""), file)
            csv_files.put(text_of, row["name"], row.get(text_column, ""), file)
    return label_of, text_of, labelled_names, tables


def _stems(listing: Listing, prefix: str, suffixes: frozenset[str]) -> dict[str, str]:
    """{stem: relative path} of the media with these suffixes below those subfolders whose name starts with `prefix`.

    An empty prefix takes all files.
    """
    path_of: dict[str, str] = {}
    for name in listing.media:
        is_below = not prefix or ("/" in name and name.lower().startswith(prefix))
        if is_below and suffix(name) in suffixes:
            csv_files.put(path_of, os.path.basename(os.path.splitext(name)[0]), name, listing.path)
    return path_of
