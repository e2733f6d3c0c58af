"""Sweeps by Ray Tune and with stacked trials are the same."""

import json
from pathlib import Path

import pytest

from emo_ray import tracking
from emo_ray.config import override
from emo_ray.stages.corpus import Corpus
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.fitting.plan import resolve_training
from emo_ray.stages.sweeps.ray_tune import forget_unfinished
from emo_ray.stages.sweeps.records import COMPLETE, FAILED, PRUNED, Records
from emo_ray.stages.sweeps.trial import Task
from emo_ray.stages.tune import tune
from emo_ray.training import search

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


def test_only_complete_trials_keep_what_lies_in_train(sweep_config, tmp_path, capsys):
    """Nobody goes on with the others: a killed sweep may begin a trial anew with other settings."""
    config = override(sweep_config, {"store.root": str(tmp_path), "tracking.enabled": False, "train.refit": False})
    task = Task(config, Corpus(prepare_corpus(config).without_test()))
    records = Records(config, tmp_path, tmp_path / "trials", tracking.open_run(config, tmp_path, "key", "sweep"))
    folder_of = {}
    for state, lr in {COMPLETE: 0.001, PRUNED: 0.002, FAILED: 0.003, None: 0.004}.items():
        params = {"fusion.lr": lr}
        records.trials[str(lr)] = {"params": params, "state": state, "epochs": 2}
        trial = override(search.applied(config, params), {"train.num_workers": 0, "train.use_gpu": "no"})
        folder_of[state] = tmp_path / "train" / f"fusion-{resolve_training(trial, task.corpus).key}"
        folder_of[state].mkdir(parents=True)
    records.trials["refused"] = {"params": {"tables.audio": "nowhere"}, "state": FAILED, "epochs": 0}
    capsys.readouterr()
    forget_unfinished(records, task)
    assert capsys.readouterr().err == ""
    assert [state for state, folder in folder_of.items() if folder.exists()] == [COMPLETE]
