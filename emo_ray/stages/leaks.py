"""Unlabelled clips that would tell a model what validation or test holds."""

from collections.abc import Collection

from emo_ray.data.prepared import Prepared
from emo_ray.data.shards import CONTENT


def leaking(prepared: Prepared, pool: Collection[str]) -> dict[str, str]:
    """Why an unlabelled clip would tell what is in validation or test: speaker, dialogue or content; by clip_id.

    Content is the decoded frames, or the sound of clips without frames: so copies under other names and in other
    containers are recognised.
    """
    judged = {clip.clip_id: clip.split for clip in prepared.clips if clip.split in ("validation", "test")}
    reasons: dict[str, str] = {}
    for field in ("dialogue", "speaker"):
        split_of = {getattr(clip, field): clip.split for clip in prepared.clips if clip.clip_id in judged}
        reasons |= {
            clip.clip_id: f"{field} in {split_of[name]}"
            for clip in prepared.clips
            if clip.clip_id in pool and (name := getattr(clip, field)) is not None and name in split_of
        }
    rows = _contents(prepared)
    twin_of: dict[str, str] = {}  # digest of content -> the clip of validation or test that has it
    for clip_id, *digests in sorted((row for row in rows if row[0] in judged), key=lambda row: row[0]):
        for digest in filter(None, digests):
            twin_of.setdefault(digest, clip_id)
    for clip_id, video, audio in rows:
        twin = twin_of.get(video or audio)
        if clip_id in pool and twin:
            reasons[clip_id] = f"same content as clip {twin} of {judged[twin]}"
    return reasons


def unrecognisable(prepared: Prepared, pool: Collection[str]) -> int:
    """How many clips of `pool` have neither pictures nor sound, by which copies of them could be recognised."""
    return sum(clip_id in pool and not any(digests) for clip_id, *digests in _contents(prepared))


def _contents(prepared: Prepared) -> list[tuple]:
    """The clip_id and the digests of frames and sound of every clip."""
    return list(zip(*(prepared.ledger[name].to_pylist() for name in ("clip_id", *CONTENT)), strict=True))
