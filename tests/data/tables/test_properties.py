"""Feature tables of any content: vectors in the order asked for and absent ones NaN, or an error that names the file.

The reference is what was written, in numpy; every format is written by numpy, csv or pyarrow alone.
"""

import csv
import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from properties import holds_for, result_or_message

from emo_ray.data.tables import Tables

STATUS = re.compile("ok|missing(: .+)?|corrupt: .+")
# Ids that every format can hold: no white space around them, and no file name that a file system takes for another.
NAME = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S"), exclude_characters="/\\."), min_size=1, max_size=6
)
IDS = st.lists(NAME, max_size=8, unique=True)
# numpy leaves it to Python's collector to close an archive that it cannot read.
LEFT_OPEN = pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
NUMBER = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
    st.sampled_from(["", " ", "nan", "NaN", "NA", "null", "None", "inf", "-inf", "1e999", "1e-5", "01", "1_0", "0x1"]),
    st.text(max_size=4),
)


def write_npy(folder, ids, arrays):
    path = folder / "features"
    path.mkdir(exist_ok=True)
    for file in path.glob("*.npy"):
        file.unlink()
    for name, array in zip(ids, arrays, strict=True):
        np.save(path / f"{name}.npy", array)
    return path


def write_npz_by_clip(folder, ids, arrays):
    np.savez(folder / "by_clip.npz", **{f"{name}": array for name, array in zip(ids, arrays, strict=True)})
    return folder / "by_clip.npz"


def write_npz_arrays(folder, ids, arrays):
    np.savez(folder / "arrays.npz", clip_id=np.array(ids), feature=np.stack(arrays))
    return folder / "arrays.npz"


def write_text(folder, ids, arrays, suffix=".csv", delimiter=","):
    path = folder / f"table{suffix}"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(["clip_id", *(f"f{d}" for d in range(len(arrays[0])))])
        writer.writerows([name, *map(repr, array.tolist())] for name, array in zip(ids, arrays, strict=True))
    return path


def write_tsv(folder, ids, arrays):
    return write_text(folder, ids, arrays, ".tsv", "\t")


def write_parquet_columns(folder, ids, arrays):
    columns = {f"f{d}": values for d, values in enumerate(np.stack(arrays).T)}
    pq.write_table(pa.table({"clip_id": ids, **columns}), folder / "columns.parquet")
    return folder / "columns.parquet"


def write_parquet_lists(folder, ids, arrays):
    pq.write_table(pa.table({"clip_id": ids, "x": [array.tolist() for array in arrays]}), folder / "lists.parquet")
    return folder / "lists.parquet"


def write_parquet_parts(folder, ids, arrays):
    path = folder / "parts"
    path.mkdir(exist_ok=True)
    half = len(ids) // 2
    for number, part in enumerate([slice(0, half), slice(half, None)]):
        columns = {
            "clip_id": pa.array(ids[part], pa.string()),
            "x": pa.array(list(arrays[part]), pa.list_(pa.float64())),
        }
        pq.write_table(pa.table(columns), path / f"part-{number}.parquet")
    return path


FORMATS = (
    write_npy,
    write_npz_by_clip,
    write_npz_arrays,
    write_text,
    write_tsv,
    write_parquet_columns,
    write_parquet_lists,
    write_parquet_parts,
)


def read(path, ids):
    """Features (B, D) and statuses, or None and the error's message, which names the file."""
    table, message = result_or_message(lambda: Tables([str(path)])(ids))
    if table is None:
        assert str(path) in message
        return None, message
    values_BD = np.stack(table["feature"].to_numpy(zero_copy_only=False)) if ids else np.zeros((0, 0))
    statuses = table["status"].to_pylist()
    assert table["clip_id"].to_pylist() == list(ids)
    assert all(STATUS.fullmatch(status) for status in statuses)
    assert table["present"].to_pylist() == (~np.isnan(values_BD).all(axis=1)).tolist()
    assert not np.isinf(values_BD).any()
    return values_BD, statuses


@holds_for(
    40,
    write=st.sampled_from(FORMATS),
    ids=IDS.filter(bool),
    others=IDS,
    dim=st.integers(1, 5),
    seed=st.integers(0, 9),
    nan_share=st.sampled_from([0, 0.3]),
    data=st.data(),
)
def test_every_format_gives_the_vectors_asked_for_in_that_order(folder, write, ids, others, dim, seed, nan_share, data):
    draw = np.random.default_rng(seed)
    values_ND = draw.normal(size=(len(ids), dim))
    values_ND[draw.random(values_ND.shape) < nan_share] = np.nan
    asked = data.draw(st.lists(st.sampled_from([*ids, *others]), max_size=8, unique=True))
    values_BD, statuses = read(write(folder, ids, list(values_ND)), asked)
    assert values_BD is not None, statuses
    vector_of = dict(zip(ids, values_ND, strict=True))
    for name, values_D, status in zip(asked, values_BD, statuses, strict=True):
        expected_D = vector_of.get(name, np.full(dim, np.nan))
        np.testing.assert_allclose(values_D, expected_D, rtol=1e-6)  # NaN where NaN is expected, never zero
        assert (status == "ok") == (not np.isnan(expected_D).all())


@holds_for(40, write=st.sampled_from(FORMATS[:3]), seed=st.integers(0, 99), frames=st.integers(0, 4))
def test_frames_are_averaged_over_those_that_are_numbers(folder, write, seed, frames):
    draw = np.random.default_rng(seed)
    arrays = [draw.normal(size=(frames, 3)) for _ in range(4)]
    for values_TD in arrays:
        values_TD[draw.random(values_TD.shape) < 0.3] = np.nan
    arrays[0] = np.ones((frames or 1, 3)) if write is not write_npz_arrays else arrays[0]
    values_BD, _ = read(write(folder, list("abcd"), arrays), list("abcd"))
    if values_BD is None:
        assert not frames
        return
    for values_D, values_TD in zip(values_BD, arrays, strict=True):
        columns = [column[~np.isnan(column)] for column in values_TD.T]
        expected_D = [column.mean() if len(column) else np.nan for column in columns]
        np.testing.assert_allclose(values_D, expected_D, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Stored array in format:UserWarning")  # numpy, of odd names in structures
@holds_for(
    60,
    array=st.one_of(
        hnp.arrays(hnp.scalar_dtypes() | hnp.array_dtypes(), hnp.array_shapes(min_dims=0, max_side=4)),
        hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, min_side=0, max_side=4)),
    ),
)
def test_an_array_of_any_type_and_shape_is_a_vector_or_has_a_status(folder, array):
    for write in (write_npy, write_npz_by_clip):
        values_BD, statuses = read(write(folder, ["good", "odd"], [np.ones(2), array]), ["odd", "good"])
        if values_BD is not None:
            assert statuses[0] != "ok" or values_BD.shape[1] == array.shape[-1]


@holds_for(
    80,
    rows=st.lists(st.lists(NUMBER, min_size=2, max_size=3), min_size=1, max_size=6),
    header=st.sampled_from(["clip_id,x", "name,x,y", "id,x", ",clip_id,x", "clip_id,x,x", "clip_id,label", "x", ""]),
    suffix=st.sampled_from([".csv", ".tsv"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gbk", "latin-1"]),
)
def test_a_text_of_any_cells_is_numbers_or_an_error(folder, rows, header, suffix, encoding):
    stream = io.StringIO()
    delimiter = "\t" if suffix == ".tsv" else ","
    stream.write(header.replace(",", delimiter) + "\n")
    csv.writer(stream, delimiter=delimiter).writerows([f"c{i}", *row] for i, row in enumerate(rows))
    path = folder / f"odd{suffix}"
    path.write_bytes(stream.getvalue().encode(encoding, errors="replace"))
    read(path, [f"c{i}" for i in range(len(rows))])


@LEFT_OPEN
@holds_for(
    150,
    write=st.sampled_from(FORMATS),
    places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=8),
    cut=st.floats(0, 1) | st.just(1.0),
    added=st.binary(max_size=20),
)
def test_damaged_bytes_are_statuses_or_one_error(folder, write, places, cut, added):
    arrays = [np.arange(4) + 0.25 * np.sin(np.arange(4) * (i + 1)) for i in range(6)]
    path = write(folder, list("abcdef"), arrays)
    files = [path] if path.is_file() else sorted(path.iterdir())
    content = bytearray(files[0].read_bytes())
    for place, value in places:
        content[int(place * len(content))] = value
    files[0].write_bytes(content[: round(cut * len(content))] + added)
    read(path, list("fabx"))


@LEFT_OPEN
@holds_for(
    60,
    kind=st.sampled_from(["npz", "csv", "tsv", "parquet", "npy"]),
    content=st.binary(max_size=200)
    | st.text(max_size=80).map(lambda text: text.encode(errors="replace"))
    | st.binary(max_size=60).map(lambda data: b"PK\3\4" + data)
    | st.binary(max_size=60).map(lambda data: b"PAR1" + data + b"PAR1")
    | st.binary(max_size=60).map(lambda data: b"\x93NUMPY\1\0" + data),
)
def test_any_bytes_are_statuses_or_one_error(folder, kind, content):
    path = folder / f"any.{kind}"
    if kind == "npy":
        path = write_npy(folder, ["good"], [np.ones(3)])
        (path / "odd.npy").write_bytes(content)
    else:
        path.write_bytes(content)
    read(path, ["odd", "good"])
