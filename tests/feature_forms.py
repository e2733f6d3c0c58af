"""Feature tables in every form, for tests: the same ids and values in each."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

IDS = ("a", "007", "b c", "中文")
VALUES = np.random.default_rng(0).normal(size=(len(IDS), 5)).astype(np.float32)


def npy(folder, ids=IDS, values=VALUES):
    folder.mkdir(exist_ok=True)
    for clip_id, row in zip(ids, values, strict=True):
        (folder / f"{clip_id}.npy").parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{clip_id}.npy", row)
    return folder


def text(path, delimiter, ids=IDS, values=VALUES):
    lines = [delimiter.join(["clip_id", *(f"f{d}" for d in range(values.shape[1]))])]
    lines += [delimiter.join([i, *map(repr, map(float, row))]) for i, row in zip(ids, values, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def lists(ids=IDS, values=VALUES, **further):
    return pa.table({"clip_id": list(ids), "feature": pa.array(list(values)), **further})


def columns(ids=IDS, values=VALUES):
    return pa.table({"name": list(ids), **{f"f{d}": values[:, d] for d in range(values.shape[1])}})


def our_part(ids=IDS, values=VALUES):
    """A part as jobs/features.py leaves it."""
    feature = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    return pa.table({"clip_id": list(ids), "feature": feature, "present": [True] * len(ids)})


def parquet(path, table):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path)
    return path


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


# Functions of a folder, ids and values, to the path of a source in it.
FORMS = {
    "npy": lambda p, i=IDS, v=VALUES: npy(p / "hubert", i, v),
    "npz, a key for each clip": lambda p, i=IDS, v=VALUES: saved(p / "a.npz", **dict(zip(i, v, strict=True))),
    "npz, two arrays": lambda p, i=IDS, v=VALUES: saved(p / "b.npz", clip_id=np.array(i), feature=v),
    "npz, frames": lambda p, i=IDS, v=VALUES: saved(
        p / "c.npz", clip_id=np.array(i), x=np.stack([0.5 * v, 1.5 * v], axis=1)
    ),
    "csv": lambda p, i=IDS, v=VALUES: text(p / "a.csv", ",", i, v),
    "tsv": lambda p, i=IDS, v=VALUES: text(p / "a.tsv", "\t", i, v),
    "parquet, a list": lambda p, i=IDS, v=VALUES: parquet(p / "a.parquet", lists(i, v)),
    "parquet, columns": lambda p, i=IDS, v=VALUES: parquet(p / "b.parquet", columns(i, v)),
    "our own parts": lambda p, i=IDS, v=VALUES: parquet(p / "parts" / "part-0.parquet", our_part(i, v)).parent,
}
