"""Tables about clips: the rows of some clips, a column in its place, and the classes that a table is about."""

import json
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc


def of_clips(table: pa.Table, clip_ids: Iterable[str]) -> pa.Table:
    """The rows of these clips, in the order of the table."""
    return table.filter(pc.is_in(table["clip_id"], pa.array(list(clip_ids), pa.string())))


def with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The table with these values as the column of this name: in its place, or at the end where there is none."""
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def metadata_of(labels: Iterable[str]) -> dict[str, str]:
    """The metadata of a table whose probabilities are in the order of these classes."""
    return {"labels": json.dumps(list(labels), ensure_ascii=False)}


def labels_of(table: pa.Table) -> list[str]:
    """The classes in the order of a table's probabilities; empty for a table that does not say them."""
    return json.loads((table.schema.metadata or {}).get(b"labels", b"[]"))
