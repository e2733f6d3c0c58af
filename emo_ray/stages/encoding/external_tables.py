"""Feature tables from elsewhere, as a corpus finds them; and ours, for elsewhere."""

import csv
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emo_ray import store
from emo_ray.config.data_settings import Tables
from emo_ray.data import tables
from emo_ray.progress import progress, say
from emo_ray.stages.encoding.encoders import EncoderSpec

BAD_ROWS = "bad_rows.csv"
_LONGEST_NAME = 250  # bytes that a file's name may have


def check(encoder: EncoderSpec, corpus: Collection[str]) -> None:
    """Raises ValueError where a source is none, holds a clip twice, or knows no clip of the corpus."""
    for path in map(Path, encoder.sources):
        theirs = set(tables.clip_ids(path))
        shared = theirs.intersection(corpus)
        if not shared:
            raise ValueError(
                f"{path}: found none of the {len(corpus)} clips of the manifest: it knows {_examples(theirs)}, and the "
                f"manifest {_examples(corpus)}; expected the same clip_id in both (see data.columns.clip_id)"
            )
        if len(shared) < len(theirs):
            say(
                f"{path.name}: {len(theirs) - len(shared)} of its {len(theirs)} clips are not in the manifest: left out"
            )


def tell(encoder: EncoderSpec, folder: Path, parts: Sequence[str]) -> None:
    """Say what the tables gave, and write the rows that could not be used with the reason, as bad_rows.csv."""
    columns = ["clip_id", "present", "status"]
    table = pa.concat_tables([pq.read_table(folder / name, columns=columns) for name in parts])
    statuses = table["status"].to_pylist()
    bad = [row for row in zip(table["clip_id"].to_pylist(), statuses, strict=True) if "corrupt" in row[1]]
    with (folder / BAD_ROWS).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("clip_id", "status"), *bad])
    kinds = Counter(_kind(status) for status in statuses)
    parts_of = [f"{kinds[kind]} {kind}" for kind in ("missing", "incomplete", "corrupt") if kinds[kind]]
    where = f": {bad[0][0]!r} is {bad[0][1]}; all in {folder / BAD_ROWS}" if bad else ""
    names = ", ".join(Path(source).name for source in encoder.sources)
    present = pc.sum(table["present"]).as_py()
    say(f"{encoder.modality}: {present} of {len(table)} clips in {names}" + "".join(f", {p}" for p in parts_of) + where)


def export(own: Tables, folders: Mapping[str, Path], parts: Sequence[str]) -> list[Path]:
    """Copy feature tables to `tables.export`, as `<modality>/CLIP_ID.npy` and `<modality>.parquet`; what was made.

    A clip without the modality has no file, and null in its row. Raises ValueError where files of other features lie
    there, or a clip_id cannot name a file.
    """
    made = []
    for modality, folder in folders.items():
        target = Path(own.export).absolute() / modality
        if "npy" in own.export_as:
            _export_npy(target, folder, parts)
            made.append(target)
        if "parquet" in own.export_as:
            made.append(target.with_suffix(".parquet"))
            _export_parquet(made[-1], folder, parts)
    return made


def _export_npy(target: Path, folder: Path, parts: Sequence[str]) -> None:
    meta = {"kind": "exported features", "features": folder.name, "parts": store.digest(sorted(parts))}
    if store.is_complete(target) and store.read_meta(target) == meta:
        return
    if target.exists():
        raise ValueError(f"{target}: found files of other features, expected none: choose another tables.export")
    clips = sum(pq.read_metadata(folder / name).num_rows for name in parts)
    with store.writing(target, meta) as temporary, progress(f"exporting {target.name}", clips, "clips") as advance:
        for table in _parts(folder, parts):
            for clip_id, values_D in zip(table["clip_id"].to_pylist(), _values(table), strict=True):
                if not np.isnan(values_D).all():
                    file = temporary / f"{_file_name(clip_id)}.npy"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    np.save(file, values_D)
            advance(len(table))


def _export_parquet(target: Path, folder: Path, parts: Sequence[str]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with store.renamed(target) as temporary:
        writer = None
        for table in _parts(folder, parts):
            absent = ~table["present"].to_numpy()
            values_BD = _values(table)
            ends_B = np.cumsum(np.where(absent, 0, values_BD.shape[1]))
            starts = pa.array(np.append(0, ends_B), pa.int32(), mask=np.append(absent, False))
            # Lists of no fixed size: pyarrow writes null among those that have one, and cannot read it.
            rows = pa.ListArray.from_arrays(starts, pa.array(values_BD[~absent].ravel()))
            made = pa.table({"clip_id": table["clip_id"], "feature": rows})
            writer = writer or pq.ParquetWriter(temporary, made.schema, compression="zstd")
            writer.write_table(made)
        writer.close()


def _parts(folder: Path, parts: Sequence[str]) -> Iterator[pa.Table]:
    for name in parts:
        yield pq.read_table(folder / name, columns=["clip_id", "feature", "present"])


def _values(table: pa.Table) -> np.ndarray:
    """(n, D); absent rows are NaN."""
    lists = table["feature"].combine_chunks()
    return lists.flatten().to_numpy().reshape(len(lists), lists.type.list_size)


def _file_name(clip_id: str) -> str:
    words = clip_id.split("/")
    if any(word in ("", ".", "..") or "\0" in word or len(word.encode()) > _LONGEST_NAME for word in words):
        raise ValueError(f"found clip_id {clip_id!r}, expected the name of a file: set tables.export_as=[parquet]")
    return str(PurePosixPath(*words))


def _kind(status: str) -> str:
    """Several sources of which one lacks a clip leave it incomplete."""
    found = next((kind for kind in ("corrupt", tables.MISSING) if status.startswith(kind)), None)
    return found or ("corrupt" if "corrupt" in status else tables.OK if status == tables.OK else "incomplete")


def _examples(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
