"""Readings: each transcript asked about once over clips, corpora and runs, and used by the encoder of text."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from emo_ray.config import override
from emo_ray.data.batch import FeatureBatch, TextBatch, unlabelled
from emo_ray.data.manifest import Clip
from emo_ray.inference.encoders import frozen_encoders, of_checkpoint
from emo_ray.inference.encoding import encode_rows
from emo_ray.models import checkpoint, text
from emo_ray.models.fusion import FusionHead
from emo_ray.models.trainable_state import trained_state
from emo_ray.stages.chat import answer_log
from emo_ray.stages.chat.readings import readings_of
from emo_ray.stages.decoding.corpus import plan_corpus
from emo_ray.stages.encoding.text_sources import TextSources
from emo_ray.stages.features import features
from emo_ray.stages.predict import predict

pytestmark = pytest.mark.usefixtures("ray_session")


def ask(config):
    """The readings that `annotate` shows."""
    return readings_of(config, plan_corpus(config).clips)


def rows_of(readings):
    return {row["clip_id"]: row for row in pq.read_table(readings.path).to_pylist()}


def test_every_transcript_is_asked_about_once_over_clips_and_runs(chat, asking_config):
    texts = {"a": "say hello", "b": "say hello", "c": "empty words", "silent": "", "blank": "  "}
    server = chat()
    config = asking_config(server, texts)
    first = ask(config)
    rows = rows_of(first)
    assert list(rows) == ["a", "b", "c"]
    assert rows["a"] == rows["b"] | {"clip_id": "a"}
    assert (rows["a"]["reading"], rows["a"]["status"]) == ("They mean: say hello", "ok")
    assert (rows["c"]["reading"], rows["c"]["status"]) == (None, "empty")
    assert rows["a"]["digest"] == answer_log.digest(config.annotate, "say hello")
    assert first.content() == {
        **{"clips": 3, "transcripts": 2, "statuses": {"ok": 2, "empty": 1}, "requests": 2, "tokens": 30}
    }
    again = ask(config)
    assert (again.path, again.digest, again.usage.requests) == (first.path, first.digest, 0)
    more = ask(asking_config(server, texts | {"d": "say more"}))
    assert (more.usage.requests, more.digest) == (1, first.digest)
    assert len(rows_of(more)) == 4
    assert set(server.answered.values()) == {1}
    other = ask(override(config, {"annotate.language": "French"}))
    assert (other.usage.requests, other.path.parent == first.path.parent) == (3, False)


def test_what_failed_is_asked_again_by_the_next_run(chat, asking_config, capsys):
    server = chat(script=[(503, {}, "{}")] * 4)
    config = asking_config(server, {"a": "say a", "b": "say b"}, max_attempts=2)
    failed = ask(config)
    assert failed.statuses == {"error": 2}
    assert rows_of(failed)["a"]["status"].startswith("error: Error code: 503")
    assert "2 of 2 transcripts" in capsys.readouterr().err
    assert ask(config).statuses == {"ok": 2}


def encoded(config, words, reading=None):
    batch = TextBatch(
        clip_ids=("x",),
        present_BM=torch.tensor([[False, False, True]]),
        label_B=unlabelled(1),
        texts=(words,),
        readings=(reading,),
    )
    return text.build(config.text)(batch)[0].numpy()


def rows_encoded(encoder, texts):
    """The features of transcripts by clip_id, as an actor makes them."""
    columns = {"clip_id": list(texts), "text": list(texts.values()), "text_status": ["ok"] * len(texts)}
    table = pa.table(columns | {f"{name}_status": ["missing"] * len(texts) for name in ("video", "audio")})
    features = encode_rows(encoder, encoder.build(), table, "cpu")
    return {row["clip_id"]: np.array(row["feature"], np.float32) for row in features.to_pylist()}


def test_features_are_of_transcripts_with_their_readings(chat, asking_config):
    texts = {f"clip {i}": f"say {i}" for i in range(12)} | {"none": "refuse this"}
    clips = [Clip(clip_id, text=words) for clip_id, words in texts.items()]
    server = chat()
    config = asking_config(server, texts)
    assert readings_of(override(config, {"annotate.url": None}), clips) is None
    assert not server.asked
    short = readings_of(override(config, {"annotate.max_requests": 5}), clips)
    whole = readings_of(config, clips)
    alone, part, encoder = (frozen_encoders(config, TextSources(readings=r))[1] for r in (None, short, whole))
    assert len({spec.digest for spec in (alone, part, encoder)}) == 3
    for clip_id, values in rows_encoded(encoder, texts).items():
        reading = f"They mean: {texts[clip_id]}" if clip_id != "none" else None
        np.testing.assert_array_equal(values, encoded(config, texts[clip_id], reading))
    bare, partly = rows_encoded(alone, texts), rows_encoded(part, texts)
    assert sum(np.array_equal(partly[clip_id], bare[clip_id]) for clip_id in texts) == 8, "no answer, no reading"
    more = readings_of(config, [*clips, Clip("new", text="say something new")])
    assert (more.usage.requests, frozen_encoders(config, TextSources(readings=more))[1].digest) == (1, encoder.digest)


def test_the_features_job_makes_readings_and_uses_them(chat, asking_config):
    texts = {"a": "say a", "b": "say b", "none": ""}
    server = chat()
    config = asking_config(server, texts)
    table = pq.read_table(next(Path(features(config).content["text"]).glob("part-*")))
    feature_of = dict(zip(table["clip_id"].to_pylist(), table["feature"].to_pylist(), strict=True))
    for name in ("a", "b"):
        expected = encoded(config, texts[name], f"They mean: {texts[name]}")
        np.testing.assert_array_equal(np.array(feature_of[name], np.float32), expected)
    assert server.answered == {"say a": 1, "say b": 1}


@pytest.fixture
def model(tiny_config, tmp_path):
    """A function that writes a checkpoint of a head of text, trained with readings from some other endpoint."""

    def write(config):
        head = FusionHead(config.fusion, {"text": torch.ones(2, config.text.ngram_features)}, 2)
        (tmp_path / "model").mkdir()
        trained_with = override(config, {"annotate.url": "http://elsewhere.example/v1", "annotate.concurrency": 3})
        checkpoint.write(tmp_path / "model", trained_state(head), trained_with, ("happy", "sad"), "card")
        return tmp_path / "model"

    return write


def test_a_model_asks_its_questions_of_its_callers_endpoint(chat, asking_config, model):
    server = chat()
    config = asking_config(server, {"a": "say a", "b": "say b"})
    path = model(config)
    caller = override(config, {"annotate.prompt": "{transcript}?", "annotate.model": "other"})
    assert of_checkpoint(caller, path).annotate == config.annotate
    assert of_checkpoint(override(caller, {"annotate.url": None}), path).annotate.url is None
    predicted = predict(override(caller, {"checkpoint": str(path)}))
    table = pq.read_table(next(predicted.path.glob("*.parquet")))
    head = checkpoint.load_fusion(path)
    for row in table.to_pylist():
        words = f"say {row['clip_id']}"
        feature_BD = torch.from_numpy(encoded(config, words, f"They mean: {words}"))[None]
        batch = FeatureBatch(
            clip_ids=("x",),
            present_BM=torch.tensor([[False, False, True]]),
            label_B=unlabelled(1),
            features={"text": feature_BD},
        )
        expected = head(batch).logits_BK.softmax(dim=-1)[0].tolist()
        assert row["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert server.answered == {"say a": 1, "say b": 1}
