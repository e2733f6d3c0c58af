"""tune: every trial once, judged on validation clips alone; the best one, trained again, reaches what was reported."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emo_ray.config import load, override
from emo_ray.config.model_settings import SUBSETS
from emo_ray.data import manifest, splits
from emo_ray.data.batch import from_features
from emo_ray.stages.corpus import Corpus
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.encoding.labelled import labelled_rows
from emo_ray.stages.fitting.phases import feature_rows
from emo_ray.stages.fitting.plan import resolve_training
from emo_ray.stages.tune import BEST, tune
from emo_ray.training import search
from emo_ray.training.in_memory import fit_head
from emo_ray.training.scoring import scores, shown_only

pytestmark = pytest.mark.usefixtures("ray_session")


def test_every_trial_is_listed_once_with_an_objective_for_every_epoch(swept):
    trials = swept.content["trials"]
    assert [trial["number"] for trial in trials] == list(range(9))
    for trial in trials:
        assert [epoch for epoch, _ in trial["history"]] == list(range(1, trial["epochs"] + 1))
        assert trial["value"] == trial["history"][-1][1]
        best_so_far = list(itertools.accumulate((value for _, value in trial["curve"]), max))
        assert [value for _, value in trial["history"]] == best_so_far
        assert trial["epochs"] in ({4} if trial["state"] == "complete" else {1, 3})
    states = [trial["state"] for trial in trials]
    assert set(states) == {"complete", "pruned"}
    assert states.count("pruned") >= 3


def test_the_best_is_no_worse_than_the_recipe_which_ran_to_its_end(swept, sweep_config):
    content = swept.content
    default, best = (content["trials"][content[which]] for which in ("default", "best"))
    of_the_sweep = {"train.objective": sweep_config.tune.objective, "fusion.auto": False}
    assert search.applied(sweep_config, default["params"]) == override(sweep_config, of_the_sweep)
    assert default["state"] == best["state"] == "complete"
    assert best["value"] == max(trial["value"] for trial in content["trials"] if trial["state"] == "complete")
    assert best["value"] >= default["value"]


def test_the_best_recipe_trained_as_it_is_reaches_what_was_reported(swept, sweep_config, reached):
    content = swept.content
    value = content["trials"][content["best"]]["value"]
    again = load(str(swept.path / BEST))
    assert again.store == sweep_config.store
    assert reached(again) == content["retrained"] == pytest.approx(value, abs=1e-9)
    assert reached(sweep_config) == pytest.approx(content["trials"][content["default"]]["value"], abs=1e-9)


def test_optuna_prints_nothing(swept, prompt_sweep, optuna_log):
    assert optuna_log.getvalue() == ""


def test_a_second_run_repeats_nothing(swept, sweep_config):
    def files():
        paths = Path(sweep_config.store.root).rglob("*")
        return {path: path.stat().st_mtime_ns for path in paths if "mlflow" not in path.name}

    before = files()
    again = tune(sweep_config)
    assert (again.path, again.content) == (swept.path, swept.content)
    assert files() == before


def test_clips_of_the_test_split_decide_nothing(swept, sweep_config, tmp_path):
    """With other labels and features of theirs the trials are the same."""
    prepared = prepare_corpus(sweep_config)
    tested = {clip.clip_id for clip in prepared.clips if clip.split == "test"}
    assert tested
    assert not any(clip.clip_id in tested for clip in prepared.without_test().clips)
    clips = list(manifest.read(Path(sweep_config.data.manifest)))
    changed = [replace(c, label="upset") if c.clip_id in tested else c for c in clips]
    manifest.write(tmp_path / "clips.parquet", changed)
    keys = {"data.manifest": str(tmp_path / "clips.parquet"), "store.root": str(tmp_path / "store")}
    keys["tracking.enabled"] = False
    for name in ("audio", "text"):
        rows = dict(np.load(getattr(sweep_config.tables, name)[0]))
        np.savez(tmp_path / f"{name}.npz", **{k: v + 1e3 if k in tested else v for k, v in rows.items()})
        keys[f"tables.{name}"] = str(tmp_path / f"{name}.npz")
    other = tune(override(sweep_config, keys))
    timeless = [[{**t, "seconds": 0} for t in content["trials"]] for content in (swept.content, other.content)]
    assert timeless[0] == timeless[1]


def test_no_row_of_a_test_clip_is_read(sweep_config):
    corpus = Corpus(prepare_corpus(sweep_config).without_test())
    plan = resolve_training(sweep_config, corpus)
    table = feature_rows(sweep_config, plan, plan.clips.all_clips)
    assert set(table["clip_id"].to_pylist()) == set(plan.clips.all_clips)
    assert not {name for name in table["clip_id"].to_pylist() if name.startswith("test")}


def test_over_folds_the_objective_is_that_of_heads_trained_without_their_clips(sweep_config):
    folds = override(sweep_config, {"tune.folds": 3, "tune.trials": 1, "tune.objective": "mean/uar"})
    value = tune(folds).content["trials"][0]["value"]
    prepared = prepare_corpus(sweep_config).without_test()
    plan = resolve_training(sweep_config, Corpus(prepared))
    label_of = plan.clips.labelled | plan.clips.validation
    batch = from_features(labelled_rows(feature_rows(sweep_config, plan, label_of), label_of))
    clip_of = {clip.clip_id: clip for clip in prepared.clips}
    fold_B = splits.folds([clip_of[name] for name in batch.clip_ids], 3, sweep_config.seed)
    probabilities = {name: np.zeros((len(batch), len(prepared.labels))) for name in SUBSETS}
    for fold in range(3):
        held = torch.from_numpy(fold_B == fold)
        head = fit_head(batch.rows(~held), None, sweep_config, len(prepared.labels))
        for name, names in SUBSETS.items():
            probabilities[name][held] = shown_only(head, batch.rows(held), names)
    measured = [m["uar"] for m in scores(batch, probabilities)["subsets"].values() if m]
    assert value == pytest.approx(np.mean(measured), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "somewhere"}, "checkpoint=somewhere"),
        ({"data.folds": 3}, r"data\.folds=3"),
        ({"tune.space": {}}, r"tune\.space"),
        ({"tune.folds": 3, "tune.bulk": "no"}, r"tune\.folds=3.*tune\.bulk"),
        ({"tune.folds": 3, "train.pseudo_labels": "somewhere"}, r"train\.pseudo_labels=somewhere.*tune\.folds"),
        ({"tune.search": "pbt"}, r"fusion\.hidden.*tune\.search=pbt"),
    ],
)
def test_what_cannot_be_searched_is_said(sweep_config, changes, message):
    with pytest.raises(ValueError, match=message):
        tune(override(sweep_config, changes))


def test_a_trial_that_diverges_fails_and_the_others_go_on(few_labels):
    space = {"fusion.lr": {"choice": [1e-3, 2e-3, 1e30]}}
    config = override(few_labels, {"tune.space": space, "tune.trials": 6, "tune.search": "random", "fusion.lr": 1e-3})
    content = tune(config).content
    diverged = [trial["params"]["fusion.lr"] == 1e30 for trial in content["trials"]]
    assert any(diverged)
    assert [trial["state"] == "failed" for trial in content["trials"]] == diverged
    assert all(
        ("fusion.lr=1e+30" in (trial["error"] or "")) == bad
        for trial, bad in zip(content["trials"], diverged, strict=True)
    )
    assert content["trials"][content["best"]]["state"] == "complete"
