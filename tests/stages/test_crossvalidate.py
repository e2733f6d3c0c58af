"""crossvalidate: numbers follow from predictions, folds know nothing of each other, a strong rival is no better."""

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emo_ray.config import load, override
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data import manifest, splits
from emo_ray.data.batch import FeatureBatch
from emo_ray.data.manifest import Clip
from emo_ray.data.prepared import Prepared
from emo_ray.stages.crossvalidate import _fold_notes, crossvalidate
from emo_ray.stages.evaluate import PREDICTIONS
from emo_ray.stages.train import train
from emo_ray.training.calibration import calibrated, fit_temperature, reliability
from emo_ray.training.held_out import held_out
from emo_ray.training.in_memory import fit_head, one_thread
from emo_ray.training.scoring import EVERYTHING

WIDTHS = {"video": 60, "audio": 80, "text": 50}
CLASSES = ("angry", "happy", "neutral", "sad")


def small(seed, clips=240, speakers=12, classes=4):
    """A small corpus: correlated features with a few useful directions, speakers, missing rows."""
    rng = np.random.default_rng(seed)
    label, speaker = rng.integers(0, classes, clips), np.arange(clips) % speakers
    features, present = {}, rng.random((clips, 3)) > 0.1
    for name, width in WIDTHS.items():
        signal = rng.normal(size=(classes, 5))[label] + 1.6 * rng.normal(size=(clips, 5))
        nuisance = rng.normal(size=(speakers, 15))[speaker] + rng.normal(size=(clips, 15))
        mixed = np.hstack([signal, nuisance]) @ rng.normal(size=(20, width)) + rng.normal(size=(clips, width))
        features[name] = mixed.astype(np.float32)
    present[~present.any(axis=1), 0] = True
    people = [
        Clip(f"c{i:03d}", label=CLASSES[k], speaker=f"s{s}")
        for i, (k, s) in enumerate(zip(label, speaker, strict=True))
    ]
    return people, features, present


def batch_of(people, features, present):
    label = torch.tensor([CLASSES.index(clip.label) for clip in people])
    values = {name: torch.from_numpy(np.where(present[:, [m]], features[name], 0)) for m, name in enumerate(MODALITIES)}
    ids = tuple(clip.clip_id for clip in people)
    return FeatureBatch(clip_ids=ids, present_BM=torch.from_numpy(present), features=values, label_B=label)


def logistic_regression(features, present, label_B, fold_B):
    """Predictions of logistic regression; scale and missing values are those of the training folds."""
    columns = np.hstack([np.where(present[:, [m]], features[name], np.nan) for m, name in enumerate(MODALITIES)])
    guess_B = np.empty_like(label_B)
    for fold in np.unique(fold_B):
        tested_B = fold_B == fold
        rival = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=2000))
        guess_B[tested_B] = rival.fit(columns[~tested_B], label_B[~tested_B]).predict(columns[tested_B])
    return guess_B


def test_it_is_at_least_as_good_as_logistic_regression_on_small_tables():
    """The same folds, several corpora; one head for each fold."""
    config = load("mini", {"train.heads": 1, "fusion.auto": False, "evaluate.floors": False})
    head_wafs, rival_wafs = [], []
    for seed in range(2):
        people, features, present = small(seed)
        batch, fold_B = batch_of(people, features, present), splits.folds(people, 2, seed)
        label_B, guess_B = batch.label_B.numpy(), np.empty(len(people), int)
        with one_thread():
            for fold in range(2):
                tested = held_out(batch, fold_B == fold, config, CLASSES, batch.clip_ids)
                guess_B[fold_B == fold] = tested.probabilities[EVERYTHING].argmax(axis=1)
            rival_B = logistic_regression(features, present, label_B, fold_B)
        head_wafs.append(f1_score(label_B, guess_B, average="weighted"))
        rival_wafs.append(f1_score(label_B, rival_B, average="weighted"))
    assert np.mean(head_wafs) >= np.mean(rival_wafs)
    assert np.mean(rival_wafs) > 0.4  # the rival has learnt something


def test_a_fold_knows_nothing_of_the_clips_it_is_tested_on():
    people, features, present = small(0, clips=60)
    short = {"train.epochs": 1, "fusion.passes_per_epoch": 1, "fusion.hidden": 8, "fusion.auto": False}
    config = load("mini", short | {"evaluate.floors": False})
    tested_B = splits.folds(people, 3, 0) == 1
    whole = batch_of(people, features, present)
    spoilt = {name: torch.where(torch.from_numpy(tested_B)[:, None], 1e6 * v, v) for name, v in whole.features.items()}
    spoilt_batch = replace(whole, features=spoilt, label_B=whole.label_B.masked_fill(torch.from_numpy(tested_B), 0))
    mask_B = torch.from_numpy(~tested_B)
    heads = [fit_head(batch.rows(mask_B), None, config, 4).state_dict() for batch in (whole, spoilt_batch)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    first, second = (
        held_out(batch, tested_B, config, CLASSES, batch.clip_ids).probabilities for batch in (whole, replace(whole))
    )
    assert all(np.array_equal(first[name], second[name]) for name in SUBSETS)


@pytest.fixture(scope="module")
def corpus(ray_session, tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    people, features, present = small(1, clips=90, speakers=9)
    for m, name in enumerate(MODALITIES):
        if name != "video":
            rows = {
                clip.clip_id: row for clip, row, has in zip(people, features[name], present[:, m], strict=True) if has
            }
            silent = {people[4].clip_id: np.zeros(WIDTHS[name])} if name == "audio" else {}
            np.savez(folder / f"{name}.npz", **(rows | silent))
    manifest.write(folder / "clips.parquet", people)
    keys = {f"tables.{name}": str(folder / f"{name}.npz") for name in ("audio", "text")}
    places = {"data.manifest": str(folder / "clips.parquet"), "store.root": str(folder / "store"), "data.folds": 3}
    quick = {"train.heads": 2, "fusion.passes_per_epoch": 5, "tracking.enabled": False}
    return override(tiny_config, keys | places | quick)


@pytest.fixture(scope="module")
def crossvalidated(corpus):
    return crossvalidate(corpus)


def test_every_number_follows_from_the_predictions(crossvalidated):
    report, table = crossvalidated.content, pq.read_table(crossvalidated.path / PREDICTIONS)
    labels = json.loads(table.schema.metadata[b"labels"])
    truth = np.array([labels.index(name) for name in table["label"].to_pylist()])
    fold_B = table["fold"].to_numpy()
    assert len(table) == report["n_clips"] >= 85
    assert [len(report["folds"]), report["folds"][0]["n_clips"]] == [3, (fold_B == 1).sum()]
    for name, modalities in SUBSETS.items():
        rows = np.all([table[f"has_{m}"].to_numpy() for m in modalities], axis=0)
        guess_B = np.array(table[f"p_{name}"].to_pylist()).argmax(axis=1)
        for rows_B, scores in [
            (rows, report["subsets"][name]),
            *((rows & (fold_B == i), fold["subsets"][name]) for i, fold in enumerate(report["folds"], start=1)),
        ]:
            if "video" in modalities:
                assert scores is None
                continue
            assert scores["n"] == rows_B.sum()
            assert scores["accuracy"] == pytest.approx((guess_B == truth)[rows_B].mean())
            assert scores["waf"] == pytest.approx(f1_score(truth[rows_B], guess_B[rows_B], average="weighted"))


def test_a_fold_is_calibrated_by_the_clips_of_the_others(crossvalidated):
    table, report = pq.read_table(crossvalidated.path / PREDICTIONS), crossvalidated.content
    label_B = np.array([report["labels"].index(name) for name in table["label"].to_pylist()])
    probability_BK, fold_B = np.array(table["p_VAT"].to_pylist(), np.float32), table["fold"].to_numpy()
    shown_BK = np.empty_like(probability_BK)
    for fold in (1, 2, 3):
        others_B = fold_B != fold
        temperature = fit_temperature(probability_BK[others_B], label_B[others_B])
        shown_BK[~others_B] = calibrated(probability_BK[~others_B], temperature)
    wrong = np.flatnonzero(shown_BK.argmax(axis=1) != label_B)
    order = wrong[np.argsort(-shown_BK[wrong].max(axis=1), kind="stable")]
    page = (crossvalidated.path / "mistakes.html").read_text("utf-8")
    shown = [json.loads(unescape(values))[0] for values in re.findall(r'data-clip="([^"]*)"', page)]
    assert shown == [table["clip_id"][int(row)].as_py() for row in order[:20]]
    assert report["calibration"]["ece"]["after"] == pytest.approx(reliability(shown_BK, label_B).error)
    assert report["calibration"]["fitted_on"] in page


def test_speakers_stay_apart(crossvalidated):
    people = [speaker for fold in crossvalidated.content["folds"] for speaker in fold["speakers"]]
    assert sorted(people) == sorted({f"s{i}" for i in range(9)})


def test_the_page_and_the_terminal_show_the_folds(crossvalidated, capsys):
    html = (crossvalidated.path / "report.html").read_text()
    assert "fold by fold" in html
    assert "trained on the other folds" in html
    crossvalidated.show()
    shown = capsys.readouterr().err
    assert all(f"{score} fold by fold" in shown for score in ("WAF", "accuracy", "UAR"))
    assert any("2 heads" in note for note in crossvalidated.content["notes"])


def test_notes_name_the_classes_that_a_fold_lacks_and_count_clips_of_zeros(crossvalidated):
    """Clips of zeros alone are absent; of four classes and three folds, one lacks a class and has another alone."""
    assert any(
        "audio: " in note and "audio.npz count as absent: 1 " in note for note in crossvalidated.content["notes"]
    )
    assert {fold["available"]["classes"] for fold in crossvalidated.content["folds"]} == {len(CLASSES)}
    assert not any("tests no" in note for note in crossvalidated.content["notes"])
    people, features, present = small(1, clips=90, speakers=9)
    batch = batch_of(people, features, present)
    fold_B = np.where(batch.label_B.numpy() == 3, 1, np.arange(90) % 3)
    fold_B[(batch.label_B.numpy() == 0) & (fold_B == 2)] = 0
    prepared = Prepared(Path(), tuple(people), CLASSES, (), Path(), ())
    notes = _fold_notes(prepared, batch, fold_B)
    assert [note.partition(":")[2].partition(":")[0].strip() for note in notes] == [
        "fold 1 tests no sad", "fold 3 tests no angry, sad", "sad",
    ]  # fmt: skip


def test_a_second_run_trains_nothing(crossvalidated, corpus):
    assert crossvalidate(corpus).path == crossvalidated.path
    assert crossvalidate(corpus).content == crossvalidated.content


def test_folds_that_the_corpus_brings_along_are_taken(corpus, tmp_path):
    clips = manifest.read(Path(corpus.data.manifest))
    names = ["fold", "session 2", "session 1", ""]  # of the column, of two folds, and of clips in none
    fold_of = {clip.clip_id: names[1 + min(int(clip.speaker[1:]) % 5, 2)] for clip in clips}
    rows = [(clip.clip_id, clip.label, clip.speaker, fold_of[clip.clip_id]) for clip in clips]
    lines = [",".join(row) for row in [("clip_id", "label", "speaker", "fold"), *rows]]
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    places = {"data.manifest": str(tmp_path / "clips.csv"), "data.columns": {"fold": "fold"}}
    quick = {"data.folds": None, "train.heads": 1, "train.epochs": 1}
    config = override(corpus, places | quick)
    result = crossvalidate(config)
    table = pq.read_table(result.path / PREDICTIONS)
    tested = dict(zip(table["clip_id"].to_pylist(), table["fold"].to_pylist(), strict=True))
    assert {(fold_of[clip_id], fold) for clip_id, fold in tested.items()} == {("session 1", 1), ("session 2", 2)}
    assert [fold["name"] for fold in result.content["folds"]] == ["session 1", "session 2"]
    assert any("2 folds are the corpus' own" in note for note in result.content["notes"])
    assert any("are in no fold" in note for note in result.content["notes"])
    assert "session 2 (" in (result.path / "report.html").read_text()
    with pytest.raises(ValueError, match=r"data\.folds=3 with data\.columns\.fold=fold, a column of 2 folds"):
        crossvalidate(override(config, {"data.folds": 3}))
    (tmp_path / "clips.csv").write_text("\n".join(line.replace("session 2", "session 1") for line in lines))
    with pytest.raises(ValueError, match=r"data\.columns\.fold=fold: found 1 folds"):
        crossvalidate(config)


def test_what_cannot_be_had_is_one_clear_message(corpus):
    with pytest.raises(ValueError, match=r"9 speakers.*data\.folds=10"):
        crossvalidate(override(corpus, {"data.folds": 10}))
    with pytest.raises(ValueError, match=r"jobs/crossvalidate\.py"):
        train(corpus)
    for key in ("checkpoint", "fusion.start_from", "train.pseudo_labels"):
        with pytest.raises(ValueError, match=f"{key}=somewhere"):
            crossvalidate(override(corpus, {key: "somewhere"}))
