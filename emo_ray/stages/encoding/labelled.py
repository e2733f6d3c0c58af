"""Labelled clips with their features, as heads are trained and judged on them."""

import numpy as np
import pyarrow as pa

from emo_ray.data import clip_tables
from emo_ray.data.batch import FeatureBatch, from_features, with_context
from emo_ray.data.dialogues import Windows
from emo_ray.data.prepared import LabelOf


def labelled_rows(table: pa.Table, label_of: LabelOf) -> pa.Table:
    """The rows of these clips that have any modality, with their `label`."""
    table = clip_tables.of_clips(table, label_of)
    usable_B = np.zeros(len(table), bool)
    for name in table.column_names:
        if name.startswith("has_"):
            usable_B |= table[name].to_numpy()
    table = table.filter(pa.array(usable_B))
    return table.append_column("label", pa.array([label_of[i] for i in table["clip_id"].to_pylist()], pa.int64()))


def labelled_batch(table: pa.Table, label_of: LabelOf, windows: Windows | None) -> FeatureBatch:
    """The features of these clips that have any, with those of their neighbours, which are rows of the table too."""
    batch = from_features(labelled_rows(table, label_of))
    return batch if windows is None else with_context(batch, from_features(table), windows)
