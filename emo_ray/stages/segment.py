"""segment: recordings of any length to utterances, which are the clips of a manifest; one Ray Data task a recording.

The utterances of each recording have a file of their own, named after what the recording holds. So a killed run goes
on where it stopped, and a corpus that has grown is listened to where it is new.
"""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from emo_ray import cluster, parquet, store, trouble
from emo_ray.config import Config, override, settings_of
from emo_ray.data import manifest, media, recordings, shards, status
from emo_ray.data.corpora.reader import read_corpus
from emo_ray.data.folders import first_of
from emo_ray.data.manifest import SCHEMA, Clip
from emo_ray.data.manifest.checks import check_ids
from emo_ray.data.prepared import MANIFEST
from emo_ray.data.shards import IdentifiedClip
from emo_ray.data.suffixes import is_media_file
from emo_ray.progress import progress, say
from emo_ray.reports.training import summary_table
from emo_ray.stages.decoding.corpus import in_parallel
from emo_ray.stages.decoding.shard_plan import check_local_files
from emo_ray.stages.decoding.storage import check_storage
from emo_ray.stages.result import Result

UTTERANCES = pa.schema(
    [
        *SCHEMA,
        pa.field("recording", pa.string(), nullable=False),  # its clip_id
        pa.field("order", pa.int32()),  # of the utterance in its recording, from 1; null: the row is all of it
        pa.field("status", pa.string(), nullable=False),
    ]
)


def segment(config: Config) -> Result:
    """Cut the recordings that `config.data` names into utterances.

    A recording in which nobody speaks, or that cannot be used, stays one clip, with a status that says so. Raises
    ValueError where there are no recordings.
    """
    clips, notes = read_corpus(override(config, {"data.merge_labels": True}).data)
    if texts := sum(clip.text is not None for clip in clips):
        notes = [
            *notes,
            f"{texts} transcripts of whole recordings are left out: whose words an utterance holds is unknown",
        ]
    for note in notes:
        say(note)
    path = segment_recordings(config, clips)
    rows = parquet.read(path, columns=["recording", "order", "start_s", "end_s", "status"]).to_pylist()
    spans_s = [row["end_s"] - row["start_s"] for row in rows if row["order"] is not None]
    status_of = {row["recording"]: row["status"] for row in rows}
    content = {
        "recordings": len(status_of),
        "utterances": len(spans_s),
        "hours of utterances": round(sum(spans_s) / 3600, 3),
        "statuses": dict(status.kinds(status_of.values())),
    }
    table = summary_table("Recordings by status", content["statuses"], "status", "recordings")
    unusable = [f"{name} ({text})" for name, text in status_of.items() if status.kind(text) in status.UNUSABLE]
    lines = [f"{len(spans_s)} utterances, {content['hours of utterances']:g} hours"]
    lines += [f"recordings that could not be used: {first_of(unusable)}"] if unusable else []
    return Result(path, content, [table], lines)


def segment_recordings(config: Config, clips: Sequence[Clip]) -> Path:
    """The manifest of these recordings' utterances, made where it is not there.

    Raises ValueError for clips that are cut already.
    """
    if spans := [clip.clip_id for clip in clips if clip.span_s is not None]:
        raise ValueError(
            f"found {len(spans)} clips with start_s and end_s ({first_of(spans)}), expected whole recordings: leave "
            "these out, for they are utterances already"
        )
    identified = shards.identified(clips, config.data.identity)
    folder = manifest_folder(config, identified)

    def fill(temporary: Path) -> Mapping[str, Any]:
        check_local_files(clips)
        check_storage(clips)
        parts = folder.parent / f"parts-{store.digest(_decides(config))}"
        part_of = {recording.clip.clip_id: parts / shards.part_name([recording]) for recording in identified}
        _cut(config, identified, part_of)
        rows = [row for clip in clips for row in _rows(clip, part_of[clip.clip_id])]
        parquet.write(temporary / MANIFEST, pa.Table.from_pylist(rows, UTTERANCES), parquet.NAME_ROWS)
        return {"recordings": len(clips), "rows": len(rows)}

    store.artefact(folder, {"kind": "segments", **_decides(config)}, fill)
    return folder / MANIFEST


@dataclass
class LongRecordings:
    """Called with the clips of a corpus, it puts utterances in the place of recordings that are too long for a clip.

    In a folder, or where a media file is the corpus, these are files whose sound is longer than
    `segment.auto_over_s`, where `segment.auto` is set.
    """

    unspoken: dict[str, str] = field(default_factory=dict)  # file -> status, of recordings that hold no utterance

    def __call__(self, config: Config, clips: Sequence[Clip]) -> list[Clip]:
        """The clips with utterances among them; a manifest that `segment` has made stays as it is."""
        if config.data.manifest is None:
            return list(clips)
        corpus = Path(config.data.manifest)
        if corpus.is_file():
            self.unspoken |= _unspoken(corpus)
        is_media = corpus.is_dir() or is_media_file(corpus)
        if not is_media or not config.segment.auto:
            return list(clips)
        most_s = config.media.max_audio_s if config.segment.auto_over_s is None else config.segment.auto_over_s
        files = [clip for clip in clips if clip.span_s is None]
        if not files:
            return list(clips)
        long = [clip for clip, length_s in zip(files, _lengths_s(config, files), strict=True) if length_s > most_s]
        if not long:
            return list(clips)
        long_ids = {clip.clip_id for clip in long}
        whole = [clip for clip in clips if clip.clip_id not in long_ids]
        path = segment_recordings(config, long)
        self.unspoken |= _unspoken(path)
        utterances = manifest.read(path)
        check_ids(whole + utterances, str(path))
        say(
            f"{len(long)} of {len(clips)} clips are longer than {most_s:g} s (segment.auto_over_s): "
            f"they are cut into utterances, {len(utterances)} rows of {path}"
        )
        return whole + utterances


def _unspoken(path: Path) -> dict[str, str]:
    """The recordings without utterance in a manifest that `segment` has made (file -> status); none in other tables."""
    if path.name != MANIFEST or not set(UTTERANCES.names) <= set(pq.read_schema(path).names):
        return {}
    rows = parquet.read(path, columns=["video", "audio", "order", "status"]).to_pylist()
    return {row["video"] or row["audio"]: row["status"] for row in rows if row["order"] is None}


def _lengths_s(config: Config, clips: Sequence[Clip]) -> list[float]:
    """How long the sound of each clip is, in seconds: measured once for all runs, as long as no file changes."""
    identified = shards.identified(clips, config.data.identity)
    limits = [config.media.max_decode_s, config.media.max_memory_mb, config.media.max_file_gb]
    key = store.digest(media.VERSION, limits, [recording.identity for recording in identified])

    def fill(_: Path) -> Mapping[str, Any]:
        lengths_s = []
        with progress("measuring sound", len(clips), "clips") as advance:
            for clip in clips:
                lengths_s.append(recordings.sound_s(clip.audio or clip.video, config.media))
                advance(1)
        return {"lengths_s": lengths_s}

    folder = cluster.store_root(config) / "segments" / f"lengths-{key}"
    return store.artefact(folder, {"kind": "lengths of sound"}, fill)["lengths_s"]


def manifest_folder(config: Config, identified: Sequence[IdentifiedClip]) -> Path:
    """Where the manifest of these recordings' utterances lies or will lie."""
    contents = [[*asdict(recording.clip).values(), recording.identity] for recording in identified]
    return cluster.store_root(config) / "segments" / store.digest(_decides(config), contents)


def _decides(config: Config) -> dict[str, Any]:
    """What decides the utterances of a recording beside what it holds."""
    return {
        "version": [recordings.VERSION, media.VERSION],
        "silero-vad": version("silero-vad"),
        "settings": settings_of(config, "segments"),
    }


def _cut(config: Config, identified: Sequence[IdentifiedClip], part_of: Mapping[str, Path]) -> None:
    """Write the parts that are not there yet, in parallel. Raises PlaceTrouble where some had to be left unmade."""
    patience_s = config.media.patience_s
    missing = [recording for recording in identified if not store.exists(part_of[recording.clip.clip_id])]
    if missing and len(missing) < len(identified):
        say(f"{len(identified) - len(missing)} of {len(identified)} recordings are cut already")

    def cut(task: bytes) -> bytes:
        arguments = [pickle.loads(task)]
        work = partial(trouble.in_rounds, lambda part: recordings.write_part(*part), arguments, patience_s)
        return trouble.unread(work).encode()

    tasks = [pickle.dumps((part_of[rec.clip.clip_id], rec, config.segment, config.media)) for rec in missing]
    answers = in_parallel(config, cut, tasks, "cutting recordings", [1] * len(tasks), "recordings")
    trouble.check_read(answer.decode() for answer in answers)


def _rows(clip: Clip, part: Path) -> Iterator[dict[str, Any]]:
    """A recording's rows of the manifest."""
    fields = asdict(replace(clip, text=None)) | {"recording": clip.clip_id}
    for order, row in enumerate(parquet.read(part).to_pylist(), start=1):
        if row["start_s"] is None:
            yield fields | row | {"order": None, "text": clip.text}
        else:
            yield fields | row | {"clip_id": f"{clip.clip_id}-{order:04d}", "order": order}
