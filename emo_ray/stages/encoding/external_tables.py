"""Feature tables from elsewhere, as a corpus finds them; and ours, for elsewhere."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emo_ray import durable, parquet, store
from emo_ray.config import Config
from emo_ray.config.table_settings import Tables
from emo_ray.data import tables
from emo_ray.data.prepared import Prepared
from emo_ray.inference.encoders import EncoderSpec, feature_folder
from emo_ray.progress import progress, say

BAD_ROWS = "bad_rows.csv"
_LONGEST_NAME = 250  # bytes that a file's name may have


def check(encoder: EncoderSpec, corpus: Collection[str]) -> None:
    """Raises ValueError where a source is none, holds a clip twice, or has no clip of the corpus."""
    for path in map(Path, encoder.sources):
        source_ids = set(tables.clip_ids(path))
        shared = source_ids.intersection(corpus)
        if not shared:
            raise ValueError(
                f"{path}: found none of the {len(corpus)} clips of the manifest: it holds {_examples(source_ids)}, and "
                f"the manifest {_examples(corpus)}; expected the same clip_id in both (see data.columns.clip_id)"
            )
        if len(shared) < len(source_ids):
            left_out = len(source_ids) - len(shared)
            say(f"{path.name}: {left_out} of its {len(source_ids)} clips are not in the manifest: left out")


def report_rows(encoder: EncoderSpec, folder: Path, parts: Sequence[str]) -> None:
    """Say how many clips the tables gave features of, and write the damaged rows with the reason to bad_rows.csv."""
    columns = ["clip_id", "present", "status"]
    table = pa.concat_tables([parquet.read(folder / name, columns=columns) for name in parts])
    statuses = table["status"].to_pylist()
    bad = [row for row in zip(table["clip_id"].to_pylist(), statuses, strict=True) if "corrupt" in row[1]]
    durable.write_csv(folder / BAD_ROWS, [("clip_id", "status"), *bad])
    kinds = Counter(_kind(status) for status in statuses)
    counts = "".join(f", {kinds[kind]} {kind}" for kind in ("missing", "incomplete", "corrupt") if kinds[kind])
    example = f": {bad[0][0]!r} is {bad[0][1]}; all in {folder / BAD_ROWS}" if bad else ""
    present = pc.sum(table["present"]).as_py()
    say(f"{encoder.modality}: {present} of {len(table)} clips in {_names(encoder)}{counts}{example}")
    for note in _zeros_notes(encoder, statuses):
        say(note)


def notes(config: Config, prepared: Prepared, encoders: Sequence[EncoderSpec], parts: Sequence[str]) -> list[str]:
    """What a reader of results must know of the tables whose feature parts these are."""
    lines = []
    for encoder in (encoder for encoder in encoders if encoder.sources):
        folder = feature_folder(config, prepared.shards, encoder)
        columns = [parquet.read(folder / name, columns=["status"])["status"].to_pylist() for name in parts]
        lines += _zeros_notes(encoder, [status for column in columns for status in column])
    return lines


def _zeros_notes(encoder: EncoderSpec, statuses: Sequence[str]) -> list[str]:
    clips = sum(tables.ZEROS in status for status in statuses)
    note = f"{encoder.modality}: clips that are zeros alone in {_names(encoder)} count as absent: {clips}"
    return [f"{note} (tables.zeros=values takes them as numbers)"] if clips else []


def _names(encoder: EncoderSpec) -> str:
    return ", ".join(Path(source).name for source in encoder.sources)


def export(settings: Tables, folders: Mapping[str, Path], parts: Sequence[str]) -> list[Path]:
    """Copy feature tables to `tables.export` as `<modality>/CLIP_ID.npy` and `<modality>.parquet`; returns the paths.

    A clip without the modality has no file, and null in its row. Raises ValueError where files of other features lie
    there, or a clip_id cannot name a file.
    """
    assert settings.export is not None, "the caller has a folder to export to"
    paths = []
    for modality, folder in folders.items():
        target = Path(settings.export).absolute() / modality
        if "npy" in settings.export_as:
            _export_npy(target, folder, parts)
            paths.append(target)
        if "parquet" in settings.export_as:
            paths.append(target.with_suffix(".parquet"))
            _export_parquet(paths[-1], folder, parts)
    return paths


def _export_npy(target: Path, folder: Path, parts: Sequence[str]) -> None:
    meta = {"kind": "exported features", "features": folder.name, "parts": store.digest(sorted(parts))}
    if store.is_complete(target) and store.read_meta(target) == meta:
        return
    if target.exists():
        raise ValueError(f"{target}: found files of other features, expected none: choose another tables.export")
    clips = sum(pq.read_metadata(store.local(folder / name)).num_rows for name in parts)
    with store.writing(target, meta) as temporary, progress(f"exporting {target.name}", clips, "clips") as advance:
        for table in _parts(folder, parts):
            for clip_id, values_D in zip(table["clip_id"].to_pylist(), _values(table), strict=True):
                if not np.isnan(values_D).all():
                    file = temporary / f"{_file_name(clip_id)}.npy"
                    with durable.renamed(file) as unnamed, unnamed.open("wb") as stream:
                        np.save(stream, values_D)
            advance(len(table))


def _export_parquet(target: Path, folder: Path, parts: Sequence[str]) -> None:
    # Lists of no fixed size: pyarrow writes null among fixed-size ones, and cannot read it.
    schema = pa.schema({"clip_id": pa.string(), "feature": pa.list_(pa.float32())})
    with durable.renamed(target) as temporary, _writer(temporary, schema) as writer:
        for table in _parts(folder, parts):
            absent = ~table["present"].to_numpy()
            values_BD = _values(table)
            ends_B = np.cumsum(np.where(absent, 0, values_BD.shape[1]))
            starts = pa.array(np.append(0, ends_B), pa.int32(), mask=np.append(absent, False))
            rows = pa.ListArray.from_arrays(starts, pa.array(values_BD[~absent].ravel()))
            writer.write_table(pa.table({"clip_id": table["clip_id"], "feature": rows}))


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


def _parts(folder: Path, parts: Sequence[str]) -> Iterator[pa.Table]:
    for name in parts:
        yield parquet.read(folder / name, columns=["clip_id", "feature", "present"])


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
    """A status as one word: ok, missing, corrupt, or incomplete where one of several sources lacks the clip."""
    if status.startswith("corrupt") or status.startswith(tables.MISSING):
        return "corrupt" if status.startswith("corrupt") else tables.MISSING
    if "corrupt" in status:
        return "corrupt"
    return tables.OK if status == tables.OK else "incomplete"


def _examples(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
