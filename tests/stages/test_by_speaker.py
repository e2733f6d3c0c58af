"""tables.standardise=speaker from the train stage to predictions: better where speakers differ, and no label leaks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from emo_ray import store, tracking
from emo_ray.config import override
from emo_ray.data import manifest
from emo_ray.data.batch import FeatureBatch, from_features
from emo_ray.data.manifest import Clip
from emo_ray.models import checkpoint_files
from emo_ray.stages import tune
from emo_ray.stages.corpus import open_corpus, speaker_offer
from emo_ray.stages.encoding.labelled import labelled_rows
from emo_ray.stages.evaluate import evaluate
from emo_ray.stages.fitting.phases import feature_rows
from emo_ray.stages.fitting.plan import resolve_training
from emo_ray.stages.predict import predict
from emo_ray.stages.pseudo_label import pseudo_label
from emo_ray.stages.train import train
from emo_ray.training.held_out import held_out
from emo_ray.training.speaker_scaling import standardised

pytestmark = pytest.mark.usefixtures("ray_session")
CLASSES, WIDTH = ("angry", "happy", "sad"), 9
SPLITS = ("train",) * 6 + ("validation",) * 2 + ("test",) * 4 + ("unlabelled",) * 2


def clips_of(rng):
    """Clips of tables, 30 of each speaker, and their features, in which speakers differ more than emotions."""
    clips, features = [], {}
    for speaker, split in enumerate(SPLITS):
        offset_D = 4 * rng.normal(size=WIDTH)
        for i in range(30):
            k, clip_id = i % 3, f"{speaker}-{i}"
            label = None if split == "unlabelled" else CLASSES[k]
            clips.append(Clip(clip_id, label=label, split=split, speaker=f"person {speaker}"))
            features[clip_id] = offset_D + 1.5 * (np.arange(WIDTH) % 3 == k) + rng.normal(size=WIDTH)
    return clips, features


@pytest.fixture(scope="module")
def corpus(tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("speakers")
    clips, features = clips_of(np.random.default_rng(0))
    np.savez(folder / "sound.npz", **features)
    manifest.write(folder / "clips.parquet", clips)
    places = {"data.manifest": str(folder / "clips.parquet"), "store.root": str(folder / "store")}
    keys = {"tables.audio": str(folder / "sound.npz"), "tables.standardise": "speaker", "tracking.enabled": False}
    quick = {"train.epochs": 3, "train.num_workers": 0, "fusion.passes_per_epoch": 10, "fusion.lr": 3e-3}
    quick["media.clips_per_part"] = 512  # so few are decoded in this process
    return override(tiny_config, places | keys | quick)


@pytest.fixture(scope="module")
def measured(corpus):
    return evaluate(corpus)


@pytest.fixture(scope="module")
def with_model(corpus, measured):
    """The config with its model as the checkpoint, in a store of its own."""
    model = Path(corpus.store.root) / "checkpoints" / measured.content["checkpoint"]
    return override(corpus, {"checkpoint": str(model), "tables.standardise": "corpus"})  # a model knows its own


def probabilities_of(folder, column="probabilities"):
    parts = [pq.read_table(path).to_pylist() for path in sorted(folder.glob("*.parquet"))]
    return {row["clip_id"]: row[column] for rows in parts for row in rows}


def test_it_finds_what_speakers_hide_and_says_so(measured, with_model, corpus):
    by_corpus = evaluate(override(corpus, {"tables.standardise": "corpus"}))
    assert by_corpus.content["checkpoint"] != measured.content["checkpoint"]
    assert measured.content["available"]["accuracy"] > by_corpus.content["available"]["accuracy"] + 0.15
    assert any("speaker by speaker" in note for note in measured.content["notes"])
    assert not any("speaker by speaker" in note for note in by_corpus.content["notes"])
    model = Path(with_model.checkpoint)
    assert "speaker by speaker" in (model / checkpoint_files.CARD).read_text()
    assert checkpoint_files.SPEAKERS in store.read_meta(model)[store.DIGESTS]
    assert not (model.parent / by_corpus.content["checkpoint"] / checkpoint_files.SPEAKERS).exists()


def test_predictions_are_those_of_the_report_however_clips_are_cut(measured, with_model, tmp_path):
    expected = probabilities_of(measured.path, "p_VAT")
    clips = manifest.read(Path(with_model.data.manifest))
    tested = [replace(clip, label=None, split=None) for clip in clips if clip.clip_id in expected]
    manifest.write(tmp_path / "tested.parquet", tested[::-1])
    for size in (7, 64):
        changes = {"data.manifest": str(tmp_path / "tested.parquet"), "store.root": str(tmp_path / str(size))}
        predicted = predict(override(with_model, changes | {"media.clips_per_part": size}))
        rows = probabilities_of(predicted.path)
        assert rows.keys() == expected.keys()
        for clip_id, row in rows.items():
            assert row == pytest.approx(expected[clip_id], abs=1e-6)
    few = [clip for clip in tested if clip.clip_id.endswith(("-0", "-3"))]  # another mean of each speaker
    manifest.write(tmp_path / "few.parquet", few)
    rows = probabilities_of(
        predict(override(with_model, changes | {"data.manifest": str(tmp_path / "few.parquet")})).path
    )
    assert any(row != pytest.approx(expected[clip_id], abs=1e-6) for clip_id, row in rows.items())


def test_clips_of_nobody_are_predicted(with_model, tmp_path, capsys):
    clips = [replace(c, speaker=None) for c in manifest.read(Path(with_model.data.manifest)) if c.split == "test"]
    manifest.write(tmp_path / "nobody.parquet", clips)
    changes = {"data.manifest": str(tmp_path / "nobody.parquet"), "store.root": str(tmp_path)}
    assert len(probabilities_of(predict(override(with_model, changes)).path)) == len(clips)
    assert "data.columns.speaker" in capsys.readouterr().err


def test_labels_of_tested_clips_decide_no_prediction(measured, corpus, with_model, tmp_path):
    clips = manifest.read(Path(corpus.data.manifest))
    turned = [
        replace(clip, label=CLASSES[(CLASSES.index(clip.label) + 1) % 3]) if clip.split == "test" else clip
        for clip in clips
    ]
    manifest.write(tmp_path / "turned.parquet", turned)
    again = evaluate(override(corpus, {"data.manifest": str(tmp_path / "turned.parquet"), "store.root": str(tmp_path)}))
    assert again.content["available"]["accuracy"] < measured.content["available"]["accuracy"] - 0.2
    assert probabilities_of(again.path, "p_VAT") == probabilities_of(measured.path, "p_VAT")


def test_teachers_standardise_the_clips_that_they_label(with_model, tmp_path):
    rounds = []
    for size in (7, 64):
        changes = {"store.root": str(tmp_path / str(size)), "media.clips_per_part": size}
        rounds.append(probabilities_of(pseudo_label(override(with_model, changes)).path))
    assert set(rounds[0]) == {f"{speaker}-{i}" for speaker in (12, 13) for i in range(30)}
    for clip_id, row in rounds[0].items():
        assert row == pytest.approx(rounds[1][clip_id], abs=1e-6)
    right = [int(np.argmax(row)) == int(clip_id.split("-")[1]) % 3 for clip_id, row in rounds[0].items()]
    assert np.mean(right) > 0.6


def test_a_fold_knows_no_label_of_its_tested_clips(corpus):
    clips, features = clips_of(np.random.default_rng(1))
    clips = [clip for clip in clips if clip.label is not None]
    batch = FeatureBatch(
        clip_ids=tuple(clip.clip_id for clip in clips),
        present_BM=torch.tensor([[False, True, False]] * len(clips)),
        label_B=torch.tensor([CLASSES.index(clip.label) for clip in clips]),
        features={"audio": torch.tensor(np.stack([features[clip.clip_id] for clip in clips]), dtype=torch.float32)},
        speakers=tuple(clip.speaker for clip in clips),
    )
    tested_B = np.array([clip.split == "test" for clip in clips])
    turned_B = torch.where(torch.from_numpy(tested_B), (batch.label_B + 1) % 3, batch.label_B)
    before = held_out(batch, tested_B, corpus, CLASSES, batch.speakers).probabilities["A"]
    assert (
        held_out(replace(batch, label_B=turned_B), tested_B, corpus, CLASSES, batch.speakers).probabilities["A"]
        == before
    ).all()
    accuracy = (before.argmax(axis=1) == batch.label_B.numpy()[tested_B]).mean()
    by_corpus = held_out(
        batch, tested_B, override(corpus, {"tables.standardise": "corpus"}), CLASSES, batch.speakers
    ).probabilities["A"]
    assert accuracy > (by_corpus.argmax(axis=1) == batch.label_B.numpy()[tested_B]).mean() + 0.1


def test_sweeps_see_the_same_features_as_the_models_that_they_choose(corpus):
    plan = resolve_training(corpus, open_corpus(corpus))
    run = tracking.open_run(corpus, Path(corpus.store.root), plan.key, "unused")
    folds = [tune._split(corpus, plan, run), *tune._folds(corpus, plan, 2)]
    table = feature_rows(corpus, plan, plan.clips.all_clips)
    train, validation = (
        from_features(labelled_rows(table, label_of)) for label_of in (plan.clips.labelled, plan.clips.validation)
    )
    expected = standardised(corpus, train, [validation])
    assert torch.equal(folds[0].train.features["audio"], expected[0].features["audio"])
    assert torch.equal(folds[0].validation.features["audio"], expected[1].features["audio"])
    for fold in folds:
        for batch in (fold.train, fold.validation):
            means = [
                batch.features["audio"][[name == speaker for name in batch.speakers]].mean(0)
                for speaker in set(batch.speakers)
            ]
            assert torch.stack(means).std(0).max() < 1  # of 4


def test_it_is_offered_where_speakers_have_many_clips_and_it_is_off(corpus, measured):
    off = override(corpus, {"tables.standardise": "corpus"})
    clips = manifest.read(Path(corpus.data.manifest))
    assert "14 speakers have 30 clips" in speaker_offer(off, clips)[0]
    assert not speaker_offer(corpus, clips)
    assert not speaker_offer(off, [replace(clip, speaker=clip.clip_id) for clip in clips])
    assert not speaker_offer(off, [replace(clip, speaker="one") for clip in clips])
    assert not speaker_offer(
        off, [replace(clip, speaker=clip.speaker if i % 2 else None) for i, clip in enumerate(clips)]
    )
    assert any("tables.standardise=speaker" in line for line in evaluate(off).lines)
    assert not any("tables.standardise=speaker" in line for line in evaluate(corpus).lines)


def test_without_speakers_training_says_what_is_missing(corpus, tmp_path):
    clips = [replace(clip, speaker=None) for clip in manifest.read(Path(corpus.data.manifest))]
    manifest.write(tmp_path / "clips.parquet", clips)
    changes = {"data.manifest": str(tmp_path / "clips.parquet"), "store.root": str(tmp_path)}
    with pytest.raises(ValueError, match=r"tables\.standardise=speaker: found 0"):
        train(override(corpus, changes))


def test_a_head_of_other_features_is_no_start(corpus, with_model):
    changes = {"fusion.start_from": with_model.checkpoint, "tables.standardise": "corpus"}
    with pytest.raises(ValueError, match=r"fusion\.start_from: found .*tables\.standardise=speaker.* expected corpus"):
        train(override(corpus, changes))
