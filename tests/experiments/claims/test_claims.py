"""claims: each trial has a result of its own, named by what decides it, is made once, and gives the same again."""

import json
import re
import shutil
from pathlib import Path

import pytest

from emo_ray.config import override
from emo_ray.config.model_settings import MODALITIES
from emo_ray.experiments.claims.claims import CONTENT, claims, plan_trials
from emo_ray.experiments.claims.trials import trials_of
from emo_ray.reports import claims as claims_report

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def config(tiny_config, evaluated):
    changes = {
        "claims.worlds": 1,
        "claims.seeds": 1,
        "claims.self_training_seeds": 1,
        "claims.dropout_rates": [0.5],
        "train.epochs": 1,
        "synthetic.seed": -1,  # the first world has the next seed, which is the tiny corpus: it is prepared already
    }
    return override(tiny_config, changes)


@pytest.fixture(scope="module")
def claimed(config):
    return claims(config)


def times_of_trials(config):
    trials = (Path(config.store.root) / "claims/trials").glob("[!.]*")
    return {folder.name: folder.stat().st_mtime_ns for folder in trials}


@pytest.mark.slow  # every trial, if small
def test_every_claim_has_its_tables_pictures_and_markdown(claimed, config):
    assert {table["claim"] for table in claimed.content["tables"]} == {1, 2, 3, 4, 5}
    cells = [cell for table in claimed.content["tables"] for row in table["rows"] for cell in row["cells"]]
    assert all(0 <= cell["mean"] <= 1 for cell in cells)
    assert (claimed.path / claims_report.PAGE).stat().st_size > 10_000
    assert "EmoVCLIP − zero-shot CLIP" in (claimed.path / claims_report.MARKDOWN).read_text()
    assert len(times_of_trials(config)) == len(trials_of(config))


@pytest.mark.slow
def test_killed_in_the_middle_it_makes_only_what_is_missing_and_ends_with_the_same(claimed, config):
    before, content = times_of_trials(config), json.loads((claimed.path / CONTENT).read_text())
    lost = sorted(before)[::5]
    for name in lost:
        shutil.rmtree(Path(config.store.root) / "claims/trials" / name)
    shutil.rmtree(claimed.path)
    assert claims(config).content == content
    after = times_of_trials(config)
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} == set(lost)


def folders_of(config):
    return {trial.name: trial.folder for trial in plan_trials(config, Path(config.store.root))}


def trains(trial, kinds, modality=None):
    return trial.kind in kinds and (modality is None or modality in trial.changes.get("modalities", MODALITIES))


WHOLE_MODELS, ALL_MODELS = {"model", "self-training"}, {"EmoVCLIP", "model", "self-training"}


@pytest.mark.parametrize(
    ("changes", "is_decided"),
    [
        ({"seed": 1}, lambda trial: trains(trial, ALL_MODELS)),
        ({"emovclip.lr": 0.5}, lambda trial: trains(trial, ALL_MODELS, "video")),
        ({"fusion.lr": 0.5}, lambda trial: trains(trial, WHOLE_MODELS)),
        ({"text.ngram_features": 32}, lambda trial: trains(trial, WHOLE_MODELS, "text")),
        ({"pseudo.quantile": 0.1}, lambda trial: trial.kind == "self-training"),
        ({"rounds.min_gain": 0.1}, lambda trial: trial.kind == "self-training"),
        ({"train.max_failures": 0, "train.num_workers": 2}, lambda trial: False),
    ],
)
def test_a_setting_changes_the_trials_that_it_decides(config, changes, is_decided):
    """With weights from a file, because those of a random CLIP change with the seed."""
    changes_of_clip = {"emovclip.clip": "mini_clip.json", "emovclip.weights": "mini_clip.safetensors"}
    base = override(config, changes_of_clip | {"media.image_size": 32})
    before, after = folders_of(base), folders_of(override(base, changes))
    assert {name for name in before if before[name] != after[name]} == {
        name for name, trial in trials_of(config).items() if is_decided(trial)
    }


def test_another_dropout_rate_is_another_trial_and_no_other_changes(config):
    before, after = folders_of(config), folders_of(override(config, {"claims.dropout_rates": [0.5, 0.7]}))
    assert after.pop("dropout 0.7") not in before.values()
    assert after == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.manifest", "clips.csv"),
        ("data.corpus", "ravdess"),
        ("tables.audio", ["audio.npz"]),
        ("train.use_gpu", "yes"),
        ("emovclip.start_from", "folder"),
        ("fusion.start_from", "folder"),
        ("train.pseudo_labels", "folder"),
        ("pseudo.teachers", ["folder"]),
        ("checkpoint", "folder"),
        ("annotate.url", "http://127.0.0.1:1/v1"),
        ("modalities", ["audio"]),
    ],
)
def test_settings_that_claims_are_not_measured_with_are_refused(tiny_config, key, value):
    with pytest.raises(ValueError, match=f"found {re.escape(key)}="):
        claims(override(tiny_config, {key: value}))
