"""The benchmark at its smallest, from the first part to the plan. No test asks how fast anything is."""

import json

import pytest

from emo_ray.config import choices, override
from emo_ray.experiments.bench.bench import CONTENT, PARTS, bench


def test_every_part_can_be_asked_for():
    assert set(choices("bench.part")) == {"all", *PARTS}


def test_a_plan_needs_every_part(tiny_config):
    with pytest.raises(ValueError, match=r"bench\.plan_clips=100 with bench\.part=decode"):
        bench(override(tiny_config, {"bench.part": "decode", "bench.plan_clips": 100}))


@pytest.mark.slow
def test_all_of_it(ray_session, tiny_config, tmp_path):
    changes = {
        "store.root": str(tmp_path / "store"),
        "bench.clip": tiny_config.emovclip.clip,
        "bench.pairs": 1,
        "bench.clips": 36,
        "media.clips_per_part": 4,
        "bench.train_s": 0.5,
        "bench.trials": 2,
        "bench.sizes": [200, 400],
        "bench.plan_clips": 1000,
        "bench.plan_labelled": 100,
    }
    result = bench(override(tiny_config, changes))
    content = json.loads((result.path / CONTENT).read_text(encoding="utf-8"))
    assert content == result.content
    assert {row["part"] for row in content["figures"]} == set(PARTS)
    assert all((row["clips_per_s"] or row["seconds"]) > 0 for row in content["figures"])
    targets = [row["at_least"] for row in content["comparisons"] if row["part"] != "growth"]
    assert targets == [20, 0.95, 1.0, 1.0, 0.7, 0.7, 1.25, 2.0, 1.1, 0.95, 0.95, 1.7, 5.0, 5.0, 10.0, 1.5, 1.0, 1.0]
    assert sum(row["part"] == "growth" for row in content["comparisons"]) == 14  # jobs
    assert all(row["holds"] == (row["ratio"] >= row["at_least"]) for row in content["comparisons"])
    assert all(stage["hours"] > 0 for stage in content["plan"]["stages"])
    assert "limits" in content["plan"]["verdict"]
    assert [len(table.rows) for table in result.tables] == [
        len(content["figures"]),
        len(content["comparisons"]),
        len(content["plan"]["stages"]),
    ]
    assert result.lines == [content["plan"]["verdict"]]
    result.show()
    assert [p.name for p in (tmp_path / "store").iterdir() if p.name.startswith(".bench-")] == []
