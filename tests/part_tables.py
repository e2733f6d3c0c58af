"""A small table with what the store's Parquet parts hold."""

import numpy as np
import pyarrow as pa


def table_of(rows):
    """A table with what parts hold: text, bytes, lists and a note in the schema."""
    dice = np.random.default_rng(0)
    values = pa.FixedSizeListArray.from_arrays(pa.array(dice.normal(size=rows * 8).astype(np.float32)), 8)
    columns = {
        "clip_id": [f"clip-{i}" for i in range(rows)],
        "frames": [[dice.bytes(40) for _ in range(3)] for _ in range(rows)],
        "feature": values,
        "status": ["ok"] * rows,
        "p": pa.array(dice.random((rows, 4)).tolist(), pa.list_(pa.float32())),
    }
    return pa.table(columns, metadata={"labels": '["a", "b"]'})
