"""pseudo_label: each clip has a row that explains itself, kills change no row, and nothing leaks."""

import csv
import gzip
import json
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from own_files import with_own_files
from reading import jpegs, visible

from emo_ray import parquet, store
from emo_ray.config import override
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import manifest
from emo_ray.data.manifest import Clip
from emo_ray.inference.classifier import WITHOUT
from emo_ray.models import checkpoint, checkpoint_files
from emo_ray.models.familiarity import unfamiliar
from emo_ray.models.trainable_state import trained_state
from emo_ray.stages.chat import chat_labels
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.stages.predict import predict
from emo_ray.stages.prediction_rows import DISTANCE, UNUSABLE
from emo_ray.stages.pseudo_label import REFUSED, REPORT, pseudo_label
from emo_ray.training import calibration
from emo_ray.training import pseudo_label_policies as policies

pytestmark = pytest.mark.usefixtures("ray_session")
CAP = {"pseudo.max_ratio": 0.25, "pseudo.quantile": 0.0}  # a policy that accepts 9 clips


@pytest.fixture(scope="module")
def teacher(tiny_config, evaluated):
    return Path(tiny_config.store.root) / "checkpoints" / evaluated.content["checkpoint"]


@pytest.fixture(scope="module")
def labelled(tiny_config):
    """The 72 labelled clips of the tiny corpus."""
    return prepare_corpus(tiny_config).clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pseudo")


@pytest.fixture(scope="module")
def clips(labelled, media_files, folder):
    """The labelled clips, and unlabelled ones: copies of training clips, and some that validation and test know."""
    train, test = ([clip for clip in labelled if clip.split == split] for split in ("train", "test"))
    nobody = {"label": None, "split": "unlabelled", "speaker": None}
    pool = [
        with_own_files(replace(clip, clip_id=f"u-{clip.clip_id}", **nobody), folder / "pool") for clip in train[:18]
    ]
    seen = next(clip for clip in test if clip.video and clip.text)
    copy, remuxed = folder / "copy.mp4", folder / "remuxed.mov"
    shutil.copy(seen.video, copy)
    _remux(seen.video, remuxed)
    pool += [
        replace(seen, clip_id="copy", video=str(copy), audio=None, **nobody),
        replace(seen, clip_id="remuxed", video=str(remuxed), audio=None, text="other words", **nobody),
        with_own_files(replace(pool[0], clip_id="same speaker", speaker=seen.speaker), folder / "pool"),
        Clip("same sound", audio=str(shutil.copy(media_files["wav"], folder / "renamed.wav")), split="unlabelled"),
        Clip("silent too", audio=str(_silence(folder / "silent too.wav")), text="hm", split="unlabelled"),
        Clip("words", text="I am so happy for you!", split="unlabelled"),
        Clip("nothing", video="/nowhere.mp4", split="unlabelled"),
    ]
    judged = [
        Clip("heard", audio=str(media_files["wav"]), label=train[0].label, split="validation"),
        Clip("silent", audio=str(_silence(folder / "silent.wav")), text="oh", label=train[0].label, split="test"),
    ]
    return [*labelled, *judged, *pool]


@pytest.fixture(scope="module")
def config(tiny_config, teacher, clips, folder):
    manifest.write(folder / "clips.parquet", clips)
    changes = {"checkpoint": str(teacher), "data.manifest": str(folder / "clips.parquet")}
    # The tiny teacher is never confident.
    return override(tiny_config, {**changes, "store.root": str(folder / "store"), "pseudo.floor": 0.0})


@pytest.fixture(scope="module")
def labelled_by(config):
    return pseudo_label(config)


@pytest.fixture(scope="module")
def predicted(config, labelled_by, clips, folder):
    """What jobs/predict.py says of the unlabelled clips and those of validation, whose parts the teacher has made."""
    manifest.write(folder / "few.parquet", [clip for clip in clips if clip.split in ("unlabelled", "validation")])
    return predict(override(config, {"data.manifest": str(folder / "few.parquet")}))


@pytest.fixture(scope="module")
def other_teacher(teacher, folder):
    """The same encoders with another head."""
    target = shutil.copytree(teacher, folder / "other teacher")
    head = checkpoint.load_fusion(target)
    with torch.no_grad():
        head.classify.bias += torch.linspace(0, 3, len(head.classify.bias))
    config, labels = checkpoint_files.read_config(target)
    checkpoint.write(target, trained_state(head), config, labels, "card")
    return target


def rows_of(folder):
    return {row["clip_id"]: row for part in sorted(folder.glob("*.parquet")) for row in pq.read_table(part).to_pylist()}


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def times_of(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}


def listed(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_unlabelled_clip_has_one_row_that_explains_itself(labelled_by, clips, teacher):
    names = [row["clip_id"] for part in labelled_by.path.glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    assert sorted(names) == sorted(clip.clip_id for clip in clips if clip.split == "unlabelled")
    report, rows = labelled_by.content, rows_of(labelled_by.path)
    digest = store.digest_path(teacher / checkpoint_files.WEIGHTS)
    for row in rows.values():
        assert row["accepted"] == (row["reason"] is None)
        assert (row["teacher"], row["round"]) == (digest, 0)
        if row["status"] == UNUSABLE:
            assert row["reason"] == UNUSABLE
            assert row["calibrated"] is row["confidence"] is row["prediction"] is row["threshold"] is None
            continue
        assert sum(row["calibrated"]) == pytest.approx(1, abs=1e-5)
        assert row["confidence"] == max(row["calibrated"])
        assert row["prediction"] == report["labels"][int(np.argmax(row["calibrated"]))]
        assert row["threshold"] == np.float32(report["thresholds"][row["prediction"]])
        assert not row["accepted"] or row["confidence"] >= row["threshold"]
        assert row["reason"] != policies.BELOW or row["confidence"] < row["threshold"]
    accepted = [row["prediction"] for row in rows.values() if row["accepted"]]
    assert accepted
    assert len(accepted) == report["accepted"] == sum(report["reasons"].values(), -report["clips"]) * -1
    for label in report["labels"]:
        assert report["classes"]["accepted"][label] == accepted.count(label)


def test_the_columns_are_those_of_predictions_and_their_own(labelled_by, predicted):
    predicted_rows = rows_of(predicted.path)
    schemas = [pq.read_schema(next(path.glob("*.parquet"))) for path in (labelled_by.path, predicted.path)]
    of_job = {"file", "truth", "calibrated", "confidence"}  # which predict adds, or calibrates by its checkpoint alone
    shared = [name for name in schemas[1].names if name not in of_job - {"confidence"}]
    assert schemas[0].names[: len(shared)] == shared
    assert schemas[0].names[len(shared) :] == [*("calibrated", "accepted", "reason", "threshold", "round", "teacher")]
    assert schemas[0].field("calibrated").type == schemas[1].field("probabilities").type
    assert json.loads(schemas[0].metadata[b"labels"]) == labelled_by.content["labels"]
    temperature = labelled_by.content["calibration"][0]["temperature"]
    for name, row in rows_of(labelled_by.path).items():
        assert {key: row[key] for key in predicted_rows[name] if key not in of_job} == {
            key: value for key, value in predicted_rows[name].items() if key not in of_job
        }
        if row["probabilities"]:
            calibrated_BK = calibration.calibrated(np.array([row["probabilities"]], np.float32), temperature)[0]
            assert row["calibrated"] == pytest.approx(calibrated_BK.tolist(), abs=1e-6)


def test_calibration_is_measured_on_the_validation_clips(labelled_by, predicted, clips):
    rows, labels = rows_of(predicted.path), labelled_by.content["labels"]
    label_of = {
        c.clip_id: labels.index(c.label) for c in clips if c.split == "validation" and rows[c.clip_id]["prediction"]
    }
    probability_BK = np.array([rows[clip_id]["probabilities"] for clip_id in label_of], np.float32)
    label_B = np.array(list(label_of.values()))
    change = labelled_by.content["calibration"][0]
    assert change["n"] == len(label_of) == 13
    assert change["temperature"] == pytest.approx(calibration.fit_temperature(probability_BK, label_B), rel=1e-4)
    after_BK = calibration.calibrated(probability_BK, change["temperature"])
    for when, values_BK in (("before", probability_BK), ("after", after_BK)):
        bins = calibration.reliability(values_BK, label_B)
        assert change["ece"][when] == pytest.approx(bins.error, abs=1e-6)
        assert change["reliability"][when]["count"] == bins.count.tolist()
    assert change["nll"]["after"] <= change["nll"]["before"] + 1e-6


def test_what_validation_and_test_know_is_refused_with_a_list(labelled_by, clips):
    rows = rows_of(labelled_by.path)
    seen = next(clip for clip in clips if clip.split == "test" and clip.video and clip.text)
    expected = {
        "copy": f"same content as clip {seen.clip_id} of test",
        "remuxed": f"same content as clip {seen.clip_id} of test",
        "same sound": "same content as clip heard of validation",
        "same speaker": "speaker in test",
    }
    assert {row["clip_id"]: row["reason"] for row in listed(labelled_by.path / REFUSED)} == expected
    assert {name: rows[name]["reason"] for name in expected} == expected
    assert not any(rows[name]["accepted"] for name in expected)
    kinds = labelled_by.content["reasons"]
    assert (kinds["same content as a clip of test"], kinds["same content as a clip of validation"]) == (2, 1)
    assert "same content" not in (rows["silent too"]["reason"] or "")
    assert "3 clips have neither pictures nor sound" in " ".join(labelled_by.content["notes"])
    assert rows["nothing"]["reason"] == UNUSABLE


def test_a_second_run_does_nothing(labelled_by, config):
    before = {path: path.stat().st_mtime_ns for path in labelled_by.path.parents[2].rglob("*") if path.is_file()}
    again = pseudo_label(config)
    assert (again.path, again.content) == (labelled_by.path, labelled_by.content)
    after = {path: path.stat().st_mtime_ns for path in labelled_by.path.parents[2].rglob("*") if path.is_file()}
    assert after == before


def test_a_killed_run_goes_on_and_ends_with_the_same_rows(labelled_by, config, tmp_path):
    """A store as a kill leaves it, in prediction and in writing."""
    expected, report = bytes_of(labelled_by.path), (labelled_by.path / REPORT).read_bytes()
    root = Path(config.store.root)
    copied = override(config, {"store.root": str(tmp_path / "store")})
    shutil.copytree(root, copied.store.root)
    half = Path(copied.store.root) / labelled_by.path.relative_to(root)
    first, *others = sorted(expected)
    for name in (store.META, REPORT, first):
        (half / name).unlink()
    (half / f".{first}.0123.tmp").write_bytes(b"half of a part")
    kept = times_of(half)
    (predictions,) = (Path(copied.store.root) / "predictions").glob("parts-*")
    (predictions / others[0]).unlink()
    again = pseudo_label(copied)
    assert again.path == half
    assert bytes_of(half) == expected
    assert (half / REPORT).read_bytes() == report
    assert {name: when for name, when in times_of(half).items() if name != first} == kept


def test_another_teacher_starts_afresh_and_another_policy_predicts_nothing(labelled_by, config, other_teacher):
    before, predictions = bytes_of(labelled_by.path), Path(config.store.root) / "predictions"
    times = {path.name: times_of(path) for path in predictions.iterdir()}
    capped = pseudo_label(override(config, CAP))
    assert capped.path.parent != labelled_by.path.parent
    assert {path.name: times_of(path) for path in predictions.iterdir()} == times
    other = pseudo_label(override(config, {"checkpoint": str(other_teacher)}))
    assert other.path.parent not in (labelled_by.path.parent, capped.path.parent)
    assert len(list(predictions.glob("parts-*"))) == 2
    teachers = {row["teacher"] for row in rows_of(other.path).values()}
    assert teachers == {store.digest_path(other_teacher / checkpoint_files.WEIGHTS)}
    assert bytes_of(labelled_by.path) == before
    later = pseudo_label(override(config, {"pseudo.round": 3}))
    assert later.path == labelled_by.path.with_name("round-3")
    assert {row["round"] for row in rows_of(later.path).values()} == {3}
    assert {(n, r["reason"]) for n, r in rows_of(later.path).items()} == {
        (n, r["reason"]) for n, r in rows_of(labelled_by.path).items()
    }


def test_an_ensemble_is_the_mean_of_its_calibrated_teachers(labelled_by, config, other_teacher):
    alone = [
        rows_of(labelled_by.path),
        rows_of(pseudo_label(override(config, {"checkpoint": str(other_teacher)})).path),
    ]
    both = pseudo_label(override(config, {"pseudo.teachers": [str(other_teacher)]}))
    rows, digests = (
        rows_of(both.path),
        ",".join(next(iter(alone_of.values()))["teacher"] for alone_of in alone),
    )
    disagree = 0
    for name, row in rows.items():
        assert row["teacher"] == digests
        if row["status"] == UNUSABLE:
            continue
        for column in ("probabilities", "calibrated", *(name for name in WITHOUT.values() if row[name])):
            np.testing.assert_allclose(
                row[column], np.mean([alone_of[name][column] for alone_of in alone], axis=0), atol=1e-6
            )
        votes = {alone_of[name]["prediction"] for alone_of in alone}
        is_leaking = "same content" in str(row["reason"]) or "speaker" in str(row["reason"])
        if not is_leaking:
            assert (row["reason"] == policies.DISAGREE) == (votes != {row["prediction"]})
        disagree += len(votes) > 1
    assert disagree
    assert [alone_of["checkpoint"] for alone_of in both.content["calibration"]] == [
        *(Path(config.checkpoint).name, "other teacher", "the mean of all")
    ]
    lenient = pseudo_label(override(config, {"pseudo.teachers": [str(other_teacher)], "pseudo.agreement": 0.5}))
    for name, row in rows_of(lenient.path).items():
        if row["reason"] in (None, policies.BELOW, policies.DISAGREE):
            is_nobodys = row["prediction"] not in {
                alone_of[name]["prediction"] for alone_of in alone
            }  # the mean may predict a third class
            assert (row["reason"] == policies.DISAGREE) == is_nobodys


def test_clips_nearest_to_the_threshold_are_cards_to_label(labelled_by, teacher):
    """Nearest first, and none that would tell what is in validation or test; they say what is unlike training clips."""
    text = (labelled_by.path / "borderline.html").read_text("utf-8")
    shown = [json.loads(unescape(values))[0] for values in re.findall(r'data-clip="([^"]*)"', text)]
    rows = rows_of(labelled_by.path)
    leaks = {line["clip_id"] for line in listed(labelled_by.path / REFUSED)}
    assert set(shown) == {name for name, row in rows.items() if row["prediction"] and name not in leaks}
    distances = [abs(rows[name]["confidence"] - rows[name]["threshold"]) for name in shown]
    assert distances == sorted(distances)
    first = rows[shown[0]]
    assert f"the threshold of {first['prediction']} is {100 * first['threshold']:.1f} %" in visible(text)
    assert jpegs(text)
    bound_of = checkpoint_files.read_familiarity(teacher)
    distances_of = [{name: rows[clip_id][column] for name, column in DISTANCE.items()} for clip_id in shown]
    unlike = [distances for distances in distances_of if unfamiliar(distances, bound_of)]
    assert visible(text).count("unlike the training clips: ") == len(unlike) > 0


def test_modalities_that_disagree_keep_a_clip_out(config):
    result = pseudo_label(override(config, {"pseudo.agreeing_modalities": 3}))
    labels, seen = result.content["labels"], set()
    for row in rows_of(result.path).values():
        votes = [labels[int(np.argmax(row[f"p_{m[0].upper()}"]))] for m in MODALITIES if row[f"has_{m}"]]
        differ = len(votes) > 1 and set(votes) != {row["prediction"]}
        if row["reason"] in (None, policies.BELOW, policies.MODALITIES_DISAGREE):
            assert (row["reason"] == policies.MODALITIES_DISAGREE) == differ
            seen.add(differ)
    assert seen == {True, False}


def test_the_cap_counts_labelled_training_clips(config):
    result = pseudo_label(override(config, CAP))
    assert result.content["accepted"] == 9  # of 36
    assert result.content["reasons"][policies.OVER_CAP] > 0


def test_drift_is_said_class_by_class(labelled_by):
    report = labelled_by.content
    counts = [np.array(list(report["classes"][name].values())) for name in ("labelled", "accepted")]
    assert counts[0].sum() == 36
    expected = dict(zip(report["labels"], policies.drift(*counts), strict=True))
    assert report["drift"] == expected
    warned = [note for note in report["notes"] if "starved" in note or "floods" in note]
    assert len(warned) == len([drift for drift in expected.values() if drift])


def test_without_labelled_clips_nothing_is_calibrated_anew_capped_or_compared(config, tmp_path):
    lines = [json.dumps({"clip_id": f"c{i}", "text": f"I am number {i}"}) for i in range(5)]
    (tmp_path / "words.jsonl").write_text("\n".join(lines))
    changes = {"data.manifest": str(tmp_path / "words.jsonl"), "store.root": str(tmp_path / "store")}
    report = pseudo_label(override(config, changes)).content
    fitted = checkpoint_files.read_calibration(Path(config.checkpoint))
    assert report["calibration"][0]["temperature"] == fitted["temperature"]  # that of training
    assert report["calibration"][0]["ece"] == {"before": None, "after": None}
    notes = " ".join(report["notes"])
    assert "no labelled validation clip" in notes
    assert "no labelled training clips" in notes
    assert "5 clips have neither" in notes


def broken_media(media_files, folder):
    """Ten ways in which a file can be broken, by name."""
    good = media_files["faststart"].read_bytes()
    folder.mkdir()
    (folder / "folder.mp4").mkdir()
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "gzip.mp4").write_bytes(gzip.compress(good))
    (folder / "half header.mp4").write_bytes(b"\0" * 200 + good[200:])
    names = ("empty", "text", "subtitles", "truncated", "truncated_faststart", "truncated_header")
    paths = {name: media_files[name] for name in names} | {"gone": folder / "gone.mp4"}
    return paths | {name: folder / f"{name}.mp4" for name in ("folder", "noise", "gzip", "half header")}


def test_bad_media_of_many_kinds_cost_nobody_else_anything(config, clips, media_files, tmp_path):
    bad = broken_media(media_files, tmp_path / "bad")
    assert len(bad) >= 10
    pool = [clip for clip in clips if clip.clip_id.startswith("u-")][:15]
    judged = [clip for clip in clips if clip.split == "validation"]
    broken = [Clip(name, video=str(path), split="unlabelled") for name, path in bad.items()]
    empty = shutil.copy(bad["empty"], tmp_path / "another empty.mp4")
    broken.append(Clip("text is left", video=str(empty), text="I am so happy for you!", split="unlabelled"))
    manifest.write(tmp_path / "clips.parquet", [*judged, *pool, *broken])
    changes = {"data.manifest": str(tmp_path / "clips.parquet"), "store.root": str(tmp_path / "store")}
    strict = override(config, changes)
    counts = rf"{len(broken)} of {len(pool) + len(broken)}"
    with pytest.raises(ValueError, match=rf"{counts} .*bad_media\.csv.* 20 %.*pseudo\.max_bad_fraction"):
        pseudo_label(strict)
    result = pseudo_label(override(strict, {"pseudo.max_bad_fraction": 0.5}))
    assert result.content["broken_media"] == len(broken)
    rows = rows_of(result.path)
    assert set(rows) == {clip.clip_id for clip in (*pool, *broken)}
    for name in bad:
        assert rows[name]["video_status"].startswith(("corrupt: ", "missing: no such file"))
        assert rows[name]["reason"] == UNUSABLE
    assert rows["text is left"]["prediction"] is not None
    assert all(rows[clip.clip_id]["prediction"] is not None for clip in pool)
    lines = listed(result.path / "bad_media.csv")
    assert {line["clip_id"] for line in lines} == {clip.clip_id for clip in broken}
    assert all(line["file"] and line["status"] for line in lines)


def test_what_the_user_can_mend_is_said(config, tiny_config, other_teacher, folder):
    with pytest.raises(ValueError, match="checkpoint=FOLDER"):
        pseudo_label(override(config, {"checkpoint": None}))
    with pytest.raises(ValueError, match="joy"):
        pseudo_label(override(config, {"pseudo.policy": "per_class", "pseudo.thresholds": {"joy": 0.5}}))
    with pytest.raises(ValueError, match="unlabelled clips"):
        pseudo_label(override(tiny_config, {"checkpoint": config.checkpoint}))
    stranger = shutil.copytree(other_teacher, folder / "stranger")
    model_config, _ = checkpoint_files.read_config(stranger)
    checkpoint.write(stranger, trained_state(checkpoint.load_fusion(stranger)), model_config, list("abcdef"), "card")
    with pytest.raises(ValueError, match=r"pseudo\.teachers: .*a, b, c, d, e, f .*stranger"):
        pseudo_label(override(config, {"pseudo.teachers": [str(stranger)]}))


def _remux(source, target):
    """The same packets in another container."""
    with av.open(str(source)) as media, av.open(str(target), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in media.streams}
        for packet in media.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)


def _silence(path):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        for part in (frame, None):
            out.mux(stream.encode(part))
    return path


def test_a_chat_models_label_is_one_more_vote_or_a_condition(config, labelled_by, tmp_path):
    """Its table says the teacher's class of every third clip, another one of every third, and nothing of the rest."""
    before = rows_of(labelled_by.path)
    labels = store.read_meta(labelled_by.path)["labels"]
    said = {}
    for place, (clip_id, row) in enumerate(sorted(before.items())):
        if place % 3 < 2 and row["prediction"]:
            said[clip_id] = labels[(labels.index(row["prediction"]) + place % 3) % len(labels)]
    rows = [
        {
            "clip_id": i,
            "digest": i,
            "status": "ok",
            "label": label,
            "prompt_tokens": 1,
            "answer_tokens": 1,
            "attempts": 1,
        }
        for i, label in said.items()
    ]
    table = pa.Table.from_pylist(rows, chat_labels.SCHEMA.with_metadata({"labels": json.dumps(labels[::-1])}))
    parquet.write(tmp_path / "labels.parquet", table)
    given = {"pseudo.chat_labels": str(tmp_path / "labels.parquet"), "pseudo.quantile": 0.0, "pseudo.max_ratio": 99}
    reasons = {}
    for agree_with in ("none", "chat"):
        result = pseudo_label(override(config, given | {"pseudo.agree_with": agree_with}))
        reasons[agree_with] = {clip_id: row["reason"] for clip_id, row in rows_of(result.path).items()}
        assert any(f"{len(said)} of " in note for note in result.content["notes"])
    own = {policies.DISAGREE, policies.CHAT_DISAGREES, policies.NO_CHAT_LABEL}
    compared = [
        i for i, reason in reasons["chat"].items() if before[i]["prediction"] and (reason is None or reason in own)
    ]
    assert len({said.get(i) is None for i in compared}) == 2
    for clip_id in compared:
        agrees = said.get(clip_id) == before[clip_id]["prediction"]
        expected = (None, None) if agrees else (policies.DISAGREE, policies.CHAT_DISAGREES)
        if clip_id not in said:
            expected = (None, policies.NO_CHAT_LABEL)
        assert (reasons["none"][clip_id], reasons["chat"][clip_id]) == expected
    with pytest.raises(ValueError, match=r"pseudo\.agree_with=chat without pseudo\.chat_labels"):
        pseudo_label(override(config, {"pseudo.agree_with": "chat"}))
