"""What a person looks at after decoding: the list of bad media, and a sheet of stills."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from emo_ray import durable, parquet
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import clip_tables, face_columns, status
from emo_ray.data.manifest import Clip
from emo_ray.progress import measured
from emo_ray.stages.decoding.shard_plan import ShardPlan

_UNLABELLED = "no label"


def write_bad_media(path: Path, clips: Iterable[Clip], ledger: pa.Table) -> None:
    """Write one line per clip and modality that could not be used, with the file and the reason."""
    _write_statuses(path, clips, ledger, _is_bad)


def count_bad_media(ledger: pa.Table) -> dict[str, int]:
    """How many lines `write_bad_media` writes, by modality."""
    return {name: sum(map(_is_bad, ledger[f"{name}_status"].to_pylist())) for name in MODALITIES}


def measure_bad_media(ledger: pa.Table) -> None:
    """Publish how many lines `write_bad_media` writes, by modality."""
    for name, count in count_bad_media(ledger).items():
        measured("bad_media", count, modality=name)


def write_media_notes(path: Path, clips: Iterable[Clip], ledger: pa.Table) -> None:
    """Write one line per clip and modality that is used and has a note.

    They have a file of their own, because notes that all clips share, such as a second sound track, would hide the
    bad media.
    """
    _write_statuses(path, clips, ledger, status.has_note)


def _is_bad(text: str) -> bool:
    """Whether a status is of media that a clip has and that cannot be used."""
    return not status.is_ok(text) and text != status.MISSING


def _write_statuses(path: Path, clips: Iterable[Clip], ledger: pa.Table, listed: Callable[[str], bool]) -> None:
    clip_of = {clip.clip_id: clip for clip in clips}
    rows = [("clip_id", "modality", "status", "file", "start_s", "end_s")]
    for row in ledger.to_pylist():
        clip = clip_of[row["clip_id"]]
        files = {"video": clip.video, "audio": clip.audio or clip.video, "text": None}
        span = [f"{time_s:g}" for time_s in clip.span_s or ()] or ["", ""]
        for name in MODALITIES:
            if listed(row[f"{name}_status"]):
                rows.append((clip.clip_id, name, row[f"{name}_status"], files[name] or "", *span))
    durable.write_csv(path, rows)


def write_contact_sheet(
    path: Path, clips: Iterable[Clip], labels: Sequence[str], plan: ShardPlan, ledger: pa.Table
) -> None:
    """Write stills of some clips of every label as one picture, from the decoded frames; nothing without video.

    A corpus without labels gets a row of its clips. Where faces were looked for, their boxes are drawn.
    """
    from emo_ray.data.batch import video_from_shards  # torch takes seconds to import
    from emo_ray.reports.contact_sheet import STILLS, contact_sheet, with_boxes

    usable = ledger.filter(status.are_ok(ledger["video_status"]))
    part_of = dict(zip(usable["clip_id"].to_pylist(), usable["part"].to_pylist(), strict=True))
    chosen: dict[str, list[str]] = {label: [] for label in labels or (_UNLABELLED,)}
    for clip in clips:
        label = clip.label if labels else _UNLABELLED
        if clip.clip_id in part_of and label in chosen and len(chosen[label]) < STILLS:
            chosen[label].append(clip.clip_id)
    clip_ids = [clip_id for ids in chosen.values() for clip_id in ids]
    frames: dict[str, Sequence[np.ndarray]] = {}  # clip_id -> uint8 frames (H, W, C)
    for name in sorted({part_of[clip_id] for clip_id in clip_ids}):
        table = parquet.read(plan.folder / name, columns=["clip_id", "frames", *(f"{m}_status" for m in MODALITIES)])
        batch = video_from_shards(clip_tables.of_clips(table, clip_ids))
        frames |= dict(zip(batch.clip_ids, batch.frames_BTCHW.permute(0, 1, 3, 4, 2).numpy(), strict=True))
    for row in clip_tables.of_clips(usable, clip_ids).to_pylist():
        if (face := face_columns.face_of(row)) is not None:
            frames[row["clip_id"]] = with_boxes(frames[row["clip_id"]], face, plan.media.face.margin)
    rows = {
        label: ([frames[i][len(frames[i]) // 2] for i in ids], np.stack(frames[ids[0]]))
        for label, ids in chosen.items()
        if ids
    }
    if rows:
        durable.write_bytes(path, contact_sheet(rows))
