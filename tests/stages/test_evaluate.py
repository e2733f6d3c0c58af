"""evaluate: a report over the seven subsets, of a model on clips that it was not trained on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from emo_ray.config import override
from emo_ray.data import manifest
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.evaluate import PREDICTIONS, REPORT, evaluate

pytestmark = pytest.mark.usefixtures("ray_session")


def test_the_report_has_the_form_that_outsiders_rely_on(evaluated):
    report = json.loads((evaluated.path / REPORT).read_text())
    assert list(report["subsets"]) == ["V", "A", "T", "VA", "VT", "AT", "VAT"]
    for values in report["subsets"].values():
        assert set(values) == {"waf", "accuracy", "uar", "macro_f1", "n", "classes"}
    assert report["split"] == "test"
    assert report["labels"] == sorted(report["labels"])
    assert {p.name for p in evaluated.path.iterdir()} >= {"report.html", "confusion.png", "subsets.png"}


def test_a_checkpoint_is_measured_with_its_own_settings(evaluated, tiny_config):
    model = next((Path(tiny_config.store.root) / "checkpoints").glob(evaluated.content["checkpoint"]))
    config = override(tiny_config, {"checkpoint": str(model), "emovclip.global_prompts": 1, "seed": 99})
    assert evaluate(config).content == evaluated.content
    on_validation = evaluate(override(config, {"evaluate.split": "validation"})).content
    assert on_validation["split"] == "validation"
    assert on_validation["n_clips"] == 12


def test_clips_that_a_checkpoint_has_seen_are_not_tested_on(evaluated, tiny_config, tmp_path):
    """Half of the corpus without its splits: our cut would put training clips into test."""
    clips = prepare_corpus(tiny_config).clips[::2]
    seen = {clip.clip_id for clip in clips if clip.split in ("train", "validation")}
    manifest.write(tmp_path / "clips.parquet", [replace(clip, split=None) for clip in clips])
    model = Path(tiny_config.store.root) / "checkpoints" / evaluated.content["checkpoint"]
    keys = {"checkpoint": str(model), "data.manifest": str(tmp_path / "clips.parquet"), "data.test_fraction": 0.5}
    result = evaluate(override(tiny_config, keys))
    assert not seen & set(pq.read_table(result.path / PREDICTIONS)["clip_id"].to_pylist())
    assert any("trained or selected on" in note for note in result.content["notes"])


def test_sound_without_video_goes_through_the_same_stages(tiny_config, media_files, tmp_path):
    rows = [
        {"audio": f"c{i}.wav", "clip_id": f"c{i}", "label": ("a", "b")[i % 2], "speaker": f"s{i // 2}"}
        for i in range(16)
    ]
    for row in rows:
        shutil.copy(media_files["wav"], tmp_path / row["audio"])
    table = tmp_path / "clips.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    keys = {"data.manifest": str(table), "store.root": str(tmp_path / "store"), "train.epochs": 1}
    report = evaluate(override(tiny_config, keys | {"tracking.enabled": False})).content
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
    lines = [
        "clip_id,video,label,split",
        *(f"c{i},{shutil.copy(media_files['clip'], tmp_path / f'{i}.mp4')},,test" for i in range(2)),
    ]
    table.write_text("\n".join(lines))
    model = Path(tiny_config.store.root) / "checkpoints" / evaluated.content["checkpoint"]
    keys = {"checkpoint": str(model), "data.manifest": str(table), "store.root": str(tmp_path / "store")}
    with pytest.raises(ValueError, match=r"test or validation.*evaluate\.split"):
        evaluate(override(tiny_config, keys))
