"""Dialogues: which clips follow each other, and which of them a clip may see as its neighbours.

The clips of a dialogue are those that the manifest gives one `dialogue`, in the order of `turn`, or of `start_s` where
they have no turns. Where no dialogue is named, clips that are spans of one recording are a dialogue, in the order of
time. A clip's neighbours are counted among the clips that it may see, so that those it may not see leave no gap.

A clip in validation or test, or in a fold, sees no clip of another split or fold. The model has learnt the classes of
training clips: beside a test clip they would tell it what it will not know of a dialogue that is new. And a training
clip that saw test clips would make the test a part of training. Clips without a label (`unlabelled`) are seen by all:
nothing is learnt of them, and nothing is measured on them.
"""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from emo_ray.data.manifest import Clip
from emo_ray.data.splits import HELD_OUT

SPEAKERS = ("unknown", "same", "other")  # who speaks in a neighbour


class Neighbour(NamedTuple):
    """A clip near another one in their dialogue, and who speaks in it: an index of SPEAKERS."""

    clip_id: str
    speaker: int


@dataclass(frozen=True)
class Windows:
    """The neighbours of clips at certain places around them, `offsets` away: -1 is the clip before."""

    offsets: tuple[int, ...]
    neighbours: Mapping[str, tuple[Neighbour | None, ...]]  # of clips that have any, one for each offset

    def only(self, clip_ids: Iterable[str]) -> "Windows":
        """The windows of these clips alone."""
        chosen = {clip_id: self.neighbours[clip_id] for clip_id in clip_ids if clip_id in self.neighbours}
        return replace(self, neighbours=chosen)

    @property
    def digest_parts(self) -> list:
        """For digests: who is whose neighbour, and where."""
        return [self.offsets, sorted(self.neighbours.items())]

    def ids(self) -> set[str]:
        """The clip_ids of all neighbours."""
        return {neighbour.clip_id for window in self.neighbours.values() for neighbour in window if neighbour}


def windows_of(
    clips: Sequence[Clip], offsets: tuple[int, ...], fold_of: Mapping[str, Hashable] | None = None
) -> Windows | None:
    """The neighbours of these clips; None where there are no offsets.

    `fold_of` has the fold of each labelled clip where folds take the place of splits. Raises ValueError for a dialogue
    whose order is not known.
    """
    if not offsets:
        return None
    dialogues: dict[str, list[Clip]] = {}
    for clip in clips:
        if (name := _dialogue(clip)) is not None:
            dialogues.setdefault(name, []).append(clip)
    neighbours: dict[str, tuple[Neighbour | None, ...]] = {}
    for dialogue in dialogues.values():
        in_order = _in_order(dialogue)
        sides = [_side(clip, fold_of) for clip in in_order]
        for side in set(sides):
            seen = [clip for clip, other in zip(in_order, sides, strict=True) if other == side or _is_open(clip)]
            for i, clip in enumerate(seen):
                window = tuple(_neighbour(clip, seen, i + offset) for offset in offsets)
                if _side(clip, fold_of) == side and any(window):
                    neighbours[clip.clip_id] = window
    return Windows(offsets, neighbours)


def with_neighbours(clip_ids: Collection[str], windows: Windows | None) -> set[str]:
    """These clips and their neighbours."""
    return set(clip_ids) if windows is None else {*clip_ids, *windows.only(clip_ids).ids()}


def _dialogue(clip: Clip) -> str | None:
    """A name for the clip's dialogue, or for the recording that it is a span of; None where it is alone."""
    if clip.dialogue is not None:
        return f"dialogue:{clip.dialogue}"
    return f"recording:{clip.recording}" if clip.recording else None


def _in_order(dialogue: list[Clip]) -> list[Clip]:
    """The clips of a dialogue in the order in which they are said."""
    without_turn = [clip for clip in dialogue if clip.turn is None]
    without_start = [clip for clip in dialogue if clip.start_s is None]
    if without_turn and without_start:
        clip = without_turn[0]
        raise ValueError(
            f"clip {clip.clip_id!r}: found dialogue {clip.dialogue!r} without a turn, expected a number for each of "
            "its clips, or start_s: name the column with data.columns.turn, or set fusion.context.before=0 and after=0"
        )
    return sorted(dialogue, key=lambda clip: (clip.start_s if without_turn else clip.turn, clip.clip_id))


def _side(clip: Clip, fold_of: Mapping[str, Hashable] | None) -> Hashable:
    """Clips of one side may see each other; training clips and those without a split or label are one."""
    if fold_of is not None and clip.clip_id in fold_of:
        return "fold", fold_of[clip.clip_id]
    return clip.split if clip.split in HELD_OUT else "train"


def _is_open(clip: Clip) -> bool:
    """Whether clips of all sides may see this one."""
    return clip.split in (None, "unlabelled")


def _neighbour(clip: Clip, seen: Sequence[Clip], place: int) -> Neighbour | None:
    """The clip at a place of a dialogue, as a neighbour of another one; None beyond the ends."""
    if not 0 <= place < len(seen):
        return None
    other = seen[place]
    if clip.speaker is None or other.speaker is None:
        return Neighbour(other.clip_id, SPEAKERS.index("unknown"))
    return Neighbour(other.clip_id, SPEAKERS.index("same" if clip.speaker == other.speaker else "other"))
