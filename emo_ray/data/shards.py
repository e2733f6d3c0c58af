"""Shards: decoded clips in Parquet. A part holds 64 clips or so, and is the unit of work.

A row is a clip, or with `media.face.which=all` one person in it: N JPEG frames, int16 sound at 16 kHz, the transcript
and a status per modality. It has neither label nor split, so other labels, splits or pseudo-labels never make a clip be
decoded again.
"""

import errno
import hashlib
import io
import itertools
import math
import pickle
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from pyarrow import fs

from emo_ray import bucket, parquet, store, trouble
from emo_ray.config.data_settings import Scope
from emo_ray.config.media_settings import Media
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import decoder, face_columns, media, status
from emo_ray.data.face_boxes import ClipBoxes
from emo_ray.data.file_digests import file_digest, in_threads
from emo_ray.data.manifest import Clip

_OF_PERSON = "#"  # between a clip_id and a person in the id of a row
_SILENCE = 1  # int16 steps: dithered silence is no louder
# Of SCHEMA; 2: identities, digests of the content; 3: identities hold the content of local files; 4: the language;
# 5: faces.
VERSION = 5
# Digests of the decoded frames and sound, by which a clip is recognised under any name. Null where a clip has none, and
# where the content says nothing: pictures of a single colour, silence.
CONTENT = ("video_digest", "audio_digest")
SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),  # of the clip; see `identified`
        pa.field("frames", pa.list_(pa.binary())),  # N JPEGs, null when there is no usable video
        pa.field("audio", pa.binary()),  # int16 little-endian; Parquet would store int16 lists as int32
        pa.field("audio_samples", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("language", pa.string()),
        *(pa.field(f"{name}_status", pa.string(), nullable=False) for name in MODALITIES),
        *(pa.field(name, pa.string()) for name in CONTENT),
        *face_columns.FIELDS,
    ]
)
LEDGER_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("audio_s", pa.float32()),
        *(pa.field(f"{name}_status", pa.string(), nullable=False) for name in MODALITIES),
        *(pa.field(name, pa.string()) for name in CONTENT),
        *face_columns.FIELDS,
    ]
)
Stamp = tuple[str, int | None, str | int | None]  # what tells a medium from others; see `_stamp`


@dataclass(frozen=True, slots=True)
class IdentifiedClip:
    """A clip, and the digest of what decides its row besides the settings, taken when the job was planned."""

    clip: Clip
    identity: str
    scope: Scope  # what the digest holds of local files


def assign_parts(clips: Sequence[Clip], clips_per_part: int) -> list[list[Clip]]:
    """The clips of each part, about `clips_per_part` each: labelled and unlabelled apart, otherwise mixed by id.

    Training reads only labelled parts, and mixed rows let it shuffle within a small buffer. A clip's place depends on
    its id and (through a power of two) on the size of the corpus, so a few new clips change few parts.
    """
    labelled = [clip for clip in clips if clip.label is not None]
    unlabelled = [clip for clip in clips if clip.label is None]
    return _buckets(labelled, clips_per_part) + _buckets(unlabelled, clips_per_part)


def _buckets(clips: Sequence[Clip], clips_per_part: int) -> list[list[Clip]]:
    count = 2 ** max(0, round(math.log2(max(1, len(clips)) / clips_per_part)))
    buckets: list[list[tuple[int, Clip]]] = [[] for _ in range(count)]
    for clip in clips:
        place = int.from_bytes(hashlib.blake2b(clip.clip_id.encode(), digest_size=8).digest())
        buckets[place % count].append((place, clip))
    return [[clip for _, clip in sorted(bucket, key=lambda item: item[0])] for bucket in buckets if bucket]


def identified(
    clips: Sequence[Clip], scope: Scope, report: Callable[[int, int], None] = lambda done, total: None
) -> list[IdentifiedClip]:
    """The clips with their identities: digests of clip_id, text, language, the media's names, sizes and content, and
    the span.

    Every local file is read once, many at a time; `report` is called as by `in_threads`. Many files of one folder of a
    bucket are listed.
    """
    sources = list(dict.fromkeys(path for clip in clips for path in (clip.video, clip.audio) if path is not None))
    listed = bucket.listed(sources)
    stamps = in_threads(partial(_stamp, scope=scope, listed=listed), sources, report)
    stamp_of = dict(zip(sources, stamps, strict=True))
    return [IdentifiedClip(clip, _identity(clip, stamp_of.__getitem__), scope) for clip in clips]


def _identity(clip: Clip, stamp: Callable[[str], Stamp]) -> str:
    stamps = [None if path is None else stamp(path) for path in (clip.video, clip.audio)]
    span = [clip.span_s] if clip.span_s and any(stamps) else []
    return store.digest(clip.clip_id, clip.text, clip.language, *stamps, *span)


def part_name(clips: Sequence[IdentifiedClip]) -> str:
    """The file name of a part: a digest of its rows' identities, so that equal parts are one file."""
    return f"part-{store.digest([clip.identity for clip in clips])}.parquet"


def settings(config: Media, image_size: int) -> dict:
    """How clips are decoded, and the versions of the format: with the identity this decides a row's content."""
    faces = face_columns.settings(config.face)
    return {
        "frames": config.stored,
        **config.deciding("shards"),
        "face": faces,
        "size": image_size,
        "version": [VERSION, media.VERSION],
    }


def rows(
    identified_clip: IdentifiedClip, config: Media, image_size: int, boxes: ClipBoxes | None = None
) -> list[dict[str, Any]]:
    """A decoded clip as a row of SCHEMA, or by `media.face.which` a row for each person who is seen in it.

    `boxes` are the faces that a table has of the clip. Bad media become statuses, never errors. Raises PlaceTrouble
    where media cannot be read for now.
    """
    clip = identified_clip.clip
    process: dict[str, Any] = {"max_s": config.max_decode_s, "max_memory_mb": config.max_memory_mb}
    limits = media.Limits(config.max_pixels, config.max_video_s, config.max_file_gb)
    span = None if clip.span_s is None else media.Span(*clip.span_s)
    video: tuple[Any, ...] = (media.read_video, clip.video, config.stored, image_size)
    if config.face.is_used:
        video = (media.read_faces, clip.video, face_columns.request(config, image_size, boxes))
    pictures, video_status = decoder.decode(*video, limits, span, config.array_channels, **process)
    samples_S, audio_status = decoder.decode(
        media.read_audio, clip.audio or clip.video, config.max_audio_s, limits, span, **process
    )
    text_status = status.OK if clip.has_words else status.MISSING + (": empty" if clip.text is not None else "")
    shared = {
        "identity": identified_clip.identity,
        **_audio_columns(samples_S),
        "text": clip.text if clip.has_words else None,
        "language": clip.language,
        "video_status": video_status,
        "audio_status": audio_status,
        "text_status": text_status,
    }
    return [
        {"clip_id": row_id(clip.clip_id, sight.person), **shared, **sight.values}
        | _video_columns(sight.frames_THWC, config.jpeg_quality)
        for sight in face_columns.sights(pictures, video_status)
    ]


def row_id(clip_id: str, person: str) -> str:
    """The clip_id of a person's row; that of the clip itself where the row is about no person in particular."""
    return f"{clip_id}{_OF_PERSON}{person}" if person else clip_id


def clip_and_person(row_id: str) -> tuple[str, str]:
    """The clip_id and the person of a row, which is empty where there is none. Only for `media.face.which=all`."""
    clip_id, _, person = row_id.partition(_OF_PERSON)
    return clip_id, person


def check_clip_ids(clips: Iterable[Clip]) -> None:
    """Raises ValueError for clip_ids that look like those of people's rows."""
    odd_ids = [clip.clip_id for clip in clips if _OF_PERSON in clip.clip_id]
    if odd_ids:
        raise ValueError(
            f"media.face.which=all: found {len(odd_ids)} clip_ids with {_OF_PERSON} ({odd_ids[0]!r}), expected none, "
            "for it comes before the person in the ids of rows: name these clips otherwise, or take "
            "media.face.which=main"
        )


def check_unchanged(clips: Sequence[IdentifiedClip]) -> None:
    """Raises PlaceTrouble where media are others than when their clips were identified.

    What was made of them would pass for that of the files that were there. Each file is read once.
    """
    try:
        now = identified([clip.clip for clip in clips], clips[0].scope) if clips else []
    except OSError as error:
        trouble.raise_of_place(error, clips[0].clip.video or clips[0].clip.audio)
        raise
    trouble_of = {
        str(before.clip.video or before.clip.audio): (
            "found another file than when the job was planned, or one that could not be read "
            f"(clip {before.clip.clip_id})"
        )
        for before, after in zip(clips, now, strict=True)
        if before.identity != after.identity
    }
    if trouble_of:
        raise trouble.PlaceTrouble(trouble_of)


def _video_columns(frames_THWC: np.ndarray | None, jpeg_quality: int) -> dict[str, Any]:
    if frames_THWC is None:
        return {"frames": None, "video_digest": None}
    jpegs = [_jpeg(frame_HWC, jpeg_quality) for frame_HWC in frames_THWC]
    is_blank = np.ptp(frames_THWC) == 0
    return {"frames": jpegs, "video_digest": None if is_blank else _digest(jpegs)}


def _audio_columns(samples_S: np.ndarray | None) -> dict[str, Any]:
    if samples_S is None:
        return {"audio": None, "audio_samples": None, "audio_digest": None}
    sound = samples_S.astype("<i2").tobytes()
    is_silent = np.abs(samples_S.astype(np.int32)).max(initial=0) <= _SILENCE
    return {
        "audio": sound,
        "audio_samples": len(samples_S),
        "audio_digest": None if is_silent else _digest([sound]),
    }


def write_part(
    path: Path,
    clips: Sequence[IdentifiedClip],
    config: Media,
    image_size: int,
    part_of: Mapping[str, str] | None = None,
) -> None:
    """Decode clips into one Parquet part; a part that exists already is left alone.

    `part_of` is what `find_rows` gives for other parts of the folder: their rows are copied instead of decoded.
    Raises PlaceTrouble, and writes nothing, where media cannot be read within `media.patience_s`, or are others than
    when the job was planned.
    """
    if not store.exists(path):
        old_rows: dict[str, list[dict[str, Any]]] = {}
        for row in _read_rows(path.parent, part_of or {}).to_pylist():
            old_rows.setdefault(row["identity"], []).append(row)
        boxes_of = face_columns.boxes_of(config.face, [identified_clip.clip for identified_clip in clips])

        def rows_of(clip: IdentifiedClip) -> list[dict[str, Any]]:
            return old_rows.get(clip.identity) or rows(clip, config, image_size, boxes_of.get(clip.clip.clip_id))

        by_clip = trouble.in_rounds(rows_of, clips, config.patience_s)
        check_unchanged([clip for clip in clips if clip.identity not in old_rows])
        # JPEG and speech hardly shrink further: no codec.
        table = pa.Table.from_pylist(list(itertools.chain.from_iterable(by_clip)), SCHEMA)
        parquet.write(path, table, codec="none")


def write_pickled_part(task: bytes) -> str:
    """`write_part` with pickled arguments. Returns the media that could not be read: see `trouble.unread`."""
    return trouble.unread(lambda: write_part(*pickle.loads(task)))


def find_rows(folder: Path, names: Iterable[str], row_identities: Collection[str]) -> dict[str, str]:
    """The part that holds each of these rows, by the row's identity; rows that no part holds are left out."""
    part_of: dict[str, str] = {}
    for name in sorted(names):
        part_of |= dict.fromkeys((i for i in identities(folder / name) if i in row_identities), name)
    return part_of


def identities(path: Path) -> list[str]:
    """The identities of a part's rows, in their order."""
    return parquet.read(path, columns=["identity"])["identity"].to_pylist()


def _read_rows(folder: Path, part_of: Mapping[str, str]) -> pa.Table:
    """The rows that `find_rows` has found, each from the one part that is named for it, in no particular order."""
    tables = [SCHEMA.empty_table()]
    for name in sorted(set(part_of.values())):
        table = parquet.read(folder / name)
        identities_there = [identity for identity, part in part_of.items() if part == name]
        tables.append(table.filter(pc.is_in(table["identity"], pa.array(identities_there, pa.string()))))
    return pa.concat_tables(tables)


def ledger(path: Path) -> pa.Table:
    """The statuses, digests and faces of one part's rows (LEDGER_SCHEMA), read without its media."""
    names = ["clip_id", "identity", *(f"{name}_status" for name in MODALITIES), *CONTENT, *face_columns.NAMES]
    table = parquet.read(path, columns=["audio_samples", *names])
    seconds = pc.divide(pc.cast(table["audio_samples"], pa.float64()), float(media.RATE_HZ))
    columns = {name: table[name] for name in names} | {
        "part": pa.array([path.name] * len(table), pa.string()),
        "audio_s": pc.cast(seconds, pa.float32()),
    }
    return pa.table(columns, schema=LEDGER_SCHEMA)


def _digest(contents: Sequence[bytes]) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    for content in contents:
        hasher.update(len(content).to_bytes(8) + content)
    return hasher.hexdigest()


def _stamp(source: str, scope: Scope, listed: Mapping[str, tuple[int, int]]) -> Stamp:
    """Name, size and content of a local file; name, size and time of a file elsewhere, which would be fetched for more.

    Its folder does not count, so that a corpus can be moved. What cannot be read is told by its whole address alone.
    Raises OSError where this process has too many files open.
    """
    name = source.rsplit("/", 1)[-1] or source
    try:
        if source in listed:
            return name, *listed[source]
        path = source
        if "://" in source:
            filesystem, path = fs.FileSystem.from_uri(source)
            if not isinstance(filesystem, fs.LocalFileSystem):
                info = bucket.tried(lambda: filesystem.get_file_info(path), source)
                return name, info.size, info.mtime_ns
        return name, *file_digest(path, scope)
    except (OSError, ValueError) as error:  # no such file, or no path or URI at all: the row's status will say so
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):  # nothing is known of any file then
            raise
        return source, None, None


def _jpeg(image_HWC: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
