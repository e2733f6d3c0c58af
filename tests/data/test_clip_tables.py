"""Tables about clips: their rows, columns and classes."""

import pyarrow as pa
import pytest

from emo_ray.data import clip_tables

TABLE = pa.table({"clip_id": ["c", "a", "b", "a"], "n": [1, 2, 3, 4]})


def test_rows_of_some_clips_stay_in_the_order_of_the_table():
    assert clip_tables.of_clips(TABLE, {"a", "c", "elsewhere"})["n"].to_pylist() == [1, 2, 4]
    assert not len(clip_tables.of_clips(TABLE, ()))


@pytest.mark.parametrize(("name", "place"), [("clip_id", 0), ("new", 2)])
def test_a_column_takes_the_place_of_its_name_or_the_end(name, place):
    values = pa.array(["w", "x", "y", "z"])
    table = clip_tables.with_column(TABLE, name, values)
    assert table.column_names.index(name) == place
    assert table[name].to_pylist() == values.to_pylist()
    assert table["n"].equals(TABLE["n"])


def test_classes_come_back_in_their_order():
    labels = ("sad", "快乐", "a b")
    assert clip_tables.labels_of(TABLE.replace_schema_metadata(clip_tables.metadata_of(labels))) == list(labels)
    assert clip_tables.labels_of(TABLE) == []
