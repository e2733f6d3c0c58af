"""Features that other programs made: sources that hold a vector for each clip_id, side by side for each modality.

A source is a folder of `CLIP_ID.npy` (the layout of MERTools), an `.npz` (an array for each clip, or the arrays
`clip_id` and `feature`), or a CSV, TSV or Parquet table, or a folder of Parquet parts (a column of ids, beside columns
of numbers or one column of lists). A clip's array is (D,), or (T, D), which is averaged over T. NaN is an unknown
value; a clip whose values are all unknown is missing.

Zeros alone are no values either, unless `tables.zeros` says so: MERTools writes them for a clip without a face or
without words, trackers for a frame without a face, and padding fills sequences with them. So an array of zeros is
missing, and in a (T, D) array rows of zeros are left out of the mean. Where D is 1, a zero is a value.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from emo_ray import store
from emo_ray.data.file_digests import file_digest, in_threads
from emo_ray.data.tables.files import Array, FeatureFile, Read, files_of, ids_of, kind_of, open_file

VERSION = 2  # 2: zeros alone are no values
OK, MISSING = "ok", "missing"
ZEROS = "zeros alone"  # in the status of a clip that is missing for it
_SAMPLE = 32  # clips whose most frequent width is taken for the source's
_CONTENT_BYTES = 64 * 2**20  # of a larger folder samples of the files are digested


@dataclass(frozen=True)
class Source:
    """An opened source; `width` is its D."""

    name: str
    width: int
    read: Read


class Tables:
    """The opened sources of one modality, held by an actor. `dim` is the sum of their widths."""

    def __init__(self, paths: Sequence[str], zeros: str = "absent"):
        self.sources = [_with_width(Path(path), open_file(Path(path))) for path in paths]
        self.dim = sum(source.width for source in self.sources)
        self.zeros_are_values = zeros == "values"

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
                array = source.read(clip_id)
                values_D, status_of[source.name] = vector(array, source.width, self.zeros_are_values)
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


def vector(array: Array | str | None, width: int, zeros_are_values: bool = False) -> tuple[np.ndarray | None, str]:
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
    with np.errstate(over="ignore", invalid="ignore"):
        values_TD = np.atleast_2d(array).astype(np.float64)
        if width > 1 and not zeros_are_values:
            values_TD = values_TD[(values_TD != 0).any(axis=1)]
            if not len(values_TD):
                return None, f"{MISSING}: {ZEROS}"
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
    """The ids of a source's clips. Raises ValueError where there is no source that can be read."""
    return ids_of(path)


def digest(paths: Sequence[str], zeros: str = "absent") -> str:
    """Digest of the sources in their order: by content, folders of many bytes by samples of their files."""
    return store.digest(VERSION, zeros, [_stamp(Path(path)) for path in paths])


def _stamp(path: Path) -> object:
    kind = kind_of(path)
    if not path.is_dir():
        return store.digest_path(path)
    files = [file for file in files_of(path, kind) if file.is_file()]
    names = [file.relative_to(path).as_posix() for file in files]
    if sum(file.stat().st_size for file in files) <= _CONTENT_BYTES:
        return [(name, store.digest_path(file)) for name, file in zip(names, files, strict=True)]
    samples = in_threads(partial(file_digest, scope="sample"), files)
    return list(zip(names, samples, strict=True))


def _with_width(path: Path, table: FeatureFile) -> Source:
    """The source, its width being the most frequent one among its first clips."""
    arrays = (table.read(clip_id) for clip_id in table.ids[:_SAMPLE])
    widths = Counter(
        a.shape[-1] for a in arrays if isinstance(a, np.ndarray) and a.size and a.ndim and a.dtype.kind in "fiub"
    )
    if not widths:
        raise ValueError(f"{path}: found no array of numbers in its first clips, expected one for each: export it anew")
    return Source(path.stem if path.is_file() else path.name, widths.most_common(1)[0][0], table.read)


def _joint_status(status_of: dict[str, str]) -> str:
    """The status that all sources share; where they differ, every source's name and status."""
    statuses = set(status_of.values())
    if len(statuses) == 1:
        return statuses.pop()
    return "; ".join(f"{name}: {status}" for name, status in status_of.items())
