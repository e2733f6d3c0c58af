"""evaluate: the seven subsets, from predictions that say the same."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score, recall_score

from emo_ray.config import override
from emo_ray.config.model_settings import SUBSETS
from emo_ray.data import manifest
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.evaluate import PREDICTIONS, REPORT, evaluate

pytestmark = pytest.mark.usefixtures("ray_session")


def test_the_report_has_the_form_that_outsiders_rely_on(evaluated):
    report = json.loads((evaluated.path / REPORT).read_text())
    assert list(report["subsets"]) == ["V", "A", "T", "VA", "VT", "AT", "VAT"]
    for values in report["subsets"].values():
        assert set(values) == {"waf", "accuracy", "uar", "macro_f1", "n"}
    assert report["split"] == "test"
    assert report["labels"] == sorted(report["labels"])
    assert {p.name for p in evaluated.path.iterdir()} >= {"report.html", "confusion.png", "subsets.png"}


def test_every_number_follows_from_the_predictions(evaluated):
    table = pq.read_table(evaluated.path / PREDICTIONS)
    labels = json.loads(table.schema.metadata[b"labels"])
    truth = np.array([labels.index(name) for name in table["label"].to_pylist()])
    assert len(table) == evaluated.content["n_clips"] == 24
    for name, modalities in SUBSETS.items():
        rows = np.all([table[f"has_{m}"].to_numpy() for m in modalities], axis=0)
        probabilities = np.array(table[f"p_{name}"].to_pylist())
        assert probabilities.sum(axis=1) == pytest.approx(np.ones(24), abs=1e-5)
        guess, found = probabilities.argmax(axis=1)[rows], evaluated.content["subsets"][name]
        assert found["n"] == rows.sum()
        assert found["accuracy"] == pytest.approx((guess == truth[rows]).mean())
        assert found["waf"] == pytest.approx(f1_score(truth[rows], guess, average="weighted", zero_division=0))
        assert found["uar"] == pytest.approx(
            recall_score(truth[rows], guess, average="macro", labels=np.unique(truth[rows]), zero_division=0)
        )


def test_a_subset_hides_the_other_modalities(evaluated):
    table = pq.read_table(evaluated.path / PREDICTIONS)
    without_text = ~table["has_text"].to_numpy()
    if without_text.any():
        both, all_three = (np.array(table[f"p_{name}"].to_pylist())[without_text] for name in ("VA", "VAT"))
        assert (both == all_three).all()
    text_only = np.array(table["p_T"].to_pylist())[without_text]
    assert (text_only == text_only[:1]).all()  # nothing is shown, so nothing can differ


def test_a_checkpoint_is_measured_with_its_own_settings(evaluated, tiny_config):
    model = next((Path(tiny_config.store.root) / "checkpoints").glob(evaluated.content["checkpoint"]))
    given = override(tiny_config, {"checkpoint": str(model), "emovclip.global_prompts": 1, "seed": 99})
    assert evaluate(given).content == evaluated.content
    other = evaluate(override(given, {"evaluate.split": "validation"})).content
    assert other["split"] == "validation"
    assert other["n_clips"] == 12


def test_clips_that_a_checkpoint_has_seen_are_not_tested_on(evaluated, tiny_config, tmp_path):
    """The same corpus without its splits: our cut would put training clips into test."""
    prepared = prepare_corpus(tiny_config)
    seen = {clip.clip_id for clip in prepared.clips if clip.split in ("train", "validation")}
    manifest.write(tmp_path / "clips.parquet", [replace(clip, split=None) for clip in prepared.clips])
    model = Path(tiny_config.store.root) / "checkpoints" / evaluated.content["checkpoint"]
    keys = {"checkpoint": str(model), "data.manifest": str(tmp_path / "clips.parquet"), "data.test_fraction": 0.5}
    found = evaluate(override(tiny_config, keys))
    assert not seen & set(pq.read_table(found.path / PREDICTIONS)["clip_id"].to_pylist())
    assert any("trained or selected on" in note for note in found.content["notes"])


def test_sound_without_video_goes_through_the_same_stages(tiny_config, media_files, tmp_path):
    rows = [
        {"audio": str(media_files["wav"]), "clip_id": f"c{i}", "label": ("a", "b")[i % 2], "speaker": f"s{i // 4}"}
        for i in range(32)
    ]
    table = tmp_path / "clips.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    keys = {"data.manifest": str(table), "store.root": str(tmp_path / "store"), "train.epochs": 1}
    report = evaluate(override(tiny_config, keys)).content
    assert [name for name, values in report["subsets"].items() if values] == ["A"]
    assert report["available"] == report["subsets"]["A"]


def test_a_model_of_some_modalities_is_measured_on_those_alone(evaluated, tiny_config):
    report = evaluate(override(tiny_config, {"modalities": ["video", "text"]})).content
    assert [name for name, values in report["subsets"].items() if values] == ["V", "T", "VT"]
    assert {n: report["subsets"][n]["n"] for n in ("V", "VT")} == {
        n: evaluated.content["subsets"][n]["n"] for n in ("V", "VT")
    }


def test_a_split_without_labels_is_said(tiny_config, evaluated, media_files, tmp_path):
    table = tmp_path / "clips.csv"
    lines = ["clip_id,video,label,split", *(f"c{i},{media_files['clip']},,test" for i in range(2))]
    table.write_text("\n".join(lines))
    model = Path(tiny_config.store.root) / "checkpoints" / evaluated.content["checkpoint"]
    keys = {"checkpoint": str(model), "data.manifest": str(table), "store.root": str(tmp_path / "store")}
    with pytest.raises(ValueError, match="no labelled clips in test or validation"):
        evaluate(override(tiny_config, keys))
