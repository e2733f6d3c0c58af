"""The CSV tables and texts of known corpora: read whole, with errors that name the file."""

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from emo_ray.data import lfs
from emo_ray.data.folders import Listing, printable

_LONGEST_HEADER = 2**20  # bytes


def headers(listing: Listing) -> dict[str, list[str]]:
    """The first line of every CSV directly in a folder, by file name and in order of these names."""
    header_of = {}
    for name in listing.files:
        if "/" not in name and name.lower().endswith(".csv"):
            with suppress(OSError, csv.Error), (listing.path / name).open("rb") as stream:
                first_line = stream.readline(_LONGEST_HEADER).decode("utf-8-sig", errors="replace")
                header_of[name] = next(csv.reader([first_line]), [])
    return header_of


def rows(path: Path, encodings: Sequence[str] = ("utf-8-sig",), columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """A CSV's rows. Raises ValueError where it cannot be read, lacks a column, or a row has another length."""
    reader = csv.DictReader(io.StringIO(decode(path, encodings), newline=""), strict=True)
    try:
        header = reader.fieldnames or []
        table_rows = list(reader)
    except csv.Error as error:
        raise ValueError(f"{path}: not readable as csv: {error}") from error
    if missing := [column for column in columns if column not in header]:
        raise ValueError(f"{path}: found columns {', '.join(header)}, expected {', '.join(missing)} too")
    for i, row in enumerate(table_rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"{path}: row {i}: found too few or too many cells, expected {len(header)}: quote commas")
    return table_rows


def decode(path: Path, encodings: Sequence[str] = ("utf-8-sig",)) -> str:
    """A file's text in the first of the encodings that fits.

    Raises ValueError where none does, and for files that cannot be read or that stand in the place of others.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: found a file that cannot be read: {error.strerror}") from error
    if lfs.is_pointer_text(content):
        raise ValueError(f"{path}: found a Git LFS pointer, expected text: {lfs.ADVICE}")
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            return content.decode(encoding)
    raise ValueError(f"{path}: found bytes that are not {' or '.join(encodings)}, expected text: save it as UTF-8")


def put(values: dict[str, str], name: str, value: str, where: Path) -> None:
    """Store a value that is not blank. Raises ValueError where the name has another value already."""
    name = name.strip()
    value = value.strip()
    if value and values.setdefault(name, value) != value:
        place = printable(str(where))
        raise ValueError(f"{place}: found {values[name]!r} and {value!r} for {name!r}, expected one: remove the other")
