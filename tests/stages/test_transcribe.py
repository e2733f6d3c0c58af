"""transcribe: from sound to words that text features, readings and predictions use; nothing is written down twice."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_recognisers
from recording_files import voices, write_sound

from emo_ray.config import override
from emo_ray.data.batch import TextBatch, unlabelled
from emo_ray.data.manifest import Clip
from emo_ray.data.media import RATE_HZ
from emo_ray.data.transcripts import TRANSCRIBED
from emo_ray.models import text
from emo_ray.stages.corpus import open_corpus
from emo_ray.stages.evaluate import evaluate
from emo_ray.stages.features import features
from emo_ray.stages.predict import predict
from emo_ray.stages.transcribe import error_rates, transcribe

pytestmark = pytest.mark.usefixtures("ray_session")
CLIPS = 18  # three people, two classes; every third has a text
SAMPLES = [2 * RATE_HZ + 100 * (i // 2) for i in range(CLIPS)]  # two clips each have the same sound


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The folder of a corpus of sound: clips.csv, and a recogniser in `whisper`."""
    folder = tmp_path_factory.mktemp("spoken")
    spoken_S = voices(1)[0][RATE_HZ:]
    rows = []
    for i, length in enumerate(SAMPLES):
        sound_S = np.zeros_like(spoken_S) if i == 1 else spoken_S[:length]
        write_sound(folder / f"{i:02d}.wav", sound_S)
        words = f"given words {i}" if i % 3 == 0 else ""
        split = ("train", "validation", "test")[i // 6]
        rows.append((f"{i:02d}.wav", words, ("calm", "glad")[i % 2], split, f"person {i // 6}"))
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("audio", "text", "label", "split", "speaker"), *rows])
    small_recognisers.whisper(folder / "whisper")
    return folder


@pytest.fixture
def config_of(tiny_config, corpus, tmp_path):
    """A function to the config of the corpus with other settings of `transcribe`."""
    places = {"data.manifest": str(corpus / "clips.csv"), "store.root": str(tmp_path / "store")}
    quick = {"train.num_workers": 0, "tracking.enabled": False, "media.clips_per_part": 8}

    def config(**changes):
        return override(tiny_config, places | quick | {f"transcribe.{name}": value for name, value in changes.items()})

    return config


def asking(server, **changes):
    return {"url": server.url, "model": "m", "backoff_s": 0.01, "timeout_s": 3.0, "max_attempts": 12, **changes}


def rows_of(path):
    return {row["clip_id"]: row for row in pq.read_table(path).to_pylist()}


def without_text():
    return {f"{i:02d}" for i in range(CLIPS) if i % 3}


def test_a_recogniser_writes_down_what_has_no_text_once(corpus, config_of):
    config = config_of(model=str(corpus / "whisper"), dtype="fp32", language="en", compare=True)
    result = transcribe(config)
    rows = rows_of(result.path)
    assert set(rows) == without_text()
    assert rows["01"]["status"] == "no speech", "it is silent"
    assert rows["01"]["text"] is None
    assert {row["language"] for name, row in rows.items() if name != "01"} == {"en"}
    assert rows["04"] | {"clip_id": ""} == rows["05"] | {"clip_id": ""}, "equal sounds have equal transcripts"
    assert sum(result.content["statuses"].values()) == len(rows)
    assert result.content["given"] == CLIPS // 3
    assert result.content["compared"]["clips"] <= CLIPS // 3
    parts = {path: path.stat().st_mtime_ns for path in Path(config.store.root).glob("features/*transcripts-*/part-*")}
    assert parts
    assert transcribe(config).path == result.path
    next(iter(parts)).unlink()  # as after a kill
    assert transcribe(config).path == result.path
    again = {path: path.stat().st_mtime_ns for path in Path(config.store.root).glob("features/*transcripts-*/part-*")}
    assert again.keys() == parts.keys()
    assert sum(again[path] != made_ns for path, made_ns in parts.items()) == 1


def test_an_endpoint_hears_each_distinct_sound_of_speech_once_and_text_features_are_of_its_words(chat, config_of):
    server = chat(fault_rate=0.2)
    config = config_of(**asking(server))
    rows = rows_of(transcribe(config).path)
    assert {row["status"] for name, row in rows.items() if name != "01"} == {"ok"}
    assert rows["02"]["text"] == f"{SAMPLES[2]} samples at 16000 Hz"
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == len({SAMPLES[int(name)] for name in without_text() - {"01"}})
    folder = Path(features(config).content["text"])
    encoded = rows_of_features(folder)
    expected = {name: row["text"] for name, row in rows.items() if name != "01"}
    expected |= {f"{i:02d}": f"given words {i}" for i in range(0, CLIPS, 3)}
    assert {name for name, row in encoded.items() if row["present"]} == set(expected)
    values_BD = encode(config, list(expected.values()))
    np.testing.assert_allclose([encoded[name]["feature"] for name in expected], values_BD, atol=1e-6)
    assert sum(server.answered.values()) == len(server.answered), "nothing was asked again"


def rows_of_features(folder):
    return {name: row for path in folder.glob("part-*") for name, row in rows_of(path).items()}


def encode(config, texts):
    """What the encoder of text gives for these texts."""
    names, absent = tuple(map(str, range(len(texts)))), (None,) * len(texts)
    batch = TextBatch(
        clip_ids=names, present_BM=None, label_B=unlabelled(len(texts)), texts=tuple(texts), readings=absent
    )
    return text.build(config.text)(batch).numpy()


def test_a_budget_leaves_clips_without_text_until_the_next_run(chat, config_of):
    server = chat()
    first = open_corpus(config_of(**asking(server, max_requests=2)), labelled_only=False)
    statuses = first.texts.transcripts.statuses
    assert statuses["error"] > statuses["ok"] >= 2
    whole = open_corpus(config_of(**asking(server)), labelled_only=False)
    assert "error" not in whole.texts.transcripts.statuses
    assert whole.texts.transcripts.digest != first.texts.transcripts.digest
    assert set(server.answered.values()) == {1}
    same = open_corpus(config_of(**asking(server)), labelled_only=False)
    assert same.texts.transcripts.digest == whole.texts.transcripts.digest
    assert same.texts.transcripts.usage.requests == 0


def test_readings_are_asked_of_transcripts_too(chat, config_of):
    server = chat()
    config = override(config_of(**asking(server)), {"annotate.url": server.url, "annotate.prompt": "Say: {transcript}"})
    texts = open_corpus(config, labelled_only=False).texts
    read = rows_of(texts.readings.path)
    assert set(read) == {f"{i:02d}" for i in range(CLIPS)} - {"01"}
    asked = {body["messages"][0]["content"] for body in server.bodies if "messages" in body}
    assert f"Say: {SAMPLES[2]} samples at 16000 Hz" in asked
    assert "Say: given words 0" in asked


def test_reports_and_predictions_use_transcripts_and_without_a_recogniser_nothing_changes(chat, config_of):
    server = chat()
    config = config_of(**asking(server))
    report = evaluate(config)
    assert report.content["subsets"]["T"]["n"] == 6
    assert any("transcribed by m" in note for note in report.content["notes"])
    model = Path(config.store.root) / "checkpoints" / report.content["checkpoint"]
    predicted = predict(override(config, {"checkpoint": str(model)}))
    rows = rows_of_features(predicted.path)
    assert rows["02"]["text_status"] == TRANSCRIBED
    assert rows["02"]["has_text"]
    assert (rows["00"]["text_status"], rows["01"]["text_status"]) == ("ok", "missing")
    silent = rows_of_features(predict(override(config_of(), {"checkpoint": str(model)})).path)
    assert not silent["02"]["has_text"], "a checkpoint brings no endpoint"
    plain = evaluate(config_of())
    assert plain.content["subsets"]["T"]["n"] == 2
    assert plain.content["checkpoint"] != report.content["checkpoint"]


def test_errors_are_counted_over_words_and_characters():
    clips = [Clip("a", text="One two, three!"), Clip("b", text="")]
    rates = error_rates(clips, {"a": "one to three", "b": "x", "c": "y"})
    assert rates == {"clips": 1, "word error rate": pytest.approx(1 / 3), "character error rate": pytest.approx(1 / 11)}
    assert error_rates(clips, {})["word error rate"] is None


def test_a_job_without_a_recogniser_says_how_one_is_named(config_of):
    with pytest.raises(ValueError, match=r"transcribe\.model"):
        transcribe(config_of())


def test_the_result_is_plain_json(chat, config_of):
    content = transcribe(config_of(**asking(chat()), compare=True)).content
    assert json.loads(json.dumps(content)) == content
    assert content["compared"]["clips"] == CLIPS // 3
    assert content["compared"]["word error rate"] > 0.5
