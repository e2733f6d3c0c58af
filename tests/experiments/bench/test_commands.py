"""Commands are timed in processes of their own, on tables that can be cut into folds."""

import csv

import numpy as np
import pytest

from emo_ray.experiments.bench.commands import _FOLDS, _on_tables, run_s


def test_a_command_takes_time_and_its_failure_is_told():
    assert 0.01 < run_s(("--version",)) < 60
    with pytest.raises(RuntimeError, match=r"status 2.*no job 'journey'"):
        run_s(("journey",))


def test_tables_have_a_row_for_each_clip_of_people_for_every_fold(tiny_config, tmp_path):
    config = _on_tables(tiny_config, tmp_path)
    with open(config.data.manifest, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    clip_ids = [row["clip_id"] for row in rows]
    assert np.load(config.tables.audio[0])["clip_id"].tolist() == clip_ids
    assert len(set(clip_ids)) == len(rows) >= 300
    assert len({row["speaker"] for row in rows}) >= _FOLDS
