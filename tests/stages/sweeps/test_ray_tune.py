"""Sweeps by Ray Tune and with stacked trials are the same."""

import json
from pathlib import Path

import pytest

from emo_ray.config import override
from emo_ray.stages.tune import tune

pytestmark = pytest.mark.usefixtures("ray_session")


def test_both_ways_give_the_same_trials(swept, sweep_config, runs_of):
    """Ray Tune's trials stop as early: after as many reports as their rung has epochs."""
    # Each process takes seconds to start.
    alone = tune(override(sweep_config, {"tune.bulk": "no", "tune.trials": 6, "tune.max_concurrent": 2}))
    trials = alone.content["trials"]
    assert [trial["number"] for trial in trials] == list(range(6))
    assert "pruned" in {trial["state"] for trial in trials}
    assert not any(Path(sweep_config.store.root, "train").iterdir())  # what stopped trials have left
    curve_of, compared = {json.dumps(t["params"]): t["history"] for t in swept.content["trials"]}, 0
    for trial in trials:
        assert trial["epochs"] == len(trial["history"])
        assert trial["epochs"] in ({4} if trial["state"] == "complete" else {1, 3})
        curve = curve_of.get(json.dumps(trial["params"]), [])
        both = min(len(curve), trial["epochs"])
        assert trial["history"][:both] == [[e, pytest.approx(v, abs=1e-9)] for e, v in curve[:both]]
        compared += both
    assert compared > 4
    _, _, children = runs_of(sweep_config, alone.path)
    assert sorted(run.data.tags["state"] for run in children) == sorted(trial["state"] for trial in trials)
