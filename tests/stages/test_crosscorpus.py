"""crosscorpus: a table of corpora by corpora whose numbers follow from each model's predictions."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score, recall_score

from emo_ray import store
from emo_ray.config import override
from emo_ray.data import manifest
from emo_ray.data.manifest import Clip
from emo_ray.stages.crosscorpus import crosscorpus
from emo_ray.stages.evaluate import PREDICTIONS

LABELS = {"stage": ("angry", "happy", "sad"), "calls": ("anger", "happy", "neutral"), "films": ("tense", "other")}


@pytest.fixture(scope="module")
def config(ray_session, tiny_config, tmp_path_factory):
    """Three corpora of sound features, in which an emotion moves the same feature; two share two classes."""
    folder, rng = tmp_path_factory.mktemp("corpora"), np.random.default_rng(0)
    feature_of = {"angry": 0, "anger": 0, "tense": 0, "happy": 1, "sad": 2, "neutral": 3, "other": 4}
    corpora = {}
    for name, labels in LABELS.items():
        clips = [
            Clip(f"{name}-{i}", label=labels[i % len(labels)], speaker=f"{i // 15}", split=None) for i in range(120)
        ]
        centre_D = rng.normal(size=5)
        features = {c.clip_id: centre_D + 3 * np.eye(5)[feature_of[c.label]] + rng.normal(size=5) for c in clips}
        np.savez(folder / f"{name}.npz", **features)
        manifest.write(folder / f"{name}.parquet", clips)
        corpora[name] = {"data.manifest": str(folder / f"{name}.parquet"), "tables.audio": str(folder / f"{name}.npz")}
    corpora["calls"]["data.label_map"] = {"anger": "angry"}
    quick = {"train.epochs": 3, "train.num_workers": 0, "fusion.passes_per_epoch": 5, "tracking.enabled": False}
    quick["media.clips_per_part"] = 256  # so few are decoded in this process
    places = {"store.root": str(folder / "store"), "crosscorpus.corpora": corpora}
    return override(tiny_config, places | quick)


@pytest.fixture(scope="module")
def result(config):
    return crosscorpus(config)


def test_every_number_follows_from_the_predictions_of_the_shared_classes(result, config):
    pair_of = {(pair["trained_on"], pair["tested_on"]): pair for pair in result.content["pairs"]}
    assert len(pair_of) == 9
    assert pair_of["stage", "calls"]["classes"] == ["angry", "happy"]
    assert pair_of["stage", "calls"]["n"] == 80  # all labelled clips of two of three classes
    assert pair_of["stage", "stage"]["classes"] == ["angry", "happy", "sad"]
    assert pair_of["stage", "stage"]["n"] < 60  # test clips alone
    for pair in pair_of.values():
        if pair["report"] is None:
            assert "films" in (pair["trained_on"], pair["tested_on"])
            assert (pair["n"], pair["scores"]) == (0, {})
            continue
        table = pq.read_table(Path(config.store.root) / "reports" / pair["report"] / PREDICTIONS)
        labels = json.loads(table.schema.metadata[b"labels"])
        rows = np.array(table["p_VAT"].to_pylist())[:, [labels.index(name) for name in pair["classes"]]]
        guess = [pair["classes"][k] for k in rows.argmax(axis=1)]
        truth = table["label"].to_pylist()
        assert pair["scores"]["waf"] == pytest.approx(f1_score(truth, guess, average="weighted"))
        assert pair["scores"]["uar"] == pytest.approx(recall_score(truth, guess, average="macro"))
        assert pair["scores"]["waf"] > 0.5  # chance is a third


def test_the_tables_are_shown_in_the_terminal_on_a_page_and_as_markdown(result, capsys):
    result.show()
    shown = capsys.readouterr().err
    page, markdown = ((result.path / name).read_text() for name in ("report.html", "report.md"))
    for text in (shown, page, markdown):
        assert all(word in text for word in ("WAF across corpora", "UAR across corpora", "80 (2)", "films"))


def test_a_second_run_makes_nothing(result, config):
    before = {path: path.stat().st_mtime_ns for path in Path(config.store.root).rglob("*") if path.is_file()}
    assert crosscorpus(config).path == result.path
    after = {path: path.stat().st_mtime_ns for path in Path(config.store.root).rglob("*") if path.is_file()}
    assert after == before
    assert store.is_complete(result.path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"crosscorpus.corpora": {"a": {"data.manifest": "a.csv"}}}, r"crosscorpus\.corpora: found 1"),
        ({"checkpoint": "somewhere"}, "checkpoint=somewhere"),
    ],
)
def test_what_cannot_be_compared_is_told(config, changes, told):
    with pytest.raises(ValueError, match=told):
        crosscorpus(override(config, changes))


def test_a_corpus_that_cannot_be_used_is_named_before_any_training(config, tmp_path):
    clips = [Clip(f"{i}", text="words", label=("angry", "happy")[i % 2], speaker="one", split=None) for i in range(9)]
    manifest.write(tmp_path / "lone.parquet", clips)
    lone = {"data.manifest": str(tmp_path / "lone.parquet")}
    store_of_its_own = {"store.root": str(tmp_path / "store")}
    corpora = {"stage": config.crosscorpus.corpora["stage"], "lone": lone}
    with pytest.raises(ValueError, match="lone: found 1 speaker"):
        crosscorpus(override(config, store_of_its_own | {"crosscorpus.corpora": corpora}))
    assert not (tmp_path / "store" / "checkpoints").exists()


def test_corpora_differ_in_data_alone(config):
    with pytest.raises(ValueError, match=r"'fusion\.lr' for 'a'"):
        override(config, {"crosscorpus.corpora": {"a": {"fusion.lr": 1.0}}})
