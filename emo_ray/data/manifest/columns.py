"""What a table's headers and cells mean: the field of a clip that each column holds, and the names of splits."""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

from emo_ray.config.data_settings import Data, Split
from emo_ray.data.manifest.table_files import Row, is_blank

SPLITS: tuple[Split, ...] = get_args(Split)
# Headers taken for a field when data.columns does not say otherwise, first match wins.
ALIASES = {
    "clip_id": ("clip_id", "id", "name"),
    "video": ("video", "video_path"),
    "audio": ("audio", "audio_path", "wav", "audio_filepath"),
    "text": ("text", "transcript", "sentence", "utterance"),
    "label": ("label", "emotion", "discrete"),
    "split": ("split", "partition", "subset"),
    "speaker": ("speaker", "speaker_id", "actor"),
    "language": ("language", "lang"),
    "start_s": ("start_s",),
    "end_s": ("end_s",),
    "dialogue": ("dialogue", "dialogue_id"),
    "turn": ("turn",),
}
_FILE_HEADERS = ("file", "filename", "path")  # one column of media: video or audio by each file's suffix
_SPAN_HEADER = re.compile(r"(start|begin|onset|end|stop|offset)([ _-]?(s|sec|seconds|ms|time))?", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "devel", "development"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("unlabelled", "unlabeled"), "unlabelled"),
}
# These mean test where no other name of the column does: beside `test`, eval may be a validation split.
_MAYBE_TEST = re.compile(r"eval|evaluation|test[ _-]?\d+")
# Words that stand for no value, in lower case, and for no person.
NO_VALUE = {"nan", "na", "n/a", "n.a.", "<na>", "#n/a", "nat", "null", "none", "nil", "unknown", "unk", "?", "-"}
NOBODY = NO_VALUE | {"undefined", "unknown speaker", "speaker unknown", "not available", "missing", "--"}
NO_TIME = {"nan", "NaN", "<NA>", "#N/A", "NaT"}  # as pandas and spreadsheets spell cells without a value
_NO_FILE = NO_TIME


@dataclass(frozen=True)
class FieldColumns:
    """Where the value of `field` comes from: a column, several joined by `_`, or a pattern that names columns."""

    headers: tuple[str, ...]
    pattern: str | None = None
    field: str = ""

    def value(self, row: Row) -> str | None:
        """The text of a row, None where all of its cells are blank. Raises ValueError saying what is wrong with one."""
        cells = [_text(row[header], header) for header in self.headers]
        if (len(cells) == 1 and self.pattern is None) or all(cell is None for cell in cells):
            return cells[0]
        text_of: dict[str, str] = {}
        for header, cell in zip(self.headers, cells, strict=True):
            if cell is None:
                raise ValueError(f"column {header}: found nothing, expected a part of a value beside {self}")
            text_of[header] = cell.strip()
            if self.field == "speaker" and cell.strip().lower() in NOBODY:
                return cell.strip()  # nobody, whatever stands beside it
        if self.pattern is None:
            return "_".join(text_of[header] for header in self.headers)
        return _PLACEHOLDER.sub(lambda match: text_of[match[1]], self.pattern)

    def __str__(self) -> str:
        return ", ".join(self.headers)


def field_columns(path: Path, headers: Collection[str], data: Data, bare: bool) -> dict[str, FieldColumns]:
    """The columns of each clip field that the table has, and of `file`, a single column for all media.

    `data.columns` comes first, then ALIASES. With `bare`, a clip_id alone is enough. Raises ValueError where a column
    that is named is not there, and where no column makes a clip.
    """
    columns_of: dict[str, FieldColumns] = {}
    for field, columns in data.columns.items():
        if columns is not None and field != "votes":  # which are no text: see manifest.votes
            columns_of[field] = _configured(path, headers, field, columns)
    taken = {header for columns in columns_of.values() if columns.pattern is None for header in columns.headers}
    for field, aliases in ALIASES.items():
        header = next((alias for alias in aliases if alias in headers and alias not in taken), None)
        if field not in data.columns and header is not None:
            columns_of[field] = FieldColumns((header,))
    if "dialogue" not in columns_of and "turn" not in data.columns:
        columns_of.pop("turn", None)  # whatever it is, it orders no dialogue
    if "file" in columns_of:
        columns_of = {field: columns for field, columns in columns_of.items() if field not in ("video", "audio")}
    file_header = next((header for header in _FILE_HEADERS if header in headers), None)
    may_hold_media = not {"video", "audio"} <= unread_fields(data) and "file" not in data.columns
    if file_header is not None and not columns_of.keys() & {"video", "audio"} and may_hold_media:
        columns_of["file"] = FieldColumns((file_header,))
    has_content = columns_of.keys() & {"video", "audio", "text", "file"}
    if not has_content and not (bare and "clip_id" in columns_of):
        raise ValueError(
            f"{path}: found columns {', '.join(headers)}, expected at least one of video, audio, text, file: "
            "name them with data.columns.video=COLUMN (or audio, text, file" + (", clip_id)" if bare else ")")
        )
    return columns_of


def _configured(path: Path, headers: Collection[str], field: str, columns: str | tuple[str, ...]) -> FieldColumns:
    """The columns that data.columns names for a field."""
    pattern = columns if isinstance(columns, str) and columns not in headers else None
    names = (columns,) if isinstance(columns, str) else columns
    if pattern is not None:
        names = tuple(dict.fromkeys(_PLACEHOLDER.findall(pattern))) or (pattern,)
    for name in names:
        if name not in headers:
            raise ValueError(
                f"{path}: data.columns.{field}: found no column {name!r}, expected one of {', '.join(headers)}"
            )
    return FieldColumns(names, pattern, field)


def unread_fields(data: Data) -> set[str]:
    """The fields that `data.columns` says not to read."""
    return {field for field, columns in data.columns.items() if columns is None}


def unread_spans(headers: Collection[str], columns_of: Mapping[str, FieldColumns]) -> list[str]:
    """The columns that seem to say where in its file a clip begins and ends, where no such column is read."""
    if columns_of.keys() & {"start_s", "end_s"}:
        return []
    read = {header for columns in columns_of.values() for header in columns.headers}
    return [header for header in headers if header not in read and _SPAN_HEADER.fullmatch(header)]


def split_names(names: Counter[str], data: Data, column: str) -> dict[str, Split | None]:
    """The split that each name in a table's column means; None: its clips are left out.

    `names` counts the rows of each. `data.split_map` comes first. Names that nothing tells are left out of the result
    where `data.folds` takes the place of splits; otherwise they raise ValueError.
    """
    split_of: dict[str, Split | None] = {name: data.split_map[name] for name in names if name in data.split_map}
    others = [name for name in names if name not in split_of]
    split_of |= {name: _SPLIT_NAMES[name.lower()] for name in others if name.lower() in _SPLIT_NAMES}
    maybe_test = [name for name in others if _MAYBE_TEST.fullmatch(name.lower())]
    if len({name.lower() for name in maybe_test}) == 1 and "test" not in split_of.values():
        split_of |= dict.fromkeys(maybe_test, "test")
    unknown = [name for name in names if name not in split_of]
    if unknown and data.folds is None:
        counted = ", ".join(f"{name!r} in {names[name]} rows" for name in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        example = ", ".join(f"{name}: SPLIT" for name in unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        raise ValueError(
            f"column {column}: found {counted}{more}, expected one of {', '.join(SPLITS)}: say what each name means, "
            f"'data.split_map={{{example}}}' (null leaves its clips out), or data.columns.split=null to cut splits anew"
        )
    return split_of


def put_turn(values: dict[str, str], columns_of: Mapping[str, FieldColumns]) -> None:
    """Make the turn among a row's values a number, or leave it out where the cell says that there is none.

    Raises ValueError for text that is no number.
    """
    text = values.pop("turn", "")
    if not text or text in NO_TIME:
        return
    try:
        turn = float(text)
    except ValueError:
        turn = math.nan
    if not math.isfinite(turn):
        raise ValueError(
            f"column {columns_of['turn']}: found {text!r}, expected a number, the clip's place in its dialogue "
            "(data.columns.turn=null leaves it unread)"
        )
    values["turn"] = repr(turn)


def is_placeholder(field: str, value: str) -> bool:
    """Whether a cell's text says that there is no split, or no media, as `nan` does; other fields are not judged."""
    if field == "split":
        return value.lower() in NO_VALUE
    return field in ("video", "audio", "file") and value in _NO_FILE


def _text(cell: Any, column: str) -> str | None:
    """A cell as text, None where it is blank. Raises ValueError for a cell that holds neither text nor a number."""
    if is_blank(cell):
        return None
    if isinstance(cell, timedelta):
        cell = cell.total_seconds()
    if not isinstance(cell, str | int | float):
        raise ValueError(f"column {column}: found {type(cell).__name__}, expected text or a number")
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)  # whole numbers beside empty cells come as floats
    text = str(cell)
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates, which JSON's \u escapes can spell and nothing can store
        raise ValueError(f"column {column}: found half of a surrogate pair, expected Unicode text") from None
    return text
