"""Feature tables that other programs made: sources that hold a vector for each clip_id.

A source is a folder of `CLIP_ID.npy` (the layout of MERTools), an `.npz` (an array for each clip, or the arrays
`clip_id` and `feature`), or a CSV, TSV or Parquet table, or a folder of Parquet parts (a column of ids, beside columns
of numbers or one column of lists). A clip's array is (D,), or (T, D), which is averaged over T. NaN is an unknown
value; a clip whose values are all unknown is missing.
"""

import csv
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from emo_ray import store
from emo_ray.data.columns import ALIASES
from emo_ray.data.folders import files_below

VERSION = 1
OK, MISSING = "ok", "missing"
ID_COLUMNS = ALIASES["clip_id"]
_NOT_FEATURES = {name for names in ALIASES.values() for name in names}  # labels above all: a model would learn them
_EXPORT_COLUMNS = {"present", "status"}  # in emo_ray's own feature parts, beside clip_id and feature
_SUFFIXES = (".npz", ".csv", ".tsv", ".parquet")
_SAMPLE = 32  # clips whose most frequent width is taken for the source's
_CONTENT_BYTES = 64 * 2**20  # a larger folder is digested by names, sizes and times

Array = np.ndarray  # (D,) or (T, D)
Read = Callable[[str], Array | str | None]  # clip_id -> its array, or why it cannot be read, or None if it is absent


@dataclass(frozen=True)
class Source:
    """An opened source; `width` is its D."""

    name: str
    width: int
    read: Read


class Tables:
    """The opened sources of one modality, held by an actor. `dim` is the sum of their widths."""

    def __init__(self, paths: Sequence[str]):
        self.sources = [_open(Path(path)) for path in paths]
        self.dim = sum(source.width for source in self.sources)

    def __call__(self, clip_ids: Sequence[str]) -> pa.Table:
        """The clips' features in the order asked for: `clip_id`, `feature` (fixed-size list), `present`, `status`.

        A source that lacks a clip leaves its share NaN; a clip is present if any source has it.
        """
        values_BD = np.full((len(clip_ids), self.dim), np.nan, np.float32)
        statuses = []
        for row_D, clip_id in zip(values_BD, clip_ids, strict=True):
            start = 0
            status_of = {}
            for source in self.sources:
                values_D, status_of[source.name] = vector(source.read(clip_id), source.width)
                if values_D is not None:
                    row_D[start : start + source.width] = values_D
                start += source.width
            statuses.append(_joint_status(status_of))
        columns = {
            "clip_id": pa.array(clip_ids, pa.string()),
            "feature": pa.FixedSizeListArray.from_arrays(pa.array(values_BD.ravel()), self.dim),
            "present": pa.array(~np.isnan(values_BD).all(axis=1)),
            "status": pa.array(statuses, pa.string()),
        }
        return pa.table(columns)


def vector(array: Array | str | None, width: int) -> tuple[np.ndarray | None, str]:
    """A clip's features as float32 (D,) with status `ok`; or None with `missing` or `corrupt: why`.

    `array` is what a source's `read` returned.
    """
    if array is None:
        return None, MISSING
    if isinstance(array, str):
        return None, f"corrupt: {array}"
    if array.dtype.kind not in "fiub":
        return None, f"corrupt: values of type {array.dtype}, expected numbers"
    if array.ndim not in (1, 2):
        return None, f"corrupt: an array of shape {array.shape}, expected (D,) or (T, D)"
    if not array.size:
        return None, f"{MISSING}: empty"
    if array.shape[-1] != width:
        return None, f"corrupt: {array.shape[-1]} values, expected {width} as most clips have"
    with np.errstate(over="ignore"):
        values_TD = np.atleast_2d(array).astype(np.float64)
        is_number_TD = ~np.isnan(values_TD)
        sums_D = np.where(is_number_TD, values_TD, 0).sum(axis=0)
        counts_D = is_number_TD.sum(axis=0)
        values_D = np.where(counts_D > 0, sums_D / np.maximum(counts_D, 1), np.nan).astype(np.float32)
    if np.isinf(values_TD).any() or np.isinf(values_D).any():
        return None, "corrupt: infinite values"
    if np.isnan(values_D).all():
        return None, f"{MISSING}: all values are NaN"
    return values_D, OK


def clip_ids(path: Path) -> list[str]:
    """The ids of a source's clips; their features are read only where the format allows nothing else.

    Raises ValueError where there is no source, or a clip_id is empty or occurs twice.
    """
    kind = _kind(path)
    if kind == "npy":
        return _npy_ids(path)
    if kind == "npz":
        return _npz(path)[0]
    return _checked_ids(_arrow(path, ids_only=True), path)


def digest(paths: Sequence[str]) -> str:
    """Digest of the sources in their order: by content, large ones by names, sizes and times."""
    return store.digest(VERSION, [_stamp(Path(path)) for path in paths])


def _stamp(path: Path) -> object:
    kind = _kind(path)
    if not path.is_dir():
        return store.digest_path(path)
    files = [(file, file.stat()) for file in _files(path, kind)]
    if sum(stat.st_size for _, stat in files) <= _CONTENT_BYTES:
        return [(file.relative_to(path).as_posix(), store.digest_path(file)) for file, _ in files]
    return [(file.relative_to(path).as_posix(), stat.st_size, stat.st_mtime_ns) for file, stat in files]


def _kind(path: Path) -> str:
    """npy (a folder), npz, csv, tsv or parquet (a file or a folder). Raises ValueError for anything else."""
    expected = f"a folder of CLIP_ID.npy, or a file {', '.join(_SUFFIXES)}"
    if path.is_dir():
        kind = next((kind for kind in ("npy", "parquet") if _files(path, kind)), None)
        if kind is None:
            raise ValueError(f"{path}: found neither .npy nor .parquet files in it, expected {expected}")
        return kind
    if not path.is_file():
        raise ValueError(f"{path}: found no such file or folder, expected {expected}: correct tables.*")
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"{path}: found suffix {path.suffix!r}, expected {expected}")
    return path.suffix.lower()[1:]


def _files(folder: Path, kind: str) -> list[Path]:
    return sorted(folder / name for name in files_below(folder) if name.endswith(f".{kind}"))


def _open(path: Path) -> Source:
    kind = _kind(path)
    if kind == "npy":
        return _with_width(path, _npy_ids(path), lambda clip_id: _load(path / f"{clip_id}.npy"))
    if kind == "npz":
        return _with_width(path, *_npz(path))
    table = _arrow(path)
    ids = _checked_ids(table, path)
    features = table.drop_columns(_id_column(table.column_names, path))
    lists = [name for name in features.column_names if _is_list(features[name].type)]
    if lists and len(features.column_names) > 1:
        raise ValueError(f"{path}: found {', '.join(features.column_names)}, expected one column of lists, or numbers")
    rows = _list_rows(features[lists[0]], path) if lists else _number_rows(features, path)
    index = {clip_id: i for i, clip_id in enumerate(ids)}
    return _with_width(path, ids, lambda clip_id: rows(index[clip_id]) if clip_id in index else None)


def _with_width(path: Path, ids: Sequence[str], read: Read) -> Source:
    """The source, its width being the most frequent one among its first clips."""
    arrays = (read(clip_id) for clip_id in ids[:_SAMPLE])
    widths = Counter(a.shape[-1] for a in arrays if isinstance(a, np.ndarray) and a.size and a.dtype.kind in "fiub")
    if not widths:
        raise ValueError(f"{path}: found no array of numbers in its first clips, expected one for each: export it anew")
    return Source(path.stem if path.is_file() else path.name, widths.most_common(1)[0][0], read)


def _joint_status(status_of: dict[str, str]) -> str:
    """The status that all sources share; where they differ, every source's name and status."""
    statuses = set(status_of.values())
    if len(statuses) == 1:
        return statuses.pop()
    return "; ".join(f"{name}: {status}" for name, status in status_of.items())


def _npy_ids(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix().removesuffix(".npy") for file in _files(folder, "npy")]


def _load(file: Path) -> Array | str | None:
    try:
        return np.load(file, allow_pickle=False) if file.is_file() else None
    except (OSError, ValueError, EOFError) as error:
        return f"not readable as .npy: {error}"


def _npz(path: Path) -> tuple[list[str], Read]:
    """The ids of an .npz and how to read one of them. If it has an array for each clip, `Read` reads it from disk."""
    with _npz_errors(path):
        archive = np.load(path, allow_pickle=False)
    names = list(archive.files)
    if "clip_id" not in names:
        members = set(names)
        return names, lambda clip_id: _member(archive, clip_id) if clip_id in members else None
    with archive, _npz_errors(path):
        arrays = {name: archive[name] for name in names}
    ids_B = arrays.pop("clip_id")
    values = next(iter(arrays.values())) if len(arrays) == 1 else None
    if values is None or ids_B.ndim != 1 or len(values) != len(ids_B):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in {"clip_id": ids_B, **arrays}.items())
        raise ValueError(f"{path}: found {shapes}, expected clip_id (N,) and feature (N, D) or (N, T, D)")
    ids = [i.decode() if isinstance(i, bytes) else str(i) for i in ids_B.tolist()]
    index = {clip_id: i for i, clip_id in enumerate(_unique(ids, path))}
    return ids, lambda clip_id: values[index[clip_id]] if clip_id in index else None


@contextmanager
def _npz_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not readable as .npz of plain numbers and strings: {error}") from error


def _member(archive: np.lib.npyio.NpzFile, clip_id: str) -> Array | str:
    try:
        return archive[clip_id]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        return f"not readable: {error}"


def _arrow(path: Path, ids_only: bool = False) -> pa.Table:
    """The table of a CSV, TSV or Parquet source; every column of a CSV but the ids is read as numbers."""
    try:
        if path.suffix.lower() not in (".csv", ".tsv"):
            files = _files(path, "parquet") if path.is_dir() else [path]
            names = pq.read_schema(files[0]).names
            columns = [_id_column(names, path)] if ids_only else [name for name in names if name not in _EXPORT_COLUMNS]
            return pa.concat_tables([pq.read_table(file, columns=columns) for file in files])
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        with path.open(newline="", encoding="utf-8-sig") as stream:
            names = [name.strip() for name in next(csv.reader(stream, delimiter=delimiter), [])]
        id_column = _id_column(names, path)
        kinds = {name: pa.string() if name == id_column else pa.float64() for name in names}
        return pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=1),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=kinds, include_columns=[id_column] if ids_only else names
            ),
        )
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path}: not readable as clip ids and numbers: {error}") from error


def _id_column(names: Sequence[str], path: Path) -> str:
    """The first of ID_COLUMNS. Raises ValueError where there is none, or another column cannot be a feature."""
    id_column = next((name for name in ID_COLUMNS if name in names), None)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if id_column is None or twice:
        found = f"column {twice[0]!r} twice" if twice else f"columns {', '.join(names[:5])}, ..."
        raise ValueError(f"{path}: found {found}, expected {' or '.join(ID_COLUMNS)}, and features, each once")
    others = [name for name in names if name in _NOT_FEATURES and name != id_column]
    if others:
        raise ValueError(f"{path}: found column {others[0]!r}, expected features beside {id_column!r}: take it out")
    return id_column


def _checked_ids(table: pa.Table, path: Path) -> list[str]:
    ids = pc.cast(table[_id_column(table.column_names, path)], pa.string())
    return _unique(pc.utf8_trim_whitespace(pc.fill_null(ids, "")).to_pylist(), path)


def _unique(ids: list[str], path: Path) -> list[str]:
    """The ids. Raises ValueError where one is empty or occurs twice."""
    twice = [clip_id for clip_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: found clip_id {twice[0]!r} in several rows, expected each clip once: join them")
    if "" in ids:
        raise ValueError(f"{path}: row {ids.index('') + 1}: found no clip_id, expected one")
    return ids


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _list_rows(column: pa.ChunkedArray, path: Path) -> Callable[[int], Array]:
    """A function that gives the row of this number from one column of lists."""
    flat = pc.list_flatten(column)
    if not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)):
        raise ValueError(f"{path}: found lists of {flat.type}, expected lists of numbers")
    values = flat.to_numpy()
    ends_B = np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy())
    return lambda row: values[ends_B[row - 1] if row else 0 : ends_B[row]]


def _number_rows(features: pa.Table, path: Path) -> Callable[[int], Array]:
    """A function that gives the row of this number from columns of numbers."""
    values_BD = np.empty(features.shape, np.float64)
    for d, name in enumerate(features.column_names):
        kind = features[name].type
        if not any(is_kind(kind) for is_kind in (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)):
            raise ValueError(f"{path}: found {kind} in column {name!r}, expected numbers: take the column out")
        values_BD[:, d] = pc.cast(features[name], pa.float64()).to_numpy()
    if not features.num_columns:
        raise ValueError(f"{path}: found a column of ids alone, expected features beside it")
    return lambda row: values_BD[row]
