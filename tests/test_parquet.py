"""Parquet files of the store: what is written is read, and no damage is taken for content."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from part_tables import table_of

from emo_ray import parquet, store


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_no_flipped_bit_of_a_part_is_read_as_if_it_were_right(tmp_path, codec):
    path, table, dice = tmp_path / "part.parquet", table_of(40), np.random.default_rng(1)
    parquet.write(path, table, codec=codec)
    content, noticed, expected = path.read_bytes(), 0, parquet.read(path)
    for place, bit in zip(dice.integers(len(content), size=300), dice.integers(8, size=300), strict=True):
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            read = parquet.read(path)
        except store.DamagedFile:
            noticed += 1
        else:
            assert read.equals(expected, check_metadata=True)  # a flip where nothing is read from
    assert noticed > 250


@pytest.mark.parametrize("length", [0, 3, 8, 100, -1])
def test_a_part_that_is_cut_is_named(tmp_path, length):
    path = tmp_path / "part.parquet"
    parquet.write(path, table_of(4))
    content = path.read_bytes()
    path.write_bytes(content[:length])
    with pytest.raises(store.DamagedFile, match=r"part\.parquet: found a damaged file") as error:
        parquet.read(path, columns=["clip_id"])
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)  # as it is when it comes from a worker


def test_trouble_with_reading_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        parquet.read(tmp_path / "nowhere.parquet")
    parquet.write(tmp_path / "part.parquet", table_of(4))
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(IsADirectoryError):
        parquet.read(tmp_path / "folder.parquet")
    with pytest.raises(pa.ArrowException):
        parquet.read(tmp_path / "part.parquet", columns=["clip_id"], filters=[("no such column", "=", 1)])


def test_other_readers_and_files_of_earlier_versions_are_no_exception(tmp_path):
    table = table_of(4)
    parquet.write(tmp_path / "new.parquet", table)
    assert pq.read_table(tmp_path / "new.parquet").equals(table)
    pq.write_table(table, tmp_path / "old.parquet")
    assert parquet.read(tmp_path / "old.parquet").equals(table)
    assert parquet.read(tmp_path / "new.parquet", columns=["status"]).column_names == ["status"]
