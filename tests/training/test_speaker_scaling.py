"""Standardisation by speaker takes off what is a speaker's own, leaves the emotion, and never looks at labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from emo_ray.config import Config, override
from emo_ray.data.batch import FeatureBatch
from emo_ray.models import checkpoint
from emo_ray.models.checkpoint_files import SPEAKERS
from emo_ray.store import DamagedFile
from emo_ray.training.speaker_scaling import SpeakerScaling, estimated, read, standardised, write
from emo_ray.training.speaker_variances import speaker_variances

CLASSES, WIDTH, EFFECT = 4, 12, 1.5


def speech(speakers=20, clips=40, shown=CLASSES, spread=1.0, seed=0, first=0):
    """Sound features of speakers with an offset each (deviation `spread`), of whom each shows `shown` emotions.

    Class k moves feature k, and k + 4 and k + 8, by EFFECT; the noise has a deviation of 1.
    """
    rng = np.random.default_rng(seed)
    rows, labels, names = [], [], []
    for speaker in range(first, first + speakers):
        offset_D = spread * rng.normal(size=WIDTH)
        emotions = rng.choice(CLASSES, shown, replace=False)
        for clip in range(clips):
            label = emotions[clip % shown]
            rows.append(offset_D + EFFECT * (np.arange(WIDTH) % CLASSES == label) + rng.normal(size=WIDTH))
            labels.append(label)
            names.append(f"speaker {speaker}")
    return batch_of(np.array(rows), labels, names)


def batch_of(values_BD, labels, names):
    present = torch.tensor([[False, True, False]] * len(labels))
    ids = tuple(f"{name} {i}" for i, name in enumerate(names))
    features = {"audio": torch.tensor(values_BD, dtype=torch.float32)}
    label_B = torch.tensor([int(label) for label in labels])
    return FeatureBatch(clip_ids=ids, present_BM=present, label_B=label_B, features=features, speakers=tuple(names))


def accuracy(train, tested):
    """The accuracy of a classifier that names the nearest class mean, on the scale of the training clips."""
    values, labels = (train.features["audio"], tested.features["audio"]), (train.label_B, tested.label_B)
    mean_D, deviation_D = values[0].mean(0), values[0].std(0)
    scaled = [(part - mean_D) / deviation_D for part in values]
    centres = torch.stack([scaled[0][labels[0] == k].mean(0) for k in range(CLASSES)])
    return (torch.cdist(scaled[1], centres).argmin(1) == labels[1]).double().mean().item()


def by_speaker(train, tested):
    return standardised(override(Config(), {"tables.standardise": "speaker"}), train, [tested])


def test_offsets_of_speakers_go_where_all_show_all_emotions():
    train, tested = speech(spread=3.0), speech(spread=3.0, seed=1, first=50)
    assert accuracy(*by_speaker(train, tested)) > accuracy(train, tested) + 0.15
    _, after = by_speaker(train, tested)
    means = torch.stack([after.features["audio"][i : i + 40].mean(0) for i in range(0, len(tested), 40)])
    assert means.std(0).max() < 0.3


@pytest.mark.parametrize("shown", [1, 2, 3])
def test_the_emotion_stays_where_speakers_show_few(shown):
    gains = []
    for seed in range(4):
        train = speech(speakers=24, clips=24, shown=shown, spread=0.7, seed=seed)
        tested = speech(speakers=24, clips=24, shown=shown, spread=0.7, seed=seed + 100, first=50)
        gains.append(accuracy(*by_speaker(train, tested)) - accuracy(train, tested))
    assert np.mean(gains) > -0.02


def test_variances_are_those_that_made_the_features():
    batch = speech(speakers=300, clips=12, shown=2, spread=0.5, seed=3)
    speaker_B = torch.arange(len(batch)) // 12
    between_D, mixture_D, within_D, emotion_D = speaker_variances(batch.features["audio"], speaker_B, batch.label_B)
    # A speaker shows a class with a chance of 1/2, and then in half of the clips.
    assert between_D.mean().item() == pytest.approx(0.25, rel=0.15)
    assert mixture_D.mean().item() == pytest.approx(EFFECT**2 / 16, rel=0.15)
    assert within_D.mean().item() == pytest.approx(1 + EFFECT**2 / 8, rel=0.1)
    assert emotion_D.mean().item() == pytest.approx(EFFECT**2 / 8, rel=0.15)


def test_labels_of_tested_clips_decide_nothing():
    train, tested = speech(shown=3), speech(shown=3, seed=1, first=50)
    order = torch.randperm(len(tested), generator=torch.Generator().manual_seed(0))
    _, before = by_speaker(train, tested)
    _, after = by_speaker(train, replace(tested, label_B=tested.label_B[order]))
    assert torch.equal(before.features["audio"], after.features["audio"])


def test_statistics_do_not_depend_on_how_clips_come():
    train, tested = speech(), speech(seed=1, first=50)
    order = torch.randperm(len(tested), generator=torch.Generator().manual_seed(0))
    scaling = estimated(train, [train])
    whole = scaling.with_clips([tested]).applied(tested)
    parts = scaling.with_clips([tested.rows(order[:77]), tested.rows(order[77:])]).applied(tested)
    assert torch.equal(whole.features["audio"], parts.features["audio"])


def test_few_clips_are_shrunk_towards_the_corpus():
    train = speech(spread=2.0)
    scaling = estimated(train, [train])
    moved = []
    for clips in (1, 4, 400):
        tested = speech(speakers=1, clips=clips, spread=2.0, seed=5, first=50)
        after = scaling.with_clips([tested]).applied(tested)
        mean_D = tested.features["audio"].mean(0) - train.features["audio"].mean(0)
        moved.append(((tested.features["audio"] - after.features["audio"]).mean(0) @ mean_D / (mean_D @ mean_D)).item())
    assert 0 < moved[0] < moved[1] < moved[2] < 1.05


def test_a_lively_speaker_is_calmed():
    train, tested = speech(speakers=10, clips=80), speech(speakers=1, clips=400, seed=1, first=50)
    lively = replace(tested, features={"audio": 5 * tested.features["audio"]})
    after = estimated(train, [train]).with_clips([lively]).applied(lively)
    ratio = after.features["audio"].std(0) / lively.features["audio"].std(0)
    assert (ratio < 0.5).all()
    assert (ratio > 0.2).all()


def test_clips_of_nobody_and_unknown_values_stay():
    train = speech()
    values = train.features["audio"].clone()
    values[:, 3] = torch.nan  # unknown in every clip
    values[::7, 1] = torch.nan
    values[:, 2] = 5.0  # constant
    values[:, 4] = torch.arange(len(train)) // 40  # constant within a speaker
    speakers = tuple(None if i % 3 == 0 else name for i, name in enumerate(train.speakers))
    present = train.present_BM.clone()
    present[5] = False
    changed = replace(train, features={"audio": values}, speakers=speakers, present_BM=present)
    after, _ = by_speaker(changed, changed)
    nobody = torch.tensor([name is None for name in speakers])
    assert torch.equal(after.features["audio"][nobody].nan_to_num(9.0), values[nobody].nan_to_num(9.0))
    assert torch.equal(after.features["audio"].isnan(), values.isnan())
    assert torch.equal(after.features["audio"][:, 2], values[:, 2])
    assert after.features["audio"][~nobody, 4].std() < 0.1 * values[:, 4].std()
    hidden = replace(changed, features={"audio": torch.where(present[:, 1:2], values, 77.0)})
    again, _ = by_speaker(hidden, hidden)
    assert torch.equal(again.features["audio"][6:].nan_to_num(9.0), after.features["audio"][6:].nan_to_num(9.0))


def test_a_modality_that_no_training_clip_has_stays():
    train = speech()
    scaling = estimated(train, [train])
    tested = speech(seed=1, first=50)
    with_text = replace(tested, features={**tested.features, "text": torch.ones(len(tested), 2)})
    assert scaling.with_clips([with_text]).applied(with_text).features["text"].eq(1).all()


@pytest.mark.parametrize("names", [None, ("one", None)])
def test_who_knows_fewer_than_two_speakers_is_told(names):
    batch = replace(speech(), speakers=names and tuple(names[i % 2] for i in range(800)))
    with pytest.raises(ValueError, match=r"tables\.standardise=speaker: found [01] .*data\.columns\.speaker"):
        by_speaker(batch, batch)


def test_infinite_features_are_told():
    train = speech()
    train.features["audio"][3, 2] = torch.inf
    with pytest.raises(ValueError, match="audio features of up to inf"):
        estimated(train, [train])


def test_another_width_is_told():
    train = speech()
    other = replace(train, features={"audio": train.features["audio"][:, :5]})
    with pytest.raises(ValueError, match=r"found 5 audio features.*expected 12"):
        estimated(train, [train]).applied(other)


def test_a_known_speaker_with_few_clips_is_known_by_the_stored_ones_and_a_namesake_is_not():
    train = speech(clips=200, spread=3.0)
    scaling = estimated(train, [train])
    few = train.rows(torch.arange(200, 203))
    assert torch.equal(scaling.with_clips([few]).applied(few).features["audio"], scaling.applied(few).features["audio"])
    namesake = replace(speech(1, 30, spread=3.0, seed=9, first=50), speakers=("speaker 1",) * 30)
    fresh = replace(namesake, speakers=("nobody else",) * 30)
    assert torch.equal(
        scaling.with_clips([namesake]).applied(namesake).features["audio"],
        scaling.with_clips([fresh]).applied(fresh).features["audio"],
    )


def test_a_scaling_is_read_as_it_was_written(tmp_path):
    train = speech(spread=2.0)
    config = override(Config(), {"tables.standardise": "speaker"})
    scaling = estimated(train, [train])
    write(tmp_path, scaling)
    checkpoint.write(tmp_path, {"weight": torch.ones(1)}, config, ["a", "b"], "card")
    again = read(tmp_path)
    assert isinstance(again, SpeakerScaling)
    assert again.speakers == scaling.speakers
    assert torch.equal(again.applied(train).features["audio"], scaling.applied(train).features["audio"])
    write(tmp_path, replace(scaling, speakers=scaling.speakers[1:]))  # somebody else's file
    with pytest.raises(ValueError, match=rf"{SPEAKERS}.*19 speakers"):
        read(tmp_path)
    (tmp_path / SPEAKERS).write_bytes((tmp_path / SPEAKERS).read_bytes()[:-9])
    with pytest.raises(ValueError, match=SPEAKERS):
        read(tmp_path)
    (tmp_path / SPEAKERS).unlink()
    with pytest.raises(DamagedFile, match=SPEAKERS):
        read(tmp_path)
    checkpoint.write(tmp_path, {"weight": torch.ones(1)}, Config(), ["a", "b"], "card")
    assert read(tmp_path) is None
