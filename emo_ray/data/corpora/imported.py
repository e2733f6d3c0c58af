"""What an importer gives: clips, and which files they came from, so that what is left out can be named.

No importer decodes media or cuts splits, and each is two functions of a `Listing`: `misfits`, the media that are not
the corpus' (None where nothing shows that it is this corpus), and `read`, which raises ValueError where files disagree.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from emo_ray.data.folders import Listing, printable
from emo_ray.data.manifest import Clip
from emo_ray.data.roots import resolve
from emo_ray.data.suffixes import suffix

_SUFFIXES_SHOWN = 12


@dataclass(frozen=True)
class Imported:
    """The clips of a folder, the tables and transcripts that were read for them, and notes for the user."""

    clips: list[Clip]
    texts_read: Collection[str] = ()  # relative to the folder, as in `Listing.files`
    notes: Sequence[str] = ()


def left_out_notes(listing: Listing, imported: Imported) -> list[str]:
    """What of a folder is in no clip: media, other files, and what the listing left out."""
    used = {path for clip in imported.clips for path in (clip.video, clip.audio)}
    unused = [name for name in listing.media if resolve(name, listing.path) not in used]
    others = sorted(set(listing.files).difference(listing.media, imported.texts_read))
    notes = []
    if unused:
        notes.append(f"left out, {len(unused)} in all: media files that no clip uses ({_by_suffix(unused)})")
    if others:
        todo = "name those that are media in a manifest"
        notes.append(f"left out, {len(others)} in all: files not taken for media ({_by_suffix(others)}): {todo}")
    for reason, names in listing.left_out.items():
        notes.append(f"left out, {len(names)} in all: {reason}, such as {names[0]}")
    return notes


def _by_suffix(names: Sequence[str]) -> str:
    """How many names have each suffix, in any case, with an example: `.jpg: 12 such as a/1.jpg`; most first."""
    names_of: dict[str, list[str]] = {}
    for name in names:
        names_of.setdefault(suffix(name) or "no suffix", []).append(name)
    groups = sorted(names_of.items(), key=lambda group: (-len(group[1]), group[0]))
    shown = [f"{printable(kind)}: {len(group)} such as {printable(group[0])}" for kind, group in groups]
    more = len(shown) - _SUFFIXES_SHOWN
    return ", ".join(shown[:_SUFFIXES_SHOWN]) + (f" and {more} more suffixes" if more > 0 else "")
