"""What small corpora get by default: settings from inner folds, training on all labelled clips, and floors."""

from pathlib import Path

import numpy as np
import pytest

from emo_ray import resources, store
from emo_ray.config import override
from emo_ray.data import manifest
from emo_ray.data.manifest import Clip
from emo_ray.models import checkpoint, checkpoint_files
from emo_ray.models.classical_head import ClassicalHead
from emo_ray.models.head_average import HeadAverage
from emo_ray.reports.evaluation import PAGE
from emo_ray.stages.corpus import open_corpus
from emo_ray.stages.crossvalidate import crossvalidate
from emo_ray.stages.evaluate import evaluate
from emo_ray.stages.fitting.plan import resolve_training
from emo_ray.stages.predict import predict
from emo_ray.stages.train import train

pytestmark = pytest.mark.usefixtures("ray_session")
CLASSES = ("angry", "happy", "sad")
SPLITS = ("train",) * 6 + ("validation",) * 2 + ("test",) * 4


@pytest.fixture(scope="module")
def corpus(tiny_config, tmp_path_factory):
    """Twelve speakers of 15 clips each, with tables of two modalities."""
    folder, rng = tmp_path_factory.mktemp("small"), np.random.default_rng(0)
    clips = [
        Clip(f"{s}-{i}", label=CLASSES[i % 3], split=split, speaker=f"person {s}")
        for s, split in enumerate(SPLITS)
        for i in range(15)
    ]
    for name in ("audio", "text"):
        rows = {c.clip_id: 1.2 * np.eye(3, 6)[CLASSES.index(c.label)] + rng.normal(size=6) for c in clips}
        np.savez(folder / f"{name}.npz", **rows)
    manifest.write(folder / "clips.parquet", clips)
    changes = {f"tables.{name}": str(folder / f"{name}.npz") for name in ("audio", "text")}
    changes |= {"data.manifest": str(folder / "clips.parquet"), "store.root": str(folder / "store")}
    defaults = {"train.heads": None, "train.refit": None, "fusion.auto": None, "evaluate.floors": None}
    quick = {"train.epochs": 2, "train.num_workers": 0, "fusion.hidden": 8, "tracking.enabled": False}
    quick["media.clips_per_part"] = 256  # all of them are one part
    return override(tiny_config, changes | defaults | quick)


@pytest.fixture(scope="module")
def measured(corpus):
    return evaluate(corpus)


def test_the_head_is_an_average_that_has_learnt_from_validation_too(corpus, measured):
    result = train(corpus)
    assert result.path.name == measured.content["checkpoint"]
    seen = store.read_json(result.path / checkpoint_files.SEEN)
    assert set(seen.values()) == {"train"}
    assert len(seen) == 8 * 15
    head, meta = checkpoint.load_fusion(result.path), store.read_meta(result.path)
    assert isinstance(head, HeadAverage)
    assert len(head.heads) == 3
    config, _ = checkpoint_files.read_config(result.path)
    assert config.fusion.hidden in (8, 24)
    assert meta["best"]["fusion"]["n"] == 8 * 15  # of inner folds, in which every clip is left out once
    assert any("inner folds chose" in note for note in result.content["notes"])
    assert any("inner folds chose" in line for line in (result.path / checkpoint_files.CARD).read_text().splitlines())


def test_a_refit_model_is_calibrated_on_the_clips_that_inner_folds_left_out(corpus, measured):
    result = train(corpus)
    stored = checkpoint_files.read_calibration(result.path)
    assert (stored["n"], stored["clips"]) == (8 * 15, "inner folds")
    assert stored["nll"]["before"] == pytest.approx(store.read_meta(result.path)["best"]["fusion"]["loss"], abs=1e-5)
    assert stored["nll"]["after"] <= stored["nll"]["before"]


@pytest.mark.slow  # that workers train the same is in fitting/test_ray_train.py, that processes choose in folds below
def test_workers_of_ray_choose_and_train_the_same(corpus, measured, monkeypatch):
    monkeypatch.setattr(resources, "SMALL", 0)  # below it no worker is started
    of_ray = train(override(corpus, {"train.num_workers": 1, "store.root": corpus.store.root + "-ray"}))
    assert of_ray.path.name == measured.content["checkpoint"]
    here = checkpoint.load_fusion(train(corpus).path).state_dict()
    for name, value in checkpoint.load_fusion(of_ray.path).state_dict().items():
        np.testing.assert_allclose(value.numpy(), here[name].numpy(), atol=1e-5)


def test_the_report_has_floors_of_the_same_clips(measured):
    floors = measured.content["floors"]
    assert set(floors) == {"A", "T", "AT"}
    for subset, scores in floors.items():
        assert scores["n"] == measured.content["subsets"][subset]["n"] == 4 * 15
        assert scores["waf"] == pytest.approx(measured.content["subsets"][subset]["waf"])
        assert len(scores["floors"]) == 3
    assert floors["AT"]["floors"][floors["AT"]["best"]]["accuracy"] > 0.5
    assert "Classical floors" in (measured.path / PAGE).read_text()
    assert "Classical floors" in [table.title for table in measured.tables]


def test_predictions_are_made_with_the_average(corpus, measured):
    checkpoint_path = train(corpus).path
    result = predict(override(corpus, {"checkpoint": str(checkpoint_path)}))
    assert result.content["clips"] == 12 * 15


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, True), ({"train.refit": False}, False), ({"train.refit": True}, True)],
)
def test_when_inner_folds_are_used(corpus, changes, expected):
    plan = resolve_training(override(corpus, changes), open_corpus(override(corpus, changes)))
    assert plan.inner_folds == expected
    assert (len(plan.clips.validation) == 0) == expected


def test_what_knows_labels_is_not_judged_in_inner_folds(trained, tiny_config, corpus):
    """`trained` has an EmoVCLIP: on its features, clips left out look as known as the others."""
    config = override(tiny_config, {"train.refit": None})
    assert not resolve_training(config, open_corpus(config)).inner_folds
    with pytest.raises(ValueError, match=r"train\.refit=true.*EmoVCLIP"):
        resolve_training(override(config, {"train.refit": True}), open_corpus(config))
    warm = override(corpus, {"fusion.start_from": str(train(corpus).path), "train.refit": True})
    with pytest.raises(ValueError, match=r"fusion\.start_from"):
        resolve_training(warm, open_corpus(warm))


def test_a_corpus_without_a_test_split_keeps_its_validation(corpus, tmp_path):
    clips = [clip for clip in manifest.read(Path(corpus.data.manifest)) if clip.split != "test"]
    manifest.write(tmp_path / "clips.parquet", clips)
    config = override(corpus, {"data.manifest": str(tmp_path / "clips.parquet")})
    assert not resolve_training(config, open_corpus(config)).inner_folds


def test_folds_choose_each_for_itself_and_name_the_floors(corpus):
    one_process = {"train.num_workers": 1, "cluster.num_cpus": 1}  # each takes longer to import than all folds take
    content = crossvalidate(override(corpus, {"data.folds": 3, **one_process})).content
    assert set(content["floors"]) == {"A", "T", "AT"}
    assert content["floors"]["AT"]["n"] == 12 * 15
    (chosen,) = [note for note in content["notes"] if "inner folds of the training clips chose" in note]
    assert chosen.count("epochs") == 3


def test_a_head_that_is_perfect_at_once_is_doubted(corpus, tmp_path):
    """Features that name the label, as those of an encoder that was trained on it."""
    clips = manifest.read(Path(corpus.data.manifest))
    np.savez(tmp_path / "leak.npz", **{c.clip_id: 9.0 * np.eye(3)[CLASSES.index(c.label)] for c in clips})
    config = override(corpus, {"tables.audio": str(tmp_path / "leak.npz"), "tables.text": [], "modalities": ["audio"]})
    for refit in (True, False):
        notes = train(override(config, {"train.refit": refit, "fusion.lr": 0.02})).content["notes"]
        assert any("were trained on the labels" in note for note in notes)


@pytest.mark.parametrize("refit", [None, False])
def test_a_classical_head_is_trained_evaluated_and_predicted_with(corpus, measured, refit):
    config = override(corpus, {"fusion.kind": "svm" if refit is None else "linear", "train.refit": refit})
    result = train(config)
    head, meta = checkpoint.load_fusion(result.path), store.read_meta(result.path)
    assert isinstance(head, ClassicalHead)
    assert meta["best"]["fusion"]["n"] == (8 if refit is None else 2) * 15
    assert set(store.read_json(result.path / checkpoint_files.SEEN).values()) == (
        {"train"} if refit is None else {"train", "validation"}
    )
    assert checkpoint_files.read_calibration(result.path)["n"] == meta["best"]["fusion"]["n"]
    report = evaluate(override(corpus, {"checkpoint": str(result.path), "evaluate.floors": False})).content
    if refit is None:  # trained on the clips of the floor
        assert report["subsets"]["AT"]["waf"] == pytest.approx(
            measured.content["floors"]["AT"]["floors"]["support vector machine"]["waf"], abs=0.05
        )
    assert predict(override(corpus, {"checkpoint": str(result.path)})).content["clips"] == 12 * 15


def test_cross_validation_takes_a_classical_head(corpus):
    config = override(corpus, {"fusion.kind": "linear", "data.folds": 3, "evaluate.floors": False})
    assert crossvalidate(config).content["subsets"]["AT"]["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train.pseudo_labels": "labels"}, "train.pseudo_labels"),
        ({"fusion.context.before": 1}, "fusion.context"),
        ({"fusion.start_from": "model"}, "fusion.start_from"),
    ],
)
def test_what_is_for_networks_alone_is_refused_with_a_classical_head(corpus, changes, key):
    with pytest.raises(ValueError, match=rf"fusion\.kind=svm.*{key}"):
        train(override(corpus, {"fusion.kind": "svm", **changes}))
