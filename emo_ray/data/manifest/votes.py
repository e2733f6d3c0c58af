"""Annotators' votes in a table: a column for each class, or one column of lists."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emo_ray.config.data_settings import Data
from emo_ray.data.manifest.table_files import Row, is_blank

PREFIX = "votes."  # of headers: votes.happy counts the annotators who took a clip for happy
Votes = tuple[tuple[str, float], ...]  # label -> how many annotators, sorted by label; none is 0
_SEPARATOR = re.compile(r"[,;|/]")


@dataclass(frozen=True)
class VoteColumns:
    """The columns that hold votes: a number for each label, or one list of labels."""

    label_of: Mapping[str, str]  # header -> label
    header: str | None = None  # of the lists

    def votes(self, row: Row) -> Votes | None:
        """The votes for a row's clip, None without any. Raises ValueError saying what is wrong with a cell."""
        if self.header is not None:
            counts = _listed(row[self.header], self.header)
        else:
            counts = {label: _number(row[header], header) for header, label in self.label_of.items()}
        for label in counts:
            try:
                label.encode()
            except UnicodeEncodeError:  # lone surrogates, which nothing can store
                raise ValueError(
                    f"column {self.header}: found half of a surrogate pair, expected Unicode text"
                ) from None
        return sorted_votes(counts)


def vote_columns(path: Path, rows: Sequence[tuple[int, Row]], data: Data) -> VoteColumns | None:
    """The columns that `data.columns.votes` names, else those whose headers begin with `votes.`, else lists in `votes`.

    None without any. Raises ValueError where a column that is named is not there.
    """
    columns, headers = data.columns.get("votes"), list(rows[0][1])
    holds_lists = any(isinstance(row.get("votes"), list | Mapping) for _, row in rows)
    if holds_lists and "votes" not in data.columns:
        columns = "votes"
    if columns is None:
        named = {} if "votes" in data.columns else {h: h.removeprefix(PREFIX) for h in headers if h.startswith(PREFIX)}
        return VoteColumns(named) if named else None
    names = (columns,) if isinstance(columns, str) else columns
    if missing := [name for name in names if name not in headers]:
        raise ValueError(
            f"{path}: data.columns.votes: found no column {missing[0]!r}, expected one of {', '.join(headers)}"
        )
    if isinstance(columns, str):
        return VoteColumns({}, columns)
    return VoteColumns({name: name.removeprefix(PREFIX) for name in names})


def sorted_votes(counts: Mapping[str, float]) -> Votes | None:
    """The labels that anybody voted for, in order; None where nobody did."""
    return tuple(sorted((label, float(count)) for label, count in counts.items() if count)) or None


def majority(votes: Votes) -> str | None:
    """The label with the most votes; None where several have as many."""
    most = max(count for _, count in votes)
    labels = [label for label, count in votes if count == most]
    return labels[0] if len(labels) == 1 else None


def _number(cell: Any, header: str) -> float:
    """How many votes a cell states. Raises ValueError for anything but a number of 0 or more."""
    if is_blank(cell):
        return 0.0
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(
            f"column {header}: found {cell!r}, expected how many annotators voted for it (data.columns.votes=null "
            "leaves votes unread)"
        )
    return number


def _listed(cell: Any, header: str) -> dict[str, float]:
    """The votes in a list of labels, an object of label -> number, or a text of either or of labels and separators."""
    if is_blank(cell):
        return {}
    if isinstance(cell, str) and cell.strip().startswith(("[", "{")):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            raise ValueError(f"column {header}: found {cell[:40]!r}, expected JSON behind its bracket") from None
    if isinstance(cell, str):
        cell = _SEPARATOR.split(cell)
    if isinstance(cell, list) and all(isinstance(pair, tuple) for pair in cell):  # a map of Parquet
        cell = dict(cell)
    if isinstance(cell, Mapping):
        return {str(label).strip(): _number(number, header) for label, number in cell.items()}
    if not isinstance(cell, list) or not all(isinstance(label, str) for label in cell):
        raise ValueError(
            f"column {header}: found {type(cell).__name__}, expected a list of labels, one for each annotator, or "
            "label -> number"
        )
    return dict(Counter(label.strip() for label in cell if label.strip()))
