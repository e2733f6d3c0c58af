"""The rows of a table file: CSV, TSV, JSONL or Parquet, whatever is wrong with it said in one message."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from emo_ray.data import lfs
from emo_ray.data.manifest.encodings import read_text

_MOST_COLUMNS = 1000  # of JSONL, where every row may bring keys of its own
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
Row = dict[str, Any]  # header -> cell: text, or whatever JSON and Parquet hold


def read_rows(path: Path, encoding: str | None = None) -> list[tuple[int, Row]]:
    """The rows of a table with their numbers (the first data row is row 1), without those in which nothing stands.

    Every row has the same headers. `encoding` is that of the text, None for UTF-8. Raises ValueError naming the file,
    and the row where one is at fault, for a file that is not there, is of another kind, or is damaged.
    """
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    suffix = path.suffix.lower()
    if not path.is_file():
        raise ValueError(f"{path}: found no such file, expected a manifest (CSV, JSONL or Parquet) or a folder")
    if suffix not in readers:
        advice = ": save the sheet as CSV UTF-8" if suffix in (".xlsx", ".xls", ".ods") else ""
        raise ValueError(f"{path}: found suffix {path.suffix!r}, expected one of {', '.join(readers)}{advice}")
    if suffix == ".parquet" and encoding is not None:
        raise ValueError(f"{path}: found data.encoding={encoding}, expected null: Parquet holds Unicode")
    try:
        rows = readers[suffix](path, encoding)
    except OSError as error:
        raise ValueError(f"{path}: not readable as {suffix[1:]}: {error}") from error
    return [(number, row) for number, row in rows if not all(map(is_blank, row.values()))]


def is_blank(cell: Any) -> bool:
    """Whether a cell holds nothing: null, NaN, or white space."""
    return cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and cell != cell)


def check_headers(path: Path, headers: Sequence[str]) -> None:
    """Raises ValueError where a header occurs twice."""
    twice = [header for header, count in Counter(headers).items() if header and count > 1]
    if twice:
        raise ValueError(f"{path}: found column {twice[0]!r} twice, expected it once: rename or delete one")


def _csv_rows(path: Path, encoding: str | None) -> list[tuple[int, Row]]:
    text = read_text(path, encoding)
    rows: list[tuple[int, Row]] = []
    try:
        delimiter = _delimiter(path, text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        headers = [header.strip() for header in next(reader, [])]
        check_headers(path, headers)
        for number, cells in enumerate(filter(None, reader), start=1):
            if len(cells) == len(headers):
                rows.append((number, dict(zip(headers, cells, strict=True))))
            elif any(cell.strip() for cell in cells):
                raise ValueError(
                    f"{path}: row {number}: found {len(cells)} cells, expected {len(headers)}: quote "
                    f"cells with {_DELIMITERS[delimiter]}, by which this file separates them"
                )
    except csv.Error as error:
        raise ValueError(f"{path}: not readable as {path.suffix[1:].lower()}: {error}") from error
    return rows


def _delimiter(path: Path, text: str) -> str:
    """What separates the cells of a table: semicolons where the header has them and no comma, as Excel may write it."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    first_line = text.partition("\n")[0]
    columns = {sign: len(next(csv.reader([first_line], delimiter=sign), [])) for sign in ",;"}
    return ";" if columns[","] == 1 < columns[";"] else ","


def _jsonl_rows(path: Path, encoding: str | None) -> list[tuple[int, Row]]:
    rows: list[tuple[int, Row]] = []
    headers: dict[str, None] = {}
    lines = filter(str.strip, io.StringIO(read_text(path, encoding), newline=None))
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: row {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}: row {number}: found {type(row).__name__}, expected an object per line")
        headers |= dict.fromkeys(row)
        if len(headers) > _MOST_COLUMNS:  # every row gets a cell for each: small files would fill the memory
            raise ValueError(f"{path}: row {number}: found more than {_MOST_COLUMNS} different keys, expected columns")
        rows.append((number, row))
    return [(number, {header: row.get(header) for header in headers}) for number, row in rows]


def _parquet_rows(path: Path, encoding: str | None) -> list[tuple[int, Row]]:
    if lfs.is_pointer(path):
        raise ValueError(f"{path}: found a Git LFS pointer, expected the file that it stands for: {lfs.ADVICE}")
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        rows = list(enumerate(table.to_pylist(), start=1))
    except Exception as error:  # Arrow raises nearly any kind for a damaged file
        raise ValueError(f"{path}: not readable as parquet: {type(error).__name__}: {error}") from error
    check_headers(path, table.column_names)
    return rows
