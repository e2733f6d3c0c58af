"""The manifest: one row per clip. Makes clips of a table's rows, and writes and reads emo_ray's own manifests."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from emo_ray import bucket, parquet
from emo_ray.config.data_settings import Data
from emo_ray.config.model_settings import CLIP_FIELDS
from emo_ray.data.manifest.columns import (
    FieldColumns,
    field_columns,
    is_placeholder,
    put_turn,
    split_names,
    unread_fields,
    unread_spans,
)
from emo_ray.data.manifest.spans import put_span, span_columns
from emo_ray.data.manifest.table_files import Row, read_rows
from emo_ray.data.manifest.votes import VoteColumns, Votes, majority, vote_columns
from emo_ray.data.roots import check_inside, resolve
from emo_ray.data.suffixes import AUDIO_SUFFIXES, suffix

_SHOWN = 5  # problems named in one error message


@dataclass(frozen=True, slots=True)
class Clip:
    """One row. `video` and `audio` are absolute paths or URIs; no audio means the video's own sound track.

    A clip is the whole of its files, or their stretch from `start_s` to `end_s`: seconds, both or neither. `turn` says
    where in its `dialogue` a clip is: any number, of which the order counts.
    """

    clip_id: str
    video: str | None = None
    audio: str | None = None
    text: str | None = None
    label: str | None = None
    split: str | None = None
    speaker: str | None = None
    language: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    dialogue: str | None = None
    turn: float | None = None
    fold: str | None = None  # the name of the published fold
    votes: Votes | None = None  # label -> how many annotators

    @property
    def span_s(self) -> tuple[float, float] | None:
        """From when to when the clip is in its files, in seconds; None where it is the whole of them."""
        return None if self.start_s is None or self.end_s is None else (self.start_s, self.end_s)

    @property
    def has_words(self) -> bool:
        """Whether there is a transcript, and one that says anything."""
        return bool(self.text and self.text.strip())

    @property
    def file(self) -> str | None:
        """The media file that stands for the clip: its video, else its sound."""
        return self.video or self.audio

    @property
    def recording(self) -> str | None:
        """The file that the clip is a span of; None where it is the whole of its files."""
        return self.file if self.span_s else None


assert tuple(f.name for f in fields(Clip)) == CLIP_FIELDS
_NUMBERS = ("start_s", "end_s", "turn")
_TYPES = {**dict.fromkeys(_NUMBERS, pa.float64()), "votes": pa.map_(pa.string(), pa.float64())}
SCHEMA = pa.schema([pa.field(name, _TYPES.get(name, pa.string()), nullable=name != "clip_id") for name in CLIP_FIELDS])


def read_table(path: Path, data: Data, bare: bool = False) -> tuple[list[Clip], list[str]]:
    """The clips of a CSV, TSV, JSONL or Parquet table, and notes for the user.

    Of `data` count the settings of tables: `columns`, `root`, `outside_root`, `schemes`, `encoding`, `split_map`,
    `folds`. With `bare`, a clip_id alone makes a clip: its features lie elsewhere, and its media may not be needed.
    Raises ValueError naming file, row (the first data row is row 1) and column of what is wrong.
    """
    rows = read_rows(path, data.encoding)
    if not rows:
        raise ValueError(f"{path}: found no rows, expected a header and at least one clip")
    headers = list(rows[0][1])
    columns_of = field_columns(path, headers, data, bare)
    columns_of |= span_columns(rows, headers, columns_of, data)
    voted = vote_columns(path, rows, data)
    values_of: dict[int, dict[str, str]] = {}
    votes_of: dict[int, Votes | None] = {}
    problems: list[str] = []
    for number, row in rows:
        values_of[number], row_problems = _values(row, columns_of)
        if voted is not None:
            votes_of[number], vote_problems = _votes(row, voted)
            row_problems += vote_problems
        problems += [f"row {number}, {problem}" for problem in row_problems]
    if problems:
        raise ValueError(f"{path}: " + first_of(problems))
    spans = unread_spans(headers, columns_of)
    advice = "unless data.columns.start_s and data.columns.end_s name columns of seconds"
    notes = [f"columns {', '.join(spans)} are not read: each clip is the whole of its file, {advice}"] if spans else []
    notes += _take_out_placeholders(values_of.values(), columns_of, data)
    notes += _understand_splits(path, values_of, columns_of, data)
    if not values_of:
        raise ValueError(f"{path}: found no row beside those that data.split_map={data.split_map} leaves out")
    root = Path(data.root) if data.root else path.parent
    clips = {number: _clip(values, root, unread_fields(data)) for number, values in values_of.items()}
    clips = {number: _with_votes(clip, votes_of.get(number)) for number, clip in clips.items()}
    if not bare:
        check_inside(media_by_place({f"row {number}": clip for number, clip in clips.items()}), root, data, str(path))
    return _with_ids(clips, root), notes


def write(path: Path, clips: Iterable[Clip]) -> None:
    """Write clips as a Parquet manifest, which `read` gives back."""
    parquet.write(path, pa.Table.from_pylist([asdict(c) for c in clips], SCHEMA), parquet.NAME_ROWS)


def read(path: Path) -> list[Clip]:
    """The clips of a manifest that `write` wrote."""
    rows = parquet.read(path, schema=SCHEMA).to_pylist()
    return [Clip(**{**row, "votes": None if row["votes"] is None else tuple(row["votes"])}) for row in rows]


def media_fields(path: str, root: Path) -> dict[str, Any]:
    """A media path as the clip field it belongs to, by its suffix; unknown suffixes are taken for video."""
    field = "audio" if suffix(path) in AUDIO_SUFFIXES else "video"
    return {field: resolve(path, root)}


def media_by_place(clips: Mapping[str, Clip]) -> dict[str, str]:
    """The media of clips, which are given by a name for messages: `row 3, video` -> path or URI."""
    media = ((f"{name}, {field}", getattr(clip, field)) for name, clip in clips.items() for field in ("video", "audio"))
    return {place: path for place, path in media if path is not None}


def first_of(problems: list[str]) -> str:
    """The first problems in one line, and how many more there are."""
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more


def _values(row: Row, columns_of: Mapping[str, FieldColumns]) -> tuple[dict[str, str], list[str]]:
    """A row's values by field, as text, and what is wrong with them; what is blank is left out."""
    values: dict[str, str] = {}
    problems = []
    for field, columns in columns_of.items():
        try:
            value = columns.value(row)
        except ValueError as error:
            problems.append(str(error))
            continue
        if value is not None:
            values[field] = value if field == "text" else value.strip()
    for put in (put_span, put_turn):
        try:
            put(values, columns_of)
        except ValueError as error:
            problems.append(str(error))
    return values, problems


def _votes(row: Row, columns: VoteColumns) -> tuple[Votes | None, list[str]]:
    """The votes of a row, and what is wrong with them."""
    try:
        return columns.votes(row), []
    except ValueError as error:
        return None, [str(error)]


def _with_votes(clip: Clip, votes: Votes | None) -> Clip:
    """The clip with votes; one without a label, unless it is said to be unlabelled, has what most voted for."""
    if votes is None:
        return clip
    label = majority(votes) if clip.label is None and clip.split != "unlabelled" else clip.label
    return replace(clip, votes=votes, label=label)


def _take_out_placeholders(
    rows: Iterable[dict[str, str]], columns_of: Mapping[str, FieldColumns], data: Data
) -> list[str]:
    """Take out the values that say that there is none, such as `nan`, and note how many there were."""
    counts: Counter[tuple[str, str]] = Counter()
    for values in rows:
        for field, value in list(values.items()):
            is_mapped = field == "split" and value in data.split_map
            if is_placeholder(field, value) and not is_mapped:
                counts[field, values.pop(field)] += 1
    return [f"column {columns_of[field]}: {value!r} in {n} rows is no value" for (field, value), n in counts.items()]


def _understand_splits(
    path: Path, values_of: dict[int, dict[str, str]], columns_of: Mapping[str, FieldColumns], data: Data
) -> list[str]:
    """Put our names of splits in the place of the table's, take out rows that data.split_map leaves out, and note it.

    Raises ValueError for names that nothing tells.
    """
    counts = Counter(values["split"] for values in values_of.values() if "split" in values)
    try:
        split_of = split_names(counts, data, str(columns_of.get("split", "")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for number, values in list(values_of.items()):
        split = split_of.get(values.pop("split", ""), "")
        if split is None:
            del values_of[number]
        elif split:
            values["split"] = split
    lists = {
        "left out by data.split_map": [name for name in counts if split_of.get(name, "") is None],
        "not understood, and data.folds takes the place of splits": [name for name in counts if name not in split_of],
        "named by data.split_map, and no row has it": [name for name in data.split_map if name not in counts],
    }
    return [
        f"split {', '.join(f'{name!r} ({counts[name]} rows)' for name in names)}: {words}"
        for words, names in lists.items()
        if names
    ]


def _clip(values: dict[str, str], root: Path, unread: set[str]) -> Clip:
    """The clip of a row's values without the fields in `unread`; its media paths are resolved against `root`."""
    fields_of_clip: dict[str, Any] = {"clip_id": ""}
    fields_of_clip |= {field: float(value) if field in _NUMBERS else value for field, value in values.items()}
    for field in values.keys() & {"video", "audio"}:
        fields_of_clip[field] = resolve(values[field], root)
    if file := fields_of_clip.pop("file", None):
        fields_of_clip |= {name: media for name, media in media_fields(file, root).items() if name not in unread}
    return Clip(**fields_of_clip)


def _on_disk(path: str | None, root: Path) -> str | None:
    """A media path; of a file below a root in a bucket, the path that it would have in a folder of this machine."""
    address = bucket.address_of(root)
    if path is None or address is None or not path.startswith(f"{address}/"):
        return path
    return f"{root.absolute()}/{unquote(path.removeprefix(f'{address}/'))}"


def _with_ids(clip_of: Mapping[int, Clip], root: Path) -> list[Clip]:
    """The clips, given by row number, with an id each.

    A clip without an id is named after its file's stem, or after its row if it has no file. Where stems repeat, the
    file's path below `root` takes the place of the stem. It has no suffix and, unlike the absolute path, is the same
    wherever the corpus lies. A span follows: it tells the clips of a recording apart, and is the same whatever rows
    the table gets or loses.
    """
    clips = list(clip_of.values())
    media = [_on_disk(clip.file, root) for clip in clips]
    stems = [PurePosixPath(path).stem if path else f"row-{i}" for i, path in zip(clip_of, media, strict=True)]
    files = [path if clip.span_s else i for i, (clip, path) in enumerate(zip(clips, media, strict=True))]
    stems_are_unique = len(set(stems)) == len(set(files))
    prefix = f"{root.absolute()}/"

    def name(clip: Clip, path: str | None, stem: str) -> str:
        place = stem if stems_are_unique or path is None else os.path.splitext(path)[0].removeprefix(prefix)
        return "-".join([place, *(f"{round(time_s, 3):.12g}" for time_s in clip.span_s or ())])

    return [
        clip if clip.clip_id else replace(clip, clip_id=name(clip, path, stem))
        for clip, path, stem in zip(clips, media, stems, strict=True)
    ]
