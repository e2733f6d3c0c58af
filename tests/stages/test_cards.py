"""Cards from predictions and shards: the most confident mistakes of a report, media of clips, and what is far."""

import io
import json
import re
from html import unescape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from reading import jpegs, visible

from emo_ray import parquet
from emo_ray.data import shards
from emo_ray.data.manifest import Clip
from emo_ray.inference.classifier import ALONE, TOGETHER, WITHOUT
from emo_ray.reports.cards_page import CardSet
from emo_ray.stages import borderline, cards
from emo_ray.stages.cards import CardSource
from emo_ray.stages.evaluate import PREDICTIONS
from emo_ray.stages.prediction_rows import ATTENTION, DISTANCE
from emo_ray.training.calibration import calibrated

LABELS = ("happy", "sad")


def test_a_report_has_the_most_confident_mistakes_as_cards(evaluated):
    rows, labels = pq.read_table(evaluated.path / PREDICTIONS).to_pylist(), evaluated.content["labels"]
    temperature = evaluated.content["calibration"]["temperature"]
    wrong = {
        row["clip_id"]: calibrated(np.array([row["p_VAT"]]), temperature).max()
        for row in rows
        if labels[int(np.argmax(row["p_VAT"]))] != row["label"] and any(row[f"has_{name}"] for name in ALONE)
    }
    text = (evaluated.path / "mistakes.html").read_text("utf-8")
    shown = [json.loads(unescape(values))[0] for values in re.findall(r'data-clip="([^"]*)"', text)]
    assert shown == sorted(wrong, key=lambda name: -wrong[name])[:20]
    assert wrong
    assert f"{len(wrong)} of" in visible(text)
    assert f"temperature {temperature:.2f}" in visible(text)
    assert jpegs(text)


def jpeg(colour):
    buffer = io.BytesIO()
    Image.fromarray(np.full((24, 24, 3), colour, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def source(tmp_path):
    """A clip with a red picture, sound and a face in every frame, and one that has nothing, in one part."""
    row = dict.fromkeys(shards.SCHEMA.names) | {"identity": "1"}
    full = row | {
        "clip_id": "full", "frames": [jpeg((200, 0, 0))] * 4, "audio": np.full(16_000, 99, "<i2").tobytes(),
        "audio_samples": 16_000, "text": "the words", "video_status": "ok", "audio_status": "ok", "text_status": "ok",
        "face_status": "ok", "faces": 1, "face_box_T4": [[2.0, 2.0, 10.0, 10.0]] * 4, "face_confidence_T": [0.9] * 4,
    }  # fmt: skip
    empty = row | {"clip_id": "empty", "video_status": "missing: no such file", "audio_status": "missing"}
    table = pa.Table.from_pylist([full, empty | {"text_status": "missing"}], shards.SCHEMA)
    parquet.write(tmp_path / "part-a.parquet", table)
    clips = {"full": Clip("full", video="/data/full.mp4", label="sad"), "empty": Clip("empty", video="/data/no.mp4")}
    return CardSource(tmp_path, dict.fromkeys(clips, "part-a.parquet"), clips, margin=1.3)


def predictions():
    lists = pa.list_(pa.float32())
    columns = {"clip_id": ["full", "empty"], TOGETHER: pa.array([[0.75, 0.25], None], lists)}
    columns |= {column: pa.array([[0.5, 0.5], None], lists) for column in (*ALONE.values(), *WITHOUT.values())}
    columns |= {column: pa.array([2.0, None], pa.float32()) for column in DISTANCE.values()}
    columns |= {f"{name}_status": ["ok", "missing"] for name in ALONE}
    return pa.table(columns | {ATTENTION: pa.array([[0.25] * 4, None], lists)})


def test_answers_are_calibrated_and_say_what_is_far(source):
    full, empty = cards.answers(predictions(), LABELS, source.clip_of, 0.5, {"audio": 1.0, "video": 4.0})
    assert full.together == pytest.approx(calibrated(np.array([[0.75, 0.25]]), 0.5)[0].tolist())
    assert (full.prediction, full.truth, full.is_wrong, full.file) == ("happy", "sad", True, "/data/full.mp4")
    assert full.is_unfamiliar
    assert "sound" in full.notes[0]
    assert "picture" not in full.notes[0]
    assert (empty.together, empty.prediction, empty.is_unfamiliar) == (None, None, False)
    (as_it_is, _) = cards.answers(predictions(), LABELS, source.clip_of)
    assert as_it_is.together == [0.75, 0.25]


def test_cards_show_what_shards_hold(source, tmp_path):
    about = CardSet("predictions", "Predictions", "Two clips.", LABELS, [], "")
    (path,) = cards.write(tmp_path, about, cards.answers(predictions(), LABELS, source.clip_of), source)
    text = path.read_text("utf-8")
    with Image.open(io.BytesIO(jpegs(text)[0])) as image:
        assert image.width == 4 * image.height
        red, green, _ = np.moveaxis(np.asarray(image, int), 2, 0)
    assert (red > 150).mean() > 0.5
    assert (green > 100).any()  # the box of the face
    assert "the words" in visible(text)
    assert 'aria-label="sound of 1.0 s' in text
    assert "attention over 4 frames" in text
    assert len(jpegs(text)) == 1
    (source.shards / "part-a.parquet").unlink()
    assert not jpegs(cards.write(tmp_path, about, cards.answers(predictions(), LABELS, source.clip_of), source)[0]
                     .read_text("utf-8"))  # fmt: skip


def test_the_nearest_to_the_threshold_of_their_class_come_first():
    confidence_N = np.array([0.9, 0.52, np.nan, 0.3, 0.61], np.float32)
    prediction_N, threshold_K = np.array([0, 0, -1, 1, 1], np.int16), np.array([0.5, 0.6])
    nobody = np.zeros(5, bool)
    assert borderline.nearest(confidence_N, prediction_N, threshold_K, nobody).tolist() == [4, 1, 3, 0]
    assert borderline.nearest(confidence_N, prediction_N, threshold_K, prediction_N == 1).tolist() == [1, 0]
