"""Feature tables: every form of a source gives the same rows, and a missing value is never a number."""

import json
import os
import re
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pytest
from feature_forms import FORMS, IDS, VALUES, lists, npy, parquet, saved
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emo_ray.data import tables
from emo_ray.data.tables import Tables, vector


def rows(table):
    return np.stack(table["feature"].to_numpy(zero_copy_only=False))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows_in_the_requested_order(tmp_path, form):
    path = FORMS[form](tmp_path)
    assert sorted(tables.clip_ids(path)) == sorted(IDS)
    source = Tables([str(path)])
    features = source(["中文", "nobody", "a", "007"])
    assert source.dim == 5
    assert features["clip_id"].to_pylist() == ["中文", "nobody", "a", "007"]
    assert features["status"].to_pylist() == ["ok", "missing", "ok", "ok"]
    assert features["present"].to_pylist() == [True, False, True, True]
    np.testing.assert_allclose(rows(features)[[0, 2, 3]], VALUES[[3, 0, 1]], atol=1e-6)
    assert np.isnan(rows(features)[1]).all()


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.floats(-1e6, 1e6)))
def test_frames_are_averaged_over_time(frames_TD):
    values_D, status = vector(frames_TD, frames_TD.shape[1], zeros_are_values=True)
    assert status == "ok"
    np.testing.assert_allclose(values_D, frames_TD.mean(axis=0), rtol=1e-5, atol=1e-5)


def test_zeros_alone_are_no_values_unless_the_setting_says_so():
    frames_TD = np.array([[1.0, 0.0], [0.0, 0.0], [3.0, 5.0], [0.0, -0.0]])
    for values_D, expected in ((vector(frames_TD, 2), [2.0, 2.5]), (vector(frames_TD, 2, True), [1.0, 1.25])):
        np.testing.assert_array_equal(values_D[0], expected)
    for zeros in (np.zeros(2), np.zeros((3, 2), np.int64), np.zeros((1, 2), bool)):
        assert vector(zeros, 2) == (None, "missing: zeros alone")
        np.testing.assert_array_equal(vector(zeros, 2, True)[0], [0, 0])
    assert vector(np.zeros((2, 1)), 1)[1] == "ok"  # a single number may well be 0
    assert vector(np.array([0.0, np.nan]), 2)[1] == "ok"


@pytest.mark.parametrize("form", FORMS)
def test_zeros_are_absent_in_every_form(tmp_path, form):
    path = str(FORMS[form](tmp_path, IDS, np.vstack([VALUES[:2], np.zeros((1, 5), np.float32), VALUES[3:]])))
    features = Tables([path])(list(IDS))
    assert features["present"].to_pylist() == [True, True, False, True]
    assert features["status"].to_pylist()[2] == "missing: zeros alone"
    assert Tables([path], "values")(list(IDS))["present"].to_pylist() == [True] * 4
    assert tables.digest([path], "absent") != tables.digest([path], "values")


def test_the_mean_over_frames_leaves_nan_out():
    frames_TD = np.array([[1.0, np.nan, np.nan], [3.0, np.nan, 5.0]])
    values_D, status = vector(frames_TD, 3)
    assert status == "ok"
    np.testing.assert_array_equal(values_D, np.array([2.0, np.nan, 5.0], np.float32))


@pytest.mark.parametrize(
    ("array", "status"),
    [
        (None, "missing"),
        (np.zeros((0, 3)), "missing: empty"),
        (np.full(3, np.nan), "missing: all values are NaN"),
        (np.array([1.0, np.inf, 0.0]), "corrupt: infinite values"),
        (np.array([1.0, 1e300, 0.0]), "corrupt: infinite values"),
        (np.zeros(4), "corrupt: 4 values, expected 3 as most clips have"),
        (np.zeros((1, 2, 3)), "corrupt: an array of shape (1, 2, 3), expected (D,) or (T, D)"),
        (np.array(["x", "y", "z"]), "corrupt: values of type <U1, expected numbers"),
        ("not readable", "corrupt: not readable"),
    ],
)
def test_an_array_that_cannot_be_used_is_a_status(array, status):
    assert vector(array, 3) == (None, status)


def test_damaged_files_are_rows_with_a_status_and_the_others_are_read(tmp_path):
    folder = npy(tmp_path / "f", (*IDS, "x", "y"), [*VALUES, *VALUES[:2]])
    (folder / "a.npy").write_bytes((folder / "a.npy").read_bytes()[:100])
    np.save(folder / "007.npy", np.zeros(4))
    np.save(folder / "b c.npy", np.array([{"a": 1}], dtype=object))
    features = Tables([str(folder)])(list(IDS))
    assert [status.split(":")[0] for status in features["status"].to_pylist()] == ["corrupt"] * 3 + ["ok"]
    assert features["present"].to_pylist() == [False, False, False, True]


def test_sources_stand_side_by_side_and_one_may_lack_a_clip(tmp_path):
    wide = npy(tmp_path / "wide")
    narrow = saved(tmp_path / "narrow.npz", a=np.arange(3.0), x=np.ones(3))
    features = Tables([str(wide), str(narrow)])(["a", "007", "x", "nobody"])
    np.testing.assert_allclose(rows(features)[0], [*VALUES[0], 0, 1, 2])
    np.testing.assert_array_equal(np.isnan(rows(features)).sum(axis=1), [0, 3, 5, 8])
    assert features["present"].to_pylist() == [True, True, True, False]
    assert features["status"].to_pylist() == ["ok", "wide: ok; narrow: missing", "wide: missing; narrow: ok", "missing"]


def test_empty_cells_and_nulls_are_nan(tmp_path):
    (tmp_path / "a.csv").write_text("clip_id,x,y\na,1,\nb,nan,\nc,2,3\n")
    features = Tables([str(tmp_path / "a.csv")])(["a", "b", "c"])
    np.testing.assert_array_equal(rows(features), [[1, np.nan], [np.nan, np.nan], [2, 3]])
    assert features["present"].to_pylist() == [True, False, True]
    table = pa.table({"clip_id": ["a", "b", "c"], "feature": pa.array([[1.0, 2.0], None, [3.0, None]])})
    features = Tables([str(parquet(tmp_path / "a.parquet", table))])(["a", "b", "c"])
    np.testing.assert_array_equal(rows(features), [[1, 2], [np.nan, np.nan], [3, np.nan]])
    assert features["present"].to_pylist() == [True, False, True]


def test_clips_in_folders_keep_their_path(tmp_path):
    folder = npy(tmp_path / "f", ("angry/a", "sad/a"), VALUES[:2])
    assert tables.clip_ids(folder) == ["angry/a", "sad/a"]
    assert Tables([str(folder)])(["sad/a", "a"])["present"].to_pylist() == [True, False]


def written(path, content):
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "no such file or folder"),
        (lambda p: p, ".npy nor .parquet"),
        (lambda p: written(p / "a.txt", "x"), "'.txt'"),
        (lambda p: written(p / "a.npz", "x"), "not readable"),
        (lambda p: written(p / "a.parquet", "x"), "not readable"),
        (lambda p: written(p / "a.csv", "x,y\n1,2\n"), "x, y, ..., expected clip_id or id or name"),
        (lambda p: written(p / "a.csv", "id,x,x\n1,2,3\n"), "'x' twice"),
        (lambda p: written(p / "a.csv", "clip_id,x,label\na,2,3\n"), "'label'.*beside 'clip_id'"),
        (lambda p: written(p / "a.csv", "clip_id,x\na,sad\n"), "not readable.*sad"),
        (lambda p: written(p / "a.csv", "clip_id,x\na,1\na,2\n"), "'a' in several rows"),
        (lambda p: written(p / "a.csv", "clip_id,x\n,1\n"), "row 1: .*clip_id"),
        (lambda p: written(p / "a.csv", "clip_id\na\n"), "ids alone"),
        (
            lambda p: saved(p / "a.npz", clip_id=np.array(IDS), feature=VALUES[:2]),
            r"\(4,\), feature \(2, 5\), ",
        ),
        (lambda p: saved(p / "a.npz", clip_id=np.array(["a", "a"]), feature=VALUES[:2]), "several rows"),
        (lambda p: saved(p / "a.npz", clip_id=np.array(["a", None]), feature=VALUES[:2]), "not readable"),
        (lambda p: saved(p / "a.npz", a=np.array(["x"])), "no array of numbers"),
        (lambda p: parquet(p / "a.parquet", lists(x=VALUES[:, 0])), "feature, x, .*lists"),
        (lambda p: parquet(p / "a.parquet", pa.table({"id": ["a"], "x": [["y"]]})), "lists of string"),
        (lambda p: parquet(p / "a.parquet", pa.table({"id": ["a"], "x": ["y"]})), "string in column 'x'"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_clear_message(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{message}"):
        Tables([str(path)])


def test_folders_with_odd_names_pipes_and_circles_are_read(tmp_path):
    folder = npy(tmp_path / "hubert", ids=("x/a", "line\nbreak", "x/b", "c"))
    plain = tables.digest([str(folder)])
    os.mkfifo(folder / "pipe.npy")
    (folder / "x" / "back").symlink_to(folder)
    (folder / "._c.npy").write_bytes(b"of a Mac")
    with suppress(OSError, UnicodeError), open(os.fsencode(folder) + b"/caf\xe9.npy", "wb") as stream:
        stream.write(b"no clip of a table can have this name")
    assert tables.clip_ids(folder) == ["c", "line\nbreak", "x/a", "x/b"]
    assert tables.digest([str(folder)]) == plain
    assert Tables([str(folder)])(["line\nbreak", "pipe"])["status"].to_pylist() == ["ok", "missing"]


def test_the_digest_is_of_content_and_order_and_not_of_the_place(tmp_path):
    first = npy(tmp_path / "first")
    same = npy(tmp_path / "same")
    other = npy(tmp_path / "other", values=VALUES + 1)
    digest = {path.name: tables.digest([str(path)]) for path in (first, same, other)}
    assert digest["first"] == digest["same"] != digest["other"]
    assert tables.digest([str(first), str(other)]) != tables.digest([str(other), str(first)])
    (first / "meta.json").write_text(json.dumps({}))
    assert tables.digest([str(first)]) == digest["first"]


def test_two_releases_of_a_large_folder_with_equal_names_sizes_and_times_are_told_apart(tmp_path):
    digests = []
    for content in (b"", b"x"):
        path = tmp_path / "hubert/a.npy"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as stream:
            stream.seek(33 * 2**20)
            stream.write(content)
            stream.truncate(66 * 2**20)  # sparse: costs no disk
        os.utime(path, (1, 1))
        digests.append(tables.digest([str(path.parent)]))
    assert digests[0] != digests[1]
