"""Readers of feature tables that other programs made: which clips a file or folder holds, and the array of each.

Whatever numpy, zipfile or Arrow raise for a damaged file is one message that names it. Of a folder of `CLIP_ID.npy` and
of an `.npz` with an array for each clip, a damaged clip is a reason, and the others are read.
"""

import csv
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from emo_ray import trouble
from emo_ray.data import lfs
from emo_ray.data.folders import list_folder
from emo_ray.data.tables import columns as feature_columns

_SUFFIXES = (".npz", ".csv", ".tsv", ".parquet")
_NO_PICKLES = ": pickles may hold programs, so none is read; save it with numpy.savez(FILE, **{clip_id: array})"
_ADVICE = {
    ".npy": ": one array has no clip ids beside it; save it with numpy.savez(FILE, clip_id=ids, feature=array)",
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth"), _NO_PICKLES),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), ": save the sheet as .csv"),
}
_EXPORT_COLUMNS = {"present", "status"}  # in emo_ray's own feature parts, beside clip_id and feature
_LONGEST_REASON = 200  # characters of a library's error
_LARGE_BYTES, _MOST_RATIO = 2**28, 100  # an archive that unpacks to more, and to so many times its size, is no table

Array = np.ndarray  # (D,) or (T, D)
Read = Callable[[str], Array | str | None]  # clip_id -> its array, or why it cannot be read, or None if it is absent


@dataclass(frozen=True)
class FeatureFile:
    """An opened file or folder: the ids of its clips, and how to read the array of one."""

    ids: list[str]
    read: Read


def open_file(path: Path) -> FeatureFile:
    """Open a source. Raises ValueError where there is none, it cannot be read, or columns cannot be features."""
    kind = kind_of(path)
    if kind == "npy":
        return _npy_folder(path)
    return _npz(path) if kind == "npz" else _table(path)


def ids_of(path: Path) -> list[str]:
    """The ids of a source's clips; their features are read only where the format allows nothing else.

    Raises ValueError where there is no source, or a clip_id is empty or occurs twice.
    """
    if kind_of(path) != "parquet":
        return open_file(path).ids
    files = files_of(path, "parquet")
    column = feature_columns.id_column(_parquet_names(files, path), path)
    ids = _read_parquet(files, [column], path)
    with _one_message(path):
        is_blank = pc.any(pc.equal(pc.utf8_length(pc.fill_null(pc.cast(ids[column], pa.string()), "")), 0)).as_py()
    return open_file(path).ids if is_blank else _clip_ids(ids, path)


def kind_of(path: Path) -> str:
    """npy (a folder), npz, csv, tsv or parquet (a file or a folder). Raises ValueError for anything else."""
    expected = f"a folder of CLIP_ID.npy, or a file {', '.join(_SUFFIXES)}"
    if path.is_dir():
        kind = next((kind for kind in ("npy", "parquet") if files_of(path, kind)), None)
        if kind is None:
            raise ValueError(f"{path}: found neither .npy nor .parquet files in it, expected {expected}")
        return kind
    if not path.is_file():
        raise ValueError(f"{path}: found no such file or folder, expected {expected}: correct tables.*")
    if path.suffix.lower() not in _SUFFIXES:
        advice = _ADVICE.get(path.suffix.lower(), "")
        raise ValueError(f"{path}: found suffix {path.suffix!r}, expected {expected}{advice}")
    return path.suffix.lower()[1:]


def files_of(path: Path, kind: str) -> list[Path]:
    """The files of this kind in a folder, sorted; or the file that the path is.

    Raises ValueError for a folder with links that lead out of it.
    """
    if not path.is_dir():
        return [path]
    listing = list_folder(path, "copy what they lead to into it, as cp -rL does")
    return sorted(path / name for name in listing.files if name.endswith(f".{kind}"))


def _npy_folder(folder: Path) -> FeatureFile:
    file_of = {f.relative_to(folder).as_posix().removesuffix(".npy"): f for f in files_of(folder, "npy")}
    return FeatureFile(list(file_of), lambda clip_id: _load(file_of[clip_id]) if clip_id in file_of else None)


def _load(file: Path) -> Array | str | None:
    """The array in a file, or why it cannot be read; None for a link that leads nowhere."""
    try:
        if not file.is_file():
            return None
        if lfs.is_pointer(file):
            return f"a Git LFS pointer: {lfs.ADVICE}"
        array = np.load(file, allow_pickle=False)
    except Exception as error:  # of many kinds: tokenize.TokenError, MemoryError, zipfile.BadZipFile, ...
        trouble.raise_of_place(error, file)
        return f"not readable as .npy: {_reason(error)}"
    return array if isinstance(array, np.ndarray) else "not readable as .npy: an archive"


def _npz(path: Path) -> FeatureFile:
    """An archive that has an array for each clip, which is read when it is asked for, or `clip_id` and one other."""
    with _one_message(path):
        _check_unpacked(path)
        archive: Any = np.load(path, allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise ValueError(f"{path}: found an array as in .npy, expected an archive: save it with numpy.savez")
    names = list(archive.files)
    if "clip_id" not in names:
        members = set(names)
        return FeatureFile(names, lambda clip_id: _member(archive, clip_id) if clip_id in members else None)
    with archive, _one_message(path):
        arrays = {name: np.asarray(archive[name]) for name in names}
        ids_B = arrays.pop("clip_id")
        ids = [i.decode() if isinstance(i, bytes) else str(i) for i in np.atleast_1d(ids_B).tolist()]
    values = next(iter(arrays.values())) if len(arrays) == 1 else None
    if values is None or ids_B.ndim != 1 or not values.ndim or len(values) != len(ids):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in {"clip_id": ids_B, **arrays}.items())
        raise ValueError(f"{path}: found {shapes}, expected clip_id (N,) and feature (N, D) or (N, T, D)")
    index = {clip_id: i for i, clip_id in enumerate(feature_columns.unique(ids, path))}
    if values.ndim == 2 and values.dtype.kind in "fiub":
        feature_columns.check_values(values, _places(values.shape[1]), path)
    return FeatureFile(ids, lambda clip_id: values[index[clip_id]] if clip_id in index else None)


def _check_unpacked(path: Path) -> None:
    """Raises ValueError for an archive that is small and very large inside, as no features are."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    packed = path.stat().st_size
    if unpacked > _LARGE_BYTES and unpacked > _MOST_RATIO * packed:
        raise ValueError(f"found {packed / 1e6:.1f} MB that unpack to {unpacked / 1e6:.0f} MB, expected features")


def _member(archive: Any, clip_id: str) -> Array | str:
    try:
        array = archive[clip_id]
    except Exception as error:  # of many kinds: zlib.error, RuntimeError of a password, NotImplementedError, ...
        trouble.raise_of_place(error, f"{archive.zip.filename}: {clip_id}")
        return f"not readable: {_reason(error)}"
    return array if isinstance(array, np.ndarray) else "not readable: no array"


def _table(path: Path) -> FeatureFile:
    """A CSV, TSV or Parquet table: a column of ids, beside columns of numbers or one column of lists."""
    table = _read_csv(path) if path.suffix.lower() in (".csv", ".tsv") else _read_features(path)
    with _one_message(path):
        table = feature_columns.without_blanks(table, path)
    ids = _clip_ids(table, path)
    features = table.drop_columns(feature_columns.id_column(table.column_names, path))
    lists = [name for name in features.column_names if _is_list(features[name].type)]
    if lists and len(features.column_names) > 1:
        raise ValueError(f"{path}: found {', '.join(features.column_names)}, expected one column of lists, or numbers")
    rows = _list_rows(features[lists[0]], path) if lists else _number_rows(features, path)
    index = {clip_id: i for i, clip_id in enumerate(ids)}
    return FeatureFile(ids, lambda clip_id: rows(index[clip_id]) if clip_id in index else None)


def _clip_ids(table: pa.Table, path: Path) -> list[str]:
    with _one_message(path):
        return feature_columns.clip_ids(table, path)


def _read_csv(path: Path) -> pa.Table:
    """Every column but the ids as numbers; columns without a name as text, under names of one, two, ... spaces."""
    with _one_message(path), path.open(newline="", encoding="utf-8-sig") as stream:
        delimiter, decimal_point = _separators(path, stream.readline(), stream.readline())
        stream.seek(0)
        headers = [name.strip() for name in next(csv.reader(stream, delimiter=delimiter), [])]
    id_column = feature_columns.id_column(headers, path)
    names = [name or " " * place for place, name in enumerate(headers, start=1)]
    kinds = {name: pa.float64() if name.strip() and name != id_column else pa.string() for name in names}
    with _one_message(path):
        return pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=1),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
            convert_options=pyarrow.csv.ConvertOptions(column_types=kinds, decimal_point=decimal_point),
        )


def _separators(path: Path, header: str, row: str) -> tuple[str, str]:
    """What stands between the cells of a text table, and before the decimals: semicolons may go with decimal commas."""
    if path.suffix.lower() == ".tsv":
        return "\t", "."
    if "," in header or ";" not in header:
        return ",", "."
    return ";", "," if "," in row else "."


def _read_features(path: Path) -> pa.Table:
    files = files_of(path, "parquet")
    names = _parquet_names(files, path)
    feature_columns.id_column(names, path)
    return _read_parquet(files, [name for name in names if name not in _EXPORT_COLUMNS], path)


def _parquet_names(files: Sequence[Path], path: Path) -> list[str]:
    with _one_message(path):
        return pq.read_schema(files[0]).names


def _read_parquet(files: Sequence[Path], columns: list[str], path: Path) -> pa.Table:
    with _one_message(path):
        return pa.concat_tables(
            [pq.read_table(file, columns=columns, page_checksum_verification=True) for file in files]
        )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _list_rows(column: pa.ChunkedArray, path: Path) -> Callable[[int], Array]:
    """A function that gives the row of this number from one column of lists."""
    flat = pc.list_flatten(column)
    if not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)):
        raise ValueError(f"{path}: found lists of {flat.type}, expected lists of numbers")
    values = flat.to_numpy()
    lengths_B = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    if len(set(lengths_B.tolist())) == 1 and lengths_B[0]:
        feature_columns.check_values(values.reshape(len(lengths_B), -1), _places(lengths_B[0]), path)
    ends_B = np.cumsum(lengths_B)
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
    feature_columns.check_values(values_BD, features.column_names, path)
    return lambda row: values_BD[row]


def _places(width: int) -> list[str]:
    """Names for the columns of an array."""
    return [f"number {d} of each row" for d in range(1, width + 1)]


@contextmanager
def _one_message(path: Path) -> Iterator[None]:
    """Whatever a library raises for a file becomes a ValueError that names the file; our own errors stay as they are.

    Raises PlaceTrouble for what is no fault of the file.

    Damaged files raise errors of many kinds: zlib.error, zipfile.BadZipFile, tokenize.TokenError, NotImplementedError,
    IndexError, MemoryError, RuntimeError, and those of Arrow.
    """
    try:
        yield
    except Exception as error:
        if type(error) is ValueError and str(error).startswith(f"{path}: "):
            raise
        trouble.raise_of_place(error, path)
        if path.is_file() and lfs.is_pointer(path):
            raise ValueError(f"{path}: found a Git LFS pointer, expected the table: {lfs.ADVICE}") from None
        is_text = path.suffix.lower() in (".csv", ".tsv")
        form = (
            "a table of clip ids and numbers in UTF-8 (lists go into .parquet)" if is_text else "clip ids and numbers"
        )
        raise ValueError(f"{path}: not readable as {form}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """A library's error in one line."""
    return " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
