"""A model in a plain process: it answers as jobs/predict.py does, to clips of every form."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

import emo_ray
from emo_ray import store
from emo_ray.config import override
from emo_ray.config.model_settings import MODALITIES
from emo_ray.models import checkpoint_files, portable
from emo_ray.models.checkpoint_files import CALIBRATION, read_calibration, read_familiarity
from emo_ray.models.familiarity import unfamiliar
from emo_ray.training.calibration import calibrated

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def checkpoint(evaluated, tiny_config):
    from emo_ray.stages.train import train_model

    return train_model(tiny_config)[0]


@pytest.fixture(scope="module")
def model(checkpoint):
    return emo_ray.load(checkpoint, settings={"store.root": str(checkpoint.parents[1])})


@pytest.fixture(scope="module")
def taken_away(checkpoint, tmp_path_factory):
    """The checkpoint with the files of its CLIP, in another place."""
    folder = tmp_path_factory.mktemp("elsewhere")
    store.write_meta(folder, portable.write(checkpoint, folder))
    return folder


@pytest.fixture(scope="module")
def folder(tiny_config, tmp_path_factory):
    """Four clips of the corpus with words for two of them, and a file that is no video."""
    from emo_ray.stages.decoding.corpus import prepare_corpus

    folder = tmp_path_factory.mktemp("clips")
    clips = [clip for clip in prepare_corpus(tiny_config).clips if clip.video and clip.video.endswith("mp4")][:4]
    for i, clip in enumerate(clips):
        shutil.copy(clip.video, folder / f"clip-{i}.mp4")
        if i < 2:
            (folder / f"clip-{i}.txt").write_text(f"what a wonderful day number {i}")
    (folder / "note.mp4").write_text("no film" * 100)
    return folder


@pytest.fixture(scope="module")
def rows(folder, checkpoint, tiny_config):
    """What jobs/predict.py says of the folder, by clip_id."""
    from emo_ray.stages.predict import predict

    result = predict(override(tiny_config, {"checkpoint": str(checkpoint), "data.manifest": str(folder)}))
    return {row["clip_id"]: row for part in result.path.glob("part-*") for row in pq.read_table(part).to_pylist()}


def test_a_folder_is_answered_as_by_the_job(model, folder, rows, checkpoint):
    temperature = read_calibration(checkpoint)["temperature"]
    predictions = model.predict(folder)
    assert {prediction.name for prediction in predictions} == rows.keys()
    for prediction in predictions:
        row = rows[prediction.name]
        assert prediction.statuses == {name: row[f"{name}_status"] for name in MODALITIES}
        assert prediction.label == row["prediction"]
        if row["prediction"] is None:
            assert (prediction.probabilities, prediction.parts, prediction.confidence) == ({}, {}, None)
            continue
        assert tuple(prediction.probabilities) == model.labels
        distances = {name: row[f"distance_{name[0].upper()}"] for name in MODALITIES}
        assert prediction.unfamiliar == pytest.approx(unfamiliar(distances, read_familiarity(checkpoint)), abs=1e-5)
        expected = {"all": row["probabilities"], **{name: row[f"p_{name[0].upper()}"] for name in prediction.parts}}
        actual = {"all": prediction.probabilities, **prediction.parts}
        assert set(prediction.parts) == {name for name in MODALITIES if row[f"has_{name}"]}
        for name, values in expected.items():
            np.testing.assert_allclose(
                list(actual[name].values()), calibrated(np.array([values]), temperature)[0], atol=1e-5
            )


def test_files_lists_and_mappings_are_the_same_clips(model, folder):
    names = [str(folder / "clip-2.mp4"), folder / "clip-3.mp4", folder / "note.mp4"]
    alone = [model.predict(name) for name in names]
    together = model.predict(names)
    for one, several in zip(alone, together, strict=True):
        assert (one.label, one.statuses, one.parts.keys()) == (several.label, several.statuses, several.parts.keys())
        assert one.probabilities == pytest.approx(several.probabilities, abs=1e-6)  # sums of a batch round otherwise
    mapped = model.predict({"video": names[0]})
    assert sum(alone[0].attention) == pytest.approx(1)
    assert alone[0].without == {"video": alone[0].parts["audio"], "audio": alone[0].parts["video"]}
    assert mapped.probabilities == alone[0].probabilities == model.predict(video=names[0]).probabilities
    with_words = model.predict(video=names[0], text="a dreadful day")
    assert set(with_words.parts) == {*alone[0].parts, "text"}
    assert with_words.text == "a dreadful day"
    assert alone[2].label is None
    assert alone[2].statuses["video"].startswith("corrupt: ")


def test_arrays_are_what_files_of_them_are(model, folder, tmp_path):
    with av.open(str(folder / "clip-2.mp4")) as container:
        frames_FHWC = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    np.save(tmp_path / "frames.npy", frames_FHWC)
    seen, stored = model.predict(frames_FHWC), model.predict(tmp_path / "frames.npy")
    assert seen.probabilities == stored.probabilities
    assert set(seen.parts) == {"video"}
    samples = (np.sin(np.arange(48_000) / 20) * 8000).astype(np.int16)
    sounds = [samples, samples / 32768, np.stack([samples, samples], axis=1)]
    heard = [model.predict((sound, 48_000)) for sound in sounds]
    assert {each.statuses["audio"] for each in heard} == {"ok"}
    for each in heard[1:]:
        np.testing.assert_allclose([*each.probabilities.values()], [*heard[0].probabilities.values()], atol=1e-5)
    both = model.predict(video=frames_FHWC, audio=(samples, 48_000))
    assert both.parts == {"video": seen.parts["video"], "audio": heard[0].parts["audio"]}


@pytest.mark.parametrize(
    "source",
    [np.zeros((4, 8, 8), np.uint8), np.zeros((4, 8, 8, 3)), (np.zeros(4, np.int64), 16_000), {"sound": "a.wav"}, {}],
)
def test_what_is_no_clip_is_named(model, source):
    with pytest.raises(ValueError, match="expected"):
        model.predict(source)


def test_a_file_that_is_not_there_is_no_clip(model):
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        model.predict("gone.mp4")
    with pytest.raises(ValueError, match="expected a source"):
        model.predict()
    with pytest.raises(TypeError, match="int"):
        model.predict(3)
    with pytest.raises(TypeError, match="float"):
        model.predict(text=float("nan"))


def test_nothing_that_is_no_model_is_loaded(tmp_path, checkpoint):
    for source in (tmp_path, tmp_path / "gone", "no model at all"):
        with pytest.raises(ValueError, match="expected"):
            emo_ray.load(source)
    with pytest.raises(ValueError, match=r"fusion\.hidden"):
        emo_ray.load(checkpoint, settings={"fusion.hidden": 3})


def test_a_model_that_was_taken_away_is_the_same_and_names_no_place_of_its_past(model, taken_away, folder):
    clips = [folder / "clip-1.mp4", {"video": folder / "clip-1.mp4", "text": "a bad day"}]
    assert emo_ray.load(taken_away).predict(clips) == model.predict(clips)
    checkpoint_files.check(taken_away)
    texts = [path.read_text() for path in taken_away.rglob("config.yaml")]
    assert len(texts) == 2
    assert not any(str(folder.parent) in text for text in texts)


def test_a_model_without_calibration_keeps_its_probabilities(model, taken_away, folder, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(taken_away, bare)
    (bare / CALIBRATION).unlink()
    clip = folder / "clip-2.mp4"
    raw = emo_ray.load(bare).predict(clip).probabilities
    expected = calibrated(np.array([list(raw.values())]), model.temperature)[0]
    np.testing.assert_allclose(list(model.predict(clip).probabilities.values()), expected, atol=1e-5)


def test_a_plain_process_needs_neither_ray_nor_mlflow(model, taken_away, folder, tmp_path):
    """The checkpoint lies where huggingface_hub keeps what it has downloaded, and is loaded by its name there."""
    repository, commit = tmp_path / "models--somebody--emotions", "0" * 40
    shutil.copytree(taken_away, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    script = (
        "import json, sys, emo_ray\n"
        "assert not {'torch', 'numpy', 'pyarrow'} & sys.modules.keys()\n"
        "from dataclasses import asdict\n"
        "record = asdict(emo_ray.load('somebody/emotions').predict(sys.argv[1]))\n"
        "print(json.dumps([record, sorted({'ray', 'mlflow', 'gradio'} & sys.modules.keys())]))\n"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(folder / "clip-2.mp4")]
    answer = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    record, loaded = json.loads(answer)
    assert record == asdict(model.predict(folder / "clip-2.mp4"))
    assert loaded == []


@pytest.mark.parametrize("device", ["mps", "cuda:99", "gpu", "cuda:x"])
def test_a_device_that_is_none_or_not_there_is_one_message(checkpoint, device):
    with pytest.raises(ValueError, match=f"device: found '{device}'.*cpu"):
        emo_ray.load(checkpoint, device=device)
