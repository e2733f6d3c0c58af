"""Which columns of a feature table are ids, which are features, and which can be neither.

A column that numbers the rows is no feature: in a table that is sorted by class, a model would read the class off it.
pandas writes such a column without a name, or as `Unnamed: 0` or `index`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emo_ray.data.manifest.columns import ALIASES

ID_COLUMNS = ALIASES["clip_id"]
_NOT_FEATURES = {name for names in ALIASES.values() for name in names}  # labels above all: a model would learn them
_ROW_NUMBER = re.compile(
    r"|unnamed: ?\d+(_level_\d+)?|__index_level_\d+__|(level|index)_\d+|index|idx|row(_?(id|num|number|nr|names?))?",
    re.IGNORECASE,
)
_FEWEST_ROWS = 8  # in fewer, whole numbers may run by chance


def id_column(names: Sequence[str], path: Path) -> str:
    """The first of ID_COLUMNS. Raises ValueError where there is none, or another column cannot be a feature."""
    column = next((name for name in ID_COLUMNS if name in names), None)
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if column is None or twice:
        shown = ", ".join(name or "(one without a name)" for name in names[:5])
        found = f"column {twice[0]!r} twice" if twice else f"columns {shown}, ..."
        raise ValueError(f"{path}: found {found}, expected {' or '.join(ID_COLUMNS)}, and features, each once")
    others = [name for name in names if name in _NOT_FEATURES and name != column]
    if others:
        raise ValueError(f"{path}: found column {others[0]!r}, expected features beside {column!r}: take it out")
    return column


def without_blanks(table: pa.Table, path: Path) -> pa.Table:
    """The table without rows that hold nothing, and without columns of row numbers' names that hold nothing.

    Spreadsheets export both. Raises ValueError where a column that is named as row numbers holds something.
    """
    ids = id_column(table.column_names, path)
    numbered = [name for name in table.column_names if name != ids and _ROW_NUMBER.fullmatch(name.strip())]
    full = [name for name in numbered if not pc.all(_is_blank(table[name])).as_py()]
    if full:
        raise ValueError(_row_numbers(path, full))
    table = table.drop_columns(numbered)
    blank_B = _is_blank(table[ids])
    if not pc.any(blank_B).as_py():
        return table
    for name in table.column_names:
        blank_B = pc.and_(blank_B, _is_blank(table[name]))
    return table.filter(pc.invert(blank_B))


def clip_ids(table: pa.Table, path: Path) -> list[str]:
    """The ids of a table's rows as text. Raises ValueError where one is empty or occurs twice."""
    ids = pc.cast(table[id_column(table.column_names, path)], pa.string())
    return unique(pc.utf8_trim_whitespace(pc.fill_null(ids, "")).to_pylist(), path)


def unique(ids: list[str], path: Path) -> list[str]:
    """The ids. Raises ValueError where one is empty or occurs twice."""
    if "" in ids:
        raise ValueError(f"{path}: row {ids.index('') + 1}: found no clip_id, expected one")
    twice = [clip_id for clip_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: found clip_id {twice[0]!r} in several rows, expected each clip once: join them")
    return ids


def check_values(values_BD: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Raises ValueError where a column's values are row numbers, in any order, or rise by the same step in each row.

    A column of one value only is a feature: it is of no use and does no harm, and real feature sets have many such.
    """
    if len(values_BD) < _FEWEST_ROWS:
        return
    with np.errstate(invalid="ignore"):
        head_BD = values_BD[:_FEWEST_ROWS].astype(np.float64)
        is_whole_D = (head_BD == np.round(head_BD)).all(axis=0)
        steady_D = np.array([_is_steady(head_B) for head_B in head_BD.T], bool)
        columns = np.flatnonzero(is_whole_D | steady_D).tolist()
        numbering = [names[d] for d in columns if _numbers_rows(values_BD[:, d].astype(np.float64))]
    if numbering:
        raise ValueError(_row_numbers(path, numbering))


def _numbers_rows(values_B: np.ndarray) -> bool:
    if not np.isfinite(values_B).all():
        return False
    in_order_B = np.sort(values_B)
    return _is_steady(values_B) or bool((np.diff(in_order_B) == 1).all() and (in_order_B == np.round(in_order_B)).all())


def _is_steady(values_B: np.ndarray) -> bool:
    """Whether every value differs from the one before by the same step, which is not 0."""
    steps_B = np.diff(values_B)
    rounding = 4 * np.spacing(np.abs(values_B).max()) if np.isfinite(values_B).all() else np.nan
    return bool(abs(steps_B[0]) > 8 * rounding and (np.abs(steps_B - steps_B[0]) <= rounding).all())


def _row_numbers(path: Path, names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) if name.strip() else "one without a name" for name in names[:5])
    more = ", ..." if len(names) > 5 else ""
    return (
        f"{path}: found columns that number the rows ({shown}{more}), expected features alone: a model would learn the "
        "order of the clips. Take them out, in pandas with to_csv(index=False)"
    )


def _is_blank(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each value is null, NaN, or text of white space alone."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(column, ""))), 0)
    return pc.is_null(column, nan_is_null=pa.types.is_floating(column.type))
