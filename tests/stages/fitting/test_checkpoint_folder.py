"""A checkpoint folder: weights to use on their own, every epoch, and a card that says what was trained on."""

import pytest
from safetensors.torch import load_file

from emo_ray import store
from emo_ray.models import checkpoint, checkpoint_files
from emo_ray.stages import teachers

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_checkpoint_can_be_used_on_its_own(trained):
    head = checkpoint.load_fusion(trained.path)
    video = checkpoint.load_emovclip(trained.path / checkpoint_files.EMOVCLIP)
    assert set(head.project) == {"video", "audio", "text"}
    assert not any(name.startswith("clip.") for name in load_file(trained.path / "emovclip" / checkpoint_files.WEIGHTS))
    assert video.clip.visual.output_dim == head.project["video"][0].in_features
    card = (trained.path / checkpoint_files.CARD).read_text()
    assert all(label in card for label in trained.prepared.labels)


def test_every_epoch_of_both_phases_is_kept(trained, tiny_config):
    for folder in (trained.path, trained.path / checkpoint_files.EMOVCLIP):
        history = store.read_meta(folder)["history"]
        assert [row["epoch"] for row in history] == list(range(tiny_config.train.epochs))
        assert all(0 <= row["val_waf"] <= 1 and row["train_loss"] > 0 for row in history)
    assert store.read_meta(trained.path)["history"][0]["train_clips"] == 36


def test_a_model_holds_the_temperature_of_its_validation_clips(few_teacher, few_labels):
    """The same temperature as pseudo-labelling fits, from the predictions that it makes of these clips."""
    stored = checkpoint_files.read_calibration(few_teacher.path)
    unseen = sorted(few_teacher.prepared.labels_of("validation"))
    (teacher,) = teachers.gather(few_labels, [few_teacher.path], few_teacher.corpus, unseen)
    _, (calibration,) = teachers.calibrate([teacher], few_teacher.prepared)
    assert (stored["n"], stored["clips"]) == (len(unseen), "validation")
    assert stored["temperature"] == pytest.approx(calibration["temperature"], rel=1e-4)
    for error in ("ece", "nll"):
        assert stored[error] == pytest.approx(calibration[error], abs=1e-5)
    assert f"temperature {stored['temperature']:.3f}" in (few_teacher.path / checkpoint_files.CARD).read_text()
    uncalibrated = teachers.Teacher(teacher.path, teacher.predictions, {})
    (fallback,), _ = teachers.calibrate([uncalibrated], few_teacher.prepared)
    assert fallback.temperature == stored["temperature"]


def test_the_card_says_how_many_clips_no_person_labelled_and_who_did(student, few_teacher):
    cards = [(model.path / checkpoint_files.CARD).read_text() for model in (few_teacher, student)]
    assert "pseudo" not in cards[0]
    assert "trained on: clips.parquet, 54 clips" in cards[1]
    assert "pseudo-labelled: 30 by model-a (round 2; soft targets, weight 0.5): calm (20), upset (10)" in cards[1]
    assert "calm (8), glad (8), upset (8)" in cards[1]
