"""Media of their own for clips that a test makes of others: rows of a manifest do not share files."""

import os
from dataclasses import replace
from pathlib import Path


def with_own_files(clip, folder):
    """The clip with its media under names that follow from its clip_id, as hard links in a folder."""
    return replace(clip, video=_linked(clip.video, clip, folder), audio=_linked(clip.audio, clip, folder))


def _linked(path, clip, folder):
    if path is None:
        return None
    folder.mkdir(exist_ok=True)
    target = folder / f"{clip.clip_id}{Path(path).suffix}"
    os.link(path, target)
    return str(target)
