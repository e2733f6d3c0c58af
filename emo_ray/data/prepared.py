"""A prepared corpus: clips with splits and labels, and the shard parts that hold them decoded."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from emo_ray import parquet
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import clip_tables, status
from emo_ray.data.manifest import Clip

MANIFEST, LEDGER = "manifest.parquet", "ledger.parquet"
BAD_MEDIA, MEDIA_NOTES = "bad_media.csv", "media_notes.csv"
LabelOf = dict[str, int]  # clip_id -> class index


@dataclass(frozen=True)
class Prepared:
    """The folder of a prepared corpus, and the content of its small files."""

    path: Path
    clips: tuple[Clip, ...]
    labels: tuple[str, ...]  # K, in the order of their indices
    notes: tuple[str, ...]
    shards: Path  # the folder of parts
    parts: tuple[str, ...]  # file names of this corpus's parts; the folder may hold others

    @cached_property
    def ledger(self) -> pa.Table:
        """One row per clip, in the order of the parts: `clip_id, part, audio_s`, statuses, digests and faces."""
        return parquet.read(self.path / LEDGER)

    @cached_property
    def speaker_of(self) -> dict[str, str | None]:
        """Who speaks in each clip."""
        return {clip.clip_id: clip.speaker for clip in self.clips}

    @cached_property
    def labelled_ids(self) -> set[str]:
        """The clips with a label."""
        return {clip.clip_id for clip in self.clips if clip.label is not None}

    def labels_of(self, split: str) -> LabelOf:
        """The class index of every labelled clip of a split."""
        index = {label: k for k, label in enumerate(self.labels)}
        return {c.clip_id: index[c.label] for c in self.clips if c.split == split and c.label is not None}

    def clips_of(self, clip_ids: Iterable[str]) -> list[Clip]:
        """The clips of these ids, in their order."""
        clip_of = {clip.clip_id: clip for clip in self.clips}
        return [clip_of[clip_id] for clip_id in clip_ids]

    def speakers_of(self, clip_ids: Iterable[str]) -> list[str | None]:
        """Who speaks in the clips of these ids, in their order."""
        return [self.speaker_of[clip_id] for clip_id in clip_ids]

    def parts_with(self, clip_ids: Iterable[str]) -> list[str]:
        """The parts that hold any of these clips, in their order."""
        parts = set(clip_tables.of_clips(self.ledger, clip_ids)["part"].to_pylist())
        return [part for part in self.parts if part in parts]

    def without_test(self) -> "Prepared":
        """The corpus without the clips of the test split and their labels: what a sweep may see."""
        return replace(self, clips=tuple(clip for clip in self.clips if clip.split != "test"))

    def counts(self) -> dict:
        """Clips by split, by status of each modality, and by people seen where faces were looked for."""
        ledger = self.ledger
        statuses = {m: status.kinds(ledger[f"{m}_status"].to_pylist()) for m in MODALITIES}
        return {
            "clips": len(self.clips),
            "labels": list(self.labels),
            "splits": dict(Counter(clip.split for clip in self.clips)),
            **{name: dict(counts) for name, counts in statuses.items()},
            **({"faces": people} if (people := self._people()) else {}),
            "notes": list(self.notes),
        }

    def _people(self) -> dict[str, int]:
        """Clips by how many people they show; empty where faces were not looked for."""
        sought = self.ledger.filter(pc.is_valid(self.ledger["face_status"]))
        counts = pc.fill_null(sought["faces"], 0).to_pylist()
        names = Counter(("none", "one")[count] if count < 2 else "several" for count in counts)
        return {name: names[name] for name in ("one", "several", "none") if counts}
