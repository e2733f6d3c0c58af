"""Files of feature tables: columns that number the rows, empty rows, and damage of every kind."""

import re
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from faults import few_files
from feature_forms import FORMS, columns, lists, npy, parquet, saved, text

from emo_ray.data import tables
from emo_ray.data.tables import Tables, files
from emo_ray.trouble import PlaceTrouble

ROWS = 40
NAMES = tuple(f"c{i:02d}" for i in range(ROWS))
NOISE = np.random.default_rng(1).normal(size=(ROWS, 6)).astype(np.float32)
ORDER = np.random.default_rng(2).permutation(ROWS)
RUNNING = {
    "from 0": np.arange(ROWS),
    "from 1, backwards": ROWS - np.arange(ROWS),
    "in another order": ORDER,
    "from 1000, in another order": 1000 + ORDER,
    "in steps of 10": 10 * np.arange(ROWS),
    "times": np.arange(ROWS) * 0.04,
}


def written(path, content):
    path.write_text(content)
    return path


def csv_with(path, name, values):
    """The noise as CSV, behind a first column of this name."""
    lines = text(path, ",", NAMES, NOISE).read_text("utf-8-sig").splitlines()
    return written(path, "\n".join(f"{cell},{line}" for cell, line in zip([name, *values], lines, strict=True)))


@pytest.mark.parametrize("name", ["", " ", "Unnamed: 0", "Unnamed: 0_level_1", "index", "level_0", "Row", "row_id"])
def test_a_column_named_as_a_row_number_is_refused_by_name(tmp_path, name):
    for source in (
        csv_with(tmp_path / "a.csv", name, ORDER * 7 % 13),
        parquet(tmp_path / "a.parquet", columns(NAMES, NOISE).append_column(name, pa.array(ORDER * 7 % 13))),
    ):
        shown = repr(name) if name.strip() else "one without a name"
        with pytest.raises(ValueError, match=f"{re.escape(str(source))}: .*number the rows.*{shown}.*index=False"):
            Tables([str(source)])


def test_the_index_that_pandas_writes_into_parquet_is_refused(tmp_path):
    table = columns(NAMES, NOISE).append_column("__index_level_0__", pa.array(ORDER))
    with pytest.raises(ValueError, match="__index_level_0__"):
        Tables([str(parquet(tmp_path / "a.parquet", table))])


@pytest.mark.parametrize("running", RUNNING)
def test_row_numbers_are_refused_whatever_their_name(tmp_path, running):
    values_B = RUNNING[running]
    joined = np.column_stack([NOISE, values_B])
    sources = {
        "'x'": csv_with(tmp_path / "a.csv", "x", values_B),
        "'y'": parquet(tmp_path / "a.parquet", columns(NAMES, NOISE).append_column("y", pa.array(values_B))),
        "'number 7 of each row'": parquet(tmp_path / "b.parquet", lists(NAMES, joined)),
        "number 7 of each": saved(tmp_path / "a.npz", clip_id=np.array(NAMES), feature=joined),
    }
    for shown, source in sources.items():
        with pytest.raises(ValueError, match=f"number the rows.*{shown}"):
            Tables([str(source)])


@pytest.mark.parametrize(
    "values_B",
    [
        np.zeros(ROWS), np.full(ROWS, 3.5), ORDER % 7, ORDER // 2, np.where(ORDER == 3, np.nan, np.arange(ROWS)),
        np.arange(ROWS) ** 2, np.arange(ROWS) + 0.01 * NOISE[:, 0],
    ],
    ids=["zeros", "constant", "few values", "pairs", "with a gap", "squares", "nearly"],
)  # fmt: skip
def test_other_numbers_are_features(tmp_path, values_B):
    assert Tables([str(csv_with(tmp_path / "a.csv", "x", values_B))]).dim == 7


def test_few_rows_may_run_by_chance(tmp_path):
    assert Tables([str(written(tmp_path / "a.csv", "clip_id,x\na,1\nb,2\nc,3\n"))]).dim == 1


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_rows_and_columns_of_a_spreadsheet_that_hold_nothing_are_skipped(tmp_path, suffix):
    source = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        rows = {"clip_id": ["c1", "c2", "", None, " "], "x": [1.0, 3, None, None, float("nan")], "": [None] * 5}
        parquet(source, pa.table(rows | {"y": [2.0, 4, None, None, None]}))
    else:
        content = "clip_id,x,y,,Unnamed: 4,\nc1,1,2,,,\n,,,,,\nc2,3,4,,,\n,,,,,\n\n  ,,,,,\n"
        written(source, content.replace(",", "\t") if suffix == "tsv" else content)
    assert tables.clip_ids(source) == ["c1", "c2"]
    features = Tables([str(source)])(["c1", "c2"])
    np.testing.assert_array_equal(np.stack(features["feature"].to_numpy(zero_copy_only=False)), [[1, 2], [3, 4]])


def test_values_without_a_clip_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"row 2: .*clip_id"):
        Tables([str(written(tmp_path / "a.csv", "clip_id,x\na,1\n,2\n,\n"))])


# Damage


def damaged(content, rng):
    """The bytes with a few of them changed, cut off, doubled or taken out."""
    data, kind = bytearray(content), rng.integers(4)
    place = int(rng.integers(len(data)))
    if kind == 0:
        return bytes(data[:place])
    if kind == 1:
        return bytes(data[:place] + data[place + int(rng.integers(1, 40)) :])
    if kind == 2:
        return bytes(data[:place] + data[place : place + 20] + data[place:])
    for _ in range(int(rng.integers(1, 5))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    return bytes(data)


def statuses_or_message(source, ids):
    """The statuses of the clips and None, or nothing and the message of the one error that is meant for users."""
    try:
        tables.clip_ids(source)
        return Tables([str(source)])(list(ids))["status"].to_pylist(), None
    except ValueError as error:
        if type(error) is not ValueError:  # such as UnicodeDecodeError
            raise
        return [], str(error)


@pytest.mark.filterwarnings("ignore")  # of numpy, on headers that seem to be of Python 2
@pytest.mark.parametrize("form", FORMS)
def test_damage_is_one_message_or_a_status_and_never_another_error(tmp_path, form):
    ids = NAMES[:10]
    source = FORMS[form](tmp_path, ids, NOISE[:10])
    file = sorted(source.iterdir())[0] if source.is_dir() else source
    content, rng, refused = file.read_bytes(), np.random.default_rng(3), 0
    for _ in range(200):
        file.write_bytes(damaged(content, rng))
        statuses, message = statuses_or_message(source, ids)
        refused += message is not None or set(statuses) != {"ok"}
        assert message is None or (message.startswith(f"{source}: ") and "\n" not in message)
        assert form != "npy" or set(statuses[1:]) == {"ok"}  # the others are read
    assert refused > 20
    file.write_bytes(content)
    assert set(Tables([str(source)])(list(ids))["status"].to_pylist()) == {"ok"}


def encrypted(path):
    """An archive whose members are marked as locked by a password."""
    content = bytearray(saved(path, a=np.ones(3)).read_bytes())
    for start, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(start) + offset] |= 1
    path.write_bytes(content)
    return path


def with_method(path, method):
    """An archive whose members are compressed by a method that nobody knows."""
    content = bytearray(saved(path, a=np.ones(3)).read_bytes())
    for start, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(start) + offset] = method
    path.write_bytes(content)
    return path


def with_header(path, header):
    """An .npy with this header."""
    line = header.encode().ljust(117) + b"\n"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + bytes(64))
    return path.parent


def zipped(path, name, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda p: encrypted(p / "a.npz"),
        lambda p: with_method(p / "a.npz", 99),
        lambda p: npy(p / "f", ["a"], [NOISE[0]]).joinpath("a.npy").rename(p / "a.npz"),
        lambda p: saved(p / "a.npz", a=np.ones(3)).rename(p / "a.parquet"),
        lambda p: zipped(p / "a.npz", "a.txt", "no array"),
        lambda p: zipped(p / "a.npz", "clip_id.npy", "no array"),
        lambda p: zipped(p / "a.npz", "clip_id.npy", b""),
        lambda p: saved(p / "a.npz", clip_id=np.array("a"), feature=np.ones(3)),
        lambda p: with_header(p / "f" / "a.npy", HUGE % 2**60),
        lambda p: with_header(p / "f" / "a.npy", HUGE % 2**40),
        lambda p: with_header(p / "f" / "a.npy", "{'descr': '<f8', 'fortran_order': False, 'shape': (8,"),
        lambda p: with_header(p / "f" / "a.npy", "(" * 100),
        lambda p: written(p / "a.csv", "clip_id,x\na,1,2\n"),
        lambda p: written(p / "a.csv", "clip_id," + "x" * 200_000 + "\na,1\n"),
        lambda p: written(p / "a.csv", ""),
        lambda p: written(p / "a.csv", "\0\0\0"),
        lambda p: written(p / "a.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
        lambda p: written(p / "a.npz", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
        lambda p: parquet(p / "a.parquet", pa.table({"clip_id": [["a"]], "x": [1.0]})),
        lambda p: parquet(p / "a.parquet", pa.table({"clip_id": pa.array([b"\xff"]), "x": [1.0]})),
        lambda p: parquet(p / "a.parquet", pa.table({"x": [1.0]})),
    ],
)
def test_what_libraries_raise_is_one_message(tmp_path, make):
    source = make(tmp_path)
    with pytest.raises(ValueError, match=re.escape(str(source))) as error:
        Tables([str(source)])
    assert type(error.value) is ValueError
    assert "\n" not in str(error.value)


def test_an_archive_that_is_small_and_very_large_inside_is_refused(tmp_path):
    path = tmp_path / "zeros.npz"
    np.savez_compressed(path, a=np.zeros(4), b=np.ones(4))
    assert Tables([str(path)])(["b"])["feature"].to_pylist() == [[1, 1, 1, 1]]
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c.npy", bytes(2**28))
    with pytest.raises(ValueError, match=r"zeros.npz.* 268 MB"):
        Tables([str(path)])


@pytest.mark.parametrize("target", ["private/a.npy", "private"])
def test_a_folder_of_features_holds_its_files_itself(target, tmp_path):
    for name in ("private/a.npy", "features/b.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, np.ones(3))
    (tmp_path / "features" / "c.npy").symlink_to("b.npy")
    source = files.open_file(tmp_path / "features")
    assert sorted(source.ids) == ["b", "c"]
    assert source.read("../private/a") is None
    (tmp_path / "features" / "a").symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match=r"features: found links .*\(a\), expected .*cp -rL"):
        files.open_file(tmp_path / "features")


def test_a_table_that_cannot_be_read_for_now_is_no_damaged_one(tmp_path):
    """Files of a folder and a whole table: the same sources are read when the fault is over."""
    folder, table = tmp_path / "npy", tmp_path / "a.csv"
    npy(folder, NAMES, NOISE)
    text(table, ",", NAMES, NOISE)
    for source in (folder, table):
        with few_files(), pytest.raises(PlaceTrouble, match="Too many open files"):
            Tables([str(source)])
        assert set(Tables([str(source)])(NAMES)["status"].to_pylist()) == {"ok"}
    opened = Tables([str(folder)])
    with few_files(), pytest.raises(PlaceTrouble, match=r"c00\.npy: Too many open files"):
        opened(NAMES)
    assert set(opened(NAMES)["status"].to_pylist()) == {"ok"}


@pytest.mark.parametrize("decimal", [",", "."])
def test_semicolons_are_read_with_decimal_commas_and_points(tmp_path, decimal):
    lines = [
        "clip_id;f0;f1",
        *(f"{name};{a};{b}".replace(".", decimal) for name, (a, b) in zip(NAMES, NOISE[:, :2], strict=True)),
    ]
    path = tmp_path / "german.csv"
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    read = files.open_file(path)
    assert read.ids == list(NAMES)
    assert np.allclose([read.read(name) for name in NAMES], NOISE[:, :2])


@pytest.mark.parametrize(
    ("name", "advice"), [("v.pkl", "numpy.savez"), ("v.npy", "clip_id=ids"), ("v.xlsx", "save the sheet as .csv")]
)
def test_a_form_that_is_not_read_says_into_which_to_put_it(tmp_path, name, advice):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"{name}: found suffix .*{re.escape(advice)}"):
        files.kind_of(tmp_path / name)
