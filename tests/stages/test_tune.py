"""tune: every trial once, judged on validation clips alone, and the best of them trained again is what was said."""

import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

from emo_ray import store, tracking
from emo_ray.config import load, override
from emo_ray.config.model_settings import SUBSETS
from emo_ray.data import manifest, splits
from emo_ray.data.batch import from_features
from emo_ray.stages.corpus import Corpus
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.fitting.phases import feature_rows, labelled_rows
from emo_ray.stages.fitting.plan import resolve_training
from emo_ray.stages.train import train
from emo_ray.stages.tune import BEST, tune
from emo_ray.training import search
from emo_ray.training.in_memory import fit_head
from emo_ray.training.scoring import scores, shown_only

HEADS = {
    "fusion.lr": {"loguniform": [1e-6, 3e-2]},
    "fusion.dropout": {"uniform": [0.0, 0.7]},
    "fusion.hidden": {"choice": [8, 16]},
}
PROMPTS = {"emovclip.global_prompts": {"choice": [0, 8]}, "fusion.dropout": {"choice": [0.0, 0.5]}}
TRIALS, EPOCHS = 9, 4


@pytest.fixture(scope="module")
def config(few_labels):
    own = {"tune.space": HEADS, "tune.trials": TRIALS, "train.epochs": EPOCHS, "tune.grace_epochs": 1}
    return override(few_labels, own)


@pytest.fixture(scope="module")
def optuna_log():
    """What Optuna logs while this module's sweeps run."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("optuna").addHandler(handler)
    yield stream
    logging.getLogger("optuna").removeHandler(handler)


@pytest.fixture(scope="module")
def swept(config, optuna_log):
    """A sweep in bulk."""
    optuna.logging.set_verbosity(optuna.logging.INFO)
    return tune(config)


@pytest.fixture(scope="module")
def prompts(tiny_config, evaluated, optuna_log):
    """A sweep by Ray Tune whose trials train EmoVCLIP of a length that is not there yet: config, sweep, EmoVCLIPs."""
    optuna.logging.set_verbosity(optuna.logging.INFO)
    own = {"tune.space": PROMPTS, "tune.trials": 4, "tune.grace_epochs": 1, "tune.reduction_factor": 2}
    config = override(tiny_config, own)
    before = emovclips(config)
    swept = tune(config)
    return config, swept, emovclips(config) - before


def emovclips(config):
    """Folders of the EmoVCLIPs that are trained."""
    return {path for path in (Path(config.store.root) / "checkpoints").glob("emovclip-*") if store.is_complete(path)}


def reached(config):
    """The objective of a config, by the train stage alone."""
    found = store.read_meta(train(config).path)["best"]["fusion"]
    return search.objective({f"val_{name}": value for name, value in found.items()}, config.tune.objective)


def runs_of(config, content_path):
    """The runs of a sweep in MLflow: the parent, and the trials inside it."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking.uri(config, Path(config.store.root)))
    experiment = client.get_experiment_by_name("emo_ray").experiment_id
    (parent,) = client.search_runs([experiment], f"attributes.run_name = 'sweep-{content_path.name}'")
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return client, parent, children


def test_every_trial_is_told_once_with_an_objective_for_every_epoch(swept):
    trials = swept.content["trials"]
    assert [trial["number"] for trial in trials] == list(range(TRIALS))
    for trial in trials:
        assert [epoch for epoch, _ in trial["history"]] == list(range(1, trial["epochs"] + 1))
        assert trial["value"] == trial["history"][-1][1]
        assert trial["epochs"] in ({EPOCHS} if trial["state"] == "complete" else {1, 3})
    states = [trial["state"] for trial in trials]
    assert set(states) == {"complete", "pruned"}
    assert states.count("pruned") >= TRIALS / 3


def test_the_best_is_no_worse_than_the_recipe_which_ran_to_its_end(swept, config):
    content = swept.content
    default, best = (content["trials"][content[which]] for which in ("default", "best"))
    assert search.applied(config, default["params"]) == config
    assert default["state"] == best["state"] == "complete"
    assert best["value"] == max(trial["value"] for trial in content["trials"] if trial["state"] == "complete")
    assert best["value"] >= default["value"]


def test_the_best_recipe_trained_as_it_is_reaches_what_was_reported(swept, config):
    content = swept.content
    value = content["trials"][content["best"]]["value"]
    again = load(str(swept.path / BEST))
    assert again.store == config.store
    assert reached(again) == content["retrained"] == pytest.approx(value, abs=1e-9)
    assert reached(config) == pytest.approx(content["trials"][content["default"]]["value"], abs=1e-9)


def test_optuna_prints_nothing(swept, prompts, optuna_log):
    assert optuna_log.getvalue() == ""


def test_a_second_run_repeats_nothing(swept, config):
    before = {p: p.stat().st_mtime_ns for p in Path(config.store.root).rglob("*") if "mlflow" not in p.name}
    again = tune(config)
    assert (again.path, again.content) == (swept.path, swept.content)
    assert before == {p: p.stat().st_mtime_ns for p in Path(config.store.root).rglob("*") if "mlflow" not in p.name}


def test_mlflow_has_a_run_for_the_sweep_and_one_in_it_for_each_trial(swept, config):
    client, parent, children = runs_of(config, swept.path)
    assert parent.info.status == "FINISHED"
    assert {f.path.split("/")[-1] for f in client.list_artifacts(parent.info.run_id, "sweep")} >= {"sweep.html", BEST}
    assert len(children) == TRIALS
    by_name = {run.info.run_name: run for run in children}
    for trial in swept.content["trials"]:
        run = by_name[f"trial-{trial['number']}"]
        assert run.data.tags["state"] == trial["state"]
        assert run.info.status == {"complete": "FINISHED", "pruned": "KILLED"}[trial["state"]]
        assert float(run.data.params["fusion.lr"]) == trial["params"]["fusion.lr"]
        assert run.data.metrics["objective"] == trial["value"]
        history = client.get_metric_history(run.info.run_id, "fusion/val_mean/waf")
        assert [metric.step for metric in history] == list(range(trial["epochs"]))


def test_clips_of_the_test_split_decide_nothing(swept, config, tmp_path):
    """Other labels and features of theirs, and the very same trials."""
    prepared = prepare_corpus(config)
    tested = {clip.clip_id for clip in prepared.clips if clip.split == "test"}
    assert tested
    assert not any(clip.clip_id in tested for clip in prepared.without_test().clips)
    clips = list(manifest.read(Path(config.data.manifest)))
    changed = [replace(c, label="upset") if c.clip_id in tested else c for c in clips]
    manifest.write(tmp_path / "clips.parquet", changed)
    keys = {"data.manifest": str(tmp_path / "clips.parquet"), "store.root": str(tmp_path / "store")}
    for name in ("audio", "text"):
        rows = dict(np.load(getattr(config.tables, name)[0]))
        np.savez(tmp_path / f"{name}.npz", **{k: v + 1e3 if k in tested else v for k, v in rows.items()})
        keys[f"tables.{name}"] = str(tmp_path / f"{name}.npz")
    other = tune(override(config, keys))
    timeless = [[{**t, "seconds": 0} for t in content["trials"]] for content in (swept.content, other.content)]
    assert timeless[0] == timeless[1]


def test_no_row_of_a_test_clip_is_read(config):
    corpus = Corpus(prepare_corpus(config).without_test())
    plan = resolve_training(config, corpus)
    table = feature_rows(config, plan, plan.clips.all_clips)
    assert set(table["clip_id"].to_pylist()) == set(plan.clips.all_clips)
    assert not {name for name in table["clip_id"].to_pylist() if name.startswith("test")}


def test_over_folds_the_objective_is_that_of_heads_trained_without_their_clips(config):
    folds = override(config, {"tune.folds": 3, "tune.trials": 1, "tune.objective": "mean/uar"})
    found = tune(folds).content["trials"][0]["value"]
    prepared = prepare_corpus(config).without_test()
    plan = resolve_training(config, Corpus(prepared))
    label_of = plan.clips.labelled | plan.clips.validation
    batch = from_features(labelled_rows(feature_rows(config, plan, label_of), label_of))
    clip_of = {clip.clip_id: clip for clip in prepared.clips}
    fold_B = splits.folds([clip_of[name] for name in batch.clip_ids], 3, config.seed)
    probabilities = {name: np.zeros((len(batch), len(prepared.labels))) for name in SUBSETS}
    for fold in range(3):
        held = torch.from_numpy(fold_B == fold)
        head = fit_head(batch.rows(~held), None, config, len(prepared.labels))
        for name, names in SUBSETS.items():
            probabilities[name][held] = shown_only(head, batch.rows(held), names)
    measured = [m["uar"] for m in scores(batch, probabilities)["subsets"].values() if m]
    assert found == pytest.approx(np.mean(measured), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "somewhere"}, "found checkpoint="),
        ({"data.folds": 3}, "found data.folds=3"),
        ({"tune.space": {}}, "empty tune.space"),
        ({"tune.folds": 3, "tune.bulk": "no"}, "not trained in bulk"),
        ({"tune.folds": 3, "train.pseudo_labels": "somewhere"}, "train.pseudo_labels=somewhere with tune.folds"),
        ({"tune.search": "pbt"}, r"fusion\.hidden in tune\.space with tune\.search=pbt"),
    ],
)
def test_what_cannot_be_searched_is_told(config, changes, message):
    with pytest.raises(ValueError, match=message):
        tune(override(config, changes))


def test_trials_of_ray_tune_see_every_epoch_of_both_phases(prompts):
    config, swept, _ = prompts
    trials, last = swept.content["trials"], 2 * config.train.epochs
    assert [trial["number"] for trial in trials] == list(range(4))
    for trial in trials:
        assert [epoch for epoch, _ in trial["history"]] == list(range(1, trial["epochs"] + 1))
        assert (trial["epochs"] == last) is (trial["state"] == "complete")
        for epoch, value in trial["history"]:
            assert (value < 0) is (epoch <= config.train.epochs)  # no head yet
    assert trials[swept.content["default"]]["state"] == "complete"


def test_a_trial_of_ray_tune_is_the_train_stage_with_an_override(prompts):
    """Its checkpoint is the one that train finds."""
    config, swept, _ = prompts
    for trial in swept.content["trials"]:
        if trial["state"] == "complete":
            own = search.applied(config, trial["params"])
            assert reached(own) == trial["value"]


def test_prompts_that_two_trials_share_are_trained_once(prompts):
    config, swept, made = prompts
    trials = [trial for trial in swept.content["trials"] if trial["epochs"] > config.train.epochs]  # with a head
    used = [trial["params"]["emovclip.global_prompts"] for trial in trials]
    new = [load(str(path / "config.yaml")).emovclip.global_prompts for path in made]
    assert len(used) > len(set(used))
    assert len(new) == len(set(new))
    assert set(used) <= {*new, config.emovclip.global_prompts}
    assert config.emovclip.global_prompts not in new


def test_both_ways_give_the_same_trials(swept, config):
    """And Ray Tune's stop as early: after as many reports as their rung has epochs."""
    alone = tune(override(config, {"tune.bulk": "no", "tune.trials": 6}))
    trials = alone.content["trials"]
    assert [trial["number"] for trial in trials] == list(range(6))
    assert "pruned" in {trial["state"] for trial in trials}
    curve_of, compared = {json.dumps(t["params"]): t["history"] for t in swept.content["trials"]}, 0
    for trial in trials:
        assert trial["epochs"] == len(trial["history"])
        assert trial["epochs"] in ({EPOCHS} if trial["state"] == "complete" else {1, 3})
        known = curve_of.get(json.dumps(trial["params"]), [])
        both = min(len(known), trial["epochs"])
        assert trial["history"][:both] == [[e, pytest.approx(v, abs=1e-9)] for e, v in known[:both]]
        compared += both
    assert compared > EPOCHS
    _, _, children = runs_of(config, alone.path)
    assert sorted(run.data.tags["state"] for run in children) == sorted(trial["state"] for trial in trials)
