"""Tables of clips for tests: written with the standard library and pyarrow alone, and read by emo_ray."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq

from emo_ray.config.data_settings import Data
from emo_ray.data import manifest


def write(path, rows, headers=None):
    """Write dicts of strings as a table, with the standard library and pyarrow alone."""
    headers = headers or list(rows[0])
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([headers, *([row[header] for header in headers] for row in rows)])
    elif path.suffix == ".jsonl":
        lines = [json.dumps({header: row[header] for header in headers}, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8", newline="\n")
    else:
        pq.write_table(pa.table({header: [row[header] for row in rows] for header in headers}), path)
    return path


def clips_of(path, root=None, **settings):
    """The clips of a table, read with these settings of `data`."""
    return manifest.read_table(path, Data(root=root and str(root), **settings))[0]


def table(path, content):
    path.write_text(content, encoding="utf-8", newline="")
    return path
