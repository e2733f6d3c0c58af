"""Spans: columns that say from when to when in its file a row is a clip, as other people's tables say it.

Seconds are read from columns called `start_s` and `end_s`, or that `data.columns` names so. Times of pandas, such as
`0 days 00:00:01.5`, tell their unit themselves, so columns `start` and `end` that hold nothing else are read too, which
is the form of audformat. So are `offset` and `duration` beside `audio_filepath`, which is the form of NeMo.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from emo_ray.config.data_settings import Data
from emo_ray.data.manifest.columns import NO_TIME, FieldColumns
from emo_ray.data.manifest.table_files import Row, is_blank

START, END, DURATION = "start_s", "end_s", "duration_s"
_TIME = re.compile(r"(?:(\d+) days?,?)?(?:(?:^| )(?:(\d+):)?(\d+):([0-5]?\d(?:[.,]\d+)?))?", re.ASCII)


def span_columns(
    rows: Sequence[tuple[int, Row]], headers: Collection[str], columns_of: Mapping[str, FieldColumns], data: Data
) -> dict[str, FieldColumns]:
    """The columns of other people's forms, where neither `data.columns` nor the names of ours say where spans are."""
    taken = {header for columns in columns_of.values() for header in columns.headers}
    if {START, END} & (columns_of.keys() | data.columns.keys()):
        return {}
    if {"start", "end"} <= set(headers) - taken and all(_are_times(rows, header) for header in ("start", "end")):
        return {START: FieldColumns(("start",)), END: FieldColumns(("end",))}
    if {"offset", "duration", "audio_filepath"} <= set(headers) and not {"offset", "duration"} & taken:
        return {START: FieldColumns(("offset",)), DURATION: FieldColumns(("duration",))}
    return {}


def put_span(values: dict[str, str], columns_of: Mapping[str, FieldColumns]) -> None:
    """Make the span among a row's values two numbers in seconds, or leave it out where it is the whole file.

    Raises ValueError saying which column is wrong.
    """
    seconds_of = {
        field: _seconds(values.pop(field), columns_of[field])
        for field in (START, END, DURATION)
        if field in values and field in columns_of
    }
    start_s, end_s = seconds_of.get(START), seconds_of.get(END)
    if DURATION in columns_of:  # of the whole file where no offset stands beside it
        duration_s = seconds_of.get(DURATION)
        end_s = None if start_s is None or duration_s is None else start_s + duration_s
    if end_s is None and not start_s:  # a start of 0 alone is how audformat says that a row is the whole file
        return
    if start_s is None or end_s is None:
        present, absent = (END, START) if start_s is None else (START, END)
        raise ValueError(
            f"column {columns_of.get(present, present)}: found {present} without {absent}, expected both or neither "
            f"(data.columns.{present}=null leaves it unread)"
        )
    if not 0 <= start_s < end_s < math.inf:
        raise ValueError(
            f"column {columns_of[START]}: found a span from {start_s:g} to {end_s:g} s, expected 0 <= start < end"
        )
    values[START], values[END] = repr(start_s), repr(end_s)


def _seconds(text: str, column: FieldColumns) -> float | None:
    """A cell as seconds; None for a word that says that there is no time."""
    text = text.strip()
    if text in NO_TIME:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    if not (match := _TIME.fullmatch(text)):
        raise ValueError(f"column {column}: found {text!r}, expected seconds, or a time such as 00:01:02.500")
    days, hours, minutes, seconds = match.groups(default="0")
    return float(days) * 86400 + float(hours) * 3600 + float(minutes) * 60 + float(seconds.replace(",", "."))


def _are_times(rows: Sequence[tuple[int, Row]], header: str) -> bool:
    """Whether the cells of a column that hold something are times of pandas, and there are some."""
    cells = [cell for cell in (row[header] for _, row in rows) if not is_blank(cell) and str(cell) not in NO_TIME]
    return bool(cells) and all(map(_is_time, cells))


def _is_time(cell: Any) -> bool:
    return isinstance(cell, timedelta) or (isinstance(cell, str) and bool(_TIME.fullmatch(cell.strip())))
