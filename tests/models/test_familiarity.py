"""Clips far from the training clips are told, by modality, and those without a modality have no distance in it."""

import numpy as np
import pytest
import torch

from emo_ray.config import load
from emo_ray.data.batch import FeatureBatch, unlabelled
from emo_ray.models.familiarity import bounds, distances, unfamiliar
from emo_ray.models.fusion import FusionHead, scalings
from emo_ray.models.head_average import HeadAverage


def clips(sound_BD, has_text=True):
    count = len(sound_BD)
    return FeatureBatch(
        clip_ids=tuple(f"clip-{i}" for i in range(count)),
        present_BM=torch.tensor([[False, True, has_text]]).expand(count, 3),
        label_B=unlabelled(count),
        features={"audio": sound_BD, "text": torch.ones(count, 4)},
    )


@pytest.fixture
def training():
    generator = torch.Generator().manual_seed(0)
    return clips(3 + 2 * torch.randn(1000, 32, generator=generator))


@pytest.fixture
def head(training):
    return FusionHead(load("mini").fusion, scalings(training), 6)


def test_the_distance_is_the_mean_square_of_standardised_features(head, training):
    sound_BD = training.features["audio"].double().numpy()
    expected_B = (((sound_BD - sound_BD.mean(0)) / sound_BD.std(0)) ** 2).mean(1)
    assert distances(head, training)["audio"] == pytest.approx(expected_B, rel=1e-4)
    assert np.isnan(distances(head, clips(torch.zeros(2, 32), has_text=False))["text"]).all()
    assert np.isnan(distances(head, training)["video"]).all()  # no training clip had any
    average = HeadAverage([head, head])
    assert np.array_equal(distances(average, training)["audio"], distances(head, training)["audio"])


def test_one_in_a_hundred_training_clips_is_beyond_the_bound(head, training):
    bound_of = bounds(head, training)
    assert bound_of.keys() == {"audio", "text"}
    assert (distances(head, training)["audio"] > bound_of["audio"]).sum() == 10


def test_what_is_far_is_named_with_how_far(head, training):
    far = {name: float(values[0]) for name, values in distances(head, clips(torch.full((1, 32), 30.0))).items()}
    far["video"] = None
    excess = unfamiliar(far, bounds(head, training))
    assert excess.keys() == {"audio"}
    assert excess["audio"] > 5
    assert unfamiliar({"audio": 1.0}, {}) == {}  # a model of an early version has no bounds
