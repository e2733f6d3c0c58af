"""teachers: means that know what is missing; the rest is in test_pseudo_label."""

import numpy as np
import pyarrow as pa

from emo_ray.stages import teachers


def test_lists_become_rows_and_null_becomes_nan():
    column = pa.chunked_array([[[0.25, 0.75], None], [[1.0, 0.0]]], pa.list_(pa.float32()))
    found_BK = teachers.matrix(column, 2)
    assert found_BK.dtype == np.float32
    np.testing.assert_array_equal(found_BK, [[0.25, 0.75], [np.nan, np.nan], [1, 0]])
    np.testing.assert_array_equal(teachers.matrix(column.slice(1), 2), [[np.nan, np.nan], [1, 0]])
    assert teachers.matrix(column.slice(3), 2).shape == (0, 2)


def test_the_mean_is_over_those_who_know():
    gap = [np.nan, np.nan]
    values_TBK = np.array([[[0.2, 0.8], gap, gap], [[0.6, 0.4], [0.1, 0.9], gap]], np.float32)
    np.testing.assert_allclose(teachers.mean(values_TBK), [[0.4, 0.6], [0.1, 0.9], gap], rtol=1e-6)
    np.testing.assert_array_equal(teachers.mean(values_TBK[:1]), values_TBK[0])  # of one teacher, bit for bit


def test_votes_by_hand():
    assert teachers.votes(np.array([[0.2, 0.8], [np.nan, np.nan], [0.5, 0.5]])).tolist() == [1, -1, 0]
