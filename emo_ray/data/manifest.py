"""The manifest: one row per clip. Reads CSV, JSONL and Parquet tables, maps their columns, and checks every row."""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from emo_ray import store
from emo_ray.config.model_settings import CLIP_FIELDS
from emo_ray.data.suffixes import AUDIO_SUFFIXES, suffix

SPLITS = ("train", "validation", "test", "unlabelled")
_SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test",
    "unlabelled": "unlabelled", "unlabeled": "unlabelled",
}  # fmt: skip
# Headers taken for a field when data.columns does not say otherwise, first match wins.
ALIASES = {
    "clip_id": ("clip_id", "id", "name"),
    "video": ("video", "video_path"),
    "audio": ("audio", "audio_path", "wav"),
    "text": ("text", "transcript", "sentence", "utterance"),
    "label": ("label", "emotion", "discrete"),
    "split": ("split", "partition", "subset"),
    "speaker": ("speaker", "speaker_id", "actor"),
    "language": ("language", "lang"),
}
_FILE_HEADERS = ("file", "filename", "path")  # one column of media: video or audio by each file's suffix
_SHOWN = 5  # problems named in one error message


@dataclass(frozen=True, slots=True)
class Clip:
    """One row. `video` and `audio` are absolute paths or URIs; no audio means the video's own sound track."""

    clip_id: str
    video: str | None = None
    audio: str | None = None
    text: str | None = None
    label: str | None = None
    split: str | None = None
    speaker: str | None = None
    language: str | None = None


assert tuple(f.name for f in fields(Clip)) == CLIP_FIELDS
SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=name != "clip_id") for name in CLIP_FIELDS])


def read_table(
    path: Path, root: Path | None = None, columns: dict[str, str] | None = None, bare: bool = False
) -> list[Clip]:
    """The clips of a CSV, JSONL or Parquet table.

    `root` is where relative media paths start (default: the table's folder); `columns` maps fields to headers. With
    `bare`, a clip_id alone makes a clip: its features lie elsewhere.
    Raises ValueError naming file, row (the first data row is row 1) and column of what is wrong.
    """
    rows = _rows(path)
    if not rows:
        raise ValueError(f"{path}: found no rows, expected a header and at least one clip")
    column_of = _columns(path, list(rows[0]), columns or {}, bare)
    root = root or path.parent
    problems: list[str] = []
    clips = []
    for number, row in enumerate(rows, start=1):
        values, row_problems = _values(row, column_of)
        problems += [f"row {number}, {problem}" for problem in row_problems]
        clips.append(_clip(values, root))
    if problems:
        raise ValueError(f"{path}: " + _first_of(problems))
    return _with_ids(clips, root)


def check(clips: Sequence[Clip], where: str) -> None:
    """Raises ValueError where a clip_id is empty or occurs twice."""
    counts = Counter(clip.clip_id for clip in clips)
    problems = [
        f"column clip_id: found {name!r} in {count} rows, expected it once: give each clip its own clip_id"
        for name, count in counts.items()
        if count > 1
    ]
    problems += [f"row {i}, column clip_id: found nothing" for i, c in enumerate(clips, 1) if not c.clip_id]
    if problems:
        raise ValueError(f"{where}: " + _first_of(problems))


def write(path: Path, clips: Iterable[Clip]) -> None:
    """Write clips as a Parquet manifest, which `read` gives back."""
    store.write_parquet(path, pa.Table.from_pylist([asdict(c) for c in clips], SCHEMA), rows_per_group=2**16)


def read(path: Path) -> list[Clip]:
    """The clips of a manifest that `write` wrote."""
    return [Clip(**row) for row in pq.read_table(path, schema=SCHEMA).to_pylist()]


def resolve(path: str, root: Path) -> str:
    """A media path as an absolute path or a URI."""
    return path if "://" in path else str((root / path).absolute())


def media_fields(path: str, root: Path) -> dict[str, str]:
    """A media path as the clip field it belongs to, by its suffix; unknown suffixes are taken for video."""
    field = "audio" if suffix(path) in AUDIO_SUFFIXES else "video"
    return {field: resolve(path, root)}


def _rows(path: Path) -> list[dict]:
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if not path.is_file():
        raise ValueError(f"{path}: found no such file, expected a manifest (CSV, JSONL or Parquet) or a folder")
    if reader is None:
        raise ValueError(f"{path}: found suffix {path.suffix!r}, expected one of {', '.join(readers)}")
    try:
        return reader(path)
    except (UnicodeDecodeError, csv.Error, pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not readable as {path.suffix[1:]}: {error}") from error


def _csv_rows(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        headers = [header.strip() for header in next(csv.reader(stream, delimiter=delimiter, strict=True), [])]
        twice = [header for header, count in Counter(headers).items() if header and count > 1]
        if twice:
            raise ValueError(f"{path}: found column {twice[0]!r} twice, expected it once: rename or delete one")
        rows = list(csv.DictReader(stream, headers, delimiter=delimiter, strict=True))
    for i, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            cells = sum(v is not None for k, v in row.items() if k is not None) + len(row.get(None) or [])
            raise ValueError(f"{path}: row {i}: found {cells} cells, expected {len(headers)}: quote commas")
    return rows


def _jsonl_rows(path: Path) -> list[dict]:
    rows: list[dict] = []
    with path.open(encoding="utf-8-sig") as stream:
        for i, line in enumerate(stream, start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: row {i}: not JSON: {error}") from None
            if row is not None and not isinstance(row, dict):
                raise ValueError(f"{path}: row {i}: found {type(row).__name__}, expected an object per line")
            rows += [row] if row is not None else []
    headers = dict.fromkeys(key for row in rows for key in row)
    return [{header: row.get(header) for header in headers} for row in rows]


def _parquet_rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def _columns(path: Path, headers: list[str], columns: dict[str, str], bare: bool) -> dict[str, str]:
    """The header of each clip field that the table has, and of `file`, a single column for all media.

    `columns` (data.columns) comes first, then ALIASES. Raises ValueError where a column is missing.
    """
    for field, column in columns.items():
        if column not in headers:
            raise ValueError(
                f"{path}: data.columns.{field}: found no column {column!r}, expected one of {', '.join(headers)}"
            )
    column_of = dict(columns)
    configured = set(columns.values())
    for field, aliases in ALIASES.items():
        header = next((alias for alias in aliases if alias in headers and alias not in configured), None)
        if field not in column_of and header is not None:
            column_of[field] = header
    file_header = next((header for header in _FILE_HEADERS if header in headers), None)
    if file_header is not None and not column_of.keys() & {"video", "audio"}:
        column_of["file"] = file_header
    has_content = column_of.keys() & {"video", "audio", "text", "file"}
    if not has_content and not (bare and "clip_id" in column_of):
        raise ValueError(
            f"{path}: found columns {', '.join(headers)}, expected at least one of video, audio, text, file: "
            "name them with data.columns.video=COLUMN (or audio, text" + (", clip_id)" if bare else ")")
        )
    return column_of


def _values(row: dict, column_of: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """A row's values by field, as text, and what is wrong with them; empty cells, nulls and NaN are left out."""
    values: dict[str, str] = {}
    problems = []
    for field, column in column_of.items():
        cell = row[column]
        if cell is None or (isinstance(cell, str) and not cell.strip()) or cell != cell:
            continue
        if not isinstance(cell, str | int | float):
            problems.append(f"column {column}: found {type(cell).__name__}, expected text or a number")
            continue
        if isinstance(cell, float) and cell.is_integer():
            cell = int(cell)  # whole numbers beside empty cells come as floats
        value = str(cell) if field == "text" else str(cell).strip()
        if not _is_unicode(value):
            problems.append(f"column {column}: found half of a surrogate pair, expected Unicode text")
        if field == "split" and value.lower() not in _SPLIT_NAMES:
            problems.append(f"column {column}: found {value!r}, expected one of {', '.join(SPLITS)}")
            continue
        values[field] = _SPLIT_NAMES[value.lower()] if field == "split" else value
    return values, problems


def _clip(values: dict[str, str], root: Path) -> Clip:
    """The clip of a row's values; its media paths are resolved against `root`."""
    fields_of_clip = {"clip_id": ""} | values
    for field in values.keys() & {"video", "audio"}:
        fields_of_clip[field] = resolve(values[field], root)
    if file := fields_of_clip.pop("file", None):
        fields_of_clip |= media_fields(file, root)
    return Clip(**fields_of_clip)


def _is_unicode(text: str) -> bool:
    """False for the lone surrogates that JSON's \\u escapes can spell and nothing can store."""
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _with_ids(clips: list[Clip], root: Path) -> list[Clip]:
    """The clips with an id each. A clip without one is named after its file's stem, or after its row if it has no file.

    Where stems repeat, the file's path below `root` takes the place of the stem. It has no suffix and, unlike the
    absolute path, is the same wherever the corpus lies.
    """
    media = [clip.video or clip.audio for clip in clips]
    stems = [PurePosixPath(path).stem if path else f"row-{i}" for i, path in enumerate(media, start=1)]
    stems_are_unique = len(set(stems)) == len(stems)
    prefix = f"{root.absolute()}/"

    def name(path: str | None, stem: str) -> str:
        return stem if stems_are_unique or path is None else os.path.splitext(path)[0].removeprefix(prefix)

    return [
        clip if clip.clip_id else replace(clip, clip_id=name(path, stem))
        for clip, path, stem in zip(clips, media, stems, strict=True)
    ]


def _first_of(problems: list[str]) -> str:
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more
