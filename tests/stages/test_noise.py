"""The noise ladder: clean steps are the report's scores, degraded ones are encoded anew, and no feature is kept."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from reading import visible

from emo_ray import store
from emo_ray.config import override
from emo_ray.reports import evaluation
from emo_ray.reports import noise as report
from emo_ray.stages import noise
from emo_ray.stages.evaluate import NOISE, evaluate

STEPS = {"audio": 5, "video": 5, "text": 3}


@pytest.fixture(scope="module")
def laddered(evaluated, tiny_config):
    """The tiny job with its ladder, and the feature parts that were there before."""
    root = Path(tiny_config.store.root)
    parts = sorted((root / "features").rglob("part-*"))
    result = evaluate(override(tiny_config, {"evaluate.noise": True}))
    (folder,) = (root / "reports").glob("noise-*")
    return result, json.loads((folder / NOISE).read_text()), folder, parts, root


def test_clean_steps_are_what_the_report_measured_and_each_modality_has_its_steps(laddered, evaluated):
    result, content, folder, parts, root = laddered
    assert result.path == evaluated.path
    for modality, count in STEPS.items():
        steps = [step for step in content["steps"] if step["modality"] == modality]
        assert len(steps) == count
        scores = evaluated.content["subsets"][modality[0].upper()]
        assert steps[0]["step"] == report.CLEAN
        assert steps[0]["alone"]["waf"] == pytest.approx(scores["waf"], abs=1e-6)
        assert {step["n"] for step in steps} == {scores["n"]}
    assert sorted((root / "features").rglob("part-*")) == parts
    assert report.table(content) in result.tables
    words = visible((folder / report.PAGE).read_text())
    assert all(step["step"] in words for step in content["steps"])


def test_a_ladder_that_was_stopped_goes_on_after_its_last_whole_step(laddered, tiny_config):
    _, content, folder, _, root = laddered
    (parts,) = (root / "reports").glob("parts-*")
    lost = parts / "audio-2.parquet"
    lost.unlink()
    shutil.rmtree(folder)
    before = {path: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert len(before) == sum(STEPS.values()) - len(STEPS) - 1
    evaluate(override(tiny_config, {"evaluate.noise": True}))
    assert json.loads((folder / NOISE).read_text()) == content
    assert {path: path.stat().st_mtime_ns for path in parts.iterdir() if path != lost} == before
    assert lost.exists()


def test_scorecard_and_ladder_lead_to_each_other(laddered):
    result, _, folder, _, _ = laddered
    for page in (result.path / evaluation.PAGE, folder / report.PAGE):
        linked = {page.parent / path for path in re.findall('href="([^"]+)"', page.read_text("utf-8"))}
        assert all(path.is_file() for path in linked)
        assert {path.resolve() for path in linked} >= {(folder / report.PAGE).resolve()} - {page.resolve()}
    assert (result.path / "mistakes.html") in {
        result.path / path for path in re.findall('href="([^"]+)"', (result.path / evaluation.PAGE).read_text("utf-8"))
    }
    assert "subsets.png" in store.files_of(result.path)
    store.check_files(result.path)


def rows(count=3):
    """Decoded rows with sound, frames and text."""
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(stream, "JPEG")
    sounds = [rng.normal(0, 3000, 4000).astype("<i2").tobytes() for _ in range(count - 1)]
    columns = {
        "clip_id": [f"c{i}" for i in range(count)],
        "audio": [*sounds, None],
        "frames": [[stream.getvalue(), b"other"] for _ in range(count - 1)] + [None],
        "text": [*[f"I am number {i}" for i in range(count - 1)], None],
    }
    return pa.table(columns)


@pytest.mark.parametrize(("modality", "column"), [("audio", "audio"), ("text", "text")])
def test_a_step_changes_its_column_alone_and_what_is_absent_stays_absent(modality, column):
    table = rows()
    steps = noise.degradations(0, modality)
    for degrade in steps.values():
        changed = degrade(table)
        assert changed.drop_columns([column]).equals(table.drop_columns([column]))
        values = zip(changed[column].to_pylist(), table[column].to_pylist(), strict=True)
        assert [after != before for after, before in values] == [True, True, False]
        assert degrade(table).equals(changed)


def test_half_the_frames_are_the_same_bytes_twice():
    changed = noise.degradations(0, "video")["half the frames"](rows())
    frames = changed["frames"].to_pylist()
    assert frames[0][0] == frames[0][1]
    assert frames[2] is None


def test_features_take_the_place_of_those_of_the_same_clips():
    feature = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6.0, dtype=np.float32)), 2)
    table = pa.table({"clip_id": ["a", "b", "c"], "audio": feature, "has_audio": [True, True, False]})
    fresh = pa.FixedSizeListArray.from_arrays(pa.array(np.array([7, 8], np.float32)), 2)
    encoded = pa.table({"clip_id": ["b"], "feature": fresh, "present": [False]})
    replaced = noise._with_features(table, "audio", encoded)
    assert replaced["audio"].to_pylist() == [[0, 1], [7, 8], [4, 5]]
    assert replaced["has_audio"].to_pylist() == [True, False, False]


def test_the_summary_names_the_worst_step():
    def step(modality, name, waf):
        shown = {"waf": waf, "interval": [waf, waf]}
        return {"modality": modality, "step": name, "alone": shown, "full": shown, "n": 9}

    steps = [step("audio", report.CLEAN, 0.8), step("audio", "SNR 0 dB", 0.7)]
    steps += [step("text", report.CLEAN, 0.9), step("text", "50 %", 0.5)]
    content = {"steps": steps, "checkpoint": "m", "split": "test", "drawn": "clips", "guessing": 0.2, "notes": []}
    assert "text: 50 %" in report.summary(content)
    assert "−40.0 points" in report.summary(content)
    assert "No modality" in report.summary(content | {"steps": steps[:1]})
