"""Tables of faces that another tool found: for each clip its boxes, by the number of the frame or by time.

A file holds all clips (column clip_id), or a folder a file for each (`CLIP_ID.csv`), CSV or Parquet. Known are plain
columns (frame or time_s, x, y, w, h, confidence, person) and the names that OpenFace, py-feat and insightface use.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

_SUFFIXES = (".csv", ".parquet")
_LANDMARKS = 68  # of OpenFace, from the brows to the chin
_FOREHEAD = 0.2  # of the landmarks' height, added above the brows, for boxes of detectors reach there
_SHORTEST_S = 0.02  # times of one frame, written by two programs, may differ by so much
_CLIP, _PERSON = "clip_id", ("person", "face_id", "identity")
_FRAME, _TIME = ("frame",), ("time_s", "timestamp", "time")
_CONFIDENCE = ("confidence", "facescore", "det_score", "score")
_SIZED = (("x", "y", "w", "h"), ("x", "y", "width", "height"),
          ("facerectx", "facerecty", "facerectwidth", "facerectheight"))  # fmt: skip
_CORNERS = (("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"), ("bbox_0", "bbox_1", "bbox_2", "bbox_3"))
_MARKS = tuple(f"{axis}_{i}" for axis in "xy" for i in range(_LANDMARKS))
_EXPECTED = "clip_id, frame or time_s, x, y, w, h and, if there are any, confidence and person"


@dataclass(frozen=True)
class ClipBoxes:
    """The boxes of one clip; frames are counted from 0, and times from the beginning of the file."""

    boxes_N5: np.ndarray  # as in `faces`
    numbers_N: np.ndarray | None  # float64; of the frames
    times_s_N: np.ndarray | None
    people_N: np.ndarray | None  # str

    def at(self, number: int | None, time_s: float | None) -> tuple[np.ndarray, Sequence[str]]:
        """The boxes of a frame, and whose they are; by its time where both know times, else by its number."""
        if self.times_s_N is not None and time_s is not None:
            distances_N = np.abs(self.times_s_N - time_s)
            nearest = distances_N.min(initial=np.inf)
            rows_N = (distances_N == nearest) & (nearest <= self._reach_s)
        elif self.numbers_N is not None and number is not None:
            rows_N = self.numbers_N == number
        else:
            rows_N = np.zeros(len(self.boxes_N5), bool)
        return self.boxes_N5[rows_N], [] if self.people_N is None else self.people_N[rows_N].tolist()

    @property
    def _reach_s(self) -> float:
        """How far from a frame's time its row may be: half of the usual step between times."""
        steps = np.diff(np.unique(self.times_s_N)) if self.times_s_N is not None else np.zeros(0)
        return max(_SHORTEST_S, float(np.median(steps)) / 2 if len(steps) else 0.0)


def check(path: Path) -> None:
    """Raise ValueError where there is no such table, or its columns are no boxes."""
    _columns(_first_file(path), needs_clip=not path.is_dir())


def read(path: Path, clip_ids: Collection[str]) -> dict[str, ClipBoxes]:
    """The boxes of these clips; clips that have none are left out. Raises ValueError for a table that is damaged."""
    if path.is_dir():
        files = {file.relative_to(path).with_suffix("").as_posix(): file for file in _files(path)}
        return {clip_id: _boxes(_table(files[clip_id], False)) for clip_id in clip_ids if clip_id in files}
    table = _table(path, True)
    table = table.filter(pc.is_in(table[_CLIP], pa.array(list(clip_ids), pa.string())))
    row_of: dict[str, list[int]] = {}
    for row, clip_id in enumerate(table[_CLIP].to_pylist()):
        row_of.setdefault(clip_id, []).append(row)
    return {clip_id: _boxes(table.take(rows)) for clip_id, rows in row_of.items()}


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in _SUFFIXES]


def _first_file(path: Path) -> Path:
    expected = f"a table ({', '.join(_SUFFIXES)}) with {_EXPECTED}, or a folder of CLIP_ID.csv"
    if path.is_dir():
        files = _files(path)
        if not files:
            raise ValueError(f"{path}: found no table in it, expected {expected}: correct media.face.boxes")
        return files[0]
    if not path.is_file() or path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"{path}: found no such table, expected {expected}: correct media.face.boxes")
    return path


def _columns(file: Path, needs_clip: bool) -> dict[str, str]:
    """The columns to read: header in lower case -> header. Raises ValueError where boxes or frames are missing."""
    try:
        headers = _csv_headers(file) if file.suffix.lower() == ".csv" else pq.read_schema(file).names
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: found no readable table: {error}") from error
    names = {header.strip().lower(): header for header in headers}
    shape = next((names_of for names_of in (*_SIZED, *_CORNERS, _MARKS) if set(names_of) <= names.keys()), None)
    ways = [name for group in (_FRAME, _TIME) for name in group if name in names]
    if shape is None or not ways or (needs_clip and _CLIP not in names):
        shown = ", ".join(headers[:12])
        raise ValueError(f"{file}: found columns {shown}, expected {_EXPECTED}: correct media.face.boxes")
    others = (_CLIP, *_PERSON, *_FRAME, *_TIME, *_CONFIDENCE, "success")
    return {name: names[name] for name in (*shape, *others) if name in names}


def _table(file: Path, needs_clip: bool) -> pa.Table:
    """The columns of a table under their names in lower case; ids are text, all else numbers."""
    columns = _columns(file, needs_clip)
    text = {_CLIP, *_PERSON}
    types = {name: pa.string() if name in text else pa.float64() for name in columns}
    try:
        if file.suffix.lower() == ".csv":
            table = pyarrow.csv.read_csv(
                file,
                read_options=pyarrow.csv.ReadOptions(column_names=_csv_headers(file), skip_rows=1, use_threads=False),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=list(columns.values()),
                    column_types={columns[name]: kind for name, kind in types.items()},
                ),
            )
        else:
            table = pq.read_table(file, columns=list(columns.values()))
        values = {name: table[header].cast(types[name]) for name, header in columns.items()}
        return pa.table({n: pc.utf8_trim_whitespace(column) if n in text else column for n, column in values.items()})
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{file}: found a table that cannot be read as boxes: {error}") from error


def _csv_headers(file: Path) -> list[str]:
    """The headers of a CSV file; OpenFace writes spaces in front of them."""
    with file.open(encoding="utf-8-sig") as lines:
        return [header.strip().strip('"') for header in lines.readline().split(",")]


def _boxes(table: pa.Table) -> ClipBoxes:
    columns = set(table.column_names)
    if "success" in columns:  # OpenFace writes rows of frames in which it sees nobody, too
        table = table.filter(pc.greater(table["success"], 0))

    def numbers(name: str | None) -> np.ndarray | None:
        return None if name is None else table[name].to_numpy().astype(np.float64)

    def first_of(names: Sequence[str]) -> str | None:
        return next((name for name in names if name in columns), None)

    boxes_N4 = _sides(table, columns)
    confidence_N = numbers(first_of(_CONFIDENCE))
    confidence_N = np.ones(len(boxes_N4)) if confidence_N is None else confidence_N
    person = first_of(_PERSON)
    return ClipBoxes(
        np.concatenate([boxes_N4, confidence_N[:, None]], axis=1),
        numbers(first_of(_FRAME)),
        numbers(first_of(_TIME)),
        None if person is None else table[person].fill_null("").to_numpy(zero_copy_only=False),
    )


def _sides(table: pa.Table, columns: Collection[str]) -> np.ndarray:
    """Left, top, width and height of every row, float64 (N, 4)."""
    for names in _SIZED:
        if set(names) <= set(columns):
            return np.stack([table[name].to_numpy() for name in names], axis=1)
    for names in _CORNERS:
        if set(names) <= set(columns):
            left, top, right, bottom = (table[name].to_numpy() for name in names)
            return np.stack([left, top, right - left, bottom - top], axis=1)
    xs, ys = (
        np.stack([table[name].to_numpy() for name in names]) for names in (_MARKS[:_LANDMARKS], _MARKS[_LANDMARKS:])
    )
    height = ys.max(axis=0) - ys.min(axis=0)
    top = ys.min(axis=0) - _FOREHEAD * height
    return np.stack([xs.min(axis=0), top, xs.max(axis=0) - xs.min(axis=0), (1 + _FOREHEAD) * height], axis=1)
